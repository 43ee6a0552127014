"""Good configurations: what they become, what their identity is, and how a trial's values get into the nodes."""

import inspect

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tuner.config import load
from tuner.config.compose import choices, shipped_folder
from tuner.config.identity import changes, data_version, digest
from tuner.config.schema import TRAINER_ARGUMENTS
from tuner.config.targets import code_of, missing
from tuner.space import Categorical

STUDY = """
# @package _global_
name: mine
module:
  _target_: modules_for_config.Net
  width: 8
  schedule: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 2, gamma: 0.5}
  optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 0.1, betas: [0.9, 0.999]}
  head: {width: "${module.width}"}
data: {_target_: modules_for_config.loaders, batch_size: 64, root: "${oc.env:NOWHERE_SET,data}"}
objective: {metric: val/loss, direction: minimize}
space:
  lr: {kind: log_uniform, low: 1e-3, high: 1, path: module.optimizer.lr, scale_with: {parameter: batch_size, reference: 32, rule: linear}}
  beta1: {kind: one_minus_pow10, low: 0.8, high: 0.99, path: module.optimizer.betas.0, tier: 2}
  width: {kind: int, low: 4, high: 32, path: module.width, tier: 2}
  batch_size: {kind: categorical, choices: [64, 16, 32], path: data.batch_size, tier: 2}
  schedule:
    kind: categorical
    path: module.schedule
    tier: 3
    choices:
      step: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 2, gamma: 0.5}
      cosine: {_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true, T_max: 7}
      onecycle: {_target_: torch.optim.lr_scheduler.OneCycleLR, _partial_: true, max_lr: "${module.optimizer.lr}"}
      constant: null
  gamma: {kind: uniform, low: 0.1, high: 0.9, path: module.schedule.gamma, tier: 3, when: {schedule: step}}
trainer: {max_epochs: 4}
search: {trials: 7}
"""
CODE = "class Net:\n    pass\n\n\ndef loaders():\n    return None, None\n"


