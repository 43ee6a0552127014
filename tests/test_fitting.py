"""Batches that are divided to fit in memory: what is measured, what a trial's batch is made of, and that it is the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds import trials, tune, write_study

from tuner.cli import main
from tuner.fitting import MOST_COMBINATIONS, BatchFit, batch_path, combinations, divided, key, largest_batch
from tuner.space import Categorical, Int, LogInt, LogUniform, Parameter, Space

BATCH = Parameter("batch_size", Categorical((64, 256, 512)), "data.batch_size", memory=True)
WIDTH = Parameter("width", Categorical((16, 64)), "module.width", memory=True)
LAYERS = Parameter("layers", Int(1, 3), "module.layers", memory=True)
HIDDEN = Parameter("hidden", LogInt(16, 512), "module.hidden", memory=True)
LR = Parameter("lr", LogUniform(1e-4, 1.0), "module.lr")


@given(batch=st.integers(1, 5000), largest=st.integers(1, 5000))
def test_parts_fit_and_make_up_the_batch_or_a_little_more(batch, largest):
    micro, times = divided(batch, largest)
    fewest = -(-batch // largest)
    assert 1 <= micro <= largest
    assert fewest <= times < 2 * fewest, "no batch is cut into many tiny parts"
    assert batch <= micro * times < batch + times
    if any(batch % n == 0 for n in range(fewest, 2 * fewest)):
        assert micro * times == batch


def test_a_width_that_another_one_switches_off_is_measured_without_it():
    second = Parameter("hidden2", Categorical((16, 64)), "module.hidden2", when={"layers": (2, 3)}, memory=True)
    names, measured = combinations(Space.of([LAYERS, second]))
    assert sorted(key({name: values[name] for name in names if name in values}) for values in measured) == [
        "hidden2=16 layers=2", "hidden2=16 layers=3", "hidden2=64 layers=2", "hidden2=64 layers=3", "layers=1",
    ]  # fmt: skip


def test_every_width_is_measured_and_a_range_at_its_largest():
    names, measured = combinations(Space.of([LR, BATCH, WIDTH, LAYERS, HIDDEN]))
    assert set(names) == {"width", "layers"}
    assert len(measured) == 6
    assert {values["hidden"] for values in measured} == {512}
    assert all("batch_size" not in values and "lr" not in values for values in measured)


def test_of_too_many_combinations_the_longest_are_measured_at_their_largest():
    more = [Parameter(f"layers{n}", Int(1, 4 + n), f"module.layers{n}", memory=True) for n in range(4)]
    names, measured = combinations(Space.of(more))
    assert len(measured) <= MOST_COMBINATIONS
    assert names == ("layers0",)
    assert all(values["layers3"] == 7 for values in measured)


def test_a_space_without_widths_has_one_measurement():
    assert combinations(Space.of([LR, BATCH])) == ((), [{}])


def test_where_the_batch_size_is_and_how_large_it_gets():
    space = Space.of([LR, BATCH])
    assert (batch_path(space, {}), largest_batch(space, 1)) == ("data.batch_size", 512)
    space = Space.of([LR])
    assert (batch_path(space, {"batch_size": 128}), largest_batch(space, 128)) == ("data.batch_size", 128)
    assert batch_path(space, {"root": "."}) is None
    assert largest_batch(space, "full") is None


def config(batch, **trainer):
    return {"data": {"batch_size": batch}, "trainer": trainer}


FIT = BatchFit("data.batch_size", ("width",), {key({"width": 16}): 256, key({"width": 64}): 32})


@pytest.mark.parametrize(
    ("batch", "width", "trainer", "size", "accumulated"),
    [
        (64, 16, {}, 64, None),
        (256, 16, {}, 256, None),
        (512, 16, {}, 256, 2),
        (96, 64, {}, 32, 3),
        (96, 64, {"accumulate_grad_batches": 2}, 32, 6),
        ("full", 64, {}, "full", None),
        (512, 128, {}, 512, None),  # never measured: the trial itself will tell
    ],
)
def test_a_trials_batch_is_divided_by_its_width(batch, width, trainer, size, accumulated):
    made = config(batch, **trainer)
    said = FIT.apply(made, {"width": width, "lr": 0.1})
    assert made["data"]["batch_size"] == size
    assert made["trainer"].get("accumulate_grad_batches", None) == accumulated
    assert bool(said) == (size != batch)


@pytest.fixture
def seems_to_have_a_gpu(monkeypatch):
    """The launcher counts the devices that it may use; the module, on a CPU, says what does not fit."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


