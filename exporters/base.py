"""Contract of exporters. Does not import torch.

An exporter turns a trained run, or the files exported from a run, into files for other programs. It is a function::

    def export(model: Path, *, level: int = 1) -> list[Path]: ...

that is registered in `cvae.registry.EXPORTERS` under a name. Some are built in; a program can register its own, and a
package can declare exporters under the entry point group `cvae.exporters`.

Argument:
    By default, `model` is a folder with `decoder.onnx` and possibly `encoder.onnx`, or the path of a decoder.
    The folder may belong to the package or to a download cache, so an exporter has an option `out` and writes there.
    `read_exported` reads and checks the files. An exporter that is decorated with `requires_weights` gets the folder of
    a trained run instead, and can write into this folder.
Options:
    The keyword-only parameters are the options. Each has a default. `cvae export NAME` has a flag for each option, and
    takes its help text from the section "Args:" of the docstring. The type of the default is the type of the option: a
    bool makes a pair of flags `--name/--no-name`, a tuple is given as JSON, and None stands for optional text. The
    names `format`, `run`, `json` and `help` are reserved for `cvae export` itself.
Progress:
    An exporter can have a second argument `note`, with the default None: a function to call with a line of text that
    tells the user what has been done. `cvae export` prints these lines to standard error.
Return value:
    The paths of the written files, in the order in which the command reports them.
Errors:
    `UsageError` if the user can fix the error with a different choice, for example if a path already exists, and
    `CvaeError` otherwise. Each message is one line with the value, the cause and the fix.
Writing:
    An exporter writes all of its files or none. `write_files` and `cvae.atomic.atomic_folder` do that.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cvae.atomic import atomic_write
from cvae.errors import UsageError
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime.session import read_and_scan
from cvae.runtime.weights import check_weights
from cvae.spec import Spec

Exporter = TypeVar("Exporter", bound=Callable[..., list[Path]])

_MARK = "requires_weights"


def requires_weights(exporter: Exporter) -> Exporter:
    """Declare that an exporter reads the weights of a trained run instead of exported files."""
    setattr(exporter, _MARK, True)
    return exporter


def reads_weights(exporter: Callable[..., list[Path]]) -> bool:
    """Return whether an exporter reads the weights of a trained run."""
    return getattr(exporter, _MARK, False)


def reports_progress(exporter: Callable[..., list[Path]]) -> bool:
    """Return whether an exporter has the argument `note`."""
    parameter = inspect.signature(exporter).parameters.get("note")
    return parameter is not None and parameter.kind is not parameter.KEYWORD_ONLY  # else it is an option


class ExportedFile(NamedTuple):
    """Spec and bytes of a checked exported file."""

    spec: Spec
    data: bytes


def read_exported(model: Path, *, encoder: bool) -> dict[str, ExportedFile]:
    """Read and check the exported files of a model. Each file is read only once.

    Args:
        model: folder of the files, or path of the decoder.
        encoder: whether to read the encoder too.

    Returns:
        The files by role, with the decoder first.

    Raises:
        UsageError: If a file has the wrong role, or the encoder, the decoder and the run in the folder do not all have
            the same weights.
        CvaeError: If a file is missing or damaged, or `cvae.runtime.scan` rejects a file.
    """
    paths = {"decoder": exported_file(model, DECODER)}
    if encoder:
        paths["encoder"] = exported_file(model, ENCODER)
    files = {role: ExportedFile(*read_and_scan(path, role)[:2]) for role, path in paths.items()}
    if len({file.spec.weights for file in files.values()}) > 1:
        raise UsageError(
            f"{str(paths['encoder'])!r} was exported from different weights than the decoder; "
            f"export both again: cvae export onnx {paths['decoder'].parent}"
        )
    check_weights(model, files["decoder"].spec)
    return files


def read_options(spec: Spec) -> dict[str, Any]:
    """Return the options of `cvae export onnx` with which a file was exported, so that the next export keeps them."""
    options = {"license": spec.license, "half": spec.agreement.get("weights") == "float16"}
    return {name: value for name, value in options.items() if value}


def write_files(files: Mapping[Path, bytes]) -> list[Path]:
    """Write all files or none, and return their paths.

    Raises:
        CvaeError: If a file can't be written.
    """
    with ExitStack() as stack:  # the files are renamed when the stack closes, after all of them have been written
        temporary_paths = [stack.enter_context(atomic_write(path)) for path in files]
        for temporary_path, data in zip(temporary_paths, files.values(), strict=True):
            temporary_path.write_bytes(data)
    return list(files)
