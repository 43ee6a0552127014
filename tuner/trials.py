"""What happens to a trial, done in the three places that know it: `Trials`.

The history is what the search sees, the ledger is the database, the checkpoints are files. A controller can die between
any two changes, so each change has its order: a file has its lasting name before the database names it, and the
database no longer needs a file when it is removed. What is then left halfway, `tuner.recovery` puts right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.checkpoints import FINAL, Checkpoints, Keep
from tuner.recovery import OPTUNA_STATES
from tuner.search.history import History, State
from tuner.search.trial_reader import pace_of
from tuner.store.ledger import Ledger
from tuner.training.task import Saved

#: What `checkpoint` says of a trial that has none.
NO_CHECKPOINT: Mapping[str, Any] = {"file": None, "epoch": 0, "validations": 0, "seconds": 0.0}


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
        epochs: int,
        keep: Keep,
        cost: Callable[[float], float],
        left: Callable[[int, State, Mapping[str, Any]], None],
    ) -> None:
        """Prepare.

        Args:
            ledger: with its sampler in use.
            history: of the same trials.
            checkpoints: of the same round.
            epochs: of a full training.
            keep: how many checkpoints stay.
            cost: the objective as something to minimize; its own inverse.
            left: told of each trial that leaves its worker: number, state and attributes.
        """
        self.ledger, self.history, self.checkpoints = ledger, history, checkpoints
        self._epochs, self._keep_at_most = epochs, keep
        self._cost, self._left = cost, left

    def drop_stale_models(self) -> None:
        """Those that a controller which died between two steps has left beside the best."""
        best = {number for _, number in self.history.ranked(self._epochs)[: self._keep_at_most.best]}
        for number in self.checkpoints.finals():
            if number not in best:
                self.checkpoints.drop_final(number)

    def attributes(self, number: int) -> Mapping[str, Any]:
        """What the ledger has noted of a trial; not to be changed."""
        return self.ledger.trial(number).user_attrs

    def kept(self, number: int) -> Mapping[str, Any]:
        """What the ledger has noted of a trial's checkpoint; `NO_CHECKPOINT` where there is none."""
        return self.attributes(number).get("checkpoint") or NO_CHECKPOINT

    def checkpoint(self, number: int) -> Path | None:
        """The file that a trial goes on from, if it is there."""
        name = self.kept(number).get("file")  # a round of an earlier version has none
        return self.checkpoints.at(number, name) if name else None

    def resumed(self, number: int, target: int, **attributes: Any) -> None:
        """A waiting trial goes on to epoch `target`."""
        self.history.resumed(number, target)
        self.ledger.note(number, target=target, paused_at=None, outcome=None, reason=None, **attributes)

    def read(self, number: int, epoch: int, value: float) -> None:
        """The search sees a value at a rung; a second one at the same rung changes nothing."""
        self.history.read(number, epoch, self._cost(value))
        readings = [[r.epoch, self._cost(r.value), r.order] for r in self.history[number].readings]
        self.ledger.note(number, readings=readings)

    def paused(self, number: int, written: Path | None, *, validations: int, **facts: Any) -> None:
        """A trial waits where it was read last, with the checkpoint that its worker has written.

        Without one, because the disk was full, it would go on from an earlier one or start anew.
        """
        epoch = self.history[number].last_epoch
        self.ledger.note(number, **facts, paused_at=epoch)
        if written is not None:
            self._keep(number, written, f"epoch-{epoch}.ckpt", epoch, validations, facts["seconds"])
        self.history.paused(number, pace_of(facts))
        self._forget_the_worst(number, epoch)
        self._has_left(number, State.PAUSED)

    def saved(self, number: int, saved: Saved, *, validations: int, seconds: float) -> None:
        """A trial in training has written a checkpoint, which takes the place of the one before."""
        self._keep(number, Path(saved.file), f"step-{saved.step}.ckpt", saved.epoch, validations, seconds)

    def _forget_the_worst(self, paused: int, epoch: int) -> None:
        """Of too many that wait, the one that is least likely to go on would start anew."""
        beyond = [number for _, number in self.history.waiting(epoch)[self._keep_at_most.paused :]]
        # The one that was pushed out, or the new one itself; those in between start anew already.
        for number in {*beyond[:1], *([paused] if paused in beyond else [])}:
            if self.kept(number) is not NO_CHECKPOINT:
                self.ledger.note(number, checkpoint=None)
                self.ledger.flush()
                self.checkpoints.drop(number)

    def _keep(self, number: int, written: Path, name: str, epoch: float, validations: int, seconds: float) -> None:
        if not self.checkpoints.keep(number, written, name):
            return  # the trial goes on from the one before, or starts anew
        kept = {"file": name, "epoch": epoch, "validations": validations, "seconds": seconds}
        self.ledger.note(number, checkpoint=kept)
        self.ledger.flush()
        self.checkpoints.drop(number, but=name)

    def interrupted(self, number: int, **facts: Any) -> None:
        """A trial has lost its worker, and waits to be taken up again."""
        self.history.interrupted(number)
        self.ledger.note(number, outcome=str(State.INTERRUPTED), **facts)
        self._has_left(number, State.INTERRUPTED)

    def completed(self, number: int, value: float, written: Path | None, **facts: Any) -> None:
        """A trial was trained in full; `written` is what its model has come to, and stays if it is among the best."""
        self.read(number, self._epochs, value)
        best = [one for _, one in self.history.ranked(self._epochs)]
        if written is not None and number in best[: self._keep_at_most.best]:
            self.checkpoints.keep(number, written, FINAL)
        self.ended(number, State.COMPLETE, value=value, **facts)
        for worse in best[self._keep_at_most.best :][:1]:
            self.checkpoints.drop_final(worse)

    def ended(self, number: int, state: State, *, value: float | None = None, **facts: Any) -> None:
        """A trial that was in training has ended for good."""
        self.close(number, state, value=value, **facts)
        self._has_left(number, state)

    def close(self, number: int, state: State, *, value: float | None = None, **facts: Any) -> None:
        """End a trial, in training or waiting, without a word to the people who watch."""
        epochs = facts.get("epochs")
        self.history.ended(number, state, None if epochs is None else round(epochs), pace_of(facts))
        self.ledger.note(number, outcome=str(state), **facts)
        if self.checkpoints.folder(number).is_dir():
            self.ledger.flush()
            self.checkpoints.drop(number)
        self.ledger.tell(number, OPTUNA_STATES[state], value)

    def _has_left(self, number: int, state: State) -> None:
        self._left(number, state, self.attributes(number))
