"""Plain Optuna and Lightning, as Optuna's own example and tutorials have it; run as a program by `real.py`.

Source of the objective: optuna/optuna-examples, pytorch/pytorch_lightning_simple.py (a Trainer without checkpoints, a
callback that reports each validation and asks the pruner). Several processes share a journal file, each with a call of
`study.optimize`: Optuna's tutorial "Easy Parallelization". Samplers and pruners have their defaults; Hyperband knows the
length of a training, as in its documentation. GPSampler learns from complete trials only, so nothing is pruned there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from plain_optuna import Pruning

from contenders.problem import Job
from contenders.record import recommend
from tuner.search.distributions import distribution, from_optuna, optuna_name, to_optuna
from tuner.space import Space, Value


def main(job: Job) -> None:
    space = job.study.space

    def objective(trial: optuna.Trial) -> float:
        pl.seed_everything(1000 * job.seed + trial.number, verbose=False)
        return job.train(trial.number, suggested(trial, space), [Pruning(trial, job.study.objective.metric)])

    def note_best(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        if complete and study.best_trial.number == trial.number and trial.value is not None:
            values = {
                one.name: from_optuna(one, trial.params[optuna_name(one)])
                for one in space
                if optuna_name(one) in trial.params
            }
            recommend(job.log, f"trial-{trial.number}", trial.value, space.effective(values))

    study = opened(job)
    if job.equal and job.place == 0:
        own = {optuna_name(space[name]): to_optuna(space[name], value) for name, value in job.own.items()}
        study.enqueue_trial(own)
    study.optimize(objective, timeout=job.seconds, callbacks=[note_best])


def opened(job: Job) -> optuna.Study:
    seed = 100 * job.seed + job.place  # processes with one seed would draw the same
    samplers: dict[str, Any] = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
    pruners: dict[str, Any] = {
        "median": optuna.pruners.MedianPruner,
        "hyperband": lambda: optuna.pruners.HyperbandPruner(max_resource=job.study.epochs),
        "none": optuna.pruners.NopPruner,
    }
    storage = None
    if job.options["processes"] > 1:
        storage = JournalStorage(JournalFileBackend(str(Path(job.folder) / "journal.log")))
    return optuna.create_study(
        storage=storage,
        study_name="benchmark",
        direction=job.study.objective.direction,
        sampler=samplers[job.options["sampler"]](seed=seed),
        pruner=pruners[job.options["pruner"]](),
        load_if_exists=True,
    )


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """The values of a trial, from the same ranges on the same scales as tuner draws them."""
    values: dict[str, Value] = {}
    for parameter in space:
        if not parameter.is_active(values):
            continue
        name, asked = optuna_name(parameter), distribution(parameter)
        stored: Value
        if isinstance(asked, optuna.distributions.FloatDistribution):
            stored = trial.suggest_float(name, asked.low, asked.high, log=asked.log)
        elif isinstance(asked, optuna.distributions.IntDistribution):
            stored = trial.suggest_int(name, asked.low, asked.high, log=asked.log, step=asked.step)
        else:
            assert isinstance(asked, optuna.distributions.CategoricalDistribution)
            stored = trial.suggest_categorical(name, asked.choices)
        values[parameter.name] = from_optuna(parameter, stored)
    return values


if __name__ == "__main__":
    main(Job.of_process())
