"""The database goes away in the middle: everything is written once, whenever the connection broke."""

import contextlib
import datetime as dt
import functools
import multiprocessing as mp
import sqlite3
import threading
import time

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from postgres import SECRETS, Cutter

from tuner.errors import StoreError
from tuner.search.sampler import ResultBlindSampler
from tuner.space import LogUniform, Parameter, Space
from tuner.store import database as database_module
from tuner.store.database import Database as RealDatabase
from tuner.store.ledger import Ledger
from tuner.store.reading import trials_of
from tuner.store.rounds import Champion, Rounds

#: A test that waits in vain fails sooner than a round would.
Database = functools.partial(RealDatabase, retry_s=30)
SPACE = Space.of([Parameter("lr", LogUniform(1e-4, 1.0), "module.lr")])


def ledger_of(database, name="line-1"):
    ledger = Ledger(database.storage, name, metric="loss", direction="minimize", space=SPACE, expand=False)
    ledger.use(ResultBlindSampler("random", 0, SPACE), optuna.pruners.NopPruner())
    return ledger


def live(ledger, count):
    """The whole life of some trials, with a flush after each part of it."""
    for number in range(len(ledger), len(ledger) + count):
        ledger.draw()
        ledger.record(number, stage="coarse", readings=[])
        ledger.flush()
        ledger.measure(number, 10, 1, number / 2)
        ledger.note(number, readings=[[1, number / 2, number]])
        ledger.flush()
        ledger.note_of_round("last", number)
        ledger.tell(number, TrialState.COMPLETE, number / 2, outcome="complete")
        ledger.flush()


def facts(database, name="line-1"):
    """What the database has of a study, read by Optuna itself."""
    return [
        (trial.number, trial.state.name, trial.values, trial.params, trial.user_attrs, trial.intermediate_values)
        for trial in database.storage.get_all_trials(database.storage.get_study_id_from_name(name))
    ]


@pytest.fixture
def undisturbed(tmp_path):
    """What two trials leave where nothing goes wrong."""
    with Database(f"sqlite:///{tmp_path}/undisturbed.db") as database:
        live(ledger_of(database), 2)
        return facts(database)


@pytest.fixture
def cutter(postgres):
    made = Cutter(postgres.port)
    yield made
    made.close()


@pytest.fixture
def cut_url(postgres, cutter, postgres_url):
    """The empty database by way of the cutter."""
    return postgres_url.replace(f":{postgres.port}/", f":{cutter.port}/")


def count_commits(url, cutter, postgres):
    cutter.cut(after=False, skip=10**6)
    with Database(url) as database:
        before = cutter._left
        live(ledger_of(database, "counted"), 2)
        return before - cutter._left


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["not applied", "applied and not answered"])
def test_a_connection_that_breaks_at_any_commit_leaves_no_trace(cut_url, cutter, postgres, undisturbed, after):
    commits = count_commits(cut_url, cutter, postgres)
    assert commits >= 12
    for skip in range(commits):
        name = f"line-{skip}"
        with Database(cut_url) as database:
            cutter.cut(after=after, skip=skip)
            live(ledger_of(database, name), 2)
            assert facts(database, name) == undisturbed, f"cut at commit {skip} of {commits}"
    assert cutter.cuts == commits


@pytest.mark.parametrize("after", [False, True], ids=["not applied", "applied and not answered"])
@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING, None], ids=str)
def test_optunas_own_calls_make_one_trial_whatever_its_template(cut_url, cutter, state, after):
    with Database(cut_url) as database:
        study_id = database.storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
        template = None if state is None else optuna.trial.create_trial(state=state)
        ids = []
        for count in range(3):
            cutter.cut(after=after)
            ids.append(database.storage.create_new_trial(study_id, template))
            assert cutter.cuts == count + 1
        trials = database.storage.get_all_trials(study_id)
    assert [trial._trial_id for trial in trials] == ids
    assert [trial.number for trial in trials] == [0, 1, 2]


def test_an_end_that_was_applied_is_told_from_another_one(cut_url, cutter):
    with Database(cut_url) as database, Database(cut_url) as other:
        storage = database.storage
        study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
        one, two = (storage.create_new_trial(study_id) for _ in range(2))
        cutter.cut(after=True)
        assert storage.set_trial_state_values(one, TrialState.COMPLETE, [0.5])
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(one, TrialState.COMPLETE, [0.5])  # no attempt of ours: told twice
        other.storage.set_trial_state_values(two, TrialState.FAIL)
        cutter.cut(after=False)
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(two, TrialState.COMPLETE, [0.5])


def test_a_study_is_removed_once(cut_url, cutter):
    with Database(cut_url) as database:
        for after in (False, True):
            study_id = database.storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "one")
            cutter.cut(after=after)
            database.storage.delete_study(study_id)
            assert database.storage.get_all_studies() == []
    assert cutter.cuts == 2


NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("after", [False, True], ids=["not applied", "applied and not answered"])
def test_each_change_of_a_round_is_made_once(cut_url, cutter, after):
    champions = [Champion(trial, 0.9, {"lr": 0.1}, ("module.lr=0.1",), provisional=True) for trial in (3, 5)]

    def changes(database):
        """Each cut in turn; the next one sees what the one before has left."""
        rounds = Rounds(database)
        cutter.cut(after=after)
        record = rounds.create(
            "digits", digest="a", identity={}, metric="loss", direction="minimize", data_version="v1", now=NOW
        )
        for number in range(2):
            cutter.cut(after=after)
            rounds.add_stage(record, number, {"name": str(number)}, NOW)
        for champion in champions:
            cutter.cut(after=after)
            rounds.crown(record, champion, NOW)
        return rounds, record

    with Database(cut_url) as database:
        rounds, record = changes(database)
        assert cutter.cuts == 5
        assert [found.name for found in rounds.all()] == ["digits-1"]
        assert rounds.stages(record) == [{"name": "0"}, {"name": "1"}]
        assert rounds.champion(record) == champions[-1]


