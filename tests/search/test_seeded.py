"""Optuna's samplers with seeds: which sequence they give, and what a resume makes of it."""

import optuna
import pytest
from optuna.samplers import QMCSampler

from tuner.search.seeded import SeededSequence

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def sequence(seed):
    return QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)


def points(sampler, *, resumed_as=None):
    """Trials 1 to 16, which are places of the sequence; after the eighth with another sampler object."""
    study = optuna.create_study(sampler=sampler)
    for number in range(17):
        if number == 8 and resumed_as is not None:
            study.sampler = resumed_as
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_float("y", 0, 1)
        study.tell(trial, 0.0)
    return [tuple(trial.params.values()) for trial in study.trials[1:]]


def test_a_sequence_is_optunas_with_one_seed_also_after_a_resume():
    plain = points(sequence(3))
    assert points(SeededSequence(sequence, 3)) == plain
    assert points(SeededSequence(sequence, 3), resumed_as=SeededSequence(sequence, 3)) == plain
    assert points(SeededSequence(sequence, 4)) != plain


def test_what_is_drawn_beside_the_sequence_does_not_repeat_after_a_resume():
    study = optuna.create_study()
    drawn = []
    for number in range(6):
        study.sampler = SeededSequence(sequence, 3)  # a new object each time, as after a resume
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        drawn.append(trial.suggest_float(f"only {number}", 0, 1))  # not in the sequence
        study.tell(trial, 0.0)
    assert len(set(drawn)) == 6
