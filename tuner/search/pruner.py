"""An Optuna pruner with the rule of `promotion` in its stopping form, for scripts whose trials cannot pause."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from itertools import count, takewhile

from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.search.history import Entry, Reading, State
from tuner.search.promotion import survives
from tuner.search.trial_reader import TrialReader


class RungPruner(BasePruner):
    """Stops a trial at a rung unless it is among the best 1/eta of those that came there so far.

    The first trial at a rung always goes on, and a value that is not finite never does. A trial that does not report
    at the very step of a rung is compared with the first value that it reports after it.

    Args:
        rungs: steps at which trials are compared, ascending.
        first: instead of `rungs`, the first of them; each further one is `eta` times as far.
        eta: one in `eta` trials goes on.

    Raises:
        ValueError: both or neither of `rungs` and `first` are given, or they are out of range.
    """

    def __init__(self, rungs: Sequence[int] | None = None, *, first: int | None = None, eta: int = 4) -> None:
        if (rungs is None) == (first is None):
            raise ValueError("give either rungs or first")
        if eta < 2 or (first is not None and first < 1) or list(rungs or ()) != sorted(set(rungs or ())):
            raise ValueError("eta must be at least 2, first at least 1, and rungs ascending")
        self._rungs = None if rungs is None else tuple(rungs)
        self._first, self._eta = first or 1, eta
        self._sign = 1.0
        self._lock = threading.Lock()
        self._reader = TrialReader(self._entry)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None:
            return False
        if not math.isfinite(trial.intermediate_values[step]):
            return True
        before = max((earlier for earlier in trial.intermediate_values if earlier < step), default=-1)
        crossed = [rung for rung in self._rungs_until(step) if rung > before]
        if not crossed:
            return False
        with self._lock:
            self._sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
            history = self._reader.update(study.get_trials(deepcopy=False), without=trial.number)
            history.add(self._entry(trial))
            return not survives(history, trial.number, crossed[-1], self._eta)

    def _rungs_until(self, step: int) -> list[int]:
        rungs = iter(self._rungs) if self._rungs is not None else (self._first * self._eta**k for k in count())
        return list(takewhile(lambda rung: rung <= step, rungs))

    def _entry(self, trial: FrozenTrial) -> Entry:
        steps = sorted(trial.intermediate_values.items())
        last, value = steps[-1] if steps else (0, 0.0)
        readings = tuple(
            Reading(rung, self._sign * next(value for step, value in steps if step >= rung), order)
            for order, rung in enumerate(self._rungs_until(last))
        )
        lost = trial.state in (TrialState.PRUNED, TrialState.FAIL) and not math.isfinite(value)
        # A lost trial had set out for all rungs.
        target = sys.maxsize if lost else last
        return Entry(trial.number, {}, State.DIVERGED if lost else State.RUNNING, readings, target=target)
