"""What a module and the user's callbacks keep in plain attributes: lists of outputs, counters, states of torchmetrics.

A state_dict has none of it, and a training that goes on in the middle of an epoch would miss the epoch's first part.
Kept is what differs from how the training began: None, booleans, numbers, strings, tensors, NumPy arrays, and lists,
tuples, dictionaries, sets and deques of these, of every submodule, and its buffers that are not persistent. Callbacks
of Lightning and those with a `state_dict` keep their state themselves. Objects of other classes are left alone: most
are how something is set up. A collection of such objects that has grown or shrunk is told, for it may not be lost.
"""

# ruff: noqa: SLF001 - what Lightning and torch keep to themselves is what has to be kept here

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_COLLECTIONS = (list, tuple, dict, set, deque)
#: Dictionaries of the standard library; of a defaultdict, what makes a value, by name.
_DICTS = (dict, OrderedDict, Counter, defaultdict)
_FACTORIES: Mapping[str, Any] = {"None": None, **{kind.__name__: kind for kind in (list, dict, set, int, float, deque)}}
#: nn.Module's and Lightning's own; whether a part is in training mode is state.
_INTERNAL = (set(vars(nn.Module())) | set(vars(pl.LightningModule()))) - {"training"}
_KIND = "tuner.kind"
_ABSENT = object()
#: A larger array is taken for unchanged while it is the same object.
_ARRAY_BYTES = 2**20

Marks = Mapping[tuple[str, str], Any]


class _Inside(dict[str, Any]):
    """The attributes of an object that the configuration builds again."""


class _Opaque(Exception):
    """The value holds something that is not plain."""


def marks(trainer: pl.Trainer) -> Marks:
    """Every attribute as it is now, to be compared with later; tensors are not copied."""
    return {(owner, name): _mark(value) for owner, name, value in _attributes(trainer)}


def changed(trainer: pl.Trainer, began: Marks) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Attributes that differ from `began`, for a file; and the names of those that had to be left out."""
    kept: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    parameters = {_storage(tensor) for tensor in trainer.lightning_module.state_dict(keep_vars=True).values()}
    for owner, name, value in _attributes(trainer):
        before = began.get((owner, name), _ABSENT)
        if _same(before, _mark(value)):
            continue
        try:
            inside = _is_of_user(value)  # as an attribute itself; within a collection it is not plain
            packed = _packed(dict(vars(value)) if inside else value, parameters)
            kept.setdefault(owner, {})[name] = {_KIND: "object", "value": packed} if inside else packed
        except _Opaque:
            if isinstance(value, _COLLECTIONS) or _is_of_user(value):
                left_out.append(f"{owner}.{name}" if owner else name)
    return kept, left_out


def restore(trainer: pl.Trainer, kept: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the attributes as they were when `changed` was called."""
    owners = dict(_owners(trainer))
    for owner, attributes in kept.items():
        for name, saved in attributes.items():
            if owner in owners:
                _set(owners[owner], name, _unpacked(saved, trainer.strategy.root_device))


def _owners(trainer: pl.Trainer) -> Iterator[tuple[str, Any]]:
    yield from trainer.lightning_module.named_modules()
    for place, callback in enumerate(trainer.callbacks):  # type: ignore[attr-defined]
        ours = type(callback).__module__.startswith(("lightning.", "tuner."))
        if not ours and not is_overridden("state_dict", callback, parent=pl.Callback):
            yield f"callback {place} {type(callback).__qualname__}", callback


def _attributes(trainer: pl.Trainer) -> Iterator[tuple[str, str, Any]]:
    for owner, thing in _owners(trainer):
        is_module = isinstance(thing, nn.Module)
        for name, value in vars(thing).items():
            if not (is_module and name in _INTERNAL):
                yield owner, name, value
        if is_module:
            for name in sorted(thing._non_persistent_buffers_set):
                yield owner, name, thing._buffers[name]


def _set(owner: Any, name: str, value: Any) -> None:
    """In place where others may hold the collection, too."""
    if isinstance(owner, nn.Module) and name in owner._buffers:
        owner._buffers[name] = value
        return
    there = vars(owner).get(name)
    if isinstance(value, _Inside):
        if there is not None:
            vars(there).clear()
            vars(there).update(value)
    elif type(there) is type(value) and isinstance(there, (list, dict, set, deque)):
        there.clear()
        there.extend(value) if isinstance(there, (list, deque)) else there.update(value)
    else:
        vars(owner)[name] = value


