"""Schedules of the learning rate and the KL weight, and the interval between progress reports."""

import pytest
import torch

from cvae.engine.display import report_every
from cvae.engine.schedule import kl_factor, lr_factor


def test_schedules_agree_with_their_formulas():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for step in range(50):
        assert lr_factor("cosine", step, 50, 0) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert [lr_factor("linear", step, 6, 2) for step in range(6)] == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert [lr_factor("constant", step, 9, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    default_milestones = [lr_factor("step", step, 8, 0) for step in range(8)]
    assert default_milestones == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    factors = [lr_factor("step", step, 8, 2, [3, 6, 9]) for step in range(8)]
    assert factors == pytest.approx([0.5, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert [kl_factor(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert kl_factor(0, 0) == 1


@pytest.mark.parametrize("epochs, every", {1: 1, 10: 1, 20: 1, 21: 2, 60: 5, 100: 5, 101: 10, 1300: 100}.items())
def test_interval_between_reports_is_a_round_number(epochs, every):
    assert report_every(epochs) == every
