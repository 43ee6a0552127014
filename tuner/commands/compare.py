"""`tuner compare study=NAME over=X`: trains each choice of one thing with the same seeds, all else being equal."""

from __future__ import annotations

import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tuner import __version__, advice
from tuner.commands import report
from tuner.commands.batch_fit import divide, known_fit
from tuner.commands.folders import writable
from tuner.commands.values import own_values, values_at
from tuner.commands.workers import launcher_of
from tuner.comparison import Comparison, Training
from tuner.comparison import compare as compared
from tuner.config import Settings, StudySettings, targets
from tuner.config.nodes import ROOTS
from tuner.config.schema import ALLOWED
from tuner.errors import ConfigError, Problem, RoundFailed, StudyError, did_you_mean
from tuner.launch.batch import run_batch
from tuner.space import Categorical, Int, LogInt, LogUniform, OneMinusPow10, Parameter, Space, Value
from tuner.training.task import Measurement, Outcome, Result, Task

INTERRUPTED = 130
#: A training is one device's, whatever is compared.
NOT_COMPARED = frozenset({"trainer.devices", "trainer.num_nodes", "trainer.strategy"})
#: Whose versions a reader wants to know.
PACKAGES = ("torch", "lightning", "numpy", "scipy")
_CREDENTIALS = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True)
class Choice:
    """One choice: what tables call it, and the configuration of its trainings."""

    label: str
    config: dict[str, Any]


