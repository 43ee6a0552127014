"""What the README shows runs as it stands there."""

import math
import re
import subprocess
import sys
from pathlib import Path

import yaml

from tuner.cli import COMMANDS

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[0]


def test_the_optuna_script_runs_and_finds_the_region(tmp_path):
    """The best learning rate of the example is 0.01; 50 trials come within a factor of 3 of it."""
    ran = subprocess.run(
        [sys.executable, "-c", block("python")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    best = yaml.safe_load(ran.stdout.splitlines()[-1])
    assert 0.003 < best["lr"] < 0.03
    assert best["units"] > 200


def test_the_example_study_is_a_good_configuration_once_its_package_is_there(tmp_path, monkeypatch):
    from tuner.config import load

    (tmp_path / "conf/study").mkdir(parents=True)
    (tmp_path / "conf/study/mine.yaml").write_text(block("yaml"))
    (tmp_path / "mypackage.py").write_text("class Net: ...\nclass Data: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["study=mine", "trainer.max_epochs=10", "space.lr.high=0.3", "search.budget=32"]
    assert load(words, config_dir=str(tmp_path / "conf")).study.epochs == 10


def test_what_the_readme_shows_of_a_round_is_what_the_defaults_give():
    from tuner.config import load

    settings = load(["study=digits"])
    epochs, shown = settings.study.epochs, README.partition("## What you get")[2].partition("```\n\n")[0]
    first_rung = math.ceil(settings.pruner.first_rung * epochs)
    assert f"trial 1 paused; val/acc=0.1031 after {first_rung} epochs" in shown
    assert f"trial 0 complete; val/acc=0.9889 after {epochs} epochs" in shown
    assert f"fine 1, from trial {settings.search.coarse + 1}: box of the {settings.search.elites} best" in shown
    assert f"after {epochs} epochs" in shown
    assert f"the budget of {settings.search.budget * epochs:g} epochs is used up" in shown


def test_every_command_is_in_the_readme():
    for command in COMMANDS:
        if command != "tune":
            assert f"python -m tuner {command}" in README
