"""`make bench` runs all benchmarks and they print their figures; what the figures are is not tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: A median with its spread and the number of values.
SPREAD = r"[\d.]+ \([\d.]+ to [\d.]+, n=\d+\)"
SCRIPTS = ("controller", "throughput", "first_run", "leaks", "faults", "search", "failing", "real")


def cells(text: str, row: str) -> list[str]:
    """The cells of the first table row that begins with these words."""
    line = next(line for line in text.splitlines() if line.startswith(row))
    return re.split(r"  +", line.strip())[1:]


@pytest.mark.slow
def test_one_command_runs_them_all() -> None:
    # The environment that the tests run in is not made anew.
    words = ["make", "-o", ".venv/dev.stamp", "bench", f"BIN={Path(sys.executable).parent}"]
    environment = {name: value for name, value in os.environ.items() if name != "TUNER_DATA"} | {"QUICK": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    parts = re.split(r"^machine: ", done.stdout, flags=re.MULTILINE)[1:]
    assert len(parts) == len(SCRIPTS)
    for script, part in zip(SCRIPTS, parts, strict=True):
        assert f"command: python benchmarks/{script}.py" in part
        assert "versions: Python" in part
        # The table that search.py has by itself is no one to judge by.
        assert (
            "met: " in part or "MISSED: " in part or script in ("faults", "failing") or "coarse_to_fine against" in part
        )
    controller, throughput = parts[:2]
    for system in ("tuner, default search, no pruner", "tuner, default search and pruner", "plain Optuna, TPESampler"):
        assert all(re.fullmatch(SPREAD, cell) for cell in cells(controller, system))
        assert len(cells(controller, system)) == 4
    assert "MiB at" in controller
    assert "tuner, default search and pruner  the answer at a rung" in re.sub(r"  +", "  ", controller)
    for system in ("tuner, 2 workers", "script"):
        per_minute, _, steady, _, epochs, best = cells(throughput, system)
        assert float(per_minute.split()[0]) > 0
        assert float(steady.split()[0]) > 0
        assert int(epochs) == 8
        assert 0 < float(best) <= 1
