"""A folder of one's own: the notebooks and presets of this version, from a clone or from an installed package.

``tlskit init my-study`` copies them; every other command of the study works in such a folder, or below it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tlskit import __version__
from tlskit.errors import RunError
from tlskit.files import project_root, write_text

__all__ = ["FOLDERS", "VERSION_FILE", "make_project", "packaged", "require_project", "written_by"]

#: What a study's folder begins with.
FOLDERS = {"notebooks": "*.ipynb", "params": "*.yaml"}
#: Says which version of tlskit the notebooks were copied from.
VERSION_FILE = ".tlskit-version"


def packaged(folder: str) -> Path:
    """Where this version keeps its ``notebooks`` or ``params``: inside the installed package, or in the clone.

    Raises
    ------
    RunError
        If neither holds them.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package / "project" / folder, package.parent / folder):
        if any(place.glob(FOLDERS[folder])):
            return place
    raise RunError(f"This installation of tlskit has no {folder}: install it again, from its wheel or from a clone.")


def make_project(folder: str | Path) -> list[Path]:
    """Write the notebooks and presets of this version into an empty or a new folder.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    RunError
        If the folder holds anything: nothing of anybody's is replaced.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "not a folder" if not folder.is_dir() else "not empty"
        raise RunError(f"{folder} is {what}. Name a new folder, such as my-study: nothing that is there is replaced.")
    written = []
    for name, pattern in FOLDERS.items():
        (folder / name).mkdir(parents=True)
        for source in sorted(packaged(name).glob(pattern)):
            written.append(Path(shutil.copyfile(source, folder / name / source.name)))
    written.append(write_text(folder / VERSION_FILE, f"{__version__}\n"))
    written.append(write_text(folder / ".gitignore", "outputs/\n.ipynb_checkpoints/\n"))
    return written


def require_project() -> Path:
    """The study's folder at or above the working folder.

    Raises
    ------
    RunError
        If there is none.
    """
    root = project_root()
    if not (root / "notebooks" / "01_tiling.ipynb").is_file():
        raise RunError(
            "There are no notebooks in this folder or above it (notebooks/01_tiling.ipynb). Go to your study's folder, "
            "or make one: tlskit init my-study"
        )
    return root


def written_by(root: Path) -> str:
    """Version of tlskit whose notebooks `root` was made with; this one where it does not say (a clone)."""
    path = root / VERSION_FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else __version__
