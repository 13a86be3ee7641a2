"""Charts of scores and thresholds: tables in, matplotlib ``Figure`` out. Pictures of pixels are in `plots`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tlskit.figures.style import (
    BLUE,
    ORANGE,
    POOLINGS,
    WIDTH_IN,
    arm_style,
    done,
    legend_above,
    legend_right,
    score_name,
    slides_text,
    unit_axis,
)
from tlskit.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["calibration_curves", "per_slide", "pr_curves", "score_bars", "threshold_curves"]


def score_bars(table: pd.DataFrame) -> Figure:
    """The seven scores under each pooling.

    Parameters
    ----------
    table
        Of `tlskit.metrics.scores.score_table`, for one arm.
    """
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 4.2), layout="constrained")
    rows = np.arange(len(SCORES))
    offsets = np.linspace(-0.24, 0.24, max(2, len(table)))
    for n, row in enumerate(table.itertuples()):
        label = POOLINGS[row.pooling]
        if row.pooling != "pooled" and not row.pooling.startswith("as_published"):
            label += f" (empty: {row.empty})"
        values = [getattr(row, name) for name in SCORES]
        ax.plot(values, rows + offsets[n], **arm_style(n), linestyle="none", label=label, markersize=6)
    ax.set_yticks(rows, [score_name(s) for s in SCORES])
    ax.invert_yaxis()
    for row in rows[:-1]:
        ax.axhline(row + 0.5, color="0.92", linewidth=0.8, zorder=0)
    unit_axis(ax, "x", low=min(0.0, float(np.nanmin(table[list(SCORES)].to_numpy(), initial=0.0))))
    ax.set_xlabel(f"score ({slides_text(table)})")
    legend_right(figure)
    return done(figure, ax)


def per_slide(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """One score of every slide, worst at the bottom; slides without target and prediction are named as undefined.

    Parameters
    ----------
    table
        Of `tlskit.metrics.scores.per_unit`.
    score
        Name of the score.
    """
    table = table.sort_values(score, na_position="first", ignore_index=True)
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 1.1 + 0.24 * len(table)), layout="constrained")
    rows = np.arange(len(table))
    ax.hlines(rows, 0, table[score].fillna(0), color="0.8", linewidth=1.2, zorder=1)
    empty = (table["tp"] + table["fn"] == 0).to_numpy()
    for which, colour, marker, label in ((~empty, BLUE, "o", "with target"), (empty, ORANGE, "s", "without target")):
        if which.any():
            ax.plot(table[score][which], rows[which], marker, color=colour, label=label, zorder=2)
    for row in rows[table[score].isna()]:
        ax.text(0.01, row, "undefined: no target, nothing predicted", fontsize=8, color="0.4", va="center")
    ax.set_yticks(rows, table[table.columns[0]], fontsize=8)
    ax.set_ylim(-0.7, len(table) - 0.3)
    unit_axis(ax, "x")
    ax.set_xlabel(f"{score_name(score)} of the slide")
    legend_above(figure, ncols=2)
    return done(figure, ax)


def pr_curves(curves: pd.DataFrame, *, chosen: dict[str, float] | None = None) -> Figure:
    """Precision against recall of all pixels pooled, over all thresholds; 0.5 and the chosen threshold marked.

    Parameters
    ----------
    curves
        Of `tlskit.evaluation.comparison.pr_curves`.
    chosen
        Threshold by arm; by default only 0.5 is marked.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    recall = np.linspace(0.01, 1, 200)
    for dice in (0.2, 0.4, 0.6, 0.8):
        with np.errstate(divide="ignore"):
            precision = np.where(2 * recall > dice, dice * recall / (2 * recall - dice), np.nan)
        ax.plot(recall, np.where(precision <= 1, precision, np.nan), color="0.88", linewidth=1, zorder=0)
        ax.text(1.01, dice / (2 - dice), f"Dice {dice:g}", color="0.55", fontsize=8, va="center")
    for n, (arm, curve) in enumerate(curves.groupby("arm", sort=False)):
        style = arm_style(n)
        ax.plot(
            curve["recall"], curve["precision"], color=style["color"], linewidth=1.8,
            label=f"{arm}  (ends at recall {curve['recall_at_end'].iloc[0]:.2f})",
        )  # fmt: skip
        _mark(ax, curve, 0.5, style, filled=True)
        if chosen and arm in chosen:
            _mark(ax, curve, chosen[arm], style, filled=False)
    unit_axis(ax, "x")
    unit_axis(ax, "y")
    marks = "filled: threshold 0.5" + ("; hollow: chosen on validation" if chosen else "")
    ax.set_xlabel(f"recall ({marks})")
    ax.set_ylabel("precision")
    legend_above(figure, ax, ncols=2)
    return done(figure, ax)


