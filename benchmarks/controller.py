"""What the controller itself costs, per trial and to go on with a round, from an empty study to one of 10,000 trials.

`tuner` runs as on the command line, from the lease to the last record; only the workers are replaced, by one that
answers at once in this process. A trial is drawn and recorded, reports 20 values, or 20 on the way to each rung and to
the end where trials pause, and is told. The alternative is plain Optuna's ask, report and tell on the same database with
the same settings. Each measurement is a process of its own on a fresh copy of the same filled database, and the systems
take turns.

Every time that the worker waits for the controller is counted, by what it waits for. A proposal is a new configuration:
from the end of the trial before, the recording of it included, until the next one is given out. A paused trial that is
taken up again counts apart, in the same way. The answer at a rung is the time from a trial's value there until it is told
to go on or to pause. There is one worker, so none waits for another's turn. Now and then one waits for the model to be
fitted again, when the data has grown by a tenth; so in the first turn the default search with its pruner goes on for an
eighth more trials. A resumed round is the whole command, with real workers.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figures import (
    Spread,
    filled,
    heading,
    note,
    parser,
    plot_file,
    positive_int,
    short,
    table,
    temporary_folder,
    timed,
    verdict,
)
from filling import fill, fill_plain, is_complete
from scale.measurement import cell
from scale.systems import DEFAULTS, MAIN, PAUSING, PLAIN, PLAIN_STUDY, SYSTEMS, settings_of, words_of
from scale.worker import Kind

from tuner import ctrl_c

TARGET_MS, TARGET_GROWTH = 60.0, 2.0
TARGET_WAIT_MS, TARGET_MIB, TARGET_RESUME_S, TARGET_STATUS_S = 100.0, 500e6 / 2**20, 15.0, 3.0
POLL_S = 0.01
#: Curves of the waits in the figure, by what they show.
WAIT_STYLES: dict[str, dict[str, Any]] = {
    f"for {Kind.NEW}, median": {"marker": "o", "linestyle": "-"},
    f"for {Kind.ANSWER}, median": {"marker": "s", "linestyle": "--"},
    "for anything, worst": {"marker": "^", "linestyle": ":"},
}
#: Whole commands.
RESUMED, FROM_LEASE = "a resumed round until its first new trial", "of which since the lease"
STATUS, AGAIN = "`tuner status`", "the command of a finished round again"


class Bench:
    """Filled databases by system and size, and the figures measured on copies of them.

    Attributes:
        runs: figures of each process, by system and size.
        seconds: of whole commands at the largest size, by what they do.
        let_go_ms: for each paused trial, at the end of a round of the largest size.
    """

    def __init__(
        self, root: Path, sizes: Sequence[int], trials: int, *, systems: Sequence[str], at_once: int = 1
    ) -> None:
        self.root, self.sizes, self.trials = root, sizes, trials
        self.systems, self._at_once = systems, at_once
        self._copies = itertools.count()
        self.runs = defaultdict[tuple[str, int], list[dict[str, Any]]](list)
        self.seconds = defaultdict[str, list[float]](list)
        self.let_go_ms: list[float] = []

    def template(self, system: str, size: int) -> Path:
        return self.root / f"{list(SYSTEMS).index(system)}-{size}"

    def fill(self) -> None:
        for system in self.systems:
            for size in self.sizes:
                folder = self.template(system, size)
                settings = settings_of(system, folder, size or 1)
                began = time.perf_counter()
                if system == PLAIN:
                    fill_plain(settings, PLAIN_STUDY, size)
                else:
                    fill(settings, size)
                note(f"filled: {system}, {size} trials, {time.perf_counter() - began:.1f} s")

    def measure(self, repeat: int) -> None:
        # Each repeat starts with another system, so that none always follows the same one.
        first = repeat % len(self.systems)
        jobs = [
            functools.partial(self.run, system, size, repeat)
            for size in self.sizes
            for system in [*self.systems[first:], *self.systems[:first]]
        ]
        with ThreadPoolExecutor(self._at_once) as pool:
            for _ in pool.map(lambda job: job(), [*jobs, self.resume, self.commands, self.close]):
                pass

    def run(self, system: str, size: int, repeat: int) -> None:
        eighth = size // 8 if system == PAUSING and repeat == 0 else 0
        figures = self.child("run", system, size, max(self.trials, eighth))
        self.runs[system, size].append(figures)
        note(f"{system}, {size} trials: {Spread.of(figures['trial_ms'])} ms")

    def child(self, kind: str, system: str, size: int, trials: int) -> dict[str, Any]:
        with self.copy(system, size) as folder:
            words = [str(Path(__file__).resolve()), "--cell", kind, system, str(folder), str(size), str(trials)]
            _, [printed] = timed([words], self.root)
        *before, last = printed.splitlines()
        if before:
            note("\n".join(before))
        figures: dict[str, Any] = json.loads(last)
        return figures

    def resume(self) -> None:
        """The whole command that goes on with a round, real workers and all, until its first new trial is recorded."""
        size = self.sizes[-1]
        with self.copy(PAUSING, size) as folder:
            command = [sys.executable, "-m", "tuner", *words_of(PAUSING, folder, size + 1)]
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                leased, drawn = _leased_and_drawn(process, folder / "tuner.db", size)
                process.send_signal(signal.SIGINT)
                printed, _ = process.communicate()
            finally:
                process.kill()
        if process.returncode != ctrl_c.INTERRUPTED:
            raise RuntimeError(f"the resumed round ended with exit code {process.returncode}:\n{printed[-4000:]}")
        self.seconds[RESUMED].append(drawn - began)
        self.seconds[FROM_LEASE].append(drawn - leased)
        note(f"resumed, {size} trials: {drawn - began:.1f} s, {drawn - leased:.1f} s from the lease")

    def commands(self) -> None:
        """Whole commands on a finished round."""
        size = self.sizes[-1]
        with self.copy(PAUSING, size) as folder:
            again = words_of(PAUSING, folder, size)
            for name, words in {STATUS: ["status", again[-2]], AGAIN: again}.items():
                seconds, _ = timed([["-m", "tuner", *words]], self.root)
                self.seconds[name].append(seconds)

    def close(self) -> None:
        size = self.sizes[-1]
        paused = sum(1 for number in range(size) if not is_complete(number))
        self.let_go_ms.append(1e3 * self.child("close", PAUSING, size, 0)["seconds"] / paused)

    @contextlib.contextmanager
    def copy(self, system: str, size: int) -> Iterator[Path]:
        folder = self.root / f"copy-{next(self._copies)}"
        shutil.copytree(self.template(system, size), folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # -- tables -----------------------------------------------------------------------------------------------------

    def per_trial(self, *, markdown: bool) -> str:
        header = [
            "ms per trial",
            *(f"{size:,} present" for size in self.sizes),
            f"growth to {self.sizes[-1]:,}",
            f"plain Optuna / this, {self.sizes[-1]:,}",
        ]
        rows = []
        for system in self.systems:
            cells = [str(self.spread("trial_ms", system, size)) for size in self.sizes]
            rows.append([system, *cells, str(self._growth(system)), str(self._against_plain(system))])
        return table(header, rows, markdown=markdown)

    def waits(self, *, markdown: bool) -> str:
        """With how many were above the target, which tells a refitted model from a machine that was busy."""
        rows = []
        for system in self.systems:
            for kind in Kind:
                spreads = [self.waits_for([kind], system, size) for size in self.sizes]
                if any(one.values for one in spreads):
                    rows.append([system, str(kind), *map(_wait_cell, spreads)])
        header = [
            f"ms that a worker waits: median, worst, above {TARGET_WAIT_MS:g}, n",
            "for",
            *(f"{size:,} present" for size in self.sizes),
        ]
        return table(header, rows, markdown=markdown)

    def phases(self, *, markdown: bool) -> str:
        """Means, because what happens seldom and costs much, as fitting the model, is in them."""
        names = ["draw", "record", "measure", "note", "flush", "tell", "decide", "task", "show", "lease", "files"]
        rows = []
        for system in self.systems:
            for size in self.sizes:
                runs = self.runs[system, size]
                means = {name: Spread.of([run["phases_ms"].get(name, 0.0) for run in runs]).median for name in names}
                total = Spread.of([Spread.of(run["trial_ms"]).mean for run in runs]).median
                rows.append([system, f"{size:,}", *(short(means[name]) for name in names), short(total)])
        return table(["ms per trial, means", "present", *names, "all"], rows, markdown=markdown)

    def opening(self, *, markdown: bool) -> str:
        rows = []
        for system in self.systems:
            for size in self.sizes:
                runs = self.runs[system, size]
                facts = [str(Spread.of([run[key] for run in runs])) for key in ("open_s", "first_s", "peak_mib")]
                rows.append([system, f"{size:,}", *facts])
        return table(
            ["a controller", "present", "open, s", "first draw, s", "peak memory, MiB"], rows, markdown=markdown
        )

    def others(self, *, markdown: bool) -> str:
        rows = [[name, f"{Spread.of(values)} s"] for name, values in self.seconds.items()]
        rows.append(["a paused trial let go at the end of a round", f"{Spread.of(self.let_go_ms)} ms"])
        return table([f"{self.sizes[-1]:,} trials", "time"], rows, markdown=markdown)

    def verdicts(self) -> list[str]:
        last, sizes = self.sizes[-1], self.sizes
        growth = self._growth(MAIN).median
        cost = max(self.spread("trial_ms", MAIN, size).median for size in sizes)
        proposal, answer = (self._highest_median(kind) for kind in (Kind.NEW, Kind.ANSWER))
        waits = Spread.of(
            [ms for system in DEFAULTS for size in sizes for ms in self.waits_for(tuple(Kind), system, size).values]
        )
        worst, late = max(waits.values), f"{_above(waits):,} of {len(waits.values):,} above {TARGET_WAIT_MS:g}"
        memory = max(run["peak_mib"] for system in DEFAULTS for run in self.runs[system, last])
        resumed, status = max(self.seconds[RESUMED]), max(self.seconds[STATUS])
        facts = [
            (f"{short(cost)} ms per trial at most", cost, TARGET_MS, ""),
            (f"{short(growth)} times the cost at {last:,} trials", growth, TARGET_GROWTH, ""),
            (f"{short(proposal)} ms at most for a proposal (new configurations, median)", proposal, TARGET_WAIT_MS, ""),
            (f"{short(answer)} ms at most for the answer at a rung (median)", answer, None, ""),
            (f"{short(worst)} ms at most that a worker waits for anything ({late})", worst, TARGET_WAIT_MS, ""),
            (f"{memory:.0f} MiB at {last:,} trials", memory, TARGET_MIB, " (500 MB)"),
            (f"{short(resumed)} s at most until a resumed round has drawn", resumed, TARGET_RESUME_S, " s"),
            (f"{short(status)} s at most for its status", status, TARGET_STATUS_S, " s"),
        ]
        return [_verdict(*fact) for fact in facts]

    def plot(self, file: Path) -> None:
        """Cost of a trial, and what a worker waits, over the number of trials present."""
        # Half a second that each measurement would pay for.
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

        figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
        trials, waits = figure.subplots(1, 2)
        for system in self.systems:
            spreads = [self.spread("trial_ms", system, size) for size in self.sizes]
            [line] = trials.plot(self.sizes, [one.median for one in spreads], marker="o", label=system)
            quartiles = [[one.quantile(share) for one in spreads] for share in (0.25, 0.75)]
            trials.fill_between(self.sizes, *quartiles, color=line.get_color(), alpha=0.2, linewidth=0)
            for curve, style in zip(self._wait_curves(system), WAIT_STYLES.values(), strict=True):
                waits.plot(self.sizes, curve, color=line.get_color(), **style)
        for label, style in WAIT_STYLES.items():
            waits.plot([], [], color="grey", label=label, **style)
        waits.axhline(TARGET_WAIT_MS, color="grey", linewidth=0.8, label="target of the default search")
        trials.set_title("ms per trial: median and quartiles", loc="left")
        waits.set_title("ms that a worker waits", loc="left")
        trials.set_ylim(bottom=0)
        waits.set_yscale("log")
        waits.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        waits.yaxis.set_major_formatter("{x:g}")
        waits.yaxis.set_minor_formatter(NullFormatter())
        for axes in (trials, waits):
            linear_to = next(size for size in self.sizes if size)
            axes.set_xscale("symlog", linthresh=linear_to)
            axes.set_xlim(-linear_to / 10, 1.2 * self.sizes[-1])
            axes.set_xticks(self.sizes, [f"{size:,}" for size in self.sizes])
            axes.tick_params(which="minor", length=0)
            axes.legend(fontsize=7, frameon=False)
            axes.set_xlabel("trials in the round")
            axes.grid(visible=True, alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file)

    def spread(self, what: str, system: str, size: int) -> Spread:
        """All values of one quantity, of all processes."""
        return Spread.of([value for run in self.runs[system, size] for value in run[what]])

    def waits_for(self, kinds: Sequence[Kind], system: str, size: int) -> Spread:
        """All waits of these kinds, of all processes, in ms; there may be none."""
        return Spread.of([ms for run in self.runs[system, size] for kind in kinds for ms in run["waits_ms"][kind]])

    def _highest_median(self, kind: Kind) -> float:
        """Of the default search's waits, over the sizes."""
        spreads = [self.waits_for([kind], system, size) for system in DEFAULTS for size in self.sizes]
        return max(one.median for one in spreads if one.values)

    def _wait_curves(self, system: str) -> list[list[float]]:
        """Those of `WAIT_STYLES`, by size; not a number where nothing was waited for."""
        new, answers, anything = (
            [self.waits_for(kinds, system, size) for size in self.sizes]
            for kinds in ([Kind.NEW], [Kind.ANSWER], tuple(Kind))
        )
        medians = [[one.median if one.values else math.nan for one in spreads] for spreads in (new, answers)]
        return [*medians, [max(one.values) for one in anything]]

    def _growth(self, system: str) -> Spread:
        """Cost at the largest size over that at the smallest, repeat by repeat."""
        first, last = self._medians(system, self.sizes[0]), self._medians(system, self.sizes[-1])
        return Spread.of([after / before for before, after in zip(first, last, strict=True)])

    def _against_plain(self, system: str) -> Spread:
        """Plain Optuna's cost over this one's at the largest size, repeat by repeat."""
        plain, own = self._medians(PLAIN, self.sizes[-1]), self._medians(system, self.sizes[-1])
        return Spread.of([theirs / ours for theirs, ours in zip(plain, own, strict=True)])

    def _medians(self, system: str, size: int) -> list[float]:
        return [Spread.of(run["trial_ms"]).median for run in self.runs[system, size]]


