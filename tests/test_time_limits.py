"""Rounds that time bounds, by a clock that goes on while something trains: one second for an epoch of each worker."""

import functools
from dataclasses import replace

import pytest
from rounds import outcomes, trials, write_study
from simulated import DyingWhenStopped, Simulated

import tuner.commands.tune as tune_module
from tuner.checkpoints import Checkpoints
from tuner.chosen import sampler_of
from tuner.config import load
from tuner.recovery import recovered
from tuner.round import Round
from tuner.search.history import History
from tuner.store.database import Database
from tuner.store.ledger import Ledger
from tuner.store.rounds import Rounds

#: Rungs at 2, 4 and 8 of 16 epochs.
WORDS = ["study=line", "trainer.max_epochs=16", "search.coarse=5", "search.trials=null"]


@pytest.fixture
def trained():
    return []


@pytest.fixture
def call(workdir, monkeypatch, trained):
    """`tuner` with two simulated workers."""
    monkeypatch.setattr(tune_module, "launcher_of", lambda *_, **__: Simulated(2, trained))
    monkeypatch.setattr(tune_module, "prepare_workers", lambda *_, **__: None)
    before = []  # epochs of earlier calls: what they took is in the database

    def call(timeout_s, **search):
        before.append(len(trained))
        monkeypatch.setattr(
            tune_module, "Round", functools.partial(Round, clock=lambda: (len(trained) - before[-1]) / 2)
        )
        settings = load([*WORDS, f"search.timeout={timeout_s}"], config_dir=str(write_study(workdir)))
        return tune_module.tune(replace(settings, search=replace(settings.search, **search)))

    return call


@pytest.mark.parametrize(
    "search",
    [{}, pytest.param({"budget": 99.0}, marks=pytest.mark.slow), {"screen": False}],
    ids=["time", "epochs too", "places"],
)
def test_the_end_of_the_time_is_for_full_trainings_and_none_is_cut_short(workdir, call, trained, search):
    assert call(100, **search) == 0
    assert 75 <= len(trained) / 2 <= 100
    assert "interrupted" not in outcomes(workdir)
    assert outcomes(workdir).count("complete") >= 3


def test_with_more_time_the_round_goes_on_where_it_was(workdir, call, trained, capsys):
    assert call(60) == 0
    told = capsys.readouterr()
    assert "out of time" in told.out
    first = trials(workdir)
    assert call(60) == 0
    assert "raise search.budget, search.trials or search.timeout" in capsys.readouterr().err
    assert len(trials(workdir)) == len(first)
    assert call(120) == 0
    again = trials(workdir)
    assert [trial.params for trial in again[: len(first)]] == [trial.params for trial in first]
    assert len(again) > len(first)
    assert len(trained) == len(set(trained)), "no epoch was trained twice"
    assert 60 < len(trained) / 2 <= 120
    with Database(f"sqlite:///{workdir}/runs/tuner.db") as database:
        assert len(Rounds(database).all()) == 1


def test_too_little_time_for_one_training_is_used_all_the_same(workdir, call, trained):
    assert call(7) == 1
    assert 6 <= len(trained) / 2 <= 8


@pytest.mark.parametrize(
    ("words", "timed"),
    [([], True), (["search.budget=9"], False), (["search.trials=99"], False)],
    ids=["time alone", "a budget too", "trials too"],
)
def test_only_where_time_alone_counts_the_search_asks_what_an_epoch_takes(tmp_path, words, timed):
    settings = load([*WORDS, "search.timeout=9", *words], config_dir=str(write_study(tmp_path)))
    sampler = sampler_of(settings, settings.study, defaults={}, stages=(), on_stage=lambda _: None)
    history = History()
    for number in range(9):
        history.drawn(number, {"lr": number / 9}, 2)
        history.read(number, 2, abs(number / 9 - 0.5))
        history.paused(number, pace=3.0)
    expected = sampler.judge(history, [4])
    assert expected.pace == (pytest.approx(3.0) if timed else None)


def test_a_worker_that_dies_of_its_trials_time_limit_leaves_the_same_pace_to_whoever_goes_on(
    workdir, monkeypatch, trained
):
    monkeypatch.setattr(tune_module, "launcher_of", lambda *_, **__: DyingWhenStopped(2, trained))
    monkeypatch.setattr(tune_module, "prepare_workers", lambda *_, **__: None)
    histories = []

    def round_(*args, history, **kwargs):
        histories.append(history)
        return Round(*args, history=history, clock=lambda: len(trained) / 2, **kwargs)

    monkeypatch.setattr(tune_module, "Round", round_)
    words = [*WORDS, "search.trial_timeout=5", "search.trials=8"]
    settings = load(words, config_dir=str(write_study(workdir)))
    assert tune_module.tune(settings) == 1, "none has the time to be complete"
    assert outcomes(workdir).count("timed out") > 2
    study = settings.study
    with Database(settings.store.url) as database:
        ledger = Ledger(
            database.storage,
            "line-1",
            metric=study.objective.metric,
            direction=study.objective.direction,
            space=study.space,
            expand=False,
        )
        again = recovered(ledger, study, Checkpoints(workdir / "elsewhere"))
    assert [entry.pace for entry in again] == [entry.pace for entry in histories[0]]
    assert list(again) == list(histories[0])
