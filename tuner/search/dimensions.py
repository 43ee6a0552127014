"""The axes of the unit cube: what the search knows of each parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.space import Int, LogInt, Parameter, Scale, Space

Interval = tuple[float, float]

#: Of a dimension that is not fixed.
FREE: Interval = (0.0, 1.0)

#: An integer range with more cells than this is a continuum for the search.
MOST_CELLS = 1024
#: Two coordinates this near are the same; values are rounded to six digits between draw and history.
SAME = 1e-3


@dataclass(frozen=True)
class Dimension:
    """What the search has to know of one parameter.

    Attributes:
        name: the parameter.
        ordered: whether near coordinates mean near values.
        size: number of distinct values; None for a continuum.
        reach: lowest and highest coordinate that `search.expand` may draw.
        tier: priority, 1 first.
        memory: whether a larger value needs more memory.
        cells: (upper border, coordinate) of each distinct value, ascending; none for a continuum.
        when: other parameters by name with the coordinates at which this one is active; empty: always active.
    """

    name: str
    ordered: bool = True
    size: int | None = None
    reach: Interval = FREE
    tier: int = 1
    memory: bool = False
    cells: tuple[Interval, ...] = ()
    when: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @classmethod
    def of(cls, parameter: Parameter, space: Space | None = None) -> Dimension:
        """The dimension of a parameter; its conditions are known only if the space is given."""
        scale = parameter.scale
        when: list[tuple[str, tuple[float, ...]]] = []
        for name, allowed in parameter.when.items() if space else ():
            other = space[name].scale if space else scale
            when.append((name, tuple(other.to_unit(value) for value in allowed if other.contains(value))))
        return cls(
            name=parameter.name,
            ordered=scale.ordered,
            size=scale.size,
            reach=_aligned_reach(scale),
            tier=parameter.tier,
            memory=parameter.memory,
            cells=_cells(scale),
            when=tuple(when),
        )

    @classmethod
    def of_scale(cls, name: str, scale: Scale) -> Dimension:
        """The dimension of a bare scale, without tier, conditions and reach."""
        return cls(name=name, ordered=scale.ordered, size=scale.size, cells=_cells(scale))

    @cached_property
    def _borders_and_middles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        borders, middles = np.array(self.cells).T
        return borders, middles

    def snapped(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates moved to that of the value they stand for."""
        if not self.cells:
            return units
        borders, middles = self._borders_and_middles
        return np.asarray(middles[np.minimum(np.searchsorted(borders, units, side="right"), len(middles) - 1)])


def dimensions_of(space: Space) -> tuple[Dimension, ...]:
    """The dimensions of a space, in its order."""
    return tuple(Dimension.of(parameter, space) for parameter in space)


def _aligned_reach(scale: Any) -> Interval:
    """The reach without a last cell that the limit cuts: a step goes to it whole or not at all."""
    low, high = scale.reach
    if isinstance(scale, Int):
        return math.ceil(low * scale.size - 1e-9) / scale.size, math.floor(high * scale.size + 1e-9) / scale.size
    return low, high


def _cells(scale: Any) -> tuple[Interval, ...]:
    if scale.size is None or scale.size > MOST_CELLS:
        return ()
    low, high = _aligned_reach(scale)
    if isinstance(scale, LogInt):
        first, last = scale.limit or (scale.low, scale.high)
        if last - first >= MOST_CELLS:
            return ()
        return tuple((scale.to_unit(n + 0.5), scale.to_unit(n)) for n in range(first, last + 1))
    first, last = round(low * scale.size), round(high * scale.size)
    if last - first > MOST_CELLS:
        return ()
    return tuple(((cell + 1) / scale.size, (cell + 0.5) / scale.size) for cell in range(first, last))
