"""What is waited for, for how long, and what people are told; the errors are those that the drivers raise."""

import sqlite3

import psycopg
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from psycopg import errors
from sqlalchemy.exc import DBAPIError, OperationalError

from tuner.store.waiting import Waiting, passes


def wrapped_by_optuna(driver):
    error = StorageInternalError("…")
    error.__cause__ = OperationalError("SELECT 1", {}, driver)
    return error


PASSING = [
    psycopg.OperationalError("connection failed: Connection refused"),
    psycopg.OperationalError("FATAL:  the database system is starting up"),
    psycopg.OperationalError("the connection is lost"),
    errors.AdminShutdown("terminating connection due to administrator command"),
    errors.CrashShutdown("…"),
    errors.CannotConnectNow("…"),
    errors.ConnectionFailure("…"),
    errors.TooManyConnections("…"),
    errors.SerializationFailure("…"),
    errors.DeadlockDetected("…"),
    errors.ReadOnlySqlTransaction("…"),
]
LASTING = [
    psycopg.OperationalError('FATAL:  password authentication failed for user "me"'),
    psycopg.OperationalError('FATAL:  database "x" does not exist'),
    errors.InvalidPassword("…"),
    errors.UndefinedTable("…"),
    errors.UniqueViolation("…"),
    errors.DiskFull("…"),
    errors.InsufficientPrivilege("…"),
    sqlite3.OperationalError("database or disk is full"),
    ValueError("…"),
]


@pytest.mark.parametrize(
    "wrap", [lambda error: error, lambda error: OperationalError("…", {}, error), wrapped_by_optuna]
)
def test_what_passes_by_itself_is_told_from_what_does_not(wrap):
    assert [error for error in PASSING if not passes(wrap(error))] == []
    assert [error for error in LASTING if passes(wrap(error))] == []


def test_a_locked_file_passes_and_a_statement_that_is_wrong_does_not(tmp_path):
    one, two = (sqlite3.connect(tmp_path / "file", isolation_level=None, timeout=0) for _ in range(2))
    one.execute("BEGIN IMMEDIATE")
    for statement, passing in (("BEGIN IMMEDIATE", True), ("BEGIN WHATEVER", False)):
        with pytest.raises(sqlite3.OperationalError) as caught:
            two.execute(statement)
        assert passes(caught.value) is passing
    one.close()
    two.close()


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


AWAY = psycopg.OperationalError("Connection refused")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said():
    return []


@pytest.fixture
def waiting(clock, said):
    made = Waiting("db", retry_s=60, say=said.append, clock=lambda: clock.now, sleep=clock.sleep)
    made.worked = True
    return made


def away_until(clock, when, result=7):
    def work():
        if clock.now < when:
            raise AWAY
        return result

    return work


def test_it_is_waited_longer_and_longer_and_told_once_each_way(waiting, clock, said):
    assert waiting.again(away_until(clock, 1030)) == 7
    assert clock.slept[:5] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.3]), "0.8 s in two pieces"
    assert 1030 <= clock.now <= 1035
    assert len(said) == 2
    assert said[0] == "The database db does not answer (Connection refused); waiting up to 60 s for it."
    assert "answers again after 3" in said[1]
    waiting.again(away_until(clock, clock.now + 10))
    assert len(said) == 4, "the next time anew"


def test_a_connection_that_was_only_dropped_is_nothing_to_tell(waiting, clock, said):
    assert waiting.again(away_until(clock, clock.now + 0.5)) == 7
    assert said == []


def test_after_the_time_the_error_is_raised_and_nothing_more_is_waited_for(waiting, clock):
    with pytest.raises(psycopg.OperationalError):
        waiting.again(away_until(clock, 9999))
    assert 1055 <= clock.now <= 1060
    for _ in range(3):
        before = clock.now
        with pytest.raises(psycopg.OperationalError):
            waiting.again(away_until(clock, 9999))
        assert clock.now - before <= 5
    assert clock.now <= 1060
    assert waiting.again(lambda: 7) == 7
    waiting.again(away_until(clock, clock.now + 30))


def test_nothing_is_repeated_before_it_has_worked_once_or_where_it_will_not_pass(waiting, clock):
    def wrong():
        raise errors.UndefinedTable("…")

    with pytest.raises(errors.UndefinedTable):
        waiting.again(wrong)
    waiting.worked = False
    with pytest.raises(psycopg.OperationalError):
        waiting.again(away_until(clock, 1001))
    assert clock.slept == []


def test_units_inside_a_unit_share_one_clock(waiting, clock, said):
    """A connection comes through each time and its transaction never does: that is waited for 60 s all the same."""

    def outer():
        waiting.again(lambda: 7)
        raise AWAY

    with pytest.raises(psycopg.OperationalError):
        waiting.again(outer)
    assert 1055 <= clock.now <= 1060
    assert len(said) == 1


def test_what_must_not_be_done_twice_is_replaced(waiting, clock):
    assert waiting.again(away_until(clock, 9999), lambda: 8) == 8


def test_giving_up_ends_the_wait(waiting, clock):
    sleep = clock.sleep

    def interrupted(seconds):
        sleep(seconds)
        if clock.now > 1003:
            waiting.give_up()

    waiting._sleep = interrupted
    with pytest.raises(psycopg.OperationalError):
        waiting.again(away_until(clock, 9999))
    assert clock.now < 1004


def test_sqlalchemy_marks_a_lost_connection(postgres_url):
    """What `passes` rests on: an error of a connection that has gone has `connection_invalidated`."""
    engine = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert passes(caught.value)
    engine.dispose()
