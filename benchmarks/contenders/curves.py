"""What the logs of contenders come to: best values over time, means over seeds, and who is where first. Pure.

A run is what one contender did with one seed. Times are shares of the budget, counted from the start of its process, and
what comes after the budget does not count. Values are higher-is-better, as those of both studies are.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rises of a value over time: (share of the budget, value), both ascending.
Rises = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One contender with one seed.

    Attributes:
        seen: best validation value of any training, whole or partial, that it had so far.
        recommended: validation value of the configuration that it recommended; Ray's may fall.
        values: effective values of what it recommended at the end of the budget; None for nothing.
        trainings: configurations that were begun.
        epochs: trained, of all trainings together.
    """

    seen: Rises
    recommended: Rises
    values: Mapping[str, Any] | None
    trainings: int
    epochs: int

    @classmethod
    def of_log(cls, lines: Iterable[Mapping[str, Any]], began: float, seconds: float) -> Run:
        """From the lines of a log in the order of time."""
        kept = [({**line, "at": (line["at"] - began) / seconds}) for line in lines if line["at"] <= began + seconds]
        readings = [line for line in kept if "epoch" in line]
        told = [line for line in kept if "recommended" in line] or list(_best_of_last(kept))
        return cls(
            seen=rises((line["at"], line["value"]) for line in readings),
            recommended=[(line["at"], line["value"]) for line in told],
            values=told[-1]["recommended"] if told else None,
            trainings=len({line["trial"] for line in kept}),
            epochs=len(readings),
        )


def _best_of_last(lines: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Recommendations as `get_best_result` of Ray Tune makes them: the trial whose last value is the best."""
    values, last, best = dict[str, Any](), dict[str, float](), None
    for line in lines:
        if "values" in line:
            values[line["trial"]] = line["values"]
        if "epoch" in line and line["trial"] in values:
            last[line["trial"]] = line["value"] if math.isfinite(line["value"]) else -math.inf
            now = max(last, key=lambda trial: last[trial])
            if (now, last[now]) != best:
                best = (now, last[now])
                yield {"at": line["at"], "value": last[now], "recommended": values[now]}


def rises(readings: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where a value becomes the best so far."""
    found: list[tuple[float, float]] = []
    for share, value in readings:
        if math.isfinite(value) and (not found or value > found[-1][1]):
            found.append((share, value))
    return found


def value_at(curve: Rises, share: float) -> float:
    """The curve's value at a share of the budget; NaN before its first one."""
    place = bisect_right(curve, share, key=lambda point: point[0])
    return curve[place - 1][1] if place else math.nan


Seed = Mapping[str, Run]
Curve = Callable[[Run], Rises]


def mean_of(curves: Sequence[Rises]) -> list[tuple[float, float]]:
    """The mean over seeds, at each share where it changes; it begins when all have a value."""
    shares, values = _table(curves)
    return [
        (share, float(mean)) for share, mean in zip(shares, values.mean(axis=0), strict=True) if not math.isnan(mean)
    ]


def _table(curves: Sequence[Rises]) -> tuple[list[float], NDArray[np.float64]]:
    """The shares at which any of the curves changes, and the values there, of shape (curves, shares)."""
    shares = sorted({share for curve in curves for share, _ in curve})
    return shares, np.array([[value_at(curve, share) for share in shares] for curve in curves])


def share_until(
    seeds: Sequence[Seed], own: str, others: Sequence[str], curve: Curve
) -> Callable[[Sequence[int]], float]:
    """When `own` has, in the mean over some of the seeds, what the best of `others` has at the end of the budget.

    The best is that with the highest mean at the end. What is returned takes the places of those seeds, which may
    repeat, and gives a share of the budget: infinity if `own` does not get there, NaN if no other has a value in each.
    """
    shares, values = _table([curve(seed[own]) for seed in seeds])
    ends = np.array([[value_at(curve(seed[other]), 1.0) for seed in seeds] for other in others])

    def share(places: Sequence[int]) -> float:
        chosen = list(places)
        targets = ends[:, chosen].mean(axis=1)
        if np.isnan(targets).all():
            return math.nan
        # A mean of the same values may differ in its last digits.
        there = np.flatnonzero(values[chosen].mean(axis=0) >= np.nanmax(targets) - 1e-9)
        return shares[there[0]] if len(there) else math.inf

    return share


def steps(curve: Rises) -> tuple[list[float], list[float]]:
    """Shares and values of a line that is drawn as steps, up to the end of the budget."""
    if not curve:
        return [], []
    shares, values = zip(*itertools.chain(curve, [(1.0, curve[-1][1])]), strict=True)
    return list(shares), list(values)
