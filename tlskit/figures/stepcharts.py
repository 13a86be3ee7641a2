"""Charts of the tables of notebooks 01, 02, 03 and 06. Charts of scores are in `tlskit.figures.charts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tlskit.cohort import SPLITS
from tlskit.figures.style import BLUE, GREEN, LIGHT_GREY, ORANGE, PALETTE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["split_bars", "stage_bars", "stage_timeline", "tiles_per_slide", "training_history"]


def tiles_per_slide(slides: pd.DataFrame) -> Figure:
    """Tiles of each slide: kept, and dropped for which reason.

    Parameters
    ----------
    slides
        As `tlskit.tiles.tiling.tile_cohort` returns it.
    """
    slides = slides.sort_values("slide_id")
    parts = (
        ("kept_tiles", "kept", BLUE),
        ("dropped_no_target", "dropped: no target", ORANGE),
        ("dropped_no_tissue", "dropped: too little tissue", LIGHT_GREY),
        ("dropped_edge", "dropped: over the slide's edge", PURPLE),
    )
    if "dropped_ignored" in slides and slides["dropped_ignored"].any():
        parts += (("dropped_ignored", "dropped: all of it ignored", GREEN),)
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.26 * len(slides)), layout="constrained")
    left = np.zeros(len(slides))
    places = np.arange(len(slides))
    for column, label, colour in parts:
        ax.barh(places, slides[column], left=left, color=colour, label=label, height=0.75)
        left += slides[column].to_numpy()
    for place, kept in zip(places, slides["kept_tiles"], strict=True):
        ax.text(left.max() * 1.01, place, f"{kept}", va="center", ha="left", fontsize=8, color=BLUE)
    ax.set_yticks(places, slides["slide_id"], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("tiles (kept: number at the right)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def split_bars(summary: pd.DataFrame) -> Figure:
    """Patients, slides and tiles in each set, stacked by cancer type.

    Parameters
    ----------
    summary
        As `tlskit.cohort.splitting.split_summary` returns it.
    """
    columns = [c for c in ("patients", "slides", "tiles") if c in summary]
    by_type = summary[summary["cancer_type"] != "all"]
    types = sorted(by_type["cancer_type"].unique())
    colours = {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(types)}
    figure, axes = plt.subplots(1, len(columns), figsize=(2.8 * len(columns), 3.2), layout="constrained")
    for ax, column in zip(np.atleast_1d(axes), columns, strict=True):
        table = by_type.pivot_table(index="split", columns="cancer_type", values=column, aggfunc="sum", fill_value=0)
        table = table.reindex(index=SPLITS, columns=types, fill_value=0)
        bottom = np.zeros(len(SPLITS))
        for cancer_type in types:
            ax.bar(SPLITS, table[cancer_type], bottom=bottom, color=colours[cancer_type], label=cancer_type, width=0.7)
            bottom += table[cancer_type].to_numpy()
        for x, total in enumerate(bottom):
            ax.text(x, total, f"{int(total)}", ha="center", va="bottom", fontsize=8)
        ax.set_title(column, fontsize=10)
        ax.set_ylim(0, max(1.0, bottom.max()) * 1.15)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("number")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(types)), frameon=False, fontsize=8)
    return figure


def training_history(history: pd.DataFrame) -> Figure:
    """Loss and validation IoU by epoch, the epoch that was kept, and the tiles trained per second.

    Parameters
    ----------
    history
        As `tlskit.networks.training.train` returns it.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 3.0), layout="constrained")
    epochs = history["epoch"]
    left.plot(epochs, history["train_loss"], "o-", color=BLUE, label="training")
    left.plot(epochs, history["val_loss"], "s--", color=ORANGE, label="validation")
    left.set_ylabel("Dice loss")
    left.legend(frameon=False, fontsize=8)
    middle.plot(epochs, history["val_iou"], "s-", color=ORANGE)
    best = history.loc[history["val_iou"].idxmax()] if history["val_iou"].notna().any() else history.iloc[-1]
    middle.plot([best["epoch"]], [best["val_iou"]], "*", color=VERMILION, markersize=14)
    middle.annotate(  # above: no other epoch lies higher
        f"kept: {best['val_iou']:.3f}",
        (best["epoch"], best["val_iou"]),
        xytext=(0, 8),
        textcoords="offset points",
        ha="left" if best["epoch"] <= epochs.median() else "right",
        fontsize=8,
    )
    middle.set_ylim(0, 1.12)
    middle.set_yticks(np.linspace(0, 1, 6))
    middle.set_ylabel("validation IoU at 0.5\n(all pixels pooled)")
    right.bar(epochs, history["tiles_per_s"], color=GREEN, width=0.7)
    right.set_ylabel("training tiles per second")
    for ax in (left, middle, right):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def stage_bars(timings: pd.DataFrame) -> Figure:
    """Seconds of each stage of whole-slide inference, a slide's mean, beside the time that passed.

    Stages run side by side, so they do not add up; the longest one is what limits. A bar is the mean over slides of
    each slide's median pass, a line from the shortest to the longest pass of any slide.

    Parameters
    ----------
    timings
        As `tlskit.evaluation.timing.time_inference` returns it; warm passes are drawn where there are any.
    """
    timings = timings[timings["slide_id"] != ""]
    timings = timings[timings["warm"]] if timings["warm"].any() else timings
    order = [s for kind in ("work", "wait") for s in timings.loc[timings["kind"] == kind, "stage"].unique()]
    by_stage = timings.groupby("stage")["seconds"]
    typical = timings.groupby(["stage", "slide_id"])["seconds"].median().groupby("stage").mean()
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.32 * len(order)), layout="constrained")
    places = np.arange(len(order))
    waits = [stage.startswith("wait") for stage in order]
    ax.barh(places, typical[order], color=[LIGHT_GREY if wait else BLUE for wait in waits], height=0.7)
    ax.hlines(places, by_stage.min()[order], by_stage.max()[order], color="0.2", linewidth=1)
    ax.axvline(typical["wall"], color=VERMILION, linewidth=1.5)
    ax.annotate(
        f"time that passed: {typical['wall']:.1f} s", (typical["wall"], -0.6), ha="right", va="bottom", fontsize=8,
        color=VERMILION, xytext=(-4, 0), textcoords="offset points", annotation_clip=False,
    )  # fmt: skip
    ax.set_yticks(places, [stage.replace("wait_", "waiting: ").replace("_", " ") for stage in order], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(0, None)
    n_slides = timings["slide_id"].nunique()
    ax.set_xlabel(f"seconds a slide ({n_slides} slide{'s' * (n_slides != 1)}; stages run side by side)")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


# Okabe and Ito's yellow: the last colour left for the stages.
_YELLOW = "#f0e442"
#: Who does what in whole-slide inference, and how it is drawn: the waits of each are grey.
_THREADS = {
    "opening": {"open": "0.3", "tissue": _YELLOW},
    "decoding": {"read": BLUE, "resample": SKY},
    "cutting windows": {"preprocess": PURPLE, "wait_decode": LIGHT_GREY, "wait_read": LIGHT_GREY},
    "network": {"forward": VERMILION, "wait_forward_in": LIGHT_GREY, "wait_forward_out": LIGHT_GREY},
    "blending": {"blend": GREEN, "wait_blend": LIGHT_GREY, "wait_write": LIGHT_GREY},
    "writing": {"write": ORANGE},
}
_STAGE_NAMES = {"tissue": "finding tissue", "read": "read and decode", "preprocess": "copy", "write": "write the map"}


def stage_timeline(prediction, *, detail_s: float = 3.0) -> Figure:
    """When each thread of whole-slide inference did what: the whole slide, and below it a few seconds of its network.

    Parameters
    ----------
    prediction : inference.Prediction
    detail_s : float
        Seconds in the lower picture.
    """
    events = pd.DataFrame(prediction.events, columns=["stage", "start", "stop"])
    end = float(events["stop"].max())
    working = events[events["stage"] == "forward"]
    if working.empty:
        working = events
    middle = max(0.0, (working["start"].min() + working["stop"].max() - detail_s) / 2)
    figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), layout="constrained")
    for ax, (first, last) in zip(axes, ((0.0, end), (middle, min(end, middle + detail_s))), strict=True):
        for place, colours in enumerate(_THREADS.values()):
            for stage, colour in colours.items():
                there = events[(events["stage"] == stage) & (events["stop"] > first) & (events["start"] < last)]
                ax.broken_barh(
                    list(zip(there["start"], there["stop"] - there["start"], strict=True)), (place - 0.38, 0.76),
                    facecolors=colour, linewidth=0, zorder=1 if colour == LIGHT_GREY else 2,
                )  # fmt: skip
        ax.set_xlim(first, last)
        ax.set_yticks(range(len(_THREADS)), list(_THREADS), fontsize=9)
        ax.set_ylim(len(_THREADS) - 0.5, -0.5)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(f"{prediction.slide_id}: {prediction.windows} windows, {prediction.engine}", fontsize=10)
    axes[1].set_title(f"{axes[1].get_xlim()[1] - middle:.1f} s from the middle", fontsize=10)
    axes[1].set_xlabel("seconds since the slide was opened")
    shown = {
        _STAGE_NAMES.get(stage, stage): colour
        for colours in _THREADS.values()
        for stage, colour in colours.items()
        if colour != LIGHT_GREY
    }
    handles = [Patch(color=colour, label=name) for name, colour in [*shown.items(), ("waiting", LIGHT_GREY)]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8,
                  columnspacing=1.0, handlelength=1.0)  # fmt: skip
    return figure
