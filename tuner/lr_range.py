"""What the curve of a learning-rate range test says: where learning begins, where it ends, and what to search between.

Smith, arXiv:1506.01186, section 3.3, reads two learning rates off the curve by eye: where the loss begins to fall, and
where it stops falling or turns ragged. Here both are borders that a share of the fall defines, so that neither the
noise of single batches nor the size of the loss matters:

| zone | learning rates | border |
| --- | --- | --- |
| flat | too low to learn within the test | up to where a tenth of the fall has been made |
| falling | those that learn | from there to where a tenth of the fall is lost again |
| unstable | too high | from there on |

The fall is that of the smoothed curve, from the level of the first losses to its lowest point; where three standard
errors of the curve are more than a tenth of it, they define the borders. The suggested value is where half of the fall
has been made, for the last time before the lowest point; that need not be the middle of the falling zone. As half of
the slope over log lr lies on either side of it, it is the median of the slope; the place where the slope is steepest,
which fastai and Lightning look for, is the mode, which one batch can move, and over lr instead of log lr it lies at
the low end.

How the losses are obtained is the business of `tuner.training.lr_range`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Share of the fall that borders are defined by.
BORDER = 0.1
#: A border is at least so many standard errors of the smoothed curve from the level and from the lowest point.
WAVE = 3.0
#: Reach of the smoothing to each side, in decades of the learning rate; a slope takes one to two decades.
HALF_WIDTH = 0.5
#: It reaches at least so many steps, so that a short test is smoothed as well.
LEAST_STEPS = 4
#: The level is the median of at least so many losses.
LEAST_FIRST = 5
#: Longer curves are averaged to so many points first.
MOST_POINTS = 512
#: Passes of the smoothing that weigh down what lies far from the pass before (Cleveland 1979).
ROBUST_PASSES = 2
#: A residual of six times this share of the range of the losses is no outlier yet, however small the others are.
LEAST_OUTLIER = 0.02
#: A fall is real if it is more than so many standard errors of the smoothed curve. About 20 independent stretches of
#: noise have a lowest value of -2 of them, and the level that it is compared with has an error too.
SURE = 5.0
#: A fall of less than this share of the loss's size is no learning, however sure it is.
LEAST_FALL = 0.01


class Finding(enum.Enum):
    """What can be said of a curve; the value is what to do about it."""

    FLAT = (
        "the loss does not fall anywhere: the model does not learn in so short a run, or the noise of the batches hides"
        " it. Write a larger steps= or high=; if that does not help, the module's loss or its gradients are wrong."
    )
    FLAT_THEN_UNSTABLE = (
        "the loss does not fall before it becomes unstable: no learning rate learns in so short a run, or the noise of"
        " the batches hides it. Write a larger steps=."
    )
    UNSTABLE_FROM_THE_START = "the loss is unstable from the start: even low= is too high. Write a lower low=."
    FALLING_TO_THE_END = (
        "the loss still falls at the end: how far it would go, and where it becomes unstable, is not in the curve."
        " Write a larger high=."
    )
    FALLING_FROM_THE_START = (
        "the loss falls from the start, so that the lower end of the range is where the test began, not where learning"
        " begins. Write a lower low= to see that."
    )
    STABLE_TO_THE_END = (
        "the loss does not become unstable, so that the upper end of the range is where the test ended. Write a larger"
        " high= to see how far it goes."
    )


@dataclass(frozen=True)
class Suggestion:
    """What to train with and what to search, learning rates.

    Attributes:
        value: where half of the fall has been made.
        low: where the falling zone begins.
        high: where it ends.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reading:
    """A curve with its zones.

    Attributes:
        lrs: learning rates, shape (n,), ascending.
        losses: the loss of each, shape (n,); the last ones may not be finite.
        smoothed: shape (n,); nan from where the loss is not finite.
        falls_from: where the falling zone begins; None without one.
        unstable_from: where the unstable zone begins; None without one.
        suggestion: None where the curve does not have one.
        findings: what is out of the ordinary.
    """

    lrs: Floats
    losses: Floats
    smoothed: Floats
    falls_from: float | None
    unstable_from: float | None
    suggestion: Suggestion | None
    findings: tuple[Finding, ...]


