"""What would go wrong in a run, found before it: the manifest, each slide, its scale, its outlines, the split.

table = checks.check_manifest("data/manifest.csv", target_class="TLS")
print(checks.as_text(table))
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from tlskit.cohort import splitting
from tlskit.cohort.feasibility import check_sets
from tlskit.cohort.inspection import COLUMNS, PLAUSIBLE_UM2, Finding, Wanted, inspect_slide
from tlskit.cohort.manifest import COLUMNS as MANIFEST_COLUMNS
from tlskit.cohort.manifest import OPTIONAL_COLUMNS, inspect_manifest, slide_rows
from tlskit.errors import LeakageError, ManifestError
from tlskit.outlines import check_classes

__all__ = ["COLUMNS", "SEVERITIES", "as_text", "check_manifest"]

#: error: the slide, or the run, will fail. warning: look at it. note: worth knowing. ok: nothing was found.
SEVERITIES = ("error", "warning", "note", "ok")


#: So many slides that share a fault of size have a row each; more have one together.
_SAID_ONE_BY_ONE = 3


def check_manifest(
    path: str | Path,
    *,
    target_class: str | Sequence[str],
    resolution_by: str = "mpp",
    tile_px: int = 512,
    magnifications: Sequence[float] = (20, 10, 4, 1),
    ignore_class: str | Sequence[str] | None = None,
    region_class: str | Sequence[str] | None = None,
    missing_target: str = "error",
    split_ratios: Sequence[float] = (0.70, 0.15, 0.15),
    split_seed: int = 0,
    folds: int = 0,
    plausible_um2: tuple[float, float] = PLAUSIBLE_UM2,
    apply_icc: bool = False,
    workers: int = 2,
) -> pd.DataFrame:
    """Open every slide of a manifest and read its outlines, and say what is wrong.

    Parameters
    ----------
    path
        The manifest; rows with faults are reported, the others looked at all the same.
    target_class, ignore_class, region_class, missing_target
        See `truth.read_truth`.
    resolution_by, apply_icc
        See `slides.open_slide`.
    tile_px, magnifications
        Of the run: whether the scans have that resolution, and a tile's room.
    split_ratios, split_seed, folds
        Of the run: whether the patients can be split so, and every set that is learnt or chosen on holds a target.
    plausible_um2
        Areas between which a target is believed.
    workers
        Slides looked at together.

    Returns
    -------
    DataFrame
        ``severity`` (error, warning, note, ok), ``slide_id`` (empty: the whole cohort), ``problem`` (``manifest``,
        ``slide``, ``scale``, ``colour``, ``pixels``, ``tissue``, ``stain``, ``size``, ``outlines``, ``class``,
        ``area``, ``place``, ``split``, ``leak`` or ``ok``), ``what``, ``remedy``. Errors first, then in the manifest's
        order. A slide without error or warning has one row ``ok`` that says what was found.
    """
    check_classes(target_class, ignore_class, region_class)
    whole = Finding("")
    try:
        slides, faults = inspect_manifest(path)
    except ManifestError as error:
        slides, faults = pd.DataFrame(columns=[*MANIFEST_COLUMNS, *OPTIONAL_COLUMNS]), []
        whole.add_error("manifest", error)
    for fault in faults:
        whole.add("error", "manifest", f"{fault}.", "Correct the CSV.")
    wanted = Wanted(
        target_class, resolution_by, tile_px, magnifications, ignore_class, region_class, missing_target,
        plausible_um2, apply_icc,
    )  # fmt: skip
    rows = list(slide_rows(slides))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        looks = pool.map(lambda row: inspect_slide(row, wanted), rows)
        found = list(tqdm(looks, total=len(rows), desc="check", unit="slide", disable=not rows))
    if not faults and rows:
        _look_at_split(slides, found, whole, ratios=split_ratios, seed=split_seed, folds=folds)
    _look_at_cohort(slides, found, whole, ignore_class)
    _look_at_sizes(found, whole, tile_px)
    if apply_icc:
        _look_at_profiles(found, whole)
    table = pd.DataFrame([row for finding in (whole, *found) for row in finding.rows], columns=list(COLUMNS))
    for name in ("what", "remedy"):  # paths as they stand in the manifest
        table[name] = table[name].str.replace(f"{Path(path).absolute().parent}{os.sep}", "", regex=False)
    order = table["severity"].map({name: i for i, name in enumerate(SEVERITIES)})
    return table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def _look_at_split(slides: pd.DataFrame, found: list[Finding], whole: Finding, **asked) -> None:
    targets, unread = defaultdict(int), set()
    for patient, finding in zip(slides["patient_id"], found, strict=True):
        targets[patient] += finding.n_targets or 0
        if finding.n_targets is None:
            unread.add(patient)
    try:
        split = splitting.split_patients(slides, **asked)
    except (LeakageError, ValueError) as error:
        whole.add_error("split", error)
        return
    try:
        check_sets(split, {patient: n > 0 or (None if patient in unread else False) for patient, n in targets.items()})
    except ValueError as error:
        whole.add_error("split", error)
    for fold, one in split.groupby("fold") if "fold" in split else [(None, split)]:
        where = "" if fold is None else f" of fold {fold}"
        tested = one.loc[one["split"] == "test", "patient_id"]
        if len(tested) and not any(targets[patient] for patient in tested):
            whole.add(
                "warning", "split", f"No slide of the test set{where} holds a target: there is no recall to measure.",
                "Change `split_seed`, or fill the manifest's `split` column by hand.",
            )  # fmt: skip
        counts = one["split"].value_counts()
        listed = ", ".join(f"{name} {counts[name]}" for name in splitting.SPLITS if name in counts)
        whole.add("note", "split", f"Patients by set{where}: {listed}.")
    types = slides.groupby("patient_id")["cancer_type"].unique()
    for patient, several in types[types.map(len) > 1].items():
        whole.add(
            "warning", "split", f"Patient {patient} has the cancer types {', '.join(sorted(several))}.",
            "If that is a slip, correct it; the first in the alphabet is used for the split.",
        )  # fmt: skip


def _look_at_cohort(slides: pd.DataFrame, found: list[Finding], whole: Finding, ignore_class) -> None:
    # The same file by its content; and where OpenSlide knows it by its smallest level, a file saved once more.
    for ids in dict.fromkeys(tuple(ids) for name in ("fingerprint", "quickhash") for ids in _alike(found, name)):
        whole.add("error", "leak", f"Slides {', '.join(ids)} are the same scan.", "Keep one of them.")
    for ids in _alike(found, "outlines_id"):
        whole.add(
            "error", "leak", f"Slides {', '.join(ids)} have the same outlines, point for point.",
            "Correct `annotation_path`: outlines are of one slide.",
        )  # fmt: skip
    for ids in _alike(found, "second_id"):
        whole.add(
            "error", "leak", f"Slides {', '.join(ids)} have the same outlines of a second reader, point for point.",
            "Correct `annotation_path_2`: outlines are of one slide.",
        )  # fmt: skip
    if second := int((slides["annotation_path_2"] != "").sum()):
        whole.add("note", "outlines", f"{second} of {len(slides)} slides have outlines of a second reader.")
    scales = Counter(f"{finding.mpp0:.2g}" for finding in found if finding.mpp0 == finding.mpp0)
    if len(scales) > 1:
        listed = ", ".join(f"{n} at {mpp} um/px" for mpp, n in scales.most_common())
        whole.add("note", "scale", f"Scans differ ({listed}); all are read at the same um/px.")
    if found and not any(finding.n_targets for finding in found):
        whole.add("error", "class", "No slide holds a target.", "Check `target_class` and the outlines.")
    if ignore_class and found and not any(finding.n_ignored for finding in found):
        whole.add("warning", "class", f"No slide holds the ignored class {ignore_class!r}.", "Check `ignore_class`.")


def _alike(found: list[Finding], attribute: str) -> list[list[str]]:
    """Ids of slides that share what tells one from another."""
    same = defaultdict(list)
    for finding in found:
        if value := getattr(finding, attribute):
            same[value].append(finding.slide_id)
    return [ids for ids in same.values() if len(ids) > 1]


def _look_at_sizes(found: list[Finding], whole: Finding, tile_px: int) -> None:
    """A tile larger than one slide is that slide's matter; one larger than many is the run's, and said once."""
    small = [finding for finding in found if finding.too_small_at]
    remedy = "No tile is kept under `edge_tiles: drop`; use `pad`, or a smaller `tile_px`."
    if len(small) <= _SAID_ONE_BY_ONE:
        for finding in small:
            what = f"It is smaller than a tile of {tile_px} px at {', '.join(finding.too_small_at)}."
            finding.rows = [row for row in finding.rows if row["severity"] != "ok"]
            finding.add("warning", "size", what, remedy)
        return
    at = Counter(name.split()[0] for finding in small for name in finding.too_small_at)
    listed = ", ".join(f"{n} at {name}" for name, n in at.items())
    whole.add(
        "warning", "size", f"{len(small)} of {len(found)} slides are smaller than a tile of {tile_px} px: {listed}. "
        f"{_named(small)}.", remedy,
    )  # fmt: skip


def _look_at_profiles(found: list[Finding], whole: Finding) -> None:
    opened = [finding for finding in found if finding.mpp0 == finding.mpp0]
    bare = [finding for finding in opened if not finding.icc_profile]
    if bare:
        whole.add(
            "warning", "colour", f"{len(bare)} of {len(opened)} slides carry no ICC profile: {_named(bare)}.",
            "Their colours stay as scanned, the others are corrected; `apply_icc: false` leaves all as they are.",
        )  # fmt: skip


def _named(found: list[Finding], most: int = 5) -> str:
    """Ids of some slides."""
    listed = ", ".join(finding.slide_id for finding in found[:most])
    return f"{listed} and {len(found) - most} more" if len(found) > most else listed


def as_text(table: pd.DataFrame, *, width: int = 110) -> str:
    """A table of `check_manifest` as lines that fit a terminal, with a count at the end."""
    return "\n".join([*_lines(table, width), _count(table)])


def _lines(table: pd.DataFrame, width: int) -> Iterator[str]:
    for row in table.itertuples():
        head = f"{row.severity.upper():<8}{row.slide_id or 'cohort'}"
        text = row.what if row.problem == "ok" else f"{row.problem}: {row.what}"
        yield from textwrap.wrap(f"{head}  {text}", width, subsequent_indent=" " * 10, break_long_words=False)
        if row.remedy:
            yield from textwrap.wrap(
                f"-> {row.remedy}", width, initial_indent=" " * 8, subsequent_indent=" " * 11, break_long_words=False
            )


def _count(table: pd.DataFrame) -> str:
    counted = Counter(table["severity"])
    named = [f"{counted[name]} {name}{'' if counted[name] == 1 else 's'}" for name in ("error", "warning")]
    return f"{', '.join(named)}, {counted['ok']} slides without either."
