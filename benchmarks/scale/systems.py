"""What is compared: the systems by name, and what they are started with."""

from __future__ import annotations

from pathlib import Path

from tuner.config import Settings, load

EPOCHS = 40

#: Systems by name: overrides of a tuner study, None for plain Optuna.
SYSTEMS: dict[str, tuple[str, ...] | None] = {
    "tuner, default search, no pruner": ("search=coarse_to_fine", "pruner=none"),
    "tuner, default search and pruner": ("search=coarse_to_fine", "pruner=promote"),
    "tuner, random search, no pruner": ("search=random", "pruner=none"),
    "plain Optuna, TPESampler": None,
}
MAIN, PAUSING, PLAIN = (
    "tuner, default search, no pruner",
    "tuner, default search and pruner",
    "plain Optuna, TPESampler",
)
DEFAULTS = (MAIN, PAUSING)  # that targets of the default search are held to
PLAIN_STUDY = "plain"


def settings_of(system: str, folder: Path, trials: int, *more: str) -> Settings:
    return load(words_of(system, folder, trials, *more))


def words_of(system: str, folder: Path, trials: int, *more: str) -> list[str]:
    """The words of the command line."""
    chosen = SYSTEMS[system] or ("pruner=none",)
    budget = ["search.budget=null", f"search.trials={trials}", f"trainer.max_epochs={EPOCHS}"]
    return [
        "study=digits",
        *chosen,
        *budget,
        f"store.url=sqlite:///{folder / 'tuner.db'}",
        f"store.folder={folder}",
        *more,
    ]
