"""Script that loads untrusted files in a process with limited memory and time.

    python tests/untrusted.py load FOLDER                 load every entry of FOLDER with the loader for its suffix
    python tests/untrusted.py fuzz FIRST COUNT FILE ...   load mutations of exported files

Before each file, it prints a line of JSON with the name, so that after a crash the last line names the file that caused
it. After each file, it prints a line with the outcome, the error message, the CPU time in seconds, and the increase in
peak memory in bytes.
"""

import itertools
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cvae.errors import CvaeError
from cvae.runtime.session import CHUNK, Session, read_spec

with suppress(ImportError):  # Windows lacks it, but tests there use other functions of this module
    import resource

MEMORY = 200 * 2**20
"""Maximum memory for loading a file, in bytes, in addition to what the process used before."""

SECONDS = 2
"""CPU time in seconds after which loading a file counts as a hang, and a signal kills the process."""

OPTIONS: dict[str, Any] = {"threads": 1, "spinning": False, "arena": False}


def run_model(path: Path, count: int = 2) -> None:
    """Load a decoder or encoder and run it, as `cvae.runtime.Model` does."""
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


def read_image(path: Path) -> None:
    from cvae.imaging import read

    read(path, (1, 8, 8))


def load_run(folder: Path) -> None:
    from cvae.engine import load_model

    load_model(folder)


def read_config(path: Path) -> None:
    from cvae.config import Config

    Config.read(path)


def load_recipe(path: Path) -> None:
    from cvae.recipes import read_recipe

    read_recipe(path)


def load_detector(folder: Path) -> None:
    from cvae.detection.detector import Detector
    from cvae.runtime import load

    Detector.load(folder, load(folder).spec)


LOADERS: dict[str, Callable[[Path], None]] = {
    ".onnx": run_model,
    ".run": load_run,
    ".json": read_config,
    ".toml": load_recipe,
    ".detector": load_detector,
}
"""Loader for each suffix. Files with other suffixes are loaded as images."""


def peak_memory() -> int:
    """Return the peak memory of this process since `reset_peak_memory`, in bytes.

    `ru_maxrss` is not suitable, because a process inherits it from its parent.
    """
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024


def reset_peak_memory() -> None:
    """Set the peak memory of this process to its current memory."""
    Path("/proc/self/clear_refs").write_text("5")


def limit_memory() -> None:
    """Limit this process to `MEMORY` bytes in addition to what it uses now.

    The limit is on address space, which bounds the memory.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def print_json(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def attempt(name: str, load: Callable[[], None]) -> None:
    """Load one file and report the outcome: "accepted", "rejected" (a CvaeError) or "failed" (any other exception)."""
    print_json(begin=name)
    reset_peak_memory()
    before, start = peak_memory(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # without a handler, the signal ends the process
    message, outcome = "", "accepted"
    try:
        load()
    except CvaeError as error:
        message, outcome = str(error), "rejected"
    except Exception as error:
        message, outcome = f"{type(error).__name__}: {error}", "failed"
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, memory = time.process_time() - start, peak_memory() - before
    print_json(name=name, outcome=outcome, message=message, seconds=seconds, memory=memory)


def load_all(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    for path in paths:  # so that imports and one-time allocations do not count as the memory of a later file
        if path.name.startswith("_valid"):
            LOADERS.get(path.suffix, read_image)(path)
    limit_memory()
    for path in paths:
        if not path.name.startswith("."):
            attempt(path.name, lambda path=path: LOADERS.get(path.suffix, read_image)(path))  # type: ignore[misc]


# -- mutations ---------------------------------------------------------------------------------------------------------

EXTREME_NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    64,
    127,
    128,
    255,
    2**15,
    2**20,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


def varint(value: int) -> bytes:
    """Return the protobuf encoding of a number."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[random_position(data, rng)] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    at = random_position(data, rng)
    data[at : at + rng.choice([1, 2, 4, 8])] = rng.randbytes(rng.choice([1, 2, 4, 8]))


