"""Hosts that generate an image under conditions."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cvae

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


def program_host(
    model: Path, folder: Path, command: Callable[[Path, Path], list[str]], file: str
) -> Callable[..., Any]:
    """Return a host that is a program.

    Args:
        model: folder of the model.
        folder: folder for the files of the program.
        command: function that returns the command line for a file of noise and an output file.
        file: name of the output file.
    """
    (folder / "noise.f32").write_bytes(cvae.load(model).noise(1, SEED).astype("<f4").tobytes())

    def generate(values: Values, extrapolate: bool = False) -> np.ndarray:
        arguments = [*command(folder / "noise.f32", folder / file), *to_flags(values, extrapolate)]
        return read_image(arguments, folder / file)

    return generate


def read_image(command: list[str], path: Path) -> np.ndarray:
    """Run a program that writes a grey image, and return the image (1, H, W) in [0, 1]."""
    path.unlink(missing_ok=True)
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if result.returncode:
        assert not path.exists()
        raise Rejected(result.stderr)
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float32)[None] / 255
