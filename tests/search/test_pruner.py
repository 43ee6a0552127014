"""The pruner: the stopping form of the rule, in plain scripts."""

import math

import optuna
import pytest

from tuner.search import RungPruner


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def run(pruner: RungPruner, curves: list[dict[int, float]], direction: str = "minimize") -> list[int]:
    """Last step of each trial, one after the other."""
    study = optuna.create_study(pruner=pruner, direction=direction)
    for curve in curves:
        trial = study.ask()
        for step, value in curve.items():
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
    return [trial.last_step for trial in study.trials]


def flat(value: float, steps: range = range(1, 21)) -> dict[int, float]:
    return dict.fromkeys(steps, value)


TABLE = {
    "the first goes on, worse ones stop": (RungPruner([5]), [flat(1), flat(2), flat(3)], [20, 5, 5]),
    "a better one goes on": (RungPruner([5]), [flat(2), flat(1)], [20, 20]),
    "the second best of eight goes on": (
        RungPruner([5]),
        [flat(v) for v in (1, 3, 4, 5, 6, 7, 8, 2)],
        [20] + [5] * 6 + [20],
    ),
    "the second best of seven does not": (RungPruner([5]), [flat(v) for v in (1, 3, 4, 5, 6, 7, 2)], [20] + [5] * 6),
    "rungs from the first on": (RungPruner(first=2), [flat(1), {**flat(0), 8: 2.0}, flat(2)], [20, 8, 2]),
    "a value that is not finite stops at once": (RungPruner([5]), [{1: math.nan}, {1: 1.0, 2: math.inf}], [1, 2]),
    "a diverged one is worst": (RungPruner([5]), [flat(1)] + [{1: math.nan}] * 6 + [flat(2)], [20] + [1] * 6 + [20]),
    "reports that skip the rung": (RungPruner([5]), [flat(1, range(0, 20, 3)), flat(2, range(0, 20, 3))], [18, 6]),
    "no reports": (RungPruner([5]), [{1: 1.0}], [1]),
}


@pytest.mark.parametrize("case", TABLE)
def test_where_trials_stop(case):
    pruner, curves, last_steps = TABLE[case]
    assert run(pruner, curves) == last_steps


def test_maximizing_is_the_mirror_image():
    curves = [flat(v) for v in (1, 3, 2, 0)]
    mirrored = [{step: -value for step, value in curve.items()} for curve in curves]
    assert run(RungPruner([5]), curves) == run(RungPruner([5]), mirrored, "maximize")


@pytest.mark.parametrize(
    "arguments", [{}, {"rungs": [1], "first": 1}, {"first": 0}, {"rungs": [5, 3]}, {"first": 1, "eta": 1}]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="rungs"):
        RungPruner(**arguments)
