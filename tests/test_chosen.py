"""What a configuration chooses of the search: which seed each of Optuna's samplers gets."""

import pytest
from optuna.samplers import GridSampler

from tuner.chosen import sampler_of
from tuner.config import load
from tuner.search.exhaustive import BruteForce, Grid
from tuner.search.seeded import SeededPerTrial, SeededSequence

GRID = "_target_: optuna.samplers.GridSampler, search_space: {x: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"
KINDS = {
    "_target_: optuna.samplers.RandomSampler": SeededPerTrial,
    "_target_: optuna.samplers.NSGAIISampler": SeededPerTrial,
    "_target_: optuna.samplers.BruteForceSampler": BruteForce,
    "_target_: optuna.samplers.QMCSampler, scramble: true": SeededSequence,
    GRID: Grid,
}

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def chosen(node, *words):
    settings = load(["study=digits", f"search.draws={{{node}}}", *words])
    return sampler_of(settings, settings.study, defaults={}, stages=[], on_stage=lambda _: None)


@pytest.mark.parametrize("node", KINDS)
def test_a_seed_is_what_the_sampler_takes_it_for(node):
    assert type(chosen(node)) is KINDS[node]


@pytest.mark.parametrize(
    ("node", "words", "seed"),
    [(GRID, ["seed=5"], 5), (f"{GRID}, seed: 7", ["seed=5"], 7), (f"{GRID}, seed: null", ["seed=5"], 5)],
)
def test_the_seed_is_the_rounds_where_none_is_given(node, words, seed):
    plain = GridSampler({"x": list(range(1, 10))}, seed=seed)
    assert chosen(node, *words)._points == plain._all_grids
