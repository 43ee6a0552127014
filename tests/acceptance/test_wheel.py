"""An installed tuner works from any folder: the wheel carries its configurations and studies."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_wheel_tunes_the_digits_study_from_an_empty_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    dist, site, folder = tmp_path / "dist", tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", dist, ROOT], check=True)
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"tuner/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert shipped <= names
    assert {"studies/digits.py", "tuner/py.typed", "tuner/store/migrations/script.py.mako"} <= names
    assert not any(name.startswith(("conf/", "tests/", "benchmarks/")) for name in names)
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    ran = subprocess.run(
        [site / "bin" / "tuner", "study=digits", "trainer.max_epochs=2", "search.budget=1", "launcher.workers=1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "champion of digits-1" in ran.stdout
    where = "import tuner.config.compose as compose; print(compose.shipped_folder())"
    printed = subprocess.run(
        [sys.executable, "-c", where],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == str(site / "tuner" / "conf")
