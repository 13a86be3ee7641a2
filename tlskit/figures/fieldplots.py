"""The same fields of slides in several arms, and where a cascade looked: arrays in, matplotlib ``Figure`` out.

Lines are those of `tlskit.figures.overlays`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from tlskit.figures import style
from tlskit.figures.overlays import (
    HATCHED,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    bare,
    draw_legend,
    draw_mask,
    draw_scale_bar,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["screen_fields", "worst_fields"]

_ACROSS = {"single": 3, "double": 6}  # pictures beside each other, at most


_NO_FIELD = "No field to show: no target was missed, and nothing was found where there is none."


def worst_fields(panels: Sequence[dict], *, empty: str = _NO_FIELD, size: str = "double") -> Figure:
    """The same fields in all arms: a row a field (a miss, a false alarm), a column an arm.

    Parameters
    ----------
    panels
        A dict a picture: ``title`` (of the field: pictures of one title stand in one row), ``arm``, ``rgb`` (H, W, 3)
        uint8, ``truth`` and ``predicted`` (H, W) bool, ``mpp`` (um along a pixel of the picture). Of more arms than fit
        beside each other the next ones stand below. An arm without a picture of a field leaves its place empty.
    empty
        What is said where there are no pictures.
    """
    if not panels:
        return style.words(empty, size)
    fields, arms = ([*dict.fromkeys(panel[key] for panel in panels)] for key in ("title", "arm"))
    across = min(_ACROSS[size], len(arms))
    blocks = [arms[n : n + across] for n in range(0, len(arms), across)]
    found = {(panel["title"], panel["arm"]): panel for panel in panels}
    lines = [(field, block) for field in fields for block in blocks]
    figure, axes = _grid(len(lines), across, size, [_tallest(panels)] * len(lines))
    for row, ((field, block), of_row) in enumerate(zip(lines, axes, strict=True)):
        for ax, arm in zip(of_row, block, strict=False):
            if (panel := found.get((field, arm))) is not None:
                _show(ax, panel)
            if row < 1 or len(blocks) > 1:
                ax.set_title(style.wrap(str(arm), 0.8 * figure.get_figwidth() / across, size=7), fontsize=7)
        for ax in of_row[len(block) :]:
            ax.set_axis_off()
        of_row[0].set_ylabel(style.wrap(str(field), _tallest(panels) * 0.9 * figure.get_figwidth() / across, size=7),
                             fontsize=7)  # fmt: skip
    draw_legend(figure, truth=True, prediction=True)
    return style.done(figure, f"The same fields in {len(arms)} arms ({_few(arms)}): {_few(fields)}. {_shares(panels)}")


def screen_fields(panels: Sequence[dict], *, size: str = "double") -> Figure:
    """Fields or slides in which a cascade did not look everywhere: what it passed over is hatched.

    Parameters
    ----------
    panels
        A dict a picture: ``title``, ``rgb`` (H, W, 3) uint8, ``truth``, ``predicted`` (of the fine network alone) and
        ``seen`` (where the cascade looked) (H, W) bool, ``mpp`` (um along a pixel of the picture).
    """
    if not panels:
        return style.words("No picture: the screen lost no object of the target, and removed no false alarm.", size)
    across = min({"single": 2, "double": 3}[size], len(panels))
    down = -(-len(panels) // across)
    figure, axes = _grid(down, across, size, [_tallest(panels)] * down)
    for ax, panel in zip(axes.flat, panels, strict=False):
        _show(ax, panel)
        ax.set_title(style.wrap(panel["title"], 0.9 * figure.get_figwidth() / across, size=7), fontsize=7)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    draw_legend(figure, truth=True, prediction="the fine network alone", hatched={"unseen"})
    told = "; ".join(f"{' '.join(p['title'].split())}: {np.asarray(p['seen']).mean():.0%} looked at" for p in panels)
    return style.done(figure, f"Where the cascade looked. {told}.")


def _grid(down: int, across: int, size: str, shapes: list[float]) -> tuple[Figure, np.ndarray]:
    width = style.WIDTHS_IN[size]
    panel_in = min(width / across, 2.4)
    height = sum(panel_in * shape + 0.3 for shape in shapes) + 0.35
    with plt.rc_context(style.THEME):
        figure, axes = plt.subplots(
            down, across, figsize=(width, height), squeeze=False, layout="constrained",
            gridspec_kw={"height_ratios": shapes},
        )  # fmt: skip
    for ax in axes.flat:
        bare(ax)
    return figure, axes


def _tallest(panels: Sequence[dict]) -> float:
    """Height by width of the tallest picture."""
    return max(panel["rgb"].shape[0] / panel["rgb"].shape[1] for panel in panels)


def _show(ax: Axes, panel: dict) -> None:
    height, width = panel["rgb"].shape[:2]
    ax.imshow(panel["rgb"], extent=(0, width, height, 0), interpolation="antialiased")
    if "seen" in panel and not np.all(panel["seen"]):
        unseen = ~np.asarray(panel["seen"], bool)
        ax.imshow(np.where(unseen, 0.4, 0.0)[..., None] * [0, 0, 0, 1.0] + [1, 1, 1, 0], extent=(0, width, height, 0),
                  interpolation="nearest")  # fmt: skip
        # A hatch besides the veil: white glass and white veil would be one.
        lines = ax.contourf(np.arange(width) + 0.5, np.arange(height) + 0.5, unseen.astype(float), levels=[0.5, 1.5],
                            colors="none", hatches=["//"])  # fmt: skip
        lines.set(edgecolor=HATCHED["unseen"][1], linewidth=0)
    draw_mask(ax, np.asarray(panel["predicted"], bool), PREDICTION_COLOUR, linewidth=1.0)
    draw_mask(ax, np.asarray(panel["truth"], bool), TRUTH_COLOUR, linewidth=1.0)
    ax.set(xlim=(0, width), ylim=(height, 0))
    draw_scale_bar(ax, panel["mpp"], width, height)


def _few(names: Sequence) -> str:
    names = [" ".join(str(name).split()) for name in names]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _shares(panels: Sequence[dict]) -> str:
    """What part of the truth each picture's prediction covers, in words."""
    told = []
    for panel in panels[:6]:
        truth, predicted = (np.asarray(panel[key], bool) for key in ("truth", "predicted"))
        name = f"{' '.join(str(panel['title']).split())}, {panel['arm']}"
        covered = f"{(truth & predicted).sum() / truth.sum():.0%} of the truth covered" if truth.any() else (
            f"{predicted.mean():.0%} of the field predicted, no truth in it")  # fmt: skip
        told.append(f"{name}: {covered}")
    return "; ".join(told) + ("." if told else "")
