"""Bulk generation of images, streamed to files in constant memory.

An interrupted call can be continued, and a complete one extended.

The images are generated in blocks. After each block, a state file beside the output records how many images have
been written. The file remains when the call is complete, so that a later call can add images: for the same seed, a
larger n only appends images. A block is decoded in chunks, to limit the memory that the model uses.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvae import imaging
from cvae.atomic import lock_folder, read_at_most, write_file
from cvae.conditions import quote_value
from cvae.errors import CvaeError, Interrupted, UsageError, count_of, one_line
from cvae.runtime.arguments import (
    Indices,
    Labels,
    check_count,
    check_generate_args,
    count_labels,
    random_seed,
)
from cvae.runtime.conditions import Values, collect_values, condition_rows, count_values, describe_rows
from cvae.runtime.image_writers import WRITERS
from cvae.runtime.model import Model
from cvae.runtime.session import CHUNK
from cvae.serialization import MAX_TEXT, from_dict, parse_json

BLOCK_BYTES, SHARD_BYTES = 2**20, 2**24
"""Approximate size in bytes of the images in a block, and of those in a block that is written as a shard (.npz).

A call that continues an interrupted one generates at most one block again.
"""

MAX_BYTES = 2**44
"""Maximum size of all images in bytes: the size limit of a file on ext4."""

MAX_CHUNK_BYTES = 2**24
"""Maximum size in bytes of the float32 noise and images in a chunk, unless a single image is larger."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments that determine each image, independently of the number of images.

    Attributes:
        weights: SHA-256 of the model's weights.
        labels: class indices through which the images cycle; None for a model without classes.
        conditions: values of the conditions of a model without classes, through which the images cycle.
        seed: seed of the noise.
        temperature: standard deviation of the noise.
    """

    weights: str
    labels: tuple[int, ...] | None
    seed: int
    temperature: float
    conditions: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class State:
    """Content of the state file.

    Attributes:
        request: arguments of the call.
        n: number of images to write.
        done: number of images written so far.
    """

    request: Request
    n: int
    done: int


def generate(
    model: Model,
    n: int,
    out: Path,
    *,
    label: Labels = None,
    seed: int | None = None,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
    label_index: Indices = None,
    conditions: Values | None = None,
    extrapolate: bool = False,
) -> tuple[list[Path], int]:
    """Write the images that `model.generate` returns for the same arguments, as uint8 in 0..255.

    The suffix of `out` selects the format:

    - `x.npy`: one array (n, C, H, W). If the model has labels, `x-labels.npy` (n,) holds the class indices.
    - `x.npz`: shards `x-00000.npz` and so on, each with `images`, and with `labels` and `classes` if the model has
      labels; just `x.npz` if one shard suffices.
    - `x`: a folder of PNG files, with a subfolder for each class if the model has labels.

    To continue an interrupted call, repeat it. To add images to a complete one, repeat it with a larger n. Without a
    `seed`, the repeated call uses the seed of the earlier one.

    Args:
        model: model that generates the images.
        n: number of images; with several labels, number of images per label.
        out: file or folder to write.
        label: class name, or several, through which the images cycle; by default all classes.
        seed: seed of the noise; random by default.
        temperature: standard deviation of the noise.
        progress: called with the number of generated images and the total, at the start and after each chunk.
        label_index: index of the class, or several, instead of `label`.
        conditions: values of other conditions by name: one for all images, or as many as there are labels. A condition
            that is left out is unknown.
        extrapolate: whether to accept numbers beyond the range of the training data.

    Returns:
        The files or the folder, and the seed.

    Raises:
        UsageError: If the format or label is unknown, `n` or `temperature` is out of range, `out` contains
            images for other arguments, or another process is writing to `out`.
        CvaeError: If a file can't be written.
        Interrupted: After Ctrl-C.
    """
    values = collect_values(model.spec, label, label_index, conditions or {})
    num_rows = count_values(model.spec, values) or count_labels(label, label_index)
    n = check_generate_args(n, temperature) * num_rows
    if n * (size := int(np.prod(model.spec.image_shape))) > MAX_BYTES:
        raise UsageError(
            f"n is {quote_value(n)}, but at most {MAX_BYTES // size:,} images fit into {MAX_BYTES // 2**40} TiB, the "
            "limit of common file systems for one file; generate them in several calls, each with its own --seed"
        )
    if model.spec.classes is None:
        rows = condition_rows(model.spec, num_rows, values=values, extrapolate=extrapolate)
    elif values or label_index is not None:
        rows = condition_rows(model.spec, num_rows, None, label_index, values)
    else:
        rows = np.arange(len(model.spec.classes))
    _check_out(out)
    with _lock(out):
        return _generate(model, n, out, rows, seed, temperature, progress)


def _generate(
    model: Model,
    n: int,
    out: Path,
    rows: np.ndarray | None,
    seed: int | None,
    temperature: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Path], int]:
    state_path = out.with_name(f".{out.name}.json")
    size = int(np.prod(model.spec.image_shape))
    chunk_size = max(1, min(CHUNK, MAX_CHUNK_BYTES // (4 * (size + model.spec.latent_dim))))
    block_bytes = SHARD_BYTES if out.suffix.lower() == ".npz" else BLOCK_BYTES
    block_size = max(chunk_size, block_bytes // max(size, 16) // chunk_size * chunk_size)
    writer = WRITERS[out.suffix.lower()](out, model, n, block_size, rows)
    state = _read_state(state_path)
    if state is not None and state.done == state.n and not writer.is_complete(state.n):
        state = None  # the files of a complete call were moved or removed
    if seed is None:
        seed = random_seed() if state is None else state.request.seed
    seed = check_count("seed", seed, minimum=0)
    request = Request(
        weights=model.spec.weights,
        labels=None if rows is None or model.spec.classes is None else tuple(rows.tolist()),
        seed=seed,
        temperature=temperature,
        conditions=tuple(describe_rows(model.spec.conditions, rows)) if model.spec.classes is None else (),
    )
    if state is not None and (state.request != request or state.n > n):
        if 0 < state.done < state.n:  # a call that failed before its first block does not count
            raise _different_arguments_error(out, state, state_path)
        state = None
    if state is None and (path := writer.find_other_images()):
        raise UsageError(f"{str(path)!r} already contains other images; remove them, or choose another --out")
    done = 0 if state is None else state.done

    report = progress or (lambda done, total: None)

    def save_state() -> None:
        write_file(state_path, json.dumps(asdict(State(request=request, n=n, done=done))))

    try:
        if state is not None and state.done == state.n < n:
            writer.reopen(state.n)
        save_state()
        report(done, n)
        for start, images in _generate_blocks(model, request, rows, n, done, block_size, chunk_size, report):
            writer.write(start, images)
            done = start + len(images)
            save_state()
            report(done, n)
        return writer.close(), seed
    except KeyboardInterrupt:
        raise Interrupted(f"{str(out)!r} has {done:,} of {count_of(n, 'image')}; continue with the same call") from None


def _different_arguments_error(out: Path, state: State, state_path: Path) -> UsageError:
    request = state.request
    labels = "" if request.labels is None else f", label_index {', '.join(map(str, request.labels))}"
    if request.conditions:
        labels = f", conditions {one_line(json.dumps(request.conditions), 200)}"
    return UsageError(
        f"{str(out)!r} was partly written by a call for {count_of(state.n, 'image')}{labels}, seed {request.seed}, "
        f"temperature {request.temperature}; repeat that call, or remove {str(state_path)!r} to start over"
    )


def _check_out(out: Path) -> None:
    if out.name in ("", ".."):
        raise UsageError(f"{str(out)!r} is not the name of a new file or folder; use one, such as --out images")
    suffix = out.suffix.lower()
    if suffix not in WRITERS:
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


def _read_state(path: Path) -> State | None:
    """Read the state of an earlier call, or return None if there is none."""
    if not path.exists():
        return None
    try:
        data = parse_json(read_at_most(path, MAX_TEXT))
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        state: State = from_dict(State, data)
        if not 0 <= state.done <= state.n or state.request.seed < 0:
            raise ValueError("it was not written by this version of cvae")
        return state
    except (CvaeError, ValueError) as error:
        raise CvaeError(f"can't read {str(path)!r} ({one_line(error)}); remove it to start over") from error


def _generate_blocks(
    model: Model,
    request: Request,
    rows: np.ndarray | None,
    n: int,
    done: int,
    block_size: int,
    chunk_size: int,
    report: Callable[[int, int], None],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the start and the images (b, C, H, W) uint8 of each block after the first `done` of n images.

    `report` is called after each chunk except the last one of a block.
    """
    rng = np.random.default_rng(request.seed)
    for start in range(0, n, block_size):
        stop = min(start + block_size, n)
        chunks = [slice(first, min(first + chunk_size, stop - start)) for first in range(0, stop - start, chunk_size)]
        noise_chunks = (
            rng.standard_normal((chunk.stop - chunk.start, model.spec.latent_dim), dtype=np.float32) for chunk in chunks
        )
        if stop <= done:
            for _ in noise_chunks:  # advance the random state past the images that are already written
                pass
            continue
        block_rows = None if rows is None else rows[np.arange(start, stop) % len(rows)]
        images = np.empty((stop - start, *model.spec.image_shape), np.uint8)
        for chunk, noise in zip(chunks, noise_chunks, strict=True):
            chunk_rows = None if block_rows is None else block_rows[chunk]
            decoded = model.decode_rows(noise * np.float32(request.temperature), chunk_rows)
            images[chunk] = imaging.to_uint8(decoded)
            if done < start + chunk.stop < stop:
                report(start + chunk.stop, n)
        yield start, images
