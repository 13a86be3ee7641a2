"""One slide looked at before a run: does it open, is its scale known, do its outlines suit it."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np
import shapely

from tlskit import units
from tlskit.cohort.manifest import SlideRow, open_row
from tlskit.errors import AnnotationError, ScaleError, SlideError
from tlskit.outlines import (
    UNCLASSIFIED,
    Annotations,
    describe,
    placement,
    rasterise,
    read_annotations,
    targets_of,
    without_ignored,
)

__all__ = ["COLUMNS", "PLAUSIBLE_UM2", "Finding", "Wanted", "inspect_slide"]

COLUMNS = ("severity", "slide_id", "problem", "what", "remedy")

#: Areas of one target, um2, that are believed: a disc of 25 um, and one of 5.6 mm.
PLAUSIBLE_UM2 = (500.0, 2.5e7)

#: A repair that changes an outline's area by more than this is a warning.
_REPAIR_CHANGE = 0.01

#: Glass is brighter than this in every channel.
_GLASS = 225

#: Objective power and um/px may disagree by this factor; scanners of 20x with 0.23 um/px are told.
_POWER_FACTOR = 1.5


class Wanted(NamedTuple):
    """What a run asks of a slide; see `checks.check_manifest`."""

    target_class: str | Sequence[str]
    resolution_by: str = "mpp"
    tile_px: int = 512
    magnifications: Sequence[float] = (20, 10, 4, 1)
    ignore_class: str | Sequence[str] | None = None
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
            finding.fingerprint = slide.properties.get("openslide.quickhash-1", "")
            summary, thumbnail = _look_at_slide(slide, finding, wanted)
            targets = _read_targets(row, finding, wanted, slide)
            if targets:
                # One cause, one row: outlines in the wrong place have wrong areas and lie on glass, too.
                if _well_placed(targets, slide, finding) and _plausible(targets, slide, finding, wanted.plausible_um2):
                    _look_for_glass(targets, slide.mpp0, *thumbnail, finding)
                area_mm2 = units.area_mm2(sum(p.area for p in targets), slide.mpp0)
                summary += f"; {_counted(len(targets), 'target')}, {area_mm2:.3g} mm2"
            else:
                summary += "; no target"
    except ScaleError as error:
        finding.add_error("scale", error)
    except (SlideError, OSError) as error:
        finding.add_error("slide", error)
        _hint_at_file(row.slide_path, finding)
    if not summary:
        _read_targets(row, finding, wanted)  # both faults at once, where there are two
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
    power = slide.objective_power
    if power and slide.mpp_source != "objective":
        factor = slide.mpp0 * power / units.UM_PER_PX_AT_1X
        if not 1 / _POWER_FACTOR <= factor <= _POWER_FACTOR:
            scale = f"{slide.mpp0:g} um/px ({slide.mpp_source})"
            finding.add(
                "warning", "scale", f"{scale} does not suit an objective of {power:g}x.",
                "Measure something of known size in QuPath; give the true value as `mpp_override`.",
            )  # fmt: skip
    thumbnail = slide.thumbnail(max_px=1024)
    if slide.lost:
        reason = str(slide.lost[0]["reason"])
        finding.add(
            "error", "pixels", f"{_counted(len(slide.lost), 'region')} cannot be read ({reason.rstrip('.')}).",
            "Copy the slide again, or export it anew from the scanner's software.",
        )  # fmt: skip
    return f"{width} x {height} px at {slide.mpp0:.4g} um/px ({slide.mpp_source})", thumbnail


def _read_targets(row, finding: Finding, wanted: Wanted, slide=None) -> list:
    """Read the outlines and judge what can be judged of them; without `slide`, only whether they can be read."""
    if not row.annotation_path:
        finding.add(
            "warning", "outlines", "It has no file of outlines.",
            "It can be inferred on, but neither train nor be scored; else fill `annotation_path`.",
        )  # fmt: skip
        return []
    try:
        origin_px0 = slide.bounds_px0[:2] if slide else (0, 0)
        found = read_annotations(row.annotation_path, origin_px0=origin_px0)
        _look_at_report(found, slide, finding)
        rest, ignored = without_ignored(found, wanted.ignore_class)
        finding.n_ignored = len(ignored)
        targets = targets_of(rest, wanted.target_class, missing=wanted.missing_target, path=row.annotation_path)
    except AnnotationError as error:
        finding.add_error("class" if " of the class " in str(error) else "outlines", error)
        return []
    _look_at_names(found, wanted.target_class, finding)
    finding.n_targets = len(targets)
    return targets


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
    copies = Counter(shapely.normalize(o.geometry).wkb for o in found.outlines)
    twice = sum(n - 1 for n in copies.values())
    if twice:
        finding.add(
            "warning",
            "outlines",
            f"{_counted(twice, 'copy', 'copies')} of outlines in the file.",
            "Delete them in QuPath; each counts as an object.",
        )


def _look_at_names(found: Annotations, target_class, finding: Finding) -> None:
    """Names that differ from the class by case, spaces or punctuation alone are likely slips."""
    wanted = [target_class] if isinstance(target_class, str) else list(target_class)
    plain = {re.sub(r"\W+", "", name).lower() for name in wanted}
    for name, count in found.report["classes"].items():
        if name not in wanted and name != UNCLASSIFIED and re.sub(r"\W+", "", name).lower() in plain:
            finding.add(
                "warning", "class", f"It also holds {count} of the class {name!r}, which is not used.",
                "Give them the same class in QuPath, or list both in `target_class`.",
            )  # fmt: skip


def _well_placed(targets: list, slide, finding: Finding) -> bool:
    where = placement(
        targets, size_px0=slide.size_px0, mpp0=slide.mpp0, level_downsamples=slide.level_downsamples,
        bounds_px0=slide.bounds_px0,
    )  # fmt: skip
    what, remedy = split_message(where.reason)
    if where.kind == "edge":
        finding.add("note", "place", what, remedy)
    elif where.kind != "inside":
        finding.add("error", "place", what, remedy or "Draw or export them on this slide, in its pixels.")
        return False
    return True


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


def _look_for_glass(targets: list, mpp0: float, image: np.ndarray, mpp: float, finding: Finding) -> None:
    """Targets on bare glass are of another slide, or shifted."""
    height, width = image.shape[:2]
    mask = rasterise(targets, x_px=0, y_px=0, width_px=width, height_px=height, mpp=mpp, mpp0=mpp0)
    bare = float((image[mask].min(axis=1) > _GLASS).mean()) if mask.any() else 0.0
    if bare > 0.5:
        finding.add(
            "warning", "place", f"{bare:.0%} of the targets' area is bare glass.",
            "They may belong to another slide, or be shifted; look at both in QuPath.",
        )  # fmt: skip


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
