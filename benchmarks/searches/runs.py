"""What one simulated run leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One search on one task.

    Attributes:
        regrets: of the recommended configuration, by budget in full trainings.
        drawn: configurations drawn until then, by budget.
        proposals: milliseconds from a free worker to what it does next: a new configuration, or a paused trial that goes on.
        clock: by budget the time that the run took, in full trainings' worth of all workers.
    """

    regrets: dict[float, float]
    drawn: dict[float, int]
    proposals: Sequence[float]
    clock: dict[float, float]
