"""Outlines that fit the picture better turned, turned over or scaled: other programs' frames, recognised by the pixels.

Outlines in um, of a rotated copy, or with y counted from below often lie inside the slide all the same. Two things in
the thumbnail tell: bare glass, and how much darker or paler a target is than the ring around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from shapely.affinity import affine_transform
from shapely.geometry import Polygon

from tlskit.outlines import rasterise

__all__ = ["Doubt", "doubt"]

#: Glass is brighter than this in every channel.
GLASS = 225

#: Share of the outlines' area on glass from which they are doubted.
_MOST_GLASS = 0.5

#: Contrast (differences in grey, in standard deviations of the tissue) of outlines that say nothing, of a frame that
#: is believed instead, and by how much it must exceed the other.
_NO_CONTRAST, _CONTRAST, _MORE = 0.4, 0.8, 0.6

#: Fewer pixels of the thumbnail say nothing.
_FEWEST_PX = 30


class Doubt(NamedTuple):
    """Why outlines may be in another frame."""

    what: str
    remedy: str


def doubt(polygons: Sequence[Polygon], slide, image: np.ndarray, mpp: float) -> Doubt | None:
    """Whether the pixels speak against where outlines lie, and for which other frame.

    Parameters
    ----------
    polygons
        Of the target, level-0 px.
    slide : slides.Slide
    image, mpp
        Its thumbnail ``(H, W, 3) uint8``, and that one's um/px.

    Returns
    -------
    Doubt or None
    """
    look = _Look(image, mpp, slide.mpp0)
    glass, contrast = look.at(polygons)
    if math.isnan(glass):
        return None
    best = None
    for text, remedy, matrix in _frames(slide):
        moved = [affine_transform(polygon, matrix) for polygon in polygons]
        other_glass, other_contrast = look.at(moved)
        if not _inside(moved, slide.size_px0) or math.isnan(other_contrast) or other_glass > 0.1:
            continue
        if best is None or abs(other_contrast) > abs(best[0]):
            best = other_contrast, text, remedy
    enough = best is not None and abs(best[0]) >= _CONTRAST
    if glass > _MOST_GLASS:
        what = f"{glass:.0%} of the targets' area is bare glass."
        if enough:
            return Doubt(f"{what} {_fitting(best)}", best[2])
        return Doubt(what, "They may belong to another slide, or be shifted; look at both in QuPath.")
    contrast = 0.0 if math.isnan(contrast) else abs(contrast)
    if enough and contrast < _NO_CONTRAST and abs(best[0]) > contrast + _MORE:
        return Doubt(
            f"The targets do not differ from what is around them (contrast {contrast:.2f}). {_fitting(best)}", best[2]
        )
    return None


def _fitting(best: tuple) -> str:
    return f"They would fit the picture {best[1]} (contrast {abs(best[0]):.2f})."


def _frames(slide) -> Iterator[tuple[str, str, list[float]]]:
    """Other frames that outlines may be in: in words, what to do, and the matrix to the slide's own (a, b, d, e, x, y).

    Of what was scanned: that is what QuPath turns.
    """
    left, top, width, height = (float(v) for v in slide.bounds_px0)
    d = 1 / slide.mpp0
    turned = "Export them from the image as it was scanned, without a rotation in QuPath."
    if abs(d - 1) > 0.02:
        yield (
            f"if they are in um (divided by {slide.mpp0:.4g})", "Export pixel coordinates, not um.",
            [d, 0, 0, d, left * (1 - d), top * (1 - d)],
        )  # fmt: skip
    yield (
        "with y counted from below", "Write y from the upper edge down.", [1, 0, 0, -1, 0, 2 * top + height],
    )  # fmt: skip
    yield "turned by 180 degrees", turned, [-1, 0, 0, -1, 2 * left + width, 2 * top + height]
    # A point (u, v) of the scan turned clockwise is (v, height - u) of the scan, counted from its corner.
    yield "turned by 90 degrees", turned, [0, 1, -1, 0, left - top, top + height + left]
    yield "turned by 270 degrees", turned, [0, -1, 1, 0, left + width + top, top - left]
    if left or top:
        remedy = "Say in the manifest's column `outline_origin` from where the file counts: scan, or slide."
        yield "if they count from the slide's corner", remedy, [1, 0, 0, 1, -left, -top]
        yield "if they count from the scan's corner", remedy, [1, 0, 0, 1, left, top]


def _inside(polygons: Sequence[Polygon], size_px0: tuple[int, int]) -> bool:
    left, top, right, bottom = shapely.total_bounds(np.asarray(polygons, dtype=object))
    return left >= -4 and top >= -4 and right <= size_px0[0] + 4 and bottom <= size_px0[1] + 4


class _Look:
    """A thumbnail, asked for glass and contrast at some polygons."""

    def __init__(self, image: np.ndarray, mpp: float, mpp0: float):
        self.grey = image.mean(axis=2)
        self.glass = image.min(axis=2) > GLASS
        self.spread = float(self.grey[~self.glass].std()) if (~self.glass).any() else 0.0
        self.mpp, self.mpp0 = mpp, mpp0

    def at(self, polygons: Sequence[Polygon]) -> tuple[float, float]:
        """Share of bare glass, and contrast to the ring around; nan where there are too few pixels to say."""
        inside = self._drawn(polygons)
        if np.count_nonzero(inside) < _FEWEST_PX:
            return math.nan, math.nan
        glass = float(self.glass[inside].mean())
        wider = self._drawn([polygon.buffer(0.5 * math.sqrt(polygon.area / math.pi)) for polygon in polygons])
        ring, inside = wider & ~inside & ~self.glass, inside & ~self.glass
        if min(np.count_nonzero(ring), np.count_nonzero(inside)) < _FEWEST_PX or not self.spread:
            return glass, math.nan
        return glass, float(self.grey[ring].mean() - self.grey[inside].mean()) / self.spread

    def _drawn(self, polygons: Sequence[Polygon]) -> np.ndarray:
        height, width = self.grey.shape
        return rasterise(polygons, x_px=0, y_px=0, width_px=width, height_px=height, mpp=self.mpp, mpp0=self.mpp0)
