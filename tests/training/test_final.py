"""The final training: what it trains on, what it leaves behind, and what it refuses."""

import math

import lightning.pytorch as pl
import pytest
import torch
import training_modules as modules
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from studies.digits import MLP, Digits
from tuner.errors import TunerError
from tuner.training.final import joined, train_final
from tuner.training.run import train
from tuner.training.task import Answer, Kind, Outcome, Task


def target(name, **arguments):
    return {"_target_": f"{modules.__name__}.{name}" if "." not in name else name, **arguments}


def task(folder, module, data=None, *, split="train+val", trainer=None, **nodes):
    config = {"module": module, "data": data, "trainer": {"max_epochs": 2, "accelerator": "cpu", **(trainer or {})}}
    options = {"split": split, "file": str(folder / "out" / "final.ckpt")}
    return Task(0, {**config, **nodes}, "val/loss", 3, str(folder), kind=Kind.FINAL, options=options)


def run(*arguments, **keywords):
    """The result and every measurement."""
    seen = []

    def report(measurement):
        seen.append(measurement)
        return Answer.GO_ON

    return train_final(task(*arguments, **keywords), report, lambda: False), seen


def numbers(first, count, size=2, **arguments):
    return DataLoader(TensorDataset(torch.arange(first, first + count)), size, **arguments)


def items(loader):
    return [int(item) for (batch,) in loader for item in batch]


# -- joining ----------------------------------------------------------------------------------------------------


@given(
    train=st.integers(1, 20),
    vals=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    size=st.integers(1, 8),
    shuffle=st.booleans(),
)
def test_a_joined_loader_has_each_example_once_in_batches_as_those_of_training(train, vals, size, shuffle):
    loaders, first = [], train
    for count in vals:
        loaders.append(numbers(first, count, 7))
        first += count
    loader = joined(numbers(0, train, size, shuffle=shuffle), loaders)
    assert sorted(items(loader)) == list(range(first))
    assert len(loader) == math.ceil(first / size)
    assert {len(batch) for (batch,) in list(loader)[:-1]} <= {size}
    if not shuffle:
        assert items(loader) == list(range(first))


def test_a_joined_loader_shuffles_both_parts_together_and_as_the_training_loader_was_told():
    def passes():
        generator = torch.Generator().manual_seed(4)
        loader = joined(numbers(0, 50, 8, shuffle=True, generator=generator, drop_last=True), numbers(50, 50))
        return [items(loader) for _ in range(2)]

    first, second = passes()
    assert passes() == [first, second]
    assert first != second
    assert len(first) == 96
    assert any(item >= 50 for item in first[:8]), "a false failure in 300 for a seed; this one is fixed"


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.tensor(item),) for item in range(5)])


def doubled(batch):
    return [2 * torch.stack([item for (item,) in batch])]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (DataLoader(Stream(), 2), [0, 1, 2, 3, 4, 10, 11, 12]),
        (numbers(0, 3, collate_fn=doubled), [0, 2, 4, 10, 11, 12]),
        ([[torch.tensor([7])]] * 2, None),
    ],
    ids=["stream", "another collate function", "a list of loaders"],
)
def test_what_is_not_alike_is_chained_and_several_training_loaders_are_refused(train, expected):
    val = numbers(10, 3)
    if expected is None:
        with pytest.raises(TunerError, match=r"trains on several loaders at once.*Write split=train"):
            joined(train, val)
        return
    chained = joined(train, val)
    assert items(chained) == expected
    assert items(chained) == expected, "in each pass"


def test_a_sampler_of_the_users_own_keeps_its_draws_and_validation_comes_after_them():
    sampler = WeightedRandomSampler([1.0, 0.0, 0.0], 6)
    assert items(joined(numbers(0, 3, sampler=sampler), numbers(3, 2))) == [0] * 6 + [3, 4]


def test_a_chain_of_a_loader_without_length_has_none():
    loader = joined((batch for batch in ()), numbers(0, 2))
    with pytest.raises(TypeError):
        len(loader)


@pytest.mark.parametrize("val", [None, []], ids=["none", "an empty list"])
def test_without_validation_there_is_nothing_to_join(val):
    with pytest.raises(TunerError, match=r"it has no validation loader\. Write split=train"):
        joined(numbers(0, 3), val)


# -- training ---------------------------------------------------------------------------------------------------


class Counted(modules.Own):
    """Counts its examples and validations; logs nothing in validation when it is not called."""

    seen = 0
    validations = 0

    def training_step(self, batch, batch_idx):
        type(self).seen += len(batch[0])
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        type(self).validations += 1
        self.log("val/loss", self.loss(batch), add_dataloader_idx=False)

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch))


