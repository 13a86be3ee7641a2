"""The context of a slide's windows: the second, coarser stream beside the windows themselves.

Blocks of the context's lattice are read from top to bottom, each once, as far down as the windows have come; a window's
context is put together from those under it, white beyond the slide. A slide whose context is small is held whole;
of a larger one the blocks of one strip are held, and let go of when the windows have passed, so that memory does not
grow with the slide. Pixels are the same either way, and the same as a tile's context read alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tlskit.maps.blending import Layout
from tlskit.maps.probmaps import ProbMap
from tlskit.tiles import context_origin, other_windows, own_field_only

__all__ = ["CONTEXT_BYTES", "Frames", "SlideContext", "context_words", "facts_of", "frames_of", "slide_context"]

#: A context of this many bytes is held whole: that of a slide of 22 x 22 mm is 15 MB at 10 um/px, 58 MB at 5.
CONTEXT_BYTES = 32 << 20
#: Side of the blocks. What cannot be read is lost by whole blocks.
BLOCK_PX = 64


def facts_of(checkpoint) -> dict:
    """The context that a network is given, as a map's metadata carries it: ratio, px, of; empty where there is none."""
    ratio = int(getattr(checkpoint, "context_ratio", 0))
    return {"ratio": ratio, "px": int(checkpoint.context_px), "of": checkpoint.context_of} if ratio else {}


def context_words(facts: dict, mpp: float) -> str:
    """What a network sees beside its windows of `mpp` um/px, in words: ``context 2560 um across at 10 um/px``.

    `facts` as of `facts_of`, or under ``context`` in the parameters of a map; empty where there is none.
    """
    if not facts:
        return ""
    at = facts["ratio"] * mpp
    shown = {"self": ", of which only the window's own field is shown", "other": ", that of another window"}
    return f"context {facts['px'] * at:g} um across at {at:g} um/px{shown.get(facts['of'], '')}"


