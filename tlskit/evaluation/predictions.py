"""Probability maps to outlines: one QuPath GeoJSON a slide, with the area and probability of each object."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import RunError, TlskitError
from tlskit.maps import probmaps
from tlskit.metrics import objects, thresholds
from tlskit.outlines import polygonise, prediction_class, rasterise, write_geojson

__all__ = ["outline_map", "usual_threshold", "write_outlines"]

log = logging.getLogger(__name__)

#: Outlines are traced at this um/px or coarser: finer steps than a pathologist can draw only make files that QuPath
#: opens slowly.
OUTLINE_MPP = 1.0


def usual_threshold(checkpoint_path: str | Path, checkpoint) -> tuple[float, str]:
    """The threshold to use where nobody gives one, and in words where it comes from.

    Parameters
    ----------
    checkpoint_path
        The network's file; ``threshold.json`` beside it holds what notebook 05 chose on validation slides.
    checkpoint : models.Checkpoint
        As loaded from there.

    Returns
    -------
    (float, str)
        The one chosen on validation slides with this very network, else the checkpoint's own (0.5).
    """
    try:
        beside = Path(checkpoint_path).with_name("threshold.json")
        chosen = thresholds.read_threshold(beside, checkpoint_sha256=checkpoint.sha256)
    except RunError as error:
        log.warning("%s The network's own threshold is used.", error)
        chosen = {}
    if "validation" in chosen:
        return chosen["validation"], "chosen on validation slides"
    return checkpoint.threshold, "not chosen on any slides"


def outline_map(
    map_path: str | Path,
    *,
    mpp0: float,
    threshold: float,
    min_object_um2: float = 1000.0,
    closing_um: float = 16.0,
) -> tuple[list, pd.DataFrame]:
    """Outlines of what a map says is target.

    Parameters
    ----------
    map_path
        Probability map of `tlskit.maps.inference.predict_slide`.
    mpp0
        um/px of the slide's level 0.
    threshold
        Probability from which a pixel counts.
    min_object_um2, closing_um
        Post-processing of `tlskit.metrics.objects.post_process`; holes are kept.

    Returns
    -------
    polygons : list of shapely Polygon
        Level-0 pixels, with holes.
    measurements : DataFrame
        One row a polygon: area_um2, mean_probability, max_probability.
    """
    with probmaps.open_map(map_path) as probmap:
        longest = max(probmap.size_px) * min(1.0, probmap.mpp / OUTLINE_MPP)
        values, mpp = probmap.overview(max(1, math.ceil(longest)))
        marked = probmap.marked(
            values, thresholds.cut(threshold), level=probmap.level_sizes_px.index(values.shape[::-1])
        )
    mask = objects.post_process(
        marked,
        mpp=mpp,
        min_area_um2=min_object_um2,
        closing_um=closing_um,
        max_hole_um2=0.0,
    )
    polygons = polygonise(mask, mpp=mpp, mpp0=mpp0)
    rows = []
    for polygon in polygons:
        left, top, right, bottom = (int(round(v * mpp0 / mpp)) for v in polygon.bounds)
        inside = rasterise(
            [polygon], x_px=left, y_px=top, width_px=right - left, height_px=bottom - top, mpp=mpp, mpp0=mpp0
        )
        probabilities = values[top:bottom, left:right][inside] / 255
        rows.append(
            {
                "area_um2": polygon.area * mpp0**2,
                "mean_probability": float(np.mean(probabilities)) if probabilities.size else math.nan,
                "max_probability": float(np.max(probabilities)) if probabilities.size else math.nan,
            }
        )
    return polygons, pd.DataFrame(rows, columns=["area_um2", "mean_probability", "max_probability"])


def write_outlines(
    maps: pd.DataFrame,
    manifest: pd.DataFrame,
    out_dir: str | Path,
    *,
    target_class: str | Sequence[str],
    magnification: float,
    threshold: float,
    min_object_um2: float = 1000.0,
    resolution_by: str = "mpp",
    on_failure: Callable[[str, Exception], None] | None = None,
) -> pd.DataFrame:
    """Write ``<out_dir>/<slide_id>.geojson`` for every map, to be dragged onto its slide in QuPath.

    Each says which network (the SHA-256 of its checkpoint), which threshold, and which screen made it. That of a slide
    that fails is removed: it would be of an earlier call.

    Parameters
    ----------
    maps
        ``slide_id`` and ``map_path``.
    manifest
        Cohort of the slides.
    target_class
        Of the network. The outlines get the class `outlines.prediction_class` (``predicted TLS 4x``), never the
        target's own.
    magnification, threshold, min_object_um2
        Of `outline_map`; the magnification is written with every object.
    on_failure
        Called with (slide_id, exception) for a slide that fails; without it the error is raised.

    Returns
    -------
    DataFrame
        One row an object: slide_id, object, area_um2, mean_probability, max_probability.
    """
    rows = {row.slide_id: row for row in slide_rows(manifest)}
    tables = []
    for made in maps.itertuples():
        try:
            with open_row(rows[made.slide_id], resolution_by=resolution_by) as slide:
                mpp0 = slide.mpp0
                about = {"mpp0": mpp0, "size_px0": slide.size_px0, "bounds_px0": slide.bounds_px0}
            # Where the slide's own outlines count from, those that go back to the same place do, too.
            about["outline_origin"] = origin = getattr(rows[made.slide_id], "outline_origin", "") or "scan"
            with probmaps.open_map(made.map_path) as probmap:
                about["checkpoint_sha256"] = probmap.metadata.get("checkpoint_sha256", "")
                if screen := probmap.metadata.get("parameters", {}).get("screen"):
                    about["screen"] = screen
            about |= {
                "slide_id": made.slide_id, "magnification": magnification, "threshold": threshold,
                "min_object_um2": min_object_um2, "class_name": prediction_class(target_class, magnification),
            }  # fmt: skip
            polygons, measured = outline_map(
                made.map_path, mpp0=mpp0, threshold=threshold, min_object_um2=min_object_um2
            )
            write_geojson(
                Path(out_dir) / f"{made.slide_id}.geojson",
                polygons,
                class_name=about["class_name"],
                origin_px0=(0, 0) if origin == "slide" else about["bounds_px0"][:2],
                about=about,
                measurements=[{**row, "magnification": magnification} for row in measured.to_dict("records")],
            )
        except TlskitError as error:
            if on_failure is None:
                raise
            on_failure(made.slide_id, error)
            (Path(out_dir) / f"{made.slide_id}.geojson").unlink(missing_ok=True)  # of another network, or threshold
            continue
        measured.insert(0, "object", np.arange(1, len(measured) + 1))
        measured.insert(0, "slide_id", made.slide_id)
        tables.append(measured)
    columns = ["slide_id", "object", "area_um2", "mean_probability", "max_probability"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
