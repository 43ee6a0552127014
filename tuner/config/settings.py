"""What a configuration says, checked and frozen: nothing of Hydra is left in it but the nodes of the user's objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tuner.checkpoints import Keep
from tuner.config.nodes import StudyNodes
from tuner.space import Space


@dataclass(frozen=True)
class Objective:
    """The metric, a key of `trainer.callback_metrics`, and which way is better."""

    metric: str
    direction: Literal["minimize", "maximize"]

    def cost(self, value: float) -> float:
        """The value as the search sees it: lower is better."""
        return -value if self.direction == "maximize" else value

    def is_better(self, value: float, than: float | None) -> bool:
        return than is None or self.cost(value) < self.cost(than)


@dataclass(frozen=True)
class SearchSettings:
    """How configurations are drawn, and the budgets of the round.

    Attributes:
        name: choice of the group `search`, for people.
        draws: one of tuner's own rules, or a node of an Optuna sampler.
        budget: full trainings' worth of epochs, or None.
        trials: configurations drawn at most, or None.
        timeout_s: seconds of the round over all calls, or None.
        trial_timeout_s: seconds of one trial, or None.
    """

    name: str
    draws: str | Mapping[str, Any]
    budget: float | None
    trials: int | None
    timeout_s: float | None
    trial_timeout_s: float | None
    coarse: int = 9
    elites: int = 4
    screen: bool = True
    expand: bool = False
    barrier: bool = False
    lr_range: bool = False


@dataclass(frozen=True)
class PrunerSettings:
    """Which trials go on: `promote`, `none`, or the node of an Optuna pruner.

    Attributes:
        name: short, for people.
        rule: "promote", "none", or the node.
        eta, first_rung: where the rungs are, as in `rungs_for`.
        baseline: whether the study's own values are trained in full, whatever they show at the rungs, where that is at most
            an eighth of the budget of epochs.
    """

    name: str
    rule: str | Mapping[str, Any]
    eta: int = 2
    first_rung: float = 0.125
    baseline: bool = True


@dataclass(frozen=True)
class RaySettings:
    """The Ray cluster that workers run on.

    Attributes:
        address: `auto`, `host:port` or `ray://host:port`; None for a Ray instance of its own on this machine.
        max_groups: the most that the groups grow to with the cluster, or None.
        cpus_per_rank: CPU cores asked for with each rank; None for one where there are no GPUs, and none beside a GPU.
        runtime_env: Ray's runtime environment of the workers, as it is; None for that of the nodes.
    """

    address: str | None = None
    max_groups: int | None = None
    cpus_per_rank: int | None = None
    runtime_env: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LauncherSettings:
    """The worker groups, and what is borne from them.

    Attributes:
        workers: groups at most, or None for as many as the devices hold.
        max_retries: times that a trial whose worker was lost is taken up again.
        devices_per_trial: ranks of a group, or all devices in one group.
        trials_per_device: groups that share each device.
        silent_after_s: a worker that sends nothing for so long is lost; None for never.
        takeover: take the round from the controller that holds it.
        ray: where workers run on Ray; None for processes of this machine.
    """

    workers: int | None
    max_retries: int
    devices_per_trial: int | Literal["all"] = 1
    trials_per_device: int = 1
    silent_after_s: float | None = None
    takeover: bool = False
    ray: RaySettings | None = None


@dataclass(frozen=True)
class StoreSettings:
    """The study database, and the folder of checkpoints and logs."""

    url: str = field(repr=False)  # may hold a password
    folder: str
    keep: Keep


@dataclass(frozen=True)
class DashboardSettings:
    host: str
    port: int


@dataclass(frozen=True)
class CompareSettings:
    """A controlled comparison; `at` is champion, defaults, or None for the champion where there is one.

    `choices` are values or nodes, or a mapping from labels to them.
    """

    over: str | None
    choices: tuple[Any, ...] | Mapping[str, Any] | None
    seeds: int
    target: float | None
    at: str | None
    folder: str | None


@dataclass(frozen=True)
class LrRangeSettings:
    """A learning-rate range test: from `low` to `high` in `steps` optimizer steps."""

    low: float
    high: float
    steps: int
    at: str | None
    folder: str | None


@dataclass(frozen=True)
class TrainSettings:
    """The final training: `split` is train+val or train."""

    split: str
    at: str | None
    folder: str | None


@dataclass(frozen=True)
class StudySettings:
    """What is tuned: the nodes of module, data and trainer, the objective, and the space.

    Attributes:
        epochs: of a full training.
        fit_batch: whether batches that do not fit on the GPU are trained in parts.
    """

    name: str
    objective: Objective
    space: Space
    epochs: int
    nodes: StudyNodes
    fit_batch: bool = False


@dataclass(frozen=True)
class Settings:
    """One call of the command line.

    Attributes:
        study: None for commands that look at the whole store.
        identity: the parts of the configuration that change a round's result, flat (dotted key → value).
    """

    study: StudySettings | None
    search: SearchSettings
    pruner: PrunerSettings
    launcher: LauncherSettings
    store: StoreSettings
    dashboard: DashboardSettings
    compare: CompareSettings
    lr_range: LrRangeSettings
    train: TrainSettings
    seed: int
    identity: Mapping[str, Any]
