"""What to draw next and what a free worker does next.

Everything here is a pure function of a round's history (`history`), but for the thin adapters to Optuna: `sampler`,
`trial_reader`, `seeded`, `exhaustive`, `pruner` and `distributions`. Only these import Optuna, and only when they are
asked for. Inside this package every objective value is lower-is-better; whoever hands over values of a maximised
objective flips their sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.search.pruner import RungPruner
    from tuner.search.sampler import CoarseToFineSampler

__all__ = ["CoarseToFineSampler", "RungPruner"]


def __getattr__(name: str) -> Any:
    # Importing Optuna takes about a second, which a mistake in a configuration should not have to wait for.
    if name == "CoarseToFineSampler":
        from tuner.search.sampler import CoarseToFineSampler  # noqa: PLC0415

        return CoarseToFineSampler
    if name == "RungPruner":
        from tuner.search.pruner import RungPruner  # noqa: PLC0415

        return RungPruner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