def read_curve(lrs: ArrayLike, losses: ArrayLike, *, exploded: bool = False) -> Reading:
    """Zones, suggestion and findings of a range test.

    Args:
        lrs: learning rate of each step, ascending, above 0, shape (n,).
        losses: training loss of each step, shape (n,); from the first that is not finite all are unstable.
        exploded: whether the test ended early because the loss had exploded.

    Raises:
        ValueError: the two differ in length, or the learning rates are not ascending and above 0.
    """
    lrs_, losses_ = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if lrs_.ndim != 1 or lrs_.shape != losses_.shape:
        raise ValueError(f"a learning rate and a loss for each step, got shapes {lrs_.shape} and {losses_.shape}")
    if not (np.all(lrs_ > 0) and np.all(np.diff(lrs_) > 0)):
        raise ValueError("learning rates must be above 0 and ascending")
    bad = np.flatnonzero(~np.isfinite(losses_))
    count = int(bad[0]) if len(bad) else len(losses_)
    broken = float(lrs_[count]) if len(bad) else None
    if count <= LEAST_STEPS:
        finding = Finding.UNSTABLE_FROM_THE_START if broken or exploded else Finding.FLAT
        unstable = float(lrs_[0]) if finding is Finding.UNSTABLE_FROM_THE_START else None
        return Reading(lrs_, losses_, np.full(len(lrs_), np.nan), None, unstable, None, (finding,))
    curve = _Curve(lrs_[:count], losses_[:count])
    smoothed = np.full(len(lrs_), np.nan)
    smoothed[:count] = curve.at(lrs_[:count])
    falls_from, unstable_from, suggestion, findings = _judged(curve, broken, exploded=exploded)
    return Reading(lrs_, losses_, smoothed, falls_from, unstable_from, suggestion, findings)


