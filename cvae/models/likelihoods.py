"""p(x | z): from the decoder's output to nats and to pixels. The squashing to [0, 1] is done here and nowhere else.

A likelihood is made with the image's channel count C and says in `param_channels` how many channels P the decoder
must give.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cvae.errors import UsageError


def bernoulli_nll(logits: Tensor, image: Tensor) -> Tensor:
    """-log Bernoulli(image | sigmoid(logits)) in nats per image (B,); for grey values, the cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, image, reduction="none").flatten(1).sum(1)  # (B, ...) -> (B,)


def gaussian_nll(mean: Tensor, image: Tensor, log_sigma: Tensor) -> Tensor:
    """-log Normal(image | mean, sigma^2) in nats per image (B,): a density over [0, 1], so it can be negative."""
    squares = ((image - mean) * torch.exp(-log_sigma)).square()
    return (0.5 * (squares + math.log(2 * math.pi)) + log_sigma).flatten(1).sum(1)  # (B, C, H, W) -> (B,)


class Likelihood(nn.Module, ABC):
    """What every likelihood has."""

    param_channels: int
    discrete = False
    """Whether it gives probabilities of a pixel's 256 values: bits per dimension have meaning then."""

    @abstractmethod
    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        """-log p(image | z) in nats per image: params (B, P, H, W), image (B, C, H, W) in [0, 1] -> (B,)."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """The mean of p(x | z): params (B, P, H, W) -> image (B, C, H, W) in [0, 1]."""


class Bernoulli(Likelihood):
    """Each pixel is black or white, with the probability sigmoid(params)."""

    def __init__(self, image_channels: int) -> None:
        super().__init__()
        self.param_channels = image_channels

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        return bernoulli_nll(params, image)

    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params)


class Gaussian(Likelihood):
    """Each pixel is normal around 0.5 + params, cut off at 0 and 1, with one fixed standard deviation.

    The mean squared error of many scripts, summed over pixels, is sigma = 0.7071 up to a constant. A sigmoid instead of
    the cut would stop the learning of images that are mostly black: once all is black, its derivative is zero.
    """

    log_sigma: Tensor

    def __init__(self, image_channels: int, *, sigma: float = 0.1) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise UsageError(f"option sigma={sigma}: a standard deviation is positive")
        self.param_channels = image_channels
        self.register_buffer("log_sigma", torch.tensor(math.log(sigma)))

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        return gaussian_nll(self._mean_to_learn_from(params), image, self.log_sigma)

    def _mean_to_learn_from(self, params: Tensor) -> Tensor:
        """The mean, with the derivative that it would have without the cut: beyond it, that of the error's tangent."""
        return params + (self.mean(params) - params).detach()

    def mean(self, params: Tensor) -> Tensor:
        return (0.5 + params).clamp(0, 1)


class LearnedGaussian(Gaussian):
    """The standard deviation, shared by all pixels, is a parameter of the model (Rybkin et al. 2021, section 3)."""

    def __init__(self, image_channels: int) -> None:
        super().__init__(image_channels)
        log_sigma = self.log_sigma
        del self.log_sigma
        self.log_sigma = nn.Parameter(log_sigma)


class OptimalGaussian(Gaussian):
    """The standard deviation is the root mean squared error of the batch, its maximum-likelihood value.

    Rybkin, Daniilidis & Levine 2021, "sigma-VAE", eq. 6, https://arxiv.org/abs/2006.13202. In evaluation it is the
    running value from training, since one solved for on the images at hand would tell the decoder about them.
    """

    momentum = 0.1

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        if not self.training:
            return super().nll(params, image)
        mean = self._mean_to_learn_from(params)
        with torch.no_grad():  # at the optimum the derivative by sigma is zero
            error = (image - mean).square().mean()
            if dist.is_available() and dist.is_initialized():  # the batch is spread over several processes
                dist.all_reduce(error)
                error = error / dist.get_world_size()
            log_sigma = 0.5 * error.clamp(min=1e-8).log()
            self.log_sigma.lerp_(log_sigma, self.momentum)
        return gaussian_nll(mean, image, log_sigma)


