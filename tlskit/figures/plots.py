"""Pictures of pixels: tiles, fields and slides with their outlines. Charts of tables are in `tlskit.figures.charts`.

Every function returns a matplotlib ``Figure`` with the words that say what it shows (`tlskit.figures.alt_text`), and
reads pixels through `tlskit.slides.slide`. Lines are those of `tlskit.figures.overlays`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from shapely.geometry import Polygon, box

from tlskit import units
from tlskit.cohort import open_row, slide_rows
from tlskit.figures import style
from tlskit.figures.examples import spread_tiles
from tlskit.figures.overlays import (
    HATCHED,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    bare,
    draw_context,
    draw_hatched,
    draw_legend,
    draw_mask,
    draw_outlines,
    draw_scale_bar,
)
from tlskit.metrics import cut
from tlskit.outlines import polygonise, rasterise, read_truth
from tlskit.tiles import context_origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tlskit.slides import Slide

__all__ = [
    "PREDICTION_COLOUR", "TRUTH_COLOUR", "bare", "draw_context", "draw_hatched", "draw_legend", "draw_outlines",
    "slide_overlays", "target_at_magnifications", "tile_gallery", "tile_predictions",
]  # fmt: skip


def tile_gallery(
    tiles: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    magnification: float,
    tile_px: int,
    target_class: str | list[str],
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    context_ratio: int = 0,
    context_px: int = 256,
    n_tiles: int | None = None,
    columns: int = 4,
    by: str = "target_fraction",
) -> Figure:
    """Tiles from the least to the most covered by the target, with the target's outlines.

    Parameters
    ----------
    tiles
        Tile table; `n_tiles` of it (None: 12, or 8 with a context) are taken at even steps of the column `by`, and
        shown in its order. With a context each has below it the field that the network is shown round it.
    manifest
        Cohort that the tiles come from.
    magnification, tile_px, target_class, resolution_by, apply_icc, context_ratio, context_px
        As the tiles were cut.
    """
    high = 2 if context_ratio else 1
    chosen = spread_tiles(tiles, n_tiles or (8 if context_ratio else 12), by=by)
    if chosen.empty:
        return style.words("No tile to show.", "double")
    mpp = units.mpp_for_magnification(magnification)
    columns = min(columns, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    figure, axes = _grid(lines * high * columns, columns, panel_in=2.0)
    above, *below = np.swapaxes(axes.reshape(lines, high, columns), 0, 1).reshape(high, -1)
    reader = _Fields(manifest, target_class, resolution_by=resolution_by, apply_icc=apply_icc)
    for n, tile in enumerate(chosen.itertuples()):
        slide, polygons = reader.open(tile.slide_id)
        x_px, y_px = (int(units.px0_to_px(v, mpp, slide.mpp0)) for v in (tile.x_px0, tile.y_px0))
        _field(above[n], slide, x_px, y_px, tile_px, mpp=mpp, polygons=polygons)
        share = "below 1%" if 0 < tile.target_fraction < 0.005 else f"{tile.target_fraction:.0%}"
        above[n].set_title(f"{tile.slide_id}\ntarget {share}", fontsize=8)
        for axes_of_contexts in below:
            corner = context_origin(x_px, y_px, tile_px, context_px, context_ratio)
            ax, wide = axes_of_contexts[n], {"mpp": mpp * context_ratio}
            _field(ax, slide, *corner, context_px, **wide, polygons=polygons)
            frames = ((x_px, y_px, tile_px), (*(v * context_ratio for v in corner), context_px * context_ratio))
            draw_context(ax, frames, scale=1 / context_ratio, shift=(-corner[0], -corner[1]))
    reader.close()
    draw_scale_bar(above[0], mpp, tile_px)
    for axes_of_contexts in below:
        draw_scale_bar(axes_of_contexts[0], mpp * context_ratio, context_px)
    draw_legend(figure, truth=True)
    shares, n = chosen["target_fraction"], chosen["slide_id"].nunique()
    words = f"{len(chosen)} of {len(tiles)} tiles at {units.magnification_name(magnification)}, from {n} slides, in "
    words += f"the order of their {by.replace('_', ' ')}: target on {shares.min():.0%} to {shares.max():.0%} of a tile."
    if context_ratio:
        words += f" Below each, its context of {context_px} px at {mpp * context_ratio:g} um/px; framed is the tile."
    return style.done(figure, words)


def target_at_magnifications(
    manifest: pd.DataFrame,
    *,
    target_class: str | list[str],
    field_px: int = 512,
    magnifications: Sequence[float] = (1, 4, 10, 20),
    resolution_by: str = "mpp",
    apply_icc: bool = False,
) -> Figure:
    """One target at every magnification, with its mask below: the paper's Figure 1 on this cohort.

    The target nearest to the cohort's median area is shown, centred in a field of `field_px` pixels at each
    magnification; 512 is the tile of the study.
    A slide scanned too coarsely for a magnification leaves that panel out, with the reason.
    """
    reader = _Fields(manifest, target_class, resolution_by=resolution_by, apply_icc=apply_icc)
    targets = [
        (polygon.area * slide.mpp0**2, slide_id, polygon)
        for slide_id in manifest["slide_id"]
        for slide, polygons in [reader.open_or_none(slide_id)]
        if slide is not None
        for polygon in polygons
    ]
    if not targets:
        reader.close()
        return style.words("No slide of this cohort holds a target.", "double")
    figure, axes = plt.subplots(2, len(magnifications), figsize=(2.2 * len(magnifications), 4.9), squeeze=False)
    told = []
    targets.sort(key=lambda target: (target[0], target[1]))
    area_um2, slide_id, polygon = targets[len(targets) // 2]
    slide, polygons = reader.open(slide_id)
    for column, magnification in enumerate(magnifications):
        mpp = units.mpp_for_magnification(magnification)
        top, bottom = axes[0, column], axes[1, column]
        top.set_title(f"{units.magnification_name(magnification)}\n{field_px * mpp:,.0f} um wide", fontsize=9)
        if mpp < slide.mpp0 * (1 - units.FINER_TOLERANCE):
            for ax in (top, bottom):
                _blank(ax, f"scanned at\n{units.magnification_for_mpp(slide.mpp0):.1f}x only")
            told.append(f"{units.magnification_name(magnification)} finer than the scan")
            continue
        centre_px = [float(v) * slide.mpp0 / mpp for v in (polygon.centroid.x, polygon.centroid.y)]
        x_px, y_px = (round(v - field_px / 2) for v in centre_px)
        _field(top, slide, x_px, y_px, field_px, mpp=mpp)
        mask = rasterise(
            polygons, x_px=x_px, y_px=y_px, width_px=field_px, height_px=field_px, mpp=mpp, mpp0=slide.mpp0
        )
        bottom.imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, field_px, field_px, 0))
        bare(bottom)
        bottom.set_xlabel(f"target {mask.mean():.1%} of pixels", fontsize=8)
        told.append(f"{units.magnification_name(magnification)} {mask.mean():.1%} of pixels")
        draw_scale_bar(top, mpp, field_px)
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("mask")
    reader.close()
    title = f"One target of {area_um2 / 1e6:.2f} mm2 (slide {slide_id}), {field_px} px wide"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return style.done(figure, f"{title}, with its mask; of a field of it the target covers, at {', '.join(told)}.")


def tile_predictions(
    checkpoint, tiles: pd.DataFrame, manifest: pd.DataFrame, *, threshold: float, columns: int = 4
) -> Figure:
    """Tiles with the truth's and the prediction's outlines, titled by IoU.

    Parameters
    ----------
    checkpoint
        `tlskit.networks.models.Checkpoint` that made the predictions; it says how the tiles are read.
    tiles
        Rows of the tile table to show, in this order.
    threshold
        Probability from which a pixel counts as target.
    """
    from tlskit.maps import inference
    from tlskit.outlines import IGNORED

    if tiles.empty:
        return style.words("No tile to show.", "double")
    mpp = units.mpp_for_magnification(checkpoint.magnification)
    size, told = checkpoint.tile_px, [""] * len(tiles)
    figure, axes = _grid(len(tiles), columns, panel_in=2.0)
    reader = _Fields(manifest, None, **inference.reading_of(checkpoint))
    tiles = tiles.reset_index(drop=True)
    # PyTorch: compiling the network would take longer than these few tiles.
    batches = inference.predict_tiles(
        checkpoint, tiles, manifest, batch_size=4, workers=0, engine="torch", precision="exact", progress=False
    )
    for index, probability, truth in batches:
        for i, prob, mask in zip(index, probability, truth, strict=True):
            ax, tile = axes[int(i)], tiles.iloc[int(i)]
            slide, _ = reader.open(tile["slide_id"])
            x_px, y_px = (int(units.px0_to_px(tile[c], mpp, slide.mpp0)) for c in ("x_px0", "y_px0"))
            _field(ax, slide, x_px, y_px, size, mpp=mpp)
            predicted, mask = (prob >= threshold) & (mask != IGNORED), mask == 1
            draw_mask(ax, mask, TRUTH_COLOUR)
            draw_mask(ax, predicted, PREDICTION_COLOUR)
            union = (predicted | mask).sum()
            iou = f"IoU {(predicted & mask).sum() / union:.2f}" if union else "no target, none predicted"
            ax.set_title(f"{tile['slide_id']}\n{iou}", fontsize=8)
            told[int(i)] = f"{tile['slide_id']} {iou}"
    reader.close()
    draw_scale_bar(axes[0], mpp, size)
    draw_legend(figure, truth=True, prediction=True)
    return style.done(figure, f"Truth and prediction at {threshold:g} of {len(tiles)} tiles: {', '.join(told)}.")


def slide_overlays(
    examples: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    threshold: float,
    target_class: str | list[str],
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    min_object_um2: float = 0.0,
    max_px: int = 900,
) -> Figure:
    """Whole slides with truth and prediction, one column a slide; below each, its probability map.

    Where the map has no answer the picture is hatched: grey where a screen kept the network from it, red where pixels
    could not be read.

    Parameters
    ----------
    examples
        One row a slide: ``slide_id``, ``map_path`` and ``title``.
    threshold, min_object_um2
        What is drawn as a predicted object.
    max_px
        Longest side of the pictures.
    """
    from tlskit.maps import probmaps

    if examples.empty:
        return style.words("No slide has a defined score.", "double")
    reader = _Fields(manifest, target_class, resolution_by=resolution_by, apply_icc=apply_icc)
    sizes_px0 = [reader.open(slide_id)[0].size_px0 for slide_id in examples["slide_id"]]
    tallest = max(height / width for width, height in sizes_px0)
    size_in = (3.3 * len(examples) + 0.5, 2 * 2.8 * tallest + 0.9)
    figure, axes = plt.subplots(2, len(examples), figsize=size_in, squeeze=False, layout="constrained")
    image, hatched, told = None, set(), []
    for column, example in enumerate(examples.itertuples()):
        slide, polygons = reader.open(example.slide_id)
        picture, mpp = slide.thumbnail(max_px=max_px)
        height, width = picture.shape[:2]
        top, bottom = axes[:, column]
        extent_mm = (0, width * mpp / 1000, height * mpp / 1000, 0)
        per_px0 = slide.mpp0 / 1000
        top.imshow(picture, extent=extent_mm, interpolation="antialiased")
        with probmaps.open_map(example.map_path) as probmap:
            overview, map_mpp = probmap.overview(max_px)
            marked = probmap.marked(overview, cut(threshold), level=probmap.level_sizes_px.index(overview.shape[::-1]))
            without = {"unseen": probmap.unseen, "lost": probmap.invalid}
            per_px = probmap.mpp / 1000
        map_extent = (0, overview.shape[1] * map_mpp / 1000, overview.shape[0] * map_mpp / 1000, 0)
        predicted = polygonise(marked, mpp=map_mpp, mpp0=slide.mpp0, min_area_um2=min_object_um2)
        words = [f"{example.title}, {len(polygons)} outlines of the truth, {len(predicted)} predicted"]
        told.append(", in part ".join([*words, *(HATCHED[kind][0] for kind, boxes in without.items() if boxes)]))
        # Truth last: it is the longer-lived line, and false outlines may be many.
        draw_outlines(top, predicted, scale=per_px0, colour=PREDICTION_COLOUR, linewidth=0.9)
        for ax in (top, bottom):
            draw_outlines(ax, polygons, scale=per_px0, colour=TRUTH_COLOUR)
        image = bottom.imshow(overview / 255, extent=map_extent, cmap="magma", vmin=0, vmax=1)
        for kind, boxes in without.items():
            if boxes:
                hatched.add(kind)
                for ax in (top, bottom):
                    draw_hatched(ax, boxes, kind, scale=per_px)
        top.set_title(example.title, fontsize=9)
        for ax in (top, bottom):
            ax.set_xlim(0, extent_mm[1])
            ax.set_ylim(extent_mm[2], 0)
            ax.set_aspect("equal")
            ax.tick_params(labelsize=7)
        bottom.set_xlabel("mm", fontsize=8)
    axes[0, 0].set_ylabel("slide, mm", fontsize=8)
    axes[1, 0].set_ylabel("probability map, mm", fontsize=8)
    reader.close()
    bar = figure.colorbar(image, ax=axes[1, :], aspect=30, pad=0.01)
    bar.set_label("probability of target", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    draw_legend(figure, truth=True, prediction=True, hatched=hatched)
    return style.done(figure, f"Whole slides and their probability maps at {threshold:g}. {'; '.join(told)}.")


class _Fields:
    """Slides and target outlines of a cohort, each opened and read once."""

    def __init__(self, manifest: pd.DataFrame, target_class: str | list[str] | None, **reading):
        self._rows = {row.slide_id: row for row in slide_rows(manifest)}
        self._target_class = target_class
        self._reading = reading
        self._open: dict[str, tuple[Slide, list[Polygon]]] = {}

    def open(self, slide_id: str) -> tuple[Slide, list[Polygon]]:
        if slide_id not in self._open:
            row = self._rows[slide_id]
            slide = open_row(row, **self._reading)
            polygons = []
            if self._target_class is not None and row.annotation_path:
                polygons = read_truth(row, slide, self._target_class, missing="empty").polygons
            self._open[slide_id] = (slide, polygons)
        return self._open[slide_id]

    def open_or_none(self, slide_id: str) -> tuple[Slide | None, list[Polygon]]:
        """As `open`; a slide that cannot be read has been reported by the tiling and is passed over here."""
        from tlskit.errors import TlskitError

        try:
            return self.open(slide_id)
        except TlskitError:
            return None, []

    def close(self) -> None:
        for slide, _ in self._open.values():
            slide.close()
        self._open.clear()


def _grid(n_panels: int, columns: int, *, panel_in: float) -> tuple[Figure, np.ndarray]:
    columns = min(columns, n_panels)
    rows = math.ceil(n_panels / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(panel_in * columns, (panel_in + 0.35) * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes.ravel()


def _field(ax: Axes, slide: Slide, x_px: int, y_px: int, size_px: int, *, mpp: float, polygons=()) -> None:
    """Show a square field of a slide, in working pixels, with outlines where given."""
    pixels = slide.read(x_px, y_px, size_px, size_px, mpp=mpp)
    ax.imshow(pixels, extent=(0, size_px, size_px, 0), interpolation="antialiased")
    d = mpp / slide.mpp0
    here = box(x_px * d, y_px * d, (x_px + size_px) * d, (y_px + size_px) * d)
    inside = [polygon for polygon in polygons if polygon.intersects(here)]
    draw_outlines(ax, inside, scale=1 / d, shift=(-x_px, -y_px), colour=TRUTH_COLOUR)
    ax.set_xlim(0, size_px)
    ax.set_ylim(size_px, 0)
    bare(ax)


def _blank(ax: Axes, text: str) -> None:
    bare(ax)
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color="0.4", transform=ax.transAxes)
