"""Charts of the tables of notebooks 01, 02, 03 and 06. Charts of scores are in `tlskit.figures.charts`.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import seaborn.objects as so
from matplotlib.ticker import MaxNLocator

from tlskit.cohort import SPLITS
from tlskit.figures import style
from tlskit.figures.panels import FEW, at_right, dots, draw, span
from tlskit.figures.style import BLUE, GREEN, LIGHT_GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["split_bars", "stage_bars", "stage_timeline", "tiles_per_slide", "training_curves", "training_history"]

_PARTS = {
    "kept_tiles": ("kept", BLUE), "dropped_no_target": ("dropped: no target", ORANGE),
    "dropped_no_tissue": ("dropped: too little tissue", LIGHT_GREY),
    "dropped_edge": ("dropped: over the slide's edge", PURPLE), "dropped_lost": ("lost: unreadable", VERMILION),
    "dropped_ignored": ("dropped: all of it ignored", GREEN),
}  # fmt: skip
_BAR = so.Bar(edgewidth=0, alpha=1, width=0.75)


def tiles_per_slide(slides: pd.DataFrame, **options) -> Figure:
    """Tiles of each slide: kept, and dropped for which reason; `slides` of `tlskit.tiles.tiling.tile_cohort`."""
    slides = slides.sort_values("slide_id")
    there = [c for c in _PARTS if c in slides and (c == "kept_tiles" or slides[c].any())]
    long = slides.melt("slide_id", there, "_part", "tiles")
    long["_part"] = pd.Categorical(long["_part"].map(lambda c: _PARTS[c][0]), [_PARTS[c][0] for c in there])
    made = draw(
        long, [(_BAR, [so.Stack()], {"orient": "y"})], x="tiles", y="slide_id", color="_part", text=("slide_id",),
        looks=style.plain(**dict(_PARTS.values())), **{"xlabel": "tiles (kept: number at the right)", "left_in": 1.0,
        "panel_in": (2.0, 0.2 + (0.2 if len(slides) <= 40 else 0.15) * len(slides))} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        span(ax, [0, slides[there].sum(axis=1).max()], room=0.1, ticks=5)
        at_right(ax, dict(enumerate(slides["kept_tiles"].astype(str))), BLUE)
    sums = ", ".join(f"{_PARTS[c][0]} {int(slides[c].sum())}" for c in there)
    return style.done(made.figure, f"Tiles of {len(slides)} slides. In sum: {sums}.")


def split_bars(summary: pd.DataFrame, *, color: str = "cancer_type", **options) -> Figure:
    """Patients, slides and tiles in each set, stacked by cancer type; `summary` of `tlskit.cohort.split_summary`."""
    columns = [c for c in ("patients", "slides", "tiles") if c in summary]
    parts = summary[summary[color] != "all"].sort_values(color)
    every = pd.MultiIndex.from_product([SPLITS, parts[color].unique()], names=["split", color])
    parts = parts.groupby(["split", color])[columns].sum().reindex(every, fill_value=0).reset_index()
    looks = style.plain(**dict(zip(parts[color].unique(), style.PALETTE * 9, strict=False)))
    made = draw(
        parts.melt(["split", color], columns, "what", "number"), [(_BAR, [so.Stack()], {"orient": "x"})], x="split",
        y="number", color=color, text=("split",), looks=looks, share=(True, False), ylabel="number",
        **{"col": "what", "n": lambda rows: f"n = {int(rows['number'].sum())}", "panel_in": (1.6, 1.9)} | options,
    )  # fmt: skip
    told = []
    for (ax, rows), column in zip(made, columns, strict=True):
        totals = rows.groupby("split")["number"].sum().reindex(SPLITS)
        for x, total in enumerate(totals):
            ax.text(x, total, f"{int(total)}", ha="center", va="bottom", fontsize=7)
        span(ax, [0, max(1, totals.max())], axis="y", room=0.1, ticks=4)
        told.append(f"{column}: " + ", ".join(f"{split} {int(total)}" for split, total in totals.items()))
    return style.done(made.figure, f"What each set holds. {'; '.join(told)}.")


def training_history(
    history: pd.DataFrame, *, x: str = "epoch", color: str | None = None, speed: bool = True, **options
) -> Figure:
    """Loss and validation IoU by epoch, the epoch that was kept, and (with `speed`) the tiles trained per second.

    `history` of `tlskit.networks.training.train`; of several arms, with the column arm, each arm has its colour, or of
    more than eight each magnification. The epoch that was kept is that of the column ``best``, else of the highest
    validation IoU.
    """
    history = history.reset_index(drop=True)
    several = "arm" in history and history["arm"].nunique() > 1
    arms = [rows for _, rows in history.groupby("arm", sort=False)] if several else [history]
    told_best = history["best"].astype(bool) if "best" in history else pd.Series(False, history.index)
    best = [told_best[rows.index].idxmax() if told_best[rows.index].any() else rows["val_iou"].idxmax()
            if rows["val_iou"].notna().any() else rows.index[-1] for rows in arms]  # fmt: skip
    kept = history["val_iou"].where(history.index.isin(best))
    iou, rate = "validation IoU at 0.5,\nall pixels pooled", "training tiles per second"
    losses = ("training loss", "validation loss") if several else ("loss", "loss")
    parts = [(losses[0], "training", "train_loss"), (losses[1], "validation", "val_loss"),
             (iou, "validation", "val_iou"), *[(rate, "training", "tiles_per_s")] * speed]  # fmt: skip
    long = pd.concat([history.assign(what=what, _set=name, value=history[c]) for what, name, c in parts])
    long["_kept"] = kept.reindex(long.index).where(long["what"] == iou)
    if several and not color:
        color = "magnification" if len(arms) > FEW and "magnification" in history else "arm"
    group = {"group": "arm"} if several else {}
    star = (so.Dot({"zorder": 4}, marker="*", pointsize=10), [], {"y": "_kept", "marker": None})
    made = draw(
        long, [(so.Line(linewidth=1.2 if len(arms) <= FEW else 0.8), [], group),
               *[(dots(4), [], group)] * (len(arms) <= FEW), star],
        x=x, y="value", color=color or "_set", share=(True, False), xlabel=f"{x} (star: the epoch that was kept)",
        **{"col": "what", "panel_in": (1.6, 1.7), "n": lambda rows: f"n = {rows['epoch'].nunique()} epochs"} | options,
    )  # fmt: skip
    made.figure.axes[0].xaxis.set_major_locator(MaxNLocator(5 if x == "epoch" else 3, integer=True))
    first = history.loc[best[0]]
    for ax, rows in made:
        if set(rows["what"]) <= {iou, rate}:
            span(ax, [0, *rows["value"], *[1.0] * (set(rows["what"]) == {iou})], axis="y", ticks=5)
        else:  # losses are compared
            span(ax, long.loc[long["what"].isin(losses), "value"], axis="y", ticks=5)
        if set(rows["what"]) == {iou} and not several and pd.notna(first["val_iou"]):
            # Above the mark: no other epoch lies higher.
            side = "left" if first[x] <= history[x].median() else "right"
            ax.annotate(f"kept: {first['val_iou']:.3f}", (first[x], first["val_iou"]), xytext=(0, 7), ha=side,
                        fontsize=7, textcoords="offset points")  # fmt: skip
    told = [f"{row.get('arm', '')} epoch {row['epoch']:g} with IoU {row['val_iou']:.3f}".strip()
            if pd.notna(row["val_iou"]) else f"{row.get('arm', '')} epoch {row['epoch']:g}, IoU undefined".strip()
            for _, row in history.loc[best].iterrows()]  # fmt: skip
    what = "Loss, validation IoU and speed" if speed else "Loss and validation IoU"
    return style.done(made.figure, f"{what} by {x}. Kept: {', '.join(told)}.")


def training_curves(table: pd.DataFrame, **options) -> Figure:
    """Loss and validation IoU of all arms against the optimiser's steps, of which arms have unlike numbers an epoch.

    `table` has ``arm, magnification, epoch, steps, train_loss, val_loss, val_iou, best`` and the factors' columns.
    """
    return training_history(table, **{"x": "steps", "speed": False} | options)


def stage_bars(timings: pd.DataFrame, **options) -> Figure:
    """Seconds of each stage of whole-slide inference, beside the time that passed: stages run side by side.

    A bar is the mean over slides of each slide's median pass (warm ones where there are any), a line from the shortest
    to the longest pass of any slide. `timings` of `tlskit.evaluation.time_inference`.
    """
    timings = timings[timings["slide_id"] != ""]
    timings = timings[timings["warm"]] if timings["warm"].any() else timings
    by_slide = timings.groupby(["kind", "stage", "slide_id"], sort=False)["seconds"]
    ends = by_slide.agg(["median", "min", "max"]).groupby(["kind", "stage"], sort=False)
    table = ends.agg(seconds=("median", "mean"), low=("min", "min"), high=("max", "max")).reset_index()
    wall = table.loc[table["stage"] == "wall", "seconds"].iloc[0]
    table = table[table["kind"].isin(["work", "wait"])].sort_values("kind", ascending=False, kind="stable")
    table["stage"] = table["stage"].str.replace("wait_", "waiting: ").str.replace("_", " ")
    n = f"n = {timings['slide_id'].nunique()} slides; line: the {wall:.3g} s that passed"
    made = draw(
        table, [(_BAR, [], {"orient": "y"}), (so.Range(color="0.2", linewidth=1), [],
                {"orient": "y", "xmin": "low", "xmax": "high", "color": None})], x="seconds", y="stage", color="kind",
        text=("stage",), looks=style.plain(work=BLUE, wait=LIGHT_GREY), show_legend=False,
        **{"n": lambda rows: n, "left_in": 1.0, "panel_in": (2.0, 0.25 + 0.18 * len(table)),
           "xlabel": "seconds a slide (grey: waiting; stages run side by side)"} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        ax.axvline(wall, color=VERMILION, linewidth=1.5)
        span(ax, [0, wall, *table["high"]], ticks=5)
    told = style.listed(table, "seconds", "stage", "low", "high")
    return style.done(made.figure, f"Seconds of each stage ({n}). {told}.")


#: Who does what in whole-slide inference, by what name, and its colour.
_STAGES = {
    "open": ("opening", "open", "0.3"), "tissue": ("opening", "finding tissue", YELLOW),
    "read": ("decoding", "read and decode", BLUE), "resample": ("decoding", "resample", SKY),
    "preprocess": ("cutting windows", "copy", PURPLE), "forward": ("network", "forward", VERMILION),
    "blend": ("blending", "blend", GREEN), "write": ("writing", "write the map", ORANGE),
}  # fmt: skip
_WAITS = {"decode": "preprocess", "read": "preprocess", "forward_in": "forward", "forward_out": "forward",
          "blend": "blend", "write": "blend"}  # fmt: skip
_STAGES |= {f"wait_{what}": (_STAGES[whose][0], "waiting", LIGHT_GREY) for what, whose in _WAITS.items()}


def stage_timeline(prediction, *, detail_s: float = 3.0, **options) -> Figure:
    """When each thread of whole-slide inference did what: the whole slide, and a few seconds (`detail_s`) of it.

    `prediction` of `tlskit.maps.inference`.
    """
    events = pd.DataFrame(prediction.events, columns=["stage", "start", "stop"])
    stages = _STAGES | {s: ("other", s.replace("_", " "), style.GREY) for s in events["stage"] if s not in _STAGES}
    threads, names = ([*dict.fromkeys(of[n] for of in stages.values())] for n in (0, 1))
    events["thread"] = pd.Categorical([stages[s][0] for s in events["stage"]], threads)
    events["_does"] = pd.Categorical([stages[s][1] for s in events["stage"]], names)
    working = events[events["stage"] == "forward"] if (events["stage"] == "forward").any() else events
    end, middle = events["stop"].max(), max(0.0, (working["start"].min() + working["stop"].max() - detail_s) / 2)
    windows = {f"n = {prediction.windows} windows": (0.0, end), f"{detail_s:g} s of it": (middle, middle + detail_s)}
    both = pd.concat([events[(events["stop"] > a) & (events["start"] < b)] for a, b in windows.values()], keys=windows)
    both = both.assign(part=pd.Categorical(both.index.get_level_values(0), windows))
    bars = (so.Bars(edgewidth=0, alpha=1, width=0.75), [], {"orient": "y", "baseline": "start"})
    made = draw(  # waits first: work lies over them
        both.sort_values("_does", ascending=False), [bars], x="stop", y="thread", color="_does", text=("thread",),
        looks=style.plain(**{does: colour for _, does, colour in stages.values()}), share=(False, True),
        **{"row": "part", "n": lambda rows: "", "left_in": 1.0, "panel_in": (4.0, 1.3),
           "xlabel": f"seconds since {prediction.slide_id} was opened ({prediction.engine})"} | options,
    )  # fmt: skip
    for ax, (first, last) in zip(made.axes.values(), windows.values(), strict=True):
        ax.set_xlim(first, min(last, end))
    busy = events.assign(s=events["stop"] - events["start"]).groupby("_does", observed=True)["s"].sum().nlargest(4)
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in busy.items())
    return style.done(made.figure, f"What each thread did in the {end:.1f} s of {prediction.slide_id}. Most: {told}.")
