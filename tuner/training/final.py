"""The final training of a configuration: in full, on all data that is not for testing; then a checkpoint, and the test.

With `split: train+val` nothing is left to validate on, so validation is off and nothing can follow its metrics. How
the two become one:

| data | trained on |
| --- | --- |
| takes an argument `train_on_all`, or has an attribute of that name | its own training loader, with that set to true |
| DataLoaders of map-style datasets, in order or shuffled, with one collate function | one DataLoader as that of training, of both datasets |
| other iterables | the training loader and then those of validation, in each epoch |
| several training loaders at once, or no validation | an error that says so |

Samples of validation come as their own dataset makes them, which as a rule is without augmentation.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra.utils
import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from tuner.errors import TunerError
from tuner.training.build import Parts, build, own_settings
from tuner.training.callbacks import Interrupted, Report, Watch
from tuner.training.divergence import LossWatch
from tuner.training.frame import timed, trainer_of
from tuner.training.model_file import save_model
from tuner.training.pause import Pause
from tuner.training.progress import epochs_trained, latest
from tuner.training.task import Measurement, Outcome, Result, Task

#: The split that validation data is part of.
BOTH = "train+val"
#: The argument, or attribute, by which data is told to train on all but its test data.
ON_ALL = "train_on_all"


def train_final(task: Task, report: Report, interrupted: Interrupted) -> Result:
    """Train, save, test once.

    `task.options`: `split`, train+val or train; `file`, where the checkpoint goes: one that is there is kept, and the
    new one gets a number. `report` is called after each epoch, or validation; with train+val its value is NaN unless
    the objective is logged in training.

    The findings of a complete training:

    | key | value |
    | --- | --- |
    | checkpoint | its path |
    | left_out | hyperparameters that could not be read back without executing code, and are not in it |
    | test | metrics by name; None where there is nothing to test with |
    | why_no_test | the reason for None |

    A test that fails is told as a crash, with the checkpoint among the findings.

    Raises:
        TunerError: the data cannot be joined, something follows a metric of validation, or the checkpoint would hold
            what cannot be read back safely.
        Exception: what the user's code raised in training.
    """
    return timed(lambda: _run(task, report, interrupted))


def _run(task: Task, report: Report, interrupted: Interrupted) -> Result:
    both = task.options.get("split", BOTH) == BOTH
    own = own_settings(task)
    losses = LossWatch(own.divergence_factor)
    pause = Pause(task.folder, losses, weights_only=own.weights_only)
    watch = (_Unvalidated if both else Watch)(task, report, interrupted, losses, pause)
    pl.seed_everything(task.seed, workers=True, verbose=False)
    told = _told(task) if both else task
    parts = build(told)
    if both:
        _join(parts, told=told is not task)
        parts.trainer["limit_val_batches"] = 0
    trainer = trainer_of(parts.trainer, callbacks=[parts.seated, *parts.callbacks, watch], enable_checkpointing=True)
    try:
        trainer.fit(parts.module, **parts.fit)
    except (MisconfigurationException, RuntimeError):
        if both:
            _refuse_lost_monitors(trainer)
        raise
    result = Result(
        watch.outcome,
        watch.value,
        epochs_trained(trainer),
        trainer.global_step,
        reason=watch.reason,
        logged=watch.logged,
    )
    if watch.outcome is not Outcome.COMPLETE:
        return result
    findings = _save(trainer, Path(task.options["file"]), weights_only=own.weights_only)
    return _tested(trainer, parts, replace(result, findings=findings))


# -- data -------------------------------------------------------------------------------------------------------


def _told(task: Task) -> Task:
    """The task with `train_on_all` in its data's node, where what the node names takes that argument."""
    node = task.config.get("data")
    if not node:
        return task
    try:
        takes = ON_ALL in inspect.signature(hydra.utils.get_object(node["_target_"])).parameters
    except Exception:  # noqa: BLE001 - whatever is wrong with it is told where it is built
        return task
    return replace(task, config={**task.config, "data": {**node, ON_ALL: True}}) if takes else task


def _join(parts: Parts, *, told: bool) -> None:
    """Have the training see the validation data as well."""
    data = parts.fit.get("datamodule", parts.module)
    if told:
        return
    if "train_dataloaders" in parts.fit:
        parts.fit["train_dataloaders"] = joined(parts.fit["train_dataloaders"], parts.fit["val_dataloaders"])
    elif hasattr(data, ON_ALL):
        setattr(data, ON_ALL, True)
    elif not is_overridden("val_dataloader", data):
        raise _cannot_join("it has no val_dataloader")
    else:
        # On the instance: the user's class stays as it is.
        data.train_dataloader = functools.partial(_both, data.train_dataloader, data.val_dataloader)


def _both(train: Any, val: Any) -> Iterable[Any]:
    return joined(train(), val())


def joined(train: Any, val: Any) -> Iterable[Any]:
    """One loader of the batches of a training loader and of validation loaders.

    Args:
        train: an iterable of batches.
        val: another one, or a list or mapping of some.

    Raises:
        TunerError: there is no one loader that could stand for them.
    """
    if isinstance(train, (list, tuple, Mapping, CombinedLoader)):
        raise _cannot_join("it trains on several loaders at once")
    others = list(_flat(val))
    if not others:
        raise _cannot_join("it has no validation loader")
    loaders = [train, *others]
    if all(map(_is_plain, loaders)) and len({loader.collate_fn for loader in loaders}) == 1:
        return _concatenated(loaders)
    return Chain(loaders)


