"""The cohort manifest: one row a slide, from a CSV that people fill in by hand.

slides = cohort.read_manifest("data/manifest.csv")
for row in cohort.slide_rows(slides):
    with cohort.open_row(row) as slide:
        ...
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import pandas as pd

from tlskit.cohort.spreadsheets import cells_of, found
from tlskit.errors import ManifestError
from tlskit.files import write_text
from tlskit.slides import PLAUSIBLE_MPP, Slide, open_slide, staging

__all__ = [
    "COLUMNS",
    "OPTIONAL_COLUMNS",
    "Fault",
    "SlideRow",
    "caption",
    "inspect_manifest",
    "open_row",
    "read_manifest",
    "slide_rows",
    "write_manifest",
]

#: Columns that a manifest must have. `annotation_path` may be empty where only inference is wanted.
COLUMNS = ("slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path")
OPTIONAL_COLUMNS = ("mpp_override", "split", "outline_origin", "site", "annotation_path_2")
_PATHS = ("slide_path", "annotation_path", "annotation_path_2")
_MAY_BE_EMPTY = ("annotation_path", *OPTIONAL_COLUMNS)

#: Names that other tools' manifests use (CLAM, slideflow, TRIDENT), and that people write.
_ALIASES = {
    "slide_id": ("slide", "slide_name", "image_id", "wsi_id"),
    "patient_id": ("patient", "case_id", "case", "subject_id", "subject"),
    "cancer_type": ("cancer", "tumor_type", "tumour_type", "diagnosis"),
    "slide_path": ("wsi", "wsi_path", "path", "slide_file", "image_path", "image"),
    "annotation_path": ("annotation", "annotations", "annotation_file", "geojson", "outlines"),
    "mpp_override": ("mpp", "um_per_px"),
    "split": ("set", "subset"),
}
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip

#: Where a GeoJSON counts pixels from: the corner of what was scanned (QuPath's way), or the slide's own.
_ORIGINS = ("", "scan", "slide")

_ID = re.compile(r"[A-Za-z0-9._ -]+")
#: Windows keeps these names for devices.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MOST_FAULTS = 40


class SlideRow(NamedTuple):
    """One slide of a manifest."""

    slide_id: str
    patient_id: str
    cancer_type: str
    slide_path: str
    annotation_path: str = ""
    mpp_override: float = math.nan
    split: str = ""
    outline_origin: str = ""
    site: str = ""
    annotation_path_2: str = ""


class Fault(NamedTuple):
    """Something wrong with a manifest; `row` counts as a spreadsheet does (the header is 1), 0 is the whole file."""

    row: int
    column: str
    text: str

    def __str__(self) -> str:
        row, column = f"row {self.row}, " if self.row else "", f"column {self.column}: " if self.column else ""
        return f"{row}{column}{self.text}"


def read_manifest(path: str | os.PathLike) -> pd.DataFrame:
    """Read and check a cohort's manifest.

    A CSV with a header: comma, semicolon or tab between the cells, UTF-8 with or without the mark that Excel writes,
    UTF-16, or (told, because it is a guess) Windows-1252.
    Names of columns may be in upper case or those of other tools (``case_id``, ``wsi``, ``mpp``).

    Parameters
    ----------
    path
        Absolute, or relative to the project's root (failing that, to the working folder).

    Returns
    -------
    DataFrame
        One row a slide: ``slide_id, patient_id, cancer_type, slide_path, annotation_path`` (text; paths absolute, those
        in the CSV are relative to it; ``annotation_path`` may be empty), ``mpp_override`` (float, nan where empty),
        ``split`` (``train``, ``val``, ``test`` or empty), ``outline_origin`` (where a GeoJSON counts pixels from:
        ``scan`` or empty for the corner of what was scanned, as QuPath counts; ``slide`` for the slide's own), ``site``
        (hospital or scanner, or empty), ``annotation_path_2`` (outlines of a second reader, or empty), then the CSV's
        other columns as text. Whether the files exist is not looked at here: a missing slide is that slide's
        failure (`tlskit check` looks).

    Raises
    ------
    ManifestError
        With every fault at once.
    """
    table, faults = inspect_manifest(path)
    if faults:
        lines = [f"  {fault}" for fault in faults[:_MOST_FAULTS]]
        if len(faults) > _MOST_FAULTS:
            lines.append(f"  ... and {len(faults) - _MOST_FAULTS} more")
        count = f"{len(faults)} fault" + ("s" if len(faults) > 1 else "")
        raise ManifestError("\n".join([f"{found(path)} has {count} (row 1 is the header):", *lines]))
    return table


def inspect_manifest(path: str | os.PathLike) -> tuple[pd.DataFrame, list[Fault]]:
    """The rows of a manifest that have no fault, as of `read_manifest`, and the faults by row.

    Raises
    ------
    ManifestError
        If the file is missing or no CSV at all.
    """
    path = found(path)
    header, rows = cells_of(path, COLUMNS)
    faults: list[Fault] = []
    names = _column_names(header, rows, faults)
    records: dict[int, dict] = {}
    for number, cells in rows:
        if any(cells[len(header) :]):
            text = f"has {len(cells)} cells where the header has {len(header)}; quote a cell that holds a separator"
            faults.append(Fault(number, "", text))
        cells = cells + [""] * (len(header) - len(cells))
        record = {name: cell for name, cell in zip(names, cells, strict=False) if name}
        _check_record(number, record, path.parent, faults)
        records[number] = record
    if not records:
        faults.append(Fault(0, "", "there is no slide in it, only the header"))
    _check_together(records, faults)
    faulty = {fault.row for fault in faults}
    table = pd.DataFrame.from_records([record for number, record in records.items() if number not in faulty])
    table = table.reindex(columns=list(dict.fromkeys([*COLUMNS, *OPTIONAL_COLUMNS, *table.columns])))
    table["mpp_override"] = table["mpp_override"].astype(float)
    return table, sorted(faults, key=lambda fault: fault.row)


def _column_names(header: list[str], rows: list[tuple[int, list[str]]], faults: list[Fault]) -> list[str]:
    """Our names of the header's columns; empty for a column without a name and content."""
    plain = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in header]
    names = [p if p in (*COLUMNS, *OPTIONAL_COLUMNS) else name for p, name in zip(plain, header, strict=True)]
    for wanted, aliases in _ALIASES.items():
        candidates = [i for i, p in enumerate(plain) if p in aliases]
        if wanted not in names and len(candidates) == 1:
            names[candidates[0]] = wanted
        elif wanted not in names and candidates:
            listed = " and ".join(repr(header[i]) for i in candidates)
            faults.append(Fault(1, wanted, f"could be {listed}; name one of them {wanted}"))
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        faults.append(Fault(1, name, "stands twice in the header"))
    ambiguous = {column for _, column, _ in faults}
    for wanted in COLUMNS:
        if wanted not in names and wanted not in ambiguous:
            spare = {p: header[i] for i, p in enumerate(plain) if names[i] not in (*COLUMNS, *OPTIONAL_COLUMNS) and p}
            near = difflib.get_close_matches(wanted, spare, n=1, cutoff=0.6)
            hint = f"is {spare[near[0]]!r} meant? Rename it" if near else f"the header has: {', '.join(header)}"
            faults.append(Fault(1, wanted, f"is missing; {hint}"))
    for i, name in enumerate(names):
        if not name and any(cells[i] for _, cells in rows if len(cells) > i):
            faults.append(Fault(1, "", f"column {i + 1} has content but no name"))
    return names


