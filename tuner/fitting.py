"""Batches larger than the memory: the largest micro-batch that fits, and what a trial's batch is made of then.

A batch that does not fit is trained as several smaller ones whose gradients are added up before each step. A step is
then that of the whole batch, but for layers that look at a batch as a whole (batch norm sees micro-batches), and for the
last step of an epoch, which may have fewer of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.space import Categorical, Int, LogInt, Parameter, Space, Value

#: The key whose value is divided.
BATCH_SIZE = "batch_size"
#: So many combinations of widths are measured one by one; of more only the largest, which holds for all.
MOST_COMBINATIONS = 16


@dataclass(frozen=True)
class BatchFit:
    """The largest micro-batches, as measured.

    Attributes:
        path: of the batch size in the configuration.
        widths: parameters that were measured value by value; what else needs memory was at its largest.
        largest: micro-batch by `key` of the widths' values.
    """

    path: str
    widths: tuple[str, ...]
    largest: Mapping[str, int]

    def apply(self, config: dict[str, Any], values: Mapping[str, Value]) -> dict[str, int]:
        """Divide the batch of a trial's configuration where it has to be; what was done, as the trial's attributes."""
        *parents, last = self.path.split(".")
        node = config
        for part in parents:
            node = node[part]
        batch = node.get(last)
        fits = self.largest.get(key({name: values[name] for name in self.widths if name in values}))
        if fits is None or not isinstance(batch, int) or batch <= fits:
            return {}
        micro, times = divided(batch, fits)
        node[last] = micro
        trainer = config["trainer"]
        trainer["accumulate_grad_batches"] = times * (trainer.get("accumulate_grad_batches") or 1)
        return {"micro_batch": micro, "accumulate_grad_batches": times}


def divided(batch: int, largest: int) -> tuple[int, int]:
    """(micro-batch, number of them) of equal size that make up a batch, each at most `largest`.

    A batch that has no such parts but tiny ones, as 257 of at most 256, becomes a little larger: less than one sample
    more for each part.

    Raises:
        ValueError: `largest` is not positive.
    """
    if largest < 1:
        raise ValueError(f"a micro-batch has at least one sample, not {largest}")
    fewest = -(-batch // largest)
    times = next((times for times in range(fewest, 2 * fewest) if batch % times == 0), fewest)
    return -(-batch // times), times


def key(widths: Mapping[str, Value]) -> str:
    """What a measurement is stored under."""
    return " ".join(f"{name}={widths[name]}" for name in sorted(widths))


def batch_path(space: Space, data: Mapping[str, Any] | None) -> str | None:
    """Where the batch size is written: the path of the parameter that is one, else `data.batch_size` if it is there."""
    for parameter in space:
        if _is_batch_size(parameter):
            return parameter.path
    return f"data.{BATCH_SIZE}" if data and BATCH_SIZE in data else None


def largest_batch(space: Space, own: Any) -> int | None:
    """The largest batch that a round may draw: `own` is the study's, where no parameter is the batch size."""
    found = [size for parameter in space if _is_batch_size(parameter) for size in _values(parameter)] or [own]
    whole = [int(size) for size in found if isinstance(size, int) and not isinstance(size, bool) and size > 0]
    return max(whole, default=None)


def combinations(space: Space) -> tuple[tuple[str, ...], list[dict[str, Value]]]:
    """What is to be measured: names of the widths that are measured value by value, and the values of each measurement.

    A range without steps, and what would make too many combinations, is measured at its largest, which holds for all.
    """
    values = {p.name: _values(p) for p in space if p.memory and not _is_batch_size(p)}
    single = {name: found for name, found in values.items() if len(found) > 1}
    while math.prod(map(len, single.values())) > MOST_COMBINATIONS:
        ordered = [name for name in single if space[name].scale.ordered]
        if not ordered:
            break
        del single[max(ordered, key=lambda name: len(single[name]))]
    at_most = {name: max(found) for name, found in values.items() if name not in single}
    measured: list[dict[str, Value]] = []
    for chosen in itertools.product(*single.values()):
        # What another width switches off is not there, and does not make a combination of its own.
        values_there = _there(space, at_most | dict(zip(single, chosen, strict=True)))
        if values_there not in measured:
            measured.append(values_there)
    return tuple(single), measured


def _there(space: Space, widths: Mapping[str, Value]) -> dict[str, Value]:
    def is_off(parameter: Parameter) -> bool:
        return any(name in widths and widths[name] not in allowed for name, allowed in parameter.when.items())

    return {name: value for name, value in widths.items() if not is_off(space[name])}


def _is_batch_size(parameter: Parameter) -> bool:
    return parameter.path.rpartition(".")[2] == BATCH_SIZE


def _values(parameter: Parameter) -> list[Any]:
    """All values of a parameter that has few; of another one the highest that may be drawn."""
    scale: Any = parameter.scale
    if isinstance(scale, Categorical):
        return list(scale.choices)
    low, high = scale.limit or (scale.low, scale.high)
    few = isinstance(scale, Int | LogInt) and (high - low) // _step(scale) < MOST_COMBINATIONS
    return list(range(low, high + 1, _step(scale))) if few else [high]


def _step(scale: Int | LogInt) -> int:
    return scale.step if isinstance(scale, Int) else 1
