"""JPEG tiles of a TIFF slide, decoded without OpenSlide where that gives the same pixels.

OpenSlide reads a JPEG tile at about a sixth of libjpeg-turbo's pace. tifffile knows where the tiles lie and simplejpeg
decodes them with the same library and the same settings as OpenSlide, so the pixels are the same; that they are is
checked on tiles of every level before the level is trusted, and anything unusual is handed back to OpenSlide: other
formats, other compressions, absent tiles, and tiles that do not decode without a warning.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

import numpy as np
import simplejpeg

from tlskit.errors import SlideError, SlideGoneError
from tlskit.slides.bands import Lost
from tlskit.slides.directories import Directory
from tlskit.slides.scans import Scan

__all__ = ["VENDORS", "JpegLevel", "JpegTiles", "open_jpeg_tiles"]

log = logging.getLogger(__name__)

#: Formats whose levels are plain tiled TIFF directories. In others levels are put together, shifted or cropped.
VENDORS = ("aperio", "generic-tiff")

_JPEG = 7
_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR = 2, 6

#: Tiles of a level compared with OpenSlide's before it is read directly, and tiles tried for them.
_CHECKED_TILES = 3
_TRIED_TILES = 8


def open_jpeg_tiles(scan: Scan, directories: Sequence[Directory]) -> JpegTiles | None:
    """Index the JPEG tiles of a slide; None where it has none that can be read directly."""
    if scan.properties.get("openslide.vendor") not in VENDORS:
        return None
    found = {}
    for index, size in enumerate(scan.level_sizes_px):
        own = [d for d in directories if d.size_px == size]
        if len(own) == 1 and index not in scan.refused and (tiles := _tiles_of(own[0])) is not None:
            found[index] = tiles
    return JpegTiles(scan, found) if found else None


def _tiles_of(directory: Directory) -> dict | None:
    """Where the tiles of a TIFF directory lie and how they are coded, or None if they are no 8-bit colour JPEG."""
    plain = (
        directory.whole
        and directory.compression == _JPEG
        and directory.photometric in (_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR)
        and (directory.samples, directory.bits, directory.planar) == (3, 8, 1)
    )
    if not plain:
        return None
    # TIFF says which colour space the JPEG holds; inside, an Adobe marker says it in a way that every decoder obeys.
    transform = 1 if directory.photometric == _PHOTOMETRIC_YCBCR else 0
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return {
        "tile_px": directory.tile_px,
        "offsets": directory.offsets,
        "counts": directory.counts,
        "header": b"\xff\xd8" + adobe + directory.jpeg_tables[2:-2],
        "transform": transform,
    }


class JpegTiles:
    """The tiled JPEG levels of one file. May be pickled, and used from any thread and process."""

    def __init__(self, scan: Scan, found: dict[int, dict]):
        self.scan, self._found = scan, found
        self._file = None
        self._lock = threading.Lock()

    def level(self, index: int) -> JpegLevel | None:
        """A level, if some of its tiles have been seen to equal OpenSlide's and none to differ."""
        if index not in self._found:
            return None
        level = JpegLevel(self, index, **self._found[index])
        reason = level.objection()
        if reason:
            log.info("%s: level %d is read through OpenSlide (%s)", self.scan.path.name, index, reason)
            return None
        return level

    def bytes_at(self, offset: int, size: int) -> bytes:
        file = self._file
        if file is None:
            with self._lock:
                if self._file is None:
                    self._file = open(self.scan.path, "rb", buffering=0)
                file = self._file
        if hasattr(os, "pread"):
            return os.pread(file.fileno(), size, offset)
        with self._lock:
            file.seek(offset)
            return file.read(size)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __del__(self):
        self.close()

    def __getstate__(self):
        return {"scan": self.scan, "_found": self._found}

    def __setstate__(self, state):
        self.__init__(state["scan"], state["_found"])


