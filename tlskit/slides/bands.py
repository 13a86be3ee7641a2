"""Regions and streams of overlapping windows out of a tiled level: each stored tile is decoded once per pass.

A *level* is anything with ``size_px`` (width, height), ``tile_px`` (width, height) and ``tile(column, row, buffer)``,
which gives ``((tile height, tile width, 3) uint8, list of Lost)``: a whole tile, white beyond the level's edge and
where the file is damaged, in `buffer` if one of that shape is given. `jpegs` and `slide` make them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np

from tlskit.slides.resample import area_average, source_span

__all__ = ["Lost", "covered_strips", "gather", "region", "stream"]

#: Tiles that one job of a thread decodes, and source columns that one job resamples.
_TILES_PER_JOB = 2
_COLUMNS_PER_JOB = 1024

#: Source pixels that a single region may hold in memory at once.
_REGION_PX = 16_000_000


class Lost(NamedTuple):
    """A part of a level that cannot be read: box in pixels of the level, and why."""

    x: int
    y: int
    width: int
    height: int
    reason: str

    def meets(self, x0: int, y0: int, x1: int, y1: int) -> bool:
        return self.x < x1 and x0 < self.x + self.width and self.y < y1 and y0 < self.y + self.height


def region(
    tile: Callable, level, *, ratio: float, x_px: int, y_px: int, width_px: int, height_px: int
) -> tuple[np.ndarray, list[Lost]]:
    """One region of the lattice, (height_px, width_px, 3) uint8, and the losses under it.

    `tile` gives a tile of `level` as its own ``tile`` does, perhaps from a cache. A region larger than memory is fond
    of is put together from strips; pixels do not depend on it.
    """
    out = np.empty((height_px, width_px, 3), np.uint8)
    lost: list[Lost] = []
    x0, x1 = source_span(x_px, x_px + width_px, ratio)
    rows = max(1, int(_REGION_PX / max(1, x1 - x0) / ratio))
    for top in range(0, height_px, rows):
        count = min(rows, height_px - top)
        y0, y1 = source_span(y_px + top, y_px + top + count, ratio)
        source, missing = gather(tile, level, x0, y0, x1, y1)
        lost += [m for m in missing if m not in lost]
        area_average(
            source,
            ratio=ratio,
            x_px=x_px,
            y_px=y_px + top,
            width_px=width_px,
            height_px=count,
            source_x=x0,
            source_y=y0,
            out=out[top : top + count],
        )
    return out, lost


def gather(tile: Callable, level, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, list[Lost]]:
    """Pixels [x0, x1) x [y0, y1) of a level, white beyond its edges, and the losses that meet them."""
    out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    return out, gather_into(out, tile, level, x0, y0)


def gather_into(out: np.ndarray, tile: Callable, level, x0: int, y0: int) -> list[Lost]:
    """`gather` into an array (h, w, 3) of uint8, whose first pixel is (x0, y0) of the level; the losses."""
    tile_w, tile_h = level.tile_px
    width, height = level.size_px
    x1, y1 = x0 + out.shape[1], y0 + out.shape[0]
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        out[:] = 255
    lost: list[Lost] = []
    for row in range(max(0, y0) // tile_h, -(-min(y1, height) // tile_h)):
        for column in range(max(0, x0) // tile_w, -(-min(x1, width) // tile_w)):
            pixels, missing = tile(column, row)
            lost += [m for m in missing if m.meets(x0, y0, x1, y1)]
            _paste(out, pixels, column * tile_w - x0, row * tile_h - y0)
    return lost


def stream(
    level, *, ratio: float, xy_px: np.ndarray, size_px: int, threads: int = 2, on_stage: Callable | None = None
) -> Iterator[tuple[int, np.ndarray, list[Lost]]]:
    """Windows of one size, as (index into `xy_px`, read-only view (size_px, size_px, 3) uint8, losses under it).

    Windows come in raster order of their positions. Each row of windows is cut from a band of its own, of which only
    what windows cover is read; rows shared with the band before are copied from it. The next band is made by
    `threads` threads while the caller works on this one, and the one after it is begun before they run out of work.
    `on_stage`, if given, is told by them what each piece of work was, "read" (and decode) or "resample", and when it
    began and ended (`time.perf_counter`).
    """
    xy_px = np.asarray(xy_px, dtype=np.int64).reshape(-1, 2)
    if not len(xy_px):
        return
    order = np.lexsort((xy_px[:, 0], xy_px[:, 1]))
    bands = _Bands(level, ratio, xy_px[order], size_px, on_stage or _nobody)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        try:
            image, coming = None, bands.begin(0, pool)
            for step, (y, first, last) in enumerate(bands.steps):
                begun = coming
                if step + 1 < len(bands.steps):
                    coming = bands.begin(step + 1, pool)
                image, lost = bands.finish(step, begun, image)
                for i in order[first:last]:
                    left = xy_px[i, 0] - bands.left
                    window = image[:, left : left + size_px]
                    yield int(i), window, _under(lost, ratio, int(xy_px[i, 0]), int(y), size_px)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _nobody(stage: str, start: float, stop: float) -> None:
    """Listens to `on_stage` where nobody else does."""


def _under(lost: list[Lost], ratio: float, x: int, y: int, size: int) -> list[Lost]:
    if not lost:
        return []
    x0, x1 = source_span(x, x + size, ratio)
    y0, y1 = source_span(y, y + size, ratio)
    return [m for m in lost if m.meets(x0, y0, x1, y1)]


class _Begun(NamedTuple):
    """A band in the making."""

    image: np.ndarray
    jobs: list[Future]  # each gives the losses it met
    pasted: list[tuple[np.ndarray, tuple[int, int], int, int]]  # where tiles go that earlier jobs have made
    bottom: int  # one past the last row that these jobs make


class _Bands:
    """The bands of one pass, begun and finished one after the other."""

    def __init__(self, level, ratio, xy, size, on_stage):
        self.on_stage = on_stage
        self.level, self.ratio, self.size = level, ratio, size
        ys, first = np.unique(xy[:, 1], return_index=True)
        ends = [*first[1:].tolist(), len(xy)]
        self.steps = list(zip(ys.tolist(), first.tolist(), ends, strict=True))
        self.left = int(xy[:, 0].min())
        self.right = int(xy[:, 0].max()) + size
        self.strips = deque(covered_strips(xy, size))
        whole = int(ratio) if ratio == int(ratio) else 0
        tile_w, tile_h = level.tile_px
        #: Working pixels per tile where none straddles two tiles: then each tile is averaged by itself. Else 0.
        self.whole = whole if whole and tile_w % whole == 0 and tile_h % whole == 0 else 0
        #: Tiles that the threads have been given, and those (averaged where each is by itself) that strips further down
        #: need too; which jobs read the latter, with the source row above which nobody does once they are done.
        self.given: dict[tuple[int, int], Future] = {}
        self.held: dict[tuple[int, int], np.ndarray] = {}
        self.readers: deque[tuple[int, list[Future]]] = deque()
        self.free: list[np.ndarray] = []
        self.lock = threading.Lock()
        self.scratch = threading.local()
        self.lost: list[Lost] = []

    def begin(self, step: int, pool) -> _Begun:
        """Give the threads the rows of a band that no band before it has."""
        y = self.steps[step][0]
        image = np.empty((self.size, self.right - self.left, 3), np.uint8)
        jobs, pasted, bottom = [], [], y
        while self.strips and self.strips[0][0] < y + self.size:
            top, bottom, spans = self.strips.popleft()
            if self.whole:
                made, known = self._by_tile(image[top - y : bottom - y], top, bottom, spans, pool)
                jobs += made
                pasted += known
                continue
            rows = max(1, int(self.level.tile_px[1] / self.ratio))  # about a row of tiles, to hold no more than that
            for part in range(top, bottom, rows):
                end = min(part + rows, bottom)
                jobs += self._straddling(image[part - y : end - y], part, end, spans, pool)
        return _Begun(image, jobs, pasted, bottom)

    def finish(self, step: int, begun: _Begun, before: np.ndarray | None) -> tuple[np.ndarray, list[Lost]]:
        """The band of one row of windows, given the one `before` it; and the losses that may lie under it."""
        y = self.steps[step][0]
        shared = self.steps[step - 1][0] + self.size - y if before is not None else 0
        if shared > 0:
            begun.image[:shared] = before[-shared:]
        wait(begun.jobs, return_when=FIRST_EXCEPTION)
        reach = source_span(y, y + self.size, self.ratio)
        self.lost = [m for m in self.lost if m.y + m.height > reach[0]]
        for job in begun.jobs:
            self.lost += job.result()
        for target, key, at_x, at_y in begun.pasted:
            _paste(target, self.held[key], at_x, at_y)
        if self.whole:
            step_h = self.level.tile_px[1] // self.whole
            for key in [k for k in list(self.held) if (k[1] + 1) * step_h <= begun.bottom]:
                del self.held[key]
        begun.image.flags.writeable = False
        return begun.image, list(self.lost)

    def _by_tile(self, target, top, bottom, spans, pool) -> tuple[list[Future], list[tuple]]:
        """Make what windows cover of a strip from tiles that are averaged one by one; also what is to be pasted."""
        step_w, step_h = (side // self.whole for side in self.level.tile_px)
        columns, rows = self._grid()
        for left, right in spans:
            if left < 0 or top < 0 or right > columns * step_w or bottom > rows * step_h:
                target[:, left - self.left : right - self.left] = 255

        def work(some):
            losses = []
            for key in some:
                x, y = key[0] * step_w - self.left, key[1] * step_h - top
                tile, lost = self._tile(key, self._scratch("tile", self.level.tile_px))
                losses += lost
                inside = y >= 0 and y + step_h <= len(target) and x >= 0 and x + step_w <= target.shape[1]
                block = target[y : y + step_h, x : x + step_w] if inside else self._scratch("block", (step_w, step_h))
                start = time.perf_counter()
                area_average(
                    tile, ratio=float(self.whole), x_px=0, y_px=0, width_px=step_w, height_px=step_h, out=block
                )
                self.on_stage("resample", start, time.perf_counter())
                if y + step_h > len(target):
                    self.held[key] = block.copy()
                if not inside:
                    _paste(target, block, x, y)
            return losses

        keys = self._tiles_under(spans, top, bottom, step_w, step_h)
        pasted = [(target, k, k[0] * step_w - self.left, k[1] * step_h - top) for k in keys if k in self.given]
        jobs = self._give(work, [k for k in keys if k not in self.given], pool)
        self.given = {k: job for k, job in self.given.items() if (k[1] + 1) * step_h > bottom}
        return jobs, pasted

    def _straddling(self, target, top, bottom, spans, pool) -> list[Future]:
        """Make what windows cover of some rows where working pixels straddle tiles: decode all of it, then average."""
        y0, y1 = source_span(top, bottom, self.ratio)
        sources = [source_span(left, right, self.ratio) for left, right in spans]
        tile_w, tile_h = self.level.tile_px

        def decode(some):
            losses = []
            for key in some:
                self.held[key], lost = self._tile(key, self._buffer())
                losses += lost
            return losses

        keys = self._tiles_under(sources, y0, y1, tile_w, tile_h)
        decoding = self._give(decode, [k for k in keys if k not in self.given], pool)
        step = max(8, int(_COLUMNS_PER_JOB / self.ratio) // 8 * 8)
        cells = [(i, min(i + step, right)) for left, right in spans for i in range(left, right, step)]

        def put(pixels, x, y):
            gather_into(pixels, lambda column, row: (self.held[column, row], ()), self.level, x, y)

        def average(cell, needed):
            left, right = cell
            for job in needed:  # a pool begins first what it was given first: none of these still has to be begun
                job.result()
            start = time.perf_counter()
            area_average(
                put,
                ratio=self.ratio,
                x_px=left,
                y_px=top,
                width_px=right - left,
                height_px=bottom - top,
                out=target[:, left - self.left : right - self.left],
            )
            self.on_stage("resample", start, time.perf_counter())
            return []

        averaging = []
        for cell in cells:
            under = self._tiles_under([source_span(*cell, self.ratio)], y0, y1, tile_w, tile_h)
            averaging.append(pool.submit(average, cell, {self.given[key] for key in under}))
        passed = source_span(bottom, bottom + 1, self.ratio)[0]
        with self.lock:
            self.readers.append((passed, averaging))
        self.given = {k: job for k, job in self.given.items() if (k[1] + 1) * tile_h > passed}
        return decoding + averaging

    def _give(self, work, keys: list, pool) -> list[Future]:
        """Give the threads tiles to work on, some at a time."""
        jobs = []
        for i in range(0, len(keys), _TILES_PER_JOB):
            some = keys[i : i + _TILES_PER_JOB]
            jobs.append(pool.submit(work, some))
            self.given.update(dict.fromkeys(some, jobs[-1]))
        return jobs

    def _buffer(self) -> np.ndarray:
        """Memory for a tile: that of one which no job will read any more, if there is one."""
        tile_w, tile_h = self.level.tile_px
        with self.lock:
            while self.readers and all(job.done() for job in self.readers[0][1]):
                passed, _ = self.readers.popleft()
                for key in [k for k in list(self.held) if (k[1] + 1) * tile_h <= passed]:
                    self.free.append(self.held.pop(key))
            if self.free:
                return self.free.pop()
        return np.empty((tile_h, tile_w, 3), np.uint8)

    def _grid(self) -> tuple[int, int]:
        (width, height), (tile_w, tile_h) = self.level.size_px, self.level.tile_px
        return -(-width // tile_w), -(-height // tile_h)

    def _tiles_under(self, spans, top, bottom, step_w, step_h) -> list[tuple[int, int]]:
        """(column, row) of the tiles under spans of columns and a range of rows, each once, row by row."""
        columns, rows = self._grid()
        across: dict[int, None] = {}
        for left, right in spans:
            across.update(dict.fromkeys(range(max(0, left) // step_w, min(columns, -(-right // step_w)))))
        return [(c, r) for r in range(max(0, top) // step_h, min(rows, -(-bottom // step_h))) for c in across]

    def _tile(self, key: tuple[int, int], buffer: np.ndarray) -> tuple[np.ndarray, list[Lost]]:
        start = time.perf_counter()
        pixels, lost = self.level.tile(*key, buffer)
        self.on_stage("read", start, time.perf_counter())
        return pixels, lost

    def _scratch(self, name: str, size_px: tuple[int, int]) -> np.ndarray:
        """A buffer of this thread, for what is copied on at once: it stays in the processor's cache."""
        buffer = getattr(self.scratch, name, None)
        if buffer is None:
            buffer = np.empty((size_px[1], size_px[0], 3), np.uint8)
            setattr(self.scratch, name, buffer)
        return buffer


