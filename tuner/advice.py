"""Sentences about a search space for people: which bound to widen, and how a trial's values read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tuner.space import Int, LogInt, LogUniform, OneMinusPow10, Parameter, Scale, Space, Uniform, Value


def widen(parameter: Parameter, side: str) -> str:
    """The override that moves one bound of a range: by a decade on a log scale, by half the range else."""
    scale, name = parameter.scale, parameter.name
    low = side == "low"
    if isinstance(scale, LogUniform):
        value: float = scale.low / 10 if low else scale.high * 10
    elif isinstance(scale, OneMinusPow10):
        value = 1 - (1 - scale.low) * 10 if low else 1 - (1 - scale.high) / 10
        if value < scale.low / 10:  # below 0, or 0 but for rounding
            value = scale.low / 2
    elif isinstance(scale, LogInt):
        value = max(1, scale.low // 2) if low else scale.high * 2
    elif isinstance(scale, Uniform | Int):
        half, (least, most) = (scale.high - scale.low) / 2, _natural(scale)
        value = max(least, scale.low - half) if low else min(most, scale.high + half)
        value = round(value) if isinstance(scale, Int) else value
    else:
        return f"add a choice {'below' if low else 'above'} the ones of space.{name}.choices"
    return f"space.{name}.{side}={value:.6g}"


def pressed(parameter: Parameter, side: str, *, expanding: bool) -> str:
    """What to tell when the best trials press against an edge of a declared range."""
    bound = getattr(parameter.scale, side, "the outermost choice")
    text = f"the best trials press against the {side} end of {parameter.name} ({bound})"
    reach = parameter.scale.reach
    if expanding and (reach[0] < 0 if side == "low" else reach[1] > 1):
        return f"{text}; the next draws go past it"
    if bound == _natural(parameter.scale)[0 if side == "low" else 1]:
        return f"{text}; widen it if {parameter.name} can go past it"
    return f"{text}; widen it: {widen(parameter, side)}"


def _natural(scale: Scale) -> tuple[float, float]:
    """Where values most likely end by nature, as far as their range tells: amounts at 0, shares at 0 and 1."""
    if not isinstance(scale, Uniform | Int) or scale.low < 0:
        return -math.inf, math.inf
    return 0.0, 1.0 if isinstance(scale, Uniform) and scale.high <= 1 else math.inf


def ranges(space: Space, box: Mapping[str, tuple[float, float]]) -> dict[str, list[Value]]:
    """The values that a box of coordinates reaches from and to; parameters whose choices have no order are left out."""
    spans = {}
    for parameter in space:
        if parameter.scale.ordered and parameter.name in box:
            low, high = box[parameter.name]
            # The upper end itself belongs to the next cell of a discrete scale.
            spans[parameter.name] = [parameter.scale.from_unit(low), parameter.scale.from_unit(max(low, high - 1e-9))]
    return spans


def spans(ranges_: Mapping[str, Sequence[Value]]) -> str:
    """Ranges in one line, for people."""
    return ", ".join(f"{name} {short(low)} … {short(high)}" for name, (low, high) in ranges_.items())


def short(value: Value) -> str:
    """A value as short as it stays exact to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listed(values: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={short(value)}" for name, value in values.items())
