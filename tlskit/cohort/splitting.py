"""Patients to training, validation and test: a function of (manifest, ratios or folds, split_seed).

Never of magnification. With folds there are several splits of the same patients, one a fold, in which together every
patient is tested exactly once.
"""

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
    "check_folds",
    "keep_split",
    "leakage_check",
    "read_split",
    "split_hash",
    "split_patients",
    "split_summary",
]

#: The three sets, in the order in which they are always shown.
SPLITS = ("train", "val", "test")


#: Fewer would leave nothing to train on beside a fold of validation and one of test.
LEAST_FOLDS = 3


def split_patients(
    manifest: pd.DataFrame, *, ratios: Sequence[float] = (0.70, 0.15, 0.15), folds: int = 0, seed: int
) -> pd.DataFrame:
    """Assign every patient to train, val or test, stratified by cancer type.

    Patients of one cancer type are shuffled, and the types laid one after another; along that row each patient goes
    to the set that is furthest behind its share, within the type first and in the whole second. So the totals are
    as near to the ratios as whole patients allow, and no type is missing from training. A ``split`` column in the
    manifest, where it is filled for every slide, is taken as it stands instead.

    With `folds` the shuffled patients of all types are dealt to that many groups in turn, so that groups differ by at
    most one patient in each type and in the whole. Fold k tests group k, validates on the next one, and trains on the
    others: over all folds every patient is tested once, and validated on once.

    Parameters
    ----------
    manifest
        With ``patient_id`` and ``cancer_type``, and perhaps ``split``. The order of its rows does not matter.
    ratios
        Shares of train, val and test; they are divided by their sum. Of no account where there are folds.
    folds
        0 for one split, or the number of splits, 3 or more.
    seed
        Of the shuffle.

    Returns
    -------
    DataFrame
        One row a patient, sorted: ``patient_id, cancer_type, split``. With `folds` one row a fold and patient, and
        ``fold`` (from 0) before ``split``.

    Raises
    ------
    LeakageError
        If the manifest's own ``split`` puts a patient into two sets.
    ValueError
        If a set would stay empty, there are fewer than 3 folds, or a cancer type has fewer patients than folds: it
        would not be tested in every fold.
    """
    patients = (
        manifest.groupby("patient_id", sort=True)["cancer_type"].agg(lambda types: sorted(types)[0]).reset_index()
    )
    stated = "split" in manifest and (manifest["split"].fillna("") != "").any()
    if folds:
        if stated:
            raise ValueError(
                "The manifest has a `split` column of its own, which is one split; `folds` makes several. Empty the "
                "column, or set `folds: 0`."
            )
        return _fold_patients(patients, folds, seed)
    if stated:
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


def _fold_patients(patients: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """The long table of all folds; see `split_patients`."""
    if folds < LEAST_FOLDS:
        raise ValueError(
            f"`folds` should be 0 (one split) or at least {LEAST_FOLDS}: one group is tested, one validated on, and "
            f"the others trained on. It is {folds}."
        )
    sizes = patients["cancer_type"].value_counts()
    small = sizes[sizes < folds]
    if len(small):
        listed = ", ".join(f"{cancer_type} ({n})" for cancer_type, n in sorted(small.items()))
        least = int(sizes.min())
        fewer = f"Use `folds: {least}` or fewer, or g" if least >= LEAST_FOLDS else "G"
        raise ValueError(
            f"`folds: {folds}` asks for at least {folds} patients of every cancer type, so that each fold tests it. "
            f"Too few have: {listed}. {fewer}ive small types one name in the manifest."
        )
    rng = np.random.default_rng(seed)
    dealt: list[str] = []
    for cancer_type in sorted(sizes.index, key=lambda t: (-sizes[t], t)):
        members = patients.loc[patients["cancer_type"] == cancer_type, "patient_id"].to_numpy()
        rng.shuffle(members)
        dealt += members.tolist()
    group = patients["patient_id"].map({patient: place % folds for place, patient in enumerate(dealt)}).to_numpy()
    tables = []
    for fold in range(folds):
        split = np.select([group == fold, group == (fold + 1) % folds], ["test", "val"], "train")
        tables.append(patients.assign(fold=fold, split=split))
    return pd.concat(tables, ignore_index=True)


def _of_fold(split: pd.DataFrame, fold: int) -> pd.DataFrame:
    """The split of one fold; a table without folds is fold 0 of itself."""
    if "fold" not in split:
        if fold:
            raise RunError(
                f"`fold: {fold}` was asked for, but the patients are divided once, without folds. Set `folds` in the "
                "preset, and sweep `fold`."
            )
        return split
    numbers = split["fold"].astype(int)
    if fold not in set(numbers):
        raise RunError(
            f"There is no fold {fold} among {numbers.nunique()} folds, which are counted from 0: sweep `fold: "
            f"{sorted(set(numbers.tolist()))}`."
        )
    return split[numbers == fold].drop(columns="fold").reset_index(drop=True)


def check_folds(split: pd.DataFrame) -> pd.DataFrame:
    """A table of folds as it is, after looking that its splits fit together.

    Raises
    ------
    LeakageError
        If within a fold a patient stands in two sets, or over all folds one is not tested exactly once.
    """
    for _, one in split.groupby("fold"):
        _refuse_shared(one[["patient_id", "split"]])
    tested = split[split["split"] == "test"].groupby("patient_id").size()
    times = tested.reindex(sorted(split["patient_id"].unique()), fill_value=0)
    odd = times[times != 1]
    if len(odd):
        named = ", ".join(f"{patient} {n} times" for patient, n in odd.head(5).items())
        raise LeakageError(
            f"Over all folds every patient should be tested once; {len(odd)} are not: {named}. Delete split.csv of the "
            "run and make it again."
        )
    return split


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
    """Add the column ``split`` to a table with ``patient_id``; `split` is one split, or one fold (`read_split`).

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
    fold = split["fold"].astype(str) + "\t" if "fold" in split else ""
    rows = sorted(fold + split["patient_id"] + "\t" + split["split"])
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def keep_split(split: pd.DataFrame, path: str | Path, *, fold: int = 0) -> pd.DataFrame:
    """Write the split once per run; where it is there already it must be the same. Return it, or its fold `fold`.

    Raises
    ------
    RunError
        If `path` holds another split: the arms of a run must stand on the same patients.
    """
    path = Path(path)
    mine = _of_fold(split, fold)
    if path.is_file():
        there = _read_all(path)
        if split_hash(there) != split_hash(split):
            raise RunError(
                f"{path.name} of this run holds another split than the manifest, ratios and seed give now. All arms of "
                "a run share one split: use a new `run_name`, or delete the run's folder to start it afresh."
            )
        return _of_fold(there, fold)
    write_text(path, split.to_csv(index=False, lineterminator="\n"))
    return mine


def read_split(path: str | Path, *, fold: int = 0) -> pd.DataFrame:
    """Read the split of a run, or one of its folds: ``patient_id, cancer_type, split`` as text.

    Raises
    ------
    RunError
        If there is none yet, or no such fold.
    LeakageError
        If the file puts a patient into two sets, or does not test every patient once over all folds.
    """
    return _of_fold(_read_all(path), fold)


def _read_all(path: str | Path) -> pd.DataFrame:
    path = Path(path)
    if not path.is_file():
        raise RunError(f"There is no {path.name} in this run yet: run 02_patient_split first.")
    split = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "fold" in split:
        return check_folds(split)
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
