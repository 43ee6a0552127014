"""Places that are not to be drawn, whatever is expected of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.search.encoding import Encoding
from tuner.search.history import History, State
from tuner.search.stages import FREE, Stage, inside

Array = NDArray[np.float64]


def digest_of(*parts: Any) -> bytes:
    """Of arrays, and of whatever else says by its `repr` what it is."""
    made = hashlib.blake2b()
    for part in parts:
        made.update(repr(part.shape).encode() + part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return made.digest()


@dataclass(frozen=True)
class Avoided:
    """Candidates not to be drawn: too large for the memory, or drawn before where all is discrete or fixed."""

    encoding: Encoding
    places: tuple[int, ...]  # of the memory dimensions
    limits: Array  # of the infeasible trials there, shape (n, places); minus infinity where one has none
    free: tuple[int, ...]  # of the dimensions that the stage does not fix
    drawn: frozenset[bytes]

    @classmethod
    def of(cls, history: History, encoding: Encoding, stage: Stage) -> Avoided:
        places = tuple(place for place, dimension in enumerate(encoding.dimensions) if dimension.memory)
        entries = [history[number] for number in history.numbers(State.INFEASIBLE)] if places else []
        limits = encoding.matrix([entry.point for entry in entries])[:, places]
        limits = limits[~np.all(np.isnan(limits), axis=1)]
        frames = [stage.frame.get(dimension.name, FREE) for dimension in encoding.dimensions]
        free = tuple(place for place, (low, high) in enumerate(frames) if low < high)
        drawn = list[bytes]()
        if free and all(encoding.dimensions[place].cells for place in free):
            drawn = _keys(encoding.matrix([entry.point for entry in inside(list(history), stage.frame)])[:, free])
        return cls(encoding, places, np.where(np.isnan(limits), -math.inf, limits), free, frozenset(drawn))

    @property
    def digest(self) -> bytes:
        return digest_of(self.places, self.limits, self.free, sorted(self.drawn))

    def penalty(self, units: Array) -> Array:
        """What is taken from the scores: nothing, or so much that the least of it decides where all are avoided."""
        snapped = self.encoding.without_inactive(units)
        penalty = np.zeros(len(units))
        if self.drawn:
            penalty += [1e6 * (key in self.drawn) for key in _keys(snapped[:, self.free])]
        if len(self.limits):
            sizes = np.nan_to_num(snapped[:, self.places], nan=-math.inf)
            too_large = np.any(np.all(sizes[:, None, :] >= self.limits[None, :, :] - 1e-9, axis=2), axis=1)
            penalty += too_large * (1e12 * (1.0 + np.nan_to_num(snapped[:, self.places]).sum(1)))
        return penalty


def _keys(units: Array) -> list[bytes]:
    return [row.tobytes() for row in np.round(np.nan_to_num(units, nan=-1.0), 6) + 0.0]
