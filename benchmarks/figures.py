"""What the benchmarks share: their options, processes, medians with their spread, machine and versions, and tables.

What is measured, and against what, is the business of each script.
"""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import hashlib
import importlib.metadata
import math
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PACKAGES = ("tuner", "optuna", "torch", "lightning", "sqlalchemy")


@dataclass(frozen=True)
class Spread:
    """Values of one quantity, measured n times."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    def quantile(self, share: float) -> float:
        """The value below which this share of the values lies, interpolated."""
        ordered = sorted(self.values)
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    def __str__(self) -> str:
        """Median, with quartiles of many values and the range of a few."""
        low, high = (0.25, 0.75) if len(self.values) >= 8 else (0.0, 1.0)
        return (
            f"{short(self.median)} ({short(self.quantile(low))} to {short(self.quantile(high))}, n={len(self.values)})"
        )


def interval(
    values: Sequence[T],
    statistic: Callable[[Sequence[T]], float] = statistics.fmean,  # type: ignore[assignment]
    *,
    level: float = 0.95,
    draws: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of a statistic by bootstrap (Efron 1979): the values are drawn anew, with repetition.

    The draws have a fixed seed. With infinite statistics the bounds are statistics that were drawn, not between two.
    """
    generator = random.Random(0)
    drawn = sorted(statistic(generator.choices(values, k=len(values))) for _ in range(draws))
    outside = round((1 - level) / 2 * draws)
    return drawn[outside], drawn[draws - 1 - outside]


def short(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Rows below a header, aligned; with `markdown` as a table of a README."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(fact: str, target: str, *, met: bool) -> str:
    return f"{'met' if met else 'MISSED'}: {fact}; target {target}"


def machine() -> str:
    """Processor, cores, and how busy it was."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {cores} cores, {platform.system()}{load}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> str:
    known = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()}", *known])


def command() -> str:
    return shlex.join(
        ["python", f"benchmarks/{Path(sys.argv[0]).name}", *(a for a in sys.argv[1:] if a != "--markdown")]
    )


def heading(*, markdown: bool) -> str:
    """Where, when and with what the figures were measured."""
    facts = [
        ("machine", machine()),
        ("versions", versions()),
        ("measured", f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"),
        ("command", f"`{command()}`" if markdown else command()),
    ]
    return "\n".join(f"{'- ' if markdown else ''}{name}: {value}" for name, value in facts)


def digest_of(*parts: Path) -> str:
    """A short digest of these files, and of the code, the configuration and the tables of curves in these folders.

    Comments, docstrings and layout of code do not count.
    """
    known = hashlib.sha256()
    for part in parts:
        found = part.rglob("*") if part.is_dir() else [part]
        for file in sorted(one for one in found if one.suffix in (".py", ".yaml", ".jsonl", ".npz")):
            content = file.read_bytes()
            known.update(_code_of(content) if file.suffix == ".py" else content)
    return known.hexdigest()[:12]


@lru_cache(maxsize=1024)
def _code_of(content: bytes) -> bytes:
    tree = ast.parse(content)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree).encode()


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark.

    What `--quick` makes smaller has no default of its own here: see `filled`.
    """
    made = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    made.add_argument(
        "--quick", action="store_true", default=quick, help="a smoke test of some seconds; QUICK=1 is the same"
    )
    made.add_argument("--markdown", action="store_true", help="print the tables as benchmarks/README.md has them")
    return made


def filled(
    asked: argparse.Namespace, *, usual: Mapping[str, Any], quick: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    """The options, where those that the user did not give (None) have their default: with `--quick` that in `quick`.

    What the user gave stays, with `--quick` too.
    """
    for name, value in {**usual, **((quick or {}) if asked.quick else {})}.items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


def positive_int(text: str) -> int:
    """Type of an option that counts something.

    Raises:
        argparse.ArgumentTypeError: it is no whole number, or below 1.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number, 1 or more, is wanted, not {text!r}")
    return value


def positive_float(text: str) -> float:
    """Type of an option that measures something, such as seconds.

    Raises:
        argparse.ArgumentTypeError: it is no finite number above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0 is wanted, not {text!r}")
    return value


def plot_file(text: str) -> Path:
    """Type of `--plot`, so that a figure that cannot be written is told before hours of work.

    Raises:
        argparse.ArgumentTypeError: matplotlib writes no such files, or the folder is not there.
    """
    from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415 - most calls draw nothing

    file, known = Path(text), FigureCanvasBase.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in known:
        raise argparse.ArgumentTypeError(f"the name is to end in .png, .svg or .pdf, not as {text!r}")
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of {text!r} is not there: make it or name another")
    return file


def note(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{text}\n")


def one_thread_each() -> None:
    """Let processes that are started from here compute with one thread each: several at once would take each other's.

    Libraries read it when they are loaded, so that this process, where they are, keeps its threads.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def pool(jobs: int) -> ProcessPoolExecutor:
    """So many processes of one thread each.

    They are spawned, because a forked one would have the libraries, and the number of threads, of this process.
    """
    one_thread_each()
    return ProcessPoolExecutor(jobs, get_context("spawn"))


def timed(commands: Sequence[Sequence[str]], folder: Path) -> tuple[float, list[str]]:
    """Seconds until all of these commands of Python have ended, started together, and what each printed."""
    began = time.perf_counter()
    started = [
        subprocess.Popen(
            [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    said = [process.communicate() for process in started]
    wall_s = time.perf_counter() - began
    for process, (_, error) in zip(started, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"{shlex.join(map(str, process.args))} failed:\n{error[-4000:]}")
    return wall_s, [printed for printed, _ in said]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tuner-benchmark-") as folder:
        yield Path(folder)
