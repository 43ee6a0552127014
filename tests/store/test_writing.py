"""Writes that wait for each other: what the database has after each flush, and after one that failed."""

import math

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from tuner.store.database import Database
from tuner.store.writing import VALUES_WAIT_S, Writes


@pytest.fixture
def storage(store_url):
    with Database(store_url) as opened:
        yield opened.storage


@pytest.fixture
def trials(storage):
    study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
    return [storage.create_new_trial(study_id) for _ in range(2)]


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def writes(storage, now):
    return Writes(storage, clock=lambda: now[0])


CURVE = {1: 0.5, 2: math.inf, 3: -math.inf, 4: math.nan, 5: -1e-300}


def test_what_was_given_last_is_there_after_a_flush(storage, trials, writes):
    for step, value in CURVE.items():
        writes.value(trials[0], step, 7.0)
        writes.value(trials[0], step, value)
    writes.attribute(trials[0], "stage", "coarse")
    writes.attribute(trials[1], "stage", {"a": [1, None]})
    writes.attribute(trials[1], "stage", "own", system=True)
    assert storage.get_trial(trials[0]).intermediate_values == {}
    writes.flush()
    one, two = map(storage.get_trial, trials)
    assert repr(one.intermediate_values) == repr(CURVE)
    assert (one.user_attrs, two.user_attrs, two.system_attrs) == (
        {"stage": "coarse"}, {"stage": {"a": [1, None]}}, {"stage": "own"},
    )  # fmt: skip
    writes.value(trials[0], 2, 0.25)
    writes.attribute(trials[0], "stage", None)
    writes.flush()
    one = storage.get_trial(trials[0])
    assert (one.intermediate_values[1], one.intermediate_values[2], one.user_attrs) == (0.5, 0.25, {"stage": None})


def test_a_trial_that_has_ended_has_all_that_it_was_given(storage, trials, writes):
    writes.end(trials[0], TrialState.COMPLETE, [0.5])
    writes.attribute(trials[0], "outcome", "complete")  # asked for later, written first: an ended trial is frozen
    writes.value(trials[0], 10, 0.5)
    writes.flush()
    trial = storage.get_trial(trials[0])
    assert (trial.state, trial.value, trial.user_attrs) == (TrialState.COMPLETE, 0.5, {"outcome": "complete"})
    assert trial.intermediate_values == {10: 0.5}


def test_values_alone_wait_for_others_and_not_for_long(storage, trials, writes, now):
    def written():
        return len(storage.get_trial(trials[0]).intermediate_values)

    writes.value(trials[0], 1, 0.5)
    writes.flush(values=False)
    assert written() == 0
    now[0] += VALUES_WAIT_S
    writes.flush(values=False)
    assert written() == 1
    writes.value(trials[0], 2, 0.5)
    writes.attribute(trials[1], "paused_at", 3)
    writes.flush(values=False)
    assert written() == 2, "what must be written takes them along"


def test_a_flush_that_failed_is_repeated_whole(storage, trials, writes, monkeypatch):
    end = RDBStorage.set_trial_state_values

    def fails(*_):
        raise OperationalError("statement", {}, Exception("disk I/O error"))

    writes.value(trials[0], 1, 0.5)
    writes.attribute(trials[0], "outcome", "pruned")
    for trial_id in trials:
        writes.end(trial_id, TrialState.PRUNED, None)
    with monkeypatch.context() as patched:
        patched.setattr(RDBStorage, "set_trial_state_values", fails)
        with pytest.raises(OperationalError):
            writes.flush()
    assert RDBStorage.set_trial_state_values is end
    writes.flush()
    assert [storage.get_trial(trial_id).state for trial_id in trials] == [TrialState.PRUNED] * 2
    assert storage.get_trial(trials[0]).intermediate_values == {1: 0.5}


def test_a_database_without_upserts_gets_the_same_one_by_one(storage, trials, writes, monkeypatch):
    monkeypatch.setattr("tuner.store.writing._INSERTS", {})
    writes.value(trials[0], 1, 0.5)
    writes.attribute(trials[0], "stage", "coarse")
    writes.attribute(trials[0], "rung", 1, system=True)
    writes.flush()
    trial = storage.get_trial(trials[0])
    assert (trial.intermediate_values, trial.user_attrs, trial.system_attrs) == (
        {1: 0.5}, {"stage": "coarse"}, {"rung": 1},
    )  # fmt: skip
