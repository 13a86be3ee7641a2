"""Trained networks of a project's runs, as the folder page offers them, and what a slide or a map is to one."""

from __future__ import annotations

import logging
from pathlib import Path

from tlskit.errors import TlskitError
from tlskit.files import project_root, sha256_of_file
from tlskit.slides import content_id
from tlskit.study import Archive, Arm, find_runs, open_archive

__all__ = ["first_folder", "is_old", "model_name", "screen_name", "set_in", "trained_models"]

log = logging.getLogger(__name__)


def set_in(archive: Archive, arm: Arm, path: Path, slide_id: str) -> str:
    """What a slide was to an arm's network (``train``, ``val``, ``test``), found by its content; empty for none."""
    try:
        size = path.stat().st_size
        for row in archive.manifest.itertuples():
            other = Path(row.slide_path)
            if other.is_file() and other.stat().st_size == size and content_id(other) == slide_id:
                return archive.set_of(str(row.slide_id), arm)
    except (TlskitError, OSError) as error:
        log.info("Run %s does not say what %s was to it: %s", archive.name, path.name, error)
    return ""


def is_old(probmap, arm: Arm, screen: dict | None) -> bool:
    """Whether a map is of another network than the arm's present one, or under another screen."""
    made_by = probmap.metadata.get("checkpoint_sha256", "")
    if not arm.checkpoint_path.is_file() or made_by != sha256_of_file(arm.checkpoint_path):
        return True
    under = probmap.metadata.get("parameters", {}).get("screen") or {}
    names = {"checkpoint_sha256": "coarse_sha256", "threshold": "screen_threshold", "grow_um": "grow_um"}
    return any(under.get(made) != (screen or {}).get(now) for made, now in names.items())


def screen_name(row: dict) -> str:
    """A stored screen in a few words."""
    share = f", {row['windows_share']:.0%} of the windows" if row.get("windows_share") is not None else ""
    return f"where {row['coarse']} finds something first{share}"


def trained_models(outputs_dir: str | Path) -> list[tuple[Archive, Arm]]:
    """Every trained network of every run."""
    found = []
    for folder in find_runs(outputs_dir):
        try:
            archive = open_archive(folder)
        except Exception as error:  # whatever is broken in one run, the others are still to be had
            log.warning("The run %s is left out: %s: %s", folder.name, type(error).__name__, error)
            continue
        found += [(archive, arm) for arm in archive.arms if arm.checkpoint_path.is_file()]
    return found


def model_name(archive: Archive, arm: Arm) -> str:
    return f"{archive.name}, {arm.name}" + (
        "" if arm.name.startswith(f"{arm.magnification:g}x") else f" ({arm.magnification:g}x)"
    )


def first_folder(outputs_dir: str | Path) -> Path:
    """Where the newest run's slides lie; else the project."""
    for folder in find_runs(outputs_dir):
        try:
            path = Path(open_archive(folder).manifest["slide_path"].iloc[0]).parent
        except Exception as error:  # as above
            log.debug("The run %s names no folder of slides: %s", folder.name, error)
            continue
        if path.is_dir():
            return path
    return project_root()
