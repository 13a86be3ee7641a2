"""One slide looked at before a run: does it open, is its scale known, do its outlines suit it."""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np
import shapely

from tlskit import units
from tlskit.cohort.manifest import SlideRow, open_row
from tlskit.cohort.orientation import doubt
from tlskit.errors import AnnotationError, ScaleError, SlideError
from tlskit.outlines import Annotations, Truth, describe, placement, read_annotations, read_truth, targets_of
from tlskit.slides import content_id, tissue_mask

__all__ = ["COLUMNS", "PLAUSIBLE_UM2", "Finding", "Wanted", "inspect_slide"]

log = logging.getLogger(__name__)

COLUMNS = ("severity", "slide_id", "problem", "what", "remedy")

#: Areas of one target, um2, that are believed: a disc of 25 um, and one of 5.6 mm.
PLAUSIBLE_UM2 = (500.0, 2.5e7)

#: A repair that changes an outline's area by more than this is a warning.
_REPAIR_CHANGE = 0.01


#: A picture shorter than this has no room for a piece of tissue that would be kept.
_SMALL_UM = 200


class Wanted(NamedTuple):
    """What a run asks of a slide; see `checks.check_manifest`."""

    target_class: str | Sequence[str]
    resolution_by: str = "mpp"
    tile_px: int = 512
    magnifications: Sequence[float] = (20, 10, 4, 1)
    ignore_class: str | Sequence[str] | None = None
    region_class: str | Sequence[str] | None = None
    missing_target: str = "error"
    plausible_um2: tuple[float, float] = PLAUSIBLE_UM2
    apply_icc: bool = False


@dataclass
class Finding:
    """What one slide adds to the table, and what the cohort is judged by."""

    slide_id: str
    rows: list[dict] = field(default_factory=list)
    mpp0: float = float("nan")
    n_targets: int | None = None
    n_ignored: int = 0
    fingerprint: str = ""
    quickhash: str = ""
    outlines_id: str = ""
    second_id: str = ""
    icc_profile: str = ""
    too_small_at: list[str] = field(default_factory=list)

    def add(self, severity: str, problem: str, what: str, remedy: str = "") -> None:
        self.rows.append(dict(zip(COLUMNS, (severity, self.slide_id, problem, what, remedy), strict=True)))

    def add_error(self, problem: str, error: Exception) -> None:
        what, remedy = split_message(str(error))
        self.add("error", problem, what, remedy)


def inspect_slide(row: SlideRow, wanted: Wanted) -> Finding:
    """Open a slide, decode it small, read its outlines; whatever is wrong becomes a row of the finding."""
    finding = Finding(row.slide_id)
    summary = ""
    try:
        with open_row(row, resolution_by=wanted.resolution_by, apply_icc=wanted.apply_icc) as slide:
            finding.mpp0, finding.icc_profile = slide.mpp0, slide.icc_profile
            finding.fingerprint = content_id(row.slide_path)
            finding.quickhash = slide.properties.get("openslide.quickhash-1", "")
            summary, thumbnail = _look_at_slide(slide, finding, wanted)
            truth = _read_truth(row, finding, wanted, slide)
            if truth is not None and truth.polygons:
                # One cause, one row: outlines in the wrong place have wrong areas and lie on glass, too.
                if not any(entry["problem"] == "place" for entry in finding.rows):
                    _look_at_place(truth.polygons, slide, finding, thumbnail, wanted.plausible_um2)
                summary += f"; {_counted(len(truth.polygons), 'target')}, {truth.area_mm2:.3g} mm2"
            else:
                summary += "; no target"
            summary += _look_at_second(row, finding, wanted, slide, thumbnail)
    except ScaleError as error:
        finding.add_error("scale", error)
    except (SlideError, OSError) as error:
        finding.add_error("slide", error)
        _hint_at_file(row.slide_path, finding)
    except Exception as error:  # whatever a reader throws at one slide is one row, and the rest goes on
        log.exception("%s: check", row.slide_id)
        finding.add(
            "error", "slide", f"It cannot be looked at ({type(error).__name__}: {error}).",
            "Copy the slide and its outlines again, or leave it out.",
        )  # fmt: skip
    if not summary:
        _read_truth(row, finding, wanted)  # both faults at once, where there are two
        _look_at_second(row, finding, wanted)
    if not any(entry["severity"] in ("error", "warning") for entry in finding.rows):
        finding.add("ok", "ok", f"{summary}.")
    return finding


