"""Recorded learning curves: that they are those of real trainings, and what a table makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WORDS = ["study=digits", "objective.metric=val/loss", "objective.direction=minimize", "trainer.max_epochs=4"]


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import searches.recorded

    return searches.recorded


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def written(folder: Path, name: str, configurations, curves, words=WORDS) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [{"words": words}]
    lines += [
        {"number": number, "seed": seed, "values": values, "curve": curve, "seconds": 1.0}
        for (number, seed, values), curve in zip(configurations, curves, strict=True)
    ]
    (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder / name


@pytest.mark.slow
def test_trainings_are_recorded_once_each(tmp_path):
    words = [sys.executable, str(BENCHMARKS / "record.py"), "--quick", "--out", str(tmp_path / "digits.jsonl")]
    words += ["study=digits", "trainer.max_epochs=2"]
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "trainings" not in done.stderr, "all were done"
    first, *lines = lines_of(tmp_path / "digits.jsonl")
    assert first == {"words": ["study=digits", "trainer.max_epochs=2"]}
    assert sorted((line["number"], line["seed"]) for line in lines) == [
        (0, 0), (0, 100_000), (1, 1), (1, 100_001), (2, 2), (3, 3),
    ]  # fmt: skip
    by = {(line["number"], line["seed"]): line for line in lines}
    assert by[0, 0]["values"] == by[0, 100_000]["values"] != by[1, 1]["values"]
    assert all(len(line["curve"]) == 2 and 0 <= line["curve"][-1] <= 1 for line in lines)
    other = subprocess.run(
        [*words[:-1], "trainer.max_epochs=3"], capture_output=True, text=True, timeout=60, check=False
    )
    assert other.returncode == 2
    assert "is of study=digits trainer.max_epochs=2: name another file" in other.stderr


def test_a_second_training_is_that_of_the_configuration_in_the_file(tmp_path, recorded):
    """A file that was begun when numbers stood for other configurations."""
    words = ["study=digits", "trainer.max_epochs=1"]
    values = recorded._study(words).space.from_unit(dict.fromkeys(recorded._study(words).space.names, 0.5))
    file = written(tmp_path, "older.jsonl", [(0, 0, values)], [[0.5]], words)
    command = [sys.executable, str(BENCHMARKS / "record.py"), "--quick", "--trials", "1", "--again", "1"]
    done = subprocess.run(
        [*command, "--out", str(file), *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, first, again = lines_of(file)
    assert (again["number"], again["seed"], again["values"]) == (0, 100_000, first["values"])


def test_no_configuration_is_one_that_a_round_draws(recorded):
    from record import configuration

    from tuner.search.draws import uniform_point

    study = recorded._study(WORDS)
    space = study.space
    drawn = [space.from_unit(uniform_point(seed, 0, index, space.names)) for seed in range(2) for index in range(20)]
    assert all(configuration(study, number) not in drawn for number in range(20))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trials", "0"], "argument --trials: a whole number, 1 or more, is wanted, not '0'"),
        (["--jobs", "two"], "argument --jobs: a whole number, 1 or more, is wanted, not 'two'"),
        (["--again", "5", "--trials", "4"], "--again is at most --trials (4) and not below 0, not 5"),
        (["study=digit"], "study: is one of: cifar, digits, quadratic"),
    ],
)
def test_a_mistake_is_told_and_leaves_no_file(recorded, tmp_path, monkeypatch, capsys, options, told):
    import record

    words = ["record.py", "--out", str(tmp_path / "new.jsonl"), *options, *WORDS[1:]]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as left:
        record.main()
    assert left.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new.jsonl").exists()


@pytest.fixture
def table(recorded, tmp_path):
    """A loss of 100 configurations that is 2 - x at the coordinate x of the learning rate; the first ten were trained twice."""
    study = recorded._study(WORDS)
    chance = np.random.default_rng(1)
    units = [{name: float(chance.random()) for name in study.space.names} for _ in range(100)]
    jobs = [(number, number, study.space.from_unit(unit)) for number, unit in enumerate(units)]
    jobs += [(number, 100_000 + number, values) for number, _, values in jobs[:10]]
    curves = [[2 - units[number]["lr"] + 1 / epoch for epoch in (1, 2, 3, 4)] for number, _, _ in jobs]
    curves[100:] = [[value + 0.1 for value in curve] for curve in curves[100:]]
    file = written(tmp_path / "table", "line.jsonl", jobs, curves)
    return recorded.Recorded(file.parent), jobs, curves, file


def test_a_recorded_configuration_has_its_own_curve(table):
    """A loss is turned round, because a table's values are higher-is-better."""
    made, jobs, curves, _ = table
    assert made.tasks == ("line",)
    for number in (0, 50, 99):
        assert made.curve("line", jobs[number][2]) == pytest.approx([-value for value in curves[number]])