class Frames(NamedTuple):
    """Where the windows of a map lie and the context that each was seen with, in level-0 pixels.

    Attributes
    ----------
    window_px0, context_px0 : float
        Sides.
    windows, contexts : ((columns,), (rows,)) float64
        Left edges, and top edges: window (i, j) is at ``windows[0][i], windows[1][j]``, its context at
        ``contexts[0][i], contexts[1][j]``.
    """

    window_px0: float
    context_px0: float
    windows: tuple[np.ndarray, np.ndarray]
    contexts: tuple[np.ndarray, np.ndarray]

    def at(self, x_px0: float, y_px0: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Left, top and side of the window whose middle is nearest to a place, and of its context."""
        middle = zip(self.windows, (x_px0, y_px0), strict=True)
        i, j = (int(np.abs(starts + self.window_px0 / 2 - place).argmin()) for starts, place in middle)
        return (
            (float(self.windows[0][i]), float(self.windows[1][j]), self.window_px0),
            (float(self.contexts[0][i]), float(self.contexts[1][j]), self.context_px0),
        )


def frames_of(prob_map: ProbMap) -> Frames | None:
    """The windows of a map with their contexts; None where the network saw no field around its windows."""
    made = prob_map.metadata.get("parameters", {})
    context = made.get("context", {})
    if context.get("of") != "field":
        return None
    d, ratio = prob_map.mpp / float(prob_map.metadata["mpp0"]), context["ratio"]
    layout = Layout(int(made["window_px"]), int(made["stride_px"]), np.ones(1))
    windows = [layout.starts(side) for side in prob_map.size_px]
    contexts = context_origin(*windows, layout.window_px, context["px"], ratio)
    return Frames(
        layout.window_px * d, context["px"] * ratio * d,
        tuple(starts * d for starts in windows), tuple(starts * (ratio * d) for starts in contexts),
    )  # fmt: skip


def slide_context(checkpoint, slide, layout, planned: np.ndarray) -> SlideContext | None:
    """The contexts of a slide's windows; None where the checkpoint's network sees none.

    Parameters
    ----------
    planned : (window rows, window columns) bool
        The windows of the map, whatever of them is still to be run: one may be shown the context of another.
    """
    return SlideContext(checkpoint, slide, layout, planned) if getattr(checkpoint, "context_ratio", 0) else None


class SlideContext:
    """What `slide_context` gives, for one thread.

    Attributes
    ----------
    px : int
        Side of a context.
    """

    def __init__(self, checkpoint, slide, layout, planned: np.ndarray):
        self.px = int(checkpoint.context_px)
        self._slide, self._window_px = slide, layout.window_px
        self._ratio, self._of = int(checkpoint.context_ratio), checkpoint.context_of
        self._mpp = checkpoint.mpp * self._ratio
        self._size_px = slide.size_px(self._mpp)
        self._whole = self._size_px[0] * self._size_px[1] * 3 <= CONTEXT_BYTES
        y, x = (np.arange(count, dtype=np.int64) * layout.stride_px for count in planned.shape)
        x, y = context_origin(x, y, layout.window_px, self.px, self._ratio)
        self._corners = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), 2)  # (rows, columns, 2): x, y
        self._shown = planned.copy()
        if self._of == "other":
            others = other_windows(int(planned.sum()))
            self._corners[planned] = self._corners[planned][others]
            self._shown[planned] = others >= 0
        self._read: _Reading | None = None
        self._runs: list[np.ndarray] = []

    def begin(self, places: list, on_stage: Callable = lambda *_: None) -> None:
        """Get ready for windows of several strips, as `streaming.remaining` gives them.

        `on_stage` is told of reading, averaging and cutting as by `Slide.windows`, all of it under "context".
        """
        self._on_stage = on_stage
        if self._whole and places:
            self._open(self._corners_at(*(np.concatenate([place[n] for place in places]) for n in (1, 2))))

    def beside(self, windows: Iterable, rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple]:
        """The windows of a strip, in raster order, each with its context; the next strip is begun after the end.

        Parameters
        ----------
        windows
            As `Slide.windows` gives them, for the windows of these rows and columns.

        Yields
        ------
        index : int
        seen : ((S, S, 3) uint8, (px, px, 3) uint8), or None where a part of either cannot be read
        """
        if not self._whole:
            corners = self._corners_at(rows, columns)
            # Half way through, another window's context is that of the slide's top again.
            self._runs = np.split(corners, np.flatnonzero(np.diff(corners[:, 1]) < 0) + 1)[::-1]
            self._open(self._runs.pop())
        for index, window in windows:
            context = self._shown_with(rows[index], columns[index])
            yield index, None if window is None or context is None else (window, context)

    def _shown_with(self, row: int, column: int) -> np.ndarray | None:
        if not self._shown[row, column]:
            return np.full((self.px, self.px, 3), 255, np.uint8)
        x, y = self._corners[row, column].tolist()
        if not self._whole:
            if y < self._read.top:
                self._open(self._runs.pop())
            self._read.forget_above(y)
        context = self._read.cut(x, y, self.px)
        if context is not None and self._of == "self":
            context = own_field_only(context, self._window_px, self._ratio)
        return context

    def _corners_at(self, rows, columns) -> np.ndarray:
        shown = self._shown[rows, columns]
        return self._corners[rows[shown], columns[shown]]

    def _open(self, corners: np.ndarray) -> None:
        if self._read is not None:
            self._read.close()
        self._read = _Reading(self._slide, self._mpp, self._size_px, corners, self.px, self._on_stage)


class _Reading:
    """One pass over the blocks under some squares, from top to bottom, and what is held of them."""

    def __init__(self, slide, mpp: float, size_px, corners: np.ndarray, side_px: int, on_stage: Callable):
        self.top = corners[0, 1] if len(corners) else 0
        self._on_stage = on_stage
        # One more than the slide is wide: its last pixel may have been rounded away, and is no white.
        self._grid = tuple(-(-(side + 1) // BLOCK_PX) for side in size_px)
        wanted = np.zeros(self._grid[::-1], bool)
        for x, y in np.unique(corners, axis=0).tolist():
            columns, rows = (slice(max(0, at // BLOCK_PX), -(-(at + side_px) // BLOCK_PX)) for at in (x, y))
            wanted[rows, columns] = True
        self._order = np.argwhere(wanted)[:, ::-1]  # column, row of blocks, row by row
        self._next = 0
        self._held: dict[tuple[int, int], np.ndarray | None] = {}
        self._stream = slide.windows(
            self._order * BLOCK_PX, BLOCK_PX, mpp=mpp, on_lost="skip",
            on_stage=lambda _, start, stop: on_stage("context", start, stop),
        )  # fmt: skip

    def forget_above(self, y: int) -> None:
        """Let go of blocks that end above a row of pixels."""
        if y > self.top:
            for key in [key for key in self._held if (key[1] + 1) * BLOCK_PX <= y]:
                del self._held[key]
        self.top = y

    def cut(self, x: int, y: int, side_px: int) -> np.ndarray | None:
        """One square, white beyond the slide; None where a block under it cannot be read."""
        columns, rows = (
            range(max(0, at // BLOCK_PX), min(count, -(-(at + side_px) // BLOCK_PX)))
            for at, count in zip((x, y), self._grid, strict=True)
        )
        self._read_to(rows.stop)
        start = time.perf_counter()
        square = np.full((side_px, side_px, 3), 255, np.uint8)
        for row in rows:
            for column in columns:
                block = self._held[column, row]
                if block is None:
                    return None
                left, top = column * BLOCK_PX - x, row * BLOCK_PX - y
                target = square[max(0, top) : top + BLOCK_PX, max(0, left) : left + BLOCK_PX]
                at_x, at_y = max(0, -left), max(0, -top)
                target[:] = block[at_y : at_y + target.shape[0], at_x : at_x + target.shape[1]]
        self._on_stage("context", start, time.perf_counter())
        return square

    def _read_to(self, row: int) -> None:
        """Read all rows of blocks before `row` that have not been read."""
        while self._next < len(self._order) and self._order[self._next, 1] < row:
            index, block = next(self._stream)
            self._held[tuple(self._order[index].tolist())] = None if block is None else block.copy()
            self._next += 1
        if self._next == len(self._order):
            self._stream.close()  # its threads have nothing left to do

    def close(self) -> None:
        """End the threads that read, and let go of the blocks."""
        self._stream.close()
        self._held.clear()
