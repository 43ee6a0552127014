"""Reading a configuration must not wait for Optuna or for an optimiser."""

import subprocess
import sys

import pytest

import tuner.search


def test_the_rules_are_imported_without_optuna_and_the_optimiser():
    code = (
        "import sys, tuner.search.history, tuner.search.promotion, tuner.search.stages, tuner.search.draws, tuner.search.screen;"
        "print({'optuna', 'scipy', 'torch'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_the_package_exports_its_adapters_and_nothing_else():
    assert {getattr(tuner.search, name).__name__ for name in tuner.search.__all__} == set(tuner.search.__all__)
    with pytest.raises(AttributeError, match="TPESampler"):
        _ = tuner.search.TPESampler
