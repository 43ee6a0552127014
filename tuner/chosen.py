"""What a configuration chooses of the search: the sampler, the pruner, and the plan of budgets and rungs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hydra.utils
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, QMCSampler

from tuner.config.settings import Settings, StudySettings
from tuner.errors import ConfigError, Problem
from tuner.search.distributions import distribution, optuna_name
from tuner.search.exhaustive import BruteForce, Grid
from tuner.search.promotion import Plan, rungs_for
from tuner.search.sampler import CoarseToFineSampler, ResultBlindSampler
from tuner.search.seeded import SeededPerTrial, SeededSequence
from tuner.search.stages import Stage
from tuner.space import Space, Value


def sampler_of(
    settings: Settings,
    study: StudySettings,
    *,
    defaults: Mapping[str, Value],
    stages: Sequence[Stage],
    on_stage: Callable[[Stage], None],
) -> BaseSampler:
    """The sampler that draws a round's configurations.

    Raises:
        ConfigError: `search.draws` names no sampler of Optuna, or one that cannot be built, or not for this space.
    """
    search, space, seed = settings.search, study.space, settings.seed
    if isinstance(search.draws, Mapping):
        return _checked(_foreign_sampler(dict(search.draws), seed), space)
    if search.draws in ("random", "quasi_random"):
        return ResultBlindSampler(search.draws, seed, space)
    return CoarseToFineSampler(
        seed,
        space=space,
        epochs=study.epochs,
        coarse=search.coarse,
        elites=search.elites,
        screen=search.screen,
        expand=search.expand,
        tiered=search.draws == "tiered",
        timed=plan_of(settings, study).timed,
        defaults=defaults,
        stages=list(stages),
        on_stage=on_stage,
    )


def pruner_of(settings: Settings) -> BasePruner:
    """Optuna's pruner that each value is shown to; one that never stops a trial where tuner's own rule decides.

    Raises:
        ConfigError: `pruner` names no pruner of Optuna, or one that cannot be built.
    """
    rule = settings.pruner.rule
    pruner: BasePruner = NopPruner() if isinstance(rule, str) else _built("pruner", dict(rule), BasePruner)
    return pruner


def plan_of(settings: Settings, study: StudySettings, baseline: int | None = None) -> Plan:
    """Budgets and rungs of a round that has all of its time before it; `baseline` is the trial of the study's own values."""
    search, pruner = settings.search, settings.pruner
    rungs = rungs_for(study.epochs, pruner.first_rung, pruner.eta) if pruner.rule == "promote" else ()
    epochs = None if search.budget is None else search.budget * study.epochs
    return Plan(
        epochs=study.epochs,
        rungs=rungs,
        eta=pruner.eta,
        budget_epochs=epochs,
        trials=search.trials,
        seconds_left=search.timeout_s,
        baseline=baseline if pruner.baseline else None,
    )


def _foreign_sampler(node: dict[str, Any], seed: int) -> BaseSampler:
    kind = _class_of("search.draws", node)
    if "seed" not in inspect.signature(kind).parameters:
        return _built_sampler(node)
    own = node.pop("seed", None)
    return _seeded(kind, lambda drawn: _built_sampler({**node, "seed": drawn}), seed if own is None else int(own))


def _seeded(kind: type[Any], build: Callable[[int], BaseSampler], seed: int) -> BaseSampler:
    """What a seed is to each kind of sampler: an order of all, a sequence, or the draws of one trial."""
    if issubclass(kind, GridSampler):
        grid = build(seed)
        assert isinstance(grid, GridSampler)
        return Grid(grid)
    if issubclass(kind, QMCSampler):
        return SeededSequence(build, seed)
    return (BruteForce if issubclass(kind, BruteForceSampler) else SeededPerTrial)(build, seed)


def _checked(sampler: BaseSampler, space: Space) -> BaseSampler:
    """The sampler, if what it tries one after another are configurations of the space."""
    problems = []
    if isinstance(sampler, BruteForce):
        rule, remedy = "has finitely many configurations to try", "Give it choices, or take another sampler."
        endless = [parameter.name for parameter in space if parameter.scale.size is None]
        problems = [Problem("search.draws", rule, f"space.{name}, a continuous range", remedy) for name in endless]
    elif isinstance(sampler, Grid):
        known, key = {optuna_name(parameter): parameter for parameter in space}, "search.draws.search_space"
        if set(sampler.values) != set(known):
            remedy = "Name each of them once, or take another sampler."
            problems.append(Problem(key, f"has the parameters {', '.join(known)}", ", ".join(sampler.values), remedy))
        for name in set(sampler.values) & set(known):
            asked = distribution(known[name])
            others = [value for value in sampler.values[name] if not _is_of(asked, value)]
            if others:
                problems.append(Problem(f"{key}.{name}", "has values of the space", others, f"They are: {asked}."))
    if problems:
        raise ConfigError(problems)
    return sampler


def _is_of(asked: BaseDistribution, value: Any) -> bool:
    """Whether it is a value of the distribution and of its type, because a grid gives it out as it is."""
    if isinstance(asked, CategoricalDistribution):
        return any(type(value) is type(choice) and value == choice for choice in asked.choices)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (isinstance(asked, IntDistribution) and value != int(value)):
        return False
    try:
        return bool(asked._contains(asked.to_internal_repr(value)))  # noqa: SLF001 - Optuna has no public form of it
    except ValueError:  # 0 on a logarithmic range
        return False


def _built_sampler(node: Mapping[str, Any]) -> BaseSampler:
    sampler: BaseSampler = _built("search.draws", node, BaseSampler)
    return sampler


def _class_of(key: str, node: Mapping[str, Any]) -> type[Any]:
    try:
        kind = hydra.utils.get_class(node["_target_"])
        inspect.signature(kind)
    except Exception as error:  # noqa: BLE001 - whatever the import raises is a mistake in the configuration
        raise _cannot_build(key, node, error) from None
    return kind


def _built(key: str, node: Mapping[str, Any], base: type[Any]) -> Any:
    try:
        made = hydra.utils.instantiate(node)
    except Exception as error:  # noqa: BLE001 - whatever its class raises is a mistake in the configuration
        raise _cannot_build(key, node, error) from None
    if not isinstance(made, base):
        rule = f"is an Optuna {base.__name__}"
        raise ConfigError([Problem(key, rule, node["_target_"], "Name a class of that kind.")])
    return made


def _cannot_build(key: str, node: Mapping[str, Any], error: Exception) -> ConfigError:
    cause = str(error.__cause__ or error).splitlines()[0]
    return ConfigError([Problem(key, "can be built", node["_target_"], f"It says: {cause}")])
