"""The range test's run: which learning rate each step has, what it records, when it ends, and what it leaves alone."""

import math
import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import training_modules as modules
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from tuner.errors import TunerError
from tuner.training.jobs import run
from tuner.training.lr_range import _Explosion, lr_range, ratios_of
from tuner.training.task import Kind, Outcome, Task


def target(name, module=__name__, **arguments):
    return {"_target_": f"{module}.{name}", **arguments}


def task(folder, module, data="in_order", *, low=1e-5, high=1.0, steps=30, seed=3, **trainer):
    nodes = {"module": module, "data": target(data), "trainer": {"max_epochs": 2, "accelerator": "cpu", **trainer}}
    options = {"low": low, "high": high, "steps": steps}
    return Task(0, nodes, "val/loss", seed, str(folder), kind=Kind.LR_RANGE, options=options)


def sweep(*arguments, interrupted=lambda: False, **keywords):
    return run(task(*arguments, **keywords), lambda _: pytest.fail("nothing is measured"), interrupted)


# -- studies ----------------------------------------------------------------------------------------------------------


def in_order():
    """7 batches a pass, so that 30 steps go round more than four times."""
    return DataLoader(TensorDataset(*modules.points(56)), 8), DataLoader(TensorDataset(*modules.points(8)), 8)


def empty():
    return DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, 1)), 8), in_order()[1]


def no_training_data():
    return None, DataLoader(TensorDataset(*modules.points(8)), 8)


class Linear(pl.LightningModule):
    """Linear regression that must not be validated, and whose optimizer's steps are written down in `seen`."""

    seen: list[list[float]] = []  # noqa: RUF012 - of the class, as the test makes no instance itself

    def __init__(self, mode="", momentum=0.9):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
        self.mode, self.momentum = mode, momentum

    def training_step(self, batch, batch_idx):
        if self.mode == "crash" and self.global_step == 4:
            raise ValueError("what a pity")
        if self.mode == "log":
            self.logger.experiment.add_scalar("x", 1.0)
        if self.mode == "skip" and self.global_step % 2:
            return None
        inputs, targets = batch
        return torch.nn.functional.mse_loss(self.net(inputs), targets)

    def validation_step(self, batch, batch_idx):
        pytest.fail("validated")

    def configure_callbacks(self):
        return [Forbidden()]

    def configure_optimizers(self):
        net = self.net
        if self.mode == "groups":
            groups = [{"params": [net.weight], "lr": 0.02}, {"params": [net.bias]}]
            return torch.optim.SGD(groups, lr=0.2)
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=self.momentum)
        if self.mode == "one cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.2, total_steps=self.trainer.estimated_stepping_batches, cycle_momentum=False
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        if self.mode == "exponential":
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]
        return optimizer

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if self.mode == "warm-up by hand":  # as Lightning's own documentation shows it
            for group in optimizer.param_groups:
                group["lr"] = 0.001 * (self.trainer.global_step + 1)
        optimizer.step(closure=optimizer_closure)
        if self.mode != "skip":
            self.seen.append([float(group["lr"]) for group in optimizer.param_groups])


class NoOptimizer(modules.Plain):
    def configure_optimizers(self):
        return None


class Two(modules.Plain):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.net.parameters(), lr=0.1), torch.optim.SGD(self.head.parameters(), lr=0.1)]


