"""What a model of the learning curves is given of a history: which readings, and as which numbers."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray

from tuner.search.encoding import Encoding
from tuner.search.history import History, Reading, State
from tuner.search.promotion import MOST_READINGS

Array = NDArray[np.float64]

MOST_FALLEN, MOST_RUNNING = 32, 64
MOST_ROWS = MOST_READINGS + MOST_FALLEN  # of measured ones
FIRST_FIT, FIT_GROWTH = 3, 1.1
#: A reading below this share of the full length says too little about it.
SHORTEST = 0.1
LARGEST = 1e100  # of a value; the square of it is still a number

_Numbered = tuple[int, int, Reading]  # (order, number of the trial, reading), as in a history


@dataclass(frozen=True)
class Row:
    """A value at the point of a trial and an epoch.

    Attributes:
        number: of the trial.
        epoch: that it was read at, or trains to.
        value: as the history has it, the lower the better; inf: it diverged; NaN: not known yet.
    """

    number: int
    epoch: int
    value: float


@lru_cache(maxsize=64)
def fit_size(readings: int) -> int:
    """Readings that the hyperparameters are fitted on: a fixed sequence that grows by a tenth."""
    size = min(FIRST_FIT, readings)
    while (larger := max(size + 1, math.floor(size * FIT_GROWTH))) <= readings:
        size = larger
    return size


def measured_rows(
    history: History, epochs: int, upto: int, most: int = MOST_ROWS, *, all_fallen: bool = False
) -> list[Row]:
    """What the model learns from: readings and diverged trials, the values of which are inf.

    Args:
        history: of the round.
        epochs: of a full training; what was read before a tenth of them is left out, unless there is nothing else.
        upto: so many readings, the oldest ones, are looked at.
        most: rows at most, of which `MOST_FALLEN` are for trials that diverged.
        all_fallen: take the last ones of all that diverged, because many may do so before one is read again; otherwise
            of those with a number up to that of the newest reading.
    """
    chosen = _chosen(history, history.readings[:upto], most - MOST_FALLEN)
    newest = max((number for _, number, _ in chosen), default=-1)
    fallen = history.numbers(State.DIVERGED)
    without = set(fallen)
    known = [row for row in chosen if row[2].epoch >= SHORTEST * epochs and row[1] not in without]
    rows = [Row(number, reading.epoch, reading.value) for _, number, reading in known or chosen]
    counted = (fallen if all_fallen else fallen[: bisect_right(fallen, newest)])[-MOST_FALLEN:]
    return rows + [Row(number, history[number].target or epochs, math.inf) for number in counted]


def _chosen(history: History, readings: Sequence[_Numbered], most: int) -> Sequence[_Numbered]:
    """At most `most` readings: a quarter the best ones, a quarter the newest ones, the rest spread evenly."""
    if len(readings) <= most:
        return readings
    quarter = most // 4
    end = readings[-1][0]
    best = islice((row for row in _best_first(history) if row[0] <= end), quarter)
    spread = [readings[i * len(readings) // (2 * quarter)] for i in range(2 * quarter)]
    return sorted({*best, *readings[-quarter:], *spread}, key=lambda row: row[:2])


def _best_first(history: History) -> Iterator[_Numbered]:
    """All readings by value, without looking at more of them than are asked for."""
    ranked = [zip(history.ranked(epoch), repeat(epoch)) for epoch in history.epochs_read]
    for (_, number), epoch in heapq.merge(*ranked):
        reading = history[number].at(epoch)
        assert reading is not None
        yield reading.order, number, reading


def arrays(history: History, encoding: Encoding, rows: Sequence[Row]) -> tuple[Array, Array]:
    """The rows as the model takes them.

    Returns:
        x: inputs, shape (n, columns of the encoding).
        y: values of mean 0 and deviation 1, the lower the better, shape (n,); what is not finite counts as the worst.
    """
    units = encoding.matrix([history[row.number].point for row in rows])
    x = encoding.encoded(units, np.array([row.epoch for row in rows], dtype=float))
    return x, _standardised(np.array([row.value for row in rows]))


def _standardised(values: Array) -> Array:
    """Values of mean 0 and deviation 1.

    What is not finite counts as the worst finite value. An exploded loss would be all the variance there is, so on the
    bad side values end at Tukey's outer fence, the upper quartile plus three times the interquartile range.
    """
    values = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), math.inf)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros_like(values)
    lower, upper = np.quantile(finite, [0.25, 0.75])
    fence = upper + 3.0 * (upper - lower)
    worst = min(finite.max(), fence) if upper > lower else finite.max()
    bounded = np.where(np.isfinite(values), np.minimum(values, worst), worst)
    deviation = bounded.std()
    return np.asarray((bounded - bounded.mean()) / (deviation if deviation > 0 else 1.0))


def running_rows(history: History, epochs: int, known: Sequence[int]) -> list[Row]:
    """Running trials, values NaN, at the epoch that they train to: at most `MOST_RUNNING`, the newest ones.

    Args:
        history: of the round.
        epochs: of a full training.
        known: epochs of the measured rows; a trial that was never read and does not say how far it trains goes as far
            as the shortest of them.
    """
    numbers = [number for state in (State.RUNNING, State.INTERRUPTED) for number in history.numbers(state)]
    shortest = min(known, default=epochs)
    return [
        Row(number, entry.target or (epochs if entry.readings else shortest), math.nan)
        for number, entry in ((number, history[number]) for number in sorted(numbers)[-MOST_RUNNING:])
    ]
