"""Finds the largest micro-batch that fits in memory, by training two steps and validating once with it."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

from tuner.training.callbacks import Interrupted, Report
from tuner.training.run import train
from tuner.training.task import Answer, Kind, Measurement, Outcome, Result, Task

#: A step, and one more when the optimizer has its state.
STEPS = 2


def fit_batch(task: Task, report: Report, interrupted: Interrupted) -> Result:  # noqa: ARG001
    """The largest batch that fits, in `findings["largest"]`: `options["most"]` or a power of two; None if not even 1 does.

    From the top, because what fits is tried once and most batches do.

    `options["path"]` says where the batch size is written. A crash that is not about memory ends the search: its
    outcome, reason and traceback are the result's.
    """
    most = int(task.options["most"])
    powers = (1 << bit for bit in reversed(range((most - 1).bit_length())))
    for batch in (most, *powers):
        result = _attempt(task, batch, interrupted)
        if result.outcome is Outcome.STOPPED or result.outcome is Outcome.CRASHED:
            return result
        if result.outcome is not Outcome.OUT_OF_MEMORY:
            return Result(Outcome.COMPLETE, findings={"largest": batch})
    return Result(Outcome.OUT_OF_MEMORY, reason=result.reason, findings={"largest": None})


def _attempt(task: Task, batch: int, interrupted: Interrupted) -> Result:
    config: dict[str, Any] = copy.deepcopy(dict(task.config))
    *parents, last = str(task.options["path"]).split(".")
    node = config
    for part in parents:
        node = node[part]
    node[last] = batch
    short = {"limit_train_batches": STEPS, "limit_val_batches": 1, "max_epochs": 1, "callbacks": None, "logger": False}
    config["trainer"] = {**(config.get("trainer") or {}), **short}
    with tempfile.TemporaryDirectory() as folder:
        one = Task(task.trial, config, task.metric, task.seed, folder, kind=Kind.TRAIN)
        return train(one, _go_on, lambda: interrupted() not in (None, False, Answer.GO_ON))  # there is nothing to save


def _go_on(_: Measurement) -> Answer:
    return Answer.GO_ON