def compare(settings: Settings) -> int:
    """Train, print the table, and write figure, page and raw values.

    Raises:
        ConfigError: there is nothing to compare as it was asked for.
        StudyError: the module cannot be trained, or does not log the objective.
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
        raise RoundFailed(f"No training is complete: {reasons}. The workers' logs are in {folder}.")
    comparison = compared(
        [choice.label for choice in choices],
        trainings,
        maximize=study.objective.direction == "maximize",
        target=settings.compare.target,
    )
    _publish(settings, study, over.name, choices, whose, comparison, trainings, folder)
    return INTERRUPTED if interrupted else 0


# -- what is compared -------------------------------------------------------------------------------------------


def plan(settings: Settings, study: StudySettings) -> tuple[Parameter, list[Choice], str]:
    """What is compared, its choices, and whose values all else has.

    Raises:
        ConfigError: `compare.over` names nothing, or a choice is none.
    """
    over = _over(settings, study)
    values = _choices(settings.compare.choices, over, dict(_walk("", study.nodes.plain())).get(over.path))
    _refuse_bad_choices(over, values)
    base, whose = values_at(settings, study, settings.compare.at)
    fit = known_fit(settings, study)
    if over.name in study.space.names:
        configs = [
            divide(fit, study, _config_of(study, over, value, base), {**base, over.name: value}) for value in values
        ]
        return over, [Choice(_label(value), config) for value, config in zip(values, configs, strict=True)], whose
    _refuse_lost_path(study, over.path, base, whose)
    labels = _labels(values)
    ad_hoc = replace(
        over,
        scale=Categorical(tuple(labels) if _has_nodes(values) else tuple(values)),
        nodes=dict(zip(labels, values, strict=True)) if _has_nodes(values) else {},
    )
    choices = labels if ad_hoc.nodes else values
    configs = [divide(fit, study, _config_with(study, ad_hoc, choice, base), base) for choice in choices]
    return ad_hoc, [Choice(label, config) for label, config in zip(labels, configs, strict=True)], whose


def _over(settings: Settings, study: StudySettings) -> Parameter:
    """The parameter that `compare.over` names, or one made of the path that it names."""
    over = settings.compare.over
    if not over:
        remedy = f"Write for example over={study.space.names[0]}. The space has {', '.join(study.space.names)}."
        raise ConfigError([Problem("compare.over", "is a parameter or a path", over, remedy)])
    for parameter in study.space:
        if over in (parameter.name, parameter.path):
            return parameter
    path = _path(over, study)
    if path in NOT_COMPARED:
        raise ConfigError([Problem("compare.over", "can differ between trainings", over, "Each has one device.")])
    by_path = [parameter for parameter in study.space if parameter.path == path]
    return by_path[0] if by_path else Parameter(path, Categorical(()), path)


def _path(over: str, study: StudySettings) -> str:
    nodes = study.nodes.plain()
    paths = [path for path, _ in _walk("", nodes) if nodes[path.partition(".")[0]] is not None]
    if over in paths and over != "trainer":
        return over
    root, _, key = over.partition(".")
    if root == "trainer" and key in ALLOWED["trainer"]:
        return over
    ends = [path for path in paths if path.endswith(f".{over}")]
    below = [path for path in ends if path.startswith("module.")] or ends
    if len(below) == 1:
        return below[0]
    known = (*study.space.names, *paths)
    add = f" An argument that the study's file does not spell out is added with +{over}=VALUE." if key else ""
    remedy = f"Write one of {', '.join(below)}." if below else f"{did_you_mean(over, known)}{add}"
    rule = f"is a parameter of the space, or a path below {', '.join(ROOTS)} that is there once"
    raise ConfigError([Problem("compare.over", rule, over, remedy)])


def _walk(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Every dotted path below a node that a value may be written to, with what is there."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        path = f"{prefix}.{key}" if prefix else str(key)
        if not str(key).startswith("_"):
            yield path, child
        yield from _walk(path, child)


# -- choices ----------------------------------------------------------------------------------------------------


def _choices(given: Sequence[Any] | None, over: Parameter, own: Any) -> list[Any]:
    if given is not None:
        return [str(value) for value in given] if over.nodes else list(given)
    if isinstance(over.scale, Categorical) and len(over.scale.choices) > 1:
        return list(over.scale.choices)
    if isinstance(own, bool):
        return [own, not own]
    rule = f"must be given, because {over.name} has no list of choices of its own"
    raise ConfigError([Problem("compare.choices", rule, None, f"Write for example '{_example(over)}'.")])


def _example(over: Parameter) -> str:
    low, high = getattr(over.scale, "low", None), getattr(over.scale, "high", None)
    return f"choices=[{low},{high}]" if low is not None else "choices=[true,false]"


def _refuse_bad_choices(over: Parameter, values: Sequence[Any]) -> None:
    check = _wrong_number if not isinstance(over.scale, Categorical) else _wrong_choice if over.scale.choices else _gone
    problems = [
        Problem("compare.choices", rule, value, remedy) for value in values for rule, remedy in check(over, value)
    ]
    if len(set(_labels(values))) < len(values):
        problems.append(Problem("compare.choices", "names each choice once", list(values), "Remove the repeated one."))
    if problems:
        raise ConfigError(problems)


def _gone(over: Parameter, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ARG001 - a path takes what its class takes
    for target in _targets_in(value):
        if gone := targets.missing(target):
            yield f"can be imported (there is no {gone[0]})", did_you_mean(gone[0], gone[1])


def _wrong_choice(over: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    assert isinstance(over.scale, Categorical)
    if not over.scale.contains(value):
        yield f"are choices of {over.name}", f"It has {', '.join(map(_label, over.scale.choices))}."


def _wrong_number(over: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    """Against the kind; the range is what the search draws from, and may be left."""
    scale, example = over.scale, f"Write for example '{_example(over)}'."
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        yield f"are numbers, as {over.name} is one", example
    elif isinstance(scale, Int | LogInt) and not isinstance(value, int):
        yield f"are whole numbers, as {over.name} is one", f"Write {round(value)}."
    elif isinstance(scale, LogUniform | LogInt) and value <= 0:
        yield f"are above 0, as {over.name} is on a log scale", example
    elif isinstance(scale, OneMinusPow10) and not 0 < value < 1:
        yield f"lie between 0 and 1, both excluded, as {over.name} does", example


def _targets_in(value: Any) -> Iterator[str]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if key == "_target_" and isinstance(child, str):
            yield child
        yield from _targets_in(child)


def _has_nodes(values: Sequence[Any]) -> bool:
    return any(isinstance(value, Mapping | list) for value in values)


def _labels(values: Sequence[Any]) -> list[str]:
    """A short word for each value; nodes of the same class are told apart by their arguments."""
    labels = [_label(value) for value in values]
    return [_label(value, in_full=labels.count(label) > 1) for value, label in zip(values, labels, strict=True)]


def _label(value: Any, *, in_full: bool = False) -> str:
    if isinstance(value, Mapping) and "_target_" in value:
        arguments = ", ".join(
            f"{key}={_label(item, in_full=True)}" for key, item in value.items() if not str(key).startswith("_")
        )
        name = str(value["_target_"]).rpartition(".")[2]
        return f"{name}({arguments})" if in_full and arguments else name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


# -- the configuration of a choice ------------------------------------------------------------------------------


def _config_of(study: StudySettings, over: Parameter, value: Value, base: Mapping[str, Value]) -> dict[str, Any]:
    """The nodes with a parameter at a value; those that `scale_with` it follow, those that it switches off are gone."""
    space = study.space
    own = own_values(study)
    effective = {**own, **base}
    if not _is_there(over, space, effective):
        when = ", ".join(f"{name} is one of {list(allowed)}" for name, allowed in over.when.items())
        remedy = f"Write at=defaults or at=champion, or compare where {when}."
        raise ConfigError([Problem("compare.over", "is switched on by the other parameters", over.name, remedy)])
    drawn = space.drawn(effective)
    after = space.effective(space.active({**drawn, over.name: value}))
    written = {name for name in after if name in base or name == over.name or _scales_with(space[name], over)}
    if own.get(over.name) == value and not base:
        # The label of what is there: what else the study writes into that node stays.
        written |= {name for name in after if space[name].path.startswith(f"{over.path}.")}
    return study.nodes.plain({name: after[name] for name in after if name in written}, space)


def _is_there(over: Parameter, space: Space, effective: Mapping[str, Value]) -> bool:
    return over.name in space.active({**effective, over.name: None})


def _scales_with(parameter: Parameter, over: Parameter) -> bool:
    return parameter.scale_with is not None and parameter.scale_with.parameter == over.name


def _config_with(study: StudySettings, over: Parameter, value: Value, base: Mapping[str, Value]) -> dict[str, Any]:
    """The nodes with a path at a value. A node stands as it is written: no parameter is put into it."""
    kept = {name: one for name, one in base.items() if not study.space[name].path.startswith(f"{over.path}.")}
    return study.nodes.plain({**kept, over.name: value}, Space((*study.space.parameters, over)))


def _refuse_lost_path(study: StudySettings, path: str, base: Mapping[str, Value], whose: str) -> None:
    """A path that lies in a node which the champion has another choice of."""
    parent = path.rpartition(".")[0]
    there = dict(_walk("", study.nodes.plain(base, study.space)))
    if "." in parent and not isinstance(there.get(parent), Mapping | list):
        rule = f"is there with {whose}"
        raise ConfigError([Problem("compare.over", rule, path, "Write at=defaults, or compare something else.")])


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
    curves: dict[int, list[tuple[float, int, float]]] = {task.trial: [] for task in tasks}
    done = dict[int, Result]()

    def on_value(task: Task, measured: Measurement) -> None:
        curves[task.trial].append((measured.epoch, measured.step, measured.value))

    def on_end(task: Task, result: Result) -> None:
        done[task.trial] = result
        what = f"{over}={choices[turns[task.trial][1]].label} seed {task.seed}"
        report.say(f"training {len(done)} of {len(tasks)}, {what}: {_ending(result, metric)}")
        if result.outcome is Outcome.NO_OBJECTIVE:
            raise StudyError(f"objective.metric: {result.reason}. Write objective.metric=NAME, or log it.")

    launcher = launcher_of(settings, study, folder, most=len(tasks))
    try:
        run_batch(launcher, tasks, on_value=on_value, on_end=on_end)
    except KeyboardInterrupt:
        report.say(f"interrupted: {len(done)} of {len(tasks)} trainings are done, and the others are not counted")
    return [
        Training(
            choice=turns[task.trial][1],
            seed=task.seed,
            outcome=str(result.outcome),
            curve=tuple(curves[task.trial]),
            reason=result.reason,
            seconds=result.seconds,
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
    for line in (*shown.aligned(shown.table(comparison, made)), *shown.verdicts(comparison)):
        report.put(line)
    report.put(f"everything else: {whose}; figure, page and raw values: {folder}")


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
