"""Pixels of a whole-slide image at any um/px: a region, a stream of windows, a thumbnail.

Every pixel is that of the slide's *working lattice* (`tlskit.units`), averaged over its exact area from the pyramid
level just finer than asked; so a tile read alone, cut out of a band, or read in another process is the same, bit for
bit.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tlskit import units
from tlskit.errors import SlideError, SlideGoneError
from tlskit.slides import bands, colours, jpegs
from tlskit.slides.detail import coarse_read, coarse_windows, source_mpp
from tlskit.slides.resample import snapped_ratio
from tlskit.slides.scans import Scan, find_mpp0

__all__ = ["Slide", "open_slide"]

log = logging.getLogger(__name__)

#: A level may be this much coarser than asked and still count as fitting.
_LEVEL_TOLERANCE = 1e-3

#: Decoded tiles kept for random reads, in bytes, shared by all slides of a process.
_CACHE_BYTES = 64 * 2**20


def open_slide(
    path: str | os.PathLike,
    *,
    mpp_override: float | None = None,
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    detail_mpp: float = 0.0,
    fast: bool = True,
) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path : path
        Any file that OpenSlide opens.
    mpp_override : float, optional
        um/px of level 0, from the manifest; None and nan mean that the slide's own is taken.
    resolution_by : "mpp" or "objective"
        Take the scale from um/px (see `tlskit.slides.scans.find_mpp0`), or as 10 / objective power.
    apply_icc : bool
        Correct colours to sRGB by the slide's ICC profile, where it has one; see `Slide.icc_profile`.
    detail_mpp : float
        Coarsest detail that is let through: `Slide.read` and `Slide.windows` at a finer um/px give the area means at
        this one, each repeated over the pixels whose centres it covers. 0: everything that was scanned.
    fast : bool
        Decode JPEG tiles directly where their pixels equal OpenSlide's; False reads everything through OpenSlide.

    Raises
    ------
    SlideError
        If the file is missing or no slide.
    ScaleError
        If its um/px is missing, contradictory or impossible.
    """
    return Slide(
        path,
        mpp_override=mpp_override,
        resolution_by=resolution_by,
        apply_icc=apply_icc,
        detail_mpp=detail_mpp,
        fast=fast,
    )


