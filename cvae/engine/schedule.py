"""Schedules as functions of the step alone, so that they have no state to save."""

import math
from collections.abc import Sequence


def lr_factor(schedule: str, step: int, total: int, warmup: int, milestones: Sequence[float] | None = None) -> float:
    """What the learning rate is multiplied by at `step` of `total`.

    A linear warm-up over the first `warmup` steps, then: "constant"; "cosine", to zero at the end; "step", a tenth
    from each of `milestones` on, which are steps: if None, half way and three quarters of the way after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if schedule == "step":
        passed = [done >= 0.5, done >= 0.75] if milestones is None else [step >= at for at in milestones]
        return 0.1 ** sum(passed)
    return 1.0


def kl_factor(step: int, warmup_steps: float) -> float:
    """What the KL term is multiplied by at `step`: linear from 0 to 1 (Bowman et al. 2016, section 3.1)."""
    return 1.0 if step >= warmup_steps else step / warmup_steps
