"""Variational autoencoder (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114), with or without conditions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cvae.errors import UsageError
from cvae.model_config import ModelConfig, Part
from cvae.models.architectures.layers import Patchify
from cvae.models.conditioning import Conditioning, Unconditional
from cvae.models.conditions import ConditionEmbedding
from cvae.models.likelihoods import Likelihood
from cvae.models.priors import Prior, normal_log_prob
from cvae.registry import ARCHITECTURES, CONDITIONINGS, LIKELIHOODS, PRIORS, Registry

ConditionValues = Tensor | Mapping[str, Tensor]
"""Values of the conditions of a batch, or the inputs of an exported graph by name."""


class Posterior(NamedTuple):
    """Posterior q(z | x), a sample from it, and the decoder's output for that sample.

    Attributes:
        mean: mean of q(z | x), (B, Z).
        log_var: log-variance of q(z | x), (B, Z).
        latent: sample from q(z | x), (B, Z).
        params: likelihood parameters at the sample, (B, P, H, W).
    """

    mean: Tensor
    log_var: Tensor
    latent: Tensor
    params: Tensor


class Hierarchical(nn.Module, ABC):
    """Decoder whose latents come in groups, each of which is inferred from the image and the groups before it.

    The encoder of such a model returns feature maps instead of mean and log-variance. `forward` has the same
    signature as in any other decoder: (latent (B, Z), condition) -> likelihood parameters (B, P, H, W).
    """

    groups: tuple[int, ...]
    """Number of latent dimensions in each group, in sampling order; the numbers add up to Z."""

    @abstractmethod
    def infer(self, features: Sequence[Tensor], condition: Tensor | None, noise: Tensor) -> Posterior:
        """Sample the groups in order, and return the posterior of each group given the samples of the groups before it.

        Args:
            features: output of the encoder.
            condition: embedding of the conditions (B, E) or indices (B,), or None.
            noise: standard normal noise (B, Z) that determines the sample.
        """


class Terms(NamedTuple):
    """Terms of the negative evidence lower bound for a batch, in nats, and the sample at which they were computed.

    Attributes:
        distortion: -log p(x | z), (B,).
        rate: KL divergence of q(z | x) from the prior, (B, D): one number per latent dimension if the prior factorizes
            (D = Z), otherwise one for the first Z - D + 1 dimensions together and one for each later dimension.
        log_ratio: log q(z | x) - log p(z) at the sample, (B,). Its expectation is the rate, and
            -distortion - log_ratio is the logarithm of the sample's importance weight (Burda et al. 2015,
            https://arxiv.org/abs/1509.00519).
        mean: mean of q(z | x), (B, Z).
        log_var: log-variance of q(z | x), (B, Z).
        latent: sample from q(z | x), (B, Z).
        noise: the sample, mapped to the prior's noise space, (B, Z).
        hierarchical: whether the latents come in groups, each of which is inferred from the groups before it.
        prior_loss: training loss of the prior, a scalar, if it is not trained by the bound.
        params: likelihood parameters at the sample, (B, P, H, W).
    """

    distortion: Tensor
    rate: Tensor
    log_ratio: Tensor
    mean: Tensor
    log_var: Tensor
    latent: Tensor
    noise: Tensor
    hierarchical: bool = False
    prior_loss: Tensor | None = None
    params: Tensor | None = None


class VAE(nn.Module):
    """Variational autoencoder composed of an encoder, a decoder, a likelihood and a prior.

    Args:
        latent_dim: number of latent dimensions Z.
        encoder: module (image (B, C, H, W), condition) -> mean (B, Z), log-variance (B, Z) of q(z | x).
        decoder: module (latent (B, Z), condition) -> likelihood parameters (B, P, H, W). A `Hierarchical` decoder
            computes q(z | x) itself, from the feature maps that the encoder returns. If the latents are a grid, the
            decoder's attribute `latent_shape` is (k, h, w), for k latents at each of h x w positions.
        likelihood: p(x | z).
        prior: p(z), as a map from standard normal noise.
        conditions: embedding of the conditions; None for a model without conditions. The networks get the embedding
            (B, E), or indices (B,), or None.
    """

    likelihood: Likelihood
    prior: Prior

    def __init__(
        self,
        *,
        latent_dim: int,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        prior: Prior,
        conditions: ConditionEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.conditions = conditions

    def embed(self, rows: ConditionValues | None) -> Tensor | None:
        """Return the embedding (B, E) of the conditions, or indices (B,).

        Args:
            rows: rows of the conditions: (B,) int64 for a single category, else (B, W) float32 (see
                `cvae.condition_rows`). The inputs of an exported graph, by name, are accepted too.
        """
        if self.conditions is None or rows is None:
            return rows if isinstance(rows, Tensor) else None  # the networks of another program may take labels
        embedding: Tensor = self.conditions(rows)
        return embedding

    def forward(
        self,
        image: Tensor,
        rows: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Terms:
        """Return the terms of the bound, in nats.

        Args:
            image: images (B, C, H, W) in [0, 1].
            rows: rows of the conditions, (B,) int64 or (B, W) float32, or None.
            noise: standard normal noise that determines the sample from q(z | x); random by default. The shape is
                (B, Z) for one sample per image, or (B K, Z) for K consecutive samples per image. Each term then has
                B K rows, but the encoder still runs only once per image.
        """
        noise = torch.randn(len(image), self.latent_dim, device=image.device) if noise is None else noise
        condition = self.embed(rows)
        return self.terms(image, condition, self.encoder(image, condition), noise)

    def terms(self, image: Tensor, condition: Tensor | None, features: Sequence[Tensor], noise: Tensor) -> Terms:
        """Return the terms of the bound as `forward` does, but start from `features`, the output of the encoder."""
        samples = len(noise) // len(image)
        if samples > 1:
            image, *features = (_repeat(t, samples) for t in (image, *features))  # (B, ...) -> (B K, ...)
            condition = None if condition is None else _repeat(condition, samples)
        mean, log_var, latent, params = self._infer(features, condition, noise, hookable=samples > 1)
        with torch.autocast(image.device.type, enabled=False):  # use full precision, even if the networks use less
            prior_terms = self.prior.training_terms if self.training else self.prior.terms
            prior = prior_terms(mean, log_var, latent, condition)
            log_posterior = (normal_log_prob(noise) - 0.5 * log_var).sum(1)  # (B, Z) -> (B,)
            return Terms(
                distortion=self.likelihood.nll(params.float(), image),
                rate=prior.rate,
                log_ratio=log_posterior - prior.log_prob,
                mean=mean,
                log_var=log_var,
                latent=latent,
                noise=prior.noise,
                hierarchical=isinstance(self.decoder, Hierarchical),
                prior_loss=prior.loss,
                params=params,
            )

    def sample_posterior(self, image: Tensor, rows: Tensor | None = None) -> Tensor:
        """Sample the posterior q(z | x) once for each image (B, C, H, W), and return the latents (B, Z)."""
        condition = self.embed(rows)
        noise = torch.randn(len(image), self.latent_dim, device=image.device)
        return self._infer(self.encoder(image, condition), condition, noise, hookable=False).latent

    def _infer(
        self, features: Sequence[Tensor], condition: Tensor | None, noise: Tensor, *, hookable: bool
    ) -> Posterior:
        """Sample the posterior. With `hookable`, a hook on the sample gets its full gradient even after compilation."""
        if isinstance(self.decoder, Hierarchical):
            return self.decoder.infer(features, condition, noise)
        mean, log_var = (out.float() for out in features)
        latent = mean + torch.exp(0.5 * log_var) * noise  # (B, Z)
        if hookable:
            latent = _split_graph(latent)
        return Posterior(mean, log_var, latent, self.decoder(latent, condition))

    def decode(self, noise: Tensor, rows: ConditionValues | None = None) -> Tensor:
        """Decode standard normal noise (B, Z) to images (B, C, H, W) in [0, 1], as the exported decoder does."""
        condition = self.embed(rows)
        return self.likelihood.mean(self.decoder(self.prior.from_noise(noise, condition), condition))

    def encode(self, image: Tensor, rows: ConditionValues | None = None) -> tuple[Tensor, Tensor]:
        """Return the posterior mean and standard deviation of images in noise space, as the exported encoder does.

        The mean is mapped to noise space, and the standard deviation is multiplied by the prior's local scale. Under a
        learned prior, this is an approximation: the posterior is not normal in noise space. With a hierarchical
        decoder, each group is inferred from the means of the groups before it.

        Args:
            image: images (B, C, H, W) in [0, 1].
            rows: rows of the conditions, or the inputs of an exported graph, as for `embed`.

        Returns:
            Mean (B, Z) and standard deviation (B, Z).
        """
        condition = self.embed(rows)
        features = self.encoder(image, condition)
        if isinstance(self.decoder, Hierarchical):
            mean, log_var, *_ = self.decoder.infer(
                features, condition, image.new_zeros(image.shape[0], self.latent_dim)
            )
        else:
            mean, log_var = features
        noise, log_scale = self.prior.to_noise(mean, condition)
        return noise, torch.exp(0.5 * log_var + log_scale)


OUTPUT_SCALE = 0.3
"""Factor of the weights of a decoder's last layer that `initialize_output` initializes."""