def _flat(loaders: Any) -> Iterator[Any]:
    """Each loader of what may be one, none, or a collection."""
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.flattened
    if isinstance(loaders, (list, tuple, Mapping)):
        for each in loaders.values() if isinstance(loaders, Mapping) else loaders:
            yield from _flat(each)
    elif loaders is not None:
        yield loaders


def _cannot_join(why: str) -> TunerError:
    return TunerError(
        f"Training and validation data cannot be joined, because {why}. Write split=train, or give the data an argument"
        f" {ON_ALL}: bool = False that makes its training loader have both."
    )


def _is_plain(loader: Any) -> bool:
    """A DataLoader of torch that reads each item of its dataset once, in order or shuffled."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False
    sampler = loader.sampler
    whole = (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    )
    return type(loader.batch_sampler) is BatchSampler and (whole or type(sampler) is SequentialSampler)


def _concatenated(loaders: list[DataLoader[Any]]) -> DataLoader[Any]:
    first = loaders[0]
    sampler = first.sampler
    return DataLoader(
        ConcatDataset([loader.dataset for loader in loaders]),
        batch_size=first.batch_size,
        shuffle=isinstance(sampler, RandomSampler),
        num_workers=first.num_workers,
        collate_fn=first.collate_fn,
        pin_memory=first.pin_memory,
        drop_last=first.drop_last,
        timeout=first.timeout,
        worker_init_fn=first.worker_init_fn,
        multiprocessing_context=first.multiprocessing_context,
        generator=first.generator or getattr(sampler, "generator", None),
        prefetch_factor=first.prefetch_factor,
        persistent_workers=first.persistent_workers,
    )


class Chain:
    """Loaders one after the other in each pass; it has a length where each of them has one."""

    def __init__(self, loaders: list[Any]) -> None:
        self._loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self._loaders))

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self._loaders)


# -- training ---------------------------------------------------------------------------------------------------


class _Unvalidated(Watch):
    """Where there is no validation there may be no objective; all else is watched."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._bad_loss = self._losses.look() or self._bad_loss
        self._leave_if_diverged(trainer)
        logged = latest(trainer).get(self._metric)
        self.value = None if logged is None else float(logged)
        _refuse_lost_monitors(trainer)
        value = math.nan if self.value is None else self.value
        self._ask(Measurement(trainer.global_step, trainer.current_epoch + 1, value))


def _refuse_lost_monitors(trainer: pl.Trainer) -> None:
    """After an epoch: whatever follows a metric needs that metric.

    Lightning's own error does not know why it is missing, and a schedule that is not strict would never fall.

    Raises:
        TunerError: a callback or a schedule follows a metric that the training does not log.
    """
    watching = {type(callback).__name__: getattr(callback, "monitor", None) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    with contextlib.suppress(AttributeError):  # the training failed before there was an optimizer
        watching |= {
            type(config.scheduler).__name__: config.monitor
            for config in trainer.lr_scheduler_configs
            if config.reduce_on_plateau
        }
    there = set(latest(trainer))
    lost = [f"{name} follows {monitor}" for name, monitor in watching.items() if monitor and monitor not in there]
    if lost:
        raise TunerError(
            f"{' and '.join(lost)}, which only validation logs, and with split={BOTH} there is none, because its data is"
            " trained on. Write split=train, or take that out of the configuration."
        ) from None


# -- the checkpoint ---------------------------------------------------------------------------------------------


def _save(trainer: pl.Trainer, file: Path, *, weights_only: bool) -> dict[str, Any]:
    """Under a name that nothing has yet; what `train_final` says of the checkpoint.

    Raises:
        TunerError: it holds what cannot be read back safely.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    place = _free(file) if trainer.is_global_zero else file
    try:
        left_out = save_model(trainer, place, weights_only=weights_only, whole=True)
    except BaseException:
        if trainer.is_global_zero:
            place.unlink(missing_ok=True)
        raise
    return {"checkpoint": str(place), "left_out": left_out}


def _free(file: Path) -> Path:
    """The file's own name, or with the first number from 2 on that is free; taken at once, for nobody else."""
    for number in itertools.count(1):
        place = file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")
        with contextlib.suppress(FileExistsError):
            place.open("x").close()
            return place
    raise AssertionError  # the count has no end


# -- the test ---------------------------------------------------------------------------------------------------


def _tested(trainer: pl.Trainer, parts: Parts, result: Result) -> Result:
    data = parts.fit.get("datamodule")
    from_data = data is not None and is_overridden("test_dataloader", data)
    why = ""
    if not is_overridden("test_step", parts.module):
        why = f"{type(parts.module).__qualname__} has no test_step"
    elif not from_data and not is_overridden("test_dataloader", parts.module):
        why = f"{'the data' if data is None else type(data).__qualname__} has no test_dataloader"
    if why:
        return replace(result, findings={**result.findings, "test": None, "why_no_test": why})
    try:
        tested = trainer.test(parts.module, datamodule=data if from_data else None, verbose=False)
    except Exception as error:  # noqa: BLE001 - the user's code; the training and its checkpoint are not lost by it
        reason = f"the test failed: {type(error).__name__}: {error}"
        return replace(result, outcome=Outcome.CRASHED, reason=reason, traceback=traceback.format_exc())
    metrics = {name: float(value) for each in tested for name, value in each.items()}
    return replace(result, findings={**result.findings, "test": metrics})
