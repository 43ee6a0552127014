"""What a search makes of configurations that cannot be trained: plain Optuna studies of objectives that raise for some.

An objective is a formula, so no time is measured. What is held against each other is how many trials were lost to what
raises, and how far the best one is from the best that can be trained.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

import optuna
from figures import filled, heading, interval, note, parser, pool, positive_int, table
from optuna.trial import Trial, TrialState

from tuner.search import CoarseToFineSampler


class Raised(Exception):
    """The configuration cannot be trained."""


class Case(NamedTuple):
    """An objective, lower is better.

    Attributes:
        best: the lowest value of what does not raise.
    """

    objective: Callable[[Trial], float]
    best: float = 0.0


def _one_choice(trial: Trial) -> float:
    rate = math.log10(trial.suggest_float("rate", 1e-4, 1.0, log=True))
    decay = math.log10(trial.suggest_float("decay", 1e-6, 1e-1, log=True))
    name = trial.suggest_categorical("optimizer", ["sgd", "adam", "lamb"])
    if name == "lamb":
        raise Raised
    return abs(rate + 2) + 0.1 * abs(decay + 3) + 0.2 * (name == "sgd")


def _line(trial: Trial) -> tuple[float, float]:
    x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
    return x, 1 - x + 0.3 * (y - 0.5) ** 2


def _largest(share: float) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        x, value = _line(trial)
        if x > 1 - share:
            raise Raised
        return value

    return objective


def _by_chance(trial: Trial) -> float:
    """The same configurations for all; which ones has no rule."""
    x, value = _line(trial)
    if zlib.crc32(repr(x).encode()) % 10 == 0:
        raise Raised
    return abs(x - 0.7) + value - (1 - x)


def _divides(trial: Trial) -> float:
    rate = math.log10(trial.suggest_float("rate", 1e-4, 1.0, log=True))
    width, heads = trial.suggest_int("width", 16, 128), trial.suggest_categorical("heads", [1, 2, 4, 8])
    if width % heads:
        raise Raised
    return abs(rate + 2) + (128 - width) / 128 + 0.1 * (3 - math.log2(heads))


CASES = {
    "one of three choices raises": Case(_one_choice),
    "the best tenth of a range raises": Case(_largest(0.1), 0.1),
    "the best 40 % of a range raise": Case(_largest(0.4), 0.4),
    "one in ten raises, without a rule": Case(_by_chance),
    "width must be divisible by heads": Case(_divides),
}
SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tuner: coarse_to_fine": CoarseToFineSampler,
    "Optuna: TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "Optuna: GP 5": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=5),
    "Optuna: random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def run(asked: tuple[str, str, int, int]) -> tuple[float, float]:
    """Share of the trials that raised in percent, and the distance to the best; of a case, a sampler, a seed and trials."""
    name, sampler, seed, trials = asked
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed))
    study.optimize(CASES[name].objective, n_trials=trials, catch=Raised)
    raised = sum(trial.state is TrialState.FAIL for trial in study.trials)
    return 100 * raised / trials, study.best_value - CASES[name].best


def _cell(values: list[float], form: str) -> str:
    low, high = interval(values)
    return f"{sum(values) / len(values):{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=positive_int, help="studies of each case and sampler")
    options.add_argument("--trials", type=positive_int, help="of a study")
    options.add_argument("--jobs", type=positive_int, default=os.cpu_count(), help="studies at a time")
    asked = filled(options.parse_args(), usual={"seeds": 10, "trials": 40}, quick={"seeds": 2, "trials": 16})
    jobs = [(*pair, seed, asked.trials) for pair in product(CASES, SAMPLERS) for seed in range(asked.seeds)]
    with pool(asked.jobs) as workers:
        found = dict(zip(jobs, workers.map(run, jobs), strict=True))
    note(f"{len(jobs)} studies")
    print(heading(markdown=asked.markdown))
    tables: dict[str, list[list[str]]] = {"trials that raised, %": [], "best, above the best there is": []}
    for place, (title, form) in enumerate(zip(tables, (".0f", ".3f"), strict=True)):
        for sampler in SAMPLERS:
            values = [
                [found[name, sampler, seed, asked.trials][place] for seed in range(asked.seeds)] for name in CASES
            ]
            tables[title].append([sampler, *(_cell(each, form) for each in values)])
    for title, rows in tables.items():
        print(f"\n{table([f'{title} (mean, 95 %)', *CASES], rows, markdown=asked.markdown)}")
    print(f"\nn={asked.seeds} seeds of {asked.trials} trials each")


if __name__ == "__main__":
    main()
