"""A schedule's arguments that are out of range, missing or misspelt are told before any work, all at once."""

import math
from functools import partial

import pytest
import torch
from schedule_cases import optimizer_of
from schedule_modules import Regression
from torch.optim import lr_scheduler

from tuner import schedules
from tuner.errors import ConfigError

BAD = [
    ("linear", {"total": 0}, "total"),
    ("linear", {"total": 2.5}, "total"),
    ("linear", {}, "total"),
    ("cosine", {}, "total"),
    ("cosine", {"total": 3, "eta_min": -1}, "eta_min"),
    ("one_cycle", {}, "total"),
    ("one_cycle", {"total": 3, "pct_start": 1.0}, "pct_start"),
    ("one_cycle", {"total": 3, "div_factor": 0}, "div_factor"),
    ("inverse_time", {"decay": -0.1}, "decay"),
    ("inverse_time", {"decay": math.nan}, "decay"),
    ("inverse_time", {"decay": "much"}, "decay"),
    ("inverse_time", {"decay": 1, "interval": "minute"}, "interval"),
    ("exponential", {"gamma": 0}, "gamma"),
    ("exponential", {"gamma": 1.01}, "gamma"),
    ("inverse_sqrt_epoch", {"k": 0}, "k"),
    ("inverse_sqrt_minibatch", {"k": -1}, "k"),
    ("hold_then_decay", {"hold": -1}, "hold"),
    ("hold_then_decay", {"hold": 1, "rate": 0}, "rate"),
    ("step", {"every": 0}, "every"),
    ("step", {"every": True}, "every"),
    ("step", {"every": 1, "factor": 1.5}, "factor"),
    ("plateau", {"mode": "up"}, "mode"),
    ("plateau", {"mode": ["min"]}, "mode"),
    ("plateau", {"mode": "min", "factor": 1.0}, "factor"),
    ("plateau", {"mode": "min", "patience": 0.5}, "patience"),
    ("gradient_norm", {"low": 0}, "low"),
    ("gradient_norm", {"high": 0.5}, "high"),
    ("gradient_norm", {"smoothing": 1.0}, "smoothing"),
    ("warmup", {"steps": -1}, "steps"),
    ("warmup", {"steps": 1, "epochs": 1, "steps_per_epoch": 2}, "schedule"),
    ("warmup", {"epochs": 2}, "steps_per_epoch"),
    ("warmup", {"steps": 2, "after": partial(schedules.exponential)}, "steps_per_epoch"),
]


@pytest.mark.parametrize(("name", "arguments", "key"), BAD)
def test_an_argument_that_is_out_of_range_or_missing_is_refused(name, arguments, key):
    with pytest.raises(ConfigError) as caught:
        getattr(schedules, name)(optimizer_of(), **arguments)
    assert [problem.key.split(".")[-1] for problem in caught.value.problems] == [key]


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        schedules.step(optimizer_of(), every=0, factor=2, interval="day")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (partial(schedules.inverse_time, decya=1), "unexpected keyword argument 'decya'"),
        (partial(schedules.inverse_time), "missing a required argument: 'decay'"),
        (partial(schedules.plateau), "missing a required argument: 'mode'"),
        (partial(schedules.plateau, mode="min"), r"schedule\.monitor.*objective\.metric"),
        (partial(schedules.linear), r"schedule\.total"),
        (partial(lr_scheduler.CosineAnnealingLR), "missing a required argument: 'T_max'"),
        (partial(schedules.warmup, steps=1, after="cosine"), "not a callable"),
        (partial(schedules.warmup, steps=1, after=partial(schedules.step, evry=1)), "'evry'"),
        ("cosine", "not a callable"),
        ({"interval": "step"}, "not a callable"),
        ({"scheduler": partial(schedules.step, every=1), "interval": "day"}, r"schedule\.interval"),
        ({"scheduler": partial(schedules.one_cycle, total=3), "interval": "epoch"}, "after each minibatch"),
        ({"scheduler": partial(schedules.linear), "interval": "step", "frequency": 2}, "frequency"),
    ],
)
def test_a_mistake_in_a_study_is_told_without_a_trainer_too(made, text):
    module = Regression(made)
    with pytest.raises(ConfigError, match=text):
        module.configure_optimizers()


def test_momentum_cannot_cycle_in_an_optimizer_that_has_none():
    with pytest.raises(ConfigError, match="Adagrad has no momentum"):
        schedules.one_cycle(optimizer_of(kind=torch.optim.Adagrad), total=5, cycle_momentum=True)
