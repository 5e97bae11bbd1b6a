"""Prior trained by flow matching: noise moves to latents along a learned velocity field.

Lipman et al. 2022, https://arxiv.org/abs/2210.02747, with straight paths x_t = (1 - t) noise + t latent.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.func import jacrev, vjp, vmap
from torch.nn.functional import silu

from cvae.errors import UsageError
from cvae.flags import Interval
from cvae.models.conditioning import Conditioning
from cvae.models.priors.base import Prior, PriorTerms, negative_entropy, normal_kl, normal_log_prob

Layer = Callable[..., nn.Module]
"""Function that creates a layer from its numbers of input and output channels."""

TIME_FEATURES = 16
"""Number of radial basis functions of the time."""

MOMENTUM = 0.01
"""Weight of a batch in the running mean and variance of the latents."""

MAX_JACOBIAN = 128
"""Maximum number of dimensions for which log-determinants are computed from Jacobians, not estimated."""

INVERSION_STEPS = 4
"""Number of fixed-point iterations that invert one step of the solver."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of each position: features (B, C, ...) -> (B, C, ...)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class VelocityBlock(nn.Module):
    """Residual block (features (B, C, ...), time features (B, C, ...), condition) -> features (B, C, ...).

    The normalization keeps the large learning rates of other parts of a model from saturating the velocity field.
    """

    def __init__(self, channels: int, layer: Layer, modulation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first, self.second, self.modulation = layer(channels, channels), layer(channels, channels), modulation
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        residual = self.modulation(self.first(silu(self.norm(features))) + time, condition)
        return features + self.second(self.dropout(silu(residual)))


class Velocity(nn.Module):
    """Velocity field minus that for standard normal latents: (x_t (B, *shape), t, condition) -> (B, *shape).

    An MLP for vectors, convolutions for grids.
    """

    centres: Tensor

    def __init__(
        self, shape: tuple[int, ...], conditioning: Conditioning, hidden: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        layer: Layer = nn.Linear if len(shape) == 1 else partial(nn.Conv2d, kernel_size=3, padding=1)
        self.register_buffer("centres", torch.linspace(0, 1, TIME_FEATURES))
        self.ones = [1] * (len(shape) - 1)
        self.enter = layer(shape[0], hidden)
        self.time = conditioning.linear(TIME_FEATURES, hidden)
        self.blocks = nn.ModuleList(
            VelocityBlock(hidden, layer, conditioning.modulation(hidden), dropout) for _ in range(blocks)
        )
        self.leave = layer(hidden, shape[0])
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Return the difference of velocities at times t, (B, 1) or (1, 1)."""
        offset = (t - self.centres) * (TIME_FEATURES / 2)  # (B, T)
        time = self.time(torch.exp(-offset * offset), condition)  # (B, C)
        time = time.reshape(*time.shape, *self.ones)
        features = self.enter(x) + time
        for block in self.blocks:
            features = block(features, time, condition)
        return self.leave(silu(features))


class FlowMatching(Prior):
    """Learned prior: a conditional velocity field that moves noise to latents in a few steps.

    Each step covers the same angle of the arc cos(a) noise + sin(a) latent (Albergo & Vanden-Eijnden 2022,
    https://arxiv.org/abs/2209.15571). The steps are exact for standard normal latents, like those of an exponential
    integrator (Lu et al. 2022, section 3, https://arxiv.org/abs/2206.00927).

    The velocity field is trained on the latents of the encoder, but does not train the encoder: in training, the rate
    is the KL divergence from the normal prior. In evaluation, log p(z) is that of the discrete steps: their
    log-determinants are computed from Jacobians, which takes Z backward passes for each step. Above 128 dimensions, the
    log-determinant of a step, log det(I + J), is replaced by its first two terms, which are estimated with one random
    vector (Grathwohl et al. 2018, section 3.1, https://arxiv.org/abs/1810.01367), so log p(z) is itself an estimate.

    `to_noise` inverts each step by four fixed-point iterations, so it is approximate, and so is log p(z). Its
    log-scale is only that of the normalization of the latents, so the standard deviation that an encoder returns in
    noise space is approximate.

    Args:
        latent_shape: shape of the latents. For a grid, the velocity field is convolutional.
        conditioning: conditioning on the embedding of the conditions, including an unknown label.
        hidden: number of features or channels of the velocity field.
        blocks: number of residual blocks of the velocity field.
        steps: number of steps from noise to latents.
        guidance: weight of the condition: the velocity is v(unknown) + guidance * (v(condition) - v(unknown)), so 1
            means no guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598). Bounds are those without guidance.
        drop_label: probability with which the condition is unknown in training. Guidance needs it, or
            `--drop-conditions`.
        dropout: dropout probability in each block.
        smoothing: standard deviation of the normal noise that is added to normalized latents in training. With few
            training images, it prevents the prior from reproducing their latents.
        times: number of random times and noises per latent in a training step. If encoder and decoder are frozen, more
            of them train the velocity field better in the same time.
        dims: number of latent dimensions that the velocity field moves, 0 for all. The dimensions after these are
            normal and independent.
        rest_std: standard deviation of the latents that the velocity field does not move. A small one makes the bound
            in evaluation much worse, because the latents of images have a standard deviation near 1.
    """

    has_unknown_label = True
    mean: Tensor
    log_std: Tensor

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        conditioning: Conditioning,
        *,
        hidden: Annotated[int, Interval(minimum=1)] = 256,
        blocks: Annotated[int, Interval(minimum=1)] = 3,
        steps: Annotated[int, Interval(minimum=2, maximum=64)] = 8,
        guidance: Annotated[float, Interval(minimum=0)] = 1.0,
        drop_label: Annotated[float, Interval(minimum=0, maximum=1)] = 0.1,
        dropout: Annotated[float, Interval(minimum=0, maximum=0.9)] = 0.0,
        smoothing: Annotated[float, Interval(minimum=0)] = 0.05,
        times: Annotated[int, Interval(minimum=1)] = 1,
        dims: Annotated[int, Interval(minimum=0)] = 0,
        rest_std: Annotated[float, Interval(minimum=0.001)] = 1.0,
    ) -> None:
        super().__init__()
        latent_dim = math.prod(latent_shape)
        if dims > latent_dim:
            raise UsageError(f"option dims={dims} must be at most {latent_dim}, the number of latent dimensions")
        self.shape = (dims,) if 0 < dims < latent_dim else latent_shape
        self.dims = math.prod(self.shape)
        self.velocity = Velocity(self.shape, conditioning, hidden, blocks, dropout)
        self.steps, self.guidance, self.rest_std = steps, guidance, rest_std
        self.drop_label, self.smoothing, self.times = drop_label, smoothing, times
        self.unknown_index = conditioning.features - 1
        self.register_buffer("mean", torch.zeros(self.dims))
        self.register_buffer("log_std", torch.zeros(self.dims))

    def loss(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        """Return the flow matching loss, the mean squared error of the velocity, summed over the dimensions.

        Lipman et al. 2022, eq. 9. Also updates the running mean and standard deviation of the latents.

        Args:
            latent: latents (B, Z), which are detached here.
            condition: embedding of the conditions (B, E) or indices (B,), or None.
        """
        latent = latent[:, : self.dims].detach().float()  # (B, D)
        with torch.no_grad():
            self.mean.lerp_(latent.mean(0), MOMENTUM)
            var = torch.lerp(torch.exp(2 * self.log_std), (latent - self.mean).square().mean(0), MOMENTUM)
            self.log_std.copy_(0.5 * var.clamp(min=1e-8).log())
        target = ((latent - self.mean) * torch.exp(-self.log_std)).repeat(self.times, 1)
        count, device = len(target), target.device
        target = target + self.smoothing * torch.randn_like(target)
        noise = torch.randn_like(target)
        t = (torch.rand(count, 1, device=device) + torch.arange(count, device=device)[:, None]) / count  # stratified
        if condition is not None:
            condition = condition.repeat(self.times, *[1] * (condition.ndim - 1))
            is_dropped = torch.rand(count, *[1] * (condition.ndim - 1), device=device) < self.drop_label
            condition = torch.where(is_dropped, self._unknown(condition), condition)
        x = torch.lerp(noise, target, t)
        normal_velocity = (2 * t - 1) / ((1 - t) * (1 - t) + t * t) * x
        velocity = normal_velocity + self._velocity(x, t, condition)
        return (velocity - (target - noise)).square().sum(1).mean()

    def from_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        x, rest = self._split(noise)
        for k in range(self.steps):
            x = self._step(x, k, condition, self.guidance)
        latent = self.mean + torch.exp(self.log_std) * x
        return torch.cat([latent, *(self.rest_std * r for r in rest)], dim=1) if rest else latent  # (B, Z)

    def to_noise(self, latent: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._invert(latent, condition, self.guidance)

    def _invert(self, latent: Tensor, condition: Tensor | None, guidance: float) -> tuple[Tensor, Tensor]:
        """Return the noise and the log-scales of `to_noise` for a weight of the condition."""
        x, rest = self._split(latent)
        x = (x - self.mean) * torch.exp(-self.log_std)
        for k in reversed(range(self.steps)):
            x = self._invert_step(x, k, condition, guidance)
        log_scale = (-self.log_std).expand_as(x)
        if rest:
            x = torch.cat([x, rest[0] * (1 / self.rest_std)], dim=1)
            log_scale = torch.cat([log_scale, torch.zeros_like(rest[0]) - math.log(self.rest_std)], dim=1)
        return x, log_scale  # (B, Z) each

    def training_terms(self, mean: Tensor, log_var: Tensor, latent: Tensor, condition: Tensor | None) -> PriorTerms:
        loss = self.loss(latent, condition) if self.training else None  # a frozen prior is in evaluation mode
        return PriorTerms(normal_kl(mean, log_var), normal_log_prob(latent).sum(1), latent, loss)

    def terms(self, mean: Tensor, log_var: Tensor, latent: Tensor, condition: Tensor | None) -> PriorTerms:
        noise, log_scale = self._invert(latent, condition, guidance=1)
        log_prob = (normal_log_prob(noise) + log_scale).sum(1) - self._log_det(noise, condition)  # (B,)
        return PriorTerms(negative_entropy(log_var) - log_prob[:, None], log_prob, noise)

    def _log_det(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return the log-determinant (B,) of the Jacobian of all steps at noise (B, Z)."""
        x, _ = self._split(noise)
        if self.dims > MAX_JACOBIAN:
            return self._estimate_log_det(x, condition)
        log_det = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        conditions = torch.zeros(len(x), device=x.device) if condition is None else condition

        def step(x: Tensor, condition_: Tensor, k: int) -> Tensor:
            return self._step(x[None], k, None if condition is None else condition_[None], guidance=1)[0]

        with torch.inference_mode(False), torch.no_grad():
            x, conditions = x.clone(), conditions.clone()  # tensors of inference mode have no derivatives
            for k in range(self.steps):
                jacobian = vmap(jacrev(partial(step, k=k), chunk_size=64), chunk_size=64)(x, conditions)  # (B, D, D)
                log_det = log_det + torch.linalg.slogdet(jacobian)[1]
                x = self._step(x, k, condition, guidance=1)
        return log_det

    def _estimate_log_det(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Estimate the log-determinant (B,) of all steps at x (B, D), always from the same random signs s.

        The Jacobian of a step is I + J, and log det(I + J) = tr J - tr J^2 / 2 + ..., whose terms are the expectations
        of s^T J s and s^T J J s (Hutchinson's estimator). The remainder is neglected; it is small where a step changes
        x little.
        """
        generator = torch.Generator(x.device).manual_seed(0)
        log_det = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        with torch.inference_mode(False), torch.no_grad():
            x, condition = x.clone(), None if condition is None else condition.clone()
            for k in range(self.steps):
                signs = torch.randint(2, x.shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
                x, multiply, *_ = vjp(partial(self._step, k=k, condition=condition, guidance=1), x)
                first = multiply(signs)[0] - signs  # J^T s
                second = multiply(first)[0] - first  # J^T J^T s
                log_det = log_det + (signs * (first - second / 2)).sum(1)
        return log_det

    def _step(self, x: Tensor, k: int, condition: Tensor | None, guidance: float) -> Tensor:
        """Return x (B, D), which is cos(a) noise + sin(a) latent, after step k of the angle a from 0 to pi / 2.

        Divided by cos(a) + sin(a), this is x_t at t = tan(a) / (1 + tan(a)). For standard normal latents, x keeps its
        distribution, so that only the difference from their velocity moves it. Euler steps of x_t itself would shrink
        the latents, by 15 % in eight steps.
        """
        angle = k / self.steps * math.pi / 2
        scale = 1 / (math.cos(angle) + math.sin(angle))
        t = self.mean.new_tensor([[scale * math.sin(angle)]])
        x_t = scale * x
        velocity = self._velocity(x_t, t, condition)
        if condition is not None and guidance != 1:
            unguided = self._velocity(x_t, t, self._unknown(condition))
            velocity = unguided + guidance * (velocity - unguided)
        return x + (math.pi / 2 / self.steps * scale) * velocity

    def _invert_step(self, y: Tensor, k: int, condition: Tensor | None, guidance: float) -> Tensor:
        """Return x (B, D) before step k, which leads to y.

        Fixed-point iterations with Anderson acceleration of depth 1 (Walker & Ni 2011, section 2,
        https://doi.org/10.1137/10078356X). Without it, they diverge where the derivative of a step's change is above 1.
        """
        error = y - self._step(y, k, condition, guidance)
        guess = y + error
        x = guess
        for _ in range(INVERSION_STEPS - 1):
            previous_error, previous_guess = error, guess
            error = y - self._step(x, k, condition, guidance)
            guess = x + error
            change = error - previous_error
            weight = (error * change).sum(1, keepdim=True) / (change * change).sum(1, keepdim=True).clamp(min=1e-12)
            x = guess - weight * (guess - previous_guess)
        return x

    def _unknown(self, condition: Tensor) -> Tensor:
        """Return the unknown condition, (1, E) or (1,), for an embedding (B, E) or indices (B,)."""
        if condition.is_floating_point():
            return condition.new_zeros((1, condition.shape[1]))
        return condition.new_tensor([self.unknown_index])

    def _velocity(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return self.velocity(x.unflatten(1, self.shape), t, condition).flatten(1)

    def _split(self, codes: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Split codes (B, Z) into the dimensions that move, (B, D), and the dimensions after these, if any."""
        if self.dims == codes.shape[1]:
            return codes, ()
        moving, rest = codes.tensor_split((self.dims,), dim=1)
        return moving, (rest,)
