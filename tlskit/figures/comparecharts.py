"""Charts across magnifications: tables of `tlskit.evaluation` in, matplotlib ``Figure`` out."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from tlskit import units
from tlskit.evaluation import costs
from tlskit.figures.style import (
    BLACK,
    BLUE,
    GREY,
    LEVELS,
    PALETTE,
    POOLINGS,
    WIDTH_IN,
    arm_style,
    done,
    interval_caption,
    legend_above,
    magnification_axis,
    minutes_axis,
    person_band,
    same,
    score_name,
    slides_text,
    unit_axis,
)
from tlskit.metrics import published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "agreement",
    "ceilings",
    "difference_intervals",
    "score_intervals",
    "iou_by_magnification",
    "minutes_bars",
    "object_recall",
    "pareto_front",
]


def iou_by_magnification(table: pd.DataFrame) -> Figure:
    """A score by magnification at tile and whole-slide level, beside the published one as printed and as implied.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.comparison.iou_by_magnification`.
    """
    score = table["score"].iloc[0]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH_IN, 3.6), sharey=True, layout="constrained")
    all_magnifications = np.sort(table["magnification"].unique())
    implied = published.audit_published_table()
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
            label = f"this cohort, {POOLINGS[pooling]}"
            ax.plot(line["magnification"], line["value"], **arm_style(n), linewidth=1.8, markersize=7, label=label)
        ax.set_title(LEVELS[level], fontsize=10)
        magnification_axis(ax, all_magnifications)
        unit_axis(ax, "y")
    axes[0].set_ylabel(score_name(score))
    legend_above(figure, axes[0], ncols=2)
    return done(figure, *axes)


def minutes_bars(table: pd.DataFrame, *, with_published: bool = True) -> Figure:
    """Minutes that a slide takes by magnification (log scale), beside a person and the published times.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.costs.minutes_per_slide`.
    with_published
        Whether to draw the published times (another machine, other slides).
    """
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 1.6 + 0.42 * len(table)), layout="constrained")
    person_band(ax, "x")
    rows = np.arange(len(table))
    ax.hlines(rows, table["minutes_min"], table["minutes_max"], color=BLUE, linewidth=1.2)
    ax.hlines(rows, table["minutes_q25"], table["minutes_q75"], color=BLUE, linewidth=5, alpha=0.45)
    label = "this machine: mean (bar: middle half of slides, line: all)"
    ax.plot(table["minutes"], rows, "o", color=BLUE, markersize=7, label=label)
    labels = [f"{row.arm}  ({row.n_slides} slide{'s' * (row.n_slides != 1)})" for row in table.itertuples()]
    if with_published:
        facts = published.facts().set_index("magnification")["minutes_per_slide"]
        known = [(facts[m], row) for m, row in zip(table["magnification"], rows, strict=True) if m in facts.index]
        if known:
            label = "published (laptop GPU, 23 slides)"
            ax.plot(*zip(*known, strict=True), "D", color=GREY, markerfacecolor="white", label=label)
    ax.set_xscale("log")
    for row, mean in zip(rows, table["minutes"], strict=True):
        ax.annotate(units.minutes_text(mean), (mean, row), (0, 8), textcoords="offset points", fontsize=8, ha="center")
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(table) - 0.4, -0.75)
    ax.set_xlabel("minutes per slide")
    minutes_axis(ax.xaxis)
    legend_above(figure, ncols=1)
    return done(figure, ax)


def score_intervals(table: pd.DataFrame) -> Figure:
    """Scores of each arm with their intervals, one panel a score.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.comparison.intervals`.
    """
    names, of_scores = list(dict.fromkeys(table["arm"])), list(dict.fromkeys(table["score"]))
    figure, axes = plt.subplots(
        1, len(of_scores), figsize=(WIDTH_IN, 1.5 + 0.4 * len(names)), sharey=True, squeeze=False, layout="constrained"
    )
    ends = table[["low", "estimate", "high"]].to_numpy()
    low, high = float(np.nanmin(ends, initial=1.0)), float(np.nanmax(ends, initial=0.0))
    for ax, score in zip(axes[0], of_scores, strict=True):
        for row in table[table["score"] == score].itertuples():
            n = names.index(row.arm)
            ax.hlines(n, row.low, row.high, color=PALETTE[n % len(PALETTE)], linewidth=2)
            ax.plot(row.estimate, n, **arm_style(n), markersize=5)
            if not np.isnan(row.estimate):
                ax.annotate(
                    f"{row.estimate:.2f}",
                    (row.estimate, n),
                    (0, 8),
                    textcoords="offset points",
                    fontsize=8,
                    ha="center",
                )
        ax.set_title(score_name(score), fontsize=10)
        ax.set_xlim(low - 0.05, high + 0.05)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.7)
    figure.supxlabel(interval_caption(table), fontsize=8)
    return done(figure, *axes[0])


def difference_intervals(table: pd.DataFrame, *, score: str | None = None) -> Figure:
    """Paired differences between arms with their intervals; those whose interval excludes 0 are filled.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.comparison.differences`.
    score
        Which of its scores; by default its last.
    """
    if table.empty:
        figure, ax = plt.subplots(figsize=(WIDTH_IN, 1.2), layout="constrained")
        ax.set_axis_off()
        ax.text(0.5, 0.5, "One arm alone has no difference to another.", ha="center", va="center")
        return done(figure, ax)
    score = score or table["score"].iloc[-1]
    table = table[table["score"] == score].reset_index(drop=True)
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 1.4 + 0.34 * len(table)), layout="constrained")
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
    ax.set_xlabel(f"difference in {score_name(score)}, same patients in both arms ({note})", fontsize=9)
    figure.supxlabel(interval_caption(table), fontsize=8)
    return done(figure, ax)


def ceilings(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """A score on the common grid beside the ceiling that its magnification's pixels set.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.comparison.grid_table`.
    score
        ``iou`` or ``dice``.
    """
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 1.3 + 0.45 * len(table)), layout="constrained")
    rows = np.arange(len(table))
    ax.hlines(rows, table[score], table[f"ceiling_{score}"], color="0.8", linewidth=1.2)
    ax.plot(table[score], rows, "o", color=BLUE, markersize=8, label="model")
    ax.plot(table[f"ceiling_{score}"], rows, "|", color=BLACK, markersize=18, markeredgewidth=2.5, label="ceiling")
    for row, (value, top) in enumerate(zip(table[score], table[f"ceiling_{score}"], strict=True)):
        for number in (value, top):
            ax.annotate(f"{number:.3f}", (number, row), (0, 10), textcoords="offset points", fontsize=8, ha="center")
    ax.set_yticks(rows, table["arm"])
    ax.set_ylim(len(table) - 0.5, -0.7)
    unit_axis(ax, "x")
    mpp = table["grid_mpp"].iloc[0]
    ax.set_xlabel(
        f"{score_name(score)} on a common grid of {mpp:g} um/px, inside the same tissue ({slides_text(table)})"
    )
    legend_above(figure, ncols=2)
    return done(figure, ax)


def object_recall(table: pd.DataFrame, *, rule: str = "iou10") -> Figure:
    """Objects found by size class, and false objects by area of tissue.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.comparison.object_table`.
    rule
        One of `tlskit.metrics.objects.MATCH_RULES`.
    """
    from tlskit.metrics import SIZE_CLASSES

    table = table[table["rule"] == rule].reset_index(drop=True)
    figure, (ax, right) = plt.subplots(1, 2, figsize=(WIDTH_IN, 3.4), width_ratios=[2.6, 1], layout="constrained")
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
            np.arange(len(groups)) + offsets[n],
            values,
            **arm_style(n),
            linestyle="none",
            markersize=7,
            label=row["arm"],
        )
    ax.set_xticks(range(len(groups)), [label for _, label in groups], fontsize=8)
    for place in np.arange(len(groups) - 1) + 0.5:
        ax.axvline(place, color="0.93" if place != 3.5 else "0.6", linewidth=0.8, zorder=0)
    unit_axis(ax, "y")
    rules = {"iou10": "IoU of 0.1 or more", "iou50": "IoU of 0.5 or more", "centroid": "centroid inside"}
    ax.set_ylabel("share")
    ax.set_title(f"recall by diameter; a match is: {rules[rule]}", fontsize=9)
    places = np.arange(len(table))
    right.barh(places, table["false_objects_per_cm2"], color=[arm_style(n)["color"] for n in places], height=0.6)
    right.set_yticks(places, table["arm"])
    right.invert_yaxis()
    right.set_xlabel("false objects\nper cm² of tissue")
    legend_above(figure, ax, ncols=6)
    return done(figure, ax, right)


def agreement(per_slide_objects: pd.DataFrame, *, what: str = "area_mm2") -> Figure:
    """Bland and Altman's plot of each arm: predicted minus true against their mean, one point a slide.

    Parameters
    ----------
    per_slide_objects
        ``05_objects_per_slide`` of all arms (`tlskit.evaluation.comparison.collect`), of one threshold rule.
    what
        ``area_mm2`` or ``number``.
    """
    from tlskit.metrics import agreement as agree

    columns = {"area_mm2": ("predicted_mm2", "truth_mm2"), "number": ("n_predicted", "n_truth")}[what]
    names = list(dict.fromkeys(per_slide_objects["arm"]))
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(WIDTH_IN, 2.6 * down + 0.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
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
            (predicted + truth) / 2, predicted - truth, **arm_style(n) | {"linestyle": "none"}, markersize=6, alpha=0.8
        )
        ax.set_title(f"{arm}: concordance {found['concordance']:.2f}", fontsize=9)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    unit = "area of objects, mm²" if what == "area_mm2" else "number of objects"
    figure.supylabel("predicted - true", fontsize=9)
    figure.supxlabel(
        f"mean of predicted and true ({unit}; one point a slide; line: bias, dashes: bias ± 1.96 sd)", fontsize=9
    )
    return done(figure, *axes.flat)


def pareto_front(front: pd.DataFrame) -> Figure:
    """Quality with its interval against minutes per slide with their spread; the chosen arm ringed, and why.

    Parameters
    ----------
    front
        Of `tlskit.evaluation.costs.pareto`.
    """
    score = front["score"].iloc[0]
    figure, ax = plt.subplots(figsize=(WIDTH_IN, 4.6), layout="constrained")
    person_band(ax, "x")
    on_front = front[front["on_front"]].sort_values("minutes")
    ax.plot(on_front["minutes"], on_front["estimate"], color="0.6", linewidth=1.2, linestyle="--", zorder=1)
    for n, row in enumerate(front.itertuples()):
        colour = arm_style(n)["color"]
        ax.hlines(row.estimate, row.minutes_min, row.minutes_max, color=colour, linewidth=1.5)
        ax.vlines(row.minutes, row.low, row.high, color=colour, linewidth=1.5)
        ax.plot(row.minutes, row.estimate, **arm_style(n) | {"linestyle": "none"}, markersize=8, zorder=3)
        ax.annotate(
            row.arm, (row.minutes, row.estimate), (9, 7), textcoords="offset points", fontsize=10, color=colour,
            fontweight="bold" if row.chosen else "normal",
        )  # fmt: skip
        if row.chosen:
            ax.plot(row.minutes, row.estimate, "o", markersize=17, markerfacecolor="none", color=BLACK, zorder=4)
    ax.set_xscale("log")
    minutes_axis(ax.xaxis)
    unit_axis(ax, "y", low=min(0.0, float(np.nanmin(front["low"].to_numpy(), initial=0.0))))
    ax.set_xlabel("minutes per slide (mean; line: fastest to slowest slide)")
    ax.set_ylabel(f"{score_name(score)} (line: 95 % interval)")
    ax.set_title("\n".join(textwrap.wrap("Chosen: " + costs.choice(front), 112)), fontsize=9, loc="left")
    return done(figure, ax)
