"""Outlines drawn by hand, as shapes: cut, joined, compared, and merged with those of another window.

An outline is ``{"rings": [[[x, y], ...], ...], "class": name}``: its outer ring and its holes in level-0 px. One that
QuPath has written may also have ``name``, ``color``, and ``measurements`` with the ``shape`` that they were measured
of. None is ever changed in place: one that is corrected is another one. A list of thousands comes from the browser at
every change of one; those that are known already are the same objects then (`interned`), and nothing is computed of
them again. How they are kept in a file: `drawn_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from shapely.errors import GEOSException
from shapely.geometry import Point, Polygon
from shapely.validation import make_valid

__all__ = [
    "Drawn",
    "as_outline",
    "at_point",
    "cut_out",
    "difference",
    "interned",
    "joined_at",
    "merged",
    "nearest",
    "polygon_of",
    "stepped",
    "tidied",
]

#: What else an outline may have, of another program.
_EXTRAS = ("name", "color", "measurements", "shape")


class Drawn(dict):
    """An outline of which polygon, parts and keys are computed once, because it never changes.

    Attributes
    ----------
    line : (str, (float, float)) or None
        Of the file that it was read from, and the origin that was added to it (`drawn_files`).
    """

    line: tuple[str, tuple[float, float]] | None = None

    @cached_property
    def polygon(self) -> Polygon:
        outer, *holes = self["rings"]
        return Polygon(outer, [hole for hole in holes if len(hole) >= 3])

    @cached_property
    def parts(self) -> list[Drawn]:
        """Itself where it is a valid area; else its parts, or none."""
        if not self["rings"] or len(self["rings"][0]) < 3:
            return []
        if self.polygon.is_valid and self.polygon.area > 0:
            one = as_outline(self.polygon, self["class"], self)
            return [self if one == self else one]
        shape = make_valid(self.polygon)
        parts = [part for part in getattr(shape, "geoms", [shape]) if part.geom_type in ("Polygon", "MultiPolygon")]
        polygons = [polygon for part in parts for polygon in getattr(part, "geoms", [part])]
        return [as_outline(polygon, self["class"], self) for polygon in polygons if polygon.area > 0]

    @cached_property
    def key(self) -> tuple:
        """The same for two that are the same: class and rings, wherever a ring begins and however it turns."""
        outer, *holes = (_turned(ring) for ring in self["rings"])
        return self["class"], outer, *sorted(holes)

    @cached_property
    def as_it_stands(self) -> tuple:
        """Class and rings to the last decimal."""
        return self["class"], *(np.asarray(ring, np.float64).tobytes() for ring in self["rings"])


def _drawn(outline: Mapping) -> Drawn:
    return outline if isinstance(outline, Drawn) else Drawn(outline)


def interned(outlines: Iterable[Mapping], known: Iterable[Mapping]) -> list[Drawn]:
    """Outlines, of which those that are known are the known ones."""
    by_corner: dict[tuple, list] = {}
    for one in known:
        by_corner.setdefault(_corner(one), []).append(one)
    found = []
    for outline in outlines:
        same = (one for one in by_corner.get(_corner(outline), ()) if one is outline or one == outline)
        found.append(_drawn(next(same, outline)))
    return found


def _corner(outline: Mapping) -> tuple:
    rings = outline["rings"]
    return outline["class"], len(rings), *(rings[0][0] if rings and rings[0] else ())


def as_outline(polygon: Polygon, class_name: str, like: Mapping | None = None) -> Drawn:
    """A polygon in level-0 px as an outline, its holes included; coordinates with two decimals.

    `like` is an outline whose name, colour and measurements it takes over.
    """
    rings = [np.asarray(ring.coords)[:-1, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
    return Drawn({"rings": rings, "class": class_name} | extras(like or {}))


def extras(outline: Mapping) -> dict:
    """What another program has written of an outline."""
    return {name: outline[name] for name in _EXTRAS if outline.get(name)}


def polygon_of(outline: Mapping) -> Polygon:
    """An outline as a polygon in level-0 px; not necessarily valid."""
    return _drawn(outline).polygon


def tidied(outlines: Iterable[Mapping]) -> list[Drawn]:
    """Outlines that are valid areas: one that crosses itself becomes its parts, one without area is left out."""
    return [part for outline in outlines for part in _drawn(outline).parts]


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


def nearest(outlines: Sequence[dict], number: int) -> tuple[str, float] | None:
    """Class of the outline that is nearest to one of them, and the gap between the two in level-0 px; None alone."""
    shape = polygon_of(outlines[number]).buffer(0)
    gaps = [(shape.distance(polygon_of(one).buffer(0)), one["class"]) for n, one in enumerate(outlines) if n != number]
    gap, name = min(gaps, default=(0.0, ""))
    return (name, gap) if gaps else None


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
    known = {_drawn(one).key for one in base}
    here = [_drawn(one).key for one in mine]  # lists: who draws one outline twice has two
    there = [_drawn(one).key for one in theirs]
    written = dict(zip(there, theirs, strict=True))

    def newer(one: Mapping, other: Mapping) -> Mapping:
        # What another program wrote beside an outline that nobody moved is newer in the file.
        return other if one["rings"] == other["rings"] else Drawn(other | {"rings": one["rings"]})

    left = [
        newer(one, written[key]) if key in written else one
        for key, one in zip(here, mine, strict=True)
        if key in written or key not in known
    ]
    drawn = set(here)
    return left + [one for key, one in zip(there, theirs, strict=True) if key not in known and key not in drawn]


def difference(old: Sequence[dict], new: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """Outlines that were added and those that are gone, each as it stands to the last decimal."""
    before, after = ({_drawn(one).as_it_stands: one for one in some} for some in (old, new))
    return ([after[key] for key in after if key not in before], [before[key] for key in before if key not in after])


def stepped(outlines: Sequence[dict], *, added: Sequence[dict], gone: Sequence[dict]) -> list[dict]:
    """Outlines after a difference; what is there already is not added again."""
    left = {_drawn(one).key for one in gone}
    found = {key: one for one in outlines if (key := _drawn(one).key) not in left}
    return list((found | {_drawn(one).key: one for one in added}).values())


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
