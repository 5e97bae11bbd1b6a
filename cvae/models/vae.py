"""The variational autoencoder (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114), with or without labels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cvae.config import ModelConfig, Part
from cvae.models.conditioning import Unconditional
from cvae.models.likelihoods import Likelihood
from cvae.models.priors import Prior
from cvae.registry import ARCHITECTURES, CONDITIONINGS, LIKELIHOODS, PRIORS, Registry


class Terms(NamedTuple):
    """The two terms of the negative evidence lower bound for a batch, in nats.

    `distortion` (B,) is -log p(x | z); `rate` (B, D) is the KL divergence of q(z | x) from the prior, per latent
    dimension where the prior factorizes (D = Z), else in as many groups as it has.
    """

    distortion: Tensor
    rate: Tensor


class VAE(nn.Module):
    """A variational autoencoder made of ready parts.

    Args:
        encoder: (image (B, C, H, W), label (B,) or None) -> mean (B, Z), log-variance (B, Z) of q(z | x).
        decoder: (latent (B, Z), label) -> likelihood parameters (B, P, H, W).
        likelihood: p(x | z), given those parameters.
        prior: p(z), as a map from standard normal noise.
    """

    likelihood: Likelihood
    prior: Prior

    def __init__(self, *, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, prior: Prior) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior

    def forward(self, image: Tensor, label: Tensor | None = None, noise: Tensor | None = None) -> Terms:
        """One sample of the bound: image (B, C, H, W) in [0, 1], label (B,) int64 -> terms in nats.

        `noise` (B, Z), standard normal, chooses the sample of q(z | x); it is drawn when it is not given.
        """
        mean, log_var = (out.float() for out in self.encoder(image, label))
        noise = torch.randn_like(mean) if noise is None else noise
        latent = mean + torch.exp(0.5 * log_var) * noise  # (B, Z)
        params = self.decoder(latent, label).float()  # (B, Z) -> (B, P, H, W)
        with torch.autocast(image.device.type, enabled=False):  # the terms in full precision, whatever the networks'
            return Terms(self.likelihood.nll(params, image), self.prior.rate(latent, mean, log_var, label))

    def decode(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Standard normal noise (B, Z) -> image (B, C, H, W) in [0, 1]: the exported decoder."""
        return self.likelihood.mean(self.decoder(self.prior.from_noise(noise, label), label))

    def encode(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Image (B, C, H, W) -> mean (B, Z), std (B, Z) in the space of the noise: the exported encoder."""
        mean, log_var = self.encoder(image, label)
        return self.prior.to_noise(mean, log_var, label)


def build(config: ModelConfig) -> VAE:
    """The network that a config describes, with fresh weights from torch's global random state.

    Raises:
        UsageError: a part or one of its options is unknown.
    """

    def options(registry: Registry, part: Part) -> dict[str, Any]:
        return registry.resolve(part.name, part.options)

    architecture, likelihood, prior = config.architecture, config.likelihood, config.prior
    if config.classes is None or config.conditioning is None:
        conditioning = Unconditional()
    else:
        conditioning = CONDITIONINGS.get(config.conditioning.name)(
            len(config.classes), **options(CONDITIONINGS, config.conditioning)
        )
    p_x = LIKELIHOODS.get(likelihood.name)(config.image_shape[0], **options(LIKELIHOODS, likelihood))
    encoder, decoder = ARCHITECTURES.get(architecture.name)(
        config.image_shape, config.latent_dim, p_x.param_channels, conditioning, **options(ARCHITECTURES, architecture)
    )
    p_z = PRIORS.get(prior.name)(config.latent_dim, conditioning, **options(PRIORS, prior))
    return VAE(encoder=encoder, decoder=decoder, likelihood=p_x, prior=p_z)