class Bringing(Counted):
    """A module with loaders of its own."""

    def train_dataloader(self):
        return modules.loaders()[0]

    def val_dataloader(self):
        return modules.loaders()[1]


class WithTest(modules.Data):
    def test_dataloader(self):
        return modules.loaders()[1]


def on_all(*, train_on_all=False):
    train, val = modules.loaders()
    return (DataLoader(TensorDataset(*modules.points(100)), 8), val) if train_on_all else (train, val)


@pytest.mark.parametrize(
    ("module", "data", "split", "examples"),
    [
        ("Counted", target("Data"), "train+val", 80),
        ("Counted", target("Data"), "train", 64),
        ("Counted", target("loaders"), "train+val", 80),
        ("Counted", target("loaders", val_loaders=2), "train+val", 96),
        ("Counted", target("loaders", workers=1), "train+val", 80),
        ("Bringing", None, "train+val", 80),
        ("Counted", {"_target_": f"{__name__}.on_all"}, "train+val", 100),
        ("Counted", {"_target_": f"{__name__}.on_all"}, "train", 64),
    ],
)
def test_each_epoch_sees_the_split_asked_for_once(tmp_path, monkeypatch, module, data, split, examples):
    Counted.seen = Counted.validations = Bringing.seen = Bringing.validations = 0
    result, seen = run(tmp_path, {"_target_": f"{__name__}.{module}"}, data, split=split)
    assert result.outcome is Outcome.COMPLETE, result.traceback
    own = Bringing if module == "Bringing" else Counted
    assert own.seen == 2 * examples
    assert (own.validations > 0) == (split == "train")
    assert [measured.epoch for measured in seen] == [1.0, 2.0]
    assert all(math.isnan(measured.value) for measured in seen) == (split == "train+val")


def test_training_on_the_training_split_is_the_training_of_a_trial(tmp_path):
    same = task(tmp_path, target("Own"), target("loaders"), split="train")
    values = []
    result = train(Task(0, same.config, "val/loss", 3, str(tmp_path)), lambda m: values.append(m.value) or Answer.GO_ON)
    final, seen = run(tmp_path, target("Own"), target("loaders"), split="train")
    assert [measured.value for measured in seen] == values
    assert final.value == result.value


def test_the_checkpoint_gives_the_module_back_with_what_was_tested(tmp_path):
    config = {"_target_": "studies.digits.MLP", "layers": 1, "hidden": 24}
    result, _ = run(tmp_path, config, {"_target_": "studies.digits.Digits"}, trainer={"max_epochs": 3})
    found = result.findings
    module = MLP.load_from_checkpoint(found["checkpoint"], weights_only=True).eval()
    assert (module.hparams.layers, module.hparams.hidden) == (1, 24)
    images, labels = Digits().test
    accuracy = (module(images).argmax(dim=1) == labels).float().mean().item()
    assert found["test"]["test/acc"] == pytest.approx(accuracy)
    assert accuracy > 0.8
    assert found["left_out"] == []


def test_digits_trains_on_both_splits_when_it_is_told_to():
    alone, both = Digits(batch_size=1), Digits(batch_size=1, train_on_all=True)
    assert len(both.train_dataloader()) == len(alone.train[1]) + len(alone.val[1])
    assert len(alone.train_dataloader()) == len(alone.train[1])


class Keeps(Counted):
    """Saves a function and a width as hyperparameters."""

    def __init__(self, width=8, activation=None):
        super().__init__(width)
        self.save_hyperparameters()


def test_hyperparameters_that_are_code_are_left_out_and_named(tmp_path):
    node = {
        "_target_": f"{__name__}.Keeps",
        "width": 6,
        "activation": {"_target_": "torch.nn.functional.relu", "_partial_": True},
    }
    result, _ = run(tmp_path, node, target("loaders"))
    assert result.findings["left_out"] == ["activation"]
    loaded = Keeps.load_from_checkpoint(result.findings["checkpoint"], weights_only=True)
    assert loaded.hparams["width"] == 6


def test_a_checkpoint_that_is_there_is_kept(tmp_path):
    paths = [run(tmp_path, target("Own"), target("loaders"))[0].findings["checkpoint"] for _ in range(3)]
    out = tmp_path / "out"
    assert paths == [str(out / name) for name in ("final.ckpt", "final-2.ckpt", "final-3.ckpt")]
    assert sorted(file.name for file in out.iterdir()) == ["final-2.ckpt", "final-3.ckpt", "final.ckpt"]


