"""What `train` reports and answers for every kind of module, and how each way to end is told."""

import gc
import logging
import random
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import training_modules as modules

from tuner.errors import ConfigError
from tuner.training.process import quiet, settle
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task


def target(name, **arguments):
    return {"_target_": f"{modules.__name__}.{name}", **arguments}


def task(folder, module, data=None, metric="val/loss", rungs=(), **trainer):
    nodes = {"module": module, "data": data or target("loaders"), "trainer": {"max_epochs": 4, "accelerator": "cpu"}}
    nodes["trainer"].update(trainer)
    return Task(7, nodes, metric, 3, str(folder), rungs)


def run(*arguments, answer=lambda _: Answer.GO_ON, interrupted=lambda: False, **keywords):
    """The result and every measurement."""
    seen = []

    def report(measurement):
        seen.append(measurement)
        return answer(measurement)

    return train(task(*arguments, **keywords), report, interrupted), seen


def test_each_validation_is_reported_once_and_keyed_on_the_optimizer_step(tmp_path):
    result, seen = run(tmp_path, target("Own"))
    assert [(m.step, m.epoch) for m in seen] == [(8, 1.0), (16, 2.0), (24, 3.0), (32, 4.0)]
    assert (result.outcome, result.value, result.step, result.epoch) == (Outcome.COMPLETE, seen[-1].value, 32, 4.0)
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("module", "trainer", "steps", "epochs"),
    [
        ("Own", {"val_check_interval": 0.25}, [2, 4, 6, 8], [0.25, 0.5, 0.75, 1.0]),
        ("Own", {"val_check_interval": 3}, [3, 6], [0.375, 0.75]),
        ("Own", {"check_val_every_n_epoch": 3, "max_epochs": 6}, [24, 48], [3.0, 6.0]),
        ("Own", {"check_val_every_n_epoch": None, "val_check_interval": 6, "max_epochs": 2}, [6, 12], [0.75, 1.5]),
        ("Own", {"accumulate_grad_batches": 3}, [3], [1.0]),
        ("Own", {"limit_train_batches": 5}, [5], [1.0]),
        ("Own", {"num_sanity_val_steps": 2}, [8], [1.0]),
        ("Manual", {}, [16], [1.0]),  # two optimizers: Lightning counts the steps of both
    ],
)
def test_measurements_follow_the_validations(module, trainer, steps, epochs, tmp_path):
    _, seen = run(tmp_path, target(module), **{"max_epochs": 1, **trainer})
    assert [m.step for m in seen] == steps
    assert [m.epoch for m in seen] == pytest.approx(epochs)


def test_objective_of_the_epoch_end_is_never_a_stale_one_of_the_validation(tmp_path):
    _, seen = run(tmp_path, target("AtEpochEnd"), metric="score", val_check_interval=0.5)
    assert [(m.step, m.value) for m in seen] == [(8, 1.0), (16, 2.0), (24, 3.0), (32, 4.0)]


@pytest.mark.parametrize(("module", "data"), [("EveryOther", "loaders"), ("EveryOtherEpoch", "train_only")])
def test_without_a_new_value_nothing_is_reported(module, data, tmp_path):
    _, seen = run(tmp_path, target(module), target(data), metric="sparse")
    assert [(m.epoch, m.value) for m in seen] == [(1.0, 1.0), (3.0, 3.0)]


def test_without_a_validation_the_training_metric_counts(tmp_path):
    result, seen = run(tmp_path, target("NoValidation"), target("train_only"), metric="train/loss")
    assert [m.epoch for m in seen] == [1.0, 2.0, 3.0, 4.0]
    assert result.outcome is Outcome.COMPLETE


def test_each_of_several_validation_loaders_has_its_key(tmp_path):
    metric = "val/loss/dataloader_idx_1"
    _, seen = run(tmp_path, target("TwoLoaders"), target("loaders", val_loaders=2), metric=metric)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("module", "metric", "logged", "epoch"),
    [("Own", "val/acc", ("train/loss", "val/loss"), 1.0), ("LogsNothing", "val/loss", (), 1.0)],
)
def test_an_objective_that_is_not_logged_ends_the_training_after_one_validation(
    module, metric, logged, epoch, tmp_path
):
    result, seen = run(tmp_path, target(module), metric=metric)
    assert (result.outcome, result.logged, result.epoch, seen) == (Outcome.NO_OBJECTIVE, logged, epoch, [])
    assert metric in result.reason


def test_an_objective_may_wait_for_the_first_validation(tmp_path):
    result, seen = run(tmp_path, target("Own"), metric="val/acc", check_val_every_n_epoch=2)
    assert (result.outcome, result.epoch, seen) == (Outcome.NO_OBJECTIVE, 2.0, [])


