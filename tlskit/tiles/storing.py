"""Every kept tile is read once while tiles are cut: what cannot be read is known then, and PNG files are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit import units
from tlskit.errors import SlideError
from tlskit.outlines import Truth
from tlskit.slides import Slide
from tlskit.tiles.context import context_origin
from tlskit.tiles.pngs import context_stem, write_tile

__all__ = ["read_all", "read_contexts", "what_is_lost"]


def read_all(
    slide: Slide,
    tiles: pd.DataFrame,
    truth: Truth,
    folder: Path | None,
    *,
    mpp: float,
    tile_px: int,
    on_tile: Callable[[int], None] = lambda px: None,
) -> np.ndarray:
    """Read the tiles of a slide, and write them and their masks as PNG where there is a folder.

    A tile on a damaged region is found out here, once, and not in the middle of a training.

    Parameters
    ----------
    tiles
        Rows of the tile table, of this slide.
    on_tile
        Told of each tile's pixels.

    Returns
    -------
    (N,) bool
        Which of them can be read.
    """
    stems = [folder / name if folder else None for name in tiles["tile_id"]]
    return _read(slide, _corners(tiles, mpp, slide), truth, stems, mpp, tile_px, on_tile)


def read_contexts(
    slide: Slide, tiles: pd.DataFrame, truth: Truth, folder: Path | None, *,
    mpp: float, tile_px: int, context_px: int, ratio: int,
) -> np.ndarray:  # fmt: skip
    """The same of the contexts of the tiles, in a stream of their own over the slide's coarser pixels."""
    stems = [context_stem(folder / name) if folder else None for name in tiles["tile_id"]]
    xy = np.stack(context_origin(*_corners(tiles, mpp, slide).T, tile_px, context_px, ratio), axis=1)
    return _read(slide, xy, truth, stems, ratio * mpp, context_px)


def _read(slide, xy, truth, stems, mpp, side_px, on_tile=lambda px: None) -> np.ndarray:
    kept = np.ones(len(xy), bool)
    for i, window in slide.windows(xy, side_px, mpp=mpp, on_lost="skip"):
        on_tile(side_px**2)
        if window is None:
            kept[i] = False
        elif stems[i] is not None:
            x, y = (int(v) for v in xy[i])
            write_tile(stems[i], window, truth.coded_at(x, y, side_px, side_px, mpp=mpp))
    return kept


def _corners(tiles: pd.DataFrame, mpp: float, slide: Slide) -> np.ndarray:
    """Top-left corners in working pixels, (N, 2) int64."""
    return np.stack([units.px0_to_px(tiles[k].to_numpy(), mpp, slide.mpp0) for k in ("x_px0", "y_px0")], axis=1)


def what_is_lost(slide: Slide, kept: np.ndarray, mpps: Sequence[float]) -> SlideError:
    """What to say of a slide of which some tiles cannot be read, at the um/px at which it was read."""
    levels = {slide.level_for(mpp) for mpp in mpps}
    lost = [region for region in slide.lost if region["level"] in levels]
    where = "level-0 pixel ({x_px0}, {y_px0}), {width_px0} x {height_px0} px ({reason})".format(**lost[0])
    return SlideError(
        f"{slide.path}: {int((~kept).sum())} of {len(kept)} tiles are left out, because they lie on {len(lost)} "
        f"region(s) that cannot be read, the first at {where}. The other tiles are kept. The file is damaged there: "
        "copy it again from its source."
    )
