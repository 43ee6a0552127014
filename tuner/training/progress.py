"""Where a Lightning training stands, and what it has logged, read from the Trainer without changing it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import _TunerExitException


class Left(_TunerExitException):
    """Leaves `Trainer.fit` at once and tidily, without a last validation and without the hooks of a training's end.

    Lightning's own way out for its tuner: it tears down and closes the loggers as after a success, while
    `trainer.should_stop` would first run one more validation, and any other exception counts as a failure.
    """


def epochs_trained(trainer: pl.Trainer) -> float:
    """Epochs trained so far; within an epoch the share of its batches, where their number is known."""
    progress = trainer.fit_loop.epoch_progress.current
    whole = progress.completed
    if progress.ready <= whole:
        return float(whole)
    batches = trainer.fit_loop.epoch_loop.batch_progress
    trained: int = batches.current.processed  # type: ignore[attr-defined]
    if batches.is_last_batch and trained == batches.current.ready:
        return float(whole + 1)
    total = trainer.num_training_batches
    return whole + (trained / total if 0 < total < math.inf else 0.0)


def ends_here(trainer: pl.Trainer) -> bool:
    """Whether the training is over after the epoch that has just been trained, by its own rules."""
    fit = trainer.fit_loop
    epochs = trainer.current_epoch + 1
    last_epoch = trainer.max_epochs not in (None, -1) and epochs >= trainer.max_epochs
    last_step = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return last_epoch or last_step or (trainer.should_stop and fit._can_stop_early)  # noqa: SLF001


def latest(trainer: pl.Trainer) -> Mapping[str, torch.Tensor]:
    """What was last logged under each key; unlike `trainer.callback_metrics` it computes nothing."""
    metrics: Mapping[str, torch.Tensor] = trainer._logger_connector._callback_metrics  # noqa: SLF001
    return metrics


def loaders(trainer: pl.Trainer) -> Iterator[object]:
    """Each loader in use, those of training first."""
    for collection in (trainer.train_dataloader, trainer.val_dataloaders):
        if collection is not None:
            yield from CombinedLoader(collection, "sequential").flattened
