"""Train again with what a person corrected: the slides of a run, and others that were outlined on the page.

What counts as truth is the rule of the loop with QuPath (`tlskit.outlines.qupath`): only what a person drew or touched;
a predicted outline that nobody took over is never truth. Who draws an outline of the class ``no TLS`` over one of the
class ``TLS`` says that it is none: it is left out. A class that merely begins so is one like any other: ``no data``
denies nothing where no class is called ``data``, or where outlines of the run are called ``no data``. The run stays as
it is: what is made is another cohort, with outlines of its own, for another run. Patients of the run stay in the set
that they were in, so that nobody who was tested is learnt from; patients that are new are learnt from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import ipywidgets
from shapely.geometry import Polygon

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import ParameterError, RunError, TlskitError
from tlskit.explore.drawings import polygon_of
from tlskit.explore.drawn_files import read_drawn
from tlskit.explore.study_slides import patients_of
from tlskit.explore.widgets import Message, form_field, guarded, note
from tlskit.files import project_root, resolve
from tlskit.outlines import UNCLASSIFIED, is_prediction, read_annotations, write_geojson
from tlskit.slides import content_id, open_slide
from tlskit.study import Archive, find_runs, open_archive, params

__all__ = ["Corrections", "corrected", "rows_of_run"]

log = logging.getLogger(__name__)

#: Two outlines are of one object from this share on: of the smaller one where they have one class, else of their union.
_SAME = 0.5

#: Before the class of an outline that says: here is none.
NO = "no "


def corrected(
    old: Sequence[tuple[Polygon, str]], drawn: Sequence[tuple[Polygon, str]], classes: Collection[str] = ()
) -> tuple[list, int]:
    """The outlines of a slide after a person's corrections, and how many old ones were replaced.

    Parameters
    ----------
    old, drawn
        Polygons in level-0 px with their classes. A drawn one stands in the place of an old one of the same object; one
        of the class ``no <class>`` takes it away.
    classes
        That the run knows besides those of this slide. ``no <class>`` denies where the run or the person has a class of
        that name, and the run has none that is called ``no <class>`` itself.

    Returns
    -------
    outlines : list of (Polygon, str)
    replaced : int
    """
    drawn = [(polygon.buffer(0), name) for polygon, name in drawn if not is_prediction(name)]
    of_run = {name for _, name in old} | set(classes)
    known = of_run | {name for _, name in drawn}
    denials = {name for name in known - of_run if name.startswith(NO) and name.removeprefix(NO) in known}
    denied = [(polygon, name.removeprefix(NO)) for polygon, name in drawn if name in denials]
    drawn = [(polygon, name) for polygon, name in drawn if name not in denials]
    left = [
        (polygon, name)
        for polygon, name in old
        if not any(_same(polygon, name, *one) for one in drawn)
        # Of its own class alone: that a place is no TLS says nothing of the tumour around it.
        and not any(name == none and _same(polygon, name, area, none) for area, none in denied)
    ]
    return [*left, *drawn], len(old) - len(left)


def _same(one: Polygon, name: str, other: Polygon, other_name: str) -> bool:
    both = one.intersection(other).area
    whole = min(one.area, other.area) if name == other_name else one.area + other.area - both
    return both > _SAME * whole


def rows_of_run(archive: Archive, outputs_dir: str | Path, pattern: str = "(.+)") -> tuple[list[dict], list[str]]:
    """Slides of a run, and those that were outlined on the page, as rows of `study_slides`.

    ``drawn`` holds the person's outlines (polygon, class); ``split`` the set that the patient was in. Beside the rows:
    names of the files of outlines whose slide is not found, which are left out.
    """
    rows, known, lost = [], {}, []
    splits = archive.splits
    # With folds everybody was tested once: there are no sets to keep.
    sets = {} if splits is None or "fold" in splits else dict(zip(splits["patient_id"], splits["split"], strict=True))
    for row in slide_rows(archive.manifest):
        entry = {
            "slide_id": row.slide_id, "slide_path": Path(row.slide_path), "patient_id": row.patient_id,
            "annotation_path": Path(row.annotation_path) if row.annotation_path else None,
            "cancer_type": row.cancer_type, "problem": "", "split": sets.get(row.patient_id, ""),
            "mpp_override": None if row.mpp_override != row.mpp_override else row.mpp_override,
            "outline_origin": row.outline_origin, "drawn": [], "said": "", "row": row,
        }  # fmt: skip
        try:
            with open_row(row, **archive.reading) as slide:
                entry["origin_px0"] = slide.bounds_px0[:2]
            entry["drawn"] = _drawn(archive.dir / "explore" / "geojson" / f"{row.slide_id}.geojson", slide.bounds_px0)
            known[content_id(row.slide_path)] = entry
        except (TlskitError, OSError) as error:
            entry["problem"] = str(error)
        rows.append(entry)
    for path in sorted((resolve(outputs_dir) / "segmented" / "drawn").glob("*.geojson")):
        try:
            _take_in(path, rows, known, pattern, bool(sets), archive)
        except (TlskitError, OSError, KeyError, ValueError, AttributeError) as error:
            log.warning("Outlines of %s are left out: where its slide lies is not known (%s).", path.name, error)
            lost.append(path.name)
    for entry in rows:
        entry["said"] = f"{len(entry['drawn'])} by hand" if entry["drawn"] else ""
    return rows, lost


def _take_in(path: Path, rows: list, known: dict, pattern: str, has_sets: bool, archive: Archive) -> None:
    """Outlines of a slide that was opened from a folder: of the run's, found by its content, or of another one."""
    slide_id = path.stem.rsplit("-", 1)[-1]
    if slide_id in known:
        known[slide_id]["drawn"] += _drawn(path, (*known[slide_id]["origin_px0"], 0, 0))
        return
    if not _drawn(path, (0.0, 0.0)):
        return
    about = json.loads(path.read_text(encoding="utf-8")).get("tlskit", {})
    slide_path = _slide_of(project_root() / about["slide"], slide_id)
    with open_slide(slide_path, mpp_override=about.get("mpp_override"), **archive.reading) as slide:
        drawn = _drawn(path, slide.bounds_px0)
        origin = slide.bounds_px0[:2]
    name = slide_path.stem if slide_path.stem not in {row["slide_id"] for row in rows} else f"{slide_path.stem}-new"
    patient = patients_of([slide_path.stem], pattern)[slide_path.stem]
    of_patient = [row["split"] for row in rows if row["patient_id"] == patient]
    rows.append(
        {
            "slide_id": name, "slide_path": slide_path, "annotation_path": None, "patient_id": patient,
            "cancer_type": "not stated", "problem": "", "mpp_override": about.get("mpp_override"),
            "split": of_patient[0] if of_patient else "train" if has_sets else "", "outline_origin": "",
            "drawn": drawn, "origin_px0": origin,
        }
    )  # fmt: skip


