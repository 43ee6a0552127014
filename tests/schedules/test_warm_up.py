"""A warm-up leads evenly into whatever schedule follows it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_cases import CASES, RATES, followed, optimizer_of, rates_of, schedule

from tuner import schedules


@pytest.mark.parametrize("name", CASES)
@given(steps=st.integers(0, 12), every=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_a_warm_up_leads_into_any_schedule(name, steps, every):
    """Even steps up to the first rate of the schedule, then that one, counted in its own epochs or minibatches."""
    if name in {"plateau", "gradient_norm"}:
        every = 1  # what they see depends on the step here
    made = schedule("warmup", steps=steps, after=schedule(name), steps_per_epoch=every)
    seen = followed(made, steps + 12)
    first = seen[steps]
    for i in range(steps + 1):
        assert seen[i] == pytest.approx([rate * (i + 1) / (steps + 1) for rate in first])
    if name in {"plateau", "gradient_norm"}:
        assert first == list(RATES)
        return
    every = every if CASES[name].interval == "epoch" else 1
    alone = followed(schedule(name), 12)
    assert seen[steps:] == [alone[i // every] for i in range(13)]


def test_a_warm_up_may_be_given_in_epochs_and_in_parts_of_one():
    seen = followed(schedule("warmup", epochs=1.5, steps_per_epoch=4), 8)
    assert seen == followed(schedule("warmup", steps=6), 8)


def test_a_plateau_pays_no_heed_to_values_until_its_warm_up_is_over():
    optimizer = optimizer_of()
    scheduler = schedules.warmup(optimizer, steps=5, after=schedule("plateau", mode="max", patience=0, factor=0.5))
    seen = []
    for _ in range(8):
        optimizer.step()
        scheduler.step()
        scheduler.after.step(1.0)  # never better than the first one that counts
        seen.append(rates_of(optimizer)[0] / RATES[0])
    assert seen == pytest.approx([2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 0.5, 0.25, 0.125])
