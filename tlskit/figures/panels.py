"""The drawing that all charts share: tidy table in, panels of marks out, through ``seaborn.objects``.

``seaborn.objects`` and not the figure-level functions (`relplot`, `catplot`): intervals here are columns of the table
(over patients, paired), which ``so.Range`` draws as they are, where the others know only intervals that they compute
themselves from rows. A factor becomes colour, column or row of panels by naming it.

Options that all charts take: `color`, `col` and `row`, each the name of any column of the table; `size`, ``single`` or
``double`` (`tlskit.figures.style.WIDTHS_IN`); `xlabel`, `ylabel` and the others of `draw`. Panels that are compared
have identical limits, and each says its n.
"""

import dataclasses
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from tlskit.figures import style
from tlskit.figures.style import level_name, levels
from tlskit.metrics import PERSON_MINUTES_PER_SLIDE


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
        ``(mark, options, *moves)`` each, as `seaborn.objects.Plot.add` takes them.
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
    table, orders, width = table.reset_index(drop=True).infer_objects(), {}, style.WIDTHS_IN[size]
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
        for layer in layers:
            plot = _add(plot, table, layer, color, color in (col, row), orders, looks)
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


def _add(plot: so.Plot, table, layer: tuple, color: str | None, a_panel: bool, orders: dict, looks: dict) -> so.Plot:
    """A layer in the looks of the levels of `color`, of which each has a panel or not."""
    mark, options, *moves = layer
    also = {"Dot": "marker", "Line": "linestyle", "Path": "linestyle"}.get(type(mark).__name__, "color")
    if not color or options.get("color", color) is None:
        return plot.add(mark, *moves, legend=False, **(options | {"color": None}))
    if moves or also == "marker":  # levels that make room for each other are of one layer; so are dots
        return plot.add(mark, *moves, legend=False, **({"color": color, also: color} | options))
    if a_panel:  # one look a panel, given by `draw`: seaborn would try every level in every panel
        return plot.add(dataclasses.replace(mark, artist_kws=mark.artist_kws | {"gid": also}), legend=False, **options)
    for level in orders[color]:  # a layer a level: seaborn looks for every colour with every dash, group and panel
        mark = dataclasses.replace(mark, **{key: looks[level][key] for key in ("color", also)})
        plot = plot.add(mark, data=table[table[color] == level], legend=False, **options)
    return plot


def span(ax: Axes, values, *, limits=None, log: bool = False, room: float = 0, axis: str = "x", ticks: int = 3) -> None:
    """Limits of an axis around values, with `room` (share of their span) for numbers; ticks where there is data."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known) & ((known > 0) | (not log))]
    low, high = limits or ((known.min(), known.max()) if known.size else (float(log), 1.0 + 9 * log))
    on = getattr(ax, f"{axis}axis")
    ax.set(**{f"{axis}scale": "log" if log else "linear"})
    if log:
        on.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=6))
        on.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        on.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        wide = max(np.log10(high / low), 0.3)
        ax.set(**{f"{axis}lim": (low / 10 ** (0.08 * wide), high * 10 ** ((0.08 + room) * wide))})
        return
    if low == high:  # one value alone: a tenth beside it, which of a score stays within 0 to 1
        tenth = 0.1 * max(1.0, abs(low))
        low, high = (low - tenth, low) if 0.9 < low <= 1 else (low, low + tenth)
    wide = high - low
    at = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    on.set_ticks([v for v in at if low - 0.03 * wide <= v <= high + 0.03 * wide])
    ax.set(**{f"{axis}lim": (low - 0.06 * wide, high + (0.06 + room) * wide)})


def unit(values) -> tuple[float, float]:
    """Limits of scores: 0 to 1, and below where one is negative."""
    return float(np.nanmin(np.append(np.asarray(values, float), 0.0))), 1.0


def ring(ax: Axes, rows: pd.DataFrame, x: str, y: str, chosen: str) -> None:
    """A ring around the marks of the rows that a column of bool calls chosen."""
    one = rows[rows[chosen]]
    ax.plot(one[x], one[y], "o", markersize=11, markerfacecolor="none", color=style.BLACK)


def name_right(made: Panels, x: str, y: str, ringed: str) -> None:
    """Arms in a column right of each panel, each with a line to its mark: room for twenty, and none over a mark.

    A line goes around the rings (`ring`) of other arms, of which `ringed` is the column of bool.
    """
    named = []
    made.figure.draw_without_rendering()
    for ax, rows in made:
        rows = rows.dropna(subset=[x, y]).sort_values(y)
        marks = (ax.transData - ax.transAxes).transform(rows[[x, y]].to_numpy(float))
        at, gap = marks[:, 1].copy(), 9 * _point(ax)[1]
        for n in range(1, len(at)):
            at[n] = max(at[n], at[n - 1] + gap)
        for n in reversed(range(len(at))):
            at[n] = min(at[n], (at[n + 1] if n + 1 < len(at) else 1.0 + gap) - gap)
        for arm, place in zip(rows["arm"], at, strict=True):
            ax.text(1.03, place, arm, va="center", fontsize=7, transform=ax.transAxes)
        named.append((ax, marks, at, rows[ringed].to_numpy(bool)))
    made.figure.draw_without_rendering()  # the names took room from the panels
    for ax, marks, at, rings in named:
        for n, (mark, place) in enumerate(zip(marks, at, strict=True)):
            way = _around(mark, np.array([1.02, place]), marks[rings & (np.arange(len(marks)) != n)], 8 * _point(ax))
            ax.plot(*way.T, color="0.8", linewidth=0.5, zorder=0, transform=ax.transAxes, clip_on=False)


def _point(ax: Axes) -> np.ndarray:
    """Width and height of a point (1/72 inch), as shares of a panel's."""
    return ax.figure.dpi / 72 / np.array([ax.bbox.width, ax.bbox.height])


def _around(start: np.ndarray, end: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """A way of straight lines that passes each circle; one that starts within a circle begins at its edge."""
    way = [start]
    for centre in centres:
        a, b = (way[-1] - centre) / radius, (end - centre) / radius
        nearest = a + np.clip(a @ (a - b) / max((a - b) @ (a - b), 1e-9), 0, 1) * (b - a)
        if np.hypot(*nearest) < 1:
            out = nearest if np.hypot(*nearest) > 1e-6 else (b - a)[::-1] * [-1, 1]
            way = [*(way if np.hypot(*a) >= 1 else []), centre + 1.5 * radius * out / np.hypot(*out)]
    return np.array([*way, end])


def person_band(ax: Axes, scale: float = 1.0) -> None:
    """A band at the minutes that a person takes for a slide, times `scale`; the axis is widened to hold it."""
    low, high = (scale * minutes for minutes in PERSON_MINUTES_PER_SLIDE)
    ax.axvspan(low, high, color=style.BAND, zorder=0, linewidth=0)
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, low * 0.8), max(right, high * 1.25))