@pytest.fixture
def config_dir(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(STUDY.lstrip())
    (tmp_path / "modules_for_config.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def loaded(config_dir):
    return lambda *overrides: load(["study=mine", *overrides], config_dir=str(config_dir))


def test_a_study_changes_the_groups_and_the_command_line_changes_the_study(loaded):
    assert loaded().search.trials == 7
    assert (
        loaded("search.trials=9", "search.budget=null").search
        == loaded("search.trials=9", "++search.budget=null").search
    )
    assert loaded("search=random", "search.timeout=5").search.timeout_s == 5
    assert loaded("search=tpe").pruner.rule == "none", "TPE learns from finished trials, so none is paused"
    assert loaded("search=tpe", "pruner=median").pruner.name == "MedianPruner"
    assert loaded("trainer.deterministic=true").study.nodes.plain()["trainer"]["deterministic"] is True


def test_numeric_choices_are_sorted(loaded):
    assert loaded().study.space["batch_size"].scale == Categorical((16, 32, 64))


def test_a_larger_batch_or_width_needs_memory_and_a_learning_rate_does_not(loaded):
    space = loaded().study.space
    assert {parameter.name for parameter in space if parameter.memory} == {"batch_size", "width"}
    assert not any(
        parameter.memory
        for parameter in loaded("space.width.memory=false", "space.batch_size.memory=false").study.space
    )


def test_values_are_written_to_their_paths_and_interpolations_follow(loaded):
    study = loaded().study
    values = {"lr": 0.02, "beta1": 0.95, "width": 16, "batch_size": 16, "schedule": "step", "gamma": 0.3}
    plain = study.nodes.plain(values, study.space)
    assert plain["module"]["optimizer"] == {
        "_target_": "torch.optim.Adam",
        "_partial_": True,
        "lr": 0.02,
        "betas": [0.95, 0.999],
    }
    assert plain["module"]["width"] == 16
    assert plain["module"]["head"]["width"] == 16, "an interpolation follows the value that is tuned"
    assert plain["module"]["schedule"]["gamma"] == 0.3
    assert plain["data"] == {"_target_": "modules_for_config.loaders", "batch_size": 16, "root": "data"}
    assert study.nodes.plain()["module"]["width"] == 8, "the nodes themselves stay as they are"


def test_a_labelled_choice_takes_the_place_of_the_whole_node(loaded):
    study = loaded().study
    plain = study.nodes.plain({"schedule": "cosine"}, study.space)
    assert plain["module"]["schedule"] == {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "_partial_": True,
        "T_max": 7,
    }
    assert study.nodes.plain({"schedule": "constant"}, study.space)["module"]["schedule"] is None


def test_an_interpolation_in_a_labelled_choice_follows_the_value_that_is_tuned(loaded):
    study = loaded().study
    plain = study.nodes.plain({"lr": 0.02, "schedule": "onecycle"}, study.space)
    assert plain["module"]["schedule"]["max_lr"] == 0.02


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant", "onecycle"])
def test_a_champions_overrides_give_its_nodes_when_pasted(loaded, schedule):
    study = loaded().study
    values = study.space.active(
        {"lr": 0.02, "beta1": 0.95, "width": 16, "batch_size": 16, "schedule": schedule, "gamma": 0.5}
    )
    lines = study.nodes.overrides(values, study.space)
    assert loaded(*lines).study.nodes.plain() == study.nodes.plain(values, study.space)


def test_any_pruner_of_optuna_is_taken_by_its_target(loaded):
    settings = loaded("pruner._target_=optuna.pruners.PercentilePruner", "pruner.percentile=25.0")
    assert settings.pruner.rule == {"_target_": "optuna.pruners.PercentilePruner", "percentile": 25.0}


def test_a_label_stands_for_a_node_whose_tuned_values_differ(loaded):
    study = loaded("module.schedule.gamma=0.7").study
    assert study.nodes.own_value(study.space["schedule"], study.space) == "step"


def test_the_studys_own_values_are_known_as_they_would_be_drawn(loaded):
    study = loaded().study
    own = {parameter.name: study.nodes.own_value(parameter, study.space) for parameter in study.space}
    assert own == {"lr": 0.1, "beta1": 0.9, "width": 8, "batch_size": 64, "schedule": "step", "gamma": 0.5}
    assert study.space.drawn(own)["lr"] == 0.05, "0.1 at batch size 64 is 0.05 at the reference of 32"


ESSENTIAL = [
    "space.lr.high=0.5",
    "module.head.width=3",
    "data.batch_size=32",
    "trainer.max_epochs=5",
    "seed=1",
    "search=random",
    "objective.metric=val/acc",
    "pruner=none",
    "search.screen=false",
    "+trainer.precision=16",
]
UNESSENTIAL = [
    "data.root=/elsewhere",
    "launcher.workers=3",
    "store.folder=elsewhere",
    "search.trials=70",
    "search.budget=3",
    "search.timeout=9",
    "trainer.enable_progress_bar=true",
    "trainer.logger=true",
    "dashboard.port=9",
]


@pytest.mark.parametrize("override", ESSENTIAL)
def test_what_changes_the_result_changes_the_identity_and_is_named(loaded, override):
    before, after = loaded().identity, loaded(override).identity
    assert digest(before) != digest(after)
    key = override.partition("=")[0].lstrip("+")
    assert any(key in change for change in changes(before, after))


@pytest.mark.parametrize("override", UNESSENTIAL)
def test_places_speed_and_budgets_are_no_part_of_the_identity(loaded, override):
    assert digest(loaded().identity) == digest(loaded(override).identity)


def test_changed_code_is_another_identity_and_changed_comments_are_not(loaded, config_dir):
    before = loaded().identity
    file = config_dir / "modules_for_config.py"
    file.write_text("# a remark\n" + CODE)
    assert digest(loaded().identity) == digest(before)
    file.write_text(CODE.replace("None, None", "None, 1"))
    after = loaded().identity
    assert digest(after) != digest(before)
    assert changes(before, after) == ["the code of modules_for_config"]


def test_the_data_version_follows_the_data_and_not_the_module(loaded):
    versions = [data_version(loaded(*words).identity) for words in ([], ["module.width=9"], ["data.batch_size=32"])]
    assert versions[0] == versions[1] != versions[2]


def test_the_trainers_arguments_are_those_of_lightning():
    from lightning import Trainer

    assert set(inspect.signature(Trainer).parameters) == TRAINER_ARGUMENTS


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.SGD",
        "torch.nn.Linear",
        "optuna.samplers.TPESampler",
        "collections.OrderedDict",
        "math.sqrt",
        "lightning.pytorch.callbacks.EarlyStopping",
        "studies.digits.MLP",
    ],
)
def test_what_can_be_imported_is_not_called_missing(target):
    assert missing(target) is None


def test_installed_libraries_are_no_part_of_a_studys_code():
    assert code_of("torch.nn.Linear") == {}
    assert list(code_of("studies.digits.MLP")) == ["studies.digits"]


def test_a_users_file_stands_before_a_shipped_one_of_the_same_name(config_dir):
    mine = STUDY.replace("name: mine", "name: digits").lstrip()
    (config_dir / "study" / "digits.yaml").write_text(mine)
    assert load(["study=digits"], config_dir=str(config_dir)).study.objective.metric == "val/loss"


def test_every_choice_that_is_shipped_composes(monkeypatch):
    monkeypatch.setenv("TUNER_DATABASE_URL", "postgresql://ada@localhost/tuner")
    for group in ("search", "pruner", "launcher", "store", "trainer"):
        for choice in choices(group, [shipped_folder()]):
            load(["study=digits", f"{group}={choice}"])


def test_the_composed_file_is_what_hydra_itself_composes(loaded):
    """Our way round Hydra's entry point changes nothing of what it would compose."""
    with initialize_config_dir(str(shipped_folder()), version_base="1.3"):
        config = compose("config", ["study=digits", "seed=3"])
    assert (
        OmegaConf.to_container(config.module, resolve=True)
        == load(["study=digits", "seed=3"]).study.nodes.plain()["module"]
    )


def test_a_whole_schedule_may_be_a_choice(config_dir):
    choice = "{_target_: torch.optim.lr_scheduler.ExponentialLR, _partial_: true, gamma: 0.9}"
    word = "+space.schedule={kind: categorical, path: schedule, choices: {none: null, exponential: " + choice + "}}"
    study = load(["study=digits", word], config_dir=str(config_dir)).study
    assert study.nodes.plain({"schedule": "none"}, study.space)["schedule"] is None
    assert study.nodes.plain({"schedule": "exponential"}, study.space)["schedule"]["gamma"] == 0.9
