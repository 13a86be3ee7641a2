"""Area averaging on a global lattice: the one way in which tlskit changes the resolution of pixels.

Working pixel ``i`` covers the source pixels' ``[i r, (i + 1) r)`` along an axis, where ``r`` is the ratio of the two
pixel sizes; it becomes the mean of what it covers, pixels at its two ends counted by the fraction covered. The
weights follow from the global index ``i`` alone and all arithmetic is in whole numbers, so that a working pixel has the
same value however the region around it was cut, and on every machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

from tlskit.jit import compiled

__all__ = ["area_average", "area_weights", "snapped_ratio", "source_span"]

#: Weights of one output row sum to 2**16, of one output column to 2**12, and the rows' result is rounded to 12 bits
#: (1/16 grey level). 255 * 2**16 and (255 * 16) * 2**12 both stay below 2**24.
_ROW_TOTAL = 2**16
_COLUMN_TOTAL = 2**12

#: Ends of a pixel closer than this to a source pixel's edge lie on it: float noise must not pull in a neighbour.
_EDGE = 1e-6

#: Source pixels down and along of what is averaged at a time: 0.8 MB, about what a core has as a cache of its own.
_PIECE_PX = (256, 1024)


def snapped_ratio(ratio: float) -> float:
    """The ratio, or the whole number that it misses by float noise only (1e-9)."""
    nearest = round(ratio)
    return float(nearest) if nearest >= 1 and abs(ratio - nearest) < 1e-9 * nearest else float(ratio)


def source_span(start: int, stop: int, ratio: float) -> tuple[int, int]:
    """First and one past the last source pixel under output pixels ``start .. stop - 1``."""
    return math.floor(start * ratio + _EDGE), math.ceil(stop * ratio - _EDGE)


def area_weights(start: int, count: int, ratio: float, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the source pixels under each of `count` output pixels.

    Returns
    -------
    first : (count,) int64
        Source pixel that the first weight belongs to.
    weights : (count, taps) float64
        Whole numbers that sum to `total` in each row: the fractions covered, rounded.
    """
    index = np.arange(start, start + count, dtype=np.float64)
    low, high = index * ratio, (index + 1) * ratio
    first = np.floor(low + _EDGE).astype(np.int64)
    pixel = first[:, None] + np.arange(math.ceil(ratio) + 1)
    covered = np.clip(np.minimum(high[:, None], pixel + 1) - np.maximum(low[:, None], pixel), 0, None)
    covered[covered < _EDGE] = 0
    # Running sums are rounded, not weights: no remainder piles up on one pixel, and the last sum is the total.
    reached = np.rint(np.cumsum(covered, axis=1) / covered.sum(1, keepdims=True) * total)
    return first, np.diff(reached, axis=1, prepend=0)


