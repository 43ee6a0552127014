"""What happens to a trial, done in the three places that know it: `Trials`.

The history is what the search sees, the ledger is the database, the checkpoints are files. A controller can die between
any two changes, so each change has its order: a file has its lasting name before the database names it, and the
database no longer needs a file when it is removed. What is then left halfway, `tuner.recovery` puts right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.checkpoints import Checkpoints
from tuner.recovery import OPTUNA_STATES
from tuner.search.history import History, State
from tuner.store.ledger import Ledger

#: What `checkpoint` says of a trial that has none.
NO_CHECKPOINT: Mapping[str, Any] = {"epoch": 0, "validations": 0, "seconds": 0.0}


class Trials:
    """The trials of one round, kept in step.

    Attributes:
        history: as the search's rules see them.
        ledger: as the database has them.
        checkpoints: the files of those that wait.
    """

    def __init__(
        self,
        ledger: Ledger,
        history: History,
        checkpoints: Checkpoints,
        *,
        cost: Callable[[float], float],
        left: Callable[[int, State, Mapping[str, Any]], None],
    ) -> None:
        """Prepare.

        Args:
            ledger: with its sampler in use.
            history: of the same trials.
            checkpoints: of the same round.
            cost: the objective as something to minimize; its own inverse.
            left: told of each trial that leaves its worker: number, state and attributes.
        """
        self.ledger, self.history, self.checkpoints = ledger, history, checkpoints
        self._cost, self._left = cost, left

    def attributes(self, number: int) -> Mapping[str, Any]:
        """What the ledger has noted of a trial; not to be changed."""
        return self.ledger.trial(number).user_attrs

    def resumed(self, number: int, target: int, **attributes: Any) -> None:
        """A waiting trial goes on to epoch `target`."""
        self.history.resumed(number, target)
        self.ledger.note(number, target=target, paused_at=None, outcome=None, reason=None, **attributes)

    def read(self, number: int, epoch: int, value: float) -> None:
        """The search sees a value at a rung; a second one at the same rung changes nothing."""
        self.history.read(number, epoch, self._cost(value))
        readings = [[r.epoch, self._cost(r.value), r.order] for r in self.history[number].readings]
        self.ledger.note(number, readings=readings)

    def paused(self, number: int, written: Path, *, validations: int, **facts: Any) -> None:
        """A trial waits where it was read last, with the checkpoint that its worker has written."""
        epoch = self.history[number].last_epoch
        self.checkpoints.keep(number, epoch, str(written))
        kept = {"epoch": epoch, "validations": validations, "seconds": facts["seconds"]}
        self.ledger.note(number, **facts, checkpoint=kept, paused_at=epoch)
        self.ledger.flush()
        self.checkpoints.drop(number, before=epoch)
        self.history.paused(number)
        self._has_left(number, State.PAUSED)

    def interrupted(self, number: int, **facts: Any) -> None:
        """A trial has lost its worker, and waits to be taken up again."""
        self.history.interrupted(number)
        self.ledger.note(number, outcome=str(State.INTERRUPTED), **facts)
        self._has_left(number, State.INTERRUPTED)

    def ended(self, number: int, state: State, *, value: float | None = None, **facts: Any) -> None:
        """A trial that was in training has ended for good."""
        self.close(number, state, value=value, **facts)
        self._has_left(number, state)

    def close(self, number: int, state: State, *, value: float | None = None, **facts: Any) -> None:
        """End a trial, in training or waiting, without a word to the people who watch."""
        epochs = facts.get("epochs")
        self.history.ended(number, state, epochs=None if epochs is None else round(epochs))
        self.ledger.note(number, outcome=str(state), **facts)
        if self.checkpoints.folder(number).is_dir():
            self.ledger.flush()
            self.checkpoints.drop(number)
        self.ledger.tell(number, OPTUNA_STATES[state], value)

    def _has_left(self, number: int, state: State) -> None:
        self._left(number, state, self.attributes(number))
