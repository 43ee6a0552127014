"""What is wrong with an argument of a schedule: each check gives its problem, or None; `refuse` raises all of them.

What is wrong with a node before it is called is in `nodes`, with a warm-up as a whole in `warm_up`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch.optim import Optimizer

from tuner.errors import ConfigError, Problem

#: What i counts in a schedule: epochs, or minibatches (steps of the optimizer).
Interval = Literal["epoch", "step"]

#: Ways to write a plateau's direction, and torch's word for each.
MODES = {"min": "min", "minimize": "min", "max": "max", "maximize": "max"}


def refuse(*found: Problem | None) -> None:
    """Raises a ConfigError with every problem found; None is none."""
    if problems := [problem for problem in found if problem is not None]:
        raise ConfigError(problems)


def known(value: Any) -> Any:
    """A value that is None only where `refuse` has been called."""
    assert value is not None, "refused before"
    return value


def range_problem(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    whole: bool = False,
) -> Problem | None:
    """What is wrong with a number that is to lie in [low, high], open at the ends that `above` and `below` name."""
    kind = int if whole else (int, float)
    if isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value):
        over = value > low if above else value >= low
        under = value < high if below else value <= high
        if over and under:
            return None
    end = "" if math.isinf(high) else f" and {'below' if below else 'at most'} {high:g}"
    rule = f"is {'a whole' if whole else 'a'} number {'above' if above else 'of at least'} {low:g}{end}"
    return Problem(f"schedule.{name}", rule, value, "Write such a number.")


def total_problem(total: Any) -> Problem | None:
    """What is wrong with the length of the training, which is None where neither a node nor a Trainer tells it."""
    if total is None:
        rule = "needs the length of the training, which no Trainer tells"
        remedy = "Write the epochs (or minibatches) of the training, or set trainer.max_epochs; not with `frequency`."
        return Problem("schedule.total", rule, None, remedy)
    return range_problem("total", total, 1, whole=True)


def interval_problem(interval: Any) -> Problem | None:
    """What is wrong with an `interval`."""
    if interval in ("epoch", "step"):
        return None
    return Problem("schedule.interval", "is epoch or step", interval, "Write `interval: epoch` or `interval: step`.")


def momentum_problem(optimizer: Optimizer, *, cycle_momentum: bool) -> Problem | None:
    """What is wrong with cycling the momentum of this optimizer."""
    if not cycle_momentum or {"momentum", "betas"} & optimizer.defaults.keys():
        return None
    rule = f"{type(optimizer).__name__} has no momentum that could cycle"
    return Problem("schedule.cycle_momentum", rule, cycle_momentum, "Leave it out.")


def mode_problem(mode: Any) -> Problem | None:
    """What is wrong with a plateau's direction."""
    if isinstance(mode, str) and mode in MODES:
        return None
    rule = "is min, max, minimize or maximize"
    return Problem("schedule.mode", rule, mode, "In a study's file write `mode: ${objective.direction}`.")


def monitor_problem(monitor: Any) -> Problem | None:
    """What is wrong with the key that a plateau watches."""
    if monitor is None or isinstance(monitor, str):
        return None
    return Problem("schedule.monitor", "is a key that the module logs", monitor, "Write for example val/loss.")
