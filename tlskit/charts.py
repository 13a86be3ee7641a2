"""Charts of scores: tables in, matplotlib ``Figure`` out. Pictures of pixels are in `tlskit.plots`.

Arms are told apart by colour (Okabe and Ito's palette) and by marker, so that a print in grey still reads.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tlskit import comparison, published
from tlskit.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "agreement",
    "audit",
    "calibration",
    "ceilings",
    "differences",
    "intervals",
    "iou_by_magnification",
    "minutes_per_slide",
    "object_recall",
    "pareto",
    "per_slide",
    "pr_curves",
    "published_audit",
    "same",
    "scores",
    "threshold_curves",
]

BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#222222",
)
GREY = "#8a8a8a"
BAND = "#e8e4d8"

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_MARKERS = "osD^vP*"

_WIDTH = 8.0  # inches: the width of a notebook's cell

_NAMES = {"iou": "IoU", "mcc": "MCC", "dice": "Dice"}
_LEVELS = {"tile": "tiles", "wsi": "whole slides"}
_POOLINGS = {
    "as_published": "averaged as published",
    "batch_mean": "mean of batches",
    "pooled": "all pixels pooled",
    "per_slide": "mean of slides",
    "per_patient": "mean of patients",
    "per_tile": "mean of tiles",
}


def scores(table: pd.DataFrame) -> Figure:
    """The seven scores under each pooling.

    Parameters
    ----------
    table
        Of `tlskit.metrics.score_table`, for one arm.
    """
    figure, ax = plt.subplots(figsize=(_WIDTH, 3.6), layout="constrained")
    rows = np.arange(len(SCORES))
    offsets = np.linspace(-0.24, 0.24, max(2, len(table)))
    for n, row in enumerate(table.itertuples()):
        label = _POOLINGS[row.pooling]
        if row.pooling not in ("pooled", "as_published"):
            label += f" (empty: {row.empty})"
        values = [getattr(row, name) for name in SCORES]
        ax.plot(values, rows + offsets[n], **_style(n), linestyle="none", label=label, markersize=6)
    ax.set_yticks(rows, [_name(s) for s in SCORES])
    ax.invert_yaxis()
    for row in rows[:-1]:
        ax.axhline(row + 0.5, color="0.92", linewidth=0.8, zorder=0)
    _unit_axis(ax, "x", low=min(0.0, float(np.nanmin(table[list(SCORES)].to_numpy(), initial=0.0))))
    ax.set_xlabel(f"score ({_slides(table)})")
    _legend_right(figure)
    return _done(figure, ax)


def per_slide(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """One score of every slide, worst at the bottom; slides without target and prediction are named as undefined.

    Parameters
    ----------
    table
        Of `tlskit.metrics.per_unit`.
    score
        Name of the score.
    """
    table = table.sort_values(score, na_position="first", ignore_index=True)
    figure, ax = plt.subplots(figsize=(_WIDTH, 1.1 + 0.24 * len(table)), layout="constrained")
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
    _unit_axis(ax, "x")
    ax.set_xlabel(f"{_name(score)} of the slide")
    _legend_above(figure, ncols=2)
    return _done(figure, ax)


def iou_by_magnification(table: pd.DataFrame) -> Figure:
    """A score by magnification at tile and whole-slide level, beside the published one as printed and as implied.

    Parameters
    ----------
    table
        Of `tlskit.comparison.iou_by_magnification`.
    """
    score = table["score"].iloc[0]
    figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 3.6), sharey=True, layout="constrained")
    all_magnifications = np.sort(table["magnification"].unique())
    implied = published.audit()
    for ax, level in zip(axes, ("tile", "wsi"), strict=True):
        here = table[table["level"] == level]
        printed = here[here["source"] == published.SOURCE]
        if len(printed):
            grey = {"color": GREY, "markersize": 6, "markerfacecolor": "white", "linewidth": 1.3}
            ax.plot(printed["magnification"], printed["value"], "o--", **grey, label="published, as printed")
            if f"{score}_implied" in implied:
                of_level = implied[implied["level"] == level]
                values = of_level[f"{score}_implied"]
                label = "published, pooled (from its precision and recall)"
                ax.plot(of_level["magnification"], values, "s:", **grey, label=label)
        for n, (pooling, line) in enumerate(here[here["source"] != published.SOURCE].groupby("pooling", sort=False)):
            label = f"this cohort, {_POOLINGS[pooling]}"
            ax.plot(line["magnification"], line["value"], **_style(n), linewidth=1.8, markersize=7, label=label)
        ax.set_title(_LEVELS[level], fontsize=10)
        _magnification_axis(ax, all_magnifications)
        _unit_axis(ax, "y")
    axes[0].set_ylabel(_name(score))
    _legend_above(figure, axes[0], ncols=2)
    return _done(figure, *axes)


def minutes_per_slide(table: pd.DataFrame, *, with_published: bool = True) -> Figure:
    """Minutes that a slide takes by magnification (log scale), beside a person and the published times.

    Parameters
    ----------
    table
        Of `tlskit.comparison.minutes_per_slide`.
    with_published
        Whether to draw the published times (another machine, other slides).
    """
    figure, ax = plt.subplots(figsize=(_WIDTH, 1.6 + 0.42 * len(table)), layout="constrained")
    _person(ax, "x")
    rows = np.arange(len(table))
    ax.hlines(rows, table["minutes_min"], table["minutes_max"], color=BLUE, linewidth=1.2)
    ax.hlines(rows, table["minutes_q25"], table["minutes_q75"], color=BLUE, linewidth=5, alpha=0.45)
    label = "this machine: mean (bar: middle half of slides, line: all)"
    ax.plot(table["minutes"], rows, "o", color=BLUE, markersize=7, label=label)
    labels = [f"{row.arm}  ({row.n_slides} slides)" for row in table.itertuples()]
    if with_published:
        facts = published.facts().set_index("magnification")["minutes_per_slide"]
        known = [(facts[m], row) for m, row in zip(table["magnification"], rows, strict=True) if m in facts.index]
        if known:
            label = "published (laptop GPU, 23 slides)"
            ax.plot(*zip(*known, strict=True), "D", color=GREY, markerfacecolor="white", label=label)
    ax.set_xscale("log")
    for row, mean in zip(rows, table["minutes"], strict=True):
        ax.annotate(_minutes(mean), (mean, row), (0, 8), textcoords="offset points", fontsize=8, ha="center")
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(table) - 0.4, -0.75)
    ax.set_xlabel("minutes per slide")
    _minutes_axis(ax.xaxis)
    _legend_above(figure, ncols=1)
    return _done(figure, ax)


def audit(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """The same predictions under every pooling and empty rule; the winner of each row is ringed and named.

    Parameters
    ----------
    table
        Of `tlskit.comparison.audit`.
    score
        Name of the score.
    """
    levels = [level for level in ("tile", "wsi") if level in set(table["level"])]
    rows_of = {level: _audit_rows(table[table["level"] == level], score) for level in levels}
    height = 1.5 + 0.27 * sum(len(rows) + 2 for rows in rows_of.values())
    figure, axes = plt.subplots(
        len(levels), 1, figsize=(_WIDTH, height), sharex=True, squeeze=False, layout="constrained",
        height_ratios=[len(rows) for rows in rows_of.values()],
    )  # fmt: skip
    names = list(dict.fromkeys(table["arm"]))
    for ax, level in zip(axes[:, 0], levels, strict=True):
        for place, (_, group) in enumerate(rows_of[level]):
            ax.axhline(place, color="0.93", linewidth=0.8, zorder=0)
            for row in group.itertuples():
                n = names.index(row.arm)
                best = getattr(row, f"best_{score}")
                ax.plot(getattr(row, score), place, **_style(n), markersize=7, zorder=2)
                if best:
                    ax.plot(getattr(row, score), place, "o", markersize=14, markerfacecolor="none", color=BLACK)
            winners = " = ".join(group.loc[group[f"best_{score}"], "arm"]) or "undefined"
            ax.text(1.02, place, winners, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.set_yticks(range(len(rows_of[level])), [label for label, _ in rows_of[level]], fontsize=8)
        ax.set_ylim(len(rows_of[level]) - 0.4, -0.6)
        pooled = table[(table["level"] == level) & (table["pooling"] == "pooled")].drop_duplicates("arm")
        shares = ", ".join(f"{row.arm} {_percent(row.prevalence)}" for row in pooled.itertuples())
        ax.set_title(f"{_LEVELS[level]}  (pixels that are target: {shares})", fontsize=9, loc="left")
        ax.text(1.02, -1.0, "best", transform=ax.get_yaxis_transform(), va="center", fontsize=9, color="0.4")
        _unit_axis(ax, "x")
    axes[-1, 0].set_xlabel(_name(score))
    handles = [
        plt.Line2D([], [], **_style(n) | {"linestyle": "none"}, markersize=7, label=arm) for n, arm in enumerate(names)
    ]
    handles.append(
        plt.Line2D(
            [], [], marker="o", linestyle="none", markersize=12, markerfacecolor="none", color=BLACK, label="best"
        )
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return _done(figure, *axes[:, 0])


def _audit_rows(table: pd.DataFrame, score: str) -> list[tuple[str, pd.DataFrame]]:
    """Rows of one level; rules for empty units that give the same scores share a row."""
    rows = []
    for pooling, of_pooling in table.groupby("pooling", sort=False):
        seen: list[tuple[list[str], pd.DataFrame]] = []
        for empty, group in of_pooling.groupby("empty", sort=False):
            for rules, other in seen:
                if np.array_equal(group[score].to_numpy(), other[score].to_numpy(), equal_nan=True):
                    rules.append(empty)
                    break
            else:
                seen.append(([empty], group))
        for rules, group in seen:
            of_rule = "" if len(rules) == 3 else f", empty: {' or '.join(rules)}"
            rows.append((_POOLINGS[pooling] + of_rule, group))
    return rows


def published_audit() -> Figure:
    """The printed table beside what its own precision, recall and specificity imply: `tlskit.published.audit`."""
    table = published.audit()
    figure, axes = plt.subplots(1, 3, figsize=(_WIDTH, 3.6), sharey=True, layout="constrained")
    rows = np.arange(len(table)) + np.where(table["level"] == "wsi", 0.6, 0.0)
    for ax, score in zip(axes, ("dice", "iou", "mcc"), strict=True):
        printed, implied = table[f"{score}_printed"], table[f"{score}_implied"]
        ax.hlines(rows, printed, implied, color="0.75", linewidth=1.5, zorder=1)
        ax.plot(implied, rows, "o", color=BLUE, markersize=7, label="implied by its precision, recall, specificity")
        ax.plot(printed, rows, "D", color=VERMILION, markersize=7, fillstyle="none", label="as printed")
        agree = int(table[f"{score}_agrees"].sum())
        ax.set_title(f"{_name(score)}: {agree} of {len(table)} rows agree", fontsize=9)
        _unit_axis(ax, "x")
    labels = [f"{'tile' if r.level == 'tile' else 'slide'} {r.magnification:g}x" for r in table.itertuples()]
    axes[0].set_yticks(rows, labels)
    axes[0].invert_yaxis()
    figure.supxlabel("score", fontsize=10)
    _legend_above(figure, axes[0], ncols=2)
    return _done(figure, *axes)


def intervals(table: pd.DataFrame) -> Figure:
    """Scores of each arm with their intervals, one panel a score.

    Parameters
    ----------
    table
        Of `tlskit.comparison.intervals`.
    """
    names, of_scores = list(dict.fromkeys(table["arm"])), list(dict.fromkeys(table["score"]))
    figure, axes = plt.subplots(
        1, len(of_scores), figsize=(_WIDTH, 1.5 + 0.4 * len(names)), sharey=True, squeeze=False, layout="constrained"
    )
    ends = table[["low", "estimate", "high"]].to_numpy()
    low, high = float(np.nanmin(ends, initial=1.0)), float(np.nanmax(ends, initial=0.0))
    for ax, score in zip(axes[0], of_scores, strict=True):
        for row in table[table["score"] == score].itertuples():
            n = names.index(row.arm)
            ax.hlines(n, row.low, row.high, color=_COLOURS[n % len(_COLOURS)], linewidth=2)
            ax.plot(row.estimate, n, **_style(n), markersize=5)
            if not np.isnan(row.estimate):
                ax.annotate(
                    f"{row.estimate:.2f}",
                    (row.estimate, n),
                    (0, 8),
                    textcoords="offset points",
                    fontsize=8,
                    ha="center",
                )
        ax.set_title(_name(score), fontsize=10)
        ax.set_xlim(low - 0.05, high + 0.05)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.7)
    figure.supxlabel(_interval_caption(table), fontsize=8)
    return _done(figure, *axes[0])


def differences(table: pd.DataFrame, *, score: str | None = None) -> Figure:
    """Paired differences between arms with their intervals; those whose interval excludes 0 are filled.

    Parameters
    ----------
    table
        Of `tlskit.comparison.differences`.
    score
        Which of its scores; by default its last.
    """
    if table.empty:
        figure, ax = plt.subplots(figsize=(_WIDTH, 1.2), layout="constrained")
        ax.set_axis_off()
        ax.text(0.5, 0.5, "One arm alone has no difference to another.", ha="center", va="center")
        return _done(figure, ax)
    score = score or table["score"].iloc[-1]
    table = table[table["score"] == score].reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(_WIDTH, 1.4 + 0.34 * len(table)), layout="constrained")
    ax.axvline(0, color="0.4", linewidth=1)
    for row in table.itertuples():
        colour = BLUE if row.excludes_zero else GREY
        ax.hlines(row.Index, row.low, row.high, color=colour, linewidth=2)
        face = colour if row.excludes_zero else "white"
        ax.plot(row.difference, row.Index, "o", color=colour, markerfacecolor=face, markersize=7)
    ax.set_yticks(range(len(table)), [f"{r.first} - {r.second}" for r in table.itertuples()])
    ax.set_ylim(len(table) - 0.5, -0.5)
    note = "filled: the interval excludes 0"
    if len(table) > 1:
        note += f"; {len(table)} pairs, each interval on its own"
    ax.set_xlabel(f"difference in {_name(score)}, same patients in both arms ({note})", fontsize=9)
    figure.supxlabel(_interval_caption(table), fontsize=8)
    return _done(figure, ax)


def pr_curves(curves: pd.DataFrame, *, chosen: dict[str, float] | None = None) -> Figure:
    """Precision against recall of all pixels pooled, over all thresholds; 0.5 and the chosen threshold marked.

    Parameters
    ----------
    curves
        Of `tlskit.comparison.pr_curves`.
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
        style = _style(n)
        ax.plot(
            curve["recall"], curve["precision"], color=style["color"], linewidth=1.8,
            label=f"{arm}  (average precision {curve['average_precision'].iloc[0]:.2f})",
        )  # fmt: skip
        _mark(ax, curve, 0.5, style, filled=True)
        if chosen and arm in chosen:
            _mark(ax, curve, chosen[arm], style, filled=False)
    _unit_axis(ax, "x")
    _unit_axis(ax, "y")
    marks = "filled: threshold 0.5" + ("; hollow: chosen on validation" if chosen else "")
    ax.set_xlabel(f"recall ({marks})")
    ax.set_ylabel("precision")
    _legend_above(figure, ax, ncols=2)
    return _done(figure, ax)


