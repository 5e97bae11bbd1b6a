"""Hosts that generate an image under conditions."""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEED = 5
"""Seed of the noise of every image."""

Values = Mapping[str, Any]


class Rejected(Exception):
    """A host has rejected the values of conditions. The message is that of the host."""


def to_text(value: Any) -> str:
    """Spell a value for a command line or a query. A mapping becomes the names of the attributes that are true."""
    if isinstance(value, Mapping):
        return ",".join(name for name, flag in value.items() if flag) or "none"
    return "any" if value is None else str(value)


def to_flags(values: Values, extrapolate: bool) -> list[str]:
    flags = [word for name, value in values.items() for word in ("--condition", f"{name}={to_text(value)}")]
    return [*flags, *["--extrapolate"] * extrapolate]


def load_module(path: Path, name: str) -> Any:
    """Import a file under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # FastAPI looks up annotations in the module
    spec.loader.exec_module(module)
    return module


def read_image(data: bytes) -> np.ndarray:
    """Return the grey image (1, H, W) in [0, 1] in a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"), np.float32)[None] / 255


def program_host(folder: Path, command: Callable[[Path, Path], list[Any]], file: str) -> Callable[..., np.ndarray]:
    """Return a host that is a program.

    Args:
        folder: folder for the files of the program. It contains noise.f32.
        command: function that returns the command line for a file of noise and an output file.
        file: name of the output file.
    """
    noise, out = folder / "noise.f32", folder / file

    def generate(values: Values, extrapolate: bool = False) -> np.ndarray:
        arguments = [*command(noise, out), *to_flags(values, extrapolate)]
        result = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=60)
        if result.returncode:
            assert not out.exists()
            raise Rejected(result.stderr)
        return read_image(out.read_bytes())

    return generate
