"""Between a schedule and Lightning: `configure`, and how long the training is where the schedule was not told.

A module needs no more than `configure`; a plain torch loop needs nothing of this.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from tuner.errors import ConfigError, Problem
from tuner.schedules.arguments import Interval, interval_problem, refuse
from tuner.schedules.fixed import cosine, linear, one_cycle
from tuner.schedules.nodes import called, given, interval_of, minibatch_problem, target_of
from tuner.schedules.warm_up import Warmup, counts_epochs, warmup, warmup_problems, warmup_steps

#: The argument that says how long the training is.
_TOTALS = {linear: "total", cosine: "total", one_cycle: "total", CosineAnnealingLR: "T_max", OneCycleLR: "total_steps"}
#: Of the training that goes on here.
_OBJECTIVE: ContextVar[str | None] = ContextVar("objective", default=None)


@contextlib.contextmanager
def objective(metric: str) -> Iterator[None]:
    """Within the block, plateaus without a `monitor` follow this key."""
    token = _OBJECTIVE.set(metric)
    try:
        yield
    finally:
        _OBJECTIVE.reset(token)


def configure(module: pl.LightningModule, optimizer: Optimizer, schedule: Any, metric: str | None = None) -> Any:
    """What `configure_optimizers` returns for an optimizer and a schedule.

    A module calls it with what it was given: `return configure(self, optimizer, self.schedule)`.

    Args:
        module: whose Trainer knows how long the training is; without a Trainer the schedule has to say so itself.
        optimizer: whose rates are set.
        schedule: one of these schedules, one of torch's, or any other callable that takes the optimizer; or Lightning's
            own dictionary with such a callable under `scheduler`, whose other keys win; or None. torch's OneCycleLR and
            CosineAnnealingLR take their length from the Trainer where they have none. Torch's schedules are stepped
            after each epoch, but for a OneCycleLR without `total_steps`.
        metric: the key of the objective, for a plateau that names no `monitor`; in a training of tuner it is known.

    Raises:
        ConfigError: the schedule does not take the arguments that it is given, one of them is out of range, or the
            length of the training or the objective is not known.
    """
    if schedule is None:
        return optimizer
    options = dict(schedule) if isinstance(schedule, Mapping) else {"scheduler": schedule}
    unmade = options.pop("scheduler", None)
    interval = options.get("interval", interval_of(unmade))
    refuse(interval_problem(interval), minibatch_problem(unmade, interval))
    # Lightning's `frequency` leaves steps out, so that the training is not as long as the Trainer says.
    length = _Length(_trainer(module) if options.get("frequency", 1) == 1 else None)
    scheduler = called(_filled(unmade, interval, length), optimizer)
    if interval == "step":
        options["interval"] = interval
    watched = scheduler.after if isinstance(scheduler, Warmup) else scheduler
    if isinstance(watched, ReduceLROnPlateau) and "monitor" not in options:
        options["monitor"] = _monitor(unmade if watched is scheduler else given(unmade, "after"), metric)
    if isinstance(watched, ReduceLROnPlateau) and watched is not scheduler:
        # Two entries, because Lightning steps a schedule either after each minibatch or with the objective.
        warm = {"scheduler": scheduler, "interval": "step"}
        return [optimizer], [warm, {**options, "interval": "epoch", "scheduler": watched}]
    return {"optimizer": optimizer, "lr_scheduler": {**options, "scheduler": scheduler}}


def _monitor(schedule: Any, metric: str | None) -> str:
    key = given(schedule, "monitor") or metric or _OBJECTIVE.get()
    if key is None:
        remedy = "Write `monitor: ${objective.metric}` beside its _target_."
        raise ConfigError([Problem("schedule.monitor", "a plateau needs the key of the objective", None, remedy)])
    return str(key)


class _Length:
    """How long a training is, less a warm-up, as far as its Trainer knows; loaders are made only when asked for it."""

    def __init__(self, trainer: pl.Trainer | None, warm_steps: int = 0) -> None:
        self._trainer, self._warm_steps = trainer, warm_steps

    def less(self, warm_steps: int) -> _Length:
        return _Length(self._trainer, self._warm_steps + warm_steps)

    def total(self, interval: Interval) -> int | None:
        """Epochs or minibatches, at least 1; None where the training has no end of its own."""
        whole = self._steps() if interval == "step" else self._epochs()
        if whole is None or not self._warm_steps:
            return whole
        warm = self._warm_steps if interval == "step" else self._warm_steps // (self.steps_per_epoch() or 1)
        return max(1, whole - warm)

    def steps_per_epoch(self) -> int | None:
        """Steps of the optimizer in an epoch: minibatches, or groups of them whose gradients are accumulated."""
        trainer = self._trainer
        if trainer is None:
            return None
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()  # as Trainer.estimated_stepping_batches does
        batches = trainer.num_training_batches
        return None if math.isinf(batches) else max(1, math.ceil(batches / trainer.accumulate_grad_batches))

    def _steps(self) -> int | None:
        steps = math.inf if self._trainer is None else self._trainer.estimated_stepping_batches
        return None if math.isinf(steps) or steps < 0 else max(1, int(steps))

    def _epochs(self) -> int | None:
        trainer = self._trainer
        if trainer is None:
            return None
        bounds = [] if trainer.max_epochs in {None, -1} else [trainer.max_epochs]
        if trainer.max_steps != -1 and (per_epoch := self.steps_per_epoch()):
            bounds.append(math.ceil(trainer.max_steps / per_epoch))
        return max(1, min(bounds)) if bounds else None


def _trainer(module: pl.LightningModule) -> pl.Trainer | None:
    try:
        return module.trainer
    except RuntimeError:  # a module outside of a training
        return None


def _filled(schedule: Any, interval: Interval, length: _Length) -> Any:
    """The schedule with what it was not told and the Trainer knows."""
    target = target_of(schedule)
    missing: dict[str, Any] = {}
    if target is warmup:
        missing = _filled_warmup(schedule, length)
    elif target is OneCycleLR and given(schedule, "epochs") is not None:
        if given(schedule, "steps_per_epoch") is None:
            missing["steps_per_epoch"] = length.steps_per_epoch()
    elif target in _TOTALS and given(schedule, _TOTALS[target]) is None:
        missing[_TOTALS[target]] = length.total(interval)
    return functools.partial(schedule, **{name: value for name, value in missing.items() if value is not None})


def _filled_warmup(schedule: Any, length: _Length) -> dict[str, Any]:
    steps, epochs, after, per_epoch = (
        given(schedule, name) for name in ("steps", "epochs", "after", "steps_per_epoch")
    )
    if per_epoch is None and (epochs is not None or counts_epochs(after)):
        per_epoch = length.steps_per_epoch()
    if after is not None and not any(warmup_problems(steps, epochs, after, per_epoch)):
        left = length.less(warmup_steps(steps, epochs, per_epoch))
        after = _filled(after, interval_of(after), left)
    return {"after": after, "steps_per_epoch": per_epoch}