def _mark(ax: Axes, curve: pd.DataFrame, threshold: float, style: dict, *, filled: bool) -> None:
    at = curve.loc[(curve["threshold"] - threshold).abs().idxmin()]
    face = style["color"] if filled else "white"
    ax.plot(at["recall"], at["precision"], style["marker"], color=style["color"], markerfacecolor=face, markersize=9)


def threshold_curves(curves: pd.DataFrame, *, chosen: dict[str, float] | float | None = None) -> Figure:
    """Dice of all pixels pooled at every threshold, with 0.5 and the chosen one marked.

    Parameters
    ----------
    curves
        Of `tlskit.thresholds.pr_curve` or `tlskit.comparison.pr_curves`.
    chosen
        Threshold, or threshold by arm.
    """
    figure, ax = plt.subplots(figsize=(_WIDTH, 3.4), layout="constrained")
    ax.axvline(0.5, color="0.7", linewidth=1, linestyle="--", zorder=0)
    ax.text(0.5, 0.02, " 0.5", color="0.45", fontsize=8, va="bottom", transform=ax.get_xaxis_transform())
    groups = curves.groupby("arm", sort=False) if "arm" in curves else [("", curves)]
    for n, (arm, curve) in enumerate(groups):
        style = _style(n)
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
    _unit_axis(ax, "x")
    _unit_axis(ax, "y")
    ax.set_xlabel("threshold" + (" (marker: chosen on validation)" if chosen is not None else ""))
    ax.set_ylabel("Dice, all pixels pooled")
    if "arm" in curves:
        _legend_above(figure, ax, ncols=6)
    return _done(figure, ax)


