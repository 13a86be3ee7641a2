"""A slide's outlines as a mask, band by band: gigapixel masks are never whole in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon, box

from tlskit.errors import ParameterError
from tlskit.outlines.rasters import polygons_of
from tlskit.outlines.reading import rasterise, read_annotations, targets_of, without_ignored

__all__ = ["IGNORED", "Truth", "read_truth"]

#: Value of a mask's pixel that counts neither as target (1) nor as background (0).
IGNORED = 255


class Truth:
    """The polygons of one slide, rasterised where they are asked for.

    Parameters
    ----------
    polygons
        Of the target, in level-0 px.
    mpp0
        um per level-0 px.
    ignored
        Areas that count neither as target nor as background, in level-0 px. They are cut out of the target.

    Attributes
    ----------
    polygons, ignored : list of Polygon
        The target without what is ignored, and that.
    """

    def __init__(self, polygons: Sequence[Polygon], *, mpp0: float, ignored: Sequence[Polygon] = ()):
        self.ignored = list(ignored)
        self.polygons = _cut_out(polygons, self.ignored) if self.ignored else list(polygons)
        self.mpp0 = float(mpp0)
        self._bounds, self._ignored_bounds = (
            np.array([p.bounds for p in some], np.float64).reshape(-1, 4) for some in (self.polygons, self.ignored)
        )

    @property
    def area_mm2(self) -> float:
        """Area of the union of the polygons."""
        return float(shapely.union_all(self.polygons).area) * (self.mpp0 / 1000) ** 2 if self.polygons else 0.0

    def without(self, boxes_px: Sequence[tuple[int, int, int, int]], *, mpp: float) -> Truth:
        """The same with some rectangles (x, y, width, height in working px at `mpp`) ignored, too."""
        d = mpp / self.mpp0
        boxes = [box(x * d, y * d, (x + w) * d, (y + h) * d) for x, y, w, h in boxes_px]
        return Truth(self.polygons, mpp0=self.mpp0, ignored=[*self.ignored, *boxes]) if boxes else self

    def at(
        self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float, only: int | None = None
    ) -> np.ndarray:
        """Mask of a rectangle of the working lattice at `mpp`, ``(height_px, width_px) bool``.

        `only` is the number of a polygon to draw alone.
        """
        chosen = slice(None) if only is None else slice(only, only + 1)
        return self._drawn(self.polygons[chosen], self._bounds[chosen], x_px, y_px, width_px, height_px, mpp)

    def ignored_at(self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float) -> np.ndarray:
        """Mask of what is ignored in a rectangle, ``(height_px, width_px) bool``."""
        return self._drawn(self.ignored, self._ignored_bounds, x_px, y_px, width_px, height_px, mpp)

    def coded_at(self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float) -> np.ndarray:
        """Both in one, ``(height_px, width_px) uint8``: 1 target, 0 background, `IGNORED`."""
        mask = self.at(x_px, y_px, width_px, height_px, mpp=mpp).view(np.uint8)
        if self.ignored:
            mask[self.ignored_at(x_px, y_px, width_px, height_px, mpp=mpp)] = IGNORED
        return mask

    def _drawn(self, polygons, bounds_px0, x_px, y_px, width_px, height_px, mpp) -> np.ndarray:
        mask = np.zeros((height_px, width_px), bool)
        x0, y0, x1, y1 = (bounds_px0 / (mpp / self.mpp0)).T
        hit = (x1 > x_px) & (x0 < x_px + width_px) & (y1 > y_px) & (y0 < y_px + height_px)
        # One polygon at a time, each in its own box: a slide is nearly all background.
        for n in np.flatnonzero(hit):
            left, top = max(x_px, math.floor(x0[n])), max(y_px, math.floor(y0[n]))
            right, bottom = min(x_px + width_px, math.ceil(x1[n])), min(y_px + height_px, math.ceil(y1[n]))
            if left < right and top < bottom:
                mask[top - y_px : bottom - y_px, left - x_px : right - x_px] |= rasterise(
                    [polygons[n]], x_px=left, y_px=top, width_px=right - left, height_px=bottom - top,
                    mpp=mpp, mpp0=self.mpp0,
                )  # fmt: skip
        return mask


def read_truth(
    row,
    slide,
    target_class: str | Sequence[str],
    *,
    ignore_class: str | Sequence[str] | None = None,
    missing: str = "error",
) -> Truth:
    """The outlines of one slide of a cohort, in its level-0 px.

    Parameters
    ----------
    row
        Of the manifest (`cohort.slide_rows`).
    slide : slides.Slide
        It says where QuPath counts pixels from.
    target_class, missing
        Of `reading.read_targets`.
    ignore_class
        Class(es) whose area counts neither as target nor as background; empty or None for none. Where such an area and
        a target overlap, the area wins.

    Raises
    ------
    AnnotationError
        As `reading.read_targets`.
    ParameterError
        If a class is to be target and ignored.
    """
    names = [{name} if isinstance(name, str) else set(name or ()) for name in (target_class, ignore_class or ())]
    if both := names[0] & names[1]:
        raise ParameterError(f"{sorted(both)[0]!r} is in `target_class` and in `ignore_class`: take it out of one.")
    found = read_annotations(row.annotation_path, origin_px0=slide.bounds_px0[:2])
    rest, ignored = without_ignored(found, ignore_class)
    targets = targets_of(rest, target_class, missing=missing, path=row.annotation_path)
    return Truth(targets, mpp0=slide.mpp0, ignored=ignored)


def _cut_out(polygons: Sequence[Polygon], areas: Sequence[Polygon]) -> list[Polygon]:
    gone = shapely.union_all(areas)
    left = (polygon.difference(gone) if polygon.intersects(gone) else polygon for polygon in polygons)
    return [part for geometry in left for part in polygons_of(geometry) if part.area > 0]
