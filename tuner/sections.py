"""Keys that single commands ask for, with what `tuner COMMAND --help` says of them.

They stand apart because `tuner --help` needs them and Hydra does not come before it. `COMPARE`, `LR_RANGE` and `TRAIN`
are sections of the configuration, which the command line takes without the section's name; the others are keys that
are written as they stand here. A test compares the defaults with those of `conf/`.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """What a key is for, and what holds where it is not given, each on one line."""

    what: str
    default: str


STUDY = {"study": Key("what is tuned: conf/study/NAME.yaml, there or in --config-dir", "none, it must be given")}
DATABASE = {"store.url": Key("the study database", "sqlite:///runs/tuner.db")}
STORE = {**DATABASE, "store.folder": Key("checkpoints, logs and figures", "runs")}
WORKERS = {
    "launcher.workers": Key("groups of worker processes", "as many as the devices hold, on CPU cores at most 8"),
    "launcher.devices_per_trial": Key("devices that train one model together, or all", "1"),
    "launcher.max_retries": Key("times that what was lost with its worker is tried again", "2"),
}
LENGTH = {"trainer.max_epochs": Key("epochs of a full training", "the study's own")}
SEED = {"seed": Key("of the draws and of every training", "0")}

_AT = Key("whose values all else has: champion, or defaults (the study's own)", "the champion's, if there is one")

TUNE = {
    **STUDY,
    "search": Key("how configurations are drawn: conf/search", "coarse_to_fine"),
    "search.budget": Key("ends the round: full trainings' worth of epochs", "16"),
    "search.trials": Key("ends the round: configurations drawn", "no limit"),
    "search.timeout": Key("ends the round: seconds over all calls", "no limit"),
    "pruner": Key("which trainings go on: conf/pruner", "promote"),
    **LENGTH,
    **WORKERS,
    **SEED,
    **STORE,
}
CHAMPION = {**STUDY, **DATABASE}
STATUS = {"study": Key("only the rounds of this study", "all rounds"), **DATABASE}
DASHBOARD = {
    "dashboard.host": Key("address to listen on; the dashboard has no login", "127.0.0.1"),
    "dashboard.port": Key("port to listen on; 0 for any free one", "8080"),
    **DATABASE,
}
COMPARE = {
    "over": Key("what is compared: a parameter of the space, or a path such as batch_norm", "none, it must be given"),
    "choices": Key("a list of values or nodes, or a mapping from labels to them", "all choices of the parameter"),
    "seeds": Key("trainings of each choice, with the same seeds for all", "5"),
    "target": Key("value of the objective to count the epochs to", "what the first choice reaches in the mean"),
    "at": _AT,
    "folder": Key("of table, curves and page", "STUDY-compare-OVER in store.folder"),
}
LR_RANGE = {
    "low": Key("learning rate of the first step", "1e-7"),
    "high": Key("learning rate of the last step", "10"),
    "steps": Key("optimizer steps from one to the other", "200"),
    "at": _AT,
    "folder": Key("of the figure", "STUDY-lr-range in store.folder"),
}
TRAIN = {
    "split": Key("what is trained on: train+val, or train", "train+val"),
    "at": _AT,
    "folder": Key("of the checkpoint", "STUDY-final in store.folder"),
}
#: Keys besides their own that the commands which train are often called with.
TRAINING = {**STUDY, **LENGTH, **WORKERS, **SEED, **STORE}
TESTING = {**STUDY, **SEED, **STORE}
