"""Outlines drawn by hand: how they are kept, so that none is lost.

An outline is ``{"rings": [[[x, y], ...], ...], "class": name}``: its outer ring and its holes in level-0 px. A slide's
outlines lie in one GeoJSON, which is read back whenever the slide is shown and written whenever one changes. Two
windows may draw on one slide: what is written is the file as it stands now, without what this window has taken away,
with what it has added (an outline that was changed counts as both). No window writes over the work of another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from shapely.errors import GEOSException
from shapely.geometry import Point, Polygon
from shapely.validation import make_valid

from tlskit.errors import AnnotationError
from tlskit.outlines import UNCLASSIFIED, read_annotations, write_geojson

__all__ = ["as_outline", "at_point", "merged", "polygon_of", "read_drawn", "save_drawn", "tidied"]

#: Seconds to wait for another window that is writing the same file.
_PATIENCE_S = 10


def as_outline(polygon: Polygon, class_name: str) -> dict:
    """A polygon in level-0 px as an outline, its holes included; coordinates with two decimals."""
    rings = [np.asarray(ring.coords)[:-1, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
    return {"rings": rings, "class": class_name}


def polygon_of(outline: dict) -> Polygon:
    """An outline as a polygon in level-0 px; not necessarily valid."""
    outer, *holes = outline["rings"]
    return Polygon(outer, [hole for hole in holes if len(hole) >= 3])


def tidied(outlines: Iterable[dict]) -> list[dict]:
    """Outlines that are valid areas: one that crosses itself becomes its parts, one without area is left out."""
    found = []
    for outline in outlines:
        if not outline["rings"] or len(outline["rings"][0]) < 3:
            continue
        polygon = polygon_of(outline)
        if polygon.is_valid and polygon.area > 0:
            found.append(as_outline(polygon, outline["class"]))
            continue
        shape = make_valid(polygon)
        parts = [part for part in getattr(shape, "geoms", [shape]) if part.geom_type in ("Polygon", "MultiPolygon")]
        parts = [polygon for part in parts for polygon in getattr(part, "geoms", [part])]
        found += [as_outline(part, outline["class"]) for part in parts if part.area > 0]
    return found


def merged(base: Sequence[dict], mine: Sequence[dict], theirs: Sequence[dict]) -> list[dict]:
    """What both windows leave: `mine` without what the other took away, and what the other added.

    Parameters
    ----------
    base
        As this window read or wrote them last.
    mine
        As they stand in this window; their order is kept.
    theirs
        As they stand in the file.
    """
    known, here, there = ({_key(one) for one in some} for some in (base, mine, theirs))
    left = [one for one in mine if _key(one) in there or _key(one) not in known]
    return left + [one for one in theirs if _key(one) not in known and _key(one) not in here]


def read_drawn(path: str | Path, origin_px0: tuple[float, float] = (0.0, 0.0)) -> list[dict]:
    """Outlines of a file; none where there is no file.

    Raises
    ------
    AnnotationError
        If the file cannot be read.
    """
    if not Path(path).is_file():
        return []
    found = []
    for outline in read_annotations(path, origin_px0=origin_px0).outlines:
        found += [as_outline(polygon, outline.class_name or UNCLASSIFIED) for polygon in outline.polygons]
    return found


def save_drawn(
    path: str | Path,
    mine: Sequence[dict],
    base: Sequence[dict],
    origin_px0: tuple[float, float] = (0.0, 0.0),
    about: dict | None = None,
) -> list[dict]:
    """Write outlines over what stands in the file, and return what stands in it now (see `merged`).

    Raises
    ------
    AnnotationError
        If the file that is there cannot be read: it is left as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=_PATIENCE_S):
        try:
            theirs = read_drawn(path, origin_px0)
        except AnnotationError as error:
            raise AnnotationError(f"{error} Nothing was written over it; move it away, then save again.") from error
        both = merged(base, tidied(mine), theirs)
        if path.is_file() and json.dumps(both) == json.dumps(theirs):
            return both
        if both or path.is_file():
            write_geojson(
                path, [polygon_of(one) for one in both], class_name=[one["class"] for one in both],
                origin_px0=origin_px0, about=about,
            )  # fmt: skip
    return both


def at_point(outlines: Sequence[dict], x_px0: float, y_px0: float) -> int:
    """Number of the last outline that holds a place (holes are outside), or -1."""
    point = Point(x_px0, y_px0)
    for number in reversed(range(len(outlines))):
        try:
            if polygon_of(outlines[number]).contains(point):
                return number
        except (GEOSException, ValueError):  # one that is being changed
            continue
    return -1


def _key(outline: dict) -> str:
    """The same for two outlines that are the same: class and rings, wherever a ring begins and however it turns."""
    polygon = polygon_of(outline).normalize()
    rings = [np.asarray(ring.coords)[:, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
    return json.dumps([outline["class"], rings])
