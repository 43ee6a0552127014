"""Whole rounds in real worker processes: what becomes of each outcome, and what a second call does."""

import itertools
import math
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import yaml
from faulty import Line, loaders
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from rounds import facts, outcomes, store_url, store_words, trials, tune, write_study
from torch.nn.functional import mse_loss

from tuner.cli import main
from tuner.progress import Progress
from tuner.round import Round
from tuner.search.history import State
from tuner.search.sampler import CoarseToFineSampler
from tuner.store.database import Database
from tuner.store.overview import overview
from tuner.store.rounds import Rounds
from tuner.trials import Trials


@pytest.fixture(autouse=True)
def every_test_on_each_store(round_store):
    pass


def test_a_round_pauses_promotes_and_crowns_the_best(workdir, capsys):
    assert tune(workdir, "search.trials=8") == 0
    ended = trials(workdir)
    complete = sum(trial.state.name == "COMPLETE" for trial in ended)
    assert 2 <= complete <= 4, "at least the best quarter of eight is trained in full, and not all that once were in it"
    assert {trial.state.name for trial in ended} == {"COMPLETE", "PRUNED"}
    best = min((trial for trial in ended if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    out = capsys.readouterr().out
    assert f"by trial {best.number} (provisional" in out
    assert f"module.lr={best.params['lr']}" in out
    epochs = (workdir / "epochs.txt").read_text().split("\n")[:-1]
    assert len(epochs) == len(set(epochs)), "a trial that goes on trains no epoch twice"
    ends = Counter(line.split()[0] for line in epochs)
    assert list(ends.values()).count(4) == complete
    assert list(ends.values()).count(1) <= 4, "at least half of the trials go on from the first rung"
    assert set(ends.values()) <= {1, 2, 4}, "each ends at a rung"
    kept = [file.name for file in workdir.glob("runs/line-1/trial-*/*")]
    assert kept == ["final.ckpt"], "checkpoints of ended trials are gone, but for the best one's model"
    assert ended[0].params["lr"] == 0.1, "trial 0 has the study's own values"


def test_the_studys_own_values_are_trained_in_full_whatever_they_show_at_the_rungs(workdir, capsys):
    words = ["search.trials=9", "module.lr=0.001"]  # the worst of the range
    assert tune(workdir, *words) == 0
    own, *others = trials(workdir)
    assert own.state.name == "COMPLETE"
    assert [epoch for epoch, _, _ in own.user_attrs["readings"]] == [1, 2, 4], "and it is read at the rungs"
    assert own.value == max(trial.value for trial in [own, *others] if trial.state.name == "COMPLETE")
    out = capsys.readouterr().out
    assert f"the study's own values: val/loss={own.value:.4g} (trial 0)" in out
    assert tune(workdir, *words, "pruner.baseline=false") == 0
    assert trials(workdir, "line-2")[0].state.name == "PRUNED"
    assert "the study's own values: pruned, not among the best at epoch 1 (trial 0)" in capsys.readouterr().out


def test_a_first_trial_that_does_not_have_the_studys_own_values_is_a_draw_like_the_others(workdir, capsys):
    assert tune(workdir, "search.trials=9", "module.lr=0.9", "seed=1") == 0
    shown = capsys.readouterr()
    assert "Trial 0 is a draw like the others" in shown.err
    assert "the study's own values:" not in shown.out
    assert [epoch for epoch, _, _ in trials(workdir)[0].user_attrs["readings"]] != [1, 2, 4]


def test_a_second_call_answers_without_training_and_a_larger_budget_does_the_difference(workdir, capsys):
    tune(workdir, "search.trials=4")
    first, trained = facts(workdir), (workdir / "epochs.txt").read_text()
    capsys.readouterr()
    assert tune(workdir, "search.trials=4") == 0
    again = capsys.readouterr()
    assert "champion of line-1" in again.out
    assert "is finished" in again.err
    assert (workdir / "epochs.txt").read_text() == trained
    assert tune(workdir, "search.trials=8") == 0
    assert facts(workdir)[:4] == first
    assert len(trials(workdir)) == 8


def test_a_changed_study_is_a_new_round_that_says_why_and_the_old_one_is_found_again(workdir, capsys):
    tune(workdir, "search.trials=2")
    capsys.readouterr()
    assert tune(workdir, "search.trials=2", "space.lr.high=0.3", "data.batch_size=8") == 0
    told = capsys.readouterr().err
    assert "line-2 is a new round" in told
    assert "space.lr.high: 0.5 → 0.3" in told
    assert "data.batch_size: 16 → 8" in told
    assert tune(workdir, "search.trials=2") == 0
    assert "champion of line-1" in capsys.readouterr().out


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_the_budget_of_epochs_is_kept(workdir, budget):
    assert tune(workdir, "search.trials=null", f"search.budget={budget}") == 0
    trained = len((workdir / "epochs.txt").read_text().splitlines())
    assert trained <= 4 * budget
    assert "complete" in outcomes(workdir)


def test_a_round_that_is_out_of_time_goes_on_when_it_is_given_more(workdir, monkeypatch):
    """The time is up in the middle of the third trial, whatever the machine's speed."""
    with monkeypatch.context() as patched:
        patched.setattr(Round, "_is_out_of_time", lambda self: len(self.history) >= 3)
        patched.setattr("tuner.round.TICK_S", 0.02)
        assert tune(workdir, "search.trials=6", "module.pause_s=0.05") == 0
        assert outcomes(workdir)[2] == "interrupted"
        trained = (workdir / "epochs.txt").read_text()
        assert tune(workdir, "search.trials=6", "search.timeout=9", "module.pause_s=0.05") == 0
        assert (workdir / "epochs.txt").read_text() == trained, "no worker starts for nothing"
    assert tune(workdir, "search.trials=6", "module.pause_s=0.05") == 0
    assert {trial.state.name for trial in trials(workdir)} == {"COMPLETE", "PRUNED"}
    limited = facts(workdir)
    (workdir / "runs").rename(workdir / "runs before")
    tune(workdir, "search.trials=6", "module.pause_s=0.05")
    assert facts(workdir) == limited, "as if there had been no limit"


def test_a_study_that_only_a_worker_finds_wrong_leaves_no_round_behind(workdir, capsys):
    assert (
        tune(
            workdir,
            "module._target_=faulty.loaders",
            "~module.lr",
            "~module.mode",
            "~module.marks",
            "~module.pause_s",
            "~space.lr",
            "+space.batch_size={kind: int, low: 8, high: 16, path: data.batch_size}",
        )
        == 2
    )
    assert "LightningModule" in capsys.readouterr().err
    with Database(store_url(workdir)) as database:
        assert Rounds(database).all() == []
    assert tune(workdir) == 0
    assert outcomes(workdir, "line-1").count("complete") >= 1


def test_the_time_that_a_call_took_is_kept_for_the_next_one(workdir, capsys):
    assert tune(workdir, "search.trials=null", "search.timeout=0.01") == 1
    assert "out of time, 0 trials" in capsys.readouterr().out
    with Database(store_url(workdir)) as database:
        assert Rounds(database).all()[0].seconds_used >= 0.01


# (mode, exit code, outcome of every trial, state in Optuna, part of its reason)
OUTCOMES = [
    ("diverge", 1, "diverged", "PRUNED", "nan"),
    ("memory", 1, "out of memory", "PRUNED", "out of memory"),
]


@pytest.mark.parametrize(("mode", "code", "outcome", "state", "reason"), OUTCOMES, ids=[row[0] for row in OUTCOMES])
def test_what_goes_wrong_in_a_trial_is_recorded_and_the_round_goes_on(workdir, mode, code, outcome, state, reason):
    assert tune(workdir, f"module.mode={mode}") == code, "without a trial trained in full there is no champion"
    for trial in trials(workdir):
        assert (trial.user_attrs["outcome"], trial.state.name) == (outcome, state)
        assert reason in trial.user_attrs["reason"]
    assert len(trials(workdir)) == 4


def test_a_module_that_always_crashes_stops_the_round_with_its_traceback(workdir, capsys):
    assert tune(workdir, "module.mode=raise", "search.trials=20") == 1
    told = capsys.readouterr().err
    assert "first 3 trials failed in the same way" in told
    assert "what a pity" in told
    assert re.search(r'faulty\.py", line \d+, in _misbehave', told)
    assert outcomes(workdir) == ["crashed"] * 3
    assert "what a pity" in trials(workdir)[0].user_attrs["traceback"]


def test_a_module_that_crashes_for_some_values_only_does_not_stop_the_round(workdir):
    space = {"lr": {"kind": "log_uniform", "low": 1e-3, "high": 0.5, "path": "module.lr"},
             "mode": {"kind": "categorical", "choices": ["good", "raise"], "path": "module.mode"}}  # fmt: skip
    write_study(workdir, space=space)
    assert tune(workdir, "search=random", "search.trials=8") == 0
    assert {"crashed", "complete"} <= set(outcomes(workdir))


def test_the_default_search_leaves_a_choice_that_always_crashes(workdir):
    space = {"lr": {"kind": "log_uniform", "low": 1e-3, "high": 0.5, "path": "module.lr"},
             "mode": {"kind": "categorical", "choices": ["good", "raise", "other"], "path": "module.mode"}}  # fmt: skip
    write_study(workdir, space=space)
    assert tune(workdir, "search.trials=24", "search.budget=null") == 0
    modes = [trial.params["mode"] for trial in trials(workdir)]
    assert "raise" in modes[:10], "else this test says nothing"
    assert modes[12:].count("raise") <= 2


def test_an_objective_that_is_never_logged_is_found_by_the_first_trial(workdir, capsys):
    assert tune(workdir, "module.mode=silent") == 2
    told = capsys.readouterr().err
    assert "objective.metric: is a metric that the module logs; got 'val/loss'" in told
    assert "Traceback" not in told
    assert tune(workdir, "objective.metric=val/los") == 2
    assert "Did you mean val/loss?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+module.hiden=3", ["faulty.Line", "unexpected keyword argument 'hiden'"]),
        ("trainer.precision=99", ["trainer", "99"]),
        ("+trainer.gradient_clip_algorithm=nonsense", ["trainer", "nonsense"]),
        ("data=null", ["train_dataloader"]),
    ],
)
def test_what_the_users_classes_and_lightning_refuse_is_told_by_the_first_trial(workdir, capsys, override, named):
    code = tune(workdir, override, "search.trials=1")
    told = capsys.readouterr().err
    assert all(part in told for part in named), told
    if override != "data=null":
        assert code == 2
        assert "Traceback" not in told


