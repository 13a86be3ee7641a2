"""Across magnifications: the scores of all arms of a run side by side, from the archive alone.

No slide, map or model is opened. Every function takes the run's folder and returns a table. What a slide costs, and
which arm one would choose for it, is in `tlskit.evaluation.costs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit import metrics
from tlskit.errors import ParameterError
from tlskit.evaluation.arm_tables import ARM, collect, only_slides_of, test_counts, test_histograms
from tlskit.metrics import SCORES, bootstrap, objects, published, thresholds, uncertainty

__all__ = [
    "agreement_points",
    "agreement_table",
    "audit",
    "audit_winners",
    "best_marks",
    "calibration",
    "differences",
    "grid_table",
    "intervals",
    "iou_by_magnification",
    "object_table",
    "pr_curves",
    "share_best",
    "style_table_one",
    "table_one",
    "threshold_table",
]

#: Levels of the published table, and the tables of counts by tile behind them.
LEVELS = {"tile": "04_counts_per_tile", "wsi": "05_counts_per_tile"}

#: Tables of counts by slide that intervals are made of.
BOOTSTRAPPED = {"grid": "05_grid_counts", "wsi": "05_counts_per_slide"}


def table_one(
    run_dir: str | Path,
    *,
    threshold_by: str = "fixed",
    poolings: Sequence[str] = ("as_published", "as_published_tiles", "pooled"),
    batch_size: int = 8,
    with_published: bool = True,
    slides: str = "same",
) -> pd.DataFrame:
    """The paper's Table 1 for this cohort: seven scores at tile and whole-slide level, by magnification.

    How the paper averaged Dice and IoU was not published. ``as_published`` is one reading (over batches, an empty batch
    counting 1), ``as_published_tiles`` the other (over tiles); ``pooled`` is of all pixels together.

    Parameters
    ----------
    run_dir
        Folder of the run.
    threshold_by
        ``fixed`` (0.5) or ``validation`` (chosen for each arm); tiles counted at one threshold only keep that one.
    poolings, batch_size
        Of `tlskit.metrics.scores.score`.
    with_published
        Whether to put the printed table below.
    slides
        Of `check_arms`.

    Returns
    -------
    DataFrame
        source (``this cohort`` or the paper), level (``tile``, ``wsi``), pooling, arm, magnification, threshold, the
        seven scores, prevalence, iou_order_low, iou_order_high (of ``as_published``: the range over random orders of
        the rows, which the mean over batches depends on), n_slides, n_patients.
    """
    tables = []
    for level, name in LEVELS.items():
        counts = test_counts(run_dir, name, threshold_by, slides)
        scores = metrics.score_table(counts, poolings=poolings, batch_size=batch_size, by=[*ARM, "threshold"])
        ranges = {
            arm: metrics.order_range(rows, batch_size=batch_size, orders=100)
            for arm, rows in counts.groupby("arm", sort=False)
        }
        of_batches = scores["pooling"] == "as_published"
        for end in ("low", "high"):
            values = [ranges[arm][f"iou_{end}"] for arm in scores["arm"]]
            scores[f"iou_order_{end}"] = np.where(of_batches, values, np.nan)
        tables.append(scores.assign(source="this cohort", level=level))
    if with_published:
        printed = published.table_one()
        printed["arm"] = [f"{m:g}x" for m in printed["magnification"]]
        printed["n_slides"] = [published.TEST_SLIDES if level == "wsi" else pd.NA for level in printed["level"]]
        tables.append(printed.assign(source=published.SOURCE, pooling="as printed"))
    table = pd.concat(tables, ignore_index=True)
    columns = ["source", "level", "pooling", *ARM, "threshold", *SCORES, "prevalence"]
    columns += ["iou_order_low", "iou_order_high", "n_slides", "n_patients"]
    return table[columns].astype({"n_slides": "Int64", "n_patients": "Int64"})


def best_marks(table: pd.DataFrame) -> pd.DataFrame:
    """Which cells of `table_one` are the best of their column, within source, level and pooling.

    Only where the rows are of the same pixels: tiles of another magnification hold another share of target, and a score
    that depends on that share ranks nothing. Equals share the mark.
    """
    group, marks = ["source", "level", "pooling"], pd.DataFrame(False, index=table.index, columns=list(SCORES))
    for _, rows in table.groupby(group, sort=False):
        shares = rows["prevalence"].dropna()
        alike = (rows["level"] == "wsi").all() and (shares.empty or shares.max() <= 1.25 * shares.min())
        if alike and len(rows) > 1:
            marks.loc[rows.index] = rows[list(SCORES)] >= rows[list(SCORES)].max() - 1e-12
    return marks


def style_table_one(table: pd.DataFrame):
    """`table_one` for the eye: three decimals, and the best of each column bold where rows can be ranked.

    Returns
    -------
    pandas.io.formats.style.Styler
    """

    def bold(of_table: pd.DataFrame) -> pd.DataFrame:
        styles = pd.DataFrame("", index=of_table.index, columns=of_table.columns)
        styles[list(SCORES)] = np.where(best_marks(of_table), "font-weight: bold", "")
        return styles

    digits = dict.fromkeys((*SCORES, "iou_order_low", "iou_order_high"), "{:.3f}")
    digits |= {"prevalence": "{:.4f}", "threshold": "{:.3f}", "magnification": "{:g}"}
    styler = table.style.apply(bold, axis=None).format(digits, na_rep="-").hide(axis="index")
    return styler.set_properties(**{"text-align": "right"}).set_caption(
        "Best of each column in bold on whole slides, within source and pooling; tiles hold another share of target at "
        "every magnification, and are not ranked. as_published and as_published_tiles: two readings of an evaluation "
        "that was not published, Dice and IoU averaged over batches or over tiles, an empty one counting 1, the other "
        "scores pooled; iou_order: the range of the first over random orders of the tiles."
    )


def iou_by_magnification(
    run_dir: str | Path, *, threshold_by: str = "fixed", score: str = "iou", **options
) -> pd.DataFrame:
    """One score of `table_one` in long form, for `tlskit.figures.iou_by_magnification`.

    Returns
    -------
    DataFrame
        source, level, pooling, arm, magnification, score, value, n_slides.
    """
    table = table_one(run_dir, threshold_by=threshold_by, **options)
    table = table.assign(score=score, value=table[score])
    return table[["source", "level", "pooling", *ARM, "score", "value", "n_slides"]]


def audit(
    run_dir: str | Path, *, threshold_by: str = "fixed", batch_size: int = 8, slides: str = "same"
) -> pd.DataFrame:
    """The same predictions under every pooling and every rule for empty units that makes a difference.

    Pixels pooled know no unit that could be empty, so that they stand there once.

    Returns
    -------
    DataFrame
        level, arm, magnification, and the columns of `tlskit.metrics.score`, with ``best_<score>`` (bool: the best
        arm of this level, pooling and rule; equals share it) for each of the seven scores.
    """
    tables = []
    for level, name in LEVELS.items():
        counts = test_counts(run_dir, name, threshold_by, slides)
        for pooling in ("pooled", "per_patient", "per_slide", "per_tile", "batch_mean"):
            for empty in ("exclude",) if pooling == "pooled" else metrics.EMPTY_RULES:
                scores = metrics.score(counts, pooling=pooling, empty=empty, batch_size=batch_size, by=ARM)
                for name_of_score in SCORES:
                    values = scores[name_of_score]
                    scores[f"best_{name_of_score}"] = values.notna() & (values >= values.max() - 1e-12)
                scores.insert(0, "level", level)
                tables.append(scores)
    return pd.concat(tables, ignore_index=True)


def audit_winners(audited: pd.DataFrame, *, scores: Sequence[str] = ("dice", "iou", "mcc")) -> pd.DataFrame:
    """Which arm wins under each pooling and rule: level, pooling, empty, and for each score the arm(s) that are
    best."""
    rows = []
    for key, group in audited.groupby(["level", "pooling", "empty"], sort=False):
        row = dict(zip(("level", "pooling", "empty"), key, strict=True))
        rows.append(row | {s: " = ".join(group.loc[group[f"best_{s}"], "arm"]) or "undefined" for s in scores})
    return pd.DataFrame(rows)


def grid_table(
    run_dir: str | Path, *, threshold_by: str = "fixed", pooling: str = "pooled", slides: str = "same"
) -> pd.DataFrame:
    """Scores on the common grid, in tissue and target, each beside that of the outlines as pixels of its magnification.

    Returns
    -------
    DataFrame
        arm, magnification, grid_mpp, threshold, pooling, dice, ceiling_dice, iou, ceiling_iou, iou_of_ceiling (iou /
        ceiling_iou), recall, precision, mcc, prevalence, share_target_outside_tissue (of the target's pixels: what the
        search for tissue missed; counted), mm2_marked_outside (on glass; counted nowhere), n_slides, n_patients.
    """
    counts = test_counts(run_dir, "05_grid_counts", threshold_by, slides)
    by = [*ARM, "grid_mpp", "threshold"]
    table = metrics.score(counts, pooling=pooling, by=by)
    of_ceiling = counts.assign(**{c: counts[f"ceiling_{c}"] for c in metrics.COUNTS})
    ceiling = metrics.score(of_ceiling, pooling=pooling, by=by)
    table = table.assign(ceiling_dice=ceiling["dice"], ceiling_iou=ceiling["iou"])
    table["iou_of_ceiling"] = table["iou"] / table["ceiling_iou"]
    sums = counts.groupby("arm")[["tp", "fn", "target_px_outside_tissue"]].sum() if told(counts) else None
    if sums is not None:
        share = sums["target_px_outside_tissue"] / (sums["tp"] + sums["fn"])
        table["share_target_outside_tissue"] = table["arm"].map(share)
    if "marked_px_outside" in counts:
        marked = counts["marked_px_outside"] * counts["grid_mpp"] ** 2 / 1e6
        table["mm2_marked_outside"] = table["arm"].map(marked.groupby(counts["arm"]).sum())
    extra = [c for c in ("share_target_outside_tissue", "mm2_marked_outside") if c in table]
    ordered = ["pooling", "dice", "ceiling_dice", "iou", "ceiling_iou", "iou_of_ceiling", "recall", "precision", "mcc"]
    return table[[*by, *ordered, "prevalence", *extra, "n_slides", "n_patients"]]


def told(counts: pd.DataFrame) -> bool:
    """Whether a table of the grid says what target lies outside tissue: earlier archives do not."""
    return "target_px_outside_tissue" in counts


def object_table(
    run_dir: str | Path,
    *,
    threshold_by: str = "fixed",
    rules: Sequence[str] = objects.MATCH_RULES,
    slides: str = "same",
) -> pd.DataFrame:
    """Objects found, missed and false by arm and rule of matching: `tlskit.metrics.objects.object_scores`."""
    of_slides = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    found = only_slides_of(collect(run_dir, "05_objects"), of_slides, threshold_by)
    return pd.concat([objects.object_scores(found, of_slides, rule=r, by=ARM) for r in rules], ignore_index=True)


def agreement_table(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """Number and area of objects of each patient, predicted against true: `tlskit.metrics.objects.agreement` by arm.

    Slides of one patient are added up: they are not independent.

    Returns
    -------
    DataFrame
        arm, magnification, what (``number``, ``area_mm2``), n (patients), bias, sd, limit_low, limit_high, concordance.
    """
    of_patients = agreement_points(run_dir, threshold_by=threshold_by, slides=slides)
    rows = []
    for key, group in of_patients.groupby(ARM, sort=False):
        for what, columns in (("number", ("n_predicted", "n_truth")), ("area_mm2", ("predicted_mm2", "truth_mm2"))):
            agreed = objects.agreement(*(group[c].to_numpy() for c in columns))
            rows.append(dict(zip(ARM, key, strict=True)) | {"what": what} | agreed)
    return pd.DataFrame(rows)


def agreement_points(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """What `agreement_table` stands on, one row an arm and patient: arm, magnification, patient_id, n_truth,
    n_predicted, truth_mm2, predicted_mm2; means where an arm was trained several times."""
    of_slides = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    columns = ["n_truth", "n_predicted", "truth_mm2", "predicted_mm2"]
    of_slides = of_slides.groupby([*ARM, "patient_id", "slide_id"], sort=False)[columns].mean().reset_index()
    return of_slides.groupby([*ARM, "patient_id"], sort=False)[columns].sum().reset_index()


def threshold_table(run_dir: str | Path, *, slides: str = "same") -> pd.DataFrame:
    """Whole-slide scores, pooled, at 0.5 and at the threshold chosen on validation: one row an arm and rule."""
    rules = collect(run_dir, "05_counts_per_slide")["threshold_by"].unique()
    tables = [
        metrics.score(test_counts(run_dir, "05_counts_per_slide", rule, slides), by=[*ARM, "threshold_by", "threshold"])
        for rule in rules
    ]
    return pd.concat(tables, ignore_index=True).sort_values(["magnification", "arm", "threshold_by"], ignore_index=True)


def pr_curves(run_dir: str | Path, *, region: str = "slide", slides: str = "same") -> pd.DataFrame:
    """`tlskit.metrics.thresholds.pr_curve` of the test slides, by arm."""
    return thresholds.pr_curve(test_histograms(run_dir, slides), by=ARM, region=region)


def calibration(run_dir: str | Path, *, n_bins: int = 10, region: str = "tissue", slides: str = "same") -> pd.DataFrame:
    """`tlskit.metrics.thresholds.calibration` of the test slides, by arm."""
    return thresholds.calibration(test_histograms(run_dir, slides), n_bins=n_bins, by=ARM, region=region)


def intervals(
    run_dir: str | Path,
    *,
    on: str = "grid",
    scores: Sequence[str] = ("dice", "iou", "recall", "precision", "mcc"),
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    slides: str = "same",
    split: str = "test",
) -> pd.DataFrame:
    """Each arm's scores with 95 % intervals over patients: `tlskit.metrics.uncertainty.intervals`.

    `on` is ``grid`` (the common grid, tissue and target) or ``wsi`` (each magnification's own pixels, whole slides).
    """
    counts = test_counts(run_dir, BOOTSTRAPPED[_known(on)], threshold_by, slides, split)
    table = uncertainty.intervals(counts, scores=scores, pooling=pooling, by=ARM)
    return table.assign(on=on, threshold_by=threshold_by)


def differences(
    run_dir: str | Path,
    *,
    on: str = "grid",
    scores: Sequence[str] = ("dice", "iou"),
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    slides: str = "same",
    split: str = "test",
) -> pd.DataFrame:
    """Every pairwise difference between arms with its 95 % intervals (`uncertainty.differences`). `on` as above."""
    counts = test_counts(run_dir, BOOTSTRAPPED[_known(on)], threshold_by, slides, split)
    table = uncertainty.differences(counts, scores=scores, pooling=pooling, by=ARM)
    return table.assign(on=on, threshold_by=threshold_by)


def share_best(
    run_dir: str | Path,
    *,
    on: str = "grid",
    score: str = "iou",
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    draws: int = 10_000,
    slides: str = "same",
    split: str = "test",
) -> pd.DataFrame:
    """How often another draw of patients would give each arm the highest score: `tlskit.metrics.bootstrap`."""
    counts = test_counts(run_dir, BOOTSTRAPPED[_known(on)], threshold_by, slides, split)
    return bootstrap.share_best(counts, score=score, pooling=pooling, by=ARM, draws=draws)


def _known(on: str) -> str:
    if on not in BOOTSTRAPPED:
        raise ParameterError(f"`on` should be one of {', '.join(BOOTSTRAPPED)}, not {on!r}.")
    return on
