"""Search spaces: parameters, the conditions and scales between them, and their way through the unit interval.

Every parameter maps to and from [0, 1], so drawing, zooming and modelling share one path and never look at a kind. A
coordinate below 0 or above 1 lies past the declared range: only `search.expand` draws there, and never past `limit`.
What the parameters are called in Optuna is the business of `tuner.search.distributions`; checks of a configuration
are made in `tuner.config`, so the classes here trust their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Value = Any  # a float, an int, a string, a bool or None; labelled choices travel as their label

#: Digits that a drawn float keeps: enough for any learning rate, and short enough to be read and pasted.
SIGNIFICANT_DIGITS = 6


class Scale(Protocol):
    """How the values of one parameter lie on the unit interval."""

    @property
    def size(self) -> int | None:
        """Number of distinct values, or None for a continuum."""

    @property
    def ordered(self) -> bool:
        """Whether near coordinates mean near values; an unordered scale is not zoomed."""

    def to_unit(self, value: Value) -> float:
        """The coordinate of a value; for one of finitely many values the middle of its cell."""

    def from_unit(self, unit: float) -> Value:
        """The value at a coordinate; outside [0, 1] it goes past the range as far as the scale's limit."""

    def contains(self, value: Value) -> bool:
        """Whether the declared range has this value."""

    @property
    def reach(self) -> tuple[float, float]:
        """The lowest and the highest coordinate that `limit` allows; (0, 1) without a limit."""


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Uniform:
    """A float that is uniform on [low, high]."""

    low: float
    high: float
    limit: tuple[float, float] | None = None
    size: int | None = field(default=None, init=False)
    ordered: bool = field(default=True, init=False)

    def to_unit(self, value: Value) -> float:
        return (float(value) - self.low) / (self.high - self.low)

    def from_unit(self, unit: float) -> float:
        low, high = self.limit or (self.low, self.high)
        return min(max(_rounded(self.low + unit * (self.high - self.low)), low), high)

    def contains(self, value: Value) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    @property
    def reach(self) -> tuple[float, float]:
        return (self.to_unit(self.limit[0]), self.to_unit(self.limit[1])) if self.limit else (0.0, 1.0)


@dataclass(frozen=True)
class LogUniform:
    """A float whose logarithm is uniform on [log low, log high]; low > 0."""

    low: float
    high: float
    limit: tuple[float, float] | None = None
    size: int | None = field(default=None, init=False)
    ordered: bool = field(default=True, init=False)

    def to_unit(self, value: Value) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)

    def from_unit(self, unit: float) -> float:
        low, high = self.limit or (self.low, self.high)
        return min(max(_rounded(self.low * (self.high / self.low) ** unit), low), high)

    def contains(self, value: Value) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    @property
    def reach(self) -> tuple[float, float]:
        return (self.to_unit(self.limit[0]), self.to_unit(self.limit[1])) if self.limit else (0.0, 1.0)


@dataclass(frozen=True)
class OneMinusPow10:
    """A float 1 − 10^r with r uniform, for momentum and betas: 0.9 … 0.999 gets as many draws below 0.99 as above.

    The coordinate grows with the value. 0 < low < high < 1.
    """

    low: float
    high: float
    limit: tuple[float, float] | None = None
    size: int | None = field(default=None, init=False)
    ordered: bool = field(default=True, init=False)

    def of_complement(self) -> LogUniform:
        """The scale of 1 − value, which is log-uniform and is what Optuna stores."""
        limit = (complement(self.limit[1]), complement(self.limit[0])) if self.limit else None
        return LogUniform(complement(self.high), complement(self.low), limit)

    def to_unit(self, value: Value) -> float:
        return 1.0 - self.of_complement().to_unit(complement(value))

    def from_unit(self, unit: float) -> float:
        return complement(self.of_complement().from_unit(1.0 - unit))

    def contains(self, value: Value) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    @property
    def reach(self) -> tuple[float, float]:
        return (self.to_unit(self.limit[0]), self.to_unit(self.limit[1])) if self.limit else (0.0, 1.0)


def complement(value: float) -> float:
    """1 − value, as people would write it."""
    # 1 - 0.9 is 0.09999999999999998 in binary; twelve digits give back what was written.
    return float(f"{1.0 - value:.12g}")


