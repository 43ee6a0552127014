"""A round's history from its ledger, with what an earlier controller left halfway put right.

A controller writes each change of a trial as a few transactions, and can die between any two of them. What they say
together decides:

| the database says of a running trial | it becomes |
| --- | --- |
| an outcome that is an end | ended so; only the last write was missing |
| a reading at full length | complete with that value |
| a checkpoint at the rung that it trained to, or that it waits there without one | paused there |
| anything else | interrupted: taken up again from its last checkpoint, or from the start |
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuner.checkpoints import Checkpoints
from tuner.config.settings import StudySettings
from tuner.search.history import Entry, History, State
from tuner.search.trial_reader import attribute_entry
from tuner.store.ledger import Ledger, is_foreign

#: What each end of a trial is to Optuna.
OPTUNA_STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.CRASHED: TrialState.FAIL,
    State.LOST: TrialState.FAIL,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.PRUNED,
    State.TIMED_OUT: TrialState.PRUNED,
    # Optuna's samplers ignore a failed trial and would draw it again; a pruned one without values counts as bad.
    State.INFEASIBLE: TrialState.PRUNED,
}


def recovered(ledger: Ledger, study: StudySettings, checkpoints: Checkpoints) -> History:
    """The history of a round whose lease this process has just taken.

    Raises:
        StoreError: the database has a trial that the space does not allow.
    """
    history = History()
    for trial in list(ledger.trials):
        if is_foreign(trial):
            history.add(Entry(trial.number, {}, State.CRASHED, epochs=0))
            continue
        point = study.space.to_unit(ledger.values(trial.number))
        entry = attribute_entry(trial, point, study.objective.cost(1.0))
        history.add(entry if trial.state.is_finished() else _put_right(entry, trial, ledger, study))
        if history[trial.number].state.ended and not trial.state.is_finished():
            checkpoints.drop(trial.number)
    return history


def _put_right(entry: Entry, trial: FrozenTrial, ledger: Ledger, study: StudySettings) -> Entry:
    full = entry.at(study.epochs)
    if entry.state.ended and entry.state is not State.COMPLETE:
        return _told(entry, ledger)
    if full is not None and math.isfinite(full.value):
        return _told(replace(entry, state=State.COMPLETE), ledger, study.objective.cost(full.value))
    kept: dict[str, Any] = trial.user_attrs.get("checkpoint") or {}
    waits = entry.last_epoch in (kept.get("epoch"), trial.user_attrs.get("paused_at"))
    if entry.readings and waits and entry.last_epoch >= entry.target:
        ledger.note(trial.number, outcome=None, paused_at=entry.last_epoch)
        return replace(entry, state=State.PAUSED)
    ledger.note(trial.number, outcome=str(State.INTERRUPTED))
    return replace(entry, state=State.INTERRUPTED)


def _told(entry: Entry, ledger: Ledger, value: float | None = None) -> Entry:
    ledger.tell(entry.number, OPTUNA_STATES[entry.state], value, outcome=str(entry.state))
    return entry