def _check_record(number: int, record: dict, folder: Path, faults: list[Fault]) -> None:
    """Check one row, and turn its cells into what the table holds."""
    for name in (*COLUMNS, *OPTIONAL_COLUMNS):
        if record.setdefault(name) == "" and name not in _MAY_BE_EMPTY:
            faults.append(Fault(number, name, "is empty"))
        record[name] = record[name] or ""  # the header's fault, where it lacks the column
    for name in ("slide_id", "patient_id"):
        why = _unsafe(record[name])
        if why:
            faults.append(Fault(number, name, f"{record[name]!r} {why}"))
    for name in _PATHS:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", record[name]):
            faults.append(
                Fault(number, name, f"{record[name]!r} is an address; write the path, from the drive or / on")
            )
        else:
            record[name] = _absolute(record[name], folder)
    record["mpp_override"] = _mpp(number, record["mpp_override"], faults)
    record["outline_origin"] = record["outline_origin"].lower()
    if record["outline_origin"] not in _ORIGINS:
        faults.append(
            Fault(number, "outline_origin", f"{record['outline_origin']!r} should be scan (or empty), or slide")
        )
    if record["split"]:
        split = _SPLITS.get(record["split"].lower())
        if split is None:
            near = difflib.get_close_matches(record["split"].lower(), _SPLITS, n=1)
            hint = f"; is {_SPLITS[near[0]]} meant?" if near else ""
            faults.append(Fault(number, "split", f"{record['split']!r} should be train, val, test or empty{hint}"))
        record["split"] = split or record["split"]


def _unsafe(text: str) -> str:
    """Why an id cannot name a file, or nothing."""
    if not text:
        return ""
    if not _ID.fullmatch(text):
        return "should hold only letters A-Z, digits, dot, dash, underscore and space: it names files"
    if text.startswith(".") or text.endswith(".") or _RESERVED.fullmatch(text):
        return "cannot name a file on every system: it should neither begin nor end with a dot, nor be a device's name"
    return "is longer than 120 characters: it names files" if len(text) > 120 else ""


