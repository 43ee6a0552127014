"""Ranks on the nodes of a Ray cluster, or of a Ray instance that is started for them on this machine.

The controller is Ray's driver. A group is a placement group with a bundle for each rank, and a rank is an actor that
starts the ordinary worker process on its node and passes on what the two say to each other:

    controller ── actor calls ── Host (an actor: no torch, none of the study's code) ── pipe ── worker process

A worker that is killed or leaves takes nothing with it but itself, and one whose actor or node dies finds its pipe
closed and ends. Ray decides where groups run, and has those wait for which there is no room: a node that is lost frees
its groups to start elsewhere, a node that comes takes in those that wait.

`docs/clusters.md` tells people how to set a cluster up.
"""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from tuner.errors import ConfigError, Problem
from tuner.launch import ray_cluster
from tuner.launch.devices import Seat
from tuner.launch.groups import Groups, NodeLost, Rank
from tuner.launch.protocol import FromWorker, ToWorker
from tuner.launch.ray_host import Host, NotShared

#: Seconds between two looks at what the cluster has.
LOOK_S = 3.0
#: Seconds that a group waits for room before people are told.
WAITING_S = 20.0
#: Seconds that a worker which was killed is given to be reported so, before its actor goes as well.
KILLED_S = 2.0
#: Resources are multiples of this, as Ray counts them.
_SMALLEST = 1e-4


@dataclass(frozen=True)
class Demand:
    """What is asked of a cluster.

    Attributes:
        address: `auto`, `host:port` or `ray://host:port`; None for an instance of our own.
        devices: ranks of a group, or all devices in one group.
        sharing: groups that share each device.
        groups: asked for, whether there is room for them or not; None for as many as there is room for.
        most: groups at most; None for no limit.
        cpus: CPU cores of each rank; None for one without GPUs, and none beside a GPU.
        on_gpu: whether a device is a GPU; None for where the cluster has one.
        here: what an instance of our own has.
        threads: of torch in each rank on CPUs; None for torch's own choice.
        runtime_env: of the job, as Ray takes it.
    """

    address: str | None = None
    devices: int | Literal["all"] = 1
    sharing: int = 1
    groups: int | None = None
    most: int | None = None
    cpus: int | None = None
    on_gpu: bool | None = None
    here: Mapping[str, int] | None = None
    threads: int | None = 1
    runtime_env: Mapping[str, Any] | None = None

    @property
    def limit(self) -> float:
        """Groups that there can be."""
        return min((count for count in (self.groups, self.most) if count is not None), default=float("inf"))


def ray_groups(
    demand: Demand, logs: Path, *, silent_after_s: float | None = None, note: Callable[[str], None] | None = None
) -> Groups:
    """Groups of workers on a cluster.

    Args:
        demand: see there.
        logs: folder of the workers' logs, which all nodes share.
        silent_after_s: see `Groups`.
        note: told what people should know.
    """
    transport = RayTransport(demand, logs, note=note)
    return Groups(transport, transport.room, silent_after_s=silent_after_s)


