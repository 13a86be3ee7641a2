"""Whether a study can be made of a cohort at all: no slide stands in it twice, every set that is learnt or chosen on
holds a target.

Asked before anything runs, from the manifest and the files themselves; no slide is opened.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from tlskit.cohort.manifest import slide_rows
from tlskit.errors import AnnotationError, LeakageError, TlskitError
from tlskit.files import sha256_of_file
from tlskit.outlines import read_annotations, read_targets
from tlskit.slides import content_id

__all__ = ["check_copies", "check_sets", "patients_with_target"]

log = logging.getLogger(__name__)

#: Without a target among these patients nothing is learnt, or no epoch and no threshold can be chosen.
_NEEDED = {"train": "nothing could be learnt from it", "val": "no epoch, threshold or arm could be chosen on it"}


def patients_with_target(manifest: pd.DataFrame, target_class: str | Sequence[str]) -> dict[str, bool | None]:
    """Of each patient whether any of its slides holds an outline of the class; None where a file cannot be read.

    A file that cannot be read is for the steps to report: here it only means that nothing is known.
    """
    held: dict[str, bool | None] = {}
    for row in slide_rows(manifest):
        try:
            here = bool(row.annotation_path) and bool(
                len(read_targets(row.annotation_path, target_class, missing="empty"))
            )
        except (AnnotationError, OSError) as error:
            log.warning("%s: its outlines cannot be read yet (%s)", row.slide_id, error)
            here = None
        before = held.get(row.patient_id, False)
        held[row.patient_id] = True if here or before else None if here is None or before is None else False
    return held


def check_copies(manifest: pd.DataFrame) -> None:
    """Refuse a cohort in which a slide, or a file of outlines, stands under two names.

    Known by content, so that a copy or a link is found as well. Files of outlines that hold none may be alike.

    Raises
    ------
    LeakageError
        Naming the slides: one of them may be trained on and the other tested.
    """
    rows = list(slide_rows(manifest))
    faults = [f"{ids} are the same scan" for ids in _alike(rows, lambda row: content_id(row.slide_path))]
    faults += [f"{ids} have the same outlines" for ids in _alike(rows, _outlines_id)]
    if faults:
        listed = "; ".join(faults)
        raise LeakageError(f"Slides stand in the cohort twice: {listed}. Keep one of them, or correct the paths.")


def _alike(rows: list, identity: Callable) -> list[str]:
    """Slides that share what tells one from another; what cannot be read is for the steps to report."""
    same = defaultdict(list)
    for row in rows:
        try:
            same[identity(row)].append(row.slide_id)
        except (TlskitError, OSError) as error:
            log.warning("%s: it cannot be compared with the others yet (%s)", row.slide_id, error)
    return [" and ".join(ids) for value, ids in same.items() if value and len(ids) > 1]


def _outlines_id(row) -> str:
    path = Path(row.annotation_path)
    if not row.annotation_path or not path.is_file() or not read_annotations(path).outlines:
        return ""
    return sha256_of_file(path)


def check_sets(split: pd.DataFrame, has_target: dict[str, bool | None]) -> None:
    """Refuse a split, or a fold, in which the training or validation patients have no target.

    Parameters
    ----------
    split
        Of `split_patients`, with or without folds.
    has_target
        Of `patients_with_target`.

    Raises
    ------
    ValueError
        Naming every set and fold without a target, and what to change.
    """
    faults = []
    for fold, one in split.groupby("fold") if "fold" in split else [(None, split)]:
        for name, why in _NEEDED.items():
            patients = one.loc[one["split"] == name, "patient_id"]
            where = "" if fold is None else f"fold {fold}: "
            known = [has_target.get(patient) for patient in patients]
            if patients.empty:
                faults.append(f"{where}the set {name} has no patient: {why}")
            if len(patients) and not any(known) and None not in known:
                listed = ", ".join(patients.head(5)) + (", ..." if len(patients) > 5 else "")
                faults.append(f"{where}none of the {len(patients)} patient(s) of the set {name} ({listed}): {why}")
    if faults:
        raise ValueError(
            "Some sets of patients have no outline of the target:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\nUse another `split_seed`, other `split_ratios`, fewer `folds`, or fill the manifest's `split` column."
        )
