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

import contextlib
import fcntl
import importlib
import importlib.util
import ipaddress
import logging
import multiprocessing as mp
import os
import secrets
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, Self

from tuner.errors import ConfigError, Problem
from tuner.launch.devices import Seat
from tuner.launch.groups import Groups, NodeLost, Rank
from tuner.launch.local import LocalRank, start_rank
from tuner.launch.protocol import FromWorker, ToWorker

#: Seconds between two looks at what the cluster has.
LOOK_S = 3.0
#: Seconds that a group waits for room before people are told.
WAITING_S = 20.0
#: Seconds that a worker which was killed is given to be reported so, before its actor goes as well.
KILLED_S = 2.0
#: Seconds in which a cluster's address must answer.
CONNECT_S = 5.0
#: Longest time that an actor listens to its worker before it answers the driver.
LISTEN_S = 30.0
#: Shared memory of an instance of our own: messages are small, and Ray asks for 75 MiB at least.
OBJECT_STORE_BYTES = 100 * 2**20
#: Resources are multiples of this, as Ray counts them.
_SMALLEST = 1e-4
#: Linux's call for the address of a network interface.
_SIOCGIFADDR = 0x8915

_KEY = "launcher.address"
_INSTALL = "Install it: pip install 'tuner[ray]'."


class NotShared(Exception):
    """A node does not see the folder of the controller."""


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


def check(address: str | None) -> None:
    """Whether Ray can be used, as far as that can be told at once.

    Raises:
        ConfigError: Ray is not installed, or nothing listens at the address.
    """
    if importlib.util.find_spec("ray") is None:
        rule = "is used where the package ray is installed"
        raise ConfigError([Problem("launcher", rule, "ray", _INSTALL)])
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


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
        check(self._demand.address)
        # Where Ray has its own by default: paths of sockets may be 107 bytes long, and TMPDIR may be too deep for that.
        self._folder = tempfile.mkdtemp(prefix="tuner-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))  # noqa: S108
        try:
            self._ray = _load(own=self._demand.address is None)
            _join(self._ray, self._demand, self._folder)
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
            with _own_signals():
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


class Host:
    """The actor: starts a worker process on its node, and passes on what it and the driver say.

    `listen` and `kill` are called in threads of their own, beside the one that `start` and `say` share.
    """

    def __init__(self, path: Sequence[str], folder: str | None) -> None:
        """Stand where the driver stands.

        Args:
            path: where the driver finds its modules; what is not on this node is left out.
            folder: of the driver, taken for the working directory if this node has it.
        """
        sys.path[:] = [*path_here(path), *(entry for entry in sys.path if entry not in path)]
        if folder is not None and Path(folder).is_dir():
            os.chdir(folder)
        # A process of multiprocessing runs its parent's main module again, which here is Ray's and imports all of Ray.
        vars(sys.modules["__main__"]).pop("__file__", None)
        self._rank: LocalRank | None = None
        self._early: dict[int, ToWorker] = {}
        self._next = 0

    def meet(self) -> str:
        """Where other ranks find the one of this node: a port that is free now."""
        address = _node_address()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as server:
            port = server.getsockname()[1]
        return f"tcp://[{address}]:{port}" if family == socket.AF_INET6 else f"tcp://{address}:{port}"

    def start(self, seat: Seat, log: str, meeting: str, name: str, marker: str) -> str:
        """Start the worker; the id of its node.

        Raises:
            NotShared: the driver's folder, in which `marker` lies, is not on this node.
        """
        if not Path(marker).exists():
            raise NotShared(str(Path(marker).parent))
        if seat.size > 1 and (interface := interface_of(_node_address())):
            # The host's name may stand for an address that other nodes cannot reach.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        ray: Any = importlib.import_module("ray")
        if ray.get_gpu_ids():
            seat = replace(seat, gpus=tuple(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["tuner.launch.preload"])
        self._rank = start_rank(context, seat, Path(log), meeting, name=name)
        self._pass_on()
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def say(self, number: int, message: ToWorker) -> None:
        """Pass a message on, the messages in the order of their numbers: calls of an actor may overtake each other."""
        self._early[number] = message
        self._pass_on()

    def _pass_on(self) -> None:
        while self._rank is not None and self._next in self._early:
            self._rank.say(self._early.pop(self._next))
            self._next += 1

    def listen(self, node: str) -> tuple[str, str, list[FromWorker], str | None]:
        """What the worker has said, and how it ended if it did, waiting `LISTEN_S` for it: (node, host:pid, …)."""
        assert self._rank is not None
        wait([self._rank.pipe], LISTEN_S)
        return node, self._rank.where, *self._rank.take()

    def kill(self) -> None:
        """End the worker at once."""
        if self._rank is not None:
            self._rank.kill()


def path_here(path: Sequence[str]) -> list[str]:
    """The entries of a module search path that this machine has."""
    return [entry for entry in path if Path(entry).exists()]


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address, where the system tells."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def _node_address() -> str:
    address: str = importlib.import_module("ray").util.get_node_ip_address()
    return address


# -- Ray itself -----------------------------------------------------------------------------------------------------


def _load(*, own: bool) -> Any:
    """The package ray, set up by what it reads from the environment when it is imported."""
    if "ray" not in sys.modules:  # else the program that calls us has set it up
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Without it, whoever reaches a port of the cluster runs what he likes there.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # A message to a worker that has just died is told of by what was being heard from it.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        if not own:
            # A cluster that works is reached at once; each try for another one takes up to 40 s.
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
        else:
            # Ray takes 127.0.0.1 for the machine's address in the network and listens on every interface. This switch,
            # made for systems whose firewalls ask back, has it take the loopback for what it is.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        worker: Any = importlib.import_module("ray._private.worker")
        if hasattr(worker, "print_to_stdstream"):
            # It prints what goes on in the cluster to standard output, where our results go.
            worker.print_to_stdstream = lambda *_, **__: None
    importlib.import_module("ray.util")
    return importlib.import_module("ray")


def _join(ray: Any, demand: Demand, folder: str) -> None:
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": dict(demand.runtime_env) if demand.runtime_env else None,
    }
    if demand.address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
            **(demand.here or {}),
        }
    else:
        options["address"] = demand.address
    try:
        with _own_signals():
            ray.init(**options)
    except Exception as error:  # noqa: BLE001 - of any kind; Ray has no class for a cluster that cannot be joined
        if demand.address is None:
            text = f"Ray does not start on this machine: {error}"
            raise ConfigError([Problem("launcher", "is Ray, which starts on this machine", "ray", text)]) from None
        raise _no_cluster(demand.address, "\n".join(_texts(error))) from None