class Slide:
    """An open slide. Made by `open_slide`; usable as a context manager, from many threads, and after pickling.

    Attributes
    ----------
    path : Path
    size_px0 : (int, int)
        Width and height of level 0.
    bounds_px0 : (int, int, int, int)
        Left, top, width and height, in level-0 pixels, of the part that holds the scan. The whole slide for most
        formats; MIRAX and others leave room around it.
    mpp0 : float
        um per pixel of level 0.
    mpp_source : "manifest", "openslide", "tiff" or "objective"
        Where `mpp0` was found.
    objective_power : float or None
    icc_profile : str
        Description of the profile by which colours are corrected; empty where they are left as scanned.
    apply_icc : bool
        Whether they were to be corrected.
    detail_mpp : float
        um/px beyond which detail is averaged away; 0 where none is.
    vendor : str
    level_downsamples : tuple of float
    reader : "jpeg" or "openslide"
        What decodes level 0; see `reader_for`.
    lost : list of dict
        Regions that could not be read so far: x_px0, y_px0, width_px0, height_px0 (level-0 pixels), level, reason.
    properties : dict of str to str
        What OpenSlide knows of the slide.
    """

    def __init__(self, path, *, mpp_override=None, resolution_by="mpp", apply_icc=False, detail_mpp=0.0, fast=True):
        self.path = Path(path)
        self._scan = Scan(path)
        self.properties = self._scan.properties
        self.mpp0, self.mpp_source = find_mpp0(self._scan, mpp_override=mpp_override, resolution_by=resolution_by)
        self.size_px0 = self._scan.level_sizes_px[0]
        self.level_downsamples = self._scan.level_downsamples
        self.vendor = self.properties.get("openslide.vendor", "")
        power = self.properties.get("openslide.objective-power")
        self.objective_power = float(power) if power else None
        edges = [int(self.properties.get(f"openslide.bounds-{k}", 0)) for k in ("x", "y", "width", "height")]
        self.bounds_px0 = tuple(edges) if edges[2] and edges[3] else (0, 0, *self.size_px0)
        self.lost: list[dict] = []
        self._jpeg = jpegs.open_jpeg_tiles(self._scan) if fast else None
        self.apply_icc = apply_icc
        self.detail_mpp = detail_mpp or 0.0
        if not 0 <= self.detail_mpp < math.inf:
            raise ValueError(f"detail_mpp should be 0 or a number of um/px, not {detail_mpp!r}.")
        self._colours = colours.of_slide(self._scan) if apply_icc else None
        self.icc_profile = self._colours.name if self._colours else ""
        self._levels: dict[int, object] = {}
        self._token = next(_tokens)
        self.reader = self.reader_for(self.mpp0)

    # Geometry

    def size_px(self, mpp: float) -> tuple[int, int]:
        """Width and height of the slide in working pixels."""
        return units.lattice_size(self.size_px0, self.mpp0, mpp)

    def level_for(self, mpp: float) -> int:
        """Pyramid level that is read for a um/px: the coarsest that is not coarser than asked, or than `detail_mpp`.

        Raises
        ------
        ScaleError
            If more than 5 % finer than level 0 is asked.
        """
        return self._level_index(self._source_mpp(mpp))

    def _level_index(self, mpp: float) -> int:
        d = units.downsample(mpp, self.mpp0)
        fitting = [i for i, have in enumerate(self.level_downsamples) if have <= d * (1 + _LEVEL_TOLERANCE)]
        return max(fitting, key=lambda i: self.level_downsamples[i], default=0)

    def reader_for(self, mpp: float) -> str:
        """ "jpeg" or "openslide": what decodes the level read for a um/px."""
        return "jpeg" if isinstance(self._level(self.level_for(mpp)), jpegs.JpegLevel) else "openslide"

    # Pixels

    def read(self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float) -> np.ndarray:
        """A region of the working lattice.

        Parameters
        ----------
        x_px, y_px, width_px, height_px : int
            Region in working pixels; it may reach beyond the slide, which is white there.
        mpp : float
            um/px to read at.

        Returns
        -------
        (height_px, width_px, 3) uint8
            RGB.

        Raises
        ------
        SlideError
            If a part of it cannot be read; also recorded in `lost`. If the whole file is out of reach it is a
            `SlideGoneError`, as it is everywhere.
        ScaleError
            If more than 5 % finer than level 0 is asked.
        """
        from_mpp = self._source_mpp(mpp)
        if from_mpp != mpp:
            return coarse_read(self, from_mpp, int(x_px), int(y_px), int(width_px), int(height_px), mpp=mpp)
        level, ratio = self._at(mpp)
        image, lost = bands.region(
            self._cached_tile(level),
            level,
            ratio=ratio,
            x_px=int(x_px),
            y_px=int(y_px),
            width_px=int(width_px),
            height_px=int(height_px),
        )
        if lost:
            self._record(mpp, lost)
            raise self._error(mpp, lost)
        return image

    def windows(
        self,
        xy_px: np.ndarray,
        size_px: int,
        *,
        mpp: float,
        on_lost: str = "raise",
        threads: int = 2,
        on_stage=None,
    ) -> Iterator[tuple[int, np.ndarray | None]]:
        """Stream square windows in raster order, each stored tile of the slide being decoded at most once.

        Parameters
        ----------
        xy_px : (N, 2) int
            Top-left corners on the working lattice. Only what these windows cover is read.
        size_px : int
            Side of the windows in working pixels.
        mpp : float
            um/px to read at.
        on_lost : "raise" or "skip"
            What to do about a region that cannot be read: raise a SlideError, or yield None for its windows and go
            on. Recorded in `lost` either way.
        threads : int
            Threads that decode and resample, one row of windows ahead of the caller.
        on_stage : callable, optional
            Told by these threads of every piece of work: "read" (and decode) or "resample", start, stop, by
            `time.perf_counter`.

        Yields
        ------
        index : int
            Row of `xy_px`.
        window : (size_px, size_px, 3) uint8, or None where lost
            A read-only view into the current band: copy it to change it or to keep it for long.
        """
        if on_lost not in ("raise", "skip"):
            raise ValueError(f'windows(on_lost=...) must be "raise" or "skip", not {on_lost!r}.')
        from_mpp = self._source_mpp(mpp)
        if from_mpp != mpp:
            options = {"on_lost": on_lost, "threads": threads, "on_stage": on_stage}
            return coarse_windows(self, from_mpp, xy_px, size_px, mpp=mpp, **options)
        level, ratio = self._at(mpp)
        return self._windows(level, ratio, xy_px, size_px, mpp, on_lost, threads, on_stage)

    def _windows(self, level, ratio, xy_px, size_px, mpp, on_lost, threads, on_stage):
        for index, window, lost in bands.stream(
            level, ratio=ratio, xy_px=xy_px, size_px=size_px, threads=threads, on_stage=on_stage
        ):
            if lost:
                self._record(mpp, lost)
                if on_lost == "raise":
                    raise self._error(mpp, lost)
                window = None
            yield index, window

    def thumbnail(self, *, max_px: int | None = None, mpp: float | None = None) -> tuple[np.ndarray, float]:
        """The whole slide, small: at a um/px, or with its longer side at most `max_px` (1024 by default).

        Returns the image (H, W, 3) uint8 and its um/px. Lost regions are white in it, and recorded in `lost`. It is for
        the eye and for finding tissue: `detail_mpp` does not change it.
        """
        if mpp is None:
            max_px = 1024 if max_px is None else int(max_px)
            mpp = self.mpp0 * max(1.0, max(self.size_px0) / (max_px + 0.499))
        width, height = self.size_px(mpp)
        image = np.full((height, width, 3), 255, np.uint8)
        side = 256
        xy = np.array([(x, y) for y in range(0, height, side) for x in range(0, width, side)])
        level, ratio = self._at(mpp)
        for i, window, lost in bands.stream(level, ratio=ratio, xy_px=xy, size_px=side):
            self._record(mpp, lost)
            x, y = xy[i]
            image[y : y + side, x : x + side] = window[: height - y, : width - x]
        return image, mpp

    # Plumbing

    def _source_mpp(self, mpp: float) -> float:
        units.downsample(mpp, self.mpp0)  # what is finer than the scan is refused, however little detail is let through
        return source_mpp(mpp, self.detail_mpp)

    def close(self) -> None:
        """Close the file. Reading again reopens it."""
        self._scan.close()
        if self._jpeg is not None:
            self._jpeg.close()
        _cache.drop(self._token)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size_px0
        return f"<Slide {self.path.name}: {width} x {height} px at {self.mpp0:g} um/px, read by {self.reader}>"

    def __getstate__(self):
        return self.__dict__ | {"_token": None, "lost": list(self.lost)}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._token = next(_tokens)

    def _at(self, mpp: float):
        """The level to read for a um/px, and the ratio from its pixels to working pixels."""
        index = self._level_index(mpp)
        d = units.downsample(mpp, self.mpp0)
        level = self._level(index) if self._colours is None else colours.Corrected(self._level(index), self._colours)
        return level, snapped_ratio(d / self.level_downsamples[index])

    def _level(self, index: int):
        if index not in self._levels:
            level = self._jpeg.level(index) if self._jpeg is not None else None
            self._levels[index] = level or _OpenSlideLevel(self._scan, index)
        return self._levels[index]

    def _cached_tile(self, level):
        def tile(column, row):
            return _cache.get((self._token, level.index, column, row), lambda: level.tile(column, row))

        return tile

    def _record(self, mpp: float, lost: list[bands.Lost]) -> None:
        index = self._level_index(mpp)
        d = self.level_downsamples[index]
        for box in lost:
            row = {
                "x_px0": math.floor(box.x * d),
                "y_px0": math.floor(box.y * d),
                "width_px0": math.ceil(box.width * d),
                "height_px0": math.ceil(box.height * d),
                "level": index,
                "reason": box.reason,
            }
            if row not in self.lost:
                self.lost.append(row)
                log.warning("%s: lost %s", self.path.name, row)

    def _error(self, mpp: float, lost: list[bands.Lost]) -> SlideError:
        d = self.level_downsamples[self._level_index(mpp)]
        box = lost[0]
        return SlideError(
            f"{self.path}: the region at level-0 pixel ({box.x * d:g}, {box.y * d:g}), {box.width * d:g} x "
            f"{box.height * d:g} px, cannot be read, also not from a freshly opened file ({box.reason}). The file is "
            "damaged there or out of reach: copy it again from its source, or leave the slide out."
        )


