"""A paused training that goes on must equal the one that was never paused, to the last digit."""

import multiprocessing
import warnings

import pytest
import torch
import training_modules as modules

from tuner.errors import TunerError
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task

EPOCHS = 6
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.05, "momentum": 0.9}


def target(name, **arguments):
    return {"_target_": f"{modules.__name__}.{name}", **arguments}


def config(module, data=None, callbacks=(), optimizer=None, schedule=None, **trainer):
    return {
        "module": module,
        "data": data or target("loaders"),
        "optimizer": optimizer,
        "schedule": schedule,
        "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu", "callbacks": list(callbacks), **trainer},
    }


def run_parts(nodes, folder, rungs, metric="val/loss", task=None):
    """Train with a pause at each rung; answers the result, the measurements, and what Weights has written."""
    folder.mkdir()
    weights = target("Weights", file=str(folder / "weights"), epochs=EPOCHS)
    nodes = {**nodes, "trainer": {**nodes["trainer"], "callbacks": [*nodes["trainer"]["callbacks"], weights]}}
    seen, checkpoint, result = [], None, None
    for _ in range(len(rungs) + 1):

        def report(measurement):
            seen.append(measurement)
            return Answer.PAUSE if measurement.rung else Answer.GO_ON

        result = train(Task(0, nodes, metric, 3, str(folder), rungs, checkpoint), report)
        torch.manual_seed(999)  # whatever happens between two parts
        checkpoint = result.checkpoint
        if checkpoint is None:
            break
        assert result.epoch in rungs, "it goes on after its rung"
    return result, seen, torch.load(folder / "weights", weights_only=True)


def assert_no_trace(nodes, folder, rungs=(2,), metric="val/loss"):
    whole, plain, expected = run_parts(nodes, folder / "whole", (), metric)
    parts, paused, actual = run_parts(nodes, folder / "parts", rungs, metric)
    assert whole.outcome is parts.outcome is Outcome.COMPLETE, parts
    assert [(m.step, m.epoch, m.value) for m in paused] == [(m.step, m.epoch, m.value) for m in plain]
    assert (parts.value, parts.epoch, parts.step) == (whole.value, whole.epoch, whole.step)
    assert actual["rates"] == expected["rates"]
    assert actual["metrics"] == expected["metrics"]
    for name, tensor in expected["weights"].items():
        assert torch.equal(actual["weights"][name], tensor), name
    assert sum(m.rung for m in paused) == len(rungs)


CASES = {
    "shuffled": config(target("Own")),
    "adam": config(target("Adam")),
    "workers": config(target("Own"), target("loaders", workers=2)),
    "loader's generator": config(target("Own"), target("loaders", generator_seed=7)),
    "data module": config(target("Own"), target("Data")),
    "manual": config(target("Manual")),
    "one cycle": config(target("Own", schedule="one cycle")),
    "plateau": config(target("Own", schedule="plateau")),
    "plateau, validation every second epoch": config(target("Own", schedule="plateau"), check_val_every_n_epoch=2),
    "sequential": config(target("Own", schedule="sequential")),
    "quarter epochs": config(target("Own"), val_check_interval=0.25),
    "unaligned validations": config(target("Own"), val_check_interval=3),
    "accumulated": config(target("Own"), accumulate_grad_batches=3),
    "max_steps": config(target("Own"), max_steps=44),
    "min_epochs": config(target("Own"), min_epochs=4),
    "clipping": config(target("Own"), gradient_clip_val=0.1),
    "reloaded loaders": config(target("Own"), target("Data"), reload_dataloaders_every_n_epochs=1),
    "reloaded every second epoch": config(target("Own"), target("Data"), reload_dataloaders_every_n_epochs=2),
    "validation loaders that draw": config(target("Own"), target("DrawingData"), check_val_every_n_epoch=2),
    "sanity steps": config(target("Own"), num_sanity_val_steps=2),
    "attached optimizer": config(
        target("Plain"),
        optimizer=SGD,
        schedule={"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": EPOCHS},
    ),
    "callbacks": config(target("Own"), callbacks=[target("Average"), target("Draws")]),
    "loaders' generators in persistent workers": config(
        target("Own"), target("loaders", generator_seed=7, workers=1, persistent=True, augmented=False)
    ),
    "digits": config(
        {"_target_": "studies.digits.MLP", "dropout": 0.2, "hidden": 16, "optimizer": SGD},
        {"_target_": "studies.digits.Digits", "batch_size": 128},
    ),
}


# In the first epoch of "validation every second epoch" the plateau schedule has nothing to compare with.
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric")
@pytest.mark.parametrize("name", CASES)
def test_one_pause_leaves_no_trace(name, tmp_path):
    assert_no_trace(CASES[name], tmp_path)


@pytest.mark.parametrize("name", ["shuffled", "manual", "one cycle"])
def test_several_pauses_leave_no_trace(name, tmp_path):
    assert_no_trace(CASES[name], tmp_path, rungs=(1, 3, 4, 5))


OTHER_METRICS = {
    "logged at the end of an epoch": (config(target("NoValidation"), target("train_only")), "train/loss"),
    "beside a validation": (config(target("AtEpochEnd")), "score"),
    "of the second loader": (
        config(target("TwoLoaders"), target("loaders", val_loaders=2)),
        "val/loss/dataloader_idx_1",
    ),
}


