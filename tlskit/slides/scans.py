"""A slide as OpenSlide sees it: its scale, its pyramid, and pixels of a level, with damage kept to one region."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import openslide
from openslide import lowlevel

from tlskit.errors import SlideError, SlideGoneError
from tlskit.slides.directories import Directory
from tlskit.slides.opening import cause, look_before_opening, refusal

__all__ = ["EXACT_PX", "LARGEST_TILE_PX", "LONGEST_PX", "MOST_AT_ONCE_PX", "Scan", "whole_downsample"]

#: Longest side of a level, and most pixels of a stored tile, that are believed. A slide of 75 x 150 mm at 0.1 um/px has
#: 1.5 million; a tile is decoded as a whole, and GLib ends the process where there is no memory for it.
LONGEST_PX = 2**22
LARGEST_TILE_PX = 2**26
#: From here on a tile should not be far larger than its level.
_ABSURD_TILE_PX = 2**22

#: Decoded tiles that OpenSlide keeps, in bytes, for all slides of a process together.
_OPENSLIDE_CACHE_BYTES = 32 * 2**20

#: OpenSlide is asked in whole level-0 pixels and reads between two pixels of a level where these do not meet. Below
#: this many pixels of the level the picture is not moved (measured: 1/256 px is the first that changes a pixel).
EXACT_PX = 0.002

#: OpenSlide reads larger regions in pieces of 4,096 px, the later of which begin between pixels.
MOST_AT_ONCE_PX = 4096

#: Smallest opaque pixel as OpenSlide gives it, a 32-bit number ARGB.
_OPAQUE = 0xFF000000


class Scan:
    """An OpenSlide handle that survives threads, forks, pickling and damaged regions.

    OpenSlide refuses everything after its first error: a handle that has failed is replaced by a fresh one, and the
    region is tried once more on a handle of its own, so that a neighbour's damage is never taken for this region's.

    Attributes
    ----------
    path : Path
    properties : dict of str to str
    level_sizes_px : tuple of (width, height)
    level_downsamples : tuple of float
        Level-0 pixels along one pixel of each level. OpenSlide divides the (rounded) sizes of the levels and reports
        4.0001 for a pyramid that was made by averaging 4 x 4 pixels; here that is 4.
    refused : dict of int to str
        Levels that cannot be read without danger, and why.
    """

    name = "openslide"

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._forget()
        look_before_opening(self.path)
        handle = self._handle()
        try:
            self.properties = _properties(handle)
            self.level_sizes_px = tuple((int(w), int(h)) for w, h in handle.level_dimensions)
            self._reported = tuple(float(d) for d in handle.level_downsamples)
            self.level_downsamples = tuple(
                whole_downsample(self.level_sizes_px[0], size, reported)
                for size, reported in zip(self.level_sizes_px, self._reported, strict=True)
            )
        except Exception as error:  # whatever a reader throws is this slide's fault
            raise refusal(self.path, error) from error
        self.refused = {i: why for i in range(len(self.level_sizes_px)) if (why := self._danger(i))}
        self._impossible: dict[int, tuple] = {}
        self._refuse_level_0()

    def _danger(self, level: int) -> str:
        width, height = self.level_sizes_px[level]
        if not 0 < min(width, height) <= max(width, height) <= LONGEST_PX:
            return f"level {level} is said to have {width} x {height} px"
        tile = self.native_tile_px(level)
        absurd = tile and tile[0] * tile[1] > _ABSURD_TILE_PX and (tile[0] > 2 * width or tile[1] > 2 * height)
        if tile and (absurd or tile[0] * tile[1] > LARGEST_TILE_PX):
            return f"level {level} is said to be stored in tiles of {tile[0]} x {tile[1]} px"
        return ""

    def believe(self, directories: Sequence[Directory]) -> None:
        """Compare with a TIFF's own directories: levels without tiles enough, and tiles of impossible length.

        Raises
        ------
        SlideError
            If level 0 lacks tiles, or the file holds a larger picture than it.
        """
        (width, height), whole = self.level_sizes_px[0], [d.size_px for d in directories]
        larger = max((size for size in whole if size[0] > width and size[1] > height), default=None)
        if larger:
            raise SlideError(
                f"{self.path}: it holds a larger picture of {larger[0]} x {larger[1]} px than the {width} x {height} "
                "px that OpenSlide takes for the scan. Convert it, so that the largest comes first: `vips tiffsave`."
            )
        for level, size in enumerate(self.level_sizes_px):
            own = [d for d in directories if d.size_px == size]
            if len(own) != 1:
                continue
            if own[0].listed < own[0].needed:
                self.refused[level] = (
                    f"level {level} lists {own[0].listed} tiles where its size asks for {own[0].needed}"
                )
            bad = own[0].impossible()
            if len(bad):
                self._impossible[level] = (own[0].tile_px, bad)
        self._refuse_level_0()

    def _refuse_level_0(self) -> None:
        if 0 in self.refused:
            raise SlideError(
                f"{self.path}: {self.refused[0]}, which no slide has. Its directory is damaged: copy it again from its "
                "source."
            )

    def _refuse_impossible(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """OpenSlide would take memory for the length that is stated, and end the process where there is not so much."""
        (tile_w, tile_h), bad = self._impossible[level]
        across = (bad[:, 0] * tile_w < x + width) & (bad[:, 0] * tile_w + tile_w > x)
        if (across & (bad[:, 1] * tile_h < y + height) & (bad[:, 1] * tile_h + tile_h > y)).any():
            raise SlideError(f"{self.path}: a tile of level {level} is said to be longer than any coding makes it.")

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level at its own pixel positions, (height, width, 3) uint8 RGB, white where there is nothing.

        Raises
        ------
        SlideError
            If the region cannot be read twice in a row; names file, region and OpenSlide's reason.
        SlideGoneError
            If the file cannot even be opened again.
        """
        for finer in self._impossible:
            # OpenSlide may fill what it takes for absent of an Aperio level from the finer ones.
            if finer <= level:
                scale = self._reported[level] / self._reported[finer]
                self._refuse_impossible(finer, *(math.floor(v * scale) for v in (x, y, width + 1, height + 1)))
        reported = self._reported[level]
        at = (round(x * reported), round(y * reported))
        handle = self._handle()
        try:
            return _read_region(handle, at, level, width, height)
        except Exception:  # OpenSlide's own error, or no memory, or a handle that another thread has closed
            self._replace(handle)
        try:
            fresh = _opened(self.path)
        except Exception as error:
            raise SlideGoneError(
                f"{self.path}: this slide was open and can no longer be opened: {cause(self.path, error)} Then run the "
                "same command again."
            ) from error
        try:
            with fresh:
                return _read_region(fresh, at, level, width, height)
        except Exception as error:
            raise SlideError(
                f"{self.path}: cannot read the region at level-0 pixel {at}, {width} x {height} px of level {level}, "
                f"in two attempts ({error}). The file is damaged there or out of reach: copy it again from its source."
            ) from error

    def read_exact(self, level: int, x: int, y: int, width: int, height: int, *, farthest_px: int = 2048) -> np.ndarray:
        """As `read_level`, but equal to the stored pixels: read from a position before it where OpenSlide meets one.

        Where there is none within `farthest_px` it is read as it is, moved by less than half a level-0 pixel.
        """
        x0, y0 = (self._exact_before(level, at, farthest_px) for at in (x, y))
        return self.read_level(level, x0, y0, x + width - x0, y + height - y0)[y - y0 :, x - x0 :]

    def _exact_before(self, level: int, at: int, farthest_px: int) -> int:
        places = np.arange(max(0, at - farthest_px), at + 1)
        exact = np.flatnonzero(self.exact(level, places))
        return int(places[exact[-1]]) if len(exact) else at

    def is_exact(self, level: int, x: int, y: int) -> bool:
        """Whether OpenSlide can be asked for this pixel of a level exactly.

        It is asked in whole level-0 pixels, which it divides by its own downsample; a remainder makes it interpolate.
        """
        return bool(self.exact(level, np.array([x, y])).all())

    def exact(self, level: int, positions: np.ndarray) -> np.ndarray:
        """Which positions along an axis of a level are exact in this way, bool."""
        reported = self._reported[level]
        return np.abs(np.rint(positions * reported) / reported - positions) < EXACT_PX

    def native_tile_px(self, level: int) -> tuple[int, int] | None:
        """Size of the tiles in which a level is stored, where OpenSlide knows it."""
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        sides = [self.properties.get(name, "") for name in names]
        sides = [int(side) if side.isdecimal() else 0 for side in sides]
        return tuple(sides) if all(sides) else None

    def icc_profile(self) -> bytes | None:
        """The ICC profile of the slide's pixels, where it has one that OpenSlide knows of."""
        try:
            profile = self._handle().color_profile
        except SlideError:
            raise
        except Exception as error:
            raise SlideError(f"{self.path}: its ICC profile cannot be read ({error}).") from error
        return profile.tobytes() if profile is not None else None

    def close(self) -> None:
        handle, self._open = self._open, None
        if handle is not None and self._pid == os.getpid():
            handle.close()

    def _handle(self) -> openslide.OpenSlide:
        if self._pid != os.getpid():
            # A forked process shares the parent's file positions and may have inherited a held lock: start anew,
            # and leave the parent's handle alone.
            self._inherited = self._open
            self._forget()
        handle = self._open
        if handle is not None:
            return handle
        with self._lock:
            if self._open is None:
                try:
                    self._open = _opened(self.path)
                except Exception as error:  # whatever a reader throws is this slide's fault
                    raise refusal(self.path, error) from error
            return self._open

    def _replace(self, dead: openslide.OpenSlide) -> None:
        with self._lock:
            if self._open is dead:
                self._open = None  # other threads may still be inside it: it is closed when the last lets go of it

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._open = None
        self._lock = threading.Lock()

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_lock", "_pid", "_inherited")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()


