"""Overlapping windows into one map: window layouts, integer weights, and the strip that adds them up.

Sums are exact. Probabilities are rounded to 24 bits, weights are small integers whose products float32 holds, and
every sum stays below 2**53, so that float64 holds it without rounding. The blended value is therefore the same whatever
the order of addition: the size of strips, batches or a resumed run cannot change a single pixel, and a constant model
gives back its constant.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tlskit import units
from tlskit.errors import CheckpointError, ParameterError
from tlskit.jit import compiled
from tlskit.tiles import ahead

__all__ = ["Layout", "Strip", "hann_layout", "strips"]

_ONE = float(2**24)
#: Weights add up to no more than this along one axis: a product of two of them has 24 bits, with a probability 48.
_MAX_TOTAL = 2**12
#: Rows that a thread divides at a time.
_ROWS_PER_JOB = 64


@dataclass(frozen=True)
class Layout:
    """How windows lie on a map.

    Attributes
    ----------
    window_px : int
        Side of what the network sees.
    stride_px : int
        Distance between windows, at most their side.
    weights : (window_px,) float64
        Weight along one axis of a window: positive integers.
    """

    window_px: int
    stride_px: int
    weights: np.ndarray = field(repr=False, compare=False)

    def starts(self, size_px: int) -> np.ndarray:
        """Where windows start along an axis of `size_px` pixels, so that all of it is covered. int64."""
        steps = 1 if size_px <= self.window_px else 1 + math.ceil((size_px - self.window_px) / self.stride_px)
        return np.arange(steps, dtype=np.int64) * self.stride_px

    def boxes_px0(self, size_px: tuple[int, int], mpp: float, mpp0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Left, top and side of all windows in level-0 pixels, ``(rows, columns) float64`` each.

        `size_px` is the map's width and height, `mpp` and `mpp0` are um per working and per level-0 pixel.
        """
        x, y = np.meshgrid(*(units.px_to_px0(self.starts(side), mpp, mpp0) for side in size_px))
        return x, y, np.full(x.shape, self.window_px * mpp / mpp0)


