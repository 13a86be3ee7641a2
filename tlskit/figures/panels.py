"""The drawing that all charts share: tidy table in, panels of marks out, through ``seaborn.objects``.

``seaborn.objects`` and not the figure-level functions (`relplot`, `catplot`): intervals here are columns of the table
(over patients, paired), which ``so.Range`` draws as they are, where the others know only intervals that they compute
themselves from rows. A factor becomes colour, column or row of panels by naming it.

Options that all charts take: `color`, `col` and `row`, each the name of any column of the table; `size`, ``single`` or
``double`` (`tlskit.figures.style.WIDTHS_IN`); `xlabel`, `ylabel` and the others of `draw`. Panels that are compared
have identical limits, and each says its n.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tlskit.figures import style
from tlskit.figures.style import level_name, levels
from tlskit.metrics import PERSON_MINUTES_PER_SLIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: So many colours are told apart in one panel; more arms than these get panels, or names at their marks.
FEW = 8
PERSON = "band: a person, {:g}-{:g} min a slide".format(*PERSON_MINUTES_PER_SLIDE)


@dataclasses.dataclass
class Panels:
    """A figure; its axes by (level of row, level of column), "" where there is none; the table, levels as names."""

    figure: Figure
    axes: dict[tuple[str, str], Axes]
    table: pd.DataFrame
    keys: tuple[str | None, str | None]
    orders: dict[str, list[str]]

    def __iter__(self):
        """Axes and rows of each panel."""
        for key, ax in self.axes.items():
            rows = self.table
            for column, level in zip(self.keys, key, strict=True):
                rows = rows[rows[column] == level] if column else rows
            yield ax, rows

    def told(self, value: str, name: str, *ends: str | None, most: int = 12) -> str:
        """`style.listed` of every panel; of the first ones where there are many."""
        titles = [", ".join(filter(None, reversed(key))) for key in self.axes]
        parts = [(f"{title}: " if title else "") + style.listed(rows, value, name, *ends) + "."
                 for title, (_, rows) in zip(titles[:most], self, strict=False)]  # fmt: skip
        return " ".join(parts) + (f" {len(titles) - most} panels more." if len(titles) > most else "")


def dots(size: float = 5, **look) -> so.Dot:
    """Marks that lie over intervals and lines."""
    return so.Dot({"zorder": 3}, pointsize=size, **look)


def draw(
    table: pd.DataFrame, layers: list[tuple], *, x: str, y: str, color: str | None = None, col: str | None = None,
    row: str | None = None, size: str = "double", panel_in: tuple[float, float] = (1.5, 1.6), text: tuple = (),
    xlabel: str = "", ylabel: str = "", looks: dict | None = None, show_legend: bool = True, told: dict | None = None,
    share: tuple[bool, bool] = (True, True), n: Callable[[pd.DataFrame], str] = style.n_text, left_in: float = 0.5,
) -> Panels:  # fmt: skip
    """Marks of a tidy table in panels.

    Parameters
    ----------
    layers
        ``(mark, moves, options)`` each, as `seaborn.objects.Plot.add` takes them.
    panel_in, left_in
        Least width, and height, of a panel in inches (panels that do not fit beside each other go below), and what
        labels take at the left.
    text
        Columns besides color, col and row whose values are names (a nominal axis).
    looks, told
        Colour, marker and dashes by level of `color` (by default `style.styles_of`); what the legend adds to its name.
    share
        Whether panels share x and y.
    n
        Function from a panel's rows to the words that say what it stands on.
    """
    table, orders, width = table.reset_index(drop=True), {}, style.WIDTHS_IN[size]
    for column in dict.fromkeys(c for c in (*text, color, col, row) if c):
        values = [*levels(table[column]), *[None] * int(table[column].isna().any())]
        # A number or a yes above a panel says nothing without the name of its factor.
        bare = column in (col, row) and column != "magnification" and not any(isinstance(v, str) for v in values)
        named = {v: f"{column.replace('_', ' ')}: " * bare + level_name(column, v) for v in values}
        table[column] = [named[None if pd.isna(v) else v] for v in table[column].astype(object)]
        orders[column] = list(dict.fromkeys(named.values()))
    fits = max(1, int((width - left_in) / panel_in[0]))
    if color:  # seaborn breaks a path at the rows of other levels
        table = table.sort_values(color, key=lambda of: of.map(orders[color].index), kind="stable", ignore_index=True)
    if row and (not col or len(orders[col]) > fits):
        if col:  # rows and columns that do not fit: one panel after the other
            both = f"{col}, {row}"
            table[both] = table[col] + ", " + table[row]
            orders[both] = [v for r in orders[row] for c in orders[col] if (table[both] == (v := f"{c}, {r}")).any()]
        col, row = both if col else row, None
    across = min(fits, len(orders[col])) if col else 1
    down = len(orders[row]) if row else -(-len(orders[col]) // across) if col else 1
    looks = looks or (style.styles_of(color, orders[color]) if color else {})
    entries = {v + (told or {}).get(v, ""): looks[v] for v in orders.get(color, [])} if show_legend else {}
    foot = style.wrap(xlabel, width)
    legend_rows = 1 - (-len(entries) // style.legend_columns(entries, width)) if entries else 0
    height = down * (panel_in[1] + 0.45) + 0.15 * foot.count("\n") + 0.45 + 0.16 * legend_rows
    with plt.rc_context(style.THEME):
        figure = plt.figure(figsize=(width, height), layout="constrained")
        order = {"col": orders.get(col), "row": orders.get(row)}
        plot = so.Plot(table, x=x, y=y).facet(col, row, order=order, wrap=None if row else across)
        for mark, moves, options in layers:
            also = {"Dot": "marker", "Line": "linestyle", "Path": "linestyle"}.get(type(mark).__name__, "color")
            if not color or options.get("color", color) is None:
                plot = plot.add(mark, *moves, legend=False, **(options | {"color": None}))
            elif moves or also == "marker":  # levels that make room for each other are of one layer; so are dots
                plot = plot.add(mark, *moves, legend=False, **({"color": color, also: color} | options))
            elif color in (col, row):  # one look a panel, given below: seaborn would try every level in every panel
                mark = dataclasses.replace(mark, artist_kws=mark.artist_kws | {"gid": also})
                plot = plot.add(mark, legend=False, **options)
            else:  # a layer a level: seaborn looks for every colour with every dash, group and panel
                for level in orders[color]:
                    look = {key: looks[level][key] for key in ("color", also) if options.get(key, "") is not None}
                    here = table[table[color] == level]
                    plot = plot.add(dataclasses.replace(mark, **look), data=here, legend=False, **options)
        for key in ("color", "marker", "linestyle") if color else ():
            plot = plot.scale(**{key: so.Nominal({v: looks[v][key] for v in orders[color]}, order=orders[color])})
        plot = plot.scale(fill=so.Nominal({"filled": True, "hollow": False}, order=["filled", "hollow"]))
        plot = plot.scale(**{a: so.Nominal(order=orders[c]) for a, c in (("x", x), ("y", y)) if c in text})
        plot.share(x=share[0], y=share[1]).label(x="", y="").theme(style.THEME).on(figure).plot()
        keys = [(r, c) for r in (orders[row] if row else [""]) for c in (orders[col] if col else [""])]
        made = Panels(figure, dict(zip(keys, figure.axes, strict=True)), table, (row, col), orders)
        for (ax, rows), key in zip(made, keys, strict=True):
            said = (", ".join(filter(None, reversed(key))), n(rows) if len(rows) else "")
            ax.set_title(style.wrap("\n".join(filter(None, said)), (width - left_in) / across))
            for artist in [*ax.lines, *ax.collections]:
                if what := artist.get_gid():
                    look = looks[key[color == col]]
                    artist.set(gid=None, **{"color": look["color"], what: look[what]})
            ax.grid(False)
        figure.supxlabel(foot)
        figure.supylabel(ylabel)
        if entries:
            lines = {type(mark).__name__ in ("Line", "Path") for mark, *_ in layers}
            kept = ["color", *["linestyle"] * (True in lines), *["marker"] * (False in lines)]
            shown = {name: {key: look[key] for key in kept} for name, look in entries.items()}
            style.legend(figure, shown, title="" if color == "arm" or color[0] == "_" else color.replace("_", " "))
    return made


def draw_forest(
    table: pd.DataFrame, *, x: str = "estimate", y: str = "arm", low: str | None = "low", high: str | None = "high",
    color: str | None = None, limits: tuple[float, float] | None = None, zero: bool = False, log: bool = False,
    number: Callable[[float], str] | None = "{:.2f}".format, dodge: bool = True, fill: str | None = None,
    wide: tuple[str, str] | tuple[()] = (), under: tuple = (), alt: str = "", **options,
) -> Panels:  # fmt: skip
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
        Writes the numbers, which are left out where a row of a panel holds several marks.
    dodge
        Whether marks of one row lie below each other by colour.
    fill
        Column of bool: False draws a hollow mark.
    wide
        Columns of a second interval that holds the first, such as a simultaneous one: thin, the first is thick.
    under
        ``(mark, options)`` of layers below these.
    alt
        What the chart shows, in words; values are added.
    """
    color = color or ("arm" if y == "arm" else None)
    own = color in (None, y)
    fixed, moves = {} if color else {"color": style.BLUE}, [so.Dodge(by=["color"])] if dodge and not own else []
    rows, colours = max(1, table[y].nunique()), table[color].nunique() if moves else 1
    names = [level_name(y, v).split("\n") for v in table[y].dropna().unique()] or [[""]]
    longest, lines = max(len(line) for name in names for line in name), max(map(len, names))
    table = table.assign(_fill=np.where(table[fill], "filled", "hollow")) if fill else table
    layers = [(mark, moves, {"orient": "y"} | where) for mark, where in under]
    for (start, stop), width in (((low, high), 3.5 if wide else 1.4), (wide or (None, None), 1.0)):
        if start and stop:
            layers.append((so.Range(linewidth=width, **fixed), moves, {"orient": "y", "xmin": start, "xmax": stop}))
    layers.append((dots(**fixed), moves, {"orient": "y"} | ({"fill": "_fill"} if fill else {})))
    row_in = max(0.05 + 0.14 * lines, 0.11 * colours)
    options = {"panel_in": (1.25, 0.2 + rows * row_in), "show_legend": not own,
               "left_in": 0.25 + 0.056 * min(longest, 34)} | options  # fmt: skip
    made = draw(table, layers, x=x, y=y, color=color, text=(y,), **options)
    several = made.table.groupby([c for c in (y, *made.keys) if c]).size().max() > 1
    texts = [] if several or not number else ["n/a" if pd.isna(v) else number(v) for v in made.table[x]]
    across = max(ax.get_subplotspec().colspan.stop for ax in made.axes.values())
    wide_in = (made.figure.get_figwidth() - options["left_in"]) / across
    room = min(1.5, (0.15 + 0.1 * max(map(len, texts))) / wide_in) if texts else 0.0
    for ax, here in made:
        values = made.table[[c for c in (x, low, high, *wide) if c]].to_numpy(float)
        alike = (-0.05, 0.05) if zero and not np.nanmax(np.abs(values), initial=0) else None
        span(ax, np.append(values, 0.0) if zero else values, limits=limits or alike, log=log, room=room)
        for place in [*np.arange(rows - 1) + 0.5]:
            ax.axhline(place, color="0.93", linewidth=0.6, zorder=0)
        if zero:
            ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
        if texts:
            at_right(ax, {made.orders[y].index(name): texts[index] for index, name in here[y].items()})
    style.done(made.figure, f"{alt} {made.told(x, y if own or dodge else color, low, high)}")
    return made


