"""Check that the exported files of a run belong to its weights, which a later training may have replaced.

The hashes of weights are cached in `<cache>/weights.json`, by the path, size and modification time of the file, so that
a file is read only once.
"""

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from cvae.atomic import atomic_write, cache_root, read_at_most
from cvae.errors import CvaeError, UsageError
from cvae.run import DECODER, WEIGHTS
from cvae.spec import Spec

CACHE = "weights.json"
"""Name of the cache file: {path: [size, modification time in ns, hash]}."""

MAX_ENTRIES = 256
"""Maximum number of files in the cache; the oldest entries are removed."""

MAX_BYTES = 4 * 2**30
"""Maximum size of weights that are hashed when a model is loaded, so that an untrusted folder can't make that slow."""


def check_weights(model: Path, spec: Spec) -> None:
    """Check that a decoder was exported from the weights in its run folder, if the folder has weights.

    Args:
        model: folder of the model. The path of a decoder is an explicit choice, for which nothing is checked.
        spec: spec of the decoder.

    Raises:
        UsageError: If the weights are different.
    """
    if is_outdated(model, spec):
        raise UsageError(
            f"{str(model / DECODER)!r} was exported from other weights than those in {str(model / WEIGHTS)!r}, for "
            f"example before the training was resumed; export again: cvae export onnx {model}"
        )


def is_outdated(model: Path, spec: Spec) -> bool:
    """Return whether the folder of a model has other weights than those that its decoder was exported from."""
    digest = hash_weights(model / WEIGHTS)
    return digest is not None and digest != spec.weights


def hash_weights(path: Path) -> str | None:
    """Return the SHA-256 of a weights file, from the cache if its size and modification time are the same.

    Returns:
        The hash, or None if there is no such file, or it can't be read or is larger than `MAX_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        entries = _read_cache()
        match entries.get(key):
            case [*cached_stamp, str(digest)] if cached_stamp == stamp:
                return digest
        digest, status = _hash(path)
    except OSError:
        return None
    if [status.st_size, status.st_mtime_ns] == stamp:  # otherwise the file was replaced in the meantime
        entries.pop(key, None)
        _write_cache({**entries, key: [*stamp, digest]})
    return digest


def _hash(path: Path) -> tuple[str, os.stat_result]:
    """Return the SHA-256 of a file, and the status of the file that was read."""
    import hashlib  # only here, because importing it takes longer than the rest of the check

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno())


def _read_cache() -> dict[str, Any]:
    """Return the entries of the cache, which is empty if it can't be read or is damaged."""
    with suppress(CvaeError, RuntimeError, ValueError):  # RuntimeError: the home directory is unknown
        entries = json.loads(read_at_most(cache_root(None) / CACHE, 2**20))
        if isinstance(entries, dict):
            return entries
    return {}


def _write_cache(entries: dict[str, Any]) -> None:
    """Write the cache, unless its folder can't be written.

    The entry of another process that writes at the same time may be lost; its file is hashed once more.
    """
    text = json.dumps(dict(list(entries.items())[-MAX_ENTRIES:]))
    with suppress(CvaeError, RuntimeError), atomic_write(cache_root(None) / CACHE, sync=False) as temporary_path:
        temporary_path.write_text(text, "utf-8")