def hann_layout(window_px: int, overlap: float) -> Layout:
    """Windows of `window_px` that overlap by the share `overlap` (0 to 0.9), weighted by a Hann window.

    The weight ``sin(pi (i + 1/2) / window_px) ** 2`` is taken at pixel centres, so that it is nowhere zero.
    """
    if not (window_px >= 1 and 0 <= overlap <= 0.9):
        raise ParameterError(f"Windows need a positive size and an overlap in 0..0.9, not {window_px!r}, {overlap!r}.")
    stride = max(1, round(window_px * (1 - overlap)))
    shape = np.sin(np.pi * (np.arange(window_px) + 0.5) / window_px) ** 2
    together = -(-window_px // stride)  # windows over one pixel; rounding may add one to each of their weights
    total = max(shape[start::stride].sum() for start in range(stride))
    weights = np.maximum(1.0, np.rint(shape * (_MAX_TOTAL - together) / total))
    return Layout(int(window_px), stride, weights)


def strips(size_px: tuple[int, int], layout: Layout, *, strip_px: int, block_px: int) -> list[Strip]:
    """Cut a map into vertical strips of about `strip_px`, so that memory does not grow with its width."""
    xs = layout.starts(size_px[0])
    per_strip = max(1, math.ceil(max(strip_px, block_px) / layout.stride_px))
    found: list[Strip] = []
    owned = 0
    for first in range(0, len(xs), per_strip):
        columns = range(first, min(first + per_strip, len(xs)))
        last = columns.stop == len(xs)
        owned_to = size_px[0] if last else (int(xs[columns.stop]) // block_px) * block_px
        found.append(Strip(len(found), size_px, layout, columns, owned, owned_to, block_px))
        owned = owned_to
    return found


class Strip:
    """One vertical strip of a map: the windows of some columns, and the columns of pixels that they complete.

    `x0`..`x1` are the pixels this strip completes. Its windows reach beyond, up to `x_end`; those sums are handed to
    the next strip (`carry`), whose first pixel is this one's `x1`.
    """

    def __init__(self, number, size_px, layout, columns, x0, x1, block_px):
        self.number = number
        self.size_px = size_px
        self.layout = layout
        self.columns = columns
        self.block_px = block_px
        self.x0, self.x1 = x0, x1
        self.x_end = min(size_px[0], (columns.stop - 1) * layout.stride_px + layout.window_px)
        self.ys = layout.starts(size_px[1])
        self._top = 0

    @property
    def carry_px(self) -> int:
        """Columns of unfinished sums that the next strip takes over."""
        return self.x_end - self.x1

    @property
    def block_rows(self) -> int:
        return -(-self.size_px[1] // self.block_px)

    def rows_above(self, block_row: int) -> int:
        """How many window rows must be in before `block_row` is complete."""
        bottom = min((block_row + 1) * self.block_px, self.size_px[1])
        return int(np.searchsorted(self.ys, bottom, side="left"))

    def first_row(self, block_row: int) -> int:
        """The first window row that reaches into `block_row`."""
        return int(np.searchsorted(self.ys + self.layout.window_px, block_row * self.block_px, side="right"))

    def start(self, block_row: int = 0) -> None:
        """Make room for sums from `block_row` downwards."""
        self._top = block_row
        # A window may reach as far below the topmost unfinished row of blocks as it is high.
        count = -(-self.layout.window_px // self.block_px) + 1
        bands = [np.zeros((self.block_px, self.x_end - self.x0)) for _ in range(count + 1)]
        self._spare = bands.pop()
        self._bands = deque(bands)
        self._dirty = deque([False] * count)

    def stop(self) -> None:
        """Give the room back."""
        self._bands.clear()
        self._spare = None

    def add(self, row: int, column: int, probability: np.ndarray) -> None:
        """Add one window, ``(window_px, window_px) float32`` in [0, 1], at window (row, column)."""
        side, b = self.layout.window_px, self.block_px
        x, y = column * self.layout.stride_px - self.x0, int(self.ys[row])
        left, right = max(0, -x), min(side, self.x_end - self.x0 - x)  # what lies before the strip is complete there
        top, bottom = max(0, self._top * b - y), min(side, self.size_px[1] - y)
        if left >= right or top >= bottom:
            return
        weights = self.layout.weights
        probability = np.require(probability, np.float32, ["C", "W"])
        start, end = y + top, y + bottom
        while start < end:
            band = start // b
            stop = min(end, (band + 1) * b)
            sums = self._bands[band - self._top][start - band * b : stop - band * b]
            rows = slice(start - y, stop - y)
            _add_weighted(sums, x, probability[rows], weights[rows], weights, left, right)
            self._dirty[band - self._top] = True
            start = stop

    def take(self) -> tuple[int, np.ndarray, bool]:
        """Take out the topmost unfinished row of blocks, for `finish`; windows may be added below it meanwhile.

        Returns
        -------
        block_row : int
        sums : (block_px, x_end - x0) float64
        any : bool
            Whether anything was added to them.
        """
        taken = self._top, self._bands.popleft(), self._dirty.popleft()
        self._bands.append(self._spare)
        self._dirty.append(False)
        self._top += 1
        return taken

    def finish(
        self, taken: tuple[int, np.ndarray, bool], run: np.ndarray, carried: np.ndarray | None, *, threads: int = 0
    ):
        """Complete a row of blocks that was taken out, before the next one is.

        Parameters
        ----------
        taken
            What `take` gave.
        run : (window rows, window columns) bool
            The windows that were predicted, over the whole map.
        carried : (rows, columns) float64 or None
            The carry of the strip before, for these rows of pixels; None where there is none.
        threads
            That divide, some rows each; 0: this one.

        Returns
        -------
        values : (rows, x1 - x0) uint8, or None where nothing was predicted
        carry : (rows, carry_px) float64, or None where it is all 0

        Raises
        ------
        CheckpointError
            If a probability that was added is nan or infinite.
        """
        block_row, band, dirty = taken
        if carried is not None and not carried.any():
            carried = None
        y0 = block_row * self.block_px
        y1 = min(y0 + self.block_px, self.size_px[1])
        values = carry = None
        if dirty or carried is not None:
            sums, owned = band[: y1 - y0], self.x1 - self.x0
            if carried is not None:
                sums[:, : carried.shape[1]] += carried
            values = np.empty((y1 - y0, owned), np.uint8)
            down, along = self._total_weights(y0, y1, run)

            def divide(top: int) -> None:
                rows = slice(top, top + _ROWS_PER_JOB)
                if not _divide(sums[rows], down[rows], along, values[rows]):
                    raise CheckpointError(
                        "The network's output is not a number (nan or infinite). Its weights are damaged or training "
                        "diverged; train again, e.g. with a lower learning_rate or `precision: exact`."
                    )

            for _ in ahead(divide, range(0, y1 - y0, _ROWS_PER_JOB), workers=threads):
                pass
            if self.carry_px:
                carry = sums[:, owned:].copy()
            band.fill(0)
        self._spare = band
        return values, carry

    def _total_weights(self, y0: int, y1: int, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights of the windows that were run, over the owned pixels of rows y0..y1: (y1 - y0, n) and (n, width).

        Their matrix product is the sum of the weights at every pixel. Exact.
        """
        side, stride, weights = self.layout.window_px, self.layout.stride_px, self.layout.weights
        first, last = np.searchsorted(self.ys + side, y0, side="right"), np.searchsorted(self.ys, y1, side="left")
        along = np.zeros((last - first, self.x1 - self.x0))
        down = np.zeros((y1 - y0, last - first))
        from_column = max(0, (self.x0 - side) // stride + 1)
        to_column = min(run.shape[1], -(-self.x1 // stride))
        for n, row in enumerate(range(first, last)):
            for column in range(from_column, to_column):
                if run[row, column]:
                    _add_slice(along[n], weights, column * stride - self.x0)
            _add_slice(down[:, n], weights, int(self.ys[row]) - y0)
        return down, along


@compiled("void(f8[:, ::1], i8, f4[:, ::1], f8[::1], f8[::1], i8, i8)")
def _add_weighted(sums, x, probability, down, along, left, right):
    """Add columns of probabilities, rounded to 24 bits and weighted, to sums from column `x` + `left` on."""
    weights = along[left:right]
    for y in range(len(sums)):
        row, added = sums[y][x + left : x + right], probability[y][left:right]
        for k in range(len(weights)):
            row[k] += np.rint(added[k] * np.float32(_ONE)) * (down[y] * weights[k])


@compiled("b1(f8[:, ::1], f8[:, ::1], f8[:, ::1], u1[:, ::1])")
def _divide(sums, down, along, values):
    """Sums over the sum of their weights, ``down @ along``, as 255ths; False where one is not a number."""
    is_finite = True
    weights = np.empty(values.shape[1])
    for y in range(len(values)):
        weights[:] = 0
        for n in range(len(along)):
            for x in range(len(weights)):
                weights[x] += down[y, n] * along[n, x]
        for x in range(len(weights)):
            # 0 only where no window was run: there the sum is 0 too.
            mean = sums[y, x] / max(weights[x], 1.0) * (255.0 / _ONE)
            is_finite &= np.isfinite(mean)
            values[y, x] = np.uint8(np.rint(mean))
    return is_finite


def _add_slice(line: np.ndarray, weights: np.ndarray, at: int) -> None:
    """``line[at : at + len(weights)] += weights``, as far as it lies inside."""
    start, stop = max(at, 0), min(at + len(weights), len(line))
    if start < stop:
        line[start:stop] += weights[start - at : stop - at]