def test_a_part_of_a_training_without_a_validation_has_the_value_of_the_part_before(workdir):
    """Validation after every third of four epochs: the second part, from epoch 3 to 4, has none."""
    assert tune(workdir, "trainer.check_val_every_n_epoch=3", "search.trials=4") == 0
    complete = [trial for trial in trials(workdir) if trial.state.name == "COMPLETE"]
    assert complete
    for trial in complete:
        assert list(trial.intermediate_values.values()) == [trial.value]


def test_a_trial_whose_worker_is_killed_goes_on_with_another(workdir):
    assert tune(workdir, "module.mode='killed once'", "search.trials=2") == 0
    first = trials(workdir)[0]
    assert first.user_attrs["outcome"] in ("complete", "pruned")
    assert first.user_attrs["retries"] == 1
    assert "SIGKILL" not in (first.user_attrs["reason"] or ""), "it has recovered from that"


def test_a_trial_that_kills_every_worker_is_lost_after_its_retries(workdir, capsys):
    assert tune(workdir, "module.mode=exit", "search.trials=1", "launcher.max_retries=1") == 1
    (lost,) = trials(workdir)
    assert (lost.user_attrs["outcome"], lost.state.name, lost.user_attrs["retries"]) == ("lost", "FAIL", 1)
    assert "exit code 3" in lost.user_attrs["reason"]
    assert "exit code 3" in capsys.readouterr().err


