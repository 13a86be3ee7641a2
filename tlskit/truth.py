"""A slide's outlines as a mask, band by band: gigapixel masks are never whole in memory."""

from __future__ import annotations

import math

import numpy as np
import shapely

from tlskit import annotations

__all__ = ["Truth"]


class Truth:
    """The polygons of one slide, rasterised where they are asked for.

    Parameters
    ----------
    polygons
        Of the target, in level-0 px.
    mpp0
        um per level-0 px.
    """

    def __init__(self, polygons: list, *, mpp0: float):
        self.polygons = list(polygons)
        self.mpp0 = float(mpp0)
        self._bounds = np.array([p.bounds for p in self.polygons], np.float64).reshape(-1, 4)

    @property
    def area_mm2(self) -> float:
        """Area of the union of the polygons."""
        return float(shapely.union_all(self.polygons).area) * (self.mpp0 / 1000) ** 2 if self.polygons else 0.0

    def at(
        self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float, only: int | None = None
    ) -> np.ndarray:
        """Mask of a rectangle of the working lattice at `mpp`, ``(height_px, width_px) bool``.

        `only` is the number of a polygon to draw alone.
        """
        mask = np.zeros((height_px, width_px), bool)
        d = mpp / self.mpp0
        x0, y0, x1, y1 = (self._bounds / d).T
        numbers = np.arange(len(self.polygons)) if only is None else np.array([only])
        hit = (x1 > x_px) & (x0 < x_px + width_px) & (y1 > y_px) & (y0 < y_px + height_px)
        numbers = numbers[hit[numbers]]
        # One polygon at a time, each in its own box: a slide is nearly all background.
        for n in numbers:
            left, top = max(x_px, math.floor(x0[n])), max(y_px, math.floor(y0[n]))
            right, bottom = min(x_px + width_px, math.ceil(x1[n])), min(y_px + height_px, math.ceil(y1[n]))
            if left < right and top < bottom:
                mask[top - y_px : bottom - y_px, left - x_px : right - x_px] |= annotations.rasterise(
                    [self.polygons[n]], x_px=left, y_px=top, width_px=right - left, height_px=bottom - top,
                    mpp=mpp, mpp0=self.mpp0,
                )  # fmt: skip
        return mask
