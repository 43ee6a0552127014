"""Fixtures that several folders of tests use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that `runs/` of one test is not another's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
