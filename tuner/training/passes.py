"""A pass over the training's data that can be taken up where it was left: `Passes`.

A loader has no place to go back to. What leads there is drawn again instead: the random state from which the pass
began, the iterator made from it, and the batches that were trained on dropped.

| loaders of the training | random state of a pass | on the way back |
| --- | --- | --- |
| one that has `starting_at(batch)`, as `tuner.training.batches` | the global one, at the start | no batch is made |
| one DataLoader of a map-style data set, with a sampler of torch | the global one, at the start | without workers no example is loaded; with workers, which have random state of their own, batches are made and dropped |
| all with `state_dict` and `load_state_dict` | in their state, which Lightning keeps | nothing |
| anything else: several loaders, iterable data sets, unknown samplers | a stream of its own, from one seed per pass | batches are made and dropped |

A stream of its own, because such loaders may draw at any batch, between what the training draws.

What cannot be taken up within a pass: several ranks whose loaders keep their own state, loaders of which some keep
theirs, a CombinedLoader of the user's own class, and a training step that takes the iterator itself. What is not exact,
because nobody outside can see it: workers that outlive an epoch (`persistent_workers=True`) and draw, generators that a
data set hides deeper than in its attributes, what an iterable reads from elsewhere, random numbers drawn on an
accelerator by a loader with a stream of its own.
"""

# ruff: noqa: SLF001 - what Lightning and torch keep to themselves is what has to be kept here

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.dataloader import _DatasetKind, _SingleProcessDataLoaderIter

from tuner.training import random_state
from tuner.training.ranks import Shares

#: They draw from the global generator at their first index only.
_SAMPLERS = (
    *(SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler),
    *(DistributedSampler, UnrepeatedDistributedSampler),
)


class Source(_DataLoaderSource):
    """Where the Trainer takes loaders from, with the random state from which they were made.

    Attributes:
        made: that state, once they were.
        resume: that of an earlier process, packed: the next loaders are made from it.
    """

    def __init__(self, source: _DataLoaderSource) -> None:
        super().__init__(source.instance, source.name)
        self.made: random_state.Snapshot | None = None
        self.resume: dict[str, Any] | None = None

    def dataloader(self) -> Any:
        resume, self.resume = self.resume, None
        if resume is not None:
            random_state.restore(resume, torch.device("cpu"))
        self.made = random_state.snapshot()
        return super().dataloader()


class TrainingSource(Source):
    """The training's loaders as `Passes`; `way` leads into the first pass, from `Passes.state` of an earlier process."""

    way: dict[str, Any] | None = None

    def dataloader(self) -> Any:
        way, self.way = self.way, None
        loaders = super().dataloader()
        if isinstance(loaders, CombinedLoader):
            if type(loaders) is not CombinedLoader:
                return loaders
            return Passes(loaders.iterables, loaders._mode, way)
        return Passes(loaders, "max_size_cycle", way)


