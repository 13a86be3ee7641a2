"""Charts of any tidy table, through which most others go: `forest`, `trend`, `curves`, `bars`; and of scores.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels; `alt`, what
the chart shows in words, to which values are added; and `each`, a function that gets the axes and the rows of every
panel, and draws what else belongs there.
"""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tlskit.figures import style
from tlskit.figures.panels import Panels, dots, draw, ring, span, unit
from tlskit.figures.style import level_name, levels
from tlskit.metrics import SCORES

__all__ = ["bars", "calibration_curves", "curves", "forest", "pr_curves", "score_bars", "trend"]

#: So many colours are told apart in one panel; more arms than these get panels, or names at their marks.
FEW = 8
_UNIT = {axis: {"limits": (0, 1), "ticks": 4} for axis in "xy"}


def forest(
    table: pd.DataFrame, *, x: str = "estimate", y: str = "arm", low: str | None = "low", high: str | None = "high",
    color: str | None = None, limits: tuple[float, float] | None = None, zero: bool = False, log: bool = False,
    number: Callable[[float], str] | str | None = "{:.2f}".format, dodge: bool = True, fill: str | None = None,
    wide: tuple[str, str] | tuple[()] = (), under: tuple = (), alt: str = "", each: Callable | None = None, **options,
) -> Figure:  # fmt: skip
    """A value of each row with its interval, names on the left, numbers on the right.

    Parameters
    ----------
    x, low, high
        Columns of the value and of its interval (None: none is drawn).
    y
        Column of the names; arms have their own colour and marker unless `color` says otherwise.
    limits, zero, log
        Of x; by default what is drawn, in all panels alike. Whether 0 is in sight, marked by a line; whether x is
        logarithmic.
    number
        Writes the numbers, which are left out where a row of a panel holds several marks; or a column of words.
    dodge
        Whether marks of one row lie below each other by colour.
    fill
        Column of bool: False draws a hollow mark.
    wide
        Columns of a second interval that holds the first, such as a simultaneous one: thin, the first is thick.
    under
        ``(mark, options)`` of layers below these.
    """
    color = color or ("arm" if y == "arm" else None)
    own = color in (None, y)
    fixed, moves = {} if color else {"color": style.BLUE}, [so.Dodge(by=["color"])] if dodge and not own else []
    rows, colours = max(1, table[y].nunique()), table[color].nunique() if moves else 1
    table = table.assign(_fill=np.where(table[fill], "filled", "hollow")) if fill else table
    layers = [(mark, {"orient": "y"} | where, *moves) for mark, where in under]
    own_line, of_all = {"linewidth": 3.5, "alpha": 0.45} if wide else {"linewidth": 1.4}, {"linewidth": 1.0}
    for (start, stop), look in (((low, high), own_line), (wide or (None, None), of_all)):
        if start and stop:
            layers.append((so.Range(**look, **fixed), {"orient": "y", "xmin": start, "xmax": stop}, *moves))
    layers.append((dots(**fixed), {"orient": "y"} | ({"fill": "_fill"} if fill else {}), *moves))
    longest, lines = _names(table[y])
    row_in = max(0.05 + 0.14 * lines, 0.11 * colours)
    options = {"panel_in": (1.25, 0.2 + rows * row_in), "show_legend": not own,
               "left_in": 0.25 + 0.056 * min(longest, 34)} | options  # fmt: skip
    made = draw(table, layers, x=x, y=y, color=color, text=(y,), **options)
    one_each = made.table.groupby([c for c in (y, *made.keys) if c]).size().max() == 1
    if callable(number):
        made.table["_number"] = ["n/a" if pd.isna(v) else number(v) for v in made.table[x]]
        number = "_number" if one_each else None
    values = made.table[[c for c in (x, low, high, *wide) if c]].to_numpy(float)
    alike = (-0.05, 0.05) if zero and not np.nanmax(np.abs(values), initial=0) else None
    values = np.append(values, 0.0) if zero else values
    _write(made, y, number, options["left_in"], values, limits=limits or alike, log=log)
    for ax in made.axes.values():
        for place in np.arange(rows - 1) + 0.5:
            ax.axhline(place, color="0.93", linewidth=0.6, zorder=0)
        if zero:
            ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    return _done(made, f"{alt} {made.told(x, y if own or dodge or one_each else color, low, high)}", each)


def _names(column: pd.Series) -> tuple[int, int]:
    """Characters of the longest line, and lines of the tallest, of the names of a column's levels."""
    names = [level_name(column.name, v).split("\n") for v in column.dropna().unique()] or [[""]]
    return max(len(line) for name in names for line in name), max(map(len, names))


