"""Bulk generation of images, streamed to files in constant memory. An interrupted call is resumed.

The images are generated in blocks. After each block, a state file beside the output records how many images are
written. A block is decoded in chunks, which bound the memory of the model; in the format .npz, a block is a shard.
"""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvae import imaging
from cvae.atomic import atomic_write, lock_folder, write_file
from cvae.errors import CvaeError, UsageError
from cvae.runtime.arguments import Label, check_generate_args, label_indices
from cvae.runtime.model import Model
from cvae.runtime.session import CHUNK
from cvae.spec import quote_label

BLOCK_BYTES = 2**24
"""Approximate size of the images in a block. A resumed call generates at most one block again."""

MAX_BYTES = 2**44
"""Maximum size of all images in bytes: the size limit of a file on ext4."""

MAX_CHUNK_BYTES = 2**24
"""Maximum size in bytes of the float32 noise and images in a chunk, unless a single image is larger."""

SUFFIXES = (".npy", ".npz", "")
"""Suffixes of an array, of shards, and of a folder of images."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments that determine the bytes to write."""

    weights: str
    n: int
    label: int | None
    seed: int
    temperature: float


def generate(
    model: Model,
    n: int,
    out: Path,
    *,
    label: Label | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
    label_index: int | None = None,
) -> tuple[list[Path], int]:
    """Write the images that `model.generate` returns for the same arguments, as uint8 in 0..255.

    The suffix of `out` selects the format:

    - `x.npy`: one array (n, C, H, W). If the model has labels, `x-labels.npy` (n,) holds the class indices.
    - `x.npz`: shards `x-00000.npz` and so on, each with `images`, and with `labels` and `classes` if the model has
      labels; just `x.npz` if one shard suffices.
    - `x`: a folder of PNG files, with a subfolder for each class if the model has labels.

    The same call resumes an interrupted one. Without a `seed`, it uses the seed of the interrupted call.

    Args:
        model: model that generates the images.
        n: number of images.
        out: file or folder to write.
        label: class name of all images. Without it, a model with labels generates its classes in turn.
        seed: seed of the noise; random by default.
        temperature: standard deviation of the noise.
        progress: called with the number of images written and `n` after each block.
        label_index: index of the class, instead of `label`.

    Returns:
        The files or the folder, and the seed.

    Raises:
        UsageError: If the format or label is unknown, `n` or `temperature` is out of range, `out` already has images,
            an interrupted call had different arguments, or another process is writing to `out`.
        CvaeError: If a file can't be written.
    """
    n = check_generate_args(n, temperature)
    if n * (size := int(np.prod(model.spec.image_shape))) > MAX_BYTES:
        raise UsageError(
            f"n is {quote_label(n)}, but at most {MAX_BYTES // size:,} images fit into {MAX_BYTES // 2**40} TiB, the "
            "limit of common file systems for one file; generate them in several calls, each with its own --seed"
        )
    if label is not None or label_index is not None:
        indices = label_indices(model.spec, label, label_index, 1)
        label_index = None if indices is None else int(indices[0])
    _check_out(out)
    with _lock(out):
        return _generate(model, n, out, label_index, seed, temperature, progress)