def later(seconds, work):
    thread = threading.Timer(seconds, work)
    thread.start()
    return thread


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_what_is_asked_while_the_server_is_down_waits_for_it_and_says_so_once(postgres, postgres_url, mode, capfd):
    with Database(postgres_url) as database:
        ledger = ledger_of(database)
        live(ledger, 1)
        postgres.stop(mode)
        starter = later(2.5, postgres.start)
        live(ledger, 1)
        starter.join()
        Rounds(database).all()
        assert [row[:2] for row in facts(database)] == [(0, "COMPLETE"), (1, "COMPLETE")]
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 2, told
    assert "does not answer" in told[0]
    assert "answers again" in told[1]
    assert not any(secret in line for line in told for secret in SECRETS)


@pytest.mark.slow
def test_a_server_that_restarts_again_and_again_loses_and_doubles_nothing(postgres, postgres_url):
    """At any moment of writing, in each mode in turn."""
    restarts, wanted = 0, 10
    done = threading.Event()

    def restart():
        nonlocal restarts
        while not done.wait(0.3 + 0.05 * restarts):
            postgres.restart(("fast", "immediate")[restarts % 2])
            restarts += 1

    with Database(postgres_url) as database:
        ledger = ledger_of(database)
        restarter = threading.Thread(target=restart)
        restarter.start()
        try:
            while restarts < wanted:
                live(ledger, 1)
        finally:
            done.set()
            restarter.join()
        expected = [
            (number, "COMPLETE", [number / 2], {"stage": "coarse", "readings": [[1, number / 2, number]], "outcome": "complete"}, {10: number / 2})
            for number in range(len(ledger))
        ]  # fmt: skip
        assert [(*row[:3], *row[4:]) for row in facts(database)] == expected


def test_reading_goes_on_after_the_last_trial_that_was_read(postgres, postgres_url, monkeypatch):
    monkeypatch.setattr("tuner.store.reading.CHUNK", 2)
    with Database(postgres_url) as database:
        live(ledger_of(database), 4)
        study_id = database.storage.get_study_id_from_name("line-1")
        undisturbed = [repr(trial) for trial in trials_of(database.storage, study_id)]
        found = []
        for trial in trials_of(database.storage, study_id):
            found.append(repr(trial))
            if len(found) == 2:
                postgres.restart("immediate")
    assert found == undisturbed


def test_a_server_that_stays_away_ends_the_wait_in_one_sentence(postgres, postgres_url):
    with Database(postgres_url, retry_s=1.5) as database:
        ledger = ledger_of(database)
        postgres.stop()
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"refused.*It has been away for . s; the same command goes on"):  # noqa: SIM117
            with database.explained():
                live(ledger, 1)
        assert time.monotonic() - began >= 1
        with pytest.raises(StoreError, match="refused"), database.explained():
            Rounds(database).all()


# -- the first connection -----------------------------------------------------------------------------------------------


def test_the_first_connection_is_not_waited_for(postgres, postgres_url):
    name = postgres_url.rpartition("/")[2]
    cases = {
        postgres.url(name, password="wrong%20 one"): "password authentication failed.*Mend the user, the password",
        postgres.url(name, user="nobody"): "password authentication failed",
        postgres.url("nothing"): 'database "nothing" does not exist.*createdb',
        "postgresql://me:hush@no-such-host.invalid/db": "no-such-host.*Mend the host",
        f"{postgres_url}?host=/nowhere": "nowhere.*Is a PostgreSQL server running",
    }
    for url, told in cases.items():
        with pytest.raises(StoreError, match=told) as caught:
            Database(url)
        text = str(caught.value)
        assert "\n" not in text
        assert not any(secret in text for secret in (*SECRETS, "hush", "wrong"))
    postgres.stop()
    with pytest.raises(StoreError, match=r"refused.*Is a PostgreSQL server running"):
        Database(postgres_url)


def test_a_missing_driver_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(StoreError, match="pip install 'tuner\\[postgres\\]'"):
        Database("postgresql://me:hush@127.0.0.1/db")


# -- SQLite -------------------------------------------------------------------------------------------------------------


def _hold(path, seconds, ready):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        ready.set()
        time.sleep(seconds)
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("busy_s", "seconds"), [(0.2, 3), pytest.param(60, 25, marks=pytest.mark.slow)], ids=["past its patience", "long"]
)
def test_a_file_that_another_process_has_locked_is_waited_for(
    tmp_path, monkeypatch, undisturbed, busy_s, seconds, capfd
):
    monkeypatch.setattr(database_module, "BUSY_S", busy_s)
    context = mp.get_context("spawn")
    ready = context.Event()
    with Database(f"sqlite:///{tmp_path}/tuner.db") as database:
        ledger = ledger_of(database)
        other = context.Process(target=_hold, args=(tmp_path / "tuner.db", seconds, ready))
        other.start()
        ready.wait(60)
        live(ledger, 2)
        other.join()
        assert facts(database) == undisturbed
    told = capfd.readouterr().err
    assert told.count("database is locked") == told.count("answers again") == (1 if busy_s < seconds else 0)
