"""What signals do to a round that this process holds, in each phase."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy.exc import OperationalError

from tuner.commands.signals import Signals
from tuner.store.waiting import Waiting


class Training:
    """Counts how often it is asked to end."""

    def __init__(self):
        self.asked = 0

    def interrupt(self):
        self.asked += 1


def locked():
    """As SQLite has it of a file that another process writes to."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    raise OperationalError("UPDATE", {}, error)


@pytest.fixture
def waiting():
    """For a database that has been here."""
    made = Waiting("here", retry_s=0.2, say=lambda _: None)
    made.worked = True
    return made


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_training_the_first_signal_ends_the_work_where_it_asks(waiting, number, capfd):
    signals = Signals()
    with signals.noted(waiting):
        signals.check()
        send(number)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
        send(number)  # it is leaving already
    assert signals.count == 2
    first, second = capfd.readouterr().err.split("\n\n")
    assert f"{number.name}: leaving" in first
    assert f"{number.name}: leaving" in second


def test_while_it_trains_the_first_signal_ends_the_round_and_the_second_its_workers(waiting, capfd):
    signals, training = Signals(), Training()
    with signals.noted(waiting):
        with signals.ending(training):
            send()
            assert training.asked == 1
            send()
        assert training.asked == 2
    first, second = capfd.readouterr().err.split("\n\n")
    assert "SIGINT: stopping" in first
    assert "SIGINT: killing" in second


def test_a_round_that_cannot_be_asked_any_more_raises_nothing_from_wherever_the_signal_came(waiting):
    """Its workers are gone while it is closing; the error would come out of a transaction, or of anything."""
    signals = Signals()

    class Closing:
        def interrupt(self):
            raise KeyError(0)

    with signals.noted(waiting), signals.ending(Closing()):
        send()
    assert signals.count == 1


def test_a_signal_just_before_the_training_is_not_lost(waiting):
    signals, training = Signals(), Training()
    with signals.noted(waiting):
        send()
        with signals.ending(training):
            assert training.asked == 1


@pytest.mark.parametrize(("trains", "count"), [(False, 1), (True, 2)])
def test_a_database_that_is_away_is_not_waited_for(trains, count):
    """Where nothing trains there is nothing to wait for; else the first signal is for the trainings."""
    signals, training, slept = Signals(), Training(), []

    def sleep(seconds):
        slept.append(seconds)
        send()
        if len(slept) > 9:
            pytest.fail("it is waited for")

    waiting = Waiting("here", say=lambda _: None, sleep=sleep)
    waiting.worked = True
    phase = signals.ending(training) if trains else contextlib.nullcontext()
    with signals.noted(waiting), phase, pytest.raises(OperationalError):
        waiting.again(locked)
    assert signals.count == count


def test_the_third_signal_ends_the_process_whatever_it_does():
    program = (
        "import os, signal\nfrom tuner.commands.signals import Signals\nfrom tuner.store.waiting import Waiting\n"
        "with Signals().noted(Waiting('here')):\n"
        "    for _ in range(3):\n        os.kill(os.getpid(), signal.SIGINT)\n    print('still here', flush=True)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (130, "")


def test_a_reader_that_ended_by_the_same_signal_does_not_keep_it_from_the_round(waiting):
    """As in `tuner 2>&1 | tee log`, whose whole group gets it."""
    signals, training, kept = Signals(), Training(), os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    try:
        with signals.noted(waiting), signals.ending(training):
            send()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    assert training.asked == 1


def test_what_was_ignored_stays_ignored_and_handlers_are_put_back(waiting):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signals = Signals()
        with signals.noted(waiting):
            send()
        assert signals.count == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