@pytest.mark.parametrize("name", OTHER_METRICS)
def test_a_pause_leaves_no_trace_wherever_the_objective_is_logged(name, tmp_path):
    nodes, metric = OTHER_METRICS[name]
    assert_no_trace(nodes, tmp_path, (1, 3), metric)


def in_another_process(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return train(task, lambda m: Answer.PAUSE if m.rung else Answer.GO_ON)


@pytest.mark.slow
def test_a_part_in_another_process_equals_the_whole(tmp_path):
    nodes = CASES["loader's generator"]
    whole = train(Task(0, nodes, "val/loss", 3, str(tmp_path)), lambda _: Answer.GO_ON)
    paused = train(Task(0, nodes, "val/loss", 3, str(tmp_path), (4,)), lambda _: Answer.PAUSE)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        task = Task(0, nodes, "val/loss", 3, str(tmp_path), (4,), paused.checkpoint)
        ended = pool.apply(in_another_process, (task,))
    assert (ended.outcome, ended.value, ended.epoch, ended.step) == (
        whole.outcome,
        whole.value,
        whole.epoch,
        whole.step,
    )


def pause_once(nodes, folder, rungs=(2,), seen=None):
    def report(measurement):
        if seen is not None:
            seen.append(measurement)
        return Answer.PAUSE if measurement.rung else Answer.GO_ON

    return train(Task(4, nodes, "val/loss", 3, str(folder), rungs), report)


def test_the_result_says_where_the_trial_stands(tmp_path):
    result = pause_once(CASES["shuffled"], tmp_path / "made" / "by the pause")
    assert (result.outcome, result.epoch, result.step) == (Outcome.PAUSED, 2.0, 16)
    assert [path.name for path in (tmp_path / "made" / "by the pause").iterdir()] == ["paused.ckpt"]


def test_the_file_needs_no_code_to_be_read_and_holds_no_hyperparameters(tmp_path):
    result = pause_once(CASES["manual"], tmp_path)
    saved = torch.load(result.checkpoint, weights_only=True)
    assert not [key for key in saved if "hparams" in key or "hyper_parameters" in key]


def test_a_checkpoint_that_needs_code_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(TunerError, match=r"Unpicklable[\s\S]*trainer.weights_only=false"):
        pause_once(config(target("Unsafe")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_trusted_checkpoint_may_need_code(tmp_path):
    assert_no_trace(config(target("Unsafe"), weights_only=False), tmp_path)


def test_a_failed_write_keeps_the_earlier_file(tmp_path):
    before = pause_once(CASES["shuffled"], tmp_path).checkpoint
    content = torch.load(before, weights_only=True)["global_step"]
    with pytest.raises(TunerError):
        pause_once(config(target("Unsafe")), tmp_path, rungs=(3,))
    assert torch.load(before, weights_only=True)["global_step"] == content


def test_users_checkpoints_are_written_as_ever_and_go_on_through_a_pause(tmp_path):
    best = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val/loss", "dirpath": str(tmp_path)}
    nodes = config(target("Own"), callbacks=[{**best, "filename": "{epoch}", "save_top_k": -1}])
    paused = pause_once(nodes, tmp_path)
    ended = train(Task(4, nodes, "val/loss", 3, str(tmp_path), (2,), paused.checkpoint), lambda _: Answer.GO_ON)
    assert ended.outcome is Outcome.COMPLETE
    assert {path.name for path in tmp_path.glob("epoch=*.ckpt")} == {f"epoch={epoch}.ckpt" for epoch in range(EPOCHS)}
    assert "hyper_parameters" in torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)


def early_stopping(**arguments):
    node = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
    return {**node, "min_delta": 1e9, **arguments}  # nothing is an improvement


def test_a_training_that_stops_early_at_its_rung_is_complete_and_not_paused(tmp_path):
    seen = []
    result = pause_once(config(target("Own"), callbacks=[early_stopping(patience=1)]), tmp_path, seen=seen)
    assert (result.outcome, result.epoch) == (Outcome.COMPLETE, 2.0)
    assert not any(measurement.rung for measurement in seen)


def test_a_stop_that_waits_for_min_epochs_survives_a_pause(tmp_path):
    nodes = config(target("Own"), callbacks=[target("StopsOnce")], min_epochs=4)
    whole = train(Task(0, nodes, "val/loss", 3, str(tmp_path)), lambda _: Answer.GO_ON)
    paused = pause_once(nodes, tmp_path)
    ended = train(Task(0, nodes, "val/loss", 3, str(tmp_path), (2,), paused.checkpoint), lambda _: Answer.GO_ON)
    assert (paused.epoch, ended.epoch, whole.epoch) == (2.0, 4.0, 4.0)


def test_losses_after_a_pause_are_compared_with_those_of_the_start(tmp_path):
    nodes = config(target("Scaled", at=16, factor=1e6))
    paused = pause_once(nodes, tmp_path)
    ended = train(Task(0, nodes, "val/loss", 3, str(tmp_path), (2,), paused.checkpoint), lambda _: Answer.GO_ON)
    assert (paused.outcome, ended.outcome, ended.step) == (Outcome.PAUSED, Outcome.DIVERGED, 17)


def test_the_hooks_of_a_trainings_end_wait_for_its_end(tmp_path):
    nodes = CASES["callbacks"]
    paused = pause_once(nodes, tmp_path)
    weights = torch.load(paused.checkpoint, weights_only=True)["state_dict"]
    assert all(weight.any() for weight in weights.values() if weight.is_floating_point())