def _texts(error: BaseException | None) -> Iterator[str]:
    """What an error says, and those that it followed from."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _no_cluster(address: str, text: str) -> ConfigError:
    what = text.partition("\n")[0].strip().rstrip(".") + "."
    if "ersion mismatch" in text:
        what = " ".join(text.split())
        remedy = "Install the same versions of Ray and Python here and there."
    elif "token" in text.lower():
        what = "Its token is not here, or is another one than that which is here."
        remedy = (
            "Bring it here, as the file ~/.ray/auth_token or in RAY_AUTH_TOKEN: `ray get-auth-token` prints it there. "
            "For a cluster without tokens set RAY_AUTH_MODE=disabled."
        )
    elif "ray[client]" in text:
        remedy = "Install it, or run this command on a node of the cluster with launcher.address=auto."
    else:
        remedy = (
            "Write the address that `ray start --head` printed, auto on a node of the cluster, or "
            "launcher.address=null for an instance of its own."
        )
    return ConfigError([Problem(_KEY, "is a Ray cluster that can be joined", address, f"{what} {remedy}")])


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray has SIGTERM end the program at once; what it meant before stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:  # set by what is not Python
            signal.signal(signal.SIGTERM, before)


def _times(there: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How often what is needed is there."""
    return int(min(there.get(kind, 0.0) / amount + _SMALLEST for kind, amount in need.items()))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
