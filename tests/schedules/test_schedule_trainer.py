"""Lightning steps each schedule when it should, with what the Trainer knows and the schedule was not told."""

from functools import partial

import pytest
import torch
from schedule_cases import CASES, FORMULAS, schedule
from schedule_modules import BATCHES, EPOCHS, Regression, course, fitted, points
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from tuner import formulas, schedules
from tuner.errors import ConfigError


@pytest.mark.parametrize("name", FORMULAS)
def test_lightning_steps_each_schedule_as_its_formula_counts(name):
    case = CASES[name]
    assert fitted(Regression(schedule(name))) == course(partial(case.factor, **case.example), case.interval)


@pytest.mark.parametrize("name", ["linear", "cosine", "exponential", "inverse_time", "step"])
def test_a_schedule_may_count_minibatches_instead(name):
    case = CASES[name]
    arguments = {**case.example, **({"total": 20} if "total" in case.example else {})}
    rates = fitted(Regression(schedule(name, **arguments, interval="step")))
    assert rates == course(partial(case.factor, **arguments), "step")


@pytest.mark.parametrize(
    ("made", "factor", "interval"),
    [
        (partial(schedules.linear), partial(formulas.linear_factor, total=EPOCHS), "epoch"),
        (partial(schedules.cosine), partial(formulas.cosine_factor, total=EPOCHS), "epoch"),
        (partial(schedules.cosine, interval="step"), partial(formulas.cosine_factor, total=20), "step"),
        (
            {"scheduler": schedules.linear, "interval": "step"},
            partial(formulas.linear_factor, total=20),
            "step",
        ),
        (schedules.one_cycle, partial(formulas.one_cycle_factor, total=20), "step"),
        (
            partial(lr_scheduler.OneCycleLR, max_lr=0.1),
            partial(formulas.one_cycle_factor, total=20),
            "step",
        ),
        (
            partial(lr_scheduler.OneCycleLR, max_lr=0.1, epochs=5),
            partial(formulas.one_cycle_factor, total=25),
            "step",
        ),
        (
            {"scheduler": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=30), "interval": "step"},
            partial(formulas.one_cycle_factor, total=30),
            "step",
        ),
        (lr_scheduler.CosineAnnealingLR, partial(formulas.cosine_factor, total=EPOCHS), "epoch"),
        (partial(lr_scheduler.CosineAnnealingLR, T_max=7), partial(formulas.cosine_factor, total=7), "epoch"),
        (
            {"scheduler": partial(lr_scheduler.ExponentialLR, gamma=0.9), "interval": "step"},
            partial(formulas.exponential_factor, gamma=0.9),
            "step",
        ),
        (
            lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
            partial(formulas.step_factor, every=2, factor=0.1),
            "epoch",
        ),
        (None, lambda i: 1.0, "epoch"),
    ],
)
def test_what_a_schedule_does_not_say_comes_from_the_trainer(made, factor, interval):
    assert fitted(Regression(made)) == course(factor, interval)


def test_the_length_counts_accumulated_minibatches_and_max_steps():
    per_batch = fitted(Regression(partial(schedules.linear, interval="step")), accumulate_grad_batches=2)
    assert per_batch == pytest.approx([0.1 * (1 - (i // BATCHES * 3 + i % BATCHES // 2) / 12) for i in range(20)])
    warm = fitted(Regression(schedule("warmup", epochs=1)), accumulate_grad_batches=2)  # three steps in an epoch
    assert warm == pytest.approx([*[0.025] * 2, *[0.05] * 2, 0.075, *[0.1] * 15])
    stopped = fitted(Regression(schedules.linear), max_epochs=-1, max_steps=8)
    assert stopped == course(lambda i: 1 - i / 2, "epoch", 8)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(points())


def test_a_training_without_an_end_needs_a_total():
    with pytest.raises(ConfigError, match=r"schedule\.total.*length of the training"):
        fitted(Regression(schedules.one_cycle), DataLoader(Stream(), 4))
    rates = fitted(Regression(partial(schedules.one_cycle, total=20)), DataLoader(Stream(), 4))
    assert rates == course(partial(formulas.one_cycle_factor, total=20), "step")


@pytest.mark.parametrize(
    ("made", "steps", "factor"),
    [
        (schedule("warmup", epochs=1, after=schedules.cosine), 5, lambda i: formulas.cosine_factor(i // 5, 3)),
        (schedule("warmup", steps=7, after=schedules.linear), 7, lambda i: formulas.linear_factor(i // 5, 3)),
        (
            schedule("warmup", epochs=0.4, after=partial(schedules.linear, interval="step")),
            2,
            lambda i: formulas.linear_factor(i, 18),
        ),
        (schedule("warmup", steps=3, after=partial(lr_scheduler.StepLR, step_size=2)), 3, lambda i: 0.1 ** (i // 10)),
        (schedule("warmup", steps=100, after=schedules.cosine), 100, None),  # longer than the training
    ],
)
def test_behind_a_warm_up_a_schedule_has_what_is_left_of_the_training(made, steps, factor):
    def expected(i):
        return (i + 1) / (steps + 1) if i <= steps else factor(i - steps)

    assert fitted(Regression(made)) == course(expected, "step")


def test_one_cycle_behind_a_warm_up_ends_with_the_training():
    rates = fitted(Regression(schedule("warmup", steps=4, after=schedules.one_cycle)))
    assert rates[4:] == pytest.approx([0.1 * formulas.one_cycle_factor(i, 16) for i in range(16)])


def test_the_gradients_norm_moves_the_rate_in_lightning():
    rates = fitted(Regression(schedules.gradient_norm))
    assert rates[:2] == [0.1, 0.1]
    assert len(set(rates)) > 10
    assert all(0.01 <= rate <= 0.2 for rate in rates)


@pytest.mark.parametrize("warm", [False, True])
def test_a_plateau_is_stepped_with_the_objective(warm):
    """With a threshold that nothing passes the rate falls after each validation but the first that counts."""
    made = schedule("plateau", mode="min", monitor="val/loss", patience=0, factor=0.5, threshold=0.999999)
    if not warm:
        rates = fitted(Regression(made))
        assert rates[::BATCHES] == pytest.approx([0.1, 0.1, 0.05, 0.025])
        return
    rates = fitted(Regression(schedule("warmup", epochs=1, after=made)))
    assert rates[:BATCHES] == pytest.approx([0.1 * (i + 1) / 6 for i in range(BATCHES)])
    assert rates[BATCHES::BATCHES] == pytest.approx([0.1, 0.05, 0.025])  # the first one ends the warm-up's epoch


def test_the_monitor_may_stand_in_lightnings_dictionary():
    inner = schedule("plateau", mode="min")
    for made in (inner, schedule("warmup", steps=2, after=inner)):
        config = Regression({"scheduler": made, "monitor": "val/loss", "strict": False}).configure_optimizers()
        entry = config[1][1] if isinstance(config, tuple) else config["lr_scheduler"]
        assert (entry["monitor"], entry["strict"]) == ("val/loss", False)
        assert isinstance(entry["scheduler"], lr_scheduler.ReduceLROnPlateau)
