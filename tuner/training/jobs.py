"""What a worker can do with a task, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.training.callbacks import Interrupted, Report
from tuner.training.run import train
from tuner.training.task import Kind, Result, Task

Job = Callable[[Task, Report, Interrupted], Result]

JOBS: Mapping[Kind, Job] = {
    Kind.TRAIN: train,
}


def run(task: Task, report: Report, interrupted: Interrupted) -> Result:
    """Do what the task says; see `tuner.training.run.train` for the arguments and what is raised."""
    return JOBS[task.kind](task, report, interrupted)
