"""Where a `_target_` lives, found on the file system without importing it.

Importing a study's module pulls in torch, which takes seconds. A misspelt name has to be told at once, and the files'
content is part of a round's identity, so both are read from the source.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.machinery
import sys
from pathlib import Path

#: More source files than this below one package are not read: it is a library then, not somebody's study.
MOST_FILES = 200


def source_of(target: str) -> tuple[Path | None, tuple[str, ...]]:
    """The file of the longest module prefix of a dotted path, and the names left to look up in it.

    (None, names) where there is no such top-level module. A module that is not Python source (a C extension, a frozen
    one) gives its own file, which `defines` then takes on trust.
    """
    parts = target.split(".")
    where: Path | None = None
    search = [Path(entry or ".") for entry in sys.path]
    for depth, part in enumerate(parts):
        found = next((file for folder in search for file in _modules(folder, part)), None)
        # A folder without __init__.py is a package only where no proper module has its name.
        spread = [folder / part for folder in search if (folder / part).is_dir() and part.isidentifier()]
        if found is None and not spread:
            return where, tuple(parts[depth:])
        where = found or spread[0]
        if found is not None and found.name != "__init__.py":
            return where, tuple(parts[depth + 1 :])
        search = [found.parent] if found else spread
    return where, ()


def _modules(folder: Path, name: str) -> list[Path]:
    options = [folder / name / "__init__.py", folder / f"{name}.py"]
    options += [folder / f"{name}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    return [file for file in options if file.is_file()]


@functools.cache
def names_in(file: Path) -> frozenset[str] | None:
    """Names that a source file binds at its top level; None where that cannot be told without running it."""
    if file.suffix != ".py":
        return None
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    names: set[str] = set()
    # Not ast.walk: names bound inside functions and classes are not the module's; those under if and try are.
    queue: list[ast.stmt] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.With):
            names.update(name.id for name in ast.walk(node) if isinstance(name, ast.Name))
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                queue.extend(getattr(node, field, []))
        queue.extend(statement for handler in getattr(node, "handlers", []) for statement in handler.body)
    return None if "*" in names or "__getattr__" in names else frozenset(names)


def missing(target: str) -> tuple[str, frozenset[str]] | None:
    """What is missing on the way to a target, with the names there are instead; None when it can be imported.

    Only the first name below the module is looked up: what a class has inside is not known without running it.
    """
    file, rest = source_of(target)
    if file is None:
        top = target.split(".", maxsplit=1)[0]
        return None if top in sys.builtin_module_names or top in sys.stdlib_module_names else (top, frozenset())
    if not rest:
        return None
    names = names_in(file)
    if names is None and file.is_dir():
        return rest[0], frozenset(entry.stem for entry in file.glob("*.py"))
    if names is None or rest[0] in names:
        return None
    submodules = {entry.stem for entry in file.parent.glob("*.py")} if file.name == "__init__.py" else set()
    return rest[0], names | submodules - {"__init__"}


def code_of(target: str) -> dict[str, str]:
    """Hash of each source file behind a study's own target, by module path; empty for installed libraries.

    Comments, docstrings' positions and layout do not count: the syntax tree is hashed. A package counts with all of
    its files, because a class that it exports may stand in any of them.
    """
    file, rest = source_of(target)
    if file is None or file.suffix != ".py" or "site-packages" in file.parts:
        return {}
    module = target.split(".")[: -len(rest)] if rest else target.split(".")
    if file.name != "__init__.py":
        return {".".join(module): _hash(file)}
    files = sorted(file.parent.rglob("*.py"))[: MOST_FILES + 1]
    if len(files) > MOST_FILES:
        return {}
    return {".".join([*module, *entry.relative_to(file.parent).with_suffix("").parts]): _hash(entry) for entry in files}


def _hash(file: Path) -> str:
    content = file.read_bytes()
    # A file that does not parse fails in its trial, with the proper traceback; its bytes identify it until then.
    with contextlib.suppress(SyntaxError, ValueError):
        content = ast.dump(ast.parse(content)).encode()
    return hashlib.sha256(content).hexdigest()[:16]