def test_a_trial_that_hangs_is_timed_out_and_its_worker_replaced(workdir, monkeypatch):
    monkeypatch.setattr("tuner.running.STOP_S", 0.5)
    assert tune(workdir, "module.mode=sleep", "search.trials=2", "search.trial_timeout=2") == 1
    assert outcomes(workdir) == ["timed out"] * 2
    assert {trial.state.name for trial in trials(workdir)} == {"PRUNED"}


def test_what_the_users_code_prints_goes_to_the_workers_log(workdir, capfd):
    assert tune(workdir, "module.mode=print", "search.trials=1") == 0
    assert "printed by the module" not in "".join(capfd.readouterr())
    assert "printed by the module" in (workdir / "runs/line-1/worker-0.log").read_text()


def test_one_worker_gives_the_same_round_to_the_last_digit_whatever_the_search_saw(
    workdir, tmp_path_factory, monkeypatch
):
    tune(workdir, "search.trials=10")
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    write_study(other)
    tune(other, "search.trials=10", "module.marks=" + str(workdir))
    assert facts(other) == facts(workdir)


@pytest.mark.parametrize("search", ["random", "quasi_random", "coarse_to_fine"])
def test_result_blind_draws_are_the_same_with_more_workers(workdir, tmp_path_factory, monkeypatch, search):
    drawn = []
    for workers in (1, 3):
        folder = tmp_path_factory.mktemp(f"workers{workers}")
        monkeypatch.chdir(folder)
        tune(folder, f"search={search}", "search.trials=9", "search.budget=null", f"launcher.workers={workers}")
        drawn.append([trial.params for trial in trials(folder)])
    # Of coarse_to_fine the first six: the later ones look at results.
    assert drawn[0][:6] == drawn[1][:6]
    assert search == "coarse_to_fine" or drawn[0] == drawn[1]