def _wait_cell(waits: Spread) -> str:
    if not waits.values:
        return "none"
    return f"{short(waits.median)}, {short(max(waits.values))}, {_above(waits)}, {len(waits.values)}"


def _above(waits: Spread) -> int:
    return sum(ms > TARGET_WAIT_MS for ms in waits.values)


def _verdict(fact: str, found: float, target: float | None, unit: str) -> str:
    if target is None:
        return f"measured: {fact}"
    return verdict(fact, f"below {target:.3g}{unit}", met=found < target)


def _leased_and_drawn(process: subprocess.Popen[str], file: Path, number: int) -> tuple[float, float]:
    """When a controller had its lease, and when it had recorded trial `number`, or had ended without."""
    lease, trial = (
        "SELECT EXISTS (SELECT 1 FROM tuner_leases)",
        f"SELECT EXISTS (SELECT 1 FROM trials WHERE number = {number})",
    )
    leased = None
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as database:
        while process.poll() is None and not database.execute(trial).fetchone()[0]:
            if leased is None and database.execute(lease).fetchone()[0]:
                leased = time.perf_counter()
            time.sleep(POLL_S)
    drawn = time.perf_counter()
    return drawn if leased is None else leased, drawn


def present(text: str) -> int:
    """Type of a number of trials beforehand."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number, 0 or more, is wanted, not {text!r}")
    return int(text)


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--sizes", type=present, nargs="+", help="trials in the study beforehand")
    made.add_argument("--trials", type=positive_int, help="trials measured in each process")
    made.add_argument("--repeats", type=positive_int, help="processes for each system and size")
    made.add_argument("--plot", type=plot_file, help="file of a figure (PNG, SVG or PDF)")
    made.add_argument("--profile", action="store_true", help="only profile the default at the largest size")
    usual = {"sizes": [0, 100, 1_000, 3_000, 10_000], "trials": 30, "repeats": 5}
    asked = filled(made.parse_args(), usual=usual, quick={"sizes": [0, 100], "trials": 5, "repeats": 1})
    asked.sizes = sorted(set(asked.sizes))
    if not asked.sizes[-1]:
        made.error("argument --sizes: one above 0 is wanted too, because an empty round is not resumed")
    return asked


def main() -> None:
    asked = options()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does before it imports numpy
    systems = (*DEFAULTS, PLAIN) if asked.quick else tuple(SYSTEMS)
    # A smoke test is after mistakes, not times.
    at_once = os.cpu_count() or 1 if asked.quick else 1
    with temporary_folder() as folder:
        bench = Bench(folder, asked.sizes, asked.trials, systems=systems, at_once=at_once)
        bench.fill()
        if asked.profile:
            bench.child("profile", MAIN, asked.sizes[-1], asked.trials)
            return
        for repeat in range(asked.repeats):
            bench.measure(repeat)
    print(heading(markdown=asked.markdown))
    for part in (bench.per_trial, bench.waits, bench.phases, bench.opening, bench.others):
        print(f"\n{part(markdown=asked.markdown)}")
    print()
    print("\n".join(f"{'- ' if asked.markdown else ''}{line}" for line in bench.verdicts()))
    if asked.plot:
        bench.plot(asked.plot)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        cell(sys.argv[2:])
    else:
        main()