@torch.no_grad()
def initialize_output(model: VAE, mean: Tensor) -> None:
    """Make the decoder's initial output close to a mean image (C, H, W) in [0, 1], whatever the latent.

    The bias of the decoder's last layer, its attribute `head`, becomes the parameters of the mean image. A
    convolutional layer gets their average over all positions.

    Raises:
        UsageError: If the architecture or the likelihood does not support this.
    """
    params = model.likelihood.params(mean[None])  # (1, P, H, W)
    head, unpatchify = getattr(model.decoder, "head", None), getattr(model.decoder, "unpatchify", None)
    if isinstance(head, nn.Linear) and head.bias.shape == params.flatten().shape:
        head.bias.copy_(params.flatten())
    elif isinstance(head, nn.Conv2d) and head.bias is not None:
        patches = params if unpatchify is None else Patchify(unpatchify.patch)(params)
        head.bias.copy_(patches.mean((0, 2, 3)))
    else:
        raise UsageError("--mean-init does not support this architecture; leave it out")
    head.weight.mul_(OUTPUT_SCALE)


def _repeat(tensor: Tensor, samples: int) -> Tensor:
    """Repeat each row `samples` times.

    The gradient is always summed in the same order, unlike that of `repeat_interleave` on a GPU.
    """
    return tensor[:, None].expand(-1, samples, *tensor.shape[1:]).flatten(0, 1)