class _Curve:
    """A finite curve over log10 lr, with its level, its fall and the error of its smoothing."""

    def __init__(self, lrs: Floats, losses: Floats) -> None:
        self.x, raw = _thinned(np.log10(lrs), losses)
        self._noise = _noise(raw)
        self._set_level(raw, LEAST_FIRST)
        # What is far above the level is unstable, however far: it must not bend the smoothed curve before it.
        fall = self.level - float(_running_median(raw).min())
        self.y, share = smooth(self.x, np.minimum(raw, self.level + max(fall, SURE * self._noise)), self._half_width())
        self.error = self._noise * share  # standard error of each point, shape (n,)
        self.lowest = int(np.argmin(self.y))
        # The first of the steps before the middle are flat, or as near to it as the curve comes.
        middle = int(np.searchsorted(self.x, np.log10(self.down_through(0.5))))
        self._set_level(raw, max(LEAST_FIRST, middle // 3))

    def _set_level(self, raw: Floats, steps: int) -> None:
        self.level = float(np.median(raw[:steps]))
        # sqrt(pi / 2): the error of a median over that of a mean.
        self._level_error = self._noise * float(np.sqrt(np.pi / 2 / len(raw[:steps])))

    @property
    def fall(self) -> float:
        return self.level - float(self.y[self.lowest])

    def _half_width(self) -> float:
        spacing = (self.x[-1] - self.x[0]) / (len(self.x) - 1)
        return max(HALF_WIDTH, LEAST_STEPS * float(spacing))

    @property
    def _distance_error(self) -> Floats:
        """Standard error of each point's distance from the level, shape (n,)."""
        return np.hypot(self.error, self._level_error)

    @property
    def learns(self) -> bool:
        return self.fall > SURE * float(self._distance_error[self.lowest]) and self.fall > LEAST_FALL * abs(self.level)

    @property
    def border(self) -> float:
        """Share of the fall that defines borders: more where the noise makes waves of that height."""
        return min(max(BORDER, WAVE * float(self._distance_error[self.lowest]) / self.fall), 0.4)

    def at(self, lrs: Floats) -> Floats:
        return np.interp(np.log10(lrs), self.x, self.y)

    def down_through(self, share: float) -> float:
        """The last lr before the lowest point at which less than this share of the fall has been made."""
        above = np.flatnonzero(self.y[: self.lowest] > self.level - share * self.fall)
        return self._crossing(int(above[-1]), share) if len(above) else 10 ** float(self.x[0])

    def up_through(self, share: float) -> float | None:
        """The first lr after the lowest point at which no more than this share of the fall is left; None if it is."""
        above = np.flatnonzero(self.y[self.lowest :] > self.level - share * self.fall)
        return self._crossing(self.lowest + int(above[0]) - 1, share) if len(above) else None

    def rises_from(self) -> float | None:
        """The first lr from which on a curve that does not fall is surely above its level; None if it is not."""
        sure = np.maximum(SURE * self._distance_error, LEAST_FALL * abs(self.level))
        below = np.flatnonzero(self.y <= self.level + sure)
        last = int(below[-1]) if len(below) else -1
        return None if last == len(self.y) - 1 else 10 ** float(self.x[last + 1])

    def _crossing(self, before: int, share: float) -> float:
        """Where, between a point and the next, the curve has the height at which this share of the fall is made."""
        x, y, height = self.x[before : before + 2], self.y[before : before + 2], self.level - share * self.fall
        part = (height - y[0]) / (y[1] - y[0]) if y[1] != y[0] else 0.0
        return 10 ** float(x[0] + part * (x[1] - x[0]))


def _judged(
    curve: _Curve, broken: float | None, *, exploded: bool
) -> tuple[float | None, float | None, Suggestion | None, tuple[Finding, ...]]:
    start, end = (10 ** float(x) for x in curve.x[[0, -1]])
    ended = broken or (end if exploded else None)  # where no curve is left
    # What is nearer to an end of the curve than the smoothing reaches is not told from that end.
    from_start, to_end = start * 10**HALF_WIDTH, end / 10**HALF_WIDTH
    if not curve.learns:
        unstable = curve.rises_from() or ended
        if unstable is None:
            return None, None, None, (Finding.FLAT,)
        early = unstable <= from_start or (ended is not None and ended <= from_start * 10**HALF_WIDTH)
        finding = Finding.UNSTABLE_FROM_THE_START if early else Finding.FLAT_THEN_UNSTABLE
        return None, start if early else unstable, None, (finding,)
    border = curve.border
    falls_from = curve.down_through(border)
    unstable = curve.up_through(1 - border) or ended
    if unstable is None and curve.down_through(1 - border) > to_end:
        return falls_from, None, None, (Finding.FALLING_TO_THE_END,)
    findings = []
    if falls_from <= from_start:
        falls_from = start
        findings.append(Finding.FALLING_FROM_THE_START)
    if unstable is None:
        findings.append(Finding.STABLE_TO_THE_END)
    suggestion = Suggestion(curve.down_through(0.5), falls_from, unstable or end)
    return falls_from, unstable, suggestion, tuple(findings)


def smooth(x: Floats, y: Floats, half_width: float) -> tuple[Floats, Floats]:
    """Robust local regression: at each point a straight line through its neighbours, nearer ones with more weight.

    Cleveland, "Robust Locally Weighted Regression and Smoothing Scatterplots", JASA 74 (1979), with a window of fixed
    width: tricube weights, then bisquare weights by the residuals of the pass before. Unlike a running mean it has no
    lag, and at the ends no bias from a slope.

    Args:
        x: ascending, shape (n,).
        y: shape (n,).
        half_width: reach of the window to each side, in units of `x`; at least two points have to lie in it.

    Returns:
        The smoothed values, and their standard errors as a share of the noise's, each of shape (n,).
    """
    distance = x[None, :] - x[:, None]
    kernel = np.clip(1 - np.abs(distance / half_width) ** 3, 0, None) ** 3
    trust = np.ones_like(y)
    for _ in range(ROBUST_PASSES + 1):
        rows = _rows(distance, kernel * trust)
        fitted = rows @ y
        residuals = np.abs(y - fitted)
        # Where there is little noise, what a line cannot follow is no outlier.
        spread = 6 * max(float(np.median(residuals)), LEAST_OUTLIER * float(np.ptp(y)))
        if spread == 0:
            break
        trust = np.clip(1 - (residuals / spread) ** 2, 1e-6, None) ** 2
    return fitted, np.sqrt((rows**2).sum(axis=1))


def _rows(distance: Floats, weights: Floats) -> Floats:
    """The matrix that takes values to those of the lines at their points: weighted least squares, one row a point."""
    zeroth = weights.sum(axis=1, keepdims=True)
    first = (weights * distance).sum(axis=1, keepdims=True)
    second = (weights * distance**2).sum(axis=1, keepdims=True)
    return np.asarray(weights * (second - distance * first) / (zeroth * second - first**2))


def _noise(y: Floats) -> float:
    """Standard deviation of the noise, from second differences, which cancel any slope.

    Gasser, Sroka & Jennen-Steinmetz, Biometrika 73 (1986), with a median instead of a mean, so that the ragged end of
    a curve does not count.
    """
    bends = y[1:-1] - (y[:-2] + y[2:]) / 2
    # 1.4826: from the median of absolute values to the deviation of a normal; 1.5: variance of a bend.
    return float(1.4826 * np.median(np.abs(bends)) / np.sqrt(1.5))


def _running_median(y: Floats, size: int = 5) -> Floats:
    padded = np.pad(y, size // 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=1))


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Means of neighbours, at most `MOST_POINTS`."""
    groups = min(len(x), MOST_POINTS)
    return _means(x, groups), _means(y, groups)


def _means(values: Floats, groups: int) -> Floats:
    parts: Sequence[Floats] = np.array_split(values, groups)
    return np.array([part.mean() for part in parts])
