"""Schedules as nodes of a study: beside a module or in it, as choices with tuned arguments, and through a pause."""

import math
from functools import partial

import pytest
import torch
from schedule_cases import CASES
from schedule_modules import EPOCHS, Regression, course, fitted

from tuner import formulas
from tuner.config import load
from tuner.training.build import build, instantiate
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


def node(name, **arguments):
    return {"_target_": f"tuner.schedules.{name}", "_partial_": True, **(arguments or CASES[name].example)}


def attached(schedule_node, metric="val/loss"):
    """The module of a study whose optimizer and schedule stand beside it."""
    module = {"_target_": "schedule_modules.Bare"}
    return build(Task(0, {"module": module, "optimizer": SGD, "schedule": schedule_node}, metric, 0, "/nowhere")).module


@pytest.mark.parametrize("name", CASES)
def test_each_schedule_is_a_node_of_a_study(name):
    torch.manual_seed(1)
    inside = fitted(Regression(instantiate(node(name))))
    torch.manual_seed(1)
    assert fitted(attached(node(name))) == inside


def test_a_node_may_stand_in_a_warm_up_and_in_lightnings_dictionary():
    rates = fitted(attached(node("warmup", epochs=1, after=node("hold_then_decay", hold=1))))
    warm = [0.1 * (i + 1) / 6 for i in range(5)]
    assert rates == pytest.approx([*warm, *[0.1] * 5, *[0.1 / math.e] * 5, *[0.1 / math.e**2] * 5])
    stepped = fitted(attached({"scheduler": node("linear", total=40), "interval": "step"}))
    assert stepped == course(partial(formulas.linear_factor, total=40), "step")


@pytest.mark.parametrize("warm", [False, True])
def test_a_plateau_follows_the_studys_objective_unless_it_names_another(warm):
    def made(**arguments):
        inner = node("plateau", mode="maximize", **arguments)
        config = attached(node("warmup", steps=2, after=inner) if warm else inner, "val/acc").configure_optimizers()
        return config[1][1] if warm else config["lr_scheduler"]

    assert made()["monitor"] == "val/acc"
    assert made(monitor="val/loss")["monitor"] == "val/loss"
    assert made()["scheduler"].mode == "max"


STUDY = f"""
# @package _global_
name: scheduled
module: {{_target_: schedule_modules.Regression, schedule: null}}
data: {{_target_: schedule_modules.loaders}}
objective: {{metric: val/loss, direction: minimize}}
space:
  schedule:
    kind: categorical
    path: module.schedule
    choices:
      constant: null
      plateau:
        _target_: tuner.schedules.plateau
        _partial_: true
        mode: ${{objective.direction}}
        monitor: ${{objective.metric}}
      warm:
        _target_: tuner.schedules.warmup
        _partial_: true
        steps: 3
        after: {{_target_: tuner.schedules.cosine, _partial_: true}}
  warm_steps: {{kind: int, low: 2, high: 6, path: module.schedule.steps, when: {{schedule: warm}}}}
trainer: {{max_epochs: {EPOCHS}}}
"""


def test_schedules_are_labelled_choices_of_a_study_with_arguments_that_are_tuned(tmp_path):
    """The plateau takes direction and metric from the objective, the cosine its length from the Trainer."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "scheduled.yaml").write_text(STUDY.lstrip())
    study = load(["study=scheduled"], config_dir=str(tmp_path)).study

    def module(**values):
        return instantiate(study.nodes.plain(values, study.space)["module"])

    entry = module(schedule="plateau").configure_optimizers()["lr_scheduler"]
    assert (entry["monitor"], entry["scheduler"].mode) == ("val/loss", "min")
    rates = fitted(module(schedule="warm", warm_steps=5))
    warm = [0.1 * (i + 1) / 6 for i in range(5)]
    assert rates == pytest.approx([*warm, *[0.1 * formulas.cosine_factor(i // 5, 3) for i in range(15)]])


@pytest.mark.parametrize("name", CASES)
def test_a_pause_of_a_trial_leaves_no_trace_in_the_rates(name, tmp_path):
    """Written and read by tuner's own checkpoints, weights_only; behind a warm-up, so that both parts are in them."""
    inner = node(name, total=14) if name == "one_cycle" else node(name)
    nodes = {
        "module": {"_target_": "schedule_modules.Regression", "schedule": node("warmup", steps=6, after=inner)},
        "data": {"_target_": "schedule_modules.loaders"},
        "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu"},
    }

    def run(folder, rungs):
        folder.mkdir()
        config = {**nodes, "module": {**nodes["module"], "file": str(folder / "rates")}}
        checkpoint = None
        for _ in range(len(rungs) + 1):
            task = Task(0, config, "val/loss", 3, str(folder), rungs, checkpoint)
            result = train(task, lambda measurement: Answer.PAUSE if measurement.rung else Answer.GO_ON)
            checkpoint = result.checkpoint
        assert result.outcome is Outcome.COMPLETE, result
        return result.value, torch.load(folder / "rates", weights_only=True)

    value, rates = run(tmp_path / "whole", ())
    same_value, last_rates = run(tmp_path / "parts", (1, 2))
    assert same_value == value
    assert last_rates == rates, "what the module gathers in a list goes on with it"