def _look_at_slide(slide, finding: Finding, wanted: Wanted) -> tuple[str, tuple[np.ndarray, float]]:
    """A summary, and the slide's thumbnail with its um/px."""
    width, height = slide.size_px0
    beyond = []
    for magnification in wanted.magnifications:
        mpp, name = units.mpp_for_magnification(magnification), units.magnification_name(magnification)
        try:
            size = slide.size_px(mpp)
        except ScaleError:
            beyond.append(name)
        else:
            finding.too_small_at += [f"{name} ({size[0]} x {size[1]} px)"] * (min(size) < wanted.tile_px)
    if beyond:
        finding.add(
            "error", "scale", f"It was scanned at {slide.mpp0:.4g} um/px, too coarse for {', '.join(beyond)}.",
            f"Ask for {units.magnification_for_mpp(slide.mpp0):.3g}x or lower, or correct its `mpp_override`.",
        )  # fmt: skip
    thumbnail = slide.thumbnail(max_px=1024)
    if slide.lost:
        reason = str(slide.lost[0]["reason"])
        finding.add(
            "error", "pixels", f"{_counted(len(slide.lost), 'region')} cannot be read ({reason.rstrip('.')}).",
            "Copy the slide again, or export it anew from the scanner's software.",
        )  # fmt: skip
    _look_at_tissue(slide, finding)
    for said in slide.doubts:  # after reading: levels are judged when they are asked for
        scale = "um/px" in said
        finding.add(
            "warning", "scale" if scale else "pixels", said[0].upper() + said[1:].rstrip(".") + ".",
            "Measure something of known size in QuPath; give the true value as `mpp_override`." if scale
            else "It is read from a finer level; if that is slow, export the slide anew.",
        )  # fmt: skip
    return f"{width} x {height} px at {slide.mpp0:.4g} um/px ({slide.mpp_source})", thumbnail


def _look_at_tissue(slide, finding: Finding) -> None:
    """Whether there is colour, and tissue, and of which stain: a run finds tiles by it."""
    try:
        tissue = tissue_mask(slide)
    except SlideError as error:
        finding.add_error("colour", error)
        return
    small = max(slide.size_px0) * slide.mpp0 < _SMALL_UM  # said as too small for a tile
    if not tissue.area_mm2 and not small:
        finding.add(
            "warning", "tissue", "No tissue is found on it.",
            "Look at it in QuPath; tiles and maps of it will be empty.",
        )  # fmt: skip
    if tissue.stain:
        remedy = "The networks' weights and the thresholds are of H&E: look at it, and leave it out if it is not meant."
        finding.add("warning" if "brown" in tissue.stain else "note", "stain", tissue.stain, remedy)


def _read_truth(row, finding: Finding, wanted: Wanted, slide=None) -> Truth | None:
    """Read the outlines and judge what can be judged of them; without `slide`, only whether they can be read."""
    if not row.annotation_path:
        finding.add(
            "warning", "outlines", "It has no file of outlines.",
            "It can be inferred on, but neither train nor be scored; else fill `annotation_path`.",
        )  # fmt: skip
        return None
    try:
        found = read_annotations(row.annotation_path)
        _look_at_report(found, slide, finding)
        if slide is None:
            targets_of(found, wanted.target_class, missing=wanted.missing_target, path=row.annotation_path)
            return None
        truth = read_truth(
            row, slide, wanted.target_class, ignore_class=wanted.ignore_class, region_class=wanted.region_class,
            missing=wanted.missing_target,
        )  # fmt: skip
    except AnnotationError as error:
        text = str(error)
        places = {" of the class ": "class", " on the slide. Outside ": "place"}
        finding.add_error(next((problem for words, problem in places.items() if words in text), "outlines"), error)
        return None
    finding.n_targets, finding.n_ignored = len(truth.polygons), len(truth.ignored)
    shapes = [shapely.normalize(outline.geometry).wkb for outline in found.outlines]
    finding.outlines_id = hashlib.sha256(b"".join(sorted(shapes))).hexdigest() if shapes else ""
    off = placement(
        [o.geometry for o in truth.drawn], size_px0=slide.size_px0, mpp0=slide.mpp0,
        level_downsamples=slide.level_downsamples, bounds_px0=slide.bounds_px0,
    )  # fmt: skip
    for told in truth.told:
        if not (told.problem == "place" and off.kind not in ("inside", "edge")):
            finding.add(*told)
    if off.kind == "edge":
        finding.add("note", "place", *split_message(off.reason))
    elif off.kind != "inside":
        what, remedy = split_message(off.reason)
        finding.add("error", "place", what, remedy or "Draw or export them on this slide, in its pixels.")
    return truth


def _look_at_second(row, finding: Finding, wanted: Wanted, slide=None, thumbnail=None) -> str:
    """Judge the outlines of a second reader as those of the first; what is found is told as theirs."""
    if not row.annotation_path_2:
        return ""
    second = Finding(row.slide_id)
    truth = _read_truth(row._replace(annotation_path=row.annotation_path_2), second, wanted, slide)
    if truth is not None and truth.polygons and not any(entry["problem"] == "place" for entry in second.rows):
        _look_at_place(truth.polygons, slide, second, thumbnail, wanted.plausible_um2)
    for entry in second.rows:
        what, remedy = (entry[name].replace("`annotation_path`", "`annotation_path_2`") for name in ("what", "remedy"))
        finding.add(entry["severity"], entry["problem"], f"Second reader: {what}", remedy)
    finding.second_id = second.outlines_id
    if second.outlines_id and second.outlines_id == finding.outlines_id:
        finding.add(
            "error", "leak", "The second reader's outlines are the first one's, point for point.",
            "Correct `annotation_path_2`: two people never draw the same.",
        )  # fmt: skip
    return f"; second reader: {_counted(second.n_targets, 'target')}" if second.n_targets is not None else ""