def _mark(ax: Axes, curve: pd.DataFrame, threshold: float, style: dict, *, filled: bool) -> None:
    at = curve.loc[(curve["threshold"] - threshold).abs().idxmin()]
    face = style["color"] if filled else "white"
    ax.plot(at["recall"], at["precision"], style["marker"], color=style["color"], markerfacecolor=face, markersize=9)


def threshold_curves(curves: pd.DataFrame, *, chosen: dict[str, float] | float | None = None) -> Figure:
    """Dice of all pixels pooled at every threshold, with 0.5 and the chosen one marked.

    Parameters
    ----------
    curves
        Of `tlskit.metrics.thresholds.pr_curve` or `tlskit.evaluation.comparison.pr_curves`.
    chosen
        Threshold, or threshold by arm.
    """
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 3.4), layout="constrained")
    ax.axvline(0.5, color="0.7", linewidth=1, linestyle="--", zorder=0)
    ax.text(0.5, 0.02, " 0.5", color="0.45", fontsize=8, va="bottom", transform=ax.get_xaxis_transform())
    groups = curves.groupby("arm", sort=False) if "arm" in curves else [("", curves)]
    for n, (arm, curve) in enumerate(groups):
        style = arm_style(n)
        value = chosen.get(arm) if isinstance(chosen, dict) else chosen
        label = str(arm) if arm else None
        ax.plot(curve["threshold"], curve["dice"], color=style["color"], linewidth=1.8, label=label)
        if value is not None:
            at = curve.loc[(curve["threshold"] - value).abs().idxmin()]
            ax.plot(at["threshold"], at["dice"], style["marker"], color=style["color"], markersize=9)
            ax.annotate(
                f"{value:.2f}",
                (at["threshold"], at["dice"]),
                (0, 8),
                textcoords="offset points",
                fontsize=8,
                ha="center",
            )
    unit_axis(ax, "x")
    unit_axis(ax, "y")
    ax.set_xlabel("threshold" + (" (marker: chosen on validation)" if chosen is not None else ""))
    ax.set_ylabel("Dice, all pixels pooled")
    if "arm" in curves:
        legend_above(figure, ax, ncols=6)
    return done(figure, ax)


def calibration_curves(table: pd.DataFrame) -> Figure:
    """Reliability: the share of target among pixels of about the same probability, and how many pixels those are.

    Parameters
    ----------
    table
        Of `tlskit.metrics.thresholds.calibration` or `tlskit.evaluation.comparison.calibration`.
    """
    figure, (ax, below) = plt.subplots(
        2, 1, figsize=(6.4, 5.6), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--", zorder=0)
    groups = list(table.groupby("arm", sort=False)) if "arm" in table else [("", table)]
    width = (table["bin_high"] - table["bin_low"]).iloc[0]
    for n, (arm, group) in enumerate(groups):
        error = group["calibration_error"].iloc[0]
        label = f"error above the lowest bin {error:.3f}"
        label = f"{arm} ({label})" if arm else label
        some = group[group["pixels"] > 0]
        ax.plot(
            some["mean_probability"], some["target_share"], **arm_style(n), linewidth=1.6, markersize=6, label=label
        )
        bar = width / (len(groups) + 1)
        left = some["bin_low"] + bar * (n + 0.5)
        below.bar(left, some["pixels"] / group["pixels"].sum(), bar, align="edge", color=arm_style(n)["color"])
    below.set_yscale("log")
    below.set_ylabel("share of pixels")
    below.set_xlabel("predicted probability")
    ax.set_ylabel("share that is target")
    unit_axis(ax, "x")
    unit_axis(ax, "y")
    legend_above(figure, ax, ncols=2)
    return done(figure, ax, below)
