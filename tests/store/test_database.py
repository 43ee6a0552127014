"""The database: settings of SQLite, and rounds."""

import datetime as dt

import pytest
import sqlalchemy as sa

from tuner.errors import StoreError
from tuner.store.database import Database
from tuner.store.leases import Leases, Owner
from tuner.store.rounds import Champion, Rounds, RoundState

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def database(store_url):
    with Database(store_url) as opened:
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


def test_sqlite_lets_readers_in_while_the_round_writes(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/deep/tuner.db")
    for engine in (database.engine, database.storage.engine):
        with engine.connect() as connection:
            assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 1  # NORMAL
    database.close()


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "tuner.db").write_text("this is a letter to my aunt, and by no means a database of any kind" * 20)
    with pytest.raises(StoreError, match="file is not a database"):
        Database(f"sqlite:///{tmp_path}/tuner.db")


def test_rounds_are_numbered_per_study_and_one_identity_has_one_round(rounds):
    assert [create(rounds, digest).name for digest in "aba"] == ["digits-1", "digits-2", "digits-1"]
    assert create(rounds, "a", study="cifar").name == "cifar-1"
    assert rounds.latest("digits").number == 2
    assert [record.name for record in rounds.all()] == ["cifar-1", "digits-1", "digits-2"]


def test_a_round_is_closed_with_what_it_came_to_and_opened_again(rounds):
    record = create(rounds)
    rounds.close(record, state=RoundState.FINISHED, budget={"trials": 4}, seconds_used=3.0)
    closed = rounds.latest("digits")
    assert (closed.state, closed.budget, closed.seconds_used) == (RoundState.FINISHED, {"trials": 4}, 3.0)
    assert rounds.open(record).state is RoundState.OPEN
    assert rounds.latest("digits").seconds_used == 3.0


def test_a_round_is_discarded_only_while_nobody_has_it(database, rounds):
    record, leases, owner = create(rounds), Leases(database.engine, database.waiting), Owner.this_process()
    leases.take(record.id, record.name, owner)
    rounds.discard(record)
    assert rounds.latest("digits") == record
    leases.release(record.id, owner)
    rounds.discard(record)
    assert rounds.latest("digits") is None


def test_the_last_champion_is_the_rounds_champion(rounds):
    record = create(rounds)
    assert rounds.champion(record) is None
    assert rounds.latest("digits", with_champion=True) is None
    for trial in (3, 5):
        champion = Champion(trial, 0.9, {"lr": 0.1}, ("module.lr=0.1",), provisional=True)
        rounds.crown(record, champion, NOW)
    assert rounds.champion(record) == champion
    assert rounds.latest("digits", with_champion=True) == record
