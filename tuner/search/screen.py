"""Draws screened by a model of the learning curves seen so far.

A draw depends on the seed, the stage and its box, the index, and the history, and on nothing else: where time counts, on
the times that the history holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.search.acquisition import Acquisition, Pace
from tuner.search.avoided import Avoided
from tuner.search.cache import ScreenCache, digest_of
from tuner.search.dimensions import FREE, Dimension
from tuner.search.draws import uniform, zoomed
from tuner.search.encoding import Encoding
from tuner.search.feasibility import Feasibility
from tuner.search.history import History
from tuner.search.stages import Stage

Array = NDArray[np.float64]

CANDIDATES = 256  # in the box, and as many in the frame
STEPS = (0.2, 0.07, 0.025)  # of the local rounds
LOCAL_STARTS, LOCAL_MOVES = 8, 24
FIRST_VALUES = 2  # without them there is nothing to learn from


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
        self._score = Acquisition.of(history, self._encoding, self._cache) if learns else None
        self._pace = Pace.of(history, self._encoding) if timed and learns else None
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
