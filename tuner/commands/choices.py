"""What `compare` compares: the choices of one parameter or path, and the whole configuration of each.

Everything that can be wrong with them is told here, before any work; how they are trained and shown is the business of
`tuner.commands.compare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.commands.batch_fit import divide, known_fit
from tuner.commands.values import own_values, values_at
from tuner.config import Settings, StudySettings, targets
from tuner.config.nodes import ROOTS
from tuner.config.schema import ALLOWED
from tuner.errors import ConfigError, Problem, did_you_mean
from tuner.space import Categorical, Int, LogInt, LogUniform, OneMinusPow10, Parameter, Space, Value

#: A training is one device's, whatever is compared.
NOT_COMPARED = frozenset({"trainer.devices", "trainer.num_nodes", "trainer.strategy"})


@dataclass(frozen=True)
class Choice:
    """One choice: what tables call it, and the configuration of its trainings."""

    label: str
    config: dict[str, Any]


def plan(settings: Settings, study: StudySettings) -> tuple[Parameter, list[Choice], str]:
    """What is compared, its choices, and whose values all else has.

    Raises:
        ConfigError: `compare.over` names nothing, or a choice is none.
    """
    over, given = _over(settings, study), settings.compare.choices
    values = _choices(given, over, dict(_walk("", study.nodes.plain())).get(over.path))
    labels = [_label(label) for label in given] if isinstance(given, Mapping) else _labels(values)
    _refuse_bad_choices(over, values, labels, labelled=isinstance(given, Mapping))
    base, whose = values_at(settings, study, settings.compare.at)
    fit = known_fit(settings, study)
    if over.name in study.space.names and not (over.nodes and isinstance(given, Mapping)):
        configs = [
            divide(fit, study, _config_of(study, over, value, base), {**base, over.name: value}) for value in values
        ]
        return over, [Choice(label, config) for label, config in zip(labels, configs, strict=True)], whose
    _refuse_lost_path(study, over.path, base, whose)
    stand_for = isinstance(given, Mapping) or any(isinstance(value, Mapping | list) for value in values)
    scale = Categorical(tuple(labels if stand_for else values))
    ad_hoc = replace(over, scale=scale, nodes=dict(zip(labels, values, strict=True)) if stand_for else {})
    configs = [divide(fit, study, _config_with(study, ad_hoc, choice, base), base) for choice in scale.choices]
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


def _choices(given: Sequence[Any] | Mapping[Any, Any] | None, over: Parameter, own: Any) -> list[Any]:
    """The values, or nodes, in their order; for the labelled choices of the space their labels."""
    if isinstance(given, Mapping):
        return list(given.values())
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


def _refuse_bad_choices(over: Parameter, values: Sequence[Any], labels: Sequence[str], *, labelled: bool) -> None:
    problems = [
        Problem("compare.choices", rule, value, remedy)
        for value in values
        for rule, remedy in _check_of(over, labelled=labelled)(over, value)
    ]
    if min(len(set(labels)), len(set(map(repr, values)))) < len(values):
        problems.append(Problem("compare.choices", "names each choice once", list(values), "Remove the repeated one."))
    if problems:
        raise ConfigError(problems)


def _check_of(over: Parameter, *, labelled: bool) -> Callable[[Parameter, Any], Iterator[tuple[str, str]]]:
    if labelled and over.nodes:
        return _wrong_node
    if not isinstance(over.scale, Categorical):
        return _wrong_number
    return _wrong_choice if over.scale.choices else _gone


def _wrong_node(over: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    """Nodes of the command line in the place of those that the space's labels stand for."""
    if value is not None and not isinstance(value, Mapping):
        remedy = (
            f"Write for example 'choices={{a: null, b: {{_target_: …}}}}', or labels: choices=[{','.join(over.nodes)}]."
        )
        yield f"are nodes or null where they have new labels, as those of {over.name} are", remedy
    yield from _gone(over, value)


def _gone(over: Parameter, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ARG001 - a path takes what its class takes
    for target in _targets_in(value):
        if gone := targets.missing(target):
            public = [name for name in gone[1] if not name.startswith("_")]
            yield f"can be imported (there is no {gone[0]})", did_you_mean(gone[0], public)


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
    kept = {name: one for name, one in base.items() if not f"{study.space[name].path}.".startswith(f"{over.path}.")}
    others = (parameter for parameter in study.space if parameter.name != over.name)
    return study.nodes.plain({**kept, over.name: value}, Space((*others, over)))


def _refuse_lost_path(study: StudySettings, path: str, base: Mapping[str, Value], whose: str) -> None:
    """A path that lies in a node which the champion has another choice of."""
    parent = path.rpartition(".")[0]
    there = dict(_walk("", study.nodes.plain(base, study.space)))
    if "." in parent and not isinstance(there.get(parent), Mapping | list):
        rule = f"is there with {whose}"
        raise ConfigError([Problem("compare.over", rule, path, "Write at=defaults, or compare something else.")])
