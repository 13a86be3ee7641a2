"""Pixels of a whole-slide image at any um/px: a region, a stream of windows, a thumbnail.

Every pixel is that of the slide's *working lattice* (`tlskit.units`), averaged over its exact area from the pyramid
level just finer than asked; so a tile read alone, cut out of a band, or read in another process is the same, bit for
bit.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tlskit import units
from tlskit.errors import SlideError
from tlskit.slides import bands, colours, jpegs
from tlskit.slides.detail import coarse_read, coarse_windows, source_mpp
from tlskit.slides.directories import read_directories
from tlskit.slides.levels import open_level
from tlskit.slides.pyramid import Pyramid, say_once
from tlskit.slides.readers import open_scan
from tlskit.slides.resample import snapped_ratio
from tlskit.slides.scale import find_mpp0, positive_number
from tlskit.slides.tilecache import cache, tokens

__all__ = ["Slide", "open_slide"]

log = logging.getLogger(__name__)

#: A level may be this much coarser than asked and still count as fitting.
_LEVEL_TOLERANCE = 1e-3


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
        Any file that OpenSlide opens, an OME-TIFF or an OME-Zarr.
    mpp_override : float, optional
        um/px of level 0, from the manifest; None and nan mean that the slide's own is taken.
    resolution_by : "mpp" or "objective"
        Take the scale from um/px (see `tlskit.slides.scale.find_mpp0`), or as 10 / objective power.
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
        If the file is missing, no slide, or not 8-bit colour; whatever its reader throws.
    ScaleError
        If its um/px is missing or impossible.
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
    mpp_source : "manifest", "openslide", "ome", "tiff" or "objective"
        Where `mpp0` was found.
    doubts : list of str
        Sentences, with figures: what contradicts `mpp0`, and which levels are not read and why. Levels are judged when
        they are first asked for.
    objective_power : float or None
    icc_profile : str
        Description of the profile by which colours are corrected; empty where they are left as scanned.
    apply_icc : bool
        Whether they were to be corrected.
    detail_mpp : float
        um/px beyond which detail is averaged away; 0 where none is.
    vendor : str
    level_downsamples : tuple of float
    reader : "jpeg", "openslide", "ome-tiff" or "ome-zarr"
        What decodes level 0; see `reader_for`.
    lost : list of dict
        Regions that could not be read so far: x_px0, y_px0, width_px0, height_px0 (level-0 pixels), level, reason.
    properties : dict of str to str
        What OpenSlide knows of the slide.
    """

    def __init__(self, path, *, mpp_override=None, resolution_by="mpp", apply_icc=False, detail_mpp=0.0, fast=True):
        self.path = Path(path)
        self._scan = open_scan(path)
        self.properties = self._scan.properties
        self.vendor = self.properties.get("openslide.vendor", "")
        plain = self.vendor in jpegs.VENDORS
        directories = read_directories(self.path) if plain or self.vendor == "ome-tiff" else []
        if plain:
            self._scan.believe(directories)
            colours.refuse_grey(self._scan, directories)
        scale = find_mpp0(self._scan, mpp_override=mpp_override, resolution_by=resolution_by, directories=directories)
        self.mpp0, self.mpp_source, self._scale_doubts = scale
        self.objective_power = positive_number(self.properties.get("openslide.objective-power"))
        self.lost: list[dict] = []
        self._jpeg = jpegs.open_jpeg_tiles(self._scan, directories) if fast else None
        self._levels: dict[int, object] = {}
        self._chosen: dict[float, int] = {}
        sizes, downsamples = self._scan.level_sizes_px, self._scan.level_downsamples
        tiles = [self._scan.native_tile_px(i) for i in range(len(sizes))]
        self._pyramid = Pyramid(self.path, sizes, downsamples, tiles, self._scan.refused)
        self.size_px0 = sizes[0]
        self.level_downsamples = tuple(self._pyramid.downsamples)
        self.bounds_px0 = _bounds(self.properties, self.size_px0)
        self.apply_icc = apply_icc
        self.detail_mpp = detail_mpp or 0.0
        if not 0 <= self.detail_mpp < math.inf:
            raise ValueError(f"detail_mpp should be 0 or a number of um/px, not {detail_mpp!r}.")
        self._colours = colours.of_slide(self._scan) if apply_icc else None
        self.icc_profile = self._colours.name if self._colours else ""
        self._token = next(tokens)
        self.reader = self.reader_for(self.mpp0)
        for doubt in self._scale_doubts:
            say_once(f"{self.path.name}: {doubt}")

    @property
    def doubts(self) -> list[str]:
        return [*self._scale_doubts, *self._pyramid.left_out.values()]

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
        if mpp not in self._chosen:
            self._chosen[mpp] = self._choose_level(mpp)
        return self._chosen[mpp]

    def _choose_level(self, mpp: float) -> int:
        d = units.downsample(mpp, self.mpp0)
        fitting = [i for i, have in enumerate(self.level_downsamples) if have <= d * (1 + _LEVEL_TOLERANCE)]
        fitting.sort(key=lambda i: self.level_downsamples[i], reverse=True)
        return next((i for i in fitting if self._pyramid.usable(i, self._level)), 0)

    def reader_for(self, mpp: float) -> str:
        """What decodes the level read for a um/px."""
        return "jpeg" if isinstance(self._level(self.level_for(mpp)), jpegs.JpegLevel) else self._scan.name

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
        cache.drop(self._token)

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
        self._token = next(tokens)

    def _at(self, mpp: float):
        """The level to read for a um/px, and the ratio from its pixels to working pixels."""
        index = self._level_index(mpp)
        d = units.downsample(mpp, self.mpp0)
        level = self._level(index) if self._colours is None else colours.Corrected(self._level(index), self._colours)
        return level, snapped_ratio(d / self.level_downsamples[index])

    def _level(self, index: int):
        """A level; None where it cannot be read as it is stored."""
        if index not in self._levels:
            level = self._jpeg.level(index) if self._jpeg is not None else None
            size = self._pyramid.sizes_px[index]
            if level is not None:
                level.size_px = size
            self._levels[index] = level or open_level(self._scan, index, size)
        return self._levels[index]

    def _cached_tile(self, level):
        def tile(column, row):
            return cache.get((self._token, level.index, column, row), lambda: level.tile(column, row))

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


def _bounds(properties: dict[str, str], size_px0: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a slide that holds the scan, as far as it says so and says what can be."""
    edges = [properties.get(f"openslide.bounds-{side}", "") for side in ("x", "y", "width", "height")]
    if not all(edge.isdecimal() for edge in edges):
        return 0, 0, *size_px0
    x, y, width, height = map(int, edges)
    inside = width and height and x + width <= size_px0[0] and y + height <= size_px0[1]
    return (x, y, width, height) if inside else (0, 0, *size_px0)