def draw_trend(
    table: pd.DataFrame, *, x: str = "magnification", y: str = "value", low: str | None = None, high: str | None = None,
    color: str | None = None, group: list[str] | None = None, limits: tuple[float, float] | None = None,
    log: bool | None = None, alt: str = "", **options,
) -> Panels:  # fmt: skip
    """A value along a factor: the magnification or another number on a logarithmic axis, or names side by side.

    Points are joined within one level of everything else that tells arms apart, and only where such a line has one
    point at each x: two arms of one magnification are never joined by a zigzag.

    Parameters
    ----------
    x, y, low, high
        Columns of the factor, of the value and of its interval.
    group
        Columns whose levels have a line each, besides color, col and row; by default all factors that are seen in the
        table (columns of names or whole numbers that are constant within an arm).
    limits, log
        Limits of y; by default what is drawn. Whether x is logarithmic; by default the magnification and ``*_um`` are.
    """
    table = table.dropna(subset=[x]).reset_index(drop=True)
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
    layers = [(so.Line(linewidth=1.2, **fixed), [], {"y": "_joined", "group": "_line"})]
    layers += [(so.Range(linewidth=1.2, **fixed), [], {"ymin": low, "ymax": high})] if low and high else []
    options = {"panel_in": (1.7, 2.0), "xlabel": x.replace("_", " "), "ylabel": style.score_name(y)} | options
    made = draw(table.sort_values("_x", kind="stable"), [*layers, (dots(**fixed), [], {})], x="_x", y=y, color=color,
                **options)  # fmt: skip
    for ax, _ in made:
        span(ax, made.table[[c for c in (y, low, high) if c]], limits=limits, axis="y", ticks=6)
        ax.set_xscale("log" if log else "linear")
        ax.set_xlim(*((ticks[0] / 1.3, ticks[-1] * 1.3) if log else (ticks[0] - 0.4 * gap, ticks[-1] + 0.4 * gap)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(ticks, [level_name(x, v) for v in marks])
    made.table["_name"] = (made.table[color] + " at " if color else "") + made.table[x].map(
        lambda v: level_name(x, v)
    ).astype(str)
    style.done(made.figure, f"{alt} {made.told(y, '_name', low, high)}")
    return made


def _factors(table: pd.DataFrame, x: str) -> list[str]:
    """Columns that tell arms apart besides `x`: names and whole numbers, constant within an arm, that vary."""
    kinds = table.select_dtypes(["object", "string", "bool", "int", "category"])
    names = [c for c in kinds if c not in ("arm", "magnification", x) and not c.startswith("n_")]
    within = table.groupby("arm")[names].nunique(dropna=False).max() if "arm" in table else {}
    return [c for c in names if c in within and within[c] == 1 and table[c].nunique(dropna=False) > 1]


def span(ax: Axes, values, *, limits=None, log: bool = False, room: float = 0, axis: str = "x", ticks: int = 3) -> None:
    """Limits of an axis around values, with `room` (share of their span) for numbers; ticks where there is data."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known) & ((known > 0) | (not log))]
    low, high = limits or ((known.min(), known.max()) if known.size else (float(log), 1.0 + 9 * log))
    if low == high and not log:  # one value alone: a tenth beside it, which of a score stays within 0 to 1
        tenth = 0.1 * max(1.0, abs(low))
        low, high = (low - tenth, low) if 0.9 < low <= 1 else (low, low + tenth)
    on = getattr(ax, f"{axis}axis")
    ax.set(**{f"{axis}scale": "log" if log else "linear"})
    if log:
        on.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=6))
        on.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        on.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        wide = max(np.log10(high / low), 0.3)
        ax.set(**{f"{axis}lim": (low / 10 ** (0.08 * wide), high * 10 ** ((0.08 + room) * wide))})
    else:
        wide = high - low
        at = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        on.set_ticks([v for v in at if low - 0.03 * wide <= v <= high + 0.03 * wide])
        ax.set(**{f"{axis}lim": (low - 0.06 * wide, high + (0.06 + room) * wide)})


def unit(values) -> tuple[float, float]:
    """Limits of scores: 0 to 1, and below where one is negative."""
    return float(np.nanmin(np.append(np.asarray(values, float), 0.0))), 1.0


def at_right(ax: Axes, texts: dict[float, str], color: str = "0.25") -> None:
    """Words at the right end of rows, inside the panel."""
    for place, text in texts.items():
        ax.text(0.99, place, text, ha="right", va="center", fontsize=7, color=color, transform=ax.get_yaxis_transform())


def name_right(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Arms in a column right of the panel, each with a line to its mark: room for twenty, and none over a mark."""
    rows = rows.dropna(subset=[x, y]).sort_values(y)
    gap = 0.125 / (ax.figure.get_figheight() * ax.get_position().height)
    at = ax.transAxes.inverted().transform(ax.transData.transform(rows[[x, y]].to_numpy(float)))[:, 1]
    for n in range(1, len(at)):
        at[n] = max(at[n], at[n - 1] + gap)
    for n in reversed(range(len(at))):
        at[n] = min(at[n], (at[n + 1] if n + 1 < len(at) else 1.0 + gap) - gap)
    for (_, row), place in zip(rows.iterrows(), at, strict=True):
        line = {"arrowstyle": "-", "color": "0.8", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4, "zorder": 0}
        ax.annotate(row["arm"], (row[x], row[y]), (1.03, place), textcoords="axes fraction", va="center", fontsize=7,
                    annotation_clip=False, arrowprops=line)  # fmt: skip


def person_band(ax: Axes, scale: float = 1.0) -> None:
    """A band at the minutes that a person takes for a slide, times `scale`; the axis is widened to hold it."""
    low, high = (scale * minutes for minutes in PERSON_MINUTES_PER_SLIDE)
    ax.axvspan(low, high, color=style.BAND, zorder=0, linewidth=0)
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, low * 0.8), max(right, high * 1.25))
