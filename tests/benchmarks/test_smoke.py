"""The benchmarks run and print their figures; what the figures are is not tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

#: A median with its spread and the number of values.
SPREAD = r"[\d.]+ \([\d.]+ to [\d.]+, n=\d+\)"
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def printed(script: str, *options: str) -> str:
    words = [sys.executable, str(BENCHMARKS / script), "--quick", "--markdown", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def cells(text: str, row: str) -> list[str]:
    """The cells of the first table row that begins with these words."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {row}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.slow
def test_controller_prints_the_cost_of_a_trial_by_size_and_system() -> None:
    text = printed("controller.py")
    for system in ("tuner, default search, no pruner", "tuner, default search and pruner", "plain Optuna, TPESampler"):
        empty, filled, growth, ratio = cells(text, system)
        assert all(re.fullmatch(SPREAD, cell) for cell in (empty, filled, growth, ratio))
    assert "MiB at" in text
    assert "command: `python benchmarks/controller.py --quick`" in text


@pytest.mark.slow
def test_throughput_prints_both_systems_and_their_ratio() -> None:
    text = printed("throughput.py")
    for system in ("tuner, 2 workers", "script"):
        per_minute, _, steady, _, epochs, best = cells(text, system)
        assert float(per_minute.split()[0]) > 0
        assert float(steady.split()[0]) > 0
        assert int(epochs) == 8
        assert 0 < float(best) <= 1
    assert "times the script's trials per minute" in text
