"""Check that the files of a model belong together. Further training or an export may have replaced some of them."""

import os
import stat
from functools import lru_cache
from pathlib import Path

from cvae.atomic import open_regular
from cvae.errors import UsageError
from cvae.run import DECODER, WEIGHTS
from cvae.spec import Spec

MAX_BYTES = 4 * 2**30
"""Maximum size of weights to hash when a model is loaded, so that an untrusted folder can't make loading slow."""


def check_weights(model: Path, spec: Spec) -> None:
    """Check that a decoder was exported from the weights in its run folder, if the folder has weights.

    Args:
        model: folder of the model, or path of a decoder, which is not checked, because the user chose this very file.
        spec: spec of the decoder.

    Raises:
        UsageError: If the weights are different.
    """
    if is_outdated(model, spec):
        raise UsageError(
            f"{str(model / DECODER)!r} was exported from different weights than those in {str(model / WEIGHTS)!r}, for "
            f"example because training was resumed later; export it again with: cvae export onnx {model}"
        )


def is_outdated(model: Path, spec: Spec) -> bool:
    """Return whether the weights in the folder of a model differ from those that its decoder was exported from."""
    digest = hash_file(model / WEIGHTS)
    return digest is not None and digest != spec.weights


def hash_file(path: Path) -> str | None:
    """Return the SHA-256 of a file. It is computed again only if the size or the modification time has changed.

    Hashing takes only 10 ms in a process that generates an image. So the hash need not be stored on disk, and loading a
    model writes nothing outside the folders that the user names.

    Returns:
        The hash, or None if there is no such file, or it can't be read or is larger than `MAX_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        return _hash(path.resolve(), status.st_size, status.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: If the file can't be read, or is being replaced. In this case, nothing is cached.
    """
    import hashlib  # only here, because importing it takes as long as hashing 4 MB

    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
        raise OSError(f"{str(path)!r} was replaced while it was read")
    return digest