FOREIGN = {
    "tpe": "search=tpe",
    "gp": "search=gp",
    "by target": "search.draws={_target_: optuna.samplers.NSGAIISampler}",
    "a sequence": "search.draws={_target_: optuna.samplers.QMCSampler, scramble: true}",
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "search",
    [pytest.param(name, marks=() if name in ("tpe", "gp") else pytest.mark.slow) for name in FOREIGN],
)
def test_optunas_samplers_go_on_after_a_resume_as_they_would_have(workdir, tmp_path_factory, monkeypatch, search):
    words = [FOREIGN[search], "pruner=none", "trainer.max_epochs=1", f"module.marks={workdir}"]
    tune(workdir, *words, "search.trials=14")
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    for count in (3, 11, 14):
        tune(other, *words, f"search.trials={count}")
    assert facts(other) == facts(workdir)
    assert len({trial.params["lr"] for trial in trials(other)[:10]}) == 10


GRID = {
    "lr": {"kind": "categorical", "path": "module.lr", "choices": [0.01, 0.05, 0.1, 0.3]},
    "batch": {"kind": "categorical", "path": "data.batch_size", "choices": [8, 16, 32]},
}
EXHAUSTIVE = {
    "grid": "search.draws={_target_: optuna.samplers.GridSampler, "
    "search_space: {lr: [0.01, 0.05, 0.1, 0.3], batch: [8, 16, 32]}}",
    "brute force": "search.draws={_target_: optuna.samplers.BruteForceSampler}",
}


def drawn_of(folder):
    return [(trial.params["lr"], trial.params["batch"]) for trial in trials(folder)]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("search", EXHAUSTIVE)
def test_a_grid_is_covered_exactly_also_in_parts(workdir, capsys, search, workers):
    write_study(workdir, space=GRID)
    words = [EXHAUSTIVE[search], "pruner=none", "trainer.max_epochs=1", f"launcher.workers={workers}"]
    assert tune(workdir, *words, "search.trials=5") == 0
    assert tune(workdir, *words, "search.trials=20") == 0
    assert "the sampler has nothing left to draw" in capsys.readouterr().out
    assert len(drawn_of(workdir)) == len(set(drawn_of(workdir))) == 12
    assert drawn_of(workdir)[0] == (0.1, 16), "the study's own values are a point like the others"
    assert set(outcomes(workdir)) == {"complete"}
    assert tune(workdir, *words, "search.trials=30") == 0
    assert len(trials(workdir)) == 12
    assert "nothing left" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_round_whose_sampler_runs_out_ends_in_order_with_what_is_paused(workdir, capsys, workers):
    """Four configurations, of which the second half pauses or is left when the last one is drawn."""
    few = {name: {**GRID[name], "choices": GRID[name]["choices"][1:3]} for name in GRID}
    write_study(workdir, space=few)
    words = [EXHAUSTIVE["brute force"], "search.trials=null", "search.budget=50", f"launcher.workers={workers}"]
    assert tune(workdir, *words) == 0
    told = capsys.readouterr().out
    assert "nothing left to draw: all 4 trials are drawn, and the best of them trained in full" in told
    assert "champion of line-1" in told
    first = facts(workdir)
    assert len(set(drawn_of(workdir))) == len(first) == 4
    assert {"complete"} < set(outcomes(workdir)) <= {"complete", "pruned"}
    trained = (workdir / "epochs.txt").read_text()
    assert tune(workdir, *words) == 0
    again = capsys.readouterr()
    assert "is finished" in again.err
    assert "champion of line-1" in again.out
    assert (facts(workdir), (workdir / "epochs.txt").read_text()) == (first, trained)


