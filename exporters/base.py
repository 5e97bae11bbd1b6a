"""The contract of exporters, free of torch.

An exporter turns a trained run, or the files that were exported from one, into files for other programs. It is a
function::

    def export(model: Path, *, level: int = 1) -> list[Path]: ...

which `cvae.registry.EXPORTERS` knows by a name: a built-in, one that the program registers, or one that another
package declares under the entry point group `cvae.exporters`.

Argument:
    By default exported files: a folder that holds `decoder.onnx` and perhaps `encoder.onnx`, or the path of a decoder.
    They may belong to the package or to a download cache, so the exporter writes elsewhere, to an option `out`.
    `read_exported` reads and checks them. An exporter under the decorator `requires_weights` gets the folder of a
    trained run instead, and may write into it.
Options:
    The keyword-only parameters, which all have defaults. `cvae export NAME` has a flag for each, with the text on it in
    the section "Args:" of the docstring as its help. The default decides the type: True or False makes a pair of flags
    `--name/--no-name`, a tuple is written as JSON, and None stands for text that may be missing. The names `format`,
    `run`, `json` and `help` belong to `cvae export` itself.
Return value:
    The paths of the files that were written, in the order in which they are reported.
Errors:
    `UsageError` where the user can choose otherwise, such as a path that exists already, and else `CvaeError`: in one
    line each, with the value, the cause and the fix.
Writing:
    All files or none. `write_files` and `cvae.atomic.atomic_folder` do that.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

from cvae.atomic import atomic_write
from cvae.errors import UsageError
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime.session import read_checked
from cvae.spec import Spec

Exporter = TypeVar("Exporter", bound=Callable[..., list[Path]])

_MARK = "requires_weights"


def requires_weights(exporter: Exporter) -> Exporter:
    """Declare that an exporter reads the weights of a trained run, rather than exported files."""
    setattr(exporter, _MARK, True)
    return exporter


def weights_required(exporter: Callable[..., list[Path]]) -> bool:
    """Return whether an exporter reads the weights of a trained run."""
    return getattr(exporter, _MARK, False)


class ExportedFile(NamedTuple):
    """The spec of an exported file, and its bytes as they were checked."""

    spec: Spec
    data: bytes


def read_exported(model: Path, *, encoder: bool) -> dict[str, ExportedFile]:
    """Read and check the exported files of a model, each once.

    Args:
        model: Folder of the files, or path of the decoder.
        encoder: Whether to read the encoder too.

    Returns:
        The files by role, the decoder first.

    Raises:
        UsageError: A file has another role, or the encoder has other weights than the decoder.
        CvaeError: A file is missing or damaged, or `cvae.runtime.scan` refuses it.
    """
    paths = {"decoder": exported_file(model, DECODER)}
    if encoder:
        paths["encoder"] = exported_file(model, ENCODER)
    files = {role: ExportedFile(*read_checked(path, role)[:2]) for role, path in paths.items()}
    if len({file.spec.weights for file in files.values()}) > 1:
        raise UsageError(
            f"{str(paths['encoder'])!r} was exported from other weights than the decoder; "
            f"export both again: cvae export onnx {paths['decoder'].parent}"
        )
    return files


def write_files(files: Mapping[Path, bytes]) -> list[Path]:
    """Write files, all or none, and return their paths.

    Raises:
        CvaeError: A file can't be written.
    """
    with ExitStack() as stack:  # the files get their names when it closes, after all are written
        temporary_paths = [stack.enter_context(atomic_write(path)) for path in files]
        for temporary_path, data in zip(temporary_paths, files.values(), strict=True):
            temporary_path.write_bytes(data)
    return list(files)