def covered_strips(xy_px: np.ndarray, size_px: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Rows between neighbouring tops and bottoms of square windows, with the columns that windows cover there.

    Returns a list of (top, bottom, [(left, right), ...]), top down: together exactly the union of the windows, each
    of its pixels once. Every window is whole strips of its rows, and within one span in each.
    """
    if not len(xy_px):
        return []
    xy_px = xy_px[np.argsort(xy_px[:, 1], kind="stable")]
    ys, first = np.unique(xy_px[:, 1], return_index=True)
    ends = [*first[1:].tolist(), len(xy_px)]
    cuts = np.unique(np.concatenate([ys, ys + size_px])).tolist()
    strips = []
    for top, bottom in zip(cuts[:-1], cuts[1:], strict=True):
        low, high = np.searchsorted(ys, top - size_px, side="right"), np.searchsorted(ys, top, side="right")
        if low >= high:
            continue
        x = np.unique(xy_px[first[low] : ends[high - 1], 0])
        gaps = np.flatnonzero(np.diff(x) > size_px)
        lefts = x[np.concatenate([[0], gaps + 1])]
        rights = x[np.concatenate([gaps, [len(x) - 1]])] + size_px
        strips.append((top, bottom, list(zip(lefts.tolist(), rights.tolist(), strict=True))))
    return strips


def _paste(target: np.ndarray, block: np.ndarray, x: int, y: int) -> None:
    """Copy `block` to (x, y) of `target`, as far as it lies inside."""
    height, width = target.shape[:2]
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(width, x + block.shape[1]), min(height, y + block.shape[0])
    if x0 < x1 and y0 < y1:
        target[y0:y1, x0:x1] = block[y0 - y : y1 - y, x0 - x : x1 - x]
