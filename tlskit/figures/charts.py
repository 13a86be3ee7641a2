"""Charts of scores and thresholds, and the three that draw any tidy table. Pictures of pixels are in `plots`.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.collections import LineCollection

from tlskit.figures import style
from tlskit.figures.panels import FEW, Panels, dots, draw, draw_forest, draw_trend, span, unit
from tlskit.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "calibration_curves", "curves", "forest", "per_slide", "pr_curves", "score_bars", "threshold_curves", "trend",
]  # fmt: skip


def forest(table: pd.DataFrame, **options) -> Figure:
    """A value of each row with its interval: `tlskit.figures.panels.draw_forest`."""
    return draw_forest(table, **options).figure


def trend(table: pd.DataFrame, **options) -> Figure:
    """A value along a factor, a line within everything else: `tlskit.figures.panels.draw_trend`."""
    return draw_trend(table, **options).figure


def curves(table: pd.DataFrame, *, x: str, y: str, alt: str = "", **options) -> Figure:
    """Curves over a common axis, such as recall over false objects per mm2; rows stand in the order of the curve."""
    made = draw_curves(table, x=x, y=y, **options)
    return style.done(made.figure, f"{alt} {made.told(y, 'arm' if 'arm' in table else x)}")


def draw_curves(table, *, x, y, color=None, marks=(), **options) -> Panels:
    """One panel with a legend for a few arms; for many a panel each, over all others in grey."""
    several, paths = "arm" in table and color is None, []
    table = table.assign(_arm=_arm(table))
    if several and table["arm"].nunique() > FEW and not (options.get("col") or options.get("row")):
        options |= {"col": "arm", "show_legend": False, "panel_in": (1.6, 1.5)}
        paths = [rows[[x, y]].to_numpy(float) for _, rows in table.groupby("arm")]
    color = "arm" if several else color
    fixed, group = {} if color else {"color": style.BLUE}, {} if color == "arm" else {"group": "_arm"}
    lines = [(so.Path(linewidth=1.3, **fixed), [], group)]
    lines += [(dots(6, fill=full, edgewidth=1.5, **fixed), [], {"y": column}) for column, full in marks]
    made = draw(table, lines, x=x, y=y, color=color, **{"panel_in": (1.6, 2.8)} | options)
    for ax in made.axes.values():
        ax.add_collection(LineCollection(paths, colors=style.LIGHT_GREY, linewidths=0.5, zorder=0))
    return made


def score_bars(table: pd.DataFrame, *, size: str = "double") -> Figure:
    """The seven scores of one arm under each pooling; `table` of `tlskit.metrics.score_table`."""
    rule = table["empty"].map(" (empty: {})".format).where(~table["pooling"].str.match("pooled|as_published"), "")
    long = table.assign(_averaged=table["pooling"].map(style.POOLINGS) + rule)
    long = long.melt([c for c in long if c not in SCORES], list(SCORES), "score", "value")
    return forest(long, x="value", y="score", low=None, high=None, color="_averaged", size=size, xlabel="score",
                  limits=unit(long["value"]), alt="Scores of one arm, averaged in several ways.")  # fmt: skip


def per_slide(table: pd.DataFrame, *, score: str = "iou", size: str = "double") -> Figure:
    """One score of every slide, best on top; `table` of `tlskit.metrics.per_unit`."""
    table = table.sort_values(score, ascending=False, ignore_index=True)
    kind = np.where(table["tp"] + table["fn"] == 0, "without target", "with target")
    return forest(
        table.assign(_kind=kind, _zero=0.0, _end=table[score].fillna(0)), x=score, y=table.columns[0], low="_zero",
        high="_end", color="_kind", dodge=False, size=size, limits=unit(table[score]),
        xlabel=f"{style.score_name(score)} of the slide (n/a: no target, and nothing predicted)",
        alt=f"{style.score_name(score)} of every slide.",
    )  # fmt: skip


def pr_curves(curves: pd.DataFrame, *, chosen: dict[str, float] | None = None, **options) -> Figure:
    """Precision against recall over all thresholds; 0.5 and, where given by arm, the chosen threshold marked.

    `curves` of `tlskit.evaluation.comparison.pr_curves`.
    """
    curves = curves.assign(_half=_only_at(curves, "precision", 0.5), _chosen=_only_at(curves, "precision", chosen))
    words = "filled: threshold 0.5" + "; hollow: chosen on validation" * bool(chosen)
    made = draw_curves(
        curves, x="recall", y="precision", marks=[("_half", True), *([("_chosen", False)] if chosen else [])],
        **_told(curves, "recall_at_end", "ends at recall {:.2f}") | {"ylabel": "precision", "xlabel":
        f"recall, all pixels pooled ({words}; grey: Dice 0.2, 0.4, 0.6, 0.8)"} | options,
    )  # fmt: skip
    for ax in _square(made):
        for dice in (0.2, 0.4, 0.6, 0.8):
            recall = np.linspace(dice / (2 - dice), 1, 100)
            ax.plot(recall, dice * recall / (2 * recall - dice), color="0.9", linewidth=0.8, zorder=0)
    told = _each(curves, "recall_at_end")
    return style.done(made.figure, f"Precision against recall. The curves end at recall {told}.")


def threshold_curves(curves: pd.DataFrame, *, chosen: dict | float | None = None, **options) -> Figure:
    """Dice of all pixels pooled at every threshold, with 0.5 and the chosen one (or one an arm) marked.

    `curves` of `tlskit.metrics.thresholds.pr_curve` or `tlskit.evaluation.comparison.pr_curves`.
    """
    curves = curves.assign(_chosen=_only_at(curves, "dice", chosen))
    words = "dashed: 0.5" + "; mark: chosen on validation" * (chosen is not None)
    made = draw_curves(curves, x="threshold", y="dice", marks=[("_chosen", True)] if chosen is not None else [],
                   **{"ylabel": "Dice, all pixels pooled", "xlabel": f"threshold ({words})"} | options)  # fmt: skip
    for ax in _square(made):
        ax.axvline(0.5, color="0.75", linewidth=0.8, linestyle="--", zorder=0)
    highest = curves.assign(dice=curves.groupby(_arm(curves))["dice"].transform("max"))
    return style.done(made.figure, f"Dice at every threshold. Highest: {_each(highest, 'dice')}.")


def calibration_curves(table: pd.DataFrame, **options) -> Figure:
    """Reliability: the share of target among pixels of about the same probability; and how many pixels those are.

    `table` of `tlskit.metrics.thresholds.calibration` or `tlskit.evaluation.comparison.calibration`.
    """
    share = table["pixels"] / table.groupby(_arm(table))["pixels"].transform("sum")
    parts = {"share that is target": table["target_share"], "share of pixels": share.where(share > 0)}
    if _arm(table).nunique() > FEW:
        parts.pop("share of pixels")
    long = pd.concat([table.assign(what=what, value=values) for what, values in parts.items()])
    made = draw_curves(
        long.dropna(subset=["mean_probability"]), x="mean_probability", y="value", marks=[("value", True)],
        **_told(table, "calibration_error", "error above the lowest bin {:.3f}") | {"share": (True, False)}
        | ({"row": "what", "panel_in": (2.6, 2.3)} if len(parts) > 1 else {"ylabel": "share that is target"})
        | {"xlabel": "predicted probability (dashed: perfectly calibrated)"} | options,
    )  # fmt: skip
    for (_, what), ax in zip(made.axes, _square(made), strict=True):
        if "share of pixels" in what:
            span(ax, share, log=True, axis="y")
        else:
            ax.plot([0, 1], [0, 1], color="0.75", linewidth=0.8, linestyle="--", zorder=0)
    told = _each(table, "calibration_error")
    return style.done(
        made.figure, f"Share of target by predicted probability. Calibration error above the lowest bin: {told}."
    )


def _square(made: Panels) -> list:
    """Axes, both from 0 to 1."""
    for ax in made.axes.values():
        span(ax, [], limits=(0, 1), ticks=4)
        span(ax, [], limits=(0, 1), axis="y", ticks=4)
    return list(made.axes.values())


def _arm(table: pd.DataFrame) -> pd.Series:
    return table["arm"] if "arm" in table else pd.Series("this arm", table.index)


def _each(table: pd.DataFrame, column: str) -> str:
    return ", ".join(
        f"{arm} {_number('{:.3f}', value)}"
        for arm, value in table.groupby(_arm(table), sort=False)[column].first().items()
    )


def _number(text: str, value: float) -> str:
    """A number in the words of a format; ``n/a`` where it is undefined."""
    return re.sub(r"{.*?}", "n/a", text) if pd.isna(value) else text.format(value)


def _only_at(curves: pd.DataFrame, column: str, threshold: dict | float | None) -> pd.Series:
    """A column, kept only where a curve is nearest to a threshold (of its arm)."""
    by_arm = threshold if isinstance(threshold, dict) else dict.fromkeys(_arm(curves), threshold)
    far = (curves["threshold"] - _arm(curves).map(by_arm).astype(float)).abs()
    nearest = far.dropna().groupby(_arm(curves)).idxmin()
    return curves[column].where(curves.index.isin(nearest))


def _told(table: pd.DataFrame, column: str, text: str) -> dict:
    """Options of `draw` that tell a number of each arm: in the legend, or above the panel of a single arm."""

    def above(rows: pd.DataFrame) -> str:
        words = _number(text, rows[column].iloc[0]) if rows["_arm"].nunique() == 1 else ""
        return "\n".join(filter(None, [words, style.n_text(rows)]))

    by_arm = table.groupby(_arm(table), sort=False)[column].first()
    return {"n": above, "told": {arm: f" ({_number(text, value)})" for arm, value in by_arm.items()}}