def _generate(
    model: Model,
    n: int,
    out: Path,
    label: int | None,
    seed: int | None,
    temperature: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Path], int]:
    state_path = out.with_name(f".{out.name}.part.json")
    state = _read_state(state_path)
    if seed is None:
        seed = state["seed"] if state else int(np.random.default_rng().integers(2**31))
    request = Request(weights=model.spec.weights, n=n, label=label, seed=seed, temperature=temperature)
    if state is not None and {**asdict(request), "done": state["done"]} != state:
        label_name = "label" if state["label"] is None else "label_index"
        fields = (("n", "n"), (label_name, "label"), ("seed", "seed"), ("temperature", "temperature"))
        arguments = ", ".join(f"{name} {state[key]}" for name, key in fields)
        raise UsageError(
            f"{str(out)!r} is half written, with {arguments}; repeat the call with them, or remove {str(state_path)!r}"
        )
    done = state["done"] if state else 0
    size = int(np.prod(model.spec.image_shape))
    chunk_size = max(1, min(CHUNK, MAX_CHUNK_BYTES // (4 * (size + model.spec.latent_dim))))
    block_size = max(chunk_size, BLOCK_BYTES // max(size, 16) // chunk_size * chunk_size)
    writer = WRITERS[out.suffix.lower()](out, model, n, block_size)
    if state is None:
        if path := writer.find_other_images():
            raise UsageError(f"{str(path)!r} already has other images; remove them, or choose another --out")
        write_file(state_path, json.dumps({**asdict(request), "done": 0}))
    for start, images, labels in _generate_blocks(model, request, done, block_size, chunk_size):
        writer.write(start, images, labels)
        done = start + len(images)
        write_file(state_path, json.dumps({**asdict(request), "done": done}))
        if progress is not None:
            progress(done, n)
    files = writer.close()
    state_path.unlink(missing_ok=True)
    return files, seed


def _check_out(out: Path) -> None:
    if out.name in ("", ".."):
        raise UsageError(f"{str(out)!r} is not the name of a new file or folder; use one, such as --out images")
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"{str(out)!r} has an unknown suffix; use .npy or .npz for arrays, or none for a folder of images"
        )
    if out.exists() and out.is_dir() != (suffix == ""):
        raise UsageError(f"{str(out)!r} already exists as a {'folder' if out.is_dir() else 'file'}; choose another")


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Lock `out` for this process, by locking a folder beside it."""
    folder = out.with_name(f".{out.name}.lock")
    with lock_folder(folder):
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()


def _read_state(path: Path) -> dict[str, Any] | None:
    """Read the state of an interrupted call, or return None if there is none."""
    try:
        state = json.loads(path.read_bytes())
        if state.keys() != {*Request.__annotations__, "done"} or not all(
            type(state[name]) is int and state[name] >= 0 for name in ("seed", "done")
        ):
            raise ValueError("it was not written by this version of cvae")
        return state
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise CvaeError(f"can't read {str(path)!r} ({error}); remove it to start over") from error


def _generate_blocks(
    model: Model, request: Request, done: int, block_size: int, chunk_size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Yield the start, images (b, C, H, W) uint8 and labels (b,) of each block after the first `done` images."""
    rng, classes = np.random.default_rng(request.seed), model.spec.classes
    for start in range(0, request.n, block_size):
        stop = min(start + block_size, request.n)
        chunks = [slice(first, min(first + chunk_size, stop - start)) for first in range(0, stop - start, chunk_size)]
        noise_chunks = (
            rng.standard_normal((chunk.stop - chunk.start, model.spec.latent_dim), dtype=np.float32) for chunk in chunks
        )
        if stop <= done:
            for _ in noise_chunks:  # advance the random state past the images that are already written
                pass
            continue
        labels = None
        if classes is not None:
            labels = (
                np.arange(start, stop) % len(classes) if request.label is None else np.full(stop - start, request.label)
            )
        images = np.empty((stop - start, *model.spec.image_shape), np.uint8)
        for chunk, noise in zip(chunks, noise_chunks, strict=True):
            indices = None if labels is None else labels[chunk]
            decoded = model.decode(noise * np.float32(request.temperature), label_index=indices)
            images[chunk] = imaging.to_uint8(decoded)
        yield start, images, labels


class _Writer(ABC):
    """Writer of blocks of images in one format."""

    @abstractmethod
    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        """Write a block of images (b, C, H, W) that begins at the index `start`, possibly for the second time."""

    def find_other_images(self) -> Path | None:
        """Return a path that already has images, with which the new images would be mixed, or None."""
        return None

    @abstractmethod
    def close(self) -> list[Path]:
        """Give the files their final names after the last block, and return their paths."""


class _ArrayWriter(_Writer):
    """Writer of one array of images and, for a model with labels, one of class indices."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int) -> None:
        self.n = n
        self.arrays: list[tuple[Path, np.dtype, tuple[int, ...]]] = [(out, np.dtype(np.uint8), model.spec.image_shape)]
        if model.spec.classes is not None:
            self.arrays.append((out.with_name(f"{out.stem}-labels.npy"), np.dtype(np.int64), ()))

    @staticmethod
    def _temporary_path(path: Path) -> Path:
        return path.with_name(f".{path.name}.part")

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        for (path, dtype, shape), values in zip(self.arrays, (images, labels), strict=False):
            temporary_path = self._temporary_path(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary_path.open("r+b" if start else "w+b") as file:
                    header = {"descr": dtype.str, "fortran_order": False, "shape": (self.n, *shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.seek(start * dtype.itemsize * int(np.prod(shape, dtype=int)), os.SEEK_CUR)
                    file.write(np.ascontiguousarray(values, dtype).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise CvaeError(f"can't write {str(temporary_path)!r}: {error.strerror}") from error

    def close(self) -> list[Path]:
        for path, _, _ in reversed(self.arrays):
            with suppress(FileNotFoundError):  # the file was renamed before the call was interrupted
                self._temporary_path(path).replace(path)
        return [path for path, _, _ in self.arrays]


class _ShardWriter(_Writer):
    """Writer of a shard for each block."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int) -> None:
        self.out, self.classes, self.block_size = out, model.spec.classes, block_size
        num_shards = -(-n // block_size)
        self.files = [out] if num_shards == 1 else [out.with_name(f"{out.stem}-{i:05}.npz") for i in range(num_shards)]

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        label_arrays = {} if labels is None else {"labels": labels, "classes": np.array(self.classes)}
        with (
            atomic_write(self.files[start // self.block_size]) as temporary_path,
            temporary_path.open("wb") as file,  # given a path, numpy would append .npz to .NPZ
        ):
            np.savez(file, images=images, **label_arrays)  # type: ignore[arg-type]

    def find_other_images(self) -> Path | None:
        pattern = re.compile(re.escape(self.out.stem) + r"-\d{5,}\.npz", re.IGNORECASE)
        paths = [path for path in self.out.parent.iterdir() if pattern.fullmatch(path.name)]
        if self.files != [self.out] and self.out.exists():
            paths.append(self.out)
        return min(paths, default=None)

    def close(self) -> list[Path]:
        return self.files


class _FolderWriter(_Writer):
    """Writer of a PNG file for each image."""

    def __init__(self, out: Path, model: Model, n: int, block_size: int) -> None:
        self.out, self.digits = out, len(str(n - 1))
        classes = model.spec.classes
        if classes is not None and not all(re.fullmatch(r"-?\w([\w .+-]*[\w+-])?", name) for name in classes):
            classes = tuple(str(i) for i in range(len(classes)))  # an untrusted file may have a class named ".."
        self.folders = [out] if classes is None else [out / name for name in classes]

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        for i, image in enumerate(images):
            folder = self.folders[0 if labels is None else labels[i]]
            with atomic_write(folder / f"{start + i:0{self.digits}}.png", sync=False) as temporary_path:
                imaging.to_pil(image).save(temporary_path)

    def find_other_images(self) -> Path | None:
        return self.out if next(self.out.rglob("*.png"), None) else None

    def close(self) -> list[Path]:
        return [self.out]


WRITERS: dict[str, Callable[[Path, Model, int, int], _Writer]] = {
    ".npy": _ArrayWriter,
    ".npz": _ShardWriter,
    "": _FolderWriter,
}
