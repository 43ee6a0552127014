"""A training that is cut anywhere, and goes on from its last checkpoint, must equal the one that was never cut."""

import errno
import logging
import multiprocessing
import os
import random
import resource
import signal
import warnings
from collections import deque
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
import training_modules as modules
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler, TensorDataset

from tuner.errors import TunerError
from tuner.training import files, ranks
from tuner.training.batches import Batches, Images
from tuner.training.divergence import LossWatch
from tuner.training.pause import Pause
from tuner.training.process import without_noise
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task

EPOCHS = 3
LIGHTNING = "lightning.pytorch.callbacks"


def target(name, **arguments):
    module = __name__ if name in globals() else modules.__name__
    return {"_target_": f"{module}.{name}", **arguments}


def config(module, data=None, callbacks=(), **trainer):
    settings = {"max_epochs": EPOCHS, "accelerator": "cpu", "checkpoint_every_s": 0.0, **trainer}
    return {"module": module, "data": data or target("loaders"), "trainer": {**settings, "callbacks": list(callbacks)}}


# -- modules and data ---------------------------------------------------------------------------------------------


class End(pl.Callback):
    """Writes all that a training has learned when it ends, and not when it is cut."""

    def __init__(self, file):
        self.file = file

    def on_train_end(self, trainer, pl_module):
        torch.save(
            {
                "weights": dict(pl_module.state_dict()),
                "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
                "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
                "metrics": dict(trainer.callback_metrics),
                "draws": [torch.rand(()).item(), random.random(), np.random.rand()],  # noqa: NPY002
            },
            self.file,
        )


class Dies(pl.Callback):
    """Raises before the batch that has this number among those of its process."""

    def __init__(self, at):
        self.left = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.left -= 1
        if self.left < 0:
            raise KeyError("killed")

    def state_dict(self):
        return {}


class DrawsEachEpoch(modules.Draws):
    def on_train_epoch_start(self, trainer, pl_module):
        torch.randn(2)


class Lists(modules.NoValidation):
    """Gathers what its steps gave, as Lightning's own guide has it, in every plain collection, and logs from that."""

    def __init__(self):
        super().__init__()
        self.outputs, self.sizes, self.last, self.seen = [], {}, deque(maxlen=3), set()
        self.total, self.array, self.count = torch.zeros(()), np.zeros(2), 0
        self.register_buffer("hidden", torch.zeros(()), persistent=False)

    def on_train_epoch_start(self):
        self.started = self.current_epoch

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        self.sizes[batch_idx] = loss.item()
        self.last.append(loss.item())
        self.seen.add(batch_idx)
        self.total, self.count = self.total + loss.detach(), self.count + 1
        self.array[0] += loss.item()
        self.hidden = self.hidden + loss.detach()
        return loss

    def on_train_epoch_end(self):
        sums = [sum(self.sizes.values()), sum(self.last), len(self.seen), self.count, self.array[0], self.started]
        value = torch.stack(self.outputs).mean() + self.total + sum(sums) + self.hidden
        self.log("score", value.float())
        self.outputs.clear()


class Boxes(Lists):
    """Gathers objects of a class of its own."""

    def __init__(self):
        super().__init__()
        self.boxes = []

    def training_step(self, batch, batch_idx):
        self.boxes.append(Box())
        return super().training_step(batch, batch_idx)


class Box:
    pass


class Metrics(modules.NoValidation):
    """Metrics of torchmetrics: one logged as an object, a collection that shares states, one with a list."""

    def __init__(self):
        super().__init__()
        self.mean = torchmetrics.MeanMetric()
        self.errors = torchmetrics.MetricCollection([torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()])
        self.all = torchmetrics.CatMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        found = self.head(self.net(batch[0])).detach()
        self.mean.update(loss.detach())
        self.errors.update(found, batch[1])
        self.all.update(loss.detach())
        self.log("mean", self.mean, on_epoch=True, on_step=False)
        self.log("highest", loss, on_epoch=True, on_step=True, reduce_fx=max)
        self.log("sum", loss, on_epoch=True, on_step=False, reduce_fx="sum")
        return loss

    def on_train_epoch_end(self):
        self.log_dict(self.errors.compute())
        self.log("score", self.all.compute().sum() + self.mean.compute())
        self.errors.reset()
        self.all.reset()