# -- comparing --------------------------------------------------------------------------------------------------


def _mark(value: Any, *, within: bool = False) -> Any:  # noqa: PLR0911 - a line for each kind of value
    if type(value) in _SCALARS:
        return value
    if isinstance(value, torch.Tensor):
        return (torch.Tensor, value, 0 if value.is_inference() else value._version)
    if isinstance(value, np.ndarray):
        return (np.ndarray, value.shape, value.tobytes() if value.nbytes <= _ARRAY_BYTES else id(value))
    if isinstance(value, dict):
        return (type(value), tuple(value), tuple(map(_mark, value.values())))
    if isinstance(value, _COLLECTIONS):
        return (type(value), tuple(map(_mark, value)))
    if within or not _is_of_user(value):
        return (object, id(value))
    inside = vars(value)
    return (object, id(value), tuple(inside), tuple(_mark(item, within=True) for item in inside.values()))


def _is_of_user(value: Any) -> bool:
    """Whether it is an object that may gather something: a meter, say."""
    made_by = type(value).__module__.partition(".")[0]
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (nn.Module, type, *_COLLECTIONS))
        and not callable(value)
        and made_by not in ("builtins", "functools", "lightning", "torch", "torchmetrics", "numpy", "tuner")
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other or (one != one and other != other))  # noqa: PLR0124 - NaN


# -- for a file -------------------------------------------------------------------------------------------------


def _packed(value: Any, parameters: set[Any]) -> Any:
    """Plain containers and tensors; `parameters` are storages that the module's state_dict has."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, torch.Tensor):
        if isinstance(value, nn.Parameter) or _storage(value) in parameters:
            raise _Opaque  # a view of a weight stays one
        return {_KIND: "tensor", "value": value.detach().cpu(), "accelerated": value.device.type != "cpu"}
    if isinstance(value, np.generic):
        return {_KIND: "scalar", "dtype": value.dtype.str, "value": value.tobytes()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {_KIND: "array", "dtype": value.dtype.str, "shape": list(value.shape), "value": value.tobytes()}
    if type(value) in _DICTS:
        pairs = [[_packed(key, parameters), _packed(item, parameters)] for key, item in value.items()]
        factory = [name for name, made in _FACTORIES.items() if made is getattr(value, "default_factory", None)]
        if not factory:
            raise _Opaque
        return {_KIND: type(value).__name__, "value": pairs, "factory": factory[0]}
    if type(value) in _COLLECTIONS:
        items = [_packed(item, parameters) for item in value]
        packed = {_KIND: type(value).__name__, "value": items}
        return {**packed, "maxlen": value.maxlen} if isinstance(value, deque) else packed
    raise _Opaque


def _unpacked(saved: Any, device: torch.device) -> Any:  # noqa: PLR0911 - a line for each kind of value
    if not isinstance(saved, dict):
        return saved
    value = saved["value"]
    match saved[_KIND]:
        case "tensor":
            return value.to(device) if saved["accelerated"] else value
        case "scalar":
            return np.frombuffer(value, saved["dtype"])[0]
        case "array":
            return np.frombuffer(value, saved["dtype"]).reshape(saved["shape"]).copy()
        case "dict" | "OrderedDict" | "Counter" | "defaultdict":
            found = {_unpacked(key, device): _unpacked(item, device) for key, item in value}
            match saved[_KIND]:
                case "defaultdict":
                    return defaultdict(_FACTORIES[saved["factory"]], found)
                case kind:
                    return {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}[kind](found)
        case "object":
            return _Inside(_unpacked(value, device))
        case kind:
            return _collected(kind, [_unpacked(item, device) for item in value], saved.get("maxlen"))


def _collected(kind: str, items: list[Any], longest: int | None) -> Any:
    if kind == "deque":
        return deque(items, longest)
    return {"list": list, "tuple": tuple, "set": set}[kind](items)


def _storage(tensor: torch.Tensor) -> Any:
    try:
        return tensor.untyped_storage().data_ptr() or object()
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return object()