def _write(made: Panels, y: str, number: str | None, left_in: float, values, **limits) -> None:
    """Limits of x (`panels.span`), with the words of a column at the right end of each row, inside the panel."""
    across = max(ax.get_subplotspec().colspan.stop for ax in made.axes.values())
    wide_in = (made.figure.get_figwidth() - left_in) / across
    room = min(1.5, (0.15 + 0.1 * made.table[number].map(len).max()) / wide_in) if number else 0.0
    for ax, here in made:
        span(ax, values, room=room, **limits)
        for name, text in dict(zip(here[y], here[number], strict=True)).items() if number else ():
            ax.text(0.99, made.orders[y].index(name), text, ha="right", va="center", fontsize=7, color="0.25",
                    transform=ax.get_yaxis_transform())  # fmt: skip


def trend(
    table: pd.DataFrame, *, x: str = "magnification", y: str = "estimate", low: str | None = "low",
    high: str | None = "high", color: str | None = None, group: list[str] | None = None,
    limits: tuple[float, float] | None = None, log: bool | None = None, alt: str = "", each: Callable | None = None,
    **options,
) -> Figure:  # fmt: skip
    """A value along a factor: the magnification or another number on a logarithmic axis, or names side by side.

    Points are joined within one level of everything else that tells arms apart, and only where such a line has one
    point at each x: two arms of one magnification are never joined by a zigzag. Where the lines of two levels of
    `color` are parallel, the two factors do not interact.

    Parameters
    ----------
    x, y, low, high
        Columns of the factor, of the value and of its interval (where the table has one).
    group
        Columns whose levels have a line each, besides color, col and row; by default all factors that are seen in the
        table (columns of names or whole numbers that are constant within an arm).
    limits, log
        Limits of y; by default what is drawn. Whether x is logarithmic; by default the magnification and ``*_um`` are.
    """
    table = table.dropna(subset=[x]).reset_index(drop=True)
    ends = [low, high] if {low, high} <= set(table) else []
    number = pd.api.types.is_numeric_dtype(table[x]) and not pd.api.types.is_bool_dtype(table[x])
    log = number and (x == "magnification" or x.endswith("_um")) if log is None else log
    marks, colours = levels(table[x]), levels(table[color]) if color else []
    ticks = np.asarray(marks if number else range(len(marks)), float)
    gap = np.diff(ticks).min() if len(ticks) > 1 else 1.0
    apart = [c for c in (color, options.get("col"), options.get("row")) if c]
    apart += _factors(table, x) if group is None else group
    table["_line"] = ["|".join(row) for row in table[apart].astype(str).to_numpy()]
    one_each = ~table.duplicated(["_line", x], keep=False)
    table["_joined"] = table[y].where(one_each.groupby(table["_line"]).transform("all"))
    # Levels stand beside each other where they meet.
    step = np.array([colours.index(v) if v in colours else 0 for v in table[color]] if color else 0.0)
    step = (step - (len(colours) - 1) / 2) * min(1.0, 6 / max(1, len(colours)))
    at = ticks[[marks.index(v) for v in table[x]]]
    table["_x"] = at * 1.03**step if log else at + 0.05 * gap * step
    fixed = {} if color else {"color": style.BLUE}
    layers = [(so.Line(linewidth=1.2, **fixed), {"y": "_joined", "group": "_line"})]
    layers += [(so.Range(linewidth=1.2, **fixed), {"ymin": low, "ymax": high})] if ends else []
    options = {"panel_in": (1.7, 2.0), "xlabel": x.replace("_", " "), "ylabel": style.score_name(y)} | options
    made = draw(table.sort_values("_x", kind="stable"), [*layers, (dots(**fixed), {})], x="_x", y=y, color=color,
                **options)  # fmt: skip
    for ax, _ in made:
        span(ax, made.table[[y, *ends]], limits=limits, axis="y", ticks=6)
        ax.set_xscale("log" if log else "linear")
        ax.set_xlim(*((ticks[0] / 1.3, ticks[-1] * 1.3) if log else (ticks[0] - 0.4 * gap, ticks[-1] + 0.4 * gap)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(ticks, [level_name(x, v) for v in marks])
    names = made.table[x].map(lambda v: level_name(x, v)).astype(str)
    made.table["_name"] = made.table[color] + " at " + names if color else names
    return _done(made, f"{alt} {made.told(y, '_name', *ends)}", each)


def _factors(table: pd.DataFrame, x: str) -> list[str]:
    """Columns that tell arms apart besides `x`: names and whole numbers, constant within an arm, that vary."""
    kinds = table.select_dtypes(["object", "string", "bool", "int", "category"])
    names = [c for c in kinds if c not in ("arm", "magnification", x) and not c.startswith("n_")]
    within = table.groupby("arm")[names].nunique(dropna=False).max() if "arm" in table else {}
    return [c for c in names if c in within and within[c] == 1 and table[c].nunique(dropna=False) > 1]


def curves(
    table: pd.DataFrame, *, x: str, y: str, color: str | None = None, marks: tuple = (), mark_pt: float = 6,
    ends: tuple[str, str] | tuple[()] = (), chosen: str = "", frame: dict | None = None, told: dict | None = None,
    alt: str = "", each: Callable | None = None, **options,
) -> Figure:  # fmt: skip
    """Curves over a common axis, such as recall over false objects per mm2; rows stand in the order of the curve.

    A few arms share one panel; many have a panel each, over all others in grey.

    Parameters
    ----------
    marks, mark_pt
        ``(column, filled)`` each: values of y that are marked on the curves; the size of a mark.
    ends, chosen
        Columns of an interval of y; column of bool, whose rows are ringed.
    frame
        Of the axes: what `panels.span` is given for ``x`` and for ``y``; by default they are as matplotlib has them.
    told
        Words by arm: in the legend, or above the panel of a single arm.
    """
    several, paths = "arm" in table and color is None, []
    table = table.assign(_arm=_arm(table))
    if several and table["arm"].nunique() > FEW and not (options.get("col") or options.get("row")):
        options |= {"col": "arm", "show_legend": False, "panel_in": (1.6, 1.5)}
        paths = [rows[[x, y]].to_numpy(float) for _, rows in table.groupby("arm")]
    color = "arm" if several else color
    fixed, group = {} if color else {"color": style.BLUE}, {} if color == "arm" else {"group": "_arm"}
    layers = [(so.Path(linewidth=1.3, **fixed), group)]
    layers += [(so.Range(linewidth=1.6, **fixed), {"ymin": ends[0], "ymax": ends[1]})] if ends else []
    layers += [(dots(mark_pt, fill=full, edgewidth=1.5, **fixed), {"y": column}) for column, full in marks]
    if told:
        in_words = {arm: f" ({words})" for arm, words in told.items()}
        options = {"told": in_words, "n": lambda rows: "\n".join(filter(None, [
            told[rows["_arm"].iloc[0]] * (rows["_arm"].nunique() == 1), style.n_text(rows)]))} | options  # fmt: skip
    made = draw(table, layers, x=x, y=y, color=color, **{"panel_in": (1.6, 2.8)} | options)
    for ax, rows in made:
        ax.add_collection(LineCollection(paths, colors=style.LIGHT_GREY, linewidths=0.5, zorder=0))
        for axis, limits in (frame or {}).items():
            span(ax, **{"values": []} | limits, axis=axis)
        if chosen:
            ring(ax, rows, x, y, chosen)
    said = f"{', '.join(map(' '.join, told.items()))}." if told else made.told(y, "arm" if "arm" in table else x)
    return _done(made, f"{alt} {said}", each)


def bars(
    table: pd.DataFrame, *, x: str, y: str, color: str, start: str | None = None, width: float = 0.75,
    over: tuple = (), number: str | None = None, most: float | None = None, alt: str = "",
    each: Callable | None = None, **options,
) -> Figure:  # fmt: skip
    """A row of bars for each level of `y`, stacked by `color`; or, with a column `start`, each from there to x.

    Upright where x holds the names. `over` are ``(mark, options)`` of layers above, `number` is a column of words at
    the right, `most` the end of the axis, which starts at 0.
    """
    orient, names = ("y", y) if pd.api.types.is_numeric_dtype(table[x]) else ("x", x)
    bar = so.Bars(edgewidth=0, alpha=1, width=width) if start else so.Bar(edgewidth=0, alpha=1, width=width)
    layers = [(bar, {"orient": orient} | ({"baseline": start} if start else {}), *([] if start else [so.Stack()]))]
    layers += [(mark, {"orient": orient} | where) for mark, where in over]
    if orient == "y":
        options = {"left_in": 0.25 + 0.056 * min(_names(table[y])[0], 34),
                   "panel_in": (2.0, 0.2 + 0.2 * table[y].nunique())} | options  # fmt: skip
    made = draw(table, layers, x=x, y=y, color=color, text=(names,), **options)
    if most is not None:
        _write(made, y, number, options["left_in"], [0, most], ticks=5)
    return _done(made, alt, each)


def _done(made: Panels, alt: str, each: Callable | None) -> Figure:
    for ax, rows in made:
        if each:
            each(ax, rows)
    return style.done(made.figure, alt)


def score_bars(table: pd.DataFrame, **options) -> Figure:
    """The seven scores of one arm under each pooling; `table` of `tlskit.metrics.score_table`."""
    rule = table["empty"].map(" (empty: {})".format).where(~table["pooling"].str.match("pooled|as_published"), "")
    long = table.assign(_averaged=table["pooling"].map(style.POOLINGS) + rule)
    long = long.melt([c for c in long if c not in SCORES], list(SCORES), "score", "value")
    return forest(long, x="value", y="score", low=None, high=None, color="_averaged", limits=unit(long["value"]),
                  alt="Scores of one arm, averaged in several ways.", **{"xlabel": "score"} | options)  # fmt: skip


def pr_curves(table: pd.DataFrame, *, chosen: dict[str, float] | None = None, **options) -> Figure:
    """Precision against recall over all thresholds; 0.5 and, where given by arm, the chosen threshold marked.

    `table` of `tlskit.evaluation.comparison.pr_curves`.
    """

    def dices(ax, _) -> None:
        for dice in (0.2, 0.4, 0.6, 0.8):
            recall = np.linspace(dice / (2 - dice), 1, 100)
            ax.plot(recall, dice * recall / (2 * recall - dice), color="0.9", linewidth=0.8, zorder=0)

    thresholds = {"_half": dict.fromkeys(_arm(table), 0.5), "_chosen": chosen or {}}
    words = "filled: threshold 0.5" + "; hollow: chosen on validation" * bool(chosen)
    return curves(
        table.assign(**{name: _only_at(table, "precision", at) for name, at in thresholds.items()}), x="recall",
        y="precision", marks=(("_half", True), ("_chosen", False))[: 1 + bool(chosen)], frame=_UNIT, each=dices,
        told=_told(table, "recall_at_end", "ends at recall {:.2f}"), alt="Precision against recall, over thresholds:",
        **{"ylabel": "precision", "xlabel":
           f"recall, all pixels pooled ({words}; grey: Dice 0.2, 0.4, 0.6, 0.8)"} | options,
    )  # fmt: skip


def calibration_curves(table: pd.DataFrame, **options) -> Figure:
    """Reliability: the share of target among pixels of about the same probability; and how many pixels those are.

    `table` of `tlskit.metrics.thresholds.calibration` or `tlskit.evaluation.comparison.calibration`.
    """
    share = table["pixels"] / table.groupby(_arm(table))["pixels"].transform("sum")
    parts = {"share that is target": table["target_share"], "share of pixels": share.where(share > 0)}
    shown = list(parts)[: 1 if _arm(table).nunique() > FEW else 2]
    long = pd.concat([table.assign(what=what, value=parts[what]) for what in shown])

    def each(ax, rows) -> None:
        if set(rows["what"]) == {"share of pixels"}:
            span(ax, share, log=True, axis="y")
        else:
            ax.plot([0, 1], [0, 1], color="0.75", linewidth=0.8, linestyle="--", zorder=0)

    return curves(
        long.dropna(subset=["mean_probability"]), x="mean_probability", y="value", marks=(("value", True),), each=each,
        frame=_UNIT, told=_told(table, "calibration_error", "error above the lowest bin {:.3f}"),
        alt="Share of target by predicted probability, and the calibration:", **{"share": (True, False)}
        | ({"row": "what", "panel_in": (2.6, 2.3)} if len(shown) > 1 else {"ylabel": shown[0]})
        | {"xlabel": "predicted probability (dashed: perfectly calibrated)"} | options,
    )  # fmt: skip


def _arm(table: pd.DataFrame) -> pd.Series:
    return table["arm"] if "arm" in table else pd.Series("this arm", table.index)


def _told(table: pd.DataFrame, column: str, text: str) -> dict[str, str]:
    """A number of each arm in the words of a format, ``n/a`` where it is undefined."""
    by_arm = table.groupby(_arm(table), sort=False)[column].first().items()
    return {arm: re.sub(r"{.*?}", "n/a", text) if pd.isna(value) else text.format(value) for arm, value in by_arm}


def _only_at(table: pd.DataFrame, column: str, threshold: dict[str, float]) -> pd.Series:
    """A column, kept only where a curve is nearest to its arm's threshold."""
    far = (table["threshold"] - _arm(table).map(threshold).astype(float)).abs().dropna()
    return table[column].where(table.index.isin(far.groupby(_arm(table)).idxmin()))
