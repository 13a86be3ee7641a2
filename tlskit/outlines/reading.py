"""Outlines in and out: QuPath GeoJSON, ASAP and ImageScope XML; classes; masks on a slide's lattice.

targets = annotations.read_targets("slide_1.geojson", "TLS")
mask = annotations.rasterise(targets, x_px=0, y_px=0, width_px=512, height_px=512, mpp=1.0, mpp0=0.25)
"""

from __future__ import annotations

import difflib
import gzip
import logging
import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import shapely
from shapely.geometry import Polygon

from tlskit.errors import AnnotationError
from tlskit.outlines.geojson import parse_geojson, write_geojson
from tlskit.outlines.outline import UNCLASSIFIED, Annotations, Outline, Placement, placement
from tlskit.outlines.rasters import polygonise, polygons_of, rasterise
from tlskit.outlines.xml_formats import NEGATIVE_GROUPS, parse_xml

__all__ = [
    "UNCLASSIFIED",
    "Annotations",
    "Outline",
    "Placement",
    "describe",
    "placement",
    "polygonise",
    "polygons_of",
    "rasterise",
    "read_annotations",
    "read_targets",
    "targets_of",
    "without_ignored",
    "write_geojson",
]

log = logging.getLogger(__name__)

#: A text of outlines is at most this long, unpacked: 15 million vertices, or a mistake, or an attack.
MAX_BYTES = 256 * 2**20

#: What gzip and zipfile raise for damaged archives.
_CANNOT_UNPACK = (
    EOFError, ValueError, LookupError, RuntimeError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    gzip.BadGzipFile,
)  # fmt: skip


def read_annotations(
    path: str | Path,
    *,
    object_types: Sequence[str] = ("annotation",),
    negative_groups: Sequence[str] = NEGATIVE_GROUPS,
    origin_px0: tuple[float, float] = (0.0, 0.0),
) -> Annotations:
    """Read every area of a file of outlines.

    The format is told by the content: GeoJSON of QuPath 0.2 and later (FeatureCollection, array, Feature or geometry),
    ASAP XML or ImageScope XML; each as it is, as ``.gz``, or as the only such file in a ``.zip``.

    Parameters
    ----------
    path
        The file.
    object_types
        QuPath's types to read (``annotation``, ``detection``, ``cell``, ``tile``); the others are counted.
    negative_groups
        ASAP groups that are cut out of the others; see `tlskit.outlines.xml_formats.parse_xml`.
    origin_px0
        Added to every coordinate of a GeoJSON: a slide's ``bounds_px0[:2]``, because QuPath counts from there.

    Returns
    -------
    Annotations
        ``outlines``: in level-0 px, valid. ``report``: ``format``; ``objects`` in the file and ``areas`` read;
        ``classes`` (name to number of areas); ``skipped`` (objects of other types); ``not_areas`` (lines, points);
        ``without_area`` (empty or collapsed); ``ellipses`` and ``off_plane`` (among the areas); ``negatives`` (areas
        cut out); ``repaired`` (one dict each: number, class_name, reason, area_before_px0, area_after_px0);
        ``named_but_unclassified``; ``mpp`` (um/px that an ImageScope file states); ``notes``.

    Raises
    ------
    AnnotationError
        If there is no file, or it cannot be read; names the file, the reason and the remedy.
    """
    if not str(path or ""):
        raise AnnotationError(
            "No file of outlines is named for this slide. Fill `annotation_path` in the manifest; for a slide without "
            "targets, with an empty export from QuPath."
        )
    path = Path(path)
    try:
        content = _content(path)
        if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" or content[:4] in (b"\xff\xfe<\0", b"\xfe\xff\0<"):
            found = parse_xml(content, negative_groups=negative_groups)
        else:
            found = parse_geojson(content, object_types=object_types)
            found = _moved(found, origin_px0)
    except AnnotationError as error:
        raise AnnotationError(f"{path} {error}.") from error
    for repair in found.report["repaired"]:
        log.debug("%s: repaired %s", path, repair)
    return found


def _moved(found: Annotations, origin_px0: tuple[float, float]) -> Annotations:
    if not any(origin_px0):
        return found
    outlines = [
        Outline(**{**vars(o), "geometry": shapely.transform(o.geometry, lambda xy: xy + origin_px0)})
        for o in found.outlines
    ]
    return Annotations(outlines, found.report)


