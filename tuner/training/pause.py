"""When a training is written down, and how it goes on: at rungs, every so many seconds, and when it is asked to make room.

| what | when | file | then |
| --- | --- | --- | --- |
| a pause at a rung | between two epochs | `paused.ckpt` | the training leaves |
| a pause that `interrupted` asks for | after a batch, or between two epochs | `step-N.ckpt` | the training leaves |
| a checkpoint, every `every_s` seconds | likewise | `step-N.ckpt` | it goes on, and tells where the file is |

After a batch means before a validation that is due then, and again after it: neither a long validation nor a long epoch
is lost. While gradients accumulate nothing is written, nor in the middle of an epoch whose data could not be taken up
there (`tuner.training.passes`). What a file holds, and how it leaves no trace, is in `resume`; files are `files`'.
"""

# ruff: noqa: SLF001 - what Lightning and torch keep to themselves is what has to be kept here

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import lightning.pytorch as pl

from tuner.errors import TunerError
from tuner.training import attributes, files, ranks
from tuner.training.divergence import LossWatch
from tuner.training.progress import Left
from tuner.training.resume import Resume, add_state, can_be_within_epoch, note_sources, replace_method

FILE = "paused.ckpt"
#: Who asks for room gives a process about so long, then ends it.
PATIENCE_S = 10.0
_LOG = logging.getLogger(__name__)


