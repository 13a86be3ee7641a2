"""GeoJSON as QuPath writes it, every generation since 0.2, and GeoJSON that QuPath opens."""

from __future__ import annotations

import ast
import gzip
import json
import math
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from tlskit.errors import AnnotationError
from tlskit.files import writing
from tlskit.outlines.outline import Annotations, Collector, joined
from tlskit.outlines.rasters import polygons_of

__all__ = ["parse_geojson", "write_geojson"]

_GEOMETRIES = ("Polygon", "MultiPolygon", "LineString", "MultiLineString", "Point", "MultiPoint", "GeometryCollection")

#: What QuPath 0.2 wrote as `id` instead of a type.
_OLD_TYPES = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "PathRootObject": "root",
    "TMACoreObject": "tmaCore",
}

#: The same outlines written twice get the same ids: files can be compared, and QuPath recognises an object.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tlskit")

#: Decimals of written coordinates. QuPath writes 2, which changes the area of a square of 10 px by up to 0.1 %.
_DECIMALS = 8


def parse_geojson(content: bytes, *, object_types: Sequence[str]) -> Annotations:
    """Areas in a GeoJSON text: a FeatureCollection, an array of Features, one Feature, or a naked geometry.

    Objects of other types than `object_types`, lines and points are counted in the report.

    Raises
    ------
    AnnotationError
        The message says what is wrong, for the reader of the file to put its name before it.
    """
    try:
        data = json.loads(content)
    except RecursionError as error:
        raise AnnotationError("is JSON nested deeper than any GeoJSON") from error
    except ValueError as error:
        raise AnnotationError(f"is no JSON ({error}); it may be cut off. Export it from QuPath again") from error
    found = Collector("QuPath GeoJSON")
    for feature in _features(data):
        found.report["objects"] += 1
        try:
            _collect(feature, found, object_types)
        except AnnotationError as error:
            raise AnnotationError(f"has, in object {found.report['objects']}, {error}") from error
        except RecursionError as error:
            raise AnnotationError("has geometries nested deeper than any GeoJSON") from error
    return found.finish()


def _features(data) -> list:
    if isinstance(data, list):
        return data
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "FeatureCollection" and isinstance(data.get("features"), list):
        return data["features"]
    if kind == "Feature":
        return [data]
    if kind in _GEOMETRIES:
        return [{"geometry": data}]
    held = f"an object with the keys {list(data)[:5]}" if isinstance(data, dict) else f"a {type(data).__name__}"
    raise AnnotationError(
        f"is JSON but no GeoJSON: it holds {held}. In QuPath: File > Export objects as GeoJSON, as FeatureCollection"
    )


def _collect(feature, found: Collector, object_types: Sequence[str]) -> None:
    if not isinstance(feature, dict):
        raise AnnotationError(f"a {type(feature).__name__} where a Feature should be")
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    class_name, color = _classification(properties.get("classification"))
    kind = properties.get("objectType") or properties.get("object_type") or _OLD_TYPES.get(str(feature.get("id")))
    kind = str(kind or "annotation")
    if kind not in object_types:
        found.count("skipped", f"{kind}: {class_name}" if class_name else kind)
        return

    geometry = feature.get("geometry")
    if geometry is None:
        found.count("without_area")
        return
    parts: list = []
    other = _parts(geometry, parts)
    if other and not parts:
        found.count("not_areas", f"{other}: {class_name}" if class_name else other)
        return
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
    if kind not in _GEOMETRIES:
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
            return value or None, None
        # Tables such as geopandas' turn the object into a string: JSON's, or Python's own.
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return text, None
    if not isinstance(value, dict):
        return (str(value), None) if isinstance(value, (int, float)) else (None, None)
    name, names = value.get("name"), value.get("names")
    if isinstance(names, list) and names and not isinstance(name, str):
        name = ": ".join(map(str, names))
    return (str(name) if name else None), _color(value.get("color", value.get("colorRGB")))


