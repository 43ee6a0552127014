"""Formulas of learning-rate schedules: the rate at step i = 0, 1, … as a multiple of the first one. No torch.

`tuner.schedules` makes schedulers of them.
"""

from __future__ import annotations

import math


def linear_factor(i: int, total: int) -> float:
    """1 − i/N, and 0 from N on."""
    return max(0.0, 1 - i / total)


def inverse_time_factor(i: int, decay: float) -> float:
    """1 / (1 + d·i)."""
    return 1 / (1 + decay * i)


def exponential_factor(i: int, gamma: float) -> float:
    """γ^i."""
    return float(gamma**i)


def inverse_sqrt_factor(i: int, k: float) -> float:
    """k/√(i + 1): the first epoch, or minibatch, is number 1."""
    return k / math.sqrt(i + 1)


def hold_then_decay_factor(i: int, hold: int, rate: float = 1.0) -> float:
    """1 for `hold` epochs, then e^−rate times the one before."""
    return 1.0 if i < hold else math.exp(-rate * (i - hold + 1))


def step_factor(i: int, every: int, factor: float) -> float:
    """f^⌊i/n⌋."""
    return float(factor ** (i // every))


def cosine_factor(i: float, total: float) -> float:
    """(1 + cos(π i/N)) / 2."""
    return (1 + math.cos(math.pi * i / total)) / 2


def one_cycle_factor(
    i: int, total: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> float:
    """Half a cosine from 1/div up to 1 at step pct·N − 1, and another down to 1/(div·final) at step N − 1."""
    top, first = pct_start * total - 1, 1 / div_factor
    if i <= top:
        return first + (1 - first) * (1 - cosine_factor(i, top)) if top > 0 else 1.0
    last = first / final_div_factor
    return last + (1 - last) * cosine_factor(i - top, total - 1 - top)


def warmup_factor(i: int, steps: int) -> float:
    """(i + 1)/(n + 1): n steps below 1, each up by the same amount, and 1 at step n."""
    return min(1.0, (i + 1) / (steps + 1))


def gradient_factor(norm: float, reference: float, low: float, high: float) -> float:
    """‖g‖/reference within [low, high]; the reference is above 0."""
    return min(high, max(low, norm / reference))
