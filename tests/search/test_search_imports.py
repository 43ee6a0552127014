"""Reading a configuration must not wait for Optuna or for an optimiser."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tuner.search

ADAPTERS = {"__init__", "sampler", "pruner", "distributions"}
MODULES = sorted(path.stem for path in Path(tuner.search.__file__).parent.glob("*.py"))
ALLOWED = {"numpy", "scipy", "tuner", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ADAPTERS])
def test_the_rules_import_no_adapter_and_no_framework(module):
    tree = ast.parse((Path(tuner.search.__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {name.split(".")[0] for name in names} <= ALLOWED
    own = {name for name in names if name.startswith("tuner")}
    assert all(name == "tuner.space" or name.startswith("tuner.search.") for name in own)
    assert not own & {f"tuner.search.{adapter}" for adapter in ADAPTERS}


def test_the_rules_are_imported_without_optuna_and_the_optimiser():
    code = (
        "import sys, tuner.search.history, tuner.search.promotion, tuner.search.stages, tuner.search.draws;"
        "print({'optuna', 'scipy', 'torch'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_the_package_exports_its_adapters_and_nothing_else():
    assert {getattr(tuner.search, name).__name__ for name in tuner.search.__all__} == set(tuner.search.__all__)
    with pytest.raises(AttributeError, match="TPESampler"):
        _ = tuner.search.TPESampler
