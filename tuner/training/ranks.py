"""Several processes that train one model together: how they meet, and what a Trainer has to know of them.

The ranks of a group meet once and stay together over all their trainings: `join`. Lightning finds the process group
made, and is told of it by a cluster environment instead of making one for each training.

Batches are those of the whole group. A loader of torch is given a batch sampler that hands each rank its share of every
batch, where Lightning's own way would make each rank's batch as large as the study's. `tuner.training.batches` shares
its batches in the same way.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler

from tuner.errors import ConfigError, Problem
from tuner.training import random_state

#: The interface of this machine alone; ranks of one machine have no business on a network.
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
#: Whether this process sees its own device alone and not those of the other ranks; `join` says so.
_apart = False

_CPU = torch.device("cpu")
#: Hooks in which Lightning takes a logged value for one of the epoch.
_EPOCH_HOOKS = frozenset({"on_train_epoch_start", "on_train_epoch_end"})


def join(rank: int, size: int, meeting: str, *, local: bool) -> None:
    """Meet the other ranks, and stay together until this process ends.

    Args:
        rank: of this process, from 0.
        size: ranks of the group.
        meeting: `file:///…` or `tcp://host:port`, the same for all; never that of an earlier group. A file, which
            only ranks of one machine can share, keeps what they say off every network.
        local: whether each rank sees the devices of all; otherwise it sees its own alone, on whatever machine.
    """
    global _apart  # noqa: PLW0603 - a process joins once, and Lightning asks as often as it trains
    _apart = not local
    if meeting.startswith("file:"):
        for key, value in _LOOPBACK.items():
            os.environ.setdefault(key, value)
    # What is on the host is agreed on there, so that a GPU need not be waited for.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=size)


def rank() -> int:
    """Of this process in its group."""
    return distributed.get_rank() if _is_group() else 0


def size() -> int:
    """Ranks that train together; 1 for a process alone."""
    return distributed.get_world_size() if _is_group() else 1


def any_rank(fact: bool) -> bool:  # noqa: FBT001
    """Whether it is so on any rank; all of them must ask at the same point."""
    if size() == 1:
        return fact
    found = torch.tensor([int(fact)])
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found.item())


def _is_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class Environment(ClusterEnvironment):
    """What Lightning asks about a group that has met already.

    Ranks that see each other's devices are the processes of one node. A rank that sees its own device alone is a node
    of its own, because Lightning takes the local rank for the device's index.
    """

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"  # not used: the group has met

    @property
    def main_port(self) -> int:
        return 0

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return size()

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return rank()

    def set_global_rank(self, rank: int) -> None:
        rank_zero_only.rank = rank  # type: ignore[attr-defined]

    def local_rank(self) -> int:
        return 0 if _apart else rank()

    def node_rank(self) -> int:
        return rank() if _apart else 0


def trainer_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a Trainer for this process's place: one device alone, or its part of a group.

    Args:
        settings: of the study, whose strategy (`ddp` by default) and plugins are kept.
    """
    given = settings.get("plugins") or []
    plugins = given if isinstance(given, list) else [given]
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        # Told, and not found out: Lightning would take a job of SLURM for processes that srun has started for it.
        plugins = [*plugins, Environment()]
    if size() == 1:
        return {**settings, "devices": 1, "plugins": plugins}
    strategy = settings.get("strategy")
    return {
        **settings,
        "devices": 1 if _apart else size(),
        "num_nodes": size() if _apart else 1,
        "strategy": "ddp" if strategy in (None, "auto") else strategy,
        "plugins": plugins,
        # Batches are shared out by `Seated`, unless the study wants each rank to have as many.
        "use_distributed_sampler": settings.get("use_distributed_sampler") or False,
    }


class Seated(pl.Callback):
    """Fits a Trainer to the process that it runs in, when it begins: the first of all callbacks.

    | with several ranks | |
    | --- | --- |
    | batches of torch's loaders | each rank gets its share of each; left alone where a loader shares already (a DistributedSampler), has an iterable data set, or no batches |
    | values logged for an epoch | those of all ranks together, as `sync_dist=True` asks for |

    Where the process has its own answer to SIGTERM, Lightning's does not come to it.
    """

    def __init__(self) -> None:
        self._answers_sigterm = callable(signal.getsignal(signal.SIGTERM))
        self._random = random_state.capture(_CPU) if size() > 1 else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        if self._answers_sigterm:
            # Lightning's asks all ranks to stop at their next step, in the signal handler: they would meet in it.
            connector = trainer._signal_connector  # noqa: SLF001
            connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
        if self._random is not None:  # the first time; a test follows the training with the same Trainer
            # Strategies of several ranks seed anew when they begin; one device draws on from what built the module.
            random_state.restore(self._random, _CPU)
            self._random = None
            _share_batches(trainer)
            _log_together(trainer, pl_module)


