"""What crashes, is lost or takes too long is avoided as far as it can be told what it is due to."""

import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from tuner.search.avoided import Avoided
from tuner.search.cache import ScreenCache
from tuner.search.dimensions import Dimension
from tuner.search.encoding import Encoding
from tuner.search.feasibility import LEAST, MOST, Feasibility
from tuner.search.history import Entry, History, Reading, State
from tuner.search.sampler import CoarseToFineSampler
from tuner.search.screen import Screen
from tuner.search.stages import Stage
from tuner.space import Categorical, Int

EPOCHS = 24
CHOICE = Dimension("choice", ordered=False, size=3, cells=((1 / 3, 1 / 6), (2 / 3, 0.5), (1.0, 5 / 6)))
X, Y, SIZE = Dimension("x"), Dimension("y"), Dimension("size", memory=True)
LIKELY, UNLIKELY = math.log(LEAST), -100.0


def history_of(trials, failed=State.CRASHED):
    """Of (point, epochs it was trained, epoch it was to go to); one that ended before failed."""
    history = History()
    for number, (point, epochs, target) in enumerate(trials):
        history.drawn(number, point, target)
        for epoch in [rung for rung in (3, 6, 12, 24) if rung <= epochs]:
            history.read(number, epoch, 1.0)
        if epochs < target:
            history.ended(number, failed)
        elif epochs == EPOCHS:
            history.ended(number, State.COMPLETE)
        else:
            history.paused(number)
    return history


def log_likely(history, dimensions, points):
    encoding = Encoding(tuple(dimensions), EPOCHS)
    found = Feasibility.of(history, encoding, ScreenCache())
    return None if found is None else found(encoding.matrix(points))


def scattered(n, seed=0):
    return [{"x": float(x), "y": float(y)} for x, y in np.random.default_rng(seed).random((n, 2))]


def test_the_choice_that_crashes_is_told_from_the_other_parameters():
    trials = [
        (point | {"choice": (k % 3 + 0.5) / 3}, 0 if k % 3 == 2 else 3, 3) for k, point in enumerate(scattered(12))
    ]
    points = [point | {"choice": (k % 3 + 0.5) / 3} for k, point in enumerate(scattered(30, seed=1))]
    found = log_likely(history_of(trials), (X, Y, CHOICE), points)
    crashing = np.arange(30) % 3 == 2
    assert found[~crashing].min() > LIKELY
    assert found[crashing].max() < UNLIKELY


def test_what_fails_at_random_leaves_all_as_likely():
    points = scattered(40)
    random = np.random.default_rng(3).random(40) < 0.15
    assert random.any()
    history = history_of([(point, 0 if fails else 3, 3) for point, fails in zip(points, random, strict=True)])
    found = log_likely(history, (X, Y), scattered(200, seed=1))
    assert found.min() > math.log(0.6)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_where_most_fails_at_random_hardly_anything_is_too_unlikely(seed):
    """Else it would be drawn where least is known, and not where it is good. Some chances do look like a rule."""
    points = scattered(60)
    fails = np.random.default_rng(seed).random(60) < 0.6
    found = log_likely(
        history_of([(point, 0 if bad else 3, 3) for point, bad in zip(points, fails, strict=True)]), (X, Y), points
    )
    assert np.mean(found < math.log(0.1)) < 0.2


def test_a_failure_by_chance_on_the_way_to_full_length_leaves_all_as_likely():
    """Nothing else has come as far, and the good ones, which go further, meet more chances than the others."""
    early = [(point, 3, 3) for point in scattered(10)]
    found = log_likely(history_of([({"x": 0.5, "y": 0.5}, 6, 24), *early]), (X, Y), [{"x": 0.5, "y": 0.5}])
    assert found.min() > LIKELY
    good = [({"x": 0.5 + 0.01 * k, "y": 0.5}, 6 if k % 2 else 12, 24) for k in range(8)]
    found = log_likely(history_of([*early, *good]), (X, Y), [{"x": 0.54, "y": 0.5}])
    assert found.min() > LIKELY


