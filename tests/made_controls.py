"""A run of controls as tables alone: arms that differ in factors, each trained several times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.metrics.scores import COUNTS
from tlskit.study import params

#: A preset with the controls of params/controls_demo.yaml.
PRESET = {
    "tile_px": 128,
    "steps_per_epoch": 20,
    "negatives_per_batch": 0,
    "positive_pixels": 0.0,
    "detail_mpp": 0.0,
    "sweep": [
        {"magnification": [20, 4], "seed": [0, 1, 2]},
        {"magnification": [20, 4], "seed": [0, 1, 2], "steps_per_epoch": 0},
        {"magnification": [20, 4], "seed": [0, 1, 2], "negatives_per_batch": 4},
        {"magnification": [20, 4], "seed": [0, 1, 2], "negatives_per_batch": -1, "positive_pixels": 0.1},
        {"magnification": 20, "seed": [0, 1, 2], "tile_px": 320, "negatives_per_batch": [0, 4]},
        {"magnification": 4, "seed": [0, 1, 2], "tile_px": 64},
        {"magnification": 20, "seed": [0, 1, 2], "detail_mpp": [2.5, 10.0]},
    ],
}


#: Sweeps of the context network with its controls, beside the plain arms; only the wider field helps it.
CONTEXT_SWEEP = [
    {"magnification": [20, 4], "seed": [0, 1, 2]},
    {"magnification": [20, 4], "seed": [0, 1, 2], "negatives_per_batch": 4},
    {"magnification": [20, 4], "seed": [0, 1, 2], "context_ratio": 4, "negatives_per_batch": [0, 4]},
    {"magnification": [20, 4], "seed": [0, 1, 2], "context_ratio": 4, "context_of": ["self", "other"]},
    {"magnification": [20, 4], "seed": [0, 1, 2], "encoder": "efficientnet-b1"},
]
CONTEXT_PRESET = PRESET | {
    "context_ratio": 0, "context_px": 128, "context_of": "field", "encoder": "efficientnet-b0", "sweep": CONTEXT_SWEEP,
}  # fmt: skip


def recall_logit(arm: dict) -> float:
    """How well an arm finds its targets: negatives help 20x, blur hurts it."""
    better = 0.8 if arm["magnification"] == 4 else -0.6
    better += 1.0 * (arm["magnification"] == 20) * (arm["negatives_per_batch"] > 0)
    better += 1.5 * (arm.get("context_ratio", 0) > 0 and arm["context_of"] == "field")
    return better + 0.6 * (arm["tile_px"] == 320) - {0.0: 0.0, 2.5: 0.4, 10.0: 1.8}[arm["detail_mpp"]]


def write_controls(run_dir: Path, *, preset: dict = PRESET, n_patients: int = 12, seed: int = 0) -> Path:
    """Write ``arms.csv``, tables and records of every arm of a preset; returns the run's folder."""
    run_dir.mkdir(parents=True)
    params.arms_table(preset).to_csv(run_dir / "arms.csv", index=False)
    rng = np.random.default_rng(seed)
    ids = [f"p{n:02d}" for n in range(n_patients)]
    slides = pd.DataFrame({"slide_id": ids, "patient_id": ids, "cancer_type": "lung", "split": "test"})
    size, ease = rng.uniform(2e4, 9e4, n_patients), rng.normal(0, 0.5, n_patients)
    for arm in params.arms(preset):
        folder = run_dir / arm["arm"]
        for name in ("tables", "records"):
            (folder / name).mkdir(parents=True)
        logit = ease + recall_logit(arm) + rng.normal(0, 0.2, n_patients) + rng.normal(0, 0.1)
        tp = np.rint(size / (1 + np.exp(-logit)))
        counts = np.stack([tp, rng.uniform(2e3, 6e3, n_patients), np.rint(size) - tp, np.full(n_patients, 1e6)], axis=1)
        counts = pd.DataFrame(np.rint(counts).astype(np.int64), columns=list(COUNTS))
        grid = [slides.assign(threshold_by=by, threshold=at, grid_mpp=4.0, **counts)
                for by, at in (("fixed", 0.5), ("validation", 0.4))]  # fmt: skip
        facts = {"n_targets": 2, "target_mm2": size * 16 / 1e6, "tissue_mm2": 60.0}
        tables = {
            "05_grid_counts": pd.concat(grid),
            "05_counts_per_slide": pd.concat([table.assign(mpp=10 / arm["magnification"], **facts) for table in grid]),
            "03_history": pd.DataFrame(
                {"epoch": [1, 2], "steps": [20, 40], "val_iou": [0.1, 0.2], "best": [False, True]}
                | {"negative_to_positive": 3.0, "empty_batches": [1, 3], "gradient_tiles": 152}
            ),
        }
        for name, table in tables.items():
            table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        values = {"magnification": arm["magnification"], "split_hash": "f00d", "target_class": "TLS"}
        (folder / "records" / "01_tiling.json").write_text(json.dumps({"values": values}))
    return run_dir
