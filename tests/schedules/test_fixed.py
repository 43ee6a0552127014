"""Schedules whose course is fixed: what is said of one of them alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_cases import RATES, advance, followed, optimizer_of, rates_of, schedule

from tuner import schedules


def test_the_cosines_floor_is_the_rate_at_its_end():
    assert followed(schedule("cosine", total=5, eta_min=0.01), 5)[-1] == pytest.approx([0.01, 0.01])


@given(total=st.integers(2, 60), pct=st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_one_cycle_rises_once_and_falls_once(total, pct):
    rates = [pair[0] for pair in followed(schedule("one_cycle", total=total, pct_start=pct), total)][:total]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) <= RATES[0] * (1 + 1e-9)


@pytest.mark.parametrize(("cycles", "moved"), [(False, False), (True, True)])
def test_one_cycle_leaves_the_momentum_alone_unless_asked_to_cycle_it(cycles, moved):
    optimizer = optimizer_of(kind=torch.optim.Adam)
    followed(schedule("one_cycle", total=8, cycle_momentum=cycles), 3, optimizer)
    assert (optimizer.param_groups[0]["betas"] != (0.9, 0.999)) is moved


def test_state_carries_the_arguments_as_torchs_own_does():
    optimizer = optimizer_of()
    state = schedules.inverse_time(optimizer, decay=2.0).state_dict()
    scheduler = schedules.inverse_time(optimizer, decay=0.0)
    scheduler.load_state_dict(state)
    advance(optimizer, scheduler, 0)
    assert rates_of(optimizer) == pytest.approx([rate / 3 for rate in RATES])