@pytest.mark.parametrize(
    ("module", "data", "why"),
    [("Own", "WithTest", "Own has no test_step"), ("Counted", "Data", "Data has no test_dataloader"),
     ("Counted", "loaders", "the data has no test_dataloader"), ("Counted", "WithTest", "")],
)  # fmt: skip
def test_test_metrics_are_there_or_the_reason_is(tmp_path, module, data, why):
    where = {"Counted": __name__, "WithTest": __name__}
    nodes = [{"_target_": f"{where.get(name, modules.__name__)}.{name}"} for name in (module, data)]
    found = run(tmp_path, *nodes)[0].findings
    assert found.get("why_no_test", "") == why
    assert (found["test"] is None) == bool(why)
    if not why:
        assert found["test"]["test/loss"] > 0


class FailsInTest(Counted):
    def test_step(self, batch, batch_idx):
        raise ValueError("not today")


def test_a_test_that_fails_does_not_lose_the_checkpoint(tmp_path):
    result, _ = run(tmp_path, {"_target_": f"{__name__}.FailsInTest"}, {"_target_": f"{__name__}.WithTest"})
    assert result.outcome is Outcome.CRASHED
    assert result.reason == "the test failed: ValueError: not today"
    assert torch.load(result.findings["checkpoint"], weights_only=True)["epoch"] == 2


# -- refusals ---------------------------------------------------------------------------------------------------


def early_stopping(monitor):
    return {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": monitor}


@pytest.mark.parametrize(
    ("module", "nodes", "said"),
    [
        (target("Own"), {"trainer": {"callbacks": [early_stopping("val/loss")]}}, "EarlyStopping follows val/loss"),
        (target("Own", schedule="plateau"), {}, "ReduceLROnPlateau follows val/loss"),
        (
            target("Plain"),
            {
                "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.01},
                "schedule": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"},
            },
            "ReduceLROnPlateau follows val/loss",
        ),
    ],
)
def test_what_follows_a_metric_of_validation_is_refused_where_there_is_none(tmp_path, module, nodes, said):
    with pytest.raises(TunerError, match=f"{said}.*Write split=train"):
        run(tmp_path, module, target("loaders"), **nodes)
    assert run(tmp_path, module, target("loaders"), split="train", **nodes)[0].outcome is Outcome.COMPLETE


def test_what_follows_a_metric_of_training_may_stay(tmp_path):
    trainer = {"callbacks": [early_stopping("train/loss")]}
    assert run(tmp_path, target("Own"), target("loaders"), trainer=trainer)[0].outcome is Outcome.COMPLETE


def test_data_that_has_nothing_to_validate_on_is_refused_before_training(tmp_path):
    with pytest.raises(TunerError, match="it has no validation loader"):
        run(tmp_path, target("Own"), target("train_only"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "train+val"])
def test_a_training_that_diverges_leaves_no_checkpoint(tmp_path, split):
    result, _ = run(tmp_path, target("Scaled"), target("loaders"), split=split)
    assert result.outcome is Outcome.DIVERGED
    assert "nan" in result.reason
    assert not result.findings
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_needs_code_to_be_read_is_refused(tmp_path):
    with pytest.raises(TunerError, match="could not be read back safely"):
        run(tmp_path, target("Unsafe"), target("loaders"))
    assert not list((tmp_path / "out").iterdir())
    trusted, _ = run(tmp_path, target("Unsafe"), target("loaders"), trainer={"weights_only": False})
    assert trusted.findings["checkpoint"]


def test_an_error_of_the_module_is_its_own(tmp_path):
    with pytest.raises(ValueError, match="a bad day"):
        run(tmp_path, target("Raises"), target("loaders"))


def test_an_interrupted_training_ends_at_once(tmp_path):
    steps = iter(range(100))
    result = train_final(
        task(tmp_path, target("Own"), target("loaders")), lambda _: Answer.GO_ON, lambda: next(steps) > 3
    )
    assert result.outcome is Outcome.STOPPED
    assert 0 < result.step < 10


def test_lightnings_own_checks_of_the_trainer_are_told_as_a_mistake(tmp_path):
    with pytest.raises(TunerError, match="Trainer refuses"):
        run(tmp_path, target("Own"), target("loaders"), trainer={"precision": "nonsense"})


def test_a_datamodule_may_be_told_by_an_attribute(tmp_path):
    class Told(modules.Data):
        train_on_all = False

        def train_dataloader(self):
            return modules.loaders()[int(self.train_on_all)]

    data = Told()
    assert isinstance(data, pl.LightningDataModule)
    from tuner.training.build import Parts
    from tuner.training.final import _join

    _join(Parts(modules.Own(), {"datamodule": data}, {}, []), told=False)
    assert data.train_on_all
    assert len(data.train_dataloader().dataset) == 16
