"""`tuner train study=NAME`: trains the champion's configuration in full, saves it, and reads the test set once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from tuner import advice, output
from tuner.commands import report
from tuner.commands.batch_fit import divide, known_fit
from tuner.commands.folders import writable
from tuner.commands.values import values_at
from tuner.commands.workers import launcher_of
from tuner.config import Settings, StudySettings
from tuner.errors import RoundFailed, StudyError
from tuner.launch.batch import run_batch
from tuner.training.task import Kind, Measurement, Outcome, Result, Task


def train(settings: Settings) -> int:
    """Train, and print what was trained, where its checkpoint is, and its test metrics, as YAML.

    Raises:
        ConfigError: the champion does not fit the space, or the folder cannot be written to.
        StudyError: the data cannot be joined, or the module cannot be trained.
        RoundFailed: the training diverged, ran out of memory, or the user's code raised.
    """
    study = report.needed(settings)
    values, whose = values_at(settings, study, settings.train.at)
    folder = writable(settings.train.folder or f"{settings.store.folder}/{study.name}-final", "train.folder")
    task = Task(
        trial=0,
        config=divide(known_fit(settings, study), study, study.nodes.plain(values, study.space), values),
        metric=study.objective.metric,
        seed=settings.seed,
        folder=str(folder),
        kind=Kind.FINAL,
        options={"split": settings.train.split, "file": str(folder / f"{study.name}.ckpt")},
    )
    output.say(f"training {whose} in full, {study.epochs} epochs on {settings.train.split}")
    (result,) = run_batch(
        launcher_of(settings, study, folder, most=1),
        [task],
        retries=settings.launcher.max_retries,
        on_value=_say_epoch(study),
        on_retry=lambda _, note: output.say(f"training: {note}"),
    )
    _refuse(result, folder)
    document = {
        "study": study.name,
        "values": whose,
        "params": dict(values),
        "split": settings.train.split,
        "seed": settings.seed,
        "epochs": result.epoch,
        "seconds": round(result.seconds, 1),
        **_found(result),
    }
    output.put(yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True).rstrip())
    return 0


def _say_epoch(study: StudySettings) -> Any:
    def say(_: Task, measured: Measurement) -> None:
        value = measured.value
        shown = "" if math.isnan(value) else f", {study.objective.metric}={advice.short(value)}"
        output.say(f"epoch {measured.epoch:g} of {study.epochs}{shown}")

    return say


def _refuse(result: Result, folder: Path) -> None:
    """Raise for a training that did not complete, or whose test failed."""
    if result.outcome is Outcome.COMPLETE:
        return
    if result.outcome is Outcome.NO_OBJECTIVE:
        raise StudyError(f"objective.metric: {result.reason}. Write objective.metric=NAME, or log it.")
    kept = f" The checkpoint is {result.findings['checkpoint']}." if "checkpoint" in result.findings else ""
    trace = f"\n{result.traceback}" if result.traceback not in ("", result.reason) else ""
    raise RoundFailed(f"{result.outcome}: {result.reason}.{kept} The worker's log is in {folder}.{trace}")


def _found(result: Result) -> dict[str, Any]:
    found = result.findings
    if left_out := found["left_out"]:
        output.say(
            f"Not in the checkpoint, because reading them back would execute code: {', '.join(left_out)}."
            " Give them to load_from_checkpoint where they are needed."
        )
    if found["test"] is None:
        output.say(f"There are no test metrics: {found['why_no_test']}.")
    return {"checkpoint": found["checkpoint"], "test": found["test"]}
