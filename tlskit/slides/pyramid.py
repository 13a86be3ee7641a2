"""Which levels of a slide's pyramid are all of level 0, seen in their sizes and in their pixels.

A level's factor is not believed by its width and height alone: levels padded to whole tiles, a macro picture or a
turned thumbnail among the levels have sizes too. A level is used if one whole pixel's rounding explains both of its
sides, and some of its patches, chosen where there is something to see, are the means of the next finer level there.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import cv2
import numpy as np

from tlskit.errors import SlideError
from tlskit.slides.bands import gather
from tlskit.slides.resample import area_average, source_span

__all__ = ["Pyramid", "say_once"]

log = logging.getLogger(__name__)

#: Side of a patch in pixels of the coarser level, and of the blocks whose means are compared: scanners decimate,
#: sharpen and compress, which moves pixels but not the means of blocks.
_PATCH_PX = 64
_BLOCK_PX = 8

#: A patch fits if block means differ by less than this share of their own variance, in grey levels squared; variance
#: below the floor is noise, where anything fits that is as empty.
_MOST_UNEXPLAINED = 0.5
_FLOOR_GREY2 = 36.0

#: Levels may be this much brighter or darker than the means of a finer one: scanners treat them apart.
_MOST_OFFSET = 8.0

#: Patches looked at: so many across and down, one where most is to be seen in each cell.
_CELLS = 3
_GUIDE_PX = 2**22

#: Source pixels that a comparison with the next finer level may cost.
_MOST_SOURCE_PX = 2**24


class Pyramid:
    """What may be read of each level. Levels are judged when they are first asked for; may be pickled.

    Attributes
    ----------
    sizes_px : list of (int, int)
        Of the part of each level that is all of level 0.
    downsamples : list of float
        Level-0 pixels along one pixel of each level, corrected where a level is padded.
    left_out : dict of int to str
        Levels that are not read, and why.
    """

    def __init__(self, path: Path, sizes_px, downsamples, tile_sizes_px, refused: dict[int, str]):
        self.name, self._file = path.name, _state(path)
        self.sizes_px, self.downsamples = list(sizes_px), list(downsamples)
        self.left_out: dict[int, str] = {}
        for index, why in refused.items():
            self._leave_out(index, why)
        self._judged = {0}
        for i in range(1, len(self.sizes_px)):
            if i not in self.left_out:
                self._judge_size(i, tile_sizes_px[i])

    def _judge_size(self, index: int, tile_px: tuple[int, int] | None) -> None:
        size0, size, stated = self.sizes_px[0], self.sizes_px[index], self.downsamples[index]
        if one_factor(size0, size):
            return
        for factor in (2**k for k in range(1, 12)):
            true = tuple(-(-side // factor) for side in size0)
            if tile_px and all(-(-t // side) * side == s for t, side, s in zip(true, tile_px, size, strict=True)):
                self.downsamples[index], self.sizes_px[index] = float(factor), true
                return
        across, down = (s0 / s for s0, s in zip(size0, size, strict=True))
        self._leave_out(
            index,
            f"level {index} ({size[0]} x {size[1]} px) is the slide's width divided by {across:.4g} and its height "
            f"divided by {down:.4g}, where both should be the same ({stated:.4g} is stated)",
        )

    def _leave_out(self, index: int, why: str) -> None:
        self.left_out[index] = why
        say_once(f"{self.name}: {why}; the level is not read.")

    def usable(self, index: int, levels) -> bool:
        """Whether a level may be read; ``levels(i)`` gives the levels, to compare (see `tlskit.slides.bands`)."""
        if index in self.left_out or levels(index) is None:
            return False
        if index not in self._judged:
            finer = max((i for i in range(len(self.sizes_px)) if self.downsamples[i] < self.downsamples[index]
                         and self.usable(i, levels)), key=lambda i: self.downsamples[i], default=0)  # fmt: skip
            key = (self._file, index, finer)
            if key not in _verdicts:  # a slide is opened again by every step of a run
                _verdicts[key] = self._judge_pixels(index, finer, levels)
            why = _verdicts[key]
            if why:
                self._leave_out(index, why)
            self._judged.add(index)
        return index not in self.left_out

    def _judge_pixels(self, index: int, finer: int, levels) -> str:
        """Why a level is not the means of the next finer one; empty if it is as far as patches show."""
        ratio = self.downsamples[index] / self.downsamples[finer]
        side = int(min(_PATCH_PX, math.sqrt(_MOST_SOURCE_PX) / ratio)) // _BLOCK_PX * _BLOCK_PX
        if ratio <= 1 or side < _BLOCK_PX:
            return ""
        failed, looked = [], 0
        coarse, fine = _Kept(levels(index)), _Kept(levels(finer))
        for x, y in self._places(index, side, coarse):
            pair = _patches(coarse, fine, x, y, side, ratio)
            if pair is None:
                continue
            unexplained, seen = _unexplained(*pair)
            looked += seen
            if unexplained > _MOST_UNEXPLAINED:
                failed.append((x, y))
        if not failed or len(failed) < 0.25 * looked:
            return ""
        x, y = (round(v * self.downsamples[index]) for v in failed[0])
        return (
            f"level {index} ({self.sizes_px[index][0]} x {self.sizes_px[index][1]} px) does not show what level "
            f"{finer} shows: {len(failed)} of {looked} places with something to see differ, the first at level-0 pixel "
            f"({x}, {y})"
        )

    def _places(self, index: int, side: int, level) -> list[tuple[int, int]]:
        """Left top corners of patches: in each cell of the level, the far corners' too, where most is to be seen."""
        width, height = self.sizes_px[index]
        most_x, most_y = max(0, width - side), max(0, height - side)
        edges = [np.linspace(0, v, _CELLS + 1).astype(int) for v in (width, height)]
        whole = _read(level, 0, 0, width, height) if width * height <= _GUIDE_PX else None
        places = []
        for left, right in zip(edges[0][:-1], edges[0][1:], strict=True):
            for top, bottom in zip(edges[1][:-1], edges[1][1:], strict=True):
                x, y = int(left + right - side) // 2, int(top + bottom - side) // 2
                if whole is not None:
                    x, y = _liveliest(whole[top:bottom, left:right], side, int(left), int(top))
                places.append((min(max(0, x), most_x), min(max(0, y), most_y)))
        return list(dict.fromkeys(places))


