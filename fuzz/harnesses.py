"""Coverage-guided fuzzers of the readers of untrusted files.

    python fuzz/harnesses.py TARGET [libFuzzer options]      TARGET: config, detector, image, onnx, spec or weights

A reader may raise only a CvaeError (or, for the image reader, what Pillow raises, which the caller handles), and must
take at most a second of CPU time. Inputs come from mutations of the files in `fuzz/seeds/TARGET`, guided by coverage if
atheris is installed, else at random. With atheris, the options are those of libFuzzer: https://llvm.org/docs/LibFuzzer.
`make fuzz MINUTES=10` runs all harnesses. An input that fails is written to `build/fuzz`; add it to the seeds.
"""

import contextlib
import io
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    import atheris
except ImportError:
    atheris = None

with contextlib.nullcontext() if atheris is None else atheris.instrument_imports(include=["cvae"]):
    from PIL import Image

    from cvae.config import Config
    from cvae.detection.detector import CALIBRATION, CODES, METADATA, Detector
    from cvae.errors import CvaeError
    from cvae.imaging.formats import UnreadableImage, check_size, explain, open_image
    from cvae.imaging.headers import InvalidHeader, read_header
    from cvae.runtime.scan import protobuf, remove_weights, scan
    from cvae.runtime.weights import scan_weights
    from cvae.spec import KEY, Spec

SEEDS = Path(__file__).parent / "seeds"

MAX_SECONDS = 1.0
"""Maximum CPU time of an input, in seconds."""

_TEMPORARY = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
FOLDER = Path(_TEMPORARY.name)
"""Folder for the readers that take a path, in memory if possible."""


def write(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def read_spec(data: bytes) -> None:
    Spec.from_json(data.decode("utf-8", "replace"), "file")


def read_onnx(data: bytes) -> None:
    text = protobuf.read_metadata(data, "file").get(KEY)
    spec = DEFAULT_SPEC if text is None else Spec.from_json(text, "file")
    scan(data, spec, "file")
    remove_weights(data)


def read_config(data: bytes) -> None:
    Config.read(write("config.json", data))


def read_weights(data: bytes) -> None:
    scan_weights(write("model.safetensors", data))


def read_detector(data: bytes) -> None:
    write(METADATA, data)
    Detector.load(FOLDER, DEFAULT_SPEC)


def read_image(data: bytes) -> None:
    """Check the header of an image, with an extension of a format that has no signature."""
    with contextlib.suppress(InvalidHeader):
        read_header(io.BytesIO(data))
    extension = (".tga", ".dib")[len(data) % 2]
    try:
        with open_image(write(f"image{extension}", data)) as image:
            check_size(image)
    except UnreadableImage:
        pass
    except Exception as error:  # the callers handle everything that Pillow raises
        if isinstance(error, MemoryError | RecursionError):
            raise
        explain(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "config": read_config,
    "detector": read_detector,
    "image": read_image,
    "onnx": read_onnx,
    "spec": read_spec,
    "weights": read_weights,
}

DEFAULT_SPEC = Spec.from_json((SEEDS / "spec" / "decoder.json").read_text(), "seed")


def prepare(target: str) -> None:
    """Write the arrays of the detector whose metadata is mutated."""
    if target == "detector":
        np.save(FOLDER / CODES, np.zeros((60, DEFAULT_SPEC.latent_dim), np.float32))
        np.save(FOLDER / CALIBRATION, np.zeros((60, 3)))


def check(target: str, data: bytes) -> None:
    """Read one input.

    Raises:
        AssertionError: If the reader takes too long.
        Exception: If the reader raises anything but a CvaeError.
    """
    start = time.process_time()
    with contextlib.suppress(CvaeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        TARGETS[target](data)
    seconds = time.process_time() - start
    assert seconds < MAX_SECONDS, f"an input of {len(data):,} bytes takes {seconds:.1f} s"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a copy of `data` with one to four random changes."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(mutated) + 1)
        match rng.randrange(4):
            case 0:
                mutated[at : at + 1] = rng.randbytes(1)
            case 1:
                del mutated[at : at + rng.choice((1, 4, 64))]
            case 2:
                source = rng.randrange(len(mutated) + 1)
                mutated[at:at] = mutated[source : source + rng.choice((1, 8, 64)) * rng.choice((1, 1, 16))]
            case 3:
                mutated[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"9999"))
    return bytes(mutated)


def mutate_at_random(target: str, executions: int, seed: int = 0) -> None:
    """Read the seeds and then mutations of them, without coverage."""
    rng = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted((SEEDS / target).iterdir())]
    for data in seeds:
        check(target, data)
    for _ in range(executions):
        data = mutate(rng.choice(seeds), rng)
        try:
            check(target, data)
        except BaseException:
            folder = SEEDS.parents[1] / "build" / "fuzz"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{target}-crash").write_bytes(data)
            raise


def main(arguments: list[str]) -> None:
    target, *options = arguments
    prepare(target)
    if atheris is None:
        print(f"{target}: atheris is not installed; 100,000 mutations at random")
        mutate_at_random(target, 100_000)
        return
    corpus = SEEDS.parents[1] / "build" / "fuzz" / target  # libFuzzer adds inputs to the first folder
    corpus.mkdir(parents=True, exist_ok=True)
    options += [f"-artifact_prefix={corpus.parent}/{target}-", str(corpus), str(SEEDS / target)]
    atheris.Setup([sys.argv[0], *options], lambda data: check(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    main(sys.argv[1:])
