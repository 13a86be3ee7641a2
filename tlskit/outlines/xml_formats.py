"""Outlines in XML: ASAP, Aperio ImageScope, and HALO, which writes the same layers and regions in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import shapely
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from tlskit.errors import AnnotationError
from tlskit.outlines.outline import Annotations, Collector, Outline, as_area, joined
from tlskit.outlines.rasters import polygons_of

__all__ = ["NEGATIVE_GROUPS", "parse_xml"]

#: Names by which ASAP groups are taken for holes: CAMELYON16's "_2" and "Exclusion", and plain words.
NEGATIVE_GROUPS = ("_2", "exclusion", "exclude", "hole", "holes", "negative")

_ASAP_AREAS = ("Polygon", "Rectangle", "Spline")
_IMAGESCOPE_KINDS = {"0": "Polygon", "1": "Rectangle", "2": "Ellipse", "3": "Arrow", "4": "Ruler", "5": "Points"}
_HALO_AREAS = ("Polygon", "Rectangle", "Ellipse")


def parse_xml(content: bytes, *, negative_groups: Sequence[str] = NEGATIVE_GROUPS) -> Annotations:
    """Areas in a file of ASAP, ImageScope or HALO. Dots, arrows and rulers are counted in the report.

    Parameters
    ----------
    content
        The file. One that declares a document type is refused: no program writes one, and entities are how a small
        file grows to fill the memory, or reads another file.
    negative_groups
        Names (upper or lower case) of ASAP groups whose areas are cut out of all others. A group with an attribute
        ``negative`` of value 1, true or yes is one, too.

    Raises
    ------
    AnnotationError
        The message says what is wrong, for the reader of the file to put its name before it.
    """
    try:
        root = ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise AnnotationError(
            "declares a document type or entities, which no annotation program writes and which can be an attack. "
            "Remove the <!DOCTYPE ...> part if you trust the file"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise AnnotationError(f"is no XML ({error}); it may be cut off. Export it again") from error
    if root.tag == "ASAP_Annotations":
        found = _asap(root, negative_groups)
        found.report["elsewhere"] = _rings_beside(root, "Annotations/Annotation/Coordinates", ("Coordinate",))
        return found
    if root.tag == "Annotations":
        found = _imagescope(root)
        found.report["elsewhere"] = _rings_beside(root, "Annotation/Regions/Region/Vertices", ("Vertex", "V"))
        return found
    raise AnnotationError(
        f"is XML of neither ASAP (<ASAP_Annotations>) nor ImageScope or HALO (<Annotations>): it begins with "
        f"<{root.tag[:60]}>"
    )


def _rings_beside(root: Element, place: str, points: tuple[str, ...]) -> int:
    """Number of elements that hold points (with an x and a y, in any case), but at another place or of other names."""
    read = {id(ring) for ring in root.iterfind(place) if any(point.tag in points for point in ring)}
    return sum(
        id(element) not in read and any({"x", "y"} <= {name.lower() for name in point.keys()} for point in element)
        for element in root.iter()
    )  # fmt: skip


def _asap(root: Element, negative_groups: Sequence[str]) -> Annotations:
    found = Collector("ASAP XML")
    words = {name.lower() for name in negative_groups}
    groups = {group.get("Name", ""): group for group in root.iterfind("AnnotationGroups/Group")}

    def negative(name: str, depth: int = 0) -> bool:
        group = groups.get(name)
        if name.lower() in words or (group is not None and _declared_negative(group)):
            return True
        return group is not None and depth < 20 and negative(group.get("PartOfGroup", "None"), depth + 1)

    cuts = []
    for item in root.iterfind("Annotations/Annotation"):
        found.report["objects"] += 1
        kind, name = item.get("Type", "Polygon"), item.get("PartOfGroup", "None")
        class_name = None if name in ("None", "") else name
        if kind not in _ASAP_AREAS:
            found.count("not_areas", f"{kind}: {class_name}" if class_name else kind)
            continue
        points = sorted(item.iterfind("Coordinates/Coordinate"), key=_order)
        ring = _in_object(found, _ring, points)
        if kind == "Spline" and not found.report["notes"]:
            found.report["notes"].append("Splines are read as the polygon through their points.")
        if negative(name):
            cuts += _in_object(found, _cut, found, ring)
            continue
        attributes = {"class_name": class_name, "name": item.get("Name", ""), "color": _hex(item.get("Color"))}
        _in_object(found, found.area, [[ring]], **attributes)
    found.outlines = _without(found.outlines, cuts)
    # ASAP numbers every outline ("Annotation 0"): such names say nothing of a missing class.
    found.report["named_but_unclassified"] = {}
    return found.finish()


def _imagescope(root: Element) -> Annotations:
    halo = any(region.get("Type", "0") in _HALO_AREAS for region in root.iterfind("Annotation/Regions/Region"))
    found = Collector("HALO XML" if halo else "ImageScope XML")
    found.report["mpp"] = _number(root.get("MicronsPerPixel"))
    kept: list[Outline] = []
    for layer in root.iterfind("Annotation"):
        class_name, color = _layer_name(layer), _line_color(layer.get("LineColor"))
        cuts = []
        for region in layer.iterfind("Regions/Region"):
            found.report["objects"] += 1
            code = region.get("Type", "0")
            kind = code if code in _HALO_AREAS else _IMAGESCOPE_KINDS.get(code, f"type {code[:20]}")
            if kind not in ("Polygon", "Rectangle", "Ellipse"):
                found.count("not_areas", f"{kind}: {class_name}" if class_name else kind)
                continue
            ring = _in_object(found, _ring, region.findall("Vertices/Vertex") or region.findall("Vertices/V"))
            if kind == "Ellipse":
                found.count("ellipses")
                ring = _ellipse(ring)
            elif kind == "Rectangle" and len(ring) == 2:
                (x0, y0), (x1, y1) = ring
                ring = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
            if region.get("NegativeROA", "0") == "1":
                cuts += _in_object(found, _cut, found, ring)
            else:
                _in_object(found, found.area, [[ring]], class_name=class_name, color=color, name=region.get("Text", ""))
        kept += _without(found.outlines, cuts)
        found.outlines = []
    found.outlines = kept
    return found.finish()


def _in_object(found: Collector, do: Callable, *arguments, **named):
    """Call `do`; an error says in which object of the file it arose."""
    try:
        return do(*arguments, **named)
    except AnnotationError as error:
        raise AnnotationError(f"has, in object {found.report['objects']}, {error}") from error


def _cut(found: Collector, ring) -> list:
    found.count("negatives")
    geometry, _ = as_area([[ring]])
    return [] if geometry is None else [geometry]


def _without(outlines: list[Outline], cuts: list) -> list[Outline]:
    """Outlines less the areas of `cuts`; one that is cut away wholly is left out."""
    if not cuts:
        return outlines
    hole = shapely.union_all(cuts)
    rest = []
    for outline in outlines:
        geometry = joined(polygons_of(outline.geometry.difference(hole)))
        if geometry is not None:
            rest.append(Outline(geometry, **{k: v for k, v in vars(outline).items() if k != "geometry"}))
    return rest


def _declared_negative(group: Element) -> bool:
    return any(
        item.get("Name", "").lower() == "negative" and item.get("Value", "").lower() in ("1", "true", "yes")
        for item in group.iterfind("Attributes/Attribute")
    )


def _order(point: Element) -> float:
    return _number(point.get("Order")) or 0.0


def _ring(points: Sequence[Element]) -> list[tuple[float, float]]:
    ring = [(_number(point.get("X")), _number(point.get("Y"))) for point in points]
    if any(None in pair for pair in ring):
        raise AnnotationError("a vertex whose X or Y is no number")
    return ring


def _number(text: str | None) -> float | None:
    """Some programs write the decimal sign of the computer's language."""
    try:
        return float((text or "").replace(",", "."))
    except ValueError:
        return None


