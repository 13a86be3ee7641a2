"""The drawing that all charts share: tidy table in, panels of marks out, through seaborn's ``FacetGrid``.

``FacetGrid``, on which seaborn's figure-level functions stand: intervals here are columns of the table (over patients,
paired), which a mark draws as they are, where `relplot` and `catplot` know only those that they compute themselves from
rows. A factor becomes colour, column or row of panels by naming it.

Options that all charts take: `color`, `col` and `row`, each the name of any column of the table; `size`, ``single`` or
``double`` (`tlskit.figures.style.WIDTHS_IN`); `xlabel`, `ylabel` and the others of `draw`. Panels that are compared
have identical limits, and each says its n.
"""

import dataclasses
import itertools
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from tlskit.figures import style
from tlskit.metrics import PERSON_MINUTES_PER_SLIDE


@dataclasses.dataclass
class Panels:
    """A figure; axes and rows of its panels, their titles; the table, levels as names; a panel's width in inches."""

    figure: Figure
    panels: list[tuple[Axes, pd.DataFrame]]
    titles: list[str]
    table: pd.DataFrame
    wide_in: float

    def done(self, alt: str, each: Callable[[Axes, pd.DataFrame], None] | None = None) -> Figure:
        """Draw what else belongs in each panel, and close the figure."""
        for ax, rows in self.panels if each else ():
            each(ax, rows)
        return style.done(self.figure, alt)

    def told(self, value: str, name: str, *ends: str | None, most: int = 12) -> str:
        """`style.listed` of every panel; of the first ones where there are many."""
        parts = [f"{title}: " * bool(title) + style.listed(self.table.loc[rows.index], value, name, *ends) + "."
                 for title, (_, rows) in zip(self.titles[:most], self.panels, strict=False)]  # fmt: skip
        more = len(self.panels) - most
        return " ".join(parts) + f" {more} panels more." * (more > 0)