class Accumulates(modules.Manual):
    """Manual optimization that steps at every third batch, with the gradients of all three."""

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss)
        if batch_idx % 3 == 2:
            first.step(), second.step()
            first.zero_grad(), second.zero_grad()
            self.lr_schedulers().step()
        return loss


class Freezes(modules.Own):
    """Freezes a part, in every sense, when its second epoch begins."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[0].requires_grad_(False)
            self.net[1].eval()


class Several(modules.Own):
    """Its batches are dictionaries of batches."""

    def loss(self, batch):
        return (
            sum(modules.Own.loss(self, part) for part in batch.values())
            if isinstance(batch, dict)
            else super().loss(batch)
        )


class Pictures(modules.Own):
    """On small images."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))


def pictures():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(256, (72, 3, 6, 6), generator=generator, dtype=torch.uint8)
    split = inputs.contiguous(memory_format=torch.channels_last), torch.randn(72, 1, generator=generator)
    images = Images([127.0] * 3, [64.0] * 3, crop=2, flip=True, cutout=3)
    return Batches(split, 8, shuffle=True, images=images), Batches(split, 24, images=Images([127.0] * 3, [64.0] * 3))


class Endless(IterableDataset):
    """Has no length, and draws at every item from all generators."""

    def __iter__(self):
        for inputs, targets in zip(*modules.points(60), strict=True):
            if torch.rand(()) + random.random() + np.random.rand() > 0.5:  # noqa: NPY002
                yield inputs + 0.1 * torch.randn(4), targets


def iterable(workers=0):
    return DataLoader(Endless(), 8, num_workers=workers, drop_last=True), modules.loaders()[1]


class Restless(Sampler):
    """Draws from the global generators at every index."""

    def __iter__(self):
        place = 0
        for _ in range(64):
            place = (place + int(torch.randint(64, ())) + random.randrange(64)) % 64
            yield place

    def __len__(self):
        return 64


def restless(workers=0):
    return DataLoader(modules.Augmented(), 8, sampler=Restless(), num_workers=workers), modules.loaders()[1]


def by_epoch(workers=1):
    """Its order depends on the epoch's number, which Lightning tells the sampler."""
    data = modules.Augmented()
    sampler = DistributedSampler(data, num_replicas=1, rank=0, seed=3)
    return DataLoader(data, 8, sampler=sampler, num_workers=workers), modules.loaders()[1]


def several(mode="max_size_cycle"):
    parts = {
        "long": DataLoader(modules.Augmented(), 8, shuffle=True),
        "short": DataLoader(TensorDataset(*modules.points(24)), 8, shuffle=True),
    }
    return CombinedLoader(parts, mode), modules.loaders()[1]


class Stateful:
    """Says where it is, and goes on from there."""

    def __init__(self):
        self.at = 0

    def __len__(self):
        return 8

    def __iter__(self):
        inputs, targets = modules.points()
        self.at %= 8
        while self.at < 8:
            rows = slice(8 * self.at, 8 * self.at + 8)
            self.at += 1
            yield inputs[rows], targets[rows]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def stateful():
    return Stateful(), modules.loaders()[1]


class OtherEachTime(modules.Data):
    """Whose training data depends on when it was loaded."""

    def train_dataloader(self):
        inputs, targets = modules.points()
        return DataLoader(TensorDataset(inputs + torch.randn(4), targets), 8, shuffle=True)


# -- cutting ------------------------------------------------------------------------------------------------------


def with_callbacks(nodes, *callbacks):
    return {**nodes, "trainer": {**nodes["trainer"], "callbacks": [*nodes["trainer"]["callbacks"], *callbacks]}}


def never():
    return False


def part(nodes, folder, metric, checkpoint=None, *, seen=None, interrupted=never, saved=None, rungs=()):
    """One part of a training; `seen` gets each measurement as a tuple."""

    def report(found):
        if seen is not None:
            seen.append((found.step, found.epoch, found.value, found.rung))
        return Answer.GO_ON

    folder.mkdir(exist_ok=True)
    ends = with_callbacks(nodes, target("End", file=str(folder / "end")))
    return train(Task(0, ends, metric, 3, str(folder), rungs, checkpoint), report, interrupted, saved)


def disturb():
    """Whatever happens in a process between two trainings."""
    torch.manual_seed(999), random.seed(999), np.random.seed(999)  # noqa: NPY002


def paused_after(calls):
    left = iter([Answer.GO_ON] * (calls - 1))
    return lambda: next(left, Answer.PAUSE)


