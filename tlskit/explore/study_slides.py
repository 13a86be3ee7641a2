"""The slides of a study that is set up on the page: paired with their outlines, each with its patient and its problem.

A row is a dict: ``slide_id``, ``slide_path``, ``annotation_path`` (None where there is none), ``patient_id`` (empty
until it is known), ``cancer_type``, ``mpp_override`` (None where the slide says its um/px) and ``problem``, a sentence
that ends in the remedy; empty where there is none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tlskit.cohort import open_row, read_columns, read_manifest, slide_rows
from tlskit.errors import ManifestError, ParameterError, ScaleError, TlskitError
from tlskit.explore.folder_chooser import slide_files
from tlskit.outlines import UNCLASSIFIED, read_annotations
from tlskit.slides import open_slide

__all__ = [
    "classes_of",
    "look_at_table",
    "pair_folder",
    "patients_of",
    "patients_of_columns",
    "rows_of_manifest",
    "slide_column",
]

_OUTLINES = (".geojson", ".json", ".geojson.gz", ".xml")


def pair_folder(folder: str | Path, *, mpp: float | None = None) -> list[dict]:
    """Slides of a folder, each with the outlines of its name, there or in one of its folders.

    Parameters
    ----------
    folder
        Of slides.
    mpp
        um/px of the slides that do not say theirs.
    """
    folder = Path(folder)
    folders, slides = slide_files(folder)
    ids = Counter(Path(name).stem for name in slides)
    rows = []
    for name in slides:
        stem = Path(name).stem
        found = [
            path
            for where in (folder, *(folder / inner for inner in folders))
            for end in _OUTLINES
            if (path := where / f"{stem}{end}").is_file()
        ]
        override, problem = _scale_of(folder / name, mpp)
        if problem:
            pass
        elif ids[stem] > 1:
            problem = f"{ids[stem]} slides are called {stem}: rename all but one."
        elif len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            problem = f"{len(found)} files of outlines have its name ({names}): keep one."
        elif not found:
            problem = f"No outlines: export them from QuPath as {stem}.geojson, an empty export for no target."
        rows.append(
            {
                "slide_id": stem, "slide_path": folder / name, "annotation_path": found[0] if len(found) == 1 else None,
                "patient_id": "", "cancer_type": "", "mpp_override": override, "problem": problem,
            }
        )  # fmt: skip
    return rows


def _scale_of(path: Path, mpp: float | None) -> tuple[float | None, str]:
    """The um/px that has to be given for a slide (None where it says its own), and why it cannot be used."""
    try:
        open_slide(path).close()
        return None, ""
    except ScaleError as error:
        if mpp is None:
            return None, f"{error} Or give it in the box um/px."
    except (TlskitError, OSError) as error:
        return None, f"It cannot be opened: {error} Copy it again, or take it out of the folder."
    try:
        open_slide(path, mpp_override=mpp).close()
        return mpp, ""
    except (TlskitError, OSError) as error:
        return None, str(error)


def rows_of_manifest(path: str | Path) -> list[dict]:
    """The slides of a manifest that somebody has written.

    Raises
    ------
    ManifestError
        With every fault of it.
    """
    rows = []
    for row in slide_rows(read_manifest(path)):
        problem = ""
        try:
            open_row(row).close()
            if row.annotation_path and not Path(row.annotation_path).is_file():
                problem = f"There is no file {Path(row.annotation_path).name}: correct its annotation_path."
        except (TlskitError, OSError) as error:
            problem = f"It cannot be opened: {error}"
        outlines = Path(row.annotation_path) if row.annotation_path else None
        override = None if row.mpp_override != row.mpp_override else row.mpp_override
        rows.append(
            {
                "slide_id": row.slide_id, "slide_path": Path(row.slide_path), "annotation_path": outlines,
                "patient_id": row.patient_id, "cancer_type": row.cancer_type, "mpp_override": override,
                "problem": problem,
            }
        )  # fmt: skip
    return rows


def patients_of(slide_ids: Sequence[str], pattern: str) -> dict[str, str]:
    """The patient of each slide: what the pattern's first group (or the pattern) finds in its name.

    Raises
    ------
    ParameterError
        If the pattern is none, or finds nothing in some name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ParameterError(
            f"{pattern!r} is no regular expression: {error}. Every slide its own patient: (.+)"
        ) from error
    found = {}
    for slide_id in slide_ids:
        match = expression.search(slide_id)
        found[slide_id] = ((match[1] if expression.groups else match[0]) or "") if match else ""
    return _all_of(found, f"The pattern {pattern!r} finds no patient in")


def patients_of_columns(slide_ids: Sequence[str], table, slide: str, patient: str) -> dict[str, str]:
    """The patient of each slide, of two columns of a table.

    Parameters
    ----------
    slide_ids
        Names of slides without their ends.
    table
        Of `tlskit.cohort.read_columns`.
    slide, patient
        Names of its columns; a slide is named with or without folder and end.

    Raises
    ------
    ParameterError
        If a slide stands there with two patients, or not at all.
    """
    listed: dict[str, set] = {}
    for name, who in zip(table[slide], table[patient], strict=True):
        if who:
            listed.setdefault(_plain(name, slide_ids), set()).add(who)
    twice = [name for name in slide_ids if len(listed.get(name, ())) > 1]
    if twice:
        raise ParameterError(f"{len(twice)} slide(s) stand in the table with two patients: {', '.join(twice[:4])}.")
    found = {name: next(iter(listed.get(name, {""}))) for name in slide_ids}
    return _all_of(found, f"The column {patient} gives no patient for")


def slide_column(slide_ids: Sequence[str], table) -> str:
    """The column that names the most slides."""
    return max(table.columns, key=lambda name: sum(_plain(cell, slide_ids) in slide_ids for cell in table[name]))


def _plain(name: str, slide_ids: Sequence[str]) -> str:
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last if last in slide_ids else Path(last).stem


def _all_of(found: dict[str, str], said: str) -> dict[str, str]:
    without = [slide_id for slide_id, patient in found.items() if not patient]
    if without:
        raise ParameterError(f"{said} {len(without)} name(s): {', '.join(without[:4])}.")
    return found


def classes_of(rows: Sequence[dict]) -> Counter:
    """Outlines by class over all rows; a file that cannot be read becomes its row's problem."""
    counts: Counter = Counter()
    for row in rows:
        row["outlines"] = 0
        if row["annotation_path"] is None or not row["annotation_path"].is_file():
            continue
        try:
            outlines = read_annotations(row["annotation_path"]).outlines
        except TlskitError as error:
            row["problem"] = row["problem"] or str(error)
            continue
        row["outlines"] = len(outlines)
        counts.update(outline.class_name or UNCLASSIFIED for outline in outlines)
    return counts


def look_at_table(path: str | Path) -> tuple[list[dict], object]:
    """What somebody's CSV is: the rows of a whole manifest; or none and its columns, where it only tells of patients.

    Raises
    ------
    ManifestError
        If it is no CSV.
    """
    try:
        return rows_of_manifest(path), None
    except ManifestError:
        return [], read_columns(path)
