"""The learning-rate range test: one short run in which the learning rate grows from step to step.

Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3, with the exponential
growth that fastai made usual. What the curve of losses says is read in `tuner.lr_range`.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from tuner.errors import TunerError
from tuner.training.build import Parts, build
from tuner.training.callbacks import Interrupted, Report
from tuner.training.frame import end_loader_workers, failure_of, timed, trainer_of
from tuner.training.progress import Left
from tuner.training.random_state import capture, restore
from tuner.training.run import never
from tuner.training.task import Answer, Outcome, Result, Task

#: The loss has exploded when its running mean is above its best by this many times the size of the best, or the whole fall.
#: For a positive loss that has not fallen much this is fastai's rule, 4 times the best.
EXPLODED = 3.0
#: Weight of the past in the running mean that is watched for the explosion.
MEMORY = 0.9
#: Steps whose losses say what is usual; no finite one among them counts as exploded.
FIRST_STEPS = 10

#: What only shows, keeps, watches or limits a training, and is left out of the test.
_LEFT_OUT = frozenset({
    "callbacks", "logger", "enable_checkpointing", "compile", "fast_dev_run", "max_time", "detect_anomaly",
    "val_check_interval", "check_val_every_n_epoch", "limit_val_batches",
})  # fmt: skip


def lr_range(task: Task, report: Report, interrupted: Interrupted = never) -> Result:
    """Raise the learning rate from `low` to `high`, by the same factor in each step, and record the losses.

    The module, its data and what the Trainer does to gradients are those of a training. The schedule stands still;
    there is no validation and no checkpoint, and neither the user's callbacks nor loggers run. The data go round as
    often as the steps need. The state of the random generators and the process's settings are put back afterwards.

    Args:
        task: with the options `low` and `high`, learning rates above 0, and `steps`, optimizer steps, at least 2.
        report: not called.
        interrupted: called after each batch; true (or Answer.STOP) ends the test.

    Returns:
        COMPLETE with these findings; another outcome has those of the steps until then:

        | finding | type | meaning |
        | --- | --- | --- |
        | `lrs` | list of float | learning rate of each step |
        | `losses` | list of float | training loss of each step, before its update; the mean over accumulated batches |
        | `ratios` | list of float | learning rate of each parameter group over that in `lrs`: 1 for that of the optimizer |
        | `exploded` | bool | whether the test ended early, with a loss that had exploded |

    Raises:
        TunerError: the module or its data are not made for such a test, or the Trainer refuses its arguments.
        KeyboardInterrupt, SIGTERMException: the process is asked to end.
    """
    del report  # there is no validation
    return timed(lambda: _swept(task, interrupted))


def _swept(task: Task, interrupted: Interrupted) -> Result:
    with _random_state_kept():
        return _Test(task, interrupted).run()


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    device = torch.device("cuda" if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu")  # type: ignore[no-untyped-call]
    state = capture(device)
    try:
        yield
    finally:
        restore(state, device)


class _Test:
    """One call of `lr_range`, with what must be cleared away after it."""

    def __init__(self, task: Task, interrupted: Interrupted) -> None:
        self._task = _bare(task)
        self._has_logger = bool((task.config.get("trainer") or {}).get("logger"))
        options = task.options
        self._sweep = Sweep(options["low"], options["high"], options["steps"], interrupted)
        self._trainer: pl.Trainer | None = None

    def run(self) -> Result:
        try:
            failure = failure_of(self._fit, self._sweep)
        finally:
            if self._trainer is not None:
                end_loader_workers(self._trainer)
        if failure:
            return self._result(**failure.details())
        if not self._sweep.losses and self._sweep.outcome is Outcome.COMPLETE:
            raise TunerError(
                "The range test has no loss of any step: the training data have no batch, or are limited to 0."
            )
        return self._result(self._sweep.outcome)

    def _fit(self) -> None:
        pl.seed_everything(self._task.seed, workers=True, verbose=False)
        parts = build(self._task)
        _check(parts)
        # Called by Lightning, which adds what it returns to the callbacks of the Trainer.
        parts.module.configure_callbacks = list  # type: ignore[method-assign]
        test = {
            "callbacks": [parts.seated, self._sweep],
            # A module may write to `self.logger`, if it was given one.
            "logger": DummyLogger() if self._has_logger else False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
        }
        self._trainer = trainer_of({**parts.trainer, **test})
        self._trainer.fit(parts.module, **parts.fit)

    def _result(self, outcome: Outcome, **details: Any) -> Result:
        sweep = self._sweep
        findings = {"lrs": sweep.lrs, "losses": sweep.losses, "ratios": sweep.ratios, "exploded": sweep.exploded}
        return Result(outcome, step=sweep.steps_done, findings=findings, **details)


def _bare(task: Task) -> Task:
    """The task without what the test leaves out of the Trainer, so that it is not even built."""
    trainer = {key: value for key, value in (task.config.get("trainer") or {}).items() if key not in _LEFT_OUT}
    return replace(task, config={**task.config, "trainer": trainer})


def _check(parts: Parts) -> None:
    if not parts.module.automatic_optimization:
        raise TunerError(
            f"{type(parts.module).__qualname__} optimizes by hand (automatic_optimization = False), with as many"
            " optimizers and steps as it likes. A range test is for one optimizer that Lightning steps."
        )
    source = parts.fit.get("datamodule", parts.module)
    if parts.fit.get("train_dataloaders") is None and not is_overridden("train_dataloader", source):
        raise TunerError(f"There are no training data: {type(source).__qualname__} has no train_dataloader.")


class Sweep(pl.Callback):
    """Sets the learning rate before each optimizer step, records the loss, and leaves when the test is over.

    Attributes:
        lrs: learning rate of each step so far.
        losses: training loss of each.
        ratios: learning rate of each parameter group over that of `lrs`.
        exploded: whether the loss has.
        steps_done: optimizer steps.
        outcome: how the run ended, as far as this callback ended it.
        keyboard: whether a KeyboardInterrupt ended the run.
    """

    def __init__(self, low: float, high: float, steps: int, interrupted: Interrupted) -> None:
        """`low` and `high` are the learning rates of the first and the last of the `steps`."""
        super().__init__()
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.ratios: list[float] = []
        self.exploded = False
        self.steps_done = 0
        self.outcome = Outcome.COMPLETE
        self.keyboard = False
        self.foreign: BaseException | None = None
        self._low, self._high, self._steps = low, high, steps
        self._interrupted = interrupted
        self._explosion = _Explosion()
        self._accumulated: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        trainer.strategy.lr_scheduler_configs = []
        # Not before: a schedule may be made for the length that the training has.
        trainer.fit_loop.max_epochs = -1
        trainer.fit_loop.epoch_loop.max_steps = -1
        (optimizer,) = trainer.optimizers  # of several Lightning has refused to step them itself
        self.ratios = ratios_of(optimizer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._set_lr(trainer)

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        self._set_lr(trainer)  # again: an `optimizer_step` of the module's own may warm up by hand

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: torch.Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            self._accumulated.append(loss.item())
        if trainer.global_step > self.steps_done:
            self._record(trainer)
        if self._is_interrupted():
            self.outcome = Outcome.STOPPED
            raise Left

    def _is_interrupted(self) -> bool:
        try:
            return self._interrupted() not in (None, False, Answer.GO_ON)
        except BaseException as error:
            self.foreign = error
            raise

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self.keyboard = isinstance(exception, KeyboardInterrupt)

    def _record(self, trainer: pl.Trainer) -> None:
        lr, self.steps_done = self._lr(self.steps_done), trainer.global_step
        if self._accumulated:  # empty where training_step has skipped the batch
            # Lightning has divided each by the number of batches that make up a step.
            loss = trainer.accumulate_grad_batches * sum(self._accumulated) / len(self._accumulated)
            self._accumulated.clear()
            self.lrs.append(lr)
            self.losses.append(loss)
            self.exploded = self._explosion.add(loss)
        if self.exploded or self.steps_done >= self._steps:
            raise Left

    def _set_lr(self, trainer: pl.Trainer) -> None:
        lr = self._lr(trainer.global_step)
        for group, ratio in zip(trainer.optimizers[0].param_groups, self.ratios, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr * ratio)  # a captured graph reads it from where it is
            else:
                group["lr"] = lr * ratio

    def _lr(self, step: int) -> float:
        share = step / (self._steps - 1)
        return float(self._low ** (1 - share) * self._high**share)


def ratios_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of each parameter group over the one that a learning rate of the optimizer stands for.

    That is the optimizer's own, `optimizer.defaults["lr"]`, where a group has it; else the largest of the groups.

    Raises:
        TunerError: there is no group, or one without a learning rate.
    """
    if not optimizer.param_groups or not all("lr" in group for group in optimizer.param_groups):
        raise TunerError(f"{type(optimizer).__qualname__} has no learning rate that a range test could raise.")
    # A schedule that starts with a warm-up has already lowered `lr`, and kept the value that it was given.
    lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    own = optimizer.defaults.get("lr")
    reference = float(own) if own is not None and float(own) in lrs else max(lrs)
    return [lr / reference if reference > 0 else 1.0 for lr in lrs]


class _Explosion:
    """Whether the losses so far have exploded; see `EXPLODED`.

    The mean is corrected for its start at 0, as in Adam (Kingma & Ba, arXiv:1412.6980, section 3). Its rise is
    measured by the fall and by the spread of the first losses as well as by the best itself, which may be near 0, or
    below it as a log-likelihood is.
    """

    def __init__(self) -> None:
        self._sum, self._count, self._best = 0.0, 0, math.inf
        self._first: list[float] = []

    def add(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        if len(self._first) < FIRST_STEPS:
            self._first.append(loss)
        self._count += 1
        self._sum = MEMORY * self._sum + (1 - MEMORY) * loss
        mean = self._sum / (1 - MEMORY**self._count)
        self._best = min(self._best, mean)
        fall = statistics.fmean(self._first) - self._best
        scale = max(abs(self._best), fall, max(self._first) - min(self._first))
        return self._count > FIRST_STEPS and mean - self._best > EXPLODED * scale
