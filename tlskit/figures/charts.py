"""Charts of any tidy table, through which all others go: `forest`, `curves`, `trend`, `bars`; and of scores.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels; `alt`, what
the chart shows in words, to which values are added; and `each`, a function that gets the axes and the rows of every
panel, and draws what else belongs there.
"""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
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
UNIT = {"limits": (0, 1), "ticks": 4}


def chart(door: Callable[..., Figure], table: pd.DataFrame, options: dict, **own) -> Figure:
    """What a chart has to say to a door; the caller's options have the last word."""
    return door(table, **own | options)


def forest(
    table: pd.DataFrame, *, x: str = "estimate", y: str = "arm", low: str | None = "low", high: str | None = "high",
    color: str | None = None, limits: tuple[float, float] | None = None, zero: bool = False, log: bool = False,
    number: Callable[[float], str] | str | None = "{:.2f}".format, dodge: bool = True, fill: str | None = None,
    wide: tuple[str, str] | tuple[()] = (), alt: str = "", each: Callable | None = None, **options,
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
    """
    color = color or ("arm" if y == "arm" else None)
    beside = table[color].nunique() if dodge and color not in (None, y) else 1
    lines = {(low, high): {"linewidth": 3.5, "alpha": 0.45} if wide else {"linewidth": 1.4}} if low and high else {}
    lines |= {tuple(wide): {"linewidth": 1.0}} if wide else {}

    def mark(ax, rows, look) -> None:
        at = rows["_at"] + (0.8 * ((rows[color].cat.codes + 0.5) / beside - 0.5) if beside > 1 else 0)
        for (start, stop), line in lines.items():
            ax.hlines(at, rows[start], rows[stop], color=look["color"], **line)
        dots(ax, rows[x], at, look, filled=rows["_fill"])

    table = table.assign(_fill=table[fill] if fill else True)
    options = {"row_in": 0.11 * beside, "show_legend": color not in (None, y)} | options
    made = draw(table, mark, color=color, names=y, **options)
    one_each = not made.table.duplicated([c for c in (y, options.get("col"), options.get("row")) if c]).any()
    if callable(number):
        made.table["_number"] = ["n/a" if pd.isna(v) else number(v) for v in made.table[x]]
        number = "_number" if one_each else None
    values = made.table[[x, *(c for ends in lines for c in ends)]].to_numpy(float)
    alike = (-0.05, 0.05) if zero and not np.nanmax(np.abs(values), initial=0) else None
    _write(made, number, np.append(values, [0.0] * zero), limits=limits or alike, log=log)
    for ax, _ in made.panels:
        for place in np.arange(table[y].nunique() - 1) + 0.5:
            ax.axhline(place, color="0.93", linewidth=0.6, zorder=0)
        if zero:
            ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    also = "" if one_each or color in (None, y) else made.table[color].astype(str) + ", "
    made.table["_name"] = also + made.table[y].astype(str)
    return made.done(f"{alt} {made.told(x, '_name', low, high)}", each)


def _write(made: Panels, number: str | None, values, **limits) -> None:
    """Limits of x (`panels.span`), with the words of a column at the right end of each row, inside the panel."""
    room = min(1.5, (0.15 + 0.1 * made.table[number].map(len).max()) / made.wide_in) if number else 0.0
    words = {"ha": "right", "va": "center", "fontsize": 7, "color": "0.25"}
    for ax, rows in made.panels:
        span(ax, values, room=room, **{"ticks": 3 if made.wide_in > 1.6 else 2} | limits)
        for at, text in made.table.loc[rows.index].groupby("_at")[number].last().items() if number else ():
            ax.text(0.99, at, text, transform=ax.get_yaxis_transform(), **words)


def curves(
    table: pd.DataFrame, *, x: str, y: str, color: str | None = None, join: str | None = "_arm", low: str | None = None,
    high: str | None = None, left: str | None = None, right: str | None = None, marks: tuple = (), mark_pt: float = 6,
    chosen: str = "", frame: dict | None = None, told: dict | None = None, alt: str = "", name: str | None = None,
    each: Callable | None = None, **options,
) -> Figure:  # fmt: skip
    """Curves over a common axis, such as recall over false objects per mm2, or points; rows stand in a curve's order.

    A few arms share one panel; many have a panel each, over all others in grey.

    Parameters
    ----------
    join
        Column whose levels have a line each, by default the arms; None draws no lines.
    low, high, left, right
        Columns of an interval of y, and of one of x.
    marks, mark_pt
        ``(column, filled)`` each: values of y that are marked; the size of a mark.
    chosen
        Column of bool, whose rows are ringed.
    frame
        Of the axes: what `panels.span` is given for ``x`` and for ``y``; by default they are as matplotlib has them.
    told, name
        Words by arm: in the legend, or above the panel of a single arm. Without them, the column that names values.
    """
    several, paths = join == "_arm" and "arm" in table and color is None, []
    table = table.assign(_arm=_arm(table))
    if several and table["arm"].nunique() > FEW and not (options.get("col") or options.get("row")):
        options |= {"col": "arm", "show_legend": False, "panel_in": (1.6, 1.5)}
        paths = [rows[[x, y]].to_numpy(float) for _, rows in table.groupby("arm")]
    color = "arm" if several else color

    def mark(ax, rows, look) -> None:
        for _, path in rows.groupby(join, sort=False, observed=True) if join else ():
            ax.plot(path[x], path[y], color=look["color"], linestyle=look["linestyle"], linewidth=1.3)
        if low:
            ax.vlines(rows[x], rows[low], rows[high], color=look["color"], linewidth=1.2)
        if left:
            ax.hlines(rows[y], rows[left], rows[right], color=look["color"], linewidth=1.2)
        for column, filled in marks:
            dots(ax, rows[x], rows[column], look, size=mark_pt, filled=filled)

    def n(rows) -> str:
        of = told[rows["_arm"].iloc[0]] if told and rows["_arm"].nunique() == 1 else ""
        return "\n".join(filter(None, [of, style.n_text(rows)]))

    def around(ax, rows) -> None:
        ax.add_collection(LineCollection(paths, colors=style.LIGHT_GREY, linewidths=0.5, zorder=0))
        for axis, limits in (frame or {}).items():
            span(ax, **{"values": []} | limits, axis=axis)
        if chosen:
            ring(ax, rows, x, y, chosen)
        if each:
            each(ax, rows)

    keys = ("color", *["linestyle"] * bool(join), *["marker"] * bool(marks))
    in_words = {arm: f" ({words})" for arm, words in told.items()} if told else None
    made = draw(table, mark, color=color, told=in_words, **{"panel_in": (1.6, 2.8), "keys": keys, "n": n} | options)
    said = f"{', '.join(map(' '.join, told.items()))}." if told else made.told(y, name or "_arm", low, high)
    return made.done(f"{alt} {said}", around)


def trend(
    table: pd.DataFrame, *, x: str = "magnification", y: str = "estimate", low: str | None = "low",
    high: str | None = "high", color: str | None = None, group: list[str] | None = None,
    limits: tuple[float, float] | None = None, log: bool | None = None, each: Callable | None = None, **options,
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
    number = pd.api.types.is_numeric_dtype(table[x]) and not pd.api.types.is_bool_dtype(table[x])
    log = number and (x == "magnification" or x.endswith("_um")) if log is None else log
    places, colours = levels(table[x]), levels(table[color]) if color else []
    ticks = np.asarray(places if number else range(len(places)), float)
    gap = np.diff(ticks).min() if len(ticks) > 1 else 1.0
    apart = [c for c in (color, options.get("col"), options.get("row")) if c]
    lines = table[apart + (_factors(table, x) if group is None else group)].astype(str).agg("|".join, axis=1)
    zigzag = table.assign(_line=lines).duplicated(["_line", x], keep=False).groupby(lines).transform("any")
    table["_line"] = lines.where(~zigzag, table.index.astype(str))
    # Levels stand beside each other where they meet.
    step = np.array([colours.index(v) if v in colours else 0 for v in table[color]] if color else 0.0)
    step, at = (
        (step - (len(colours) - 1) / 2) * min(1.0, 6 / max(1, len(colours))),
        ticks[[places.index(v) for v in table[x]]],
    )
    who = [f"{level_name(color, v)} at " for v in table[color]] if color else [""] * len(table)
    names = [of + level_name(x, v) for of, v in zip(who, table[x], strict=True)]
    table = table.assign(_x=at * 1.03**step if log else at + 0.05 * gap * step, _name=names)
    ends = {"low": low, "high": high} if {low, high} <= set(table) else {}

    def axes(ax, rows) -> None:
        ax.set_xscale("log" if log else "linear")
        ax.set_xlim(*((ticks[0] / 1.3, ticks[-1] * 1.3) if log else (ticks[0] - 0.4 * gap, ticks[-1] + 0.4 * gap)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(ticks, [level_name(x, v) for v in places])
        if each:
            each(ax, rows)

    return chart(
        curves, table.sort_values("_x", kind="stable"), options, x="_x", y=y, color=color, join="_line", name="_name",
        marks=((y, True),), mark_pt=5, each=axes, panel_in=(1.7, 2.0), xlabel=x.replace("_", " "),
        ylabel=style.score_name(y), frame={"y": {"values": table[[y, *ends.values()]], "limits": limits, "ticks": 6}},
        **ends,
    )  # fmt: skip


def _factors(table: pd.DataFrame, x: str) -> list[str]:
    """Columns that tell arms apart besides `x`: names and whole numbers, constant within an arm, that vary."""
    kinds = table.select_dtypes(["object", "string", "bool", "int", "category"])
    names = [c for c in kinds if c not in ("arm", "magnification", x) and not c.startswith("n_")]
    within = table.groupby("arm")[names].nunique(dropna=False).max() if "arm" in table else {}
    return [c for c in names if c in within and within[c] == 1 and table[c].nunique(dropna=False) > 1]


def bars(
    table: pd.DataFrame, *, x: str, y: str, color: str, start: str | None = None, width: float | str = 0.75,
    number: str | None = None, most: float | None = None, alt: str = "", each: Callable | None = None, **options,
) -> Figure:  # fmt: skip
    """A row of bars for each level of `y`, of length x, one after the other by `color`; or each from `start` to x.

    `width` is the share of a row (or a column of such), `number` a column of words at the right, `most` the end of the
    axis, which starts at 0; by default that of each panel.
    """
    rows = [c for c in (y, options.get("col"), options.get("row")) if c]
    table = table.iloc[table[color].map(levels(table[color]).index).astype(int).argsort(kind="stable")]
    ends = table[x] if start else table.groupby(rows, observed=True)[x].cumsum()
    table = table.assign(
        _from=table[start] if start else ends - table[x],
        _to=ends,
        _width=table[width] if isinstance(width, str) else width,
    )

    def mark(ax, rows, look) -> None:
        known = rows.dropna(subset=["_to"])
        for (at, high), of in known.groupby(["_at", "_width"]):
            lengths = zip(of["_from"], of["_to"] - of["_from"], strict=True)
            ax.broken_barh(list(lengths), (at - high / 2, high), facecolors=look["color"], linewidth=0)

    made = draw(table, mark, color=color, names=y, **options)
    _write(made, number, [0, most or 1], ticks=5)
    for ax, of in made.panels if most is None else ():
        share = ax.get_xlim()[1]
        span(ax, [0, max(of["_to"].max(), 1)], room=share - 1.06, ticks=4)
    return made.done(alt, each)


def score_bars(table: pd.DataFrame, **options) -> Figure:
    """The seven scores of one arm under each pooling; `table` of `tlskit.metrics.score_table`."""
    rule = table["empty"].map(" (empty: {})".format).where(~table["pooling"].str.match("pooled|as_published"), "")
    long = table.assign(_averaged=table["pooling"].map(style.POOLINGS) + rule)
    long = long.melt([c for c in long if c not in SCORES], list(SCORES), "score", "value")
    return chart(forest, long, options, x="value", y="score", low=None, high=None, color="_averaged", xlabel="score",
                 limits=unit(long["value"]), alt="Scores of one arm, averaged in several ways.")  # fmt: skip


def pr_curves(table: pd.DataFrame, *, chosen: dict[str, float] | None = None, **options) -> Figure:
    """Precision against recall over all thresholds; 0.5 and, where given by arm, the chosen threshold marked.

    `table` of `tlskit.evaluation.comparison.pr_curves`.
    """

    def dices(ax, _) -> None:
        for dice in (0.2, 0.4, 0.6, 0.8):
            recall = np.linspace(dice / (2 - dice), 1, 100)
            ax.plot(recall, dice * recall / (2 * recall - dice), color="0.9", linewidth=0.8, zorder=0)

    thresholds = {"_half": dict.fromkeys(_arm(table), 0.5), "_chosen": chosen or {}}
    table = table.assign(**{name: _only_at(table, "precision", at) for name, at in thresholds.items()})
    words = "filled: threshold 0.5" + "; hollow: chosen on validation" * bool(chosen)
    marks = (("_half", True), ("_chosen", False))[: 1 + bool(chosen)]
    return chart(
        curves, table, options, x="recall", y="precision", marks=marks, frame={"x": UNIT, "y": UNIT},
        each=dices, told=_told(table, "recall_at_end", "ends at recall {:.2f}"),
        alt="Precision against recall, over thresholds:", ylabel="precision",
        xlabel=f"recall, all pixels pooled ({words}; grey: Dice 0.2, 0.4, 0.6, 0.8)",
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

    panels = {"row": "what", "panel_in": (2.6, 2.3)} if len(shown) > 1 else {"ylabel": shown[0]}
    return chart(
        curves, long.dropna(subset=["mean_probability"]), options, x="mean_probability", y="value", each=each,
        marks=(("value", True),), frame={"x": UNIT, "y": UNIT}, share=(True, False),
        told=_told(table, "calibration_error", "error above the lowest bin {:.3f}"),
        alt="Share of target by predicted probability, and the calibration:",
        xlabel="predicted probability (dashed: perfectly calibrated)", **panels,
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
