"""Patients to training, validation and test: a function of (manifest, ratios, split_seed), never of magnification."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import LeakageError, RunError
from tlskit.files import write_text

__all__ = [
    "SPLITS",
    "attach_split",
    "keep_split",
    "leakage_check",
    "read_split",
    "split_hash",
    "split_patients",
    "split_summary",
]

#: The three sets, in the order in which they are always shown.
SPLITS = ("train", "val", "test")


def split_patients(manifest: pd.DataFrame, *, ratios: Sequence[float] = (0.70, 0.15, 0.15), seed: int) -> pd.DataFrame:
    """Assign every patient to train, val or test, stratified by cancer type.

    Patients of one cancer type are shuffled, and the types laid one after another; along that row each patient goes
    to the set that is furthest behind its share, within the type first and in the whole second. So the totals are
    as near to the ratios as whole patients allow, and no type is missing from training. A ``split`` column in the
    manifest, where it is filled for every slide, is taken as it stands instead.

    Parameters
    ----------
    manifest
        With ``patient_id`` and ``cancer_type``, and perhaps ``split``. The order of its rows does not matter.
    ratios
        Shares of train, val and test; they are divided by their sum.
    seed
        Of the shuffle.

    Returns
    -------
    DataFrame
        One row a patient, sorted: ``patient_id, cancer_type, split``.

    Raises
    ------
    LeakageError
        If the manifest's own ``split`` puts a patient into two sets.
    ValueError
        If a set would stay empty.
    """
    patients = (
        manifest.groupby("patient_id", sort=True)["cancer_type"].agg(lambda types: sorted(types)[0]).reset_index()
    )
    if "split" in manifest and (manifest["split"].fillna("") != "").any():
        given = manifest.loc[:, ["patient_id", "split"]].drop_duplicates()
        _refuse_shared(given)
        split = patients.merge(given, on="patient_id", how="left")
        if split["split"].isna().any() or (split["split"] == "").any():
            missing = ", ".join(split.loc[split["split"].fillna("") == "", "patient_id"].head(5))
            raise LeakageError(f"The manifest's `split` column is filled only in part; it is empty for: {missing}.")
        return split

    shares = np.asarray(ratios, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError(f"`split_ratios` should be three shares such as [0.70, 0.15, 0.15], not {list(ratios)}.")
    shares = shares / shares.sum()
    wanted_sets = int((shares > 0).sum())
    if len(patients) < wanted_sets:
        raise ValueError(
            f"{len(patients)} patients cannot fill {wanted_sets} sets. A split is by patient; add patients, or set a "
            "share of `split_ratios` to 0."
        )
    rng = np.random.default_rng(seed)
    total = _whole_patients(shares, len(patients))
    taken = np.zeros(3, dtype=int)
    assigned = {}
    # Large types first: they can follow the shares; small ones then fill what is missing in the whole.
    sizes = patients["cancer_type"].value_counts()
    for cancer_type in sorted(sizes.index, key=lambda t: (-sizes[t], t)):
        members = patients.loc[patients["cancer_type"] == cancer_type, "patient_id"].to_numpy()
        rng.shuffle(members)
        here = np.zeros(3, dtype=int)
        for patient in members:
            lag_here = shares * len(members) - here
            lag_total = (total - taken) / np.maximum(total, 1)
            open_sets = taken < total
            choice = int(np.argmax(np.where(open_sets, lag_here + 0.5 * lag_total, -np.inf)))
            here[choice] += 1
            taken[choice] += 1
            assigned[patient] = SPLITS[choice]
    return patients.assign(split=patients["patient_id"].map(assigned))


def _whole_patients(shares: np.ndarray, n_patients: int) -> np.ndarray:
    """Largest-remainder rounding of ``shares * n_patients``, with no wanted set left empty."""
    exact = shares * n_patients
    whole = np.floor(exact).astype(int)
    whole[np.argsort(-(exact - whole), kind="stable")[: n_patients - whole.sum()]] += 1
    for empty in np.flatnonzero((whole == 0) & (shares > 0)):
        whole[np.argmax(whole)] -= 1
        whole[empty] += 1
    return whole


def _refuse_shared(assignments: pd.DataFrame) -> None:
    sets = assignments.drop_duplicates().groupby("patient_id")["split"].agg(list)
    shared = sets[sets.map(len) > 1]
    if len(shared):
        named = "; ".join(f"{patient} in {' and '.join(sorted(where))}" for patient, where in shared.items())
        raise LeakageError(
            f"{len(shared)} patient(s) stand in more than one set: {named}. A patient's slides must all lie in one "
            "set, or the test scores are of patients that the model has seen."
        )


def attach_split(table: pd.DataFrame, split: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``split`` to a table with ``patient_id``.

    Raises
    ------
    LeakageError
        If a patient stands in two sets, or in none.
    """
    _refuse_shared(split[["patient_id", "split"]])
    merged = table.drop(columns="split", errors="ignore").merge(
        split[["patient_id", "split"]], on="patient_id", how="left", validate="many_to_one"
    )
    without = sorted(merged.loc[merged["split"].isna(), "patient_id"].unique())
    if without:
        raise LeakageError(
            f"No set is known for patient(s) {', '.join(without[:5])}: the split was made of another manifest."
        )
    return merged


