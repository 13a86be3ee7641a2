"""Charts of the steps: who was studied, tiles, split, training, time, and a cascade. Scores are in `comparecharts`.

Each takes the options of `tlskit.figures.charts` and `tlskit.figures.panels` besides its own.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlskit import units
from tlskit.cohort import SPLITS
from tlskit.figures import style
from tlskit.figures.charts import FEW, bars, chart, curves
from tlskit.figures.panels import span
from tlskit.figures.style import BLUE, GREEN, LIGHT_GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from tlskit.units import counted

__all__ = [
    "cascade_minutes", "cohort_flow", "overlap_tradeoff", "screen_tradeoff", "split_bars", "stage_bars",
    "stage_timeline", "tiles_per_slide", "training_history",
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
    width, rows = style.WIDTHS_IN[size], table.astype(object).fillna("").to_dict("records")
    boxes, told = [], []
    for row in rows:
        numbers = ", ".join(counted(row[f"n_{what}s"], what) for what in ("patient", "slide")
                            if row.get(f"n_{what}s", "") != "")  # fmt: skip
        stage, out = (
            "\n".join(filter(None, (str(row["stage"]), numbers, row.get("text")))),
            row.get("left_out_text") or "",
        )
        told.append(stage.replace("\n", ", ") + (f" (left out: {out})" if out else ""))
        boxes.append(
            (style.wrap(stage, 0.46 * width, size=7.5), style.wrap(out, 0.36 * width, size=7.5) if out else "")
        )
    high, high_out = (0.14 + 0.135 * max(words[n].count("\n") + 1 for words in boxes) for n in (0, 1))
    pitch = high + (high_out if any(out for _, out in boxes[:-1]) else 0) + 0.3
    tall = pitch * (len(boxes) - 1) + high + 0.2
    figure = plt.figure(figsize=(width, tall))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(tall, 0))  # its units are inches
    ax.axis("off")

    def box(left: float, wide: float, words: str, middle: float, high: float, colour: str) -> None:
        ax.add_patch(
            plt.Rectangle((left, middle - high / 2), wide, high, facecolor=colour, edgecolor="0.35", linewidth=0.8)
        )
        ax.text(left + wide / 2, middle, words, ha="center", va="center", fontsize=7.5)

    arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 0}
    for n, (stage, out) in enumerate(boxes):
        middle = 0.1 + high / 2 + n * pitch
        box(0.05 * width, 0.5 * width, stage, middle, high, "white")
        if n + 1 < len(boxes):
            ax.annotate(
                "", (0.3 * width, middle + pitch - high / 2), (0.3 * width, middle + high / 2), arrowprops=arrow
            )
            if out:
                ax.annotate("", (0.58 * width, middle + pitch / 2), (0.3 * width, middle + pitch / 2), arrowprops=arrow)
                box(0.58 * width, 0.4 * width, out, middle + pitch / 2, high_out, "0.95")
    return style.done(figure, f"Flow of the cohort: {'; '.join(told)}.")


def tiles_per_slide(slides: pd.DataFrame, **options) -> Figure:
    """Tiles of each slide: kept, and dropped for which reason; `slides` of `tlskit.tiles.tiling.tile_cohort`."""
    slides = slides.sort_values("slide_id")
    parts = {c: of for c, of in _PARTS.items() if c in slides and (c == "kept_tiles" or slides[c].any())}
    names = [name for name, _ in parts.values()]
    long = slides.assign(_kept=slides["kept_tiles"].astype(str)).rename(columns=dict(zip(parts, names, strict=True)))
    long = long.melt(["slide_id", "_kept"], names, "_part", "tiles")
    sums = ", ".join(f"{name} {n}" for name, n in long.groupby("_part", sort=False)["tiles"].sum().items())
    return chart(bars, long, options, x="tiles", y="slide_id", color="_part", looks=style.plain(**dict(parts.values())),
                 number="_kept", xlabel="tiles (kept: number at the right)",
                 alt=f"Tiles of {len(slides)} slides. In sum: {sums}.")  # fmt: skip


def split_bars(summary: pd.DataFrame, *, color: str = "cancer_type", **options) -> Figure:
    """Patients, slides and tiles in each set, one after the other by cancer type, and in sum at the right.

    `summary` of `tlskit.cohort.split_summary`.
    """
    parts = summary[summary[color] != "all"].sort_values(color)
    columns = [c for c in ("patients", "slides", "tiles") if c in parts]
    every = pd.MultiIndex.from_product([SPLITS, parts[color].unique()], names=["split", color])
    parts = parts.groupby(["split", color])[columns].sum().reindex(every, fill_value=0).astype(int).reset_index()
    long = parts.melt(["split", color], columns, "what", "number")
    long["_sum"] = long.groupby(["what", "split"])["number"].transform("sum").astype(str)
    sums = long.drop_duplicates(["what", "split"]).assign(_told=lambda of: of["split"] + " " + of["_sum"])
    told = "; ".join(f"{what}: {', '.join(of)}" for what, of in sums.groupby("what", sort=False)["_told"])
    return chart(
        bars, long, options, x="number", y="split", color=color, number="_sum", col="what", share=(False, True),
        looks=style.plain(**dict(zip(parts[color].unique(), style.PALETTE * 9, strict=False))), xlabel="number",
        n=lambda rows: f"n = {rows['number'].sum()}", row_in=0.24, alt=f"What each set holds. {told}.",
    )  # fmt: skip


def training_history(history: pd.DataFrame, *, x: str = "epoch", color: str | None = None, **options) -> Figure:
    """Loss and validation IoU along training, the epoch that was kept, and by epoch the tiles trained per second.

    `history` of `tlskit.networks.training.train`, or `tlskit.evaluation.reviewing.training_curves` of several arms, of
    which each has its colour, or of more than eight each magnification; those have unlike numbers of steps an epoch,
    and stand over ``steps``. The epoch that was kept is that of the column ``best``, else of the highest validation
    IoU.
    """
    history = history.reset_index(drop=True)
    arm = history["arm"] if "arm" in history else pd.Series("", history.index)
    several, few = arm.nunique() > 1, arm.nunique() <= FEW
    score = history["best"].astype(float).replace(0, np.nan) if "best" in history else history["val_iou"]
    best = history.loc[score.dropna().groupby(arm, sort=False).idxmax()]
    iou, losses = (
        "validation IoU at 0.5,\nall pixels pooled",
        ("training loss", "validation loss") if several else ("loss", "loss"),
    )
    parts = [
        (losses[0], "training", "train_loss"),
        (losses[1], "validation", "val_loss"),
        (iou, "validation", "val_iou"),
    ]
    parts += [("training tiles per second", "training", "tiles_per_s")] * (x == "epoch" and "tiles_per_s" in history)
    long = pd.concat([history.assign(what=what, _set=name, value=history[c], _run=arm) for what, name, c in parts])
    long["_kept"] = (long["what"] == iou) & long.index.isin(best.index) & long["value"].notna()
    ious = best["val_iou"].map(lambda iou: "undefined" if pd.isna(iou) else f"{iou:.3f}")
    kept = [f"{arm[at]} epoch {best['epoch'][at]:g}, IoU {ious[at]}".strip() for at in best.index]
    kept = kept or ["no epoch has a validation IoU"]

    def n(rows) -> str:
        told = f"; kept: {kept[0]}" * (not several and set(rows["what"]) == {iou})
        return f"n = {counted(rows['epoch'].nunique(), 'epoch')}{told}"

    def each(ax, rows) -> None:
        ax.xaxis.set_major_locator(MaxNLocator(5 if x == "epoch" else 3, integer=True))
        compared = long["what"].isin(losses if rows["what"].iloc[0] in losses else rows["what"].unique())
        ends = {losses[0]: [], losses[1]: [], iou: [0.0, 1.0]}.get(rows["what"].iloc[0], [0.0])
        span(ax, [*long.loc[compared, "value"], *ends], axis="y", ticks=5)

    by = "_set" if not several else "arm" if few or "magnification" not in history else "magnification"
    return chart(
        curves, long, options, x=x, y="value", color=color or by, join="_run", marks=(("value", True),) * few,
        mark_pt=4, chosen="_kept", each=each, n=n, col="what", share=(True, False), panel_in=(1.6, 1.7),
        told={"Kept:": "; ".join(kept)}, xlabel=f"{x} (ringed: the epoch that was kept)",
        alt=f"Loss and validation IoU by {x}.",
    )  # fmt: skip


@style.unless_empty("No validation slide was run over to compare overlaps of windows.")
def overlap_tradeoff(table: pd.DataFrame, *, taken: float, why: str, **options) -> Figure:
    """What overlapping windows cost (windows a slide) and give: Dice, what is lost of it, pixels that change side.

    The overlap that is taken is ringed, where it was measured.

    Parameters
    ----------
    table
        Of `tlskit.evaluation.overlap_tradeoff`.
    taken, why
        Of `tlskit.evaluation.settle_overlap`; the words stand below.
    """
    densest = f"{table['overlap'].iloc[-1]:g}"
    dice, loss, flipped = (
        "Dice against the outlines",
        f"Dice lost against {densest}",
        f"tissue that changes side against {densest}, %",
    )
    parts = {dice: table[["dice", "dice_low", "dice_high"]], loss: table[["loss", "loss_low", "loss_high"]],
             flipped: pd.DataFrame({"flipped": 100 * table["flipped"], "low": np.nan, "high": np.nan})}  # fmt: skip
    long = pd.concat(
        table.assign(what=what, **dict(zip(("value", "_low", "_high"), part.to_numpy(float).T, strict=True)))
        for what, part in parts.items()
    )  # fmt: skip
    long = long.assign(what=pd.Categorical(long["what"], list(parts)), _taken=long["overlap"] == taken)
    told = {f"{of.overlap:g}": f"{of.windows:.0f} windows a slide" for of in table.itertuples()}
    in_words = "; ".join(
        f"{of.overlap:g}: {of.windows:.0f} windows a slide, Dice {of.dice:.3f}, {of.flipped:.2%} of the tissue flips"
        for of in table.itertuples()
    )
    margin = table["margin"].iloc[-1]

    def each(ax, rows) -> None:
        what = rows["what"].iloc[0]
        also = {loss: [0.0, margin], flipped: [0.0]}.get(what, [])
        span(ax, [*rows[["value", "_low", "_high"]].to_numpy(float).ravel(), *also], axis="y", ticks=5)
        if what == loss:
            ax.axhline(margin, color="0.4", linewidth=0.8, linestyle="--", zorder=0)

    said = f"taken: {taken:g}, {why}"
    return chart(
        curves, long, options, x="times_windows", y="value", color="overlap", join=None, low="_low", high="_high",
        marks=(("value", True),), chosen="_taken", each=each, col="what", share=(True, False), panel_in=(2.0, 1.9),
        frame={"x": {"values": [1.0, *table["times_windows"]], "ticks": 4}}, told=told,
        n=lambda rows: f"n = {counted(rows['n_patients'].iloc[0], 'validation patient')}",
        xlabel="windows of a slide, times those without overlap (bars: 95 % over patients, of losses all at once; "
        f"dashed: the most that may be lost)\n{said}",
        alt=f"Price and worth of overlapping windows. {in_words}. {said[0].upper()}{said[1:]}. Shown:",
    )  # fmt: skip


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

    def each(ax, rows) -> None:
        ax.hlines(rows["_at"], rows["low"], rows["high"], color="0.2", linewidth=1)
        ax.axvline(wall, color=VERMILION, linewidth=1.5)

    return chart(
        bars, table, options, x="seconds", y="stage", color="kind", looks=style.plain(work=BLUE, wait=LIGHT_GREY),
        most=max(wall, table["high"].max()), each=each, show_legend=False, n=lambda _: n,
        xlabel="seconds a slide (grey: waiting; stages run side by side)",
        alt=f"Seconds of each stage ({n}). {style.listed(table, 'seconds', 'stage', 'low', 'high')}.",
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
        span(ax, [first, min(last, end)], ticks=8)
        ax.set_xlim(first, min(last, end))

    return chart(
        bars, both, options, x="stop", y="thread", color="_does", start="start", each=each, share=(False, True),
        looks=style.plain(**{does: colour for _, does, colour in stages.values()}), n=lambda _: "", row="part",
        panel_in=(4.0, 1.3), xlabel=f"seconds since {prediction.slide_id} was opened ({prediction.engine})",
        alt=f"What each thread did in the {end:.1f} s of {prediction.slide_id}. Most: {told}.",
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
    words = f"ringed: chosen on validation; line: floor {floor:g}"
    chosen = "; ".join(f"{r.pair}: {r.recall_kept:.1%} of recall with {r.windows_share:.1%} of windows"
                       for r in table[table["is_chosen"]].dropna(subset=["recall_kept"]).itertuples())  # fmt: skip
    return chart(
        curves, table, options, x="_share", y="recall_kept", color="_who", looks=looks, marks=(("recall_kept", True),),
        mark_pt=4, low="_low", high="_high", chosen="is_chosen", frame=frame, told={"Chosen:": chosen or "none"},
        each=lambda ax, _: ax.axhline(floor, color="0.4", linewidth=0.8, linestyle="--", zorder=0), n=style.n_text,
        col="pair", panel_in=(2.4, 2.4), ylabel="share of the fine network's recall kept",
        xlabel=f"windows of the fine network that are run, % ({words}{below})",
        alt=f"Recall kept against windows run, {len(table)} settings; floor {floor:g}.",
    )  # fmt: skip


def cascade_minutes(table: pd.DataFrame, **options) -> Figure:
    """Minutes a slide of each pair: the fine network alone (pale), and the cascade, its screen and its fine part.

    `table` has ``pair, minutes, minutes_screen, minutes_full, times_faster, n_slides``; what is nan was not timed.
    """
    table = table.drop_duplicates("pair").astype(dict.fromkeys(("minutes", "minutes_screen", "minutes_full"), float))
    if table[["minutes", "minutes_full"]].isna().all(axis=None):
        return style.words("No network of these cascades was timed.", options.get("size", "double"))
    table = table.assign(_faster=table["times_faster"].map(_times), _zero=0.0)
    # A cascade dearer than the fine network alone would hide it: the pale bar is broader.
    parts = {"the fine network alone": ("_zero", "minutes_full", 0.8, LIGHT_GREY),
             "cascade: the screen": ("_zero", "minutes_screen", 0.4, ORANGE),
             "cascade: the fine network": ("minutes_screen", "minutes", 0.4, BLUE)}  # fmt: skip
    long = pd.concat(table.assign(_part=part, _start=table[start], _stop=table[stop], _wide=wide)
                     for part, (start, stop, wide, _) in parts.items())  # fmt: skip
    told = "; ".join(f"{of['pair']}: " + ("not timed" if pd.isna(of["minutes"]) else
                     f"{units.minutes_text(of['minutes'])}, alone {units.minutes_text(of['minutes_full'])} "
                     f"({of['_faster']})") for of in table.to_dict("records"))  # fmt: skip
    return chart(
        bars, long, options, x="_stop", y="pair", color="_part", start="_start", width="_wide", number="_faster",
        most=table[["minutes", "minutes_full"]].max(axis=None), row_in=0.3,
        looks=style.plain(**{part: colour for part, (*_, colour) in parts.items()}),
        xlabel="minutes a slide", alt=f"Minutes a slide. {told}.",
    )  # fmt: skip


def _times(faster: float) -> str:
    if pd.isna(faster) or f"{faster:.2g}" == "1":
        return "not timed" if pd.isna(faster) else "as fast"
    return f"{faster:.2g} times faster" if faster > 1 else f"{1 / faster:.2g} times slower"
