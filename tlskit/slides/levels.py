"""A level of a pyramid read through OpenSlide (or another reader), each pixel as it is stored."""

from __future__ import annotations

import itertools

import numpy as np

from tlskit.errors import SlideError, SlideGoneError
from tlskit.slides.bands import Lost
from tlskit.slides.scans import MOST_AT_ONCE_PX

__all__ = ["ReadLevel", "open_level"]

#: A tile that would begin between pixels is read from a position before it that meets one, at most this far away, with
#: pieces of at most as much again. A level that fits at once is read from its corner.
_FARTHEST_PX = MOST_AT_ONCE_PX // 2


def open_level(scan, index: int, size_px: tuple[int, int]) -> ReadLevel | None:
    """A level as pieces that equal the stored pixels, or None where that would be too dear.

    Parameters
    ----------
    scan
        Gives ``read_level``, ``exact`` and ``native_tile_px`` (see `tlskit.slides.scans.Scan`).
    index : int
    size_px : (int, int)
        The part of the level that is used.
    """
    native = scan.native_tile_px(index)
    known = native is not None and all(64 <= side <= 1024 for side in native)
    tile_px = native if known else (512, 512)
    smallest = tile_px if known else (128, 128)
    farthest = 0
    for length, side in zip(size_px, tile_px, strict=True):
        exact = scan.exact(index, np.arange(length))
        before = np.maximum.accumulate(np.where(exact, np.arange(length), 0))
        farthest = max(farthest, int((np.arange(0, length, side) - before[::side]).max()))
    if farthest > _FARTHEST_PX:
        if max(size_px) > MOST_AT_ONCE_PX:
            return None
        tile_px, farthest = size_px, max(size_px)
        smallest = tuple(-(-side // 2) for side in size_px)  # pieces further down are read from the corner, too
    elif farthest:
        # Pieces as large as what is read before them: or most would be decoded many times.
        tile_px = tuple(side * (min(_FARTHEST_PX, max(1024, farthest)) // side) for side in tile_px)
    return ReadLevel(scan, index, size_px, tile_px, smallest, farthest)


class ReadLevel:
    """See `tlskit.slides.bands` for what a level is; made by `open_level`."""

    def __init__(self, scan, index: int, size_px, tile_px, smallest, farthest):
        self.scan, self.index, self.size_px, self.tile_px = scan, index, size_px, tile_px
        self._smallest, self._farthest = smallest, farthest

    def tile(self, column: int, row: int, buffer: np.ndarray | None = None) -> tuple[np.ndarray, list[Lost]]:
        width, height = self.tile_px
        image = np.empty((height, width, 3), np.uint8) if buffer is None else buffer
        image[:] = 255
        x, y = column * width, row * height
        lost: list[Lost] = []
        self._into(image, x, y, min(width, self.size_px[0] - x), min(height, self.size_px[1] - y), lost)
        return image, lost

    def _into(self, image, x, y, width, height, lost) -> None:
        """Read a piece of a tile; where that fails, its quarters, down to a stored tile."""
        left, top = x % self.tile_px[0], y % self.tile_px[1]
        try:
            image[top : top + height, left : left + width] = self._read(x, y, width, height)
            return
        except SlideGoneError:
            raise
        except SlideError as error:
            reason = str(error.__cause__ or error)
        if width <= self._smallest[0] and height <= self._smallest[1]:
            lost.append(Lost(x, y, width, height, reason))
            return
        for at_x, at_y in itertools.product(
            _halves(x, width, self._smallest[0]), _halves(y, height, self._smallest[1])
        ):
            self._into(image, at_x[0], at_y[0], at_x[1], at_y[1], lost)

    def _read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        if not self._farthest:
            return self.scan.read_level(self.index, x, y, width, height)
        return self.scan.read_exact(self.index, x, y, width, height, farthest_px=self._farthest)


def _halves(start: int, length: int, smallest: int) -> list[tuple[int, int]]:
    """(start, length) of two halves that meet at a multiple of `smallest`; the whole, if no longer than that."""
    if length <= smallest:
        return [(start, length)]
    half = -(-length // smallest) // 2 * smallest
    return [(start, half), (start + half, length - half)]
