"""The benchmark of searches on tables: what it reads, what it keeps, and what it makes of the runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
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


def test_to_import_a_benchmark_leaves_the_number_of_threads_to_the_processes_that_come_after():
    code = "import os, search, real, record; print([name for name in os.environ if name.endswith('NUM_THREADS')])"
    plain = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, env=plain, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


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


def test_all_begin_with_own_values_as_good_as_asked_for(search, bowl):
    curves, drawn = search.load(bowl), []
    trial = curves.trial

    def watched(task, params, seed, number):
        drawn.append((number, params))
        return trial(task, params, seed, number)

    curves.trial = watched
    ours = search.rounds.simulate(curves, "coarse_to_fine", "hard", 0, 1, 8.0, 0.9)
    its = search.baselines.simulate(curves, "TPE", "hard", 0, 1, (8.0,), 0.9)
    own = curves.own("hard", 0, 0.9)
    assert [params for number, params in drawn if number == 0] == [pytest.approx(own)] * 2
    regrets = [trial("hard", curves.own("hard", 0, share), 0, 0)[1] for share in (0.05, 0.5, 0.9, 0.98)]
    assert regrets == sorted(regrets, reverse=True)
    assert max(ours.regrets[8.0], its.regrets[8.0]) <= regrets[2] + 0.02, (
        "trained in full, it is among those to choose from"
    )


def test_runs_with_own_values_are_kept_beside_the_others(search, bowl, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "runs.jsonl"
    words = ["search.py", "--quick", "--data", str(bowl), "--systems", "random", "--tasks", "1", "--jobs", "1"]
    words += ["--workers", "1", "--budgets", "4", "--keep", str(kept)]
    for more in ([], ["--own", "0.9"]):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        assert search.main() == 0
    assert [json.loads(line)["own"] for line in kept.read_text().splitlines()] == [None, 0.9]
    capsys.readouterr()
    assert search.main() == 0
    assert "runs" not in capsys.readouterr().err, "it is taken from the file"


def test_rows_of_other_code_are_left_aside(search, bowl, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "runs.jsonl"
    words = ["search.py", "--quick", "--data", str(bowl), "--systems", "random", "--tasks", "1", "--jobs", "1"]
    words += ["--workers", "1", "--budgets", "4", "--keep", str(kept)]
    monkeypatch.setattr(sys, "argv", words)
    assert search.main() == 0
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    (bowl / "bowl.py").write_text((bowl / "bowl.py").read_text() + "\nANOTHER = True\n")
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
    (bowl / "bowl.py").write_text((bowl / "bowl.py").read_text() + "YET_ANOTHER = True\n")
    search.code_of.cache_clear()
    assert search.main() == 0
    shown = capsys.readouterr()
    assert shown.out.partition("regret")[2] == told.partition("regret")[2]
    assert "shown where there are none of this one" in shown.err


def test_what_rows_depend_on_is_known(search, bowl, monkeypatch):
    """tuner's on the rule, Optuna's not; both on how tables are read, and on versions."""
    from searches import rows

    def codes():
        search.code_of.cache_clear()
        return [search.code_of(whose, bowl) for whose in ("tuner", "Optuna")]

    before = codes()
    named = {file.name for part in rows._CODE["tuner"] for file in ([part] if part.is_file() else part.rglob("*.py"))}
    assert {"promotion.py", "screen.py", "sampler.py", "chosen.py", "space.py", "rounds.py", "tables.py"} <= named
    monkeypatch.setattr(rows, "digest_of", lambda *parts: " ".join(part.name for part in parts))
    ours, its = codes()
    assert "rounds.py" in ours
    assert "baselines.py" in its
    assert all(
        name in one for name in ("tables.py", "recorded.py", "dimensions.py", "study", "config") for one in (ours, its)
    )
    assert "chosen.py" not in its
    monkeypatch.undo()
    assert codes() == before


def test_comments_are_no_part_of_what_rows_depend_on(search, bowl):
    before = search.code_of("Optuna", bowl)
    (bowl / "bowl.py").write_text((bowl / "bowl.py").read_text() + "\n# the same table\n")
    search.code_of.cache_clear()
    assert search.code_of("Optuna", bowl) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--table-only"], "--keep FILE says of which runs"),
        (["--first-seed", "-1"], "0 or more is wanted, not -1"),
        (["--own", "1"], "a share between 0 and 1 is wanted, not 1"),
        (["--keep", "{other}"], "it is no file of this benchmark"),
        (["--data", "{empty}"], "it has no table that can be read"),
        (["--data", "{unknown}"], "got 'nobodys'"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(search, tmp_path, monkeypatch, capsys, words, told):
    (tmp_path / "other").write_text('{"a": 1}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "curves.jsonl").write_text("")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "curves.jsonl").write_text('{"words": ["study=nobodys"]}\n')
    there = {name: tmp_path / name for name in ("other", "empty", "unknown")}
    monkeypatch.setattr(sys, "argv", ["search.py", "--quick", *(word.format(**there) for word in words)])
    with pytest.raises(SystemExit) as left:
        search.main()
    assert told in capsys.readouterr().err + str(left.value)


def test_what_is_named_twice_is_run_once(search, bowl, monkeypatch, capsys):
    words = [
        "--systems",
        "random",
        "random",
        "--budgets",
        "4",
        "4",
        "--workers",
        "1",
        "1",
        "--tasks",
        "1",
        "--seeds",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["search.py", "--data", str(bowl), "--jobs", "1", *words])
    assert search.main() == 0
    assert "1 of 1 runs" in capsys.readouterr().err


def test_a_line_that_was_cut_off_is_done_again(bowl, tmp_path, monkeypatch, search, capsys):
    kept = tmp_path / "runs.jsonl"
    words = ["search.py", "--quick", "--data", str(bowl), "--systems", "random", "--tasks", "1", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--workers", "1", "--keep", str(kept)])
    assert search.main() == 0
    whole = kept.read_text()
    kept.write_text(whole[:-20])
    assert search.main() == 0
    assert "cut off" in capsys.readouterr().err
    cleaned = [{**json.loads(line), "decision_ms": 0} for line in kept.read_text().splitlines()]
    once = [{**json.loads(line), "decision_ms": 0} for line in whole.splitlines()]
    assert all(row in cleaned for row in once)


class Falling:
    """Curves of a task on which each trial is better than the one before, and its regret says its number."""

    def __init__(self, curves, epochs):
        self.space, self.epochs, self.seen = curves.space, epochs, []

    def trial(self, _task, params, _seed, number):
        self.seen.append(params)
        return np.full(self.epochs, float(number)), float(number)


@pytest.mark.parametrize(
    ("workers", "budgets", "last"),
    [(1, [2.5, 3.0, 3.99], [1, 2, 2]), (4, [4.0, 7.9, 8.0], [3, 3, 7]), (4, [3.9], [1.0])],
)
def test_a_training_of_optunas_counts_if_it_ends_within_the_budget(search, bowl, workers, budgets, last):
    """Several workers have the budget's share each; before anything ended, a configuration at random is as good."""
    curves = Falling(search.load(bowl), epochs=5)
    done = search.baselines.simulate(curves, "random", "easy", 0, workers, budgets)
    assert [done.regrets[budget] for budget in budgets] == last


