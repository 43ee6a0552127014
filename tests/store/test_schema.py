"""The schema: made once by many, upgraded from its first revision, and refused where it is not ours to use."""

import datetime as dt
import multiprocessing as mp
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tuner.errors import StoreError
from tuner.store import database as database_module
from tuner.store.database import MIGRATIONS, SCHEMA, VERSION_TABLE, Database, _engine_options, metadata
from tuner.store.rounds import Rounds
from tuner.store.tables import DataVersionRow
from tuner.store.waiting import Waiting

FIRST = "0001"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ROUND = {
    "study": "digits", "digest": "a", "identity": {"seed": 0}, "metric": "val/acc", "direction": "maximize",
    "data_version": "v1", "now": NOW,
}  # fmt: skip


def differences(database):
    """Between the tables that the migrations have made and those that the code has."""
    options = {
        "version_table": VERSION_TABLE,
        "include_name": lambda name, kind, _: kind != "table" or str(name).startswith("tuner_"),
    }
    with database.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata())
    return [difference for difference in found if VERSION_TABLE not in str(difference)]


def version(database):
    with database.engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def execute(url, text):
    """One statement, as somebody else would run it."""
    with Database(url) as database, database.engine.begin() as connection:
        connection.execute(sa.text(text))


def test_the_migrations_make_the_tables_that_the_code_has(store_url):
    with Database(store_url) as database:
        assert differences(database) == []
        assert version(database) == SCHEMA
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == SCHEMA


def test_a_database_of_the_first_revision_is_upgraded_with_what_it_has(store_url, monkeypatch):
    """What the first release has made is what migration 0001 makes; its rows are written here without today's code."""
    monkeypatch.setattr(database_module, "SCHEMA", FIRST)
    upgrade = command.upgrade
    monkeypatch.setattr(command, "upgrade", lambda config, _: upgrade(config, FIRST))
    with Database(store_url) as database, database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO tuner_data_versions (id, study, fingerprint, first_seen) VALUES (1, 'digits', 'v1', '2026-01-01')"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO tuner_rounds (id, study, number, optuna_study, digest, identity, metric, direction, "
                "data_version_id, state, created, seconds_used, budget) VALUES (1, 'digits', 1, 'digits-1', 'a', "
                "'{\"seed\": 0}', 'val/acc', 'maximize', 1, 'finished', '2026-01-01', 1.5, '{}')"
            )
        )
    monkeypatch.undo()
    with Database(store_url) as database:
        assert version(database) == SCHEMA
        assert differences(database) == []
        record = Rounds(database).latest("digits")
    assert (record.name, record.seconds_used, record.identity) == ("digits-1", 1.5, {"seed": 0})


NEXT = '''
"""A column more."""
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{before}"
branch_labels = depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("tuner_data_versions") as table:
        table.add_column(sa.Column("note", sa.String(512), nullable=True))
    {more}
'''


@pytest.fixture
def next_revision(tmp_path, monkeypatch):
    """Makes a later tuner of this one, whose migration adds a column; `more` is a line at the migration's end."""

    def make(more="pass"):
        folder = tmp_path / "migrations"
        shutil.copytree(MIGRATIONS, folder, dirs_exist_ok=True)
        (folder / "versions" / "9000_next.py").write_text(NEXT.format(before=SCHEMA, more=more))
        monkeypatch.setattr(database_module, "MIGRATIONS", folder)
        monkeypatch.setattr(database_module, "SCHEMA", "9000")

    return make


def columns(database):
    return {column["name"] for column in sa.inspect(database.engine).get_columns("tuner_data_versions")}


def test_an_upgrade_changes_the_tables_and_keeps_the_rows(store_url, next_revision):
    with Database(store_url) as database:
        record = Rounds(database).create(**ROUND)
    next_revision()
    for _ in range(2):
        with Database(store_url) as database:
            assert "note" in columns(database)
            assert Rounds(database).latest("digits") == record


def test_an_upgrade_that_is_cut_off_leaves_the_database_as_it_was(store_url, next_revision):
    with Database(store_url) as database:
        record = Rounds(database).create(**ROUND)
    next_revision("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Database(store_url)
    next_revision()
    with Database(store_url) as database:
        assert "note" in columns(database)
        assert Rounds(database).latest("digits") == record


def test_a_database_whose_schema_is_newer_is_refused(store_url):
    execute(store_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer tuner"):
        Database(store_url)


def test_a_database_of_another_optuna_is_refused_in_a_sentence(store_url):
    execute(store_url, "UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with Database(store_url) as database, pytest.raises(StoreError, match="optuna storage upgrade"):
        database.storage  # noqa: B018 - opening it is what fails


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "tuner.db").write_text("this is a letter to my aunt, and by no means a database of any kind" * 20)
    with pytest.raises(StoreError, match="file is not a database"):
        Database(f"sqlite:///{tmp_path}/tuner.db")


def _open(url, barrier, queue):
    barrier.wait()
    try:
        with Database(url) as opened:
            rounds = Rounds(opened)
            queue.put((sorted(sa.inspect(opened.engine).get_table_names()), rounds.create(**ROUND).name))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
        queue.put(repr(error))


def test_processes_that_open_an_empty_database_at_once_all_get_the_same_one(store_url):
    context = mp.get_context("spawn")
    count = 4
    queue, barrier = context.Queue(), context.Barrier(count)
    processes = [context.Process(target=_open, args=(store_url, barrier, queue)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found == [found[0]] * count
    tables, name = found[0]
    assert name == "digits-1"
    assert {VERSION_TABLE, "alembic_version", "trials", DataVersionRow.__tablename__} <= set(tables)
    with Database(store_url) as database, database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT COUNT(*) FROM version_info")).scalar() == 1


def test_connections_that_are_the_first_of_a_file_at_once_wait_for_each_other(tmp_path):
    """SQLite's own waiting is not for the switch to its write-ahead log."""
    count = 6
    barrier = threading.Barrier(count)

    def connected(path):
        engine = sa.create_engine(
            f"sqlite:///{path}", **_engine_options(sa.make_url(f"sqlite:///{path}"), Waiting("it"))
        )
        barrier.wait()
        with engine.connect() as connection:
            mode = connection.execute(sa.text("PRAGMA journal_mode")).scalar()
        engine.dispose()
        return mode

    with ThreadPoolExecutor(count) as pool:
        for turn in range(30):
            assert list(pool.map(connected, [tmp_path / f"{turn}.db"] * count)) == ["wal"] * count
