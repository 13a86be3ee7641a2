"""The screens that a run's notebook ``cascade`` chose, for whoever runs a cascade: the command, and the page.

Loads no torch: the page asks it.
"""

from __future__ import annotations

import json
from pathlib import Path

from tlskit.errors import RunError

__all__ = ["SCREENS", "all_screens", "read_screen", "screen_setting"]

#: Where the chosen settings of a run's cascades are kept.
SCREENS = "cascade/work/screens.json"


def all_screens(run_dir: str | Path) -> list[dict]:
    """What the notebook chose, a row of `cascades.choose` a pair of arms, with coarse_sha256 and fine_sha256 of the
    networks it holds for; empty where it was not run."""
    path = Path(run_dir) / SCREENS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def read_screen(run_dir: str | Path, *, coarse_sha256: str, fine_sha256: str) -> dict:
    """The setting that was chosen for two networks, a row of `all_screens`.

    Raises
    ------
    RunError
        If none was chosen for these two.
    """
    rows = all_screens(run_dir)
    for row in rows:
        if (row["coarse_sha256"], row["fine_sha256"]) == (coarse_sha256, fine_sha256):
            return row
    held = "has no chosen screens" if not rows else "holds no screen for these two networks"
    raise RunError(
        f"The run {Path(run_dir).name} {held}. Run the notebook cascade there, or give --screen-threshold and "
        "--screen-grow-um."
    )


def screen_setting(run_dir: str | Path, coarse, fine) -> dict:
    """`read_screen` for two networks (checkpoints), with a sentence on where it comes from (``said``)."""
    row = read_screen(run_dir, coarse_sha256=coarse.sha256, fine_sha256=fine.sha256)
    if row["screen"] != "map":
        return row | {"said": f"no screen, the fine network looks everywhere: {row['reason']}"}
    said = (
        f"from {row['screen_threshold']:g}, grown by {row['grow_um']:g} um, chosen by notebook cascade: {row['reason']}"
    )
    return row | {"said": said}
