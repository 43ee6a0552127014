"""What commands say of rounds: what came of one, and its champion."""

from __future__ import annotations

import collections
import shlex
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuner import advice, output
from tuner.config import Settings, StudySettings
from tuner.errors import TunerError
from tuner.round import Round
from tuner.search.stages import Stage
from tuner.store.ledger import Ledger
from tuner.store.rounds import Champion, RoundRecord, Rounds

NO_CHAMPION = 1
#: Of a range: a champion within this share of an edge presses against it.
NEAR = 0.1


def needed(settings: Settings) -> StudySettings:
    if settings.study is None:
        raise TunerError("This command needs a study: write study=NAME.")
    return settings.study


def finished_before(record: RoundRecord, rounds: Rounds) -> int:
    """The answer to a command whose round was finished by an earlier call."""
    output.say(f"{record.name} is finished; raise search.budget, search.trials or search.timeout to go on.")
    return finished(record, rounds)


def finished(record: RoundRecord, rounds: Rounds) -> int:
    """Print the champion; without one the exit code says so."""
    champion = rounds.champion(record)
    if champion is None:
        output.say(
            f"{record.name} has no champion: no trial was trained in full. `tuner status study={record.study}` tells what became of them."
        )
        return NO_CHAMPION
    output.put(champion_line(record, champion))
    output.put(f"  {shlex.join(champion.overrides)}")
    return 0


def champion_line(record: RoundRecord, champion: Champion) -> str:
    sure = "provisional: one training's value" if champion.provisional else "confirmed"
    return (
        f"champion of {record.name}: {record.metric}={advice.short(champion.value)} by trial {champion.trial} ({sure})"
    )


def interrupted(record: RoundRecord, ledger: Ledger, champion: Champion | None) -> None:
    """The summary of a call that was stopped on the way."""
    output.put(f"{record.name}: interrupted with {_outcomes(ledger)}")
    if champion is not None:
        output.put(f"best so far: {record.metric}={advice.short(champion.value)} by trial {champion.trial}")
    output.say("The same command goes on from here.")


def summary(
    record: RoundRecord,
    ledger: Ledger,
    stages: Sequence[Stage],
    round_: Round,
    study: StudySettings,
    champion: Champion | None,
    own: int | None,
) -> None:
    """What a round came to, before its champion; `own` is the trial of the study's own values."""
    output.put(f"{record.name}: {round_.ending}, {_outcomes(ledger)} in {round_.seconds_used:.0f} s; {round_.reason}")
    for stage in stages:
        output.put(f"  {stage.name}, from trial {stage.starts_at}: {stage.reason}")
    tuned = {name for stage in stages for name in stage.new}
    # A round that was begun by an earlier version does not tell.
    if fixed := [name for name in (stages[-1].frame if tuned else ()) if name not in tuned]:
        output.put(
            f"  not tuned yet: {', '.join(fixed)}, because the round ended before their tier began;"
            " it goes on from here with a larger budget"
        )
    best = study.space.to_unit(ledger.values(champion.trial)) if champion else {}
    for edge in stages[-1].pressed if stages else ():
        # What pressed when the stage began may have been left since.
        place = best.get(edge.parameter)
        if place is None or (place if edge.side == "low" else 1 - place) > NEAR:
            continue
        output.put(
            f"  {advice.pressed(study.space[edge.parameter], edge.side, expanding=round_.settings.search.expand)}"
        )
    if own is not None and own in round_.history:
        output.put(f"  the study's own values: {_what_became_of(ledger.trial(own), record.metric)} (trial {own})")


def _what_became_of(trial: FrozenTrial, metric: str) -> str:
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        return f"{metric}={advice.short(trial.value)}"
    reason = trial.user_attrs.get("reason")
    return outcome_of(trial.user_attrs) + (f", {reason}" if reason else "")


def _outcomes(ledger: Ledger) -> str:
    return counted(collections.Counter(outcome_of(trial.user_attrs) for trial in ledger.trials if trial.user_attrs))


def outcome_of(attributes: dict[str, Any]) -> str:
    """A trial's outcome, or what it does now."""
    if attributes.get("outcome"):
        return str(attributes["outcome"])
    return "paused" if attributes.get("paused_at") is not None else "running"


def counted(counts: collections.Counter[str]) -> str:
    """For example `36 trials (9 complete, 27 pruned)`."""
    total = sum(counts.values())
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return f"{total} trial{'' if total == 1 else 's'}" + (f" ({parts})" if parts else "")