@pytest.mark.parametrize("state", [state for state in State if state.failed])
def test_which_ends_are_failures(state):
    trials = [({"x": 0.9, "y": 0.5, "size": 0.9}, 0, 3), ({"x": 0.1, "y": 0.5, "size": 0.1}, 3, 3)]
    without, with_memory = (
        log_likely(history_of(trials, state), (X, Y, *more), [trials[0][0]]) for more in ((), (SIZE,))
    )
    assert (without is None) == (with_memory is None) == (state is State.DIVERGED), "which has a value, the worst"


def test_a_trial_of_which_nothing_is_known_but_that_it_failed_says_nothing():
    """Of the dashboard, or of an objective that raised before it suggested anything."""
    history = history_of([(point, 3, 3) for point in scattered(5)])
    history.add(Entry(5, {}, State.CRASHED, epochs=0))
    assert log_likely(history, (X, Y), scattered(2)) is None


def test_nothing_failed_nothing_to_learn():
    assert log_likely(history_of([(point, 3, 3) for point in scattered(5)]), (X, Y), scattered(2)) is None


def test_of_thousands_of_trials_a_bounded_number_is_learnt_from():
    trials = [(point, 0 if point["x"] > 0.5 else 3, 3) for point in scattered(1000)]
    encoding = Encoding((X, Y), EPOCHS)
    found = Feasibility.of(history_of(trials), encoding, ScreenCache())
    assert len(found._posterior._x) <= MOST
    failing, trained = found(encoding.matrix([{"x": 0.9, "y": 0.5}, {"x": 0.2, "y": 0.5}]))
    assert failing < UNLIKELY < LIKELY < trained


def test_the_length_scales_are_fitted_once_for_the_same_trials_beside_those_of_the_values():
    stage = Stage(0, "fine 1", 0, 99, {"x": (0.0, 1.0), "y": (0.0, 1.0)}, {"x": (0.0, 1.0), "y": (0.0, 1.0)})
    history, cache = history_of([(point, 0 if point["x"] > 0.6 else 3, 3) for point in scattered(12)]), ScreenCache()
    drawn = [
        Screen(history, stage, (X, Y), 0, index, epochs=EPOCHS, cache=cache).best().point for index in (12, 13, 14)
    ]
    assert cache.fits == 2
    assert drawn == [Screen(history, stage, (X, Y), 0, index, epochs=EPOCHS).best().point for index in (12, 13, 14)]
    assert max(point["x"] for point in drawn) < 0.75


def test_promotions_and_last_trainings_count_for_less_by_how_likely_they_are_to_fail():
    """Failed trials without a value change nothing else."""
    trials = [({"x": 0.1 + 0.05 * k, "y": 0.5}, 24, 24) for k in range(3)] + [({"x": 0.8, "y": 0.4}, 3, 3)]
    slow = [({"x": 0.6 + 0.03 * k, "y": 0.5}, 0, 3) for k in range(12)]
    stage = Stage(0, "fine 1", 0, 99, {"x": (0.0, 1.0), "y": (0.0, 1.0)}, {"x": (0.0, 1.0), "y": (0.0, 1.0)})
    histories = [history_of(of, State.TIMED_OUT) for of in (trials + slow, trials)]
    screens = [Screen(history, stage, (X, Y), 0, 16, epochs=EPOCHS) for history in histories]
    points = [{"x": 0.8, "y": 0.4}, {"x": 0.15, "y": 0.5}]
    likely = log_likely(histories[0], (X, Y), points)
    assert likely[0] < likely[1]
    assert screens[0].expected(points) - screens[1].expected(points) == pytest.approx(likely)
    assert screens[0].final(points) - screens[1].final(points) == pytest.approx(likely)


KINDS, BATCH = Dimension.of_scale("kind", Categorical(("full", "flash"))), Dimension.of_scale("batch", Int(1, 4))
BATCH = replace(BATCH, memory=True)


