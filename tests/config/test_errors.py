"""Mistakes in a configuration: each names the key, the rule, the value and what to write."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuner.config import load
from tuner.errors import ConfigError

STUDY = """
# @package _global_
name: mine
module: {_target_: studies.digits.MLP, hidden: 32, optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 0.1, momentum: 0.9}}
data: {_target_: studies.digits.Digits, batch_size: 64}
objective: {metric: val/acc, direction: maximize}
space:
  lr: {kind: log_uniform, low: 1.0e-3, high: 1.0, path: module.optimizer.lr, tier: 1}
  momentum: {kind: one_minus_pow10, low: 0.9, high: 0.999, path: module.optimizer.momentum, tier: 2}
  batch_size: {kind: categorical, choices: [32, 64], path: data.batch_size, tier: 2}
  hidden: {kind: log_int, low: 16, high: 128, path: module.hidden, tier: 2}
trainer: {max_epochs: 4}
"""


@pytest.fixture
def config_dir(tmp_path: Path) -> str:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(STUDY.lstrip())
    return str(tmp_path)


def problems(config_dir: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(["study=mine", *overrides], config_dir=config_dir)
    return [str(problem) for problem in caught.value.problems]


# (override, what the message must name)
MISTAKES = [
    ("space.lr.low=2", ["space.lr.low", "below high", "low=2", "low=1 high=2"]),
    ("space.lr.low=1", ["space.lr.low", "below high", "Widen"]),
    ("space.lr.low=0", ["space.lr.low", "above 0 on a log scale", "0.0", "1.0e-6"]),
    ("space.hidden.low=0", ["space.hidden.low", "above 0 on a log scale"]),
    ("space.hidden.low=1.5", ["space.hidden.low", "whole number", "1.5"]),
    ("space.momentum.high=1.0", ["space.momentum.high", "between 0 and 1", "1.0", "0.999"]),
    ("space.momentum.low=0", ["space.momentum.low", "between 0 and 1"]),
    ("space.lr.kind=loguniform", ["space.lr.kind", "loguniform", "Did you mean log_uniform"]),
    ("space.lr.path=module.optimiser.lr", ["space.lr.path", "module has no optimiser", "Did you mean optimizer"]),
    ("space.lr.path=modul.lr", ["space.lr.path", "is a key below one of module, data"]),
    ("space.lr.path=trainer.max_epochs", ["space.lr.path", "trainer.max_epochs", "same for every trial"]),
    ("space.lr.tier=4", ["space.lr.tier", "1, 2 or 3", "4"]),
    ("space.lr.limit=[0.01,1]", ["space.lr.limit", "encloses the range", "[0.01, 1.0]"]),
    ("space.lr.when={batch: 32}", ["space.lr.when", "another parameter", "batch", "Did you mean batch_size"]),
    ("space.lr.when={batch_size: 33}", ["space.lr.when", "a value that batch_size can have", "33", "32, 64"]),
    ("space.lr.scale_with={parameter: batch_size, reference: 0}", ["space.lr.scale_with.reference", "positive"]),
    ("space.lr.scale_with={parameter: batch_size, reference: 64, rule: cubic}", ["space.lr.scale_with.rule", "cubic"]),
    ("space.batch_size.choices=[]", ["space.batch_size.choices", "list of values"]),
    ("space.batch_size.choices=[32,32]", ["space.batch_size.choices", "each value once"]),
    ("space.batch_size.low=3", ["space.batch_size.low", "does not go with kind categorical"]),
    ("space.lr.hgih=3", ["space.lr.hgih", "Did you mean high"]),
    (
        "+space.beta={kind: uniform, low: 0, high: 1, path: module.optimizer.lr}",
        ["space.beta.path", "space.lr has it too"],
    ),
    ("objective.direction=up", ["objective.direction", "minimize or maximize", "'up'"]),
    ("objective.direction=maximise", ["objective.direction", "Did you mean maximize"]),
    ("objective.metric=null", ["objective.metric", "is a metric"]),
    ("search.trials=0", ["search.trials", "at least 1", "got 0"]),
    ("search.budget=-1", ["search.budget", "above 0"]),
    ("search.budget=null", ["search.budget", "search.trials", "search.timeout"]),
    ("search.draws=corse_to_fine", ["search.draws", "Did you mean coarse_to_fine"]),
    ("search.draws={_target_: optuna.samplers.TPESampllr}", ["search.draws._target_", "Did you mean TPESampler"]),
    ("search.screen=7", ["search.screen", "true or false"]),
    ("pruner.eta=1", ["pruner.eta", "at least 2"]),
    ("pruner.first_rung=1.5", ["pruner.first_rung", "between 0 and 1"]),
    ("pruner.baseline=3", ["pruner.baseline", "is true or false"]),
    ("trainer.max_epochs=0", ["trainer.max_epochs", "at least 1"]),
    ("trainer.max_epoch=3", ["trainer.max_epoch", "Did you mean max_epochs"]),
    ("trainer.callbacks=EarlyStopping", ["trainer.callbacks", "nodes with _target_", "'EarlyStopping'"]),
    ("trainer.logger=csv", ["trainer.logger", "nodes with _target_", "CSVLogger"]),
    (
        "store=postgresql",
        ["store.url", "environment variable TUNER_DATABASE_URL", "export TUNER_DATABASE_URL=", "store.url="],
    ),
    ("data.batch_size=${nothing}", ["data.batch_size", "can be resolved", "nothing"]),
    ("launcher.devices_per_trial=0", ["launcher.devices_per_trial", "at least 1"]),
    ("launcher.devices_per_trial=most", ["launcher.devices_per_trial", "at least 1"]),
    ("launcher.silent_after_s=0", ["launcher.silent_after_s", "above 0"]),
    ("launcher.takeover=perhaps", ["launcher.takeover", "true or false"]),
    ("trainer.checkpoint_every_s=-1", ["trainer.checkpoint_every_s", "above 0"]),
    ("store.keep_checkpoints=-1", ["store.keep_checkpoints", "at least 0"]),
    ("trainer.devices=2", ["trainer.devices", "one device for each trial", "launcher.devices_per_trial"]),
    ("~space", ["space", "at least one parameter"]),
    ("~name", ["name", "name: NAME"]),
    ("pruner.etaa=3", ["pruner.etaa", "Did you mean eta"]),
    ("trainer.callbacks=[7]", ["trainer.callbacks", "nodes with _target_", "7"]),
    ("trainr.max_epochs=3", ["trainr", "Did you mean trainer"]),
    ("module.hiden=3", ["module.hiden", "Did you mean hidden", "+module.hiden=3"]),
    ("module._target_=studies.digits.MPL", ["module._target_", "Did you mean MLP"]),
    ("module._target_=nowhere.MLP", ["module._target_", "nowhere", "PYTHONPATH"]),
    ("optimizer={lr: 1}", ["optimizer._target_", "dotted path", "None"]),
    ("module.optimizer._target_=torch.optim.SDG", ["module.optimizer._target_", "Did you mean SGD"]),
    ("launcher.workers=0", ["launcher.workers", "at least 1"]),
    ("seed=-1", ["seed", "at least 0"]),
    ("search=rndom", ["search", "random", "Did you mean search=random"]),
    ("pruner=meridian", ["pruner", "median"]),
    ("module.hidden=1,2", ["module.hidden", "one value", "choices: [1,2]"]),
    ("module.hidden=${nowhere}", ["nowhere"]),
    ("nonsense here", ["nonsense here", "KEY=VALUE"]),
]


@pytest.mark.parametrize(("override", "named"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_a_mistake_is_told_with_key_rule_value_and_remedy(config_dir, override, named):
    told = problems(config_dir, override)
    assert len(told) == 1, told
    for part in named:
        assert part in told[0]


@pytest.mark.parametrize("option", ["barrier", "expand"])
@pytest.mark.parametrize("search", ["search=random", "search=tpe"])
def test_what_only_stages_have_is_no_option_of_other_searches(config_dir, search, option):
    (told,) = problems(config_dir, search, f"search.{option}=true")
    assert f"search.{option}: is for searches in stages: coarse_to_fine, tiered; got True" in told
    assert f"search.{option}=false, or search=coarse_to_fine" in told


def test_an_unknown_study_names_the_studies_there_are(config_dir):
    with pytest.raises(ConfigError) as caught:
        load(["study=cifra"], config_dir=config_dir)
    assert "digits" in str(caught.value)
    assert "mine" in str(caught.value)


def test_a_study_is_asked_for_where_none_is_given(config_dir):
    with pytest.raises(ConfigError, match=r"study: is one of: .*mine"):
        load([], config_dir=config_dir)


def test_all_problems_are_told_at_once(config_dir):
    told = problems(
        config_dir, "space.lr.low=0", "space.lr.path=module.nowhere", "objective.direction=up", "search.trials=0"
    )
    assert [line.partition(":")[0] for line in told] == [
        "space.lr.low",
        "space.lr.path",
        "objective.direction",
        "search.trials",
    ]
    told = problems(config_dir, "trainer.max_epoch=3", "module.hiden=3", "nonsense.key=1")
    assert [line.partition(":")[0] for line in told] == ["trainer.max_epoch", "module.hiden", "nonsense.key"]


def test_a_study_without_parameters_is_none(config_dir):
    names = ("lr", "momentum", "batch_size", "hidden")
    (told,) = problems(config_dir, *(f"~space.{name}" for name in names))
    assert "space: has at least one parameter" in told


def test_a_missing_config_dir_and_a_broken_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match="--config-dir: is a folder that exists; got 'nowhere'"):
        load(["study=digits"], config_dir="nowhere")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "broken.yaml").write_text("# @package _global_\nname: [1, 2\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load(["study=broken"], config_dir=str(tmp_path))


def test_a_path_into_a_labelled_choice_is_a_key_of_that_choice(config_dir):
    choice = "+module.schedule=null"
    labelled = (
        "+space.schedule={kind: categorical, path: module.schedule, choices: {constant: null, "
        "step: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 2, gamma: 0.5}}}"
    )
    gamma = "+space.gamma={kind: uniform, low: 0.1, high: 0.9, path: module.schedule.gamma, when: {schedule: step}}"
    load(["study=mine", choice, labelled, gamma], config_dir=config_dir)
    (told,) = problems(config_dir, choice, labelled, gamma.replace("schedule.gamma", "schedule.gama"))
    assert "Did you mean gamma" in told


def test_a_path_that_only_some_choices_have_needs_a_when(config_dir):
    labelled = (
        "+space.schedule={kind: categorical, path: module.schedule, choices: {constant: null, "
        "step: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 2, gamma: 0.5}, "
        "exp: {_target_: torch.optim.lr_scheduler.ExponentialLR, _partial_: true, gamma: 0.5}}}"
    )
    gamma = "+space.gamma={kind: uniform, low: 0.1, high: 0.9, path: module.schedule.gamma%s}"
    for when in ("", ", when: {schedule: [constant, step]}"):
        (told,) = problems(config_dir, "+module.schedule=null", labelled, gamma % when)
        assert "space.gamma.path" in told
        assert "when: {schedule: [" in told
    load(
        ["study=mine", "+module.schedule=null", labelled, gamma % ", when: {schedule: [exp, step]}"],
        config_dir=config_dir,
    )


@pytest.mark.parametrize("mistake", ["study=cifra", "space.lr.low=0", "trainer.max_epoch=1"])
def test_the_command_line_leaves_with_2_without_a_traceback_and_without_torch(config_dir, mistake):
    study = [] if mistake.startswith("study") else ["study=mine"]
    script = (
        "import sys; from tuner.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'optuna'} & set(sys.modules); sys.exit(99 if heavy else code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *study, mistake, "--config-dir", config_dir],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not ran.stdout
