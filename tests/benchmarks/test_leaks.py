"""The benchmark of leaks: what it calls one, and that a worker keeps nothing of the trials that it has trained."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def leaks(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import leaks

    return leaks


@pytest.mark.parametrize(
    ("values", "must_stay", "is_leak"),
    [
        ([*range(10), *[9] * 34], True, False),  # what the first trainings open stays open
        ([9] * 42 + [10, 10], True, True),
        ([9] * 30 + [10, 10] + [9] * 12, True, True),  # gone again, but a later training should not need it
        ([9] * 30 + [11] + [9] * 13, True, False),  # it was closing
        ([100 + place / 100 for place in range(44)], False, False),
        ([100 + place for place in range(44)], False, True),
    ],
)
def test_growth_after_the_first_trainings_is_a_leak(leaks, values, must_stay, is_leak):
    assert leaks.Trend("what", values, must_stay).leaks is is_leak


def test_growth_is_given_per_hundred_trainings(leaks):
    assert leaks.Trend("what", [5 + place / 4 for place in range(44)], must_stay=False).per_hundred == 25
    assert leaks.Trend("what", [500 - place for place in range(200)], must_stay=False).per_hundred == -100


def test_files_children_and_threads_of_a_process_are_counted(leaks):
    before = leaks.Usage.of(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        now = leaks.Usage.of(os.getpid())
        assert (now.files, now.children, now.threads) == (before.files + 1, before.children + 1, before.threads)
        assert now.memory_mib > 5
    finally:
        child.communicate(b"\n")


def test_a_process_is_given_time_to_close_what_it_has_let_go_of(leaks):
    before = leaks.Usage.of(os.getpid())
    begun = time.monotonic()
    closing = threading.Thread(target=time.sleep, args=(0.3,))
    closing.start()
    assert leaks.Usage.of(os.getpid()).threads == before.threads + 1
    settled = leaks.Usage.settled(os.getpid(), before)
    closing.join()
    assert settled.threads == before.threads
    assert time.monotonic() - begun < leaks.CLOSING_S


def test_what_a_process_keeps_is_seen_when_its_time_to_close_is_over(leaks, monkeypatch):
    monkeypatch.setattr(leaks, "CLOSING_S", 0.1)
    before = leaks.Usage.of(os.getpid())
    with Path(__file__).open():
        assert leaks.Usage.settled(os.getpid(), before).files == before.files + 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--cifar"]], ids=["digits", "loader processes"])
def test_a_worker_keeps_nothing_of_its_trials(tmp_path, options):
    figure = tmp_path / "leaks.png"
    words = [sys.executable, str(BENCHMARKS / "leaks.py"), "--quick", "--markdown", "--plot", str(figure), *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    verdicts = [line for line in done.stdout.splitlines() if line.startswith("- met: ")]
    assert len(verdicts) >= 8
    assert "MISSED" not in done.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