def _nothing() -> None:
    pass


def _share_batches(trainer: pl.Trainer) -> None:
    process = trainer.strategy.process_dataloader

    def shared(dataloader: object) -> object:
        if isinstance(dataloader, DataLoader) and _can_share(dataloader):
            # Past the loader's own guard, which is there because another sampler alone would not be used.
            shares = Shares(dataloader.batch_sampler, training=trainer.training)
            object.__setattr__(dataloader, "batch_sampler", shares)
        return process(dataloader)

    trainer.strategy.process_dataloader = shared  # type: ignore[method-assign]


def _log_together(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    log = module.log
    reduce = trainer.strategy.reduce

    def exact(tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        # The mean of counts is rounded down otherwise, and shares differ by one example.
        if isinstance(tensor, torch.Tensor) and not tensor.is_floating_point():
            tensor = tensor.double()
        return reduce(tensor, group, reduce_op)

    trainer.strategy.reduce = exact  # type: ignore[method-assign]

    def together(name: str, value: Any, *arguments: Any, **options: Any) -> None:
        at_epoch = not trainer.training or module._current_fx_name in _EPOCH_HOOKS  # noqa: SLF001
        asked = options.get("on_epoch")  # None asks for Lightning's own choice, as `log_dict` does
        if (at_epoch if asked is None else asked) and not options.get("rank_zero_only"):
            options["sync_dist"] = True
        log(name, value, *arguments, **options)

    module.log = together  # type: ignore[method-assign]


def _can_share(loader: DataLoader[Any]) -> bool:
    sampler = loader.batch_sampler
    if sampler is None or isinstance(loader.dataset, IterableDataset):
        return False
    return not isinstance(sampler, Shares) and not isinstance(getattr(sampler, "sampler", None), DistributedSampler)


class Shares(Sampler[list[int]]):
    """This rank's share of each batch of another batch sampler, in the order of which all ranks agree.

    A last batch with fewer examples than ranks joins the one before, so that no rank is left without. Shares differ by
    at most one example, and in a training only in the last batch.
    """

    def __init__(self, whole: Any, *, training: bool) -> None:
        """`whole` gives batches as lists of indices; it may draw from torch's global generator when it begins.

        Raises:
            ConfigError: a batch of a training cannot be shared equally.
        """
        self.whole = whole
        self.sampler: Any = getattr(whole, "sampler", None)
        self.batch_size: Any = getattr(whole, "batch_size", None)
        self.drop_last: Any = getattr(whole, "drop_last", False)
        if training and isinstance(self.batch_size, int) and self.batch_size % size():
            rule = f"is divisible by the {size()} ranks that share each batch"
            remedy = "Write a multiple of the ranks, or train on fewer devices."
            raise ConfigError([Problem("the training's batch size", rule, self.batch_size, remedy)])

    def __iter__(self) -> Iterator[list[int]]:
        _agree_on_random_state()
        before: Sequence[int] | None = None
        for batch in self.whole:
            if before is not None and len(batch) < size():
                before = [*before, *batch]
                continue
            if before is not None:
                yield _share(before)
            before = batch
        if before is not None:
            yield _share(before)

    def __len__(self) -> int:
        count, batch = len(self.whole), self.batch_size
        samples = len(self.sampler) if self.sampler is not None and hasattr(self.sampler, "__len__") else None
        joined = count > 1 and samples is not None and batch and not self.drop_last and 0 < samples % batch < size()
        return count - bool(joined)


def _share(batch: Sequence[int]) -> list[int]:
    if len(batch) < size():
        rule = f"has an example for each of the {size()} ranks"
        raise ConfigError([Problem("a batch", rule, len(batch), "Train on fewer devices, or with more data.")])
    return list(batch[len(batch) * rank() // size() : len(batch) * (rank() + 1) // size()])


def _agree_on_random_state() -> None:
    """The first rank's for all: an order is drawn from it, and dropout may have drawn more on one rank than on another."""
    state = torch.get_rng_state()
    distributed.broadcast(state, src=0)
    torch.set_rng_state(state)
