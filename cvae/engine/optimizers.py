"""Optimizers, and the groups of parameters that they update.

An optimizer is created as `optimizer(groups, lr, weight_decay, **options)`. `groups` are the parameter groups of
torch.optim; the engine sets the learning rate of a group to that of the schedule times the group's `lr_scale`. The
attribute `found_inf`, a scalar tensor, makes an optimizer skip a step, as in the fused optimizers of torch.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from cvae.errors import UsageError, suggest
from cvae.flags import Interval

Groups = list[dict[str, Any]]
"""Parameter groups: dictionaries with the keys "params" and "lr_scale"."""

BETAS = (0.9, 0.999)

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients (a, b, c) of the iteration X <- a X + b (X X^T) X + c (X X^T)^2 X, which brings all singular values of X
close to 1 (https://kellerjordan.github.io/posts/muon)."""


def _without_compiler(optimizer: type[torch.optim.Optimizer]) -> Any:
    """Return a subclass of an optimizer whose methods do not import torch's compiler, which takes two seconds.

    torch decorates these methods so that compiled code does not trace them, but the engine never compiles them.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


Adam = _without_compiler(torch.optim.Adam)
AdamW: Any = _without_compiler(torch.optim.AdamW)


def parameter_groups(model: nn.Module, scales: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the parameters of a model that are not frozen, in groups of the same learning rate.

    Args:
        model: network to train.
        scales: factors of the learning rate by pattern of parameter names, such as {"encoder.head.*": 2.0}. If several
            patterns match, the last one counts.

    Raises:
        UsageError: If a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in scales:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--lr-scale {pattern}: no parameter has such a name; {suggest(pattern, names)}")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matching = [scale for pattern, scale in scales.items() if fnmatchcase(name, pattern)]
        groups.setdefault(matching[-1] if matching else 1.0, []).append(parameter)
    return [{"params": parameters, "lr_scale": scale} for scale, parameters in groups.items()]


def parse_scales(texts: Iterable[str]) -> dict[str, float]:
    """Parse factors of the learning rate: ["decoder.head.*=2"] -> {"decoder.head.*": 2.0}.

    Raises:
        UsageError: If a text is not of this form.
    """
    scales: dict[str, float] = {}
    for text in texts:
        pattern, _, factor = text.rpartition("=")
        try:
            scales.pop(pattern, None)  # a repeated pattern counts as the last one
            scales[pattern] = float(factor)
        except ValueError:
            scales[pattern] = math.nan
        if not (pattern and 0 <= scales[pattern] < math.inf):
            raise UsageError(f"--lr-scale {text!r} is not of the form PATTERN=FACTOR, such as 'decoder.head.*=2'")
    return scales


def adam(groups: Groups, lr: float, weight_decay: float, *, betas: tuple[float, ...] = BETAS) -> torch.optim.Optimizer:
    """Create Adam (Kingma & Ba 2014, https://arxiv.org/abs/1412.6980).

    Args:
        betas: decay rates of the moving averages of the gradient and its square.
    """
    return Adam(groups, lr=lr, betas=_pair(betas), weight_decay=weight_decay, fused=_can_fuse(groups))


def adamw(groups: Groups, lr: float, weight_decay: float, *, betas: tuple[float, ...] = BETAS) -> torch.optim.Optimizer:
    """Create AdamW, whose weight decay is independent of the gradient (https://arxiv.org/abs/1711.05101).

    Args:
        betas: decay rates of the moving averages of the gradient and its square.
    """
    return AdamW(groups, lr=lr, betas=_pair(betas), weight_decay=weight_decay, fused=_can_fuse(groups))


class Muon(AdamW):
    """Momentum whose updates of matrices are orthogonalized (Jordan et al. 2024), and AdamW for all other parameters.

    The weights of a convolution count as a matrix with one row per output channel. Only matrices with a side of at
    most `max_side` are orthogonalized, because the cost grows with the square of the smaller side.

    Args:
        groups: parameter groups.
        lr: learning rate of AdamW.
        weight_decay: weight decay of all parameters.
        betas: decay rates of AdamW's moving averages.
        matrix_lr_scale: learning rate of the orthogonalized matrices, as a multiple of `lr`.
        momentum: decay rate of the sum of their gradients, which is used as in Nesterov's method.
        steps: number of Newton-Schulz iterations.
        max_side: maximum length of the smaller side of a matrix to orthogonalize.
    """

    def __init__(
        self,
        groups: Groups,
        lr: float,
        weight_decay: float,
        *,
        betas: tuple[float, ...] = BETAS,
        matrix_lr_scale: Annotated[float, Interval(above=0)] = 4.0,
        momentum: Annotated[float, Interval(minimum=0, below=1)] = 0.9,
        steps: Annotated[int, Interval(minimum=1, maximum=20)] = 3,
        max_side: Annotated[int, Interval(minimum=1)] = 128,
    ) -> None:
        split_groups = []
        for group in groups:
            matrices = [p for p in group["params"] if p.ndim > 1 and min(len(p), p[0].numel()) <= max_side]
            others = [p for p in group["params"] if not any(p is matrix for matrix in matrices)]
            split_groups.append({**group, "params": others, "matrices": False})
            scale = group["lr_scale"] * matrix_lr_scale
            split_groups.append({**group, "params": matrices, "lr_scale": scale, "matrices": True})
        split_groups = [group for group in split_groups if group["params"]]
        super().__init__(
            split_groups, lr=lr, betas=_pair(betas), weight_decay=weight_decay, fused=_can_fuse(split_groups)
        )
        self.momentum, self.steps = momentum, steps

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update the parameters that have gradients, unless `found_inf` is set."""
        found_inf = getattr(self, "found_inf", None)
        grad_scale = getattr(self, "grad_scale", None)  # set by the scaler of fp16 if the gradients are still scaled
        for group in self.param_groups:
            for matrices in self._matrices_by_shape(group):
                # Matrices of the same shape are updated together, because a network has many small ones.
                weights, gradient, momentum = (
                    torch.stack([tensor.flatten(1) for tensor in tensors]) for tensors in zip(*matrices, strict=True)
                )  # (K, m, n) each
                if grad_scale is not None:
                    gradient = gradient / grad_scale
                new_momentum = self.momentum * momentum + gradient
                update = orthogonalize(gradient + self.momentum * new_momentum, self.steps)
                new_weights = weights - group["lr"] * (update + group["weight_decay"] * weights)
                if found_inf is not None:
                    new_momentum = torch.where(found_inf > 0, momentum, new_momentum)
                    new_weights = torch.where(found_inf > 0, weights, new_weights)
                for i, (parameter, _, parameter_momentum) in enumerate(matrices):
                    parameter.copy_(new_weights[i].view_as(parameter))
                    parameter_momentum.copy_(new_momentum[i].view_as(parameter))
                    parameter.grad = None  # AdamW skips parameters without gradient
        super().step(closure)

    def _matrices_by_shape(self, group: dict[str, Any]) -> Iterable[list[tuple[Tensor, Tensor, Tensor]]]:
        """Return the matrices of a group that have gradients, with their gradients and momenta, grouped by shape."""
        matrices: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for parameter in group["params"] if group["matrices"] else ():
            if parameter.grad is not None:
                state = self.state[parameter]
                if not state:
                    step = torch.zeros((), device=parameter.device)  # AdamW expects it in restored states
                    state.update(momentum=torch.zeros_like(parameter), step=step)
                shape = parameter.flatten(1).shape
                matrices.setdefault(shape, []).append((parameter, parameter.grad, state["momentum"]))
        return matrices.values()


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Return an approximation of U V^T for the singular value decomposition U S V^T of each matrix, (K, m, n).

    The result is scaled by sqrt(max(1, m / n)). The iteration runs on the smaller of the matrices X X^T and X^T X, of
    which X is multiplied by a polynomial.
    """
    rows, columns = matrices.shape[1:]
    x = (matrices if rows <= columns else matrices.mT).float()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    gram, identity = x @ x.mT, torch.eye(x.shape[1], device=x.device)
    product = identity
    for i in range(steps):
        polynomial = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
        product = polynomial @ product if i else polynomial
        if i < steps - 1:
            gram = polynomial @ gram @ polynomial
    x = product @ x
    return (x if rows <= columns else x.mT) * max(1, rows / columns) ** 0.5


def _pair(betas: tuple[float, ...]) -> tuple[float, float]:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(f"option betas={list(betas)} must be two numbers from 0 to below 1, such as [0.9, 0.999]")
    return betas[0], betas[1]


def _can_fuse(groups: Groups) -> bool:
    return all(parameter.device.type != "mps" for group in groups for parameter in group["params"])
