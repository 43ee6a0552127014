"""Who may import whom: the layers of the package, read from its source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tuner"
#: Modules of search/ that are adapters to Optuna.
ADAPTERS = {
    "search/sampler.py",
    "search/trial_reader.py",
    "search/exhaustive.py",
    "search/seeded.py",
    "search/pruner.py",
    "search/distributions.py",
}
PURE = {"numpy", "scipy", "sklearn"}
STANDARD = set(__import__("sys").stdlib_module_names)


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import hides what it imports"
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def files(*patterns: str) -> list[Path]:
    return sorted(file for pattern in patterns for file in PACKAGE.glob(pattern))


def reaches(names: set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(f"{package}.")}


@pytest.mark.parametrize(
    "file",
    files(
        "space.py", "advice.py", "errors.py", "comparison.py", "lr_range.py", "fitting.py", "formulas.py", "search/*.py"
    ),
    ids=lambda file: file.name,
)
def test_the_searchs_rules_are_pure(file):
    """No torch, no Optuna, no database: values in, values out."""
    if str(file.relative_to(PACKAGE)) in {*ADAPTERS, "search/__init__.py"}:
        return
    third = {name for name in imports(file) if name.split(".")[0] not in STANDARD | PURE | {"tuner"}}
    assert not third
    ours = reaches(imports(file), "tuner") - {"tuner"}
    assert all(name.startswith(("tuner.search", "tuner.space", "tuner.errors")) for name in ours), ours
    if file.parent.name == "search":
        assert not reaches(imports(file), *(f"tuner.{name[:-3].replace('/', '.')}" for name in ADAPTERS))


@pytest.mark.parametrize("file", files("training/*.py"), ids=lambda file: file.name)
def test_training_knows_no_database_and_no_worker(file):
    assert not reaches(
        imports(file), "tuner.store", "tuner.launch", "tuner.round", "tuner.commands", "optuna", "sqlalchemy"
    )


@pytest.mark.parametrize(
    "file", files("store/**/*.py", "config/*.py", "commands/*.py", "*.py"), ids=lambda file: file.name
)
def test_the_controllers_process_never_imports_torch(file):
    assert not reaches(imports(file), "torch", "lightning", "tuner.training.run", "tuner.launch.worker")


@pytest.mark.parametrize(
    "file",
    files("*.py", "config/*.py", "commands/*.py", "store/**/*.py", "launch/*.py", "search/*.py", "report/**/*.py"),
    ids=lambda file: file.name,
)
def test_the_controllers_process_never_imports_the_schedules(file):
    if str(file.relative_to(PACKAGE)) not in {"launch/worker.py", "launch/preload.py"}:
        assert not reaches(imports(file), "tuner.schedules")


@pytest.mark.parametrize("file", files("schedules/*.py"), ids=lambda file: file.name)
def test_schedules_serve_any_module(file):
    """Nothing of a study, a trial or a worker: a user's module or plain torch loop imports them alone."""
    ours = reaches(imports(file), "tuner") - {"tuner"}
    assert not ours - reaches(ours, "tuner.schedules", "tuner.formulas", "tuner.errors")


@pytest.mark.parametrize("file", files("config/*.py", "cli.py", "__main__.py", "errors.py"), ids=lambda file: file.name)
def test_a_configuration_is_read_without_optuna(file):
    assert not reaches(imports(file), "optuna", "sqlalchemy", "tuner.store", "tuner.round", "tuner.launch")


@pytest.mark.parametrize("file", files("launch/*.py"), ids=lambda file: file.name)
def test_workers_never_open_the_database(file):
    assert not reaches(imports(file), "tuner.store", "tuner.search", "tuner.round", "optuna", "sqlalchemy")
