"""What a checkpoint of tuner holds beyond Lightning's, and how a training takes it up.

Lightning's checkpoint has the model, optimizers, schedules, loops and callbacks. What it lacks, to the last digit:

| kept | of each rank |
| --- | --- |
| random state of all generators | yes |
| how the loaders were made, and the way into the pass over the data (`passes`) | yes |
| the metrics that plateau schedules and callbacks compare with | yes |
| within an epoch: what was logged so far (`logged`) | yes |
| plain attributes of module and callbacks, states of torchmetrics (`attributes`) | yes |
| within an epoch, gradients that the module does not clear at each step by Lightning's rule | yes |
| first losses, for divergence | yes |
| the wish to stop, accumulation, frozen parameters, when loaders were last made anew, the watch's own state | no |

Versions of the format: 1 had pauses between epochs only, and is still read.
"""

# ruff: noqa: SLF001 - what Lightning and torch keep to themselves is what has to be kept here

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.fit_loop import RestartStage
from lightning.pytorch.utilities.model_helpers import is_overridden

from tuner.errors import TunerError
from tuner.training import attributes, logged, random_state
from tuner.training.divergence import LossWatch
from tuner.training.passes import Passes, Source, TrainingSource
from tuner.training.progress import latest, loaders

KEY = "tuner"
VERSION = 2
# Hyperparameters are whatever objects the module was built with; the configuration builds them again.
_DROPPED = (
    *("hyper_parameters", "hparams_name", "hparams_type"),
    *("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type"),
)


def can_be_within_epoch(trainer: pl.Trainer, began: attributes.Marks) -> str:
    """Why this training cannot be written down in the middle of an epoch; nothing where it can."""
    fit = trainer.fit_loop
    if not isinstance(fit._combined_loader, Passes):
        return "its CombinedLoader is of a class of its own"
    if not fit._combined_loader.can_be_taken_up(fit._data_fetcher, trainer.world_size):
        return "its data cannot be taken up in the middle of a pass"
    if logged.state(trainer) is None:
        return "what it logs cannot be written down"
    _, left_out = attributes.changed(trainer, began)
    return f"{', '.join(left_out)} gathers objects that are not plain values or tensors" if left_out else ""


def add_state(
    trainer: pl.Trainer,
    checkpoint: dict[str, Any],
    *,
    within_epoch: bool,
    batch_ended: bool,
    losses: LossWatch,
    watch: Mapping[str, Any],
    began: attributes.Marks,
) -> None:
    """Add to Lightning's checkpoint what it lacks.

    `within_epoch`: after a batch, and `batch_ended` says whether a validation that was due has been; otherwise
    between two epochs.
    """
    for key in _DROPPED:
        checkpoint.pop(key, None)
    fit = trainer.fit_loop
    checkpoint[KEY] = {
        "version": VERSION,
        "within_epoch": within_epoch,
        "batch_ended": batch_ended,
        "should_stop": trainer.should_stop,
        "accumulate": trainer.accumulate_grad_batches,
        "frozen": [name for name, one in trainer.lightning_module.named_parameters() if not one.requires_grad],
        "val_loaders": trainer.val_dataloaders is not None,
        "train_loaded_epoch": fit._last_train_dl_reload_epoch,
        "val_loaded_epoch": fit.epoch_loop.val_loop._last_val_dl_reload_epoch,
        "watch": dict(watch),
        "ranks": _of_every_rank(trainer, _of_this_rank(trainer, losses, began, within_epoch=within_epoch)),
    }


def _of_this_rank(
    trainer: pl.Trainer, losses: LossWatch, began: attributes.Marks, *, within_epoch: bool
) -> dict[str, Any]:
    connector = trainer._logger_connector
    state: dict[str, Any] = {
        "random": random_state.capture(device_of(trainer), tuple(loaders(trainer))),
        "metrics": _on_cpu(latest(trainer)),
        "logged_metrics": _on_cpu(connector._logged_metrics),
        "bar_metrics": dict(connector._progress_bar_metrics),
        "attributes": attributes.changed(trainer, began)[0],
        "losses": losses.first,
    }
    state["made"] = [None if source.made is None else random_state.packed(source.made) for source in _sources(trainer)]
    fit = trainer.fit_loop
    if within_epoch:
        assert isinstance(fit._combined_loader, Passes)
        epochs = fit.epoch_progress.current.processed  # type: ignore[attr-defined]
        state["way"] = fit._combined_loader.state(fit.epoch_loop.batch_progress.current.ready, epochs)
        state["logged"] = logged.state(trainer)
        state["gradients"] = _gradients(trainer) if _keeps_gradients(trainer) else None
    return state


def _keeps_gradients(trainer: pl.Trainer) -> bool:
    module = trainer.lightning_module
    return not module.automatic_optimization or is_overridden("optimizer_zero_grad", module)


