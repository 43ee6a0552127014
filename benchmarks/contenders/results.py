"""What the runs of a race come to: tables, verdicts and a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import interval, short, table, verdict
from matplotlib.figure import Figure

from contenders.curves import Curve, Run, Seed, mean_of, share_until, steps, value_at
from contenders.race import CONTENDERS, OWN, Race

#: Of the budget, until tuner is where the best plain Optuna ends.
TARGET = 0.5
#: Shares of the budget at which the tables have values.
SHARES = tuple(tenth / 10 for tenth in range(1, 11))
#: And those at which the figure has its bands.
FINE = tuple(place / 100 for place in range(1, 101))


@dataclass(frozen=True)
class Results:
    """Of one study.

    Attributes:
        race: what was run.
        seeds: runs by name for each seed.
        tests: test values, likewise.
        remarks: what a reader has to know of the runs; see `Race.remarks`.
    """

    race: Race
    seeds: Sequence[Seed]
    tests: Sequence[Mapping[str, Sequence[float]]]
    remarks: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        return [name for name in CONTENDERS if name in self.seeds[0]]

    def over_time(self, curve: Curve, *, markdown: bool) -> str:
        """Means over seeds at tenths of the budget, with their intervals, in percent."""
        rows = []
        for name in self.names:
            values = [[value_at(curve(seed[name]), share) for seed in self.seeds] for share in SHARES]
            rows.append([CONTENDERS[name].title, *map(_percent_of, values)])
        header = ["share of the budget", *(f"{share:.0%}" for share in SHARES)]
        return table(header, rows, markdown=markdown)

    def summary(self, *, markdown: bool) -> str:
        """Work done, what was recommended and how it tests, and how long tuner took to be where each one ended."""
        rows = []
        for name in self.names:
            runs = [seed[name] for seed in self.seeds]
            rows.append(
                [
                    CONTENDERS[name].title,
                    short(statistics.fmean(run.trainings for run in runs)),
                    short(statistics.fmean(run.epochs for run in runs)),
                    _percent_of([value_at(run.recommended, 1.0) for run in runs]),
                    _percent_of([self._test(place, name) for place in range(len(runs))]),
                    *(self._against(name) if OWN in self.names and name != OWN else ["", "", ""]),
                ]
            )
        header = ["", "trainings", "epochs", "recommended: val, %", "test, trained afresh, %", "tuner's test minus this, points", "tuner is there after, best so far", "tuner is there after, recommended"]  # fmt: skip
        return table(header, rows, markdown=markdown)

    def _test(self, place: int, name: str) -> float:
        found = self.tests[place][name]
        return statistics.fmean(found) if found else math.nan

    def _against(self, name: str) -> list[str]:
        ahead = [self._test(place, OWN) - self._test(place, name) for place in range(len(self.seeds))]
        return [_percent_of(ahead, signed=True), *(self.share(name, curve)[0] for curve in (seen, recommended))]

    def share(self, name: str | None, curve: Curve) -> tuple[str, float]:
        """Of the budget, until tuner has what another one has at its end; with None, the best of plain Optuna's."""
        others = [name] if name else [one for one in self.names if one.startswith("optuna")]
        statistic = share_until(self.seeds, OWN, others, curve)
        places = range(len(self.seeds))
        found = statistic(places)
        if math.isnan(found):
            return "", found
        if len(places) == 1:
            return _percent(found), found
        low, high = interval(places, statistic)
        return f"{_percent(found)} ({_percent(low)} to {_percent(high)})", found

    def verdicts(self) -> Iterator[str]:
        if OWN not in self.names or not any(name.startswith("optuna") for name in self.names):
            return
        for curve, what in ((seen, "best validation value"), (recommended, "validation value of the recommended")):
            said, found = self.share(None, curve)
            if math.isnan(found):
                continue  # plain Optuna has nothing to be compared with
            fact = f"{self.race.study.name}: share of the budget until tuner has the {what} that the best plain Optuna has at its end: {said}"
            yield verdict(fact, f"at most {TARGET:.0%}", met=found <= TARGET)


def seen(run: Run) -> Any:
    return run.seen


def recommended(run: Run) -> Any:
    return run.recommended


def _percent_of(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean with its interval, of the seeds that have a value."""
    known = [100 * value for value in values if not math.isnan(value)]
    if not known:
        return ""
    plus = "+" if signed else ""
    bounds = ""
    if len(known) > 1:
        low, high = interval(known)
        bounds = f"{low:{plus}.1f} to {high:{plus}.1f}"
    missing = f"{len(known)} of {len(values)}" if len(known) < len(values) else ""
    more = ", ".join(filter(None, [bounds, missing]))
    return f"{statistics.fmean(known):{plus}.2f}" + (f" ({more})" if more else "")


def _percent(share: float) -> str:
    return "never" if math.isinf(share) else f"{share:.0%}"


def plot(found: Sequence[Results], file: Path) -> None:
    """Best validation value over time: the mean of the seeds, in a band of its interval."""
    figure = Figure(figsize=(8, 4.5 * len(found)), dpi=150, layout="constrained")
    for results, axes in zip(found, figure.subplots(len(found), squeeze=False)[:, 0], strict=True):
        for name in results.names:
            one, curves = CONTENDERS[name], [seed[name].seen for seed in results.seeds]
            style: dict[str, Any] = {"color": f"C{(list(CONTENDERS).index(name) + 1) // 2}", "linewidth": 1.2}
            if name == OWN:
                style = {"color": "black", "linewidth": 2.2}
            elif one.processes is not None and not one.peers:
                style["linestyle"] = "--"
            shares, values = steps(mean_of(curves))
            axes.step(
                [share * results.race.seconds for share in shares], values, where="post", label=one.title, **style
            )
            if len(curves) > 1 and shares:
                grid = [share for share in FINE if share >= shares[0]]
                bounds = [interval([value_at(curve, share) for curve in curves], draws=500) for share in grid]
                times = [share * results.race.seconds for share in grid]
                axes.fill_between(times, *zip(*bounds, strict=True), step="post", color=style["color"], alpha=0.08)
        ends = [value_at(seed[name].seen, 1.0) for seed in results.seeds for name in results.names]
        starts = [value_at(mean_of([seed[name].seen for seed in results.seeds]), 0.3) for name in results.names]
        low = min((value for value in starts if not math.isnan(value)), default=0.0)
        high = max((value for value in ends if not math.isnan(value)), default=1.0)
        axes.set_ylim(low - 0.2 * (high - low), high + 0.05 * (high - low))
        axes.set_xlim(0, results.race.seconds)
        axes.set_xlabel("seconds since the start of the processes")
        axes.set_ylabel("best val/acc so far, mean of the seeds")
        axes.set_title(f"{results.race.study.name}, n={len(results.seeds)}", loc="left")
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(file)
