"""Semi-supervised training: unknown values of a category are drawn from their posterior.

The bound of an image whose label y is unknown is the logarithm of a sum over its values,
log sum_y p(y) exp(ELBO(x, y)), with p(y) uniform (the model M2 of Kingma et al. 2014, eq. 7,
https://arxiv.org/abs/1406.5298, with its optimal q(y | x)). Its gradient is the mean of the gradients of ELBO(x, y)
under q(y | x), which is proportional to p(y) exp(ELBO(x, y)). So a label that is drawn from q(y | x) gives an unbiased
gradient, with any objective.
"""

import torch
from torch import Tensor

from cvae.conditions import CATEGORY
from cvae.models import VAE

START = 0.2
"""Fraction of the steps after which labels are drawn.

Before that, only the known labels distinguish the classes. Labels from the posterior of an untrained model would
reinforce its random preferences.
"""


@torch.no_grad()
def impute(model: VAE, image: Tensor, rows: Tensor, noise: Tensor, random: Tensor) -> Tensor:
    """Return rows in which the first category is known: unknown values are drawn from q(y | x).

    Args:
        model: model in training mode, with a category among its conditions.
        image: images (B, C, H, W) in [0, 1].
        rows: rows of their conditions.
        noise: standard normal noise (B, Z), the same for all values.
        random: uniform random numbers in 0..1, (B,), which choose the values.
    """
    assert model.conditions is not None
    i, category = next((i, c) for i, c in enumerate(model.conditions.conditions) if c.kind == CATEGORY)
    unknown = model.conditions.is_unknown(rows, i)
    indices = torch.nonzero(unknown)[:, 0]
    if not len(indices):
        return rows
    training = model.training
    model.eval()  # batch norm must not learn from labels that are tried
    try:
        bounds = []
        for value in range(len(category.values)):
            trial = model.conditions.with_category(rows[indices], i, torch.full_like(indices, value))
            terms = model(image[indices], trial, noise[indices])
            bounds.append(-terms.distortion - terms.rate.sum(1))
    finally:
        model.train(training)
    posterior = torch.stack(bounds, dim=1).softmax(1)  # (U, K)
    samples = (posterior.cumsum(1) < random[indices, None]).sum(1).clamp(max=len(category.values) - 1)
    values = torch.zeros_like(unknown, dtype=torch.long).index_copy(0, indices, samples)
    return torch.where(_expand(unknown, rows), model.conditions.with_category(rows, i, values), rows)


def _expand(mask: Tensor, rows: Tensor) -> Tensor:
    return mask if rows.ndim == 1 else mask[:, None]
