"""Every schedule follows its formula through a real optimizer, survives a pause, and is stepped when it should be."""

import io
import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from tuner import formulas, schedules
from tuner.config import load
from tuner.errors import ConfigError
from tuner.schedules import configure
from tuner.training.build import build, instantiate
from tuner.training.process import without_noise
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task

RATES = (0.5, 0.02)  # of two groups
BATCHES, EPOCHS = 5, 4

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


def test_every_schedule_of_the_module_has_a_case():
    table = schedules.__doc__.split("| --- | --- | --- | --- |\n")[1].split("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()] == list(CASES)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_each_group_follows_the_formula_at_every_step(name, data):
    case = CASES[name]
    arguments = {key: data.draw(values, key) for key, values in case.arguments.items()}
    count = min(arguments.get("total", 25), 25)
    seen = followed(partial(getattr(schedules, name), **arguments), count)
    for i, rates in enumerate(seen[:count]):
        expected = case.factor(i, **arguments)
        assert rates == pytest.approx([rate * expected for rate in RATES], rel=1e-7, abs=1e-12)
        assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    if case.falls:
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(rates[0] for rates in seen))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (schedule("linear", total=4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (schedule("inverse_time", decay=1), [1, 1 / 2, 1 / 3, 1 / 4]),
        (partial(schedules.exponential), [1, 0.99, 0.99**2]),
        (partial(schedules.inverse_sqrt_epoch), [1, 2**-0.5, 3**-0.5, 0.5]),
        (schedule("hold_then_decay", hold=2), [1, 1, math.exp(-1), math.exp(-2)]),
        (schedule("hold_then_decay", hold=0), [math.exp(-1), math.exp(-2)]),
        (schedule("step", every=2), [1, 1, 0.1, 0.1, 0.01]),
        (schedule("cosine", total=2), [1, 0.5, 0]),
        (schedule("one_cycle", total=10, pct_start=0.5), [0.04, *[None] * 3, 1, *[None] * 4, 4e-6]),
        (schedule("one_cycle", total=10, pct_start=0.1), [1, *[None] * 8, 4e-6]),
        (schedule("warmup", steps=3), [0.25, 0.5, 0.75, 1, 1]),
    ],
)
def test_rates_worked_out_by_hand(made, expected):
    seen = followed(made, len(expected) - 1)
    for rates, factor in zip(seen, expected, strict=True):
        if factor is not None:
            assert rates == pytest.approx([factor * rate for rate in RATES], abs=1e-12)


def test_the_cosines_floor_is_the_rate_at_its_end():
    assert followed(schedule("cosine", total=5, eta_min=0.01), 5)[-1] == pytest.approx([0.01, 0.01])


@given(total=st.integers(2, 60), pct=st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_one_cycle_rises_once_and_falls_once(total, pct):
    rates = [pair[0] for pair in followed(schedule("one_cycle", total=total, pct_start=pct), total)][:total]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) <= RATES[0] * (1 + 1e-9)


@pytest.mark.parametrize(("cycles", "moved"), [(False, False), (True, True)])
def test_one_cycle_leaves_the_momentum_alone_unless_asked_to_cycle_it(cycles, moved):
    optimizer = optimizer_of(kind=torch.optim.Adam)
    followed(schedule("one_cycle", total=8, cycle_momentum=cycles), 3, optimizer)
    assert (optimizer.param_groups[0]["betas"] != (0.9, 0.999)) is moved


@pytest.mark.parametrize("name", CASES)
def test_rates_that_are_tensors_follow_the_same_course(name):
    tensors = torch.optim.Adam(
        [nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5, dtype=torch.float64), capturable=True
    )
    numbers = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=0.5)
    for group in tensors.param_groups:
        group["capturable"] = False  # on a CPU; the rate stays a tensor
        group["foreach"] = False
    kept = tensors.param_groups[0]["lr"]
    expected = followed(schedule(name), 9, numbers)
    assert followed(schedule(name), 9, tensors) == [pytest.approx(rates) for rates in expected]
    assert tensors.param_groups[0]["lr"] is kept


def resumed(made, cut, count):
    """As `followed`, with all state written and read back, by new objects, after `cut` steps."""
    optimizer = optimizer_of(momentum=0.9)
    scheduler = made(optimizer)
    seen = [rates_of(optimizer)]
    for i in range(count):
        if i == cut:
            file = io.BytesIO()
            torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
            optimizer = optimizer_of(momentum=0.9)
            scheduler = made(optimizer)
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
        advance(optimizer, scheduler, i)
        seen.append(rates_of(optimizer))
    return seen


