"""What tests of schedules in a plain loop share: a case of each schedule, an optimizer, and the rates it goes through."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from tuner import formulas, schedules

RATES = (0.5, 0.02)  # of two groups

TOTAL = st.integers(1, 40)
SHARE = st.floats(0.01, 1)


@dataclass(frozen=True)
class Case:
    """One schedule: an example of its arguments, all of them that make sense, its formula, and how often it steps."""

    example: dict[str, Any]
    arguments: dict[str, Any]
    factor: Any  # of the step and the arguments; None where it depends on more than the step
    interval: str = "epoch"
    falls: bool = True


CASES = {
    "constant": Case({}, {}, lambda i: 1.0),
    "linear": Case({"total": 9}, {"total": TOTAL}, formulas.linear_factor),
    "inverse_time": Case({"decay": 0.3}, {"decay": st.floats(0, 5)}, formulas.inverse_time_factor),
    "exponential": Case({"gamma": 0.8}, {"gamma": SHARE}, formulas.exponential_factor),
    "inverse_sqrt_epoch": Case({"k": 1.0}, {"k": st.floats(0.1, 3)}, formulas.inverse_sqrt_factor),
    "inverse_sqrt_minibatch": Case({"k": 2.0}, {"k": st.floats(0.1, 3)}, formulas.inverse_sqrt_factor, "step"),
    "hold_then_decay": Case(
        {"hold": 3},
        {"hold": st.integers(0, 30), "rate": st.floats(0.01, 2)},
        formulas.hold_then_decay_factor,
    ),
    "step": Case({"every": 2, "factor": 0.1}, {"every": st.integers(1, 9), "factor": SHARE}, formulas.step_factor),
    "cosine": Case({"total": 9}, {"total": TOTAL}, formulas.cosine_factor),
    "one_cycle": Case(
        {"total": 20},
        {
            "total": st.integers(1, 40),
            "pct_start": st.floats(0, 0.99) | st.sampled_from([0.1, 0.2, 0.25, 0.5]),
            "div_factor": st.floats(1, 30),
            "final_div_factor": st.floats(1, 1e5),
        },
        formulas.one_cycle_factor,
        "step",
        falls=False,
    ),
    "plateau": Case({"mode": "min", "patience": 0, "monitor": "val/loss"}, {}, None, falls=False),
    "gradient_norm": Case({}, {}, None, "step", falls=False),
    "warmup": Case({"steps": 4}, {"steps": st.integers(0, 30)}, formulas.warmup_factor, "step", falls=False),
}
FORMULAS = [name for name, case in CASES.items() if case.factor]


def schedule(name, **arguments):
    return partial(getattr(schedules, name), **(arguments or CASES[name].example))


def optimizer_of(rates=RATES, kind=torch.optim.SGD, **options):
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return kind(groups, **options)


def rates_of(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def advance(optimizer, scheduler, i):
    """One step of a plain loop; what gradient and objective are depends on i alone."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, math.sin(i) * 2)
    optimizer.step()
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(math.sin(i))
    else:
        scheduler.step()
        watched = getattr(scheduler, "after", None)
        if isinstance(watched, lr_scheduler.ReduceLROnPlateau):
            watched.step(math.sin(i))


def followed(made, count, optimizer=None):
    """The rates of both groups at steps 0 … count."""
    optimizer = optimizer or optimizer_of()
    scheduler = made(optimizer)
    seen = [rates_of(optimizer)]
    for i in range(count):
        advance(optimizer, scheduler, i)
        seen.append(rates_of(optimizer))
    return seen
