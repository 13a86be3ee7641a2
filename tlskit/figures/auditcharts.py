"""Charts of the audit: the same predictions averaged in every way, and the published table beside its own rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tlskit.figures.style import (
    BLACK,
    BLUE,
    LEVELS,
    POOLINGS,
    VERMILION,
    WIDTH_IN,
    arm_style,
    done,
    legend_above,
    percent,
    score_name,
    unit_axis,
)
from tlskit.metrics import published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["audit_chart", "published_audit_chart"]


def audit_chart(table: pd.DataFrame, *, score: str = "iou") -> Figure:
    """The same predictions under every pooling and empty rule; the winner of each row is ringed and named.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.comparison.audit`.
    score
        Name of the score.
    """
    levels = [level for level in ("tile", "wsi") if level in set(table["level"])]
    rows_of = {level: _audit_rows(table[table["level"] == level], score) for level in levels}
    height = 1.5 + 0.27 * sum(len(rows) + 2 for rows in rows_of.values())
    figure, axes = plt.subplots(
        len(levels), 1, figsize=(WIDTH_IN, height), sharex=True, squeeze=False, layout="constrained",
        height_ratios=[len(rows) for rows in rows_of.values()],
    )  # fmt: skip
    names = list(dict.fromkeys(table["arm"]))
    for ax, level in zip(axes[:, 0], levels, strict=True):
        for place, (_, group) in enumerate(rows_of[level]):
            ax.axhline(place, color="0.93", linewidth=0.8, zorder=0)
            for row in group.itertuples():
                n = names.index(row.arm)
                best = getattr(row, f"best_{score}")
                ax.plot(getattr(row, score), place, **arm_style(n), markersize=7, zorder=2)
                if best:
                    ax.plot(getattr(row, score), place, "o", markersize=14, markerfacecolor="none", color=BLACK)
            winners = " = ".join(group.loc[group[f"best_{score}"], "arm"]) or "undefined"
            ax.text(1.02, place, winners, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.set_yticks(range(len(rows_of[level])), [label for label, _ in rows_of[level]], fontsize=8)
        ax.set_ylim(len(rows_of[level]) - 0.4, -0.6)
        pooled = table[(table["level"] == level) & (table["pooling"] == "pooled")].drop_duplicates("arm")
        shares = ", ".join(f"{row.arm} {percent(row.prevalence)}" for row in pooled.itertuples())
        ax.set_title(f"{LEVELS[level]}  (pixels that are target: {shares})", fontsize=9, loc="left")
        ax.text(1.02, -1.0, "best", transform=ax.get_yaxis_transform(), va="center", fontsize=9, color="0.4")
        unit_axis(ax, "x")
    axes[-1, 0].set_xlabel(score_name(score))
    handles = [
        plt.Line2D([], [], **arm_style(n) | {"linestyle": "none"}, markersize=7, label=arm)
        for n, arm in enumerate(names)
    ]
    handles.append(
        plt.Line2D(
            [], [], marker="o", linestyle="none", markersize=12, markerfacecolor="none", color=BLACK, label="best"
        )
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return done(figure, *axes[:, 0])


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
            rows.append((POOLINGS[pooling] + of_rule, group))
    return rows


def published_audit_chart() -> Figure:
    """The printed table beside what its own precision, recall and specificity imply (`audit_published_table`)."""
    table = published.audit_published_table()
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH_IN, 3.6), sharey=True, layout="constrained")
    rows = np.arange(len(table)) + np.where(table["level"] == "wsi", 0.6, 0.0)
    for ax, score in zip(axes, ("dice", "iou", "mcc"), strict=True):
        printed, implied = table[f"{score}_printed"], table[f"{score}_implied"]
        ax.hlines(rows, printed, implied, color="0.75", linewidth=1.5, zorder=1)
        ax.plot(implied, rows, "o", color=BLUE, markersize=7, label="implied by its precision, recall, specificity")
        ax.plot(printed, rows, "D", color=VERMILION, markersize=7, fillstyle="none", label="as printed")
        agree = int(table[f"{score}_agrees"].sum())
        ax.set_title(f"{score_name(score)}: {agree} of {len(table)} rows agree", fontsize=9)
        unit_axis(ax, "x")
    labels = [f"{'tile' if r.level == 'tile' else 'slide'} {r.magnification:g}x" for r in table.itertuples()]
    axes[0].set_yticks(rows, labels)
    axes[0].invert_yaxis()
    figure.supxlabel("score", fontsize=10)
    legend_above(figure, axes[0], ncols=2)
    return done(figure, *axes)
