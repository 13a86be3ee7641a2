"""The archive of a run's arms: which there are, their tables one below the other, and whether they may be compared.

No slide, map or model is opened. Whole-slide comparisons are refused where the arms do not stand on the same patients,
slides and targets (`check_arms`).
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pandas as pd

from tlskit.errors import ComparisonError, ParameterError, RunError

__all__ = ["ARM", "arms", "check_arms", "collect", "only_slides_of", "test_counts", "test_histograms"]

log = logging.getLogger(__name__)

#: Columns that name an arm.

ARM = ["arm", "magnification"]

_TEXT = {"slide_id": str, "patient_id": str, "cancer_type": str, "tile_id": str, "split": str}

#: What the steps record that must be the same in all arms.
_SHARED = ("split_hash", "target_class", "ignore_class", "region_class", "resolution_by")


def arms(run_dir: str | Path) -> pd.DataFrame:
    """The arms of a run, coarsest first: arm, magnification (as recorded, else by the folder's name), dir.

    An arm is a folder of the run that holds ``tables``, other than ``compare``; where the run has an ``arms.csv``, one
    that stands there. Arms that ``compare/left_out.csv`` names (out of date, failed) are left out.
    """
    run_dir = Path(run_dir)
    rows = []
    known = _column(run_dir / "arms.csv")
    left_out = _column(run_dir / "compare" / "left_out.csv") or []
    for folder in sorted(run_dir.iterdir()) if run_dir.is_dir() else []:
        wanted = folder.name in known if known is not None else folder.name != "compare"
        if wanted and folder.name not in left_out and (folder / "tables").is_dir():
            magnification = _recorded(folder).get("magnification")
            named = re.match(r"([0-9.]+)x", folder.name)
            if magnification is None and named:
                magnification = float(named.group(1))
            rows.append({"arm": folder.name, "magnification": magnification, "dir": folder})
    if not rows:
        raise RunError(f"The run {run_dir.name} has no arm with tables yet: run the numbered notebooks first.")
    table = pd.DataFrame(rows).astype({"magnification": float})
    return table.sort_values(ARM[::-1], kind="stable", ignore_index=True)


def _column(path: Path) -> list[str] | None:
    """Names of the arms in a table of the run; None where there is no such table."""
    return list(pd.read_csv(path, dtype=str)["arm"]) if path.is_file() else None


def collect(run_dir: str | Path, table: str) -> pd.DataFrame:
    """One table of all arms, one below the other, with the columns arm and magnification in front.

    Parameters
    ----------
    run_dir
        Folder of the run.
    table
        Such as ``"05_scores"``, for ``<arm>/tables/05_scores.csv``. Arms that lack it are left out, and logged.

    Raises
    ------
    RunError
        If no arm has it.
    """
    found = []
    for arm in arms(run_dir).itertuples():
        path = arm.dir / "tables" / f"{table}.csv"
        if path.is_file() and path.stat().st_size > 1:
            text = {column: kind for column, kind in _TEXT.items()}
            rows = pd.read_csv(path, dtype=text, keep_default_na=True)
            found.append(pd.concat([_constant(rows, arm), rows.drop(columns=ARM, errors="ignore")], axis=1))
        else:
            log.warning("The arm %s has no table %s: left out.", arm.arm, table)
    if not found:
        raise RunError(f"No arm of the run {Path(run_dir).name} has the table {table}: run step {table[:2]} first.")
    return pd.concat(found, ignore_index=True)


def check_arms(run_dir: str | Path, *, slides: str = "same") -> pd.DataFrame:
    """What each arm stands on; refuses arms that cannot be compared.

    Parameters
    ----------
    run_dir
        Folder of the run.
    slides
        ``same``: all arms must have evaluated the same slides. ``common``: comparisons are made on the slides that all
        arms have; the others are counted in ``slides_left_out``.

    Returns
    -------
    DataFrame
        arm, magnification, n_slides, n_patients, n_targets, target_mm2 (of the test slides compared), slides_left_out.

    Raises
    ------
    ComparisonError
        If arms differ in split, target class, slides or outlines; the message names each difference.
    """
    if slides not in ("same", "common"):
        raise ParameterError(f"`slides` should be same or common, not {slides!r}.")
    faults = []
    recorded = {arm.arm: _recorded(arm.dir) for arm in arms(run_dir).itertuples()}
    for name in _SHARED:
        values = {arm: values[name] for arm, values in recorded.items() if name in values}
        if len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
            listed = ", ".join(f"{arm} {str(v)[:12] if name == 'split_hash' else v}" for arm, v in values.items())
            faults.append(f"{name} differs: {listed}")
    counts = _test(collect(run_dir, "05_counts_per_slide"))
    counts = counts.drop_duplicates(["arm", "slide_id"])
    here = {arm: set(group["slide_id"]) for arm, group in counts.groupby("arm", sort=False)}
    common, every = set.intersection(*here.values()), set.union(*here.values())
    for arm, there in here.items():
        if slides == "same" and every - there:
            missing = ", ".join(sorted(every - there)[:5])
            faults.append(
                f"{arm} lacks {len(every - there)} slide(s) that another arm has ({missing}): see status.csv for why, "
                f"or compare on the {len(common)} slides that all arms share (`compare_slides: common` in the preset, "
                "`tlskit compare --slides common`)"
            )
    if slides == "common" and not common:
        faults.append("no slide was evaluated in all arms")
    shared = counts[counts["slide_id"].isin(common)]
    for column, tolerance in (("patient_id", None), ("n_targets", 0.0), ("target_mm2", 1e-6)):
        if column in shared:
            faults += _differing(shared, column, tolerance)
    if faults:
        raise ComparisonError(
            f"The arms of the run {Path(run_dir).name} cannot be compared:\n" + "\n".join(f"  - {f}" for f in faults)
        )
    table = shared.groupby(ARM, sort=False).agg(n_slides=("slide_id", "nunique"), n_patients=("patient_id", "nunique"))
    for column in ("n_targets", "target_mm2"):
        if column in shared:
            table[column] = shared.groupby(ARM, sort=False)[column].sum()
    table["slides_left_out"] = [len(here[arm] - common) for arm, _ in table.index]
    return table.reset_index()


def test_counts(run_dir: str | Path, name: str, threshold_by: str, slides: str) -> pd.DataFrame:
    """A table of the test set at one rule of threshold; of whole slides, those that the arms may be compared on."""
    table = _test(collect(run_dir, name))
    rules = table["threshold_by"].unique()
    if name.startswith("04") and threshold_by not in rules and len(rules) == 1:
        # A threshold is chosen on whole slides, after the tiles were counted; the column threshold says which it was.
        threshold_by = rules[0]
    table = table[table["threshold_by"] == threshold_by]
    if table.empty:
        raise RunError(f"The table {name} has no counts at the threshold {threshold_by!r}; it has {', '.join(rules)}.")
    # Tiles are another matter: which slides have a tile with a target depends on the size of a tile.
    if not name.startswith("04"):
        check_arms(run_dir, slides=slides)
        here = [set(group["slide_id"]) for _, group in table.groupby("arm")]
        if slides == "common":
            table = table[table["slide_id"].isin(set.intersection(*here))]
        elif any(there != here[0] for there in here):
            raise ComparisonError(
                f"The arms of {name} stand on different slides: run step {name[:2]} again in all arms."
            )
    return table.reset_index(drop=True)


def test_histograms(run_dir: str | Path, slides: str) -> pd.DataFrame:
    table = _test(collect(run_dir, "05_histograms"))
    check_arms(run_dir, slides=slides)
    common = set.intersection(*(set(group["slide_id"]) for _, group in table.groupby("arm")))
    return table[table["slide_id"].isin(common)]


def only_slides_of(table: pd.DataFrame, of_slides: pd.DataFrame, threshold_by: str) -> pd.DataFrame:
    keys = of_slides[["arm", "slide_id"]].drop_duplicates()
    return table[table["threshold_by"] == threshold_by].merge(keys, on=["arm", "slide_id"])


def _constant(rows: pd.DataFrame, arm) -> pd.DataFrame:
    return pd.DataFrame({"arm": arm.arm, "magnification": arm.magnification}, index=rows.index)


def _recorded(arm_dir: Path) -> dict:
    """Values that the arm's steps recorded, later steps over earlier ones."""
    values: dict = {}
    for path in sorted((arm_dir / "records").glob("*.json")):
        values |= json.loads(path.read_text(encoding="utf-8")).get("values", {})
    return values


def _test(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the test set; all where the table does not know of sets."""
    if "split" not in table or table["split"].isna().all():
        return table
    test = table[table["split"] == "test"]
    if test.empty:
        raise RunError("None of the evaluated slides is of the test set: evaluate the test slides first.")
    return test


def _differing(counts: pd.DataFrame, column: str, tolerance: float | None) -> list[str]:
    wide = counts.pivot(index="slide_id", columns="arm", values=column)
    if tolerance is None:
        odd = wide[wide.nunique(axis=1, dropna=False) > 1]
    else:
        odd = wide[(wide.max(axis=1) - wide.min(axis=1)) > tolerance * wide.max(axis=1).clip(lower=1)]
    return [
        f"{column} of slide {slide_id} differs: " + ", ".join(f"{arm} {value}" for arm, value in row.items())
        for slide_id, row in odd.head(5).iterrows()
    ]