class LogisticMixture(Likelihood):
    """Each pixel's 256 values have probabilities: those of a mixture of logistic distributions, cut into 256 intervals.

    The colours of a pixel choose one component together, and the mean of a later colour depends linearly on the ones
    before. Salimans et al. 2017, "PixelCNN++", sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517.
    """

    discrete = True

    def __init__(self, image_channels: int, *, components: int = 5) -> None:
        super().__init__()
        if components < 1:
            raise UsageError(f"option components={components}: at least 1 is needed")
        self.channels = image_channels
        self.earlier = [(c, j) for c in range(image_channels) for j in range(c)]  # channel c depends on channel j
        # Of each component its weight, the means and scales of the channels, and the coefficients between them.
        self.components = components
        self.param_channels = components * (1 + 2 * image_channels + len(self.earlier))

    def _split(self, params: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """(B, P, H, W) -> log-weights (B, K, H, W), C means of this shape, scales (B, K, C, H, W), coefficients."""
        each = self.param_channels // self.components
        params = params.unflatten(1, (self.components, each))  # (B, P, H, W) -> (B, K, P / K, H, W)
        means = [params[:, :, 1 + c] for c in range(self.channels)]  # C of (B, K, H, W)
        log_scale = params[:, :, 1 + self.channels : 1 + 2 * self.channels]
        coefficients = params[:, :, 1 + 2 * self.channels :]
        return params[:, :, 0].log_softmax(1), means, torch.exp(log_scale.clamp(-7, 7)), coefficients

    def nll(self, params: Tensor, image: Tensor) -> Tensor:
        log_weight, means, scale, coefficient = self._split(params)
        image = (2 * image - 1).unsqueeze(1)  # (B, C, H, W) in [0, 1] -> (B, 1, C, H, W) in [-1, 1]
        for i, (c, j) in enumerate(self.earlier):
            means[c] = means[c] + torch.tanh(coefficient[:, :, i]) * image[:, :, j]
        offset = image - torch.stack(means, dim=2)  # (B, K, C, H, W)
        low, high = (offset - 1 / 255) / scale, (offset + 1 / 255) / scale  # the interval's ends, half way to the next
        # sigmoid(high) - sigmoid(low) = sigmoid(high) sigmoid(-low) (1 - exp(low - high)), without cancellation
        inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-2 / 255 / scale))
        edges = torch.where(image < -1 + 1 / 255, F.logsigmoid(high), F.logsigmoid(-low))  # to infinity at both ends
        log_prob = torch.where(image.abs() < 1 - 1 / 255, inside, edges)
        log_mixture = (log_weight + log_prob.sum(2)).logsumexp(1)  # (B, K, C, H, W) -> (B, K, H, W) -> (B, H, W)
        return -log_mixture.flatten(1).sum(1)  # (B, H, W) -> (B,)

    def mean(self, params: Tensor) -> Tensor:
        log_weight, means, scale, coefficient = self._split(params)
        for c, mean in enumerate(means):
            for i, (later, j) in enumerate(self.earlier):
                if later == c:
                    mean = mean + torch.tanh(coefficient[:, :, i]) * means[j]  # (B, K, H, W)
            # E clamp(x, -1, 1) = 1 - the integral of the distribution function from -1 to 1
            above, below = F.softplus((1 - mean) / scale[:, :, c]), F.softplus((-1 - mean) / scale[:, :, c])
            means[c] = 1 - scale[:, :, c] * (above - below)
        mixed = (log_weight.exp().unsqueeze(2) * torch.stack(means, dim=2)).sum(1)  # (B, K, C, H, W) -> (B, C, H, W)
        return ((mixed + 1) / 2).clamp(0, 1)
