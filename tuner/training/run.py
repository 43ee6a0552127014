"""Trains one task, or the next part of one, and says how it ended: `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from tuner.errors import TunerError
from tuner.training.build import build, own_settings
from tuner.training.callbacks import Interrupted, Report, Save, Watch
from tuner.training.divergence import LossWatch
from tuner.training.frame import end_loader_workers, failure_of, timed, trainer_of
from tuner.training.model_file import save_model
from tuner.training.pause import Pause
from tuner.training.progress import epochs_trained
from tuner.training.task import Outcome, Result, Task

#: The model of a complete training, in its trial's folder.
MODEL = "complete.ckpt"


def never() -> bool:
    """An `interrupted` for trainings that nothing interrupts."""
    return False


def train(task: Task, report: Report, interrupted: Interrupted = never, saved: Save | None = None) -> Result:
    """Train until the end, a pause, a stop or a failure; whatever the user's code does becomes an outcome.

    Args:
        task: what to train.
        report: called with each measurement; its answer is obeyed, PAUSE only where `measurement.rung`.
        interrupted: called after each batch, so it must be quick; true (or Answer.STOP) ends the training, and
            Answer.PAUSE writes a checkpoint and leaves with it: after this batch, or as soon as one is possible. If
            that takes longer than `pause.PATIENCE_S` (a long validation, data that cannot be taken up within an epoch),
            or the disk is full, the outcome is STOPPED.
        saved: called with each checkpoint that is written while the training goes on, as
            `trainer.checkpoint_every_s` says; None for a training that writes none. A training that goes on from one
            ends as it would have without the break, but reports again what it had reported since.

    With several ranks `report` and `interrupted` are called on each of them. `report` must answer the same on all;
    of the answers to `interrupted` one is enough, and all ranks obey it at the same step: one of every LOOK_STEPS, or
    the end of an epoch, and not in a validation. `saved` is called on rank 0.

    Raises:
        TunerError: a mistake in the study that every trial would meet, or a checkpoint that cannot be gone on with.
        KeyboardInterrupt, SIGTERMException: the process is asked to end.
        Exception: whatever `report`, `interrupted` or `saved` raised.
    """
    return timed(lambda: _Attempt(task, report, interrupted, saved).run())


class _Attempt:
    """One call of `train`, with what must be cleared away after it."""

    def __init__(self, task: Task, report: Report, interrupted: Interrupted, saved: Save | None) -> None:
        self._task = task
        self._own = own_settings(task)
        losses = LossWatch(self._own.divergence_factor)
        every_s = None if saved is None else self._own.checkpoint_every_s
        self._pause = Pause(task.folder, losses, weights_only=self._own.weights_only, every_s=every_s)
        self._watch = Watch(task, report, interrupted, losses, self._pause, saved)
        self._trainer: pl.Trainer | None = None

    def run(self) -> Result:
        try:
            failure = failure_of(self._fit, self._watch)
            return self._result(**failure.details()) if failure else self._ended()
        finally:
            self._clear_away()

    def _fit(self) -> None:
        pl.seed_everything(self._task.seed, workers=True, verbose=False)
        parts = build(self._task)
        callbacks = [self._pause, parts.seated, *parts.callbacks, self._watch]
        self._trainer = trainer_of(parts.trainer, callbacks=callbacks, enable_checkpointing=True)
        checkpoint = self._task.checkpoint
        self._trainer.fit(parts.module, **parts.fit, ckpt_path=checkpoint, weights_only=self._own.weights_only)

    def _ended(self) -> Result:
        if self._pause.written:
            return self._result(Outcome.PAUSED, checkpoint=str(self._pause.file))
        if self._pause.failed:
            return self._result(Outcome.STOPPED, reason=self._pause.failed)
        checkpoint = self._kept() if self._task.keep and self._watch.outcome is Outcome.COMPLETE else None
        return self._result(
            self._watch.outcome, reason=self._watch.reason, logged=self._watch.logged, checkpoint=checkpoint
        )

    def _kept(self) -> str | None:
        """The model's file; a training is complete without it, too."""
        assert self._trainer is not None
        file = Path(self._task.folder) / MODEL
        try:
            save_model(self._trainer, file, weights_only=self._own.weights_only, whole=False)
        except (TunerError, OSError) as error:
            print(f"The model is not kept: {error}", flush=True)  # noqa: T201 - into the worker's log
            return None
        return str(file)

    def _result(self, outcome: Outcome, **details: Any) -> Result:
        trainer = self._trainer
        epoch, step = (epochs_trained(trainer), trainer.global_step) if trainer else (0.0, 0)
        return Result(outcome, value=self._watch.value, epoch=epoch, step=step, **details)

    def _clear_away(self) -> None:
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            end_loader_workers(trainer)
