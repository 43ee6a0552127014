"""The trials of one round: in memory for the search, in the database for everybody else.

The controller asks samplers and pruners against an in-memory Optuna study, and writes each trial to the database as
one transaction when it is drawn. Optuna's own storage reads every unfinished trial again at each ask, and a round
that pauses trials has thousands of them; it also pays a transaction per parameter. Numbers are the same in both.
What happens to a trial later is in memory at once, so that a worker is answered without waiting for a disk, and in
the database after `flush`, which the round's loop calls once each time round.

What a trial carries besides Optuna's own fields, as user attributes:

| attribute | meaning |
| --- | --- |
| stage | name of the stage that it was drawn in |
| hyperparameters | the effective values, as the training sees them |
| worker | who trains it now, host:pid |
| readings | [[epoch, value, order], …]: the values that the search compares |
| micro_batch, accumulate_grad_batches | of a batch that did not fit in memory: the size and number of its parts |
| target | epoch that it trains to |
| paused_at | epoch at which it waits; null while it trains |
| checkpoint | {file, epoch, validations, seconds} of the checkpoint that it can go on from |
| outcome | how it ended, or `interrupted` while it waits to be taken up again |
| reason, traceback | of an outcome that is not complete |
| epochs, seconds | trained in all |
| retries | times it was taken up after its worker died |
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from tuner import __version__
from tuner.errors import StoreError
from tuner.search.distributions import distribution, from_optuna, optuna_name, to_optuna_params
from tuner.search.exhaustive import Exhaustive
from tuner.space import Space, Value
from tuner.store.reading import trials_of
from tuner.store.writing import Writes

#: Optuna's key of a study's metric names, which its plots and the dashboard show.
METRIC_NAMES = "study:metric_names"
#: tuner's key of a study that is a round; its value is the version that made it.
MARK = "tuner"
#: tuner's key of what a draw has changed of the system attributes of the study in memory: it is written with its trial.
SAMPLERS_NOTES = "tuner:study"


@dataclass(frozen=True)
class Drawn:
    """A configuration: the trial's number and the values drawn, without those of switched-off parameters."""

    number: int
    values: Mapping[str, Value]


