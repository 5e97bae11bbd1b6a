"""The exported files that other formats are made of, read once and checked. Torch-free."""

from pathlib import Path
from typing import NamedTuple

from cvae.errors import UsageError
from cvae.run import DECODER, ENCODER, exported_file
from cvae.runtime.session import read_checked
from cvae.spec import Spec


class File(NamedTuple):
    """What an exported file says of itself, and the very bytes that were checked."""

    spec: Spec
    data: bytes


def read_exported(run: Path, *, encoder: bool) -> dict[str, File]:
    """The exported files of a run's folder, or those at and beside a decoder's path: by role, the decoder first.

    Raises:
        UsageError: a file is not of its role, or the two have other weights.
        CvaeError: one was not exported yet, is damaged, or is refused by `cvae.runtime.scan`.
    """
    paths = {"decoder": exported_file(run, DECODER)}
    if encoder:
        paths["encoder"] = exported_file(run, ENCODER)
    files = {role: File(*read_checked(path, role)[:2]) for role, path in paths.items()}
    if len({file.spec.weights for file in files.values()}) > 1:
        raise UsageError(
            f"{str(paths['encoder'])!r} was exported from other weights than the decoder; "
            f"export both again: cvae export onnx {paths['decoder'].parent}"
        )
    return files
