"""Writes a study database as thousands of trials leave it, in seconds: the rows go in as rows, in one transaction.

What a round writes for a trial is said in `tuner/store/ledger.py`; `scale/measurement.py` compares the two.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json

from tuner import advice
from tuner.chosen import plan_of
from tuner.commands.tune import budgets
from tuner.config import Settings, StudySettings
from tuner.config.identity import data_version, digest
from tuner.search.dimensions import dimensions_of
from tuner.search.distributions import distribution, optuna_name, to_optuna
from tuner.search.draws import uniform_point
from tuner.search.history import Entry, History, Reading, State
from tuner.search.stages import Stage, Zoom, stage_of, stages_until
from tuner.store.database import Database
from tuner.store.ledger import Ledger
from tuner.store.rounds import Champion, Rounds, RoundState

STEPS_PER_EPOCH = 17
VALUES = 20  # that a trial reports on the way to each rung, and to the end
#: Trials above this share of all qualities were trained in full, all others wait at the first rung: fewer than the rule
#: of `promote` lets wait, so that a round that is resumed begins with a draw and not with what was left over.
BEST = 0.5


def quality(trial: int) -> float:
    """A number in [0, 1) that is spread evenly over any run of trials."""
    return (trial * 0.6180339887) % 1.0


def value_of(trial: int, epoch: float) -> float:
    """A trial's learning curve, as an accuracy; curves do not cross."""
    return 0.5 + 0.45 * quality(trial) * (1.0 - 0.8 ** (epoch / 2 + 1))


def is_complete(trial: int) -> bool:
    """Whether the rule of `promote` has a filled trial trained in full."""
    return quality(trial) >= BEST


def fill(settings: Settings, trials: int) -> None:
    """A finished round of `tuner` with so many trials."""
    study, now = settings.study, dt.datetime.now(dt.UTC)
    assert study is not None
    facts = {"metric": study.objective.metric, "direction": study.objective.direction}
    identity = settings.identity
    with Database(settings.store.url) as database:
        rounds = Rounds(database)
        record = rounds.create(
            study.name,
            digest=digest(identity),
            identity=identity,
            data_version=data_version(identity),
            now=now,
            **facts,
        )
        Ledger(database.storage, record.name, **facts, space=study.space, expand=False)
        if not trials:
            return
        filled = _trials(study, trials, plan_of(settings, study).rungs)
        stages = _stages(settings, study, filled)
        for stage in stages:
            content = stage.to_dict() | {"ranges": advice.ranges(study.space, stage.box)}
            rounds.add_stage(record, stage.number, content, now)
        for trial in filled:
            name = stage_of(trial.entry.number, stages).name if stages else settings.search.name
            trial.attributes = {"stage": name, **trial.attributes}
        _write(database, record.name, study, filled)
        rounds.crown(record, Champion(0, 0.9, {}, (), provisional=True), now)
        rounds.close(record, state=RoundState.FINISHED, budget=budgets(settings), seconds_used=1.0)


def fill_plain(settings: Settings, name: str, trials: int) -> None:
    """A plain Optuna study with so many trials, all trained in full, without attributes."""
    study = settings.study
    assert study is not None
    with Database(settings.store.url) as database:
        objective = study.objective
        Ledger(
            database.storage,
            name,
            metric=objective.metric,
            direction=objective.direction,
            space=study.space,
            expand=False,
        )
        filled = _trials(study, trials, ())
        for trial in filled:
            trial.attributes = {}
        _write(database, name, study, filled)


@dataclass
class _Trial:
    entry: Entry
    values: Mapping[str, Any]
    curve: Mapping[int, float]  # by step
    attributes: Mapping[str, Any]


def _trials(study: StudySettings, count: int, rungs: Sequence[int]) -> list[_Trial]:
    made: list[_Trial] = []
    order = 0
    for number in range(count):
        values = study.space.from_unit(uniform_point(1, 0, number, study.space.names))
        complete = not rungs or is_complete(number)
        ends = (*rungs, study.epochs) if complete else rungs[:1]
        readings = tuple(
            Reading(epoch, study.objective.cost(value_of(number, epoch)), order + place)
            for place, epoch in enumerate(ends)
        )
        order += len(readings)
        state = State.COMPLETE if complete else State.PAUSED
        entry = Entry(number, study.space.to_unit(values), state, readings, target=ends[-1])
        made.append(_Trial(entry, values, _curve(number, ends), _attributes(entry, values, study)))
    return made


