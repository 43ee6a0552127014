"""What `self.log` has gathered since an epoch began: sums for means, and which metrics were named.

Lightning keeps it in the loop's results and in no checkpoint, so that the values of an epoch that goes on in its middle
would be those of its second part. Metrics of torchmetrics are named here; their state is the module's (`attributes`).
"""

# ruff: noqa: SLF001 - what Lightning and torch keep to themselves is what has to be kept here

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)

_META = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph"),
    *("add_dataloader_idx", "dataloader_idx", "metric_attribute"),
)
_VALUES = ("_computed", "_forward_cache", "_update_count", "has_reset")
_SUMS = ("value", "cumulated_batch_size")
#: By name, first torch's: a module may write `reduce_fx=max`, too.
_REDUCTIONS = {
    **{name: getattr(torch, name) for name in ("mean", "sum", "min", "max")},
    **{f"builtins.{name}": getattr(builtins, name) for name in ("sum", "min", "max")},
}


def state(trainer: pl.Trainer) -> dict[str, Any] | None:
    """What was logged in this epoch, for a file; None where it cannot be written."""
    results = trainer.fit_loop.epoch_loop._results
    if not all(_can_be_written(metric) for metric in results.values()):
        return None
    connector = trainer._logger_connector
    return {
        "metrics": {key: _packed(metric) for key, metric in results.items()},
        "first": connector._first_loop_iter,
        "hook": connector._current_fx,
    }


def restore(trainer: pl.Trainer, saved: Mapping[str, Any]) -> None:
    """Let the epoch's results be those of `state`."""
    results: _ResultCollection = trainer.fit_loop.epoch_loop._results
    results.clear()
    results.update({key: _unpacked(trainer, metric) for key, metric in saved["metrics"].items()})
    connector = trainer._logger_connector
    connector._first_loop_iter, connector._current_fx = saved["first"], saved["hook"]


def _can_be_written(metric: _ResultMetric) -> bool:
    meta = metric.meta
    named = metric.is_tensor or meta.metric_attribute is not None
    plain = all(isinstance(getattr(metric, name, None), (torch.Tensor, int, type(None))) for name in _VALUES)
    return named and plain and meta.reduce_fx in _REDUCTIONS.values() and meta.sync.group is None


def _packed(metric: _ResultMetric) -> dict[str, Any]:
    meta = metric.meta
    names = (*_VALUES, *(_SUMS if metric.is_tensor else ()))
    return {
        "is_tensor": metric.is_tensor,
        "meta": {name: getattr(meta, name) for name in _META},
        "reduction": next(name for name, reduce in _REDUCTIONS.items() if reduce is meta.reduce_fx),
        "sync": {"should": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only},
        "values": {name: _detached(getattr(metric, name)) for name in names if hasattr(metric, name)},
    }


def _unpacked(trainer: pl.Trainer, saved: Mapping[str, Any]) -> _ResultMetric:
    meta = _Metadata(**saved["meta"], reduce_fx=_REDUCTIONS[saved["reduction"]])
    sync = saved["sync"]
    meta.sync = _Sync(fn=trainer.strategy.reduce, _should=sync["should"], rank_zero_only=sync["rank_zero_only"])
    metric = _ResultMetric(meta, saved["is_tensor"])
    device = trainer.strategy.root_device
    for name, value in saved["values"].items():
        setattr(metric, name, value.to(device) if isinstance(value, torch.Tensor) else value)
    if not saved["is_tensor"]:
        metric.value = trainer.lightning_module.get_submodule(saved["meta"]["metric_attribute"])
    return metric


def _detached(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
