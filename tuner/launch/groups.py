"""Workers as groups of processes, whatever starts these and carries their messages: the `Launcher` that rounds use.

A group of one rank is a worker like any other. Of several ranks each hears every message, so that all of them train the
same and stop at the same step; the first speaks for them. They share one process group over all their trials. When a rank
is lost, or one alone has failed, the others wait for it inside of a collective operation and cannot be told anything any
more: the group is ended as a whole, and started again.

A group is ended, too, when one of its ranks has sent nothing for too long: a loader that hangs, ranks that wait for
each other, a process that was stopped.

How many groups there are may grow while they work; which of them has room to run is the transport's to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from tuner.errors import RoundFailed
from tuner.launch.protocol import (
    Alive,
    Checkpointed,
    Ended,
    Event,
    FromWorker,
    Halt,
    Leave,
    Leaving,
    Lost,
    Measured,
    Ready,
    Refused,
    Reply,
    ToWorker,
    Train,
)
from tuner.training.task import Answer, Outcome, Task

#: Seconds that a worker told to leave is given before it is killed.
LEAVE_S = 5.0
#: Seconds between two looks that count as silence at most: beyond that the controller itself was away, or stopped.
MOST_LISTENED_S = 1.0
#: Groups that end one after the other before they are ready: nothing will ever train here.
MOST_STILLBORN = 3
#: Seconds in which the death of a rank is heard that another one's failure comes from.
BLAME_S = 2.0
#: How a trial ends on every rank alike; after anything else the ranks of a group are no longer in step.
IN_STEP = frozenset({Outcome.COMPLETE, Outcome.PAUSED, Outcome.STOPPED, Outcome.DIVERGED, Outcome.NO_OBJECTIVE})


class NodeLost(str):
    """How a rank ended whose machine has gone: this says nothing of whether workers come up."""

    __slots__ = ()


class Rank(Protocol):
    """One process of a group.

    Attributes:
        where: it runs, for people: host:pid.
    """

    where: str

    def say(self, message: ToWorker) -> None:
        """Send; what has just died is told by `take`."""

    def take(self) -> tuple[list[FromWorker], str | None]:
        """What it has said since the last call, and how it ended if it did: `NodeLost` if with its machine."""

    def kill(self) -> None:
        """End it at once."""

    def end(self, patience_s: float) -> None:
        """Wait until it has left, and kill it if it does not."""


class Transport(Protocol):
    """Starts the ranks of groups, and waits for what they say."""

    def start(self, group: int) -> list[Rank]:
        """All ranks of a group, without waiting for them nor for room to run; empty where there is none for now."""

    def wait(self, ranks: Sequence[Rank], timeout_s: float) -> Sequence[Rank]:
        """Those that have said something, or have ended; at most `timeout_s` for the first of them."""

    def log(self, group: int) -> str:
        """Where people find what a group has printed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class _Group:
    """The ranks of one worker, and the trial that they train."""

    def __init__(self, ranks: Sequence[Rank], now: float) -> None:
        self.ranks = list(ranks)
        self.ready = [False] * len(ranks)
        self.heard = [now] * len(ranks)
        self.ends: dict[int, Ended | Refused] = {}
        self.trial: int | None = None
        self.leaving = False
        self.failed: Ended | Refused | None = None
        self.failed_at = 0.0

    @property
    def idle(self) -> bool:
        return bool(self.ranks) and all(self.ready) and self.trial is None and not self.leaving

    @property
    def started(self) -> bool:
        return all(self.ready)

    def say(self, message: ToWorker) -> None:
        for rank in self.ranks:
            rank.say(message)

    def train(self, task: Task, now: float) -> None:
        self.trial, self.ends, self.failed = task.trial, {}, None
        self.heard = [now] * len(self.ranks)
        self.say(Train(task))


