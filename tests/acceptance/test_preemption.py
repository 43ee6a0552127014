"""Machines that are taken away with a warning, and devices that a trial has several of, from the command line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rounds import facts, trials, write_study

TUNER = [sys.executable, "-m", "tuner"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
#: Two trials of 8 epochs with 4 steps of 0.1 s each.
WORDS = ("study=line", "module.pause_s=0.1", "trainer.max_epochs=8", "search=random", "pruner=none", "search.trials=2")
EPOCHS = 2 * 8


def start(folder, *words):
    conf = folder / "conf"
    if not conf.is_dir():
        write_study(folder)
    command = [*TUNER, *WORDS, *words, "--config-dir", str(conf)]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finished(program):
    """Its exit code; what it said on standard error is shown when the test fails."""
    _, errors = program.communicate(timeout=120)
    sys.stderr.write(errors)
    return program.returncode


def epochs(folder):
    file = folder / "epochs.txt"
    return file.read_text().splitlines() if file.is_file() else []


def wait_for_epochs(folder, count, seconds=60.0):
    deadline = time.monotonic() + seconds
    while len(epochs(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    program = start(folder)
    assert finished(program) == 0
    assert len(epochs(folder)) == EPOCHS
    return facts(folder)


@pytest.mark.slow
def test_a_controller_that_is_told_to_end_saves_what_trains_in_the_middle_of_an_epoch(tmp_path, undisturbed):
    program = start(tmp_path)
    wait_for_epochs(tmp_path, 3)
    time.sleep(0.15)
    program.send_signal(signal.SIGTERM)
    assert finished(program) == 130
    kept = trials(tmp_path)[0].user_attrs["checkpoint"]
    assert kept["epoch"] > 3
    assert kept["epoch"] % 1, "in the middle of an epoch"
    assert (tmp_path / "runs/line-1/trial-0" / kept["file"]).is_file()
    assert finished(start(tmp_path)) == 0
    assert facts(tmp_path) == undisturbed
    assert len(epochs(tmp_path)) == EPOCHS, "no epoch was trained twice"


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_saves_its_trial_for_the_next_worker(tmp_path, undisturbed):
    program = start(tmp_path)
    wait_for_epochs(tmp_path, 3)
    worker = trials(tmp_path)[0].user_attrs["worker"]
    os.kill(int(worker.rpartition(":")[2]), signal.SIGTERM)
    assert finished(program) == 0
    assert facts(tmp_path) == undisturbed
    assert len(epochs(tmp_path)) == EPOCHS, "no epoch was trained twice"
    again = trials(tmp_path)[0].user_attrs
    assert again["worker"] != worker
    assert not again.get("retries"), "it was not the trial's fault"


@pytest.mark.slow
def test_a_killed_controller_costs_what_was_trained_since_the_last_checkpoint(tmp_path, undisturbed):
    program = start(tmp_path, "trainer.checkpoint_every_s=0.3")
    wait_for_epochs(tmp_path, 6)
    program.kill()
    program.communicate()
    assert finished(start(tmp_path)) == 0
    assert facts(tmp_path) == undisturbed
    assert len(epochs(tmp_path)) <= EPOCHS + 2


@pytest.mark.slow
def test_a_killed_worker_costs_what_was_trained_since_the_last_checkpoint(tmp_path, undisturbed):
    program = start(tmp_path, "trainer.checkpoint_every_s=0.3")
    wait_for_epochs(tmp_path, 6)
    number, worker = next(
        (trial.number, trial.user_attrs["worker"]) for trial in trials(tmp_path) if trial.state.name == "RUNNING"
    )
    os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
    assert finished(program) == 0
    assert facts(tmp_path) == undisturbed
    assert len(epochs(tmp_path)) <= EPOCHS + 2
    assert trials(tmp_path)[number].user_attrs["retries"] == 1


@pytest.mark.slow
def test_two_ranks_train_one_trial_and_are_told_to_end_together(tmp_path):
    program = start(tmp_path, "launcher.workers=null", "launcher.devices_per_trial=2")
    wait_for_epochs(tmp_path, 4)
    worker = trials(tmp_path)[0].user_attrs["worker"]
    os.kill(int(worker.rpartition(":")[2]), signal.SIGTERM)
    assert finished(program) == 0
    assert [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE", "COMPLETE"]
    assert len(epochs(tmp_path)) == 2 * EPOCHS, "each rank trained each epoch once"
