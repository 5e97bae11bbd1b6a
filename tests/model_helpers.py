"""Small models for the tests of registered parts."""

from collections.abc import Callable
from typing import Any

import torch

from cvae.conditions import Condition, label_condition
from cvae.engine.resolve import count_latents
from cvae.model_config import ModelConfig, Part
from cvae.models import VAE, Terms
from cvae.registry import ARCHITECTURES, OBJECTIVES, PRIORS

FAMILIES = ["mlp", "conv", "resnet", "ladder"]
"""Architecture families. The other architectures are size variants of these."""
NARROW = {
    "mlp": {"hidden": [16]},
    "conv": {"width": 4, "max_width": 8, "hidden": 16},
    "resnet": {"width": 4},
    "ladder": {"width": 4, "max_width": 8, "blocks": 1},
}
"""Options that make an architecture small enough for a fast test."""


def model_config(
    arch: str = "mlp",
    shape: tuple[int, int, int] = (1, 8, 8),
    labels: bool = False,
    likelihood: str = "bernoulli",
    conditioning: str = "film",
    prior: str = "normal",
    conditions: tuple[Condition, ...] | None = None,
    **options: object,
) -> ModelConfig:
    architecture = Part(name=arch, options=options or NARROW.get(arch, {}))
    if prior == "flow-grid":
        options = {"smallest": 4, **architecture.options, "latent_channels": 3}
        architecture = Part(name=arch, options=ARCHITECTURES.resolve(arch, options))
    if conditions is None:
        conditions = label_condition(("a", "b", "c") if labels else None)
    return ModelConfig(
        image_shape=shape,
        latent_dim=count_latents(architecture, shape, 5) if prior == "flow-grid" else 5,
        conditions=conditions,
        architecture=architecture,
        conditioning=Part(name=conditioning) if conditions else None,
        likelihood=Part(name=likelihood),
        prior=Part(name=prior),
    )


CONDITIONS = (
    Condition(name="breed", kind="category", values=("a", "b", "c", "d"), optional=True),
    Condition(name="age", kind="number", low=3.0, high=92.0, unit="years", optional=True),
    Condition(name="smiling", kind="attributes", values=("smiling",), optional=True),
    Condition(name="traits", kind="attributes", values=("hat", "beard", "glasses"), optional=True),
)
"""Conditions of every kind."""

ARCHITECTURES_AND_PRIORS = [
    (arch, prior) for arch in FAMILIES for prior in PRIORS if prior != "flow-grid" or arch in ("conv", "resnet")
]
"""Combinations of an architecture family and a prior that work; the prior "flow-grid" needs a grid of latents."""


def batch(shape: tuple[int, int, int], labels: bool, count: int = 6) -> tuple[torch.Tensor, torch.Tensor | None]:
    image = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    return image, torch.arange(count) % 3 if labels else None


def random_noise(images: int, samples: int, latent_dim: int, antithetic: bool) -> torch.Tensor:
    """Return noise (B, K, Z). With `antithetic`, the second half of the samples has the opposite noise of the first."""
    if not antithetic:
        return torch.randn(images, samples, latent_dim)
    noise = torch.randn(images, samples // 2, latent_dim)
    return torch.cat([noise, -noise], dim=1)


def forward_with_noise(model: Any) -> Callable[..., Terms]:
    """Return the function that an objective calls: the model with random noise."""

    def call(image: torch.Tensor, label: torch.Tensor | None, samples: int = 1, *, antithetic: bool = False) -> Terms:
        return model(image, label, random_noise(len(image), samples, model.latent_dim, antithetic).flatten(0, 1))

    return call


def learn(model: VAE, image: torch.Tensor, label: torch.Tensor | None, objective: str = "elbo", steps: int = 3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        loss = OBJECTIVES.get(objective)(forward_with_noise(model), image, label, 1.0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
