"""Samplers that draw each configuration once: nothing is repeated while others train, and the end is known."""

import itertools

import optuna
import pytest
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.trial import TrialState

from tuner.search.exhaustive import BruteForce, Grid

VALUES = {"x": [1, 2, 3, 4], "y": ["a", "b", "c"]}
POINTS = set(itertools.product(*VALUES.values()))

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Stopped(optuna.Study):
    stopped = False

    def stop(self):
        self.stopped = True


def grid(seed=0):
    return Grid(GridSampler(VALUES, seed=seed))


def brute_force(seed=0):
    return BruteForce(lambda drawn: BruteForceSampler(seed=drawn), seed)


def _ask(study):
    trial = study.ask()
    return trial.suggest_categorical("x", VALUES["x"]), trial.suggest_categorical("y", VALUES["y"])


def draws(study, make, tell):
    """All draws until the sampler stops the study; `tell` says of a trial's number whether it ends at once."""
    drawn = []
    while not study.stopped:
        drawn.append(_ask(study))
        if tell(study.trials[-1].number):
            study.tell(study.trials[-1].number, 1.0)
        study.sampler.stop_if_exhausted(study)
        assert len(drawn) <= 20
        study.sampler = make()  # as after a resume
    return drawn


@pytest.fixture
def study():
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s")
    return Stopped("s", storage)


@pytest.mark.parametrize("tell", [lambda _: True, lambda _: False, lambda number: number % 3 == 1])
@pytest.mark.parametrize("make", [grid, brute_force])
def test_each_point_is_drawn_once_whatever_has_ended(study, make, tell):
    study.sampler = make()
    drawn = draws(study, make, tell)
    assert len(drawn) == len(POINTS)
    assert set(drawn) == POINTS


@pytest.mark.parametrize("own", [(2, "b"), (7, "b")])
@pytest.mark.parametrize("make", [grid])
def test_what_is_enqueued_counts_where_it_is_a_point(study, make, own):
    study.sampler = make()
    study.enqueue_trial(dict(zip(VALUES, own, strict=True)))
    trial = study.ask()
    trial.suggest_int("x", 1, 9)
    trial.suggest_categorical("y", VALUES["y"])
    left = set()
    while not study.stopped:
        trial = study.ask()
        left.add((trial.suggest_int("x", 1, 9), trial.suggest_categorical("y", VALUES["y"])))
        study.sampler.stop_if_exhausted(study)
    assert left == POINTS - {own}
    assert len(study.trials) == len(POINTS | {own})


def test_points_that_differ_in_what_is_switched_off_are_one(study):
    study.sampler = grid()
    drawn = []
    while not study.stopped:
        trial = study.ask()
        y = trial.suggest_categorical("y", VALUES["y"])
        drawn.append((trial.suggest_categorical("x", VALUES["x"]), y) if y == "a" else y)
        study.sampler.stop_if_exhausted(study)
    assert sorted(map(str, drawn)) == sorted(map(str, [*itertools.product(VALUES["x"], "a"), "b", "c"]))


@pytest.mark.parametrize("own", [0, 3])
@pytest.mark.parametrize("make", [grid, brute_force])
def test_a_strangers_trial_is_no_point(study, make, own):
    """Whether it is there before the first draw or comes after some."""
    study.sampler = make()
    drawn = [_ask(study) for _ in range(own)]
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    drawn += draws(study, make, lambda _: True)
    assert len(drawn) == len(POINTS)
    assert set(drawn) == POINTS


def test_the_order_of_a_grid_is_that_of_its_seed(study):
    study.sampler = grid(1)
    first = draws(study, lambda: grid(1), lambda _: True)
    optuna.create_study(storage=study._storage, study_name="other")
    other = Stopped("other", study._storage, sampler=grid(2))
    assert draws(other, lambda: grid(2), lambda _: True) != first


@pytest.mark.filterwarnings("ignore:The value")
def test_a_grid_ends_also_where_a_parameter_makes_another_value_of_its_own(study):
    """An integer of 1.5 is stored as 1, which is no point of the grid."""
    study.sampler = Grid(GridSampler({"x": [1.5, 2.5, 3]}))
    while not study.stopped:
        study.ask().suggest_int("x", 1, 9)
        study.sampler.stop_if_exhausted(study)
        assert len(study.trials) <= 3
    assert len(study.trials) == 3
