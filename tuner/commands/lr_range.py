"""`tuner lr-range study=NAME`: the learning rates between which a study learns, from one short run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from tuner import output
from tuner.commands import report
from tuner.commands.batch_fit import divide, known_fit
from tuner.commands.folders import writable
from tuner.commands.values import OWN, values_at
from tuner.commands.workers import launcher_of
from tuner.config import Settings, StudySettings
from tuner.config.load import STAGED
from tuner.errors import ConfigError, Problem, RoundFailed, StudyError
from tuner.launch.batch import run_batch
from tuner.lr_range import Reading, Suggestion, read_curve
from tuner.search.dimensions import dimensions_of
from tuner.search.history import History
from tuner.search.stages import Stage, Zoom, stages_until
from tuner.space import LogUniform, Parameter, ScaleWith, Uniform, Value
from tuner.training.task import Kind, Outcome, Result, Task

NO_SUGGESTION = 1
PICTURE = "lr-range.png"
#: Names of a learning rate in a study's nodes, where the space has none.
NAMES = ("lr", "learning_rate")


def lr_range(settings: Settings) -> int:
    """Run the test, print zones, suggestion and overrides, and draw the curve.

    Raises:
        ConfigError: the folder cannot be written to, or `at` names values that there are not.
        StudyError: the study cannot be tested as it is configured.
        RoundFailed: the module failed, or the worker died.
    """
    study = report.needed(settings)
    values, whose = values_at(settings, study, settings.lr_range.at)
    folder = folder_of(settings, study)
    result, reading = tested(settings, study, values, folder, tick=None)
    picture = folder / PICTURE
    _draw(reading, study.name, whose, picture)
    output.put(f"range test of {study.name} with {whose}: {_length(result, reading)}")
    for line in _zones(reading):
        output.put(f"  {line}")
    for finding in reading.findings:
        output.put(f"  {finding.value}")
    if reading.suggestion is not None:
        output.put(f"  suggested: {_short(reading.suggestion.value)}, where half of the fall has been made")
        for line in overrides(study, values, reading.suggestion):
            output.put(f"  {line}")
    output.put(f"figure: {picture}")
    return 0 if reading.suggestion else NO_SUGGESTION


def folder_of(settings: Settings, study: StudySettings) -> Path:
    """Where the figure and the worker's log go; made if it is missing.

    Raises:
        ConfigError: it cannot be written to.
    """
    given = settings.lr_range.folder
    if given:
        return writable(given, "lr_range.folder")
    return writable(Path(settings.store.folder) / f"{study.name}-lr-range", "store.folder")


def tested(
    settings: Settings,
    study: StudySettings,
    values: Mapping[str, Value],
    folder: Path,
    tick: Callable[[], object] | None,
) -> tuple[Result, Reading]:
    """One range test in a worker, and what its curve says.

    Args:
        settings: of this call; the section `lr_range` says how far and how long.
        study: what is tested.
        values: effective ones by parameter name; the others keep the study's own.
        folder: of the worker's log.
        tick: called often while it runs, if it is given.

    Raises:
        StudyError: the study cannot be tested as it is configured.
        RoundFailed: the module failed, or the worker died.
    """
    try:
        config = study.nodes.plain(values, study.space)
    except (OmegaConfBaseException, TypeError, LookupError) as error:
        raise StudyError(f"{study.name} with {dict(values)} has no configuration: {error}") from None
    test = settings.lr_range
    task = Task(
        trial=0,
        config=divide(known_fit(settings, study), study, config, values),
        metric=study.objective.metric,
        seed=settings.seed,
        folder=str(folder.absolute()),
        kind=Kind.LR_RANGE,
        options={"low": test.low, "high": test.high, "steps": test.steps},
    )
    (result,) = run_batch(
        launcher_of(settings, study, folder.absolute(), most=1),
        [task],
        retries=settings.launcher.max_retries,
        on_retry=lambda _, note: output.say(f"range test: {note}"),
        on_tick=tick,
    )
    found = result.findings
    if result.outcome is not Outcome.COMPLETE:
        where = f" at lr {_short(found['lrs'][-1])}" if found.get("lrs") else " before its first step"
        trace = f"\n{result.traceback}" if result.traceback not in ("", result.reason) else ""
        raise RoundFailed(f"The range test of {study.name} {result.outcome}{where}: {result.reason}{trace}")
    return result, read_curve(found["lrs"], found["losses"], exploded=found["exploded"])


def _draw(reading: Reading, name: str, whose: str, picture: Path) -> None:
    # Half a second of imports that a search without a range test does not wait for.
    from tuner.report.lr_range import draw, save  # noqa: PLC0415

    save(draw(reading, f"Learning-rate range test of {name}", f"values: {whose}"), picture)


# -- before a search ---------------------------------------------------------------------------------------------------


def check_search(settings: Settings, study: StudySettings) -> None:
    """Whether a search can start from a range test, where `search.lr_range` asks for it.

    Raises:
        ConfigError: the search has no stages, or the space no learning rate.
    """
    if not settings.search.lr_range:
        return
    problems = []
    if settings.search.draws not in STAGED:
        remedy = "Write search=coarse_to_fine, or search.lr_range=false."
        rule = f"is for searches in stages: {', '.join(STAGED)}"
        problems.append(Problem("search.lr_range", rule, settings.search.name, remedy))
    target = target_of(study, {})
    if target is None:
        remedy = "Write search.lr_range=false, or one parameter with the path of the optimizer's lr."
        rule = "is for spaces with one learning rate that has a range"
        problems.append(Problem("search.lr_range", rule, " ".join(study.space.names), remedy))
    elif settings.search.draws == "tiered" and target.parameter.tier > (first := min(one.tier for one in study.space)):
        name, tier = target.parameter.name, target.parameter.tier
        remedy = f"Write space.{name}.tier={first}, search=coarse_to_fine, or search.lr_range=false."
        rule = "is for a learning rate of the first tier, because the others are fixed in the first stage"
        problems.append(Problem("search.lr_range", rule, f"{name} of tier {tier}", remedy))
    if problems:
        raise ConfigError(problems)


def first_stage(
    settings: Settings, study: StudySettings, name: str, defaults: Mapping[str, Value], tick: Callable[[], object]
) -> Stage:
    """The stage that a new round begins with: uniform, but with the learning rate between the bounds of a range test.

    The test has the study's own values, and the stages that follow are free to leave the bounds: other batch sizes
    and layers may want another learning rate. Recorded before the first draw, the stage is part of the round, so that
    a round that goes on does not test again and draws the same.

    Args:
        settings: of this call, checked by `check_search`.
        study: its study.
        name: of the round.
        defaults: what tiers not yet tuned are fixed at.
        tick: called often while it is tested.

    Raises:
        StudyError: the study cannot be tested as it is configured.
        RoundFailed: the module failed, or the worker died.
    """
    search, target = settings.search, target_of(study, {})
    if target is None:
        raise ValueError("no learning rate in the space; see check_search")
    folder = writable(Path(settings.store.folder) / name / "lr-range", "store.folder")
    _, reading = tested(settings, study, {}, folder, tick)
    _draw(reading, name, OWN, folder / PICTURE)
    zoom = Zoom(search.coarse, search.elites, search.expand, search.draws == "tiered")
    dimensions = sorted(dimensions_of(study.space), key=lambda dimension: dimension.name)
    units = study.space.to_unit(defaults)
    (stage,) = stages_until(0, (), History(), dimensions, zoom=zoom, defaults=units)
    narrow = narrowed(stage, target, reading)
    output.say(f"{name}: {narrow.reason}; figure: {folder / PICTURE}")
    return narrow


def narrowed(stage: Stage, target: Target, reading: Reading) -> Stage:
    """A first stage with its box between the suggested bounds, as far as they lie in the range that it has."""
    parameter, found = target.parameter, reading.suggestion
    low, high = stage.box[parameter.name]
    if found is None:
        reason = f"{stage.reason}, because in the range test {reading.findings[0].value}"
        return replace(stage, name=f"lr range {stage.name}", reason=reason)
    bounds = [target.drawn(found.low), target.drawn(found.high)]
    units = [parameter.scale.to_unit(bound) for bound in bounds]
    box = max(low, units[0]), min(high, units[1])
    span = f"{_short(bounds[0])} … {_short(bounds[1])}"
    if box[0] >= box[1]:
        reason = f"{stage.reason}, because what the range test found for {parameter.name}, {span}, is not among them"
        return replace(stage, name=f"lr range {stage.name}", reason=reason)
    reason = f"{stage.reason}, but {parameter.name} within {span}, where the loss fell in the range test"
    return replace(stage, name=f"lr range {stage.name}", box={**stage.box, parameter.name: box}, reason=reason)


# -- what is printed ------------------------------------------------------------------------------------------------


def _length(result: Result, reading: Reading) -> str:
    span = f"{len(reading.lrs)} steps from lr {_short(reading.lrs[0])} to {_short(reading.lrs[-1])}"
    return f"{span}, where the loss had exploded" if result.findings["exploded"] else span


def _zones(reading: Reading) -> Iterator[str]:
    first, last = float(reading.lrs[0]), float(reading.lrs[-1])
    falls, unstable = reading.falls_from, reading.unstable_from
    flat_to = next((border for border in (falls, unstable) if border is not None), last)
    if first < flat_to:
        yield f"flat:     {_short(first)} … {_short(flat_to)}"
    if falls is not None:
        yield f"falling:  {_short(falls)} … {_short(last if unstable is None else unstable)}"
    if unstable is not None:
        yield f"unstable: from {_short(unstable)}"


def _short(value: float) -> str:
    return f"{value:.2g}"


# -- what can be pasted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The parameter that is the learning rate, and the value that another parameter had in the test, if it scales."""

    parameter: Parameter
    other: Value = None

    def drawn(self, effective: float) -> float:
        """The value that is drawn where the training is to see `effective`."""
        rule = self.parameter.scale_with
        return rule.undo(effective, self.other) if rule else effective


