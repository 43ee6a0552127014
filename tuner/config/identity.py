"""A round's identity: what changes its result, and nothing else.

Worker counts, paths, log levels and budgets are left out: the same round goes on with more workers, from another
folder, or for longer. The source of the study's own module and data counts, by its syntax tree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.targets import code_of

#: Keys that say where or how fast, not what; the last part of the dotted key decides.
UNESSENTIAL = frozenset({
    # where data lies and how it is fetched
    "root", "data_dir", "cache_dir", "download", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor",
    # what a Trainer shows and where it writes
    "default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "log_every_n_steps",
    "enable_autolog_hparams", "num_sanity_val_steps", "weights_only", "compile", "checkpoint_every_s",
})  # fmt: skip
#: Trainer arguments that are whole nodes and only show or store.
UNESSENTIAL_NODES = ("trainer.logger", "trainer.profiler", "trainer.model_registry")
#: Budgets and waiting rules: a round goes on when they change.
BUDGETS = frozenset({"budget", "trials", "timeout", "trial_timeout"})
#: Shown instead of hashes where code changed.
CODE = "code"


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The essential part of a resolved configuration, flat: dotted key → plain value."""
    parts = {
        key: config.get(key) for key in ("module", "data", "trainer", "optimizer", "schedule", "objective", "space")
    }
    parts["search"] = {key: value for key, value in config["search"].items() if key not in BUDGETS}
    parts["pruner"] = config["pruner"]
    parts["seed"] = config["seed"]
    flat = {key: value for key, value in _flat("", parts) if _is_essential(key)}
    for target in sorted({value for key, value in flat.items() if key.endswith("_target_") and isinstance(value, str)}):
        flat.update({f"{CODE}.{module}": found for module, found in code_of(target).items()})
    return flat


def digest(parts: Mapping[str, Any]) -> str:
    """A hash of flat parts that does not depend on their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def data_version(parts: Mapping[str, Any]) -> str:
    """Fingerprint of a study's data as the configuration knows it: its node and the code that reads it."""
    target = str(parts.get("data._target_", ""))
    code = {key: value for key, value in parts.items() if key.startswith(f"{CODE}.{target.rpartition('.')[0]}")}
    node = {key: value for key, value in parts.items() if key.startswith("data.")}
    return digest({**node, **code})[:12]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one line each, as a user would say it."""
    lines = []
    for key in sorted(set(before) | set(after)):
        if before.get(key) == after.get(key) and (key in before) == (key in after):
            continue
        if key.startswith(f"{CODE}."):
            lines.append(f"the code of {key.removeprefix(f'{CODE}.')}")
        elif key not in before:
            lines.append(f"{key}={after[key]} (new)")
        elif key not in after:
            lines.append(f"{key}={before[key]} (gone)")
        else:
            lines.append(f"{key}: {before[key]} → {after[key]}")
    return lines


def _flat(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix, node


def _is_essential(key: str) -> bool:
    shows = key.startswith(("data.", "trainer.")) and key.rpartition(".")[2] in UNESSENTIAL
    return not shows and not key.startswith(UNESSENTIAL_NODES)
