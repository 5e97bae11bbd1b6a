"""Loads files as a program would that trusts none of them, under limits; run as a script, in a process of its own.

    python tests/strangers.py load FOLDER         every file or folder in FOLDER, by its kind
    python tests/strangers.py fuzz FIRST COUNT FILE ...   mutations of exported files

It prints a JSON line on each: what was said, CPU seconds, and by how much the memory's peak has grown. Before each it
prints its name, so that after a crash it is known what the crash was in.
"""

import itertools
import json
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvae.errors import CvaeError
from cvae.runtime.session import CHUNK, Session, read_spec

MEMORY = 200 * 2**20
"""Bytes that a file may cost besides what the process has when it begins."""

SECONDS = 2
"""Of CPU time, after which a file is taken to hang the process, and a signal kills it."""

OPTIONS: dict[str, Any] = {"threads": 1, "spinning": False, "arena": False}


def draw(path: Path, count: int = 2) -> None:
    """Load a decoder or encoder and use it, as `cvae.runtime.Model` does."""
    spec = read_spec(path)[0]
    session = Session(path, spec.role, **OPTIONS)
    generator = np.random.default_rng(0)
    shape = (spec.latent_dim,) if spec.role == "decoder" else spec.image_shape
    inputs = {"noise" if spec.role == "decoder" else "image": generator.random((count, *shape), dtype=np.float32)}
    if spec.classes is not None:
        inputs["label"] = np.arange(count) % len(spec.classes)
    outputs = session.run(inputs)
    shapes = [spec.image_shape] if spec.role == "decoder" else [(spec.latent_dim,)] * 2
    assert [output.shape for output in outputs] == [(count, *shape) for shape in shapes]
    assert all(np.isfinite(output).all() for output in outputs)


def picture(path: Path) -> None:
    from cvae.imaging import read

    read(path, (1, 8, 8))


def run(folder: Path) -> None:
    from cvae.engine import load_model

    load_model(folder)


def config(path: Path) -> None:
    from cvae.config import Config

    Config.read(path)


def recipe(path: Path) -> None:
    from cvae.recipes import read_recipe

    read_recipe(path)


def detector(folder: Path) -> None:
    from cvae.detection.detector import Detector
    from cvae.evaluation.exported_scorer import ExportedScorer
    from cvae.runtime import load

    Detector.load(folder, ExportedScorer(load(folder)))


LOADERS: dict[str, Callable[[Path], None]] = {
    ".onnx": draw,
    ".run": run,
    ".json": config,
    ".toml": recipe,
    ".detector": detector,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit() -> None:
    """From now on no more than `MEMORY` bytes more, of addresses, which are at least as many as of memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def tried(name: str, load: Callable[[], None]) -> None:
    """Load one thing, and tell how it went."""
    tell(begin=name)
    before, start = peak(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # nobody catches it
    said, kind = "", "accepted"
    try:
        load()
    except CvaeError as error:
        said, kind = str(error), "refused"
    except Exception as error:
        said, kind = f"{type(error).__name__}: {error}", "failed"
    signal.setitimer(signal.ITIMER_PROF, 0)
    tell(name=name, kind=kind, said=said, seconds=time.process_time() - start, grown=peak() - before)


def load_each(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    for path in paths:  # what is imported, and allocated once for all, is not the files' doing
        if path.name.startswith("_honest"):
            LOADERS.get(path.suffix, picture)(path)
    limit()
    for path in paths:
        if not path.name.startswith("."):
            tried(path.name, lambda path=path: LOADERS.get(path.suffix, picture)(path))  # type: ignore[misc]


# -- mutations ---------------------------------------------------------------------------------------------------------

EXTREME = [0, 1, 2, 3, 7, 64, 127, 128, 255, 2**15, 2**20, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def flip(data: bytearray, r: random.Random) -> None:
    for _ in range(r.choice([1, 1, 2, 8])):
        data[place(data, r)] ^= 1 << r.randrange(8)


def overwrite(data: bytearray, r: random.Random) -> None:
    at = place(data, r)
    data[at : at + r.choice([1, 2, 4, 8])] = r.randbytes(r.choice([1, 2, 4, 8]))


def splice(data: bytearray, r: random.Random) -> None:
    source, to, length = place(data, r), place(data, r), r.choice([1, 4, 30, 300, 3000])
    data[to : to + r.choice([0, length])] = data[source : source + length]


def delete(data: bytearray, r: random.Random) -> None:
    at = place(data, r)
    del data[at : at + r.choice([1, 2, 10, 100, 10_000])]


def truncate(data: bytearray, r: random.Random) -> None:
    del data[place(data, r) :]


def place(data: bytearray, r: random.Random) -> int:
    """Somewhere, and mostly in the structure at both ends, since weights make most of a file."""
    return r.choice([r.randrange(len(data)), r.randrange(min(20_000, len(data))), r.randrange(len(data))])


def lengths(data: bytes, start: int, end: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Where the numbers of a message, and of those in it, begin and end."""
    position = start
    while position < end:
        marks = [position]
        for _ in range(2 if data[position] & 7 in (0, 2) else 1):
            while position < end and data[position] > 0x7F:
                position += 1
            position += 1
            marks.append(position)
        yield from itertools.pairwise(marks)
        kind = data[marks[0]] & 7
        if kind == 2 and len(marks) == 3:
            size = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data[marks[1] : marks[2]]))
            if (depth < 4 and size < 5000) or depth == 0:
                yield from lengths(data, position, min(end, position + size), depth + 1)
            position += size
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4