class _Study(optuna.Study):
    """The study in memory. Optuna lets a sampler stop a study only in its own loop; here the round's loop looks."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True


class Ledger:
    """Draws, measures and closes trials in both places. Used by one thread of one controller."""

    def __init__(
        self, storage: RDBStorage, name: str, *, metric: str, direction: str, space: Space, expand: bool
    ) -> None:
        """Open the round's Optuna study, making it where it is not there yet, and read what it has."""
        self._storage, self._space, self._expand = storage, space, expand
        self._writes = Writes(storage)
        self._study_id = _study_id(storage, name, metric, direction)
        self._memory = InMemoryStorage()
        self._memory_study_id = self._memory.create_new_study([_direction(direction)], name)
        self.study = _Study(name, self._memory)
        self._ids: list[int] = []  # of the database, by number
        self._memory_ids: list[int] = []
        for trial in trials_of(storage, self._study_id):
            self._ids.append(trial._trial_id)  # noqa: SLF001 - Optuna's storages are keyed by it
            self._memory_ids.append(self._remember(_as_remembered(trial)))

    def __len__(self) -> int:
        return len(self._ids)

    def _remember(self, trial: FrozenTrial) -> int:
        for key, value in trial.system_attrs.get(SAMPLERS_NOTES, {}).items():
            self._memory.set_study_system_attr(self._memory_study_id, key, value)
        distributions, trial.distributions = trial.distributions, {}
        memory_id = self._memory.create_new_trial(self._memory_study_id, trial)
        # The storage copies all of a trial deeply; these are the same few objects in 10,000 of them.
        self._memory.get_trial(memory_id).distributions = distributions
        return memory_id

    def use(self, sampler: BaseSampler, pruner: optuna.pruners.BasePruner) -> None:
        self.study.sampler, self.study.pruner = sampler, pruner
        self._look_what_is_left()

    @property
    def exhausted(self) -> bool:
        """Whether the sampler has nothing left to draw, or has stopped the study for a reason of its own."""
        return self.study.stopped

    def _look_what_is_left(self) -> None:
        if isinstance(self.study.sampler, Exhaustive):
            self.study.sampler.stop_if_exhausted(self.study)

    @property
    def trials(self) -> Sequence[FrozenTrial]:
        """All trials by number; not to be changed."""
        return self.study.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        return self._memory.get_trial(self._memory_ids[number])

    def values(self, number: int) -> dict[str, Value]:
        """The values that were drawn for a trial."""
        return values_of(self.trial(number), self._space)

    # -- the study's own notes ----------------------------------------------------------------------------------

    def noted(self, key: str) -> Any:
        """What was noted of the whole round under a key; None for nothing."""
        return self._storage.get_study_user_attrs(self._study_id).get(key)

    def note_of_round(self, key: str, value: Any) -> None:
        """Note something of the whole round, at once."""
        self._storage.set_study_user_attr(self._study_id, key, value)

    # -- a trial's life -----------------------------------------------------------------------------------------

    def enqueue(self, values: Mapping[str, Value]) -> None:
        """Have the next draw give these values."""
        self.study.enqueue_trial(to_optuna_params(self._space, values))

    def draw(self) -> Drawn:
        """Ask the sampler; nothing is in the database until `record`."""
        before = dict(self._memory.get_study_system_attrs(self._memory_study_id))
        trial = self.study.ask()
        values: dict[str, Value] = {}
        for parameter in self._space:
            if parameter.is_active(values):
                stored = _suggest(trial, optuna_name(parameter), distribution(parameter, expand=self._expand))
                values[parameter.name] = from_optuna(parameter, stored)
        self._memory_ids.append(trial._trial_id)  # noqa: SLF001 - Optuna's storages are keyed by it
        self._keep_notes(trial.number, before)
        self._look_what_is_left()
        return Drawn(trial.number, values)

    def _keep_notes(self, number: int, before: Mapping[str, Any]) -> None:
        """What the sampler has noted of the study at a draw, such as its place in a sequence, goes with the trial."""
        now = self._memory.get_study_system_attrs(self._memory_study_id)
        changed = {key: value for key, value in now.items() if key not in before or before[key] != value}
        if changed:
            self._memory.set_trial_system_attr(self._memory_ids[number], SAMPLERS_NOTES, changed)

    def record(self, number: int, **attributes: Any) -> None:
        """Write a trial that was just drawn, with its first attributes, in one transaction; at once."""
        if number != len(self._ids):
            raise ValueError(f"trial {number} is recorded out of order; {len(self._ids)} are there")
        self.flush()  # the draw may have followed from any of it
        for key, value in attributes.items():
            self._memory.set_trial_user_attr(self._memory_ids[number], key, value)
        drawn = self.trial(number)
        template = create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs=drawn.user_attrs,
            system_attrs=drawn.system_attrs,
        )
        trial_id = self._storage.create_new_trial(self._study_id, template)
        there = self._storage.get_trial_number_from_id(trial_id)
        if there != number:
            raise StoreError(
                f"Something else adds trials to this round: trial {number} has become trial {there}. "
                "See that nothing does, and call again."
            )
        self._ids.append(trial_id)

    def measure(self, number: int, step: int, validation: int, value: float) -> None:
        """Take one value of a trial's curve; a value at the same step replaces the one before.

        The database keeps it by optimizer step. In memory it stands by the number of the validation, from 1: that
        is what trials with different batch sizes can be compared at, and what Optuna's pruners take for a resource.
        """
        self._memory.set_trial_intermediate_value(self._memory_ids[number], validation, value)
        self._writes.value(self._ids[number], step, value)

    def should_prune(self, number: int) -> bool:
        """What the study's Optuna pruner says of a trial, after its last value."""
        known = set(self.trial(number).system_attrs)
        verdict = Trial(self.study, self._memory_ids[number]).should_prune()
        for key, value in self.trial(number).system_attrs.items():
            if key not in known:  # a pruner's own notes, which it needs again after a resume
                self._writes.attribute(self._ids[number], key, value, system=True)
        return verdict

    def note(self, number: int, **attributes: Any) -> None:
        """Set attributes of a trial that has not ended."""
        for key, value in attributes.items():
            if self.trial(number).user_attrs.get(key, _NOTHING) != value:
                self._memory.set_trial_user_attr(self._memory_ids[number], key, value)
                self._writes.attribute(self._ids[number], key, value)

    def tell(self, number: int, state: TrialState, value: float | None = None, **attributes: Any) -> None:
        """End a trial; its attributes are written before, because a finished trial is frozen."""
        self.note(number, **attributes)
        # Told through the study, so that the sampler's after_trial runs; Optuna gives a pruned trial its last value.
        self.study.tell(number, value, state)
        self._writes.end(self._ids[number], state, self.trial(number).values)

    def flush(self, *, values: bool = True) -> None:
        """Write what the database does not have yet; without `values`, lone values may wait for others a little."""
        self._writes.flush(values=values)


