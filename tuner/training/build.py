"""Makes the objects of one training from the plain configuration of its task.

| node | what it makes |
| --- | --- |
| `module` | a LightningModule |
| `data` | a LightningDataModule, or what its target returns: `(train, val)`, each a loader or a list of loaders |
| `optimizer` | for a module without `configure_optimizers`: called with the parameters |
| `schedule` | likewise: called with the optimizer; see `tuner.schedules.configure` |
| `trainer` | arguments of lightning.pytorch.Trainer, and tuner's own: see `OwnSettings`, and `precision: auto` |

A schedule that steps otherwise is written as Lightning's own dictionary:
`schedule: {scheduler: {_target_: ...OneCycleLR, max_lr: 0.1, total_steps: 900}, interval: step}`.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import hydra.utils
import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden

from tuner.errors import ConfigError, Problem
from tuner.schedules import configure
from tuner.training.process import NoProfiler
from tuner.training.ranks import Seated, trainer_arguments
from tuner.training.task import Task

#: The device's own choice of `trainer.precision`: bfloat16 where the hardware multiplies it.
AUTO = "auto"

# What a person at the keyboard wants to see or keep, a search does not; sanity steps would be paid in every trial.
_DEFAULTS: Mapping[str, Any] = {
    "accelerator": "auto",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass
class Parts:
    """The objects of one training.

    Attributes:
        module: with `configure_optimizers`, its own or the configuration's.
        fit: keyword arguments of `Trainer.fit` that name the data.
        trainer: keyword arguments of `Trainer`, without callbacks.
        callbacks: the user's.
        seated: the callback that fits a Trainer to this process, before the user's.
    """

    module: pl.LightningModule
    fit: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: list[pl.Callback]
    seated: pl.Callback = field(default_factory=Seated)


@dataclass(frozen=True)
class OwnSettings:
    """What the `trainer` node holds for tuner and not for Lightning.

    Attributes:
        divergence_factor: None where an exploding loss is to be left alone.
        weights_only: whether checkpoints are read without executing anything in them.
        channels_last: whether weights of convolutions lie in memory as (n, height, width, channels), which the
            kernels of GPUs and CPUs read faster; images are to come so, too.
        compile: whether the module's parts go through `torch.compile`; the first steps then take a minute longer.
        checkpoint_every_s: seconds of training that a fault may cost at most; None where only pauses are written.
    """

    divergence_factor: float | None = 1000.0
    weights_only: bool = True
    channels_last: bool = False
    compile: bool = False
    checkpoint_every_s: float | None = 60.0


#: Of the same node, for the controller.
_CONTROLLERS = frozenset({"fit_batch"})
_OWN = frozenset(field.name for field in fields(OwnSettings))


def own_settings(task: Task) -> OwnSettings:
    node = task.config.get("trainer") or {}
    return OwnSettings(**{key: node[key] for key in _OWN & set(node)})


def build(task: Task) -> Parts:
    """Build all parts; the module first, so that its weights depend on the seed alone and not on the data.

    Raises:
        ConfigError: a node makes something else than it should, or the module has no optimizer.
    """
    node = task.config.get("trainer") or {}
    settings = {key: value for key, value in node.items() if key not in {*_OWN, *_CONTROLLERS, "_target_"}}
    module = _laid_out(_module(task), own_settings(task))
    if settings.get("precision") == AUTO:
        settings["precision"] = _best_precision(str(settings.get("accelerator", AUTO)))
    fit = _data(task.config.get("data"))
    callbacks = _callbacks(settings.pop("callbacks", None), enabled=settings.pop("enable_checkpointing", None))
    logger = _logger(settings.pop("logger", None), task)
    own = {"default_root_dir": task.folder, "profiler": NoProfiler()}
    trainer = trainer_arguments({**_DEFAULTS, **own, **instantiate(settings)})
    return Parts(module, fit, {**trainer, "logger": logger}, callbacks)


def instantiate(node: Any, **overrides: Any) -> Any:
    """`hydra.utils.instantiate`, but lists and mappings reach the user's objects as such and not as OmegaConf's."""
    if not overrides and not _has_target(node):
        return node  # as Hydra would answer, 2 ms sooner
    if isinstance(node, Mapping) and "_convert_" not in node:
        overrides["_convert_"] = "all"
    try:
        return hydra.utils.instantiate(node, **overrides)
    except InstantiationException as error:
        if _is_refused_call(error.__cause__):
            target = node.get("_target_") if isinstance(node, Mapping) else node
            remedy = "Mend the keys beside its _target_, or give the class that argument."
            raise ConfigError(
                [Problem(str(target), "takes the arguments given", str(error.__cause__), remedy)]
            ) from None
        raise


def _is_refused_call(error: BaseException | None) -> bool:
    """Whether a call failed at its arguments, before anything of the user's code ran."""
    if not isinstance(error, TypeError) or error.__traceback__ is None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("hydra.")


def _has_target(node: Any) -> bool:
    if isinstance(node, Mapping):
        return "_target_" in node or any(map(_has_target, node.values()))
    return isinstance(node, (list, tuple)) and any(map(_has_target, node))


