"""From points of the unit cube to the inputs of a model, and the values that stand behind a coordinate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.search.dimensions import Dimension

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Encoding:
    """From points to the model's inputs.

    Ordered dimensions keep their coordinate, that of the value it stands for. Unordered ones become one column per
    choice, scaled by 1/√2, so that two choices are at distance 1. What a point does not have is encoded at 0.5, or
    halfway between all choices. The last column is the logarithm of the share of the full length, from 0 at 1/16 of it
    to 1 at the whole.
    """

    dimensions: tuple[Dimension, ...]
    epochs: int

    @property
    def groups(self) -> tuple[int, ...]:
        """For each column the number of its length scale."""
        widths = [self._width(dimension) for dimension in self.dimensions] + [1]
        return tuple(group for group, width in enumerate(widths) for _ in range(width))

    def matrix(self, points: Sequence[Mapping[str, float]]) -> Array:
        """Coordinates of points, nan where a point has none; shape (n, dimensions)."""
        names = [dimension.name for dimension in self.dimensions]
        return np.array([[point.get(name, math.nan) for name in names] for point in points]).reshape(
            len(points), len(names)
        )

    def without_inactive(self, units: Array) -> Array:
        """Coordinates of candidates, snapped to values, and nan where the values of the others switch one off."""
        units = units.copy()
        places = {dimension.name: place for place, dimension in enumerate(self.dimensions)}
        for place, dimension in enumerate(self.dimensions):
            units[:, place] = dimension.snapped(units[:, place])
        # A switch may be switched off itself, so this goes on for as long as a chain can be.
        for _ in range(max((len(dimension.when) for dimension in self.dimensions), default=0) and len(places)):
            for place, dimension in enumerate(self.dimensions):
                for name, allowed in dimension.when:
                    distances = np.abs(units[:, places[name], None] - np.array(allowed))
                    units[~np.any(distances < 1e-9, axis=1), place] = math.nan
        return units

    def encoded(self, units: Array, epochs: Array) -> Array:
        """Inputs of the model for coordinates of shape (n, dimensions), nan where inactive, and their epochs."""
        columns = [
            np.where(np.isnan(unit), 0.5, dimension.snapped(unit))[:, None]
            if self._width(dimension) == 1
            else _one_hot(unit, dimension.size or 1)
            for unit, dimension in zip(units.T, self.dimensions, strict=True)
        ]
        fidelity = 1.0 + np.log(np.maximum(epochs, 1) / self.epochs) / math.log(16.0)
        return np.concatenate([*columns, fidelity[:, None]], 1)

    @staticmethod
    def _width(dimension: Dimension) -> int:
        return 1 if dimension.ordered or not dimension.size or dimension.size == 2 else dimension.size


def _one_hot(units: Array, size: int) -> Array:
    active = ~np.isnan(units)
    columns = np.full((len(units), size), 1.0 / size)
    columns[active] = np.eye(size)[np.clip(units[active] * size, 0, size - 1).astype(int)]
    return columns / math.sqrt(2.0)