@pytest.mark.parametrize(
    ("trainer", "rungs", "asked"),
    [
        ({}, (1, 3), [1.0, 3.0]),
        ({"val_check_interval": 0.25}, (2,), [2.0]),
        ({"val_check_interval": 3}, (2,), [1.75]),  # the last one of the epoch
        ({"check_val_every_n_epoch": 2, "max_epochs": 6}, (1, 3), [2.0, 4.0]),  # the first one after it
        ({"check_val_every_n_epoch": 3, "max_epochs": 6}, (1, 2), [3.0]),  # one answer for both
        ({}, (4,), []),  # nothing is left to decide
        ({"max_steps": 16}, (2,), []),
    ],
)
def test_rungs_are_asked_once_at_their_epoch_or_the_next_validation(trainer, rungs, asked, tmp_path):
    result, seen = run(tmp_path, target("Own"), rungs=rungs, **trainer)
    assert [m.epoch for m in seen if m.rung] == asked
    assert len({m.step for m in seen}) == len(seen)
    assert [m.step for m in seen] == sorted(m.step for m in seen)
    assert result.outcome is Outcome.COMPLETE


def test_asking_at_rungs_changes_nothing(tmp_path):
    plain, expected = run(tmp_path, target("Own"))
    asked, actual = run(tmp_path, target("Own"), rungs=(1, 2, 3))
    assert asked.value == plain.value
    assert [m.value for m in actual] == [m.value for m in expected]


def test_the_same_seed_gives_the_same_training(tmp_path):
    assert run(tmp_path, target("Own"))[1] == run(tmp_path, target("Own"))[1]


@pytest.mark.parametrize(("trainer", "step"), [({}, 16), ({"val_check_interval": 0.5}, 12)])
def test_a_stop_ends_the_training_where_it_stands(trainer, step, tmp_path):
    result, seen = run(
        tmp_path, target("Own"), answer=lambda m: Answer.STOP if m.epoch > 1 else Answer.GO_ON, **trainer
    )
    assert (result.outcome, result.step, seen[-1].step) == (Outcome.STOPPED, step, step)
    assert result.value == seen[-1].value


def test_a_stop_at_a_rung_ends_the_training(tmp_path):
    result, seen = run(tmp_path, target("Own"), rungs=(2,), answer=lambda m: Answer.STOP if m.rung else Answer.GO_ON)
    assert (result.outcome, result.epoch, len(seen)) == (Outcome.STOPPED, 2.0, 2)


@pytest.mark.parametrize("yes", [True, Answer.STOP])
def test_an_interruption_ends_the_training_at_the_next_batch(yes, tmp_path):
    calls = iter([None, False, Answer.GO_ON, yes])
    result, _ = run(tmp_path, target("Own"), interrupted=lambda: next(calls), min_epochs=3)
    assert (result.outcome, result.step, result.epoch) == (Outcome.STOPPED, 4, 0.5)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e6, -1e6])
def test_a_training_loss_that_diverges_ends_the_training_at_that_step(factor, tmp_path):
    result, _ = run(tmp_path, target("Scaled", at=12, factor=factor))
    assert (result.outcome, result.step) == (Outcome.DIVERGED, 13)
    assert result.reason.startswith("training loss")


def test_without_divergence_factor_only_what_is_not_finite_diverges(tmp_path):
    result, _ = run(tmp_path, target("Scaled", at=12, factor=1e6), max_epochs=2, divergence_factor=None)
    assert "training loss is" in result.reason or result.outcome is Outcome.COMPLETE


def test_an_objective_that_is_not_finite_has_diverged(tmp_path):
    result, seen = run(tmp_path, target("NotFinite"))
    assert (result.outcome, result.value, result.reason) == (Outcome.DIVERGED, None, "val/loss is inf after 1 epochs")
    assert seen == []


@pytest.mark.parametrize("where", ["__init__", "training_step", "validation_step"])
@pytest.mark.parametrize("error", ["ValueError", "SystemExit"])
def test_a_crash_is_told_with_its_traceback(error, where, tmp_path):
    result, _ = run(tmp_path, target("Raises", error=error, where=where))
    assert (result.outcome, result.reason) == (Outcome.CRASHED, f"{error}: a bad day")
    assert "in fail" in result.traceback
    assert f"{error}: a bad day" in result.traceback


def test_a_crash_says_how_far_the_training_had_come(tmp_path):
    result, _ = run(tmp_path, target("Raises"))
    assert (result.step, result.epoch) == (3, 0.375)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("MemoryError", ""),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB"),
        ("RuntimeError", "CUDA error: out of memory"),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
