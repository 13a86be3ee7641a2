"""Tables of counts: of tiles, of whole slides, and on one grid that all magnifications share.

Scores are made of these tables afterwards, by `tlskit.metrics`. The tables, as the notebooks archive them (``ids``
stands for ``slide_id patient_id cancer_type`` and, where the input has them, ``split site``):

``04_counts_per_tile``, by `evaluate_tiles`: one row a tile and threshold.
    tile_id, ids, threshold_by, threshold, tp, fp, fn, tn.
``05_counts_per_slide``, by `evaluate_slides`: one row a slide and threshold.
    ids, threshold_by, threshold, tp, fp, fn, tn (all pixels of the map, at its own um/px), tp_tissue, fp_tissue,
    fn_tissue, tn_tissue (those inside tissue), mpp, width_px, height_px, invalid_px (left out: could not be read),
    ignored_px (left out: outlined as to be ignored), unseen_px (a screen kept the network from them: negative),
    n_targets, target_mm2 (of the outlines), tissue_mm2.
``05_counts_per_tile``, by `evaluate_slides`: one row a tile of a grid without overlap and threshold; at the right and
    bottom edge tiles are cut, so that the counts of a slide's tiles add up to the slide's.
    tile_id, ids, x_px, y_px (working px), threshold_by, threshold, tp, fp, fn, tn.
``05_histograms``, by `evaluate_slides`: see `tlskit.metrics.thresholds`.
    ids, region (``slide``, ``tissue``), truth (0, 1), bin (0 to 255; -1: not looked at), count.
``05_grid_counts``, by `evaluate_grid`: one row a slide and threshold, on the common grid, inside tissue and target.
    ids, threshold_by, threshold, grid_mpp, mpp (of the map), tp, fp, fn, tn, ceiling_tp, ceiling_fp, ceiling_fn,
    ceiling_tn (the truth itself, rasterised at the map's um/px and brought to the grid), target_px_outside_tissue (of
    the target; counted), marked_px_outside (predicted outside tissue and target; not counted, here or in objects),
    unseen_px, target_px_unseen (counted, of all and of target: a screen kept the network from them), tissue_mm2.
``05_objects``, by `evaluate_grid`: one row an object and threshold.
    ids, threshold_by, threshold, kind (``truth``, ``predicted``), object_id, area_um2, diameter_um, size_class, x_px0,
    y_px0 (centroid), best_iou, matched_iou10, matched_iou50, matched_centroid, false_area_um2 (of a predicted one: what
    lies in no true object; nan for a true one); of a true one the columns of `tlskit.metrics.boundaries.shape_table`.
``05_objects_by_threshold``, by `evaluate_grid`: one row a slide and threshold of `CURVE`.
    ids, threshold, n_truth, n_found, n_predicted, n_false (by the rule iou10), tissue_mm2.
``05_objects_per_slide``, by `evaluate_grid`: one row a slide and threshold, those without objects too.
    ids, threshold_by, threshold, n_truth, n_predicted, truth_mm2, predicted_mm2, tissue_mm2.

``threshold_by`` names the rule (``fixed``, ``validation``), ``threshold`` is its value in this arm.

What a screen kept the network from (`tlskit.maps.ProbMap.unseen`) is negative at every threshold, as the cascade says
of it: target there is missed. It has no probability, and no bin of a histogram.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import MapError, ParameterError
from tlskit.maps import ProbMap, open_map
from tlskit.metrics import (
    COUNTS,
    TIE_SHIFT_PX,
    area_means,
    count_pixels,
    counts_at,
    cut,
    joint_histogram,
    named_thresholds,
    objects,
    shape_table,
    thresholds,
)  # fmt: skip
from tlskit.outlines import IGNORED, Truth, read_truth
from tlskit.slides import tissue

__all__ = ["GridCounts", "SlideCounts", "evaluate_grid", "evaluate_slides", "evaluate_tiles"]

Thresholds = float | Mapping[str, float]
OnFailure = Callable[[str, Exception], None] | None

#: Thresholds of the curve of objects found against false ones.
CURVE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

_IDS = ("slide_id", "patient_id", "cancer_type", "split", "site")

#: Code of a pixel that could not be predicted. Neither it nor `IGNORED` is counted; what is counted has the codes
#: truth + 2 * tissue, and `_UNSEEN` more where a screen kept the network from it.
_INVALID, _UNSEEN = 254, 4


class SlideCounts(NamedTuple):
    """What `evaluate_slides` returns: the tables ``05_counts_per_slide``, ``05_counts_per_tile``, ``05_histograms``."""

    slides: pd.DataFrame
    tiles: pd.DataFrame
    histograms: pd.DataFrame


class GridCounts(NamedTuple):
    """What `evaluate_grid` returns: ``05_grid_counts``, ``05_objects``, ``05_objects_per_slide``, and
    ``05_objects_by_threshold``."""

    counts: pd.DataFrame
    objects: pd.DataFrame
    objects_per_slide: pd.DataFrame
    objects_by_threshold: pd.DataFrame


def evaluate_tiles(
    checkpoint,
    tiles: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    threshold: Thresholds = 0.5,
    batch_size: int = 8,
    workers: int = 2,
    **options,
) -> pd.DataFrame:
    """Counts of every tile, in the order of `tiles`; one that could not be read, or is to be ignored, has no row.

    Parameters
    ----------
    checkpoint
        A `tlskit.networks.models.Checkpoint`.
    tiles
        Tile table; all its rows are evaluated, so select the test tiles first.
    manifest
        Of the cohort.
    threshold
        A number, or several by name: ``{"fixed": 0.5, "validation": 0.37}``.
    batch_size, workers, **options
        Of `tlskit.maps.inference.predict_tiles` (``tile_store``, ``tiles_dir``, ``engine``).

    Returns
    -------
    DataFrame
        ``04_counts_per_tile`` of the module's text.
    """
    from tlskit.maps import inference

    named = named_thresholds(threshold)
    cuts = [cut(t) for t in named.values()]
    counts = np.full((len(named), len(tiles), 4), -1, np.int64)
    batches = inference.predict_tiles(checkpoint, tiles, manifest, batch_size=batch_size, workers=workers, **options)
    for index, probabilities, truths in batches:
        stored = np.rint(probabilities * 255).astype(np.uint8)
        for row, values, truth in zip(index, stored, truths, strict=True):
            histogram = joint_histogram(values, np.ascontiguousarray(truth, np.uint8), codes=2)
            counts[:, row] = counts_at(histogram, cuts)
    if (counts < 0).any():
        raise ParameterError(f"{int((counts[0, :, 0] < 0).sum())} of {len(tiles)} tiles were not predicted.")
    # A tile without a pixel that counts (lost, or ignored as a whole) has no score: it is not an empty one.
    counting = counts[0].sum(axis=1) > 0
    ids = tiles.loc[counting, [c for c in ("tile_id", *_IDS) if c in tiles]].reset_index(drop=True)
    counts = counts[:, counting]
    return pd.concat(
        [
            ids.assign(threshold_by=name, threshold=value, **dict(zip(COUNTS, counts[n].T, strict=True)))
            for n, (name, value) in enumerate(named.items())
        ],
        ignore_index=True,
    )


def evaluate_slides(
    maps: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    target_class: str | list[str],
    ignore_class: str | list[str] = "",
    region_class: str | list[str] = "",
    threshold: Thresholds = 0.5,
    tile_px: int = 512,
    missing_target: str = "error",
    resolution_by: str = "mpp",
    on_failure: OnFailure = None,
) -> SlideCounts:
    """Counts of every slide on its map's own lattice: whole, inside tissue, by grid tile, and as histograms.

    Regions that the map marks invalid, or that are outlined as to be ignored, are left out of all of them. A map is
    read once, in bands of `tile_px` rows.

    Parameters
    ----------
    maps
        slide_id, map_path, and perhaps split.
    manifest
        Of the cohort; rows that are not in `maps` are passed over.
    target_class, ignore_class, region_class
        Class(es) of the outlines that are the truth, of those whose area is left out, and of regions outside which
        only the truth counts: `truth.read_truth`.
    threshold
        A number, or several by name.
    tile_px
        Side of a tile of the grid without overlap, in working px.
    missing_target
        ``error`` or ``empty``: of `truth.read_truth`.
    resolution_by
        Of `tlskit.slides.slide.open_slide`.
    on_failure
        Called with (slide_id, exception) for a slide that cannot be evaluated; without it the error is raised.

    Returns
    -------
    SlideCounts
    """
    named = named_thresholds(threshold)

    def count(ids: dict, opened: _Opened) -> SlideCounts:
        return _slide_counts(ids, opened, named, tile_px)

    return _over_slides(
        count, SlideCounts, maps, manifest, target_class=target_class, ignore_class=ignore_class,
        region_class=region_class, missing_target=missing_target, resolution_by=resolution_by, on_failure=on_failure,
    )  # fmt: skip


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
        As in `evaluate_slides`.
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

    def count(ids: dict, opened: _Opened) -> GridCounts:
        return _grid_counts(ids, opened, named, grid_mpp, processing if with_objects else None)

    return _over_slides(
        count, GridCounts, maps, manifest, target_class=target_class, ignore_class=ignore_class,
        region_class=region_class, missing_target=missing_target, resolution_by=resolution_by, on_failure=on_failure,
    )  # fmt: skip


class _Opened(NamedTuple):
    map: ProbMap
    truth: Truth
    tissue: tissue.Tissue  # that counts
    size_px0: tuple[int, int]
    all_tissue: tissue.Tissue  # what is ignored included: networks look there, too


def _over_slides(
    work, kind, maps: pd.DataFrame, manifest: pd.DataFrame, *, target_class, ignore_class, region_class,
    missing_target, resolution_by, on_failure: OnFailure,
):  # fmt: skip
    """Tables of all slides stacked, as a tuple of `kind`; a slide that fails leaves no row in any of them."""
    known = {row.slide_id: row for row in slide_rows(manifest)}
    results = []
    for row in tqdm(list(maps.itertuples(index=False)), desc="slides", unit="slide"):
        try:
            if row.slide_id not in known:
                raise ParameterError(f"The slide {row.slide_id} has a map but does not stand in the manifest.")
            of_manifest = known[row.slide_id]
            split = getattr(row, "split", None) or getattr(of_manifest, "split", "")
            ids = {c: getattr(of_manifest, c) for c in _IDS[:3]} | ({"split": split} if split else {})
            # The hospital or scanner, where the manifest says it: a reviewer asks for scores by it.
            ids |= {"site": of_manifest.site} if getattr(of_manifest, "site", "") else {}
            with open_map(row.map_path) as prob_map:
                # Tissue is looked for in the colours that the network saw.
                apply_icc = prob_map.metadata.get("parameters", {}).get("apply_icc", False)
                with open_row(of_manifest, resolution_by=resolution_by, apply_icc=apply_icc) as slide:
                    _check_scale(prob_map, slide)
                    truth = read_truth(
                        of_manifest, slide, target_class, ignore_class=ignore_class, region_class=region_class,
                        missing=missing_target,
                    )  # fmt: skip
                    found = tissue.tissue_mask(slide)
                    counted = _counted_tissue(found, truth)
                    results.append(work(ids, _Opened(prob_map, truth, counted, slide.size_px0, found)))
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(str(row.slide_id), error)
    return kind(
        *(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame() for tables in _columns(results, kind))
    )


def _check_scale(prob_map: ProbMap, slide) -> None:
    mpp0 = prob_map.metadata.get("mpp0", slide.mpp0)
    if not math.isclose(mpp0, slide.mpp0, rel_tol=1e-6):
        raise MapError(
            f"{prob_map.path.name} was predicted with {mpp0:g} um/px at level 0, and the slide now has "
            f"{slide.mpp0:g} (from: {slide.mpp_source}). Predict the slide again."
        )


def _counted_tissue(found: tissue.Tissue, truth: Truth) -> tissue.Tissue:
    """A slide's tissue, without what is ignored."""
    if not truth.ignored:
        return found
    height, width = found.mask.shape
    return dataclasses.replace(found, mask=found.mask & ~truth.ignored_at(0, 0, width, height, mpp=found.mpp))


