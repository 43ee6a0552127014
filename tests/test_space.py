"""The contract that every kind of parameter keeps, and conditions and scaling between parameters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.space import (
    Categorical,
    Int,
    LogInt,
    LogUniform,
    OneMinusPow10,
    Parameter,
    ScaleWith,
    Space,
    Uniform,
)

SCALES = {
    "uniform": Uniform(-1.0, 3.0),
    "log_uniform": LogUniform(1e-5, 1.0),
    "one_minus_pow10": OneMinusPow10(0.9, 0.9999),
    "int": Int(2, 9),
    "int with step": Int(10, 50, step=10),
    "log_int": LogInt(1, 300),
    "numbers": Categorical((32, 64, 128, 256)),
    "words": Categorical(("relu", "gelu")),
    "mixed": Categorical((None, True, 1)),
}
every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
finite = pytest.mark.parametrize(
    "scale", [s for s in SCALES.values() if s.size], ids=[n for n, s in SCALES.items() if s.size]
)
continuous = pytest.mark.parametrize(
    "scale", [s for s in SCALES.values() if not s.size], ids=[n for n, s in SCALES.items() if not s.size]
)


@every_scale
@given(unit=st.floats(0, 1))
def test_every_coordinate_gives_a_value_of_the_range_that_maps_back_to_it(scale, unit):
    value = scale.from_unit(unit)
    assert scale.contains(value)
    again = scale.to_unit(value)
    assert -1e-9 <= again <= 1 + 1e-9
    assert scale.from_unit(again) == value
    if scale.size is None:
        assert again == pytest.approx(unit, abs=2e-5)  # six digits of the value


@continuous
def test_the_ends_of_a_range_are_the_ends_of_the_unit_interval(scale):
    assert scale.from_unit(0.0) == pytest.approx(scale.low)
    assert scale.from_unit(1.0) == pytest.approx(scale.high)
    assert scale.to_unit(scale.low) == pytest.approx(0.0, abs=1e-12)
    assert scale.to_unit(scale.high) == pytest.approx(1.0)


@finite
def test_every_value_is_reached_and_the_ends_get_fair_weight(scale):
    """On a fine grid each value owns its share of the unit interval: equal cells, or on a log scale log(n+½)/(n−½)."""
    grid = (np.arange(100_000) + 0.5) / 100_000
    values, counts = np.unique([str(scale.from_unit(unit)) for unit in grid], return_counts=True)
    shares = dict(zip(values, counts / len(grid), strict=True))
    assert len(shares) == scale.size
    if isinstance(scale, LogInt):
        total = math.log((scale.high + 0.5) / (scale.low - 0.5))
        expected = {str(n): math.log((n + 0.5) / (n - 0.5)) / total for n in range(scale.low, scale.high + 1)}
    else:
        expected = dict.fromkeys(shares, 1 / scale.size)
    assert shares == pytest.approx(expected, abs=3e-5)


def test_one_minus_pow10_spends_as_many_draws_between_09_and_099_as_between_099_and_0999():
    scale = OneMinusPow10(0.9, 0.999)
    grid = (np.arange(10_000) + 0.5) / 10_000
    draws = np.array([scale.from_unit(unit) for unit in grid])
    assert np.mean(draws < 0.99) == pytest.approx(0.5, abs=1e-3)
    exponents = np.log10(1 - draws)
    assert np.histogram(exponents, bins=9, range=(-3, -1))[0] == pytest.approx(10_000 / 9, rel=0.01)
    assert np.all(np.diff(draws) >= 0), "the coordinate grows with the value"


def test_one_minus_pow10_gives_back_the_numbers_that_people_write():
    scale = OneMinusPow10(0.8, 0.9999)
    for value in (0.8, 0.9, 0.99, 0.999, 0.9999):
        assert scale.from_unit(scale.to_unit(value)) == value


@pytest.mark.parametrize(
    "scale",
    [
        Uniform(1.0, 2.0, (0.5, 4.0)),
        LogUniform(1e-3, 1e-1, (1e-4, 1.0)),
        OneMinusPow10(0.9, 0.99, (0.5, 0.9999)),
        Int(4, 8, (2, 16)),
        LogInt(16, 64, (8, 256)),
    ],
    ids=lambda scale: type(scale).__name__,
)
def test_past_the_range_a_scale_goes_as_far_as_its_limit_and_no_further(scale):
    low, high = scale.reach
    assert low < 0
    assert high > 1
    assert scale.from_unit(low - 5) == pytest.approx(scale.limit[0])
    assert scale.from_unit(high + 5) == pytest.approx(scale.limit[1])
    assert scale.from_unit(low / 2) < scale.low
    assert scale.from_unit(1 + (high - 1) * 0.75) > scale.high


def test_numeric_choices_are_ordered_and_words_are_not():
    assert Categorical((1, 2, 3)).ordered
    assert not Categorical(("a", "b", "c")).ordered
    assert not Categorical((False, True)).ordered


def test_parameters_stand_after_those_that_they_depend_on():
    child = Parameter("gamma", Uniform(0, 1), "schedule.gamma", when={"schedule": ("step",)})
    lr = Parameter("lr", LogUniform(0.1, 1), "module.lr", scale_with=ScaleWith("batch", 64, "linear"))
    parent = Parameter("schedule", Categorical(("step", "cosine")), "schedule")
    batch = Parameter("batch", Categorical((32, 64)), "data.batch_size")
    names = Space.of([child, lr, parent, batch]).names
    assert names.index("schedule") < names.index("gamma")
    assert names.index("batch") < names.index("lr")


def test_a_circle_of_conditions_has_no_order():
    one = Parameter("one", Categorical(("a",)), "module.a", when={"two": ("b",)})
    two = Parameter("two", Categorical(("b",)), "module.b", when={"one": ("a",)})
    with pytest.raises(ValueError, match="one, two"):
        Space.of([one, two])


def test_switched_off_parameters_are_left_out_and_so_are_those_that_wait_for_them():
    space = Space.of(
        [
            Parameter("a", Categorical(("x", "y")), "module.a"),
            Parameter("b", Categorical(("x", "y")), "module.b", when={"a": ("x",)}),
            Parameter("c", Uniform(0, 1), "module.c", when={"b": ("y",)}),
        ]
    )
    assert space.from_unit({"a": 0.0, "b": 0.9, "c": 0.5}) == {"a": "x", "b": "y", "c": 0.5}
    assert space.from_unit({"a": 0.9, "b": 0.9, "c": 0.5}) == {"a": "y"}


@pytest.mark.parametrize(("rule", "expected"), [("linear", 0.4), ("sqrt", 0.2)])
def test_a_learning_rate_follows_the_batch_size(rule, expected):
    space = Space.of(
        [
            Parameter("lr", LogUniform(1e-3, 1), "module.lr", scale_with=ScaleWith("batch", 64, rule)),
            Parameter("batch", Categorical((64, 256)), "data.batch_size"),
        ]
    )
    effective = space.effective({"lr": 0.1, "batch": 256})
    assert effective == {"lr": pytest.approx(expected), "batch": 256}
    assert space.drawn(effective) == {"lr": pytest.approx(0.1), "batch": 256}