_said: set[str] = set()
_verdicts: dict[tuple, str] = {}


def _state(path: Path) -> tuple:
    """What tells a file from the one that stood there before."""
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


class _Kept:
    """A level whose tiles are decoded once while it is judged."""

    def __init__(self, level):
        self._level, self._tiles = level, {}
        self.size_px, self.tile_px = level.size_px, level.tile_px

    def tile(self, column: int, row: int):
        if (column, row) not in self._tiles:
            self._tiles[column, row] = self._level.tile(column, row)
        return self._tiles[column, row]


def say_once(text: str) -> None:
    """Warn of a slide, which is opened many times in a run, once a process."""
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)


def one_factor(size0: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether one factor explains both sides of a level, each rounded to a neighbouring whole pixel."""
    low = max(s0 / (s + 1) for s0, s in zip(size0, size, strict=True))
    high = min(s0 / max(s - 1, 1e-9) for s0, s in zip(size0, size, strict=True))
    return low <= high


def _liveliest(cell: np.ndarray, side: int, left: int, top: int) -> tuple[int, int]:
    """Corner of the patch of most variance in a cell of a level."""
    height, width = cell.shape[:2]
    size = (max(1, width // side), max(1, height // side))
    grey = cell.mean(axis=2, dtype=np.float32)
    mean = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    spread = cv2.resize(grey**2, size, interpolation=cv2.INTER_AREA) - mean**2
    row, column = np.unravel_index(int(np.argmax(spread)), spread.shape)
    return left + int(column * width / size[0]), top + int(row * height / size[1])


def _read(level, x0: int, y0: int, x1: int, y1: int) -> np.ndarray | None:
    """Pixels of a level, or None where some of them cannot be read."""
    try:
        pixels, lost = gather(level.tile, level, x0, y0, x1, y1)
    except SlideError:
        return None
    return None if lost else pixels


def _patches(level, finer, x: int, y: int, side: int, ratio: float) -> tuple[np.ndarray, np.ndarray] | None:
    """A patch of a level, and the means of the finer level over the same area, both as far as both reach."""
    width, height = (
        min(side, level.size_px[0] - x, int(finer.size_px[0] / ratio) - x),
        min(side, level.size_px[1] - y, int(finer.size_px[1] / ratio) - y),
    )
    width, height = (v // _BLOCK_PX * _BLOCK_PX for v in (width, height))
    if min(width, height) < _BLOCK_PX:
        return None
    (x0, x1), (y0, y1) = source_span(x, x + width, ratio), source_span(y, y + height, ratio)
    coarse, fine = _read(level, x, y, x + width, y + height), _read(finer, x0, y0, x1, y1)
    if coarse is None or fine is None:
        return None
    means = area_average(fine, ratio=ratio, x_px=x, y_px=y, width_px=width, height_px=height, source_x=x0, source_y=y0)
    return coarse, means


def _unexplained(coarse: np.ndarray, means: np.ndarray) -> tuple[float, bool]:
    """Share of the variance of block means that is difference; whether there is something to see."""
    size = (coarse.shape[1] // _BLOCK_PX, coarse.shape[0] // _BLOCK_PX)
    a, b = (
        cv2.resize(v.astype(np.float32), size, interpolation=cv2.INTER_AREA).reshape(-1, 3) for v in (coarse, means)
    )
    variance = max(float(a.var(axis=0).mean()), float(b.var(axis=0).mean()))
    offset = np.clip((a - b).mean(axis=0), -_MOST_OFFSET, _MOST_OFFSET)
    return float(((a - b - offset) ** 2).mean()) / max(variance, _FLOOR_GREY2), variance > _FLOOR_GREY2
