"""What two people reach against each other, and what the arms reach on the same slides; from the archive alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, TlskitError
from tlskit.evaluation.arm_tables import arms, check_arms, collect, of_split, only_slides_of, test_counts
from tlskit.evaluation.decision import score_word
from tlskit.files import read_table
from tlskit.metrics import objects, uncertainty

__all__ = ["PEOPLE", "in_words", "read_twice", "reader_table"]

#: How the two readers stand among the arms.
PEOPLE = "two people"

_TABLE, _OBJECTS = "05_readers", "05_readers_objects"
_COLUMNS = [
    "who", "iou", "iou_low", "iou_high", "dice", "dice_low", "dice_high", "object_f1", "surface_mean_um", "n_slides",
    "n_patients", "n_with_target", "n_slides_compared", "warning",
]  # fmt: skip
_NONE = (
    "Two people: what they reach against each other is not known, for the manifest names no outlines of a second "
    "reader (annotation_path_2) of a test slide."
)


def read_twice(run_dir: str | Path, table: str = _TABLE) -> pd.DataFrame:
    """Counts (or objects) of the test slides that two people outlined, each slide once; empty where there are none.

    Raises
    ------
    ComparisonError
        If the arms do not say the same of a slide: one was counted before a reader's outlines changed.
    """
    found = []
    for arm in arms(run_dir).itertuples():
        path = arm.dir / "tables" / f"{table}.csv"
        if path.is_file() and path.stat().st_size > 1 and len(rows := read_table(path)):
            found.append(of_split(rows).assign(arm=arm.arm))
    if not found:
        return pd.DataFrame()
    every = pd.concat(found, ignore_index=True)
    if table == _TABLE:
        numbers = every.groupby("slide_id")[["tp", "fp", "fn", "grid_mpp"]].nunique().max(axis=1)
        if (numbers > 1).any():
            raise ComparisonError(
                f"The arms say different things of the two readers of slide {numbers.idxmax()}: run step 05 again in "
                "all of them."
            )
    first = every.drop_duplicates("slide_id").set_index("slide_id")["arm"]
    return every[every["arm"] == every["slide_id"].map(first)].drop(columns="arm").reset_index(drop=True)


def reader_table(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """Two people against each other, and each arm, on the slides that both people outlined.

    Parameters
    ----------
    run_dir, threshold_by, slides
        Of `tlskit.evaluation.comparison.intervals`.

    Returns
    -------
    DataFrame
        who (`PEOPLE`, then the arms), iou, iou_low, iou_high, dice, dice_low, dice_high (pixels of the common grid,
        pooled, with 95 % intervals over patients), object_f1 (rule iou10), surface_mean_um (median over the objects of
        the first reader that something touches), n_slides, n_patients, n_with_target, n_slides_compared (all test
        slides of the comparison), warning. Empty where no test slide has both.
    """
    people = read_twice(run_dir)
    counts = test_counts(run_dir, "05_grid_counts", threshold_by, slides)
    people = people[people["slide_id"].isin(counts["slide_id"])] if len(people) else people
    if people.empty:
        return pd.DataFrame(columns=_COLUMNS)
    counts = counts[counts["slide_id"].isin(people["slide_id"])]
    people = people.assign(arm=PEOPLE)
    table = pd.concat([_scores(people), _scores(counts)], ignore_index=True)
    try:
        of_slides = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
        of_slides = of_slides[of_slides["slide_id"].isin(people["slide_id"])]
        found = only_slides_of(collect(run_dir, "05_objects"), of_slides, threshold_by)
    except TlskitError:  # an archive without objects has its pixels
        found, of_slides = pd.DataFrame(), pd.DataFrame()
    marks = read_twice(run_dir, _OBJECTS)
    marks = marks[marks["slide_id"].isin(people["slide_id"])].assign(arm=PEOPLE)
    of_objects = pd.concat([_of_objects(marks, people), *([_of_objects(found, of_slides)] if len(found) else [])])
    n = check_arms(run_dir, slides=slides)["n_slides"].iloc[0]
    return table.merge(of_objects, on="who", how="left").assign(n_slides_compared=n)[_COLUMNS]


def _scores(counts: pd.DataFrame) -> pd.DataFrame:
    long = uncertainty.intervals(counts, scores=["iou", "dice"], by=["arm"])
    table = long[long["score"] == "iou"][["arm", "n_slides", "n_patients", "n_with_target", "warning"]]
    for score in ("iou", "dice"):
        ends = long[long["score"] == score].set_index("arm")[["estimate", "low", "high"]]
        table = table.merge(ends.set_axis([score, f"{score}_low", f"{score}_high"], axis=1), on="arm")
    return table.rename(columns={"arm": "who"})


def _of_objects(marks: pd.DataFrame, of_slides: pd.DataFrame) -> pd.DataFrame:
    table = objects.object_scores(marks, of_slides, by=["arm"])[["arm", "f1"]]
    truth = marks[marks["kind"] == "truth"]
    apart = truth.groupby("arm")["surface_mean_um"].median() if "surface_mean_um" in truth else {}
    table["surface_mean_um"] = table["arm"].map(apart).astype(float)
    return table.rename(columns={"arm": "who", "f1": "object_f1"})


def in_words(table: pd.DataFrame) -> str:
    """What two people reach, beside what the arms reach on the same slides; `table` of `reader_table`."""
    if table.empty:
        return _NONE
    two, arms_of = table.iloc[0], table.iloc[1:]
    n, whole = int(two["n_slides"]), int(two["n_slides_compared"])
    slides = f"{n} of {whole} test slides"
    if n == whole:
        slides = "the one test slide" if whole == 1 else f"the {whole} test slides"
    text = f"Two people reach an {score_word('iou')} of {_number(two)} against each other on {slides}"
    if pd.notna(two["object_f1"]):
        text += f", and an F1 of {two['object_f1']:.2f} object by object"
    if pd.notna(two["surface_mean_um"]):
        text += f"; their outlines of one object lie {two['surface_mean_um']:.0f} um apart (median)"
    listed = "; ".join(f"{row['who']} {_number(row)}" for _, row in arms_of.iterrows())
    text += f". On the same {'slide' if n == 1 else 'slides'} the arms reach, against the first of them: {listed}."
    if n < whole:
        text += f" The other {whole - n} have no outlines of a second reader."
    return text + (f" Caution: {two['warning']}." if two["warning"] else "")


def _number(row: pd.Series) -> str:
    if np.isnan(row["iou"]):
        return "undefined"
    ends = "no interval" if np.isnan(row["iou_low"]) else f"{row['iou_low']:.3f} to {row['iou_high']:.3f}"
    return f"{row['iou']:.3f} ({ends})"
