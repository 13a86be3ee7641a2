"""A finished run without training: slides of flat colours, maps made of their blurred truth, tables of the steps.

Every map misses one target, and shows one object that is none.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import yaml

from tlskit import units
from tlskit.cohort import manifest as cohort
from tlskit.maps import map_writer
from tlskit.outlines import reading as annotations
from tlskit.slides import slide as slides
from tlskit.study import runs
from tlskit.synthetic import cohort as synthetic

MAGNIFICATIONS = (1, 4, 10, 20)
TILE_PX = 128


def make_run(
    project: Path, *, n_slides: int = 3, size_mm=(2.6, 2.1), magnifications=MAGNIFICATIONS, target_class: str = "TLS"
) -> Path:
    """Make a project folder with one run, ``outputs/made``; returns the run's folder."""
    for folder in ("notebooks", "params"):
        (project / folder).mkdir(parents=True, exist_ok=True)
    cohort_dir = project / "outputs" / "cohorts" / "made"
    (cohort_dir / "slides").mkdir(parents=True)
    rows = []
    for n in range(n_slides):
        made = synthetic.make_oracle_slide(cohort_dir / "slides" / f"S{n + 1}.tiff", size_mm=size_mm, n_tls=4, seed=n)
        if target_class != "TLS":
            document = json.loads(made.annotation_path.read_text())
            for feature in document["features"]:
                feature["properties"]["classification"]["name"] = target_class
            made.annotation_path.write_text(json.dumps(document))
        rows.append(
            [
                f"S{n + 1}",
                f"P{n + 1}",
                "lung" if n % 2 else "breast",
                f"slides/S{n + 1}.tiff",
                f"slides/S{n + 1}.geojson",
            ]
        )
    with open(cohort_dir / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path", "source"])
        writer.writerows([*row, "synthetic"] for row in rows)
    manifest = cohort.read_manifest(cohort_dir / "manifest.csv")
    split = pd.DataFrame({"patient_id": [row[1] for row in rows], "cancer_type": [row[2] for row in rows]})
    split["split"] = (["test", "val", "train"] * n_slides)[:n_slides]
    outputs = project / "outputs"
    for magnification in magnifications:
        make_arm(outputs, manifest, split, magnification, target_class)
    run_dir = outputs / "made"
    split.to_csv(run_dir / "split.csv", index=False)
    settings = {"run_name": "made", "manifest": "outputs/cohorts/made/manifest.csv", "target_class": target_class}
    (run_dir / "run.yaml").write_text(yaml.safe_dump(settings))
    return run_dir


def make_arm(
    outputs: Path, manifest: pd.DataFrame, split: pd.DataFrame, magnification: float, target_class: str
) -> None:
    """Maps, tables and records of one arm."""
    options = {"magnification": magnification, "outputs_dir": outputs}
    tiling = runs.open_run("made", "01_tiling", **options)
    mpp = units.mpp_for_magnification(magnification)
    tiles, counts, histograms, stages = [], [], [], []
    for row in manifest.itertuples():
        with slides.open_slide(row.slide_path) as slide:
            size, mpp0, size_px0 = slide.size_px(mpp), slide.mpp0, slide.size_px0
        polygons = annotations.read_targets(row.annotation_path, target_class)
        truth = _mask(polygons, size, mpp, mpp0)
        values = make_values(truth, polygons, mpp=mpp, mpp0=mpp0, size_px0=size_px0)
        write_map(
            tiling.maps_dir / f"{row.slide_id}.tif", values, mpp=mpp,
            metadata={"slide_id": row.slide_id, "mpp0": mpp0, "magnification": magnification},
        )  # fmt: skip
        ids = {"slide_id": row.slide_id, "patient_id": row.patient_id, "cancer_type": row.cancer_type}
        ids["split"] = split.set_index("patient_id")["split"][row.patient_id]
        for code in (0, 1):
            count = np.bincount(values[truth == bool(code)], minlength=256)
            for value in np.flatnonzero(count):
                histograms.append(ids | {"region": "slide", "truth": code, "bin": value, "count": count[value]})
        d = mpp / mpp0
        for y in range(0, size[1] - TILE_PX + 1, TILE_PX):
            for x in range(0, size[0] - TILE_PX + 1, TILE_PX):
                part = (slice(y, y + TILE_PX), slice(x, x + TILE_PX))
                if truth[part].any():
                    tile_id = f"{row.slide_id}_({d:g},{x * d:.0f},{y * d:.0f})"
                    at = {"x_px0": x * d, "y_px0": y * d, "size_px0": TILE_PX * d, "level": 0, "tissue_fraction": 1.0}
                    ids_of_tile = {k: v for k, v in ids.items() if k != "split"}
                    tiles.append({"tile_id": tile_id} | ids_of_tile | at | {"target_fraction": truth[part].mean()})
                    p, t = values[part] >= 128, truth[part]
                    numbers = {"tp": p & t, "fp": p & ~t, "fn": ~p & t, "tn": ~p & ~t}
                    numbers = {name: int(mask.sum()) for name, mask in numbers.items()}
                    counts.append({"tile_id": tile_id} | ids | {"threshold_by": "fixed", "threshold": 0.5} | numbers)
        for repeat in (0, 1):
            seconds = 0.5 * magnification * (1.2 - 0.2 * repeat)
            for stage, share in (("read", 0.2), ("forward", 0.8), ("wall", 1.0)):
                stages.append(
                    {
                        "slide_id": row.slide_id,
                        "repeat": repeat,
                        "warm": repeat > 0,
                        "stage": stage,
                        "seconds": share * seconds,
                    }
                )
    tiling.save(pd.DataFrame(tiles), "tiles")
    tiling.record(magnification=magnification, tile_px=TILE_PX, target_class=target_class, resolution_by="mpp")
    runs.open_run("made", "04_tile_evaluation", **options).table(pd.DataFrame(counts), "counts_per_tile")
    runs.open_run("made", "05_wsi_evaluation", **options).table(pd.DataFrame(histograms), "histograms")
    runs.open_run("made", "06_wsi_inference_timing", **options).table(pd.DataFrame(stages), "stages")
    (tiling.work / "threshold.json").write_text(json.dumps({"threshold": 0.42}))


def make_values(truth, polygons, *, mpp: float, mpp0: float, size_px0) -> np.ndarray:
    """A map as a network might give it: the truth blurred, one target missed, one object invented; uint8."""
    height, width = truth.shape
    probability = truth.astype(np.float32)
    if len(polygons) > 1:
        missed = min(polygons, key=lambda polygon: polygon.area)
        probability[_mask([missed], (width, height), mpp, mpp0)] *= 0.3
    centre = (round(0.08 * size_px0[0] * mpp0 / mpp), round(0.1 * size_px0[1] * mpp0 / mpp))
    cv2.circle(probability, centre, max(2, round(90 / mpp)), 0.8, -1)
    probability = cv2.GaussianBlur(probability, (0, 0), max(0.5, 15 / mpp))
    return np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)


def write_map(path: Path, values: np.ndarray, *, mpp: float, metadata: dict, block_px: int = 512) -> None:
    """Write an array as a probability map."""
    with map_writer.MapWriter(path, values.shape[::-1], mpp=mpp, block_px=block_px, metadata=metadata) as writer:
        for y in range(0, values.shape[0], block_px):
            for x in range(0, values.shape[1], block_px):
                writer.write_block(x, y, values[y : y + block_px, x : x + block_px])


def _mask(polygons, size, mpp: float, mpp0: float) -> np.ndarray:
    if not polygons:
        return np.zeros(size[::-1], bool)
    return annotations.rasterise(polygons, x_px=0, y_px=0, width_px=size[0], height_px=size[1], mpp=mpp, mpp0=mpp0)
