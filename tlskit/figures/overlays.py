"""Outlines, scale bars and the legend that every picture of pixels shares.

Truth is cyan, a prediction yellow and dashed, both over a dark rim. On haematoxylin and eosin the rim sets a line off
from pink and from glass, which are as light as it is. Cyan and yellow lie further apart than green and orange, for who
does not see red and green as well (CIE 1976 distance in deuteranopia 114 against 66; of cyan from eosin's pink, the
nearest, 26); in grey they are alike, where the dashes tell them apart.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path as MplPath

from tlskit.figures import style
from tlskit.outlines import polygonise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "HATCHED", "PREDICTION_COLOUR", "TRUTH_COLOUR", "bare", "draw_context", "draw_hatched", "draw_legend", "draw_mask",
    "draw_outlines", "draw_scale_bar",
]  # fmt: skip

TRUTH_COLOUR, PREDICTION_COLOUR = "#00e5ff", "#ffd600"

#: Where a map has no answer: what is said of it, and the colour of its stripes (those of the viewer).
HATCHED = {"unseen": ("not looked at", "0.25"), "lost": ("could not be read", "#960000")}

_DASHES = {TRUTH_COLOUR: "-", PREDICTION_COLOUR: (0, (3, 1))}

#: Lengths a scale bar may have, um.
_BAR_LENGTHS_UM = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def bare(ax: Axes) -> None:
    """Axes with a frame and without ticks, as around a picture."""
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])


def draw_outlines(ax: Axes, polygons, *, scale: float, colour: str, shift=(0.0, 0.0), linewidth: float = 1.4) -> None:
    """Draw polygons of level-0 pixels, scaled and shifted into the coordinates of `ax`, holes included."""
    for polygon in polygons:
        _draw_path(ax, [polygon], scale, colour, shift, linewidth)


def _draw_path(ax: Axes, polygons, scale: float, colour: str, shift, linewidth: float) -> None:
    """One path of these polygons."""
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    vertices = np.concatenate([np.asarray(ring.coords)[:, :2] * scale + shift for ring in rings])
    codes = np.concatenate(
        [[MplPath.MOVETO, *[MplPath.LINETO] * (len(ring.coords) - 2), MplPath.CLOSEPOLY] for ring in rings]
    )
    rim = [patheffects.withStroke(linewidth=linewidth + 1.6, foreground="#202020")]
    ax.add_patch(
        PathPatch(MplPath(vertices, codes), fill=False, edgecolor=colour, linewidth=linewidth, path_effects=rim,
                  linestyle=_DASHES.get(colour, "-"), capstyle="butt")
    )  # fmt: skip


def draw_mask(ax: Axes, mask: np.ndarray, colour: str, *, linewidth: float = 1.4) -> None:
    """Outline of a mask along its pixel edges: one path, of which a prediction has hundreds of pieces."""
    if polygons := polygonise(mask, mpp=1.0, mpp0=1.0):
        _draw_path(ax, polygons, 1.0, colour, (0.0, 0.0), linewidth)


def draw_context(ax: Axes, frames, *, scale: float, shift=(0.0, 0.0)) -> None:
    """Frame a window, and dashed the context that a network saw with it.

    Parameters
    ----------
    frames
        Left, top and side of the window and of its context, level-0 pixels, as `tlskit.maps.frames_of` finds them.
    scale, shift
        As of `draw_outlines`.
    """
    rim = [patheffects.withStroke(linewidth=3.0, foreground="#202020")]
    for (x, y, side), dashes in zip(frames, ("-", (0, (5, 3))), strict=True):
        corner = np.array([x, y]) * scale + shift
        box = Rectangle(corner, side * scale, side * scale, fill=False, edgecolor="white", linewidth=1.4)
        box.set(linestyle=dashes, path_effects=rim)
        ax.add_patch(box)


def draw_hatched(ax: Axes, boxes, kind: str, *, scale: float, shift=(0.0, 0.0)) -> None:
    """Veil and hatch boxes (x, y, width, height), scaled and shifted into the coordinates of `ax`.

    Parameters
    ----------
    kind
        One of `HATCHED`.
    """
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], float) * scale + [*shift, *shift]
    rings = corners[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2)
    codes = [MplPath.MOVETO, *[MplPath.LINETO] * 3, MplPath.CLOSEPOLY] * len(boxes)
    ax.add_patch(PathPatch(MplPath(rings, codes), gid=kind, **_hatch(kind)))


def _hatch(kind: str) -> dict:
    """Between picture and outlines; one path of many boxes has no seams, and no line is drawn round any."""
    return {"facecolor": (1, 1, 1, 0.5), "edgecolor": HATCHED[kind][1], "hatch": "////", "linewidth": 0, "zorder": 0.9}


def draw_scale_bar(ax: Axes, mpp: float, size_px: int, height_px: int | None = None) -> None:
    """A bar of about a quarter of the panel's width in its lower left corner; a panel is square unless told."""
    goal_um = size_px * mpp / 4
    length_um = max((length for length in _BAR_LENGTHS_UM if length <= goal_um), default=_BAR_LENGTHS_UM[0])
    left, y = 0.05 * size_px, (height_px or size_px) - 0.07 * size_px
    ax.plot([left, left + length_um / mpp], [y, y], color="black", linewidth=4, solid_capstyle="butt")
    ax.plot([left, left + length_um / mpp], [y, y], color="white", linewidth=2, solid_capstyle="butt")
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} um"
    label = ax.text(left, y - 0.03 * size_px, text, color="white", fontsize=7, va="bottom")
    label.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])


def draw_legend(
    figure: Figure, *, truth: bool = False, prediction: bool | str = False, hatched: Collection[str] = ()
) -> None:
    """What the lines of a picture are (`prediction`: or whose), and what is hatched (of `HATCHED`), below all axes."""
    rim = [patheffects.withStroke(linewidth=3.0, foreground="#202020")]
    shown = [("truth", TRUTH_COLOUR)] * truth
    shown += [(prediction if isinstance(prediction, str) else "prediction", PREDICTION_COLOUR)] * bool(prediction)
    handles = [Line2D([], [], color=colour, linestyle=_DASHES[colour], linewidth=1.6, path_effects=rim, label=label,
                      dash_capstyle="butt") for label, colour in shown]  # fmt: skip
    handles += [Patch(label=words, **_hatch(kind)) for kind, (words, _) in HATCHED.items() if kind in hatched]
    with plt.rc_context(style.THEME):
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) or 1)