def _columns(results: list, kind) -> list[list[pd.DataFrame]]:
    return [[getattr(result, field) for result in results] for field in kind._fields]


def _slide_counts(ids: dict, opened: _Opened, named: dict[str, float], tile_px: int) -> SlideCounts:
    prob_map, truth = opened.map, opened.truth
    total, ignored_px, boxes, by_tile = _count_bands(opened, tile_px, [cut(value) for value in named.values()])
    regions = {"slide": total[:2] + total[2:], "tissue": total[2:]}
    d = prob_map.mpp / truth.mpp0
    names = [f"{ids['slide_id']}_({d:g}," + ",".join(f"{round(v * d)}" for v in box) + ")" for box in boxes]
    width, height = prob_map.size_px
    facts = {
        "mpp": prob_map.mpp, "width_px": width, "height_px": height, "ignored_px": ignored_px,
        "invalid_px": int(width * height - total.sum()) - ignored_px, "unseen_px": int(total[:, 256].sum()),
        "n_targets": len(truth.polygons), "target_mm2": truth.area_mm2, "tissue_mm2": opened.tissue.area_mm2,
    }  # fmt: skip
    slides, tiles = [], []
    for n, (name, value) in enumerate(named.items()):
        row = ids | {"threshold_by": name, "threshold": value}
        positions = {"tile_id": names} | row | {"x_px": boxes[:, 0], "y_px": boxes[:, 1]}
        tiles.append(pd.DataFrame(positions | dict(zip(COUNTS, by_tile[:, n].T, strict=True))))
        for region, suffix in (("slide", ""), ("tissue", "_tissue")):
            counts = counts_at(regions[region], cut(value))[0]
            row = row | {f"{c}{suffix}": int(n) for c, n in zip(COUNTS, counts, strict=True)}
        slides.append(row | facts)
    histograms = []
    for region, pair in regions.items():
        # A slide without a pixel in this region still is a slide of the table: it keeps one row, of none.
        target, bins = np.nonzero(pair) if pair.any() else (np.array([0]), np.array([0]))
        number = pair[target, bins]
        bins = np.where(bins == 256, thresholds.UNSEEN, bins)
        histograms.append(pd.DataFrame(ids | {"region": region, "truth": target, "bin": bins, "count": number}))
    return SlideCounts(
        pd.DataFrame(slides), pd.concat(tiles, ignore_index=True), pd.concat(histograms, ignore_index=True)
    )


