"""Manifests and tile tables of slides that a test makes for itself."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tlskit.outlines import write_geojson
from tlskit.slides.tiffs import write_slide


def manifest_row(slide_id: str, slide_path, annotation_path="", **changes) -> dict:
    """A row of a manifest, as `tlskit.cohort.read_manifest` gives it."""
    row = {
        "slide_id": slide_id, "patient_id": slide_id, "cancer_type": "lung", "slide_path": str(slide_path),
        "annotation_path": str(annotation_path), "mpp_override": np.nan, "split": "",
    }  # fmt: skip
    return row | changes


def outlined_slide(folder: Path, slide_id: str, image: np.ndarray, targets: list, *, mpp: float, **options) -> dict:
    """Write a slide and its outlines, of the class TLS; returns its row of a manifest."""
    slide_path, outlines = folder / f"{slide_id}.tiff", folder / f"{slide_id}.geojson"
    write_slide(slide_path, image, mpp=mpp, objective_power=10 / mpp, **options)
    write_geojson(outlines, targets, class_name="TLS")
    return manifest_row(slide_id, slide_path, outlines)


def tile_rows(slide_id: str, xs: Iterable[int], ys: Iterable[int], tile_px: int, *, d: float = 1, **columns) -> list:
    """Rows of a tile table: tiles with their corners at all of `xs` and `ys` (px), each px `d` level-0 px wide."""
    side = tile_px * d
    return [
        {
            "tile_id": f"{slide_id}_({d:g},{x * d:.0f},{y * d:.0f},{side:.0f},{side:.0f})",
            "slide_id": slide_id, "x_px0": float(x * d), "y_px0": float(y * d), "size_px0": float(side), **columns,
        }
        for y in ys
        for x in xs
    ]  # fmt: skip
