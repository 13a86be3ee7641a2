"""Charts of the tables of notebooks 01, 02, 03 and 06. Charts of scores are in `tlskit.figures.charts`.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.ticker import MaxNLocator

from tlskit.cohort import SPLITS
from tlskit.figures.panels import FEW, dots, draw, span
from tlskit.figures.style import (
    BLUE, GREEN, LIGHT_GREY, ORANGE, PALETTE, PURPLE, SKY, VERMILION, YELLOW, done, listed, plain,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["split_bars", "stage_bars", "stage_timeline", "tiles_per_slide", "training_history"]

_PARTS = {
    "kept_tiles": ("kept", BLUE), "dropped_no_target": ("dropped: no target", ORANGE),
    "dropped_no_tissue": ("dropped: too little tissue", LIGHT_GREY),
    "dropped_edge": ("dropped: over the slide's edge", PURPLE), "dropped_lost": ("lost: unreadable", VERMILION),
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
        looks=plain(**dict(_PARTS.values())), **{"xlabel": "tiles (kept: number at the right)", "left_in": 1.0,
        "panel_in": (2.0, 0.2 + (0.2 if len(slides) <= 40 else 0.15) * len(slides))} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        span(ax, [0, slides[there].sum(axis=1).max()], room=0.1, ticks=5)
        for place, kept in enumerate(slides["kept_tiles"]):
            ax.text(0.99, place, f"{kept}", va="center", ha="right", fontsize=7, color=BLUE, transform=ax.get_yaxis_transform())
    sums = ", ".join(f"{_PARTS[c][0]} {int(slides[c].sum())}" for c in there)
    return done(made.figure, f"Tiles of {len(slides)} slides. In sum: {sums}.")


def split_bars(summary: pd.DataFrame, *, color: str = "cancer_type", **options) -> Figure:
    """Patients, slides and tiles in each set, stacked by cancer type; `summary` of `tlskit.cohort.split_summary`."""
    columns = [c for c in ("patients", "slides", "tiles") if c in summary]
    parts = summary[summary[color] != "all"].sort_values(color)
    every = pd.MultiIndex.from_product([SPLITS, parts[color].unique()], names=["split", color])
    parts = parts.groupby(["split", color])[columns].sum().reindex(every, fill_value=0).reset_index()
    made = draw(
        parts.melt(["split", color], columns, "what", "number"), [(_BAR, [so.Stack()], {"orient": "x"})], x="split",
        y="number", color=color, text=("split",), looks=plain(**dict(zip(parts[color].unique(), PALETTE * 9, strict=False))),
        **{"col": "what", "n": lambda rows: f"n = {int(rows['number'].sum())}", "share": (True, False),
           "ylabel": "number", "panel_in": (1.6, 1.9)} | options,
    )  # fmt: skip
    told = []
    for (ax, rows), column in zip(made, columns, strict=True):
        totals = rows.groupby("split")["number"].sum().reindex(SPLITS)
        for x, total in enumerate(totals):
            ax.text(x, total, f"{int(total)}", ha="center", va="bottom", fontsize=7)
        span(ax, [0, max(1, totals.max())], axis="y", room=0.1, ticks=4)
        told.append(f"{column}: " + ", ".join(f"{split} {int(total)}" for split, total in totals.items()))
    return done(made.figure, f"What each set holds. {'; '.join(told)}.")


def training_history(history: pd.DataFrame, *, color: str | None = None, **options) -> Figure:
    """Loss and validation IoU by epoch, the epoch that was kept, and the tiles trained per second.

    `history` of `tlskit.networks.training.train`; of several arms, with the column arm, each arm has its colour.
    """
    history = history.reset_index(drop=True)
    several = "arm" in history and history["arm"].nunique() > 1
    arms = [rows for _, rows in history.groupby("arm", sort=False)] if several else [history]
    best = [rows["val_iou"].idxmax() if rows["val_iou"].notna().any() else rows.index[-1] for rows in arms]
    kept = history["val_iou"].where(history.index.isin(best))
    iou, speed = "validation IoU at 0.5,\nall pixels pooled", "training tiles per second"
    parts = [("loss, training" if several else "loss", "training", "train_loss"), (iou, "validation", "val_iou"),
             ("loss, validation" if several else "loss", "validation", "val_loss"), (speed, "training", "tiles_per_s")]  # fmt: skip
    long = pd.concat([history.assign(what=what, _of=of, value=history[c], _kept=kept if what == iou else np.nan) for what, of, c in parts])
    if several and not color:
        color = "magnification" if len(arms) > FEW and "magnification" in history else "arm"
    group = {"group": "arm"} if several else {}
    made = draw(
        long, [(so.Line(), [], group), (dots(4), [], group),
               (so.Dot({"zorder": 4}, marker="*", pointsize=10), [], {"y": "_kept", "marker": None})],
        x="epoch", y="value", color=color or "_of", **{"col": "what", "share": (True, False), "panel_in": (1.6, 1.7),
        "n": lambda rows: f"n = {rows['epoch'].nunique()} epochs", "xlabel": "epoch (star: the epoch that was kept)"} | options,
    )  # fmt: skip
    made.figure.axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax, rows in made:
        if set(rows["what"]) <= {iou, speed}:
            span(ax, [0, *rows["value"], *([1.0] if set(rows["what"]) == {iou} else [])], axis="y", ticks=5)
    told = ", ".join(f"{r.get('arm', '')} epoch {r['epoch']:g} with IoU {r['val_iou']:.3f}" for _, r in history.loc[best].iterrows())
    for ax, rows in made:
        if not several and set(rows["what"]) == {iou} and kept.notna().any():
            at = history.loc[best[0]]  # its number stands above: no other epoch lies higher
            ax.annotate(f"kept: {at['val_iou']:.3f}", (at["epoch"], at["val_iou"]), xytext=(0, 7), fontsize=7, textcoords=
                        "offset points", ha="left" if at["epoch"] <= history["epoch"].median() else "right")  # fmt: skip
    return done(made.figure, f"Loss, validation IoU and speed by epoch. Kept: {told}.")


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
        text=("stage",), looks=plain(work=BLUE, wait=LIGHT_GREY), show_legend=False,
        **{"n": lambda rows: n, "left_in": 1.0, "panel_in": (2.0, 0.25 + 0.18 * len(table)),
           "xlabel": "seconds a slide (grey: waiting; stages run side by side)"} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        ax.axvline(wall, color=VERMILION, linewidth=1.5)
        span(ax, [0, wall, *table["high"]], ticks=5)
    return done(made.figure, f"Seconds of each stage ({n}). {listed(table, 'seconds', 'stage', low='low', high='high')}.")


#: Who does what in whole-slide inference, by what name, and how it is drawn: waits are grey and drawn below work.
_STAGES = {
    "open": ("opening", "open", "0.3"), "tissue": ("opening", "finding tissue", YELLOW),
    "read": ("decoding", "read and decode", BLUE), "resample": ("decoding", "resample", SKY),
    "preprocess": ("cutting windows", "copy", PURPLE), "forward": ("network", "forward", VERMILION),
    "blend": ("blending", "blend", GREEN), "write": ("writing", "write the map", ORANGE),
    "wait_decode": ("cutting windows", "waiting", LIGHT_GREY), "wait_read": ("cutting windows", "waiting", LIGHT_GREY),
    "wait_forward_in": ("network", "waiting", LIGHT_GREY), "wait_forward_out": ("network", "waiting", LIGHT_GREY),
    "wait_blend": ("blending", "waiting", LIGHT_GREY), "wait_write": ("blending", "waiting", LIGHT_GREY),
}  # fmt: skip


def stage_timeline(prediction, *, detail_s: float = 3.0, **options) -> Figure:
    """When each thread of whole-slide inference did what: the whole slide, and a few seconds (`detail_s`) of it.

    `prediction` of `tlskit.maps.inference`.
    """
    events = pd.DataFrame([e for e in prediction.events if e[0] in _STAGES], columns=["stage", "start", "stop"])
    events[["thread", "_does", "_"]] = [_STAGES[stage] for stage in events["stage"]]
    working = events[events["stage"] == "forward"] if (events["stage"] == "forward").any() else events
    end, middle = events["stop"].max(), max(0.0, (working["start"].min() + working["stop"].max() - detail_s) / 2)
    windows = {f"n = {prediction.windows} windows": (0.0, end), f"{detail_s:g} s of it": (middle, min(end, middle + detail_s))}
    names = [name for name in dict.fromkeys(does for _, does, _ in _STAGES.values()) if (events["_does"] == name).any()]
    threads = list(dict.fromkeys(thread for thread, _, _ in _STAGES.values()))
    events["_does"] = pd.Categorical(events["_does"], names)
    events["thread"] = pd.Categorical(events["thread"], threads)
    both = pd.concat([events[(events["stop"] > a) & (events["start"] < b)].assign(part=k) for k, (a, b) in windows.items()])
    both["part"] = pd.Categorical(both["part"], list(windows))
    made = draw(
        both.sort_values("_does", ascending=False), [(so.Bars(edgewidth=0, alpha=1, width=0.75), [], {"orient": "y", "baseline": "start"})],
        x="stop", y="thread", color="_does", text=("thread",), looks=plain(**{does: c for _, does, c in _STAGES.values()}),
        **{"col": "part", "share": (False, True), "n": lambda rows: "", "left_in": 1.0, "panel_in": (2.4 if options.get("size") == "single" else 5.0, 1.3),
           "xlabel": f"seconds since {prediction.slide_id} was opened ({prediction.engine})"} | options,
    )  # fmt: skip
    for ax, ends in zip(made.axes.values(), windows.values(), strict=True):
        ax.set_xlim(*ends)
    busy = events.assign(s=events["stop"] - events["start"]).groupby("_does", observed=True)["s"].sum()
    told = ", ".join(f"{name} {s:.1f} s" for name, s in busy.nlargest(4).items())
    return done(made.figure, f"What each thread did in the {end:.1f} s of {prediction.slide_id}. Most time: {told}.")