SEARCH = ("search=random", "pruner=none", "search.trials=2", "trainer.accelerator=auto")


def test_a_batch_that_does_not_fit_is_trained_in_parts_with_the_same_result(workdir, seems_to_have_a_gpu, capsys):
    write_study(workdir, module={"mode": "memory for 8"}, data={"batch_size": 32})
    assert tune(workdir, *SEARCH, "trainer.fit_batch=true") == 0
    assert "largest batch on the GPU: 8" in capsys.readouterr().err
    parts = trials(workdir)
    assert [trial.user_attrs["outcome"] for trial in parts] == ["complete", "complete"]
    assert {(t.user_attrs["micro_batch"], t.user_attrs["accumulate_grad_batches"]) for t in parts} == {(8, 4)}
    assert tune(workdir, *SEARCH, "module.mode=good") == 0
    whole = trials(workdir, "line-2")
    assert [trial.value for trial in parts] == pytest.approx([trial.value for trial in whole], rel=1e-5)
    assert not any("micro_batch" in trial.user_attrs for trial in whole)
    assert [max(trial.intermediate_values) for trial in parts] == [max(trial.intermediate_values) for trial in whole]


def test_what_was_measured_is_not_measured_again(workdir, seems_to_have_a_gpu, capsys):
    write_study(workdir, module={"mode": "memory for 8"}, data={"batch_size": 32})
    tune(workdir, *SEARCH, "trainer.fit_batch=true")
    capsys.readouterr()
    assert tune(workdir, *SEARCH, "trainer.fit_batch=true", "search.trials=3") == 0
    assert "largest batch" not in capsys.readouterr().err
    assert trials(workdir)[2].user_attrs["micro_batch"] == 8


def test_other_commands_divide_batches_as_the_round_has_measured(workdir, seems_to_have_a_gpu, capsys):
    write_study(workdir, module={"mode": "memory for 8"}, data={"batch_size": 32})
    tune(workdir, *SEARCH, "trainer.fit_batch=true")
    words = ["study=line", *SEARCH, "trainer.fit_batch=true", "--config-dir", str(workdir / "conf")]
    for command in (["train"], ["compare", "over=lr", "choices=[0.01,0.1]", "seeds=1"], ["lr-range", "steps=40"]):
        capsys.readouterr()
        code = main([*command, *words])
        told = capsys.readouterr()
        assert "the batch is trained in 4 parts of 8" in told.err
        assert "out of memory" not in told.err + told.out
        assert code == 0 or command[0] == "lr-range", told


def test_without_a_gpu_nothing_is_measured(workdir, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert tune(workdir, *SEARCH, "trainer.fit_batch=true") == 0
    assert "there is no GPU" in capsys.readouterr().err


def test_a_study_without_a_batch_size_is_told(workdir, seems_to_have_a_gpu, capsys):
    write_study(workdir, data={"_target_": "faulty.loaders"})
    assert tune(workdir, *SEARCH, "~data.batch_size", "trainer.fit_batch=true") == 2
    assert "trainer.fit_batch" in capsys.readouterr().err


def test_a_module_that_crashes_is_told_with_its_traceback(workdir, seems_to_have_a_gpu, capsys):
    write_study(workdir, module={"mode": "raise in init"})
    assert tune(workdir, *SEARCH, "trainer.fit_batch=true") == 1
    assert "no module today" in capsys.readouterr().err
