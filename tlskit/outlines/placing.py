"""Whether outlines lie on their slide, and if not, the likely reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

__all__ = ["Placement", "limits", "placement"]

#: An outline that reaches further over the slide's edge than this share of the slide's side is misplaced, not sloppy.
_OVERHANG = 0.02

#: Factors between levels of the pyramids in use.
_USUAL_FACTORS = (2.0, 4.0, 8.0, 10.0, 16.0, 32.0, 40.0, 64.0)


class Placement(NamedTuple):
    """Where outlines lie on a slide; see `placement`."""

    kind: str
    inside: int
    crossing: int
    outside: int
    overhang_px0: float
    reason: str


def limits(
    size_px0: tuple[int, int], bounds_px0: tuple[int, int, int, int] | None = None
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what was scanned: a slide's `bounds_px0` where it has such, else all of it."""
    if bounds_px0 is None:
        return 0.0, 0.0, float(size_px0[0]), float(size_px0[1])
    left, top, width, height = map(float, bounds_px0)
    return left, top, left + width, top + height


def placement(
    polygons: Sequence[Polygon | MultiPolygon],
    *,
    size_px0: tuple[int, int],
    mpp0: float,
    level_downsamples: Sequence[float] = (),
    bounds_px0: tuple[int, int, int, int] | None = None,
) -> Placement:
    """Whether outlines lie on what was scanned of their slide, and if not, the likely reason.

    Parameters
    ----------
    polygons
        In what should be level-0 px.
    size_px0
        Width and height of the slide.
    mpp0
        um/px of level 0.
    level_downsamples
        Of the slide's pyramid.
    bounds_px0
        Left, top, width and height of the scanned part, where a format has room around it: that is the limit then.

    Returns
    -------
    Placement
        ``kind`` is ``inside``; ``edge`` (some reach over the edge a little: harmless); ``level`` (they fit when divided
        by a pyramid's factor); ``um`` (they fit when divided by um/px); ``bounds`` (they fit when moved by the scan's
        offset); ``flipped`` (they fit when y changes its sign); ``turned`` (they fit when width and height are
        exchanged); or ``other``. ``reason`` is a sentence, empty for ``inside``.
    """
    boxes = shapely.bounds(np.asarray(polygons, dtype=object)).reshape(-1, 4)
    if not len(boxes):
        return Placement("inside", 0, 0, 0, 0.0, "")
    limit = np.array(limits(size_px0, bounds_px0))
    size = limit[2:] - limit[:2]
    over = np.maximum(np.maximum(limit[:2] - boxes[:, :2], boxes[:, 2:] - limit[2:]), 0)
    outside = int(((boxes[:, :2] >= limit[2:]) | (boxes[:, 2:] <= limit[:2])).any(axis=1).sum())
    crossing = int((over > 0.5).any(axis=1).sum()) - outside
    counts = (len(boxes) - outside - crossing, crossing, outside, float(over.max()))
    if not outside and not crossing:
        return Placement("inside", *counts, "")
    if not outside and (over <= np.maximum(4, _OVERHANG * size)).all():
        text = f"Outlines over the slide's edge: {crossing}, by up to {over.max():.0f} px; that part is not used."
        return Placement("edge", *counts, text)
    kind, text = _misplaced(boxes, limit, mpp0, level_downsamples)
    where = f"the slide ({size_px0[0]} x {size_px0[1]} px)"
    if (limit[:2] > 0).any() or (limit[2:] < size_px0).any():
        left, top, width, height = (int(v) for v in (*limit[:2], *size))
        where = f"the scanned part of the slide ({width} x {height} px from {left}, {top} on)"
    counted = f"Outside {where}: {outside} of {len(boxes)} outlines, and {crossing} in part"
    return Placement(kind, *counts, f"{counted}; {text}")


def _misplaced(boxes: np.ndarray, limit: np.ndarray, mpp0: float, level_downsamples) -> tuple[str, str]:
    """Kind and likely reason of outlines that lie outside."""
    box = np.array([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)])
    offset = limit[:2]
    if offset.any():
        for sign, text in ((-1, "the slide's corner"), (1, "the scanned part's corner")):
            if _fits(box + sign * np.array([*offset] * 2), limit):
                named = tuple(int(v) for v in offset)
                return "bounds", (
                    f"they would fit if moved by the scan's offset {named}: the file counts from {text} and was read "
                    f"as if from the other. Say so in the manifest's column `outline_origin` (slide, or scan)."
                )
    # What follows is a relation of the file's own numbers, which count from the scan's corner.
    own, size = box - [*offset] * 2, np.array([0, 0, *(limit[2:] - offset)])
    factors = sorted({*_USUAL_FACTORS, *(f for f in level_downsamples if f > 1.01)})
    factor = next((f for f in factors if _fits(own / f, size)), None)
    if mpp0 > 1.02 and _fits(own / mpp0, size) and (factor is None or mpp0 <= factor * 1.02):
        return "um", (
            f"they would fit if divided by {mpp0:g}, the slide's um/px: the file seems to be in um instead of pixels. "
            "Export pixel coordinates."
        )
    if _fits(own[[0, 3, 2, 1]] * [1, -1, 1, -1], size):
        return "flipped", (
            "they would fit with y turned over: the file counts y from the top down to minus the height, as maps and "
            "plots do (QGIS, R terra, geopandas). Change the sign of y."
        )
    if _fits(own[[1, 0, 3, 2]], size):
        return "turned", (
            "they would fit if width and height were exchanged: the slide was turned after they were drawn, or they "
            "belong to another one."
        )
    if factor is not None:
        return "level", (
            f"they would fit if divided by {factor:g}: they may be drawn on a copy of the slide with {factor:g} times "
            "as many pixels along a side, or on another, larger slide. Draw or export them on this file."
        )
    return "other", (
        "no scale or offset makes them fit: the file seems to belong to another slide. Correct `annotation_path`."
    )


def _fits(box: np.ndarray, limit: np.ndarray) -> bool:
    slack = np.maximum(4, _OVERHANG / 2 * (limit[2:] - limit[:2]))
    return bool((box[:2] >= limit[:2] - slack).all() and (box[2:] <= limit[2:] + slack).all())