class RayTransport:
    """The transport: a placement group for each group, and an actor with a worker process for each rank."""

    def __init__(
        self,
        demand: Demand,
        logs: Path,
        *,
        note: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; Ray is reached, or started, on entering the context.

        Args:
            demand: what is asked of the cluster.
            logs: folder of the workers' logs, which all nodes share.
            note: told what people should know, a line at a time.
            clock: seconds, monotonic.
        """
        self._demand, self._logs, self._clock = demand, logs.absolute(), clock
        self._note = note or (lambda _: None)
        self._ray: Any = None
        self._actor: Any = None
        self._folder: str | None = None
        self._marker: Path | None = None
        self._need: dict[str, float] = {}
        self._size = 1
        self._here = False
        self._placements: dict[int, _Placement] = {}
        self._started = self._count = 0
        self._look_at = float("-inf")
        self._told = False

    def __enter__(self) -> Self:
        """Reach the cluster, or start an instance of our own.

        Raises:
            ConfigError: there is no Ray, no cluster, or one that does not fit.
        """
        ray_cluster.check(self._demand.address)
        # Where Ray has its own by default: paths of sockets may be 107 bytes long, and TMPDIR may be too deep for that.
        self._folder = tempfile.mkdtemp(prefix="tuner-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))  # noqa: S108
        try:
            self._ray = ray_cluster.load(own=self._demand.address is None)
            ray_cluster.join(
                self._ray,
                self._demand.address,
                self._folder,
                here=self._demand.here,
                runtime_env=self._demand.runtime_env,
            )
            self._actor = self._ray.remote(concurrency_groups={"listening": 1, "killing": 1}, max_restarts=0)(Host)
            self._here = all(_is_loopback(node["NodeManagerAddress"]) for node in self._nodes())
            self._measure()
            self._mark()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ray is not None:
            with ray_cluster.own_signals():
                self._ray.shutdown()  # what is placed goes with the driver
        self._placements.clear()
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def room(self) -> int:
        """Groups that there are to be now; never fewer than before.

        Where a number is asked for, all of them, so that a cluster which adds nodes on demand hears of it. Else as many
        as there is room for, and no more while one of them waits.
        """
        if self._demand.groups is not None:
            return int(self._demand.limit)
        if self._clock() >= self._look_at and not any(not placement.placed for placement in self._placements.values()):
            self._look_at = self._clock() + LOOK_S
            self._count = max(self._count, 1, int(min(self._demand.limit, self._bundles() // self._size)))
        return self._count

    def start(self, group: int) -> list[Rank]:
        before = self._placements.pop(group, None)
        if before is not None:
            self._ray.util.remove_placement_group(before.placement)
        placement = self._ray.util.placement_group([self._need] * self._size, strategy="PACK")
        self._placements[group] = _Placement(placement, self._clock())
        hosts = [self._host(placement, number) for number in range(self._size)]
        meeting, dead = self._meeting(hosts[0]), self._dead()
        return [self._rank(group, number, host, meeting, dead) for number, host in enumerate(hosts)]

    def wait(self, ranks: Sequence[Rank], timeout_s: float) -> Sequence[Rank]:
        self._look_after_the_waiting()
        by_ref = {rank.heard: rank for rank in ranks if isinstance(rank, RayRank)}
        if not by_ref:
            time.sleep(timeout_s)
            return []
        self._ray.wait(list(by_ref), num_returns=1, timeout=timeout_s)
        spoken, _ = self._ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        return [by_ref[ref] for ref in spoken]

    def log(self, group: int) -> str:
        return str(self._log(group, 0))

    # -- ranks ------------------------------------------------------------------------------------------------------

    def _host(self, placement: Any, number: int) -> Any:
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        place = strategies.PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=number)
        actor = self._actor.options(
            num_cpus=self._need.get("CPU", 0), num_gpus=self._need.get("GPU", 0), scheduling_strategy=place
        )
        moves = self._demand.runtime_env is None or "working_dir" not in self._demand.runtime_env
        return actor.remote([str(Path(entry).absolute()) for entry in sys.path], str(Path.cwd()) if moves else None)

    def _meeting(self, first: Any) -> Any:
        """Where the ranks of one start meet, or what will tell; never the place of an earlier one."""
        if self._size == 1:
            return ""
        self._started += 1
        # A file is heard of on this machine alone, where a port of torch's would be open to the network.
        return f"file://{self._folder}/meeting-{self._started}" if self._here else first.meet.remote()

    def _rank(self, group: int, number: int, host: Any, meeting: Any, dead: Mapping[str, str]) -> RayRank:
        threads = None if "GPU" in self._need else self._demand.threads
        seat = Seat(number, self._size, threads=threads, local=False)
        log, name = str(self._log(group, number)), f"tuner-worker-{group}-{number}"
        started = host.start.remote(seat, log, meeting, name, str(self._marker))
        return RayRank(
            self._ray,
            host,
            started,
            lambda: {node: name for node, name in self._dead().items() if node not in dead},
        )

    def _log(self, group: int, number: int) -> Path:
        return self._logs / (f"worker-{group}-rank-{number}.log" if number else f"worker-{group}.log")

    # -- the cluster ------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """What a rank needs, and how many of them a group has."""
        demand = self._demand
        on_gpu = self._ray.cluster_resources().get("GPU", 0) > 0 if demand.on_gpu is None else demand.on_gpu
        share = round(int(1 / demand.sharing / _SMALLEST) * _SMALLEST, 4)
        if on_gpu:
            self._need = {"GPU": share, **({"CPU": float(demand.cpus)} if demand.cpus else {})}
        else:
            self._need = {"CPU": (demand.cpus or 1) * share}
        self._size = max(self._fitting(), 1) if demand.devices == "all" else demand.devices

    def _mark(self) -> None:
        """A file by which a node sees whether it has our folder: checkpoints are written there and taken up here."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._marker = self._logs / f".shared-{secrets.token_hex(8)}"
        self._marker.touch()

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _dead(self) -> dict[str, str]:
        """Nodes that have gone: their names by their ids."""
        return {node["NodeID"]: node["NodeManagerHostname"] for node in self._ray.nodes() if not node["Alive"]}

    def _fitting(self) -> int:
        """Ranks that the cluster could hold if it did nothing else."""
        return sum(_times(node["Resources"], self._need) for node in self._nodes())

    def _bundles(self) -> int:
        """Ranks that there is room for, those that are there included."""
        ours = self._size * sum(placement.placed for placement in self._placements.values())
        return min(self._fitting(), ours + _times(self._ray.available_resources(), self._need))

    def _look_after_the_waiting(self) -> None:
        """Find out which groups have a place by now, and say it once if some have had none for long."""
        waiting = [placement for placement in self._placements.values() if not placement.placed]
        if not waiting:
            self._told = False
            return
        for placement in waiting:
            if self._clock() < placement.look_at:
                continue
            placement.look_at = self._clock() + LOOK_S
            state = self._ray.util.placement_group_table(placement.placement).get("state")
            placement.placed = state == "CREATED"
        late = [p for p in waiting if not p.placed and self._clock() - p.asked >= WAITING_S]
        if late and not self._told:
            self._told = True
            self._note(self._what_is_waited_for(len(late)))

    def _what_is_waited_for(self, count: int) -> str:
        there, free = self._ray.cluster_resources(), self._ray.available_resources()
        groups = "A worker group waits" if count == 1 else f"{count} worker groups wait"
        has = ", ".join(f"{there.get(kind, 0):g} {kind}, {free.get(kind, 0):g} of them free" for kind in self._need)
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in self._need.items())
        each = f"{self._size} × ({needs})" if self._size > 1 else needs
        nodes = len(self._nodes())
        return f"{groups} for room: each asks for {each}; the cluster has {has}, on {nodes} node{'s' * (nodes != 1)}."