class Forbidden(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        pytest.fail("a user's callback ran")


@pytest.fixture(autouse=True)
def seen():
    Linear.seen.clear()
    return Linear.seen


# -- the steps --------------------------------------------------------------------------------------------------------


def plain_losses(lrs, seed=3, batches=1):
    """The same test as a bare loop."""
    torch.manual_seed(seed)
    net = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    data = [batch for _ in range(10 * batches) for batch in in_order()[0]]
    losses = []
    for step, lr in enumerate(lrs):
        optimizer.zero_grad()
        parts = [torch.nn.functional.mse_loss(net(x), y) for x, y in data[step * batches : (step + 1) * batches]]
        loss = sum(parts) / len(parts)
        loss.backward()
        losses.append(loss.item())
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    return losses


@pytest.mark.parametrize("mode", ["", "one cycle", "exponential", "warm-up by hand"])
def test_each_step_has_its_learning_rate_whatever_the_schedule_and_losses_are_those_of_a_bare_loop(
    mode, tmp_path, seen
):
    result = sweep(tmp_path, target("Linear", mode=mode))
    assert result.outcome is Outcome.COMPLETE, result.traceback
    assert (result.step, result.findings["exploded"]) == (30, False)
    lrs = result.findings["lrs"]
    np.testing.assert_allclose(lrs, np.geomspace(1e-5, 1.0, 30), rtol=1e-12)
    np.testing.assert_allclose([used for (used,) in seen], lrs)
    np.testing.assert_allclose(result.findings["losses"], plain_losses(lrs), rtol=1e-4)


def test_accumulated_batches_are_one_step_with_the_mean_of_their_losses(tmp_path):
    found = sweep(tmp_path, target("Linear"), steps=20, accumulate_grad_batches=7).findings
    assert len(found["losses"]) == 20
    np.testing.assert_allclose(found["losses"], plain_losses(found["lrs"], batches=7), rtol=1e-4)


def test_each_parameter_group_keeps_its_ratio_to_the_optimizers_own_learning_rate(tmp_path, seen):
    found = sweep(tmp_path, target("Linear", mode="groups"), high=0.1).findings
    assert found["ratios"] == pytest.approx([0.1, 1.0])
    np.testing.assert_allclose(seen, np.outer(found["lrs"], [0.1, 1.0]))


def parameter():
    return torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("lrs", "own", "ratios"),
    [
        ([0.2, 0.2], 0.2, [1, 1]),
        ([0.2, 2.0], 0.2, [1, 10]),  # a head that learns faster than the optimizer's own learning rate
        ([0.1, 0.5], 1e-3, [0.2, 1]),  # each has its own, so that the optimizer's is a default that nobody has
        ([0.0, 0.3], 0.3, [0, 1]),  # a group that is held
        ([0.0], 0.0, [1]),
    ],
)
def test_ratios(lrs, own, ratios):
    optimizer = torch.optim.SGD([{"params": [parameter()], "lr": lr} for lr in lrs], lr=own)
    assert ratios_of(optimizer) == pytest.approx(ratios)


def test_ratios_are_those_before_a_warm_up_lowers_them():
    optimizer = torch.optim.SGD([{"params": [parameter()], "lr": 0.1}, {"params": [parameter()]}], lr=1.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 0.5, lambda _: 0.0])
    assert ratios_of(optimizer) == pytest.approx([0.1, 1.0])


def test_a_learning_rate_that_is_a_tensor_stays_the_same_tensor(tmp_path):
    module = target("Plain", modules.__name__)
    nodes = task(tmp_path, module, steps=5)
    adam = {"_target_": f"{__name__}.with_tensor", "_partial_": True}
    result = lr_range(Task(0, {**nodes.config, "optimizer": adam}, "", 0, str(tmp_path), options=nodes.options), None)
    assert result.outcome is Outcome.COMPLETE, result.traceback
    assert with_tensor.lr.item() == pytest.approx(1.0)


def with_tensor(parameters):
    with_tensor.lr = torch.tensor(0.01)
    return torch.optim.Adam(parameters, lr=with_tensor.lr)


def test_a_batch_that_training_step_skips_has_no_loss(tmp_path):
    found = sweep(tmp_path, target("Linear", mode="skip"), steps=20).findings
    assert len(found["lrs"]) == len(found["losses"]) < 20
    assert all(map(math.isfinite, found["losses"]))


# -- the end ----------------------------------------------------------------------------------------------------------


def test_the_test_ends_when_the_loss_has_exploded(tmp_path):
    result = sweep(tmp_path, target("Linear"), high=1e6, steps=200)
    losses = result.findings["losses"]
    assert result.findings["exploded"]
    assert len(losses) < 200
    assert losses[-1] > 4 * min(losses)
    assert result.findings["lrs"][-1] < 100  # a quadratic bowl is unstable above 2 / its curvature


def test_a_loss_that_is_not_finite_ends_it_at_once(tmp_path):
    result = sweep(tmp_path, target("Linear"), low=1e30, high=1e38, steps=50)
    *before, last = result.findings["losses"]
    assert result.findings["exploded"]
    assert not math.isfinite(last)
    assert all(map(math.isfinite, before))


