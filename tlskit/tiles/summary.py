"""What the tiles of one magnification amount to, beside what the study printed of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from tlskit import units
from tlskit.metrics import published

if TYPE_CHECKING:
    from tlskit.tiles.tiling import Tiling

__all__ = ["tiling_summary"]

#: Mean area of a TLS in the study, mm2 (section 4.1).
PUBLISHED_TARGET_MM2 = 0.21


def tiling_summary(tiled: Tiling, *, magnification: float, tile_px: int) -> pd.DataFrame:
    """Slides, tiles, the tissue that a tile covers, the targets' mean area, background to target pixels.

    Parameters
    ----------
    tiled
        As `tlskit.tiles.tiling.tile_cohort` returns it.
    magnification, tile_px
        As the tiles were cut.

    Returns
    -------
    DataFrame
        ``quantity, unit, this_cohort, published``. The published column holds what McCombe et al. 2022 state for this
        magnification (with tiles of 512 px; their number of tiles is that of the training set), nan where they do not.
        The ratio counts the pixels of the kept tiles, each tile whole: pixels where tiles overlap count twice, as they
        do in training.
    """
    tiles, slides = tiled.tiles, tiled.slides
    n_targets = int(slides["n_targets"].sum())
    positive = tiles["target_fraction"].mean() if len(tiles) else math.nan
    printed = published.facts().set_index("magnification")
    study = printed.loc[float(magnification)].to_dict() if float(magnification) in printed.index else {}
    rows = [
        ("slides", "", len(slides), math.nan),
        ("slides without a target", "", int((slides["n_targets"] == 0).sum()), math.nan),
        ("targets", "", n_targets, math.nan),
        ("mean area of a target", "mm2", slides["target_mm2"].sum() / n_targets if n_targets else math.nan,
         PUBLISHED_TARGET_MM2),
        ("tiles kept", "", len(tiles), study.get("training_tiles", math.nan)),
        ("area of a tile", "mm2", units.area_mm2(tile_px**2, units.mpp_for_magnification(magnification)),
         study.get("tile_area_mm2", math.nan)),
        ("background pixels for each target pixel", "", (1 - positive) / positive if positive else math.nan,
         study.get("negative_to_positive_pixels", math.nan)),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "unit", "this_cohort", "published"])
