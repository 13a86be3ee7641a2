"""Charts of the steps: who was studied, tiles, split, training, time, and a cascade. Scores are in `comparecharts`.

Each takes the options of `tlskit.figures.charts` and `tlskit.figures.panels` besides its own.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlskit import units
from tlskit.cohort import SPLITS
from tlskit.figures import style
from tlskit.figures.charts import FEW, bars, curves
from tlskit.figures.panels import dots, draw, span
from tlskit.figures.style import BLUE, GREEN, LIGHT_GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from tlskit.units import counted

__all__ = [
    "cascade_minutes", "cohort_flow", "screen_tradeoff", "split_bars", "stage_bars", "stage_timeline",
    "tiles_per_slide", "training_curves", "training_history",
]  # fmt: skip

_PARTS = {
    "kept_tiles": ("kept", BLUE), "dropped_no_target": ("dropped: no target", ORANGE),
    "dropped_no_tissue": ("dropped: too little tissue", LIGHT_GREY),
    "dropped_edge": ("dropped: over the slide's edge", PURPLE), "dropped_lost": ("lost: unreadable", VERMILION),
    "dropped_ignored": ("dropped: all of it ignored", GREEN),
}  # fmt: skip


def cohort_flow(table: pd.DataFrame, *, size: str = "double") -> Figure:
    """Who was studied: stages from top to bottom, what each left out at its right.

    Parameters
    ----------
    table
        A row a stage: ``stage``, ``n_patients``, ``n_slides``; ``text`` (more words, or empty) and ``left_out_text``
        (what is left out between this stage and the next, or empty) where there are such columns.
    """
    width, line_in, top, told = style.WIDTHS_IN[size], 0.135, 0.1, []
    figure = plt.figure(figsize=(width, 1))
    ax = figure.add_axes((0, 0, 1, 1))  # its units are inches
    ax.axis("off")

    def box(left: float, wide: float, words: str, top: float, colour: str) -> float:
        high = line_in * (words.count("\n") + 1) + 0.14
        ax.add_patch(plt.Rectangle((left, top), wide, high, facecolor=colour, edgecolor="0.35", linewidth=0.8))
        ax.text(left + wide / 2, top + high / 2, words, ha="center", va="center", fontsize=7.5, linespacing=1.25)
        return top + high

    def arrow(start: tuple, end: tuple) -> None:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 0})

    for n, row in enumerate(table.fillna("").to_dict("records"), 1):
        numbers = ", ".join(counted(row[f"n_{what}s"], what) for what in ("patient", "slide")
                            if row.get(f"n_{what}s", "") != "")  # fmt: skip
        main, out = "\n".join(filter(None, (str(row["stage"]), numbers, row.get("text")))), row.get("left_out_text")
        told.append(main.replace("\n", ", ") + (f" (left out: {out})" if out else ""))
        bottom = box(0.05 * width, 0.5 * width, style.wrap(main, 0.5 * width - 0.3, size=7.5), top, "white")
        top = bottom + 0.3
        if out and n < len(table):
            out = style.wrap(out, 0.42 * width - 0.3, size=7.5)
            top = box(0.56 * width, 0.42 * width, out, bottom + 0.12, "0.95") + 0.12
            arrow((0.3 * width, (bottom + top) / 2), (0.56 * width, (bottom + top) / 2))
        if n < len(table):
            arrow((0.3 * width, bottom), (0.3 * width, top))
    figure.set_figheight(bottom + 0.1)
    ax.set(xlim=(0, width), ylim=(bottom + 0.1, 0))
    return style.done(figure, f"Flow of the cohort: {'; '.join(told)}.")


def tiles_per_slide(slides: pd.DataFrame, **options) -> Figure:
    """Tiles of each slide: kept, and dropped for which reason; `slides` of `tlskit.tiles.tiling.tile_cohort`."""
    slides = slides.sort_values("slide_id")
    parts = {c: of for c, of in _PARTS.items() if c in slides and (c == "kept_tiles" or slides[c].any())}
    long = slides.assign(_kept=slides["kept_tiles"].astype(str)).rename(columns={c: of[0] for c, of in parts.items()})
    long = long.melt(["slide_id", "_kept"], [name for name, _ in parts.values()], "_part", "tiles")
    sums = ", ".join(f"{name} {int(slides[c].sum())}" for c, (name, _) in parts.items())
    return bars(long, x="tiles", y="slide_id", color="_part", looks=style.plain(**dict(parts.values())), number="_kept",
                most=slides[list(parts)].sum(axis=1).max(), alt=f"Tiles of {len(slides)} slides. In sum: {sums}.",
                **{"xlabel": "tiles (kept: number at the right)"} | options)  # fmt: skip


def split_bars(summary: pd.DataFrame, *, color: str = "cancer_type", **options) -> Figure:
    """Patients, slides and tiles in each set, stacked by cancer type; `summary` of `tlskit.cohort.split_summary`."""
    columns = [c for c in ("patients", "slides", "tiles") if c in summary]
    parts = summary[summary[color] != "all"].sort_values(color)
    every = pd.MultiIndex.from_product([SPLITS, parts[color].unique()], names=["split", color])
    parts = parts.groupby(["split", color])[columns].sum().reindex(every, fill_value=0).reset_index()
    totals = parts.groupby("split")[columns].sum().reindex(SPLITS)

    def each(ax, rows) -> None:
        of = totals[rows["what"].iloc[0]]
        span(ax, [0, max(1, of.max())], axis="y", room=0.1, ticks=4)
        for x, total in enumerate(of):
            ax.text(x, total, f"{int(total)}", ha="center", va="bottom", fontsize=7)

    told = "; ".join(f"{c}: " + ", ".join(f"{split} {int(n)}" for split, n in totals[c].items()) for c in columns)
    return bars(
        parts.melt(["split", color], columns, "what", "number"), x="split", y="number", color=color, each=each,
        looks=style.plain(**dict(zip(parts[color].unique(), style.PALETTE * 9, strict=False))),
        alt=f"What each set holds. {told}.", **{"col": "what", "n": lambda rows: f"n = {int(rows['number'].sum())}",
        "panel_in": (1.6, 1.9), "share": (True, False), "ylabel": "number"} | options,
    )  # fmt: skip


def training_history(
    history: pd.DataFrame, *, x: str = "epoch", color: str | None = None, speed: bool = True, **options
) -> Figure:
    """Loss and validation IoU by epoch, the epoch that was kept, and (with `speed`) the tiles trained per second.

    `history` of `tlskit.networks.training.train`; of several arms, with the column arm, each arm has its colour, or of
    more than eight each magnification. The epoch that was kept is that of the column ``best``, else of the highest
    validation IoU.
    """
    history = history.reset_index(drop=True)
    arm = history["arm"] if "arm" in history else pd.Series("", history.index)
    several, few = arm.nunique() > 1, arm.nunique() <= FEW
    score = history["best"].astype(float).replace(0, np.nan) if "best" in history else history["val_iou"]
    best = history.loc[score.dropna().groupby(arm, sort=False).idxmax()]
    iou, rate = "validation IoU at 0.5,\nall pixels pooled", "training tiles per second"
    losses = ("training loss", "validation loss") if several else ("loss", "loss")
    parts = [(losses[0], "training", "train_loss"), (losses[1], "validation", "val_loss"),
             (iou, "validation", "val_iou"), *[(rate, "training", "tiles_per_s")] * speed]  # fmt: skip
    long = pd.concat([history.assign(what=what, _set=name, value=history[c]) for what, name, c in parts])
    long["_kept"] = best["val_iou"].reindex(long.index).where(long["what"] == iou)
    by = "_set" if not several else "arm" if few or "magnification" not in history else "magnification"
    group = {"group": "arm"} if several else {}
    made = draw(
        long, [(so.Line(linewidth=1.2 if few else 0.8), group), *[(dots(4), group)] * few,
               (so.Dot({"zorder": 4}, marker="*", pointsize=10), {"y": "_kept", "marker": None})],
        x=x, y="value", color=color or by, share=(True, False), xlabel=f"{x} (star: the epoch that was kept)",
        **{"col": "what", "panel_in": (1.6, 1.7), "n": lambda rows: f"n = {rows['epoch'].nunique()} epochs"} | options,
    )  # fmt: skip
    made.figure.axes[0].xaxis.set_major_locator(MaxNLocator(5 if x == "epoch" else 3, integer=True))
    for ax, rows in made:
        what = rows["what"].iloc[0]
        values = long.loc[long["what"].isin(losses), "value"] if what in losses else [0, *rows["value"]]  # compared
        span(ax, [*values, 1.0] if what == iou else values, axis="y", ticks=5)
        for _, row in rows[rows["_kept"].notna()].iterrows() if not several else ():
            side = "left" if row[x] <= history[x].median() else "right"  # above the mark: no other epoch lies higher
            ax.annotate(f"kept: {row['_kept']:.3f}", (row[x], row["_kept"]), xytext=(0, 7), ha=side, fontsize=7,
                        textcoords="offset points")  # fmt: skip
    kept = [f"{arm[at]} epoch {row['epoch']:g} with IoU ".strip() + ("undefined" if pd.isna(row["val_iou"]) else
            f"{row['val_iou']:.3f}") for at, row in best.iterrows()]  # fmt: skip
    what = "Loss, validation IoU and speed" if speed else "Loss and validation IoU"
    return style.done(made.figure, f"{what} by {x}. Kept: {', '.join(kept) or 'no epoch has a validation IoU'}.")


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
    n = f"n = {counted(timings['slide_id'].nunique(), 'slide')}; line: the {wall:.3g} s that passed"

    line = (so.Range(color="0.2", linewidth=1), {"xmin": "low", "xmax": "high", "color": None})
    return bars(
        table, x="seconds", y="stage", color="kind", over=(line,), looks=style.plain(work=BLUE, wait=LIGHT_GREY),
        most=max(wall, table["high"].max()), each=lambda ax, _: ax.axvline(wall, color=VERMILION, linewidth=1.5),
        alt=f"Seconds of each stage ({n}). {style.listed(table, 'seconds', 'stage', 'low', 'high')}.",
        **{"show_legend": False, "n": lambda _: n,
           "xlabel": "seconds a slide (grey: waiting; stages run side by side)"} | options,
    )  # fmt: skip


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
    for n, column in enumerate(("thread", "_does")):
        order = list(dict.fromkeys(of[n] for of in stages.values()))
        events[column] = pd.Categorical([stages[s][n] for s in events["stage"]], order)
    working = events[events["stage"] == "forward"] if (events["stage"] == "forward").any() else events
    end, middle = events["stop"].max(), max(0.0, (working["start"].min() + working["stop"].max() - detail_s) / 2)
    windows = {f"n = {prediction.windows} windows": (0.0, end), f"{detail_s:g} s of it": (middle, middle + detail_s)}
    both = pd.concat(events[(events["stop"] > a) & (events["start"] < b)].assign(part=part)
                     for part, (a, b) in windows.items())  # fmt: skip
    both["part"] = pd.Categorical(both["part"], list(windows))
    busy = events.assign(s=events["stop"] - events["start"]).groupby("_does", observed=True)["s"].sum().nlargest(4)
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in busy.items())

    def each(ax, rows) -> None:
        first, last = windows[rows["part"].iloc[0]]
        ax.set_xlim(first, min(last, end))

    return bars(  # waits first: work lies over them
        both.sort_values("_does", ascending=False), x="stop", y="thread", color="_does", start="start", each=each,
        looks=style.plain(**{does: colour for _, does, colour in stages.values()}), share=(False, True),
        alt=f"What each thread did in the {end:.1f} s of {prediction.slide_id}. Most: {told}.",
        **{"row": "part", "n": lambda _: "", "panel_in": (4.0, 1.3),
           "xlabel": f"seconds since {prediction.slide_id} was opened ({prediction.engine})"} | options,
    )  # fmt: skip


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
    if table["recall_kept"].isna().all():
        text = "No recall to keep: the fine network alone finds no target on these slides."
        return style.words(text, options.get("size", "double"))
    table = table.astype({"is_chosen": bool}).sort_values("windows_share", kind="stable")
    grown = table["grow_um"].map("grown by {:g} µm".format).where(table["screen"] == "map")
    names = list(grown[table["grow_um"].sort_values().index].dropna().unique())
    looks = style.styles_of("", names) | {name: {"color": style.GREY, "marker": mark, "linestyle": ":"}
            for key, (name, mark) in _BESIDE.items() if (table["screen"] == key).any()}  # fmt: skip
    who = grown.fillna(table["screen"].map({key: name for key, (name, _) in _BESIDE.items()}))
    table = table.assign(
        _who=pd.Categorical(who, list(looks)), _share=100 * table["windows_share"],
        **{f"_{end}": table[end].where(table["is_chosen"]).astype(float) for end in ("low", "high")},
    )  # fmt: skip
    # What matters is the corner at the top left: random windows, which keep little, do not set the limits.
    high, low = table[table["screen"] != "random"], table.loc[table["screen"] == "random", "recall_kept"].min()
    known = table["_share"][table["_share"] > 0]
    kept = [*high[["recall_kept", "_low", "_high"]].to_numpy(float).ravel(), floor, 1.0]
    least, rim = np.nanmin(kept), 0.05 * np.ptp(np.array(kept)[np.isfinite(kept)])
    below = f"; random windows keep from {low:.2g}, in part below the panel" * bool(low < least - rim)
    frame = {"x": {"values": table["_share"], "log": len(known) > 0 and known.max() / known.min() > 10, "ticks": 5},
             "y": {"values": kept, "ticks": 5}}  # fmt: skip
    chosen = "; ".join(f"{r.pair}: {r.recall_kept:.1%} of recall with {r.windows_share:.1%} of windows"
                       for r in table[table["is_chosen"]].dropna(subset=["recall_kept"]).itertuples())  # fmt: skip
    figure = curves(
        table, x="_share", y="recall_kept", color="_who", looks=looks, marks=(("recall_kept", True),), mark_pt=4,
        ends=("_low", "_high"), chosen="is_chosen", frame=frame,
        each=lambda ax, _: ax.axhline(floor, color="0.4", linewidth=0.8, linestyle="--", zorder=0),
        **{"col": "pair", "panel_in": (2.4, 2.4), "ylabel": "share of the fine network's recall kept", "xlabel":
           f"windows of the fine network that are run, % (ringed: chosen on validation; line: floor {floor:g}{below})",
           } | options,
    )  # fmt: skip
    words = f"Recall kept against windows run, {len(table)} settings; floor {floor:g}."
    return style.done(figure, f"{words} Chosen: {chosen or 'none'}.")


def cascade_minutes(table: pd.DataFrame, **options) -> Figure:
    """Minutes a slide of each pair: the fine network alone (pale), and the cascade, its screen and its fine part.

    `table` has ``pair, minutes, minutes_screen, minutes_full, times_faster, n_slides``; what is nan was not timed.
    """
    table = table.drop_duplicates("pair").astype(dict.fromkeys(("minutes", "minutes_screen", "minutes_full"), float))
    if table[["minutes", "minutes_full"]].isna().all(axis=None):
        return style.words("No network of these cascades was timed.", options.get("size", "double"))
    table = table.assign(_faster=table["times_faster"].map(_times), _zero=0.0)
    fine, screen, rest = "the fine network alone", "cascade: the screen", "cascade: the fine network"
    ends = {fine: ("_zero", "minutes_full"), screen: ("_zero", "minutes_screen"), rest: ("minutes_screen", "minutes")}
    long = [table.assign(_part=part, _from=table[start], **{"_alone" if part == fine else "_both": table[stop]})
            for part, (start, stop) in ends.items()]  # fmt: skip
    # Of a part that takes no time there is no bar; of a pair that was not timed there is a row, which says so.
    long = pd.concat(long)
    long = long[(long["_both"] > long["_from"]) | (long["_part"] == fine)]
    told = "; ".join(f"{of['pair']}: " + ("not timed" if pd.isna(of["minutes"]) else
                     f"{units.minutes_text(of['minutes'])}, alone {units.minutes_text(of['minutes_full'])} "
                     f"({of['_faster']})") for of in table.to_dict("records"))  # fmt: skip
    slim = (so.Bars(edgewidth=0, alpha=1, width=0.4), {"baseline": "_from", "x": "_both"})
    return bars(  # a cascade dearer than the fine network alone would hide it: the pale bar is broader
        long, x="_alone", y="pair", color="_part", start="_from", width=0.8, over=(slim,), number="_faster",
        most=table[["minutes", "minutes_full"]].max(axis=None), alt=f"Minutes a slide. {told}.",
        looks=style.plain(**{fine: LIGHT_GREY, screen: ORANGE, rest: BLUE}),
        **{"xlabel": "minutes a slide", "panel_in": (1.6, 0.2 + 0.3 * len(table))} | options,
    )  # fmt: skip


def _times(faster: float) -> str:
    if pd.isna(faster) or f"{faster:.2g}" == "1":
        return "not timed" if pd.isna(faster) else "as fast"
    return f"{faster:.2g} times faster" if faster > 1 else f"{1 / faster:.2g} times slower"
