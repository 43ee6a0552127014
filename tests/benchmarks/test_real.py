"""The benchmark of real trainings: how it counts, that all search the same space on the same data, and that it runs."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tuner.config import load
from tuner.launch.devices import gpus
from tuner.search.distributions import distribution, from_optuna, optuna_name
from tuner.training.build import instantiate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import figures
    import real
    from contenders import curves, optuna_study, problem, race, record, results

    return SimpleNamespace(
        curves=curves,
        figures=figures,
        optuna=optuna_study,
        problem=problem,
        race=race,
        real=real,
        record=record,
        results=results,
    )


# -- intervals ------------------------------------------------------------------------------------------------------


def test_an_interval_lies_around_the_mean_and_narrows_with_more_values(bench):
    values = [random.Random(seed).gauss(0, 1) for seed in range(100)]
    (few_low, few_high), (low, high) = bench.figures.interval(values[:10]), bench.figures.interval(values)
    assert low < sum(values) / 100 < high
    assert high - low < few_high - few_low
    # Of a mean of 100 values with deviation 1: 1.96 / 10 to either side, give or take what 100 draws tell of it.
    assert 0.14 < (high - low) / 2 < 0.26
    assert bench.figures.interval([3.0] * 5) == (3.0, 3.0)


def test_an_interval_of_a_statistic_that_may_be_infinite_has_no_bound_between_two(bench):
    low, high = bench.figures.interval([0, 1, 2], lambda chosen: math.inf if 2 in chosen else 0.25)
    assert (low, high) == (0.25, math.inf)


# -- logs -----------------------------------------------------------------------------------------------------------

LINES = [
    {"at": 102.0, "trial": "trial-0"},
    {"at": 103.0, "trial": "trial-0", "epoch": 1, "value": 0.5},
    {"at": 104.0, "trial": "trial-1"},
    {"at": 105.0, "trial": "trial-1", "epoch": 1, "value": 0.4},
    {"at": 106.0, "trial": "trial-0", "epoch": 2, "value": 0.7},
    {"at": 106.0, "trial": "trial-0", "value": 0.7, "recommended": {"lr": 0.1}},
    {"at": 108.0, "trial": "trial-0"},  # it goes on
    {"at": 109.0, "trial": "trial-1", "epoch": 2, "value": 0.8},
    {"at": 110.5, "trial": "trial-2"},
    {"at": 111.0, "trial": "trial-1", "value": 0.8, "recommended": {"lr": 0.2}},
]


def test_a_run_counts_what_is_over_by_the_end_of_the_budget(bench):
    run = bench.curves.Run.of_log(LINES, began=100.0, seconds=10.0)
    assert run.seen == [(0.3, 0.5), (0.6, 0.7), (0.9, 0.8)]
    assert run.recommended == [(0.6, 0.7)]
    assert run.values == {"lr": 0.1}
    assert (run.trainings, run.epochs) == (2, 4)
    later = bench.curves.Run.of_log(LINES, began=100.0, seconds=20.0)
    assert (later.trainings, later.values) == (3, {"lr": 0.2})
    nothing = bench.curves.Run.of_log([], began=100.0, seconds=10.0)
    assert (nothing.seen, nothing.recommended, nothing.values, nothing.trainings) == ([], [], None, 0)


def test_without_recommendations_the_trial_with_the_best_last_value_is_taken(bench):
    lines = [
        {"at": 1.0, "trial": "a", "values": {"lr": 1}},
        {"at": 2.0, "trial": "a", "epoch": 1, "value": 0.9},
        {"at": 3.0, "trial": "b", "values": {"lr": 2}},
        {"at": 4.0, "trial": "b", "epoch": 1, "value": 0.8},
        {"at": 5.0, "trial": "a", "epoch": 2, "value": 0.6},
        {"at": 6.0, "trial": "b", "epoch": 2, "value": math.nan},
    ]
    run = bench.curves.Run.of_log(lines, began=0.0, seconds=10.0)
    assert run.recommended == [(0.2, 0.9), (0.5, 0.8), (0.6, 0.6)]
    assert run.values == {"lr": 1}
    assert run.seen == [(0.2, 0.9)]


def test_lines_of_two_processes_are_read_in_the_order_of_time(bench, tmp_path):
    file = tmp_path / "log.jsonl"
    assert bench.record.read(file) == []
    bench.record.append(file, trial="late")
    bench.record.recommend(file, "early", 0.5, {"lr": 0.1}, at=1.0)
    assert [line["trial"] for line in bench.record.read(file)] == ["early", "late"]


# -- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_has_a_value_from_its_first_point_on(bench):
    curve = [(0.25, 0.5), (0.5, 0.7)]
    assert math.isnan(bench.curves.value_at(curve, 0.2))
    assert [bench.curves.value_at(curve, share) for share in (0.25, 0.4, 0.5, 1.0)] == [0.5, 0.5, 0.7, 0.7]
    assert math.isnan(bench.curves.value_at([], 1.0))


def test_a_mean_begins_when_all_seeds_have_a_value(bench):
    curves = [[(0.1, 0.25), (0.6, 0.75)], [(0.3, 0.5)]]
    assert bench.curves.mean_of(curves) == [(0.3, 0.375), (0.6, 0.625)]
    assert bench.curves.mean_of([[(0.1, 0.2)], []]) == []


@pytest.mark.parametrize(
    ("own", "others", "share"),
    [
        # Two seeds of the contender, two of each other; the mean reaches the other's end at 0.6.
        ([[(0.2, 0.4), (0.6, 0.8)], [(0.3, 0.8)]], {"a": [[(0.9, 0.7)], [(0.8, 0.9)]]}, 0.6),
        ([[(0.2, 0.4), (0.6, 0.8)], [(0.3, 0.8)]], {"a": [[(0.9, 0.6)], [(0.8, 0.6)]]}, 0.3),
        (
            [[(0.2, 0.4)], [(0.3, 0.8)]],
            {"a": [[(0.9, 0.6)], [(0.8, 0.6)]], "b": [[(0.1, 0.9)], [(0.1, 0.9)]]},
            math.inf,
        ),
        # b has nothing with one of the seeds.
        ([[(0.2, 0.8)], [(0.3, 0.8)]], {"a": [[(0.9, 0.6)], [(0.8, 0.6)]], "b": [[(0.1, 0.9)], []]}, 0.3),
        ([[(0.2, 0.8)], [(0.3, 0.8)]], {"b": [[(0.1, 0.9)], []]}, math.nan),
        ([[], [(0.3, 0.8)]], {"a": [[(0.9, 0.6)], [(0.8, 0.6)]]}, math.inf),
    ],
)
def test_the_share_of_the_budget_until_the_best_of_the_others(bench, own, others, share):
    def run(curve):
        return bench.curves.Run(seen=curve, recommended=[], values=None, trainings=0, epochs=0)

    seeds = [
        {"own": run(own[place]), **{name: run(curves[place]) for name, curves in others.items()}} for place in range(2)
    ]
    found = bench.curves.share_until(seeds, "own", list(others), lambda one: one.seen)
    assert found(range(2)) == pytest.approx(share, nan_ok=True)


# -- the peers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["study=digits"], ["study=cifar"]])
def test_plain_optuna_draws_from_the_space_of_the_study(bench, words):
    space = load(words).study.space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        values = bench.optuna.suggested(trial, space)
        assert set(values) == set(space.names)
        assert all(space[name].scale.contains(value) for name, value in values.items())
        assert trial.distributions == {optuna_name(parameter): distribution(parameter) for parameter in space}


def test_loaders_of_the_peers_have_the_examples_and_the_steps_of_the_study(bench):
    node = load(["study=digits", "data.batch_size=32"]).study.nodes.plain()["data"]
    train, val = bench.problem.loaders(node, 0)
    data = instantiate(node)
    assert len(train) == len(data.train_dataloader())
    assert torch.equal(torch.stack([image for image, _ in train.dataset]), data.train[0])
    assert torch.equal(torch.cat([images for images, _ in val]), data.val[0])
    assert [len(labels) for _, labels in train] == [32] * len(train)


@pytest.mark.filterwarnings("ignore")  # Lightning's, for whoever sits at the keyboard
@pytest.mark.parametrize("equal", [False, True], ids=["as their examples", "equal"])
def test_a_training_of_the_peers_is_logged(bench, tmp_path, equal):
    log = tmp_path / "log.jsonl"
    job = bench.problem.Job(
        words=["study=digits", "trainer.max_epochs=2", "trainer.accelerator=cpu"],
        log=str(log), folder=str(tmp_path), seconds=1.0, seed=0, slots=1, place=0, threads=None, equal=equal,
        loader_workers=0, own={}, options={},
    )  # fmt: skip
    values = {"lr": 0.1, "momentum": 0.9, "batch_size": 256, "hidden": 16, "layers": 1, "dropout": 0.0}
    value = job.train(3, {**values, "weight_decay": 1e-4, "schedule": "constant"}, [])
    began, first, last = bench.record.read(log)
    assert began == {"at": began["at"], "trial": "trial-3"}
    assert (first["epoch"], last["epoch"], last["value"]) == (1, 2, value)
    assert bench.problem.Job(**json.loads(job.as_word())) == job
    assert asdict(job)["words"] == job.words


# -- runs -----------------------------------------------------------------------------------------------------------


def test_a_program_that_fails_is_told_with_its_last_words(bench, tmp_path):
    fine = [sys.executable, "-c", "print('fine')"]
    assert bench.race.together([fine, fine], tmp_path, 60.0)[1] == [0, 0]
    assert (tmp_path / "output-1.txt").read_text() == "fine\n"
    with pytest.raises(RuntimeError, match="no such thing"):
        bench.race.together([fine, [sys.executable, "-c", "raise SystemExit('no such thing')"]], tmp_path, 60.0)


def test_a_program_that_does_not_end_is_killed_with_its_children(bench, tmp_path):
    child = "import time; open('alive', 'w').close(); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(RuntimeError, match="timed out"):
        bench.race.together([[sys.executable, "-c", parent]], tmp_path, 5.0)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "open('alive', 'w').close(); time.sleep(600)" not in listed


@pytest.fixture
def race(bench, tmp_path):
    return bench.race.Race(["study=digits"], 10.0, False, 1, None, tmp_path)


@pytest.fixture
def started(bench, monkeypatch) -> list[str]:
    """What is started, by programs that train nothing; each takes a second of a clock of its own."""
    done, clock = [], iter(range(1000, 9000))
    monkeypatch.setattr(bench.race, "time", SimpleNamespace(time=lambda: float(next(clock))))
    monkeypatch.setattr(bench.race.Race, "_tuner", lambda *_: done.append("tuner") or 0.0)
    monkeypatch.setattr(bench.race.Race, "_peer", lambda _, contender, *__: done.append(contender.title) or 0.0)
    return done


NAMES = ("tuner", "optuna-gp")


def test_a_finished_run_is_not_run_again(bench, race, started):
    bench.race.write(
        race.keep / "optuna-gp-0.json", {"code": race.code("optuna-gp"), "go": 1.0, "began": 100.0, "lines": LINES}
    )
    run = race.go(["optuna-gp"], 0)["optuna-gp"]
    assert (run.trainings, run.epochs) == (2, 4)
    assert started == []
    race.go(NAMES, 1)
    race.go(NAMES, 1)
    assert started == ["tuner", "Optuna, Gaussian process"]
    assert list(race.remarks(["optuna-gp"], 1)) == []


def test_what_a_run_depends_on_is_what_it_starts_and_reads(bench, race, tmp_path, monkeypatch):
    """In a copy, of which each file is edited in turn."""
    benchmarks = shutil.copytree(BENCHMARKS, tmp_path / "copy" / "benchmarks")
    for folder in ("tuner", "conf", "studies"):
        shutil.copytree(BENCHMARKS.parent / folder, tmp_path / "copy" / folder)
    monkeypatch.setattr(bench.race, "BENCHMARKS", benchmarks)
    for file, matters in [
        ("tuner/search/screen.py", True),
        ("conf/study/digits.yaml", True),
        ("studies/digits.py", True),
        ("benchmarks/contenders/record.py", True),
        ("benchmarks/contenders/optuna_study.py", True),
        ("benchmarks/plain_optuna.py", True),
        ("benchmarks/cifar.py", True),
        ("benchmarks/contenders/results.py", False),
        ("benchmarks/search.py", False),
    ]:
        before = [race.code(name) for name in NAMES]
        with (tmp_path / "copy" / file).open("a") as stream:
            stream.write("EDITED = True\n" if file.endswith(".py") else "# edited\n")
        after = [race.code(name) for name in NAMES]
        assert [was != now for was, now in zip(before, after, strict=True)] == [matters, matters], file
    assert race.code("tuner")["torch"] == torch.__version__


@pytest.mark.parametrize("code", ["", "of yesterday", None, {"tuner": "of yesterday"}])
def test_when_one_has_to_run_again_all_of_its_seed_do(bench, race, started, capsys, code):
    """Also those that are not named this time, when they are next."""
    names = [*NAMES, "optuna-tpe-median"]
    for seed in range(2):
        race.go(names, seed)
    started.clear()
    bench.race.write(race.keep / "tuner-1.json", {"code": code, "began": 100.0, "lines": LINES})
    for seed in range(2):
        race.go(NAMES, seed)
    assert started == ["tuner", "Optuna, Gaussian process"]
    assert "digits, seed 1 is run again by all, because of other code: tuner (" in capsys.readouterr().err
    assert json.loads((race.keep / "aside" / "0" / "tuner-1.json").read_text())["lines"] == LINES
    for seed in range(2):
        race.go(names, seed)
    assert started[2:] == ["Optuna, TPE, median pruner"]
    [said] = race.remarks(names, 2)
    assert said == "seed 1: optuna-tpe-median did not run beside the others, but 0 min later"


def test_who_was_added_is_named(race, started):
    race.go(["optuna-gp"], 0)
    race.go(NAMES, 0)
    assert started == ["Optuna, Gaussian process", "tuner"]
    [said] = race.remarks(NAMES, 1)
    assert said.startswith("seed 0: tuner did not run beside the others")
    assert list(race.remarks(["tuner"], 1)) == []


def test_files_that_are_edited_while_they_run_are_told(bench, race, started, monkeypatch):
    digests = iter(["before", *["after"] * 100])
    monkeypatch.setattr(bench.race, "product_files", lambda: {"tuner": next(digests)})
    race.go(NAMES, 0)
    [said] = race.remarks(NAMES, 1)
    assert said == "seed 0: files have changed since tuner began: run the command again"
    race.go(NAMES, 0)
    assert len(started) == 4
    assert list(race.remarks(NAMES, 1)) == []


def test_a_recommendation_is_trained_afresh_once(bench, race, monkeypatch):
    trained = []
    monkeypatch.setattr(bench.race, "test_accuracies", lambda words, fresh: trained.append(words) or [0.5] * fresh)
    run = bench.curves.Run.of_log(LINES, 100.0, 10.0)
    one, other = (race.recommended(replace(run, values={**run.values, "lr": lr})) for lr in (0.1, 0.2))
    assert race.tested(one) == race.tested(one) == [0.5]
    assert len(trained) == 1
    assert race.tested(other) == [0.5]
    assert len(trained) == 2, "another configuration"
    assert replace(race, fresh=2).tested(other) == [0.5, 0.5]
    assert race.tested(other) == [0.5], "as many as of the others"
    monkeypatch.setattr(bench.race, "product_files", lambda: {"tuner": "of another version"})
    assert race.tested(one) == [0.5]
    assert len(trained) == 4, "the kept one is of other code"


def test_what_several_recommend_is_trained_afresh_once_and_nothing_where_nothing_is(bench, race, monkeypatch):
    run = bench.curves.Run.of_log(LINES, 100.0, 10.0)
    runs = [{"tuner": run, "optuna-gp": run}, {"tuner": replace(run, values=None), "optuna-gp": run}]
    trained = []
    monkeypatch.setattr(bench.race, "test_accuracies", lambda words, fresh: trained.append(words) or [0.5] * fresh)
    monkeypatch.setattr(bench.race.Race, "go", lambda self, names, seed: runs[seed])
    monkeypatch.setattr(bench.race.Race, "remarks", lambda *given: iter(()))
    results = bench.real.measure(race, NAMES, 2)
    assert list(results.tests) == [{"tuner": [0.5], "optuna-gp": [0.5]}, {"tuner": [], "optuna-gp": [0.5]}]
    assert len(trained) == 1


def test_tables_and_figure_of_two_seeds(bench, tmp_path):
    def run(value):
        return bench.curves.Run([(0.2, value - 0.1), (0.4, value)], [(0.5, value)], {"lr": 0.1}, 3, 7)

    race = bench.race.Race(["study=digits"], 10.0, False, 1, None, tmp_path)
    names = ("tuner", "optuna-gp", "ray-asha")
    seeds = [{name: run(0.9 + 0.01 * seed - 0.02 * place) for place, name in enumerate(names)} for seed in range(2)]
    nothing = bench.curves.Run([], [], None, 0, 0)
    seeds[1]["ray-asha"] = nothing
    tests = [{name: [0.8, 0.9] for name in names}, {name: [] if name == "ray-asha" else [0.7] for name in names}]
    results = bench.results.Results(race, seeds, tests)
    own, gp, ray = results.over_time(bench.results.seen, markdown=True).splitlines()[2:]
    assert [cell.strip() for cell in own.strip("|").split("|")][1:4] == [
        "",
        "80.50 (80.0 to 81.0)",
        "80.50 (80.0 to 81.0)",
    ]
    assert "88.50 (88.0 to 89.0)" in gp
    assert "86.00 (1 of 2)" in ray
    own, gp, ray = results.summary(markdown=True).splitlines()[2:]
    assert [cell.strip() for cell in gp.strip("|").split("|")][4:] == [
        "77.50 (70.0 to 85.0)", "+0.00 (+0.0 to +0.0)", "40% (40% to 40%)", "50% (50% to 50%)",
    ]  # fmt: skip
    said = list(results.verdicts())
    assert [line.partition(":")[0] for line in said] == ["met", "met"]
    assert said[0].endswith("at its end: 40% (40% to 40%); target at most 50%")
    bench.results.plot([results], tmp_path / "real.png")
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds", "1", "2"], "--seconds has one number for each study (1), not [1.0, 2.0]"),
        (["--keep", "{kept}/digits/settings.json"], "--keep: runs cannot be kept in"),
        (["--seconds", "nan"], "argument --seconds: a number above 0 is wanted, not 'nan'"),
        (["--seeds", "0"], "argument --seeds: a whole number, 1 or more, is wanted, not '0'"),
        (["--plot", "real.pgn"], "argument --plot: the name is to end in .png, .svg or .pdf, not as 'real.pgn'"),
        (["--plot", "{kept}/none/real.png"], "is not there: make it or name another"),
        (["--contenders", "nobody"], "invalid choice: 'nobody'"),
        (["--keep", "{kept}"], "has runs with other settings: seconds was 7.0 and is 60.0. Name another folder."),
        (["--keep", "{kept}/broken"], "broken/digits/settings.json has no settings that can be read: "),
        (["--keep", "{kept}/list"], "list/digits/settings.json does not have words, seconds"),
    ],
)
def test_a_mistake_is_told_before_any_work(bench, tmp_path, monkeypatch, capsys, options, words):
    import real

    race = bench.race.Race(["study=digits"], 7.0, False, 1, None, tmp_path / "digits")
    race.keep.mkdir()
    bench.race.write(race.keep / "settings.json", race.settings)
    for name, text in (("broken", '{"seconds": '), ("list", "[]")):
        (tmp_path / name / "digits").mkdir(parents=True)
        (tmp_path / name / "digits" / "settings.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["real.py", *(word.format(kept=tmp_path) for word in options)])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as left:
        real.main()
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_on_one_place_contenders_that_are_the_same_are_left_out(bench, monkeypatch, capsys):
    import real

    names = ["tuner", "optuna-gp", "optuna-gp-all"]
    monkeypatch.setattr(real, "places", lambda: 2)
    assert real.with_places(names) == names
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(real, "places", lambda: 1)
    assert real.with_places(names) == names[:2]
    assert "left out optuna-gp-all: this machine has one place to train" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["real.py", "--contenders", "optuna-gp-all"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as left:
        real.main()
    assert left.value.code == 2
    assert "--contenders: optuna-gp-all: this machine has one place" in capsys.readouterr().err


def test_quick_changes_what_was_not_given_alone(bench, monkeypatch):
    monkeypatch.delenv("QUICK", raising=False)
    made = bench.figures.parser("")
    made.add_argument("--seeds", type=bench.figures.positive_int)
    made.add_argument("--trials", type=bench.figures.positive_int)

    def parsed(*words):
        asked = made.parse_args(words)
        bench.figures.filled(asked, usual={"seeds": 5, "trials": 100}, quick={"seeds": 1})
        return asked.seeds, asked.trials

    assert parsed() == (5, 100)
    assert parsed("--quick") == (1, 100)
    assert parsed("--quick", "--seeds", "3", "--trials", "7") == (3, 7)


def digits_race(bench, folder, **changes):
    """A race of some seconds in which two train at a time, whatever the machine."""
    words = ["study=digits", "trainer.max_epochs=2"]
    return replace(bench.race.Race(words, 6.0, True, 1, None, folder), **changes)


def own_of(bench, race):
    return race.study.space.effective(race.study.space.drawn(bench.race.own_values(race.study)))


@pytest.mark.slow
def test_a_peer_with_all_that_the_study_says_begins_with_its_values(bench, tmp_path):
    race = digits_race(bench, tmp_path)
    bench.race.Race._peer(race, bench.race.CONTENDERS["optuna-tpe-median"], tmp_path, 0)
    lines = bench.record.read(tmp_path / "log.jsonl")
    first = next(line for line in lines if "recommended" in line)
    assert first["trial"] == lines[0]["trial"] == "trial-0"
    assert first["recommended"] == own_of(bench, race)


@pytest.mark.slow
@pytest.mark.skipif(len(gpus()) == 1, reason="one process for each GPU")
def test_processes_on_one_storage_share_their_trials(bench, tmp_path, monkeypatch):
    """Each trains some of them, none trains that of another, and one of them begins with the study's values."""
    monkeypatch.setattr(bench.race.Race, "slots", 2)
    race = digits_race(bench, tmp_path)
    bench.race.Race._peer(race, bench.race.CONTENDERS["optuna-tpe-median-all"], tmp_path, 0)
    file = tmp_path / "journal.log"
    trials = optuna.load_study(study_name="benchmark", storage=JournalStorage(JournalFileBackend(str(file)))).trials
    assert all(trial.state.is_finished() for trial in trials)
    # Each line of the journal says who wrote it; 6 sets the state of a trial, of which 0 is running.
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = [(line["trial_id"], line["worker_id"]) for line in lines if line["op_code"] == 6 and line["state"] != 0]
    assert sorted(trial for trial, _ in told) == list(range(len(trials)))
    assert len({worker for _, worker in told}) == 2
    [own] = [trial for trial in trials if "fixed_params" in trial.system_attrs]
    values = {one.name: from_optuna(one, own.params[optuna_name(one)]) for one in race.study.space}
    assert race.study.space.effective(values) == own_of(bench, race)
    begun = [line["trial"] for line in bench.record.read(tmp_path / "log.jsonl") if line.keys() == {"at", "trial"}]
    assert sorted(begun) == sorted(f"trial-{trial.number}" for trial in trials)


