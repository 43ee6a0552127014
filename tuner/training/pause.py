"""Writes a training down at the end of an epoch and takes it up again, so that the break leaves no trace in it.

Lightning's checkpoint holds the model, optimizers, schedules, loops and callbacks. What it lacks is added here: random
state, the metrics that plateau schedules and callbacks compare with, the wish to stop of an early stopping that waits
for `min_epochs`, and when loaders were last made anew. The file holds nothing that needs code to be read.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from tuner.errors import TunerError
from tuner.training import random_state
from tuner.training.divergence import LossWatch
from tuner.training.progress import Left, latest, loaders

FILE = "paused.ckpt"
_KEY = "tuner"
# Hyperparameters are whatever objects the module was built with; the configuration builds them again.
_DROPPED = (
    *("hyper_parameters", "hparams_name", "hparams_type"),
    *("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type"),
)


class Pause(pl.Callback):
    """The first callback of all: writes before, and restores before, any other one acts at that point.

    A pause leaves from `on_train_end`, the first hook after everything that belongs to an epoch, plateau schedules
    included, and before callbacks that finish a training there (weight averaging puts its average in place).

    Attributes:
        file: where the checkpoint goes.
        written: whether it has been.
    """

    def __init__(self, folder: str, losses: LossWatch, *, weights_only: bool) -> None:
        self.file = Path(folder) / FILE
        self.written = False
        self._losses = losses
        self._weights_only = weights_only
        self._asked = False
        self._writing = False
        self._should_stop = False
        self._state: dict[str, Any] | None = None

    def after_this_epoch(self, trainer: pl.Trainer) -> None:
        """Let the Trainer end its epoch, with all that belongs to it, and no further one."""
        self._asked = True
        self._should_stop = trainer.should_stop
        trainer.should_stop = True
        trainer.fit_loop.min_epochs = 0
        trainer.fit_loop.epoch_loop.min_steps = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if self._asked:
            self._write(trainer)
            raise Left

    def on_save_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        if not self._writing:
            return  # the user's own checkpoints stay as Lightning makes them
        for key in _DROPPED:
            checkpoint.pop(key, None)
        fit = trainer.fit_loop
        checkpoint[_KEY] = {
            "random": _of_every_rank(trainer, random_state.capture(_device(trainer), tuple(loaders(trainer)))),
            "metrics": {key: value.detach().cpu() for key, value in latest(trainer).items()},
            "should_stop": self._should_stop,
            "first_losses": self._losses.first,
            "val_loaders": trainer.val_dataloaders is not None,
            "train_loaded_epoch": fit._last_train_dl_reload_epoch,  # noqa: SLF001
            "val_loaded_epoch": fit.epoch_loop.val_loop._last_val_dl_reload_epoch,  # noqa: SLF001
        }

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        self._state = checkpoint[_KEY]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if self._state is None:
            return
        state, fit = self._state, trainer.fit_loop
        self._losses.resume(state["first_losses"])
        trainer.should_stop = state["should_stop"]
        trainer._logger_connector._callback_metrics.update(state["metrics"])  # noqa: SLF001
        if state["val_loaders"]:
            _make_val_loaders(trainer)
        fit._last_train_dl_reload_epoch = state["train_loaded_epoch"]  # noqa: SLF001
        fit.epoch_loop.val_loop._last_val_dl_reload_epoch = state["val_loaded_epoch"]  # noqa: SLF001
        _take_up_between_epochs(trainer)
        self._restore_random_state(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Once more, after what other hooks have drawn at the start; unless loaders made anew have drawn as well."""
        if self._state is None:
            return
        if trainer.fit_loop._last_train_dl_reload_epoch == self._state["train_loaded_epoch"]:  # noqa: SLF001
            self._restore_random_state(trainer)
        self._state = None

    def _restore_random_state(self, trainer: pl.Trainer) -> None:
        assert self._state is not None
        states = self._state["random"]
        mine = states[min(trainer.global_rank, len(states) - 1)]
        random_state.restore(mine, _device(trainer), tuple(loaders(trainer)))

    def _write(self, trainer: pl.Trainer) -> None:
        """Beside its place, then renamed: whoever reads finds the old file or the new one, whole."""
        beside = self.file.with_suffix(".writing")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._writing = True
        try:
            trainer.save_checkpoint(beside)
            if trainer.is_global_zero:
                self._verify(beside)
                os.replace(beside, self.file)  # noqa: PTH105
        finally:
            self._writing = False
            if trainer.is_global_zero:
                beside.unlink(missing_ok=True)
        trainer.strategy.barrier("tuner.pause")
        self.written = True

    def _verify(self, file: Path) -> None:
        if not self._weights_only:
            return
        try:
            torch.load(file, map_location="meta", weights_only=True)  # meta: the tensors' values are not read
        except pickle.UnpicklingError as error:
            raise TunerError(
                "The checkpoint of this training holds objects that are more than tensors and plain values, so it"
                f" could not be read back safely: {_first_line(error)} Put them into state_dict as tensors, or, where"
                " you trust what writes to the store, set trainer.weights_only=false."
            ) from error


def _take_up_between_epochs(trainer: pl.Trainer) -> None:
    """Take from Lightning's loops the belief that they restart.

    A loop that resumes uses the iterator that was made before random state was restored, and with `max_steps` it
    ends the finished epoch a second time. A loop that simply begins its next epoch does neither.
    """
    fit = trainer.fit_loop
    epoch = fit.epoch_loop
    for loop in (fit, epoch, epoch.val_loop, epoch.automatic_optimization, epoch.manual_optimization):
        loop._restarting = False  # noqa: SLF001
        loop._resuming_from_checkpoint = False  # noqa: SLF001


def _make_val_loaders(trainer: pl.Trainer) -> None:
    """Now, as the first part had them: making them later would draw from the restored random state."""
    if trainer.enable_validation and trainer.val_dataloaders is None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True


def _of_every_rank(trainer: pl.Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    if trainer.world_size == 1:
        return [state]
    states: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, state)
    return states


def _device(trainer: pl.Trainer) -> torch.device:
    return torch.device(trainer.strategy.root_device)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if "nsupported" in line), str(error).split("\n")[0])
