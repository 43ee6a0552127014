"""From the words of the command line to `Settings`, or to every problem there is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from tuner.checkpoints import Keep
from tuner.config import targets
from tuner.config.compose import choices, compose_config, shipped_folder
from tuner.config.identity import identity
from tuner.config.nodes import StudyNodes, resolve_problem
from tuner.config.schema import ALLOWED, PRUNER, RAY
from tuner.config.settings import (
    CompareSettings,
    DashboardSettings,
    LauncherSettings,
    LrRangeSettings,
    Objective,
    PrunerSettings,
    RaySettings,
    SearchSettings,
    Settings,
    StoreSettings,
    StudySettings,
    TrainSettings,
)
from tuner.config.space import read_space
from tuner.config.values import Values
from tuner.errors import ConfigError, did_you_mean

DRAWS = ("coarse_to_fine", "tiered", "random", "quasi_random")
#: Those that draw in stages.
STAGED = ("coarse_to_fine", "tiered")
LAST_PORT = 65535
#: Arguments of the Trainer that are nodes, with an example of each.
NODES = {
    "callbacks": "[{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}]",
    "logger": "{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: logs}, true or false",
}
#: A host and a port; an IPv6 address stands in brackets.
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}")
DIRECTIONS = ("minimize", "maximize")
#: What starts the workers.
ENGINES = ("local", "ray")
#: Whose values the commands beside `tune` train with.
AT = ("champion", "defaults")
#: Data of the final training.
SPLITS = ("train+val", "train")


def studies(config_dir: str | None = None) -> list[str]:
    """Names of the studies there are."""
    folders = [shipped_folder(), *([Path(config_dir).expanduser()] if config_dir else [])]
    return choices("study", folders)


def load(overrides: Sequence[str], *, config_dir: str | None = None, needs_study: bool = True) -> Settings:
    """The settings of one call.

    Raises:
        ConfigError: with every problem that can be found without importing the user's code.
    """
    config = compose_config(overrides, config_dir)
    broken = resolve_problem(config)
    if broken:
        raise ConfigError([broken])
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    reader = _Reader(plain, config)
    settings = reader.settings(needs_study=needs_study, known_studies=studies(config_dir))
    if reader.problems:
        raise ConfigError(reader.problems)
    return settings


class _Reader(Values):
    """Reads the sections of one composed configuration."""

    def __init__(self, plain: dict[str, Any], config: DictConfig) -> None:
        super().__init__(plain)
        self.config = config

    def settings(self, *, needs_study: bool, known_studies: list[str]) -> Settings:
        self.check_keys()
        has_study = any(self.plain.get(key) for key in ("name", "module", "data"))
        if needs_study and not has_study:
            self.wrong(
                "study",
                f"is one of: {', '.join(known_studies)}",
                None,
                f"Write study={'digits' if 'digits' in known_studies else 'NAME'}; tuner --help says more.",
            )
        study = self.study() if has_study else None
        keep = Keep(best=self.whole("store.keep_checkpoints"), paused=self.whole("store.keep_paused"))
        store = StoreSettings(self.text("store.url"), self.text("store.folder"), keep)
        seed = self.whole("seed", at_least=0)
        return Settings(
            study=study,
            search=self.search(),
            pruner=self.pruner(),
            launcher=self.launcher(),
            store=store,
            dashboard=DashboardSettings(self.text("dashboard.host"), self.port()),
            compare=self.compare(),
            lr_range=self.lr_range(),
            train=TrainSettings(self.one_of("train.split", SPLITS) or SPLITS[0], *self.at_and_folder("train")),
            seed=seed,
            identity=identity(self.plain) if study and not self.problems else {},
        )

    def check_keys(self) -> None:
        for place, allowed in ALLOWED.items():
            node = self.plain if not place else self.plain.get(place)
            if place.endswith("*") or not isinstance(node, Mapping):
                continue
            for key in node:
                if key not in allowed:
                    full = f"{place}.{key}" if place else str(key)
                    self.wrong(
                        full,
                        f"is a key of {place or 'the configuration'}",
                        node[key] if not isinstance(node[key], Mapping) else key,
                        did_you_mean(str(key), allowed),
                    )
        for key in (
            "objective",
            "search",
            "pruner",
            "launcher",
            "store",
            "trainer",
            "dashboard",
            "compare",
            "lr_range",
            "train",
        ):
            if not isinstance(self.plain.get(key), Mapping):
                self.wrong(key, "is a mapping", self.plain.get(key), "Remove the line that overwrites it.")
                self.plain[key] = {}

    # -- sections -----------------------------------------------------------------------------------------------

    def study(self) -> StudySettings:
        name = self.plain.get("name")
        if not isinstance(name, str) or not name or not name.replace("-", "_").replace("_", "a").isalnum():
            self.wrong("name", "is a name of letters, digits, - and _", name, "Write name: NAME into the study file.")
            name = "?"
        self.check_target("module", required=True)
        for node in ("data", "optimizer", "schedule"):  # a module may bring each of them itself
            self.check_target(node, required=False)
        self.check_trainer_targets()
        epochs = self.optional_whole("trainer.max_epochs", 1)
        if epochs is None and not any(problem.key == "trainer.max_epochs" for problem in self.problems):
            self.wrong(
                "trainer.max_epochs",
                "is the number of epochs of a full training",
                None,
                "Write trainer.max_epochs=10, or into the study file: trainer: {max_epochs: 10}.",
            )
        space = read_space(self.plain.get("space"), self.config, self.problems)
        fit_batch = self.flag("trainer.fit_batch", default=False)
        return StudySettings(name, self.objective(), space, epochs or 1, StudyNodes(self.config), fit_batch=fit_batch)

    def objective(self) -> Objective:
        node = self.plain["objective"]
        metric, direction = node.get("metric"), node.get("direction")
        if not isinstance(metric, str) or not metric:
            self.wrong(
                "objective.metric",
                "is a metric that the module logs",
                metric,
                "Write for example objective.metric=val/acc.",
            )
        if direction not in DIRECTIONS:
            self.wrong(
                "objective.direction", "is minimize or maximize", direction, did_you_mean(str(direction), DIRECTIONS)
            )
        checked: Literal["minimize", "maximize"] = "maximize" if direction == "maximize" else "minimize"
        return Objective(str(metric), checked)

    def search(self) -> SearchSettings:
        node = self.plain["search"]
        draws = node.get("draws")
        if isinstance(draws, Mapping):
            self.check_target("search.draws", required=True)
        elif draws not in DRAWS:
            self.wrong(
                "search.draws",
                f"is one of {', '.join(DRAWS)}, or a node of an Optuna sampler",
                draws,
                did_you_mean(str(draws), DRAWS),
            )
        budget, timeout = self.optional_number("search.budget"), self.optional_number("search.timeout")
        trials = self.optional_whole("search.trials", 1)
        given = {key for key in ("budget", "trials", "timeout") if node.get(key) is not None}
        if not given:
            self.wrong(
                "search.budget",
                "is given, or search.trials, or search.timeout",
                None,
                "A round has to end: write for example search.budget=16 (full trainings' worth of epochs).",
            )
        for option in ("barrier", "expand"):
            if node.get(option) is True and draws not in STAGED:
                rule, remedy = f"is for searches in stages: {', '.join(STAGED)}", f"Write search.{option}=false, or"
                self.wrong(f"search.{option}", rule, True, f"{remedy} search=coarse_to_fine.")
        return SearchSettings(
            name=draws if isinstance(draws, str) else str((draws or {}).get("_target_", "")).rpartition(".")[2],
            draws=draws if isinstance(draws, str | Mapping) else "",
            budget=budget,
            trials=trials,
            timeout_s=timeout,
            trial_timeout_s=self.optional_number("search.trial_timeout"),
            coarse=self.whole("search.coarse", 1, 9),
            elites=self.whole("search.elites", 2, 4),
            screen=self.flag("search.screen", default=True),
            expand=self.flag("search.expand", default=False),
            barrier=self.flag("search.barrier", default=False),
            lr_range=self.flag("search.lr_range", default=False),
        )

    def pruner(self) -> PrunerSettings:
        node = self.plain["pruner"]
        if "_target_" in node:
            self.check_target("pruner", required=True)
            rule = {key: value for key, value in node.items() if key not in PRUNER["promote"]}
            return PrunerSettings(str(node["_target_"]).rpartition(".")[2], rule)
        rule = node.get("rule")
        if rule not in PRUNER:
            self.wrong(
                "pruner.rule",
                f"is one of {', '.join(PRUNER)}, or the pruner is a node with _target_",
                rule,
                did_you_mean(str(rule), PRUNER),
            )
            return PrunerSettings("none", "none")
        for key in node:
            if key not in PRUNER[rule]:
                self.wrong(
                    f"pruner.{key}", f"is a key of pruner={rule}", node[key], did_you_mean(str(key), PRUNER[rule])
                )
        first = node.get("first_rung", 0.125)
        if isinstance(first, bool) or not isinstance(first, int | float) or not 0 < first < 1:
            self.wrong(
                "pruner.first_rung", "is a share of a full training, between 0 and 1", first, "Write for example 0.125."
            )
            first = 0.125
        return PrunerSettings(
            rule, rule, self.whole("pruner.eta", 2, 2), float(first), self.flag("pruner.baseline", default=True)
        )

    def compare(self) -> CompareSettings:
        over, choices = self.at("compare.over"), self.at("compare.choices")
        if over is not None and not isinstance(over, str):
            self.wrong("compare.over", "is a parameter or a path", over, "Write for example over=schedule.")
            over = None
        if choices is not None and (not isinstance(choices, list | Mapping) or len(choices) < 2):
            remedy = "Write for example 'choices=[true,false]', or with labels 'choices={a: null, b: {_target_: …}}'."
            self.wrong("compare.choices", "is a list of at least two, or a mapping of their labels", choices, remedy)
            choices = None
        target = self.at("compare.target")
        if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
            self.wrong("compare.target", "is a value of the objective", target, "Write for example target=0.9.")
            target = None
        return CompareSettings(
            over,
            tuple(choices) if isinstance(choices, list) else choices,
            self.whole("compare.seeds", 1, 5),
            None if target is None else float(target),
            *self.at_and_folder("compare"),
        )

    def lr_range(self) -> LrRangeSettings:
        low, high = self.optional_number("lr_range.low"), self.optional_number("lr_range.high")
        if low is not None and high is not None and low >= high:
            self.wrong("lr_range.low", f"is below lr_range.high={high:g}", low, "Write for example low=1e-6 high=1.")
        return LrRangeSettings(
            low or 1e-7, high or 10.0, self.whole("lr_range.steps", 20, 200), *self.at_and_folder("lr_range")
        )

    def at_and_folder(self, section: str) -> tuple[str | None, str | None]:
        folder = self.at(f"{section}.folder")
        return self.one_of(f"{section}.at", AT), None if folder is None else self.text(f"{section}.folder")

    # -- values -------------------------------------------------------------------------------------------------

    def check_target(self, key: str, *, required: bool) -> None:
        node = self.at(key)
        if node is None and not required:
            return
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str) or "." not in target:
            self.wrong(
                f"{key}._target_",
                "is the dotted path of a class or function",
                target,
                "Write for example studies.digits.MLP.",
            )
            return
        for inner, nested in _nested_targets(key, node):
            self.check_importable(inner, nested)

    def check_importable(self, key: str, target: str) -> None:
        gone = targets.missing(target)
        if gone is not None:
            name, known = gone
            public = [name for name in known if not name.startswith("_")]
            remedy = (
                did_you_mean(name, public)
                if public
                else "Is its folder the current one, or on PYTHONPATH, and the package installed?"
            )
            self.wrong(key, f"can be imported (there is no {name})", target, remedy)

    def check_trainer_targets(self) -> None:
        for key in ("callbacks", "logger", "profiler", "strategy", "plugins"):
            for inner, nested in _nested_targets(f"trainer.{key}", self.at(f"trainer.{key}")):
                self.check_importable(inner, nested)
        for key, example in NODES.items():
            value = self.at(f"trainer.{key}")
            if isinstance(value, Mapping) and "_target_" not in value:
                value = list(value.values())
            for node in value if isinstance(value, list) else [value]:
                plain = node is None or (key == "logger" and isinstance(node, bool))
                if not plain and not (isinstance(node, Mapping) and "_target_" in node):
                    self.wrong(f"trainer.{key}", "has nodes with _target_", node, f"Write for example {example}.")
        self.optional_number("trainer.checkpoint_every_s")
        devices, nodes = self.at("trainer.devices"), self.at("trainer.num_nodes")
        count = len(devices) if isinstance(devices, list) else devices
        if count not in (None, 1, "1", "auto") or nodes not in (None, 1):
            key = "trainer.devices" if nodes in (None, 1) else "trainer.num_nodes"
            self.wrong(
                key,
                "is one device for each trial",
                devices,
                "Remove it; launcher.devices_per_trial says how many devices train one trial.",
            )

    def launcher(self) -> LauncherSettings:
        devices = self.at("launcher.devices_per_trial")
        if isinstance(devices, str) and devices != "all":
            self.wrong(
                "launcher.devices_per_trial", "is a whole number of at least 1, or all", devices, "Write one of them."
            )
            devices = "all"
        return LauncherSettings(
            workers=self.optional_whole("launcher.workers", 1),
            max_retries=self.whole("launcher.max_retries", 0),
            devices_per_trial="all" if devices == "all" else self.whole("launcher.devices_per_trial", 1),
            trials_per_device=self.whole("launcher.trials_per_device", 1),
            silent_after_s=self.optional_number("launcher.silent_after_s"),
            takeover=self.flag("launcher.takeover", default=False),
            ray=self.ray(),
        )

    def ray(self) -> RaySettings | None:
        engine = self.at("launcher.engine")
        if engine not in (None, "local"):
            self.one_of("launcher.engine", ENGINES)
        else:
            for key in sorted(RAY & self.plain["launcher"].keys()):
                rule, remedy = "is a key of launcher=ray", "Write launcher=ray as well."
                self.wrong(f"launcher.{key}", rule, self.at(f"launcher.{key}"), remedy)
        if engine != "ray":
            return None
        runtime_env = self.at("launcher.runtime_env")
        if runtime_env is not None and not isinstance(runtime_env, Mapping):
            rule, remedy = "is a mapping of Ray's, or null", "Write for example '{working_dir: .}'."
            self.wrong("launcher.runtime_env", rule, runtime_env, remedy)
        return RaySettings(
            address=None if self.at("launcher.address") is None else self.address(),
            max_groups=self.optional_whole("launcher.max_groups", 1),
            cpus_per_rank=self.optional_whole("launcher.cpus_per_rank", 1),
            runtime_env=runtime_env,
        )

    def address(self) -> str:
        address = self.text("launcher.address")
        place = address.removeprefix("ray://")
        if address and address != "auto" and not _PLACE.fullmatch(place):
            rule = "is auto, HOST:PORT or ray://HOST:PORT, or null for a Ray instance of its own"
            self.wrong("launcher.address", rule, address, "Write for example launcher.address=head.example:6379.")
        return address

    def port(self) -> int:
        port = self.whole("dashboard.port")
        if port > LAST_PORT:
            self.wrong(
                "dashboard.port",
                f"is a port, at most {LAST_PORT}",
                port,
                "Write dashboard.port=8080, or 0 for any free one.",
            )
        return port


def _nested_targets(key: str, node: Any) -> list[tuple[str, str]]:
    """Every `_target_` below a node, with its dotted key."""
    found: list[tuple[str, str]] = []
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in items:
        if name == "_target_" and isinstance(child, str):
            found.append((f"{key}._target_", child))
        else:
            found.extend(_nested_targets(f"{key}.{name}", child))
    return found