def lie(data: bytearray, r: random.Random) -> None:
    """Another length, number or key."""
    start, end = r.choice(list(lengths(bytes(data), 0, len(data)))[:20_000])
    data[start:end] = varint(r.choice([*EXTREME, *[max(0, data[start] + d) for d in (-2, -1, 1, 2, 8)]]))


def structure(data: bytearray, r: random.Random) -> None:
    """Valid protobuf, of another model."""
    import onnx

    model = onnx.load_from_string(bytes(data))
    graph = model.graph
    for _ in range(r.choice([1, 1, 2, 4])):
        node, weight = r.choice(graph.node), r.choice(graph.initializer)
        other = r.choice(graph.node)
        number = r.choice([*EXTREME[:-2], -1, -2, -(2**31), -(2**63), r.randrange(-10, 100)])
        match r.randrange(15):
            case 0:
                node.op_type = other.op_type
            case 1:
                node.op_type = r.choice(
                    ["Tile", "Loop", "Einsum", "Softmax", "Identity", "Floor", "Gelu", "Cast", "Pad"]
                )
            case 2 if node.input:
                node.input[r.randrange(len(node.input))] = r.choice([other.output[0], *other.input, weight.name])
            case 3 if node.input:
                del node.input[r.randrange(len(node.input))]
            case 4:
                node.input.append(r.choice([other.output[0], weight.name, ""]))
            case 5:
                node.output[0] = r.choice([other.output[0], weight.name, "x", ""])
            case 6 if len(graph.node) > 1:
                graph.node.remove(node)
            case 7:
                graph.node.insert(r.randrange(len(graph.node)), other)
            case 8 if attributes := [a for n in graph.node for a in n.attribute if a.type in (2, 7)]:
                attribute = r.choice(attributes)
                if attribute.type == 2:
                    attribute.i = number
                elif attribute.ints:
                    attribute.ints[r.randrange(len(attribute.ints))] = number
            case 9:
                node.attribute.append(
                    onnx.helper.make_attribute(r.choice(["axis", "group", "pads", "to", "mode"]), number)
                )
            case 10 if weight.dims:
                weight.dims[r.randrange(len(weight.dims))] = number
            case 11:
                weight.data_type = r.randrange(20)
            case 12 if constants := [t for t in graph.initializer if t.data_type == 7 and len(t.raw_data) >= 8]:
                constant = r.choice(constants)
                values = bytearray(constant.raw_data)
                at = 8 * r.randrange(len(values) // 8)
                values[at : at + 8] = struct.pack("<q", number)
                constant.raw_data = bytes(values)
            case 13 if weight.raw_data:
                values = bytearray(weight.raw_data)
                at = r.randrange(0, len(values), 4)
                values[at : at + 4] = struct.pack("<f", r.choice([1e38, -1e38, 1e-44, float("nan"), float("inf"), 1e9]))
                weight.raw_data = bytes(values)
            case 14:
                value = r.choice([*graph.input, *graph.output])
                dims = value.type.tensor_type.shape.dim
                if dims:
                    dims[r.randrange(len(dims))].dim_value = number
    data[:] = model.SerializeToString()


MUTATIONS = [flip, flip, overwrite, splice, delete, truncate, lie, lie, structure, structure, structure, structure]


def mutated(data: bytes, seed: int) -> bytes:
    r = random.Random(seed)
    changed = bytearray(data)
    mutation = r.choice(MUTATIONS)
    for _ in range(1 if mutation is structure else r.choice([1, 1, 1, 3])):
        if changed:
            mutation(changed, r)
    return bytes(changed)


def fuzz(first: int, count: int, paths: list[Path]) -> None:
    originals = [path.read_bytes() for path in paths]
    for path in paths:
        draw(path, CHUNK)
    for data in originals:
        structure(bytearray(data), random.Random(0))
    limit()
    for seed in range(first, first + count):
        changed = Path(f"{seed}.onnx")
        changed.write_bytes(mutated(originals[seed % len(paths)], seed))
        tried(changed.name, lambda changed=changed: draw(changed))  # type: ignore[misc]
        changed.unlink()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.argv[1] == "load":
        load_each(Path(sys.argv[2]))
    else:
        fuzz(int(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