def _count_bands(opened: _Opened, tile_px: int, cuts: list[int]) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Read the map once, in bands of `tile_px` rows.

    Returns
    -------
    total : ndarray
        Histograms of the slide by `_code`, ``(4, 257)``: the last entry is of pixels that were not looked at.
    ignored_px : int
    boxes : ndarray
        Grid tiles with a pixel that counts: x, y, width, height, ``(N, 4)``.
    counts : ndarray
        Of each tile at each cut, ``(N, len(cuts), 4)``.
    """
    prob_map = opened.map
    width, height = prob_map.size_px
    stretch_px = tile_px * max(1, 4096 // tile_px)

    def band(y_px: int) -> np.ndarray:
        return prob_map.read(0, y_px, width, min(tile_px, height - y_px))

    total, ignored_px, boxes, counts = np.zeros((4, 257), np.int64), 0, [], []
    codes = 2 * _UNSEEN if prob_map.unseen else _UNSEEN
    # One band is decoded while the one before it is counted.
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(band, 0)
        for y_px in range(0, height, tile_px):
            values = coming.result()
            if y_px + tile_px < height:
                coming = reader.submit(band, y_px + tile_px)
            of_tiles = []
            # In stretches of some tiles, so that truth, tissue and code stay in the processor's cache.
            for left in range(0, width, stretch_px):
                part = values[:, left : left + stretch_px]
                code = _code(opened, left, y_px, part.shape)
                if opened.truth.ignored:
                    ignored_px += int(np.count_nonzero(code == IGNORED))
                for x in range(0, part.shape[1], tile_px):
                    here = np.s_[:, x : x + tile_px]
                    boxes.append((left + x, y_px, min(tile_px, width - left - x), len(values)))
                    of_tiles.append(joint_histogram(part[here], code[here], codes=codes))
            histograms = np.array(of_tiles)
            unseen = (
                histograms[:, 4:].sum(axis=-1, keepdims=True) if prob_map.unseen else np.zeros_like(histograms[..., :1])
            )
            histograms = np.concatenate([histograms[:, :4], unseen], axis=-1)
            total += histograms.sum(axis=0)
            counts.append(counts_at(histograms[:, :2] + histograms[:, 2:], cuts))
    counts, boxes = np.concatenate(counts), np.array(boxes)
    # A tile of nothing but lost or ignored pixels is no empty tile, which published scores count as a perfect one.
    counting = counts[:, 0].sum(axis=1) > 0
    return total, ignored_px, boxes[counting], counts[counting]


def _code(opened: _Opened, x_px: int, y_px: int, shape: tuple[int, int]) -> np.ndarray:
    """Truth + 2 * tissue + `_UNSEEN` of each pixel of a rectangle; `_INVALID` or `IGNORED` where it does not count."""
    rows, columns = shape
    code = opened.tissue.at(x_px, y_px, columns, rows, mpp=opened.map.mpp).view(np.uint8) << 1
    code |= opened.truth.at(x_px, y_px, columns, rows, mpp=opened.map.mpp).view(np.uint8)
    if opened.truth.ignored:
        code[opened.truth.ignored_at(x_px, y_px, columns, rows, mpp=opened.map.mpp)] = IGNORED
    for x, y, w, h in opened.map.invalid:
        code[max(0, y - y_px) : max(0, y + h - y_px), max(0, x - x_px) : max(0, x + w - x_px)] = _INVALID
    for x, y, w, h in opened.map.unseen:
        here = code[max(0, y - y_px) : max(0, y + h - y_px), max(0, x - x_px) : max(0, x + w - x_px)]
        here[here < _UNSEEN] += _UNSEEN
    return code


def _in_boxes(boxes, ratio: float, y_px: int, shape: tuple[int, int], first, last) -> np.ndarray:
    """Pixels of a band of the grid that lie in boxes of the map, (H, W) bool; `first` and `last` round their edges."""
    inside = np.zeros(shape, bool)
    for x, y, w, h in boxes:
        (x0, x1), (y0, y1) = ((first(at / ratio), last((at + side) / ratio)) for at, side in ((x, w), (y, h)))
        inside[max(0, y0 - y_px) : max(0, y1 - y_px), x0:x1] = True
    return inside


def _grid_counts(
    ids: dict, opened: _Opened, named: dict[str, float], grid_mpp: float, processing: dict | None
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

    def processed(mask: np.ndarray) -> np.ndarray:
        inside = objects.post_process(mask, mpp=grid_mpp, **processing) & region
        # What the region's edge cuts off may be too small to count.
        return objects.post_process(inside, mpp=grid_mpp, **processing | {"closing_um": 0.0, "max_hole_um2": 0.0})

    if masks:
        true_objects = processed(truth.at(0, 0, *grid_px, mpp=grid_mpp))

    def compared(name) -> tuple[np.ndarray, pd.DataFrame]:
        mask = processed(masks.pop(name))
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
