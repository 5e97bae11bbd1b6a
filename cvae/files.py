"""Files appear whole or not at all: write beside, fsync, rename."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvae.errors import CvaeError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name `path` when the block ends well, else it is removed.

    The suffix is kept, so that writers which go by a file's ending (Pillow, numpy) still do.

    Raises:
        CvaeError: the folder or the file can't be written.
    """
    path = Path(path)
    beside = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("r+b") as written:
                os.fsync(written.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise CvaeError(f"can't write {str(path)!r}: {error.strerror or error}") from error


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole(path) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)