def splice(data: bytearray, rng: random.Random) -> None:
    source, to, length = random_position(data, rng), random_position(data, rng), rng.choice([1, 4, 30, 300, 3000])
    data[to : to + rng.choice([0, length])] = data[source : source + length]


def delete(data: bytearray, rng: random.Random) -> None:
    at = random_position(data, rng)
    del data[at : at + rng.choice([1, 2, 10, 100, 10_000])]


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[random_position(data, rng) :]


def random_position(data: bytearray, rng: random.Random) -> int:
    """Return a random position. A third of all positions are near the start, because weights make up most of a file."""
    return rng.choice([rng.randrange(len(data)), rng.randrange(min(20_000, len(data))), rng.randrange(len(data))])


def number_spans(data: bytes, start: int, end: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each key, length and number in a message, including the messages nested in it."""
    position = start
    while position < end:
        boundaries = [position]
        for _ in range(2 if data[position] & 7 in (0, 2) else 1):
            while position < end and data[position] > 0x7F:
                position += 1
            position += 1
            boundaries.append(position)
        yield from itertools.pairwise(boundaries)
        wire_type = data[boundaries[0]] & 7
        if wire_type == 2 and len(boundaries) == 3:
            size = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data[boundaries[1] : boundaries[2]]))
            if (depth < 4 and size < 5000) or depth == 0:
                yield from number_spans(data, position, min(end, position + size), depth + 1)
            position += size
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4


def replace_number(data: bytearray, rng: random.Random) -> None:
    """Replace a length, a number or the key of a field."""
    start, end = rng.choice(list(number_spans(bytes(data), 0, len(data)))[:20_000])
    data[start:end] = varint(rng.choice([*EXTREME_NUMBERS, *[max(0, data[start] + d) for d in (-2, -1, 1, 2, 8)]]))


def edit_graph(data: bytearray, rng: random.Random) -> None:
    """Edit the model at random. The result is still valid protobuf."""
    import onnx

    model = onnx.load_from_string(bytes(data))
    graph = model.graph
    for _ in range(rng.choice([1, 1, 2, 4])):
        node, weight = rng.choice(graph.node), rng.choice(graph.initializer)
        other = rng.choice(graph.node)
        number = rng.choice([*EXTREME_NUMBERS[:-2], -1, -2, -(2**31), -(2**63), rng.randrange(-10, 100)])
        match rng.randrange(15):
            case 0:
                node.op_type = other.op_type
            case 1:
                node.op_type = rng.choice(
                    ["Tile", "Loop", "Einsum", "Softmax", "Identity", "Floor", "Gelu", "Cast", "Pad"]
                )
            case 2 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice([other.output[0], *other.input, weight.name])
            case 3 if node.input:
                del node.input[rng.randrange(len(node.input))]
            case 4:
                node.input.append(rng.choice([other.output[0], weight.name, ""]))
            case 5:
                node.output[0] = rng.choice([other.output[0], weight.name, "x", ""])
            case 6 if len(graph.node) > 1:
                graph.node.remove(node)
            case 7:
                graph.node.insert(rng.randrange(len(graph.node)), other)
            case 8 if attributes := [a for n in graph.node for a in n.attribute if a.type in (2, 7)]:
                attribute = rng.choice(attributes)
                if attribute.type == 2:
                    attribute.i = number
                elif attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = number
            case 9:
                node.attribute.append(
                    onnx.helper.make_attribute(rng.choice(["axis", "group", "pads", "to", "mode"]), number)
                )
            case 10 if weight.dims:
                weight.dims[rng.randrange(len(weight.dims))] = number
            case 11:
                weight.data_type = rng.randrange(20)
            case 12 if constants := [t for t in graph.initializer if t.data_type == 7 and len(t.raw_data) >= 8]:
                constant = rng.choice(constants)
                values = bytearray(constant.raw_data)
                at = 8 * rng.randrange(len(values) // 8)
                values[at : at + 8] = struct.pack("<q", number)
                constant.raw_data = bytes(values)
            case 13 if weight.raw_data:
                values = bytearray(weight.raw_data)
                at = rng.randrange(0, len(values), 4)
                values[at : at + 4] = struct.pack(
                    "<f", rng.choice([1e38, -1e38, 1e-44, float("nan"), float("inf"), 1e9])
                )
                weight.raw_data = bytes(values)
            case 14:
                value = rng.choice([*graph.input, *graph.output])
                dims = value.type.tensor_type.shape.dim
                if dims:
                    dims[rng.randrange(len(dims))].dim_value = number
    data[:] = model.SerializeToString()


MUTATIONS = [*[flip] * 2, overwrite, splice, delete, truncate, *[replace_number] * 2, *[edit_graph] * 4]


def mutate(data: bytes, seed: int) -> bytes:
    """Return a file with one to three mutations of a random kind."""
    rng = random.Random(seed)
    mutated = bytearray(data)
    mutation = rng.choice(MUTATIONS)
    for _ in range(1 if mutation is edit_graph else rng.choice([1, 1, 1, 3])):
        if mutated:
            mutation(mutated, rng)
    return bytes(mutated)


def fuzz(first: int, count: int, paths: list[Path]) -> None:
    originals = [path.read_bytes() for path in paths]
    for path in paths:
        run_model(path, CHUNK)
    for data in originals:
        edit_graph(bytearray(data), random.Random(0))
    limit_memory()
    for seed in range(first, first + count):
        path = Path(f"{seed}.onnx")
        path.write_bytes(mutate(originals[seed % len(paths)], seed))
        attempt(path.name, lambda path=path: run_model(path))  # type: ignore[misc]
        path.unlink()


# -- called by the tests -----------------------------------------------------------------------------------------------


def run_script(command: str, *arguments: object, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Run this script in a new process, and return its reports and its stderr."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    arguments = (sys.executable, "-P", __file__, command, *map(str, arguments))
    process = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True)
    reports = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, f"exit status {process.returncode} after {reports[-1:]}: {process.stderr[-2000:]}"
    return [report for report in reports if "outcome" in report], process.stderr


def load_in_process(folder: Path) -> dict[str, dict[str, Any]]:
    """Load all files in a folder in one process with limits, and return the reports by file name."""
    reports, stderr = run_script("load", folder, folder=folder)
    assert stderr == "", "something was printed to stderr"
    return {report["name"]: report for report in reports}


def assert_rejected(folder: Path) -> None:
    """Assert that all files in a folder are rejected, except those whose names begin with _valid.

    Each must be rejected within a second and with little memory, in one short line that contains its name. Files whose
    names begin with a dot are not loaded.
    """
    reports = load_in_process(folder)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert sorted(reports) == names and any(name.startswith("_valid") for name in names)
    print(f"{len(names)} files; the slowest takes {max(report['seconds'] for report in reports.values()):.2f} s")
    failures = []
    for name, report in reports.items():
        outcome, message = report["outcome"], report["message"]
        if name.startswith("_valid"):
            correct = outcome == "accepted"
        else:
            one_line = "\n" not in message and len(message) < 600 and name in message
            correct = outcome == "rejected" and one_line and report["seconds"] < 1 and report["memory"] < MEMORY
        if not correct:
            failures.append(report)
    assert not failures, failures


def fuzz_in_process(first: int, count: int, paths: list[Path], folder: Path) -> dict[str, int]:
    """Load mutations of files in a process with limits. Crashes, hangs and excessive memory are errors.

    Returns:
        The number of mutations that were "rejected", "accepted", and rejected "by onnxruntime".
    """
    reports, _ = run_script("fuzz", first, count, *paths, folder=folder)
    assert len(reports) == count
    messages = [report["message"] for report in reports]
    failures = [
        report
        for report, message in zip(reports, messages, strict=True)
        if report["outcome"] == "failed" or "alloc" in message or "\n" in message
    ]
    assert not failures, failures[:5]
    outcomes = [report["outcome"] for report in reports]
    return {
        "rejected": outcomes.count("rejected"),
        "accepted": outcomes.count("accepted"),
        "by onnxruntime": sum(message.startswith("onnxruntime") for message in messages),
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.argv[1] == "load":
        load_all(Path(sys.argv[2]))
    else:
        fuzz(int(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
