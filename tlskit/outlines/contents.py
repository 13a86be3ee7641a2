"""What a file is that should hold outlines and does not: said by name, with what to do."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping

from tlskit.errors import AnnotationError

__all__ = ["AGAIN", "decoded", "no_geojson", "not_json", "not_outlines", "one_of_a_zip"]

#: The remedy for most of them.
AGAIN = "In QuPath: File > Export objects as GeoJSON, as FeatureCollection"

_SUFFIXES = (".geojson", ".json", ".xml", ".annotations")

_STARTS = (
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"II*\0", "an image (TIFF)"),
    (b"MM\0*", "an image (TIFF)"),
    (b"II+\0", "an image (TIFF)"),
    (b"MM\0+", "an image (TIFF)"),
    (b"GIF8", "an image (GIF)"),
    (b"BM", "an image (BMP)"),
    (b"%PDF", "a PDF"),
    (b"\xac\xed\x00\x05", "a QuPath data file (.qpdata)"),
    (b"PAR1", "a table (Parquet)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"SQLite format 3", "a database (SQLite, such as a GeoPackage)"),
    (b"SIMPLE  =", "an image (FITS)"),
)


_COCO = ({"annotations", "categories"}, {"segmentation", "bbox"}, {"image_id", "category_id"})


def not_outlines(content: bytes) -> None:
    """Refuse what is plainly something else than GeoJSON or XML of outlines.

    Raises
    ------
    AnnotationError
        The message follows the file's name.
    """
    for start, kind in _STARTS:
        if content.startswith(start) and not (start == b"BM" and b"\0" not in content[:64]):
            if "qpdata" in kind:
                raise AnnotationError(f"is {kind}, which only QuPath reads. Open the image there; {_lower(AGAIN)}")
            raise AnnotationError(f"is {kind} and no file of outlines. Correct `annotation_path`")
    head = content[:2000].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"version https://git-lfs"):
        raise AnnotationError("is a pointer of Git LFS and not the file itself. Fetch it: git lfs pull")
    if re.match(rb"<(!doctype\s+html|html|head|body)\b", head, flags=re.IGNORECASE):
        login = b"login" in content[:20_000].lower() or b"password" in content[:20_000].lower()
        page = "a page of HTML" + (", by its text one to log in" if login else "")
        raise AnnotationError(f"is {page}: a download that did not give the file. Download it again, logged in")


def decoded(content: bytes) -> str:
    """The text of a JSON file.

    Raises
    ------
    AnnotationError
        If it is neither UTF-8 nor UTF-16 or UTF-32.
    """
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"is not UTF-8: the byte 0x{content[error.start]:02X} at place {error.start} "
            f"({content[max(0, error.start - 12) : error.start + 8].decode('latin-1')!r}). It was written in another "
            "encoding, such as Windows-1252 by Groovy's `file.text = ...`: write it with setText(text, 'UTF-8'), or "
            "convert it"
        ) from error


def not_json(text: str, error: Exception) -> AnnotationError:
    """What a text is that does not parse as JSON."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(_is_json(line) for line in lines[:3]):
        return AnnotationError(
            f"holds one JSON per line ({len(lines)} lines) and not one JSON in all. Put a comma after each line but "
            f"the last and [ ] around all of them, or export anew. {AGAIN}"
        )
    first = lines[0] if lines else ""
    separator = max(",;\t", key=first.count)
    if not first.lstrip().startswith(("{", "[", '"{')) and first.count(separator):
        width = first.count(separator)
        if sum(line.count(separator) >= width for line in lines[:5]) == len(lines[:5]):
            return AnnotationError(f"is a table ({width + 1} columns) and no GeoJSON. {AGAIN}")
    if not first.lstrip().startswith(("{", "[", '"', "-")) and not first.strip()[:1].isdigit():
        return AnnotationError(f"is no JSON: it begins with {first.strip()[:30]!r}. {AGAIN}")
    return AnnotationError(f"is no JSON ({error}); it may be cut off. Export it from QuPath again")


def no_geojson(value) -> AnnotationError:
    """What a JSON value is that is no GeoJSON, by its keys."""
    if not isinstance(value, Mapping):
        kind = "null" if value is None else f"a {type(value).__name__}"
        return AnnotationError(f"is JSON but no GeoJSON: it holds {kind} where an object should be. {AGAIN}")
    keys = set(value)
    program = ""
    if {"label", "points"} <= keys or ({"shapes"} <= keys and "imagePath" in keys):
        program = " of labelme"
    elif (
        {"annotations", "categories"} <= keys or {"segmentation", "bbox"} <= keys or {"image_id", "category_id"} <= keys
    ):
        program = " of COCO"
    elif "elements" in keys or isinstance(value.get("annotation"), Mapping) or {"fillColor", "lineColor"} & keys:
        program = " of the Digital Slide Archive"
    elif "location" in keys and ("term" in keys or "project" in keys):
        program = " of Cytomine"
    named = ", ".join(map(str, list(value)[:6])) or "no key"
    kind = value.get("type")
    typed = f" and the type {str(kind)[:40]!r}" if "type" in keys else ""
    return AnnotationError(
        f"is JSON but no GeoJSON: it holds an object{program} with the keys {named}{typed}. Convert it to a "
        f"FeatureCollection, or draw in QuPath. {AGAIN}"
    )


def one_of_a_zip(archive: zipfile.ZipFile) -> str:
    """Name of the one file of outlines in a zip."""
    everything = [n for n in archive.namelist() if not n.startswith("__MACOSX") and not n.endswith("/")]
    names = [n for n in everything if n.lower().endswith(_SUFFIXES)]
    if any(n.startswith("xl/") for n in everything):
        raise AnnotationError("is a table (Excel workbook) and no file of outlines. Correct `annotation_path`")
    if not names:
        held = f"it holds {', '.join(everything[:5])}" if everything else "it is empty"
        raise AnnotationError(f"is a zip without a file of outlines ({', '.join(_SUFFIXES)}): {held}. {AGAIN}")
    if len(names) > 1:
        raise AnnotationError(
            f"is a zip with {len(names)} files of outlines where one should be: {', '.join(names[:5])}. Unpack it, and "
            "name the slide's own file in `annotation_path`"
        )
    return names[0]


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
