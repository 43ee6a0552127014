"""`tuner compare study=NAME over=X`: trains each choice of one thing with the same seeds, all else being equal."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import yaml

from tuner import __version__, advice, output
from tuner.commands import report
from tuner.commands.choices import Choice, plan
from tuner.commands.folders import writable
from tuner.commands.workers import launcher_of
from tuner.comparison import Comparison, Training
from tuner.comparison import compare as compared
from tuner.config import Settings, StudySettings
from tuner.ctrl_c import INTERRUPTED
from tuner.errors import RoundFailed, StudyError
from tuner.launch.batch import run_batch
from tuner.training.task import Measurement, Outcome, Result, Task

#: Whose versions a reader wants to know.
PACKAGES = ("torch", "lightning", "numpy", "scipy")
_CREDENTIALS = re.compile(r"//[^/\s]*@")


def compare(settings: Settings) -> int:
    """Train, print the table, and write figure, page and raw values.

    Raises:
        ConfigError: there is nothing to compare as it was asked for.
        StudyError: the module cannot be trained, or does not log the objective.
        RoundFailed: no training is complete, or all those of a choice crashed; what there is has been written then.
    """
    study = report.needed(settings)
    over, choices, whose = plan(settings, study)
    name = settings.compare.folder or f"{settings.store.folder}/{study.name}-compare-{over.name}"
    folder = writable(name, "compare.folder")
    trainings = _train(settings, study, over.name, choices, folder)
    interrupted = len(trainings) < settings.compare.seeds * len(choices)
    if interrupted and all(training.final is None for training in trainings):
        return INTERRUPTED  # what an earlier comparison left in the folder stays
    if all(training.final is None for training in trainings):
        reasons = "; ".join(sorted({training.reason or training.outcome for training in trainings}))
        trace = _first_traceback(trainings)
        raise RoundFailed(f"No training is complete: {reasons}. The workers' logs are in {folder}.{trace}")
    comparison = compared(
        [choice.label for choice in choices],
        trainings,
        maximize=study.objective.direction == "maximize",
        target=settings.compare.target,
    )
    _publish(settings, study, over.name, choices, whose, comparison, trainings, folder)
    if interrupted:
        return INTERRUPTED
    _refuse_crashes(comparison, trainings, folder)
    return 0


def _refuse_crashes(comparison: Comparison, trainings: Sequence[Training], folder: Path) -> None:
    """Raise where a choice has nothing but crashes: it was not compared, whatever the table says of the others."""
    failed = {number: summary.label for number, summary in enumerate(comparison.summaries) if summary.fails}
    if failed:
        trace = _first_traceback([training for training in trainings if training.choice in failed])
        labels = ", ".join(failed.values())
        raise RoundFailed(f"Every training of {labels} crashed. The workers' logs are in {folder}.{trace}")


def _first_traceback(trainings: Sequence[Training]) -> str:
    return next((f"\n\n{training.traceback}" for training in trainings if training.traceback), "")


# -- training ---------------------------------------------------------------------------------------------------


def _train(
    settings: Settings, study: StudySettings, over: str, choices: Sequence[Choice], folder: Path
) -> list[Training]:
    """Every choice with every seed, in the order of the seeds, so that what is there early is of all choices."""
    turns = [(seed, choice) for seed in range(settings.compare.seeds) for choice in range(len(choices))]
    metric = study.objective.metric
    tasks = [
        Task(number, choices[choice].config, metric, settings.seed + seed, str(folder / f"training-{number}"))
        for number, (seed, choice) in enumerate(turns)
    ]
    curves: dict[int, list[tuple[float, int, float]]] = {}
    done = dict[int, Result]()

    def called(task: Task) -> str:
        return f"{over}={choices[turns[task.trial][1]].label} seed {task.seed}"

    def on_start(task: Task) -> None:
        curves[task.trial] = []

    def on_value(task: Task, measured: Measurement) -> None:
        curves[task.trial].append((measured.epoch, measured.step, measured.value))

    def on_end(task: Task, result: Result) -> None:
        done[task.trial] = result
        output.say(f"training {len(done)} of {len(tasks)}, {called(task)}: {_ending(result, metric)}")
        if result.outcome is Outcome.NO_OBJECTIVE:
            raise StudyError(f"objective.metric: {result.reason}. Write objective.metric=NAME, or log it.")

    launcher = launcher_of(settings, study, folder, most=len(tasks))
    try:
        run_batch(
            launcher,
            tasks,
            retries=settings.launcher.max_retries,
            on_start=on_start,
            on_value=on_value,
            on_retry=lambda task, note: output.say(f"{called(task)}: {note}"),
            on_end=on_end,
        )
    except KeyboardInterrupt:
        output.say(f"interrupted: {len(done)} of {len(tasks)} trainings are done, and the others are not counted")
    return [
        Training(
            choice=turns[task.trial][1],
            seed=task.seed,
            outcome=str(result.outcome),
            curve=tuple(curves[task.trial]),
            reason=result.reason,
            seconds=result.seconds,
            traceback=result.traceback,
        )
        for task in tasks
        if (result := done.get(task.trial)) is not None
    ]


def _ending(result: Result, metric: str) -> str:
    value = "" if result.value is None else f", {metric}={advice.short(result.value)}"
    reason = f" ({result.reason})" if result.reason else ""
    return f"{result.outcome}{reason}{value} after {result.epoch:g} epochs, {result.seconds:.1f} s"


# -- results ----------------------------------------------------------------------------------------------------


def _publish(
    settings: Settings,
    study: StudySettings,
    over: str,
    choices: Sequence[Choice],
    whose: str,
    comparison: Comparison,
    trainings: Sequence[Training],
    folder: Path,
) -> None:
    # matplotlib takes 0.5 s to import: mistakes and progress need not wait for it.
    from tuner.report import comparison as shown  # noqa: PLC0415

    made = shown.Made(
        study=study.name,
        over=over,
        metric=study.objective.metric,
        facts=_facts(settings, study, over, choices, whose),
        configs={choice.label: yaml.safe_dump(choice.config, sort_keys=False) for choice in choices},
    )
    picture = shown.png(shown.figure(comparison, trainings, made))
    _write(folder / "trainings.csv", shown.trainings_csv(comparison, trainings).encode())
    _write(folder / "curves.csv", shown.curves_csv(comparison, trainings).encode())
    _write(folder / "curves.png", picture)
    _write(folder / "index.html", shown.page(comparison, made, picture).encode())
    for line in (*shown.aligned(shown.table(comparison, made)), *shown.notes(comparison, made)):
        output.put(line)
    output.put(f"everything else: {whose}; figure, page and raw values: {folder}")


def _facts(
    settings: Settings, study: StudySettings, over: str, choices: Sequence[Choice], whose: str
) -> dict[str, str]:
    last = settings.seed + settings.compare.seeds - 1
    epochs = sorted({choice.config["trainer"]["max_epochs"] for choice in choices})
    versions = {"tuner": __version__, **{name: metadata.version(name) for name in PACKAGES}}
    return {
        "command": _command(settings, study),
        "choices": f"{over}: {', '.join(choice.label for choice in choices)}",
        "everything else": whose,
        "seeds": f"{settings.seed} to {last}, the same for each choice",
        "length": f"trained in full: {' or '.join(map(str, epochs))} epochs",
        "objective": f"{study.objective.metric}, {study.objective.direction}; the last value of each training",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPU cores",
    }


def _command(settings: Settings, study: StudySettings) -> str:
    """As it was typed, without the credentials of a URL; where this is not the program itself, what it amounts to."""
    program = Path(sys.argv[0])
    if program.name == "tuner" or (program.name == "__main__.py" and program.parent.name == "tuner"):
        words = sys.argv[1:]
    else:
        asked = settings.compare
        words = [
            "compare",
            f"study={study.name}",
            f"over={asked.over}",
            f"seeds={asked.seeds}",
            f"seed={settings.seed}",
        ]
    return _CREDENTIALS.sub("//***@", shlex.join(["python", "-m", "tuner", *words]))


def _write(file: Path, content: bytes) -> None:
    """Beside its place and then renamed, so that a reader finds the old file or the new one."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_bytes(content)
    os.replace(beside, file)  # noqa: PTH105