def calibration(table: pd.DataFrame) -> Figure:
    """Reliability: the share of target among pixels of about the same probability, and how many pixels those are.

    Parameters
    ----------
    table
        Of `tlskit.thresholds.calibration` or `tlskit.comparison.calibration`.
    """
    figure, (ax, below) = plt.subplots(
        2, 1, figsize=(6.4, 5.6), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--", zorder=0)
    groups = list(table.groupby("arm", sort=False)) if "arm" in table else [("", table)]
    width = (table["bin_high"] - table["bin_low"]).iloc[0]
    for n, (arm, group) in enumerate(groups):
        error = group["calibration_error"].iloc[0]
        label = f"{arm} (calibration error {error:.3f})" if arm else f"calibration error {error:.3f}"
        some = group[group["pixels"] > 0]
        ax.plot(some["mean_probability"], some["target_share"], **_style(n), linewidth=1.6, markersize=6, label=label)
        bar = width / (len(groups) + 1)
        left = some["bin_low"] + bar * (n + 0.5)
        below.bar(left, some["pixels"] / group["pixels"].sum(), bar, align="edge", color=_style(n)["color"])
    below.set_yscale("log")
    below.set_ylabel("share of pixels")
    below.set_xlabel("predicted probability")
    ax.set_ylabel("share that is target")
    _unit_axis(ax, "x")
    _unit_axis(ax, "y")
    _legend_above(figure, ax, ncols=2)
    return _done(figure, ax, below)


def ceilings(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """A score on the common grid beside the ceiling that its magnification's pixels set.

    Parameters
    ----------
    table
        Of `tlskit.comparison.grid_table`.
    score
        ``iou`` or ``dice``.
    """
    figure, ax = plt.subplots(figsize=(_WIDTH, 1.3 + 0.45 * len(table)), layout="constrained")
    rows = np.arange(len(table))
    ax.hlines(rows, table[score], table[f"ceiling_{score}"], color="0.8", linewidth=1.2)
    ax.plot(table[score], rows, "o", color=BLUE, markersize=8, label="model")
    ax.plot(table[f"ceiling_{score}"], rows, "|", color=BLACK, markersize=18, markeredgewidth=2.5, label="ceiling")
    for row, (value, top) in enumerate(zip(table[score], table[f"ceiling_{score}"], strict=True)):
        for number in (value, top):
            ax.annotate(f"{number:.3f}", (number, row), (0, 10), textcoords="offset points", fontsize=8, ha="center")
    ax.set_yticks(rows, table["arm"])
    ax.set_ylim(len(table) - 0.5, -0.7)
    _unit_axis(ax, "x")
    mpp = table["grid_mpp"].iloc[0]
    ax.set_xlabel(f"{_name(score)} on a common grid of {mpp:g} um/px, inside the same tissue ({_slides(table)})")
    _legend_above(figure, ncols=2)
    return _done(figure, ax)


def object_recall(table: pd.DataFrame, *, rule: str = "iou10") -> Figure:
    """Objects found by size class, and false objects by area of tissue.

    Parameters
    ----------
    table
        Of `tlskit.comparison.object_table`.
    rule
        One of `tlskit.objects.MATCH_RULES`.
    """
    from tlskit.objects import SIZE_CLASSES

    table = table[table["rule"] == rule].reset_index(drop=True)
    figure, (ax, right) = plt.subplots(1, 2, figsize=(_WIDTH, 3.4), width_ratios=[2.6, 1], layout="constrained")
    classes = [(name, name.replace(" ", "_").replace("-", "_")) for name, _ in SIZE_CLASSES]
    groups = [
        (f"recall_{short}", f"{name.replace(' ', chr(10), 1)}\n(n = {same(table[f'n_{short}'])})")
        for name, short in classes
    ]
    groups += [("recall", f"all\nsizes\n(n = {same(table['n_truth'])})"), ("precision", "precision"), ("f1", "F1")]
    offsets = np.linspace(-0.25, 0.25, max(2, len(table)))
    for n, row in table.iterrows():
        values = [row[column] for column, _ in groups]
        ax.plot(
            np.arange(len(groups)) + offsets[n], values, **_style(n), linestyle="none", markersize=7, label=row["arm"]
        )
    ax.set_xticks(range(len(groups)), [label for _, label in groups], fontsize=8)
    for place in np.arange(len(groups) - 1) + 0.5:
        ax.axvline(place, color="0.93" if place != 3.5 else "0.6", linewidth=0.8, zorder=0)
    _unit_axis(ax, "y")
    rules = {"iou10": "IoU of 0.1 or more", "iou50": "IoU of 0.5 or more", "centroid": "centroid inside"}
    ax.set_ylabel("share")
    ax.set_title(f"recall by diameter; a match is: {rules[rule]}", fontsize=9)
    places = np.arange(len(table))
    right.barh(places, table["false_objects_per_cm2"], color=[_style(n)["color"] for n in places], height=0.6)
    right.set_yticks(places, table["arm"])
    right.invert_yaxis()
    right.set_xlabel("false objects\nper cm² of tissue")
    _legend_above(figure, ax, ncols=6)
    return _done(figure, ax, right)


def agreement(per_slide_objects: pd.DataFrame, *, what: str = "area_mm2") -> Figure:
    """Bland and Altman's plot of each arm: predicted minus true against their mean, one point a slide.

    Parameters
    ----------
    per_slide_objects
        ``05_objects_per_slide`` of all arms (`tlskit.comparison.collect`), of one threshold rule.
    what
        ``area_mm2`` or ``number``.
    """
    from tlskit.objects import agreement as agree

    columns = {"area_mm2": ("predicted_mm2", "truth_mm2"), "number": ("n_predicted", "n_truth")}[what]
    names = list(dict.fromkeys(per_slide_objects["arm"]))
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(_WIDTH, 2.6 * down + 0.4), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for n, (ax, arm) in enumerate(zip(axes.flat, names, strict=False)):
        group = per_slide_objects[per_slide_objects["arm"] == arm]
        predicted, truth = (group[c].to_numpy(float) for c in columns)
        found = agree(predicted, truth)
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.axhline(found["bias"], color=BLACK, linewidth=1.2)
        for limit in (found["limit_low"], found["limit_high"]):
            ax.axhline(limit, color=BLACK, linewidth=1, linestyle="--")
        ax.plot(
            (predicted + truth) / 2, predicted - truth, **_style(n) | {"linestyle": "none"}, markersize=6, alpha=0.8
        )
        ax.set_title(f"{arm}: concordance {found['concordance']:.2f}", fontsize=9)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    unit = "area of objects, mm²" if what == "area_mm2" else "number of objects"
    figure.supylabel("predicted - true", fontsize=9)
    figure.supxlabel(
        f"mean of predicted and true ({unit}; one point a slide; line: bias, dashes: bias ± 1.96 sd)", fontsize=9
    )
    return _done(figure, *axes.flat)


def pareto(front: pd.DataFrame) -> Figure:
    """Quality with its interval against minutes per slide with their spread; the chosen arm ringed, and why.

    Parameters
    ----------
    front
        Of `tlskit.comparison.pareto`.
    """
    score = front["score"].iloc[0]
    figure, ax = plt.subplots(figsize=(_WIDTH, 4.6), layout="constrained")
    _person(ax, "x")
    on_front = front[front["on_front"]].sort_values("minutes")
    ax.plot(on_front["minutes"], on_front["estimate"], color="0.6", linewidth=1.2, linestyle="--", zorder=1)
    for n, row in enumerate(front.itertuples()):
        colour = _style(n)["color"]
        ax.hlines(row.estimate, row.minutes_min, row.minutes_max, color=colour, linewidth=1.5)
        ax.vlines(row.minutes, row.low, row.high, color=colour, linewidth=1.5)
        ax.plot(row.minutes, row.estimate, **_style(n) | {"linestyle": "none"}, markersize=8, zorder=3)
        ax.annotate(
            row.arm, (row.minutes, row.estimate), (9, 7), textcoords="offset points", fontsize=10, color=colour,
            fontweight="bold" if row.chosen else "normal",
        )  # fmt: skip
        if row.chosen:
            ax.plot(row.minutes, row.estimate, "o", markersize=17, markerfacecolor="none", color=BLACK, zorder=4)
    ax.set_xscale("log")
    _minutes_axis(ax.xaxis)
    _unit_axis(ax, "y", low=min(0.0, float(np.nanmin(front["low"].to_numpy(), initial=0.0))))
    ax.set_xlabel("minutes per slide (mean; line: fastest to slowest slide)")
    ax.set_ylabel(f"{_name(score)} (line: 95 % interval)")
    ax.set_title("\n".join(textwrap.wrap("Chosen: " + comparison.choice(front), 112)), fontsize=9, loc="left")
    return _done(figure, ax)


def _style(n: int) -> dict:
    return {"color": _COLOURS[n % len(_COLOURS)], "marker": _MARKERS[n % len(_MARKERS)]}


def _name(score: str) -> str:
    return _NAMES.get(score, score)


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %"


def same(values: Sequence) -> str:
    """A number that all arms should share; a range where they do not."""
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}-{high}"


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f} min" if minutes >= 1 else f"{minutes * 60:.2g} s"