_NOTHING = object()


def noted_of(storage: RDBStorage, name: str, key: str) -> Any:
    """What was noted of a round that is not open, by its name; None for nothing."""
    try:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get(key)
    except KeyError:
        return None  # cut off before it had a study


def values_of(trial: FrozenTrial, space: Space) -> dict[str, Value]:
    """The values of a trial's parameters by their short names.

    Raises:
        StoreError: a stored value is not in the space; nothing that the database says is used unchecked.
    """
    values: dict[str, Value] = {}
    for parameter in space:
        name = optuna_name(parameter)
        if name not in trial.params:
            continue
        stored = trial.params[name]
        if not _contains(distribution(parameter, expand=True), stored):
            raise StoreError(
                f"Trial {trial.number} in the database has {name}={stored!r}, which is not in the space. Something else "
                "wrote it; remove the trial, or name another store.url."
            )
        values[parameter.name] = from_optuna(parameter, stored)
    return values


def _contains(asked: BaseDistribution, stored: Value) -> bool:
    try:
        return bool(asked._contains(asked.to_internal_repr(stored)))  # noqa: SLF001 - Optuna has no public form of it
    except (TypeError, ValueError):
        return False


def is_foreign(trial: FrozenTrial) -> bool:
    """Whether something else than a round has put this trial into the study: the dashboard, or a script."""
    return "readings" not in trial.user_attrs


def _as_remembered(trial: FrozenTrial) -> FrozenTrial:
    """The trial as it is kept in memory: its curve by validation; one of a stranger holds its number and no more."""
    if is_foreign(trial):
        return create_trial(state=TrialState.FAIL)
    changed = copy.copy(trial)
    changed.intermediate_values = dict(enumerate((value for _, value in sorted(trial.intermediate_values.items())), 1))
    return changed


def _direction(name: str) -> StudyDirection:
    return StudyDirection.MAXIMIZE if name == "maximize" else StudyDirection.MINIMIZE


def _study_id(storage: RDBStorage, name: str, metric: str, direction: str) -> int:
    """The round's Optuna study; a study of that name which tuner did not make is left alone."""
    wanted = _direction(direction)
    try:
        study_id: int = storage.create_new_study([wanted], name)
    except DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(name)
        ours = METRIC_NAMES in storage.get_study_system_attrs(study_id) and MARK in storage.get_study_user_attrs(
            study_id
        )
        if ours:
            return study_id
        # A round that was cut off while it was made has no trials yet.
        if storage.get_n_trials(study_id) or storage.get_study_directions(study_id) != [wanted]:
            raise StoreError(
                f"The database has an Optuna study {name} that tuner did not make. Give the study another name, or "
                "name another store.url."
            ) from None
    storage.set_study_system_attr(study_id, METRIC_NAMES, [metric])
    storage.set_study_user_attr(study_id, MARK, __version__)
    return study_id


def _suggest(trial: Trial, name: str, dist: BaseDistribution) -> Value:
    """Define-by-run, one parameter at a time, so that any sampler meets conditions in the way it is made for."""
    if isinstance(dist, FloatDistribution):
        # A sampler may give 1 for 1.0.
        return float(trial.suggest_float(name, dist.low, dist.high, log=dist.log, step=dist.step))
    if isinstance(dist, IntDistribution):
        return int(trial.suggest_int(name, dist.low, dist.high, log=dist.log, step=dist.step))
    if isinstance(dist, CategoricalDistribution):
        return trial.suggest_categorical(name, dist.choices)
    raise TypeError(f"{name}: {type(dist).__name__} is no distribution of Optuna's samplers")
