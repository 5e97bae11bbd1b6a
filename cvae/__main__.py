"""The command line: `cvae` and `python -m cvae`."""

import sys
from collections.abc import Sequence

import cvae


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 it worked, 1 it failed, 2 wrong use, 130 interrupted."""
    if not hasattr(cvae, "CvaeError"):
        sys.exit(
            f"cvae: error: the 'cvae' imported from {cvae.__file__} is another package of that name (for TensorFlow); "
            "pip uninstall -y cvae cvae-onnx, then install cvae-onnx again"
        )
    from cvae.cli import app
    from cvae.errors import CvaeError, Interrupted

    try:
        app(args=args)
    except Interrupted as stopped:
        print(f"cvae: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except CvaeError as error:
        print(f"cvae: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, as in `cvae archs | head`, has seen enough
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