def whole_downsample(size0: tuple[int, int], size: tuple[int, int], reported: float) -> float:
    """The whole number that a level's size stands for (sizes are rounded), or OpenSlide's ratio of sizes."""
    for whole in (round(reported), 2 ** round(math.log2(max(reported, 1)))):
        if all(s0 // whole <= s <= -(-s0 // whole) for s0, s in zip(size0, size, strict=True)):
            return float(whole)
    return reported


def _opened(path: Path) -> openslide.OpenSlide:
    """A handle that shares the process's cache: each would keep 32 MiB of its own."""
    handle = openslide.OpenSlide(path)
    handle.set_cache(_shared_cache())
    return handle


_caches: dict[int, openslide.OpenSlideCache] = {}


def _shared_cache() -> openslide.OpenSlideCache:
    """OpenSlide's cache of this process. One that came by a fork may be locked for ever: it is left alone."""
    if os.getpid() not in _caches:
        _caches[os.getpid()] = openslide.OpenSlideCache(_OPENSLIDE_CACHE_BYTES)
    return _caches[os.getpid()]


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    """What OpenSlide knows of a slide; a property whose name is no UTF-8 cannot be asked for, and is left out."""
    names = lowlevel.get_property_names(handle._osr)
    values = {name: lowlevel.get_property_value(handle._osr, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _read_region(handle: openslide.OpenSlide, at: tuple[int, int], level: int, width: int, height: int) -> np.ndarray:
    """Pixels of a level, (height, width, 3) uint8 RGB on white: transparent is where the scanner recorded nothing.

    Not openslide-python's own `read_region`: a PIL image on the way to an array converts and copies every pixel three
    times with Python's lock held, so that threads wait for one another.
    """
    argb = np.empty((height, width), np.uint32)
    pointer = argb.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
    lowlevel._read_region(handle._osr, pointer, *at, level, width, height)
    if not argb.size:
        return np.empty((height, width, 3), np.uint8)
    rgb = cv2.cvtColor(argb.view(np.uint8).reshape(height, width, 4), cv2.COLOR_BGRA2RGB)
    if argb.min() < _OPAQUE:
        rgb += 255 - (argb >> 24).astype(np.uint8)[..., None]  # colours come multiplied by their opacity
    return rgb
