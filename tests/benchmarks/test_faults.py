"""The benchmark of faults: what it counts, that it sees what is wrong, and that it runs."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from optuna.trial import create_trial

from tuner.store.database import Database

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def faults(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import faults

    return faults


def test_work_is_repeated_when_a_step_is_trained_again(faults):
    step = faults.Step
    first = [step(0, number, 10.0 + number, 1) for number in range(5)]
    # From its third step on, in another process, after a fault at 15 and another one at 20.
    again = [step(0, number, 15.0 + number, 2) for number in range(2, 6)]
    assert faults.repeated_s([*first, *again], [15.0, 19.0]) == [2.0, 1.0]
    assert faults.repeated_s(first, [11.5]) == [0.0]
    # The same process has trained something else for 100 s.
    assert faults.repeated_s([*first, step(1, 0, 50.0, 1), step(0, 4, 115.0, 1)], [60.0]) == [1.0]
    assert faults.repeated_s([], []) == []


def test_a_round_has_recovered_with_the_first_record_after_a_new_step(faults):
    step = faults.Step
    steps = [step(0, 1, 1.0, 1), step(0, 2, 2.5, 1), step(0, 1, 5.0, 2), step(0, 2, 6.0, 2), step(0, 3, 7.0, 2)]
    # The step at 2.5 is one of the process that the fault ends, those at 5 and 6 are repeated.
    assert faults.recovered_s(steps, [1.5, 2.6, 6.5, 7.5], [2.0], [[1]]) == [5.5]
    assert faults.recovered_s(steps, [1.5, 2.6, 6.5, 7.5], [2.0], [[]]) == [0.6000000000000001]
    assert faults.recovered_s(steps, [1.5, 6.5], [2.0], [[1]]) == [None]
    assert faults.recovered_s(steps, [7.5], [2.0, 6.9], [[1], [1]]) == [None, pytest.approx(0.6)]


def a_round(folder, faults):
    """A finished round in a database, as a benchmark's case reads it, with one fault in its middle."""
    url = f"sqlite:///{folder}/tuner.db"
    with Database(url) as database:
        study = optuna.create_study(study_name="digits-1", storage=database.storage)
        for number in range(4):
            study.add_trial(
                create_trial(
                    value=float(number),
                    params={"lr": 0.1 * (number + 1)},
                    distributions={"lr": optuna.distributions.FloatDistribution(0.0, 1.0)},
                    intermediate_values={1: 0.5, 2: float(number)},
                    user_attrs={"outcome": "complete", "hyperparameters": {"lr": 0.1}},
                )
            )
    case = faults.Case(folder, "one", url, random.Random(0), lock_s=0.0)
    for best in (2, 3):
        (case.checkpoints / "digits-1" / f"trial-{best}").mkdir(parents=True)
        (case.checkpoints / "digits-1" / f"trial-{best}" / "final.ckpt").touch()
    case.ended = True
    before = case.store.trials()
    case.faults = [faults.Fault("worker-kill", 1.0, {number: before[number] for number in (0, 1)})]
    return case, before


def test_a_round_like_the_undisturbed_one_has_no_problems(tmp_path, faults):
    case, trials = a_round(tmp_path, faults)
    assert [trial.state for trial in trials.values()] == ["COMPLETE"] * 4
    assert trials[1].curve == ((1, 0.5), (2, 1.0))
    case.judge({}, trials)
    assert case.problems == []
    assert case.faults[0].recovered


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ("UPDATE trial_values SET value = 9 WHERE trial_id = 1", {"lost": [0], "differ": [0]}),
        ("UPDATE trial_params SET param_value = 0.9 WHERE trial_id = 4", {"differ": [3]}),
        ("UPDATE trial_intermediate_values SET intermediate_value = 9 WHERE trial_id = 3", {"differ": [2]}),
        ("UPDATE trials SET state = 'RUNNING' WHERE trial_id = 3", {"stuck": [2]}),
        ("UPDATE trials SET number = 7 WHERE trial_id = 3", {"stuck": [2]}),
    ],
)
def test_what_is_wrong_with_a_round_is_seen(tmp_path, faults, wrong, where):
    case, trials = a_round(tmp_path, faults)
    with Database(case.url) as database, database.engine.begin() as connection:
        connection.exec_driver_sql(wrong)
    case.judge({}, trials)
    [fault] = case.faults
    assert {name: getattr(fault, name) for name in ("lost", "stuck", "differ") if getattr(fault, name)} == where
    assert case.problems


def test_a_checkpoint_that_is_left_and_a_model_that_is_missing_are_seen(tmp_path, faults):
    case, trials = a_round(tmp_path, faults)
    (case.checkpoints / "digits-1" / "trial-3" / "step-7.ckpt").touch()
    (case.checkpoints / "digits-1" / "trial-2" / "final.ckpt").unlink()
    case.judge({}, trials)
    assert case.faults[0].files == ["digits-1/trial-2/final.ckpt", "digits-1/trial-3/step-7.ckpt"]
    assert case.problems == [
        "files left behind: ['digits-1/trial-3/step-7.ckpt']; missing: ['digits-1/trial-2/final.ckpt']"
    ]


def test_a_trial_that_misbehaves_ends_as_it_should(tmp_path, faults):
    case, trials = a_round(tmp_path, faults)
    case.judge({2: "module-print"}, trials)
    assert case.problems == []
    case.judge({2: "module-raise"}, trials)
    assert case.problems == ["module-raise ended trial 2 as complete"]
    case.problems.clear()
    case.judge({2: "module-raise"}, {**trials, 2: replace(trials[2], value=9.0)})
    assert case.problems == ["module-raise ended trial 2 as complete"]


def test_processes_of_a_program_are_found_by_its_mark(tmp_path, faults):
    sleeper = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        " time.sleep(60)"
    )
    (tmp_path / "driver.py").write_text(sleeper)
    program = faults.Program([], tmp_path, {}, 0)
    other = faults.Program([], tmp_path, {}, 1)
    try:
        while len(program.processes()) < 2:
            assert program.code is None
        program.process.kill()
        program.process.wait()
        assert len(program.processes()) == 1, "the child has outlived it"
    finally:
        program.end()
        other.end()
    assert program.processes() == other.processes() == {}


@pytest.mark.slow
def test_six_faults_lose_nothing():
    words = [sys.executable, str(BENCHMARKS / "faults.py"), "--quick", "--markdown"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    total = next(line for line in done.stdout.splitlines() if line.startswith("| all"))
    assert [cell.strip() for cell in total.strip("|").split("|")][1:8] == ["6", "6", "0", "0", "0", "0", "0"], (
        done.stderr
    )
    assert "command: `python benchmarks/faults.py --quick`" in done.stdout