def draw(
    table: pd.DataFrame, mark: Callable[[Axes, pd.DataFrame, dict], None], *, color: str | None = None,
    col: str | None = None, row: str | None = None, names: str | None = None, size: str = "double",
    panel_in: tuple[float, float] | None = None, row_in: float = 0.0, xlabel: str = "", ylabel: str = "",
    looks: dict | None = None, show_legend: bool = True, told: dict | None = None,
    share: tuple[bool, bool] = (True, True), keys: tuple = ("color", "marker"), n: Callable = style.n_text,
) -> Panels:  # fmt: skip
    """Marks of a tidy table in panels.

    Parameters
    ----------
    mark
        Draws rows of one level of `color` in axes, with the level's look (colour, marker and dashes).
    names
        Column whose values stand below each other at the left; their places are the column ``_at``.
    panel_in, row_in
        Least width, and height, of a panel in inches (panels that do not fit beside each other go below); by default
        names have the room that their lines, or `row_in`, take.
    looks, told, keys
        Looks by level of `color` (by default `style.styles_of`), what the legend adds to its name, and shows of it.
    share
        Whether panels share x and y.
    n
        Function from a panel's rows to the words that say what it stands on.
    """
    table, width = table.reset_index(drop=True), style.WIDTHS_IN[size]
    for column in dict.fromkeys(filter(None, (names, color, col, row))):
        table[column] = _named(table[column], column in (col, row))
    table["_at"] = table[names].cat.codes.astype(float) if names else np.nan
    at_left = [name.split("\n") for name in table[names].cat.categories] if names else []
    left_in = 0.25 + 0.056 * min(max(len(line) for name in at_left for line in name), 34) if at_left else 0.5
    tallest = max(0.05 + 0.14 * max(map(len, at_left), default=0), row_in)
    panel_in = panel_in or ((1.25, 0.2 + tallest * len(at_left)) if names else (1.5, 1.6))
    table = table.sort_values(color, kind="stable", ignore_index=True) if color else table
    fits, levels = max(1, int((width - left_in) / panel_in[0])), table[color].cat.categories if color else [""]
    if row and (not col or table[col].nunique() > fits):  # what does not fit: one panel after the other
        titles = table[[c for c in (col, row) if c]].astype(str).agg(", ".join, axis=1)
        order = titles[table.sort_values([row, col] if col else row, kind="stable").index].unique()
        table["_panel"], col, row = pd.Categorical(titles, order), "_panel", None
    across = min(fits, table[col].nunique()) if col else 1
    wide_in = (width - left_in) / across
    looks = looks or style.styles_of(color or "", levels)
    with plt.rc_context(style.THEME):
        wrap = across if col and not row else None
        grid = _Grid(table, row=row, col=col, hue=color, col_wrap=wrap, sharex=share[0], sharey=share[1])
        parts = {}
        for (i, j, k), rows in grid.facet_data():
            parts.setdefault((i, j), []).append(rows)
            if len(rows):
                mark(grid.facet_axis(i, j), rows, looks[levels[k]])
        levels_of = itertools.product(grid.row_names or [""], grid.col_names or [""])
        titles = [", ".join(filter(None, (right, below))) for below, right in levels_of]
        panels = [(grid.facet_axis(*at), pd.concat(rows)) for at, rows in parts.items()]
        down = -(-len(panels) // across)
        figure, foot = grid.figure, style.wrap(xlabel, width)
        figure.set_layout_engine("constrained")
        figure.set_size_inches(width, down * (panel_in[1] + 0.45) + 0.15 * foot.count("\n") + 0.45)
        figure.supxlabel(foot)
        figure.supylabel(ylabel)
        for at, ((ax, rows), title) in enumerate(zip(panels, titles, strict=True)):
            said = "\n".join(filter(None, (title, n(rows) if len(rows) else "")))
            ax.set_title(style.wrap(said, wide_in))
            ax.set(xlabel="", ylabel="")
            if names:
                ax.set_yticks(range(len(at_left)), table[names].cat.categories)
                ax.set_ylim(len(at_left) - 0.5, -0.5)
            first, last = at % across == 0, at + across >= len(panels)
            ax.tick_params(labelleft=first or not share[1], labelbottom=last or not share[0])
        if color and show_legend:
            entries = {v + (told or {}).get(v, ""): {key: looks[v][key] for key in keys} for v in levels}
            words = "" if color == "arm" or color[0] == "_" else color.replace("_", " ")
            rows = style.legend(figure, entries, title=words)
            figure.set_figheight(figure.get_figheight() + 0.16 * (rows - 1))
    return Panels(figure, panels, titles, table, wide_in)


class _Grid(sns.FacetGrid):
    """Laid out once, when all is drawn, by matplotlib's constrained layout."""

    def tight_layout(self) -> None:
        pass


def _named(column: pd.Series, above: bool) -> pd.Categorical:
    """Levels as they are written, in their order; `above` a panel a number or a yes has the name of its factor."""
    values = [*style.levels(column), *[None] * int(column.isna().any())]
    alone = not above or column.name == "magnification" or any(isinstance(v, str) for v in values)
    factor = "" if alone else f"{column.name.replace('_', ' ')}: "
    names = {v: factor + style.level_name(column.name, v) for v in values}
    return pd.Categorical([names[None if pd.isna(v) else v] for v in column], list(dict.fromkeys(names.values())))


def dots(ax: Axes, x, y, look: dict, *, size: float = 5, filled=True) -> None:
    """Marks over intervals and lines; `filled` of all, or of each."""
    faces = [look["color"] if full else "white" for full in np.broadcast_to(filled, len(x))]
    ax.scatter(
        x, y, s=size**2, marker=look["marker"], edgecolors=look["color"], facecolors=faces, linewidths=1.2, zorder=3
    )


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
    at = [v for v in at if low - 0.03 * wide <= v <= high + 0.03 * wide]
    on.set_ticks(at if len(at) <= ticks + 1 else at[::-2])
    ax.set(**{f"{axis}lim": (low - 0.06 * wide, high + (0.06 + room) * wide)})


def unit(values) -> tuple[float, float]:
    """Limits of scores: 0 to 1, and below where one is negative."""
    return float(np.nanmin(np.append(np.asarray(values, float), 0.0))), 1.0


def ring(ax: Axes, rows: pd.DataFrame, x: str, y: str, chosen: str) -> None:
    """A ring around the marks of the rows that a column of bool calls chosen; what is below it ends at its edge."""
    one = rows[rows[chosen].astype(bool)]
    ax.scatter(one[x], one[y], s=11**2, color="white", zorder=0.5)
    ax.plot(one[x], one[y], "o", markersize=11, markerfacecolor="none", color=style.BLACK)


def name_right(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Arms in a column right of a panel, each with a line to its mark: room for twenty, and none over a mark."""
    rows = rows.dropna(subset=[x, y]).sort_values(y)
    (low, high), gap, at = ax.get_ylim(), 9 / 72 / 2.6, -1.0  # 9 points of a panel that is 2.6 inches high or higher
    wanted = (rows[y].to_numpy() - low) / (high - low)
    line = {"arrowstyle": "-", "color": "0.8", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
    for n, (arm, mark) in enumerate(zip(rows["arm"], rows[[x, y]].to_numpy(float), strict=True)):
        at = max(at + gap, min(wanted[n], 1 - gap * (len(rows) - 1 - n)))
        ax.annotate(
            arm, mark, (1.03, at), textcoords="axes fraction", va="center", fontsize=7, zorder=0, arrowprops=line
        )


def person_band(ax: Axes, scale: float = 1.0) -> None:
    """A band at the minutes that a person takes for a slide, times `scale`; the axis is widened to hold it."""
    low, high = (scale * minutes for minutes in PERSON_MINUTES_PER_SLIDE)
    ax.axvspan(low, high, color=style.BAND, zorder=0, linewidth=0)
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, low * 0.8), max(right, high * 1.25))