def drawn_after(trials, draws=12):
    """Kinds and batch sizes that are drawn after trials of (kind, batch size, whether it was trained)."""
    history = History()
    for number, (kind, size, trained) in enumerate(trials):
        point = {"x": (number * 0.37) % 1, "kind": (kind + 0.5) / 2, "batch": (size - 0.5) / 4}
        history.drawn(number, point, 3)
        if trained:
            history.read(number, 3, abs(point["x"] - 0.5) - 0.3 * size)  # the larger the better
            history.paused(number)
        else:
            history.ended(number, State.INFEASIBLE)
    dimensions = (X, KINDS, BATCH)
    free = {one.name: (0.0, 1.0) for one in dimensions}
    stage = Stage(1, "fine 1", 0, 99, free, free)
    points = [Screen(history, stage, dimensions, 0, 50 + index, epochs=EPOCHS).best().point for index in range(draws)]
    return [(int(point["kind"] > 0.5), 1 + int(point["batch"] * 4)) for point in points]


def test_what_runs_out_of_memory_whatever_its_size_is_not_drawn_in_its_smallest_size():
    full = [(0, size, False) for size in (1, 2, 3, 4)]
    drawn = drawn_after(full + [(1, size, True) for size in (1, 2, 3, 4, 2)])
    assert set(drawn) == {(1, 4)}


COARSE = Stage(0, "coarse", 0, 99, {}, {})


def too_large(history, kind, *, learns):
    """For each size, smallest first, whether it is ruled out."""
    encoding = Encoding((X, KINDS, BATCH), EPOCHS)
    units = encoding.matrix([{"x": 0.5, "kind": kind, "batch": (size + 0.5) / 4} for size in range(4)])
    return list(Avoided.of(history, encoding, COARSE, learns=learns).penalty(units) > 0)


def test_what_one_choice_has_no_memory_for_another_may_have_once_a_model_learns():
    history = History([Entry(0, {"x": 0.1, "kind": 0.25, "batch": 0.375}, State.INFEASIBLE)])
    without_first = [False, True, True, True]
    assert too_large(history, 0.75, learns=False) == too_large(history, 0.25, learns=True) == without_first
    assert not any(too_large(history, 0.75, learns=True))


def test_something_as_large_that_was_trained_shows_that_it_was_not_the_size():
    history = History([Entry(0, {"x": 0.1, "kind": 0.25, "batch": 0.375}, State.INFEASIBLE)])
    history.add(Entry(1, {"x": 0.9, "kind": 0.75, "batch": 0.875}, State.PAUSED, (Reading(3, 1.0, 0),)))
    assert not any(too_large(history, 0.75, learns=False))
    assert too_large(history, 0.25, learns=True) == [False, True, True, True], "it had another choice"


def run_of(objective, trials, seed):
    study = optuna.create_study(sampler=CoarseToFineSampler(seed))
    study.optimize(objective, n_trials=trials, catch=ValueError)
    return study


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plain_optuna_study_leaves_the_choice_that_always_raises(seed):
    """Without it the default search went on with that choice, about which it learnt nothing, to the end."""

    def objective(trial):
        rate, name = (
            trial.suggest_float("rate", 1e-4, 1.0, log=True),
            trial.suggest_categorical("name", ["a", "b", "c"]),
        )
        if name == "c":
            raise ValueError("not built for this machine")
        return abs(math.log10(rate) + 2) + 0.2 * (name == "a")

    study = run_of(objective, 36, seed)
    later = [trial.state for trial in study.trials[12:]]
    assert later.count(TrialState.FAIL) <= 3
    assert study.best_value < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_where_the_best_lies_beside_what_raises_it_is_come_near_to(seed):
    def objective(trial):
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        if x > 0.6:
            raise ValueError("too wide")
        return 0.6 - x + 0.3 * (y - 0.5) ** 2

    study = run_of(objective, 40, seed)
    assert study.best_value < 0.02
    assert [trial.state for trial in study.trials[10:]].count(TrialState.FAIL) <= 20
