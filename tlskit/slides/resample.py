"""Area averaging on a global lattice: the one way in which tlskit changes the resolution of pixels.

Working pixel ``i`` covers the source pixels' ``[i r, (i + 1) r)`` along an axis, where ``r`` is the ratio of the two
pixel sizes; it becomes the mean of what it covers, pixels at its two ends counted by the fraction covered. The
weights follow from the global index ``i`` alone and all arithmetic is in whole numbers small enough to be exact in
float32, so that a working pixel has the same value however the region around it was cut, on every machine and
whatever order a BLAS adds in.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

__all__ = ["area_average", "area_weights", "snapped_ratio", "source_span"]

#: Weights of one output row sum to 2**16, of one output column to 2**12, and the rows' result is rounded to 12 bits
#: (1/16 grey level). 255 * 2**16 and (255 * 16) * 2**12 both stay below 2**24, where float32 counts exactly; so it does
#: after the shift, a power of two, with which the weights are multiplied beforehand.
_ROW_TOTAL = 2**16
_COLUMN_TOTAL = 2**12
_ROW_SHIFT = 2.0**-12
_COLUMN_SHIFT = 2.0**-16

#: Ends of a pixel closer than this to a source pixel's edge lie on it: float noise must not pull in a neighbour.
_EDGE = 1e-6

#: Output pixels of one small matrix (more are mostly zeros, fewer leave the processor's registers empty), and the
#: source pixels along one piece: as float32, with what they become, they fit a core's own cache (1.5 MB at ratio 2).
_BLOCK = 4
_PIECE = 256


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
        what puts them, from source pixel (x, y) on, into an array (h, w, 3) that it is given, of uint8 or float32:
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
        # The same bits as below ((a + b + c + d + 2) >> 2), an order of magnitude sooner.
        cv2.resize(source, (width_px, height_px), dst=out, interpolation=cv2.INTER_AREA)
    else:

        def put(array, x, y):
            array[:] = source[y - y0 : y - y0 + array.shape[0], x - x0 : x - x0 + array.shape[1]]

        _average(put, ratio, x_px, y_px, out)
    return out


def _average(put, ratio, x_px, y_px, out) -> None:
    """Rows first, then columns, in pieces that fit the processor's cache and in memory that is used again and again."""
    height_px, width_px = out.shape[:2]
    y0, y1 = source_span(y_px, y_px + height_px, ratio)
    rows = _groups(y_px, height_px, ratio, _ROW_TOTAL, _ROW_SHIFT, 1)
    columns = _groups(x_px, width_px, ratio, _COLUMN_TOTAL, _COLUMN_SHIFT, 3)
    with _workspace() as memory:
        for row in rows:
            for column in columns:
                x0, x1 = source_span(x_px + column[0], x_px + column[0] + column[1], ratio)
                target = out[row[0] : row[0] + row[1], column[0] : column[0] + column[1]]
                _average_piece(put, (x0, y0, x1, y1), row, column, target, memory)


def _average_piece(put, source_box, row, column, out, memory) -> None:
    """One group of rows and of columns: `out` from what `put` gives of the box of source pixels."""
    x0, y0, x1, y1 = source_box
    _, count, base, apart, weights = row
    _, wide, start, between, matrix = column
    # Blocks of a product start at even steps, so they reach a little past the pixels that count; what they find there
    # has weight 0 and only has to be finite.
    before = max(0, x0 - start)
    after = max(0, start + (len(matrix) - 1) * between + matrix.shape[1] // 3 - x1)
    span = (before + x1 - x0 + after) * 3
    n, block, taps = weights.shape
    depth = (n - 1) * apart + taps
    plane = memory("plane", depth * span)
    top, bottom = max(base, y0), min(base + depth, y1)
    at = (top - base) * span + before * 3
    put(_view(plane, at, (bottom - top, x1 - x0, 3), (span, 3, 1)), x0, top)
    tall = memory("tall", n * block * span)
    product = _view(tall, 0, (n, block, span), (block * span, span, 1))
    np.matmul(weights, _view(plane, 0, (n, taps, span), (apart * span, span, 1)), out=product)
    np.rint(product, out=product)
    n, taps, made = matrix.shape
    reach = _view(tall, (start - x0 + before) * 3, (n, count, taps), (between * 3, span, 1))
    result = memory("result", count * n * made)
    np.matmul(reach, matrix, out=_view(result, 0, (n, count, made), (made, n * made, 1)))
    result += 0.5
    np.copyto(out, _view(result, 0, (count, wide, 3), (n * made, 3, 1)), casting="unsafe")


def _view(memory: np.ndarray, offset: int, shape: tuple, steps: tuple) -> np.ndarray:
    """Numbers of float32 `memory` seen as another array, which may repeat them; `offset` and `steps` count numbers."""
    return np.ndarray(shape, np.float32, memory, offset * 4, tuple(step * 4 for step in steps))


@contextlib.contextmanager
def _workspace():
    """A function (name, size) that gives float32 memory; what is in it is left over from before, but finite.

    Kept for whoever averages next, in whatever thread: the first use of new memory costs as much as the averaging.
    """
    try:
        held = _spare.pop()
    except IndexError:
        held = {}

    def memory(name: str, size: int) -> np.ndarray:
        if name not in held or held[name].size < size:
            held[name] = np.zeros(size, np.float32)
        return held[name][:size]

    try:
        yield memory
    finally:
        _spare.append(held)


_spare: list[dict[str, np.ndarray]] = []


@functools.lru_cache(maxsize=256)
def _groups(start: int, count: int, ratio: float, total: int, shift: float, channels: int) -> list[tuple]:
    """Weights, times `shift`, as stacks of small matrices, each for a few output pixels, whose inputs start evenly.

    Returns a list, an entry for every `_PIECE` input pixels or so, of (position of the group's first output pixel, its
    number of output pixels, first input pixel, input pixels between blocks, matrices). For one channel matrices are
    (n, block, taps), applied from the left; for three they are (n, 3 taps, 3 block), applied from the right to rows of
    interleaved colours.
    """
    block = max(1, min(_BLOCK, round(16 / ratio)))
    apart = max(1, round(block * ratio))
    # Groups of nearly one size: a few pixels left over would cost what a group costs.
    parts = max(1, round(count * ratio / _PIECE))
    most = -(-count // parts // block) * block
    groups = []
    for at in range(0, count, most):
        size = min(most, count - at)
        first, weights = area_weights(start + at, size, ratio, total)
        n = -(-size // block)
        begin = first[::block] - np.arange(n) * apart
        base = int(begin.min())
        taps = int((first - np.arange(size) // block * apart).max()) - base + weights.shape[1]
        matrix = np.zeros((n, block, taps), np.float32)
        i = np.arange(size)
        position = first - base - i // block * apart
        for tap in range(weights.shape[1]):
            matrix[i // block, i % block, position + tap] = weights[:, tap] * shift
        if channels > 1:
            spread = np.zeros((n, taps, channels, block, channels), np.float32)
            for channel in range(channels):
                spread[:, :, channel, :, channel] = matrix.transpose(0, 2, 1)
            matrix = spread.reshape(n, taps * channels, block * channels)
        groups.append((at, size, base, apart, matrix))
    return groups