def _look_at_report(found: Annotations, slide, finding: Finding) -> None:
    report = found.report
    changed = [
        r for r in report["repaired"] if abs(r["area_after_px0"] - r["area_before_px0"])
        > _REPAIR_CHANGE * max(r["area_before_px0"], r["area_after_px0"])
    ]  # fmt: skip
    said = describe(found)
    if said:
        finding.add(
            "warning" if changed or report["off_plane"] else "note", "outlines", " ".join(said),
            "Look at the repaired outlines in QuPath." if changed else "",
        )  # fmt: skip
    if slide and report["mpp"] and not 0.95 < report["mpp"] / slide.mpp0 < 1.05:
        scales = f"a scan of {report['mpp']:g} um/px; this one has {slide.mpp0:.4g}"
        finding.add(
            "warning", "outlines", f"They were drawn on {scales}.",
            "Draw them on this file, or use the scan that they were drawn on.",
        )  # fmt: skip


def _look_at_place(targets: list, slide, finding: Finding, thumbnail, plausible_um2: tuple[float, float]) -> None:
    doubted = doubt(targets, slide, *thumbnail)
    if doubted is not None and "fit the picture" in doubted.what:
        finding.add("warning", "place", *doubted)
    elif _plausible(targets, slide, finding, plausible_um2) and doubted is not None:
        finding.add("warning", "place", *doubted)


def _plausible(targets: list, slide, finding: Finding, plausible_um2: tuple[float, float]) -> bool:
    areas = np.array([p.area for p in targets]) * slide.mpp0**2
    low, high = plausible_um2
    small, large = int((areas < low).sum()), int((areas > high).sum())
    if np.median(areas) < low:
        what = f"{_counted(len(areas), 'target')}, with a median area of {np.median(areas):.3g} um2."
        what += _shrunk(targets, slide)
        remedy = "Check the um/px, and that the outlines were exported at full resolution."
    elif small or large:
        sizes = [(small, f"smaller than {low:g}"), (large, f"larger than {high:g}")]
        what = " and ".join(f"{number} {than} um2" for number, than in sizes if number)
        what = f"Of {_counted(len(areas), 'target')}, {what}."
        remedy = "Look for stray clicks and whole-tissue outlines."
    elif areas.sum() > 0.5 * slide.mpp0**2 * np.prod(slide.size_px0, dtype=float):
        what, remedy = "Targets cover more than half of the slide.", "Check the um/px and the class."
    else:
        return True
    finding.add("warning", "area", what, remedy)
    return False


def _shrunk(targets: list, slide) -> str:
    """What would explain outlines that are too small: they are in um, or of a lower level."""
    box = shapely.total_bounds(np.asarray(targets, dtype=object))
    width, height = slide.size_px0
    fits = [f for f in (4.0, 8.0, 16.0, 32.0) if box[2] * f <= width * 1.02 and box[3] * f <= height * 1.02]
    if not fits:
        return ""
    if slide.mpp0 < 0.9 and box[2] / slide.mpp0 <= width * 1.02 and box[3] / slide.mpp0 <= height * 1.02:
        return f" All lie in the upper left corner: they may be in um (divide by {slide.mpp0:.4g}) or of a lower level."
    return f" All lie in the upper left corner: they may be of a lower level (multiply by {fits[0]:g} or more)."


def _hint_at_file(slide_path: str, finding: Finding) -> None:
    """Name a file that may be meant, in place of the usual remedy."""
    path = Path(slide_path)
    if path.is_file():
        return
    if PureWindowsPath(slide_path).drive and not Path(slide_path).is_absolute():
        finding.rows[-1]["remedy"] = "It is a path of Windows; write the one on this computer, relative to the CSV."
    elif path.parent.is_dir():
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), n=1)
        if near:
            finding.rows[-1]["remedy"] = f"Is it {near[0]}? Correct its `slide_path`."
    else:
        finding.rows[-1]["remedy"] = f"There is no folder {path.parent} either; is the drive mounted?"


def _counted(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def split_message(message: str) -> tuple[str, str]:
    """What is wrong, and what to do: our errors end with the remedy."""
    match = re.match(r"(.*?[.])\s+(?=[A-Z`])(.*)", message, flags=re.DOTALL)
    return (match[1], match[2]) if match else (message, "")
