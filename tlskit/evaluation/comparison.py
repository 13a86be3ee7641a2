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
from tlskit.metrics import EMPTY_RULES, SCORES, bootstrap, objects, published, thresholds

__all__ = [
    "agreement_table",
    "audit",
    "audit_winners",
    "calibration",
    "differences",
    "grid_table",
    "intervals",
    "iou_by_magnification",
    "object_table",
    "pr_curves",
    "style_table_one",
    "table_one",
    "threshold_table",
]

#: Levels of the published table, and the tables of counts by tile behind them.
LEVELS = {"tile": "04_counts_per_tile", "wsi": "05_counts_per_tile"}

_BOOTSTRAPPED = {"grid": "05_grid_counts", "wsi": "05_counts_per_slide"}


def table_one(
    run_dir: str | Path,
    *,
    threshold_by: str = "fixed",
    poolings: Sequence[str] = ("as_published", "pooled"),
    batch_size: int = 8,
    with_published: bool = True,
    slides: str = "same",
) -> pd.DataFrame:
    """The paper's Table 1 for this cohort: seven scores at tile and whole-slide level, by magnification.

    ``as_published`` averages Dice and IoU over batches, an empty batch counting 1, and pools the rest, as the paper
    does; ``pooled`` is of all pixels together.

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
        seven scores, prevalence, n_slides, n_patients.
    """
    tables = []
    for level, name in LEVELS.items():
        counts = test_counts(run_dir, name, threshold_by, slides)
        scores = metrics.score_table(counts, poolings=poolings, batch_size=batch_size, by=[*ARM, "threshold"])
        tables.append(scores.assign(source="this cohort", level=level))
    if with_published:
        printed = published.table_one()
        printed["arm"] = [f"{m:g}x" for m in printed["magnification"]]
        printed["n_slides"] = [published.TEST_SLIDES if level == "wsi" else pd.NA for level in printed["level"]]
        tables.append(printed.assign(source=published.SOURCE, pooling="as printed"))
    table = pd.concat(tables, ignore_index=True)
    columns = ["source", "level", "pooling", *ARM, "threshold", *SCORES, "prevalence", "n_slides", "n_patients"]
    return table[columns].astype({"n_slides": "Int64", "n_patients": "Int64"})


def style_table_one(table: pd.DataFrame):
    """`table_one` for the eye: three decimals, and the best of each column bold within source, level and pooling.

    Returns
    -------
    pandas.io.formats.style.Styler
    """
    group = ["source", "level", "pooling"]

    def bold(of_table: pd.DataFrame) -> pd.DataFrame:
        best = of_table.groupby(group, sort=False)[list(SCORES)].transform("max")
        styles = pd.DataFrame("", index=of_table.index, columns=of_table.columns)
        styles[list(SCORES)] = np.where(of_table[list(SCORES)] == best, "font-weight: bold", "")
        return styles

    digits = dict.fromkeys(SCORES, "{:.3f}") | {"prevalence": "{:.4f}", "threshold": "{:.3f}", "magnification": "{:g}"}
    styler = table.style.apply(bold, axis=None).format(digits, na_rep="-").hide(axis="index")
    return styler.set_properties(**{"text-align": "right"}).set_caption(
        "Best of each column in bold, within source, level and pooling. as_published: Dice and IoU averaged "
        "over batches, an empty batch counting 1; the other scores of all pixels pooled."
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
    """The same predictions under every pooling and every rule for empty units.

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
            for empty in EMPTY_RULES:
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
    """Scores on the common grid, inside the same tissue, each beside the ceiling of its magnification.

    Returns
    -------
    DataFrame
        arm, magnification, grid_mpp, threshold, pooling, dice, ceiling_dice, iou, ceiling_iou, iou_of_ceiling (iou /
        ceiling_iou), recall, precision, mcc, prevalence, n_slides, n_patients.
    """
    counts = test_counts(run_dir, "05_grid_counts", threshold_by, slides)
    by = [*ARM, "grid_mpp", "threshold"]
    table = metrics.score(counts, pooling=pooling, by=by)
    of_ceiling = counts.assign(**{c: counts[f"ceiling_{c}"] for c in metrics.COUNTS})
    ceiling = metrics.score(of_ceiling, pooling=pooling, by=by)
    table = table.assign(ceiling_dice=ceiling["dice"], ceiling_iou=ceiling["iou"])
    table["iou_of_ceiling"] = table["iou"] / table["ceiling_iou"]
    ordered = ["pooling", "dice", "ceiling_dice", "iou", "ceiling_iou", "iou_of_ceiling", "recall", "precision", "mcc"]
    return table[[*by, *ordered, "prevalence", "n_slides", "n_patients"]]


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
    """Number and area of objects of each slide, predicted against true: `tlskit.metrics.objects.agreement` by arm.

    Returns
    -------
    DataFrame
        arm, magnification, what (``number``, ``area_mm2``), n, bias, sd, limit_low, limit_high, concordance.
    """
    of_slides = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    rows = []
    for key, group in of_slides.groupby(ARM, sort=False):
        for what, columns in (("number", ("n_predicted", "n_truth")), ("area_mm2", ("predicted_mm2", "truth_mm2"))):
            agreed = objects.agreement(*(group[c].to_numpy() for c in columns))
            rows.append(dict(zip(ARM, key, strict=True)) | {"what": what} | agreed)
    return pd.DataFrame(rows)


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
    draws: int = 10_000,
    seed: int = 0,
    slides: str = "same",
) -> pd.DataFrame:
    """Each arm's scores with 95 % intervals: `tlskit.metrics.bootstrap.intervals`.

    `on` is ``grid`` (the common grid, inside tissue) or ``wsi`` (each magnification's own pixels, whole slides).
    """
    counts = test_counts(run_dir, _BOOTSTRAPPED[_known(on)], threshold_by, slides)
    table = bootstrap.intervals(counts, scores=scores, pooling=pooling, by=ARM, draws=draws, seed=seed)
    return table.assign(on=on, threshold_by=threshold_by)


def differences(
    run_dir: str | Path,
    *,
    on: str = "grid",
    scores: Sequence[str] = ("dice", "iou"),
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    draws: int = 10_000,
    seed: int = 0,
    slides: str = "same",
) -> pd.DataFrame:
    """Every pairwise difference between arms with its 95 % interval (`bootstrap.differences`). `on` as above."""
    counts = test_counts(run_dir, _BOOTSTRAPPED[_known(on)], threshold_by, slides)
    table = bootstrap.differences(counts, scores=scores, pooling=pooling, by=ARM, draws=draws, seed=seed)
    return table.assign(on=on, threshold_by=threshold_by)


def _known(on: str) -> str:
    if on not in _BOOTSTRAPPED:
        raise ParameterError(f"`on` should be one of {', '.join(_BOOTSTRAPPED)}, not {on!r}.")
    return on
