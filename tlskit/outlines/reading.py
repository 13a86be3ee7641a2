"""Outlines in and out: QuPath GeoJSON, ASAP and ImageScope XML; classes; masks on a slide's lattice.

targets = annotations.read_targets("slide_1.geojson", "TLS")
mask = annotations.rasterise(targets, x_px=0, y_px=0, width_px=512, height_px=512, mpp=1.0, mpp0=0.25)
"""

from __future__ import annotations

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
from tlskit.outlines.class_names import wanted_names
from tlskit.outlines.contents import AGAIN, not_outlines, one_of_a_zip
from tlskit.outlines.findings import describe, why_no_target
from tlskit.outlines.geojson import parse_geojson
from tlskit.outlines.outline import UNCLASSIFIED, Annotations, Outline
from tlskit.outlines.placing import Placement, placement
from tlskit.outlines.rasters import polygonise, polygons_of, rasterise
from tlskit.outlines.writing import write_geojson
from tlskit.outlines.xml_formats import NEGATIVE_GROUPS, parse_xml
from tlskit.units import counted

__all__ = [
    "UNCLASSIFIED",
    "Annotations",
    "Outline",
    "Placement",
    "describe",
    "outlines_of",
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
    XML of ASAP, ImageScope or HALO; each as it is, as ``.gz``, or as the only such file in a ``.zip``.

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
        ``without_area`` (empty or collapsed), ``empty_of`` (class name to their number); ``elsewhere`` (areas that
        stand where no outlines are looked for: not read); ``ellipses`` and ``off_plane`` (among the areas);
        ``negatives`` (areas cut out); ``repaired`` (one dict each: number, class_name, reason, area_before_px0,
        area_after_px0); ``named_but_unclassified``; ``other_types`` (words for a type that QuPath reads as annotation);
        ``mpp`` (um/px that an ImageScope file states); ``notes``.

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
    if str(path).lower().startswith("file:"):
        raise AnnotationError(f"{path} is an address and no path. Write it without `file:`, from the drive or / on.")
    path = Path(path)
    try:
        content = _content(path)
        not_outlines(content)
        if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" or content[:4] in (b"\xff\xfe<\0", b"\xfe\xff\0<"):
            found = parse_xml(content, negative_groups=negative_groups)
        else:
            found = parse_geojson(content, object_types=object_types)
            found = _moved(found, origin_px0)
    except AnnotationError as error:
        raise AnnotationError(f"{path} {error}.") from error
    if found.report["elsewhere"] and not found.report["objects"]:
        raise AnnotationError(
            f"{path} holds {counted(found.report['elsewhere'], 'area')}, but none where {found.report['format']} has "
            f"its outlines. {AGAIN}."
        )
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
            elif start in (b"PK\x03\x04", b"PK\x05\x06"):  # with files in it, and without
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
        raise AnnotationError(f"is empty. A slide without outlines gives an empty FeatureCollection. {AGAIN}")
    return content


def _all_of(file) -> bytes:
    """Read piece by piece, to one byte more than is allowed: asking for all at once would reserve all at once."""
    content = bytearray()
    while len(content) <= MAX_BYTES and (piece := file.read(2**20)):
        content += piece
    return bytes(content)


def _zipped(file) -> bytes:
    with zipfile.ZipFile(file) as archive:
        with archive.open(one_of_a_zip(archive)) as member:
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
        What a file with objects, but no area of the class, means: ``"error"``, or ``"empty"`` (a slide without
        targets). Only a file without any object is always a slide without targets. Objects of the class that have no
        area (lines, points, detections), and predictions that nobody has looked through, are an error either way.
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
    return [p for outline in outlines_of(found, target_class, missing=missing, path=path) for p in outline.polygons]


def outlines_of(
    found: Annotations, target_class: str | Sequence[str], *, missing: str = "error", path: str | Path = ""
) -> list[Outline]:
    """The outlines of the target, one an object of the file; errors as of `read_targets`."""
    wanted = wanted_names(target_class)
    outlines = [o for o in found.outlines if (o.class_name or UNCLASSIFIED) in wanted]
    if outlines or not found.report["objects"]:
        return outlines
    reason, certain = why_no_target(found, target_class)
    if missing == "empty" and not certain:
        return outlines
    raise AnnotationError(f"{path} {reason}")


def without_ignored(found: Annotations, ignore_class: str | Sequence[str] | None) -> tuple[Annotations, list[Polygon]]:
    """What a file holds besides the classes whose area is left out of training and score, and those areas.

    Names are exact (`findings.also_holds` tells of classes derived from them). A file need not have any. One that has
    nothing else is of a slide without targets: its objects are no longer counted.
    """
    ignored = wanted_names(ignore_class)
    kept, areas, n_ignored = [], [], 0
    for outline in found.outlines:
        if (outline.class_name or UNCLASSIFIED) in ignored:
            areas += outline.polygons
            n_ignored += 1
        else:
            kept.append(outline)
    return Annotations(kept, {**found.report, "objects": found.report["objects"] - n_ignored}), areas
