"""What runs on a node of a Ray cluster: an actor that starts one ordinary worker process and speaks for it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import multiprocessing as mp
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tuner.launch.devices import Seat
from tuner.launch.local import LocalRank, start_rank
from tuner.launch.protocol import FromWorker, ToWorker

#: Longest time that an actor listens to its worker before it answers the driver.
LISTEN_S = 30.0
#: Linux's call for the address of a network interface.
_SIOCGIFADDR = 0x8915


class NotShared(Exception):
    """A node does not see the folder of the controller."""


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