@pytest.mark.parametrize("cut", [0, 3, 4, 7])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_state_that_was_saved_in_the_middle_goes_on_to_the_last_digit(name, warm, cut):
    made = schedule("warmup", steps=4, after=schedule(name), steps_per_epoch=2) if warm else schedule(name)
    whole = followed(made, 12, optimizer_of(momentum=0.9))
    assert resumed(made, cut, 12) == whole
    assert len({rates[0] for rates in whole}) > 1 or name == "constant"


def test_state_carries_the_arguments_as_torchs_own_does():
    optimizer = optimizer_of()
    state = schedules.inverse_time(optimizer, decay=2.0).state_dict()
    scheduler = schedules.inverse_time(optimizer, decay=0.0)
    scheduler.load_state_dict(state)
    advance(optimizer, scheduler, 0)
    assert rates_of(optimizer) == pytest.approx([rate / 3 for rate in RATES])


# Warm-up


@pytest.mark.parametrize("name", CASES)
@given(steps=st.integers(0, 12), every=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_a_warm_up_leads_into_any_schedule(name, steps, every):
    """Even steps up to the first rate of the schedule, then that one, counted in its own epochs or minibatches."""
    if name in {"plateau", "gradient_norm"}:
        every = 1  # what they see depends on the step here
    made = schedule("warmup", steps=steps, after=schedule(name), steps_per_epoch=every)
    seen = followed(made, steps + 12)
    first = seen[steps]
    for i in range(steps + 1):
        assert seen[i] == pytest.approx([rate * (i + 1) / (steps + 1) for rate in first])
    if name in {"plateau", "gradient_norm"}:
        assert first == list(RATES)
        return
    every = every if CASES[name].interval == "epoch" else 1
    alone = followed(schedule(name), 12)
    assert seen[steps:] == [alone[i // every] for i in range(13)]


def test_a_warm_up_may_be_given_in_epochs_and_in_parts_of_one():
    seen = followed(schedule("warmup", epochs=1.5, steps_per_epoch=4), 8)
    assert seen == followed(schedule("warmup", steps=6), 8)


def test_a_plateau_pays_no_heed_to_values_until_its_warm_up_is_over():
    optimizer = optimizer_of()
    scheduler = schedules.warmup(optimizer, steps=5, after=schedule("plateau", mode="max", patience=0, factor=0.5))
    seen = []
    for _ in range(8):
        optimizer.step()
        scheduler.step()
        scheduler.after.step(1.0)  # never better than the first one that counts
        seen.append(rates_of(optimizer)[0] / RATES[0])
    assert seen == pytest.approx([2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 0.5, 0.25, 0.125])


# The gradient


def driven(gradients, **options):
    """The factor of both groups' rates after each of these gradients; None is no gradient at all."""
    optimizer = optimizer_of()
    scheduler = schedules.gradient_norm(optimizer, **options)
    parameter = optimizer.param_groups[0]["params"][0]
    factors = []
    for gradient in gradients:
        parameter.grad = None if gradient is None else torch.tensor([gradient, 0.0])
        optimizer.step()
        scheduler.step()
        first, second = (rate / base for rate, base in zip(rates_of(optimizer), RATES, strict=True))
        assert first == pytest.approx(second)
        factors.append(first)
    return factors


ANY_GRADIENT = st.none() | st.floats(width=32) | st.sampled_from([0.0, math.inf, -math.inf, math.nan, 3e38, 1e-45])


@given(gradients=st.lists(ANY_GRADIENT, max_size=30), low=SHARE, high=st.floats(1, 10), smoothing=st.floats(0, 0.99))
@settings(max_examples=150, deadline=None)
def test_the_rate_stays_within_its_limits_whatever_the_gradient(gradients, low, high, smoothing):
    for factor in driven(gradients, low=low, high=high, smoothing=smoothing):
        assert low * (1 - 1e-9) <= factor <= high * (1 + 1e-9)


@given(scale=st.floats(1e-6, 1e6), ratio=st.floats(0.11, 1.9))
@settings(deadline=None)
def test_between_its_limits_the_rate_is_proportional_to_the_gradient(scale, ratio):
    """To its norm over that of the gradients before, so that the loss's own scale does not matter."""
    *_, last = driven([scale] * 5 + [-scale * ratio])
    assert last == pytest.approx(ratio, rel=1e-5)


def test_the_reference_follows_the_gradient():
    assert driven([1.0, 2.0, 2.0, 2.0], smoothing=0.5) == pytest.approx([1, 2, 2 / 1.5, 2 / 1.75])


@pytest.mark.parametrize("unusable", [None, math.inf, math.nan])
def test_a_gradient_that_cannot_be_used_changes_nothing(unusable):
    factors = driven([1.0, 1.5, unusable, unusable, 1.0], smoothing=0.5)
    assert factors[1] == factors[2] == factors[3] == 1.5
    assert factors[4] == pytest.approx(1 / 1.25)


def test_zero_gradients_neither_stop_the_rate_for_good_nor_break_it():
    assert driven([0.0, 0.0, 1.0, 1.0]) == [1, 1, 1, 1]
    factors = driven([1.0, *[0.0] * 3000, 1.0, 1.0], low=0.25, high=2.0, smoothing=0.5)
    assert set(factors[1:3001]) <= {0.25, 1.0}
    assert all(0.25 <= factor <= 2 for factor in factors[3001:])


def test_the_norm_is_that_of_all_groups_and_of_sparse_gradients():
    table = nn.Embedding(4, 2, sparse=True)
    other = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": table.weight}, {"params": other}], lr=1.0)
    scheduler = schedules.gradient_norm(optimizer, high=10.0)
    for scale in (1.0, 3.0):
        optimizer.zero_grad()
        (scale * (table(torch.tensor([1, 1])).sum() + 3 * other.sum())).backward()
        optimizer.step()
        scheduler.step()
    assert scheduler.reference == pytest.approx(math.sqrt(26) * (0.99 + 0.03), rel=1e-6)
    assert rates_of(optimizer) == pytest.approx([3.0, 3.0])


# In Lightning


def points():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4 * BATCHES, 3, generator=generator)
    return TensorDataset(x, x.sum(dim=1, keepdim=True))


def loaders():
    return DataLoader(points(), 4), DataLoader(points(), 8)


class Bare(pl.LightningModule):
    """Linear regression that writes down its rate in each step; no configure_optimizers."""

    def __init__(self, rates=None):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.rates = [] if rates is None else rates

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return nn.functional.mse_loss(self.linear(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", nn.functional.mse_loss(self.linear(x), y))


class Regression(Bare):
    """With configure_optimizers of its own, as a user writes it."""

    def __init__(self, schedule=None, file=None):
        super().__init__()
        self.schedule, self.file = schedule, file

    def configure_optimizers(self):
        return configure(self, torch.optim.SGD(self.parameters(), lr=0.1), self.schedule)

    def on_train_end(self):
        if self.file:
            torch.save(self.rates, self.file)


def fitted(module, train_loader=None, **options):
    options = {"max_epochs": EPOCHS, **options}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with without_noise():
        trainer = pl.Trainer(accelerator="cpu", num_sanity_val_steps=0, **quiet, **options)
        trainer.fit(module, loaders()[0] if train_loader is None else train_loader, loaders()[1])
    return module.rates


def course(factor, interval, steps=BATCHES * EPOCHS):
    return pytest.approx([0.1 * factor(i if interval == "step" else i // BATCHES) for i in range(steps)])


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


SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


def node(name, **arguments):
    return {"_target_": f"tuner.schedules.{name}", "_partial_": True, **(arguments or CASES[name].example)}


def attached(schedule_node, metric="val/loss"):
    """The module of a study whose optimizer and schedule stand beside it."""
    module = {"_target_": f"{__name__}.Bare"}
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


def test_the_monitor_may_stand_in_lightnings_dictionary():
    inner = schedule("plateau", mode="min")
    for made in (inner, schedule("warmup", steps=2, after=inner)):
        config = Regression({"scheduler": made, "monitor": "val/loss", "strict": False}).configure_optimizers()
        entry = config[1][1] if isinstance(config, tuple) else config["lr_scheduler"]
        assert (entry["monitor"], entry["strict"]) == ("val/loss", False)
        assert isinstance(entry["scheduler"], lr_scheduler.ReduceLROnPlateau)


STUDY = f"""
# @package _global_
name: scheduled
module: {{_target_: {__name__}.Regression, schedule: null}}
data: {{_target_: {__name__}.loaders}}
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
        "module": {"_target_": f"{__name__}.Regression", "schedule": node("warmup", steps=6, after=inner)},
        "data": {"_target_": f"{__name__}.loaders"},
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
    assert last_rates == rates[2 * BATCHES :]


# Mistakes


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
