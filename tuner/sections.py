"""Keys of the commands' own sections of the configuration, which the command line takes without the section's name.

They stand apart because `tuner --help` needs them and Hydra does not come before it.
"""

COMPARE = ("over", "choices", "seeds", "target", "at", "folder")
LR_RANGE = ("low", "high", "steps", "at", "folder")
TRAIN = ("split", "at", "folder")