@dataclass(frozen=True)
class Int:
    """An integer of {low, low + step, …, high}; each gets a cell of equal width, the two ends as well."""

    low: int
    high: int
    limit: tuple[int, int] | None = None
    step: int = 1
    ordered: bool = field(default=True, init=False)

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def to_unit(self, value: Value) -> float:
        return float(((value - self.low) / self.step + 0.5) / self.size)

    def from_unit(self, unit: float) -> int:
        low, high = self.limit or (self.low, self.high)
        # 1.0 belongs to the last cell of the declared range, not to the first one past it.
        cell = self.size - 1 if unit == 1.0 else math.floor(unit * self.size)
        return min(max(self.low + self.step * cell, low), high)

    def contains(self, value: Value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def reach(self) -> tuple[float, float]:
        if not self.limit:
            return (0.0, 1.0)
        half = 0.5 / self.size
        return (self.to_unit(self.limit[0]) - half, self.to_unit(self.limit[1]) + half)


@dataclass(frozen=True)
class LogInt:
    """An integer of {low, …, high} with log-uniform weight: n owns [n − ½, n + ½] on the log axis; low ≥ 1."""

    low: int
    high: int
    limit: tuple[int, int] | None = None
    ordered: bool = field(default=True, init=False)

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    def _axis(self) -> LogUniform:
        return LogUniform(self.low - 0.5, self.high + 0.5)

    def to_unit(self, value: Value) -> float:
        return self._axis().to_unit(value)

    def from_unit(self, unit: float) -> int:
        low, high = self.limit or (self.low, self.high)
        axis = self._axis()
        # Not LogUniform.from_unit: its six digits would move the cells of integers above 10^6.
        value = axis.low * (axis.high / axis.low) ** unit
        # 1.0 belongs to the last cell of the declared range, not to the first one past it.
        return min(max(self.high if unit == 1.0 else math.floor(value + 0.5), low), high)

    def contains(self, value: Value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def reach(self) -> tuple[float, float]:
        if not self.limit:
            return (0.0, 1.0)
        axis = self._axis()
        return (axis.to_unit(self.limit[0] - 0.5), axis.to_unit(self.limit[1] + 0.5))


@dataclass(frozen=True)
class Categorical:
    """One of `choices`, each with a cell of equal width. Numeric choices are ordered, and have to be sorted."""

    choices: tuple[Value, ...]

    @property
    def size(self) -> int:
        return len(self.choices)

    @property
    def ordered(self) -> bool:
        return len(self.choices) > 2 and all(_is_number(choice) for choice in self.choices)

    def to_unit(self, value: Value) -> float:
        return (self.choices.index(value) + 0.5) / len(self.choices)

    def from_unit(self, unit: float) -> Value:
        return self.choices[min(max(math.floor(unit * len(self.choices)), 0), len(self.choices) - 1)]

    def contains(self, value: Value) -> bool:
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices)

    @property
    def reach(self) -> tuple[float, float]:
        return (0.0, 1.0)


@dataclass(frozen=True)
class ScaleWith:
    """A value tuned at `reference` of another parameter and scaled with that parameter's draw.

    `linear`: value · other / reference (Goyal et al. 2017, arXiv:1706.02677); `sqrt`: value · √(other / reference)
    (Krizhevsky 2014, arXiv:1404.5997).
    """

    parameter: str
    reference: float
    rule: str  # "linear" or "sqrt"

    def apply(self, value: float, other: float) -> float:
        return _rounded(value * self._factor(other))

    def undo(self, value: float, other: float) -> float:
        return _rounded(value / self._factor(other))

    def _factor(self, other: float) -> float:
        ratio = other / self.reference
        return ratio if self.rule == "linear" else math.sqrt(ratio)


@dataclass(frozen=True)
class Parameter:
    """One entry of a search space.

    Attributes:
        name: short name, as the command line and the reports use it.
        scale: the kind with its range.
        path: key of the configuration that the value is written to, for example `module.optimizer.lr`.
        tier: priority; 1 is tuned first.
        when: only drawn if each named parameter has one of the values listed; empty: always.
        scale_with: how the effective value follows another parameter's draw.
        nodes: configuration nodes that labelled choices stand for, by label; empty for plain values.
        memory: whether a larger value needs more memory, so that an out-of-memory trial tells about larger ones.
    """

    name: str
    scale: Scale
    path: str
    tier: int = 1
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    scale_with: ScaleWith | None = None
    nodes: Mapping[str, Any] = field(default_factory=dict)
    memory: bool = False

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter is drawn, given the values of the parameters before it."""
        return all(name in values and values[name] in allowed for name, allowed in self.when.items())


@dataclass(frozen=True)
class Space:
    """The parameters of a study, each after those that its `when` and `scale_with` name."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, parameters: Sequence[Parameter]) -> Space:
        """A space in dependency order; the order given is kept otherwise.

        Raises:
            ValueError: a `when` or `scale_with` names no parameter of the space, or they form a circle.
        """
        left = {parameter.name: parameter for parameter in parameters}
        ordered: list[Parameter] = []
        while left:
            names = {parameter.name for parameter in ordered}
            ready = [parameter for parameter in left.values() if _needs(parameter) <= names]
            if not ready:
                raise ValueError(f"{', '.join(sorted(left))}: `when` or `scale_with` has no place to start from")
            ordered.append(ready[0])
            del left[ready[0].name]
        return cls(tuple(ordered))

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """`values` without those of parameters that the others switch off."""
        kept: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.name in values and parameter.is_active(kept):
                kept[parameter.name] = values[parameter.name]
        return kept

    def to_unit(self, values: Mapping[str, Value]) -> dict[str, float]:
        """Coordinates of the values given, by name."""
        return {name: self[name].scale.to_unit(value) for name, value in values.items()}

    def from_unit(self, point: Mapping[str, float]) -> dict[str, Value]:
        """Values at a point of the unit cube; parameters that are switched off there are left out."""
        return self.active({name: self[name].scale.from_unit(unit) for name, unit in point.items()})

    def effective(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """What the training sees: the values drawn, with `scale_with` applied."""
        result = dict(values)
        for parameter in self.parameters:
            rule = parameter.scale_with
            if rule and parameter.name in values and rule.parameter in values:
                result[parameter.name] = rule.apply(values[parameter.name], values[rule.parameter])
        return result

    def drawn(self, effective: Mapping[str, Value]) -> dict[str, Value]:
        """The values that `effective` makes these of: `scale_with` undone."""
        result = dict(effective)
        for parameter in self.parameters:
            rule = parameter.scale_with
            if rule is None:
                continue
            value, other = effective.get(parameter.name), effective.get(rule.parameter)
            if _is_number(value) and _is_number(other) and other > 0:  # type: ignore[operator]
                result[parameter.name] = rule.undo(value, other)  # type: ignore[arg-type]
        return result


def _needs(parameter: Parameter) -> set[str]:
    return set(parameter.when) | ({parameter.scale_with.parameter} if parameter.scale_with else set())
