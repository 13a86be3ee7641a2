"""GeoJSON as QuPath writes and reads it, every generation since 0.2."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

from tlskit.errors import AnnotationError
from tlskit.outlines.class_names import tidy
from tlskit.outlines.contents import decoded, no_geojson, not_json
from tlskit.outlines.outline import Annotations, Collector

__all__ = ["parse_geojson"]

_GEOMETRIES = ("Polygon", "MultiPolygon", "LineString", "MultiLineString", "Point", "MultiPoint", "GeometryCollection")

#: QuPath's words for the type of an object, those of 0.2 included. Any other word it reads as an annotation.
_OBJECT_TYPES = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "PathRootObject": "root",
    "TMACoreObject": "tmaCore",
    "tma_core": "tmaCore",
    "unknown": "annotation",
    **{word: word for word in ("annotation", "detection", "tile", "cell", "root", "tmaCore")},
}

#: What QuPath 0.2 wrote as `id` instead of a type.
_OLD_IDS = [word for word in _OBJECT_TYPES if word.endswith("Object")]

#: Keys under which outlines, or what tells of them, stand.
_HOLDERS = (
    "type", "features", "geometry", "geometries", "coordinates", "properties", "classification", "childObjects",
    "children",
)  # fmt: skip

#: Keys of a class that says nothing: QuPath's "no class" with a colour.
_NO_NAME = {"color", "colorRGB"}


def parse_geojson(content: bytes, *, object_types: Sequence[str]) -> Annotations:
    """Areas in a GeoJSON text, found as QuPath finds them.

    A Feature, a FeatureCollection, a geometry (QuPath makes an annotation without class of it), or arrays of these, one
    in the other; the objects inside an object (``childObjects``, ``children``) are objects like it. Objects of other
    types than `object_types`, lines and points are counted in the report.

    Raises
    ------
    AnnotationError
        If anything is met that is none of these: what is not understood may be what was drawn. The message says what
        is wrong, for the reader of the file to put its name before it.
    """
    text = decoded(content)
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except AnnotationError:
        raise
    except RecursionError as error:
        raise AnnotationError("is JSON nested deeper than any GeoJSON") from error
    except ValueError as error:
        raise not_json(text, error) from error
    found = Collector("QuPath GeoJSON")
    try:
        _enter(data, found, object_types)
        found.report["elsewhere"] += _areas_in(data)
    except RecursionError as error:
        raise AnnotationError("has objects nested deeper than any GeoJSON") from error
    return found.finish()


def _once(pairs: list[tuple]) -> dict:
    """An object of JSON, where each key that holds outlines stands once: of two, JSON keeps the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = [key for key in _HOLDERS if keys.count(key) > 1]
        if twice:
            raise AnnotationError(f"holds `{twice[0]}` twice in one object: one of them would be lost. Export it again")
    return value


def _areas_in(value) -> int:
    """Number of polygons and multipolygons that stand anywhere in a JSON value, a cell's nuclei left out."""
    if isinstance(value, list):
        return sum(_areas_in(item) for item in value)
    if not isinstance(value, dict):
        return 0
    if value.get("type") in ("Polygon", "MultiPolygon") and isinstance(value.get("coordinates"), list):
        return 1
    return sum(_areas_in(held) for key, held in value.items() if key not in ("coordinates", "nucleusGeometry"))


def _enter(value, found: Collector, object_types: Sequence[str]) -> None:
    """Collect the objects of whatever GeoJSON stands here."""
    if isinstance(value, list):
        for item in value:
            _enter(item, found, object_types)
            if item == []:
                found.report["notes"].append(f"An empty array stands after object {found.report['objects']}.")
        return
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "FeatureCollection" and isinstance(value.get("features"), list):
        _enter(value["features"], found, object_types)
    elif kind == "Feature" and "geometry" in value:
        _object(value, found, object_types)
    elif isinstance(kind, str) and kind in _GEOMETRIES:
        _object({"geometry": value}, found, object_types)
    else:
        raise no_geojson(value)


def _object(feature: dict, found: Collector, object_types: Sequence[str]) -> None:
    """One object, then those inside it."""
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    kind = _object_type(feature, properties, found)
    if kind != "root":  # QuPath's holder of all the others, without place or class
        found.report["objects"] += 1
        number = found.report["objects"]
        found.report["elsewhere"] -= _areas_in(feature.get("geometry"))
        try:
            _collect(feature.get("geometry"), kind, properties, found, object_types)
        except AnnotationError as error:
            raise AnnotationError(f"has, in object {number}, {error}") from error
    for key in ("childObjects", "children"):
        children = properties.get(key)
        if children is None:
            continue
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
            raise AnnotationError(
                f"has, in object {found.report['objects']}, `{key}` that are no objects: {str(children)[:40]!r}. In "
                "QuPath they would be outlines inside this one; name that property otherwise"
            )
        _enter(children, found, object_types)


