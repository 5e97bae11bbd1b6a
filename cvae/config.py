"""What a run is: frozen dataclasses. Unknown keys and wrong types are errors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cvae.atomic import read_at_most
from cvae.errors import CvaeError, UsageError, one_line, suggest
from cvae.serialization import MAX_TEXT, check_text, from_dict, parse_json, quote, to_dict

FORMAT = 1
"""The version of config.json's layout. A reader refuses another one."""

MIN_SIDE, MAX_SIDE = 4, 4096
"""Pixels of an image's side, at least and at most."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A registered part by its name, with all its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to rebuild a network.

    `image_shape` is (C, H, W). `classes` names the labels 0 ... K-1 of a conditional model; None: no labels.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    classes: tuple[str, ...] | None
    architecture: Part
    conditioning: Part | None
    likelihood: Part
    prior: Part

    def __post_init__(self) -> None:
        channels, height, width = self.image_shape
        if not (1 <= channels <= 16 and 4 <= height <= MAX_SIDE and 4 <= width <= MAX_SIDE):
            raise UsageError(
                f"image shape {self.image_shape} is not (C, H, W) with C in 1..16, H and W in 4..{MAX_SIDE}"
            )
        if not 1 <= self.latent_dim <= 65536:
            raise UsageError(f"latent dimension {self.latent_dim} is not in 1..65536")
        if (self.classes is None) != (self.conditioning is None):
            raise UsageError("a model has both classes and conditioning, or neither")
        if self.classes is not None and not 1 <= len(self.classes) <= 65536:
            raise UsageError(f"{len(self.classes)} classes; a conditional model has 1..65536")
        for name in self.classes or ():
            check_text(name)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that can be asked of a training run: the flags of `cvae train` and the keys of a recipe.

    `None` means: choose by the data. Part options, such as {"arch": {"width": 32}}, go into `options`.
    """

    # model
    arch: str = "resnet"
    conditional: bool = False
    conditioning: str = "film"
    likelihood: str | None = None
    prior: str = "flow"
    latent_dim: int = 32
    # data
    data: str = "digits"
    data_dir: str | None = None
    size: int | str | None = None
    binarize: str = "none"
    validation: float = 0.1
    without: tuple[str, ...] = ()
    limit: int | None = None
    flip: bool = False
    shift: int = 0
    crop: float = 1.0
    # objective
    objective: str = "elbo"
    beta: float | None = None
    free_bits: float | None = None
    kl_warmup: float = 0.0
    # optimization
    init: str | None = None
    epochs: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    milestones: tuple[int, ...] | None = None
    warmup: int = 0
    clip: float = 100.0
    ema: float = 0.0
    on_nan: str = "stop"
    # machine
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool | None = None
    trackers: tuple[str, ...] | None = None
    # options of the parts above, by flag name
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {
            "latent_dim": 1,
            "limit": 1,
            "shift": 0,
            "epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{flag(name)} {value} is too small: at least {least}")
        for side in self.sides or ():
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise UsageError(f"--size {self.size}: a side has {MIN_SIDE} to {MAX_SIDE} pixels")
        for name in ("beta", "free_bits", "kl_warmup", "weight_decay", "warmup", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**63:
                raise UsageError(f"{flag(name)} {value} must be a number that is not negative")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed} must be in 0..{2**32 - 1}")
        if not 0 < self.lr < float("inf"):
            raise UsageError(f"--lr {self.lr} must be positive")
        for name in ("validation", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} {getattr(self, name)} must be at least 0 and less than 1")
        if not 0 < self.crop <= 1:
            raise UsageError(f"--crop {self.crop} must be more than 0 and at most 1, the whole image")
        if self.milestones is not None and (self.schedule != "step" or min(self.milestones, default=0) < 1):
            raise UsageError(f"--milestone {self.milestones}: epochs from 1 on, for --schedule step")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{flag(name)} {getattr(self, name)!r} is unknown; {suggest(getattr(self, name), choices)}"
                )

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width in pixels that images are made: `size` is the side of a square, or such as "48x80".

        Raises:
            UsageError: it is neither.
        """
        if self.size is None or isinstance(self.size, int):
            return None if self.size is None else (self.size, self.size)
        height, cross, width = self.size.partition("x")
        if not (cross and height.isdecimal() and width.isdecimal() and len(self.size) < 12):
            raise UsageError(f"--size {self.size!r} is neither a side, such as 64, nor HEIGHTxWIDTH, such as 48x80")
        return int(height), int(width)


CHOICES = {
    "binarize": ("none", "dynamic", "static"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "step"),
    "on_nan": ("stop", "skip"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}


def flag(name: str) -> str:
    """A key's name on the command line: kl_warmup -> --kl-warmup."""
    return "--" + {"trackers": "tracker", "milestones": "milestone"}.get(name, name).replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Config:
    """config.json of a run: the network, the training that repeats it, and the terms of the data it saw."""

    format: int = FORMAT
    cvae_version: str
    data_terms: str
    model: ModelConfig
    training: TrainConfig

    def to_json(self) -> str:
        return json.dumps(to_dict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a run's config.json.

        Raises:
            CvaeError: it can't be read, is no valid config, or comes from a newer cvae.
        """
        try:
            data = parse_json(read_at_most(path, MAX_TEXT))
        except ValueError as error:
            raise CvaeError(f"{str(path)!r} is not JSON: {one_line(error)}") from error
        if not isinstance(data, dict):
            raise CvaeError(f"{str(path)!r} is no config of a run")
        if data.get("format") != FORMAT:
            raise CvaeError(
                f"{str(path)!r} has format {quote(data.get('format'))}, this cvae reads {FORMAT}: "
                "it is no run of cvae, or of a newer one (upgrade cvae-onnx)"
            )
        try:
            return from_dict(cls, data)
        except UsageError as error:
            raise CvaeError(f"{str(path)!r} is not a valid config: {one_line(error)}") from error
