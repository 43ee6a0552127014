"""Local workers: real processes, one protocol."""

import os
import signal

import pytest
from faulty import Line

from tuner.errors import RoundFailed
from tuner.launch import local
from tuner.launch.devices import Seat
from tuner.launch.local import local_groups
from tuner.launch.protocol import Ended, Lost, Measured, Refused
from tuner.training.task import Answer, Outcome, Task

assert Line  # the workers import it by name


def task(folder, *, trial=0, mode="good", data=None, **changes):
    config = {
        "module": {"_target_": "faulty.Line", "mode": mode, "marks": str(folder)},
        "data": {"_target_": "faulty.loaders", **(data or {})},
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        "optimizer": None,
        "schedule": None,
    }
    return Task(trial, config, "val/loss", 0, str(folder / f"trial-{trial}"), **changes)


def until(launcher, *kinds):
    """Events until one of a kind came; the worker's own end makes one come in any case."""
    events = []
    while not any(isinstance(event, kinds) for _, event in events):
        events += launcher.events(1.0)
    return events


def wait_idle(launcher, count=1):
    while len(launcher.idle()) < count:
        launcher.events(0.1)


@pytest.fixture
def launcher(tmp_path):
    with local_groups([[Seat()]], tmp_path / "logs") as started:
        wait_idle(started)
        yield started


def test_a_task_is_measured_after_each_epoch_and_ends(launcher, tmp_path):
    launcher.train(0, task(tmp_path))
    assert launcher.idle() == []
    events = [event for _, event in until(launcher, Ended)]
    assert [event.measurement.epoch for event in events if isinstance(event, Measured)] == [1, 2, 3]
    assert events[-1].result.outcome is Outcome.COMPLETE
    assert launcher.idle() == [0]


def test_a_trial_paused_by_one_worker_goes_on_in_another(tmp_path):
    with local_groups([[Seat()], [Seat()]], tmp_path / "logs") as launcher:
        wait_idle(launcher, 2)
        launcher.train(0, task(tmp_path, trial=1))
        whole = [event.measurement.value for _, event in until(launcher, Ended) if isinstance(event, Measured)]
        launcher.train(0, task(tmp_path, rungs=(2,)))
        first = until(launcher, Measured)
        while not first[-1][1].waits:
            first += until(launcher, Measured)
        launcher.reply(0, Answer.PAUSE)
        paused = until(launcher, Ended)[-1][1].result
        assert paused.outcome is Outcome.PAUSED
        launcher.train(1, task(tmp_path, checkpoint=paused.checkpoint))
        second = until(launcher, Ended)
    parts = [event.measurement.value for _, event in first + second if isinstance(event, Measured)]
    assert parts == whole


def test_a_loader_may_have_workers_of_its_own(launcher, tmp_path):
    launcher.train(0, task(tmp_path, data={"num_workers": 1}))
    assert until(launcher, Ended)[-1][1].result.outcome is Outcome.COMPLETE


def test_a_loader_that_fails_is_a_crash_with_its_own_traceback(launcher, tmp_path):
    launcher.train(0, task(tmp_path, data={"broken": True}))
    result = until(launcher, Ended)[-1][1].result
    assert result.outcome is Outcome.CRASHED
    assert result.reason == "RuntimeError: no batch today"
    assert "in __iter__" in result.traceback


def test_a_halt_stops_a_training_between_two_batches(launcher, tmp_path):
    slow = task(tmp_path)
    slow.config["module"]["pause_s"] = 0.05
    launcher.train(0, slow)
    until(launcher, Measured)
    launcher.halt(0)
    assert until(launcher, Ended)[-1][1].result.outcome is Outcome.STOPPED
    launcher.train(0, task(tmp_path, trial=1))
    assert until(launcher, Ended)[-1][1].result.outcome is Outcome.COMPLETE, "a halt is for one training only"


def test_a_halt_reaches_a_worker_that_waits_for_an_answer(launcher, tmp_path):
    launcher.train(0, task(tmp_path, every_value=True))
    until(launcher, Measured)
    launcher.halt(0)
    assert until(launcher, Ended)[-1][1].result.outcome is Outcome.STOPPED


@pytest.mark.parametrize(("mode", "how"), [("exit", "exit code 3"), ("killed once", "SIGKILL")])
def test_a_worker_that_dies_is_reported_and_replaced(launcher, tmp_path, mode, how):
    before = launcher.describe(0)
    launcher.train(0, task(tmp_path, mode=mode))
    lost = until(launcher, Lost)[-1][1]
    assert lost.trial == 0
    assert how in lost.reason
    wait_idle(launcher)
    assert launcher.describe(0) != before
    launcher.train(0, task(tmp_path, trial=1))
    assert until(launcher, Ended)[-1][1].result.outcome is Outcome.COMPLETE


def test_a_mistake_in_the_study_is_refused_with_a_sentence(launcher, tmp_path):
    broken = task(tmp_path)
    broken.config["module"] = {"_target_": "faulty.loaders"}
    launcher.train(0, broken)
    refused = until(launcher, Refused)[-1][1]
    assert "LightningModule" in refused.text
    assert launcher.idle() == [0]


def test_workers_that_never_come_up_end_the_round(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_run_worker", os._exit)
    with (
        local_groups([[Seat()]], tmp_path / "logs") as launcher,
        pytest.raises(RoundFailed, match="No worker comes up"),
    ):
        wait_idle(launcher)


def test_no_process_is_left_after_the_launcher(tmp_path):
    with local_groups([[Seat()], [Seat()]], tmp_path / "logs") as launcher:
        wait_idle(launcher, 2)
        pids = [int(launcher.describe(worker).rpartition(":")[2]) for worker in (0, 1)]
        launcher.train(0, task(tmp_path, mode="sleep"))
        os.kill(pids[1], signal.SIGSTOP)
        launcher.kill(0)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
