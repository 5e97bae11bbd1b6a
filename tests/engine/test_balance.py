"""Batches in which the values of a category occur equally often."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvae.engine.balance import MAX_REPEATS, balanced_order, count_draws


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8).filter(any))
def test_draws_are_equal_up_to_the_limit_of_repeats(counts):
    counts = np.array(counts)
    draws = count_draws(counts, int(counts.sum()))
    limits = MAX_REPEATS * counts
    assert draws.sum() == counts.sum() and (draws <= limits).all()
    below = draws[draws < limits]
    assert below.size == 0 or below.max() - below.min() <= 1  # values below the limit share the rest equally
    assert below.size == 0 or (draws[draws == limits] <= below.max() + 1).all()


@pytest.mark.parametrize(("counts", "expected"), [([90, 10], [50, 50]), ([200, 1], [191, 10]), ([5, 0, 5], [5, 0, 5])])
def test_rare_values_are_repeated_at_most_ten_times(counts, expected):
    assert count_draws(np.array(counts), sum(counts)).tolist() == expected


def test_epoch_repeats_images_only_after_all_of_their_value_occurred():
    values = torch.tensor([0] * 8 + [1] * 2 + [2] * 3)  # K = 2, so 2 is unknown
    order = balanced_order(values, 2, torch.Generator().manual_seed(0))
    occurrences = np.bincount(order.numpy(), minlength=13)
    assert occurrences[:8].sum() == occurrences[8:10].sum() == 5 and occurrences[10:].tolist() == [1, 1, 1]
    assert set(occurrences[:8]) == {0, 1} and set(occurrences[8:10]) == {2, 3}
