"""An outline: its geometry made valid, and what was repaired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import shapely
from shapely.errors import GEOSException
from shapely.geometry import MultiPoint, MultiPolygon, Polygon

from tlskit.errors import AnnotationError
from tlskit.outlines.rasters import polygons_of

__all__ = [
    "SLIVER",
    "UNCLASSIFIED",
    "Annotations",
    "Collector",
    "Outline",
    "Repair",
    "as_area",
    "joined",
]

#: What QuPath calls an object without a class; `read_targets` takes it as a name.
UNCLASSIFIED = "Unclassified"

#: No slide has a side of this many pixels: a coordinate beyond it is no pixel.
_LARGEST_PX0 = 1e8

#: What a repair splits off is dropped below this share of the outline: the loop of a hand that overshot.
SLIVER = 0.02

#: Half the width of what holds together an outline that touches itself.
_BRIDGE_PX0 = 0.05


@dataclass(frozen=True)
class Outline:
    """One area of a file of outlines.

    Attributes
    ----------
    geometry : Polygon or MultiPolygon
        Valid, level-0 px.
    class_name : str or None
        As QuPath shows it (``"TLS"``, ``"TLS: Germinal centre"``); None for an object without a class.
    object_type : str
        ``annotation``, ``detection``, ``tile`` or ``cell``.
    name : str
    color : (int, int, int) or None
        Of the class, or of the object where only that has one.
    measurements : dict of str to float
    number : int
        Place in the file, from 1.
    """

    geometry: Polygon | MultiPolygon
    class_name: str | None = None
    object_type: str = "annotation"
    name: str = ""
    color: tuple[int, int, int] | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    number: int = 0

    @property
    def polygons(self) -> list[Polygon]:
        """The parts of the geometry."""
        return polygons_of(self.geometry)


@dataclass(frozen=True)
class Annotations:
    """What a file holds: `outlines`, and a `report` of what else was met (see `reading.read_annotations`)."""

    outlines: list[Outline]
    report: dict


class Collector:
    """Outlines of a file as they are read, and what was met beside them."""

    def __init__(self, kind: str):
        self.outlines: list[Outline] = []
        self.report = {
            "format": kind, "objects": 0, "areas": 0, "classes": {}, "skipped": {}, "not_areas": {}, "without_area": 0,
            "empty_of": {}, "ellipses": 0, "off_plane": 0, "negatives": 0, "repaired": [], "named_but_unclassified": {},
            "other_types": {}, "elsewhere": 0, "mpp": None, "notes": [],
        }  # fmt: skip

    def count(self, what: str, key: str | None = None) -> None:
        """One more of `what`, or of `key` among `what`."""
        if key is None:
            self.report[what] += 1
        else:
            self.report[what][key] = self.report[what].get(key, 0) + 1

    def empty(self, class_name: str | None) -> None:
        """One more object without area."""
        self.count("without_area")
        self.count("empty_of", class_name or UNCLASSIFIED)

    def area(self, parts: Sequence[Sequence], **attributes) -> None:
        """One more outline, of the rings of its parts."""
        geometry, repair = as_area(parts)
        if geometry is None:
            self.empty(attributes.get("class_name"))
            return
        outline = Outline(geometry, number=self.report["objects"], **attributes)
        if repair is not None:
            self.report["repaired"].append(
                {"number": outline.number, "class_name": outline.class_name or UNCLASSIFIED, **repair._asdict()}
            )
        if outline.class_name is None and outline.name:
            self.count("named_but_unclassified", outline.name)
        self.outlines.append(outline)

    def finish(self) -> Annotations:
        """What was collected, with areas counted by class."""
        self.report["areas"] = len(self.outlines)
        for outline in self.outlines:
            self.count("classes", outline.class_name or UNCLASSIFIED)
        return Annotations(self.outlines, self.report)


class Repair(NamedTuple):
    """What was wrong with a ring, its area (px0) as drawn and as repaired, and the slivers that were dropped."""

    reason: str
    area_before_px0: float
    area_after_px0: float
    slivers: int = 0
    slivers_px0: float = 0.0


def as_area(parts: Sequence[Sequence]) -> tuple[Polygon | MultiPolygon | None, Repair | None]:
    """Rings as they stand in a file to a valid geometry.

    Invalid rings are repaired: what a ring goes round is inside, also where it goes round twice, and holes are taken
    out (GEOS ``make_valid``, structure method). QuPath is no measure here: 0.4 and 0.5 repair such rings in ways of
    their own, with other areas, and from 0.6 on it refuses them. A ring that crosses itself falls into pieces that only
    touch: those below `SLIVER` of it are dropped, the others stay one polygon, as they were drawn.

    Parameters
    ----------
    parts
        One sequence of rings a polygon: the shell, then its holes; each ``(n, 2)`` or more, in level-0 px.

    Returns
    -------
    geometry
        None if nothing has an area.
    repair
        None if nothing was wrong.

    Raises
    ------
    AnnotationError
        If coordinates are no numbers, or far outside any slide. The message is for the reader to complete.
    """
    polygons, dropped, area_before, reasons, slivers = [], 0, 0.0, [], []
    for rings in parts:
        dropped += not rings
        rings = [_ring(ring) for ring in rings]
        dropped += sum(ring is None for ring in rings)
        if not rings or rings[0] is None:
            continue
        shell, *holes = rings
        holes = [hole for hole in holes if hole is not None]
        area_before += max(0.0, _enclosed(shell) - sum(map(_enclosed, holes)))
        polygon = Polygon(shell, holes)
        if polygon.is_valid:
            polygons.append(polygon)
        else:
            reasons.append(_reason(polygon))
            polygons += _mended(polygon, slivers)
    geometry = joined(polygons)
    if geometry is None:
        return None, None
    if not geometry.is_valid:
        reasons.append(_reason(geometry))
        geometry = joined(polygons_of(_valid(geometry)))
    reason = reasons[0] if reasons else "a ring of no area" if dropped else ""
    if not reason:
        return geometry, None
    return geometry, Repair(reason, area_before, geometry.area, len(slivers), float(sum(slivers)))


def _mended(polygon: Polygon, slivers: list[float]) -> list[Polygon]:
    """One polygon of a ring that crosses itself; the areas of what is left out are added to `slivers`."""
    pieces = sorted(polygons_of(_valid(polygon)), key=lambda piece: piece.area, reverse=True)
    least = SLIVER * sum(piece.area for piece in pieces)
    slivers += [piece.area for piece in pieces if piece.area < least]
    whole = [piece for piece in pieces if piece.area >= least]
    if len(whole) < 2:
        return whole
    # The pieces meet at the crossing. A bridge there keeps them the one object that they were drawn as.
    gaps = [shapely.shortest_line(piece, shapely.union_all(whole[:n])) for n, piece in enumerate(whole) if n]
    bridges = [MultiPoint(gap.coords).convex_hull.buffer(_BRIDGE_PX0) for gap in gaps]
    return polygons_of(shapely.union_all([*whole, *bridges]))


def _valid(geometry):
    try:
        return shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    except GEOSException as error:
        raise AnnotationError(f"a ring that cannot be repaired ({error})") from error


def _reason(geometry) -> str:
    return shapely.is_valid_reason(geometry).split("[")[0].strip().lower()


def joined(polygons: Sequence[Polygon]) -> Polygon | MultiPolygon | None:
    """One geometry of several polygons; none of one part in a MultiPolygon, and None of nothing."""
    polygons = [polygon for polygon in polygons if polygon.area > 0]
    if not polygons:
        return None
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _ring(points) -> np.ndarray | None:
    """``(n, 2) float64``; None if it has fewer than three different points."""
    try:
        ring = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError("coordinates that are no list of number pairs") from error
    if ring.size == 0:
        return None
    if ring.ndim != 2 or not 2 <= ring.shape[1] <= 4:
        raise AnnotationError(f"coordinates of the shape {ring.shape} where a ring of points (n, 2) should be")
    ring = ring[:, :2]
    if not np.isfinite(ring).all():
        raise AnnotationError("a coordinate that is not a finite number")
    if np.abs(ring).max() > _LARGEST_PX0:
        raise AnnotationError(f"the coordinate {np.abs(ring).max():g}, which is no pixel of any slide")
    return ring if len(np.unique(ring, axis=0)) >= 3 else None


def _enclosed(ring: np.ndarray) -> float:
    """Area by the shoelace formula, without sign."""
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
