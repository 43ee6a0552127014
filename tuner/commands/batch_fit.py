"""`trainer.fit_batch=true`: measures before a round which batches fit on a GPU, once, and keeps it with the round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner import output
from tuner.commands.values import own_values
from tuner.commands.workers import launcher_of
from tuner.config import Settings, StudySettings
from tuner.config.identity import digest
from tuner.errors import ConfigError, Problem, RoundFailed
from tuner.fitting import BatchFit, batch_path, combinations, key, largest_batch
from tuner.launch.batch import run_batch
from tuner.launch.devices import gpus
from tuner.space import Value
from tuner.store.database import Database
from tuner.store.ledger import Ledger, noted_of
from tuner.store.rounds import Rounds
from tuner.training.task import Kind, Outcome, Task

#: Under which the ledger notes what was measured.
NOTE = "fit_batch"


def batch_fit(
    settings: Settings, study: StudySettings, ledger: Ledger, root: Path, tick: Callable[[], object]
) -> BatchFit | None:
    """The round's largest micro-batches, measured now if they are not known; None where there is no GPU.

    Args:
        settings: of this call.
        study: its study.
        ledger: of the round, which keeps what was measured.
        root: folder of the workers' logs.
        tick: called often while it is measured.

    Raises:
        ConfigError: the study has no batch size, or none that is a number.
        RoundFailed: the module crashes, or nothing fits.
    """
    plain = study.nodes.plain()
    path = batch_path(study.space, plain["data"])
    most = largest_batch(study.space, (plain["data"] or {}).get("batch_size")) if path else None
    if path is None or most is None:
        rule = "has a batch size to divide: a parameter whose path ends in batch_size, or data.batch_size"
        raise ConfigError([Problem("trainer.fit_batch", rule, True, "Add one, or write trainer.fit_batch=false.")])
    if (settings.launcher.workers or 0) > len(gpus()) > 0:
        rule = "has a GPU for each worker, whose memory is measured"
        remedy = f"Write launcher.workers={len(gpus())}, or trainer.fit_batch=false."
        raise ConfigError([Problem("trainer.fit_batch", rule, f"{settings.launcher.workers} workers", remedy)])
    if plain["trainer"].get("accelerator") == "cpu" or not gpus():
        output.say("trainer.fit_batch: there is no GPU, and a machine whose own memory ran out could not say so.")
        return None
    names, _ = combinations(study.space)
    known = ledger.noted(NOTE)
    if known is None:
        known = _measured(settings, study, root, tick, path, most)
        ledger.note_of_round(NOTE, known)
        for widths, largest in known.items():
            output.say(f"largest batch on the GPU{f' with {widths}' if widths else ''}: {largest}")
    return BatchFit(path, names, known)


def known_fit(settings: Settings, study: StudySettings) -> BatchFit | None:
    """What a round of this study has measured, for the commands that train without one; nothing is measured now."""
    plain = study.nodes.plain()
    path = batch_path(study.space, plain["data"]) if study.fit_batch else None
    if path is None or not Database.is_there(settings.store.url):
        return None
    with Database(settings.store.url) as database, database.explained():
        rounds = Rounds(database)
        for record in (rounds.of_identity(study.name, digest(settings.identity)), rounds.latest(study.name)):
            noted = noted_of(database.storage, record.name, NOTE) if record else None
            if noted is not None:
                return BatchFit(path, combinations(study.space)[0], noted)
    return None


def divide(
    fit: BatchFit | None, study: StudySettings, config: dict[str, Any], values: Mapping[str, Value]
) -> dict[str, Any]:
    """The configuration of a training outside a round, its batch divided where it has to be.

    Args:
        fit: what is known of the memory.
        study: whose own values those are that `values` leaves out.
        config: changed in place.
        values: effective ones.
    """
    if fit is not None:
        parts = fit.apply(config, study.space.active({**own_values(study), **values}))
        if parts:
            output.say(f"the batch is trained in {parts['accumulate_grad_batches']} parts of {parts['micro_batch']}")
    return config


def _measured(
    settings: Settings, study: StudySettings, root: Path, tick: Callable[[], object], path: str, most: int
) -> dict[str, int]:
    names, measured = combinations(study.space)
    tasks = [
        Task(
            trial=number,
            config=study.nodes.plain(values, study.space),
            metric=study.objective.metric,
            seed=settings.seed,
            folder=str(root),
            kind=Kind.FIT_BATCH,
            options={"path": path, "most": most},
        )
        for number, values in enumerate(measured)
    ]
    found: dict[str, int] = {}
    results = run_batch(
        launcher_of(settings, study, root, len(tasks)),
        tasks,
        retries=settings.launcher.max_retries,
        on_retry=lambda _, note: output.say(f"largest batch: {note}"),
        on_tick=tick,
    )
    for values, result in zip(measured, results, strict=True):
        widths = key({name: values[name] for name in names if name in values})
        if result.outcome is Outcome.CRASHED:
            raise RoundFailed(f"The module crashes while its batches are measured:\n\n{result.traceback}")
        if result.findings.get("largest") is None:
            raise RoundFailed(f"Not even a batch of 1 fits on the GPU{f' with {widths}' if widths else ''}.")
        found[widths] = int(result.findings["largest"])
    return found
