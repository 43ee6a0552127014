"""All random state that a training draws from, as tensors and numbers that a checkpoint may hold.

Covers Python's, NumPy's and torch's global generators, the one of the training's device, and every generator that a
data loader carries with it (`DataLoader(generator=...)`, a sampler's, a data set's). What a worker process of a loader
draws is derived from torch's global generator when its epoch begins, so it follows; workers that outlive an epoch
(`persistent_workers=True`) keep random state of their own that nobody outside can read.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

_ARRAY = "tuner.array"

#: Of Python, NumPy and torch, as they give it: quick to take, and not for a file.
Snapshot = tuple[Any, Any, torch.Tensor]


def snapshot() -> Snapshot:
    """The state of the three global generators."""
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002


def put(state: Snapshot) -> None:
    """Set the three global generators as they were."""
    python, numpy, words = state
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(words)


def packed(state: Snapshot) -> dict[str, Any]:
    """The snapshot in types that `torch.load(weights_only=True)` accepts; for `restore`."""
    (version, words, gauss), numpy, torchs = state
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": _pack(numpy),
        "torch": torchs,
    }


def capture(device: torch.device, loaders: Sequence[object] = ()) -> dict[str, Any]:
    """The random state now, in types that `torch.load(weights_only=True)` accepts."""
    return {
        **packed(snapshot()),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "loaders": of_loaders(loaders),
    }


def restore(state: dict[str, Any], device: torch.device, loaders: Sequence[object] = ()) -> None:
    """Set every generator as it was when `capture` was called with loaders built the same way."""
    python = state["python"]
    words = (python["version"], tuple(python["words"].tolist()), python["gauss"])
    put((words, _unpack(state["numpy"]), state["torch"].cpu()))
    if device.type == "cuda" and state.get("device") is not None:
        torch.cuda.set_rng_state(state["device"].cpu(), device)
    restore_loaders(state.get("loaders", ()), loaders)


def of_loaders(loaders: Iterable[object]) -> list[Any]:
    """The state of every generator that the loaders carry with them."""
    return [_state(generator) for generator in _generators(loaders)]


def restore_loaders(states: Iterable[Any], loaders: Iterable[object]) -> None:
    """Set the generators of loaders built as those were that `of_loaders` saw."""
    for generator, saved in zip(_generators(loaders), states, strict=True):
        _set_state(generator, saved)


def _generators(loaders: Iterable[object]) -> list[Any]:
    found: dict[int, Any] = {}
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    for loader in loaders:
        for part in _parts(loader):
            for value in getattr(part, "__dict__", {}).values():
                if isinstance(value, kinds):
                    found.setdefault(id(value), value)
    return list(found.values())


def _parts(loader: object) -> Iterator[object]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    yield from (loader, getattr(loader, "dataset", None), getattr(loader, "sampler", None))
    yield from (batch_sampler, getattr(batch_sampler, "sampler", None))


def _state(generator: Any) -> Any:
    match generator:
        case torch.Generator():
            return generator.get_state()
        case np.random.Generator():
            return _pack(generator.bit_generator.state)
        case np.random.RandomState():
            return _pack(generator.get_state(legacy=False))
        case _:
            version, words, gauss = generator.getstate()
            return [version, list(words), gauss]


def _set_state(generator: Any, saved: Any) -> None:
    match generator:
        case torch.Generator():
            generator.set_state(saved.cpu())
        case np.random.Generator():
            generator.bit_generator.state = _unpack(saved)
        case np.random.RandomState():
            generator.set_state(_unpack(saved))
        case _:
            version, words, gauss = saved
            generator.setstate((version, tuple(words), gauss))


def _pack(value: Any) -> Any:
    """Arrays become tensors, with their type beside them: a NumPy array needs code to be read back."""
    if isinstance(value, dict):
        return {key: _pack(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {_ARRAY: value.dtype.str, "values": torch.from_numpy(value.astype(np.int64))}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict) and _ARRAY in value:
        return value["values"].numpy().astype(value[_ARRAY])
    if isinstance(value, dict):
        return {key: _unpack(item) for key, item in value.items()}
    return value