class Groups:
    """Local or remote worker groups. One that is lost is reported so, and replaced."""

    def __init__(
        self,
        transport: Transport,
        count: int | Callable[[], int],
        *,
        silent_after_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; processes start on entering the context.

        Args:
            transport: starts the processes.
            count: groups; or what says how many there are to be by now, asked as often as for events. Those that have
                been started stay.
            silent_after_s: a rank in a trial that sends nothing for so long is lost; None for never.
            clock: seconds, monotonic.
        """
        self._transport, self._count = transport, count
        self._silent_after_s, self._clock = silent_after_s, clock
        self._groups: dict[int, _Group] = {}
        self._stillborn = 0
        self._listened_s, self._looked = 0.0, clock()

    def __enter__(self) -> Self:
        self._transport.__enter__()
        try:
            self._grow()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        ranks = [rank for group in self._groups.values() for rank in group.ranks]
        for rank in ranks:
            rank.say(Halt())
            rank.say(Leave())
        deadline = self._clock() + LEAVE_S
        for rank in ranks:
            rank.end(max(deadline - self._clock(), 0.0))
        self._groups.clear()
        self._transport.__exit__(*exc)

    # -- what rounds say --------------------------------------------------------------------------------------------

    def idle(self) -> list[int]:
        return [index for index, group in sorted(self._groups.items()) if group.idle]

    def train(self, worker: int, task: Task) -> None:
        self._groups[worker].train(task, self._listened_s)

    def reply(self, worker: int, answer: Answer) -> None:
        self._groups[worker].say(Reply(answer))

    def halt(self, worker: int, *, save: bool = False) -> None:
        if self._groups[worker].trial is not None:
            self._groups[worker].say(Halt(save))

    def kill(self, worker: int) -> None:
        group = self._groups[worker]
        # Else its trial has ended or is lost, which is still on its way to the caller; what is there now is innocent.
        if group.trial is not None:
            for rank in group.ranks:
                rank.kill()

    def describe(self, worker: int) -> str:
        return self._groups[worker].ranks[0].where

    # -- what workers say -------------------------------------------------------------------------------------------

    def events(self, timeout_s: float) -> list[tuple[int, Event]]:
        for index, group in self._groups.items():
            if not group.ranks:
                self._start(index)  # there was no room for it
        self._grow()
        spoken = set(map(id, self._transport.wait([r for g in self._groups.values() for r in g.ranks], timeout_s)))
        now = self._clock()
        self._listened_s, self._looked = self._listened_s + min(now - self._looked, MOST_LISTENED_S), now
        found: list[tuple[int, Event]] = []
        for index, group in sorted(self._groups.items()):
            who = [number for number, rank in enumerate(group.ranks) if id(rank) in spoken]
            found.extend((index, event) for event in self._receive(index, group, who))
        return found

    def _receive(self, index: int, group: _Group, who: Sequence[int]) -> list[Event]:
        events, now = list[Event](), self._clock()
        for number in who:
            messages, gone = group.ranks[number].take()
            for message in messages:
                group.heard[number] = self._listened_s
                events.extend(self._heard(group, number, message))
            if gone is not None:
                blameless = isinstance(gone, NodeLost)
                return [*events, *self._lost(index, group, _how(group, number, gone), blameless=blameless)]
        if group.failed is not None:
            # One that was cut off from a rank that died fails as well; that the other has died is heard a little later.
            if now - group.failed_at >= BLAME_S or len(group.ends) == len(group.ranks):
                self._restart(index, group)  # the others wait for a rank that has failed alone
                events.append(group.failed)
        elif (silent := self._silent(group)) is not None:
            return [
                *events,
                *self._lost(
                    index, group, _how(group, silent, f"sent nothing for {self._silent_after_s:g} s, and was ended")
                ),
            ]
        return events

    def _heard(self, group: _Group, number: int, message: FromWorker) -> list[Event]:
        if isinstance(message, Ready):
            group.ready[number] = True
            if group.started:
                self._stillborn = 0
        elif isinstance(message, Leaving):
            group.leaving = True
        elif isinstance(message, Measured | Checkpointed):
            return [message]
        elif isinstance(message, Ended | Refused):
            return self._heard_end(group, number, message)
        else:
            assert isinstance(message, Alive)
        return []

    def _heard_end(self, group: _Group, number: int, message: Ended | Refused) -> list[Event]:
        if group.trial is None:
            return []  # a rank that failed later than the one that was reported
        group.ends[number] = message
        if len(group.ranks) > 1 and not _in_step(message):
            if group.failed is None:
                group.failed, group.failed_at = message, self._clock()
            return []
        if len(group.ends) < len(group.ranks):
            return []
        group.trial = None
        return [group.ends[0]]

    def _silent(self, group: _Group) -> int | None:
        if self._silent_after_s is None or group.trial is None:
            return None
        late = [
            number
            for number, heard in enumerate(group.heard)
            if number not in group.ends and self._listened_s - heard > self._silent_after_s
        ]
        return late[0] if late else None

    # -- their lives ------------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        count = self._count if isinstance(self._count, int) else self._count()
        for index in range(len(self._groups), count):
            self._start(index)

    def _lost(self, index: int, group: _Group, reason: str, *, blameless: bool = False) -> list[Event]:
        trial, born = group.trial, group.started or blameless
        self._restart(index, group)
        self._stillborn += not born
        if self._stillborn >= MOST_STILLBORN:
            log = self._transport.log(index)
            raise RoundFailed(f"No worker comes up, the last one {reason}. See {log} and the lines above.")
        return [] if trial is None else [Lost(trial, reason)]

    def _restart(self, index: int, group: _Group) -> None:
        for rank in group.ranks:
            rank.kill()
        for rank in group.ranks:
            rank.end(LEAVE_S)
        self._start(index)

    def _start(self, index: int) -> None:
        self._groups[index] = _Group(self._transport.start(index), self._listened_s)


def _in_step(message: Ended | Refused) -> bool:
    return isinstance(message, Ended) and message.result.outcome in IN_STEP


def _how(group: _Group, number: int, how: str) -> str:
    return how if len(group.ranks) == 1 else f"rank {number} of {len(group.ranks)} {how}"
