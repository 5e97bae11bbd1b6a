"""Process that decodes image files for `cvae.imaging.pool`, with limits on its memory and its time.

It reads requests from its standard input and writes one reply per file to its standard output. Neither contains a
pickle, so that a process that an image has taken over can only return other pixels.
"""

import json
import os
import struct
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, NamedTuple

from PIL import ImageFile

from cvae.imaging.reader import ReadError, decode_file, ignore_warnings

READY = b"cvae"
"""Bytes that a process writes when it is ready for requests."""

HEADER = struct.Struct("<BII?ii")
"""Beginning of a reply: kind, width, height, whether the image is coloured, bits and peak, with -1 for None.

The pixels of an image follow, or the length of a reason (`REASON_LENGTH`) and the reason.
"""

REASON_LENGTH = struct.Struct("<H")

IMAGE, FAILURE, TRANSIENT_FAILURE, LARGE = range(4)
"""Kinds of replies: an image, a reason why it can't be read, and that it needs permission to use much memory."""

LARGE_BYTES = 2**26
"""Decoded size, in bytes, above which images are decoded one at a time, to bound the memory of all processes."""

MAX_BYTES = 2**30
"""Memory that a process may allocate, in addition to the decoded size of a large image."""

SECONDS, LARGE_SECONDS = 60, 600
"""Time limits for an image of up to `LARGE_BYTES`, and for a larger one. The slowest intact images take a tenth."""


class Job(NamedTuple):
    """The way in which image files are decoded.

    Attributes:
        image_shape, own, min_bits: see `cvae.imaging.reader.decode_image`.
        large: whether images of more than `LARGE_BYTES` are decoded.
    """

    image_shape: tuple[int, int, int]
    own: bool = False
    min_bits: int = 0
    large: bool = False

    @property
    def seconds(self) -> int:
        """Time limit for each image."""
        return LARGE_SECONDS if self.large else SECONDS


class LargeImage(BaseException):
    """Refusal to decode an image of more than `LARGE_BYTES`. It is not an Exception, which means a damaged file."""


def encode_request(paths: list[str], job: Job) -> bytes:
    """Return a request as one line. Paths that are not UTF-8 have surrogates, which JSON escapes."""
    # Many programs set this option of Pillow, to read files that are cut off.
    return json.dumps([paths, job, ImageFile.LOAD_TRUNCATED_IMAGES]).encode() + b"\n"


def main() -> None:
    """Decode images until the standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # a decoder may print
        os.dup2(null, stream)
    replies.write(READY)
    replies.flush()
    with ignore_warnings():
        for line in sys.stdin.buffer:
            paths, (shape, *options), ImageFile.LOAD_TRUNCATED_IMAGES = json.loads(line)
            job = Job(tuple(shape), *options)
            # The pool stops a process that takes too long. This limit is for a process whose pool was killed.
            _limit_time(len(paths) * job.seconds)
            _limit_memory(MAX_BYTES)
            for path in paths:
                _decode(path, job, replies)
                replies.flush()


def _decode(path: str, job: Job, replies: BinaryIO) -> None:
    """Decode a file and write the reply."""

    def guard(size: int) -> AbstractContextManager[object]:
        if size > LARGE_BYTES:
            if not job.large:
                raise LargeImage
            _limit_memory(MAX_BYTES + size)
        return nullcontext()

    try:
        image = decode_file(path, job.image_shape, job.own, job.min_bits, guard)
    except LargeImage:
        replies.write(HEADER.pack(LARGE, 0, 0, False, 0, 0))
    except ReadError as error:
        reason = error.reason.encode(errors="replace")[:1000]
        replies.write(HEADER.pack(TRANSIENT_FAILURE if error.transient else FAILURE, 0, 0, False, 0, 0))
        replies.write(REASON_LENGTH.pack(len(reason)) + reason)
    else:
        bits, peak = -1 if image.bits is None else image.bits, -1 if image.peak is None else image.peak
        replies.write(HEADER.pack(IMAGE, *image.size, image.is_coloured, bits, peak))
        replies.write(image.pixels.tobytes())


def _limit_memory(count: int) -> None:
    """Limit the number of bytes that this process may allocate, if the system can."""
    if sys.platform == "linux":
        import resource

        # RLIMIT_AS would also count addresses that threads reserve but do not use.
        _set_limit(resource.RLIMIT_DATA, count)


def _limit_time(seconds: int) -> None:
    """Limit the remaining CPU time of this process, if the system can."""
    if sys.platform != "win32":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _set_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds + 1)


def _set_limit(kind: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
