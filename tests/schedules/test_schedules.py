"""What holds for every schedule: its formula through a real optimizer, rates that are tensors, and a pause."""

import io
import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_cases import CASES, FORMULAS, RATES, advance, followed, optimizer_of, rates_of, schedule
from torch import nn

from tuner import schedules


def test_every_schedule_of_the_module_has_a_case():
    table = schedules.__doc__.split("| --- | --- | --- | --- |\n")[1].split("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()] == list(CASES)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_each_group_follows_the_formula_at_every_step(name, data):
    case = CASES[name]
    arguments = {key: data.draw(values, key) for key, values in case.arguments.items()}
    count = min(arguments.get("total", 25), 25)
    seen = followed(partial(getattr(schedules, name), **arguments), count)
    for i, rates in enumerate(seen[:count]):
        expected = case.factor(i, **arguments)
        assert rates == pytest.approx([rate * expected for rate in RATES], rel=1e-7, abs=1e-12)
        assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    if case.falls:
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(rates[0] for rates in seen))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (schedule("linear", total=4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (schedule("inverse_time", decay=1), [1, 1 / 2, 1 / 3, 1 / 4]),
        (partial(schedules.exponential), [1, 0.99, 0.99**2]),
        (partial(schedules.inverse_sqrt_epoch), [1, 2**-0.5, 3**-0.5, 0.5]),
        (schedule("hold_then_decay", hold=2), [1, 1, math.exp(-1), math.exp(-2)]),
        (schedule("hold_then_decay", hold=0), [math.exp(-1), math.exp(-2)]),
        (schedule("step", every=2), [1, 1, 0.1, 0.1, 0.01]),
        (schedule("cosine", total=2), [1, 0.5, 0]),
        (schedule("one_cycle", total=10, pct_start=0.5), [0.04, *[None] * 3, 1, *[None] * 4, 4e-6]),
        (schedule("one_cycle", total=10, pct_start=0.1), [1, *[None] * 8, 4e-6]),
        (schedule("warmup", steps=3), [0.25, 0.5, 0.75, 1, 1]),
    ],
)
def test_rates_worked_out_by_hand(made, expected):
    seen = followed(made, len(expected) - 1)
    for rates, factor in zip(seen, expected, strict=True):
        if factor is not None:
            assert rates == pytest.approx([factor * rate for rate in RATES], abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_rates_that_are_tensors_follow_the_same_course(name):
    tensors = torch.optim.Adam(
        [nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5, dtype=torch.float64), capturable=True
    )
    numbers = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=0.5)
    for group in tensors.param_groups:
        group["capturable"] = False  # on a CPU; the rate stays a tensor
        group["foreach"] = False
    kept = tensors.param_groups[0]["lr"]
    expected = followed(schedule(name), 9, numbers)
    assert followed(schedule(name), 9, tensors) == [pytest.approx(rates) for rates in expected]
    assert tensors.param_groups[0]["lr"] is kept


def resumed(made, cut, count):
    """As `followed`, with all state written and read back, by new objects, after `cut` steps."""
    optimizer = optimizer_of(momentum=0.9)
    scheduler = made(optimizer)
    seen = [rates_of(optimizer)]
    for i in range(count):
        if i == cut:
            file = io.BytesIO()
            torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
            optimizer = optimizer_of(momentum=0.9)
            scheduler = made(optimizer)
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
        advance(optimizer, scheduler, i)
        seen.append(rates_of(optimizer))
    return seen


@pytest.mark.parametrize("cut", [0, 3, 4, 7])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_state_that_was_saved_in_the_middle_goes_on_to_the_last_digit(name, warm, cut):
    made = schedule("warmup", steps=4, after=schedule(name), steps_per_epoch=2) if warm else schedule(name)
    whole = followed(made, 12, optimizer_of(momentum=0.9))
    assert resumed(made, cut, 12) == whole
    assert len({rates[0] for rates in whole}) > 1 or name == "constant"
