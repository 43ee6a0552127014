"""A small table of learning curves by a formula, to try the benchmark without any data; its figures say nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SPACE = {"lr": (1e-4, 1.0, "log_uniform"), "momentum": (0.5, 0.99, "one_minus_pow10"), "width": (8, 64, "log_int")}
EPOCHS = 16

Array = NDArray[np.float64]


class Bowl:
    """Accuracies in percent that saturate; best at lr = 0.01, on the second task at momentum = 0.9 as well."""

    tasks = ("easy", "hard")

    def curve(self, task: str, params: Mapping[str, float]) -> Array:
        far = abs(np.log10(params["lr"]) + 2) + abs(np.log10(1 - params["momentum"]) + 1) * (task == "hard")
        return np.asarray((90 - 20 * far) * (1 - 0.7 ** np.arange(1, EPOCHS + 1)))

    def noisy(self, curve: Array, rng: np.random.Generator) -> Array:
        return curve + 0.1 * rng.standard_normal(EPOCHS)

    def regret(self, task: str, final: float) -> float:
        del task
        return (90 - final) / 20
