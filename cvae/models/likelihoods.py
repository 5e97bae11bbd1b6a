"""Likelihoods p(x | z), which map the decoder's output to pixels in [0, 1] and compute -log p(x | z) in nats.

A likelihood is created with the number C of image channels. Its attribute `param_channels` is the number P of channels
that the decoder must return. The decoder's output is unbounded: the likelihood alone maps it to [0, 1].
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cvae.errors import UsageError


def bernoulli_nll(logits: Tensor, image: Tensor) -> Tensor:
    """Return -log Bernoulli(image | sigmoid(logits)), the cross-entropy for grey values, in nats per image (B,)."""
    return F.binary_cross_entropy_with_logits(logits, image, reduction="none").flatten(1).sum(1)  # (B, ...) -> (B,)


def gaussian_nll(mean: Tensor, image: Tensor, log_sigma: Tensor) -> Tensor:
    """Return -log Normal(image | mean, sigma^2) in nats per image (B,), which may be negative."""
    squared_error = (image - mean).square().flatten(1).sum(1)  # (B, C, H, W) -> (B,)
    constant = image[0].numel() * (log_sigma + 0.5 * math.log(2 * math.pi))
    return 0.5 * torch.exp(-2 * log_sigma) * squared_error + constant


class Likelihood(nn.Module, ABC):
    """Base class of the likelihoods."""

    param_channels: int
    """Number P of parameter channels."""

    discrete = False
    """Whether p(x | z) is a distribution over the 256 values of a pixel, so that bits per dimension are meaningful."""

    @abstractmethod
    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        """Return -log p(image | z) in nats per image (B,).

        Args:
            params: output of the decoder, (B, P, H, W).
            image: images (B, C, H, W) in [0, 1].
        """

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """Return the mean of p(x | z) as images (B, C, H, W) in [0, 1], for parameters (B, P, H, W)."""

    def params(self, mean: Tensor) -> Tensor:
        """Return parameters (B, P, H, W) at which the mean of p(x | z) is about `mean`, (B, C, H, W) in [0, 1].

        Raises:
            UsageError: If the likelihood does not support this.
        """
        raise UsageError(f"--mean-init does not support the likelihood {type(self).__name__}; leave it out")


class Bernoulli(Likelihood):
    """Bernoulli likelihood: a pixel is white with probability sigmoid(params), otherwise black."""

    def __init__(self, image_channels: int) -> None:
        super().__init__()
        self.param_channels = image_channels

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        return bernoulli_nll(params, image)

    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params)

    def params(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.clamp(0.002, 0.998))


class Gaussian(Likelihood):
    """Gaussian likelihood with a fixed standard deviation. The mean is 0.5 + params, clamped to [0, 1].

    The squared error summed over pixels, a common loss, corresponds to sigma = 0.7071, up to a constant. The mean is
    clamped rather than passed through a sigmoid, because a sigmoid stops training on mostly black images: once an
    output is all black, its derivative is zero.

    Args:
        image_channels: number of image channels C.
        sigma: standard deviation, in units of the pixel range [0, 1].

    Raises:
        UsageError: If `sigma` is not positive and finite.
    """

    log_sigma: Tensor

    def __init__(self, image_channels: int, *, sigma: float = 0.1) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise UsageError(f"option sigma={sigma}: a standard deviation must be positive and finite")
        self.param_channels = image_channels
        self.register_buffer("log_sigma", torch.tensor(math.log(sigma)))

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        return gaussian_nll(self._straight_through_mean(params), image, self.log_sigma)

    def _straight_through_mean(self, params: Tensor) -> Tensor:
        """Return the mean with the gradient of the unclamped mean (a straight-through estimator)."""
        return params + (self.mean(params) - params).detach()

    def mean(self, params: Tensor) -> Tensor:
        return (0.5 + params).clamp(0, 1)

    def params(self, mean: Tensor) -> Tensor:
        return mean - 0.5


class LearnedGaussian(Gaussian):
    """Gaussian likelihood whose standard deviation, shared by all pixels, is a parameter of the model.

    Rybkin, Daniilidis & Levine 2021, "sigma-VAE", section 3, https://arxiv.org/abs/2006.13202.
    """

    def __init__(self, image_channels: int) -> None:
        super().__init__(image_channels)
        log_sigma = self.log_sigma
        del self.log_sigma
        self.log_sigma = nn.Parameter(log_sigma)


class OptimalGaussian(Gaussian):
    """Gaussian likelihood with the maximum-likelihood standard deviation, the root mean squared error of the batch.

    Rybkin, Daniilidis & Levine 2021, "sigma-VAE", eq. 6, https://arxiv.org/abs/2006.13202. Evaluation uses the running
    average from training, because a value computed from the evaluated images would leak information about them.

    Args:
        image_channels: number of image channels C.
        sigma: running average before the first step.
    """

    momentum = 0.1

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        if not self.training:
            return super().nll(params, image)
        mean = self._straight_through_mean(params)
        with torch.no_grad():  # at the optimum the derivative with respect to sigma is zero
            error = (image - mean).square().mean()
            if dist.is_available() and dist.is_initialized():  # the batch is split across processes
                dist.all_reduce(error)
                error = error / dist.get_world_size()
            log_sigma = 0.5 * error.clamp(min=1e-8).log()
            self.log_sigma.lerp_(log_sigma, self.momentum)
        return gaussian_nll(mean, image, log_sigma)


class LogisticMixture(Likelihood):
    """Discretized logistic mixture: a distribution over the 256 values of each pixel.

    All channels of a pixel share a component, and the mean of a channel depends linearly on the channels before it.
    Salimans et al. 2017, "PixelCNN++", sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517.

    Args:
        image_channels: number of image channels C.
        components: number of mixture components K.

    Raises:
        UsageError: If `components` is less than 1.
    """

    discrete = True

    def __init__(self, image_channels: int, *, components: int = 5) -> None:
        super().__init__()
        if components < 1:
            raise UsageError(f"option components={components} must be at least 1")
        self.channels = image_channels
        self.channel_pairs = [(c, j) for c in range(image_channels) for j in range(c)]  # channel c depends on channel j
        self.components = components
        # Each component has one weight, a mean and a scale per channel, and a coefficient per pair of channels.
        self.param_channels = components * (1 + 2 * image_channels + len(self.channel_pairs))

    def _split(self, params: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Split the parameters (B, P, H, W) into log-weights, means, scales and coefficients.

        Returns:
            Log-weights (B, K, H, W), C means (B, K, H, W), scales (B, K, C, H, W), and coefficients
            (B, K, C (C - 1) / 2, H, W) before tanh.
        """
        params = params.unflatten(1, (self.components, -1))  # (B, P, H, W) -> (B, K, P / K, H, W)
        means = [params[:, :, 1 + c] for c in range(self.channels)]  # C tensors (B, K, H, W)
        log_scale = params[:, :, 1 + self.channels : 1 + 2 * self.channels]
        coefficients = params[:, :, 1 + 2 * self.channels :]
        return params[:, :, 0].log_softmax(1), means, torch.exp(log_scale.clamp(-7, 7)), coefficients

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        log_weight, means, scale, coefficient = self._split(params)
        image = (2 * image - 1).unsqueeze(1)  # (B, C, H, W) in [0, 1] -> (B, 1, C, H, W) in [-1, 1]
        for i, (c, j) in enumerate(self.channel_pairs):
            means[c] = means[c] + torch.tanh(coefficient[:, :, i]) * image[:, :, j]
        offset = image - torch.stack(means, dim=2)  # (B, K, C, H, W)
        low, high = (offset - 1 / 255) / scale, (offset + 1 / 255) / scale  # halfway to the neighbouring values
        # sigmoid(high) - sigmoid(low) = sigmoid(high) sigmoid(-low) (1 - exp(low - high)), without cancellation
        inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-2 / 255 / scale))
        # The values 0 and 255 include the tails of the distribution.
        edges = torch.where(image < -1 + 1 / 255, F.logsigmoid(high), F.logsigmoid(-low))
        log_prob = torch.where(image.abs() < 1 - 1 / 255, inside, edges)
        log_mixture = (log_weight + log_prob.sum(2)).logsumexp(1)  # (B, K, C, H, W) -> (B, K, H, W) -> (B, H, W)
        return -log_mixture.flatten(1).sum(1)  # (B, H, W) -> (B,)

    def mean(self, params: Tensor) -> Tensor:
        log_weight, means, scale, coefficient = self._split(params)
        for c, mean in enumerate(means):
            for i, (channel, j) in enumerate(self.channel_pairs):
                if channel == c:
                    mean = mean + torch.tanh(coefficient[:, :, i]) * means[j]  # (B, K, H, W)
            # E[clamp(x, -1, 1)] = 1 - the integral of the cumulative distribution function from -1 to 1
            above, below = F.softplus((1 - mean) / scale[:, :, c]), F.softplus((-1 - mean) / scale[:, :, c])
            means[c] = 1 - scale[:, :, c] * (above - below)
        mean = (log_weight.exp().unsqueeze(2) * torch.stack(means, dim=2)).sum(1)  # (B, K, C, H, W) -> (B, C, H, W)
        return ((mean + 1) / 2).clamp(0, 1)
