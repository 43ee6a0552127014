"""`tuner champion study=NAME`: the configuration recommended now, as YAML."""

from __future__ import annotations

import shlex

import yaml

from tuner import output
from tuner.commands import report
from tuner.config import Settings
from tuner.config.identity import changes, digest
from tuner.errors import TunerError
from tuner.store.database import Database
from tuner.store.rounds import Champion, RoundRecord, Rounds


def champion(settings: Settings) -> int:
    """Print the champion of this configuration's round, or of the latest round that has one.

    Raises:
        TunerError: no round of the study has one.
    """
    study = report.needed(settings)
    if not Database.is_there(settings.store.url):
        raise TunerError(
            f"{study.name} has no champion: there is no database at {settings.store.url} yet. Write: tuner study={study.name}"
        )
    with Database(settings.store.url) as database, database.explained():
        rounds = Rounds(database)
        record = rounds.of_identity(study.name, digest(settings.identity))
        if record is None or rounds.champion(record) is None:
            record = rounds.latest(study.name, with_champion=True)
            if record is None:
                raise TunerError(f"{study.name} has no champion in {database}. Write: tuner study={study.name}")
            if changed := changes(record.identity, settings.identity):
                output.say(f"This is the champion of {record.name}; since then has changed: {'; '.join(changed)}")
        found = rounds.champion(record)
    if found is None:
        raise TunerError(f"{record.name} has lost its champion while it was read. Try again.")
    output.put(as_yaml(record, found).rstrip())
    return 0


def as_yaml(record: RoundRecord, found: Champion) -> str:
    """The champion's document."""
    document = {
        "study": record.study,
        "round": record.number,
        "data_version": record.data_version,
        "metric": record.metric,
        "value": found.value,
        "provisional": found.provisional,
        "trial": found.trial,
        "params": dict(found.params),
        "overrides": shlex.join(found.overrides),
    }
    return yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True)