class _OpenSlideLevel:
    """A level read through OpenSlide, in the tiles in which it is stored where these are known."""

    def __init__(self, scan: Scan, index: int):
        self.scan, self.index = scan, index
        self.size_px = scan.level_sizes_px[index]
        native = scan.native_tile_px(index)
        known = native is not None and all(64 <= side <= 1024 for side in native)
        self.tile_px = native if known else (512, 512)
        self._smallest = self.tile_px if known else (128, 128)
        if not all(scan.is_exact(index, i * self.tile_px[0], i * self.tile_px[1]) for i in (1, 7, 64)):
            # OpenSlide interpolates between this level's pixels, across tiles: larger pieces decode less twice.
            self.tile_px = tuple(side * max(1, round(1024 / side)) for side in self.tile_px)

    def tile(self, column: int, row: int, buffer: np.ndarray | None = None) -> tuple[np.ndarray, list[bands.Lost]]:
        width, height = self.tile_px
        image = np.empty((height, width, 3), np.uint8) if buffer is None else buffer
        image[:] = 255
        x, y = column * width, row * height
        lost: list[bands.Lost] = []
        self._into(image, x, y, min(width, self.size_px[0] - x), min(height, self.size_px[1] - y), lost)
        return image, lost

    def _into(self, image, x, y, width, height, lost) -> None:
        """Read a piece of a tile; where that fails, its quarters, down to a stored tile."""
        left, top = x % self.tile_px[0], y % self.tile_px[1]
        try:
            image[top : top + height, left : left + width] = self.scan.read_level(self.index, x, y, width, height)
            return
        except SlideGoneError:
            raise
        except SlideError as error:
            reason = str(error.__cause__ or error)
        if width <= self._smallest[0] and height <= self._smallest[1]:
            lost.append(bands.Lost(x, y, width, height, reason))
            return
        for at_x, at_y in itertools.product(
            _halves(x, width, self._smallest[0]), _halves(y, height, self._smallest[1])
        ):
            self._into(image, at_x[0], at_y[0], at_x[1], at_y[1], lost)


