"""One physical lattice for all magnifications: area means of a map, band by band."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["TIE_SHIFT_PX", "area_means"]

#: A grid pixel that lies across two source pixels of a mask, half and half, is a tie. Counted as positive, ties enlarge
#: every object (at 1x on a grid of 4 um/px by 1.5 to 7 %). Shifted by this, such a pixel goes to the source pixel at
#: its right or below, which holds its centre by the convention [0, 1): as many ties are lost on one side of an object
#: as are won on the other. Nothing but a tie can change: means differ by less than their own steps.
TIE_SHIFT_PX = 1e-4

#: Source rows read at a time: bounds the memory, whatever the height of the slide.
_ROWS = 256
#: Source columns worked on at a time.
_COLUMNS = 2048


def area_means(
    read: Callable[[int, int], np.ndarray],
    size_px: tuple[int, int],
    *,
    ratio: float,
    grid_px: tuple[int, int],
    shift_px: float = 0.0,
) -> Iterator[tuple[int, np.ndarray]]:
    """Resample to a lattice with the same origin by the mean over each grid pixel's area, exactly.

    Grid pixel (i, j) covers source ``[i r, (i + 1) r) x [j r, (j + 1) r)``: pixels that it cuts count by the part it
    holds. On a grid finer than the source, a grid pixel inside one source pixel has its value. Over the source's edge
    (by rounding, less than a source pixel) the mean is over what there is, and 0 where there is nothing.

    Parameters
    ----------
    read
        ``read(y_px, height_px)`` gives rows of the source, ``(height_px, width) uint8`` or bool.
    size_px
        Width and height of the source.
    ratio
        r, source pixels along one grid pixel.
    grid_px
        Width and height of the grid.
    shift_px
        Source pixels by which the grid lies to the right and below: see `TIE_SHIFT_PX`.

    Yields
    ------
    (int, ndarray)
        First grid row, and the means ``(rows, grid width) float64`` in the source's unit.
    """
    (width, height), (grid_width, grid_height) = size_px, grid_px
    x = np.minimum(np.arange(grid_width + 1) * ratio + shift_px, width)
    rows, columns = max(1, int(_ROWS / ratio)), max(1, int(_COLUMNS / ratio))
    for first in range(0, grid_height, rows):
        last = min(first + rows, grid_height)
        y = np.minimum(np.arange(first, last + 1) * ratio + shift_px, height)
        top, bottom = int(np.floor(y[0])), int(np.ceil(y[-1]))
        if bottom <= top:
            yield first, np.zeros((last - first, grid_width))
            continue
        source = read(top, bottom - top)
        means = np.zeros((last - first, grid_width))
        # In stretches that stay in the processor's cache; most of a slide is 0, where there is nothing to do.
        for left in range(0, grid_width, columns):
            edges = x[left : left + columns + 1]
            start, stop = int(np.floor(edges[0])), int(np.ceil(edges[-1]))
            part = source[:, start:stop]
            if part.any():
                sums = _integrals(_integrals(part, edges - start, axis=1), y - top, axis=0)
                area = np.diff(y)[:, None] * np.diff(edges)[None, :]
                np.divide(sums, area, out=means[:, left : left + columns], where=area > 0)
        yield first, means


def _integrals(values: np.ndarray, edges: np.ndarray, *, axis: int) -> np.ndarray:
    """Integrals between consecutive edges along an axis, of values that are constant over each pixel."""
    length = values.shape[axis]
    kind = np.int32 if values.dtype in (np.uint8, bool) else np.float64  # 255 * _COLUMNS fits many times over
    shape = list(values.shape)
    shape[axis] += 1
    total = np.zeros(shape, kind)
    after = [slice(None)] * 2
    after[axis] = slice(1, None)
    np.cumsum(values, axis=axis, dtype=kind, out=total[tuple(after)])
    whole = np.minimum(np.floor(edges).astype(np.int64), length - 1)
    part = (edges - whole).reshape((-1, 1) if axis == 0 else (1, -1))
    at_edges = np.take(total, whole, axis=axis) + part * np.take(values, whole, axis=axis)
    return np.diff(at_edges, axis=axis)
