"""What the directories of a TIFF say of themselves: sizes, coding, scale, and where the tiles lie."""

from __future__ import annotations

import itertools
import logging
import math
import os
from typing import NamedTuple

import numpy as np
import tifffile

__all__ = ["Directory", "read_directories"]

log = logging.getLogger(__name__)

_UM_PER_UNIT = {2: 25400.0, 3: 10000.0}

#: A pyramid has a dozen directories; a file of very many is a stack of something else.
_MOST_DIRECTORIES = 64


class Directory(NamedTuple):
    """A tiled directory of a TIFF file.

    ``mpp_xy`` is um per pixel by its resolution tags, None where they say nothing; ``offsets`` and ``counts`` are
    (rows, columns) int64, the place and length of each stored tile. ``whole`` is whether as many tiles are listed as
    the size asks for: where not, there is nothing to index, and ``offsets`` and ``counts`` are empty.
    """

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    compression: int
    photometric: int
    bits: int
    samples: int
    planar: int
    mpp_xy: tuple[float, float] | None
    offsets: np.ndarray
    counts: np.ndarray
    jpeg_tables: bytes
    whole: bool = True
    listed: int = 0

    @property
    def needed(self) -> int:
        """Tiles that its size asks for."""
        (width, height), (tile_w, tile_h) = self.size_px, self.tile_px
        return -(-width // tile_w) * -(-height // tile_h) * (self.samples if self.planar == 2 else 1)

    def impossible(self) -> np.ndarray:
        """(N, 2) column and row of tiles said to be longer than any coding makes them."""
        most = 4 * self.tile_px[0] * self.tile_px[1] * max(1, self.samples) + 2**20
        return np.argwhere(self.counts > most)[:, ::-1]


def read_directories(path: str | os.PathLike) -> list[Directory]:
    """The tiled directories of a TIFF, in the file's order; none where the file cannot be indexed."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = itertools.islice(tiff.pages, _MOST_DIRECTORIES)
            return [
                _directory(page)
                for page in pages
                if page.is_tiled and min(page.tilewidth, page.tilelength, page.imagewidth) > 0
            ]
    except Exception as error:  # a damaged directory makes tifffile raise anything; OpenSlide may read it all the same
        log.info("%s: its TIFF directories cannot be indexed (%s: %s)", path, type(error).__name__, error)
        return []


def _directory(page) -> Directory:
    columns, rows = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    stated = all(any(tag in page.tags for tag in tags) for tags in ((324, 273), (325, 279)))  # else tifffile guesses
    listed = len(page.dataoffsets) if stated and len(page.dataoffsets) == len(page.databytecounts) else 0
    whole = stated and len(page.dataoffsets) == len(page.databytecounts) == columns * rows
    offsets, counts = (page.dataoffsets, page.databytecounts) if whole else ([], [])
    bits = page.bitspersample
    return Directory(
        size_px=(int(page.imagewidth), int(page.imagelength)),
        tile_px=(int(page.tilewidth), int(page.tilelength)),
        compression=int(page.compression),
        photometric=int(page.photometric),
        bits=int(max(bits) if isinstance(bits, tuple) else bits),
        samples=int(page.samplesperpixel),
        planar=int(page.planarconfig),
        mpp_xy=_mpp_xy(page),
        offsets=_whole_numbers(offsets).reshape(-1, columns),
        counts=_whole_numbers(counts).reshape(-1, columns),
        jpeg_tables=bytes(page.jpegtables or b""),
        whole=whole,
        listed=listed,
    )


def _whole_numbers(values) -> np.ndarray:
    """As int64; what does not fit (damaged tags hold anything up to 2**64) is its largest."""
    return np.minimum(np.asarray(values, np.uint64), np.iinfo(np.int64).max).astype(np.int64)


def _mpp_xy(page) -> tuple[float, float] | None:
    um = _UM_PER_UNIT.get(int(page.tags.valueof("ResolutionUnit", 2)))
    per_unit = [page.tags.valueof(f"{axis}Resolution") for axis in "XY"]
    if um is None or not all(isinstance(value, tuple) and len(value) == 2 and all(value) for value in per_unit):
        return None
    x, y = (um * below / above for above, below in per_unit)
    return (x, y) if all(math.isfinite(v) and v > 0 for v in (x, y)) else None
