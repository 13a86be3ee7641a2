"""An outline: its geometry made valid, what was repaired, and whether it lies on its slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import shapely
from shapely.errors import GEOSException
from shapely.geometry import MultiPolygon, Polygon

from tlskit.errors import AnnotationError
from tlskit.outlines.rasters import polygons_of

__all__ = [
    "UNCLASSIFIED",
    "Annotations",
    "Collector",
    "Outline",
    "Placement",
    "Repair",
    "as_area",
    "joined",
    "placement",
]

#: What QuPath calls an object without a class; `read_targets` takes it as a name.
UNCLASSIFIED = "Unclassified"

#: No slide has a side of this many pixels: a coordinate beyond it is no pixel.
_LARGEST_PX0 = 1e8

#: An outline that reaches further over the slide's edge than this share of the slide's side is misplaced, not sloppy.
_OVERHANG = 0.02

#: Factors between levels of the pyramids in use.
_USUAL_FACTORS = (2.0, 4.0, 8.0, 10.0, 16.0, 32.0, 40.0, 64.0)


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
            "ellipses": 0, "off_plane": 0, "negatives": 0, "repaired": [], "named_but_unclassified": {}, "mpp": None,
            "notes": [],
        }  # fmt: skip

    def count(self, what: str, key: str | None = None) -> None:
        """One more of `what`, or of `key` among `what`."""
        if key is None:
            self.report[what] += 1
        else:
            self.report[what][key] = self.report[what].get(key, 0) + 1

    def area(self, parts: Sequence[Sequence], **attributes) -> None:
        """One more outline, of the rings of its parts."""
        geometry, repair = as_area(parts)
        if geometry is None:
            self.count("without_area")
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
    """What was wrong with a ring, and the area (px0) as drawn and as repaired."""

    reason: str
    area_before_px0: float
    area_after_px0: float


class Placement(NamedTuple):
    """Where outlines lie on a slide; see `placement`."""

    kind: str
    inside: int
    crossing: int
    outside: int
    overhang_px0: float
    reason: str


def as_area(parts: Sequence[Sequence]) -> tuple[Polygon | MultiPolygon | None, Repair | None]:
    """Rings as they stand in a file to a valid geometry.

    Invalid rings are repaired as QuPath does on import: what a ring goes round is inside, also where it goes round
    twice, and holes are taken out (GEOS ``make_valid``, structure method).

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
    polygons, dropped, area_before = [], 0, 0.0
    for rings in parts:
        rings = [_ring(ring) for ring in rings]
        dropped += sum(ring is None for ring in rings)
        if not rings or rings[0] is None:
            continue
        shell, *holes = rings
        holes = [hole for hole in holes if hole is not None]
        area_before += max(0.0, _enclosed(shell) - sum(map(_enclosed, holes)))
        polygons.append(Polygon(shell, holes))
    if not polygons:
        return None, None
    geometry = polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
    reason = "a ring of no area" if dropped else ""
    if not geometry.is_valid:
        reason = shapely.is_valid_reason(geometry).split("[")[0].strip().lower()
        try:
            geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
        except GEOSException as error:
            raise AnnotationError(f"a ring that cannot be repaired ({error})") from error
    geometry = joined(polygons_of(geometry))
    if geometry is None:
        return None, None
    return geometry, Repair(reason, area_before, geometry.area) if reason else None


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


def placement(
    polygons: Sequence[Polygon | MultiPolygon],
    *,
    size_px0: tuple[int, int],
    mpp0: float,
    level_downsamples: Sequence[float] = (),
    bounds_px0: tuple[int, int, int, int] | None = None,
) -> Placement:
    """Whether outlines lie on their slide, and if not, the likely reason.

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
        Left, top, width and height of the scanned part, where a format has room around it.

    Returns
    -------
    Placement
        ``kind`` is ``inside``; ``edge`` (some reach over the slide's edge a little: harmless); ``level`` (they fit
        when divided by a pyramid's factor); ``um`` (they fit when divided by um/px); ``bounds`` (they fit when
        moved by the scan's offset); ``turned`` (they fit when width and height are exchanged); or ``other``.
        ``reason`` is a sentence, empty for ``inside``.
    """
    boxes = shapely.bounds(np.asarray(polygons, dtype=object)).reshape(-1, 4)
    if not len(boxes):
        return Placement("inside", 0, 0, 0, 0.0, "")
    width, height = size_px0
    over = np.maximum(np.maximum(-boxes[:, :2], boxes[:, 2:] - (width, height)), 0)
    outside = int(((boxes[:, :2] >= (width, height)) | (boxes[:, 2:] <= 0)).any(axis=1).sum())
    crossing = int((over > 0.5).any(axis=1).sum()) - outside
    counts = (len(boxes) - outside - crossing, crossing, outside, float(over.max()))
    if not outside and not crossing:
        return Placement("inside", *counts, "")
    if not outside and (over <= np.maximum(4, _OVERHANG * np.array(size_px0))).all():
        text = f"Outlines over the slide's edge: {crossing}, by up to {over.max():.0f} px; that part is not used."
        return Placement("edge", *counts, text)
    kind, text = _misplaced(boxes, size_px0, mpp0, level_downsamples, bounds_px0)
    counted = f"Outside the slide ({width} x {height} px): {outside} of {len(boxes)} outlines, and {crossing} in part"
    return Placement(kind, *counts, f"{counted}; {text}")


def _misplaced(boxes, size_px0, mpp0, level_downsamples, bounds_px0) -> tuple[str, str]:
    """Kind and likely reason of outlines that lie outside."""
    box = np.array([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)])
    if bounds_px0 is not None and any(bounds_px0[:2]):
        for sign, text in ((-1, "the slide's corner"), (1, "the scanned part's corner")):
            if _fits(box + sign * np.array([*bounds_px0[:2]] * 2), size_px0):
                return "bounds", (
                    f"they would fit if moved by the scan's offset {tuple(bounds_px0[:2])}: the file counts from "
                    f"{text} and was read as if from the other."
                )
    factors = sorted({*_USUAL_FACTORS, *(f for f in level_downsamples if f > 1.01)})
    factor = next((f for f in factors if _fits(box / f, size_px0)), None)
    if mpp0 > 1.02 and _fits(box / mpp0, size_px0) and (factor is None or mpp0 <= factor * 1.02):
        return "um", (
            f"they would fit if divided by {mpp0:g}, the slide's um/px: the file seems to be in um instead of pixels. "
            "Export pixel coordinates."
        )
    if _fits(box[[1, 0, 3, 2]], size_px0):
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


def _fits(box: np.ndarray, size_px0: tuple[int, int]) -> bool:
    slack = np.maximum(4, _OVERHANG / 2 * np.array(size_px0))
    return bool((box[:2] >= -slack).all() and (box[2:] <= size_px0 + slack).all())
