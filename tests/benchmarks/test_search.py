"""The benchmark of searches on tables: what it reads, what it keeps, and what it makes of the runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
EXAMPLE = BENCHMARKS / "searches" / "example"


@pytest.fixture
def search(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import search

    return search


@pytest.fixture
def bowl(tmp_path) -> Path:
    """A folder of its own: a table is any Python file."""
    (tmp_path / "bowl").mkdir()
    shutil.copy(EXAMPLE / "bowl.py", tmp_path / "bowl")
    return tmp_path / "bowl"


def test_runs_of_both_are_tabled_and_done_once(bowl, tmp_path):
    kept = tmp_path / "kept" / "runs.jsonl"
    words = [sys.executable, str(BENCHMARKS / "search.py"), "--quick", "--markdown", "--data", str(bowl)]
    words += ["--systems", "coarse_to_fine", "gp", "random", "TPE + Hyperband", "--keep", str(kept)]
    words += ["--plot", str(tmp_path / "search.png")]
    first, second = (subprocess.run(words, capture_output=True, text=True, timeout=300, check=False) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr[-2000:] + second.stderr[-2000:]
    assert "tuner: coarse_to_fine" in first.stdout
    assert "Optuna: TPE + Hyperband" in first.stdout
    assert "8 full trainings, 8 workers" in first.stdout
    assert "24 of 24 runs" in first.stderr
    assert "runs" not in second.stderr, "all were done"
    assert len(kept.read_text().splitlines()) == 2 * 2 * 2 * 4, "tasks, numbers of workers, budgets, systems"
    assert (tmp_path / "search.png").stat().st_size > 0
    for row in map(json.loads, kept.read_text().splitlines()):
        assert row["regret"] >= -0.05
        assert row["drawn"] >= row["budget"] / 2
        assert row["clock"] >= (1 if row["whose"] == "tuner" else row["budget"])


def row_of(search, whose, system, task, seed, regret):
    return search.Row(whose, system, task, seed, 1, 8.0, regret, 8, 8.0, 1.0)


def test_differences_are_paired_by_task_and_seed(search):
    """Seed 2 is unlucky for both alike, and task b is better for TPE."""
    rows = [
        row_of(search, whose, system, task, seed, regret + (0.4 if seed == 2 else 0.0))
        for whose, system, regrets in (("tuner", "coarse_to_fine", (0.1, 0.5)), ("Optuna", "TPE", (0.2, 0.4)))
        for task, regret in zip(("a", "b"), regrets, strict=True)
        for seed in range(3)
    ]
    rows += [row_of(search, "Optuna", "random", task, 0, 0.9) for task in ("a", "b")]
    rows += [row_of(search, "Optuna", "TPE", "a", 3, 0.0)]
    scores = search.Scores(rows)
    assert scores.best_of("Optuna", 1, 8.0) == "TPE"
    found = scores.difference("coarse_to_fine", "TPE", 1, 8.0)
    assert found.mean == pytest.approx(0.0)
    assert found.interval() == (pytest.approx(-10.0), pytest.approx(10.0))
    assert (found.won, found.seeds) == (0.5, 3)
    assert scores.seeds("random") == 1


def test_the_interval_knows_that_all_tasks_share_a_seed(search):
    """On each of 30 tasks seed 0 is a gain of 10 and seed 1 a loss of 10."""
    rows = [
        row_of(search, whose, system, f"{task}", seed, gain * seed)
        for whose, system, gain in (("tuner", "coarse_to_fine", 0.2), ("Optuna", "TPE", 0.0))
        for task in range(30)
        for seed in range(2)
    ]
    assert search.Scores(rows).difference("coarse_to_fine", "TPE", 1, 8.0).interval() == (0.0, pytest.approx(20.0))


def test_rows_of_other_code_are_left_aside(search, bowl, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "runs.jsonl"
    words = ["search.py", "--quick", "--data", str(bowl), "--systems", "random", "--tasks", "1", "--jobs", "1"]
    words += ["--workers", "1", "--budgets", "4", "--keep", str(kept)]
    monkeypatch.setattr(sys, "argv", words)
    assert search.main() == 0
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    (bowl / "bowl.py").write_text((bowl / "bowl.py").read_text() + "\n# another table\n")
    search.code_of.cache_clear()
    capsys.readouterr()
    assert search.main() == 0
    assert f"{len(rows)} rows of {kept} are of another version" in capsys.readouterr().err
    assert len(kept.read_text().splitlines()) == 2 * len(rows)
    monkeypatch.setattr(sys, "argv", [*words, "--systems", "random", "TPE", "--table-only"])
    assert search.main() == 0
    told = capsys.readouterr().out
    assert "Optuna: random" in told
    assert "TPE" not in told.partition("regret")[2]


def test_a_simulated_round_keeps_its_budget_and_is_repeatable(search, bowl):
    curves = search.load(bowl)
    seen = []
    trial = curves.trial
    curves.trial = lambda *asked: seen.append(asked) or trial(*asked)
    for workers in (1, 4):
        done = search.rounds.simulate(curves, "coarse_to_fine", "hard", 3, workers, 6.0)
        assert 6 < done.drawn[6.0] == len(seen), "more than full trainings, because most pause"
        assert done.regrets[6.0] < 1.0
        # One worker has no gaps, so its clock is what was trained; of several some may wait at the end.
        assert done.clock[6.0] <= 6.0 if workers == 1 else 3.0 < done.clock[6.0] < 12.0
        seen.clear()
    one, two = (search.rounds.simulate(curves, "random, promotion", "easy", 5, 1, 4.0) for _ in range(2))
    assert one.regrets == two.regrets


def test_a_folder_without_a_table_is_told(search, tmp_path):
    (tmp_path / "notes.py").write_text("SPACE = {}\n")
    with pytest.raises(SystemExit, match="0 Python files there hold SPACE, EPOCHS and a table"):
        search.load(tmp_path)