def cut_by_pauses(nodes, folder, metric, after, rungs=()):
    """Every part is asked to pause after so many answers; the last one is not."""
    seen, checkpoint = [], None
    for calls in after:
        result = part(nodes, folder, metric, checkpoint, seen=seen, interrupted=paused_after(calls), rungs=rungs)
        if result.outcome is Outcome.COMPLETE:
            return result, seen
        assert result.outcome is Outcome.PAUSED, result
        assert Path(result.checkpoint).parent == folder
        checkpoint = result.checkpoint
        disturb()
    return part(nodes, folder, metric, checkpoint, seen=seen, rungs=rungs), seen


def cut_by_deaths(nodes, folder, metric, after, rungs=()):
    """Every part dies after so many batches, and what it told of last is what the next one goes on from."""
    seen, saved, checkpoint = [], [], None
    for batches in after:
        dying = with_callbacks(nodes, target("Dies", at=batches))
        result = part(dying, folder, metric, checkpoint, seen=seen, saved=saved.append, rungs=rungs)
        if result.outcome is Outcome.COMPLETE:
            return result, seen
        assert (result.outcome, result.reason) == (Outcome.CRASHED, "KeyError: 'killed'"), result.traceback
        assert result.step == (saved[-1].step if saved else 0)
        checkpoint = saved[-1].file if saved else None
        disturb()
    nodes = with_callbacks(nodes, target("Dies", at=10**6))
    return part(nodes, folder, metric, checkpoint, seen=seen, saved=saved.append, rungs=rungs), seen


