"""Places that are not to be drawn, whatever is expected of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.search.cache import digest_of
from tuner.search.dimensions import SAME
from tuner.search.encoding import Encoding
from tuner.search.history import History, State
from tuner.search.stages import Stage, inside, tunable

Array = NDArray[np.float64]

#: Trained trials that are looked at for one as large as what ran out of memory; among so many there is one, if ever.
MOST_COMPARED = 512


@dataclass(frozen=True)
class Avoided:
    """Candidates not to be drawn: too large for the memory, or drawn before where all that they have is discrete or fixed.

    What ran out of memory rules out what is not smaller in any parameter that needs memory, unless something that is not
    smaller was trained: then it was not the size alone. With a model, which learns how likely the rest is to fail, this
    holds of configurations with the same choices only, because it may have been one of these.

    In the coarse stage of a tier whose parameters are discrete these are not drawn twice, whatever the others are.
    Elsewhere a configuration is drawn before if all of its continua are switched off.
    """

    encoding: Encoding
    memory: tuple[int, ...]  # places of the dimensions that need memory
    same: tuple[int, ...]  # places of those that a limit is one of
    limits: Array  # of the infeasible trials, shape (n, memory); minus infinity where one has none
    choices: Array  # of the same trials, shape (n, same)
    free: tuple[int, ...]  # places of those that are not to repeat themselves
    drawn: frozenset[bytes]

    @classmethod
    def of(cls, history: History, encoding: Encoding, stage: Stage, *, learns: bool) -> Avoided:
        """Of the trials so far, for a draw of a stage, with a model or without one."""
        dimensions = encoding.dimensions
        memory = tuple(place for place, dimension in enumerate(dimensions) if dimension.memory)
        same = tuple(place for place, one in enumerate(dimensions) if learns and not one.ordered and not one.memory)
        limits, choices = _limits(history, encoding, memory, same)
        able = tunable(dimensions, stage.frame)
        free = tuple(place for place, one in enumerate(dimensions) if one.name in able)
        new = tuple(place for place in free if dimensions[place].name in stage.new)
        since = 0
        if _discrete(encoding, new) and not _discrete(encoding, free):
            free, since = new, stage.starts_at
        return cls(encoding, memory, same, limits, choices, free, _drawn(history, stage, encoding, free, since))

    @property
    def digest(self) -> bytes:
        return digest_of(self.memory, self.same, self.limits, self.choices, self.free, sorted(self.drawn))

    def penalty(self, units: Array) -> Array:
        """What is taken from the scores: nothing, or so much that the least of it decides where all are avoided."""
        snapped = self.encoding.without_inactive(units)
        penalty = np.zeros(len(units))
        if self.drawn:
            penalty += [1e9 * (key in self.drawn) for key in _keys(snapped[:, self.free])]
        if len(self.limits):
            too_large = _reach(snapped[:, self.memory], snapped[:, self.same], self.limits, self.choices).any(axis=1)
            penalty += too_large * (1e12 * (1.0 + np.nan_to_num(snapped[:, self.memory]).sum(1)))
        return penalty


def _limits(
    history: History, encoding: Encoding, memory: tuple[int, ...], same: tuple[int, ...]
) -> tuple[Array, Array]:
    """Sizes and choices of what ran out of memory, without those that something as large was trained with."""
    infeasible = history.numbers(State.INFEASIBLE) if memory else ()
    units = encoding.matrix([history[number].point for number in infeasible])
    limits, choices = np.nan_to_num(units[:, memory], nan=-math.inf), units[:, same]
    known = np.any(np.isfinite(limits), axis=1)
    if known.any():
        trained = {number for epoch in history.epochs_read for _, number in history.ranked(epoch)}
        trained.update(history.numbers(State.DIVERGED))
        newest = sorted(trained.difference(infeasible))[-MOST_COMPARED:]
        points = encoding.matrix([history[number].point for number in newest])
        known &= ~_reach(points[:, memory], points[:, same], limits, choices).any(axis=0)
    return limits[known], choices[known]


def _reach(sizes: Array, choices: Array, limits: Array, its_choices: Array) -> NDArray[np.bool_]:
    """Which of n configurations are in no size smaller than which of m limits with the same choices; shape (n, m)."""
    as_large = np.all(np.nan_to_num(sizes, nan=-math.inf)[:, None, :] >= limits[None, :, :] - 1e-9, axis=2)
    chosen, limited = (np.nan_to_num(units, nan=-1.0) for units in (choices, its_choices))
    return np.asarray(as_large & np.all(np.abs(chosen[:, None, :] - limited[None, :, :]) < SAME, axis=2))


def _discrete(encoding: Encoding, places: tuple[int, ...]) -> bool:
    return bool(places) and all(encoding.dimensions[place].cells for place in places)


def _drawn(history: History, stage: Stage, encoding: Encoding, free: tuple[int, ...], since: int) -> frozenset[bytes]:
    """Keys of what has no free continuum; of a candidate its key says that it has none either."""
    continua = [place for place in free if not encoding.dimensions[place].cells]
    if not free or any(not encoding.dimensions[place].when for place in continua):
        return frozenset()  # all have one; there may be thousands
    entries = inside([entry for entry in history if entry.number >= since and entry.point], stage.frame)
    units = encoding.matrix([entry.point for entry in entries])
    return frozenset(_keys(units[np.isnan(units[:, continua]).all(axis=1)][:, free]))


def _keys(units: Array) -> list[bytes]:
    return [row.tobytes() for row in np.round(np.nan_to_num(units, nan=-1.0), 6) + 0.0]
