"""Draws that look at no result themselves: points of the unit cube, each a pure function of (round seed, index).

| draw | depends on |
| --- | --- |
| `uniform_point` | seed, stage number, index, parameter name |
| `sobol_point` | seed, index, parameter name and its place |
| `zoomed` | the same as `uniform_point`, and the stage's box |

So they are the same on 1 worker and on 64, those of `zoomed` as long as the box is. Draws that a model of the history has
a say in, or that what was drawn before rules out, are `screen`'s. What a coordinate means is the business of
`tuner.space`, and where a stage draws of `stages`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.search.stages import Stage

Array = NDArray[np.float64]

_SOBOL_BITS = 30


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone, on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def uniform_point(seed: int, stage: int, index: int, names: Sequence[str]) -> dict[str, float]:
    """Uniform coordinates; that of a name does not depend on the other names."""
    return {name: uniform(seed, stage, index, name) for name in names}


def sobol_point(seed: int, index: int, names: Sequence[str], first: int = 0) -> dict[str, float]:
    """Point `index` of a scrambled Sobol sequence; the name at place i uses dimension `first` + i."""
    coordinates = _sobol(index, first + len(names))[first:]
    return {
        name: _scrambled(int(unit * 2**_SOBOL_BITS), int(uniform(seed, "sobol", name) * 2**32))
        for name, unit in zip(names, coordinates, strict=True)
    }


def _sobol(index: int, dimensions: int) -> Array:
    from scipy.stats import qmc  # noqa: PLC0415  it takes half a second to import, and most rounds do not use it

    # Dimensions of the plain sequence do not depend on their number, so that a later name changes no earlier one.
    engine = qmc.Sobol(dimensions, scramble=False)
    if index:
        engine.fast_forward(index)
    return np.asarray(engine.random(1)[0])


def _scrambled(bits: int, seed: int) -> float:
    """Owen's nested scrambling by a hash (Burley 2020, "Practical Hash-based Owen Scrambling", JCGT 9(4), listing 2)."""
    mask = 0xFFFFFFFF
    # The sequence has 30 bits. Reversed, its first binary digit is the lowest bit, and a bit of the Laine-Karras
    # permutation depends on those below it only.
    x = (_reversed(bits << (32 - _SOBOL_BITS)) + seed) & mask
    for factor in (0x6C50B47C, 0xB82F1E52, 0xC7AFE638, 0x8D22F6E6):
        x ^= (x * factor) & mask
    return (_reversed(x) + 0.5) / 2**32


def _reversed(bits: int) -> int:
    return int(f"{bits:032b}"[::-1], 2)


def zoomed(stage: Stage, seed: int, index: int) -> dict[str, float]:
    """Uniform in the stage's box: the draw of a coarse stage, and that of plain box zooming."""
    return {
        name: low + uniform(seed, stage.number, index, name) * (high - low) for name, (low, high) in stage.box.items()
    }
