"""Outlines drawn by hand in their file, so that none is lost.

A slide's outlines lie in one GeoJSON, which is read back whenever the slide is shown and written whenever one changes.
Two windows may draw on one slide: what is written is the file as it stands now, without what this window has taken
away, with what it has added (an outline that was changed counts as both). No window writes over the work of another.
Measurements of a shape that was changed since are called so; points, lines and objects that are no annotations stay as
they are.

The file is read in full before every change. Ours has a line for each object: one that was there at the last reading
is known, and is neither parsed nor checked nor written anew. A file that looks otherwise, as QuPath writes it, is
parsed as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely
from filelock import FileLock
from shapely.geometry import Polygon

from tlskit.errors import AnnotationError
from tlskit.explore.drawings import Drawn, as_outline, merged, polygon_of, tidied
from tlskit.files import writing
from tlskit.outlines import UNCLASSIFIED, Annotations, geojson_line, geojson_text, parse_geojson, read_annotations

__all__ = ["read_drawn", "save_drawn"]

#: Before the name of a measurement whose outline was changed by hand since.
EARLIER = "before the correction: "

#: Of a class whose colour nobody has chosen.
_RED = (200, 0, 0)

#: Seconds to wait for another window that is writing the same file.
_PATIENCE_S = 10

#: Of the files that were read last: what each line holds.
_KNOWN: dict[tuple, dict[str, list[Drawn]]] = {}
_FILES = 8

#: Between the objects of a file that was written here, and how it begins and ends.
_HEAD, _BETWEEN, _TAIL = '"features": [\n', ",\n", "\n]}\n"

#: Geometries without area, and QuPath's objects that are no annotations.
_NOT_AREAS = ("Point", "MultiPoint", "LineString", "MultiLineString")
_OTHER_OBJECTS = ("detection", "cell", "tile", "tmaCore")


def read_drawn(path: str | Path, origin_px0: tuple[float, float] = (0.0, 0.0)) -> list[Drawn]:
    """Outlines of a file; none where there is no file.

    Raises
    ------
    AnnotationError
        If the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return []
    lines = _lines_of(path)
    if lines is not None:
        known = _KNOWN.get((path, *origin_px0), {})
        try:
            now = {line: known[line] if line in known else _of_line(line, origin_px0) for line in lines}
        except (AnnotationError, ValueError):
            now = None  # the whole of it will say what is wrong, and where
        if now is not None:
            _remember((path, *origin_px0), now)
            return [one for line in lines for one in now[line]]
    return _outlines_of(read_annotations(path, origin_px0=origin_px0))


def _lines_of(path: Path) -> list[str] | None:
    """The lines of a file, one for each object, as they are written here; None where it looks otherwise."""
    try:
        text = path.read_bytes().decode("utf-8")
        head, found, rest = text.partition(_HEAD)
        if not found or not rest.endswith(_TAIL) or json.loads(f"{head}{found}]}}").get("type") != "FeatureCollection":
            return None
    except (OSError, ValueError, AttributeError):
        return None
    return rest.removesuffix(_TAIL).split(_BETWEEN) if rest != _TAIL else []


def _of_line(line: str, origin_px0: tuple[float, float]) -> list[Drawn]:
    """What one line holds: exactly one object."""
    json.loads(line)
    found = parse_geojson(f'{{"type": "FeatureCollection", {_HEAD}{line}{_TAIL}'.encode(), object_types=("annotation",))
    outlines = _outlines_of(found, np.asarray(origin_px0, float))
    if len(outlines) == 1:
        outlines[0].line = line, tuple(origin_px0)
    return outlines


def _remember(name: tuple, lines: dict[str, list[Drawn]]) -> None:
    _KNOWN.pop(name, None)
    _KNOWN[name] = lines
    for old in list(_KNOWN)[:-_FILES]:
        del _KNOWN[old]


