"""What a round has come to, by a few counting queries: opening a large Optuna study takes seconds, these do not."""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass

import sqlalchemy as sa

from tuner.store.database import Database

# Optuna's tables, as far as they are read here; its schema is versioned and checked when the database is opened.
_STUDIES = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
_TRIALS = sa.table("trials", sa.column("trial_id"), sa.column("number"), sa.column("study_id"), sa.column("state"))
_ATTRIBUTES = sa.table("trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))


@dataclass(frozen=True)
class Training:
    """A trial that a worker has now."""

    number: int
    stage: str
    worker: str


@dataclass(frozen=True)
class Overview:
    """Trials of a round by outcome, and by stage and outcome, and those in training."""

    outcomes: collections.Counter[str]
    by_stage: dict[str, collections.Counter[str]]
    training: tuple[Training, ...]


def overview(database: Database, optuna_study: str) -> Overview:
    """Count one round's trials."""
    return database.waiting.again(lambda: _counted(database, optuna_study))


def _counted(database: Database, optuna_study: str) -> Overview:
    outcome, paused, stage, worker = (_ATTRIBUTES.alias(name) for name in ("outcome", "paused_at", "stage", "worker"))
    source: sa.FromClause = _TRIALS.join(_STUDIES, _STUDIES.c.study_id == _TRIALS.c.study_id)
    for attribute in (outcome, paused, stage, worker):
        source = source.outerjoin(
            attribute, sa.and_(attribute.c.trial_id == _TRIALS.c.trial_id, attribute.c.key == attribute.name)
        )
    query = (
        sa.select(_TRIALS.c.number, outcome.c.value_json, paused.c.value_json, stage.c.value_json, worker.c.value_json)
        .select_from(source)
        .where(_STUDIES.c.study_name == optuna_study)
        .order_by(_TRIALS.c.number)
    )
    outcomes, by_stage, training = collections.Counter[str](), dict[str, collections.Counter[str]](), list[Training]()
    with database.engine.connect() as connection:
        for number, *cells in connection.execute(query):
            ended, waiting, part, who = (None if cell is None else json.loads(cell) for cell in cells)
            state = ended or ("paused" if waiting is not None else "running")
            outcomes[state] += 1
            by_stage.setdefault(str(part or "?"), collections.Counter())[state] += 1
            if state == "running":
                training.append(Training(number, str(part or "?"), str(who or "?")))
    return Overview(outcomes, by_stage, tuple(training))