def _module(task: Task) -> pl.LightningModule:
    module = instantiate(task.config["module"])
    if not isinstance(module, pl.LightningModule):
        raise ConfigError(
            [
                Problem(
                    "module",
                    "makes a lightning.pytorch.LightningModule",
                    f"{type(module).__module__}.{type(module).__qualname__}",
                    "Write `_target_: package.YourModule`, a subclass of lightning.pytorch.LightningModule"
                    " (the package pytorch_lightning has classes of its own that are not the same).",
                )
            ]
        )
    optimizer, schedule = task.config.get("optimizer"), task.config.get("schedule")
    if is_overridden("configure_optimizers", module):
        _refuse_second_optimizer(module, optimizer, schedule)
    elif not optimizer:
        raise ConfigError(
            [
                Problem(
                    "optimizer",
                    f"a module without configure_optimizers, as {type(module).__qualname__} is, needs one",
                    optimizer,
                    "Write `optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 0.001}` in the study's file,"
                    " or define configure_optimizers.",
                )
            ]
        )
    else:
        # On the instance: the user's class stays as it is.
        configure = functools.partial(_configure_optimizers, module, optimizer, schedule, task.metric)
        module.configure_optimizers = configure  # type: ignore[method-assign]
    return module


def _laid_out(module: pl.LightningModule, own: OwnSettings) -> pl.LightningModule:
    if own.channels_last:
        module.to(memory_format=torch.channels_last)
    if own.compile:
        # Its parts and not the whole: a step that calls `self.network(…)` meets them, one that calls `self(…)`, too.
        for part in module.children():
            part.compile()
    return module


def _best_precision(accelerator: str) -> str:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "cpu"):
        fast = torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - there is no public form of it
    else:
        fast = False
    return "bf16-mixed" if fast else "32-true"


def _refuse_second_optimizer(module: pl.LightningModule, optimizer: Any, schedule: Any) -> None:
    problems = [
        Problem(
            key,
            f"{type(module).__qualname__} has its own configure_optimizers, which would ignore this",
            node.get("_target_", node) if isinstance(node, Mapping) else node,
            f"Remove `{key}`, or remove configure_optimizers from the module.",
        )
        for key, node in (("optimizer", optimizer), ("schedule", schedule))
        if node
    ]
    if problems:
        raise ConfigError(problems)


def _configure_optimizers(module: pl.LightningModule, optimizer: Any, schedule: Any, metric: str) -> Any:
    parameters = (parameter for parameter in module.parameters() if parameter.requires_grad)
    made = instantiate(optimizer, _partial_=True)(parameters)
    if not schedule:
        return made
    if "_target_" in schedule:
        return configure(module, made, instantiate(schedule, _partial_=True), metric)
    scheduler = instantiate(schedule.get("scheduler"), _partial_=True)
    return configure(module, made, {**schedule, "scheduler": scheduler}, metric)


def _data(node: Any) -> dict[str, Any]:
    if not node:
        return {}  # the module brings its own loaders
    data = instantiate(node)
    if isinstance(data, pl.LightningDataModule):
        return {"datamodule": data}
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return {"train_dataloaders": data[0], "val_dataloaders": data[1]}
    raise ConfigError(
        [
            Problem(
                "data",
                "makes a lightning.pytorch.LightningDataModule, or is a function that returns (train, val)",
                f"{type(data).__module__}.{type(data).__qualname__}",
                "Return a pair of loaders; val may be a list of loaders, or None.",
            )
        ]
    )


def _nodes(value: Any) -> list[Any]:
    """The nodes of a list, of a mapping by name (where null takes an entry out), or of one node alone."""
    if not value:
        return []
    if isinstance(value, Mapping):
        return [value] if "_target_" in value else [node for node in value.values() if node]
    return list(value)


def _callbacks(value: Any, *, enabled: bool | None) -> list[pl.Callback]:
    callbacks = [instantiate(node) for node in _nodes(value)]
    kept = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    if enabled is False and kept:
        raise ConfigError(
            [
                Problem(
                    "trainer.enable_checkpointing",
                    f"is not false where trainer.callbacks has a {type(kept[0]).__qualname__}",
                    False,
                    "Remove one of the two.",
                )
            ]
        )
    if enabled and not kept:
        callbacks.append(ModelCheckpoint())  # as Lightning does
    return callbacks


def _logger(value: Any, task: Task) -> Any:
    if value is None or isinstance(value, bool):
        return bool(value)
    return [instantiate(_with_trial(node, task)) for node in _nodes(value)]


def _with_trial(node: Any, task: Task) -> Any:
    """A logger's node with the trial's number as its version, and the trial's folder where it needs one to save in."""
    accepted = inspect.signature(hydra.utils.get_object(node["_target_"])).parameters
    added: dict[str, Any] = {}
    # A logger that knows both an id and a version (Weights & Biases) takes the version for the id of a run in a
    # service, where a trial's number would meet the same number of another study.
    if "version" in accepted and "id" not in accepted:
        added["version"] = task.trial
    if "save_dir" in accepted and accepted["save_dir"].default is inspect.Parameter.empty:
        added["save_dir"] = task.folder
    return {**added, **node}
