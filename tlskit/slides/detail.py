"""Pixels that carry no more detail than a coarser um/px: its area means, each repeated over the finer pixels.

A slide seen at 20x with the detail of 4x has as many pixels as at 20x and no more information than at 4x: exactly the
pixels that are read at 4x, enlarged. Each is repeated over the working pixels whose centres it covers, so that nothing
is smoothed beyond the mean, and a tile read alone or cut out of a stream stays the same, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

__all__ = ["coarse_read", "coarse_windows", "source_mpp"]

#: A um/px that is coarser by less than this share is the same one.
_TOLERANCE = 1e-6

#: A centre this close below a coarse pixel's edge lies beyond it: float noise must not choose.
_CENTRE = 1e-9


def source_mpp(mpp: float, detail_mpp: float) -> float:
    """um/px at which pixels are averaged for a request at `mpp`: that itself, or a coarser `detail_mpp`."""
    return detail_mpp if detail_mpp > mpp * (1 + _TOLERANCE) else mpp


def coarse_read(slide, from_mpp: float, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float):
    """As `Slide.read` at `mpp`, from pixels averaged at the coarser `from_mpp`."""
    x, y = (_repeated(at, side, mpp / from_mpp) for at, side in ((x_px, width_px), (y_px, height_px)))
    if not len(x) or not len(y):
        return np.empty((len(y), len(x), 3), np.uint8)
    means = slide.read(x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1, mpp=from_mpp)
    return means[np.ix_(y - y[0], x - x[0])]


def coarse_windows(
    slide, from_mpp: float, xy_px: np.ndarray, size_px: int, *, mpp: float, **options
) -> Iterator[tuple[int, np.ndarray | None]]:
    """As `Slide.windows` at `mpp`, cut from windows of the coarser lattice that are large enough for each."""
    xy_px, ratio = np.asarray(xy_px, np.int64).reshape(-1, 2), mpp / from_mpp
    coarse = np.floor((xy_px + 0.5) * ratio + _CENTRE).astype(np.int64)
    if len(np.unique(coarse[:, 1])) < len(np.unique(xy_px[:, 1])):
        # Rows of windows less than a coarse pixel apart would come interleaved: row by row they are in raster order.
        rows = [np.flatnonzero(xy_px[:, 1] == y) for y in np.unique(xy_px[:, 1])]
    else:
        rows = [np.arange(len(xy_px))]
    side = math.ceil(size_px * ratio) + 1
    for row in rows:
        for place, means in slide.windows(coarse[row], side, mpp=from_mpp, **options):
            index, window = int(row[place]), None
            if means is not None:
                x, y = (_repeated(corner, size_px, ratio) for corner in xy_px[index].tolist())
                window = means[np.ix_(y - coarse[index, 1], x - coarse[index, 0])]
                window.flags.writeable = False
            yield index, window


def _repeated(start: int, count: int, ratio: float) -> np.ndarray:
    """Coarse pixels under the centres of fine pixels ``start ...``; `ratio` fine to coarse um/px, below 1."""
    return np.floor((np.arange(start, start + count) + 0.5) * ratio + _CENTRE).astype(np.int64)
