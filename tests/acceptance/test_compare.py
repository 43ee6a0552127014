"""`tuner compare` as a user runs it, and what it refuses before any work."""

import csv
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rounds import interrupted, start, tune, write_study

from tuner.cli import main
from tuner.commands.choices import plan
from tuner.commands.compare import _command
from tuner.commands.values import values_at
from tuner.config import load
from tuner.errors import ConfigError

TESTS = str(Path(__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": TESTS}


def rows(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_the_schedules_of_the_quadratic_study(workdir, capsys):
    """Time-based at its best rate is there within 10 epochs, where the fixed small rate needs 50 or more."""
    assert main(["compare", "study=quadratic", "over=schedule", "seeds=3"]) == 0
    out, err = capsys.readouterr()
    assert len([line for line in err.splitlines() if line.startswith("training ")]) == 9
    assert "The target, val/distance ≤ 0.01, is the one that compare.target gives." in out
    folder = workdir / "runs/quadratic-compare-schedule"
    epochs = {}
    for row in rows(folder / "trainings.csv"):
        epochs.setdefault(row["choice"], []).append(float(row["epochs_to_target"]))
    assert list(epochs) == ["fixed", "time_based", "gradient_based"]
    assert max(epochs["time_based"]) <= 10
    assert min(epochs["fixed"]) >= 50
    assert max(epochs["gradient_based"]) < min(epochs["fixed"])
    assert len(rows(folder / "curves.csv")) == 9 * 100
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "index.html").read_text()
    assert all(part in page for part in ("data:image/png;base64", "time_based", "0 to 2, the same for each", "torch 2"))
    assert not list(folder.glob(".*"))


def test_seeds_are_the_same_for_each_choice_and_the_curves_are_those_of_the_seed(workdir, capsys):
    conf = str(write_study(workdir))
    words = ["compare", "study=line", "over=lr", "choices=[0.01,0.1]", "seeds=2", "seed=5", "--config-dir", conf]
    assert main([*words, "launcher.workers=2", "folder=first"]) == 0
    assert main([*words, "launcher.workers=1", "folder=second"]) == 0
    assert [row["seed"] for row in rows(workdir / "first/trainings.csv")] == ["5", "5", "6", "6"]
    assert (workdir / "first/curves.csv").read_text() == (workdir / "second/curves.csv").read_text()
    assert "0.1 is better than 0.01" in capsys.readouterr().out
    assert not (workdir / "runs/tuner.db").exists(), "no database is made for a comparison"


def test_what_diverges_or_raises_is_counted_and_the_rest_is_compared(workdir, capsys):
    conf = str(write_study(workdir))
    words = ["compare", "study=line", "over=mode", "choices=[good,diverge,raise]", "seeds=2", "--config-dir", conf]
    assert main(words) == 1, "one choice has nothing but crashes"
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["diverge", "no", "complete", "training", "never", "(2", "of", "2", "never)", "2", "0", "no", "pair"] in [
        cells[:13] for cells in lines
    ]
    assert "diverge cannot be compared with good" in out
    assert "diverge has no complete training (2 diverged); the first: training loss is nan" in out
    assert "raise has no complete training (2 crashed); the first: ValueError: what a pity." in out
    assert re.search(r"The target, val/loss ≤ \S+, is the mean that the first choice, good, reaches in the end", out)
    assert "Every training of raise crashed" in err
    assert err.count("Traceback (most recent call last)") == 1
    assert "raise has no complete training" in (workdir / "runs/line-compare-module.mode/index.html").read_text()
    counts = {row["choice"]: row["outcome"] for row in rows(workdir / "runs/line-compare-module.mode/trainings.csv")}
    assert counts == {"good": "complete", "diverge": "diverged", "raise": "crashed"}


def test_a_choice_that_diverges_is_a_result_and_no_failure(workdir, capsys):
    conf = str(write_study(workdir))
    words = ["compare", "study=line", "over=mode", "choices=[diverge,good]", "seeds=1", "--config-dir", conf]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "There is no target: diverge, whose mean it would be, has no complete training. target=VALUE" in out
    assert "diverge has no complete training (1 diverged)" in out


def test_a_training_whose_worker_is_killed_starts_again_and_its_curve_is_that_of_one_training(workdir, capsys):
    conf = str(write_study(workdir, data={"batch_size": 64}))  # one step an epoch: two are measured before it is killed
    words = ["compare", "study=line", "over=mode", "choices=[killed once,good]", "seeds=1", "--config-dir", conf]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "module.mode=killed once seed 0: the worker died: ended by SIGKILL" in err
    assert "retry 1 of 2" in err
    assert "good is the same as killed once" in out
    curves = {}
    for row in rows(workdir / "runs/line-compare-module.mode/curves.csv"):
        curves.setdefault(row["choice"], []).append((row["epoch"], row["value"]))
    assert len(curves["good"]) == 4
    assert curves["killed once"] == curves["good"]


def test_without_a_complete_training_it_fails_with_the_reason(workdir, capsys):
    conf = str(write_study(workdir))
    words = ["compare", "study=line", "over=lr", "choices=[0.01,0.1]", "seeds=1", "module.mode=raise"]
    assert main([*words, "--config-dir", conf]) == 1
    told = capsys.readouterr()
    assert "No training is complete: ValueError: what a pity" in told.err
    assert told.err.count("Traceback (most recent call last)") == 1
    assert not told.out


def test_a_metric_that_is_not_logged_is_told_after_the_first_training(workdir, capsys):
    conf = str(write_study(workdir))
    words = ["compare", "study=line", "over=lr", "choices=[0.01,0.1]", "objective.metric=val/lost"]
    assert main([*words, "--config-dir", conf]) == 2
    assert "val/lost is not logged; the module logs val/loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "compare.over: is a parameter or a path"),
        (["over=nothing"], "compare.over: is a parameter of the space, or a path"),
        (["over=shedule"], "Did you mean schedule"),
        (["over=lr"], "compare.choices: must be given"),
        (["over=lr", "choices=[0.1,fast]"], "compare.choices: are numbers"),
        (["over=lr", "choices=[0.1,-1]"], "compare.choices: are above 0"),
        (["over=momentum", "choices=[0.9,1.0]"], "lie between 0 and 1"),
        (["over=layers", "choices=[1,1.5]"], "are whole numbers"),
        (["over=batch_size", "choices=[64,65]"], "are choices of batch_size; got 65. It has 16, 32"),
        (["over=schedule", "choices=[constant,cosinus]"], "are choices of schedule"),
        (["over=schedule", "choices=[constant,constant]"], "names each choice once"),
        (["over=lr", "choices=[0.1]"], "is a list of at least two"),
        (["over=lr", "choices={slow: 0.1}"], "or a mapping of their labels"),
        (["over=optimizer", "choices=[{_target_: torch.optim.SGDD},{_target_: torch.optim.Adam}]"], "no SGDD"),
        (["over=trainer.devices", "choices=[1,2]"], "can differ between trainings"),
        (["over=schedule", "at=champion"], "has no champion"),
        (["ovr=schedule"], "ovr: is a key of the configuration; got 'ovr'. Did you mean over"),
        (["over=schedule", "sedes=2"], "Did you mean seeds"),
        (["over=schedule", "split=train"], "It is a key of tuner train."),
        (["over=schedule", "seeds=0"], "compare.seeds"),
    ],
)
def test_mistakes_are_told_before_any_work(workdir, capsys, words, said):
    assert main(["compare", "study=digits", *words]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out
    assert not (workdir / "runs").exists()


def planned(*words):
    settings = load(["study=digits", *words])
    return plan(settings, settings.study)


@pytest.mark.parametrize(
    ("words", "name", "labels"),
    [
        (["over=schedule"], "schedule", ["constant", "cosine", "exponential"]),
        (["over=module.schedule"], "schedule", ["constant", "cosine", "exponential"]),
        (["over=module.optimizer.lr", "choices=[0.1,2]"], "lr", ["0.1", "2"]),  # the range may be left
        (["over=nesterov", "choices=[true,false]"], "module.optimizer.nesterov", ["true", "false"]),
        (["over=trainer.gradient_clip_val", "choices=[null,1.0]"], "trainer.gradient_clip_val", ["null", "1.0"]),
        (["over=split_seed", "+data.split_seed=0", "choices=[0,1]"], "data.split_seed", ["0", "1"]),
    ],
)
def test_what_is_compared_is_found_by_its_name_or_path(workdir, words, name, labels):
    words = [f"compare.{word}" if word.startswith(("over", "choices")) else word for word in words]
    over, choices, whose = planned(*words)
    assert over.name == name
    assert [choice.label for choice in choices] == labels
    assert whose == "the study's own values"


def test_optimizers_are_compared_as_they_are_written(workdir):
    nodes = "[{_target_: torch.optim.SGD, _partial_: true, lr: 0.3},{_target_: torch.optim.Adam, _partial_: true}]"
    _, (sgd, adam), _ = planned("compare.over=optimizer", f"compare.choices={nodes}")
    assert (sgd.label, adam.label) == ("SGD", "Adam")
    assert adam.config["module"]["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True}
    assert sgd.config["module"]["optimizer"]["lr"] == 0.3
    _, same, _ = planned("compare.over=optimizer", f"compare.choices={nodes.replace('Adam', 'SGD')}")
    assert [choice.label for choice in same] == ["SGD(lr=0.3)", "SGD"]


COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "_partial_": True, "T_max": 3}


def labelled(over, choices, *words):
    """The plan of choices that are a mapping from labels to values or nodes."""
    settings = load(["study=digits", f"compare.over={over}", *words])
    return plan(replace(settings, compare=replace(settings.compare, choices=choices)), settings.study)


def test_labels_of_the_command_line_stand_for_nodes_as_those_of_a_space_do(workdir):
    over, choices, _ = labelled("schedule", {"none": None, "short": COSINE})
    assert over.name == "schedule"
    assert {choice.label: choice.config["module"]["schedule"] for choice in choices} == {"none": None, "short": COSINE}
    over, (low, high), _ = labelled("module.optimizer.nesterov", {"with": True, "without": False})
    assert over.name == "module.optimizer.nesterov"
    assert [(one.label, one.config["module"]["optimizer"]["nesterov"]) for one in (low, high)] == [
        ("with", True),
        ("without", False),
    ]


def test_labels_may_stand_for_plain_values_of_a_parameter_and_what_scales_with_it_follows(workdir):
    scaled = "++space.lr.scale_with={parameter: batch_size, reference: 128, rule: linear}"
    _, choices, _ = labelled("batch_size", {"small": 32, "large": 128}, scaled)
    assert [choice.label for choice in choices] == ["small", "large"]
    rates = [choice.config["module"]["optimizer"]["lr"] for choice in choices]
    assert rates == pytest.approx([0.1 * 32 / 64, 0.1 * 128 / 64])


def test_labels_are_written_on_the_command_line_as_in_a_space(workdir):
    nodes = "{none: null, cosine: {_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true, T_max: 3}}"
    _, choices, _ = planned("compare.over=schedule", f"compare.choices={nodes}")
    assert {choice.label: choice.config["module"]["schedule"] for choice in choices} == {"none": None, "cosine": COSINE}


@pytest.mark.parametrize(
    ("over", "choices", "said"),
    [
        ("schedule", {"a": None, "b": {**COSINE, "_target_": "torch.optim.lr_scheduler.CosinLR"}}, "no CosinLR"),
        ("schedule", {"a": None, "b": "cosine"}, "are nodes or null where they have new labels"),
        ("schedule", {"a": COSINE, "b": COSINE}, "names each choice once"),
        ("lr", {"a": 0.1, "b": -1}, "are above 0"),
        ("batch_size", {"a": 64, "b": 65}, "are choices of batch_size"),
    ],
)
def test_labelled_choices_are_checked_as_a_list_is(workdir, over, choices, said):
    with pytest.raises(ConfigError, match=said):
        labelled(over, choices)


def test_only_what_is_compared_differs(workdir):
    _, choices, _ = planned("compare.over=hidden", "compare.choices=[16,32]")
    configs = [choice.config for choice in choices]
    assert [config["module"].pop("hidden") for config in configs] == [16, 32]
    assert configs[0] == configs[1]


def test_a_learning_rate_that_scales_with_the_batch_size_follows_it(workdir):
    scaled = "++space.lr.scale_with={parameter: batch_size, reference: 128, rule: linear}"
    _, choices, _ = planned("compare.over=batch_size", "compare.choices=[32,128]", scaled)
    rates = [choice.config["module"]["optimizer"]["lr"] for choice in choices]
    assert rates == pytest.approx([0.1 * 32 / 64, 0.1 * 128 / 64])  # 0.1 is the study's own, at its batch size of 64
    _, choices, _ = planned("compare.over=batch_size", "compare.choices=[32,128]")
    assert {choice.config["module"]["optimizer"]["lr"] for choice in choices} == {0.1}


def test_interpolations_follow_what_is_compared(workdir):
    _, (short, long), _ = planned("compare.over=trainer.max_epochs", "compare.choices=[2,4]")
    assert (short.config["module"]["schedule"]["T_max"], long.config["module"]["schedule"]["T_max"]) == (2, 4)


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:se@cret@host/db", "postgresql://me:secret@host:1/db"])
def test_the_command_on_the_page_has_no_password(monkeypatch, url):
    settings = load(["study=digits"])
    monkeypatch.setattr("sys.argv", ["/usr/bin/tuner", "compare", "study=digits", f'store.url="{url}"', "over=lr"])
    shown = _command(settings, settings.study)
    assert shown.startswith("python -m tuner compare study=digits 'store.url=")
    assert shown.endswith(" over=lr")
    assert "cret" not in shown
    assert "//***@host" in shown


# -- at the champion --------------------------------------------------------------------------------------------


def test_all_else_is_at_the_champions_values_and_what_its_choice_switches_off_is_gone(workdir, capsys):
    small = ["study=quadratic", "trainer.max_epochs=4", "search.trials=12", "launcher.workers=1"]
    assert main(small) == 0
    assert main(["champion", *small]) == 0
    document = yaml.safe_load(capsys.readouterr().out.rpartition("\nstudy:")[2].join(["study:", ""]))
    params = document["params"]
    settings = load([*small, "compare.over=schedule"])
    values, whose = values_at(settings, settings.study, None)
    assert values == params
    assert whose == f"the champion of quadratic-1, trial {document['trial']}"
    assert values_at(settings, settings.study, "defaults")[0] == {}
    _, choices, _ = plan(settings, settings.study)
    rates = {choice.label: choice.config["module"]["rate"] for choice in choices}
    assert rates["fixed"]["lr"] == 0.03
    won = params["schedule"]
    if won != "fixed":
        assert rates[won]["lr"] == params[f"{won}_lr"]

    # Nodes of the command line take the place of what the champion has there, and of what was tuned inside it.
    own = settings.study.space["schedule"].nodes["fixed"]
    mapped = replace(settings, compare=replace(settings.compare, choices={"slow": {**own, "lr": 0.01}, "usual": own}))
    _, choices, _ = plan(mapped, mapped.study)
    assert [choice.config["module"]["rate"]["lr"] for choice in choices] == [0.01, 0.03]

    # Another configuration has no round of its own: the latest champion stands in, and what has changed is said, as
    # far as it matters to a training.
    searched = ["search.elites=3", "search=random", "pruner=none", "seed=1", "space.decay.high=3.0"]
    other = load([*small, "trainer.max_epochs=5", *searched])
    assert values_at(other, other.study, None)[0] == params
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("changed since then: trainer.max_epochs: 4 → 5")
    other = load([*small, *searched])
    assert values_at(other, other.study, None)[0] == params
    assert not capsys.readouterr().err
    many = ["max_steps", "min_steps", "min_epochs", "limit_val_batches", "limit_train_batches", "gradient_clip_val"]
    other = load([*small, *(f"trainer.{key}=3" for key in many)])
    values_at(other, other.study, None)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.count("trainer.") == 5
    assert said.endswith("; and 1 more")


def test_a_champion_that_the_space_no_longer_fits_is_an_error(workdir):
    assert tune(workdir, "search.trials=2") == 0
    conf = str(workdir / "conf")

    def at(*words, whose=None):
        settings = load(["study=line", *words], config_dir=conf)
        return values_at(settings, settings.study, whose)

    assert set(at()[0]) == {"lr"}
    gone = "+space.rate={kind: log_uniform, low: 0.001, high: 0.5, path: module.lr}"
    with pytest.raises(ConfigError, match=r"at: the champion of line-1 has parameters of the space only; got 'lr'"):
        at("~space.lr", gone)
    assert at("~space.lr", gone, whose="defaults") == ({}, "the study's own values")
    with pytest.raises(ConfigError, match="has values of the space only; got 'lr="):
        at("space.lr.low=1e-9", "space.lr.high=1e-8")
    assert at("space.lr.low=1e-9", "space.lr.high=1e-8", "+space.lr.limit=[1e-9,1.0]")[0] == at()[0]


def test_without_a_database_there_is_no_champion_and_none_is_made(workdir):
    settings = load(["study=digits"])
    assert values_at(settings, settings.study, None) == ({}, "the study's own values")
    with pytest.raises(ConfigError, match=r"digits has no champion .* tuner study=digits"):
        values_at(settings, settings.study, "champion")
    assert not (workdir / "runs").exists()


# -- interrupted ------------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_cleanly(tmp_path):
    conf = str(write_study(tmp_path, module={"pause_s": 0.1}))
    words = ["compare", "study=line", "over=lr", "choices=[0.01,0.1]", "trainer.max_epochs=50", "--config-dir", conf]
    process = start(tmp_path, *words)
    epochs = tmp_path / "epochs.txt"
    while not epochs.is_file():
        time.sleep(0.05)
    out, err = interrupted(process)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out


@pytest.mark.slow
def test_ctrl_c_keeps_the_trainings_that_are_done(tmp_path):
    conf = str(write_study(tmp_path, module={"pause_s": 0.02}))
    words = ["compare", "study=line", "over=lr", "choices=[0.01,0.1]", "seeds=50", "--config-dir", conf]
    process = start(tmp_path, *words)
    for line in process.stderr:
        if line.startswith("training 3 of 100"):
            break
    out, err = interrupted(process)
    assert process.returncode == 130
    assert "of 100 trainings are done" in err
    assert "0.01" in out
    kept = rows(tmp_path / "runs/line-compare-lr/trainings.csv")
    assert 3 <= len(kept) < 100
    assert {row["outcome"] for row in kept} == {"complete"}
