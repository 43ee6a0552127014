"""Whose hyperparameters a command beside `tune` trains with: the champion's or the study's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tuner import output
from tuner.config import Settings, StudySettings
from tuner.config.identity import changes, digest
from tuner.errors import ConfigError, Problem, did_you_mean
from tuner.space import Categorical, Parameter, Value
from tuner.store.database import Database
from tuner.store.rounds import Champion, RoundRecord, Rounds

OWN = "the study's own values"
#: Changes that are named; of more there is the number.
MOST_CHANGES = 5
#: Parts of a round's identity that say how its values were searched for.
SEARCHED = frozenset({"search", "pruner", "seed"})
#: Options of a parameter that say likewise; `choices` is one where it is a list: nodes have keys of their own below it.
RANGES = frozenset({"kind", "low", "high", "step", "limit", "tier", "memory", "choices"})
#: Relative error of a value that was scaled, rounded to six digits, and scaled back.
ROUNDING = 2e-5


def values_at(settings: Settings, study: StudySettings, at: str | None) -> tuple[dict[str, Value], str]:
    """Effective values by parameter name, for `StudyNodes.plain`, and a phrase that says whose they are.

    | at | values |
    | --- | --- |
    | champion | of this configuration's round, or of the latest round of the study that has a champion |
    | defaults | none: the study's nodes stay as they are |
    | None | the champion's where there is one, else as defaults |

    A parameter that the champion does not have keeps the study's own value. Nothing from the database is executed:
    each value has to be one that the space of today can have, and a label stands for the node in today's study file.

    Raises:
        ConfigError: a champion is asked for and there is none, or it has parameters or values that the space does not
            have.
    """
    found = None if at == "defaults" else _champion(settings, study)
    if found is None:
        if at == "champion":
            rule = f"is champion only where there is one, and {study.name} has no champion in the database of store.url"
            remedy = f"Write at=defaults, or first: tuner study={study.name}"
            raise ConfigError([Problem("at", rule, at, remedy)])
        return {}, OWN
    record, champion = found
    problems = [*_problems(champion.params, record, study), *_overwritten(record, settings, study)]
    if problems:
        raise ConfigError(problems)
    if changed := _changed(record.identity, settings.identity):
        output.say(f"The values are those of the champion of {record.name}; changed since then: {changed}")
    return study.space.active(champion.params), f"the champion of {record.name}, trial {champion.trial}"


def own_values(study: StudySettings) -> dict[str, Value]:
    """The study's own effective values, of the parameters that its nodes have one for."""
    own: dict[str, Value] = {}
    for parameter in study.space:
        with contextlib.suppress(LookupError):
            own[parameter.name] = study.nodes.own_value(parameter, study.space)
    return own


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs and matters to a training with the champion's values, on one line; empty where nothing does."""
    lines = changes(*({key: value for key, value in parts.items() if _matters(key)} for parts in (before, after)))
    more = [f"and {len(lines) - MOST_CHANGES} more"] if len(lines) > MOST_CHANGES else []
    return "; ".join(" ".join(line.split()) for line in [*lines[:MOST_CHANGES], *more])


def _matters(key: str) -> bool:
    """Not how the values were searched for: budgets, draws and their seed, the pruner, and the ranges of the space."""
    root, *rest = key.split(".")
    return root not in SEARCHED and not (root == "space" and len(rest) == 2 and rest[1] in RANGES)


def _champion(settings: Settings, study: StudySettings) -> tuple[RoundRecord, Champion] | None:
    if not Database.is_there(settings.store.url):
        return None
    with Database(settings.store.url) as database, database.explained():
        rounds = Rounds(database)
        for record in (
            rounds.of_identity(study.name, digest(settings.identity)),
            rounds.latest(study.name, with_champion=True),
        ):
            champion = rounds.champion(record) if record else None
            if record and champion:
                return record, champion
    return None


def _problems(params: Mapping[str, Any], record: RoundRecord, study: StudySettings) -> Iterator[Problem]:
    whose = f"the champion of {record.name}"
    for name in params:
        if name not in study.space.names:
            remedy = f"{did_you_mean(name, study.space.names)} Else write at=defaults, or tune again."
            yield Problem("at", f"{whose} has parameters of the space only", name, remedy)
    known = {name: value for name, value in params.items() if name in study.space.names}
    for name, value in study.space.drawn(known).items():
        if not _can_have(study.space[name], value):
            remedy = "Write at=defaults, widen the range, or tune again."
            yield Problem("at", f"{whose} has values of the space only", f"{name}={params[name]}", remedy)


def _overwritten(record: RoundRecord, settings: Settings, study: StudySettings) -> Iterator[Problem]:
    """Values that were given since and that the champion's would take the place of: one of the two is a mistake."""
    for parameter in study.space:
        before, now = record.identity.get(parameter.path), settings.identity.get(parameter.path)
        if not parameter.nodes and before != now:
            rule = f"is set by the champion of {record.name}, whose study had {before}"
            remedy = "Write at=defaults to train with it, or leave it out."
            yield Problem(parameter.path, rule, now, remedy)


def _can_have(parameter: Parameter, value: Value) -> bool:
    """Whether a draw can give this value; past the range as far as `limit`, where `search.expand` may go."""
    scale = parameter.scale
    if scale.contains(value) or isinstance(scale, Categorical):
        return scale.contains(value)
    low, high = getattr(scale, "limit", None) or (getattr(scale, "low", None), getattr(scale, "high", None))
    if low is None or high is None or type(value) is not type(low):
        return False
    # A scaled value was rounded, and rounds once more on its way back.
    slack = ROUNDING * abs(value) if parameter.scale_with else 0
    return bool(low - slack <= value <= high + slack)