def _split_graph(latent: Tensor) -> Tensor:
    """Return the tensor unchanged, but split the compiled graph: a hook can't see a gradient inside a graph."""
    # The decorator `torch.compiler.disable` would import the compiler, which takes 2 s.
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break()
    return latent


class _WithoutInitialization(TorchFunctionMode):
    """Mode in which the functions of `torch.nn.init` do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if getattr(func, "__module__", "") == "torch.nn.init" else func(*args, **kwargs)


def build(config: ModelConfig) -> VAE:
    """Build the model that a config describes, with weights initialized from torch's global random state.

    On the device "meta", tensors have no data, so the weights are not initialized. To initialize them, torch would
    import its compiler, which takes 2 s.

    Raises:
        UsageError: If a part or an option is unknown, or an option's value is out of range.
    """

    def resolve_options(registry: Registry, part: Part) -> dict[str, Any]:
        return registry.resolve(part.name, part.options)

    architecture, likelihood, prior = config.architecture, config.likelihood, config.prior

    conditions = ConditionEmbedding(config.conditions) if config.conditions else None

    def create_conditioning(extra_features: int = 0) -> Conditioning:
        if conditions is None or config.conditioning is None:
            return Unconditional()
        options = resolve_options(CONDITIONINGS, config.conditioning)
        return CONDITIONINGS.get(config.conditioning.name)(conditions.features + extra_features, **options)

    with _WithoutInitialization() if torch.get_default_device().type == "meta" else nullcontext():
        p_x = LIKELIHOODS.get(likelihood.name)(config.image_shape[0], **resolve_options(LIKELIHOODS, likelihood))
        encoder, decoder = ARCHITECTURES.get(architecture.name)(
            config.image_shape,
            config.latent_dim,
            p_x.param_channels,
            create_conditioning(),
            **resolve_options(ARCHITECTURES, architecture),
        )
        create_prior = PRIORS.get(prior.name)
        has_unknown_label = getattr(create_prior, "has_unknown_label", False)
        needs_extra_feature = has_unknown_label and conditions is not None and conditions.is_index
        p_z = create_prior(
            getattr(decoder, "latent_shape", (config.latent_dim,)),
            create_conditioning(extra_features=needs_extra_feature),
            **resolve_options(PRIORS, prior),
        )
    return VAE(
        latent_dim=config.latent_dim, encoder=encoder, decoder=decoder, likelihood=p_x, prior=p_z, conditions=conditions
    )