def _slide_of(path: Path, slide_id: str) -> Path:
    """Where the slide of that content lies: where it was outlined, or under another name in the same folder."""
    for there in [path, *sorted(path.parent.glob(f"*{path.suffix}"))]:
        if there.exists() and content_id(there) == slide_id:
            return there
    raise FileNotFoundError(f"neither {path.name} nor another file beside it is the slide that was outlined")


def _drawn(path: Path, bounds_px0: Sequence[float]) -> list[tuple[Polygon, str]]:
    """What a person drew; classes of predictions are left out."""
    found = [(polygon_of(one), one["class"]) for one in read_drawn(path, tuple(bounds_px0[:2]))]
    return [(polygon, name) for polygon, name in found if not is_prediction(name)]


class Corrections(ipywidgets.VBox):
    """Which run, and what was corrected in it.

    Attributes
    ----------
    run
        Dropdown of the project's runs.
    preset, target_class
        Of the run that is chosen.
    """

    def __init__(self, outputs_dir: str | Path, message: Message):
        self.message, self._outputs_dir = message, outputs_dir
        self.preset: dict = {}
        self.target_class: str | None = None
        self._rows: list[dict] = []
        names = [path.name for path in find_runs(outputs_dir)]
        self.run = ipywidgets.Dropdown(options=names, description="Run", **form_field())
        self.pattern = ipywidgets.Text(
            "(.+)", description="Patient is", continuous_update=False, **form_field(),
            tooltip="what this pattern finds in the name of a slide that is not of the run",
        )  # fmt: skip
        self.said = ipywidgets.HTML()
        super().__init__([self.run, self.pattern, self.said])

    @guarded
    def refresh(self) -> None:
        """Runs may have come."""
        names = [path.name for path in find_runs(self._outputs_dir)]
        if list(self.run.options) != names:
            keep = self.run.value
            self.run.options = names
            self.run.value = keep if keep in names else names[0] if names else None

    def rows(self) -> list[dict]:
        """Slides of the run with what was corrected."""
        self.refresh()
        self.said.value = ""
        if self.run.value is None:
            raise RunError("There is no run yet whose corrections could be learnt from.")
        archive = open_archive(resolve(self._outputs_dir) / self.run.value)
        target = archive.target_class
        self.target_class = target if isinstance(target, str) else target[0]
        preset_path = archive.dir / "run.yaml"
        self.preset = params.read_preset(preset_path) if preset_path.is_file() else {}
        self._rows, lost = rows_of_run(archive, self._outputs_dir, self.pattern.value)
        touched = [row for row in self._rows if row["drawn"]]
        number = sum(len(row["drawn"]) for row in touched)
        self.said.value = note(
            f"{number} outline(s) by hand on {len(touched)} slide(s). The run {archive.name} stays as it is; a new one "
            "learns from its outlines and yours. Patients stay in the set that they were in."
            if touched
            else f"Nothing was drawn by hand on the slides of {archive.name} yet: correct some predictions first."
        )
        if lost:
            self.said.value += note(
                "Left out, because the slide that they were drawn on is not found, or cannot be read, where it was: "
                f"{', '.join(lost)}. Open it in A slide from a folder, and press Save outlines there.", "bad",
            )  # fmt: skip
        return self._rows

    def write(self, name: str) -> list[dict]:
        """Write the outlines of the slides that a person touched; rows that name them.

        Raises
        ------
        ParameterError
            If nobody has corrected anything.
        """
        if not any(row["drawn"] for row in self._rows):
            raise ParameterError("Nothing was corrected yet: there is nothing new to learn from.")
        folder = resolve(self._outputs_dir) / "cohorts" / name / "outlines"
        folder.mkdir(parents=True, exist_ok=True)
        found, said, classes = [], [], self._classes()
        for row in self._rows:
            if not row["drawn"] or row["problem"]:
                found.append(row)
                continue
            old = []
            if row["annotation_path"] is not None:
                origin = (0.0, 0.0) if row["outline_origin"] == "slide" else row["origin_px0"]
                outlines = read_annotations(row["annotation_path"], origin_px0=origin).outlines
                old = [(polygon, one.class_name or UNCLASSIFIED) for one in outlines for polygon in one.polygons]
            outlines, replaced = corrected(old, row["drawn"], classes)
            path = folder / f"{row['slide_id']}.geojson"
            write_geojson(
                path, [polygon for polygon, _ in outlines], class_name=[name for _, name in outlines],
                origin_px0=row["origin_px0"], about={"corrected": self.run.value},
            )  # fmt: skip
            said.append(f"{row['slide_id']}: {len(row['drawn'])} by hand, {replaced} old one(s) replaced or taken away")
            found.append(row | {"annotation_path": path, "outline_origin": ""})
        self.said.value = note("; ".join(said))
        return found

    def _classes(self) -> set[str]:
        """Classes that the run knows: those that its preset names, and those of the outlines of all its slides."""
        asked = [self.target_class, *(self.preset.get(name) for name in ("ignore_class", "region_class"))]
        found = {name for names in asked if names for name in ([names] if isinstance(names, str) else names)}
        if not any(name.startswith(NO) for row in self._rows for _, name in row["drawn"]):
            return found  # nobody has denied anything
        for path in filter(None, (row["annotation_path"] for row in self._rows)):
            try:
                found |= {one.class_name for one in read_annotations(path).outlines if one.class_name}
            except TlskitError as error:
                log.warning("Which classes %s holds is not known: %s", path.name, error)
        return found
