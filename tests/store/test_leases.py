"""One controller for each round, and none that has lost it writes any more."""

import contextlib
import datetime as dt
import multiprocessing as mp
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.trial import create_trial

from tuner.errors import RoundBusy
from tuner.store import leases as leases_module
from tuner.store.database import Database
from tuner.store.leases import LEASE_S, Held, Leases, Owner
from tuner.store.rounds import Rounds
from tuner.store.tables import LeaseRow

ELSEWHERE = Owner("elsewhere", 4711, "another machine/1", "token-elsewhere")


@pytest.fixture
def database(store_url):
    with Database(store_url) as opened:
        yield opened


@pytest.fixture
def leases(database):
    return Leases(database.engine, database.waiting)


@pytest.fixture
def record(database):
    return create(Rounds(database))


def create(rounds):
    now = dt.datetime.now(dt.UTC)
    known = {"metric": "val/acc", "direction": "maximize", "data_version": "v1", "now": now}
    return rounds.create("digits", digest="a", identity={"seed": 0}, **known)


def expire(database, record):
    with database.engine.begin() as connection:
        long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        connection.execute(sa.update(LeaseRow).where(LeaseRow.round_id == record.id).values(expires=long_ago))


def test_a_second_controller_is_told_who_runs_the_round_since_when_and_what_to_do(leases, record):
    leases.take(record.id, record.name, ELSEWHERE)
    since = leases.of(record.id).since
    with pytest.raises(RoundBusy) as busy:
        leases.take(record.id, record.name, Owner.this_process())
    text = str(busy.value)
    assert text.startswith("digits-1 is being run by process 4711 on elsewhere since ")
    assert since.astimezone().strftime("%Y-%m-%d %H:%M:%S") in text
    assert "launcher.takeover=true" in text
    assert busy.value.exit_code == 2