def test_what_was_not_finite_is_the_worst(table, recorded, tmp_path):
    """Two trainings that came to nothing, one of which ended early."""
    _, jobs, curves, _ = table
    curves[7:9] = [[5.0, None, None, None], [5.0]]
    made = recorded.Recorded(written(tmp_path / "failed", "line.jsonl", jobs, curves).parent)
    for number in (7, 8):
        assert made.curve("line", jobs[number][2]) == pytest.approx([-5.0] * 4)


def test_noise_is_that_of_two_trainings(table):
    """Two trainings differ by 0.1 everywhere, so each is off by 0.1 / √2 one way or the other, the whole of it."""
    made = table[0]
    shown = np.array([made.noisy(np.zeros(4), np.random.default_rng(seed)) for seed in range(200)])
    assert np.abs(shown) == pytest.approx(np.full((200, 4), 0.1 / 2**0.5))
    assert (shown == shown[:, :1]).all()
    assert 0.3 < (shown[:, 0] > 0).mean() < 0.7


def test_noise_is_that_of_configurations_about_as_good(table, recorded, tmp_path):
    """All were trained twice: the worse half with a difference of 0.5, the better one with 0.01."""
    _, jobs, curves, _ = table
    twice = [(number, 100_000 + number, values) for number, _, values in jobs[:100]]
    again = [[value + (0.01 if curve[-1] < 1.75 else 0.5) for value in curve] for curve in curves[:100]]
    made = recorded.Recorded(written(tmp_path / "twice", "line.jsonl", jobs[:100] + twice, curves[:100] + again).parent)
    for final, difference in ((-1.3, 0.01), (-2.3, 0.5)):
        shown = np.array([made.noisy(np.full(4, final), np.random.default_rng(seed)) - final for seed in range(50)])
        assert np.abs(shown) == pytest.approx(np.full((50, 4), difference / 2**0.5))


def test_regret_is_nought_for_the_best_and_one_for_the_median(table):
    """The loss is lowest at the highest learning rate: about 1.25 after four epochs, 1.75 in the middle."""
    made = table[0]
    assert made.regret("line", -1.25) == pytest.approx(0.0, abs=0.1)
    assert made.regret("line", -1.75) == pytest.approx(1.0, abs=0.1)


def test_the_search_runs_on_recorded_curves(table, recorded):
    from searches import baselines, rounds
    from searches.tables import load

    curves = load(table[3].parent)
    assert curves.epochs == 4
    done = rounds.simulate(curves, "coarse_to_fine", "line", 0, 1, 8.0)
    assert done.regrets[8.0] < 0.9
    assert baselines.simulate(curves, "random", "line", 0, 1, [8.0]).regrets[8.0] < 1.0
    assert recorded.explained(table[3]) > 0.5


def test_tasks_of_one_folder_share_their_space(recorded, tmp_path):
    values = recorded._study(WORDS).space.from_unit(dict.fromkeys(recorded._study(WORDS).space.names, 0.5))
    written(tmp_path / "mixed", "a.jsonl", [(0, 0, values)], [[1.0] * 4])
    written(tmp_path / "mixed", "b.jsonl", [(0, 0, values)], [[1.0] * 5], [*WORDS[:-1], "trainer.max_epochs=5"])
    with pytest.raises(ValueError, match=r"a\.jsonl, b\.jsonl in .* differ in their space or their epochs"):
        recorded.Recorded(tmp_path / "mixed")
