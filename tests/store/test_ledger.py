"""The ledger: the same trials in memory and in the database, whatever happened in between."""

import optuna
import pytest
from optuna.trial import TrialState

from tuner.errors import StoreError
from tuner.search.sampler import ResultBlindSampler
from tuner.space import Categorical, LogUniform, OneMinusPow10, Parameter, Space, Uniform
from tuner.store.database import Database
from tuner.store.ledger import Ledger
from tuner.store.reading import trials_of

SPACE = Space.of(
    [
        Parameter("lr", LogUniform(1e-4, 1.0), "module.lr"),
        Parameter("momentum", OneMinusPow10(0.9, 0.999), "module.momentum"),
        Parameter("schedule", Categorical(("step", "cosine")), "module.schedule"),
        Parameter("gamma", Uniform(0.1, 0.9), "module.gamma", when={"schedule": ("step",)}),
    ]
)


@pytest.fixture
def database(store_url):
    with Database(store_url) as opened:
        yield opened


@pytest.fixture
def opened(database):
    def opened(pruner=None):
        ledger = Ledger(database.storage, "line-1", metric="loss", direction="minimize", space=SPACE, expand=False)
        ledger.use(ResultBlindSampler("random", 0, SPACE), pruner or optuna.pruners.NopPruner())
        return ledger

    return opened


def plain(trial):
    return (
        trial.number,
        trial.state,
        trial.values,
        trial.params,
        trial.distributions,
        trial.user_attrs,
        trial.system_attrs,
    )


def test_what_is_written_is_what_is_read_again(opened):
    ledger = opened()
    for number in range(4):
        drawn = ledger.draw()
        assert ("gamma" in drawn.values) == (drawn.values["schedule"] == "step")
        ledger.record(number, stage="coarse", readings=[])
        ledger.measure(number, 10, 1, 0.5)
        ledger.measure(number, 20, 2, 0.25)
        ledger.note(number, readings=[[2, 0.25, number]], paused_at=2)
    ledger.tell(0, TrialState.COMPLETE, 0.25, outcome="complete")
    ledger.tell(1, TrialState.PRUNED, outcome="pruned")
    ledger.tell(2, TrialState.FAIL, outcome="crashed", traceback="…")
    ledger.flush()
    again = opened()
    assert len(again) == 4
    for number in range(4):
        assert plain(again.trial(number)) == plain(ledger.trial(number))
        assert again.trial(number).intermediate_values == {1: 0.5, 2: 0.25}, "by validation in memory"
        assert again.values(number) == ledger.values(number)
    assert again.trial(1).value == 0.25, "a pruned trial has its last value"


def in_order(trial):
    """All of a trial as text, for NaN equals nothing; attributes come in no particular order."""
    for name in ("user_attrs", "system_attrs", "intermediate_values"):
        setattr(
            trial, f"_{name}" if name != "intermediate_values" else name, dict(sorted(getattr(trial, name).items()))
        )
    return repr(trial)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_trials_are_read_as_optuna_reads_them(opened, database, chunk, monkeypatch):
    monkeypatch.setattr("tuner.store.reading.CHUNK", chunk)
    ledger = opened()
    for number in range(7):
        if number == 3:  # trials of another study lie between
            optuna.create_study(study_name="another", storage=database.storage).ask().suggest_float("x", 0, 1)
        ledger.draw()
        ledger.record(number, readings=[], stage="coarse")
        for step in range(number):
            ledger.measure(number, 10 * step, step, [0.5, float("inf"), float("nan"), -1e-300, 7.0, 0.1][step])
    ledger.tell(3, TrialState.COMPLETE, 0.25)
    ledger.tell(4, TrialState.PRUNED)
    ledger.tell(5, TrialState.FAIL)
    ledger.flush()
    study_id = database.storage.get_study_id_from_name("line-1")
    ours, theirs = list(trials_of(database.storage, study_id)), database.storage.get_all_trials(study_id)
    assert [in_order(trial) for trial in ours] == [in_order(trial) for trial in theirs]


def test_the_database_keeps_the_curve_by_optimizer_step(opened, database):
    ledger = opened()
    ledger.draw()
    ledger.record(0)
    ledger.measure(0, 170, 1, 0.5)
    ledger.measure(0, 170, 1, 0.4)
    ledger.flush()
    study = optuna.load_study(study_name="line-1", storage=database.storage)
    assert study.trials[0].intermediate_values == {170: 0.4}
    assert study.metric_names == ["loss"]
    assert set(study.trials[0].params) >= {"lr", "1-momentum"}


def test_a_trial_that_was_drawn_and_not_recorded_is_drawn_again(opened):
    ledger = opened()
    lost = ledger.draw()
    assert opened().draw() == lost


def test_own_values_are_the_next_trial_to_the_last_digit(opened):
    ledger = opened()
    own = {"lr": 0.1, "momentum": 0.9, "schedule": "cosine"}
    ledger.enqueue(own)
    assert ledger.draw().values == own


def test_an_optuna_pruner_compares_validations_of_trials_with_other_batch_sizes(opened):
    """Trial 1 is worse at its first validation, which it reaches after a tenth of trial 0's steps."""
    ledger = opened(optuna.pruners.MedianPruner(n_startup_trials=1))
    ledger.draw()
    ledger.record(0)
    ledger.measure(0, 100, 1, 0.1)
    ledger.tell(0, TrialState.COMPLETE, 0.1)
    ledger.draw()
    ledger.record(1)
    ledger.measure(1, 10, 1, 0.5)
    assert ledger.should_prune(1)


FOREIGN = {"params": {"lr": 7.0}, "distributions": {"lr": optuna.distributions.FloatDistribution(1e-4, 10, log=True)}}


def add(database, **fields):
    study_id = database.storage.get_study_id_from_name("line-1")
    database.storage.create_new_trial(study_id, optuna.trial.create_trial(**fields))


def test_a_value_outside_the_space_is_not_used(opened, database):
    opened()
    add(database, **FOREIGN, value=0.0, user_attrs={"readings": [[4, 0.0, 0]]})
    with pytest.raises(StoreError, match=r"Trial 0 .* lr=7\.0, which is not in the space"):
        opened().values(0)


def test_a_trial_that_something_else_added_holds_its_number_and_no_more(opened, database):
    opened()
    add(database, **FOREIGN, value=0.0)
    ledger = opened()
    assert (len(ledger), ledger.trial(0).params, ledger.trial(0).state) == (1, {}, TrialState.FAIL)
    assert ledger.draw().number == 1


def test_a_trial_added_while_a_round_runs_is_not_taken_for_the_rounds_own(opened, database):
    ledger = opened()
    ledger.draw()
    add(database, **FOREIGN, value=0.0)
    with pytest.raises(StoreError, match="trial 0 has become trial 1"):
        ledger.record(0)


def test_an_optuna_study_of_the_same_name_is_left_alone(opened, database):
    optuna.create_study(study_name="line-1", storage=database.storage, direction="minimize").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(StoreError, match="an Optuna study line-1 that tuner did not make"):
        opened()
