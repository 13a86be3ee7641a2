"""A slide as OpenSlide sees it: its scale, its pyramid, and pixels of a level, with damage kept to one region."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import openslide
from openslide import lowlevel

from tlskit.errors import ParameterError, ScaleError, SlideError, SlideGoneError

__all__ = ["PLAUSIBLE_MPP", "Scan", "find_mpp0"]

log = logging.getLogger(__name__)

#: um/px of level 0 that a scan can have. Below lies no light microscope; above lie the resolution tags of pictures
#: that never saw a scanner (72 dpi is 352.8 um/px, 300 dpi 84.7).
PLAUSIBLE_MPP = (0.05, 20.0)

#: x and y may differ by this much (pixels are then taken as square, at the mean).
ASPECT_TOLERANCE = 0.05

#: Smallest opaque pixel as OpenSlide gives it, a 32-bit number ARGB.
_OPAQUE = 0xFF000000

_UM_PER_UNIT = {"inch": 25400.0, "centimeter": 10000.0}


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
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._forget()
        if not self.path.is_file():
            raise SlideError(f"{self.path}: there is no such slide file. Correct its `slide_path` in the manifest.")
        handle = self._handle()
        self.properties = dict(handle.properties)
        self.level_sizes_px = tuple((int(w), int(h)) for w, h in handle.level_dimensions)
        self._reported = tuple(float(d) for d in handle.level_downsamples)
        self.level_downsamples = tuple(
            _true_downsample(self.level_sizes_px[0], size, reported)
            for size, reported in zip(self.level_sizes_px, self._reported, strict=True)
        )

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level at its own pixel positions, (height, width, 3) uint8 RGB, white where there is nothing.

        Raises
        ------
        SlideError
            If the region cannot be read twice in a row; names file, region and OpenSlide's reason.
        SlideGoneError
            If the file cannot even be opened again.
        """
        reported = self._reported[level]
        at = (round(x * reported), round(y * reported))
        handle = self._handle()
        try:
            return _read_region(handle, at, level, width, height)
        except openslide.OpenSlideError:
            self._replace(handle)
        try:
            fresh = openslide.OpenSlide(self.path)
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideGoneError(
                f"{self.path}: this slide was open and can no longer be opened ({error}): it was moved, replaced, or "
                "is out of reach. Bring it back and run the same command again."
            ) from error
        try:
            with fresh:
                return _read_region(fresh, at, level, width, height)
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{self.path}: cannot read the region at level-0 pixel {at}, {width} x {height} px of level {level}, "
                f"in two attempts ({error}). The file is damaged there or out of reach: copy it again from its source."
            ) from error

    def is_exact(self, level: int, x: int, y: int) -> bool:
        """Whether OpenSlide can be asked for this pixel of a level exactly.

        It is asked in whole level-0 pixels, which it divides by its own downsample; a remainder of more than a few
        hundredths of a pixel makes it interpolate.
        """
        reported = self._reported[level]
        return all(abs(round(v * reported) / reported - v) < 0.02 for v in (x, y))

    def native_tile_px(self, level: int) -> tuple[int, int] | None:
        """Size of the tiles in which a level is stored, where OpenSlide knows it."""
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        sides = [int(self.properties.get(name, 0)) for name in names]
        return tuple(sides) if all(sides) else None

    def icc_profile(self) -> bytes | None:
        """The ICC profile of the slide's pixels, where it has one that OpenSlide knows of."""
        profile = self._handle().color_profile
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
                    self._open = openslide.OpenSlide(self.path)
                except (openslide.OpenSlideError, OSError) as error:
                    raise SlideError(
                        f"{self.path}: OpenSlide cannot open this file ({error}). It is truncated, not a slide, or of "
                        "a format that OpenSlide does not know: copy it again, or convert it to a pyramidal TIFF."
                    ) from error
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


def find_mpp0(scan: Scan, *, mpp_override: float | None, resolution_by: str) -> tuple[float, str]:
    """um/px of level 0 and where it was found: "manifest", "openslide", "tiff" or "objective".

    An override always wins. Then ``resolution_by="mpp"`` asks the slide (its own metadata, then the TIFF resolution
    tags) and never its objective power; ``resolution_by="objective"`` takes 10 / objective power.

    Raises
    ------
    ScaleError
        If there is none, if x and y differ by more than 5 %, or if it is outside `PLAUSIBLE_MPP`.
    """
    name = scan.path.name
    if resolution_by not in ("mpp", "objective"):
        raise ParameterError(f'resolution_by must be "mpp" or "objective", not {resolution_by!r}.')
    if mpp_override is not None and not math.isnan(mpp_override):
        if not (math.isfinite(mpp_override) and mpp_override > 0):
            raise ScaleError(f"{name}: `mpp_override` must be a positive number of um/px, not {mpp_override!r}.")
        return float(mpp_override), "manifest"
    properties = scan.properties
    power = _number(properties.get("openslide.objective-power"))
    if resolution_by == "objective":
        if power is None:
            raise ScaleError(
                f"{name}: the slide states no objective power, which `resolution_by: objective` asks for. Fill the "
                "manifest's column `mpp_override` for this slide."
            )
        return 10.0 / power, "objective"
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    # For a generic TIFF OpenSlide computes um/px from the very same tags.
    source = "tiff" if properties.get("openslide.vendor") == "generic-tiff" else "openslide"
    if x is None or y is None:
        um = _UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
        per_unit = [_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
        if um is None or None in per_unit:
            has_power = f" It states an objective power of {power:g}, which is not a measurement" if power else ""
            remedy = " (`resolution_by: objective` would accept it)." if power else ""
            raise ScaleError(
                f"{name}: the slide states no um/px, neither in its metadata nor in its TIFF resolution tags."
                f"{has_power}{remedy} Fill the manifest's column `mpp_override` for this slide."
            )
        x, y, source = um / per_unit[0], um / per_unit[1], "tiff"
    if abs(x - y) > ASPECT_TOLERANCE * min(x, y):
        raise ScaleError(
            f"{name}: um/px differ by more than {ASPECT_TOLERANCE:.0%} between x ({x:g}) and y ({y:g}), so its pixels "
            "are not square or its metadata are wrong. Fill the manifest's column `mpp_override` if you know it."
        )
    mpp0 = (x + y) / 2
    low, high = PLAUSIBLE_MPP
    if not low <= mpp0 <= high:
        raise ScaleError(
            f"{name}: the slide's {'resolution tags say' if source == 'tiff' else 'metadata say'} {mpp0:g} um/px "
            f"({25400 / mpp0:.0f} dots per inch), outside the {low:g} to {high:g} um/px a scan can have; such values "
            "are print resolutions left behind by another program. Fill the manifest's column `mpp_override`."
        )
    return mpp0, source


def _number(text: str | None) -> float | None:
    """A positive finite number from a property, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _true_downsample(size0: tuple[int, int], size: tuple[int, int], reported: float) -> float:
    """The whole number that a level's size stands for (sizes are rounded), or OpenSlide's ratio of sizes."""
    for whole in (round(reported), 2 ** round(math.log2(max(reported, 1)))):
        if all(s0 // whole <= s <= -(-s0 // whole) for s0, s in zip(size0, size, strict=True)):
            return float(whole)
    return reported


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