def area_average(
    source: np.ndarray | Callable[[np.ndarray, int, int], None],
    *,
    ratio: float,
    x_px: int,
    y_px: int,
    width_px: int,
    height_px: int,
    source_x: int = 0,
    source_y: int = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Output pixels ``[x_px, x_px + width_px) x [y_px, y_px + height_px)`` of the lattice, averaged from `source`.

    Parameters
    ----------
    source : (h, w, 3) uint8, or callable
        Source pixels; its first is source pixel (`source_x`, `source_y`). It must hold `source_span` of both axes. Or
        what puts them, from source pixel (x, y) on, into an array (h, w, 3) of uint8 that it is given:
        ``source(array, x, y)``.
    ratio : float
        Source pixels along one output pixel, 0.5 or more.
    out : (height_px, width_px, 3) uint8, optional
        Where to put the result; rows may be apart, pixels of a row may not.

    Returns
    -------
    (height_px, width_px, 3) uint8
        Means over the exact area, rounded half up. Weights are held to 1/4096 of a pixel.
    """
    if out is None:
        out = np.empty((height_px, width_px, 3), np.uint8)
    if not width_px or not height_px:
        return out
    x0, x1 = source_span(x_px, x_px + width_px, ratio)
    y0, y1 = source_span(y_px, y_px + height_px, ratio)
    if callable(source):
        if ratio not in (1, 2) and out.strides[1:] == (3, 1):
            _average(source, ratio, x_px, y_px, out)
            return out
        put, source = source, np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        put(source, x0, y0)
        source_x, source_y = x0, y0
    source = source[y0 - source_y : y1 - source_y, x0 - source_x : x1 - source_x]
    if source.shape[:2] != (y1 - y0, x1 - x0):
        raise ValueError(
            f"area_average: output columns {x_px}..{x_px + width_px} and rows {y_px}..{y_px + height_px} at ratio "
            f"{ratio:g} need source columns {x0}..{x1} and rows {y0}..{y1}; the source given holds less."
        )
    if ratio == 1:
        out[:] = source
    elif out.strides[1:] != (3, 1):
        out[:] = area_average(
            source, ratio=ratio, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px, source_x=x0, source_y=y0
        )
    elif ratio == 2:
        # The same bits as below ((a + b + c + d + 2) >> 2), sooner.
        cv2.resize(source, (width_px, height_px), dst=out, interpolation=cv2.INTER_AREA)
    else:

        def put(array, x, y):
            array[:] = source[y - y0 : y - y0 + array.shape[0], x - x0 : x - x0 + array.shape[1]]

        _average(put, ratio, x_px, y_px, out)
    return out


def _average(put, ratio, x_px, y_px, out) -> None:
    """Piece by piece, `out` from what `put` gives of the source pixels under it."""
    height_px, width_px = out.shape[:2]
    down, along = (max(1, int(side / ratio)) for side in _PIECE_PX)
    for top in range(0, height_px, down):
        for left in range(0, width_px, along):
            target = out[top : top + down, left : left + along]
            x, y = x_px + left, y_px + top
            (x0, x1), (y0, y1) = source_span(x, x + target.shape[1], ratio), source_span(y, y + len(target), ratio)
            rows, row_weights = _taps(y, len(target), ratio, _ROW_TOTAL, 1)
            columns, column_weights = _taps(x, target.shape[1], ratio, _COLUMN_TOTAL, 3)
            # The last taps, of weight 0, may lie past the pixels that count: anything may be there.
            source = np.empty((y1 - y0 + row_weights.shape[1], x1 - x0 + len(column_weights), 3), np.uint8)
            put(source[: y1 - y0, : x1 - x0], x0, y0)
            made = np.empty((len(target), columns.size), np.uint8)
            flat = source.reshape(len(source), -1)
            _weighted_sums(flat, rows - y0, row_weights, columns - 3 * x0, column_weights, made)
            target[:] = made.reshape(target.shape)


_int = np.int32  # numba counts in 64 bits unless it is told, and a register holds half as many of those


@compiled("void(u1[:, ::1], i4[::1], i4[:, ::1], i4[::1], i4[:, ::1], u1[:, ::1])")
def _weighted_sums(source, first_rows, row_weights, first_columns, column_weights, out):
    """Rows of `out` as weighted sums of rows of `source`, then along them, rounded half up.

    Parameters
    ----------
    source : (h, w) uint8
        Rows of numbers, three (the colours) to a pixel.
    first_rows : (rows,) int32
        First row of `source` under each row of `out`.
    row_weights : (rows, taps) int32
        Weights of it and the rows below it: they sum to 2**16. `taps` is a multiple of three, here and below.
    first_columns : (columns,) int32
        First number of a row under each number of a row of `out`.
    column_weights : (taps, columns) int32
        Weights of it and of every third number after it: they sum to 2**12.
    out : (rows, columns) uint8
        Where the result goes. Rows' sums are rounded half to even to 12 bits (1/16 grey level) on the way.
    """
    line = np.empty(source.shape[1], np.int32)
    total = np.empty(out.shape[1], np.int32)
    for i in range(len(out)):
        line[:] = 0
        for tap in range(0, row_weights.shape[1], 3):
            y = first_rows[i] + tap
            one, two, three = source[y], source[y + 1], source[y + 2]
            a, b, c = row_weights[i, tap], row_weights[i, tap + 1], row_weights[i, tap + 2]
            for k in range(len(line)):
                line[k] += one[k] * a + two[k] * b + three[k] * c
        for k in range(len(line)):
            half = _int(2047) + _int(_int(line[k] >> _int(12)) & _int(1))
            line[k] = _int(line[k] + half) >> _int(12)
        total[:] = 2**15
        for tap in range(0, len(column_weights), 3):
            one, two, three = line[3 * tap :], line[3 * tap + 3 :], line[3 * tap + 6 :]
            a, b, c = column_weights[tap], column_weights[tap + 1], column_weights[tap + 2]
            for k in range(len(total)):
                at = np.uint32(first_columns[k])
                total[k] += one[at] * a[k] + two[at] * b[k] + three[at] * c[k]
        for k in range(len(total)):
            out[i, k] = total[k] >> _int(16)


@functools.lru_cache(maxsize=256)
def _taps(start: int, count: int, ratio: float, total: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """`area_weights` as `_weighted_sums` wants them: int32, taps in threes, columns once for each of their colours."""
    first, weights = area_weights(start, count, ratio, total)
    weights = np.pad(weights, ((0, 0), (0, -weights.shape[1] % 3))).astype(np.int32)
    if channels > 1:
        first = (first[:, None] * channels + np.arange(channels)).ravel()
        weights = np.ascontiguousarray(weights.repeat(channels, axis=0).T)
    return first.astype(np.int32), weights
