"""`tuner status`: rounds, their stages, trials by outcome, and who works."""

from __future__ import annotations

from pathlib import Path

from tuner import advice, output
from tuner.checkpoints import size_bytes
from tuner.commands import report
from tuner.config import Settings
from tuner.store.database import Database
from tuner.store.leases import Leases
from tuner.store.overview import overview
from tuner.store.rounds import RoundRecord, Rounds, RoundState


def status(settings: Settings) -> int:
    """Print all rounds of the store, or those of one study."""
    name = settings.study.name if settings.study else None
    if not Database.is_there(settings.store.url):
        output.put(f"no rounds: there is no database at {settings.store.url} yet")
        return 0
    with Database(settings.store.url) as database, database.explained():
        rounds = Rounds(database)
        records = rounds.all(name)
        if not records:
            output.put(f"no rounds{f' of {name}' if name else ''} in {database}")
        for record in records:
            _show(record, rounds, database, settings)
    return 0


def _show(record: RoundRecord, rounds: Rounds, database: Database, settings: Settings) -> None:
    seen, doing = overview(database, record.name), _doing(record, database)
    output.put(
        f"{record.name}: {doing}, {report.counted(seen.outcomes)}, {record.seconds_used:.0f} s, data {record.data_version}"
    )
    stages = {stage["name"]: stage for stage in rounds.stages(record)}
    for name in [*stages, *(name for name in seen.by_stage if name not in stages)]:
        counts = seen.by_stage.get(name)
        why = f": {stages[name]['reason']}" if name in stages else ""
        output.put(f"  {name}: {report.counted(counts) if counts else 'nothing drawn'}{why}")
        if stages.get(name, {}).get("elites"):
            elites = ", ".join(map(str, stages[name]["elites"]))
            output.put(f"    elites {elites}; box {advice.spans(stages[name]['ranges'])}")
    trains = "trains on" if doing.startswith("run by") else "was left by"
    for training in seen.training:
        output.put(f"  trial {training.number} ({training.stage}) {trains} {training.worker}")
    checkpoints = size_bytes(Path(settings.store.folder) / record.name)
    if checkpoints:
        output.put(f"  checkpoints on this disk: {checkpoints / 1e6:,.1f} MB in {settings.store.folder}/{record.name}")
    champion = rounds.champion(record)
    if champion is not None:
        output.put(f"  best: {record.metric}={advice.short(champion.value)} by trial {champion.trial}")


def _doing(record: RoundRecord, database: Database) -> str:
    if record.state is RoundState.FINISHED:
        return "finished"
    lease = Leases(database.engine, database.waiting).of(record.id)
    if lease is None:
        return (
            "failed, the same command tries again"
            if record.state is RoundState.FAILED
            else "unfinished, nobody runs it"
        )
    return f"unfinished, left by {lease.owner}" if lease.is_over else f"run by {lease}"