def _object_type(feature: dict, properties: dict, found: Collector) -> str:
    word = next((properties[key] for key in ("objectType", "object_type", "type") if properties.get(key)), None)
    if word is None:
        word = feature.get("id") if feature.get("id") in _OLD_IDS else "annotation"
    if str(word) not in _OBJECT_TYPES:
        found.count("other_types", str(word)[:40])
    return _OBJECT_TYPES.get(str(word), "annotation")


def _collect(geometry, kind: str, properties: dict, found: Collector, object_types: Sequence[str]) -> None:
    class_name, color = _classification(properties.get("classification"))
    if kind not in object_types:
        found.count("skipped", f"{kind}: {class_name}" if class_name else kind)
        return
    if geometry is None:
        found.empty(class_name)
        return
    parts: list = []
    other = _parts(geometry, parts)
    if other and not parts:
        found.count("not_areas", f"{other}: {class_name}" if class_name else other)
        return
    if other:
        found.report["notes"].append(f"Object {found.report['objects']} also holds a {other}, which has no area.")
    plane = geometry.get("plane")
    if isinstance(plane, dict) and (plane.get("z") or plane.get("t")):
        found.count("off_plane")
    if properties.get("isEllipse") or geometry.get("isEllipse"):
        found.count("ellipses")
    name = properties.get("name")
    found.area(
        parts,
        class_name=class_name,
        object_type=kind,
        name=name if isinstance(name, str) else "",
        color=color or _color(properties.get("color", properties.get("colorRGB"))),
        measurements=_measurements(properties.get("measurements")),
    )


def _parts(geometry, parts: list) -> str:
    """Add a geometry's polygons (lists of rings) to `parts`; return the type of what is no polygon, or nothing."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if not isinstance(kind, str) or kind not in _GEOMETRIES:
        raise AnnotationError(f"a geometry of the type {kind!r}")
    held = geometry.get("geometries" if kind == "GeometryCollection" else "coordinates")
    if not isinstance(held, list):
        raise AnnotationError(f"a {kind} without coordinates")
    if kind == "GeometryCollection":
        return next((other for other in [_parts(part, parts) for part in held] if other), "")
    if kind not in ("Polygon", "MultiPolygon"):
        return kind
    polygons = [held] if kind == "Polygon" else held
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise AnnotationError(f"a {kind} whose coordinates are no lists of rings")
    parts.extend(polygons)
    return ""


def _classification(value) -> tuple[str | None, tuple[int, int, int] | None]:
    """Name and colour of ``{"name"}``, ``{"names"}``, a plain name, or either of the objects as a string."""
    if isinstance(value, str):
        text = value.strip()
        if not (text.startswith("{") and text.endswith("}") and len(text) < 10_000):
            return tidy(text) or None, None
        # Tables such as geopandas' turn the object into a string: JSON's, or Python's own.
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return text, None
    if value is None:
        return None, None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value), None
    if not isinstance(value, dict):
        raise AnnotationError(f"a classification that is no name: {str(value)[:40]!r}")
    names = _names(value)
    return (tidy(": ".join(names)) if names else None), _color(value.get("color", value.get("colorRGB")))


def _names(value: dict, depth: int = 0) -> list[str]:
    """The names of a class, its ancestors' first: QuPath 0.2 and 0.3 wrote those as ``parentClass``."""
    parent, name, names = value.get("parentClass"), value.get("name"), value.get("names")
    if isinstance(name, (dict, list, bool)) or not isinstance(names, (list, type(None))):
        raise AnnotationError(f"a classification whose name is no text: {str(name or names)[:40]!r}")
    if name is None and names is None and parent is None and not set(value) <= {*_NO_NAME, "name", "names"}:
        raise AnnotationError(f"a classification without a name: it has the keys {', '.join(map(str, value))[:60]}")
    if parent is not None and (not isinstance(parent, dict) or depth > 50):
        raise AnnotationError(f"a classification whose `parentClass` is no class: {str(parent)[:40]!r}")
    own = [str(name)] if name not in (None, "") else [str(n) for n in names or ()]
    return [*(_names(parent, depth + 1) if parent is not None else ()), *own]


def _color(value) -> tuple[int, int, int] | None:
    """``[r, g, b]`` or ``[r, g, b, alpha]``, or the signed 32-bit number of QuPath up to 0.3."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if not (isinstance(value, list) and len(value) in (3, 4)):
        return None
    if not all(isinstance(v, (int, float)) and 0 <= v <= 255 for v in value):
        return None
    return tuple(int(v) for v in value[:3])


def _measurements(value) -> dict[str, float]:
    """An object, or up to QuPath 0.3 a list of ``{"name", "value"}``; NaN and Infinity may be strings."""
    if isinstance(value, list):
        value = {str(m.get("name")): m.get("value") for m in value if isinstance(m, dict)}
    found = {}
    for name, number in value.items() if isinstance(value, dict) else ():
        try:
            found[str(name)] = float(number)
        except (TypeError, ValueError, OverflowError):
            continue
    return found
