"""What is read off the curve of a range test, from curves whose zones are known."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.lr_range import HALF_WIDTH, Finding, read_curve, smooth

LOW, HIGH = -7.0, 1.0


@dataclass(frozen=True)
class Known:
    """A loss that falls by `depth` along a logistic curve over log10 lr, and grows exponentially past `unstable`.

    The tenth, the half and the nine tenths of the fall lie at `middle - width`, `middle` and `middle + width`.
    """

    middle: float = -2.5
    width: float = 0.5
    unstable: float | None = 0.0
    level: float = 2.3
    depth: float = 2.0
    noise: float = 0.1
    seed: int = 0
    steps: int = 200

    def curve(self):
        """(lrs, losses, exploded), ended as a test is: at ten times the level, or at what is not finite."""
        x = np.linspace(LOW, HIGH, self.steps)
        losses = self.level - self.depth / (1 + np.exp(-np.log(9) * (x - self.middle) / self.width))
        if self.unstable is not None:
            losses += 0.1 * (self.depth or 1) * np.expm1(np.clip((x - self.unstable) * 10, 0, 500))
        losses += self.noise * np.random.default_rng(self.seed).standard_normal(self.steps)
        beyond = np.flatnonzero(losses > self.level + 20 * max(self.depth, 1))
        end = beyond[0] + 1 if len(beyond) else self.steps
        return 10 ** x[:end], losses[:end], bool(len(beyond))

    def read(self):
        lrs, losses, exploded = self.curve()
        return read_curve(lrs, losses, exploded=exploded)


seeds = st.integers(0, 100_000)


@settings(max_examples=50, deadline=None)
@given(
    middle=st.floats(-4, -2),
    width=st.floats(0.3, 1.2),
    depth=st.floats(0.5, 5),
    level=st.floats(-10, 10),
    noise=st.floats(0, 0.1),
    seed=seeds,
)
def test_zones_and_suggestion_are_where_the_fall_is_whatever_the_size_and_the_noise_of_the_loss(
    middle, width, depth, level, noise, seed
):
    """In decades; in 5,000 draws with half as much noise again none was more than 0.23, 0.83 and 1.24 away."""
    noise *= depth
    if depth < 0.1 * abs(level):
        level = np.sign(level) * 10 * depth
    reading = Known(middle, width, 0.0, level, depth, noise, seed).read()
    assert reading.findings == ()
    found = reading.suggestion
    assert np.log10(found.value) == pytest.approx(middle, abs=0.3)
    assert np.log10(found.low) == pytest.approx(middle - width, abs=1.0)
    assert np.log10(found.high) == pytest.approx(0.0, abs=1.3)
    assert reading.falls_from == found.low < found.value < found.high == reading.unstable_from


@pytest.mark.parametrize("steps", [40, 100, 200, 1000, 5000])
def test_any_number_of_steps_finds_the_same(steps):
    found = Known(steps=steps, width=0.8).read().suggestion
    assert np.log10([found.low, found.value]) == pytest.approx([-3.3, -2.5], abs=0.35)


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1.5, 1.5), seed=seeds)
def test_a_loss_of_another_size_and_other_learning_rates_move_the_reading_along(scale, shift, seed):
    lrs, losses, exploded = Known(seed=seed).curve()
    here = read_curve(lrs, losses, exploded=exploded)
    there = read_curve(lrs * 10**shift, losses * scale, exploded=exploded)
    for name in ("value", "low", "high"):
        moved = np.log10(getattr(there.suggestion, name) / getattr(here.suggestion, name))
        assert moved == pytest.approx(shift, abs=1e-6)
    np.testing.assert_allclose(there.smoothed, here.smoothed * scale, rtol=1e-6, atol=1e-9 * scale)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, wild=st.floats(-50, 50), at=st.floats(-6, -1))
def test_one_wild_batch_moves_the_suggestion_little(seed, wild, at):
    lrs, losses, exploded = Known(seed=seed).curve()
    before = read_curve(lrs, losses, exploded=exploded).suggestion
    losses = losses.copy()
    losses[np.searchsorted(lrs, 10**at)] += wild
    after = read_curve(lrs, losses, exploded=exploded).suggestion
    assert np.log10(after.value / before.value) == pytest.approx(0, abs=0.2)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, level=st.floats(-5, 5), noise=st.floats(0.0, 2))
def test_noise_alone_is_no_learning(seed, level, noise):
    """A fall has to be five standard errors: in 5,000 draws of noise there was none."""
    reading = Known(depth=0, unstable=None, level=level, noise=noise, seed=seed).read()
    assert reading.findings == (Finding.FLAT,)
    assert reading.suggestion is reading.falls_from is reading.unstable_from is None


CASES = {
    "does not fall before it explodes": (Known(depth=0, level=3), (Finding.FLAT_THEN_UNSTABLE,), False),
    "explodes within the first decade": (Known(depth=0, unstable=-6.9), (Finding.UNSTABLE_FROM_THE_START,), False),
    "falls to the end": (Known(middle=0.8, unstable=None), (Finding.FALLING_TO_THE_END,), False),
    "falls by less than a hundredth": (Known(depth=0.01, noise=0, unstable=None), (Finding.FLAT,), False),
    "falls from the start": (Known(middle=-6.4, unstable=-4), (Finding.FALLING_FROM_THE_START,), True),
    "is stable to the end": (Known(unstable=None), (Finding.STABLE_TO_THE_END,), True),
    "has no noise": (Known(noise=0), (), True),
}


@pytest.mark.parametrize(("known", "findings", "suggests"), CASES.values(), ids=CASES)
def test_what_is_out_of_the_ordinary_is_said_and_no_number_made_up(known, findings, suggests):
    reading = known.read()
    assert reading.findings == findings
    assert (reading.suggestion is not None) is suggests


def test_bounds_end_with_the_test_where_it_shows_no_border():
    from_start = Known(middle=-6.4, unstable=-4).read()
    assert from_start.suggestion.low == pytest.approx(10**LOW)
    assert Known(unstable=None).read().suggestion.high == pytest.approx(10**HIGH)


def test_what_is_not_finite_is_unstable_with_all_that_follows():
    lrs, losses, _ = Known(unstable=None).curve()
    losses = np.where(lrs > 0.1, np.nan, losses)
    losses[-1] = 0.0
    reading = read_curve(lrs, losses, exploded=True)
    assert reading.unstable_from == pytest.approx(0.1, rel=0.1)
    assert np.isnan(reading.smoothed[lrs > 0.1]).all()
    assert np.isfinite(reading.smoothed[lrs < 0.1]).all()


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, np.nan], [2.0, 9.0, 80.0, np.inf]])
def test_a_test_that_ended_at_once_is_unstable_from_the_start_or_says_nothing(losses):
    reading = read_curve(np.geomspace(1, 10, len(losses)), losses, exploded=len(losses) > 1)
    assert reading.suggestion is None
    expected = Finding.UNSTABLE_FROM_THE_START if len(losses) > 1 else Finding.FLAT
    assert reading.findings == (expected,)


@pytest.mark.parametrize(("lrs", "losses"), [([1, 2], [1]), ([2, 1], [1, 1]), ([0, 1], [1, 1]), ([[1]], [[1]])])
def test_what_is_no_curve_is_refused(lrs, losses):
    with pytest.raises(ValueError, match=r"learning rate"):
        read_curve(lrs, losses)


@settings(max_examples=50, deadline=None)
@given(slope=st.floats(-5, 5), offset=st.floats(-5, 5))
def test_smoothing_leaves_a_straight_line_as_it_is_up_to_both_ends(slope, offset):
    x = np.linspace(0, 4, 60)
    smoothed, _ = smooth(x, offset + slope * x, HALF_WIDTH)
    np.testing.assert_allclose(smoothed, offset + slope * x, atol=1e-9)


def test_the_standard_error_of_smoothing_is_that_of_repeated_noise():
    """2,000 repetitions: an estimate of a deviation has an error of 1.6 %; 10 % is six of them."""
    x = np.linspace(0, 4, 100)
    generator = np.random.default_rng(0)
    repeated = np.array([smooth(x, generator.standard_normal(100), HALF_WIDTH)[0] for _ in range(2000)])
    _, share = smooth(x, generator.standard_normal(100), HALF_WIDTH)
    np.testing.assert_allclose(repeated.std(axis=0)[20:80].mean(), share[20:80].mean(), rtol=0.1)