def _outlines_of(found: Annotations, shift: np.ndarray | None = None) -> list[Drawn]:
    outlines = []
    for outline in found.outlines:
        of_whole = "of the whole object: " if len(outline.polygons) > 1 else ""
        like = {"name": outline.name, "color": list(outline.color) if outline.color not in (None, _RED) else []}
        like["measurements"] = {f"{of_whole}{name}": value for name, value in outline.measurements.items()}
        for polygon in outline.polygons:
            if shift is not None and shift.any():
                polygon = shapely.transform(polygon, lambda xy: xy + shift)
            one = as_outline(polygon, outline.class_name or UNCLASSIFIED, like)
            outlines.append(Drawn(one | {"shape": _shape(one)}) if "measurements" in one else one)
    return outlines


def save_drawn(
    path: str | Path,
    mine: Sequence[Mapping],
    base: Sequence[Mapping],
    origin_px0: tuple[float, float] = (0.0, 0.0),
    about: dict | None = None,
) -> list[Drawn]:
    """Write outlines over what stands in the file, and return what stands in it now (see `drawings.merged`).

    Where there is no file any more, all of `mine` are written again.

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
        # A file that is gone is no outline that somebody took away: who deletes the last one leaves an empty file.
        both = merged(base if path.is_file() else [], tidied(mine), theirs)
        if both or path.is_file():
            content = geojson_text(_written(both, origin_px0, _others(path)), about).encode("utf-8")
            if not path.is_file() or path.read_bytes() != content:
                with writing(path) as temporary:
                    temporary.write_bytes(content)
    return both


def _written(both: Sequence[Mapping], origin_px0: tuple[float, float], others: Iterable[Mapping]) -> list[str]:
    """The lines of a file: of outlines that nobody has touched as they stand, of the others anew."""
    colors = {one["class"]: _RED for one in both}
    colors |= {one["class"]: tuple(one["color"]) for one in both if one.get("color")}
    origin, seen, lines = tuple(origin_px0), Counter(), {}
    for one in both:
        line, of_origin = getattr(one, "line", None) or ("", ())
        # Anew also one that was drawn twice, which is two objects.
        while of_origin != origin or (line and line in lines):
            line, of_origin = _line(one, colors[one["class"]], origin, seen), origin
        lines[line] = None
    return [*filter(None, lines), *(json.dumps(dict(feature), ensure_ascii=False) for feature in others)]


def _line(one: Mapping, color: tuple[int, int, int], origin_px0: tuple[float, float], seen: Counter) -> str:
    return geojson_line(
        polygon_of(one), class_name=one["class"], color=color, measurements=_measurements(one),
        object_name=one.get("name", ""), origin_px0=origin_px0, seen=seen,
    )  # fmt: skip


def _measurements(outline: Mapping) -> dict[str, float]:
    """Measurements as they are to be written: those of an earlier shape say so."""
    values = outline.get("measurements", {})
    if not values or outline.get("shape") == _shape(outline):
        return values
    return {name if name.startswith(EARLIER) else f"{EARLIER}{name}": value for name, value in values.items()}


def _shape(outline: Mapping) -> str:
    polygon: Polygon = polygon_of(outline).normalize()
    rings = [np.asarray(ring.coords)[:, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
    return hashlib.sha256(json.dumps(["", rings]).encode()).hexdigest()[:16]


def _others(path: Path) -> list[dict]:
    """Points, lines, and what is no annotation, in a file: they are no outlines here, and stay as they are."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if any(f'{word}"' in text for word in ("Point", "LineString", *_OTHER_OBJECTS)) else []
    except (OSError, ValueError):
        return []
    features = data if isinstance(data, list) else data.get("features", []) if isinstance(data, dict) else []
    return [one for one in features if isinstance(one, dict) and _is_other(one)]


def _is_other(feature: dict) -> bool:
    properties = feature.get("properties")
    kind = properties.get("objectType") if isinstance(properties, dict) else ""
    return (feature.get("geometry") or {}).get("type") in _NOT_AREAS or kind in _OTHER_OBJECTS
