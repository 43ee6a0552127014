"""Batches of tasks on real workers: what becomes of a task whose worker dies."""

import collections

import pytest
from faulty import Line
from rounds import write_study

from tuner.commands.workers import launcher_of
from tuner.config import load
from tuner.launch.batch import run_batch
from tuner.training.task import Outcome, Task

assert Line  # the workers import it by name


def task(folder, trial, mode="good"):
    """Three epochs of one batch: what dies in its third step has been measured twice before."""
    config = {
        "module": {"_target_": "faulty.Line", "mode": mode, "marks": str(folder)},
        "data": {"_target_": "faulty.loaders", "batch_size": 64},
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        "optimizer": None,
        "schedule": None,
    }
    return Task(trial, config, "val/loss", 0, str(folder / f"trial-{trial}"))


class Told:
    """What a caller of `run_batch` is told, and the curves that it collects."""

    def __init__(self):
        self.curves, self.notes, self.starts, self.ends, self.values = {}, [], [], [], collections.Counter()

    def start(self, task):
        self.starts.append(task.trial)
        self.curves[task.trial] = []

    def value(self, task, measured):
        self.values[task.trial] += 1
        self.curves[task.trial].append((measured.epoch, measured.step, measured.value))

    def retry(self, task, note):
        self.notes.append((task.trial, note))

    def end(self, task, result):
        self.ends.append((task.trial, result.outcome))


def done(folder, tasks, retries):
    settings = load(["study=line"], config_dir=str(write_study(folder)))
    told, launcher = Told(), launcher_of(settings, settings.study, folder / "logs", most=1)
    results = run_batch(
        launcher, tasks, retries=retries,
        on_start=told.start, on_value=told.value, on_retry=told.retry, on_end=told.end,
    )  # fmt: skip
    return results, told


def test_a_task_whose_worker_is_killed_starts_again_and_its_first_values_do_not_count(tmp_path):
    tasks = [task(tmp_path, 0, "killed once"), task(tmp_path, 1)]
    results, told = done(tmp_path, tasks, 2)
    assert [result.outcome for result in results] == [Outcome.COMPLETE] * 2
    assert told.starts == [0, 0, 1], "before those that have not started yet"
    assert told.values == {0: 5, 1: 3}, "two of the attempt that was lost"
    assert told.curves[0] == told.curves[1], "the same seed, from the beginning"
    assert told.ends == [(0, Outcome.COMPLETE), (1, Outcome.COMPLETE)]
    ((trial, note),) = told.notes
    assert trial == 0
    assert "the worker died: ended by SIGKILL" in note
    assert "retry 1 of 2" in note


@pytest.mark.parametrize("retries", [0, 1])
def test_a_task_whose_workers_die_again_and_again_has_crashed_and_the_others_go_on(tmp_path, retries):
    results, told = done(tmp_path, [task(tmp_path, 0, "exit"), task(tmp_path, 1)], retries)
    assert [result.outcome for result in results] == [Outcome.CRASHED, Outcome.COMPLETE]
    assert results[0].reason.startswith("the worker died: left with exit code 3")
    assert results[0].traceback
    assert told.starts == [0] * (retries + 1) + [1]
    assert len(told.notes) == retries
    assert told.ends == [(0, Outcome.CRASHED), (1, Outcome.COMPLETE)]


def test_what_the_users_code_raises_is_not_tried_again(tmp_path):
    (result,), told = done(tmp_path, [task(tmp_path, 0, "raise")], 2)
    assert (result.outcome, result.reason) == (Outcome.CRASHED, "ValueError: what a pity")
    assert told.starts == [0]
    assert not told.notes
