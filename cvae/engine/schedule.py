"""Schedules of the learning rate and the KL weight. They depend on the step alone, so they need no saved state."""

import math
from collections.abc import Sequence

MAX_WARMUP = 100
"""Maximum default number of warm-up steps. A short run warms up for a twentieth of its steps."""


def default_warmup(total: int) -> int:
    """Return the default number of warm-up steps of a run of `total` steps."""
    return min(MAX_WARMUP, total // 20)


def lr_factor(schedule: str, step: int, total: int, warmup: int, milestones: Sequence[float] | None = None) -> float:
    """Return the learning rate factor at `step` of `total`.

    After a linear warm-up over the first `warmup` steps, the factor depends on the schedule:

    - "constant": 1.
    - "cosine": decreases to 0 at the end, along half a cosine.
    - "linear": decreases to 0 at the end, linearly.
    - "step": is divided by 10 at each of the steps in `milestones`. If `milestones` is None, these are at 1/2 and 3/4
      of the steps after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if schedule == "linear":
        return 1 - min(1.0, done)
    if schedule == "step":
        passed = [done >= 0.5, done >= 0.75] if milestones is None else [step >= milestone for milestone in milestones]
        return 0.1 ** sum(passed)
    return 1.0


def kl_factor(step: int, warmup_steps: float) -> float:
    """Return the factor of the KL term at `step`. It increases linearly to 1 (Bowman et al. 2016, section 3.1)."""
    return 1.0 if step >= warmup_steps else step / warmup_steps