@settings(max_examples=50, deadline=None)
@given(
    level=st.floats(-5, 5),
    sigma=st.floats(0.01, 3),
    seed=st.integers(0, 10_000),
)
def test_noise_around_any_level_is_no_explosion_and_a_growing_loss_is_one(level, sigma, seed):
    """A false alarm would need a mean of about 19 losses that is three times their spread away."""
    losses = level + sigma * np.random.default_rng(seed).uniform(-1, 1, 300)
    watch = _Explosion()
    assert not any(watch.add(loss) for loss in losses)
    assert any(watch.add(level + sigma * 1.5**step) for step in range(60))


def test_an_interruption_ends_it_with_the_steps_so_far(tmp_path):
    calls = iter(range(100))
    result = sweep(tmp_path, target("Linear"), interrupted=lambda: next(calls) >= 5)
    assert result.outcome is Outcome.STOPPED
    assert len(result.findings["losses"]) == 6


def test_a_controller_that_is_gone_is_not_taken_for_a_fault_of_the_module(tmp_path):
    def interrupted():
        raise EOFError("the pipe is closed")

    with pytest.raises(EOFError, match="the pipe is closed"):
        sweep(tmp_path, target("Linear"), interrupted=interrupted)


def test_a_module_that_raises_is_a_crash_with_the_steps_so_far(tmp_path):
    result = sweep(tmp_path, target("Linear", mode="crash"))
    assert (result.outcome, result.reason) == (Outcome.CRASHED, "ValueError: what a pity")
    assert "training_step" in result.traceback
    assert len(result.findings["losses"]) == 4


# -- what it cannot test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "data", "trainer", "told"),
    [
        (target("Manual", modules.__name__), "in_order", {}, "Manual optimizes by hand"),
        (target("NoOptimizer"), "in_order", {}, "no learning rate"),
        (target("Linear"), "empty", {}, "no batch"),
        (target("Linear"), "in_order", {"limit_train_batches": 0}, "no batch"),
        (target("Linear"), "no_training_data", {}, "Linear has no train_dataloader"),
        (target("Linear"), "in_order", {"precision": "half"}, "Trainer refuses"),
    ],
)
@pytest.mark.filterwarnings("ignore:Total length of", "ignore:`LightningModule.configure_optimizers` returned `None`")
def test_what_cannot_be_tested_is_said(module, data, trainer, told, tmp_path):
    with pytest.raises(TunerError, match=told):
        sweep(tmp_path, module, data, **trainer)


def test_several_optimizers_that_lightning_is_to_step_are_lightnings_own_error(tmp_path):
    result = sweep(tmp_path, target("Two"))
    assert result.outcome is Outcome.CRASHED
    assert "multiple optimizers is only supported with manual optimization" in result.reason


# -- what it leaves alone ---------------------------------------------------------------------------------------------


def test_no_callback_logger_checkpoint_or_limit_of_the_training_takes_part(tmp_path):
    """`Forbidden` is the module's own callback as well; `max_epochs` would allow 14 steps."""
    result = sweep(
        tmp_path,
        target("Linear", mode="log"),
        callbacks=[target("Forbidden")],
        logger=[{"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(tmp_path)}],
        enable_checkpointing=True,
        max_steps=3,
        max_time="00:00:00:00",
        val_check_interval=0.5,
    )
    assert result.outcome is Outcome.COMPLETE, result.traceback
    assert len(result.findings["losses"]) == 30
    assert list(tmp_path.iterdir()) == []


def test_random_state_and_settings_of_the_process_are_as_before(tmp_path):
    def state():
        own = np.random.get_state(legacy=False)  # noqa: NPY002
        return random.getstate(), own["state"]["key"].tolist(), own["state"]["pos"], torch.get_rng_state().tolist()

    torch.manual_seed(11)
    before = state()
    sweep(tmp_path, target("Linear"), deterministic=True)
    assert state() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_same_seed_gives_the_same_curve_and_another_another(tmp_path):
    curves = [sweep(tmp_path, target("Linear"), seed=seed).findings["losses"] for seed in (3, 3, 4)]
    assert curves[0] == curves[1] != curves[2]
