"""The variational autoencoder (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114), with or without labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cvae.config import ModelConfig, Part
from cvae.models.conditioning import Unconditional
from cvae.models.likelihoods import Likelihood
from cvae.models.priors import Prior, normal_log_prob
from cvae.registry import ARCHITECTURES, CONDITIONINGS, LIKELIHOODS, PRIORS, Registry


class Posterior(NamedTuple):
    """q(z | x), a sample of it, and what the decoder makes of that sample."""

    mean: Tensor  # (B, Z)
    log_var: Tensor  # (B, Z)
    latent: Tensor  # (B, Z)
    params: Tensor  # (B, P, H, W), of the likelihood


class Hierarchical(nn.Module, ABC):
    """A decoder whose latents come in groups, each inferred given the ones before it.

    Its encoder gives features instead of mean and log-variance; `forward`, (latent (B, Z), label) -> parameters
    (B, P, H, W), is that of any decoder.
    """

    groups: tuple[int, ...]
    """How many of the latent dimensions are in each group, the first drawn first; they add up to Z."""

    @abstractmethod
    def infer(self, seen: Sequence[Tensor], label: Tensor | None, noise: Tensor) -> Posterior:
        """What the encoder saw, and noise (B, Z) that chooses the sample -> the posterior along that sample."""


class Terms(NamedTuple):
    """The terms of the negative evidence lower bound for a batch, in nats, and the sample that they were taken at.

    `distortion` (B,) is -log p(x | z); `rate` (B, D) is the KL divergence of q(z | x) from the prior, per latent
    dimension where the prior factorizes (D = Z), else in as many groups as it has. `log_ratio` (B,) is
    log q(z | x) - log p(z) at the sample, whose expectation is the rate: -distortion - log_ratio is the logarithm of
    the sample's importance weight (Burda et al. 2015, https://arxiv.org/abs/1509.00519).
    """

    distortion: Tensor
    rate: Tensor
    log_ratio: Tensor
    mean: Tensor  # (B, Z), of q(z | x)
    log_var: Tensor  # (B, Z)
    latent: Tensor  # (B, Z), the sample
    noise: Tensor  # (B, Z), the sample as the prior's standard normal noise
    hierarchical: bool = False  # whether the latents come in groups, each inferred from the ones before it


class VAE(nn.Module):
    """A variational autoencoder made of ready parts.

    Args:
        latent_dim: Z.
        encoder: (image (B, C, H, W), label (B,) or None) -> mean (B, Z), log-variance (B, Z) of q(z | x).
        decoder: (latent (B, Z), label) -> likelihood parameters (B, P, H, W); a `Hierarchical` one infers by itself
            from whatever its encoder gives.
        likelihood: p(x | z), given those parameters.
        prior: p(z), as a map from standard normal noise.
    """

    likelihood: Likelihood
    prior: Prior

    def __init__(
        self, *, latent_dim: int, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, prior: Prior
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior

    def forward(
        self,
        image: Tensor,
        label: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Terms:
        """One sample of the bound: image (B, C, H, W) in [0, 1], label (B,) int64 or None -> terms in nats.

        `noise` (B, Z), standard normal, chooses the sample of q(z | x); it is drawn when it is not given. With
        (B K, Z) there are K samples in a row for each image, and terms of as many rows; the encoder is run once.
        """
        noise = torch.randn(len(image), self.latent_dim, device=image.device) if noise is None else noise
        return self.terms(image, label, self.encoder(image, label), noise)

    def terms(self, image: Tensor, label: Tensor | None, seen: Sequence[Tensor], noise: Tensor) -> Terms:
        """`forward` after the encoder, which has given `seen`."""
        samples = len(noise) // len(image)
        if samples > 1:
            image, *seen = (_repeat(t, samples) for t in (image, *seen))  # (B, ...) -> (B K, ...)
            label = None if label is None else _repeat(label, samples)
        mean, log_var, latent, params = self._infer(seen, label, noise, hookable=samples > 1)
        with torch.autocast(image.device.type, enabled=False):  # the terms in full precision, whatever the networks'
            standard, log_scale = self.prior.to_noise(latent, label)
            log_prior = (normal_log_prob(standard) + log_scale).sum(1)  # (B, Z) -> (B,)
            log_posterior = (normal_log_prob(noise) - 0.5 * log_var).sum(1)
            return Terms(
                distortion=self.likelihood.nll(params.float(), image),
                rate=self.prior.rate(mean, log_var, standard, log_scale),
                log_ratio=log_posterior - log_prior,
                mean=mean,
                log_var=log_var,
                latent=latent,
                noise=standard,
                hierarchical=isinstance(self.decoder, Hierarchical),
            )

    def _infer(self, seen: Sequence[Tensor], label: Tensor | None, noise: Tensor, *, hookable: bool) -> Posterior:
        """Sample the posterior; with `hookable`, a hook on the sample gets its whole gradient, compiled or not."""
        if isinstance(self.decoder, Hierarchical):
            return self.decoder.infer(seen, label, noise)
        mean, log_var = (out.float() for out in seen)
        latent = mean + torch.exp(0.5 * log_var) * noise  # (B, Z)
        if hookable:
            latent = _split_graph(latent)
        return Posterior(mean, log_var, latent, self.decoder(latent, label))

    def decode(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Standard normal noise (B, Z) -> image (B, C, H, W) in [0, 1]: the exported decoder."""
        return self.likelihood.mean(self.decoder(self.prior.from_noise(noise, label), label))

    def encode(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Image (B, C, H, W) -> mean (B, Z), std (B, Z) in the space of the noise: the exported encoder.

        They are the image of the posterior's mean and its deviation times the prior's local scale; under a learned
        prior the posterior itself is not normal in the space of the noise. The groups of a hierarchy are taken at
        the mean of those before.
        """
        seen = self.encoder(image, label)
        if isinstance(self.decoder, Hierarchical):
            mean, log_var, *_ = self.decoder.infer(seen, label, image.new_zeros(image.shape[0], self.latent_dim))
        else:
            mean, log_var = seen
        noise, log_scale = self.prior.to_noise(mean, label)
        return noise, torch.exp(0.5 * log_var + log_scale)


def _repeat(tensor: Tensor, samples: int) -> Tensor:
    """Repeat each row. The gradient is a sum in a fixed order; that of `repeat_interleave` may not be one on a GPU."""
    return tensor[:, None].expand(-1, samples, *tensor.shape[1:]).flatten(0, 1)


@torch.compiler.disable
def _split_graph(latent: Tensor) -> Tensor:
    """Return the tensor between two compiled graphs: within one its gradient would not be seen from outside."""
    return latent


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
    return VAE(latent_dim=config.latent_dim, encoder=encoder, decoder=decoder, likelihood=p_x, prior=p_z)