def target_of(study: StudySettings, values: Mapping[str, Value]) -> Target | None:
    """The learning rate of the space: a range whose path ends in `lr`, else one with such a name.

    One that `when` switches off at these values is left out. None where there is none, or more than one.
    """
    ranges = [p for p in study.space if isinstance(p.scale, LogUniform | Uniform) and (not values or p.name in values)]
    by_path = [p for p in ranges if p.path.rpartition(".")[2] in NAMES]
    found = by_path or [p for p in ranges if p.name in NAMES]
    if len(found) != 1:
        return None
    rule = found[0].scale_with
    return Target(found[0], _value(study, values, rule) if rule else None)


def _value(study: StudySettings, values: Mapping[str, Value], rule: ScaleWith) -> Value:
    own = values.get(rule.parameter)
    return study.nodes.own_value(study.space[rule.parameter], study.space) if own is None else own


def overrides(study: StudySettings, values: Mapping[str, Value], found: Suggestion) -> Iterator[str]:
    """Overrides of the command line with what was found, each with what has to be said of it."""
    target = target_of(study, values)
    if target is None:
        yield from (f"{path}={_short(found.value)}" for path in _paths(study, values))
        return
    name = target.parameter.name
    low, high = (rounded(target.drawn(value)) for value in (found.low, found.high))
    yield f"space.{name}.low={low:g} space.{name}.high={high:g}"
    if rule := target.parameter.scale_with:
        yield f"  at {rule.parameter}={rule.reference:g}, which {name} is scaled from; the test ran at {target.other}"


def _paths(study: StudySettings, values: Mapping[str, Value]) -> list[str]:
    """Where the study's nodes have a learning rate, if it is one place only."""
    nodes = study.nodes.plain(values, study.space)
    found = [
        path
        for root in ("module", "optimizer")
        for path, value in _leaves(root, nodes[root])
        if path.rpartition(".")[2] in NAMES and isinstance(value, float)
    ]
    return found if len(found) == 1 else []


def _leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(f"{path}.{key}", value)
    else:
        yield path, node


def rounded(lr: float) -> float:
    """To two significant digits: the curve does not say more."""
    return float(f"{lr:.2g}") if math.isfinite(lr) else lr