def split_hash(split: pd.DataFrame) -> str:
    """SHA-256 of who is in which set, whatever the row order; a checkpoint carries it."""
    rows = sorted(f"{row.patient_id}\t{row.split}" for row in split.itertuples())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def keep_split(split: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Write the split once per run; where it is there already it must be the same.

    Raises
    ------
    RunError
        If `path` holds another split: the arms of a run must stand on the same patients.
    """
    path = Path(path)
    if path.is_file():
        there = read_split(path)
        if split_hash(there) != split_hash(split):
            raise RunError(
                f"{path.name} of this run holds another split than the manifest, ratios and seed give now. All arms of "
                "a run share one split: use a new `run_name`, or delete the run's folder to start it afresh."
            )
        return there
    write_text(path, split.to_csv(index=False, lineterminator="\n"))
    return split


def read_split(path: str | Path) -> pd.DataFrame:
    """Read ``patient_id, cancer_type, split`` as text."""
    path = Path(path)
    if not path.is_file():
        raise RunError(f"There is no {path.name} in this run yet: run 02_patient_split first.")
    split = pd.read_csv(path, dtype=str, keep_default_na=False)
    _refuse_shared(split[["patient_id", "split"]])
    return split


def split_summary(slides: pd.DataFrame, tiles: pd.DataFrame | None = None) -> pd.DataFrame:
    """Patients, slides and (where given) tiles by set and cancer type, with a total for each set.

    Parameters
    ----------
    slides, tiles
        Tables with ``split``, ``cancer_type``, ``patient_id``; `slides` has one row a slide, `tiles` one a tile.
    """
    rows = []
    for name in SPLITS:
        in_set = slides[slides["split"] == name]
        groups = [(cancer_type, group) for cancer_type, group in in_set.groupby("cancer_type")]
        for cancer_type, group in [*groups, ("all", in_set)]:
            row = {
                "split": name,
                "cancer_type": cancer_type,
                "patients": group["patient_id"].nunique(),
                "slides": len(group),
            }
            if tiles is not None:
                here = tiles[
                    (tiles["split"] == name) & ((cancer_type == "all") | (tiles["cancer_type"] == cancer_type))
                ]
                row["tiles"] = len(here)
                row["tiles_with_target"] = int((here["target_fraction"] > 0).sum())
            rows.append(row)
    return pd.DataFrame(rows)


def leakage_check(tiles: pd.DataFrame) -> pd.DataFrame:
    """Patients, slides and tiles that two sets share: one row a pair of sets, all zeros when nothing leaks."""
    rows = []
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        row = {"sets": f"{first} and {second}"}
        for what in ("patient_id", "slide_id", "tile_id"):
            a, b = (set(tiles.loc[tiles["split"] == name, what]) for name in (first, second))
            row[f"shared_{what.removesuffix('_id')}s"] = len(a & b)
        rows.append(row)
    return pd.DataFrame(rows)
