"""Description from which a network can be rebuilt, and comparison of two networks. Does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cvae.errors import UsageError
from cvae.serialization import check_text, to_dict

MIN_SIDE, MAX_SIDE = 4, 4096
"""Minimum and maximum height and width of an image, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A registered part: its name and all its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Description from which a network can be rebuilt.

    Attributes:
        image_shape: (C, H, W).
        classes: names of the labels 0 ... K-1 of a conditional model; None without labels.
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
        sides = range(MIN_SIDE, MAX_SIDE + 1)
        if not (1 <= channels <= 16 and height in sides and width in sides):
            raise UsageError(
                f"image shape {self.image_shape} is not (C, H, W) with C in 1..16, H and W in {MIN_SIDE}..{MAX_SIDE}"
            )
        if not 1 <= self.latent_dim <= 65536:
            raise UsageError(f"latent dimension {self.latent_dim} is not in 1..65536")
        if (self.classes is None) != (self.conditioning is None):
            raise UsageError("a model must have both classes and conditioning, or neither")
        if self.classes is not None and not 1 <= len(self.classes) <= 65536:
            raise UsageError(f"a conditional model must have 1 to 65536 classes, not {len(self.classes)}")
        for name in self.classes or ():
            check_text(name)

    @property
    def parts(self) -> dict[str, Part]:
        """Parts of the network, keyed by flag."""
        parts = {"arch": self.architecture, "likelihood": self.likelihood, "prior": self.prior}
        return parts if self.conditioning is None else {**parts, "conditioning": self.conditioning}


def describe_differences(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Describe how two networks differ, such as "10 vs. 4 classes" or "arch.width 64 vs. 32"."""

    def describe_images(config: ModelConfig) -> str:
        channels, height, width = config.image_shape
        return f"{width}x{height} pixels {'in grey' if channels == 1 else f'with {channels} channels'}"

    differences = []
    if first.image_shape != second.image_shape:
        differences.append(f"images of {describe_images(first)} vs. {describe_images(second)}")
    counts = [0 if config.classes is None else len(config.classes) for config in (first, second)]
    if counts[0] != counts[1]:
        differences.append(f"{counts[0]} vs. {counts[1]} classes")
    if first.latent_dim != second.latent_dim:
        differences.append(f"{first.latent_dim} vs. {second.latent_dim} latent dimensions")
    for kind in (kind for kind in first.parts if kind in second.parts):
        ours, theirs = first.parts[kind], second.parts[kind]
        if ours.name != theirs.name:
            differences.append(f"{kind} {ours.name} vs. {theirs.name}")
            continue
        options = to_dict(theirs)["options"]  # with lists instead of tuples, as in a config that was read from a file
        differences += [
            f"{kind}.{name} {value} vs. {options.get(name)}"
            for name, value in to_dict(ours)["options"].items()
            if value != options.get(name)
        ]
    return differences
