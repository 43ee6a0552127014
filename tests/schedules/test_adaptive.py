"""The schedule of the gradient's norm keeps its limits whatever the gradient is."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_cases import RATES, SHARE, optimizer_of, rates_of
from torch import nn

from tuner import schedules


def driven(gradients, **options):
    """The factor of both groups' rates after each of these gradients; None is no gradient at all."""
    optimizer = optimizer_of()
    scheduler = schedules.gradient_norm(optimizer, **options)
    parameter = optimizer.param_groups[0]["params"][0]
    factors = []
    for gradient in gradients:
        parameter.grad = None if gradient is None else torch.tensor([gradient, 0.0])
        optimizer.step()
        scheduler.step()
        first, second = (rate / base for rate, base in zip(rates_of(optimizer), RATES, strict=True))
        assert first == pytest.approx(second)
        factors.append(first)
    return factors


ANY_GRADIENT = st.none() | st.floats(width=32) | st.sampled_from([0.0, math.inf, -math.inf, math.nan, 3e38, 1e-45])


@given(gradients=st.lists(ANY_GRADIENT, max_size=30), low=SHARE, high=st.floats(1, 10), smoothing=st.floats(0, 0.99))
@settings(max_examples=150, deadline=None)
def test_the_rate_stays_within_its_limits_whatever_the_gradient(gradients, low, high, smoothing):
    for factor in driven(gradients, low=low, high=high, smoothing=smoothing):
        assert low * (1 - 1e-9) <= factor <= high * (1 + 1e-9)


@given(scale=st.floats(1e-6, 1e6), ratio=st.floats(0.11, 1.9))
@settings(deadline=None)
def test_between_its_limits_the_rate_is_proportional_to_the_gradient(scale, ratio):
    """To its norm over that of the gradients before, so that the loss's own scale does not matter."""
    *_, last = driven([scale] * 5 + [-scale * ratio])
    assert last == pytest.approx(ratio, rel=1e-5)


def test_the_reference_follows_the_gradient():
    assert driven([1.0, 2.0, 2.0, 2.0], smoothing=0.5) == pytest.approx([1, 2, 2 / 1.5, 2 / 1.75])


@pytest.mark.parametrize("unusable", [None, math.inf, math.nan])
def test_a_gradient_that_cannot_be_used_changes_nothing(unusable):
    factors = driven([1.0, 1.5, unusable, unusable, 1.0], smoothing=0.5)
    assert factors[1] == factors[2] == factors[3] == 1.5
    assert factors[4] == pytest.approx(1 / 1.25)


def test_zero_gradients_neither_stop_the_rate_for_good_nor_break_it():
    assert driven([0.0, 0.0, 1.0, 1.0]) == [1, 1, 1, 1]
    factors = driven([1.0, *[0.0] * 3000, 1.0, 1.0], low=0.25, high=2.0, smoothing=0.5)
    assert set(factors[1:3001]) <= {0.25, 1.0}
    assert all(0.25 <= factor <= 2 for factor in factors[3001:])


def test_the_norm_is_that_of_all_groups_and_of_sparse_gradients():
    table = nn.Embedding(4, 2, sparse=True)
    other = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": table.weight}, {"params": other}], lr=1.0)
    scheduler = schedules.gradient_norm(optimizer, high=10.0)
    for scale in (1.0, 3.0):
        optimizer.zero_grad()
        (scale * (table(torch.tensor([1, 1])).sum() + 3 * other.sum())).backward()
        optimizer.step()
        scheduler.step()
    assert scheduler.reference == pytest.approx(math.sqrt(26) * (0.99 + 0.03), rel=1e-6)
    assert rates_of(optimizer) == pytest.approx([3.0, 3.0])