def test_a_training_that_is_pruned_costs_the_epochs_that_it_had(search, bowl):
    class Rising(Falling):
        def trial(self, *asked):
            shown, regret = super().trial(*asked)
            return -shown, regret

    curves = Rising(search.load(bowl), epochs=5)
    done = search.baselines.simulate(curves, "TPE + Median", "easy", 0, 1, [5.0, 6.0, 7.0])
    assert done.regrets[7.0] == 0, "the first is the best"
    # Five in full, then each is worse than the median after one epoch; the one under way has been drawn.
    assert [done.drawn[budget] for budget in (5.0, 6.0, 7.0)] == [6, 11, 16]


@pytest.mark.parametrize(
    "system", ["TPE + Hyperband", "random + ASHA", "TPE", pytest.param("GP 5", marks=pytest.mark.slow), "QMC"]
)
def test_a_run_of_optunas_is_repeatable(search, bowl, system):
    curves = search.load(bowl)
    one, two = (search.baselines.simulate(curves, system, "hard", 3, 2, [6.0, 8.0]) for _ in range(2))
    assert (one.regrets, one.drawn) == (two.regrets, two.drawn)


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


class Shown:
    """What a trial shows, which says when it is looked at."""

    def __init__(self, values, on_read):
        self._values, self._on_read = values, on_read

    def __getitem__(self, place):
        self._on_read()
        return self._values[place]


@pytest.mark.parametrize("seed", range(3))
def test_a_tier_is_opened_when_all_that_was_drawn_of_the_one_before_has_been_read(search, bowl, seed):
    """The learning rate first, then the momentum, then the width; a tier has six draws, and there are eight workers."""
    table = bowl / "bowl.py"
    table.write_text(table.read_text().replace('"lr"', '"learning_rate"'))
    curves = search.load(bowl)
    trial, drawn, read, read_by = curves.trial, [], set(), []

    def watched(task, params, seed, number):
        drawn.append(params)
        read_by.append(set(read))
        shown, regret = trial(task, params, seed, number)
        return Shown(shown, lambda: read.add(number)), regret

    curves.trial = watched
    search.rounds.simulate(curves, "tiered", "hard", seed, 8, 8.0)
    opened = [
        next(number for number, params in enumerate(drawn) if params[name] != drawn[0][name])
        for name in ("learning_rate", "momentum", "width")
    ]
    assert opened == [1, 6, 12]
    assert [read_by[number] == set(range(number)) for number in opened] == [False, True, True]


def test_a_folder_without_a_table_is_told(search, tmp_path):
    (tmp_path / "notes.py").write_text("SPACE = {}\n")
    with pytest.raises(SystemExit, match="0 Python files there hold SPACE, EPOCHS and a table"):
        search.load(tmp_path)