def test_a_grid_is_covered_exactly_where_optunas_pruner_is_asked(workdir, capsys):
    write_study(workdir, space=GRID)
    assert tune(workdir, EXHAUSTIVE["grid"], "pruner=hyperband", "search.trials=20", "launcher.workers=2") == 0
    assert "nothing left to draw" in capsys.readouterr().out
    assert len(drawn_of(workdir)) == len(set(drawn_of(workdir))) == 12


SEARCHES = {
    "tiered": [],
    "tpe": [],
    "gp": [],
    "random": ["pruner=median"],
    "quasi_random": ["pruner=hyperband"],
    "coarse_to_fine": ["search.screen=false", "search.barrier=true"],
    "nsga by target": ["search.draws={_target_: optuna.samplers.NSGAIISampler}"],
}


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_draws_inside_the_space_and_ends_with_a_champion(workdir, search):
    words = SEARCHES[search] if "target" in search else [f"search={search}", *SEARCHES[search]]
    assert tune(workdir, *words, "search.trials=8", "search.budget=null") == 0
    assert all(1e-3 <= trial.params["lr"] <= 0.5 for trial in trials(workdir))
    assert len(trials(workdir)) == 8


def test_a_tiered_round_with_many_workers_waits_for_a_tier_before_it_begins_the_next(workdir, capsys):
    later = {
        "batch_size": {"kind": "categorical", "path": "data.batch_size", "choices": [8, 16, 32, 64], "tier": 2},
        "pause": {"kind": "uniform", "path": "module.pause_s", "low": 0.0, "high": 0.001, "tier": 3},
    }
    write_study(workdir, space=later)
    assert tune(workdir, "search=tiered", "search.coarse=2", "search.trials=12", "launcher.workers=3") == 0
    with Database(store_url(workdir)) as database:
        rounds = Rounds(database)
        stages = rounds.stages(rounds.latest("line"))
    assert [(stage["name"], stage["starts_at"]) for stage in stages] == [
        ("tier 1 coarse", 0),
        ("tier 2 coarse", 3),
        ("tier 3 coarse", 6),
        ("fine 1", 9),
    ]
    assert [set(stage["elites"]) <= set(range(stage["starts_at"])) for stage in stages] == [True] * 4
    assert [len(stage["elites"]) for stage in stages] == [0, 3, 4, 4]
    low, high = stages[1]["box"]["lr"]
    assert high - low < 0.9
    drawn = [trial.params for trial in trials(workdir)]
    own = drawn[0]
    assert {params["batch_size"] for params in drawn[:3]} == {own["batch_size"]}
    assert {params["pause"] for params in drawn[:6]} == {0.0}
    assert len({params["lr"] for params in drawn[:6]}) == 6
    assert len({params["batch_size"] for params in drawn[3:6]}) > 1
    assert len({params["pause"] for params in drawn[6:]}) == 6
    said = capsys.readouterr().out
    assert "uniform over tier 2 (batch_size), the earlier ones in the box of the 3 best of 3" in said
    assert "not tuned yet" not in said


