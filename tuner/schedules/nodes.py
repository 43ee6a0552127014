"""A schedule that is not called yet, as a node with `_partial_: true` makes it, or any other callable.

Here is what it stands for, what it will be called with, what it counts, and its call. Filling in what it was not told
is left to `trainer`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from tuner.errors import ConfigError, Problem
from tuner.schedules.arguments import Interval

#: What a node with `_partial_: true` becomes: called with the optimizer.
Schedule = Callable[[Optimizer], LRScheduler]

_Made = TypeVar("_Made", bound=Callable[..., LRScheduler])

#: Schedules whose formula counts minibatches; not a set, because what a user writes in place of one may have no hash.
_PER_MINIBATCH: list[Callable[..., LRScheduler]] = []


def per_minibatch(schedule: _Made) -> _Made:
    """Marks a schedule whose formula counts minibatches, so that it is stepped after each of them."""
    _PER_MINIBATCH.append(schedule)
    return schedule


def target_of(schedule: Any) -> Any:
    """The function or class that will be called in the end."""
    while isinstance(schedule, functools.partial):  # Hydra's own kind does not merge with one around it
        schedule = schedule.func
    return schedule


def given(schedule: Any, name: str) -> Any:
    """What the schedule will be called with under this name: given or by default; None where it has no such argument.

    Raises:
        ConfigError: it does not take what it was given, or is not a callable.
    """
    try:
        if isinstance(schedule, functools.partial):  # whose own signature does not say which argument is wrong
            inspect.signature(schedule.func).bind_partial(*schedule.args, **schedule.keywords)
        parameter = inspect.signature(schedule).parameters.get(name)
    except TypeError as error:
        raise ConfigError([arguments_problem(schedule, error)]) from None
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def interval_of(schedule: Any) -> Interval:
    """What it counts, and so after what it is stepped.

    Raises:
        ConfigError: as `given`.
    """
    target = target_of(schedule)
    if target is OneCycleLR:  # total_steps alone may count either; Lightning asks about epochs
        return "step" if given(schedule, "total_steps") is None else "epoch"
    return "step" if target in _PER_MINIBATCH or given(schedule, "interval") == "step" else "epoch"


def called(schedule: Any, optimizer: Optimizer) -> Any:
    """The scheduler that it makes for an optimizer.

    Raises:
        ConfigError: it does not take the arguments that it is given, or it refuses one of them.
    """
    try:
        inspect.signature(schedule).bind(optimizer)
    except TypeError as error:
        raise ConfigError([arguments_problem(schedule, error)]) from None
    return schedule(optimizer)


def minibatch_problem(schedule: Any, interval: Interval) -> Problem | None:
    """What is wrong with stepping it after each epoch."""
    if interval == "step" or target_of(schedule) not in _PER_MINIBATCH:
        return None
    rule = f"{target_of(schedule).__name__} is stepped after each minibatch"
    return Problem("schedule.interval", rule, interval, "Leave `interval` out.")


def arguments_problem(schedule: Any, error: TypeError) -> Problem:
    """That it cannot be called with what it was given, as `inspect` says."""
    target = target_of(schedule)
    name = getattr(target, "__qualname__", repr(target))
    remedy = "Mend the keys beside its _target_, which has `_partial_: true`."
    return Problem(f"schedule ({name})", "is called with the optimizer and takes its arguments", str(error), remedy)
