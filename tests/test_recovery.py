"""The controller can die between any two writes: the next call goes on as if nothing had happened."""

import contextlib
import shutil
from dataclasses import replace

import pytest
from rounds import facts, store_words, trials, write_study
from simulated import Simulated

import tuner.commands.tune as tune_module
from tuner.checkpoints import Checkpoints
from tuner.config import load
from tuner.store.database import Database
from tuner.store.leases import Leases
from tuner.store.rounds import Rounds
from tuner.store.storage import Storage
from tuner.store.writing import Writes

#: Two rungs (2 and 4 of 8 epochs), so that a trial has an older checkpoint while it writes a newer one.
WORDS = ["study=line", "trainer.max_epochs=8", "pruner.first_rung=0.25", "pruner.eta=2", "search.trials=9"]


class Killed(BaseException):
    """Stands for kill -9: nothing of the program catches it, and no file or row is written after it."""


class Deaths:
    """Counts what a controller writes (rows and checkpoint files) and kills it at the n-th write, before or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.at, self.after = 0, None, False
        # As many writes each time, however fast this machine is.
        monkeypatch.setattr("tuner.store.writing.VALUES_WAIT_S", 0.0)
        for owner, names in {
            Storage: ["create_new_trial", "set_trial_state_values"],
            Writes: ["_write"],
            Rounds: ["add_stage", "crown", "open", "create"],
            Leases: ["take"],
            Checkpoints: ["keep", "drop", "drop_final"],
        }.items():
            for name in names:
                monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))
        for owner, name in ((Rounds, "close"), (Leases, "release")):  # which a killed process does not do
            monkeypatch.setattr(owner, name, self._not_by_the_dead(getattr(owner, name)))

    @property
    def _dead(self) -> bool:
        return self.at is not None and self.writes > self.at

    def _not_by_the_dead(self, method):
        return lambda *args, **kwargs: None if self._dead else method(*args, **kwargs)

    def _counted(self, method):
        def counted(*args, **kwargs):
            self.writes += 1
            if self.writes - 1 == self.at and not self.after:
                raise Killed
            result = method(*args, **kwargs)
            if self.writes - 1 == self.at:
                raise Killed
            return result

        return counted


@pytest.fixture
def trained():
    """(trial, epoch) of every epoch that the workers have trained."""
    return []


@pytest.fixture
def call(workdir, monkeypatch, trained, round_store, request):
    """`tuner` with simulated workers, in a folder that has an empty database."""
    monkeypatch.setattr(tune_module, "launcher_of", lambda *_, **__: Simulated(1, trained))
    # A killed controller of this very process looks alive; its lease is taken as if it were not.
    monkeypatch.setattr("tuner.store.leases.Owner.is_dead", lambda _: True)
    settings = load([*WORDS, *store_words()], config_dir=str(write_study(workdir)))
    Database(f"sqlite:///{workdir}/empty.db").close()

    def call(*, workers=1, anew=False, **search):
        if anew:
            shutil.rmtree(workdir / "runs", ignore_errors=True)
            (workdir / "runs").mkdir()
            if round_store.startswith("sqlite"):
                shutil.copy(workdir / "empty.db", workdir / "runs/tuner.db")
            else:
                request.getfixturevalue("postgres").empty(round_store)
            trained.clear()
        monkeypatch.setattr(tune_module, "launcher_of", lambda *_, **__: Simulated(workers, trained))
        return tune_module.tune(replace(settings, search=replace(settings.search, **search)))

    return call


def model_of_the_best(workdir):
    """The file that stays of a round, and what the simulated worker has written into it."""
    complete = [trial for trial in trials(workdir) if trial.state.name == "COMPLETE"]
    best = min(complete, key=lambda trial: (trial.value, trial.number))
    return {f"runs/line-1/trial-{best.number}/final.ckpt": str(best.value)}


def check_deaths(workdir, monkeypatch, call, trained, *, after, every):
    deaths = Deaths(monkeypatch)
    assert call(anew=True) == 0
    undisturbed, once, count = facts(workdir), list(trained), deaths.writes
    assert {row[1] for row in undisturbed} == {"COMPLETE", "PRUNED"}
    assert len(once) == len(set(once)), "undisturbed, no epoch is trained twice"
    deaths.after = after
    for death in range(after, count, every):
        deaths.writes, deaths.at = 0, death
        with contextlib.suppress(Killed):
            call(anew=True)
        deaths.at = None
        assert call() == 0, f"died at write {death} of {count}"
        assert facts(workdir) == undisturbed, f"died at write {death} of {count}"
        assert len(trained) - len(set(trained)) <= 8, "only the trial in training is trained again"
        left = {str(file.relative_to(workdir)): file.read_text() for file in workdir.glob("runs/line-1/trial-*/*")}
        assert left == model_of_the_best(workdir), f"other files of ended trials after write {death}"


after_or_before = pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])


@after_or_before
def test_a_controller_that_dies_at_a_write_is_taken_over_without_a_difference(
    workdir, monkeypatch, call, trained, after, round_store
):
    # A database on a server takes seconds to be made anew; the writes are the same.
    every = 15 if round_store.startswith("sqlite") else 50
    check_deaths(workdir, monkeypatch, call, trained, after=after, every=every)


@pytest.mark.slow
@pytest.mark.parametrize("round_store", ["sqlite"], indirect=True)
@after_or_before
def test_a_controller_that_dies_at_any_write_is_taken_over_without_a_difference(
    workdir, monkeypatch, call, trained, after
):
    check_deaths(workdir, monkeypatch, call, trained, after=after, every=1)


def test_a_controller_that_dies_again_and_again_ends_some_day_in_the_same_place(workdir, monkeypatch, call):
    deaths = Deaths(monkeypatch)
    assert call(anew=True) == 0
    undisturbed = facts(workdir)
    for attempt in range(200):
        deaths.writes, deaths.at, deaths.after = 0, 23, not deaths.after
        with contextlib.suppress(Killed):
            assert call(anew=attempt == 0) == 0
            break
    else:
        pytest.fail("the round never ended")
    assert facts(workdir) == undisturbed


@pytest.mark.parametrize("workers", [2, 5])
def test_many_workers_end_with_every_trial_in_a_proper_place(workdir, call, trained, workers):
    assert call(workers=workers, trials=30) == 0
    assert len(trials(workdir)) == 30
    assert len(trained) == len(set(trained))
    assert {trial.state.name for trial in trials(workdir)} == {"COMPLETE", "PRUNED"}
    assert sum(trial.state.name == "COMPLETE" for trial in trials(workdir)) >= 30 // 4


def test_a_checkpoint_that_is_gone_costs_its_epochs_and_nothing_else(workdir, monkeypatch, call):
    assert call() == 0
    undisturbed = facts(workdir)
    deaths = Deaths(monkeypatch)
    deaths.at = 60
    with contextlib.suppress(Killed):
        call(anew=True)
    deaths.at = None
    for file in workdir.glob("runs/line-1/trial-*/*"):
        file.unlink()
    assert call() == 0
    assert facts(workdir) == undisturbed
