"""The package ray as tuner uses it: what is set before its import, joining a cluster, and what can be wrong with that."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.errors import ConfigError, Problem

#: Seconds in which a cluster's address must answer.
CONNECT_S = 5.0
#: Shared memory of an instance of our own: messages are small, and Ray asks for 75 MiB at least.
OBJECT_STORE_BYTES = 100 * 2**20

_KEY = "launcher.address"
_INSTALL = "Install it: pip install 'tuner[ray]'."


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


def load(*, own: bool) -> Any:
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


def join(
    ray: Any,
    address: str | None,
    folder: str,
    *,
    here: Mapping[str, int] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
) -> None:
    """Join a cluster, or start an instance of our own.

    Args:
        ray: the package, from `load`.
        address: of the cluster; None for an instance on this machine.
        folder: for the files of such an instance.
        here: what such an instance has.
        runtime_env: of the job, as Ray takes it.

    Raises:
        ConfigError: it cannot be joined, or does not start.
    """
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": dict(runtime_env) if runtime_env else None,
    }
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
            **(here or {}),
        }
    else:
        options["address"] = address
    try:
        with own_signals():
            ray.init(**options)
    except Exception as error:  # noqa: BLE001 - of any kind; Ray has no class for a cluster that cannot be joined
        if address is None:
            text = f"Ray does not start on this machine: {error}"
            raise ConfigError([Problem("launcher", "is Ray, which starts on this machine", "ray", text)]) from None
        raise _no_cluster(address, "\n".join(_texts(error))) from None


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
def own_signals() -> Iterator[None]:
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