def _ellipse(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """ImageScope stores an ellipse as the corners of its box. The polygon has the ellipse's area."""
    if len(corners) < 2:
        return []
    corners = np.asarray(corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    swell = np.sqrt(2 * np.pi / (len(angle) * np.sin(2 * np.pi / len(angle))))
    around = np.column_stack([np.cos(angle), np.sin(angle)])
    return list(map(tuple, (low + high) / 2 + swell * (high - low) / 2 * around))


def _layer_name(layer: Element) -> str | None:
    """A layer's own name; else its attribute's, unless that is ImageScope's empty "Description"."""
    if layer.get("Name"):
        return layer.get("Name")
    for item in layer.iterfind("Attributes/Attribute"):
        name, value = item.get("Name", ""), item.get("Value", "")
        if name and name != "Description":
            return name
        if value:
            return value
    return None


def _hex(text: str | None) -> tuple[int, int, int] | None:
    try:
        return tuple(bytes.fromhex((text or "").lstrip("#"))[:3]) if len(text or "") == 7 else None
    except ValueError:
        return None


def _line_color(text: str | None) -> tuple[int, int, int] | None:
    """ImageScope counts blue first."""
    if not (text or "").isdecimal() or len(text) > 10:
        return None
    value = int(text)
    return value & 255, (value >> 8) & 255, (value >> 16) & 255
