"""Many images into files: streamed in constant memory, and continued where a run was stopped."""

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
from cvae.runtime.model import Label, Model, check_order, label_indices
from cvae.runtime.session import CHUNK
from cvae.spec import quote_label

BLOCK = 2**24
"""Bytes of images, about, that are kept until they are written: a shard, and what a stopped run draws again."""

MAX_BYTES = 2**44
"""Bytes of images in all: the largest file of ext4."""

PART = 2**24
"""Bytes of noise and images, as float32, that are decoded at a time, unless one image takes more."""

ENDINGS = (".npy", ".npz", "")
"""Of one array, of shards, and of a folder of pictures."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was asked for, which makes the same bytes each time."""

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
    """Write `n` images, uint8 in 0..255: those that `model.generate` gives for the seed, and its labels.

    - `x.npy`: one array (n, C, H, W), and for a model with labels `x-labels.npy` (n,), their indices.
    - `x.npz`: shards `x-00000.npz` and so on, each with `images`, and `labels` and `classes` if there are any; `x.npz`
      itself when one is enough.
    - `x`: a folder of PNG files, for a model with labels in a sub-folder for each class.

    Stopped at any moment, the same call goes on where it was; without a `seed` it takes the one that it had drawn.
    `label_index` is the class by its index, in place of `label`.

    Returns:
        The files or the folder, and the seed.

    Raises:
        UsageError: no such format or label, n or temperature is out of range, `out` holds part of another order, a
            folder or shards hold images of one, or another process is writing there.
        CvaeError: something can't be written.
    """
    n = check_order(n, temperature)
    if n * (each := int(np.prod(model.spec.image_shape))) > MAX_BYTES:
        raise UsageError(
            f"n is {quote_label(n)}: at most {MAX_BYTES // each:,} images, which take {MAX_BYTES // 2**40} TiB, the "
            "most that common file systems store in one file; write them in parts, each with a --seed of its own"
        )
    if label is not None or label_index is not None:
        indices = label_indices(model.spec, label, label_index, 1)
        label_index = None if indices is None else int(indices[0])
    _check_out(out)
    with _alone(out):
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
    state = out.with_name(f".{out.name}.part.json")
    before = _read(state)
    if seed is None:
        seed = before["seed"] if before else int(np.random.default_rng().integers(2**31))
    order = Order(weights=model.spec.weights, n=n, label=label, seed=seed, temperature=temperature)
    if before is not None and {**asdict(order), "done": before["done"]} != before:
        label_name = "label" if before["label"] is None else "label_index"
        fields = (("n", "n"), (label_name, "label"), ("seed", "seed"), ("temperature", "temperature"))
        told = ", ".join(f"{name} {before[key]}" for name, key in fields)
        raise UsageError(
            f"{str(out)!r} is half written, with {told}; repeat that to finish it, or remove {str(state)!r}"
        )
    done = before["done"] if before else 0
    numbers = int(np.prod(model.spec.image_shape))
    chunk = max(1, min(CHUNK, PART // (4 * (numbers + model.spec.latent_dim))))
    block = max(chunk, BLOCK // max(numbers, 16) // chunk * chunk)
    sink = SINKS[out.suffix.lower()](out, model, n, block)
    if before is None:
        if other := sink.other():
            raise UsageError(f"{str(other)!r} holds other images already; remove them, or choose another --out")
        write_file(state, json.dumps({**asdict(order), "done": 0}))
    for start, images, labels in _blocks(model, order, done, block, chunk):
        sink.write(start, images, labels)
        done = start + len(images)
        write_file(state, json.dumps({**asdict(order), "done": done}))
        if progress is not None:
            progress(done, n)
    files = sink.close()
    state.unlink(missing_ok=True)
    return files, seed


def _check_out(out: Path) -> None:
    if out.name in ("", ".."):
        raise UsageError(f"{str(out)!r} names no new file or folder; give one, such as --out images")
    ending = out.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{str(out)!r}: arrays are written as .npy or .npz, pictures into a folder")
    if out.exists() and out.is_dir() != (ending == ""):
        raise UsageError(
            f"{str(out)!r} is there already, and is {'a' if out.is_dir() else 'no'} folder; choose another"
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold `out` for this process alone, by a folder beside it."""
    place = out.with_name(f".{out.name}.lock")
    with lock_folder(place):
        try:
            yield
        finally:
            with suppress(OSError):
                place.rmdir()


def _read(state: Path) -> dict[str, Any] | None:
    try:
        before = json.loads(state.read_bytes())
        if before.keys() != {*Order.__annotations__, "done"} or not all(
            type(before[name]) is int and before[name] >= 0 for name in ("seed", "done")
        ):
            raise ValueError("it is not what this cvae writes")
        return before
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise CvaeError(f"can't read {str(state)!r} ({error}); remove it to begin anew") from error


def _blocks(
    model: Model, order: Order, done: int, block: int, chunk: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """From the image `done` on: where a block begins, its images (b, C, H, W) uint8, its labels (b,)."""
    random, classes = np.random.default_rng(order.seed), model.spec.classes
    for start in range(0, order.n, block):
        stop = min(start + block, order.n)
        chunks = [slice(at, min(at + chunk, stop - start)) for at in range(0, stop - start, chunk)]
        noises = (
            random.standard_normal((part.stop - part.start, model.spec.latent_dim), dtype=np.float32) for part in chunks
        )
        if stop <= done:
            for _ in noises:  # drawn all the same, so that what follows is what it would have been
                pass
            continue
        labels = None
        if classes is not None:
            labels = (
                np.arange(start, stop) % len(classes) if order.label is None else np.full(stop - start, order.label)
            )
        images = np.empty((stop - start, *model.spec.image_shape), np.uint8)
        for part, noise in zip(chunks, noises, strict=True):
            indices = None if labels is None else labels[part]
            decoded = model.decode(noise * np.float32(order.temperature), label_index=indices)
            images[part] = imaging.to_uint8(decoded)
        yield start, images, labels


class _Sink(ABC):
    """Where blocks of images go."""

    @abstractmethod
    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        """Keep images (b, C, H, W), the first of which is the one with the number `start`; again if need be."""

    def other(self) -> Path | None:
        """Where images of another order lie that this one would leave among its own."""
        return None

    @abstractmethod
    def close(self) -> list[Path]:
        """Nothing more comes: give the files their names."""


class _Array(_Sink):
    def __init__(self, out: Path, model: Model, n: int, block: int) -> None:
        self.n = n
        self.parts: list[tuple[Path, np.dtype, tuple[int, ...]]] = [(out, np.dtype(np.uint8), model.spec.image_shape)]
        if model.spec.classes is not None:
            self.parts.append((out.with_name(f"{out.stem}-labels.npy"), np.dtype(np.int64), ()))

    @staticmethod
    def _temporary_path(path: Path) -> Path:
        return path.with_name(f".{path.name}.part")

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        for (path, dtype, shape), values in zip(self.parts, (images, labels), strict=False):
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
        for path, _, _ in reversed(self.parts):
            with suppress(FileNotFoundError):  # named already, before this run was stopped
                self._temporary_path(path).replace(path)
        return [path for path, _, _ in self.parts]


class _Shards(_Sink):
    def __init__(self, out: Path, model: Model, n: int, block: int) -> None:
        self.out, self.classes, self.block = out, model.spec.classes, block
        count = -(-n // block)
        self.files = [out] if count == 1 else [out.with_name(f"{out.stem}-{i:05}.npz") for i in range(count)]

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        named = {} if labels is None else {"labels": labels, "classes": np.array(self.classes)}
        with (
            atomic_write(self.files[start // self.block]) as temporary_path,
            temporary_path.open("wb") as file,
        ):  # numpy would add an ending
            np.savez(file, images=images, **named)  # type: ignore[arg-type]

    def other(self) -> Path | None:
        shard = re.compile(re.escape(self.out.stem) + r"-\d{5,}\.npz", re.IGNORECASE)
        found = [path for path in self.out.parent.iterdir() if shard.fullmatch(path.name)]
        if self.files != [self.out] and self.out.exists():
            found.append(self.out)
        return min(found, default=None)

    def close(self) -> list[Path]:
        return self.files


class _Folder(_Sink):
    def __init__(self, out: Path, model: Model, n: int, block: int) -> None:
        self.out, self.digits = out, len(str(n - 1))
        classes = model.spec.classes
        if classes is not None and not all(re.fullmatch(r"-?\w([\w .+-]*[\w+-])?", name) for name in classes):
            classes = tuple(str(i) for i in range(len(classes)))  # a name may be "..": the file may be a stranger's
        self.folders = [out] if classes is None else [out / name for name in classes]

    def write(self, start: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        for i, image in enumerate(images):
            folder = self.folders[0 if labels is None else labels[i]]
            with atomic_write(folder / f"{start + i:0{self.digits}}.png", sync=False) as temporary_path:
                imaging.to_pil(image).save(temporary_path)

    def other(self) -> Path | None:
        return self.out if next(self.out.rglob("*.png"), None) else None

    def close(self) -> list[Path]:
        return [self.out]


SINKS: dict[str, Callable[[Path, Model, int, int], _Sink]] = {".npy": _Array, ".npz": _Shards, "": _Folder}
