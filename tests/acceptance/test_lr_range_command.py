"""`tuner lr-range` as a user runs it, on real studies and in real workers."""

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rounds import trials, tune, write_study

from tuner.cli import main
from tuner.commands.lr_range import overrides, target_of
from tuner.config import load
from tuner.lr_range import Suggestion
from tuner.store.database import Database
from tuner.store.rounds import Rounds

DIGITS = ["lr-range", "study=digits", "low=1e-5", "steps=150"]


def numbers(text, line):
    return [float(number) for number in re.findall(r"\d[\d.]*(?:e[+-]\d+)?", re.search(rf"{line}.*", text)[0])]


def test_digits_learn_between_bounds_that_can_be_pasted(workdir, capsys):
    assert main([*DIGITS, "space.lr.low=1e-6"]) == 0
    out = capsys.readouterr().out
    assert "with the study's own values: " in out
    (falls, unstable), (suggested,) = numbers(out, "falling:"), numbers(out, "suggested:")
    # SGD with momentum 0.9 and batch norm: 0.1 is usual; far below nothing moves in 150 steps, and 2 is too much.
    assert 1e-4 < falls < 5e-3 < suggested * 2 < 0.2 < unstable < 3
    assert re.search(r"suggested: \S+, where half of the fall has been made", out)
    pasted = re.search(r"space\.lr\.low=\S+ space\.lr\.high=\S+", out)[0].split()
    scale = load(["study=digits", *pasted]).study.space["lr"].scale
    assert (scale.low, scale.high) == (falls, unstable)
    picture = Path(re.search(r"figure: (.*)", out)[1])
    assert picture == Path("runs/digits-lr-range/lr-range.png").absolute()
    pixels = matplotlib.image.imread(workdir / picture)
    assert pixels.shape[:2] == (750, 1200)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100
    assert {file.name for file in (workdir / picture).parent.iterdir()} == {"lr-range.png", "worker-0.log"}


def line(folder: Path, *words: str) -> int:
    return main(["lr-range", "study=line", *words, "--config-dir", str(write_study(folder))])


def test_a_range_that_is_too_low_is_told_and_nothing_suggested(workdir, capsys):
    assert line(workdir, "low=1e-9", "high=1e-6", "steps=60", f"folder={workdir}/here") == 1
    out = capsys.readouterr().out
    assert "does not fall anywhere" in out
    assert "suggested" not in out
    assert "space." not in out
    assert (workdir / "here/lr-range.png").is_file()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["at=champion"], 2, "has no champion"),
        (["module.mode=raise"], 1, "ValueError: what a pity"),
        (["module.mode=raise in init"], 1, "ValueError: no module today"),
        (["data.broken=true"], 1, "no batch today"),
        (["folder=/proc/nowhere"], 2, "lr_range.folder: is a folder that can be written to"),
        (["low=1", "high=0.1"], 2, "lr_range.low"),
    ],
)
def test_what_cannot_be_tested_is_told_and_nothing_printed(workdir, capsys, words, code, told):
    write_study(workdir, data={"broken": False})
    assert main(["lr-range", "study=line", *words, "--config-dir", str(workdir / "conf")]) == code
    captured = capsys.readouterr()
    assert told in captured.err
    assert not captured.out


# -- before a search ---------------------------------------------------------------------------------------------------

SEARCH = ["search.lr_range=true", "search.coarse=3", "search.trials=4", "lr_range.low=1e-4", "lr_range.steps=100"]


def stages(folder: Path) -> list[dict]:
    with Database(f"sqlite:///{folder}/runs/tuner.db") as database:
        rounds = Rounds(database)
        return rounds.stages(rounds.latest("line"))


PAUSE = "+space.pause={kind:uniform,path:module.pause_s,low:0.0,high:0.001,tier:%d}"


@pytest.mark.parametrize("tier", [1, 2])
def test_a_tiered_round_has_its_range_test_before_the_first_tier(workdir, capsys, tier):
    words = ["search=tiered", "search.coarse=3", PAUSE % (3 - tier), f"+space.lr.tier={tier}"]
    code = tune(workdir, *SEARCH, *words)
    if tier == 2:
        assert code == 2
        assert "search.lr_range: is for a learning rate of the first tier" in capsys.readouterr().err
        return
    assert code == 0
    (first, *_) = stages(workdir)
    assert first["name"] == "lr range tier 1 coarse"
    assert first["frame"] == {"lr": [0.0, 1.0], "pause": [0.0, 0.0]}
    assert first["box"]["lr"][1] - first["box"]["lr"][0] < 0.9


