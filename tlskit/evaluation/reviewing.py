"""Tables that a reviewer asks for beside the scores: subgroups, slides without target, thresholds, shapes, numbers.

From the archive alone, like `tlskit.evaluation.comparison`, and on the same slides as the scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import RunError
from tlskit.evaluation.arm_tables import ARM, check_arms, collect, of_split, only_slides_of, slides_of, test_counts
from tlskit.evaluation.comparison import differences, intervals
from tlskit.metrics import uncertainty

__all__ = ["flow", "froc", "needed", "shapes", "subgroups", "training_curves", "without_target"]


def subgroups(
    run_dir: str | Path, *, score: str = "iou", threshold_by: str = "fixed", slides: str = "same", smallest: int = 3
) -> pd.DataFrame:
    """A score on the common grid by cancer type and, where the archive knows it, by site.

    Parameters
    ----------
    run_dir, score, threshold_by, slides
        As of `tlskit.evaluation.comparison.intervals`.
    smallest
        Patients with a target below which a group is named, but not called the worst.

    Returns
    -------
    DataFrame
        by (``cancer_type``, ``site``), group, arm, magnification, n_slides, n_patients, n_with_target, score, estimate,
        low, high, warning, worst (bool: the lowest of the arm's groups that have `smallest` patients with a target).
        Empty where all slides are of one group.
    """
    counts = test_counts(run_dir, "05_grid_counts", threshold_by, slides)
    tables = []
    for by in ("cancer_type", "site"):
        if by not in counts or counts[by].fillna("").nunique() < 2:
            continue
        for group, rows in counts.groupby(counts[by].fillna(""), sort=True):
            table = uncertainty.intervals(rows, scores=[score], by=ARM)
            tables.append(table.assign(by=by, group=group or "not said"))
    columns = ["by", "group", *ARM, "n_slides", "n_patients", "n_with_target", "score", "estimate", "low", "high"]
    if not tables:
        return pd.DataFrame(columns=[*columns, "warning", "worst"])
    table = pd.concat(tables, ignore_index=True)
    large = table["estimate"].where(table["n_with_target"] >= smallest)
    lowest = large.groupby([table["by"], table["arm"]]).transform("min")
    return table[[*columns, "warning"]].assign(worst=large.notna() & (large == lowest))


def without_target(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """What each arm marks on slides that hold no target, where every object is a false one.

    Returns
    -------
    DataFrame
        arm, magnification, n_slides, n_patients, n_clean (slides on which nothing is marked), false_objects_per_slide,
        false_mm2_per_slide, false_mm2_highest (of one slide), tissue_mm2. Empty where every slide has a target. Means
        where an arm was trained several times.
    """
    counts = test_counts(run_dir, "05_grid_counts", threshold_by, slides)
    empty = counts[counts.groupby("slide_id")[["tp", "fn"]].transform("sum").sum(axis=1) == 0]
    of_objects = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    rows = []
    for key, group in empty.groupby(ARM, sort=False):
        marked = of_objects[(of_objects["arm"] == key[0]) & of_objects["slide_id"].isin(group["slide_id"])]
        marked = marked.groupby("slide_id")[["n_predicted", "predicted_mm2"]].mean()
        rows.append(
            dict(zip(ARM, key, strict=True))
            | {"n_slides": group["slide_id"].nunique(), "n_patients": group["patient_id"].nunique()}
            | {"n_clean": int((marked["n_predicted"] == 0).sum())}
            | {"false_objects_per_slide": marked["n_predicted"].mean()}
            | {"false_mm2_per_slide": marked["predicted_mm2"].mean()}
            | {"false_mm2_highest": marked["predicted_mm2"].max()}
            | {"tissue_mm2": group.drop_duplicates("slide_id")["tissue_mm2"].sum()}
        )
    return pd.DataFrame(rows)


def froc(run_dir: str | Path, *, slides: str = "same") -> pd.DataFrame:
    """Objects found against false objects per mm2 of tissue, over thresholds (rule iou10).

    Returns
    -------
    DataFrame
        arm, magnification, threshold, recall, false_per_mm2, n_truth, n_slides, mark (``fixed``: the study's threshold,
        ``validation``: the one nearest to that chosen on validation slides; else empty).
    """
    table = of_split(collect(run_dir, "05_objects_by_threshold"))
    check_arms(run_dir, slides=slides)
    common = set.intersection(*slides_of(table).values())
    table = table[table["slide_id"].isin(common)]
    rules = collect(run_dir, "05_counts_per_slide").groupby(["arm", "threshold_by"])["threshold"].mean()
    rows = []
    for (arm, magnification), group in table.groupby(ARM, sort=False):
        sums = group.groupby("threshold").agg(
            n_found=("n_found", "sum"), n_truth=("n_truth", "sum"), n_false=("n_false", "sum"),
            tissue_mm2=("tissue_mm2", "sum"), n_slides=("slide_id", "nunique"),
        ).reset_index()  # fmt: skip
        sums["recall"] = sums["n_found"] / sums["n_truth"].where(sums["n_truth"] > 0)
        sums["false_per_mm2"] = sums["n_false"] / sums["tissue_mm2"].where(sums["tissue_mm2"] > 0)
        sums["mark"] = ""
        for rule in ("validation", "fixed"):
            if (arm, rule) in rules.index:
                nearest = (sums["threshold"] - rules[arm, rule]).abs().idxmin()
                sums.loc[nearest, "mark"] = rule
        rows.append(sums.assign(arm=arm, magnification=magnification))
    columns = [*ARM, "threshold", "recall", "false_per_mm2", "n_truth", "n_slides", "mark"]
    return pd.concat(rows, ignore_index=True)[columns]


def shapes(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """How well objects are drawn: of each arm, Dice of the objects found, distances of boundaries, merges and splits.

    Returns
    -------
    DataFrame
        arm, magnification, n_truth, n_found (by the rule iou10), object_dice (median of the found), object_dice_all
        (mean of all true objects, those missed counting 0), surface_mean_um (median of the objects that something
        touches), surface_95_um, nsd_20_um, nsd_50_um, nsd_100_um (medians), n_split (covered by two or more predicted
        objects), n_merged (under one predicted object with another true one). Columns that an earlier archive lacks are
        left out.
    """
    of_slides = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    found = only_slides_of(collect(run_dir, "05_objects"), of_slides, threshold_by)
    truth = found[found["kind"] == "truth"]
    if "best_iou" not in truth:
        raise RunError("the objects of this archive do not say how well they are drawn: run step 05 again")
    rows = []
    for key, group in truth.groupby(ARM, sort=False):
        hit = group["matched_iou10"].astype(bool)
        dice = 2 * group["best_iou"] / (1 + group["best_iou"])
        row = dict(zip(ARM, key, strict=True)) | {"n_truth": len(group), "n_found": int(hit.sum())}
        row |= {"object_dice": dice[hit].median(), "object_dice_all": dice.where(hit, 0.0).mean()}
        for name in ("surface_mean_um", "surface_95_um", "nsd_20_um", "nsd_50_um", "nsd_100_um"):
            if name in group:
                row[name] = group[name].median()
        if "n_predicted_on_it" in group:
            row["n_split"] = int((group["n_predicted_on_it"] >= 2).sum())
            row["n_merged"] = int((group["merged_with"] > 0).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def training_curves(run_dir: str | Path) -> pd.DataFrame:
    """Loss and validation IoU of every training, epoch by epoch: arm, magnification, those of seed, fold and split_seed
    that are swept, epoch, steps, train_loss, val_loss, val_iou, best."""
    table = collect(run_dir, "03_history")
    swept = [c for c in ("seed", "fold", "split_seed") if c in table]
    return table[[*ARM, *swept, "epoch", "steps", "train_loss", "val_loss", "val_iou", "best"]]


def needed(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """How many such patients it would take: for a score to 0.05 either way, and to show each difference found here.

    By the standard errors of this cohort, which are rough where patients are few.

    Returns
    -------
    DataFrame
        what (``IoU of 4x to 0.05 either way``, ``4x against 20x``), n_patients (of this cohort), se, patients_needed.
    """
    of_arms = intervals(run_dir, scores=["iou"], threshold_by=threshold_by, slides=slides)
    of_pairs = differences(run_dir, scores=["iou"], threshold_by=threshold_by, slides=slides)
    rows = of_arms.assign(
        what="IoU of " + of_arms["arm"] + " to 0.05 either way", patients_needed=uncertainty.patients_needed(of_arms)
    )
    tables = [rows]
    if len(of_pairs):
        # An interval whose half-width is the difference just excludes 0.
        number = [
            uncertainty.patients_needed(of_pairs.loc[[n]], half_width=abs(d)).item() if d else np.nan
            for n, d in of_pairs["difference"].items()
        ]
        what = of_pairs["first"] + " against " + of_pairs["second"] + ", by the difference found here"
        tables.append(of_pairs.assign(what=what, patients_needed=number))
    return pd.concat(tables, ignore_index=True)[["what", "n_patients", "se", "patients_needed"]]


def flow(run_dir: str | Path, split: pd.DataFrame | None, stands_on: pd.DataFrame) -> pd.DataFrame:
    """The way from the patients of the cohort to those of the comparison: boxes of a flow diagram, top to bottom.

    Parameters
    ----------
    run_dir
        Folder of the run.
    split
        ``split.csv`` of the run; None where there is none.
    stands_on
        Of `tlskit.evaluation.arm_tables.check_arms`.

    Returns
    -------
    DataFrame
        stage, n_patients, n_slides (nan where the archive does not say), text, left_out_text (empty: nobody was).
    """
    rows = []
    if split is not None:
        of = split.drop_duplicates(["patient_id", "split"]).groupby("split").size()
        n = split["patient_id"].nunique()
        rows.append({"stage": "cohort", "n_patients": n, "text": f"{n} patients in the cohort", "left_out_text": ""})
        learnt = f"{of.get('train', 0)} patients to train, {of.get('val', 0)} to choose a threshold (validation)"
        rows.append({"stage": "test", "n_patients": of.get("test", 0), "text": f"{of.get('test', 0)} test patients",
                     "left_out_text": learnt})  # fmt: skip
    first = stands_on.iloc[0]
    left = int(stands_on["slides_left_out"].max())
    missing = rows[-1]["n_patients"] - first["n_patients"] if rows else 0
    told = [f"{left} slides that an arm lacks"] if left else []
    told += [f"{missing} test patients of whom no slide was evaluated"] if missing > 0 else []
    of_patients = f"{first['n_patients']} test patients, {first['n_slides']} slides"
    rows.append({"stage": "compared", "n_patients": first["n_patients"], "n_slides": first["n_slides"],
                 "text": f"{of_patients} in all arms", "left_out_text": "; ".join(told)})  # fmt: skip
    n, k = first["n_patients_with_target"], first["n_slides_with_target"]
    without = f"{first['n_patients'] - n} patients, {first['n_slides'] - k} slides without target"
    rows.append({"stage": "with target", "n_patients": n, "n_slides": k,
                 "text": f"{n} patients, {k} slides with a target", "left_out_text": without})  # fmt: skip
    return pd.DataFrame(rows, columns=["stage", "n_patients", "n_slides", "text", "left_out_text"])
