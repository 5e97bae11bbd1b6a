"""Safetensors files: reading and checking the weights of a run."""

import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cvae.atomic import open_regular
from cvae.errors import CvaeError, UsageError, one_line
from cvae.run import DECODER, WEIGHTS
from cvae.serialization import MAX_TEXT, parse_json
from cvae.spec import Spec

if TYPE_CHECKING:
    import hashlib

MAX_BYTES = 4 * 2**30
"""Maximum size of weights to hash when a model is loaded, so that an untrusted folder can't make loading slow."""

MAX_TENSORS = 2048
"""Maximum number of tensors in the weights of a model.

The largest model in the zoo has 124. PyTorch takes 0.3 ms to create a tensor and its module.
"""

BLOCK = 2**20
"""Number of values that are checked at a time."""

DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "u1"},
}
"""numpy types of the types in a safetensors file. numpy has no BF16, which is the upper half of an F32."""


def read_header(path: Path, start: bytes) -> dict[str, dict[str, Any]]:
    """Return the header of a safetensors file: "dtype", "shape" and "data_offsets" of each tensor by name.

    Format: https://huggingface.co/docs/safetensors

    Args:
        path: path of the file, for error messages.
        start: first bytes of the file.

    Raises:
        CvaeError: If the header is not valid, or is too large for any model.
    """
    try:
        length = int.from_bytes(start[:8], "little")
        if not len(start) >= 8 + length or length > MAX_TEXT:
            raise ValueError(f"its header claims to have {length} bytes")
        header = parse_json(start[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        header.pop("__metadata__", None)
        if len(header) > MAX_TENSORS:
            raise ValueError(f"it has {len(header):,} tensors; the limit is {MAX_TENSORS:,}")
        for name, tensor in header.items():
            if not isinstance(tensor, dict) or not {"dtype", "shape", "data_offsets"} <= tensor.keys():
                raise ValueError(f"its header does not describe the tensor {one_line(repr(name), 80)}")
        return header
    except ValueError as error:
        raise CvaeError(f"{str(path)!r} is damaged or not a safetensors file: {one_line(error)}") from error


class WeightsFile:
    """An open safetensors file, which is read once, from its header to its end.

    Attributes:
        path: path of the file.
        size: number of bytes.
        values: number of values.
        header: see `read_header`. The places of all tensors fit their shapes and the size of the file.
    """

    def __init__(self, path: Path, file: IO[bytes], hasher: "hashlib._Hash | None") -> None:
        self.path, self._file, self._hasher = path, file, hasher
        self.size, self.values = os.fstat(file.fileno()).st_size, 0
        start = file.read(8)
        length = int.from_bytes(start, "little")
        start += file.read(min(length, MAX_TEXT))
        self.header = read_header(path, start)
        if hasher is not None:
            hasher.update(start)
        with self._describe_damage():
            position = 0
            for name, tensor in self._tensors():
                if not all(type(size) is int and 0 < size < 2**48 for size in tensor["shape"]):
                    raise ValueError(f"{one_line(tensor['shape'], 80)} is not a shape of {one_line(repr(name), 80)}")
                count = math.prod(tensor["shape"])
                end = position + count * np.dtype(DTYPES[tensor["dtype"]]).itemsize
                if tensor["data_offsets"] != [position, end]:
                    raise ValueError(f"the offsets of {one_line(repr(name), 80)} do not match its shape")
                position, self.values = end, self.values + count
            if self.size < len(start) + position:
                raise ValueError("it is cut off")
            if self.size > len(start) + position:
                raise ValueError("it has more bytes than its tensors")

    def _tensors(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the tensors in the order of their places in the file."""
        return sorted(self.header.items(), key=lambda item: item[1]["data_offsets"])

    def read(self, targets: Mapping[str, np.ndarray]) -> None:
        """Read all values in blocks, and check that they are finite.

        Args:
            targets: array of bytes for the values of each tensor that is kept.

        Raises:
            CvaeError: If the file can't be read, is cut off, or holds values that are not finite.
        """
        with self._describe_damage():
            for name, tensor in self._tensors():
                begin, end = tensor["data_offsets"]
                size = BLOCK * np.dtype(DTYPES[tensor["dtype"]]).itemsize
                for start in range(begin, end, size):
                    data = self._read_block(name, tensor["dtype"], min(size, end - start))
                    if name in targets:
                        targets[name][start - begin : start - begin + len(data)] = np.frombuffer(data, np.uint8)

    def _read_block(self, name: str, dtype: str, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError("it was cut off while it was read")
        if self._hasher is not None:
            self._hasher.update(data)
        values = np.frombuffer(data, DTYPES[dtype])
        if dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"the tensor {one_line(repr(name), 80)} holds values that are not finite")
        return data

    @contextmanager
    def _describe_damage(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError) as error:
            raise CvaeError(f"{str(self.path)!r} is damaged or not a safetensors file: {one_line(error)}") from error


@contextmanager
def open_weights(path: Path, hasher: "hashlib._Hash | None" = None) -> Iterator[WeightsFile]:
    """Open a safetensors file, and check its header.

    Args:
        path: path of the file.
        hasher: updated with all bytes that are read.

    Raises:
        CvaeError: If the file can't be read or is damaged, now or within the block.
    """
    try:
        with open_regular(path) as file:
            yield WeightsFile(path, file, hasher)
    except OSError as error:
        raise CvaeError(f"can't read {str(path)!r}: {error.strerror}") from error


def scan_weights(path: Path) -> int:
    """Check a safetensors file without torch: its header, and that all values are finite.

    Returns:
        The number of values.

    Raises:
        CvaeError: If the file can't be read, is damaged, or holds values that are not finite.
    """
    with open_weights(path) as weights:
        if weights.size > MAX_BYTES:
            raise CvaeError(f"{str(path)!r} is larger than {MAX_BYTES:,} bytes, so it is not read")
        weights.read({})
        return weights.values


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