def test_a_tier_waits_for_trials_that_lost_their_worker_and_not_for_those_that_crashed(workdir):
    space = {
        "lr": {"kind": "log_uniform", "low": 1e-3, "high": 0.5, "path": "module.lr"},
        "mode": {"kind": "categorical", "choices": ["good", "raise", "killed once"], "path": "module.mode"},
        "pause": {"kind": "uniform", "path": "module.pause_s", "low": 0.0, "high": 0.001, "tier": 2},
    }
    write_study(workdir, space=space)
    assert tune(workdir, "search=tiered", "search.coarse=7", "search.trials=18", "launcher.workers=3", "seed=1") == 0
    drawn = trials(workdir)
    crashed = [trial.number for trial in drawn if trial.user_attrs["outcome"] == "crashed"]
    assert crashed == [trial.number for trial in drawn if trial.params["mode"] == "raise"]
    again = [trial.number for trial in drawn if trial.user_attrs.get("retries")]
    first = set(range(8))
    assert first & set(crashed), "else this test says nothing"
    assert first & set(again)
    with Database(store_url(workdir)) as database:
        rounds = Rounds(database)
        stages = rounds.stages(rounds.latest("line"))
    assert [stage["starts_at"] for stage in stages] == [0, 8, 16]
    assert f"the 4 best of {len(first - set(crashed))} trials" in stages[1]["reason"]
    assert {trial.params["pause"] for trial in drawn[:8]} == {0.0}


def test_a_tiered_round_that_ends_early_names_what_it_has_not_tuned(workdir, capsys):
    later = {
        "batch_size": {"kind": "categorical", "path": "data.batch_size", "choices": [8, 16, 32, 64], "tier": 2},
        "pause": {"kind": "uniform", "path": "module.pause_s", "low": 0.0, "high": 0.001, "tier": 3},
    }
    write_study(workdir, space=later)
    said = []
    for count in (3, 6, 7):
        assert tune(workdir, "search=tiered", "search.coarse=2", f"search.trials={count}") == 0
        said += [line for line in capsys.readouterr().out.splitlines() if "not tuned yet" in line] or [""]
    why = "because the round ended before their tier began; it goes on from here with a larger budget"
    assert said == [f"  not tuned yet: batch_size, pause, {why}", f"  not tuned yet: pause, {why}", ""]


def test_a_trial_carries_what_a_person_looks_for_in_the_dashboard(workdir):
    tune(workdir, "search.trials=4")
    trial = trials(workdir)[0]
    assert trial.user_attrs["hyperparameters"] == {"lr": 0.1}
    assert trial.user_attrs["stage"] == "coarse"
    assert list(trial.intermediate_values) == [4, 8, 12, 16][: len(trial.intermediate_values)], "keyed on the step"
    with Database(store_url(workdir)) as database:
        study_id = database.storage.get_study_id_from_name("line-1")
        assert database.storage.get_study_system_attrs(study_id)["study:metric_names"] == ["val/loss"]
        seen = overview(database, "line-1")
    assert sum(seen.outcomes.values()) == 4
    assert seen.training == ()


def test_the_best_pressing_against_an_edge_is_told_with_the_bound_to_widen(workdir, capsys):
    """On this line a larger learning rate is better as far as 0.02, so the best press against the upper end."""
    tune(workdir, "space.lr.high=0.02", "module.lr=0.01", "search.trials=14", "search.coarse=5")
    captured = capsys.readouterr()
    assert "the best trials press against the high end of lr (0.02); widen it: space.lr.high=0.2" in captured.err


def test_with_expand_the_next_stage_goes_past_the_edge_and_never_past_the_limit(workdir):
    tune(
        workdir,
        "space.lr.high=0.02",
        "space.lr.limit=[0.001,0.1]",
        "module.lr=0.01",
        "search.trials=24",
        "search.expand=true",
    )
    highest = max(trial.params["lr"] for trial in trials(workdir))
    assert 0.02 < highest <= 0.1


def test_a_database_that_breaks_in_the_middle_is_told_in_a_sentence(workdir, monkeypatch, capsys):
    """As a full disk: a write in the middle of the round fails in the driver."""
    write, count = RDBStorage.set_trial_state_values, itertools.count()

    def full(*args):
        if next(count) == 1:
            raise StorageInternalError("…") from sqlite3.OperationalError("database or disk is full")
        write(*args)

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", full)
    assert tune(workdir, "search.trials=2") == 2
    told = capsys.readouterr().err
    assert "database or disk is full" in told
    assert "Traceback" not in told
    assert tune(workdir, "search.trials=2") == 0


