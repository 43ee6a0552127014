"""Stages of a round: the regions of the unit cube that it draws from, from coarse to fine.

A stage's box is frozen when the stage starts, from the history so far, so that every draw of a stage sees the same
box, and the box with its evidence can be recorded. How a point is drawn within a stage is the business of `draws`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from typing import Any

import numpy as np

from tuner.search.dimensions import FREE, SAME, Dimension, Interval
from tuner.search.history import Entry, History

#: A box keeps this share of the elites' width on each side, and this much of the range.
MARGIN_OF_WIDTH, MARGIN = 0.1, 0.03
#: Elites this near to an edge of the declared range press against it.
PRESSING = 0.1
#: A box that passes an edge is at least this wide before: elites crowded at the edge do not say how far the good goes.
WIDTH_PRESSED = 0.3


@dataclass(frozen=True)
class Edge:
    """An edge of the declared range that the elites press against."""

    parameter: str
    side: str  # "low" or "high"


@dataclass(frozen=True)
class Stage:
    """A region with the draws that come from it.

    Attributes:
        number: running number in the round.
        name: "coarse", or "tier 1 coarse", "tier 2 coarse", …; then "fine 1", "fine 2", ….
        starts_at: index of its first draw.
        ends_at: index of the first draw that is not its own any more.
        frame: where a dimension may go at all; a fixed one is collapsed to a point.
        box: the part of the frame that draws concentrate on, or beyond it where `expand` allows.
        elites: trials that the box was made from, best first.
        reason: why the box is what it is, for people.
        pressed: edges of the declared range that the elites press against.
        new: parameters that no stage before could tune.
    """

    number: int
    name: str
    starts_at: int
    ends_at: int
    frame: Mapping[str, Interval]
    box: Mapping[str, Interval]
    elites: tuple[int, ...] = ()
    reason: str = ""
    pressed: tuple[Edge, ...] = ()
    new: tuple[str, ...] = ()

    @property
    def is_coarse(self) -> bool:
        """Whether it draws uniformly in its box, without asking a model."""
        return self.name.endswith("coarse")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self) | {
            "frame": {name: list(interval) for name, interval in self.frame.items()},
            "box": {name: list(interval) for name, interval in self.box.items()},
            "elites": list(self.elites),
            "pressed": [asdict(edge) for edge in self.pressed],
            "new": list(self.new),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Stage:
        """The stage that `to_dict` wrote."""
        return cls(
            number=record["number"],
            name=record["name"],
            starts_at=record["starts_at"],
            ends_at=record["ends_at"],
            frame={name: (low, high) for name, (low, high) in record["frame"].items()},
            box={name: (low, high) for name, (low, high) in record["box"].items()},
            elites=tuple(record["elites"]),
            reason=record["reason"],
            pressed=tuple(Edge(**edge) for edge in record["pressed"]),
            new=tuple(record.get("new", ())),  # a round may have been begun before that was told
        )


@dataclass(frozen=True)
class Zoom:
    """How a round narrows.

    Attributes:
        coarse: uniform draws after draw 0, which is the study's own values; of each later tier one more.
        elites: trials that a box is made from.
        expand: whether a box may pass a declared edge that the elites press against, as far as the reach goes.
        tiered: whether a coarse stage has tier 1 alone, the next one tier 2 as well, and so on.
    """

    coarse: int
    elites: int = 4
    expand: bool = False
    tiered: bool = False


def stages_until(
    index: int,
    stages: Sequence[Stage],
    history: History,
    dimensions: Sequence[Dimension],
    *,
    zoom: Zoom,
    defaults: Mapping[str, float] | None = None,
) -> tuple[Stage, ...]:
    """`stages` with those that are missing until the draw `index` has one.

    A stage that starts at draw s is made from the trials below s, so one that is made late is made no other.

    Args:
        index: index of a draw, from 0.
        stages: the stages so far, from the first.
        history: the trials so far.
        dimensions: the space.
        zoom: the options.
        defaults: coordinates that tiers not yet tuned are fixed at; 0.5 where unknown.
    """
    known = list(stages)
    while not known or index >= known[-1].ends_at:
        known.append(_next_stage(known, history, dimensions, zoom, defaults or {}))
    return tuple(known)


def stage_of(index: int, stages: Sequence[Stage]) -> Stage:
    """The stage that a draw belongs to."""
    return stages[bisect_right(stages, index, key=lambda stage: stage.starts_at) - 1]


def ranking(history: History, entries: Sequence[Entry]) -> list[Entry]:
    """Entries with a value, best first.

    Places are earned at the first epoch at which trials were compared. Among those that went on to the next epoch, the
    places they hold are dealt out again by their values there, and so on. So values are compared at equal epochs only,
    and a trial that went further is not better for that alone: it went on because it was among the best of its time,
    and better ones may have come since. A trial not read at an epoch counts there with its next reading; ones that
    failed, whatever they had shown before, and values that are not finite, are left out.
    """
    alive = [
        entry
        for entry in entries
        if not entry.state.failed and any(math.isfinite(reading.value) for reading in entry.readings)
    ]
    order = sorted(alive, key=lambda entry: entry.number)
    for epoch in history.epochs_read:
        places = [place for place, entry in enumerate(order) if entry.last_epoch >= epoch]
        dealt = sorted((order[place] for place in places), key=lambda entry: _value_from(entry, epoch))
        for place, entry in zip(places, dealt, strict=True):
            order[place] = entry
    return order


def _value_from(entry: Entry, epoch: int) -> float:
    return next(reading.rank_value for reading in entry.readings if reading.epoch >= epoch)


@dataclass(frozen=True)
class _Span:
    """A stage on the axis of draws, before anything is known of its box."""

    starts_at: int
    ends_at: int
    name: str
    tier: int | None  # the last one that is free; None: there are no tiers
    new: Sequence[Dimension]  # that no stage before could tune


def _next_stage(
    known: Sequence[Stage],
    history: History,
    dimensions: Sequence[Dimension],
    zoom: Zoom,
    defaults: Mapping[str, float],
) -> Stage:
    span = next(islice(_spans(zoom, dimensions, defaults), len(known), None))
    frame = _frame(span.tier, dimensions, defaults)
    seen = [dimension for dimension in dimensions if _is_free(frame[dimension.name]) and dimension not in span.new]
    before = [entry for entry in history if entry.number < span.starts_at]
    ranked = ranking(history, inside(before, frame)) if seen else []
    elites = ranked[: zoom.elites]
    # Trials of an earlier tier all have the same value of a later one, which says nothing of where it is good.
    free = {
        one.name: [entry for entry in elites if _is_free(stage_of(entry.number, known).frame.get(one.name, FREE))]
        for one in seen
    }
    edges = [_pressed(one, free[one.name], len(elites)) for one in seen]
    pressed = tuple(edge for edge in edges if edge)
    expanding = pressed if zoom.expand else ()
    box = frame | {one.name: _interval(one, free[one.name], expanding) for one in seen}
    if span.new:
        box |= {one.name: _agreed(one, free[one.name]) for one in seen if not one.ordered}
    numbers = tuple(entry.number for entry in elites)
    reason = _reason(span, elites, len(ranked), narrows=bool(seen))
    new = tuple(dimension.name for dimension in span.new)
    return Stage(len(known), span.name, span.starts_at, span.ends_at, frame, box, numbers, reason, pressed, new)


def _spans(zoom: Zoom, dimensions: Sequence[Dimension], defaults: Mapping[str, float]) -> Iterator[_Span]:
    """A coarse stage, one for each tier where there are tiers, then fine ones of doubling length."""
    tiers = _tiers(dimensions, defaults) if zoom.tiered else []
    at, length, last = 0, zoom.coarse + 1, None
    if len(tiers) < 2:
        yield _Span(at, at + length, "coarse", None, dimensions)
        at += length
    else:
        for last, new in tiers:
            end = at + int(min(length, _distinct(new)))
            yield _Span(at, end, f"tier {last} coarse", last, new)
            at = end
    for fine in count(1):
        yield _Span(at, at + length, f"fine {fine}", last, ())
        at, length = at + length, 2 * length


def _tiers(dimensions: Sequence[Dimension], defaults: Mapping[str, float]) -> list[tuple[int, list[Dimension]]]:
    """Each tier with what can be tuned from then on.

    What the defaults of later tiers switch off waits for the tier that its switch is of. A tier that nothing is left of is
    left out: all of its draws would be the same.
    """
    tiers, known = list[tuple[int, list[Dimension]]](), frozenset[str]()
    for tier in sorted({dimension.tier for dimension in dimensions}):
        now = tunable(dimensions, _frame(tier, dimensions, defaults))
        if new := [one for one in dimensions if one.name in now - known]:
            tiers.append((tier, new))
        known |= now
    return tiers


def tunable(dimensions: Sequence[Dimension], frame: Mapping[str, Interval]) -> frozenset[str]:
    """Names of those that a frame leaves free and that some point of it has; what it does not name is free."""
    active = {dimension.name for dimension in dimensions}
    while True:
        able = {
            one.name
            for one in dimensions
            if one.name in active and all(name in active and _allows(frame, name, units) for name, units in one.when)
        }
        if able == active:
            return frozenset(name for name in able if _is_free(frame.get(name, FREE)))
        active = able


def _allows(frame: Mapping[str, Interval], name: str, units: Sequence[float]) -> bool:
    interval = frame.get(name, FREE)
    return _is_free(interval) or any(abs(interval[0] - unit) < SAME for unit in units)


def _distinct(dimensions: Iterable[Dimension]) -> float:
    """How many configurations there are; where that is no more than a stage has draws, it has no more."""
    return math.prod(dimension.size or math.inf for dimension in dimensions)


def _frame(tier: int | None, dimensions: Sequence[Dimension], defaults: Mapping[str, float]) -> dict[str, Interval]:
    """The dimensions of a tier and of those before it free; those after it at the defaults."""
    return {
        one.name: FREE
        if tier is None or one.tier <= tier
        else _point(float(one.snapped(np.array([defaults.get(one.name, 0.5)]))[0]))
        for one in dimensions
    }


def _point(unit: float) -> Interval:
    return unit, unit


def _is_free(interval: Interval) -> bool:
    return interval[0] < interval[1]


def inside(entries: Sequence[Entry], frame: Mapping[str, Interval]) -> list[Entry]:
    """Entries that the fixed dimensions of a frame hold for; others were drawn for another tier."""
    fixed = {name: interval[0] for name, interval in frame.items() if not _is_free(interval)}
    return [
        entry
        for entry in entries
        if all(abs(entry.point[name] - unit) < SAME for name, unit in fixed.items() if name in entry.point)
    ]


def _interval(dimension: Dimension, elites: Sequence[Entry], expanding: Sequence[Edge]) -> Interval:
    units = [entry.point[dimension.name] for entry in elites if dimension.name in entry.point]
    if not dimension.ordered or len(units) < 2:
        return FREE
    # The value of a cell owns the whole cell.
    cell = 0.5 / dimension.size if dimension.size else 0.0
    margin = MARGIN_OF_WIDTH * (max(units) - min(units)) + MARGIN + cell
    low = max(min(units) - margin, min(0.0, *units))
    high = min(max(units) + margin, max(1.0, *units))
    if Edge(dimension.name, "low") in expanding:
        high = max(high, low + WIDTH_PRESSED)
        low = max(dimension.reach[0], min(low, 0.0) - (high - low) / 2)
    if Edge(dimension.name, "high") in expanding:
        low = min(low, high - WIDTH_PRESSED)
        high = min(dimension.reach[1], max(high, 1.0) + (high - low) / 2)
    return low, high


def _agreed(dimension: Dimension, elites: Sequence[Entry]) -> Interval:
    """The choice that all elites have, of two or more; else any."""
    units = [entry.point[dimension.name] for entry in elites if dimension.name in entry.point]
    return _point(units[0]) if len(units) > 1 and max(units) - min(units) < SAME else FREE


def _pressed(dimension: Dimension, elites: Sequence[Entry], count: int) -> Edge | None:
    """The edge that the best elite and at least half of all `count` elites are near to."""
    if not dimension.ordered or (dimension.size is not None and dimension.size <= 2):
        return None
    cell = 0.5 / dimension.size if dimension.size else 0.0
    units = [entry.point[dimension.name] for entry in elites if dimension.name in entry.point]
    if not units or dimension.name not in elites[0].point:
        return None
    for side, distances in (("low", [unit - cell for unit in units]), ("high", [1 - cell - unit for unit in units])):
        near = [distance <= PRESSING + 1e-9 for distance in distances]
        if near[0] and 2 * sum(near) >= count:
            return Edge(dimension.name, side)
    return None


def _reason(span: _Span, elites: Sequence[Entry], ranked: int, *, narrows: bool) -> str:
    is_tier = span.tier is not None and bool(span.new)
    names = ", ".join(dimension.name for dimension in span.new)
    where = f"tier {span.tier} ({names})" if is_tier else "the declared ranges"
    if not narrows:
        return f"uniform over {where}"
    if not elites:
        return f"uniform over {where}, because no trial has a value yet"
    epochs = sorted({entry.last_epoch for entry in elites})
    read = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {', '.join(map(str, epochs[:-1]))} and {epochs[-1]}"
    box = (
        f"box of the {len(elites)} best of {ranked} trials at {read}, margin {MARGIN_OF_WIDTH} of the width + {MARGIN}"
    )
    return f"uniform over {where}, the earlier ones in the {box}" if is_tier else box