def _curve(number: int, ends: Sequence[int]) -> dict[int, float]:
    curve, began = {}, 0
    for end in ends:
        for place in range(1, VALUES + 1):
            epoch = began + (end - began) * place / VALUES
            curve[round(STEPS_PER_EPOCH * epoch)] = value_of(number, epoch)
        began = end
    return curve


def _attributes(entry: Entry, values: Mapping[str, Any], study: StudySettings) -> dict[str, Any]:
    readings = [[reading.epoch, study.objective.cost(reading.value), reading.order] for reading in entry.readings]
    attributes = {
        "hyperparameters": dict(values),
        "worker": "localhost:0",
        "target": entry.target,
        "readings": readings,
    }
    attributes |= {"epochs": float(entry.last_epoch), "seconds": 0.125}
    if entry.state is State.PAUSED:
        kept = {"epoch": entry.last_epoch, "validations": VALUES}
        return attributes | {"checkpoint": kept, "paused_at": entry.last_epoch}
    return attributes | {"outcome": "complete"}


def _stages(settings: Settings, study: StudySettings, filled: Sequence[_Trial]) -> tuple[Stage, ...]:
    if settings.search.draws != "coarse_to_fine":
        return ()
    zoom = Zoom(settings.search.coarse, settings.search.elites)
    history = History(trial.entry for trial in filled)
    return stages_until(len(filled) - 1, (), history, dimensions_of(study.space), zoom=zoom)


def _write(database: Database, name: str, study: StudySettings, filled: Sequence[_Trial]) -> None:
    """Into Optuna's tables; its schema's version was checked when the database was opened."""
    tables = sa.MetaData()
    tables.reflect(database.engine)
    columns = {parameter.name: (optuna_name(parameter), distribution(parameter)) for parameter in study.space}
    texts = {short: distribution_to_json(dist) for short, (_, dist) in columns.items()}
    with database.engine.begin() as connection:
        studies = tables.tables["studies"]
        study_id = connection.scalar(sa.select(studies.c.study_id).where(studies.c.study_name == name))
        rows = defaultdict[str, list[dict[str, Any]]](list)
        first = 1 + (connection.scalar(sa.select(sa.func.max(tables.tables["trials"].c.trial_id))) or 0)
        now = dt.datetime.now()  # noqa: DTZ005 - as Optuna writes it
        for trial_id, trial in enumerate(filled, first):
            ended = trial.entry.state is State.COMPLETE
            rows["trials"].append(
                {
                    "trial_id": trial_id, "number": trial.entry.number, "study_id": study_id,
                    "state": "COMPLETE" if ended else "RUNNING", "datetime_start": now,
                    "datetime_complete": now if ended else None,
                }
            )  # fmt: skip
            for short, value in trial.values.items():
                stored, dist = columns[short]
                internal = dist.to_internal_repr(to_optuna(study.space[short], value))
                row = {
                    "trial_id": trial_id,
                    "param_name": stored,
                    "param_value": internal,
                    "distribution_json": texts[short],
                }
                rows["trial_params"].append(row)
            for step, value in trial.curve.items():
                row = {
                    "trial_id": trial_id,
                    "step": step,
                    "intermediate_value": value,
                    "intermediate_value_type": "FINITE",
                }
                rows["trial_intermediate_values"].append(row)
            for key, value in trial.attributes.items():
                rows["trial_user_attributes"].append(
                    {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                )
            if ended:
                value = study.objective.cost(trial.entry.readings[-1].value)
                rows["trial_values"].append(
                    {"trial_id": trial_id, "objective": 0, "value": value, "value_type": "FINITE"}
                )
        for table, content in rows.items():
            connection.execute(sa.insert(tables.tables[table]), content)