def test_the_champion_is_known_while_the_round_still_runs(workdir, monkeypatch, capsys):
    """Cut off when the first trial after a full training ends, the round has a champion, and says so when asked."""
    ended, states = Progress.trial_left, []

    def stop(self, number, state, attributes):
        ended(self, number, state, attributes)
        states.append(state)
        if State.COMPLETE in states[:-1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "trial_left", stop)
    assert tune(workdir, "search.trials=8") == 130
    capsys.readouterr()
    assert (
        main(["champion", "study=line", *store_words(), "search.trials=8", "--config-dir", str(workdir / "conf")]) == 0
    )
    assert yaml.safe_load(capsys.readouterr().out)["round"] == 1


def test_the_models_of_the_best_stay_and_can_be_loaded_and_no_other_checkpoint_does(workdir, capsys):
    tune(workdir, "search.trials=8", "search=random", "pruner=none", "store.keep_checkpoints=2")
    best = sorted(trials(workdir), key=lambda trial: trial.value)[:2]
    left = sorted(file.relative_to(workdir / "runs/line-1") for file in workdir.glob("runs/line-1/trial-*/*"))
    assert left == sorted(Path(f"trial-{trial.number}/final.ckpt") for trial in best)
    model = Line.load_from_checkpoint(workdir / "runs/line-1" / f"trial-{best[0].number}" / "final.ckpt")
    x, y = next(iter(loaders()[1]))
    assert mse_loss(model.linear(x), y).item() == pytest.approx(best[0].value)
    capsys.readouterr()
    main(["status", *store_words()])
    assert "checkpoints on this disk: 0.0 MB in runs/line-1" in capsys.readouterr().out


def test_of_many_that_wait_only_the_best_keep_a_checkpoint(workdir):
    words = [
        "search=random",
        "search.trials=12",
        "trainer.max_epochs=8",
        "store.keep_paused=2",
        "store.keep_checkpoints=0",
    ]
    kept = []
    forget = Trials._forget_the_worst

    def watched(self, number, epoch):
        forget(self, number, epoch)
        waiting = [one for _, one in self.history.waiting(epoch)]
        kept.append([one in waiting[:2] for one in waiting if self.checkpoint(one)])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trials, "_forget_the_worst", watched)
        assert tune(workdir, *words) == 0
    assert max(map(len, kept)) == 2
    assert not list(workdir.glob("runs/line-1/trial-*"))


def test_the_folder_of_another_databases_round_is_refused(workdir, capsys):
    """Both are called line-1, and each would go on from the other's checkpoints."""
    assert tune(workdir, "store.url=sqlite:///one.db", "search.trials=2") == 0
    assert tune(workdir, "store.url=sqlite:///two.db", "search.trials=2", "seed=1") == 2
    assert "store.folder" in capsys.readouterr().err
    assert tune(workdir, "store.url=sqlite:///two.db", "search.trials=2", "seed=1", "store.folder=other") == 0
    assert tune(workdir, "store.url=sqlite:///one.db", "search.trials=3") == 0, "its own round goes on there"


def test_what_a_round_has_decided_to_draw_is_not_searched_for_again(workdir, monkeypatch):
    """The rule reads the round's history, the draw what Optuna has of it: the same to the last digit, or nothing is saved."""
    decided_by, searches = [None], []

    class Watched(CoarseToFineSampler):
        def judge(self, history, waiting):
            expected = super().judge(history, waiting)
            decided_by.append(len(history) if math.isfinite(expected.new) else None)
            return expected

        def _drawn(self, study, trial):
            before = self._cache.searches
            point = super()._drawn(study, trial)
            if decided_by[-1] == trial.number:
                searches.append(self._cache.searches - before)
            return point

    monkeypatch.setattr("tuner.chosen.CoarseToFineSampler", Watched)
    assert tune(workdir, "search.coarse=2", "search.trials=24", "search.budget=null") == 0
    assert len(searches) >= 3, "without a paused trial to compare with, nothing is searched for before the draw"
    assert not any(searches)