def assert_equal(actual, expected, where=""):
    assert type(actual) is type(expected), where
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_equal(actual[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), where
        for place, pair in enumerate(zip(actual, expected, strict=True)):
            assert_equal(*pair, f"{where}[{place}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), where
    else:
        assert actual == expected, where


def assert_no_trace(nodes, folder, metric, cut, after, rungs=()):
    whole, plain = part(nodes, folder / "whole", metric, seen=(seen := []), rungs=rungs), seen
    result, parts = cut(nodes, folder / "parts", metric, after, rungs)
    assert whole.outcome is result.outcome is Outcome.COMPLETE, (whole, result)
    assert (result.value, result.epoch, result.step) == (whole.value, whole.epoch, whole.step)
    assert set(parts) == set(plain), "what is reported again is the same, and nothing is missing"
    assert [one for place, one in enumerate(parts) if one not in parts[:place]] == plain
    ends = [torch.load(folder / name / "end", weights_only=False) for name in ("parts", "whole")]
    assert_equal(*ends)


EARLY = {"_target_": f"{LIGHTNING}.EarlyStopping", "monitor": "val/loss", "patience": 3, "min_delta": 0.4}
AVERAGE = {"_target_": f"{LIGHTNING}.EMAWeightAveraging", "decay": 0.7}
CHANGING = {"_target_": f"{LIGHTNING}.GradientAccumulationScheduler", "scheduling": {0: 2, 1: 3, 2: 1}}

CASES = {
    "schedule per step": (config(target("Own", schedule="one cycle", steps=24)), "val/loss"),
    "workers": (config(target("Own"), target("loaders", workers=2)), "val/loss"),
    "loader's generator": (config(target("Own"), target("loaders", generator_seed=7)), "val/loss"),
    "device loader": (config(target("Pictures"), target("pictures")), "val/loss"),
    "accumulated": (config(target("Own"), accumulate_grad_batches=3), "val/loss"),
    "accumulation that changes": (config(target("Own"), callbacks=[CHANGING]), "val/loss"),
    "quarter epochs": (config(target("Own"), val_check_interval=0.25), "val/loss"),
    "unaligned validations": (config(target("Own"), val_check_interval=3), "val/loss"),
    "validations across epochs": (
        config(target("Own"), val_check_interval=6, check_val_every_n_epoch=None),
        "val/loss",
    ),
    "logged in training": (config(target("NoValidation"), target("train_only")), "train/loss"),
    "beside a validation": (config(target("AtEpochEnd"), val_check_interval=0.5), "score"),
    "torchmetrics": (config(target("Metrics"), target("train_only")), "score"),
    "lists": (config(target("Lists"), target("train_only")), "score"),
    "early stopping and plateau": (
        config(target("Own", schedule="plateau"), callbacks=[EARLY], val_check_interval=0.5, max_epochs=6),
        "val/loss",
    ),
    "early stopping that waits": (
        config(target("Own"), callbacks=[{**EARLY, "patience": 1}], min_epochs=2, val_check_interval=0.5),
        "val/loss",
    ),
    "a stop that waits": (config(target("Own"), callbacks=[target("StopsOnce")], min_epochs=2), "val/loss"),
    "manual": (config(target("Manual")), "val/loss"),
    "manual accumulation": (config(target("Accumulates")), "val/loss"),
    "two loaders": (config(target("TwoLoaders"), target("loaders", val_loaders=2)), "val/loss/dataloader_idx_1"),
    "several at once": (config(target("Several"), target("several")), "val/loss"),
    "the shortest of several": (config(target("Several"), target("several", mode="min_size")), "val/loss"),
    "iterable": (config(target("Own"), target("iterable")), "val/loss"),
    "iterable in workers": (config(target("Own"), target("iterable", workers=2)), "val/loss"),
    "restless sampler": (config(target("Own"), target("restless")), "val/loss"),
    "restless sampler and workers": (config(target("Own"), target("restless", workers=1)), "val/loss"),
    "stateful": (config(target("Own"), target("stateful")), "val/loss"),
    "reloaded": (config(target("Own"), target("OtherEachTime"), reload_dataloaders_every_n_epochs=1), "val/loss"),
    "an order for each epoch": (config(target("Own"), target("by_epoch")), "val/loss"),
    "hooks that draw": (config(target("Own"), callbacks=[target("DrawsEachEpoch")]), "val/loss"),
    "data module": (config(target("Own"), target("DrawingData"), check_val_every_n_epoch=2), "val/loss"),
    "frozen": (config(target("Freezes")), "val/loss"),
    "averaged": (config(target("Own"), callbacks=[AVERAGE]), "val/loss"),
    "max_steps": (config(target("Own"), max_steps=21, max_epochs=-1), "train/loss"),
    "part of the batches": (config(target("Own"), limit_train_batches=5), "val/loss"),
    "clipped": (config(target("Own"), gradient_clip_val=0.1), "val/loss"),
}


def places(name, *ranges):
    """One of each range, at random, the same in each run of the test."""
    drawn = random.Random(name)
    return [drawn.randrange(*one) for one in ranges]


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric")
@pytest.mark.parametrize("name", CASES)
def test_pauses_anywhere_leave_no_trace(name, tmp_path):
    nodes, metric = CASES[name]
    assert_no_trace(nodes, tmp_path, metric, cut_by_pauses, places(name, (10, 18), (1, 12)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric")
@pytest.mark.parametrize("name", CASES)
def test_deaths_anywhere_leave_no_trace(name, tmp_path):
    nodes, metric = CASES[name]
    assert_no_trace(nodes, tmp_path, metric, cut_by_deaths, places(f"{name}!", (1, 8), (1, 16)))


@pytest.mark.parametrize("rungs", [(1,), (1, 2)])
def test_a_measurement_that_waits_for_its_rung_survives(rungs, tmp_path):
    """The validation in the middle of the epoch is over, and the one at its end is the rung's."""
    nodes = config(target("Own"), val_check_interval=3)
    assert_no_trace(nodes, tmp_path, "val/loss", cut_by_pauses, (5, 4, 9), rungs)


def killed(task, told):
    """In a process of its own: train, and be killed without any notice."""
    warnings.simplefilter("error")

    def saved(found):
        Path(told).write_text(found.file)
        if found.step == 11:
            os.kill(os.getpid(), signal.SIGKILL)

    train(task, lambda _: Answer.GO_ON, never, saved)


@pytest.mark.slow
def test_what_a_killed_process_has_left_goes_on_in_another(tmp_path):
    nodes, metric = CASES["workers"]
    whole = part(nodes, tmp_path / "whole", metric)
    process = multiprocessing.get_context("spawn").Process(
        target=killed, args=(Task(0, nodes, metric, 3, str(tmp_path / "parts")), tmp_path / "told")
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    result = part(nodes, tmp_path / "parts", metric, (tmp_path / "told").read_text())
    assert (result.outcome, result.value, result.step) == (Outcome.COMPLETE, whole.value, whole.step)
    assert_equal(*(torch.load(tmp_path / name / "end", weights_only=False) for name in ("parts", "whole")))


# -- when, and what is told ---------------------------------------------------------------------------------------


def told_by(nodes, folder, metric="val/loss", **keywords):
    saved = []
    return part(nodes, folder, metric, saved=saved.append, **keywords), saved


def test_each_checkpoint_is_told_with_where_the_training_stands(tmp_path):
    result, saved = told_by(config(target("Own"), max_epochs=1), tmp_path)
    assert result.outcome is Outcome.COMPLETE
    assert [(one.step, one.epoch) for one in saved[:2]] == [(1, 0.125), (1, 0.125)]
    assert {one.file for one in saved} == {str(tmp_path / f"step-{step}.ckpt") for step in range(1, 9)}
    assert [one.value for one in saved] == [None] * len(saved), "before the first validation"
    assert all(Path(one.file).is_file() for one in saved)
    assert not list(tmp_path.glob("*.writing"))


@pytest.mark.parametrize(("every_s", "asks"), [(None, True), (1e9, True), (0.0, False)])
def test_without_an_interval_or_somebody_who_asks_nothing_is_written(every_s, asks, tmp_path):
    saved = []
    nodes = config(target("Own"), checkpoint_every_s=every_s, max_epochs=1)
    result = part(nodes, tmp_path, "val/loss", saved=saved.append if asks else None)
    assert (result.outcome, saved, list(tmp_path.glob("*.ckpt"))) == (Outcome.COMPLETE, [], [])


class Ticks(pl.Callback):
    """A clock that goes on by so much in each batch."""

    now = 0.0

    def __init__(self, training=10.0, validation=0.0):
        self.training, self.validation = training, validation

    def on_train_batch_end(self, *_):
        self.now += self.training

    def on_validation_batch_end(self, *_):
        self.now += self.validation


class Notes:
    """Follows a `Pause` and notes what it writes."""

    def __init__(self):
        self.steps = []

    def state(self, trainer):
        return {}

    def written(self, trainer, file):
        self.steps.append((trainer.global_step, torch.load(file, weights_only=True)["tuner"]["batch_ended"]))


def steps_written(folder, ticks, every_s, **trainer):
    pause = Pause(str(folder), LossWatch(None), weights_only=True, every_s=every_s, clock=lambda: ticks.now)
    pause.follow(notes := Notes())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    with without_noise():
        pl.seed_everything(0, verbose=False)
        place = {"accelerator": "cpu", "default_root_dir": folder}
        fit = pl.Trainer(max_epochs=2, callbacks=[pause, ticks], **place, **quiet, **trainer)
        fit.fit(modules.Own(), *modules.loaders())
    return notes.steps


@pytest.mark.parametrize(
    ("ticks", "trainer", "written"),
    [
        (Ticks(), {}, [(4, False), (8, False), (12, False), (16, False)]),
        (Ticks(), {"accumulate_grad_batches": 3}, [(2, False), (4, False), (6, False)]),  # batches 6, 2 x 3
        (Ticks(training=1.0, validation=40.0), {}, [(8, True)]),  # a long validation is not lost
    ],
)
def test_a_checkpoint_is_written_at_the_first_step_after_the_interval(ticks, trainer, written, tmp_path):
    assert steps_written(tmp_path, ticks, 35.0, **trainer) == written


def test_where_an_epoch_cannot_be_taken_up_checkpoints_are_written_between_epochs(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "tuner"):
        result, saved = told_by(config(target("Boxes"), target("train_only")), tmp_path, "score")
    assert (result.outcome, [one.epoch for one in saved]) == (Outcome.COMPLETE, [1.0, 2.0])
    (message,) = [one.message for one in caplog.records if one.name.startswith("tuner")]
    assert "ends of epochs only: boxes gathers objects" in message


def test_with_the_last_step_nothing_is_left_to_go_on_with(tmp_path):
    """Whoever went on there would find all steps done, and miss the validation that ends the epoch."""
    result, saved = told_by(config(target("Own"), max_steps=11), tmp_path)
    assert (result.outcome, result.step) == (Outcome.COMPLETE, 11)
    assert max(one.step for one in saved) == 10


def test_what_needs_code_to_be_read_is_not_written_and_the_training_goes_on(tmp_path, caplog):
    result, saved = told_by(config(target("Unsafe")), tmp_path)
    assert (result.outcome, saved, list(tmp_path.glob("*.ckpt"))) == (Outcome.COMPLETE, [], [])
    assert sum("trainer.weights_only=false" in one.message for one in caplog.records) == 1


def test_an_error_of_whoever_is_told_is_not_the_modules_crash(tmp_path):
    def gone(_):
        raise EOFError("the pipe is closed")

    with pytest.raises(EOFError, match="the pipe"):
        part(config(target("Own")), tmp_path, "val/loss", saved=gone)


def test_parts_that_a_killed_process_was_writing_are_removed(tmp_path):
    (tmp_path / "step-3.writing").write_text("half a checkpoi")
    part(config(target("Own"), max_epochs=1), tmp_path, "val/loss")
    assert not (tmp_path / "step-3.writing").exists()


# -- asked to make room -------------------------------------------------------------------------------------------


def test_a_pause_leaves_after_the_batch_with_the_file(tmp_path):
    result = part(config(target("Own")), tmp_path, "val/loss", interrupted=paused_after(3))
    assert (result.outcome, result.step, result.epoch) == (Outcome.PAUSED, 3, 0.375)
    assert result.checkpoint == str(tmp_path / "step-3.ckpt")


def test_a_pause_in_a_validation_leaves_when_it_is_over(tmp_path):
    result = part(config(target("Own")), tmp_path, "val/loss", interrupted=paused_after(9), seen=(seen := []))
    assert (result.outcome, result.step, len(seen)) == (Outcome.PAUSED, 8, 1)


def test_a_pause_that_outlasts_the_patience_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.training.pause.PATIENCE_S", 0.0)
    result = part(config(target("Own")), tmp_path, "val/loss", interrupted=paused_after(9))
    assert (result.outcome, result.step, list(tmp_path.glob("*.ckpt"))) == (Outcome.STOPPED, 8, [])


def test_a_pause_in_the_last_validation_of_all_changes_nothing(tmp_path):
    result = part(config(target("Own"), max_epochs=1), tmp_path, "val/loss", interrupted=paused_after(9))
    assert (result.outcome, result.epoch) == (Outcome.COMPLETE, 1.0)


def test_a_pause_waits_for_the_epochs_end_where_it_must(tmp_path):
    nodes = config(target("Boxes"), target("train_only"))
    result = part(nodes, tmp_path, "score", interrupted=paused_after(3))
    assert (result.outcome, result.epoch) == (Outcome.PAUSED, 1.0)


# -- a disk that is full ------------------------------------------------------------------------------------------


def on_a_full_disk(task, pauses, results):
    """In a process of its own: no file may become longer than a few bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    saved = []
    result = train(task, lambda _: Answer.GO_ON, paused_after(3) if pauses else never, saved.append)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    results.put((result.outcome, result.step, result.reason, saved))


@pytest.mark.slow
@pytest.mark.parametrize("pauses", [False, True])
def test_a_disk_that_refuses_does_not_end_the_training(pauses, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    task = Task(0, config(target("Own"), max_epochs=1), "val/loss", 3, str(tmp_path))
    process = context.Process(target=on_a_full_disk, args=(task, pauses, results))
    process.start()
    outcome, step, reason, saved = results.get(timeout=120)
    process.join(60)
    assert (saved, list(tmp_path.iterdir())) == ([], [])
    assert (outcome, step) == ((Outcome.STOPPED, 3) if pauses else (Outcome.COMPLETE, 8))
    assert ("could not be written" in reason) is pauses


def test_a_write_that_failed_is_told_once_and_tried_again(tmp_path, monkeypatch, caplog):
    writes = iter(range(10**6))

    def full(*arguments, **keywords):
        if next(writes) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments, **keywords)

    write = files.write
    monkeypatch.setattr(files, "write", full)
    result, saved = told_by(config(target("Own"), max_epochs=1), tmp_path)
    assert result.outcome is Outcome.COMPLETE
    assert [one.step for one in saved][:2] == [3, 4]
    assert sum("No space left" in one.message for one in caplog.records) == 1


# -- files of others ----------------------------------------------------------------------------------------------


def rewritten(file, change):
    checkpoint = torch.load(file, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, file)


def format_1(checkpoint):
    """As the first format was: what it lacks could only be missed within an epoch."""
    state = checkpoint["tuner"]
    ranks = state["ranks"]
    same = ("should_stop", "val_loaders", "train_loaded_epoch", "val_loaded_epoch")
    checkpoint["tuner"] = {key: state[key] for key in same} | {
        "random": [one["random"] for one in ranks],
        "metrics": ranks[0]["metrics"],
        "first_losses": ranks[0]["losses"],
    }


def test_a_checkpoint_of_the_first_format_goes_on(tmp_path):
    nodes, metric = CASES["schedule per step"]
    whole = part(nodes, tmp_path / "whole", metric)

    def at_rung(found):
        return Answer.PAUSE if found.rung else Answer.GO_ON

    task = Task(0, nodes, metric, 3, str(tmp_path / "parts"), (2,))
    file = train(task, at_rung).checkpoint
    rewritten(file, format_1)
    result = part(nodes, tmp_path / "parts", metric, file)
    assert (result.outcome, result.value, result.step) == (Outcome.COMPLETE, whole.value, whole.step)
    assert_equal(*(torch.load(tmp_path / name / "end", weights_only=False) for name in ("parts", "whole")))


REFUSED = {
    "no checkpoint of a trial": lambda checkpoint: checkpoint.pop("tuner"),
    "has format 99": lambda checkpoint: checkpoint["tuner"].update(version=99),
    "by 2 processes": lambda checkpoint: checkpoint["tuner"].update(ranks=checkpoint["tuner"]["ranks"] * 2),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_file_that_cannot_be_gone_on_with_is_refused(reason, tmp_path):
    nodes = config(target("Own"))
    file = part(nodes, tmp_path, "val/loss", interrupted=paused_after(3)).checkpoint
    rewritten(file, REFUSED[reason])
    with pytest.raises(TunerError, match=reason):
        part(nodes, tmp_path, "val/loss", file)


# -- several ranks ------------------------------------------------------------------------------------------------


def many(workers=0):
    train_data = TensorDataset(*modules.points(128))
    return DataLoader(train_data, 4, shuffle=True, num_workers=workers), modules.loaders()[1]


def one_rank(rank, meeting, folder, checkpoint, answer, results):
    """Rank 1 alone gives the answer, at its third question; rank 0 never does."""
    torch.set_num_threads(1)
    ranks.join(rank, 2, meeting, local=True)
    every_s = 0.0 if answer is None else None
    nodes = config(target("Own"), target("many"), max_epochs=2, checkpoint_every_s=every_s)
    nodes = with_callbacks(nodes, target("End", file=f"{folder}/end-{rank}"))
    calls = iter([Answer.GO_ON] * 2) if rank and answer is not None else None
    interrupted = never if calls is None else lambda: next(calls, answer)
    seen, saved = [], []

    def report(found):
        seen.append((found.step, found.epoch, found.value))
        return Answer.GO_ON

    result = train(Task(0, nodes, "val/loss", 3, str(folder), (), checkpoint), report, interrupted, saved.append)
    results.put((rank, result, seen, [(one.step, one.file) for one in saved]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def two_ranks(folder, checkpoint=None, answer=None):
    """The result, measurements and checkpoints of each rank."""
    folder.mkdir(exist_ok=True)
    meeting = f"file://{folder}/meeting-{len(list(folder.iterdir()))}"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=one_rank, args=(rank, meeting, str(folder), checkpoint, answer, results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        found = {rank: rest for rank, *rest in (results.get(timeout=180) for _ in processes)}
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return found


@pytest.mark.slow
def test_two_ranks_write_and_leave_at_the_same_step_and_go_on_without_a_trace(tmp_path):
    whole = two_ranks(tmp_path / "whole")
    assert [found[0].outcome for found in whole.values()] == [Outcome.COMPLETE] * 2, whole
    steps = [step for step, _ in whole[0][2]]
    assert set(steps) == {20, 32, 52}, "where ranks agree, and between two epochs"
    assert whole[1][2] == [], "rank 0 tells"

    stopped = two_ranks(tmp_path / "stopped", answer=Answer.STOP)
    assert [(found[0].outcome, found[0].step) for found in stopped.values()] == [(Outcome.STOPPED, 20)] * 2

    paused = two_ranks(tmp_path / "parts", answer=Answer.PAUSE)
    assert [(found[0].outcome, found[0].step) for found in paused.values()] == [(Outcome.PAUSED, 20)] * 2
    ended = two_ranks(tmp_path / "parts", checkpoint=paused[0][0].checkpoint)
    for rank in range(2):
        assert ended[rank][0].value == whole[rank][0].value
        assert ended[rank][1] == whole[rank][1]
        assert_equal(*(torch.load(tmp_path / name / f"end-{rank}", weights_only=False) for name in ("parts", "whole")))
