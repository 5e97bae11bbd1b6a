"""End of a training run: curves, export, and what to do next."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cvae.errors import CvaeError, Interrupted, one_line
from cvae.run import CURVES, RECONSTRUCTIONS, SAMPLE_GRID, read_config

if TYPE_CHECKING:
    from cvae.engine.display import Display


def finish(run: Path, *, export: bool, quiet: bool) -> None:
    """Draw the curves of a complete run, export its model, and say what is in its folder and what to do next.

    Raises:
        CvaeError: If the export fails. Everything else is done before.
    """
    from cvae.engine.display import Display
    from cvae.engine.processes import is_main_process

    if not is_main_process():
        return
    display = Display(quiet=quiet)
    _draw_curves(run, display)
    if export:
        _export(run, display)
    images = [name for name in (CURVES, SAMPLE_GRID, RECONSTRUCTIONS) if (run / name).is_file()]
    display.fields({"images": ", ".join(images), "run": one_line(run)})
    display.line("\nnext")
    for command in next_commands(run, read_config(run).model.classes, exported=export):
        display.line(f"  {command}")


def _draw_curves(run: Path, display: "Display") -> None:
    """Draw the bound and its terms over the epochs into a run folder, with a warning if that fails."""
    try:
        from cvae.plots import losses, style

        style.save(losses.draw({run.resolve().name: losses.read_history(run)}), run / CURVES)
    except (CvaeError, ImportError, OSError) as error:
        display.warning(f"{CURVES} is not drawn: {error}")


def _export(run: Path, display: "Display") -> None:
    """Export a run to ONNX.

    Raises:
        CvaeError: If that fails, for whatever reason, with the command that exports it later.
        Interrupted: After Ctrl-C.
    """
    from cvae.registry import EXPORTERS
    from cvae.runtime.session import read_spec

    command, started = f"cvae export onnx {shlex.quote(str(run))}", time.monotonic()
    try:
        with display.status("exporting the model to ONNX"):
            paths = EXPORTERS.get("onnx")(run)
    except KeyboardInterrupt:
        raise Interrupted(f"{str(run)!r} is trained, but not exported; export it with: {command}") from None
    except Exception as error:  # torch and the parts of a plug-in may raise anything; the training must not be lost
        raise CvaeError(
            f"{str(run)!r} is trained, but its export failed: {one_line(error, 300)}; once that is fixed, export it "
            f"with: {command}"
        ) from error
    models = [path for path in paths if path.suffix == ".onnx"]
    difference = max(read_spec(path)[0].agreement["max_abs_difference"] for path in models)
    names = " and ".join(path.name for path in models)
    display.fields({"export": f"{names}, within {difference:.1e} of PyTorch, in {time.monotonic() - started:.1f} s"})


def next_commands(run: Path, classes: tuple[str, ...] | None, *, exported: bool) -> list[str]:
    """Return three commands to go on with.

    Args:
        run: folder of the run.
        classes: names of the classes of a conditional model, which may be those of folders.
        exported: whether the model is exported.
    """
    folder, options = shlex.quote(str(run)), "-n 16"
    if classes is not None and "7" in classes:
        options = "--digit 7"
    elif classes is not None:
        is_printable = one_line(classes[0], 40) == classes[0]
        options = f"--label {shlex.quote(classes[0])}" if is_printable else "--label-index 0"
    commands = [f"cvae generate {folder} {options}", f"cvae evaluate {folder}", f"cvae export web {folder}"]
    return commands if exported else [f"cvae export onnx {folder}", *commands[:2]]
