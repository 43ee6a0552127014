"""What a round shows while it runs: a live table on a terminal, one line per ended trial elsewhere."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuner import advice
from tuner.config import Settings
from tuner.round import Round, Watcher
from tuner.search.history import State
from tuner.search.promotion import Plan
from tuner.search.stages import Stage

#: The terminal is drawn this often.
REFRESH_PER_S = 4


class _Console(Console):
    """Falls silent when nobody reads it any more, which is no reason to end: after Ctrl-C in `tuner 2>&1 | tee log` say."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Progress(Watcher):
    """Shows a round on standard error; a context manager, so that a terminal is left in order."""

    def __init__(self, settings: Settings, name: str, plan: Plan, stage_of: Callable[[int], str]) -> None:
        if settings.study is None:
            raise ValueError("a round needs a study")
        self._space = settings.study.space
        self._objective, self._name, self._plan, self._stage_of = settings.study.objective, name, plan, stage_of
        self._timeout_s = settings.search.timeout_s
        self._console = _Console(file=sys.stderr, stderr=True)
        self._live = (
            Live(console=self._console, refresh_per_second=REFRESH_PER_S, transient=True)
            if self._console.is_terminal
            else None
        )
        self._best: tuple[int, float] | None = None
        self._began: tuple[float, float] | None = None  # (seconds used, epochs spent) when this call began

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self.note(f"{self._name}: preparing workers")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """One line above the table."""
        self._console.print(Text(text), soft_wrap=True, highlight=False)

    def stage(self, stage: Stage) -> None:
        """A stage begins."""
        self.note(f"stage {stage.name}, from trial {stage.starts_at}: {stage.reason}")
        if stage.elites:
            self.note(
                f"  elites {', '.join(map(str, stage.elites))}; box {advice.spans(advice.ranges(self._space, stage.box))}"
            )

    def trial_left(self, number: int, state: State, attributes: Mapping[str, Any]) -> None:
        readings = attributes.get("readings") or []
        value = readings[-1][1] if readings else None
        if (
            state is State.COMPLETE
            and value is not None
            and self._objective.is_better(value, self._best and self._best[1])
        ):
            self._best = (number, value)
        if self._live and state in (State.COMPLETE, State.PRUNED, State.PAUSED):
            return  # the table counts them
        parts = [f"trial {number} {state}"]
        if value is not None:
            epochs = readings[-1][0]
            after = f"{epochs} epoch{'' if epochs == 1 else 's'}"
            parts.append(f"{self._objective.metric}={advice.short(value)} after {after}")
        if self._best:
            parts.append(f"best {advice.short(self._best[1])} by {self._best[0]}")
        parts.append(advice.listed(attributes.get("hyperparameters", {})))
        if attributes.get("reason"):
            parts.append(str(attributes["reason"]))
        self.note("; ".join(parts))

    def tick(self, round_: Round) -> None:
        if self._began is None:
            self._began = (round_.seconds_used, round_.history.spent)
            self._best = self._best or _best_before(round_)
        if self._live:
            self._live.update(self._table(round_))

    def _table(self, round_: Round) -> Group:
        table = Table(title=self._name, title_justify="left", show_header=False, box=None)
        history = round_.history
        counts = collections.Counter(str(entry.state) for entry in history)
        table.add_row("stage", self._stage_of(max(len(history) - 1, 0)))
        table.add_row("trials", ", ".join(f"{count} {state}" for state, count in counts.most_common()) or "none yet")
        best = (
            f"{self._objective.metric}={advice.short(self._best[1])} by trial {self._best[0]}"
            if self._best
            else "none trained in full yet"
        )
        table.add_row("best", best)
        table.add_row("time", f"{round_.seconds_used:.0f} s used, {self._left(round_)}")
        return Group(table)

    def _left(self, round_: Round) -> str:
        """Seconds left, by the pace of this call; running trials count as half done."""
        guesses = []
        if self._timeout_s is not None:
            guesses.append(self._timeout_s - round_.seconds_used)
        seconds, before = self._began or (0.0, 0)
        spent, total = round_.history.spent, self._plan.budget_epochs
        if self._plan.trials is not None:
            share = min(len(round_.history) / self._plan.trials, 1.0)
            total = min(total or float("inf"), spent / share) if share else total
        pace = (spent - before) / max(round_.seconds_used - seconds, 1e-9)
        if total is not None and spent > before:
            guesses.append((total - spent) / pace)
        return f"about {max(min(guesses), 0):.0f} s left" if guesses else "no estimate yet"


def _best_before(round_: Round) -> tuple[int, float] | None:
    best = min(round_.history.ranked(round_.plan.epochs), default=None)
    return (best[1], round_.study.objective.cost(best[0])) if best else None
