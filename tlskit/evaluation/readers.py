"""Two people against each other: what a second reader outlined, counted as a network's map is, on the same grid.

``05_readers``, by `evaluate_readers`: one row a slide that both have outlined.
    ids, grid_mpp, tp, fp, fn, tn (the first reader as the truth, the second as the prediction), n_truth, n_predicted
    (objects), truth_mm2, predicted_mm2 (of objects), tissue_mm2.
``05_readers_objects``: one row an object, with the columns of ``05_objects`` but those of a threshold.

Dice, IoU and F1 do not depend on which of two people is called the truth; so neither does the region that counts. It is
tissue and what either of them outlined, without what either of them left out (ignored, or outside their regions).
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import AnnotationError
from tlskit.evaluation.grid_counting import object_mask
from tlskit.evaluation.opened_slides import OnFailure, ids_of, stacked
from tlskit.metrics import count_pixels, objects, shape_table
from tlskit.outlines import read_truth
from tlskit.slides import tissue_mask

__all__ = ["ReaderCounts", "evaluate_readers"]

log = logging.getLogger(__name__)

_COUNTS = ("slide_id", "patient_id", "cancer_type", "grid_mpp", "tp", "fp", "fn", "tn", "n_truth", "n_predicted",
           "truth_mm2", "predicted_mm2", "tissue_mm2")  # fmt: skip
_OBJECTS = ("slide_id", "patient_id", "cancer_type", "kind", "object_id", "area_um2")


class ReaderCounts(NamedTuple):
    """What `evaluate_readers` returns: ``05_readers`` and ``05_readers_objects``; without rows where there is none."""

    counts: pd.DataFrame
    objects: pd.DataFrame


def evaluate_readers(
    manifest: pd.DataFrame,
    *,
    target_class: str | list[str],
    ignore_class: str | list[str] = "",
    region_class: str | list[str] = "",
    grid_mpp: float = 4.0,
    min_object_um2: float = 1000.0,
    closing_um: float = 16.0,
    max_hole_um2: float = math.inf,
    missing_target: str = "error",
    resolution_by: str = "mpp",
    on_failure: OnFailure = None,
) -> ReaderCounts:
    """Counts of the second reader's outlines against the first's, of the slides that have both; no map is opened.

    Parameters
    ----------
    manifest
        Of the cohort; `annotation_path_2` names a slide's outlines by the second reader. The others have no row.
    target_class, ignore_class, region_class, missing_target, resolution_by, on_failure
        As in `tlskit.evaluation.counting.evaluate_slides`, for both readers alike.
    grid_mpp, min_object_um2, closing_um, max_hole_um2
        As in `tlskit.evaluation.grid_counting.evaluate_grid`: objects of both are post-processed as those of a network.

    Returns
    -------
    ReaderCounts
    """
    processing = {"min_area_um2": min_object_um2, "closing_um": closing_um, "max_hole_um2": max_hole_um2}
    classes = {"ignore_class": ignore_class, "region_class": region_class, "missing": missing_target}
    twice = [row for row in slide_rows(manifest) if row.annotation_path and row.annotation_path_2]
    results = []
    for row in tqdm(twice, desc="second reader", unit="slide", disable=not twice):
        try:
            with open_row(row, resolution_by=resolution_by) as slide:
                first = read_truth(row, slide, target_class, **classes)
                try:
                    other = row._replace(annotation_path=row.annotation_path_2)
                    second = read_truth(other, slide, target_class, **classes)
                except AnnotationError as error:
                    text = str(error).replace("`annotation_path`", "`annotation_path_2`")
                    raise AnnotationError(f"Second reader: {text}") from error
                found = tissue_mask(slide)
                grid_px = tuple(max(1, math.floor(side * slide.mpp0 / grid_mpp + 0.5)) for side in slide.size_px0)
            results.append(_counted(ids_of(row), first, second, found, grid_px, grid_mpp, processing))
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(row.slide_id, error)
    if not results:
        return ReaderCounts(pd.DataFrame(columns=_COUNTS), pd.DataFrame(columns=_OBJECTS))
    return stacked(results, ReaderCounts)


def _counted(ids: dict, first, second, found, grid_px, grid_mpp: float, processing: dict) -> ReaderCounts:
    everywhere = (0, 0, *grid_px)
    truth, other = (reader.at(*everywhere, mpp=grid_mpp) for reader in (first, second))
    left_out = np.logical_or(*(reader.ignored_at(*everywhere, mpp=grid_mpp) for reader in (first, second)))
    on_tissue = found.at(*everywhere, mpp=grid_mpp) & ~left_out
    region = (on_tissue | truth | other) & ~left_out
    pixels = count_pixels(other, truth, valid=region)
    mask, of_truth = (object_mask(reader & region, region, grid_mpp, processing) for reader in (other, truth))
    table = objects.compare(mask, of_truth, mpp=grid_mpp, mpp0=first.mpp0)
    shapes = shape_table(mask, of_truth, mpp=grid_mpp).assign(kind="truth")
    whole = pd.DataFrame(ids, index=table.index).join(table)
    kinds = table.groupby("kind")["area_um2"].agg(["size", "sum"]).reindex(["truth", "predicted"], fill_value=0)
    row = ids | {"grid_mpp": float(grid_mpp)} | pixels
    row |= {f"n_{kind}": int(kinds.loc[kind, "size"]) for kind in kinds.index}
    row |= {f"{kind}_mm2": kinds.loc[kind, "sum"] / 1e6 for kind in kinds.index}
    row["tissue_mm2"] = float(on_tissue.sum()) * grid_mpp**2 / 1e6
    return ReaderCounts(pd.DataFrame([row]), whole.merge(shapes, on=["kind", "object_id"], how="left", validate="1:1"))
