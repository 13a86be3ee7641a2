"""GeoJSON that QuPath opens."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from tlskit.files import writing
from tlskit.outlines.class_names import check_class_name
from tlskit.outlines.outline import joined
from tlskit.outlines.rasters import polygons_of

__all__ = ["geojson_line", "geojson_text", "write_geojson"]

#: The same outlines written twice get the same ids: files can be compared, and QuPath recognises an object.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tlskit")

#: Decimals of written coordinates. QuPath writes 2, which changes the area of a square of 10 px by up to 0.1 %.
_DECIMALS = 8


def write_geojson(
    path: str | Path,
    polygons: Sequence[Polygon | MultiPolygon],
    *,
    class_name: str | Sequence[str],
    color: tuple[int, int, int] | Mapping[str, tuple[int, int, int]] = (200, 0, 0),
    measurements: Sequence[Mapping[str, float]] | None = None,
    object_type: str = "annotation",
    object_names: Sequence[str] | None = None,
    others: Sequence[Mapping] = (),
    origin_px0: tuple[float, float] = (0.0, 0.0),
    about: Mapping | None = None,
) -> Path:
    """Write outlines as GeoJSON that QuPath (0.4 and later) opens by drag and drop.

    Parameters
    ----------
    path
        Ends in ``.geojson`` or ``.json``, or in ``.gz`` to be compressed. Written under a temporary name, then renamed.
    polygons
        In level-0 px. Invalid ones are repaired; parts without area are left out.
    class_name
        Of all, or one each: a name that QuPath can hold (`class_names.check_class_name`).
    color
        RGB of all, or of each class.
    measurements
        One mapping a polygon, such as ``{"area um2": 5400.0}``. What is not finite is left out.
    object_type
        ``annotation``; ``detection`` is better for thousands.
    object_names
        What each object is called; an empty one is not written.
    others
        Features that are written behind them as they are, such as points that somebody set.
    origin_px0
        Subtracted from every coordinate: a slide's ``bounds_px0[:2]``, because QuPath counts from there.
    about
        Plain values that are written beside the objects, under ``tlskit``, for our script in QuPath; QuPath itself
        passes over them.

    Returns
    -------
    Path

    Raises
    ------
    ParameterError
        If a class's name is one for which QuPath would refuse the file.

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
    lines = [
        geojson_line(
            geometry, class_name=name, color=color[name] if isinstance(color, Mapping) else color,
            measurements=measurements[number] if measurements is not None else None, object_type=object_type,
            object_name=object_names[number] if object_names is not None else "", origin_px0=origin_px0, seen=seen,
        )
        for number, (geometry, name) in enumerate(zip(polygons, names, strict=True))
    ]  # fmt: skip
    lines += [json.dumps(dict(feature), ensure_ascii=False) for feature in others]
    content = geojson_text(filter(None, lines), about).encode("utf-8")
    with writing(path) as temporary:
        # Without the time of day, so that the same outlines give the same bytes.
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def geojson_line(
    geometry: Polygon | MultiPolygon,
    *,
    class_name: str,
    color: tuple[int, int, int] = (200, 0, 0),
    measurements: Mapping[str, float] | None = None,
    object_type: str = "annotation",
    object_name: str = "",
    origin_px0: tuple[float, float] = (0.0, 0.0),
    seen: Counter | None = None,
) -> str:
    """One object of such a file; empty for one without area. For the arguments see `write_geojson`.

    `seen` counts how often an object was written that is the same: each gets an id of its own.
    """
    check_class_name(class_name)
    geometry = _as_written(geometry, origin_px0)
    if geometry is None:
        return ""
    key = f"{object_type} {class_name} {shapely.to_wkb(geometry, hex=True)}"
    seen = Counter() if seen is None else seen
    seen[key] += 1
    properties = {"objectType": object_type, "classification": {"name": class_name, "color": list(color)}}
    if object_name:
        properties["name"] = str(object_name)
    if measurements is not None:
        values = {str(k): float(v) for k, v in measurements.items()}
        properties["measurements"] = {k: v for k, v in values.items() if math.isfinite(v)}
    feature = {
        "type": "Feature", "id": str(uuid.uuid5(_NAMESPACE, f"{key} {seen[key]}")), "geometry": None,
        "properties": properties,
    }  # fmt: skip
    text = json.dumps(feature, ensure_ascii=False)
    return text.replace('"geometry": null', f'"geometry": {shapely.to_geojson(geometry)}', 1)


def geojson_text(lines: Iterable[str], about: Mapping | None = None) -> str:
    """A file of such objects, a line each."""
    head = f'"tlskit": {json.dumps(dict(about))}, ' if about else ""
    return f'{{"type": "FeatureCollection", {head}"features": [\n' + ",\n".join(lines) + "\n]}\n"


def _as_written(geometry, origin_px0: tuple[float, float]) -> Polygon | MultiPolygon | None:
    """Moved, rounded, valid; one polygon not in a MultiPolygon; None if nothing is left."""
    origin = np.asarray(origin_px0, dtype=float)
    moved = shapely.transform(shapely.force_2d(geometry), lambda xy: xy - origin)
    rounded = shapely.transform(moved, lambda xy: np.round(xy, _DECIMALS))
    geometry = rounded if rounded.is_valid else shapely.make_valid(moved, method="structure", keep_collapsed=False)
    return joined(polygons_of(geometry))
