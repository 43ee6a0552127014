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
    assert "16 of 16 runs" not in second.stderr
    assert len(kept.read_text().splitlines()) == 2 * 2 * 2 * 4, "tasks, numbers of workers, budgets, systems"
    assert (tmp_path / "search.png").stat().st_size > 0
    for row in map(json.loads, kept.read_text().splitlines()):
        assert row["regret"] >= -0.05
        assert row["drawn"] >= (row["clock"] > 0)


def test_differences_are_paired_by_task(search):
    rows = [
        search.Row(whose, system, task, seed, 1, 8.0, regret, 8, 8.0, 1.0)
        for whose, system, regrets in (("tuner", "coarse_to_fine", (0.1, 0.5)), ("Optuna", "TPE", (0.2, 0.4)))
        for task, regret in zip(("a", "b"), regrets, strict=True)
        for seed in range(3)
    ]
    rows += [search.Row("Optuna", "random", task, 0, 1, 8.0, 0.9, 8, 8.0, 1.0) for task in ("a", "b")]
    scores = search.Scores(rows)
    assert scores.best_of("Optuna", 1, 8.0) == "TPE"
    mean, (low, high), won = scores.difference("coarse_to_fine", "TPE", 1, 8.0)
    assert mean == pytest.approx(0.0)
    assert (low, high, won) == (pytest.approx(-10.0), pytest.approx(10.0), 0.5)
    assert scores.seeds("TPE", 1, 8.0) == 3


def test_a_simulated_round_keeps_its_budget_and_never_looks_ahead(search, bowl):
    curves = search.load(bowl)
    seen = []
    trial = curves.trial
    curves.trial = lambda *asked: seen.append(asked) or trial(*asked)
    for workers in (1, 4):
        done = search.rounds.simulate(curves, "coarse_to_fine", "hard", 3, workers, 6.0)
        assert 6 < done.drawn[6.0] == len(seen), "more than full trainings, because most pause"
        assert done.regrets[6.0] < 1.0
        seen.clear()
    one, two = (search.rounds.simulate(curves, "random, promotion", "easy", 5, 1, 4.0) for _ in range(2))
    assert one.regrets == two.regrets


def test_a_folder_without_a_table_is_told(search, tmp_path):
    (tmp_path / "notes.py").write_text("SPACE = {}\n")
    with pytest.raises(SystemExit, match="0 Python files there hold SPACE, EPOCHS and a table"):
        search.load(tmp_path)
