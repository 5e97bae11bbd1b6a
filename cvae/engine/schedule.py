"""Schedules as functions of the step alone, so that they have no state to save."""

import math


def lr_factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """What the learning rate is multiplied by at `step` of `total`.

    A linear warm-up over the first `warmup` steps, then: "constant"; "cosine", to zero at the end; "step", a tenth
    from half way on and a hundredth from three quarters on.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    return 1.0


def kl_factor(step: int, warmup_steps: float) -> float:
    """What the KL term is multiplied by at `step`: linear from 0 to 1 (Bowman et al. 2016, section 3.1)."""
    return 1.0 if step >= warmup_steps else step / warmup_steps
