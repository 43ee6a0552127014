"""Parameters as Optuna sees them: their names, their distributions and their stored values.

A one_minus_pow10 parameter is stored as its complement, log-uniform, so that every sampler, plot and importance of
Optuna sees it on its true scale. The other way round, `scale_of` gives the scale of a distribution that somebody's own
objective suggests from, so that both share one way through the unit interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuner.search.dimensions import Dimension
from tuner.space import (
    Categorical,
    Int,
    LogInt,
    LogUniform,
    OneMinusPow10,
    Parameter,
    Scale,
    Space,
    Uniform,
    Value,
    complement,
)

COMPLEMENT_PREFIX = "1-"


def optuna_name(parameter: Parameter) -> str:
    """What the parameter is called in Optuna: `1-momentum` for a one_minus_pow10 parameter `momentum`."""
    return f"{COMPLEMENT_PREFIX}{parameter.name}" if isinstance(parameter.scale, OneMinusPow10) else parameter.name


def distribution(parameter: Parameter, *, expand: bool = False) -> BaseDistribution:
    """The distribution of a parameter, which never changes during a study.

    Args:
        parameter: the parameter.
        expand: whether the search may pass the declared range; then the distribution spans the parameter's limit.
    """
    scale = parameter.scale.of_complement() if isinstance(parameter.scale, OneMinusPow10) else parameter.scale
    if isinstance(scale, Categorical):
        return CategoricalDistribution(scale.choices)
    if isinstance(scale, Int):
        reach = Dimension.of(parameter).reach if expand else (0.0, 1.0)
        first, last = (round(edge * scale.size) for edge in reach)
        return IntDistribution(scale.low + scale.step * first, scale.low + scale.step * (last - 1), step=scale.step)
    if isinstance(scale, LogInt):
        low, high = (expand and scale.limit) or (scale.low, scale.high)
        return IntDistribution(low, high, log=True)
    if isinstance(scale, Uniform | LogUniform):
        bounds = (expand and scale.limit) or (scale.low, scale.high)
        return FloatDistribution(*bounds, log=isinstance(scale, LogUniform))
    raise TypeError(f"{parameter.name}: no distribution for the scale {scale!r}")


def to_optuna(parameter: Parameter, value: Value) -> Value:
    """What Optuna stores for a value."""
    return complement(value) if isinstance(parameter.scale, OneMinusPow10) else value


def to_optuna_params(space: Space, values: Mapping[str, Value]) -> dict[str, Value]:
    """What Optuna stores for values by parameter name."""
    return {optuna_name(space[name]): to_optuna(space[name], value) for name, value in values.items()}


def from_optuna(parameter: Parameter, stored: Value) -> Value:
    """The value that Optuna stored."""
    return complement(stored) if isinstance(parameter.scale, OneMinusPow10) else stored


@dataclass(frozen=True)
class Grid:
    """A float of {low, low + step, …, high}; each gets a cell of equal width."""

    low: float
    high: float
    step: float
    ordered: bool = field(default=True, init=False)

    @property
    def size(self) -> int:
        return round((self.high - self.low) / self.step) + 1

    def to_unit(self, value: Value) -> float:
        return ((float(value) - self.low) / self.step + 0.5) / self.size

    def from_unit(self, unit: float) -> float:
        cell = min(max(math.floor(unit * self.size), 0), self.size - 1)
        value = float(f"{self.low + cell * self.step:.15g}")
        return min(value, self.high)

    def contains(self, value: Value) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def reach(self) -> tuple[float, float]:
        return (0.0, 1.0)


def scale_of(asked: BaseDistribution) -> Scale:
    """The scale of a distribution. Numeric choices are sorted, so that near coordinates mean near values.

    Raises:
        TypeError: the distribution is none of Optuna's three.
    """
    if isinstance(asked, FloatDistribution | IntDistribution):
        return _scale_of_range(asked)
    if isinstance(asked, CategoricalDistribution):  # not kept, because [1, 2] and [1.0, 2.0] are equal
        scale = Categorical(tuple(asked.choices))
        return Categorical(tuple(sorted(scale.choices))) if scale.ordered else scale
    raise TypeError(f"no scale for the distribution {asked!r}")


@lru_cache(maxsize=4096)
def _scale_of_range(asked: FloatDistribution | IntDistribution) -> Scale:
    if isinstance(asked, IntDistribution):
        return LogInt(asked.low, asked.high) if asked.log else Int(asked.low, asked.high, step=asked.step)
    if asked.step is not None:
        return Grid(asked.low, asked.high, asked.step)
    return LogUniform(asked.low, asked.high) if asked.log else Uniform(asked.low, asked.high)


def dimension_of(name: str, asked: BaseDistribution) -> Dimension:
    """What the search has to know of a parameter that an objective suggests itself."""
    return Dimension.of_scale(name, scale_of(asked))
