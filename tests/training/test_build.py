"""What each node of a study's configuration becomes."""

import lightning.pytorch as pl
import pytest
import torch
import training_modules as modules
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tuner.errors import ConfigError
from tuner.training.build import build, instantiate, own_settings
from tuner.training.task import Task

SGD = {"_target_": "torch.optim.SGD", "lr": 0.05}
STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
STOPPING = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
CHECKPOINT = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint"}
CSV = "lightning.pytorch.loggers.CSVLogger"


def target(name, **arguments):
    return {"_target_": f"{modules.__name__}.{name}", **arguments}


def built(folder="/nowhere", module=None, trainer=None, **nodes):
    config = {"module": module or target("Own"), "trainer": trainer or {}, **nodes}
    return build(Task(12, config, "val/loss", 0, str(folder)))


def test_lists_and_mappings_reach_the_objects_as_such():
    made = instantiate({"_target_": "builtins.dict", "sizes": [1, {"a": 2}]})
    assert type(made["sizes"]) is list
    assert type(made["sizes"][1]) is dict


def test_the_users_choice_of_convert_wins():
    made = instantiate({"_target_": "builtins.dict", "_convert_": "none", "sizes": [1]})
    assert type(made["sizes"]) is not list


@pytest.mark.parametrize("partial", [{}, {"_partial_": True}])
def test_optimizer_and_schedule_are_attached_where_the_module_has_none(partial):
    parts = built(module=target("Plain"), optimizer={**SGD, **partial}, schedule={**STEP, **partial})
    made = parts.module.configure_optimizers()
    assert made["optimizer"].param_groups[0]["lr"] == 0.05
    assert made["lr_scheduler"]["scheduler"].optimizer is made["optimizer"]
    assert set(made["lr_scheduler"]) == {"scheduler"}  # Lightning's default: after each epoch
    assert modules.Plain.configure_optimizers is pl.LightningModule.configure_optimizers


def test_frozen_parameters_stay_out_of_the_optimizer():
    parts = built(module=target("Plain"), optimizer=SGD)
    parts.module.head.requires_grad_(False)
    groups = parts.module.configure_optimizers().param_groups
    assert len(groups[0]["params"]) == len(list(parts.module.net.parameters()))


def test_a_schedule_per_step_is_written_as_lightnings_dictionary():
    parts = built(module=target("Plain"), optimizer=SGD, schedule={"scheduler": STEP, "interval": "step"})
    options = parts.module.configure_optimizers()["lr_scheduler"]
    assert options.pop("scheduler").step_size == 1
    assert options == {"interval": "step"}


@pytest.mark.parametrize(("options", "monitor"), [({}, "val/loss"), ({"monitor": "train/loss"}, "train/loss")])
def test_a_plateau_schedule_follows_the_objective_unless_told_otherwise(options, monitor):
    parts = built(module=target("Plain"), optimizer=SGD, schedule={"scheduler": PLATEAU, **options})
    assert parts.module.configure_optimizers()["lr_scheduler"]["monitor"] == monitor


def test_an_optimizer_that_the_module_would_ignore_is_refused():
    with pytest.raises(ConfigError) as caught:
        built(optimizer=SGD, schedule=STEP)
    assert [problem.key for problem in caught.value.problems] == ["optimizer", "schedule"]


@pytest.mark.parametrize(
    ("nodes", "key"),
    [
        ({"module": target("Data")}, "module"),
        ({"module": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}}, "module"),
        ({"data": target("Augmented")}, "data"),
        ({"trainer": {"enable_checkpointing": False, "callbacks": [CHECKPOINT]}}, "trainer.enable_checkpointing"),
    ],
)
def test_a_node_that_makes_something_else_is_refused(nodes, key):
    with pytest.raises(ConfigError) as caught:
        built(**nodes)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("node", "kinds"),
    [
        (None, []),
        ([STOPPING], [EarlyStopping]),
        ({"stop": STOPPING, "keep": CHECKPOINT, "off": None}, [EarlyStopping, ModelCheckpoint]),
        (STOPPING, [EarlyStopping]),
    ],
)
def test_callbacks_may_be_a_list_a_mapping_or_one_node(node, kinds):
    assert [type(callback) for callback in built(trainer={"callbacks": node}).callbacks] == kinds


@pytest.mark.parametrize(
    ("enable", "callbacks", "count"),
    [(None, [], 0), (False, [], 0), (True, [], 1), (True, [CHECKPOINT], 1), (None, [CHECKPOINT], 1)],
)
def test_checkpointing_is_off_unless_asked_for(enable, callbacks, count):
    trainer = {"enable_checkpointing": enable, "callbacks": callbacks}
    assert len(built(trainer=trainer).callbacks) == count


@pytest.mark.parametrize(
    ("given", "version", "folder"),
    [({}, 12, "here"), ({"version": "mine"}, "mine", "here"), ({"save_dir": "there"}, 12, "there")],
)
def test_a_logger_carries_the_trials_number(given, version, folder):
    (logger,) = built("here", trainer={"logger": {"_target_": CSV, **given}}).trainer["logger"]
    assert (logger.version, logger._root_dir) == (version, folder)


def test_loggers_may_be_several():
    node = {"_target_": CSV, "name": "a"}
    assert len(built(trainer={"logger": [node, node]}).trainer["logger"]) == 2
    assert len(built(trainer={"logger": {"a": node, "b": None}}).trainer["logger"]) == 1


def test_trainer_arguments_pass_through_and_tuners_own_do_not():
    node = {"max_epochs": 3, "divergence_factor": None, "weights_only": False, "profiler": target("Average")}
    arguments = built("here", trainer=node).trainer
    assert (arguments["max_epochs"], arguments["default_root_dir"], arguments["logger"]) == (3, "here", False)
    assert isinstance(arguments["profiler"], modules.Average)
    assert not {"divergence_factor", "weights_only", "callbacks"} & set(arguments)
    own = own_settings(Task(0, {"trainer": node}, "", 0, ""))
    assert (own.divergence_factor, own.weights_only) == (None, False)


def test_defaults_give_way_to_the_configuration():
    assert built(trainer={"enable_progress_bar": True}).trainer["enable_progress_bar"] is True


def test_weights_do_not_depend_on_the_data():
    weights = []
    for data in (None, target("loaders"), target("draw")):
        torch.manual_seed(1)
        weights.append(built(data=data).module.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("accelerator", "hardware", "precision"),
    [
        ("cpu", True, "bf16-mixed"),
        ("auto", True, "bf16-mixed"),
        ("cpu", False, "32-true"),
        ("mps", True, "32-true"),
    ],
)
def test_automatic_precision_is_what_the_hardware_multiplies(monkeypatch, accelerator, hardware, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: hardware)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parts = built(trainer={"precision": "auto", "accelerator": accelerator})
    assert parts.trainer["precision"] == precision
    assert built(trainer={"precision": "64-true"}).trainer["precision"] == "64-true"


def test_channels_last_lays_out_the_weights_and_changes_no_value():
    torch.manual_seed(0)
    plain = built(module=target("Convolution")).module.part.weight
    torch.manual_seed(0)
    laid_out = built(module=target("Convolution"), trainer={"channels_last": True}).module
    assert laid_out.part.weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(laid_out.part.weight, plain)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_compile_goes_through_the_parts_that_a_step_calls():
    module = built(trainer={"compile": True}).module
    assert all(part._compiled_call_impl is not None for part in module.children())
    assert all(part._compiled_call_impl is None for part in built().module.children())
