"""Configuration: Hydra ends in this package, as frozen dataclasses, with every problem reported at once.

Neither torch nor lightning nor optuna is imported here, so that a mistake is told at once.
"""

from tuner.config.load import load, studies
from tuner.config.settings import Settings, StudySettings

__all__ = ["Settings", "StudySettings", "load", "studies"]
