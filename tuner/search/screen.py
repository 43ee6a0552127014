"""Draws screened by a model of the learning curves seen so far.

A draw depends on the seed, the stage and its box, the index, and the history, and on nothing else: where time counts, on
the times that the history holds.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tuner.search.avoided import Avoided, digest_of
from tuner.search.dimensions import FREE, Dimension
from tuner.search.draws import uniform, zoomed
from tuner.search.encoding import Encoding
from tuner.search.feasibility import Feasibility
from tuner.search.history import History, Reading, State
from tuner.search.promotion import MOST_READINGS
from tuner.search.stages import Stage

if TYPE_CHECKING:
    from tuner.search.model import Hyperparameters

Array = NDArray[np.float64]

CANDIDATES = 256  # in the box, and as many in the frame
STEPS = (0.2, 0.07, 0.025)  # of the local rounds
LOCAL_STARTS, LOCAL_MOVES = 8, 24
MOST_FALLEN, MOST_FANTASIES = 32, 64
MOST_ROWS = MOST_READINGS + MOST_FALLEN  # that the model is given
#: That its hyperparameters are fitted on: a sixth of the time that all of them would take, and a worker waits for it.
MOST_FITTED = 128
FIRST_VALUES = 2  # without them there is nothing to learn from
FIRST_FIT, FIT_GROWTH = 3, 1.1
#: Of a kind that are kept; events of other workers may come between two decisions about the same trials.
MOST_KEPT = 8
#: A reading below this share of the full length says too little about it.
SHORTEST = 0.1
LARGEST = 1e100  # of a value; the square of it is still a number

_Numbered = tuple[int, int, Reading]  # (order, number of the trial, reading), as in a history


class ScreenCache:
    """Keeps what is costly and will be asked for again.

    The last hyperparameters of models, of which the one of the values is fitted again when the data has grown by a tenth.
    The last best candidates, which a rule decided by, and which are drawn then. It saves time and changes nothing: the keys
    are everything that a result depends on.

    Attributes:
        fits: how often hyperparameters were fitted.
        searches: how often candidates were.
    """

    def __init__(self) -> None:
        self.fits = self.searches = 0
        self._hyper: dict[bytes, Hyperparameters] = {}
        self._best: dict[Hashable, Candidate] = {}

    def fitted(self, x: Array, y: Array, groups: tuple[int, ...]) -> Hyperparameters:
        """Hyperparameters of the model of such data."""
        from tuner.search.model import fit  # noqa: PLC0415  the first draws need no model, nor what it imports

        key = digest_of(groups, x, y)
        hyper = self._hyper.get(key)
        if hyper is None:
            hyper = self._hyper[key] = fit(x, y, groups)
            self.fits += 1
            _forget(self._hyper)
        return hyper

    def best(self, key: Hashable, found: Callable[[], Candidate]) -> Candidate:
        """The best candidate of a search, which `found` finds."""
        best = self._best.get(key)
        if best is None:
            best = self._best[key] = found()
            self.searches += 1
            _forget(self._best)
        return best


def _forget(kept: dict[Any, Any]) -> None:
    while len(kept) > MOST_KEPT:
        kept.pop(next(iter(kept)), None)  # the oldest one


@dataclass(frozen=True)
class _Row:
    """A value at a point and an epoch; not finite: the worst."""

    number: int
    epoch: int
    value: float


@dataclass(frozen=True)
class Candidate:
    """A place to draw at, the best that was found.

    Attributes:
        point: its coordinates by name.
        expected: log of the expected improvement at full length, in standardised values.
        pace: seconds per epoch, where time counts and something is known about it.
    """

    point: dict[str, float]
    expected: float
    pace: float | None = None


class Screen:
    """The candidates of one draw, and what a Gaussian process over (point, log epoch) expects of them at full length.

    256 candidates come from the stage's box and 256 from its frame; then the best ones are moved at random in three
    rounds of smaller and smaller steps. Running trials count as read at what the model expects of them (Ginsbourger et
    al. 2010, "Kriging is well-suited to parallelize optimization", the believer), so that parallel draws differ;
    diverged ones as the worst value. What ran out of memory rules out what is not smaller (`Avoided`), and everything
    counts for less by how likely it is to fail (`Feasibility`). Without two values to learn from the best candidate is
    `zoomed`, and all are expected to be alike. Where everything is discrete or switched off, and the space is known,
    nothing is drawn twice while something else is easily found.

    Args:
        history: the trials so far.
        stage: where to draw.
        dimensions: the space.
        seed: the round's seed.
        index: index of the draw.
        epochs: the full length of a training.
        learns: whether a model of the history scores candidates; without it the best one is `zoomed`.
        timed: whether the best candidate is that of the highest expected improvement per second (Snoek et al. 2012,
            arXiv:1206.2944, section 3.2), not the highest of all.
        cache: keeps hyperparameters and candidates between draws; not needed for the result.
    """

    def __init__(
        self,
        history: History,
        stage: Stage,
        dimensions: Sequence[Dimension],
        seed: int,
        index: int,
        *,
        epochs: int,
        learns: bool = True,
        timed: bool = False,
        cache: ScreenCache | None = None,
    ) -> None:
        self._stage, self._dimensions, self._seed, self._index = stage, tuple(dimensions), seed, index
        self._encoding = Encoding(self._dimensions, epochs)
        self._cache = cache or ScreenCache()
        learns = learns and len(history.readings) >= FIRST_VALUES and bool(dimensions)
        self._avoid = Avoided.of(history, self._encoding, stage, learns=learns)
        self._score = _acquisition(history, self._encoding, self._cache) if learns else None
        self._pace = _Pace.of(history, self._encoding) if timed and learns else None
        self._feasible = Feasibility.of(history, self._encoding, self._cache) if learns else None

    def expected(self, points: Sequence[Mapping[str, float]]) -> Array:
        """Log of the expected improvement of points at full length, in standardised values; shape (n,)."""
        if self._score is None or not points:
            return np.zeros(len(points))
        units = self._encoding.matrix(points)
        return np.asarray(self._score(units) + self._likely(units))

    def final(self, points: Sequence[Mapping[str, float]]) -> Array:
        """How much points are worth as the last ones to be trained in full, the higher the better; shape (n,)."""
        if self._score is None or not points:
            return np.zeros(len(points))
        units = self._encoding.matrix(points)
        return np.asarray(self._score.final(units) + self._likely(units))

    def best(self) -> Candidate:
        """The candidate of the highest expected improvement, per second if time counts."""
        learnt = (part and part.digest for part in (self._score, self._avoid, self._feasible, self._pace))
        digest = digest_of(*learnt, self._encoding.epochs, self._stage, self._seed, self._index)
        return self._cache.best((self._dimensions, digest), self._found)

    def _found(self) -> Candidate:
        if self._score is None:
            point = zoomed(self._stage, self._seed, self._index)
            if not self._dimensions or not self._avoid.penalty(self._encoding.matrix([point])).any():
                return Candidate(point, 0.0)
        stage, dimensions = self._stage, self._dimensions
        random = np.random.Generator(
            np.random.PCG64(int(uniform(self._seed, stage.number, self._index, "screen") * 2**53))
        )
        box = np.array([stage.box.get(dimension.name, FREE) for dimension in dimensions])
        frame = np.array([stage.frame.get(dimension.name, FREE) for dimension in dimensions])
        limits = np.stack([np.minimum(box[:, 0], frame[:, 0]), np.maximum(box[:, 1], frame[:, 1])])
        drawn = random.random((2 * CANDIDATES, len(dimensions)))
        region = np.repeat([box, frame], CANDIDATES, axis=0)
        units = region[:, :, 0] + drawn * (region[:, :, 1] - region[:, :, 0])
        values = self._worth(units)
        for step in STEPS:
            starts = units[np.argsort(-values, kind="stable")[:LOCAL_STARTS]]
            moved = _moved(np.repeat(starts, LOCAL_MOVES, axis=0), step, dimensions, limits, random)
            units = np.concatenate([units, moved])
            values = np.concatenate([values, self._worth(moved)])
        best = int(np.argmax(values))
        point = {dimension.name: float(unit) for dimension, unit in zip(dimensions, units[best], strict=True)}
        if self._pace is None:
            return Candidate(point, float(values[best]))
        pace = float(self._pace(units[best : best + 1])[0])
        return Candidate(point, float(values[best]) + math.log(pace), pace)

    def _worth(self, units: Array) -> Array:
        worth = (self._score(units) if self._score else np.zeros(len(units))) - self._avoid.penalty(units)
        worth += self._likely(units)
        return np.asarray(worth - np.log(self._pace(units)) if self._pace else worth)

    def _likely(self, units: Array) -> Array | float:
        return self._feasible(units) if self._feasible else 0.0


def _moved(
    units: Array, step: float, dimensions: Sequence[Dimension], limits: Array, random: np.random.Generator
) -> Array:
    """Points a random step away; an unordered dimension has no steps, it is drawn anew now and then."""
    moved = units + step * random.standard_normal(units.shape)
    anew = random.random(units.shape)
    low, high = limits
    for place, dimension in enumerate(dimensions):
        if not dimension.ordered:
            # Numbers below `step` say that it is drawn anew, and where: they are uniform again once divided by it.
            drawn = low[place] + anew[:, place] / step * (high[place] - low[place])
            moved[:, place] = np.where(anew[:, place] < step, drawn, units[:, place])
    # Thrown back at an edge, not stopped there: many that end on the very edge would be one configuration.
    moved = np.where(moved < low, 2 * low - moved, np.where(moved > high, 2 * high - moved, moved))
    return np.asarray(np.clip(moved, low, high))


class _Acquisition:
    """Log expected improvement at full length, for candidates.

    Args:
        encoding: of points.
        x, y: measured rows, and after them those that are believed of running trials.
        hyper: of the model.
        in_full: for each measured row whether a training came to its end there.
    """

    def __init__(
        self, encoding: Encoding, x: Array, y: Array, hyper: Hyperparameters, in_full: NDArray[np.bool_]
    ) -> None:
        from tuner.search.model import Posterior  # noqa: PLC0415

        self._encoding = encoding
        measured = len(in_full)
        self.digest = digest_of(x, y, hyper, measured)
        self._posterior = Posterior(x, y, hyper, encoding.groups)
        whole = x[:measured].copy()
        whole[:, -1] = 1.0
        # What the measured points are expected to reach, not the best value seen: that one is lucky, or missing.
        expected = self._posterior.mean(whole)
        self._best = float(expected.min())
        self._best_in_full = float(expected[in_full].min()) if in_full.any() else None

    def __call__(self, units: Array) -> Array:
        from tuner.search.model import log_expected_improvement  # noqa: PLC0415

        return log_expected_improvement(*self._at_full_length(units), self._best)

    def final(self, units: Array) -> Array:
        """Log of the improvement on what was trained in full; where nothing was, what is recommended will be this one."""
        from tuner.search.model import log_expected_improvement  # noqa: PLC0415

        mean, variance = self._at_full_length(units)
        if self._best_in_full is None:
            return -mean
        return log_expected_improvement(mean, variance, self._best_in_full)

    def _at_full_length(self, units: Array) -> tuple[Array, Array]:
        epochs = np.full(len(units), self._encoding.epochs)
        return self._posterior.predict(self._encoding.encoded(self._encoding.without_inactive(units), epochs))


class _Pace:
    """Seconds per epoch of candidates, by a Gaussian process over their logarithms.

    Its hyperparameters are fixed: how long an epoch takes depends smoothly on few things, and the first epochs of a
    worker, or those beside a busy neighbour, are off by some ten percent.
    """

    LENGTH, NOISE = 2.0, 0.05

    @classmethod
    def of(cls, history: History, encoding: Encoding) -> _Pace | None:
        """Of the trials that were read last; None where none has a pace."""
        numbers = sorted({number for _, number, _ in history.readings[-MOST_ROWS:]})
        known = [(entry.point, entry.pace) for entry in map(history.__getitem__, numbers) if entry.pace]
        return cls(encoding, known) if known else None

    def __init__(self, encoding: Encoding, known: Sequence[tuple[Mapping[str, float], float]]) -> None:
        from tuner.search.model import Hyperparameters, Posterior  # noqa: PLC0415

        self._encoding = encoding
        logs = np.log([pace for _, pace in known])
        self._mean, self._deviation = float(logs.mean()), float(logs.std()) or 1.0
        hyper = Hyperparameters((self.LENGTH,) * (max(encoding.groups) + 1), 1.0, self.NOISE)
        x = self._inputs(encoding.matrix([point for point, _ in known]))
        self.digest = digest_of(x, logs)
        self._posterior = Posterior(x, (logs - self._mean) / self._deviation, hyper, encoding.groups)

    def __call__(self, units: Array) -> Array:
        """Seconds per epoch; shape (n,)."""
        x = self._inputs(self._encoding.without_inactive(units))
        return np.asarray(np.exp(self._mean + self._deviation * self._posterior.mean(x)))

    def _inputs(self, units: Array) -> Array:
        return self._encoding.encoded(units, np.full(len(units), self._encoding.epochs))


def _acquisition(history: History, encoding: Encoding, cache: ScreenCache) -> _Acquisition:
    from tuner.search.model import Posterior  # noqa: PLC0415

    fitted_on = _measured(history, encoding.epochs, _fit_size(len(history.readings)), MOST_FITTED)
    hyper = cache.fitted(*_data(history, encoding, fitted_on), encoding.groups)
    measured = _measured(history, encoding.epochs, len(history.readings), all_fallen=True)
    x, y = _data(history, encoding, measured)
    fantasies = _fantasies(history, encoding.epochs, [row.epoch for row in measured])
    points = encoding.matrix([history[row.number].point for row in fantasies])
    imagined = encoding.encoded(points, np.array([row.epoch for row in fantasies], dtype=float))
    if len(imagined):
        believed = Posterior(x, y, hyper, encoding.groups).mean(imagined)
        y = np.concatenate([y, believed])
    in_full = np.array([row.epoch >= encoding.epochs and math.isfinite(row.value) for row in measured], dtype=bool)
    return _Acquisition(encoding, np.concatenate([x, imagined]), y, hyper, in_full)


@lru_cache(maxsize=64)
def _fit_size(readings: int) -> int:
    """Readings that the hyperparameters are fitted on: a fixed sequence that grows by a tenth."""
    size = min(FIRST_FIT, readings)
    while (larger := max(size + 1, math.floor(size * FIT_GROWTH))) <= readings:
        size = larger
    return size


def _measured(
    history: History, epochs: int, upto: int, most: int = MOST_ROWS, *, all_fallen: bool = False
) -> list[_Row]:
    """What the model learns from of the first `upto` readings, and of the diverged trials up to the newest of these.

    Or of all that diverged, because many may do so before one is read again.
    """
    chosen = _chosen(history, history.readings[:upto], most - MOST_FALLEN)
    newest = max((number for _, number, _ in chosen), default=-1)
    fallen = history.numbers(State.DIVERGED)
    without = set(fallen)
    known = [row for row in chosen if row[2].epoch >= SHORTEST * epochs and row[1] not in without]
    rows = [_Row(number, reading.epoch, reading.value) for _, number, reading in known or chosen]
    counted = (fallen if all_fallen else fallen[: bisect_right(fallen, newest)])[-MOST_FALLEN:]
    return rows + [_Row(number, history[number].target or epochs, math.inf) for number in counted]


def _chosen(history: History, readings: Sequence[_Numbered], most: int) -> Sequence[_Numbered]:
    """At most `most` readings: a quarter the best ones, a quarter the newest ones, the rest spread evenly."""
    if len(readings) <= most:
        return readings
    quarter = most // 4
    end = readings[-1][0]
    best = islice((row for row in _best_first(history) if row[0] <= end), quarter)
    spread = [readings[i * len(readings) // (2 * quarter)] for i in range(2 * quarter)]
    return sorted({*best, *readings[-quarter:], *spread}, key=lambda row: row[:2])


def _best_first(history: History) -> Iterator[_Numbered]:
    """All readings by value, without looking at more of them than are asked for."""
    ranked = [zip(history.ranked(epoch), repeat(epoch)) for epoch in history.epochs_read]
    for (_, number), epoch in heapq.merge(*ranked):
        reading = history[number].at(epoch)
        assert reading is not None
        yield reading.order, number, reading


def _data(history: History, encoding: Encoding, rows: Sequence[_Row]) -> tuple[Array, Array]:
    units = encoding.matrix([history[row.number].point for row in rows])
    x = encoding.encoded(units, np.array([row.epoch for row in rows], dtype=float))
    return x, _standardised(np.array([row.value for row in rows]))


def _standardised(values: Array) -> Array:
    """Values of mean 0 and deviation 1.

    What is not finite counts as the worst finite value. An exploded loss would be all the variance there is, so on the
    bad side values end at Tukey's outer fence, the upper quartile plus three times the interquartile range.
    """
    values = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), math.inf)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros_like(values)
    lower, upper = np.quantile(finite, [0.25, 0.75])
    fence = upper + 3.0 * (upper - lower)
    worst = min(finite.max(), fence) if upper > lower else finite.max()
    bounded = np.where(np.isfinite(values), np.minimum(values, worst), worst)
    deviation = bounded.std()
    return np.asarray((bounded - bounded.mean()) / (deviation if deviation > 0 else 1.0))


def _fantasies(history: History, epochs: int, known: Sequence[int]) -> list[_Row]:
    """Running trials at the epoch they train to; one that does not say goes as far as others were read."""
    numbers = [number for state in (State.RUNNING, State.INTERRUPTED) for number in history.numbers(state)]
    shortest = min(known, default=epochs)
    return [
        _Row(number, entry.target or (epochs if entry.readings else shortest), math.nan)
        for number, entry in ((number, history[number]) for number in sorted(numbers)[-MOST_FANTASIES:])
    ]