def _absolute(text: str, folder: Path) -> str:
    if not text:
        return ""
    windows = PureWindowsPath(text)
    if os.name != "nt" and windows.drive:
        return text  # of another computer: no folder here to put before it
    if os.name != "nt" and "\\" in text:
        text = windows.as_posix()
    path = Path(text).expanduser()
    return str(Path(os.path.abspath(folder / path)))


def _mpp(number: int, text: str, faults: list[Fault]) -> float:
    if not text:
        return math.nan
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.inf
    low, high = PLAUSIBLE_MPP
    if not low <= value <= high:
        faults.append(
            Fault(number, "mpp_override", f"{text!r} should be um per pixel between {low:g} and {high:g}, or empty")
        )
    return value


def _check_together(records: dict[int, dict], faults: list[Fault]) -> None:
    """What no row shows alone: slides that stand twice, patients in two sets."""
    first_with: dict[tuple[str, str], int] = {}
    sets = defaultdict(lambda: defaultdict(list))
    for number, record in records.items():
        for name in ("slide_id", *_PATHS):
            # Folders of Windows and macOS do not tell upper from lower case. Outlines of both readers are one kind.
            kind = name.removesuffix("_2")
            key = (kind, record[name].lower() if name == "slide_id" else record[name])
            if not record[name]:
                continue
            if name == "annotation_path_2" and record[name] == record["annotation_path"]:
                text = f"{record[name]!r} is the first reader's file, too; name the outlines that another person drew"
                faults.append(Fault(number, name, text))
            elif first_with.setdefault(key, number) != number:
                hint = "; outlines are of one slide" if kind == "annotation_path" else ""
                faults.append(Fault(number, name, f"{record[name]!r} stands in row {first_with[key]} already{hint}"))
        if record["split"] in _SPLITS.values():
            sets[record["patient_id"]][record["split"]].append(number)
    for patient, where in sets.items():
        if len(where) > 1:
            listed = " and ".join(f"{split} (row {', '.join(map(str, rows))})" for split, rows in where.items())
            last = max(max(rows) for rows in where.values())
            faults.append(Fault(last, "split", f"patient {patient!r} stands in {listed}"))
    empty = [number for number, record in records.items() if not record["split"]]
    if sets and empty:
        listed = ", ".join(map(str, empty[:8])) + (" ..." if len(empty) > 8 else "")
        faults.append(Fault(empty[0], "split", f"is filled for some slides, empty in row {listed}; fill all or none"))


def slide_rows(manifest: pd.DataFrame) -> Iterator[SlideRow]:
    """The slides of a manifest, one after another; rows can be sent to other processes."""
    present = [name for name in SlideRow._fields if name in manifest]
    for values in manifest[present].itertuples(index=False, name=None):
        yield SlideRow(**dict(zip(present, values, strict=True)))


def open_row(row: SlideRow, *, resolution_by: str = "mpp", apply_icc: bool = False, detail_mpp: float = 0.0) -> Slide:
    """Open a row's slide; its ``mpp_override``, where filled, is its um/px. For the rest see `slides.open_slide`."""
    override = getattr(row, "mpp_override", None)
    if override is not None and math.isnan(override):
        override = None
    with staging.reading(row.slide_path) as path:
        slide = open_slide(
            path, mpp_override=override, resolution_by=resolution_by, apply_icc=apply_icc, detail_mpp=detail_mpp
        )
        staging.using(row.slide_path, slide)
    return slide


def write_manifest(manifest: pd.DataFrame, path: str | os.PathLike) -> Path:
    """Write a manifest that `read_manifest` reads; paths below the CSV's folder become relative to it.

    Optional columns without content are left out.
    """
    path = Path(path)
    folder = Path(os.path.abspath(path.parent))
    table = manifest.copy()
    for name in (n for n in _PATHS if n in table):
        table[name] = [_relative(value, folder) for value in table[name]]
    for name in OPTIONAL_COLUMNS:
        if name in table and (table[name].isna() | (table[name] == "")).all():
            table = table.drop(columns=name)
    return write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _relative(value: str, folder: Path) -> str:
    if not isinstance(value, str) or not value:
        return ""
    value = Path(value)
    return value.relative_to(folder).as_posix() if value.is_relative_to(folder) else str(value)


def caption(manifest: pd.DataFrame) -> str:
    """A line for every figure of the cohort: empty, or that its data are synthetic (column ``source``)."""
    if "source" in manifest and len(manifest) and (manifest["source"] == "synthetic").any():
        whole = (manifest["source"] == "synthetic").all()
        return "synthetic data: scores say nothing about patients" if whole else "partly synthetic data"
    return ""
