"""Outlines drawn by hand: how they are kept, so that none is lost.

An outline is ``{"rings": [[[x, y], ...], ...], "class": name}``: its outer ring and its holes in level-0 px. One that
QuPath has written may also have ``name``, ``color``, and ``measurements`` with the ``shape`` that they were measured
of: they are kept, and those of a shape that was changed since are called so. A slide's outlines lie in one GeoJSON,
which is read back whenever the slide is shown and written whenever one changes; points and lines in it stay as they
are. Two windows may draw on one slide: what is written is the file as it stands now, without what this window has taken
away, with what it has added (an outline that was changed counts as both). No window writes over the work of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from shapely.errors import GEOSException
from shapely.geometry import Point, Polygon
from shapely.validation import make_valid

from tlskit.errors import AnnotationError
from tlskit.outlines import UNCLASSIFIED, read_annotations, write_geojson

__all__ = [
    "as_outline",
    "at_point",
    "cut_out",
    "difference",
    "joined_at",
    "merged",
    "polygon_of",
    "read_drawn",
    "save_drawn",
    "stepped",
    "tidied",
]

#: What else an outline may have, of another program.
_EXTRAS = ("name", "color", "measurements", "shape")

#: Before the name of a measurement whose outline was changed by hand since.
EARLIER = "before the correction: "

#: Of a class whose colour nobody has chosen.
_RED = (200, 0, 0)

#: Seconds to wait for another window that is writing the same file.
_PATIENCE_S = 10


def as_outline(polygon: Polygon, class_name: str, like: Mapping | None = None) -> dict:
    """A polygon in level-0 px as an outline, its holes included; coordinates with two decimals.

    `like` is an outline whose name, colour and measurements it takes over.
    """
    rings = [np.asarray(ring.coords)[:-1, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
    return {"rings": rings, "class": class_name} | _extras(like or {})


def _extras(outline: Mapping) -> dict:
    return {name: outline[name] for name in _EXTRAS if outline.get(name)}


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
            found.append(as_outline(polygon, outline["class"], outline))
            continue
        shape = make_valid(polygon)
        parts = [part for part in getattr(shape, "geoms", [shape]) if part.geom_type in ("Polygon", "MultiPolygon")]
        parts = [polygon for part in parts for polygon in getattr(part, "geoms", [part])]
        found += [as_outline(part, outline["class"], outline) for part in parts if part.area > 0]
    return found


def cut_out(outlines: Sequence[dict], ring: Sequence[Sequence[float]]) -> tuple[list[dict], int]:
    """Outlines without what lies inside a ring, and how many of them it touched."""
    hole, found, touched = Polygon(ring).buffer(0), [], 0
    for outline in outlines:
        polygon = polygon_of(outline).buffer(0)
        if hole.area == 0 or not polygon.intersection(hole).area:
            found.append(outline)
            continue
        touched += 1
        found += [as_outline(part, outline["class"], outline) for part in _parts(polygon.difference(hole))]
    return found, touched


def joined_at(outlines: Sequence[dict], number: int) -> tuple[list[dict], int]:
    """Outlines with one of them and all that overlap or touch it as one, last, and how many became that one."""
    whole, left = polygon_of(outlines[number]).buffer(0), [one for n, one in enumerate(outlines) if n != number]
    joined, changed = 1, True
    while changed:  # what was added may touch others
        changed = False
        for one in list(left):
            polygon = polygon_of(one).buffer(0)
            both = whole.union(polygon)
            if whole.intersects(polygon) and both.geom_type == "Polygon":
                whole, joined, changed = both, joined + 1, True
                left.remove(one)
    return [*left, as_outline(whole, outlines[number]["class"], outlines[number])], joined


def _parts(shape) -> list[Polygon]:
    parts = getattr(shape, "geoms", [shape])
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]


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
    known = {_key(one) for one in base}
    here = [_key(one) for one in mine]  # lists: who draws one outline twice has two
    there = [_key(one) for one in theirs]
    written = dict(zip(there, theirs, strict=True))
    # What another program wrote beside an outline that nobody moved is newer in the file.
    left = [
        written[key] | {"rings": one["rings"]} if key in written else one
        for key, one in zip(here, mine, strict=True)
        if key in written or key not in known
    ]
    drawn = set(here)
    return left + [one for key, one in zip(there, theirs, strict=True) if key not in known and key not in drawn]


def difference(old: Sequence[dict], new: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """Outlines that were added and those that are gone, each as it stands to the last decimal."""
    before, after = ({_as_it_stands(one): one for one in some} for some in (old, new))
    return ([after[key] for key in after if key not in before], [before[key] for key in before if key not in after])


def stepped(outlines: Sequence[dict], *, added: Sequence[dict], gone: Sequence[dict]) -> list[dict]:
    """Outlines after a difference; what is there already is not added again."""
    left = {_key(one) for one in gone}
    found = {key: one for one in outlines if (key := _key(one)) not in left}
    return list((found | {_key(one): one for one in added}).values())


def _as_it_stands(outline: dict) -> tuple:
    return outline["class"], *(np.asarray(ring, np.float64).tobytes() for ring in outline["rings"])


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
        of_whole = "of the whole object: " if len(outline.polygons) > 1 else ""
        like = {"name": outline.name, "color": list(outline.color) if outline.color not in (None, _RED) else []}
        like["measurements"] = {f"{of_whole}{name}": value for name, value in outline.measurements.items()}
        for polygon in outline.polygons:
            one = as_outline(polygon, outline.class_name or UNCLASSIFIED, like)
            found.append(one | ({"shape": _shape(one)} if "measurements" in one else {}))
    return found


def _shape(outline: dict) -> str:
    polygon = polygon_of(outline).normalize()
    rings = [np.asarray(ring.coords)[:, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
    return hashlib.sha256(json.dumps(["", rings]).encode()).hexdigest()[:16]


def _measurements(outline: dict) -> dict[str, float]:
    """Measurements as they are to be written: those of an earlier shape say so."""
    values = outline.get("measurements", {})
    if not values or outline.get("shape") == _shape(outline):
        return values
    return {name if name.startswith(EARLIER) else f"{EARLIER}{name}": value for name, value in values.items()}


def _not_areas(path: Path) -> list[dict]:
    """Points and lines that stand in a file: they are no outlines, and stay as they are."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if 'Point"' in text or 'LineString"' in text else []
    except (OSError, ValueError):
        return []
    features = data if isinstance(data, list) else data.get("features", []) if isinstance(data, dict) else []
    kinds = ("Point", "MultiPoint", "LineString", "MultiLineString")
    return [one for one in features if isinstance(one, dict) and (one.get("geometry") or {}).get("type") in kinds]


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
        if path.is_file() and [_whole(one) for one in both] == [_whole(one) for one in theirs]:
            return both
        if both or path.is_file():
            write_geojson(
                path, [polygon_of(one) for one in both], class_name=[one["class"] for one in both],
                origin_px0=origin_px0, about=about, object_names=[one.get("name", "") for one in both],
                color=_colors(both), measurements=[_measurements(one) for one in both], others=_not_areas(path),
            )  # fmt: skip
    return both


def _colors(outlines: Sequence[dict]) -> dict[str, tuple[int, int, int]]:
    colors = {one["class"]: _RED for one in outlines}
    return colors | {one["class"]: tuple(one["color"]) for one in outlines if one.get("color")}


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


def _key(outline: dict) -> tuple:
    """The same for two outlines that are the same: class and rings, wherever a ring begins and however it turns."""
    outer, *holes = (_turned(ring) for ring in outline["rings"])
    return outline["class"], outer, *sorted(holes)


def _whole(outline: dict) -> tuple:
    return _key(outline), _extras(outline)


def _turned(ring: Sequence) -> bytes:
    """A ring from its first corner from the left, anticlockwise; to two decimals."""
    points = np.asarray(ring, np.float64).round(2) + 0.0  # no negative zero
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    x, y = points.T
    if np.dot(x[:-1], y[1:]) + x[-1] * y[0] < np.dot(y[:-1], x[1:]) + y[-1] * x[0]:
        points = points[::-1]
    first = np.lexsort(points.T[::-1])[0]
    return np.concatenate([points[first:], points[:first]]).tobytes()
