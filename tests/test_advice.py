"""Sentences about a search space."""

import pytest

from tuner.advice import pressed
from tuner.space import Int, LogUniform, Parameter, Uniform


@pytest.mark.parametrize(
    ("scale", "side", "advice"),
    [
        (Uniform(0.0, 0.6), "low", "(0.0); widen it if x can go past it"),
        (Uniform(0.0, 0.6), "high", "(0.6); widen it: space.x.high=0.9"),
        (Uniform(0.2, 0.8), "high", "(0.8); widen it: space.x.high=1"),
        (Uniform(0.2, 1.0), "high", "(1.0); widen it if x can go past it"),
        (Uniform(0.1, 0.5), "low", "(0.1); widen it: space.x.low=0"),
        (Uniform(-1.0, 1.0), "low", "(-1.0); widen it: space.x.low=-2"),
        (Uniform(0.0, 3.0), "high", "(3.0); widen it: space.x.high=4.5"),
        (Int(1, 4), "low", "(1); widen it: space.x.low=0"),
        (Int(0, 4), "low", "(0); widen it if x can go past it"),
        (LogUniform(1e-4, 1.0), "high", "(1.0); widen it: space.x.high=10"),
    ],
)
def test_a_bound_is_not_to_be_moved_past_where_amounts_and_shares_end(scale, side, advice):
    parameter = Parameter("x", scale, "module.x")
    assert pressed(parameter, side, expanding=False).endswith(advice)
