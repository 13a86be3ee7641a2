"""Charts that a report adds to those of scores: who was studied, objects over all thresholds, subgroups, factors.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from tlskit.figures import style
from tlskit.figures.charts import draw_curves
from tlskit.figures.panels import draw_forest, draw_trend, span, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cohort_flow", "factor_intervals", "froc", "subgroup_intervals"]

_ARMS_BESIDE = 4  # arms whose intervals stand below each other in one row of subgroups; more have a panel each


def froc(table: pd.DataFrame, **options) -> Figure:
    """Share of objects found against false objects per mm2 of tissue, over all thresholds; a line an arm.

    `table` has ``arm, threshold, recall, false_per_mm2, mark``, in the order of the thresholds; ``mark`` is ``fixed``
    (filled), ``validation`` (hollow) or empty. A point without any false object has no place on a logarithmic axis:
    it stands at its left end, where the tick says 0.
    """
    false = table["false_per_mm2"].astype(float)
    least, most = false[false > 0].min(), false.max()
    least, most = (0.1, 1.0) if np.isnan(least) else (least, most)
    zero = least / 10 ** max(0.3, 0.12 * np.log10(most / least)) if (false == 0).any() else least
    marks = {f"_{mark}": table["recall"].where(table["mark"] == mark) for mark in ("fixed", "validation")}
    hollow = bool((table["mark"] == "validation").any())
    words = "filled: the fixed threshold" + "; hollow: chosen on validation" * hollow
    made = draw_curves(
        table.assign(_x=false.where(false != 0, zero), **marks), x="_x", y="recall",
        marks=[("_fixed", True), ("_validation", False)],
        **{"ylabel": "recall of objects", "xlabel": f"false objects per mm² of tissue ({words})"} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        span(ax, [zero, most], log=True)
        span(ax, [], limits=(0, 1), axis="y", ticks=4)
        if zero < least:
            tens = [10.0**n for n in range(-6, 6) if zero * 2 < 10.0**n <= most * 1.2]
            tens = tens[::-1][:: -(-len(tens) // (4 if len(made.axes) < 4 else 2))]
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_locator(FixedLocator([zero, *tens]))
            ax.xaxis.set_major_formatter(FixedFormatter(["0", *(f"{ten:g}" for ten in tens)]))
    fixed = table[table["mark"] == "fixed"].dropna(subset=["recall", "false_per_mm2"])
    told = ", ".join(f"{r.arm} {r.recall:.2f} at {r.false_per_mm2:.2g}" for r in fixed.itertuples())
    words = "Recall of objects against false objects per mm2 of tissue, over all thresholds."
    return style.done(made.figure, f"{words} At the fixed threshold: {told or 'undefined'}.")


def subgroup_intervals(table: pd.DataFrame, *, score: str = "", **options) -> Figure:
    """A score of each arm in each subgroup of patients, with its interval; beside each the patients it stands on.

    `table` has ``by`` (``cancer_type``, ``site``), ``group, arm, n_patients, n_with_target, estimate, low, high``.
    """
    if table.empty:
        return style.words("No subgroup to show: all patients are of one group.", options.get("size", "double"))
    named, several = table.copy(), table["by"].nunique() > 1
    for (by, group), rows in table.groupby(["by", "group"], sort=False, dropna=False):
        n = f"{style.same(rows['n_patients'])} ({style.same(rows['n_with_target'])} with target)"
        kind = f"{by.replace('_', ' ')}: " * several
        named.loc[rows.index, "_group"] = f"{kind}{style.level_name('group', group)}\nn = {n}"
    beside = table["arm"].nunique() <= _ARMS_BESIDE
    score = score or (table["score"].iloc[0] if "score" in table else "score")
    name = style.score_name(score)
    return draw_forest(
        named, y="_group", color="arm", limits=unit(table[["estimate", "low", "high"]]), dodge=beside,
        **({} if beside else {"col": "arm"}) | {"n": lambda rows: "", "show_legend": beside and
        table["arm"].nunique() > 1, "xlabel": f"{name} (line: 95 % interval over patients)",
        "alt": f"{name} in subgroups of patients."} | options,
    ).figure  # fmt: skip


def factor_intervals(
    table: pd.DataFrame, *, x: str, y: str = "estimate", color: str | None = None, low: str = "low", high: str = "high",
    **options,
) -> Figure:  # fmt: skip
    """A score with its interval at each level of a factor `x`, a line a level of `color`, a panel a level of `col`.

    Where the lines of two levels are parallel the factors do not interact. Intervals are the table's own.
    """
    words = "estimate, with its interval" if y == "estimate" else style.score_name(y)
    return draw_trend(table, x=x, y=y, low=low, high=high, color=color, **{"ylabel": words, "group": []} | options
                      ).figure  # fmt: skip


def cohort_flow(table: pd.DataFrame, *, size: str = "double") -> Figure:
    """Who was studied: stages from top to bottom, what each left out at its right.

    Parameters
    ----------
    table
        A row a stage: ``stage``, ``n_patients``, ``n_slides``; ``text`` (more words, or empty) and ``left_out_text``
        (what is left out between this stage and the next, or empty) where there are such columns.
    """
    width, rows = style.WIDTHS_IN[size], []
    for row in table.to_dict("records"):
        text, left_out = (str(row[c]) if c in row and pd.notna(row[c]) else "" for c in ("text", "left_out_text"))
        numbers = ", ".join(f"{row[f'n_{what}']:g} {what[:-1] if row[f'n_{what}'] == 1 else what}"
                            for what in ("patients", "slides") if pd.notna(row.get(f"n_{what}")))  # fmt: skip
        main = "\n".join(filter(None, (str(row["stage"]), numbers, text)))
        rows.append([style.wrap(words, share * width - 0.3, size=7.5) if words else "" for words, share in
                     ((main, 0.5), (left_out, 0.42))])  # fmt: skip
    line_in, tops, y = 0.135, [], 0.1
    for main, left_out in rows:  # an arrow of its own length below each box holds what is left out
        tops.append(y)
        y += line_in * (main.count("\n") + 1) + 0.16 + max(0.25, line_in * (left_out.count("\n") + 1) + 0.3)
    last_in = line_in * (rows[-1][0].count("\n") + 1) + 0.3 if rows else 0.3
    with plt.rc_context(style.THEME):
        figure = plt.figure(figsize=(width, (tops[-1] if tops else 0) + last_in))
        ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(figure.get_figheight(), 0))
        ax.axis("off")
        middle = 0.05 * width + 0.25 * width
        look = {"ha": "center", "va": "center", "fontsize": 7.5, "linespacing": 1.25}
        arrow = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        for n, ((main, left_out), top) in enumerate(zip(rows, tops, strict=True)):
            high = line_in * (main.count("\n") + 1) + 0.16
            _box(ax, 0.05 * width, top, 0.5 * width, high, "white")
            ax.text(middle, top + high / 2, main, **look)
            if n + 1 == len(rows):
                continue
            ax.annotate("", (middle, tops[n + 1]), (middle, top + high), arrowprops=arrow)
            if left_out:
                out_high = line_in * (left_out.count("\n") + 1) + 0.1
                centre = (top + high + tops[n + 1]) / 2
                _box(ax, 0.56 * width, centre - out_high / 2, 0.42 * width, out_high, "0.95")
                ax.annotate("", (0.56 * width, centre), (middle, centre), arrowprops=arrow)
                ax.text(0.77 * width, centre, left_out, **look)
    told = "; ".join(main.replace("\n", ", ") + (f" (left out: {out})" if out else "") for main, out in rows)
    return style.done(figure, f"Flow of the cohort: {told}.")


def _box(ax, left: float, top: float, wide: float, high: float, colour: str) -> None:
    ax.add_patch(plt.Rectangle((left, top), wide, high, facecolor=colour, edgecolor="0.35", linewidth=0.8))
