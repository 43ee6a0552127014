"""What a configuration chooses of the search: which seed each of Optuna's samplers gets."""

from dataclasses import replace

import pytest
from optuna.samplers import GridSampler

from tuner.chosen import sampler_of
from tuner.config import load
from tuner.errors import ConfigError
from tuner.search.exhaustive import BruteForce, Grid
from tuner.search.seeded import SeededPerTrial, SeededSequence
from tuner.space import Categorical, Int, LogUniform, OneMinusPow10, Parameter, Space

GRID = "_target_: optuna.samplers.GridSampler, search_space: {x: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"
KINDS = {
    "_target_: optuna.samplers.RandomSampler": SeededPerTrial,
    "_target_: optuna.samplers.NSGAIISampler": SeededPerTrial,
    "_target_: optuna.samplers.BruteForceSampler": BruteForce,
    "_target_: optuna.samplers.QMCSampler, scramble: true": SeededSequence,
    GRID: Grid,
}

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


FINITE = Space.of([Parameter("x", Int(1, 9), "module.x")])


def chosen(node, *words, space=FINITE):
    settings = load(["study=digits", f"search.draws={{{node}}}", *words])
    study = replace(settings.study, space=space)
    return sampler_of(settings, study, defaults={}, stages=[], on_stage=lambda _: None)


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


BETA = Parameter("beta", OneMinusPow10(0.9, 0.999), "module.beta")
LR, NESTEROV = Parameter("x", LogUniform(0.001, 1), "module.x"), Parameter("x", Categorical((True, False)), "module.x")


@pytest.mark.parametrize(
    ("node", "space", "told"),
    [
        ("_target_: optuna.samplers.BruteForceSampler", [*FINITE, BETA], ["search.draws", "space.beta, a continuous"]),
        (GRID, [*FINITE, BETA], ["search.draws.search_space", "has the parameters x, ", "got 'x'"]),
        (GRID.replace("9", "10"), FINITE, ["search.draws.search_space.x", "got [10]", "low=1"]),
        (GRID.replace("9", "much"), FINITE, ["search.draws.search_space.x", "got ['much']"]),
        (GRID.replace("[1, ", "['1', true, 2.5, nan, 1.0, "), FINITE, ["x: has values", "got ['1', True, 2.5, nan]"]),
        (GRID.replace("2, ", "'0.01', 0, -1, "), [LR], ["x: has values", "got ['0.01', 0, -1, 3, 4"]),
        (GRID.replace("2, ", "true, false, "), [NESTEROV], ["x: has values", "got [1, 3, 4"]),
    ],
)
def test_what_the_space_has_not_is_no_point_to_try(node, space, told):
    with pytest.raises(ConfigError) as caught:
        chosen(node, space=Space.of(space))
    (problem,) = map(str, caught.value.problems)
    for part in told:
        assert part in problem
