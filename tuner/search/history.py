"""The history of a round: what was drawn, what was read, and what each trial does now.

Values are lower-is-better. Every rule of this package reads a `History` and nothing else, so a round that is resumed
from its records decides as the first one would have. The indexes are kept while the history grows, which makes each
query cheap at 10,000 trials. What to do with it is the business of `promotion`, `stages`, `draws` and `screen`.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace


class State(enum.StrEnum):
    """What a trial does now, or how it ended."""

    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"  # lost its worker, or was interrupted with the round: taken up before all else
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    INFEASIBLE = "out of memory"
    CRASHED = "crashed"  # the user's code raised
    LOST = "lost"  # its workers died, as often as it was taken up again
    TIMED_OUT = "timed out"

    @property
    def ended(self) -> bool:
        return self not in (State.RUNNING, State.PAUSED, State.INTERRUPTED)

    @property
    def failed(self) -> bool:
        """Whether the trial ended without a decision of the search."""
        return self.ended and self not in (State.COMPLETE, State.PRUNED)


@dataclass(frozen=True)
class Reading:
    """One objective value, at a rung or at full length.

    Attributes:
        epoch: epochs trained when it was read, from 1.
        value: lower is better; not finite counts as worst.
        order: running number of the reading in its round, so that "the first n readings" means the same for ever.
    """

    epoch: int
    value: float
    order: int

    @property
    def rank_value(self) -> float:
        """The value that the reading is ranked by: infinity if it is not finite."""
        return self.value if math.isfinite(self.value) else math.inf


@dataclass(frozen=True)
class Entry:
    """One trial.

    Attributes:
        number: number of the trial, which is the index of its draw.
        point: coordinates of its active parameters, by name.
        state: what it does now.
        readings: its values in the order they came.
        target: epoch that it trains to now, or last trained to.
        epochs: epochs that an ended trial had, if more is known than its last reading tells.
        retries: times that it was taken up after an interruption.
        pace: seconds per epoch, when it was paused or ended last; None if that is not known.
    """

    number: int
    point: Mapping[str, float]
    state: State = State.RUNNING
    readings: tuple[Reading, ...] = ()
    target: int = 0
    epochs: int | None = None
    retries: int = 0
    pace: float | None = None

    @property
    def last_epoch(self) -> int:
        return self.readings[-1].epoch if self.readings else 0

    @property
    def charge(self) -> int:
        """Epochs of the budget that the trial takes: all that are under way, or those that it had."""
        if self.state in (State.RUNNING, State.INTERRUPTED):
            return self.target
        return self.epochs if self.state.ended and self.epochs is not None else self.last_epoch

    def at(self, epoch: int) -> Reading | None:
        """Its reading at an epoch."""
        return next((reading for reading in self.readings if reading.epoch == epoch), None)


@dataclass
class _Rung:
    """Trials read at one epoch as (value, number), best first, without those that diverged."""

    ranked: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)


class History:
    """The trials of one round with the indexes that its rules ask for.

    | call | the trial before | after |
    | --- | --- | --- |
    | `drawn` | none | running to `target` |
    | `read` | any | has one more reading |
    | `paused` | running, with a reading | paused where it was read last |
    | `interrupted` | running | interrupted, its target kept |
    | `resumed` | paused or interrupted | running to `target` |
    | `ended` | any | ended in that state |
    | `add` | none or any | what the entry says |
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[int, Entry] = {}
        self._states: dict[State, set[int]] = {state: set() for state in State}
        self._rungs: dict[int, _Rung] = {}
        self._readings: list[tuple[int, int, Reading]] = []  # (order, number, reading)
        self._fallen: list[int] = []  # targets of the diverged trials, ascending
        self._paces: list[float] = []  # ascending
        self._spent = 0
        self._stillborn = 0
        self._changes = 0
        for entry in entries:
            self.add(entry)

    # What happens

    def drawn(self, number: int, point: Mapping[str, float], target: int) -> None:
        """A trial starts to train to epoch `target`."""
        if number in self._entries:
            raise ValueError(f"trial {number} was drawn before")
        self.add(Entry(number, dict(point), State.RUNNING, target=target))

    def read(self, number: int, epoch: int, value: float, order: int | None = None) -> Reading:
        """A value came in; a second one at the same epoch (after a retry) changes nothing, the first one is returned."""
        entry = self[number]
        known = entry.at(epoch)
        if known is not None:
            return known
        reading = Reading(epoch, value, self.next_order if order is None else order)
        self.add(replace(entry, readings=(*entry.readings, reading)))
        return reading

    def paused(self, number: int, pace: float | None = None) -> None:
        """A trial waits at its last reading, with its checkpoint; `pace` says how many seconds an epoch took, if known."""
        entry = self[number]
        if not entry.readings:
            raise ValueError(f"trial {number} cannot pause before its first reading")
        self.add(replace(entry, state=State.PAUSED, pace=pace or entry.pace))

    def interrupted(self, number: int) -> None:
        """A running trial lost its worker."""
        self._turn(number, State.INTERRUPTED)

    def resumed(self, number: int, target: int) -> None:
        """A paused or interrupted trial goes on to epoch `target`."""
        entry = self[number]
        retries = entry.retries + (entry.state is State.INTERRUPTED)
        self.add(replace(entry, state=State.RUNNING, target=target, retries=retries))

    def ended(self, number: int, state: State, epochs: int | None = None, pace: float | None = None) -> None:
        """A trial ended; `epochs` says how many it had, if more than its last reading tells, `pace` is that of `paused`."""
        if not state.ended:
            raise ValueError(f"{state} is no end")
        entry = self[number]
        self.add(replace(entry, state=state, epochs=epochs, pace=pace or entry.pace))

    def add(self, entry: Entry) -> None:
        """Takes an entry in as it is, in place of what was known of that trial; rebuilds a history from records."""
        known = self._entries.get(entry.number)
        if known is not None:
            self._leave(known)
        self._enter(entry)

    # What is known

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return (self._entries[number] for number in sorted(self._entries))

    def __contains__(self, number: int) -> bool:
        return number in self._entries

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]

    @property
    def spent(self) -> int:
        """Epochs committed: the targets of running and interrupted trials, and what all others had."""
        return self._spent

    @property
    def pace(self) -> float | None:
        """Median of the seconds per epoch of all trials; None as long as none is known."""
        return self._paces[len(self._paces) // 2] if self._paces else None

    @property
    def changes(self) -> int:
        """Number that is another one after each change."""
        return self._changes

    @property
    def stillborn(self) -> int:
        """Number of trials that ended without one epoch of training."""
        return self._stillborn

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the running trials, ascending."""
        return self.numbers(State.RUNNING)

    @property
    def next_order(self) -> int:
        return self._readings[-1][0] + 1 if self._readings else 0

    @property
    def readings(self) -> Sequence[tuple[int, int, Reading]]:
        """All readings as (order, number of the trial, reading), in order; not to be changed."""
        return self._readings

    @property
    def epochs_read(self) -> tuple[int, ...]:
        """Epochs at which anything was read, ascending."""
        return tuple(sorted(epoch for epoch, rung in self._rungs.items() if rung.ranked))

    def numbers(self, state: State) -> tuple[int, ...]:
        """Numbers of the trials in a state, ascending."""
        return tuple(sorted(self._states[state]))

    def count(self, state: State) -> int:
        return len(self._states[state])

    def first(self, state: State) -> int | None:
        """The lowest number in a state."""
        return min(self._states[state], default=None)

    def ranked(self, epoch: int) -> Sequence[tuple[float, int]]:
        """(value, number) of the trials read at an epoch, best first; diverged trials are left out."""
        return self._rungs[epoch].ranked if epoch in self._rungs else ()

    def waiting(self, epoch: int) -> Sequence[tuple[float, int]]:
        """(value, number) of the trials paused at an epoch, best first."""
        return self._rungs[epoch].waiting if epoch in self._rungs else ()

    def population(self, epoch: int) -> int:
        """Trials that a rung compares: those read there, and the diverged ones that set out for it."""
        return len(self.ranked(epoch)) + len(self._fallen) - bisect_left(self._fallen, epoch)

    def rank(self, number: int, epoch: int) -> int | None:
        """Place of a trial at a rung, 0 for the best; None if it was not read there or diverged."""
        entry = self[number]
        reading = entry.at(epoch)
        if reading is None or entry.state is State.DIVERGED:
            return None
        return bisect_left(self._rungs[epoch].ranked, (reading.rank_value, number))

    # The indexes

    def _turn(self, number: int, state: State) -> None:
        self.add(replace(self[number], state=state))

    def _enter(self, entry: Entry) -> None:
        self._changes += 1
        number = entry.number
        self._entries[number] = entry
        self._states[entry.state].add(number)
        self._spent += entry.charge
        self._stillborn += entry.state.ended and entry.charge == 0
        if entry.pace is not None:
            insort(self._paces, entry.pace)
        for reading in entry.readings:
            insort(self._readings, (reading.order, number, reading), key=_by_order)
        if entry.state is State.DIVERGED:
            insort(self._fallen, entry.target)
            return
        for reading in entry.readings:
            insort(self._rungs.setdefault(reading.epoch, _Rung()).ranked, (reading.rank_value, number))
        if entry.state is State.PAUSED:
            insort(self._rungs[entry.last_epoch].waiting, (entry.readings[-1].rank_value, number))

    def _leave(self, entry: Entry) -> None:
        number = entry.number
        self._states[entry.state].discard(number)
        self._spent -= entry.charge
        self._stillborn -= entry.state.ended and entry.charge == 0
        if entry.pace is not None:
            del self._paces[bisect_left(self._paces, entry.pace)]
        for reading in entry.readings:
            del self._readings[bisect_left(self._readings, (reading.order, number), key=_by_order)]
        if entry.state is State.DIVERGED:
            del self._fallen[bisect_left(self._fallen, entry.target)]
            return
        for reading in entry.readings:
            _remove(self._rungs[reading.epoch].ranked, (reading.rank_value, number))
        if entry.state is State.PAUSED:
            _remove(self._rungs[entry.last_epoch].waiting, (entry.readings[-1].rank_value, number))


def _by_order(row: tuple[int, int, Reading]) -> tuple[int, int]:
    return row[:2]


def _remove(ranked: list[tuple[float, int]], item: tuple[float, int]) -> None:
    del ranked[bisect_left(ranked, item)]
