"""Whether a study can be made of a cohort at all: every set that is trained or validated on holds a target.

Asked before anything runs, from the manifest and the files of outlines; no slide is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd

from tlskit.cohort.manifest import slide_rows
from tlskit.errors import AnnotationError
from tlskit.outlines import read_targets

__all__ = ["check_sets", "patients_with_target"]

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
            known = [has_target.get(patient) for patient in patients]
            if len(patients) and not any(known) and None not in known:
                where = "" if fold is None else f"fold {fold}: "
                listed = ", ".join(patients.head(5)) + (", ..." if len(patients) > 5 else "")
                faults.append(f"{where}none of the {len(patients)} patient(s) of the set {name} ({listed}): {why}")
    if faults:
        raise ValueError(
            "Some sets of patients have no outline of the target:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\nUse another `split_seed`, other `split_ratios` fewer `folds`, or fill the manifest's `split` column."
        )
