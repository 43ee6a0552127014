"""Learning-rate schedules as hyperparameters: in a LightningModule, in a study's file, or in a plain torch loop.

Each is called with the optimizer and gives a scheduler of torch; η is the rate of a group as the optimizer was built,
so groups keep the ratios of their rates. In a configuration it is a node that is not called yet:
`schedule: {_target_: tuner.schedules.inverse_time, _partial_: true, decay: 0.1}`. `configure` calls it, tells Lightning
when to step it, and fills in the length of the training where the node does not give one.

| schedule | rate at step i = 0, 1, … | stepped after each | takes from the Trainer |
| --- | --- | --- | --- |
| `constant` | η | epoch | |
| `linear` | η (1 − i/N) | epoch (`interval`) | N |
| `inverse_time` | η / (1 + d·i) | epoch (`interval`) | |
| `exponential` | η γ^i | epoch (`interval`) | |
| `inverse_sqrt_epoch` | η k/√(i + 1) | epoch | |
| `inverse_sqrt_minibatch` | η k/√(i + 1) | minibatch | |
| `hold_then_decay` | η while i < n, then η e^−(i − n + 1) | epoch | |
| `step` | η f^⌊i/n⌋ | epoch (`interval`) | |
| `cosine` | η (1 + cos(π i/N)) / 2 | epoch (`interval`) | N |
| `one_cycle` | up from η/25 to η, down to η/250,000 | minibatch | N |
| `plateau` | falls when the objective no longer improves | epoch, with the objective | |
| `gradient_norm` | η ‖g‖ / (its running mean), within limits | minibatch | |
| `warmup` | linear up to the first rate of another schedule, then that one | minibatch | minibatches of an epoch |

`interval: step` lets a schedule count minibatches (steps of the optimizer) instead. A scheduler's state is plain values:
what was saved in the middle goes on to the last digit, and is read with `weights_only`.

Those whose course depends on the step alone are in `fixed`, the others in `adaptive` and `warm_up`, `configure` in
`trainer`. The formulas themselves, the rate as a multiple of η, are in `tuner.formulas`.
"""

from tuner.schedules.adaptive import GradientNorm, Plateau, gradient_norm, plateau
from tuner.schedules.arguments import Interval
from tuner.schedules.fixed import (
    _Formula as _Formula,  # where schedulers that an earlier version has pickled look for it
)
from tuner.schedules.fixed import (
    constant,
    cosine,
    exponential,
    hold_then_decay,
    inverse_sqrt_epoch,
    inverse_sqrt_minibatch,
    inverse_time,
    linear,
    one_cycle,
    step,
)
from tuner.schedules.nodes import Schedule
from tuner.schedules.trainer import configure
from tuner.schedules.warm_up import Warmup, warmup

__all__ = [
    "GradientNorm",
    "Interval",
    "Plateau",
    "Schedule",
    "Warmup",
    "configure",
    "constant",
    "cosine",
    "exponential",
    "gradient_norm",
    "hold_then_decay",
    "inverse_sqrt_epoch",
    "inverse_sqrt_minibatch",
    "inverse_time",
    "linear",
    "one_cycle",
    "plateau",
    "step",
    "warmup",
]