def _content(path: Path) -> bytes:
    """What a file holds, unpacked. The messages of errors follow the file's name."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.open(file) as unpacked:
                    content = _all_of(unpacked)
            elif start == b"PK\x03\x04":
                content = _zipped(file)
            else:
                content = _all_of(file)
    except FileNotFoundError as error:
        raise AnnotationError("does not exist. Correct `annotation_path` in the manifest") from error
    except _CANNOT_UNPACK as error:
        raise AnnotationError(f"cannot be unpacked ({error}); it may be cut off. Copy it again") from error
    except OSError as error:
        raise AnnotationError(f"cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_BYTES:
        raise AnnotationError(
            f"holds more than {MAX_BYTES // 2**20} MB. Export the annotations alone, without cells and detections"
        )
    if not content.strip():
        raise AnnotationError("is empty. Export it again; a slide without outlines gives an empty FeatureCollection")
    return content


def _all_of(file) -> bytes:
    """Read piece by piece, to one byte more than is allowed: asking for all at once would reserve all at once."""
    content = bytearray()
    while len(content) <= MAX_BYTES and (piece := file.read(2**20)):
        content += piece
    return bytes(content)


def _zipped(file) -> bytes:
    with zipfile.ZipFile(file) as archive:
        names = [
            name for name in archive.namelist()
            if name.lower().endswith((".geojson", ".json", ".xml")) and not name.startswith("__MACOSX")
        ]  # fmt: skip
        if len(names) != 1:
            raise AnnotationError(f"is a zip with {len(names)} files of outlines where one should be: {names[:5]}")
        with archive.open(names[0]) as member:
            return _all_of(member)


def read_targets(
    path: str | Path,
    target_class: str | Sequence[str],
    *,
    missing: str = "error",
    object_types: Sequence[str] = ("annotation",),
    origin_px0: tuple[float, float] = (0.0, 0.0),
) -> list[Polygon]:
    """Polygons of one class, or of several.

    Parameters
    ----------
    path
        See `read_annotations`. Empty (no file named for the slide) is always an error: nobody has said that the slide
        is without targets.
    target_class
        Exact name or names. ``"Unclassified"`` is what has no class.
    missing
        What a file with areas, but none of the class, means: ``"error"``, or ``"empty"`` (a slide without targets).
        A file without any area is always a slide without targets.
    object_types, origin_px0
        See `read_annotations`.

    Returns
    -------
    list of Polygon
        Level-0 px; the parts of a MultiPolygon one after another.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or holds nothing of the class; with the names that it holds.
    """
    if missing not in ("error", "empty"):
        raise ValueError(f'`missing` should be "error" or "empty", not {missing!r}.')
    found = read_annotations(path, object_types=object_types, origin_px0=origin_px0)
    return targets_of(found, target_class, missing=missing, path=path)


def targets_of(
    found: Annotations, target_class: str | Sequence[str], *, missing: str = "error", path: str | Path = ""
) -> list[Polygon]:
    """`read_targets` for a file that was read already; `path` is for the message."""
    wanted = [target_class] if isinstance(target_class, str) else list(target_class)
    polygons = [p for o in found.outlines if (o.class_name or UNCLASSIFIED) in wanted for p in o.polygons]
    drawn_otherwise = [key for key in found.report["not_areas"] if key.partition(": ")[2] in wanted]
    something_there = found.outlines or found.report["skipped"] or drawn_otherwise
    if polygons or not something_there or missing == "empty":
        return polygons
    raise AnnotationError(f"{path} {_why_nothing(found, wanted, drawn_otherwise)}")


def _why_nothing(found: Annotations, wanted: list[str], drawn_otherwise: list[str]) -> str:
    classes, skipped = found.report["classes"], found.report["skipped"]
    text = f"holds no annotation of the class {' or '.join(map(repr, wanted))}"
    if classes:
        text += ", but " + ", ".join(f"{name!r} ({count})" for name, count in classes.items())
    text += "."
    lower = {name.lower(): name for name in classes}
    near = [lower[n] for w in wanted for n in difflib.get_close_matches(w.lower(), lower, n=1, cutoff=0.6)]
    elsewhere = [key for key in skipped if key.partition(": ")[2] in wanted]
    by_name = [name for name in found.report["named_but_unclassified"] if name in wanted]
    if drawn_otherwise:
        return f"{text} It has {drawn_otherwise[0]}, which has no area: draw it as a polygon."
    if elsewhere:
        kind = elsewhere[0].partition(": ")[0]
        return f"{text} It has {skipped[elsewhere[0]]} of the type {kind}: make them annotations in QuPath."
    if near:
        return f"{text} Is it {near[0]!r}? Set `target_class` to the exact name."
    if by_name:
        return f"{text} {by_name[0]!r} is the name of objects without a class: in QuPath, give them the class."
    if not classes:
        return f"{text} It has only {', '.join(skipped)}. Export the annotations, or set `missing_target: empty`."
    return f"{text} Set `target_class` to one of these, or `missing_target: empty` if a slide may be without."


def without_ignored(found: Annotations, ignore_class: str | Sequence[str] | None) -> tuple[Annotations, list[Polygon]]:
    """What a file holds besides the classes whose area is left out of training and score, and those areas.

    A file need not have any. One that has nothing else is of a slide without targets.
    """
    ignored = [ignore_class] if isinstance(ignore_class, str) else list(ignore_class or [])
    kept, areas = [], []
    for outline in found.outlines:
        if (outline.class_name or UNCLASSIFIED) in ignored:
            areas += outline.polygons
        else:
            kept.append(outline)
    return Annotations(kept, found.report), areas


def describe(found: Annotations) -> list[str]:
    """What a reader of a file's `report` should know, a sentence each; nothing if all of it was plain areas."""
    report, said = found.report, []
    if report["skipped"]:
        said.append("Not used: " + ", ".join(f"{n} {kind}" for kind, n in report["skipped"].items()) + ".")
    if report["not_areas"]:
        said.append("Not areas: " + ", ".join(f"{n} {kind}" for kind, n in report["not_areas"].items()) + ".")
    if report["without_area"]:
        said.append(f"{report['without_area']} objects are empty or collapsed to a line.")
    if report["off_plane"]:
        said.append(f"{report['off_plane']} outlines lie on another z or t plane than the first; they are used.")
    for repair in report["repaired"]:
        before, after = repair["area_before_px0"], repair["area_after_px0"]
        change = f"{(after - before) / before:+.2%}" if before else f"+{after:.0f} px"
        change = "unchanged" if change in ("-0.00%", "+0.00%") else change
        said.append(
            f"Object {repair['number']} ({repair['class_name']}) was repaired: {repair['reason']}; area {change}."
        )
    if report["negatives"]:
        said.append(f"{report['negatives']} negative areas were cut out.")
    return said + report["notes"]