@dataclass
class _Placement:
    """Where a group is to run; `asked` and `look_at` are times of the transport's clock."""

    placement: Any
    asked: float
    placed: bool = False
    look_at: float = float("-inf")


class RayRank:
    """A worker process behind an actor; nothing here waits for the actor to be placed."""

    def __init__(self, ray: Any, host: Any, started: Any, gone: Callable[[], Mapping[str, str]]) -> None:
        """`started` is what becomes of `Host.start`; `gone` tells which nodes have been lost since, names by ids."""
        self._ray, self._host, self._started, self._gone = ray, host, started, gone
        self._said = 0
        self._node: str | None = None
        self._end: str | None = None
        self._killed = False
        self.where = "waiting for room"
        self.heard = self._listen()

    def say(self, message: ToWorker) -> None:
        self._host.say.remote(self._said, message)
        self._said += 1

    def take(self) -> tuple[list[FromWorker], str | None]:
        """As `Rank` says.

        Raises:
            ConfigError: its node does not see the controller's folder.
        """
        if self._end is not None or not self._ray.wait([self.heard], timeout=0)[0]:
            return [], self._end
        messages: list[FromWorker] = []
        try:
            self._node, self.where, messages, self._end = self._ray.get(self.heard)
        except NotShared as error:
            self._end = "is not where the controller's folder is"
            rule = "is a folder that all nodes share, because checkpoints pass from one to another there"
            remedy = "Write the path of a file system that every node has mounted."
            raise ConfigError([Problem("store.folder", rule, str(getattr(error, "cause", error)), remedy)]) from None
        except Exception as error:  # noqa: BLE001 - of Ray, of starting the worker, of importing us there
            self._end = self._how_it_ended(error)
        if self._end is None:
            self.heard = self._listen()
        return messages, self._end

    def kill(self) -> None:
        self._killed = True
        self._host.kill.options(concurrency_group="killing").remote()

    def end(self, patience_s: float) -> None:
        # One that is not heard of yet has nothing to lose.
        patience_s = 0.0 if self._node is None else min(patience_s, KILLED_S) if self._killed else patience_s
        deadline = time.monotonic() + patience_s
        while self._end is None and self._ray.wait([self.heard], timeout=max(deadline - time.monotonic(), 0.0))[0]:
            self.take()
        self._ray.kill(self._host)

    def _listen(self) -> Any:
        return self._host.listen.options(concurrency_group="listening").remote(self._started)

    def _how_it_ended(self, error: Exception) -> str:
        lost = {node: name for node, name in self._gone().items() if self._node in (None, node)}
        if lost:
            return NodeLost(f"went with its node {' or '.join(sorted(set(lost.values())))}")
        if type(error).__name__ == "ActorUnavailableError":
            return NodeLost(f"cannot be reached any more ({self.where}), perhaps because its node has gone")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"ended: {lines[-1] if lines else type(error).__name__}"


def _times(there: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How often what is needed is there."""
    return int(min(there.get(kind, 0.0) / amount + _SMALLEST for kind, amount in need.items()))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
