"""Search-space entries of a configuration, checked: every problem is collected, none stops the reading."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tuner.config.nodes import ROOTS, read, write
from tuner.errors import Problem, did_you_mean
from tuner.space import (
    Categorical,
    Int,
    LogInt,
    LogUniform,
    OneMinusPow10,
    Parameter,
    Scale,
    ScaleWith,
    Space,
    Uniform,
    Value,
)

RANGES = ("uniform", "log_uniform", "int", "log_int", "one_minus_pow10")
KINDS = (*RANGES, "categorical")
OPTIONS = ("kind", "path", "low", "high", "step", "choices", "tier", "when", "scale_with", "limit", "memory")
TIERS = (1, 2, 3)
#: What the round's budget, its workers and its files depend on.
FIXED_PATHS = frozenset(
    f"trainer.{name}"
    for name in (
        *("max_epochs", "max_steps", "max_time", "accelerator", "devices", "num_nodes", "strategy"),
        *("callbacks", "logger", "default_root_dir", "enable_checkpointing", "weights_only"),
    )
)
SCALING_RULES = ("linear", "sqrt")
#: A parameter whose path ends in one of these needs more memory when it is larger, unless `memory` says otherwise.
MEMORY_WORDS = ("batch_size", "width", "hidden", "units", "layers", "channels", "depth", "dim")


def read_space(node: Any, config: DictConfig, problems: list[Problem]) -> Space:
    """The space of a plain `space` node; `config` is what the paths point into."""
    if not isinstance(node, Mapping) or not node:
        problems.append(
            Problem(
                "space",
                "has at least one parameter",
                node,
                "Write one, for example space.lr with kind, low, high and path.",
            )
        )
        return Space(())
    entries = [_Entry(str(name), entry, problems) for name, entry in node.items()]
    before = len(problems)
    # Nodes of labelled choices stay unresolved: an interpolation in them follows a value that is tuned.
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    parameters = [entry.parameter(unresolved["space"][entry.name]) for entry in entries]
    # A condition on a parameter whose own range is wrong is not judged by that range.
    named = {entry.name: parameter for entry, parameter in zip(entries, parameters, strict=True) if entry.good}
    for parameter in parameters:
        _check_condition(parameter, named, set(map(str, node)), problems)
        _check_scaling(parameter, named, set(map(str, node)), problems)
    _check_paths([parameter for parameter in parameters if parameter.path], named, config, problems)
    if len(problems) > before:
        return Space(())
    try:
        return Space.of(parameters)
    except ValueError as error:
        problems.append(
            Problem("space", "has no circle of conditions", str(error), "Remove one `when` or `scale_with`.")
        )
        return Space(())


class _Entry:
    """One entry of the space while it is read."""

    def __init__(self, name: str, node: Any, problems: list[Problem]) -> None:
        self.name, self.key, self.problems = name, f"space.{name}", problems
        self.node: Mapping[str, Any] = node if isinstance(node, Mapping) else {}
        self.good = True
        if not isinstance(node, Mapping):
            self.wrong(
                "", "is a mapping with kind, path and a range", node, "See the README's section on search spaces."
            )

    def wrong(self, option: str, rule: str, value: Any, remedy: str) -> None:
        self.good = False
        self.problems.append(Problem(f"{self.key}.{option}" if option else self.key, rule, value, remedy))

    def parameter(self, unresolved: Any) -> Parameter:
        """The parameter; where its range is wrong, one with a stand-in for it, so that its path is checked as well."""
        if not self.name.replace("_", "a").isalnum() or not self.name.isascii():
            self.wrong(
                "", "has a name of letters, digits and _", self.name, "The command line could not name it otherwise."
            )
        for option in self.node:
            if option not in OPTIONS:
                self.wrong(
                    str(option), "is an option of a parameter", self.node[option], did_you_mean(str(option), OPTIONS)
                )
        kind = self.node.get("kind")
        scale: Scale | None = None
        if kind not in KINDS:
            self.wrong("kind", "is a kind of parameter", kind, did_you_mean(str(kind), KINDS))
        elif kind == "categorical":
            scale = self.categorical()
        else:
            scale = self.range(str(kind))
        path, tier, when, scaling = self.path(), self.tier(), self.when(), self.scaling()
        memory = self.node.get("memory", any(word in path.rpartition(".")[2] for word in MEMORY_WORDS))
        if not isinstance(memory, bool):
            self.wrong("memory", "is true or false", memory, "Write true where a larger value needs more memory.")
        choices = self.node.get("choices")
        if isinstance(unresolved, Mapping) and isinstance(unresolved.get("choices"), Mapping):
            choices = unresolved["choices"]
        nodes = {str(label): node for label, node in choices.items()} if isinstance(choices, Mapping) else {}
        return Parameter(self.name, scale or Uniform(0.0, 1.0), path, tier, when, scaling, nodes, memory=bool(memory))

    # -- the options, one by one --------------------------------------------------------------------------------

    def range(self, kind: str) -> Scale | None:
        whole = kind in ("int", "log_int")
        low, high = self.number("low", whole=whole), self.number("high", whole=whole)
        limit = self.limit(whole=whole)
        step = self.node.get("step", 1)
        for option in ("choices", *(() if kind == "int" else ("step",))):
            if option in self.node:
                self.wrong(option, f"does not go with kind {kind}", self.node[option], "Remove it, or change the kind.")
        if low is None or high is None:
            return None
        known = len(self.problems)
        self.check_order(low, high, limit)
        for option, value in (("low", low), ("high", high), *(("limit", bound) for bound in limit or ())):
            self.check_bound(kind, option, value)
        if kind == "int" and (not isinstance(step, int) or isinstance(step, bool) or step < 1 or (high - low) % step):
            self.wrong("step", "is a whole number that divides high − low", step, "Change step, low or high.")
        if len(self.problems) > known:
            return None
        if whole:
            bounds = (int(limit[0]), int(limit[1])) if limit else None
            return Int(int(low), int(high), bounds, step) if kind == "int" else LogInt(int(low), int(high), bounds)
        if kind == "uniform":
            return Uniform(low, high, limit)
        return LogUniform(low, high, limit) if kind == "log_uniform" else OneMinusPow10(low, high, limit)

    def check_order(self, low: float, high: float, limit: tuple[float, float] | None) -> None:
        if low >= high:
            swapped = f"Write low={high:g} high={low:g}?"
            same = "Widen the range, or fix the value at its path and remove the parameter."
            self.wrong("low", "is below high", f"low={low:g}, high={high:g}", swapped if low > high else same)
        elif limit and not (limit[0] <= low and high <= limit[1]):
            remedy = f"Write [LOW, HIGH] with LOW ≤ {low:g} and HIGH ≥ {high:g}."
            self.wrong("limit", "encloses the range", list(limit), remedy)

    def check_bound(self, kind: str, option: str, value: float) -> None:
        if kind in ("log_uniform", "log_int") and value <= 0:
            remedy = "Write a small positive number such as 1.0e-6, or a kind that is not logarithmic."
            self.wrong(option, "is above 0 on a log scale", value, remedy)
        if kind == "one_minus_pow10" and not 0 < value < 1:
            remedy = "β = 1 − 10^r reaches 0.9, 0.99, 0.999, but never 1: write for example low: 0.9, high: 0.999."
            self.wrong(option, "lies between 0 and 1, both excluded", value, remedy)

    def number(self, option: str, *, whole: bool) -> float | None:
        value = self.node.get(option)
        if isinstance(value, str):  # YAML reads 1e-4, without the point, as text
            with contextlib.suppress(ValueError):
                value = float(value)
        return self.checked(option, value, whole=whole)

    def checked(self, option: str, value: Any, *, whole: bool) -> float | None:
        if value is None:
            self.wrong(option, "is given", value, f"Write {self.key}.{option}=NUMBER.")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.wrong(option, "is a finite number", value, "Write a number.")
        elif whole and value != int(value):
            self.wrong(option, "is a whole number", value, f"Write {round(value)}, or kind: {'uniform'}.")
        else:
            return int(value) if whole else float(value)
        return None

    def limit(self, *, whole: bool) -> tuple[float, float] | None:
        limit = self.node.get("limit")
        if limit is None:
            return None
        if not isinstance(limit, list) or len(limit) != 2:
            self.wrong("limit", "is a list of two numbers", limit, "Write [LOW, HIGH]: how far search.expand may go.")
            return None
        low, high = (self.checked("limit", bound, whole=whole) for bound in limit)
        return None if low is None or high is None else (low, high)

    def categorical(self) -> Scale | None:
        choices = self.node.get("choices")
        for option in ("low", "high", "step", "limit"):
            if option in self.node:
                self.wrong(
                    option, "does not go with kind categorical", self.node[option], "Remove it, or change the kind."
                )
        if not isinstance(choices, list | Mapping) or not choices:
            self.wrong(
                "choices",
                "is a list of values, or a mapping of labels to nodes",
                choices,
                "Write for example [32, 64, 128].",
            )
            return None
        values = [str(label) for label in choices] if isinstance(choices, Mapping) else list(choices)
        if any(isinstance(value, list | Mapping) for value in values):
            self.wrong("choices", "holds plain values", choices, "Give nodes as a mapping: {label: {_target_: …}, …}.")
            return None
        if len({(type(value), value) for value in values}) < len(values):
            self.wrong("choices", "names each value once", values, "Remove the repeated one.")
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            values.sort()  # numeric choices are ordered, whatever the order they are written in
        return Categorical(tuple(values))

    def path(self) -> str:
        path = self.node.get("path")
        if not isinstance(path, str) or not _is_path(path):
            self.wrong(
                "path",
                f"is a key below one of {', '.join(ROOTS)}, or the whole optimizer or schedule",
                path,
                "Write the key that the command line would use, for example module.optimizer.lr.",
            )
            return ""
        if path in FIXED_PATHS:
            remedy = "It is the same for every trial: set it once, and remove the parameter."
            self.wrong("path", "is not what the round itself is made of", path, remedy)
            return ""
        return path

    def tier(self) -> int:
        tier = self.node.get("tier", 1)
        if tier not in TIERS or isinstance(tier, bool):
            self.wrong(
                "tier",
                "is 1, 2 or 3",
                tier,
                "1: learning rate; 2: momentum, batch size, hidden units; 3: layers, decay.",
            )
            return 1
        return int(tier)

    def when(self) -> dict[str, tuple[Value, ...]]:
        when = self.node.get("when") or {}
        if not isinstance(when, Mapping):
            self.wrong("when", "maps a parameter to its value or values", when, "Write for example {schedule: step}.")
            return {}
        return {str(name): tuple(value) if isinstance(value, list) else (value,) for name, value in when.items()}

    def scaling(self) -> ScaleWith | None:
        node = self.node.get("scale_with")
        if node in (None, "none"):
            return None
        example = "Write {parameter: batch_size, reference: 128, rule: linear}, or none."
        if not isinstance(node, Mapping) or set(node) - {"parameter", "reference", "rule"} or "parameter" not in node:
            self.wrong("scale_with", "has parameter, reference and rule", node, example)
            return None
        rule, reference = node.get("rule", "linear"), node.get("reference")
        if rule == "none":
            return None
        if rule not in SCALING_RULES:
            self.wrong(
                "scale_with.rule", "is linear, sqrt or none", rule, did_you_mean(str(rule), (*SCALING_RULES, "none"))
            )
        if isinstance(reference, bool) or not isinstance(reference, int | float) or reference <= 0:
            self.wrong("scale_with.reference", "is a positive number", reference, example)
            return None
        return ScaleWith(str(node["parameter"]), float(reference), str(rule))


def _check_condition(
    parameter: Parameter, named: Mapping[str, Parameter], all_names: set[str], problems: list[Problem]
) -> None:
    for name, allowed in parameter.when.items():
        key = f"space.{parameter.name}.when"
        if name not in all_names or name == parameter.name:
            problems.append(
                Problem(
                    key, "names another parameter of the space", name, did_you_mean(name, all_names - {parameter.name})
                )
            )
        elif name in named:
            scale = named[name].scale
            for value in allowed:
                if not scale.contains(value):
                    what = ", ".join(map(str, scale.choices)) if isinstance(scale, Categorical) else "its range"
                    problems.append(Problem(key, f"is a value that {name} can have", value, f"{name} has {what}."))


def _check_scaling(
    parameter: Parameter, named: Mapping[str, Parameter], all_names: set[str], problems: list[Problem]
) -> None:
    rule = parameter.scale_with
    if rule is None:
        return
    key = f"space.{parameter.name}.scale_with"
    if rule.parameter not in all_names or rule.parameter == parameter.name:
        problems.append(
            Problem(
                f"{key}.parameter",
                "names another parameter of the space",
                rule.parameter,
                did_you_mean(rule.parameter, all_names - {parameter.name}),
            )
        )
    elif rule.parameter in named:
        other = named[rule.parameter]
        numeric = other.scale.ordered or (
            isinstance(other.scale, Categorical) and all(isinstance(c, int | float) for c in other.scale.choices)
        )
        if not numeric or other.nodes:
            problems.append(Problem(f"{key}.parameter", "is numeric", rule.parameter, "Scale with a batch size."))
    if isinstance(parameter.scale, Categorical | OneMinusPow10):
        problems.append(
            Problem(key, "goes with a uniform, log_uniform, int or log_int parameter", rule.parameter, "Remove it.")
        )


def _check_paths(
    parameters: list[Parameter], named: Mapping[str, Parameter], config: DictConfig, problems: list[Problem]
) -> None:
    seen: dict[str, Parameter] = {}
    for parameter in sorted(parameters, key=lambda one: one.path.count(".")):
        other = seen.setdefault(parameter.path, parameter)
        if other is not parameter and not _exclusive(parameter, other):
            problems.append(
                Problem(
                    f"space.{parameter.name}.path",
                    "is the path of one parameter",
                    parameter.path,
                    f"space.{other.name} has it too; remove one, or add a `when` to both.",
                )
            )
        _check_path(parameter, named, config, problems)


def _check_path(
    parameter: Parameter, named: Mapping[str, Parameter], config: DictConfig, problems: list[Problem]
) -> None:
    """A path has to exist with each label of the choices above it that the parameter's `when` lets through."""
    above = [one for one in named.values() if one.nodes and (one.name in parameter.when or _is_below(parameter, one))]
    labels = [[str(label) for label in parameter.when.get(one.name, tuple(one.nodes))] for one in above]
    good, failed = list[dict[str, str]](), list[LookupError]()
    for chosen in itertools.product(*labels):
        names = dict(zip((one.name for one in above), chosen, strict=True))
        try:
            read(_with_labels(names, named, config), parameter.path)
            good.append(names)
        except LookupError as error:
            failed.append(error)
    key = f"space.{parameter.name}.path"
    if failed and good:
        only = {one.name: sorted({names[one.name] for names in good}) for one in above if _is_below(parameter, one)}
        when = ", ".join(f"{name}: [{', '.join(words)}]" for name, words in only.items())
        rule = "is there with every choice of the node that it lies in"
        problems.append(Problem(key, rule, parameter.path, f"Write when: {{{when}}}."))
    elif failed:
        found, known = failed[0].args
        wrong = parameter.path[len(found) + 1 if found else 0 :].partition(".")[0]
        rule = f"is a key of the study ({found or 'it'} has no {wrong})"
        problems.append(Problem(key, rule, parameter.path, did_you_mean(wrong, known)))


def _is_below(parameter: Parameter, other: Parameter) -> bool:
    return parameter.path.startswith(f"{other.path}.")


def _exclusive(one: Parameter, other: Parameter) -> bool:
    return any(not set(allowed) & set(other.when[name]) for name, allowed in one.when.items() if name in other.when)


def _with_labels(names: Mapping[str, str], named: Mapping[str, Parameter], config: DictConfig) -> DictConfig:
    """The configuration with the nodes of some labels in their places."""
    if not names:
        return config
    changed: DictConfig = copy.deepcopy(config)
    for name, label in sorted(names.items(), key=lambda pair: named[pair[0]].path.count(".")):
        if label in named[name].nodes:
            # Where the parent's own path is wrong that is told where it stands.
            with contextlib.suppress(KeyError, IndexError, AttributeError, TypeError):
                write(changed, named[name].path, named[name].nodes[label])
    return changed


def _is_path(path: str) -> bool:
    """A key below one of the roots; the optimizer and the schedule may be choices as a whole."""
    root, _, rest = path.partition(".")
    return root in ROOTS and (bool(rest) or root in ("optimizer", "schedule"))
