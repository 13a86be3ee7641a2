"""Charts of a cascade, in which a coarse network decides where a fine one looks; pictures of it are in `fieldplots`.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.ticker import FuncFormatter

from tlskit import units
from tlskit.figures import style
from tlskit.figures.panels import at_right, dots, draw, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cascade_minutes", "screen_tradeoff"]

_BESIDE = {"oracle": ("oracle", "*"), "random": ("random windows", "X"), "none": ("no screen", "s")}


def screen_tradeoff(table: pd.DataFrame, *, floor: float = 0.99, **options) -> Figure:
    """Recall that a screen keeps against the share of the fine network's windows that it still runs, a panel a pair.

    Parameters
    ----------
    table
        A row a setting: ``pair, screen`` (``map``, ``oracle``, ``random``, ``none``), ``grow_um, windows_share,
        recall_kept`` (0-1, of what the fine network finds alone), ``low, high, is_chosen``. Settings of one growth are
        joined along the windows' share; the chosen one is ringed, with its interval.
    floor
        The recall that the choice had to keep.
    """
    table = table.astype({"is_chosen": bool}).sort_values("windows_share", kind="stable")
    growths = [f"grown by {g:g} µm" for g in sorted(table.loc[table["screen"] == "map", "grow_um"].dropna().unique())]
    other = table["screen"].map({key: name for key, (name, _) in _BESIDE.items()})
    who = other.where(table["screen"] != "map", table["grow_um"].map("grown by {:g} µm".format))
    names = [*growths, *(name for name, _ in _BESIDE.values() if (other == name).any())]
    looks = {name: style.styles_of("_who", growths)[name] for name in growths}
    looks |= {name: {"color": style.GREY, "marker": mark, "linestyle": ":"} for name, mark in _BESIDE.values()}
    table = table.assign(
        _who=pd.Categorical(who, names), _share=100 * table["windows_share"],
        **{f"_{end}": table[end].where(table["is_chosen"]).astype(float) for end in ("low", "high")},
    )  # fmt: skip
    # What matters is the corner at the top left: random windows, which keep little, do not set the limits.
    high, low = table[table["screen"] != "random"], table.loc[table["screen"] == "random", "recall_kept"].min()
    below = f"; random windows keep from {low:.2g}, in part below the panel" * bool(low < high["recall_kept"].min())
    layers = [(so.Path(linewidth=1.2), [], {}), (so.Range(linewidth=1.6), [], {"ymin": "_low", "ymax": "_high"}),
              (dots(4), [], {})]  # fmt: skip
    made = draw(
        table, layers, x="_share", y="recall_kept", color="_who", looks=looks,
        **{"col": "pair", "panel_in": (2.4, 2.4), "ylabel": "share of the fine network's recall kept", "xlabel":
           f"windows of the fine network that are run, % (ringed: chosen on validation; line: floor {floor:g}{below})",
           } | options,
    )  # fmt: skip
    known = table["_share"][table["_share"] > 0]
    log = len(known) > 0 and known.max() / known.min() > 10
    for ax, rows in made:
        span(ax, table["_share"], log=log, ticks=5)
        span(ax, [*high[["recall_kept", "_low", "_high"]].to_numpy(float).ravel(), floor, 1.0], axis="y", ticks=5)
        ax.axhline(floor, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
        one = rows[rows["is_chosen"]]
        ax.plot(one["_share"], one["recall_kept"], "o", markersize=11, markerfacecolor="none", color=style.BLACK)
    chosen = table[table["is_chosen"]]
    told = "; ".join(f"{r.pair}: {r.recall_kept:.1%} of recall with {r.windows_share:.1%} of windows"
                     for r in chosen.itertuples())  # fmt: skip
    words = f"Recall kept against windows run, {len(table)} settings; floor {floor:g}."
    return style.done(made.figure, f"{words} Chosen: {told or 'none'}.")


def cascade_minutes(table: pd.DataFrame, **options) -> Figure:
    """Minutes a slide of each pair: the fine network alone (pale), and the cascade, its screen and its fine part.

    `table` has ``pair, minutes, minutes_screen, minutes_full, times_faster, n_slides``; what is nan was not timed.
    """
    # A cascade dearer than the fine network alone would hide it: the pale bar is broader.
    table = table.drop_duplicates("pair").astype(dict.fromkeys(("minutes", "minutes_screen", "minutes_full"), float))
    parts = {"the fine network alone": (0.0, table["minutes_full"], style.LIGHT_GREY),
             "cascade: the screen": (0.0, table["minutes_screen"], style.ORANGE),
             "cascade: the fine network": (table["minutes_screen"], table["minutes"], style.BLUE)}  # fmt: skip
    long = pd.concat([table.assign(_part=part, _from=start, _to=stop) for part, (start, stop, _) in parts.items()])
    bars = long[long["_to"] > long["_from"]]  # of a part that takes no time, or was not timed, there is no bar
    if bars.empty:
        return style.words("No network of these cascades was timed.", options.get("size", "double"))
    # A pair without any bar keeps its row, which says so.
    without = table[~table["pair"].isin(bars["pair"])].assign(_part=bars["_part"].iloc[0], _from=np.nan, _to=np.nan)
    long = pd.concat([bars, without])
    long["_part"] = pd.Categorical(long["_part"], [part for part in parts if (long["_part"] == part).any()])
    broad, slim = (so.Bars(edgewidth=0, alpha=1, width=w) for w in (0.8, 0.4))
    longest = table["pair"].map(len).max()
    at = {"orient": "y", "baseline": "_from"}
    alone = long["_part"] == "the fine network alone"
    made = draw(
        long.assign(_alone=long["_to"].where(alone), _both=long["_to"].where(~alone)),
        [(broad, [], at | {"x": "_alone"}), (slim, [], at | {"x": "_both"})], x="_to", y="pair", color="_part",
        text=("pair",), looks=style.plain(**{part: colour for part, (*_, colour) in parts.items()}),
        **{"xlabel": "minutes a slide", "left_in": 0.25 + 0.056 * longest, "panel_in": (1.6, 0.2 + 0.3 * len(table))}
        | options,
    )  # fmt: skip
    words = {row.pair: _times(row.times_faster) for row in table.itertuples()}
    room_in = 0.15 + 0.058 * max(map(len, words.values()), default=0)
    room = room_in / max(0.5, made.figure.get_figwidth() - 0.4 - 0.056 * longest - room_in)
    ends = table[["minutes", "minutes_full"]].max(axis=1)
    for ax, _ in made:
        span(ax, [0, *ends], room=room, ticks=5)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        at_right(ax, {place: words[pair] for place, pair in enumerate(made.orders["pair"])})
    told = "; ".join(
        f"{row.pair}: {units.minutes_text(row.minutes)}, alone {units.minutes_text(row.minutes_full)} "
        f"({words[row.pair]})" if np.isfinite(row.minutes) else f"{row.pair}: not timed" for row in table.itertuples()
    )  # fmt: skip
    return style.done(made.figure, f"Minutes a slide. {told}.")


def _times(faster: float) -> str:
    if pd.isna(faster):
        return "not timed"
    return f"{faster:.2g} times faster" if faster >= 1 else f"{1 / faster:.2g} times slower"
