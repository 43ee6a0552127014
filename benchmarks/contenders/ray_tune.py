"""Ray Tune with ASHA and Lightning, as Ray's own example and guide have it; run as a program by `real.py`.

Sources: ray-project/ray, python/ray/tune/examples/mnist_ptl_mini.py (a function around a Trainer with a
TuneReportCheckpointCallback that saves no checkpoints, one CPU for each trial) and the guide "Using PyTorch Lightning with
Tune" (ASHAScheduler with a grace period of 1 and a reduction factor of 2). Trials are drawn at random, as they are there.
"""

from __future__ import annotations

import random
import tempfile
from typing import Any

import lightning.pytorch as pl
import numpy as np
import ray
import torch
from ray import tune
from ray.tune.integration.pytorch_lightning import TuneReportCheckpointCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from contenders.problem import Job
from contenders.record import append
from tuner.space import Categorical, Int, LogInt, LogUniform, OneMinusPow10, Parameter, Uniform, complement


def train(config: dict[str, Any], job: Job) -> None:
    """One trial, in a process of Ray's; that imports no more than a script of Ray's users would."""
    space, metric = job.study.space, job.study.objective.metric
    stored = {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}
    values = space.active({one.name: complemented(one, stored[one.name]) for one in space})
    trial = tune.get_context().get_trial_id()
    pl.seed_everything(1000 * job.seed + int(trial.rpartition("_")[2]), verbose=False)
    append(job.log, trial=f"trial-{trial}", values=space.effective(values))
    job.train(trial, values, [TuneReportCheckpointCallback({"value": metric}, save_checkpoints=False)])


def complemented(parameter: Parameter, value: Any) -> Any:
    """A value as Ray draws it from one as tuner does, and back."""
    return complement(value) if isinstance(parameter.scale, OneMinusPow10) else value


def domain(parameter: Parameter) -> Any:
    """Ray's domain with the range and the scale of a parameter; of momentum it is what is missing to 1."""
    scale = parameter.scale.of_complement() if isinstance(parameter.scale, OneMinusPow10) else parameter.scale
    if isinstance(scale, Categorical):
        return tune.choice(list(scale.choices))
    if isinstance(scale, Int):
        return tune.choice(list(range(scale.low, scale.high + 1, scale.step)))
    if isinstance(scale, LogInt):
        return tune.lograndint(scale.low, scale.high + 1)
    if isinstance(scale, LogUniform):
        return tune.loguniform(scale.low, scale.high)
    assert isinstance(scale, Uniform)
    return tune.uniform(scale.low, scale.high)


def main(job: Job) -> None:
    study = job.study
    random.seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002 - where Ray draws from
    mode = {"maximize": "max", "minimize": "min"}[study.objective.direction]
    own = {name: complemented(study.space[name], value) for name, value in job.own.items()}
    gpus = torch.cuda.device_count()
    with tempfile.TemporaryDirectory(prefix="ray-") as files:  # a short path: sockets allow no long ones
        ray.init(num_cpus=job.slots, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=files)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train, job=job), {"cpu": 1, "gpu": 1 if gpus else 0}),
            param_space={parameter.name: domain(parameter) for parameter in study.space},
            tune_config=tune.TuneConfig(
                metric="value",
                mode=mode,
                num_samples=-1,
                time_budget_s=job.seconds,
                max_concurrent_trials=None if job.equal else job.slots,
                scheduler=ASHAScheduler(max_t=study.epochs, grace_period=1, reduction_factor=2),
                search_alg=BasicVariantGenerator([own], max_concurrent=job.slots) if job.equal else None,
                reuse_actors=job.equal,
            ),
            run_config=tune.RunConfig(name="benchmark", storage_path=job.folder),
        )
        tuner.fit()
        ray.shutdown()


if __name__ == "__main__":
    main(Job.of_process())
