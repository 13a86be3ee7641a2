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
    (rows, columns) int64, the place and length of each stored tile.
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


def read_directories(path: str | os.PathLike) -> list[Directory]:
    """The tiled directories of a TIFF, in the file's order; none where the file cannot be indexed."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = itertools.islice(tiff.pages, _MOST_DIRECTORIES)
            return [found for page in pages if page.is_tiled and (found := _directory(page)) is not None]
    except Exception as error:  # a damaged directory makes tifffile raise anything; OpenSlide may read it all the same
        log.info("%s: its TIFF directories cannot be indexed (%s: %s)", path, type(error).__name__, error)
        return []


def _directory(page) -> Directory | None:
    columns, rows = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    if int(page.planarconfig) == 1 and not len(page.dataoffsets) == len(page.databytecounts) == columns * rows:
        return None
    shape = (-1, columns) if len(page.dataoffsets) == columns * rows else (-1, 1)
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
        offsets=np.array(page.dataoffsets, np.int64).reshape(shape),
        counts=np.array(page.databytecounts, np.int64).reshape(shape),
        jpeg_tables=bytes(page.jpegtables or b""),
    )


def _mpp_xy(page) -> tuple[float, float] | None:
    um = _UM_PER_UNIT.get(int(page.tags.valueof("ResolutionUnit", 2)))
    per_unit = [page.tags.valueof(f"{axis}Resolution") for axis in "XY"]
    if um is None or not all(isinstance(value, tuple) and len(value) == 2 and all(value) for value in per_unit):
        return None
    x, y = (um * below / above for above, below in per_unit)
    return (x, y) if all(math.isfinite(v) and v > 0 for v in (x, y)) else None
