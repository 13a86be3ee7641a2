"""Magnification, um/px and pixels: the only place with arithmetic between them.

Words. ``mpp`` is um per pixel at the working magnification, ``mpp0`` um per level-0 pixel, and
``d = mpp / mpp0`` the level-0 pixels along one working pixel. The *working lattice* of a slide has its origin at
the slide's top-left corner: working pixel (i, j) covers level-0 ``[i d, (i + 1) d) x [j d, (j + 1) d)``.
"""

from __future__ import annotations

import math

import numpy as np

from tlskit.errors import ScaleError

__all__ = [
    "FINER_TOLERANCE",
    "area_mm2",
    "counted",
    "downsample",
    "lattice_size",
    "magnification_for_mpp",
    "magnification_name",
    "minutes_text",
    "mpp_for_magnification",
    "px0_to_px",
    "px_to_px0",
]

#: Asking for this much more resolution than was scanned is still allowed (scanners are a few per cent off their
#: nominal um/px); beyond it, pixels would be invented.
FINER_TOLERANCE = 0.05

#: um/px times magnification: 10x is 1 um/px by convention.
UM_PER_PX_AT_1X = 10.0


def mpp_for_magnification(magnification: float) -> float:
    """um/px at a magnification: 10 / magnification (20x 0.5, 10x 1.0, 4x 2.5, 1x 10.0)."""
    if not (isinstance(magnification, (int, float)) and math.isfinite(magnification) and magnification > 0):
        raise ScaleError(f"A magnification must be a positive number such as 20, 10, 4 or 1, not {magnification!r}.")
    return UM_PER_PX_AT_1X / magnification


def magnification_for_mpp(mpp: float) -> float:
    """Magnification at a um/px: 10 / mpp."""
    return UM_PER_PX_AT_1X / mpp


def magnification_name(magnification: float) -> str:
    """``20`` -> ``"20x"``, ``2.5`` -> ``"2.5x"``: the name of an arm's folder and of a row in a table."""
    return f"{magnification:g}x"


def minutes_text(minutes: float) -> str:
    """A duration as one says it: ``1.5`` -> ``"1.5 min"``, ``0.5`` -> ``"30 s"``, ``0.0135`` -> ``"0.81 s"``."""
    return f"{minutes:.1f} min" if minutes >= 0.995 else f"{minutes * 60:.2g} s"


def counted(number: float | str, one: str, several: str = "") -> str:
    """A number of things as one says it: ``1 slide``, ``12 slides``; the number may be a range in words."""
    number = number if isinstance(number, str) else f"{number:.12g}"
    return f"{number} {one if number == '1' else several or one + 's'}"


def downsample(mpp: float, mpp0: float) -> float:
    """Level-0 pixels along one working pixel, ``mpp / mpp0``.

    Raises
    ------
    ScaleError
        If `mpp` is more than 5 % finer than the scan.
    """
    d = mpp / mpp0
    if d < 1 - FINER_TOLERANCE:
        raise ScaleError(
            f"Asked for {mpp:g} um/px ({magnification_for_mpp(mpp):g}x) of a slide scanned at {mpp0:g} um/px "
            f"({magnification_for_mpp(mpp0):.3g}x): that resolution was never recorded. Ask for "
            f"{magnification_for_mpp(mpp0):.3g}x or lower, or correct the slide's `mpp_override`."
        )
    return d


def lattice_size(size_px0: tuple[int, int], mpp0: float, mpp: float) -> tuple[int, int]:
    """Width and height of a slide in working pixels, rounded half up, at least 1."""
    d = downsample(mpp, mpp0)
    return tuple(max(1, math.floor(side / d + 0.5)) for side in size_px0)


def px_to_px0(position_px, mpp: float, mpp0: float):
    """Working pixels to level-0 pixels (float64; exact on the lattice)."""
    return np.asarray(position_px, dtype=np.float64) * (mpp / mpp0)


def px0_to_px(position_px0, mpp: float, mpp0: float):
    """Level-0 pixels to the nearest working pixel (int64)."""
    return np.rint(np.asarray(position_px0, dtype=np.float64) / (mpp / mpp0)).astype(np.int64)


def area_mm2(area_px: float, mpp: float) -> float:
    """Area of a number of pixels in mm2."""
    return area_px * (mpp / 1000.0) ** 2
