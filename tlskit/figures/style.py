"""How charts look: palette, markers, axes and legends that all of them share.

Arms are told apart by colour (Okabe and Ito's palette, for colour-blind readers) and by marker, so that a print in grey
still reads.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tlskit.metrics import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BAND",
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "LEVELS",
    "LIGHT_GREY",
    "ORANGE",
    "PALETTE",
    "POOLINGS",
    "PURPLE",
    "SKY",
    "VERMILION",
    "WIDTH_IN",
    "arm_style",
    "done",
    "interval_caption",
    "legend_above",
    "legend_right",
    "magnification_axis",
    "minutes_axis",
    "percent",
    "person_band",
    "same",
    "score_name",
    "slides_text",
    "unit_axis",
]

BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#222222",
)

GREY = "#8a8a8a"
LIGHT_GREY = "#bdbdbd"

BAND = "#e8e4d8"

PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)

_MARKERS = "osD^vP*"

WIDTH_IN = 8.0  # inches: the width of a notebook's cell

_NAMES = {"iou": "IoU", "mcc": "MCC", "dice": "Dice"}

LEVELS = {"tile": "tiles", "wsi": "whole slides"}

POOLINGS = {
    "as_published": "one reading of the paper: mean of batches",
    "batch_mean": "mean of batches",
    "pooled": "all pixels pooled",
    "per_slide": "mean of slides",
    "per_patient": "mean of patients",
    "per_tile": "mean of tiles",
    "as_published_tiles": "one reading of the paper: mean of tiles",
}


def arm_style(n: int) -> dict:
    return {"color": PALETTE[n % len(PALETTE)], "marker": _MARKERS[n % len(_MARKERS)]}


def score_name(score: str) -> str:
    """As it is written: ``iou`` -> ``IoU``; names that are words stay as they are."""
    return _NAMES.get(score, score)


def percent(share: float) -> str:
    return f"{share * 100:.2g} %"


def same(values: Sequence) -> str:
    """A number that all arms should share; a range where they do not."""
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}-{high}"


def slides_text(table: pd.DataFrame) -> str:
    return f"{same(table['n_slides'])} slides of {same(table['n_patients'])} patients"


def interval_caption(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    text = f"{first['level'] * 100:g} % t intervals over {first['n_patients']} patients"
    if first["n_with_target"] < first["n_patients"]:
        text += f", {first['n_with_target']} with a target"
    where = {"grid": "common grid, tissue and target", "wsi": "whole slides, own pixels"}.get(first.get("on", ""), "")
    text += f" ({', '.join(t for t in (POOLINGS[first['pooling']], where) if t)})"
    if isinstance(first["warning"], str) and first["warning"]:
        text += "\n" + textwrap.fill(f"Caution: {first['warning']}.", 110)
    return text


def unit_axis(ax: Axes, axis: str, *, low: float = 0.0) -> None:
    low = -0.03 if low >= 0 else low - 0.05
    (ax.set_xlim if axis == "x" else ax.set_ylim)(low, 1.03)


def magnification_axis(ax: Axes, magnifications: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_xticks(magnifications, [f"{m:g}x" for m in magnifications])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(magnifications.min() / 1.25, magnifications.max() * 1.25)
    ax.set_xlabel("magnification")


def minutes_axis(axis) -> None:
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def person_band(ax: Axes, axis: str) -> None:
    low, high = published.PERSON_MINUTES_PER_SLIDE
    (ax.axvspan if axis == "x" else ax.axhspan)(
        low, high, color=BAND, zorder=0, linewidth=0, label=f"a person: {low:g}-{high:g} min"
    )
    ax.text(
        np.sqrt(low * high), 0.01, f"a person\n{low:g}-{high:g} min", ha="center", va="bottom", fontsize=8,
        color="0.35",
        transform=ax.get_xaxis_transform(), zorder=1,
    )  # fmt: skip


def legend_above(figure: Figure, ax: Axes | None = None, *, ncols: int) -> None:
    handles, labels = (ax or figure.axes[0]).get_legend_handles_labels()
    kept = [(h, label) for h, label in zip(handles, labels, strict=True) if not label.startswith("a person")]
    if kept:
        figure.legend(*zip(*kept, strict=True), loc="outside upper center", ncols=ncols, frameon=False, fontsize=9)


def legend_right(figure: Figure) -> None:
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)


def done(figure: Figure, *axes: Axes) -> Figure:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    # What a cell returns is shown by the notebook; left open, pyplot would show it a second time.
    plt.close(figure)
    return figure