def _gradients(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    return {name: one.grad.cpu() for name, one in trainer.lightning_module.named_parameters() if one.grad is not None}


# -- taking up --------------------------------------------------------------------------------------------------


class Resume:
    """The state of a checkpoint, on its way into a training.

    Attributes:
        within_epoch: whether it goes on in the middle of an epoch.
        batch_ended: whether a validation that was due after the last batch has been.
        losses: the first ones, for the `LossWatch`.
        watch: state of the watch; empty in files of version 1.
    """

    def __init__(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> None:
        """`checkpoint` is what was read.

        Raises:
            TunerError: the file is not a checkpoint of tuner's, is newer than this program, or was written in the
                middle of an epoch by another number of ranks.
        """
        self._state = state = _upgraded(checkpoint.get(KEY))
        ranks = state["ranks"]
        self.within_epoch: bool = state["within_epoch"]
        self.batch_ended: bool = state["batch_ended"]
        if self.within_epoch and len(ranks) != trainer.world_size:
            raise TunerError(
                f"The checkpoint was written in the middle of an epoch by {len(ranks)} processes that shared each pass"
                f" over the data, and {trainer.world_size} cannot go on with it. Train on as many devices as before, or"
                " go on from a checkpoint of an epoch's end."
            )
        self._mine: dict[str, Any] = ranks[min(trainer.global_rank, len(ranks) - 1)]
        self.losses: list[float] = self._mine["losses"]
        self.watch: dict[str, Any] = state["watch"]

    def hand_to(self, trainer: pl.Trainer) -> None:
        """Before there are loaders: what they are made from, and how far they are to go."""
        for source, made in zip(_sources(trainer), self._mine.get("made", (None, None)), strict=True):
            source.resume = made
            if isinstance(source, TrainingSource):
                source.way = self._mine.get("way")

    def take_up_loops(self, trainer: pl.Trainer) -> None:
        """When the training starts: take from Lightning's loops the belief that they restart.

        A loop that resumes uses the iterator that was made before random state was restored, and with `max_steps` it
        ends the finished epoch a second time. A loop that simply begins its next epoch does neither. Within an epoch
        the loop is to use the iterator that is there, and the epoch does not start once more.
        """
        fit = trainer.fit_loop
        epoch = fit.epoch_loop
        for loop in (fit, epoch, epoch.val_loop, epoch.automatic_optimization, epoch.manual_optimization):
            loop._restarting = False
            loop._resuming_from_checkpoint = False
            loop.reset_restart_stage()
        if self.within_epoch:
            fit._resuming_from_checkpoint = True
            fit._restart_stage = RestartStage.RESTARTED_MID_EPOCH
        else:
            trainer.should_stop = self._state["should_stop"]
        self._restore_metrics(trainer)

    def restore(self, trainer: pl.Trainer) -> None:
        """Just before the loop goes on, after all that hooks have drawn or set at the start."""
        state, fit = self._state, trainer.fit_loop
        if state["val_loaders"]:
            _make_val_loaders(trainer)
        else:
            fit.epoch_loop.val_loop._combined_loader = None  # made too early, by a loop that begins in this epoch
        fit._last_train_dl_reload_epoch = state["train_loaded_epoch"]
        fit.epoch_loop.val_loop._last_val_dl_reload_epoch = state["val_loaded_epoch"]
        trainer.should_stop = state["should_stop"]
        trainer.accumulate_grad_batches = state.get("accumulate", trainer.accumulate_grad_batches)
        if "frozen" in state:
            for name, parameter in trainer.lightning_module.named_parameters():
                if parameter.requires_grad is (name in state["frozen"]):
                    parameter.requires_grad_(not parameter.requires_grad)
        self._restore_metrics(trainer)
        attributes.restore(trainer, self._mine.get("attributes", {}))
        if self.within_epoch:
            logged.restore(trainer, self._mine["logged"])
            self._restore_gradients(trainer)
        random_state.restore(self._mine["random"], device_of(trainer), tuple(loaders(trainer)))

    def _restore_metrics(self, trainer: pl.Trainer) -> None:
        connector, mine = trainer._logger_connector, self._mine
        connector._callback_metrics.update(mine["metrics"])
        connector._logged_metrics.update(mine.get("logged_metrics", {}))
        connector._progress_bar_metrics.update(mine.get("bar_metrics", {}))

    def _restore_gradients(self, trainer: pl.Trainer) -> None:
        gradients = self._mine["gradients"]
        if gradients is not None:
            for name, parameter in trainer.lightning_module.named_parameters():
                found = gradients.get(name)
                parameter.grad = None if found is None else found.to(parameter.device)


def _upgraded(state: Mapping[str, Any] | None) -> dict[str, Any]:
    if state is None:
        raise TunerError(
            "This file is no checkpoint of a trial: what a trial needs to go on is not in it. Go on from a file that"
            " tuner has written, or start the trial anew."
        )
    version = state.get("version", 1)
    if version > VERSION:
        raise TunerError(
            f"The checkpoint has format {version}, and this program reads up to {VERSION}. Install the version of tuner"
            " that wrote it, or start the trial anew."
        )
    if version == VERSION:
        return dict(state)
    ranks = [{"random": one, "metrics": state["metrics"], "losses": state["first_losses"]} for one in state["random"]]
    return {**state, "within_epoch": False, "batch_ended": True, "watch": {}, "ranks": ranks}


def _make_val_loaders(trainer: pl.Trainer) -> None:
    """Now, as the first part had them: making them later would draw from the restored random state."""
    if trainer.enable_validation and trainer.val_dataloaders is None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True


def note_sources(trainer: pl.Trainer) -> None:
    """Let the Trainer's loaders come with what it takes to make them again."""
    fit = trainer.fit_loop
    fit._data_source = TrainingSource(fit._data_source)
    fit.epoch_loop.val_loop._data_source = Source(fit.epoch_loop.val_loop._data_source)


def _sources(trainer: pl.Trainer) -> Iterator[Source]:
    for source in (trainer.fit_loop._data_source, trainer.fit_loop.epoch_loop.val_loop._data_source):
        assert isinstance(source, Source)
        yield source


def replace_method(loop: object, name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
    """Let `instead(original, …)` answer for a method of this one loop, whose original is the answer."""
    original: Callable[..., Any] = getattr(loop, name)
    setattr(loop, name, functools.partial(instead, original))
    return original


def device_of(trainer: pl.Trainer) -> torch.device:
    return torch.device(trainer.strategy.root_device)


def _of_every_rank(trainer: pl.Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    if trainer.world_size == 1:
        return [state]
    states: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, state)
    return states


def _on_cpu(metrics: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu() for key, value in metrics.items()}