def _color(value) -> tuple[int, int, int] | None:
    """``[r, g, b]``, or the signed 32-bit number of QuPath up to 0.3."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value >> 16) & 255, (value >> 8) & 255, value & 255
    if not (isinstance(value, list) and len(value) == 3):
        return None
    if not all(isinstance(v, (int, float)) and 0 <= v <= 255 for v in value):
        return None
    return tuple(int(v) for v in value)


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


def write_geojson(
    path: str | Path,
    polygons: Sequence[Polygon | MultiPolygon],
    *,
    class_name: str | Sequence[str],
    color: tuple[int, int, int] | Mapping[str, tuple[int, int, int]] = (200, 0, 0),
    measurements: Sequence[Mapping[str, float]] | None = None,
    object_type: str = "annotation",
    origin_px0: tuple[float, float] = (0.0, 0.0),
    about: Mapping[str, object] | None = None,
) -> Path:
    """Write outlines as GeoJSON that QuPath (0.4 and later) opens by drag and drop.

    Parameters
    ----------
    path
        Ends in ``.geojson`` or ``.json``, or in ``.gz`` to be compressed. Written under a temporary name, then renamed.
    polygons
        In level-0 px. Invalid ones are repaired; parts without area are left out.
    class_name
        Of all, or one each.
    color
        RGB of all, or of each class.
    measurements
        One mapping a polygon, such as ``{"area um2": 5400.0}``. What is not finite is left out.
    object_type
        ``annotation``; ``detection`` is better for thousands.
    origin_px0
        Subtracted from every coordinate: a slide's ``bounds_px0[:2]``, because QuPath counts from there.
    about
        What made the outlines (network, threshold): the member ``tlskit`` of the collection, which other readers pass
        over.

    Returns
    -------
    Path

    Notes
    -----
    Coordinates have 8 decimals and not QuPath's 2: the corners of a 1x pixel lie on no hundredth of a level-0 pixel,
    and areas must survive the way out and back to 1e-6. Ids are made from the content, so the same outlines give the
    same file.
    """
    path = Path(path)
    names = [class_name] * len(polygons) if isinstance(class_name, str) else list(class_name)
    if len(names) != len(polygons) or (measurements is not None and len(measurements) != len(polygons)):
        raise ValueError("There should be one class name and one set of measurements for each polygon.")
    seen: Counter = Counter()
    lines = []
    for number, (geometry, name) in enumerate(zip(polygons, names, strict=True)):
        geometry = _as_written(geometry, origin_px0)
        if geometry is None:
            continue
        key = f"{object_type} {name} {shapely.to_wkb(geometry, hex=True)}"
        seen[key] += 1
        properties = {
            "objectType": object_type,
            "classification": {"name": name, "color": list(color[name] if isinstance(color, Mapping) else color)},
        }
        if measurements is not None:
            values = {str(k): float(v) for k, v in measurements[number].items()}
            properties["measurements"] = {k: v for k, v in values.items() if math.isfinite(v)}
        feature = {
            "type": "Feature", "id": str(uuid.uuid5(_NAMESPACE, f"{key} {seen[key]}")), "geometry": None,
            "properties": properties,
        }  # fmt: skip
        text = json.dumps(feature, ensure_ascii=False)
        lines.append(text.replace('"geometry": null', f'"geometry": {shapely.to_geojson(geometry)}', 1))
    made = f'"tlskit": {json.dumps(dict(about), ensure_ascii=False)}, ' if about else ""
    text = '{"type": "FeatureCollection", ' + made + '"features": [\n' + ",\n".join(lines) + "\n]}\n"
    content = text.encode("utf-8")
    with writing(path) as temporary:
        # Without the time of day, so that the same outlines give the same bytes.
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def _as_written(geometry, origin_px0: tuple[float, float]) -> Polygon | MultiPolygon | None:
    """Moved, rounded, valid; one polygon not in a MultiPolygon; None if nothing is left."""
    origin = np.asarray(origin_px0, dtype=float)
    moved = shapely.transform(shapely.force_2d(geometry), lambda xy: xy - origin)
    rounded = shapely.transform(moved, lambda xy: np.round(xy, _DECIMALS))
    geometry = rounded if rounded.is_valid else shapely.make_valid(moved, method="structure", keep_collapsed=False)
    return joined(polygons_of(geometry))
