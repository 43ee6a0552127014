"""Keys that sections of a configuration know, besides those that their files spell out."""

from __future__ import annotations

from tuner.config.space import OPTIONS
from tuner.sections import COMPARE, LR_RANGE, TRAIN

#: Arguments of lightning.Trainer, so that a misspelt one is told without importing lightning; a test compares them.
TRAINER_ARGUMENTS = frozenset({
    "accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks", "fast_dev_run", "max_epochs",
    "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "limit_val_batches",
    "limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
    "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark",
    "inference_mode", "use_distributed_sampler", "profiler", "detect_anomaly", "barebones", "plugins", "sync_batchnorm",
    "reload_dataloaders_every_n_epochs", "default_root_dir", "enable_autolog_hparams", "model_registry",
})  # fmt: skip
#: tuner's own keys beside them.
TRAINER_OWN = frozenset(
    {"divergence_factor", "weights_only", "channels_last", "compile", "fit_batch", "checkpoint_every_s"}
)

SEARCH = frozenset({
    "draws", "budget", "trials", "timeout", "trial_timeout", "coarse", "elites", "screen", "expand", "barrier", "lr_range",
})  # fmt: skip
LAUNCHER = frozenset({
    "workers", "max_retries", "devices_per_trial", "trials_per_device", "silent_after_s", "takeover", "engine",
})  # fmt: skip
#: Keys of launcher=ray alone.
RAY = frozenset({"address", "max_groups", "cpus_per_rank", "runtime_env"})
TOP = frozenset({
    "name", "module", "data", "optimizer", "schedule", "objective", "space", "seed", "dashboard",
    "search", "pruner", "launcher", "store", "trainer", "compare", "lr_range", "train",
})  # fmt: skip

#: Keys allowed below a dotted key; `space.*` stands for every parameter. A section that is not here is the user's.
ALLOWED: dict[str, frozenset[str]] = {
    "": TOP,
    "objective": frozenset({"metric", "direction"}),
    "search": SEARCH,
    "launcher": LAUNCHER | RAY,
    "store": frozenset({"url", "folder", "keep_checkpoints", "keep_paused"}),
    "dashboard": frozenset({"host", "port"}),
    "compare": frozenset(COMPARE),
    "lr_range": frozenset(LR_RANGE),
    "train": frozenset(TRAIN),
    "trainer": TRAINER_ARGUMENTS | TRAINER_OWN,
    "space.*": frozenset(OPTIONS),
}
#: Keys of a pruner by rule; a node with _target_ has the arguments of its class.
PRUNER = {"promote": frozenset({"rule", "eta", "first_rung", "baseline"}), "none": frozenset({"rule"})}