def _slides(table: pd.DataFrame) -> str:
    return f"{same(table['n_slides'])} slides of {same(table['n_patients'])} patients"


def _interval_caption(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    text = f"{first['level'] * 100:g} % intervals, {first['draws']:,} draws of {first['n_patients']} patients"
    where = {"grid": "common grid, inside tissue", "wsi": "whole slides, own pixels"}.get(first.get("on", ""), "")
    text += f" ({', '.join(t for t in (_POOLINGS[first['pooling']], where) if t)})"
    if isinstance(first["warning"], str) and first["warning"]:
        text += "\n" + textwrap.fill(f"Caution: {first['warning']}.", 110)
    return text


def _unit_axis(ax: Axes, axis: str, *, low: float = 0.0) -> None:
    low = -0.03 if low >= 0 else low - 0.05
    (ax.set_xlim if axis == "x" else ax.set_ylim)(low, 1.03)


def _magnification_axis(ax: Axes, magnifications: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_xticks(magnifications, [f"{m:g}x" for m in magnifications])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(magnifications.min() / 1.25, magnifications.max() * 1.25)
    ax.set_xlabel("magnification")


def _minutes_axis(axis) -> None:
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _person(ax: Axes, axis: str) -> None:
    low, high = published.PERSON_MINUTES_PER_SLIDE
    (ax.axvspan if axis == "x" else ax.axhspan)(
        low, high, color=BAND, zorder=0, linewidth=0, label=f"a person: {low:g}-{high:g} min"
    )
    ax.text(
        np.sqrt(low * high), 0.01, f"a person\n{low:g}-{high:g} min", ha="center", va="bottom", fontsize=8,
        color="0.35",
        transform=ax.get_xaxis_transform(), zorder=1,
    )  # fmt: skip


def _legend_above(figure: Figure, ax: Axes | None = None, *, ncols: int) -> None:
    handles, labels = (ax or figure.axes[0]).get_legend_handles_labels()
    kept = [(h, label) for h, label in zip(handles, labels, strict=True) if not label.startswith("a person")]
    if kept:
        figure.legend(*zip(*kept, strict=True), loc="outside upper center", ncols=ncols, frameon=False, fontsize=9)


def _legend_right(figure: Figure) -> None:
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)


def _done(figure: Figure, *axes: Axes) -> Figure:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    # What a cell returns is shown by the notebook; left open, pyplot would show it a second time.
    plt.close(figure)
    return figure
