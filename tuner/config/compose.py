"""Hydra's part: find the files, apply the command line, and turn Hydra's errors into ours."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.config.nodes import ROOTS
from tuner.config.schema import ALLOWED
from tuner.errors import ConfigError, Problem, did_you_mean

GROUPS = ("study", "search", "pruner", "launcher", "store", "trainer")


def shipped_folder() -> Path:
    """The folder `conf/`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(group: str, folders: Sequence[Path]) -> list[str]:
    """Names that a group has in the folders given; `base` files are parts of others."""
    names = {file.stem for folder in folders for file in (folder / group).glob("*.yaml")}
    return sorted(names - {"base"})


def compose_config(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    """The composed configuration, not yet resolved.

    Raises:
        ConfigError: a file, group, key or value that the configuration does not have.
    """
    folders = [shipped_folder()]  # the user's own folder comes first: its files stand before the shipped ones
    if config_dir is not None:
        folder = Path(config_dir).expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(
                [
                    Problem(
                        "--config-dir",
                        "is a folder that exists",
                        config_dir,
                        "Write the folder that has study/NAME.yaml.",
                    )
                ]
            )
        folders.insert(0, folder)
    parsed = _parse(overrides)
    problems = [problem for override in parsed if (problem := _group_problem(override, folders))]
    if problems:
        raise ConfigError(problems)
    grouped = [_line(override) for override in parsed if _is_group(override)]
    base = OmegaConf.to_container(_compose(grouped, folders))
    lines: list[str] = []
    for override in parsed:
        if _is_group(override):
            continue
        line, problem = _checked(override, base)
        lines.append(line)
        if problem:
            problems.append(problem)
    if problems:
        raise ConfigError(problems)
    return _compose([*grouped, *lines], folders)


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            remedy = (
                "Write for example trainer.max_epochs=5; quote values with commas, spaces or braces: 'name=\"a, b\"'."
            )
            problems.append(Problem(text, "is KEY=VALUE", text, remedy))
            continue
        if override.is_sweep_override():
            remedy = f"Give one value; to search over several, write them into the space: +space.NAME='{{kind: categorical, choices: [{_line(override).partition('=')[2]}], path: …}}'."
            problems.append(Problem(override.key_or_group, "has one value", _line(override).partition("=")[2], remedy))
        else:
            parsed.append(override)
    if problems:
        raise ConfigError(problems)
    return parsed


def _is_group(override: Override) -> bool:
    return override.key_or_group.lstrip("+~") in GROUPS and not isinstance(override.value(), Mapping)


def _line(override: Override) -> str:
    return str(override.input_line)


def _group_problem(override: Override, folders: Sequence[Path]) -> Problem | None:
    if not _is_group(override) or override.is_delete():
        return None
    group, value = override.key_or_group, override.value()
    known = choices(group, folders)
    if value is None or str(value) in known:
        return None
    there = ", ".join(known) or "none"
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"Did you mean {group}={near[0]}? " if near else ""
    return Problem(
        group, f"is one of: {there}", value, f"{hint}Yours go into DIR/{group}/NAME.yaml with --config-dir DIR."
    )


def _checked(override: Override, base: Any) -> tuple[str, Problem | None]:
    """The override as Hydra takes it, and what is wrong with its key; `base` is the plain configuration before it.

    Keys that a section knows but its file does not spell out need no `+`.
    """
    key, line = override.key_or_group, _line(override)
    if override.is_add() or override.is_force_add() or key.startswith("hydra."):
        return line, None
    node, parts = base, key.split(".")
    for depth, part in enumerate(parts):
        known = [
            str(name)
            for name in (node if isinstance(node, Mapping) else range(len(node)) if isinstance(node, list) else ())
        ]
        if part not in known:
            place = ".".join(parts[:depth])
            allowed = ALLOWED.get(place, ALLOWED["space.*"] if depth == 2 and parts[0] == "space" else frozenset())
            # Which keys a pruner has depends on its rule or class; they are checked when the whole is read.
            if (part in allowed or place == "pruner") and not override.is_delete():
                return f"++{line}", None
            # Nodes of the user's objects take any argument that their class has, which only the class knows.
            add = f" Write +{line} to add it." if parts[0] in ROOTS and parts[0] != "trainer" and depth else ""
            remedy = did_you_mean(part, {*known, *allowed, *(GROUPS if not depth else ())}) + add
            return line, Problem(key, f"is a key of {place or 'the configuration'}", part, remedy)
        node = node[part] if isinstance(node, Mapping) else node[int(part)]
    return line, None


def _compose(overrides: list[str], folders: Sequence[Path]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        # Hydra's public calls take one folder that has to hold config.yaml, and put others behind it; the user's
        # files have to stand before the shipped ones.
        path = create_config_search_path(f"file://{folders[-1]}")
        for folder in folders[:-1]:
            path.prepend("user", f"file://{folder}", anchor="main")
        version.setbase("1.3")
        Hydra.create_main_hydra2("tuner", path)
        return compose("config", overrides=overrides)
    except HydraException as error:
        raise ConfigError([_as_problem(error)]) from None
    except OmegaConfBaseException as error:
        raise ConfigError([_as_problem(error)]) from None
    except Exception as error:
        # yaml.YAMLError and its kin: the parser's text names file, line and column.
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(
                [Problem("configuration", "is valid YAML", " ".join(str(error).split()), "Mend the file named.")]
            ) from None
        raise
    finally:
        GlobalHydra.instance().clear()


def _as_problem(error: Exception) -> Problem:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ and str(error.__cause__) else ""
    return Problem(
        "configuration",
        "can be composed",
        f"{lines[0] if lines else type(error).__name__}{cause}",
        f"Look into {os.fspath(shipped_folder())} and your --config-dir.",
    )
