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
``05_grid_counts``, by `grid_counting.evaluate_grid`: one row a slide and threshold, on the common grid, inside tissue
    and target.
    ids, threshold_by, threshold, grid_mpp, mpp (of the map), tp, fp, fn, tn, ceiling_tp, ceiling_fp, ceiling_fn,
    ceiling_tn (the truth itself, rasterised at the map's um/px and brought to the grid), target_px_outside_tissue (of
    the target; counted), marked_px_outside (predicted outside tissue and target; not counted, here or in objects),
    unseen_px, target_px_unseen (counted, of all and of target: a screen kept the network from them), tissue_mm2.
``05_objects``, by `grid_counting.evaluate_grid`: one row an object and threshold.
    ids, threshold_by, threshold, kind (``truth``, ``predicted``), object_id, area_um2, diameter_um, size_class, x_px0,
    y_px0 (centroid), best_iou, matched_iou10, matched_iou50, matched_centroid, false_area_um2 (of a predicted one: what
    lies in no true object; nan for a true one); of a true one the columns of `tlskit.metrics.boundaries.shape_table`.
``05_objects_by_threshold``, by `grid_counting.evaluate_grid`: one row a slide and threshold of `CURVE`.
    ids, threshold, n_truth, n_found, n_predicted, n_false (by the rule iou10), tissue_mm2.
``05_objects_per_slide``, by `grid_counting.evaluate_grid`: one row a slide and threshold, those without objects too.
    ids, threshold_by, threshold, n_truth, n_predicted, truth_mm2, predicted_mm2, tissue_mm2.

``threshold_by`` names the rule (``fixed``, ``validation``), ``threshold`` is its value in this arm.

What a screen kept the network from (`tlskit.maps.ProbMap.unseen`) is negative at every threshold, as the cascade says
of it: target there is missed. It has no probability, and no bin of a histogram.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlskit.errors import ParameterError
from tlskit.evaluation.opened_slides import IDS, OnFailure, Opened, Thresholds, over_slides
from tlskit.metrics import COUNTS, counts_at, cut, joint_histogram, named_thresholds, thresholds
from tlskit.outlines import IGNORED

__all__ = ["SlideCounts", "evaluate_slides", "evaluate_tiles"]

#: Code of a pixel that could not be predicted. Neither it nor `IGNORED` is counted; what is counted has the codes
#: truth + 2 * tissue, and `_UNSEEN` more where a screen kept the network from it.
_INVALID, _UNSEEN = 254, 4


class SlideCounts(NamedTuple):
    """What `evaluate_slides` returns: the tables ``05_counts_per_slide``, ``05_counts_per_tile``, ``05_histograms``."""

    slides: pd.DataFrame
    tiles: pd.DataFrame
    histograms: pd.DataFrame


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
    ids = tiles.loc[counting, [c for c in ("tile_id", *IDS) if c in tiles]].reset_index(drop=True)
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

    def count(ids: dict, opened: Opened) -> SlideCounts:
        return _slide_counts(ids, opened, named, tile_px)

    return over_slides(
        count, SlideCounts, maps, manifest, target_class=target_class, ignore_class=ignore_class,
        region_class=region_class, missing_target=missing_target, resolution_by=resolution_by, on_failure=on_failure,
    )  # fmt: skip


def _slide_counts(ids: dict, opened: Opened, named: dict[str, float], tile_px: int) -> SlideCounts:
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


def _count_bands(opened: Opened, tile_px: int, cuts: list[int]) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
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


def _code(opened: Opened, x_px: int, y_px: int, shape: tuple[int, int]) -> np.ndarray:
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
