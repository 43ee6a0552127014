"""What a worker can do with a task, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.schedules.trainer import objective
from tuner.training.callbacks import Interrupted, Report, Save
from tuner.training.final import train_final
from tuner.training.fit_batch import fit_batch
from tuner.training.lr_range import lr_range
from tuner.training.run import train
from tuner.training.task import Kind, Result, Task

Job = Callable[[Task, Report, Interrupted], Result]

JOBS: Mapping[Kind, Job] = {
    Kind.TRAIN: train,
    Kind.FINAL: train_final,
    Kind.LR_RANGE: lr_range,
    Kind.FIT_BATCH: fit_batch,
}


def run(task: Task, report: Report, interrupted: Interrupted, saved: Save | None = None) -> Result:
    """Do what the task says; see `tuner.training.run.train` for the arguments and what is raised."""
    with objective(task.metric):
        if task.kind is Kind.TRAIN:
            return train(task, report, interrupted, saved)
        return JOBS[task.kind](task, report, interrupted)