class JpegLevel:
    """A level decoded tile by tile; see `tlskit.slides.bands` for what a level is.

    Attributes
    ----------
    index : int
    size_px, tile_px : (int, int)
        Width and height of the level and of its tiles.
    decoded : int
        Tiles decoded so far.
    handed_back : int
        Tiles that were absent or did not decode cleanly, and went to OpenSlide.
    """

    def __init__(self, file: JpegTiles, index: int, tile_px, offsets, counts, header, transform):
        self.file, self.index, self.tile_px = file, index, tile_px
        self.size_px = file.scan.level_sizes_px[index]
        self.offsets, self.counts, self.header, self._transform = offsets, counts, header, transform
        self.decoded = self.handed_back = 0

    def tile(self, column: int, row: int, buffer: np.ndarray | None = None) -> tuple[np.ndarray, list[Lost]]:
        """One tile, white beyond the level's edge, and what of it OpenSlide could not read either."""
        pixels = self._decode(column, row, buffer)
        lost: list[Lost] = []
        x, y, width, height = self._box(column, row)
        if pixels is None:
            self.handed_back += 1
            pixels = np.empty((self.tile_px[1], self.tile_px[0], 3), np.uint8) if buffer is None else buffer
            pixels[:] = 255
            try:
                pixels[:height, :width] = self.file.scan.read_exact(self.index, x, y, width, height)
            except SlideGoneError:
                raise
            except SlideError as error:
                lost.append(Lost(x, y, width, height, str(error.__cause__ or error)))
        else:
            pixels[height:] = 255
            pixels[:, width:] = 255
        return pixels, lost

    def objection(self) -> str:
        """Why this level must be left to OpenSlide; empty if tiles decode to exactly its pixels.

        Compared are the tiles of most bytes (wrong colours do not show on glass), one of an ordinary size, and the
        one in the far corner.
        """
        scan = self.file.scan
        rows, columns = self.counts.shape
        width, height = self.tile_px
        exact_x = scan.exact(self.index, np.arange(columns) * width)
        exact_y = scan.exact(self.index, np.arange(rows) * height)
        usable = np.flatnonzero((exact_y[:, None] & exact_x & (self.counts > 0)).ravel())
        if not len(usable):
            return "no tile that OpenSlide could be asked for"
        by_size = usable[np.argsort(self.counts.ravel()[usable], kind="stable")[::-1]]
        candidates = [by_size[0], by_size[len(by_size) // 2], usable[-1], *by_size[1:_TRIED_TILES]]
        checked = 0
        for at in dict.fromkeys(int(c) for c in candidates):
            row, column = divmod(at, columns)
            pixels = self._decode(column, row)
            if pixels is None:
                continue
            x, y, w, h = self._box(column, row)
            try:
                theirs = scan.read_level(self.index, x, y, w, h)
            except SlideError:
                continue
            if not np.array_equal(pixels[:h, :w], theirs):
                return f"tile ({column}, {row}) decodes to other pixels"
            checked += 1
            if checked == _CHECKED_TILES:
                break
        self.decoded = 0
        return "" if checked else "no tile could be compared"

    def _box(self, column: int, row: int) -> tuple[int, int, int, int]:
        x, y = column * self.tile_px[0], row * self.tile_px[1]
        return x, y, min(self.tile_px[0], self.size_px[0] - x), min(self.tile_px[1], self.size_px[1] - y)

    def _decode(self, column: int, row: int, buffer: np.ndarray | None = None) -> np.ndarray | None:
        """The tile as decoded, or None where it is absent or anything but clean."""
        count = int(self.counts[row, column])
        if count < 4:
            return None
        try:
            data = self.file.bytes_at(int(self.offsets[row, column]), count)
            if len(data) != count or data[:2] != b"\xff\xd8" or _contradicts(data, self._transform):
                return None
            data = self.header + data[2:]
            if simplejpeg.decode_jpeg_header(data)[:2] != self.tile_px[::-1]:
                return None
            pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
        except (ValueError, OSError, OverflowError, MemoryError):
            # OpenSlide forgives some of what simplejpeg does not (stray bytes), and not what others do (missing
            # data): it decides.
            return None
        self.decoded += 1
        return pixels


def _contradicts(data: bytes, transform: int) -> bool:
    """Whether a tile's own first markers name another colour space than its directory, which alone OpenSlide obeys."""
    at = 2
    while at + 16 <= len(data) and data[at] == 0xFF and 0xE0 <= data[at + 1] <= 0xEF:
        kind, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == 0xE0 and data[at + 4 : at + 8] == b"JFIF" and not transform:
            return True
        if kind == 0xEE and data[at + 4 : at + 9] == b"Adobe" and data[at + 15] != transform:
            return True
        at += 2 + size
    return False