@pytest.fixture
def peers() -> Path:
    """A Python with Ray Tune: this one, or that of an environment which the benchmark has made."""
    if all(importlib.util.find_spec(name) for name in ("ray", "pandas", "pyarrow", "tensorboardX")):
        return Path(sys.executable)
    made = BENCHMARKS.parent / ".peers"
    if not (made / "peers.txt").is_file():
        pytest.skip("Ray Tune is not installed; benchmarks/real.py makes .peers, which has it")
    return made / "bin" / "python"


@pytest.mark.slow
def test_ray_runs_and_begins_with_the_values_of_the_study(bench, tmp_path, peers):
    race = digits_race(bench, tmp_path / "keep", seconds=60.0, peers=peers)
    race.keep.mkdir()
    run = race.go(["ray-asha"], 0)["ray-asha"]
    assert run.trainings > 1
    assert run.values is not None
    kept = json.loads((race.keep / "ray-asha-0.json").read_text())
    assert kept["code"]["ray"].startswith("2.")
    first = next(line for line in kept["lines"] if "values" in line and line["trial"].endswith("_00000"))
    assert first["values"] == own_of(bench, race)


@pytest.mark.slow
def test_two_contenders_run_and_are_compared(tmp_path):
    keep, figure = tmp_path / "keep", tmp_path / "real.png"
    words = [sys.executable, str(BENCHMARKS / "real.py"), "--quick", "--markdown", "--seconds", "45"]
    more = ["--keep", str(keep), "--plot", str(figure)]
    done = subprocess.run([*words, *more], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("| ")}
    for name in ("tuner", "Optuna, TPE, median pruner"):
        trainings, epochs, val, test = [cell.strip() for cell in rows[name].split("|")][2:6]
        assert float(trainings) > 0
        assert float(epochs) > 0
        assert 0 < float(val) <= 100
        assert 0 < float(test) <= 100
    assert "share of the budget until tuner has the best validation value" in done.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
    kept = json.loads((keep / "digits" / "tuner-0.json").read_text())
    assert all(line["at"] > kept["began"] for line in kept["lines"])
