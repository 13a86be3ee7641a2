"""The largest share of target that a tile of a cohort can hold, known from outlines before anything is tiled."""

from __future__ import annotations

import logging

import pandas as pd

from tlskit import units
from tlskit.cohort import open_row, slide_rows
from tlskit.errors import TlskitError
from tlskit.outlines import read_truth
from tlskit.tiles.drawing import AS_THEY_COME
from tlskit.tiles.tiling import target_fractions, tile_grid

__all__ = ["largest_target_fraction", "needed_of_tiles"]

log = logging.getLogger(__name__)


def largest_target_fraction(
    manifest: pd.DataFrame,
    *,
    magnification: float,
    tile_px: int,
    overlap: float,
    edge_tiles: str,
    target_class: str | list[str],
    ignore_class: str | list[str] | None = None,
    resolution_by: str = "mpp",
) -> float | None:
    """Of all tiles of the grid, whatever set their slide will be in; no pixel is read.

    Parameters
    ----------
    manifest, magnification, tile_px, overlap, edge_tiles, target_class, ignore_class, resolution_by
        Of `tiling.tile_cohort`.

    Returns
    -------
    float or None
        Share of a tile's pixels, 0 to 1; None where a slide or its outlines cannot be read, which is for the steps to
        report: nothing is known then.
    """
    mpp, largest = units.mpp_for_magnification(magnification), 0.0
    for row in slide_rows(manifest):
        try:
            with open_row(row, resolution_by=resolution_by) as slide:
                polygons = read_truth(row, slide, target_class, ignore_class=ignore_class, missing="empty").polygons
                xy = tile_grid(slide.size_px(mpp), tile_px, overlap=overlap, edge_tiles=edge_tiles)
                shares = target_fractions(polygons, xy, tile_px, mpp=mpp, mpp0=slide.mpp0)
        except (TlskitError, OSError) as error:
            log.warning("%s: what its tiles hold of the target is not known yet (%s)", row.slide_id, error)
            return None
        largest = max(largest, float(shares.max(initial=0.0)))
    return largest


def needed_of_tiles(positive_pixels: float, negatives_per_batch: int, batch_size: int) -> float:
    """Share of target that tiles with target must hold on average for `positive_pixels`, at the least (0 to 1)."""
    if negatives_per_batch == AS_THEY_COME:
        return positive_pixels
    return positive_pixels * batch_size / (batch_size - negatives_per_batch)
