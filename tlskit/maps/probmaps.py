"""Probability maps of whole slides: tiled, pyramidal, lossless uint8 BigTIFFs that QuPath and OpenSlide open.

A map lies on the slide's working lattice: its pixel (i, j) is the working pixel (i, j), its value ``rint(255 p)``.
`tlskit.maps.map_writer` writes them.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tlskit.errors import MapError
from tlskit.maps.map_writer import FORMAT, decode_block

__all__ = ["ProbMap", "open_map", "outside"]

#: Decoded blocks kept by a reader: enough for a row of blocks across a large map.
_CACHE_BYTES = 64 << 20


class ProbMap:
    """A probability map opened for reading; made by `open_map`. Thread-safe; a context manager; picklable.

    Attributes
    ----------
    path : pathlib.Path
    size_px : (int, int)
        Width and height of level 0, in working pixels.
    mpp : float
        um per working pixel.
    metadata : dict
        What the writer was given, with "format", "size_px" and "mpp".
    level_sizes_px : list of (int, int)
        Size of every level.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        import tifffile

        self._lock = threading.Lock()
        self._cache: OrderedDict = OrderedDict()
        try:
            with tifffile.TiffFile(self.path) as tiff:
                first = tiff.pages[0]
                try:
                    self.metadata = json.loads(first.description)
                except ValueError:
                    self.metadata = {}
                if not isinstance(self.metadata, dict) or self.metadata.get("format") != FORMAT:
                    raise MapError(
                        f"{self.path}: expected a probability map written by tlskit, found a TIFF whose description "
                        "says otherwise. Predict the slide again, or give the path of its map."
                    )
                self.block_px = int(first.tilewidth)
                self._levels = [
                    ((page.imagewidth, page.imagelength), page.dataoffsets, page.databytecounts) for page in tiff.pages
                ]
            end = max(max(np.add(offsets, counts)) for _, offsets, counts in self._levels)
            if self.path.stat().st_size < end:
                raise MapError(
                    f"{self.path}: this probability map is cut off: it has {self.path.stat().st_size} of {end} bytes. "
                    "Copy it again, or predict the slide again."
                )
            self._file = open(self.path, "rb")
        except MapError:
            raise
        except (OSError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise MapError(
                f"{self.path}: expected a probability map (tiled TIFF), but it cannot be read: {error}"
            ) from error
        self.size_px = self._levels[0][0]
        self.level_sizes_px = [level[0] for level in self._levels]
        self.mpp = float(self.metadata["mpp"])

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.path = state["path"]
        self._open()

    @property
    def invalid(self) -> list[tuple[int, int, int, int]]:
        """Boxes that could not be predicted, as (x, y, width, height) in working pixels. Their pixels are 0."""
        return [tuple(box) for box in self.metadata.get("invalid", [])]

    @property
    def unseen(self) -> list[tuple[int, int, int, int]]:
        """Boxes of tissue that a screen kept the network from, as `invalid`. Their pixels are 0, which says nothing."""
        return [tuple(box) for box in self.metadata.get("unseen", [])]

    def read(self, x_px: int, y_px: int, width_px: int, height_px: int, *, level: int = 0) -> np.ndarray:
        """A rectangle of the map, ``(height_px, width_px) uint8``; outside the map it is 0.

        Coordinates are pixels of `level`, which is 0, the working lattice, unless told.
        """
        (width, height), _, _ = self._levels[level]
        out = np.zeros((height_px, width_px), np.uint8)
        b = self.block_px
        x0, y0, x1, y1 = max(x_px, 0), max(y_px, 0), min(x_px + width_px, width), min(y_px + height_px, height)
        if x0 >= x1 or y0 >= y1:
            return out
        for by in range(y0 // b, -(-y1 // b)):
            for bx in range(x0 // b, -(-x1 // b)):
                left, top = max(x0, bx * b), max(y0, by * b)
                right, bottom = min(x1, (bx + 1) * b), min(y1, (by + 1) * b)
                out[top - y_px : bottom - y_px, left - x_px : right - x_px] = self._block(level, bx, by)[
                    top - by * b : bottom - by * b, left - bx * b : right - bx * b
                ]
        return out

    def bands(self, rows_px: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """The whole map from top to bottom as (y_px, band), each band ``(<= rows_px, width) uint8``.

        By default a band is one row of blocks.
        """
        rows_px = rows_px or self.block_px
        width, height = self.size_px
        for y_px in range(0, height, rows_px):
            yield y_px, self.read(0, y_px, width, min(rows_px, height - y_px))

    def overview(self, max_px: int = 2048) -> tuple[np.ndarray, float]:
        """The largest level whose longer side is at most `max_px`, and its um/px.

        Where even the smallest level is larger, that one is returned.
        """
        level = next(
            (n for n, size in enumerate(self.level_sizes_px) if max(size) <= max_px), len(self.level_sizes_px) - 1
        )
        width, height = self.level_sizes_px[level]
        return self.read(0, 0, width, height, level=level), self.mpp * self.size_px[0] / width

    def marked(self, values: np.ndarray, least: int, x_px: int = 0, y_px: int = 0, *, level: int = 0) -> np.ndarray:
        """Where values that were read at (x_px, y_px) of a level are at least `least`, (H, W) bool.

        Pixels that were not looked at, or could not be, hold 0 and are never marked: not where `least` is 0, either.
        """
        found = values >= least
        if least > 0:
            return found
        scale = self.size_px[0] / self._levels[level][0][0]
        x, y = (
            (start + np.arange(count) + 0.5) * scale
            for start, count in zip((x_px, y_px), found.shape[::-1], strict=True)
        )
        return found & self.answered(x, y)

    def answered(self, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
        """Where columns and rows of the map, at full size, were looked at and could be read, (rows, columns) bool."""
        on_x, on_y = ((0 <= at) & (at < size) for at, size in zip((x_px, y_px), self.size_px, strict=True))
        return outside((*self.invalid, *self.unseen), x_px, y_px) & on_x & on_y[:, None]

    def under(self, left: int, top: int, width: int, height: int, *, mpp: float) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the map, ``(width,)`` and ``(height,) int64``, under a picture's pixels of `mpp` um."""
        return tuple(
            np.floor((start + np.arange(count) + 0.5) * mpp / self.mpp).astype(int)
            for start, count in ((left, width), (top, height))
        )

    def marked_at(self, x_px: np.ndarray, y_px: np.ndarray, least: int) -> np.ndarray:
        """Where the map is at least `least` at ascending columns and rows, as `marked`; never where there is no map."""
        x0, y0 = int(x_px[0]), int(y_px[0])
        values = self.read(x0, y0, int(x_px[-1]) - x0 + 1, int(y_px[-1]) - y0 + 1)
        return (values[np.ix_(y_px - y0, x_px - x0)] >= least) & self.answered(x_px, y_px)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ProbMap:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _block(self, level: int, bx: int, by: int) -> np.ndarray:
        key = (level, bx, by)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            (width, _), offsets, counts = self._levels[level]
            number = by * -(-width // self.block_px) + bx
            self._file.seek(offsets[number])
            data = self._file.read(counts[number])
        try:
            block = decode_block(data, self.block_px)
        except (RuntimeError, ValueError) as error:
            raise MapError(
                f"{self.path}: block ({bx}, {by}) of level {level} is damaged ({error}). Predict the slide again."
            ) from error
        with self._lock:
            self._cache[key] = block
            while len(self._cache) * self.block_px**2 > _CACHE_BYTES:
                self._cache.popitem(last=False)
        return block


def outside(boxes: Iterable[Sequence[int]], x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Where columns and rows lie in none of some boxes (left, top, width, height), (rows, columns) bool."""
    found = np.ones((len(y_px), len(x_px)), bool)
    for left, top, width, height in boxes:
        across, down = (x_px >= left) & (x_px < left + width), (y_px >= top) & (y_px < top + height)
        found[np.ix_(down, across)] = False
    return found


def open_map(path) -> ProbMap:
    """Open a probability map.

    Raises
    ------
    MapError
        If the file is missing, damaged, or not one of tlskit's maps.
    """
    return ProbMap(path)