@pytest.mark.parametrize("search", ["coarse_to_fine", "tiered"])
def test_a_round_draws_first_between_the_bounds_of_its_range_test(workdir, search):
    assert tune(workdir, *SEARCH, f"search={search}") == 0
    (first, *_) = stages(workdir)
    assert (first["name"], first["starts_at"], first["ends_at"]) == ("lr range coarse", 0, 4)
    assert "where the loss fell in the range test" in first["reason"]
    assert first["frame"] == {"lr": [0.0, 1.0]}
    (low, high), (unit_low, unit_high) = first["ranges"]["lr"], first["box"]["lr"]
    assert 0.0 <= unit_low < unit_high <= 1.0
    assert unit_high - unit_low < 0.9
    drawn = [trial.params["lr"] for trial in trials(workdir)[1:4]]  # trial 0 has the study's own values
    assert all(low <= lr <= high for lr in drawn)
    assert len(set(drawn)) == 3


def test_a_round_that_goes_on_does_not_test_again_and_draws_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    monkeypatch.chdir(whole)
    assert tune(whole, *SEARCH) == 0
    monkeypatch.chdir(parts)
    assert tune(parts, *SEARCH, "search.trials=2") == 0
    tested = stages(parts)[0]
    (parts / "runs/line-1/lr-range/lr-range.png").unlink()
    assert tune(parts, *SEARCH) == 0
    assert not (parts / "runs/line-1/lr-range/lr-range.png").exists()
    assert stages(parts)[0] == tested == stages(whole)[0]
    params = [[trial.params for trial in trials(folder)] for folder in (parts, whole)]
    assert params[0] == params[1]


def test_a_range_test_that_finds_nothing_leaves_the_declared_range_and_says_so(workdir):
    assert tune(workdir, *SEARCH, "lr_range.low=1e-9", "lr_range.high=1e-6") == 0
    first = stages(workdir)[0]
    assert first["box"] == first["frame"]
    assert "does not fall anywhere" in first["reason"]


def test_a_search_that_a_range_test_cannot_narrow_is_a_mistake_told_before_any_work(workdir, capsys):
    assert (
        tune(
            workdir,
            "search.lr_range=true",
            "search=random",
            "~space.lr",
            "+space.x={kind:categorical,path:module.lr,choices:[0.1,0.2]}",
        )
        == 2
    )
    told = capsys.readouterr().err
    assert "2 problems" in told
    assert "coarse_to_fine, tiered" in told
    assert "one learning rate that has a range" in told
    assert not (workdir / "runs").exists()


# -- overrides --------------------------------------------------------------------------------------------------------

FOUND = Suggestion(value=0.0123, low=0.00104, high=0.444)


def lines(*words, values=None):
    study = load(["study=digits", *words]).study
    return [line.strip() for line in overrides(study, values or {}, FOUND)]


def test_bounds_are_those_of_the_parameter_that_is_the_learning_rate():
    assert lines() == ["space.lr.low=0.001 space.lr.high=0.44"]
    assert lines("~space.lr", "+space.rate={kind:uniform,low:0.001,high:1.0,path:module.optimizer.lr}") == [
        "space.rate.low=0.001 space.rate.high=0.44"
    ]


def test_a_learning_rate_that_is_scaled_is_given_at_its_reference():
    scaled = "+space.lr.scale_with={parameter:batch_size,reference:256,rule:linear}"
    bounds, told = lines(scaled, "data.batch_size=64")
    assert bounds == "space.lr.low=0.0042 space.lr.high=1.8"
    assert told == "at batch_size=256, which lr is scaled from; the test ran at 64"
    assert lines(scaled, values={"lr": 0.1, "batch_size": 256})[0] == "space.lr.low=0.001 space.lr.high=0.44"


def test_without_a_learning_rate_in_the_space_the_one_of_the_nodes_is_given():
    assert lines("~space.lr") == ["module.optimizer.lr=0.012"]
    assert lines("~space.lr", "+module.lr=0.5") == []  # which of the two?


def test_a_learning_rate_that_is_switched_off_or_has_no_range_is_not_it():
    study = load(["study=digits"]).study
    assert target_of(study, {"batch_size": 64}) is None
    choices = "+space.lr={kind:categorical,choices:[0.1,0.2,0.3],path:module.optimizer.lr}"
    assert lines("~space.lr", choices) == ["module.optimizer.lr=0.012"]
