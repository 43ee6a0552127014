"""The database: schema, settings of SQLite, and rounds with their lease."""

import datetime as dt
import multiprocessing as mp
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tuner.errors import RoundBusy, StoreError
from tuner.store import database as database_module
from tuner.store.database import SCHEMA, VERSION_TABLE, Database, metadata
from tuner.store.rounds import LEASE_S, Champion, Owner, Rounds, RoundState

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def database(tmp_path):
    with Database(f"sqlite:///{tmp_path}/deep/tuner.db") as opened:
        yield opened


@pytest.fixture
def rounds(database):
    return Rounds(database)


def create(rounds, digest="a", study="digits", data_version="v1"):
    return rounds.create(
        study,
        digest=digest,
        identity={"seed": 0},
        metric="val/acc",
        direction="maximize",
        data_version=data_version,
        now=NOW,
    )


def test_the_migrations_make_the_tables_that_the_code_has(database):
    with database.engine.connect() as connection:
        options = {
            "version_table": VERSION_TABLE,
            "include_name": lambda name, kind, _: kind != "table" or str(name).startswith("tuner_"),
        }
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata())
    assert [difference for difference in found if VERSION_TABLE not in str(difference)] == []
    migrations = Path(database_module.__file__).with_name("migrations")
    assert ScriptDirectory(str(migrations)).get_current_head() == SCHEMA


def test_sqlite_lets_readers_in_while_the_round_writes(database):
    for engine in (database.engine, database.storage.engine):
        with engine.connect() as connection:
            assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 1  # NORMAL


def test_a_database_of_a_newer_tuner_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/tuner.db"
    Database(url).close()
    with sqlite3.connect(tmp_path / "tuner.db") as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match="newer tuner"):
        Database(url)


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "tuner.db").write_text("this is a letter to my aunt, and by no means a database of any kind" * 20)
    with pytest.raises(StoreError, match="file is not a database"):
        Database(f"sqlite:///{tmp_path}/tuner.db")


def _open(url, queue):
    try:
        with Database(url) as opened:
            queue.put(len(sa.inspect(opened.engine).get_table_names()))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
        queue.put(repr(error))


def test_processes_that_open_a_new_database_at_once_all_get_one(tmp_path):
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_open, args=(f"sqlite:///{tmp_path}/tuner.db", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    counts = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len(set(counts)) == 1
    assert isinstance(counts[0], int)


def test_rounds_are_numbered_per_study_and_one_identity_has_one_round(rounds):
    assert [create(rounds, digest).name for digest in "aba"] == ["digits-1", "digits-2", "digits-1"]
    assert create(rounds, "a", study="cifar").name == "cifar-1"
    assert rounds.latest("digits").number == 2
    assert [record.name for record in rounds.all()] == ["cifar-1", "digits-1", "digits-2"]


def test_a_lease_is_held_by_one_controller_until_it_expires_or_dies(rounds):
    record = create(rounds)
    elsewhere = Owner("another-host", 1, "x")
    rounds.lease(record, elsewhere, NOW)
    held = rounds.latest("digits")
    with pytest.raises(RoundBusy, match="process 1 on another-host"):
        rounds.lease(held, Owner.this_process(), NOW + dt.timedelta(seconds=LEASE_S / 2))
    mine = Owner.this_process()
    rounds.lease(held, mine, NOW + dt.timedelta(seconds=LEASE_S + 1))
    with pytest.raises(RoundBusy, match="lost its lease"):
        rounds.renew(record, elsewhere, NOW, seconds_used=1)
    rounds.renew(record, mine, NOW, seconds_used=7.5)
    assert rounds.latest("digits").seconds_used == 7.5


def test_a_dead_owner_of_this_host_is_not_waited_for(rounds):
    process = mp.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    record = create(rounds)
    dead = replace(Owner.this_process(), pid=process.pid)
    rounds.lease(record, dead, NOW)
    rounds.lease(rounds.latest("digits"), Owner.this_process(), NOW)


def test_the_lease_goes_back_with_what_the_round_came_to(rounds):
    record, owner = create(rounds), Owner.this_process()
    rounds.lease(record, owner, NOW)
    rounds.release(record, owner, state=RoundState.FINISHED, budget={"trials": 4}, seconds_used=3.0)
    record = rounds.latest("digits")
    assert (record.state, record.budget, record.owner) == (RoundState.FINISHED, {"trials": 4}, None)


def test_the_last_champion_is_the_rounds_champion(rounds):
    record = create(rounds)
    assert rounds.champion(record) is None
    assert rounds.latest("digits", with_champion=True) is None
    for trial in (3, 5):
        champion = Champion(trial, 0.9, {"lr": 0.1}, ("module.lr=0.1",), provisional=True)
        rounds.crown(record, champion, NOW)
    assert rounds.champion(record) == champion
    assert rounds.latest("digits", with_champion=True) == record