class Follower(Protocol):
    """Whose state goes into each checkpoint, and who tells of those that are written."""

    def state(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Plain values."""

    def resume(self, trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
        """Go on as `state` was."""

    def written(self, trainer: pl.Trainer, file: Path) -> None:
        """A checkpoint is there, and the training goes on."""


class Pause(pl.Callback):
    """The first callback of all: writes before, and restores before, any other one acts at that point.

    Lightning has no hook after everything that belongs to a batch, or to an epoch (plateau schedules come last), so
    the loops themselves tell when they are there.

    Attributes:
        file: the checkpoint with which the training left, once `written`.
        written: whether it left with one.
        failed: why it left without one, though it was asked to pause.
        installed: whether it belongs to a running Trainer; without it nothing can be written.
    """

    def __init__(
        self,
        folder: str,
        losses: LossWatch,
        *,
        weights_only: bool,
        every_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`every_s` is None where nothing is to be written but pauses."""
        self.file = Path(folder) / FILE
        self.written = False
        self.failed = ""
        self.installed = False
        self._folder = Path(folder)
        self._losses = losses
        self._weights_only = weights_only
        self._every_s = math.inf if every_s is None else every_s
        self._clock = clock
        self._next_s = math.inf  # when the next checkpoint is due
        self._asked_s: float | None = None  # since when a pause is asked for
        self._at_rung = False
        self._agreed = False  # between several ranks: to write as soon as that is possible
        self._several_ranks = False
        self._follower: Follower | None = None
        self._trainer: pl.Trainer | None = None
        self._began: attributes.Marks = {}
        self._place: dict[str, bool] | None = None  # where in the loops this is being written
        self._resume: Resume | None = None
        self._within_epoch = False  # the loop is about to go on in the middle of its epoch
        self._batch_ended = True
        self._finish: Callable[[Any], None] = _nothing  # Lightning's end of a batch
        self._epochs_only = False  # this epoch cannot be written down in its middle
        self._told: set[str] = set()

    # -- asked by the watch -------------------------------------------------------------------------------------

    def follow(self, follower: Follower) -> None:
        self._follower = follower

    def after_this_epoch(self) -> None:
        """Write, and leave, when all that belongs to this epoch has been."""
        self._at_rung = True

    def soon(self) -> None:
        """Write, and leave, as soon as that is possible."""
        if self._asked_s is None:
            self._asked_s = self._clock()

    @property
    def asked(self) -> bool:
        """Whether a pause is asked for."""
        return self._asked_s is not None

    @property
    def patience_is_over(self) -> bool:
        """Whether a pause was asked for, and was not possible until now."""
        return self._asked_s is not None and self._clock() - self._asked_s > PATIENCE_S

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint, by this process's clock."""
        return self.asked or self._clock() >= self._next_s

    def agree(self, *, due: bool) -> None:
        """All ranks write, or none does, wherever their clocks are."""
        self._agreed = self._agreed or due

    # -- Lightning's hooks --------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        self._trainer, self._several_ranks, self.installed = trainer, trainer.world_size > 1, True
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        note_sources(trainer)
        replace_method(fit, "on_advance_start", self._begin_epoch)
        replace_method(fit, "on_advance_end", self._end_epoch)
        replace_method(epoch, "reset", self._reset_epoch)
        replace_method(epoch, "on_run_start", self._begin_batches)
        self._finish = replace_method(epoch, "on_advance_end", self._end_batch)

    def on_save_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        if self._place is None:
            return  # the user's own checkpoints stay as Lightning makes them
        watch = {} if self._follower is None else self._follower.state(trainer)
        add_state(trainer, checkpoint, **self._place, losses=self._losses, watch=watch, began=self._began)

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        self._resume = Resume(trainer, checkpoint)
        self._resume.hand_to(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._began = attributes.marks(trainer)
        if trainer.is_global_zero:
            files.remove_parts(self._folder)
        if self._resume is not None:
            self._resume.take_up_loops(trainer)
        self._next_s = self._clock() + self._every_s

    # -- the loops ----------------------------------------------------------------------------------------------

    def _begin_epoch(self, original: Callable[[], None]) -> None:
        self._epochs_only = False
        resume, self._resume = self._resume, None
        if resume is not None:
            assert self._trainer is not None
            resume.restore(self._trainer)
            self._losses.resume(resume.losses)
            if self._follower is not None and resume.watch:
                self._follower.resume(self._trainer, resume.watch)
            self._within_epoch, self._batch_ended = resume.within_epoch, resume.batch_ended
        original()

    def _reset_epoch(self, original: Callable[[], None]) -> None:
        if not self._within_epoch:
            original()  # which sets the counters of batches to zero

    def _begin_batches(self, original: Callable[[Any], None], fetcher: Any) -> None:
        original(fetcher)
        if self._within_epoch:
            self._within_epoch = False
            if not self._batch_ended:
                self._finish_batch(self._finish, fetcher)

    def _end_batch(self, original: Callable[[Any], None], fetcher: Any) -> None:
        if self._is_time:
            self._after_batch(ended=False)
        self._finish_batch(original, fetcher)

    def _finish_batch(self, finish: Callable[[Any], None], fetcher: Any) -> None:
        finish(fetcher)
        if self._is_time:
            self._after_batch(ended=True)

    def _end_epoch(self, original: Callable[[], None]) -> None:
        original()
        if self._at_rung or self._is_time:
            self._between_epochs()

    @property
    def _is_time(self) -> bool:
        return self._agreed if self._several_ranks else self.due

    def _after_batch(self, *, ended: bool) -> None:
        trainer = self._trainer
        assert trainer is not None
        epoch = trainer.fit_loop.epoch_loop
        out_of_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        if self._epochs_only or epoch._should_accumulate() or out_of_steps or (ended and epoch.done):
            return  # in the two latter cases the epoch's end follows at once
        why_not = can_be_within_epoch(trainer, self._began)
        if why_not:
            self._tell(f"checkpoints are written at the ends of epochs only: {why_not}")
        self._epochs_only = ranks.any_rank(bool(why_not))
        if not self._epochs_only:
            self._write_or_leave(trainer, {"within_epoch": True, "batch_ended": ended})

    def _between_epochs(self) -> None:
        trainer = self._trainer
        assert trainer is not None
        place = {"within_epoch": False, "batch_ended": True}
        if self._at_rung:
            try:
                self._write(trainer, self.file, place)
            except OSError as error:  # on one rank alone, if there are several
                self.failed = f"the checkpoint could not be written: {error}"
                raise Left from None
            self._leave(self.file)
        if not trainer.fit_loop.done:
            self._write_or_leave(trainer, place)

    # -- writing ------------------------------------------------------------------------------------------------

    def _write_or_leave(self, trainer: pl.Trainer, place: dict[str, bool]) -> None:
        self._agreed = False
        file = self._folder / f"step-{trainer.global_step}.ckpt"
        leaving = ranks.any_rank(self.asked)
        failure = self._try_to_write(trainer, file, place)
        self._next_s = self._clock() + self._every_s
        if not leaving:
            if not failure and self._follower is not None:
                self._follower.written(trainer, file)
        elif failure:
            self.failed = f"the checkpoint could not be written: {failure}"
            raise Left
        else:
            self._leave(file)

    def _leave(self, file: Path) -> NoReturn:
        self.file, self.written = file, True
        raise Left

    def _try_to_write(self, trainer: pl.Trainer, file: Path, place: dict[str, bool]) -> str:
        """Answers why it failed, or nothing; a full disk is not the training's failure."""
        try:
            self._write(trainer, file, place)
        except OSError as error:
            failure = str(error)
            self._tell(f"a checkpoint could not be written, and is tried again later: {failure}")
        except (TunerError, pickle.PicklingError, AttributeError, TypeError) as error:
            failure = str(error)
            self._every_s = math.inf
            self._tell(f"no checkpoints can be written: {failure}")
        else:
            return ""
        return failure or "for no reason given"

    def _write(self, trainer: pl.Trainer, file: Path, place: dict[str, bool]) -> None:
        """Every rank raises where one does: those that went on alone would wait for the others forever."""
        self._place = place
        error: Exception | None = None
        try:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            files.write(trainer, checkpoint, file, weights_only=self._weights_only)
        except Exception as raised:  # noqa: BLE001 - raised again below
            error = raised
        finally:
            self._place = None
        if ranks.any_rank(error is not None):
            raise error or OSError("another process could not write it")

    def _tell(self, text: str) -> None:
        """Once: what cannot be written now can seldom be written a minute later."""
        if text not in self._told and (self._trainer is None or self._trainer.is_global_zero):
            self._told.add(text)
            _LOG.warning("%s", text)


def _nothing(*_: object) -> None:
    pass
