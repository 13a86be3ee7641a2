"""A folder of one's own, from a clone and from an installed package."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tlskit import __version__
from tlskit.errors import RunError
from tlskit.study import project

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def same_as_here(folder: Path) -> None:
    for name, pattern in project.FOLDERS.items():
        assert contents(folder / name, "*") == contents(ROOT / name, pattern) != {}


def test_a_new_folder_holds_the_notebooks_and_presets_of_this_version(tmp_path, monkeypatch):
    project.make_project(tmp_path / "my-study")
    same_as_here(tmp_path / "my-study")
    monkeypatch.chdir(tmp_path / "my-study" / "params")
    assert project.require_project() == tmp_path / "my-study"
    assert project.written_by(tmp_path / "my-study") == __version__


def test_nothing_that_is_there_is_replaced(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="full is not empty. Name a new folder"):
        project.make_project(tmp_path / "full")
    with pytest.raises(RunError, match="mine.txt is not a folder"):
        project.make_project(tmp_path / "full" / "mine.txt")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["mine.txt"]


def test_outside_a_study_the_way_to_one_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="tlskit init my-study"):
        project.require_project()


@pytest.mark.slow
def test_the_wheel_works_without_the_clone(tmp_path):
    """Built from copied sources, unpacked, and used from another folder: a plan of the notebooks that were inside."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in ("tlskit", "notebooks", "params"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("tlskit-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    inside = {path.relative_to(site).as_posix() for path in (site / "tlskit").rglob("*") if path.is_file()}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tlskit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".ipynb_checkpoints" not in path.parts
    }
    assert wanted <= inside, "the wheel lacks files of the package"
    # Seen from there: not this clone, and not its environment's editable install.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "tlskit"]
    subprocess.run([*command, "init", "my-study"], cwd=tmp_path, env=env, check=True, capture_output=True)
    same_as_here(tmp_path / "my-study")
    planned = subprocess.run(
        [*command, "plan", "params/smoke.yaml"], cwd=tmp_path / "my-study", env=env, capture_output=True, text=True
    )
    assert "14 of 14 notebooks to run" in planned.stdout, planned.stderr
