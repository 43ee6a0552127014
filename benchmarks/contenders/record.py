"""The log of one contender: a line of JSON for each training that begins, each validation, each recommendation.

All contenders are watched by the same callback, tuner's trainings through `trainer.callbacks`. Processes that train side
by side append to one file. What the lines come to is the business of `curves`.

| line | has |
| --- | --- |
| a training begins or goes on | at, trial; values where the contender does not recommend by itself |
| a validation | at, trial, epoch, value |
| the recommendation changes | at, trial, value, recommended: effective values by parameter |

`at` is the time since the epoch in seconds, `epoch` counts from 1.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class Record(pl.Callback):
    """Writes down what a training does. Its trial is the name of the trainer's folder.

    Args:
        file: the log.
        metric: the objective's key in `trainer.callback_metrics`.
    """

    def __init__(self, file: str, metric: str) -> None:
        self.file, self.metric = file, metric

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        append(self.file, trial=_trial(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        if not trainer.sanity_checking:
            value = float(trainer.callback_metrics[self.metric])
            append(self.file, trial=_trial(trainer), epoch=trainer.current_epoch + 1, value=value)


def _trial(trainer: pl.Trainer) -> str:
    return Path(trainer.default_root_dir).name


def append(file: str | Path, *, at: float | None = None, **facts: Any) -> None:
    """Add a line; `at` is now where it is None."""
    line = json.dumps({"at": time.time() if at is None else at, **facts}) + "\n"
    # One write in append mode: lines of two processes do not mix.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def recommend(file: str | Path, trial: str, value: float, values: Mapping[str, Any], at: float | None = None) -> None:
    append(file, at=at, trial=trial, value=value, recommended=dict(values))


def read(file: Path) -> list[dict[str, Any]]:
    """The lines in the order of their times."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return sorted(lines, key=lambda line: line["at"])