@pytest.mark.parametrize("where", ["__init__", "training_step"])
def test_out_of_memory_is_told_from_a_crash(error, text, where, tmp_path):
    result, _ = run(tmp_path, target("Raises", error=error, text=text, where=where))
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert result.reason.startswith(error)


def test_memory_that_truly_runs_out_leaves_the_process_fit_for_the_next_training(tmp_path):
    expected = run(tmp_path, target("Own"))[1]
    result, _ = run(tmp_path, target("Greedy"))
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert run(tmp_path, target("Own"))[1] == expected


def test_an_error_of_the_controller_is_not_the_modules_crash(tmp_path):
    def gone(_=None):
        raise EOFError("the pipe is closed")

    with pytest.raises(EOFError, match="the pipe"):
        run(tmp_path, target("Own"), answer=gone)
    with pytest.raises(EOFError, match="the pipe"):
        run(tmp_path, target("Own"), interrupted=gone)


def test_keyboard_interrupt_goes_through_and_works_again_afterwards(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, target("Raises", error="KeyboardInterrupt"))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_training_may_run_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, target("Own"))[0]))
    thread.start()
    thread.join()
    assert results[0].outcome is Outcome.COMPLETE


@pytest.mark.parametrize("data", [None, target("Data"), target("loaders", workers=1), target("loaders", val_loaders=2)])
def test_any_form_of_data_is_taken(data, tmp_path):
    module = target("TwoLoaders") if data and data.get("val_loaders") else target("Own")
    metric = "train/loss"
    assert run(tmp_path, module, data, metric=metric, max_epochs=1)[0].outcome is Outcome.COMPLETE


def test_a_module_without_any_optimizer_is_refused_with_what_to_write(tmp_path):
    with pytest.raises(ConfigError, match=r"optimizer: .*Plain.*_target_: torch.optim"):
        run(tmp_path, target("Plain"))


def test_lightnings_remarks_are_silenced_and_the_users_are_not(tmp_path, caplog):
    quiet()
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
    with caplog.at_level(logging.INFO, logger="mine"), warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, target("Own"))
        logging.getLogger("mine").info("mine")
    assert levels == [logging.WARNING, logging.WARNING]
    assert [record.message for record in caplog.records] == ["mine"]
    result, _ = run(tmp_path, target("Warns"))
    assert result.reason == "UserWarning: mine: out of range"  # an error here, as in all tests


def live(kind):
    gc.collect()
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


ENDS = {
    "complete": ("Own", {}),
    "diverged": ("Scaled", {}),
    "crashed": ("Raises", {}),
    "in validation": ("NotFinite", {}),
    "out of memory": ("Greedy", {}),
    "stopped": ("Own", {"answer": lambda _: Answer.STOP}),
    "paused": ("Own", {"rungs": (1,), "answer": lambda _: Answer.PAUSE}),
}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_behind(end, tmp_path):
    """After the first training, which fills caches, tensors, threads, handlers and open files stay as they are."""
    module, keywords = ENDS[end]

    def left():
        open_files = Path("/proc/self/fd")
        files = len(list(open_files.iterdir())) if open_files.is_dir() else 0
        return live(torch.Tensor), live(torch.nn.Module), threading.active_count(), files, Path.cwd()

    run(tmp_path, target(module), max_epochs=2, **keywords)
    before = left()
    for _ in range(3):
        run(tmp_path, target(module), max_epochs=2, **keywords)
    assert left() == before


def test_twenty_trainings_leave_next_to_nothing_behind(tmp_path):
    run(tmp_path, target("Own"), max_epochs=1)
    before = live(object)
    for _ in range(20):
        run(tmp_path, target("Own"), max_epochs=1)
    assert live(object) - before < 20 * 10  # importlib keeps four for each of Lightning's looks for plugins


def test_in_a_settled_process_a_model_is_freed_when_its_training_ends(tmp_path):
    run(tmp_path, target("Own"), max_epochs=1)
    settle()
    gc.disable()
    try:
        run(tmp_path, target("Own"), max_epochs=1)
        assert not [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)]
    finally:
        gc.enable()
        gc.unfreeze()


def test_settings_of_the_process_are_put_back(tmp_path):
    run(tmp_path, target("Own"), max_epochs=1, deterministic=True, benchmark=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert torch.is_grad_enabled()


def test_a_trainings_seed_reaches_every_generator(tmp_path):
    draws = []
    for _ in range(2):
        random.seed(0)
        run(tmp_path, target("Own"), max_epochs=1)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