def test_a_lease_holds_for_its_time_by_the_databases_clock(leases, record):
    leases.take(record.id, record.name, ELSEWHERE)
    lease = leases.of(record.id)
    assert lease.expires - lease.since == dt.timedelta(seconds=LEASE_S)
    assert abs(lease.now - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert not lease.is_over
    assert replace(lease, now=lease.expires + dt.timedelta(seconds=1)).is_over


def test_an_expired_lease_is_taken_over_and_its_owner_can_neither_renew_nor_release(database, leases, record):
    leases.take(record.id, record.name, ELSEWHERE)
    expire(database, record)
    mine = Owner.this_process()
    leases.take(record.id, record.name, mine)
    assert not leases.renew(record.id, ELSEWHERE)
    leases.release(record.id, ELSEWHERE)
    assert leases.of(record.id).owner == mine
    assert leases.renew(record.id, mine)
    leases.release(record.id, mine)
    assert leases.of(record.id) is None


def test_a_takeover_is_forced(leases, record):
    leases.take(record.id, record.name, ELSEWHERE)
    leases.take(record.id, record.name, Owner.this_process(), force=True)
    assert not leases.renew(record.id, ELSEWHERE)


def test_taking_twice_with_the_same_token_is_taking_once(leases, record):
    """The answer to the first attempt may have been lost with the connection."""
    mine = Owner.this_process()
    leases.take(record.id, record.name, mine)
    leases.take(record.id, record.name, mine)
    assert leases.of(record.id).owner == mine


def test_a_dead_owner_of_this_machine_is_not_waited_for(leases, record):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        alive = Owner("here", process.pid, leases_module._process(process.pid), "token")
        assert not alive.is_dead()
        process.kill()
    assert alive.is_dead()
    leases.take(record.id, record.name, alive)
    leases.take(record.id, record.name, Owner.this_process())


def test_a_process_with_the_pid_of_a_dead_owner_is_not_taken_for_it():
    mine = Owner.this_process()
    assert not mine.is_dead()
    machine = mine.process.rpartition("/")[0]
    assert replace(mine, process=f"{machine}/1").is_dead(), "started at another time"


def test_nothing_is_known_of_a_process_of_another_machine_or_container():
    machine, _, started = Owner.this_process().process.rpartition("/")
    boot, _, namespace = machine.rpartition("/")
    assert not replace(Owner.this_process(), process=f"{boot}/{int(namespace) + 1}/{started}", pid=1).is_dead()
    assert not replace(Owner.this_process(), process="", pid=2**22).is_dead()


def _race(url, round_id, barrier, winners):
    with Database(url) as database:
        barrier.wait()
        try:
            Leases(database.engine, database.waiting).take(round_id, "digits-1", Owner.this_process())
        except RoundBusy:
            return
        winners.put(os.getpid())
        time.sleep(2)  # or it would be dead, and the next one would take over


@pytest.mark.parametrize("expired", [pytest.param(False, marks=pytest.mark.slow), True])
def test_of_many_controllers_one_gets_the_lease(store_url, database, leases, record, expired):
    if expired:
        leases.take(record.id, record.name, ELSEWHERE)
        expire(database, record)
    context = mp.get_context("spawn")
    barrier, winners = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_race, args=(store_url, record.id, barrier, winners)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert winners.get(timeout=5)
    assert winners.empty()


@pytest.fixture
def held(database, leases, record):
    """This process has the lease."""
    owner = Owner.this_process()
    leases.take(record.id, record.name, owner)
    with Held(leases, record.id, owner, [database.engine, database.storage.engine]) as held:
        yield held


def _url(database):
    return database._address.url.render_as_string(hide_password=False)


def lose(database, leases, record):
    """Another controller takes over, with connections of its own."""
    with Database(_url(database)) as other:
        Leases(other.engine, other.waiting).take(record.id, record.name, ELSEWHERE, force=True)


def test_who_holds_the_lease_writes(database, record, held):
    Rounds(database).spent(record, 5.0)
    study = database.storage.create_new_study([1], "digits-1")
    database.storage.create_new_trial(study, create_trial(value=0.5))
    assert Rounds(database).latest("digits").seconds_used == 5.0
    held.check()


def test_who_has_lost_the_lease_cannot_write_into_either_kind_of_table(database, leases, record, held):
    rounds = Rounds(database)
    study = database.storage.create_new_study([1], "digits-1")
    lose(database, leases, record)
    with pytest.raises(RoundBusy, match="lost its lease"):
        rounds.spent(record, 99.0)
    for write in (
        lambda: database.storage.create_new_trial(study, create_trial(value=0.5)),
        lambda: database.storage.set_study_user_attr(study, "key", 1),
    ):
        with pytest.raises(RoundBusy, match="lost its lease"):
            write()
    assert held.lost
    with pytest.raises(RoundBusy):
        held.check()
    assert rounds.latest("digits").seconds_used == 0.0
    with Database(_url(database)) as other:
        assert other.storage.get_all_trials(study) == []
        assert other.storage.get_study_user_attrs(study) == {}


def test_after_the_lease_has_gone_back_others_write(database, leases, record):
    owner = Owner.this_process()
    leases.take(record.id, record.name, owner)
    with Held(leases, record.id, owner, [database.engine]):
        pass
    assert leases.of(record.id) is None
    Rounds(database).spent(record, 1.0)  # the fence is gone as well


def test_a_thread_renews_the_lease_while_the_controller_is_busy(database, leases, record, monkeypatch):
    monkeypatch.setattr(leases_module, "RENEW_S", 0.05)
    owner = Owner.this_process()
    leases.take(record.id, record.name, owner)
    before = leases.of(record.id).expires
    with Held(leases, record.id, owner, [database.engine]):
        deadline = time.monotonic() + 20
        while leases.of(record.id).expires <= before + dt.timedelta(seconds=0.1):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_controller_that_has_slept_for_long_asks_before_it_goes_on(database, leases, record):
    """The thread sleeps as long as its process."""
    now = 0.0
    owner = Owner.this_process()
    leases.take(record.id, record.name, owner)
    with Held(leases, record.id, owner, [database.engine], clock=lambda: now) as held:
        lose(database, leases, record)
        held.check()  # not known yet
        now = LEASE_S
        with pytest.raises(RoundBusy):
            held.check()


def _hold(url, round_id, pipe):
    leases_module.LEASE_S, leases_module.RENEW_S = 2.0, 0.2
    with Database(url) as database:
        rounds, leases, owner = Rounds(database), Leases(database.engine, database.waiting), Owner.this_process()
        leases.take(round_id, "digits-1", owner)
        with Held(leases, round_id, owner, [database.engine]):
            pipe.send("held")
            while True:
                try:
                    rounds.spent(rounds.latest("digits"), 99.0)
                except RoundBusy:
                    pipe.send("lost")
                    return


def _stop_between_transactions(pid, url):
    """In the middle of one it would keep SQLite's lock; a server ends a transaction in which nothing happens."""
    time.sleep(0.5)
    while True:
        os.kill(pid, signal.SIGSTOP)
        if not url.startswith("sqlite"):
            return
        # A thread that is in a system call ends it first, and may be given the lock by it.
        while any(
            stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        ):
            time.sleep(0.01)
        with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(url[10:], timeout=0.3) as connection:
            connection.execute("BEGIN IMMEDIATE")
            return
        os.kill(pid, signal.SIGCONT)


def test_a_controller_that_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_wakes(
    store_url, database, leases, record, monkeypatch
):
    monkeypatch.setattr("tuner.store.leases.Owner.is_dead", lambda _: False)
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(store_url, record.id, theirs))
    process.start()
    assert ours.recv() == "held"
    _stop_between_transactions(process.pid, store_url)
    try:
        deadline = time.monotonic() + 90
        mine = Owner.this_process()
        while True:
            try:
                leases.take(record.id, record.name, mine)
                break
            except RoundBusy:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        Rounds(database).spent(record, 1.0)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert ours.poll(20)
    assert ours.recv() == "lost"
    process.join()
    assert Rounds(database).latest("digits").seconds_used == 1.0
    assert leases.of(record.id).owner == mine, "its end has not taken the lease of another"
