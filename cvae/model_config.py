"""Description from which a network can be rebuilt, and comparison of two networks. Does not import torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cvae.conditions import Condition, check_conditions, single_category
from cvae.errors import UsageError
from cvae.serialization import to_dict

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
        conditions: conditions of a conditional model. A model with labels has a single category.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    conditions: tuple[Condition, ...]
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
        if bool(self.conditions) != (self.conditioning is not None):
            raise UsageError("a model must have both conditions and conditioning, or neither")
        check_conditions(self.conditions)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes if the only condition of the model is a category, else None."""
        category = single_category(self.conditions)
        return None if category is None else category.values

    @property
    def parts(self) -> dict[str, Part]:
        """Parts of the network, keyed by flag."""
        parts = {"arch": self.architecture, "likelihood": self.likelihood, "prior": self.prior}
        return parts if self.conditioning is None else {**parts, "conditioning": self.conditioning}


def describe_differences(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Describe why the weights of a network do not fit another one: "10 vs. 4 classes" or "arch.width 64 vs. 32".

    If only the second network has conditions, these are not a difference, because they can be added.
    """

    def describe_images(config: ModelConfig) -> str:
        channels, height, width = config.image_shape
        return f"{width}x{height} pixels {'in grey' if channels == 1 else f'with {channels} channels'}"

    differences = []
    if first.image_shape != second.image_shape:
        differences.append(f"images of {describe_images(first)} vs. {describe_images(second)}")
    differences += _describe_conditions(first, second)
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


def describe_values(conditions: Iterable[Condition]) -> str:
    """Describe conditions with their kinds and values in one line."""
    return ", ".join(f"{condition.name} {condition.describe()}" for condition in conditions)


def _describe_conditions(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Describe how the inputs of two networks for their conditions differ."""
    if not first.conditions:
        return []
    if not second.conditions:
        return ["conditions vs. none (add --conditional)"]
    configs = first, second
    counts = [None if config.classes is None else len(config.classes) for config in configs]
    if None not in counts:
        return [f"{counts[0]} vs. {counts[1]} classes"] if counts[0] != counts[1] else []
    texts = [describe_values(config.conditions) for config in configs]
    return [] if first.conditions == second.conditions else [f"{texts[0]} vs. {texts[1]}"]