def _halves(start: int, length: int, smallest: int) -> list[tuple[int, int]]:
    """(start, length) of two halves that meet at a multiple of `smallest`; the whole, if no longer than that."""
    if length <= smallest:
        return [(start, length)]
    half = -(-length // smallest) // 2 * smallest
    return [(start, half), (start + half, length - half)]


class _TileCache:
    """Least-recently-used tiles of all slides of this process, limited in bytes."""

    def __init__(self, limit: int):
        self.limit = limit
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.tiles: OrderedDict[tuple, tuple] = OrderedDict()
        self.bytes = 0

    def get(self, key: tuple, make):
        with self.lock:
            if key in self.tiles:
                self.tiles.move_to_end(key)
                return self.tiles[key]
        found = make()
        if not found[1]:  # a lost tile is tried again when it is asked for again
            with self.lock:
                if key not in self.tiles:
                    self.tiles[key] = found
                    self.bytes += found[0].nbytes
                while self.bytes > self.limit:
                    self.bytes -= self.tiles.popitem(last=False)[1][0].nbytes
        return found

    def drop(self, token: int) -> None:
        with self.lock:
            for key in [k for k in self.tiles if k[0] == token]:
                self.bytes -= self.tiles.pop(key)[0].nbytes


_tokens = itertools.count()
_cache = _TileCache(_CACHE_BYTES)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cache.reset)  # the lock may have been held, and memory is dear in workers
