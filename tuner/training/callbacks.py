"""Watches a training: reports the objective, stops what has diverged, asks at rungs whether to go on.

Where the objective is logged is found out by looking:

| logged in | fresh at | reported |
| --- | --- | --- |
| `validation_step`, `on_validation_epoch_end` | end of each validation | then |
| `training_step(on_epoch)`, `on_train_epoch_end` | end of each epoch | then |
| neither | | the training ends with `Outcome.NO_OBJECTIVE`, after the first epoch that had a validation |

A value is fresh when Lightning put a new tensor under its key since the validation (or epoch) began: what an earlier
validation left there is never reported again. The validation that stands for a rung is the last one of the rung's
epoch, or of the first later epoch that has one; its measurement waits for the end of that epoch.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from tuner.training import ranks
from tuner.training.divergence import LOOK_STEPS, LossWatch
from tuner.training.pause import Pause
from tuner.training.progress import Left, ends_here, epochs_trained, latest
from tuner.training.task import Answer, Measurement, Outcome, Saved, Task

Report = Callable[[Measurement], Answer]
Interrupted = Callable[[], Answer | bool | None]
Save = Callable[[Saved], None]


class _Logged(enum.Enum):
    """Where the module logs the objective."""

    UNKNOWN = enum.auto()
    AT_VALIDATION = enum.auto()
    AT_EPOCH_END = enum.auto()


class Watch(Checkpoint):
    """The last callback of all; sees what every other one and the module have logged.

    It is a `Checkpoint` because Lightning runs only these (and EarlyStopping) after the module's own
    `on_train_epoch_end`, and because only these come last among all callbacks.

    Attributes:
        outcome: how the training ended, as far as this callback ended it.
        reason: one line about it.
        value: the objective's last value.
        logged: the keys that the module logs, where the objective is not among them.
        foreign: an exception that `report`, `interrupted` or `saved` raised: not the module's doing.
        keyboard: whether a KeyboardInterrupt ended the training.
    """

    def __init__(
        self,
        task: Task,
        report: Report,
        interrupted: Interrupted,
        losses: LossWatch,
        pause: Pause,
        saved: Save | None = None,
    ) -> None:
        """`saved` is None where nobody asks for checkpoints."""
        super().__init__()
        self.outcome = Outcome.COMPLETE
        self.reason = ""
        self.value: float | None = None
        self.logged: tuple[str, ...] = ()
        self.foreign: BaseException | None = None
        self.keyboard = False
        self._metric = task.metric
        self._rungs = task.rungs
        self._report = report
        self._interrupted = interrupted
        self._losses = losses
        self._pause = pause
        self._saved = saved
        pause.follow(self)
        self._where = _Logged.UNKNOWN
        self._before: torch.Tensor | None = None  # under the objective's key when the validation began
        self._before_epoch: object = None  # likewise the epoch
        self._validated = False
        self._bad_loss = ""  # why the training loss has diverged
        self._several_ranks = False
        self._stop = False  # `interrupted` said so
        self._passed = 0  # every rung up to this epoch has been answered
        self._held: Measurement | None = None  # waits for the end of its epoch, which is a rung

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._passed = trainer.current_epoch
        self._several_ranks = trainer.world_size > 1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._before_epoch = latest(trainer).get(self._metric)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: torch.Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._bad_loss = self._losses.add(trainer.global_step, loss) or self._bad_loss
        if self._several_ranks:
            self._ask_interrupted()
            if (batch_idx + 1) % LOOK_STEPS == 0:
                self._leave_if_diverged(trainer)
        else:
            self._leave_if_diverged(trainer)
            self._ask_interrupted()
            self._leave_if_interrupted()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._before = latest(trainer).get(self._metric)

    def on_validation_batch_end(self, *_: Any) -> None:
        self._ask_interrupted()
        if not self._several_ranks:  # which may have different numbers of these batches
            self._leave_if_interrupted()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if trainer.sanity_checking:
            return
        self._validated = True
        value = latest(trainer).get(self._metric)
        if value is not None and value is not self._before:
            self._where = _Logged.AT_VALIDATION
            self._measure(trainer, value)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._bad_loss = self._losses.look() or self._bad_loss
        self._leave_if_diverged(trainer)
        if self._where is not _Logged.AT_VALIDATION:
            self._look_at_epoch_end(trainer)
        if self._held is not None:
            self._ask_at_rung(trainer, self._held)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        self.keyboard = isinstance(exception, KeyboardInterrupt)

    # -- what a checkpoint holds of it --------------------------------------------------------------------------

    def state(self, trainer: pl.Trainer) -> dict[str, Any]:
        held = self._held
        self._bad_loss = self._losses.look() or self._bad_loss
        return {
            "bad_loss": self._bad_loss,
            "value": self.value,
            "where": self._where.name,
            "validated": self._validated,
            "passed": self._passed,
            "held": None if held is None else [held.step, held.epoch, held.value],
            "fresh": latest(trainer).get(self._metric) is not self._before_epoch,
        }

    def resume(self, trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
        self.value, self._validated, self._passed = state["value"], state["validated"], state["passed"]
        self._where, self._bad_loss = _Logged[state["where"]], state["bad_loss"]
        self._held = None if state["held"] is None else Measurement(*state["held"])
        # What was logged before the epoch began is known by its tensor, which is another one now.
        self._before_epoch = object() if state["fresh"] else latest(trainer).get(self._metric)

    def written(self, trainer: pl.Trainer, file: Path) -> None:
        if trainer.is_global_zero and self._saved is not None:
            found = Saved(str(file), trainer.global_step, epochs_trained(trainer), self.value)
            self._call(self._saved, found)

    # -- measurements -------------------------------------------------------------------------------------------

    def _look_at_epoch_end(self, trainer: pl.Trainer) -> None:
        value = trainer.callback_metrics.get(self._metric)
        if value is not None and value is not self._before_epoch:
            self._where = _Logged.AT_EPOCH_END
            self._measure(trainer, value)
        elif self._where is _Logged.UNKNOWN and (
            self._validated or not trainer.enable_validation or ends_here(trainer)
        ):
            self.logged = tuple(sorted(latest(trainer)))
            keys = ", ".join(self.logged) or "nothing"
            self._leave(Outcome.NO_OBJECTIVE, f"{self._metric} is not logged; the module logs {keys}")

    def _measure(self, trainer: pl.Trainer, logged: torch.Tensor) -> None:
        if self._held is not None:  # another validation in the rung's epoch: it is this one that stands for the rung
            self._ask(self._held)
        value = float(logged)
        measurement = Measurement(trainer.global_step, epochs_trained(trainer), value)
        if ranks.any_rank(not math.isfinite(value)):
            self._leave(Outcome.DIVERGED, f"{self._metric} is {value} after {measurement.epoch:g} epochs")
        self.value = value
        if self._rung_is_due(trainer):
            self._held = measurement
        else:
            self._ask(measurement)

    def _rung_is_due(self, trainer: pl.Trainer) -> bool:
        return any(self._passed < rung <= trainer.current_epoch + 1 for rung in self._rungs)

    def _ask_at_rung(self, trainer: pl.Trainer, measured: Measurement) -> None:
        over = ends_here(trainer)  # early stopping, say: nothing is left to pause
        answer = self._ask(Measurement(measured.step, measured.epoch, measured.value, rung=not over))
        self._passed = trainer.current_epoch + 1
        if answer is Answer.PAUSE and not over:
            self._pause.after_this_epoch()

    def _ask(self, measurement: Measurement) -> Answer:
        self._held = None
        answer = self._call(self._report, measurement)
        if answer is Answer.STOP:
            self._leave(Outcome.STOPPED, "")
        return Answer(answer)

    # -- leaving ------------------------------------------------------------------------------------------------

    def _ask_interrupted(self) -> None:
        answer = self._call(self._interrupted)
        if not answer or answer is Answer.GO_ON:
            return
        if answer is Answer.PAUSE and self._pause.installed:
            self._pause.soon()
        else:
            self._stop = True

    def _leave_if_interrupted(self) -> None:
        if self._stop or self._pause.patience_is_over:
            self._leave(Outcome.STOPPED, "")

    def _leave_if_diverged(self, trainer: pl.Trainer) -> None:
        if self._several_ranks:
            self._agree(trainer)
        elif self._bad_loss:
            self._leave(Outcome.DIVERGED, self._bad_loss)

    def _agree(self, trainer: pl.Trainer) -> None:
        """Ranks leave, and write, at the same step, or those that go on alone would wait for the others forever.

        Rank 0's clock says when a checkpoint is due; a bad loss or an answer of any rank counts for all.
        """
        stop = self._stop or self._pause.patience_is_over
        due = self._pause.due if trainer.is_global_zero else self._pause.asked
        facts = torch.tensor([bool(self._bad_loss), stop, due], dtype=torch.int32)
        torch.distributed.all_reduce(facts, torch.distributed.ReduceOp.MAX)
        diverged, stop, due = map(bool, facts.tolist())
        if diverged:
            self._leave(Outcome.DIVERGED, self._bad_loss or "training loss diverged on another rank")
        if stop:
            self._leave(Outcome.STOPPED, "")
        self._pause.agree(due=due)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            self.foreign = error
            raise

    def _leave(self, outcome: Outcome, reason: str) -> NoReturn:
        self.outcome, self.reason = outcome, reason
        raise Left