class Passes(CombinedLoader):
    """Lightning's loader of loaders, with what it takes to repeat the way to the middle of a pass."""

    def __init__(self, iterables: Any, mode: Any, resume: dict[str, Any] | None = None) -> None:
        """`resume` is a `state`, whose pass is taken up by the first iteration."""
        super().__init__(iterables, mode)
        self._resume = resume
        self._stream: _Stream | None = None
        self._first: torch.Tensor | None = None
        self._unbegun = False
        self._begin: dict[str, Any] = {}

    def __iter__(self) -> Passes:
        resume, self._resume = self._resume, None
        self._stream, self._first, self._unbegun = None, None, False
        if self._stateful:
            super().__iter__()
        elif resume is not None:
            self._take_up(resume)
        elif self._draws_at_its_start:
            self._begin = {"torch": torch.get_rng_state(), "generators": random_state.of_loaders(self.flattened)}
            super().__iter__()
            self._unbegun = True
        else:
            seed = int(torch.empty((), dtype=torch.int64).random_())
            self._begin = {"seed": seed, "generators": random_state.of_loaders(self.flattened)}
            self._start_stream(seed)
        return self

    def __next__(self) -> Any:
        if self._stream is not None:
            with self._stream:
                return super().__next__()
        if self._unbegun:
            self._unbegun = False
            self._first = torch.get_rng_state()
        return super().__next__()

    def state(self, batches: int, epoch: int) -> dict[str, Any] | None:
        """The way to `batches` of this pass, in epoch `epoch`; None for loaders that know it themselves."""
        if self._stateful:
            return None
        return {**self._begin, "first": self._first, "batches": batches, "epoch": epoch}

    def can_be_taken_up(self, fetcher: _DataFetcher | None, world: int) -> bool:
        """Whether this pass can go on from here in another process."""
        if isinstance(fetcher, _DataLoaderIterDataFetcher):
            return False
        if self._stateful:
            return world == 1 and not getattr(fetcher, "batches", None)  # a batch fetched ahead is in no state
        return not any(isinstance(loader, _Stateful) for loader in self.flattened)

    @property
    def _stateful(self) -> bool:
        return all(isinstance(loader, _Stateful) for loader in self.flattened)

    @property
    def _draws_at_its_start(self) -> bool:
        if len(self.flattened) != 1:
            return False
        (loader,) = self.flattened
        return hasattr(loader, "starting_at") or _is_ordinary(loader)

    def _start_stream(self, seed: int) -> None:
        self._stream = _Stream(seed)
        with self._stream:
            super().__iter__()

    def _take_up(self, resume: dict[str, Any]) -> None:
        """Leaves the global random state anywhere: it is restored after this."""
        self._begin = {key: resume[key] for key in ("torch", "seed", "generators") if key in resume}
        self._first = resume["first"]
        for loader in self.flattened:
            _set_sampler_epoch(loader, resume["epoch"])  # Lightning does so after workers have asked the sampler
        random_state.restore_loaders(resume["generators"], self.flattened)
        if "seed" in resume:
            self._start_stream(resume["seed"])
            for _ in range(resume["batches"]):
                next(self)
        else:
            torch.set_rng_state(resume["torch"].cpu())
            super().__iter__()
            self._skip(resume["batches"])

    def _skip(self, batches: int) -> None:
        assert self._iterator is not None
        (loader,), (iterator,) = self.flattened, self._iterator.iterators
        if hasattr(loader, "starting_at"):
            torch.set_rng_state(self._begin["torch"].cpu())
            self._iterator.iterators[0] = loader.starting_at(batches)
        else:
            assert self._first is not None
            torch.set_rng_state(self._first.cpu())
            # Indices alone, where no worker counts on having made the examples.
            draw: Callable[[], Any] = (
                iterator._next_index if isinstance(iterator, _SingleProcessDataLoaderIter) else iterator.__next__
            )
            for _ in range(batches):
                draw()
        self._iterator._idx = batches


def _is_ordinary(loader: object) -> bool:
    if not isinstance(loader, DataLoader) or loader._dataset_kind != _DatasetKind.Map:
        return False
    kind = type(loader)
    if kind.__iter__ is not DataLoader.__iter__ or kind._get_iterator is not DataLoader._get_iterator:
        return False
    batches = loader.batch_sampler
    if isinstance(batches, Shares):
        batches = batches.whole
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    return (batches is None or type(batches) is BatchSampler) and type(sampler) in _SAMPLERS


class _Stream:
    """Random state of its own for Python's, NumPy's and torch's global generators, within a `with`."""

    def __init__(self, seed: int) -> None:
        outer = random_state.snapshot()
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        self._inner = random_state.snapshot()
        random_state.put(outer)
        self._outer = outer

    def __enter__(self) -> None:
        self._outer = random_state.snapshot()
        random_state.put(self._inner)

    def __exit__(self, *_: object) -> None:
        self._inner = random_state.snapshot()
        random_state.put(self._outer)
