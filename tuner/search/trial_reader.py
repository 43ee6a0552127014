"""The history of an Optuna study, as the rules of this package read it.

Inside a round a trial says more than Optuna's states can, in these attributes:

| user attribute | meaning |
| --- | --- |
| `readings` | [[epoch, value, order], …], raw values of the objective |
| `outcome` | how it ended, a value of `State`; a running trial without one is running |
| `target` | epoch that it trains to; optional |
| `epochs`, `seconds` | that it had when it left its worker last; optional |
| `retries` | times it was taken up after its worker died; optional |
| `paused_at` | epoch of the rung where it waits; as good as the outcome "paused" if it is its last reading's epoch |

A trial without readings of its own is read as a plain script leaves it: what it reported, by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuner.search.history import Entry, History, Reading, State

READINGS, OUTCOME, TARGET, PAUSED_AT = "readings", "outcome", "target", "paused_at"
EPOCHS, SECONDS, RETRIES = "epochs", "seconds", "retries"

#: In a plain script trials are compared at these shares of the full length, and where they stopped.
COMPARED_AT = (0.25, 0.5)

_WORDS = {str(state): state for state in State}
_STATES = {
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.CRASHED,
    TrialState.RUNNING: State.RUNNING,
}


class TrialReader:
    """Keeps the history of an Optuna study up to date and converts each trial only when it changed.

    Args:
        convert: makes an entry of a trial, its readings numbered from 0; None leaves the trial out.
    """

    def __init__(self, convert: Callable[[FrozenTrial], Entry | None]) -> None:
        self.history = History()
        self.conversions = 0
        self._convert = convert
        self._settled: set[int] = set()
        self._seen: dict[int, FrozenTrial] = {}

    def forget(self) -> None:
        """Starts anew, because trials have to be converted in another way now."""
        self.history = History()
        self._settled.clear()
        self._seen.clear()

    def update(self, trials: Sequence[FrozenTrial], without: int) -> History:
        """The history of all trials that have begun, but for the trial `without`, which asks."""
        changed = [trial for trial in trials if trial.number not in self._settled and self._is_new(trial, without)]
        # Readings without an order of their own are numbered as the trials ended, which a resumed study repeats.
        for trial in sorted(changed, key=_ended_at):
            entry = self._convert(trial)
            self.conversions += 1
            if trial.state.is_finished():
                self._settled.add(trial.number)
                self._seen.pop(trial.number, None)
            else:
                self._seen[trial.number] = trial
            if entry is not None:
                self.history.add(entry if READINGS in trial.user_attrs else self._numbered(entry))
        return self.history

    def _is_new(self, trial: FrozenTrial, without: int) -> bool:
        if trial.number == without or trial.state is TrialState.WAITING:
            return False
        seen = self._seen.get(trial.number)
        return seen is None or (seen is not trial and _signature(seen) != _signature(trial))

    def _numbered(self, entry: Entry) -> Entry:
        first = self.history.next_order
        readings = [replace(reading, order=first + i) for i, reading in enumerate(entry.readings)]
        return replace(entry, readings=tuple(readings))


def _ended_at(trial: FrozenTrial) -> tuple[bool, float, int]:
    ended = trial.datetime_complete
    return ended is None, ended.timestamp() if ended else 0.0, trial.number


def _signature(trial: FrozenTrial) -> tuple[Any, ...]:
    attrs = trial.user_attrs
    marks = (len(attrs.get(READINGS, ())), *(attrs.get(name) for name in (OUTCOME, TARGET, PAUSED_AT, SECONDS)))
    return trial.state, len(trial.params), len(trial.intermediate_values), *marks


def attribute_entry(trial: FrozenTrial, point: Mapping[str, float], sign: float) -> Entry:
    """The entry of a trial that carries readings of its own."""
    rows = sorted(trial.user_attrs[READINGS], key=lambda row: row[2])
    readings = tuple(Reading(int(epoch), sign * float(value), int(order)) for epoch, value, order in rows)
    # A word that this version does not know says no more than Optuna's own state.
    state = _WORDS.get(trial.user_attrs.get(OUTCOME) or "", _STATES[trial.state])
    last = readings[-1].epoch if readings else 0
    if state is State.RUNNING and readings and trial.user_attrs.get(PAUSED_AT) == last:
        state = State.PAUSED
    if state is State.PAUSED and not readings:
        state = State.RUNNING
    if trial.state.is_finished() and not state.ended:
        state = _STATES[trial.state]
    target, epochs, retries = (trial.user_attrs.get(name) for name in (TARGET, EPOCHS, RETRIES))
    had = round(epochs) if state.ended and epochs is not None else None
    pace = pace_of(trial.user_attrs)
    taken_up = int(retries or 0)
    return Entry(trial.number, point, state, readings, int(target or 0), epochs=had, retries=taken_up, pace=pace)


def pace_of(attributes: Mapping[str, Any]) -> float | None:
    """Seconds per epoch of a trial with these attributes; None where they do not tell."""
    epochs, seconds = attributes.get(EPOCHS), attributes.get(SECONDS)
    # What ends within its first epoch has taken its time to set up.
    return seconds / epochs if seconds and epochs and epochs >= 1 else None


def plain_entry(trial: FrozenTrial, point: Mapping[str, float], sign: float, full: int) -> Entry:
    """The entry of a trial that reported in Optuna's way: its steps are epochs, and its value is at full length."""
    steps = sorted(trial.intermediate_values.items())
    values = {max(1, step): sign * value for step, value in _compared(steps, full)}
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        values = {step: value for step, value in values.items() if step < full} | {full: sign * trial.value}
    readings = tuple(Reading(epoch, value, i) for i, (epoch, value) in enumerate(sorted(values.items())))
    state = _STATES[trial.state]
    if state in (State.PRUNED, State.CRASHED) and steps and not math.isfinite(steps[-1][1]):
        state = State.DIVERGED
    return Entry(trial.number, point, state, readings, target=0 if state is State.RUNNING else full)


def _compared(steps: Sequence[tuple[int, float]], full: int) -> list[tuple[int, float]]:
    if not steps:
        return []
    firsts = [next((row for row in steps if row[0] >= share * full), None) for share in COMPARED_AT]
    return [row for row in [*firsts, steps[-1]] if row is not None]
