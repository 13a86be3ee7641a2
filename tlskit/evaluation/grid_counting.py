"""Counts of whole slides on one grid that all magnifications share, and of the objects there.

The tables are described in `tlskit.evaluation.counting`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlskit.evaluation.opened_slides import OnFailure, Opened, Thresholds, over_slides
from tlskit.metrics import (
    COUNTS,
    TIE_SHIFT_PX,
    area_means,
    count_pixels,
    named_thresholds,
    objects,
    shape_table,
)

__all__ = ["CURVE", "GridCounts", "evaluate_grid", "object_mask"]

#: Thresholds of the curve of objects found against false ones.
CURVE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class GridCounts(NamedTuple):
    """What `evaluate_grid` returns: ``05_grid_counts``, ``05_objects``, ``05_objects_per_slide``, and
    ``05_objects_by_threshold``."""

    counts: pd.DataFrame
    objects: pd.DataFrame
    objects_per_slide: pd.DataFrame
    objects_by_threshold: pd.DataFrame


def evaluate_grid(
    maps: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    target_class: str | list[str],
    ignore_class: str | list[str] = "",
    region_class: str | list[str] = "",
    grid_mpp: float = 4.0,
    threshold: Thresholds = 0.5,
    with_objects: bool = True,
    min_object_um2: float = 1000.0,
    closing_um: float = 16.0,
    max_hole_um2: float = math.inf,
    missing_target: str = "error",
    resolution_by: str = "mpp",
    on_failure: OnFailure = None,
) -> GridCounts:
    """Counts on one physical lattice, in the same region of each slide, with the ceiling; and objects there.

    The *region* is tissue and target: target that the search for tissue missed counts as any other. What is marked
    outside it, on glass, is told (``marked_px_outside``) and counted nowhere, neither as pixels nor as objects.

    Each map is brought to ``grid_mpp`` by exact area means (a map coarser than the grid keeps its pixels as squares;
    ties go to the pixel that holds the centre, `tlskit.metrics.grids.TIE_SHIFT_PX`); the truth is rasterised there
    once. A grid pixel is positive if its mean stored value is at least 255 times the threshold. The *ceiling* is the
    truth rasterised at the map's own um/px and brought to the grid in the same way: the score of the outlines as such
    pixels. Probabilities that are shares of area can pass it.

    Objects are those of the grid, so that the same um of post-processing do the same at every magnification; what
    post-processing fills outside the region is taken away again. The grid may be finer than the scan: it reads none of
    its pixels.

    Parameters
    ----------
    maps, manifest, target_class, ignore_class, region_class, threshold, missing_target, resolution_by, on_failure
        As in `tlskit.evaluation.counting.evaluate_slides`.
    grid_mpp
        um/px of the grid.
    with_objects
        Whether to find objects; they need the whole grid in memory (20 Mpx for 20 x 15 mm at 4 um/px).
    min_object_um2, closing_um, max_hole_um2
        Of `tlskit.metrics.objects.post_process`, for predicted and true objects alike.

    Returns
    -------
    GridCounts
    """
    named = named_thresholds(threshold)
    processing = {"min_area_um2": min_object_um2, "closing_um": closing_um, "max_hole_um2": max_hole_um2}

    def count(ids: dict, opened: Opened) -> GridCounts:
        return _grid_counts(ids, opened, named, grid_mpp, processing if with_objects else None)

    return over_slides(
        count, GridCounts, maps, manifest, target_class=target_class, ignore_class=ignore_class,
        region_class=region_class, missing_target=missing_target, resolution_by=resolution_by, on_failure=on_failure,
    )  # fmt: skip


def _in_boxes(boxes, ratio: float, y_px: int, shape: tuple[int, int], first, last) -> np.ndarray:
    """Pixels of a band of the grid that lie in boxes of the map, (H, W) bool; `first` and `last` round their edges."""
    inside = np.zeros(shape, bool)
    for x, y, w, h in boxes:
        (x0, x1), (y0, y1) = ((first(at / ratio), last((at + side) / ratio)) for at, side in ((x, w), (y, h)))
        inside[max(0, y0 - y_px) : max(0, y1 - y_px), x0:x1] = True
    return inside


def _grid_counts(
    ids: dict, opened: Opened, named: dict[str, float], grid_mpp: float, processing: dict | None
) -> GridCounts:
    prob_map, truth, on_tissue = opened.map, opened.truth, opened.tissue
    grid_px = tuple(max(1, math.floor(side * truth.mpp0 / grid_mpp + 0.5)) for side in opened.size_px0)
    width = prob_map.size_px[0]
    source = {"ratio": grid_mpp / prob_map.mpp, "grid_px": grid_px, "shift_px": TIE_SHIFT_PX}
    bands = zip(
        area_means(lambda y, h: prob_map.read(0, y, width, h), prob_map.size_px, **source),
        area_means(lambda y, h: truth.at(0, y, width, h, mpp=prob_map.mpp), prob_map.size_px, **source),
        strict=True,
    )
    # Every threshold of objects is a mask of its own: those of the study, and those of the curve.
    wanted = named | {float(value): value for value in CURVE} if processing is not None else {}
    masks = {name: np.zeros(grid_px[::-1], bool) for name in wanted}
    region = np.zeros(grid_px[::-1] if wanted else (0, 0), bool)
    sums = {name: np.zeros(4, np.int64) for name in named}
    ceiling, outside, glass = np.zeros(4, np.int64), 0, dict.fromkeys(named, 0)
    unseen_px = target_px_unseen = 0
    for (y, values), (_, coarse_truth) in bands:
        rows = len(values)
        target = truth.at(0, y, grid_px[0], rows, mpp=grid_mpp)
        ignored = truth.ignored_at(0, y, grid_px[0], rows, mpp=grid_mpp)
        # Of a pixel that could not be read in part nothing is known; what was seen in part was looked at.
        known = ~ignored & ~_in_boxes(prob_map.invalid, source["ratio"], y, ignored.shape, math.floor, math.ceil)
        unseen = _in_boxes(prob_map.unseen, source["ratio"], y, ignored.shape, math.ceil, math.floor)
        tissue_here = on_tissue.at(0, y, grid_px[0], rows, mpp=grid_mpp)
        inside = (tissue_here | target) & known
        outside += int((target & known & ~tissue_here).sum())
        unseen_px += int((unseen & inside).sum())
        target_px_unseen += int((unseen & inside & target).sum())
        # Means are sums of products: a hair below must not turn an exact half into a negative.
        ceiling += list(count_pixels(coarse_truth >= 0.5 - 1e-9, target, valid=inside).values())
        for name, value in named.items():
            positive = (values >= 255 * value - 1e-6) & ~unseen
            sums[name] += list(count_pixels(positive, target, valid=inside).values())
            glass[name] += int((positive & known & ~inside).sum())
        for name, value in wanted.items():
            masks[name][y : y + rows] = (values >= 255 * value - 1e-6) & inside & ~unseen
        if wanted:
            region[y : y + rows] = inside
    counts, found, per_slide, curve = [], [], [], []
    # An object in a lost region is neither found nor missed.
    truth = truth.without(prob_map.invalid, mpp=prob_map.mpp)
    areas = {"truth_mm2": truth.area_mm2, "tissue_mm2": on_tissue.area_mm2}

    if masks:
        true_objects = object_mask(truth.at(0, 0, *grid_px, mpp=grid_mpp), region, grid_mpp, processing)

    def compared(name) -> tuple[np.ndarray, pd.DataFrame]:
        mask = object_mask(masks.pop(name), region, grid_mpp, processing)
        return mask, objects.compare(mask, true_objects, mpp=grid_mpp, mpp0=truth.mpp0)

    for name, value in named.items():
        row = ids | {"threshold_by": name, "threshold": value}
        scale = {"grid_mpp": float(grid_mpp), "mpp": prob_map.mpp}
        table = dict(zip((*COUNTS, *(f"ceiling_{c}" for c in COUNTS)), (*sums[name], *ceiling), strict=True))
        told = {"target_px_outside_tissue": outside, "marked_px_outside": glass[name]}
        told |= {"unseen_px": unseen_px, "target_px_unseen": target_px_unseen}
        counts.append(row | scale | table | told | {"tissue_mm2": areas["tissue_mm2"]})
        if masks:
            mask, table = compared(name)
            shapes = shape_table(mask, true_objects, mpp=grid_mpp).assign(kind="truth")
            whole = pd.DataFrame(row, index=table.index).join(table)
            found.append(whole.merge(shapes, on=["kind", "object_id"], how="left", validate="1:1"))
            of = table.groupby("kind")["area_um2"]
            numbers = {f"n_{kind}": int(of.size().get(kind, 0)) for kind in ("truth", "predicted")}
            predicted_mm2 = float(of.sum().get("predicted", 0.0)) / 1e6
            per_slide.append(row | numbers | areas | {"predicted_mm2": predicted_mm2})
    for threshold in list(masks):
        _, table = compared(threshold)
        matched = table.groupby("kind")["matched_iou10"].agg(["size", "sum"]).reindex(["truth", "predicted"])
        (n_truth, n_found), (n_predicted, n_hit) = matched.fillna(0).astype(int).to_numpy()
        numbers = {"n_truth": n_truth, "n_found": n_found, "n_predicted": n_predicted, "n_false": n_predicted - n_hit}
        curve.append(ids | {"threshold": threshold} | numbers | {"tissue_mm2": areas["tissue_mm2"]})
    stacked = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return GridCounts(pd.DataFrame(counts), stacked, pd.DataFrame(per_slide), pd.DataFrame(curve))


def object_mask(mask: np.ndarray, region: np.ndarray, mpp: float, processing: dict) -> np.ndarray:
    """A mask post-processed (`tlskit.metrics.objects.post_process`), of what then lies in the region, ``(H, W) bool``.

    What post-processing fills outside the region is taken away, and what the region's edge cuts off may be too small.
    """
    inside = objects.post_process(mask, mpp=mpp, **processing) & region
    return objects.post_process(inside, mpp=mpp, **processing | {"closing_um": 0.0, "max_hole_um2": 0.0})
