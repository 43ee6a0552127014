"""The nodes of a study that build the user's own objects, and how a trial's values are written into them.

They stay unresolved until a trial's values are in, so that an interpolation such as `${module.width}` follows a width
that is tuned.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.errors import Problem
from tuner.space import Parameter, Space, Value

#: Parts of a configuration that a trial's training sees; a parameter's path starts with one of them.
ROOTS = ("module", "data", "trainer", "optimizer", "schedule")

#: Texts that need no quotes in an override: words and dotted paths that YAML reads as nothing else.
_PLAIN = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)$)[A-Za-z_][\w./-]*", re.IGNORECASE)
#: How OmegaConf's `oc.env` says that there is no such variable.
_UNSET = re.compile(r"Environment variable '(?P<name>[^']+)' not found")


class StudyNodes:
    """The nodes below `ROOTS` of one study, as composed. Immutable from outside."""

    def __init__(self, config: DictConfig) -> None:
        self._config = config

    def plain(self, values: Mapping[str, Value] | None = None, space: Space | None = None) -> dict[str, Any]:
        """The nodes as plain containers, resolved, with `values` (effective ones) written to their paths.

        A labelled choice replaces the whole node at its path; paths into that node are written after it.
        """
        config = copy.deepcopy(self._config)
        for parameter in _outermost_first(space or Space(()), values or {}):
            value = (values or {})[parameter.name]
            write(config, parameter.path, parameter.nodes[str(value)] if parameter.nodes else value)
        resolved = OmegaConf.to_container(config, resolve=True)
        return {root: resolved[root] for root in ROOTS}  # type: ignore[index, call-overload]

    def overrides(self, values: Mapping[str, Value], space: Space) -> list[str]:
        """Overrides of the command line that give these nodes: `path=value`, in an order that can be pasted.

        A labelled choice takes the place of the node that is there: Hydra would merge the two, so that one goes first.
        """
        lines: list[str] = []
        config = copy.deepcopy(self._config)
        for parameter in _outermost_first(space, values):
            value = values[parameter.name]
            before = read(config, parameter.path)
            node = parameter.nodes[str(value)] if parameter.nodes else value
            write(config, parameter.path, node)
            if not parameter.nodes:
                lines.append(f"{parameter.path}={_quoted(value)}")
            elif read(config, parameter.path) != before:
                lines += [f"~{parameter.path}", f"+{parameter.path}={_quoted(node)}"]
        return lines

    def own_value(self, parameter: Parameter, space: Space) -> Value:
        """The study's own value of a parameter, a label for labelled choices.

        A label stands for the study's node if they differ at most in what other parameters write into it.

        Raises:
            LookupError: the study has no such value: nothing at the path, or a node that no label stands for.
        """
        value = read(self._config, parameter.path)
        if not parameter.nodes:
            return value
        for label, node in parameter.nodes.items():
            config = copy.deepcopy(self._config)
            write(config, parameter.path, node)
            for other in space:
                if other.path.startswith(f"{parameter.path}."):
                    with contextlib.suppress(LookupError):
                        own = read(self._config, other.path)
                        read(config, other.path)
                        write(config, other.path, own)
            if read(config, parameter.path) == value:
                return label
        raise LookupError(f"{parameter.path} is none of the labelled choices")


def _quoted(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if not _PLAIN.fullmatch(value) else value
    return repr(value)


def _outermost_first(space: Space, values: Mapping[str, Value]) -> list[Parameter]:
    # Shorter paths first: a labelled choice puts the node there that a longer path writes into.
    return sorted((space[name] for name in values), key=lambda parameter: parameter.path.count("."))


def keys_of(path: str) -> list[str]:
    return path.split(".")


def read(config: DictConfig, path: str) -> Any:
    """The plain value at a path.

    Raises:
        LookupError: there is nothing; its arguments are the part of the path that was found and the keys there.
    """
    node: Any = config
    for depth, key in enumerate(keys_of(path)):
        known = _children(node)
        if key not in known:
            raise LookupError(".".join(keys_of(path)[:depth]), tuple(known))
        node = node[int(key)] if isinstance(node, ListConfig) else node[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _children(node: Any) -> list[str]:
    if isinstance(node, DictConfig) and not node._is_none():  # noqa: SLF001 - the only way to tell a null node
        return [str(key) for key in node]
    if isinstance(node, ListConfig) and not node._is_none():  # noqa: SLF001 - likewise
        return [str(index) for index in range(len(node))]
    return []


def write(config: DictConfig, path: str, value: Any) -> None:
    """Put a value or a node to a path that exists."""
    *parents, last = keys_of(path)
    node: Any = config
    for key in parents:
        node = node[int(key)] if isinstance(node, ListConfig) else node[key]
    OmegaConf.set_struct(config, False)
    if isinstance(node, ListConfig):
        node[int(last)] = value
    else:
        node[last] = OmegaConf.create(value) if isinstance(value, dict | list) else value


def resolve_problem(config: DictConfig) -> Problem | None:
    """What an interpolation cannot be resolved to; None when all can."""
    try:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        key = str(error.full_key or "configuration")
        if unset := _UNSET.search(text):
            name = unset["name"]
            remedy = f"Write export {name}=VALUE in the shell first, or {key}=VALUE on the command line."
            return Problem(key, f"comes from the environment variable {name}", "not set", remedy)
        return Problem(key, "has values that can be resolved", text, "Give the value, or mend the interpolation.")
    return None
