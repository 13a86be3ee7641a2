"""A run with folds, or with validation slides, as tables alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.metrics.scores import COUNTS
from tlskit.study import params


def write_folds(
    run_dir: Path, *, recall: dict[str, float], folds: int = 3, n_patients: int = 24, seed: int = 0
) -> Path:
    """Arms by magnification (``{"4x": 0.7}``) in folds (1: no folds); patient n is tested in fold n % folds.

    The next fold's patients are validation; without folds the second half is.
    """
    rng = np.random.default_rng(seed)
    preset = {"sweep": {"magnification": [float(name[:-1]) for name in recall]}}
    if folds > 1:
        preset["sweep"]["fold"] = list(range(folds))
    run_dir.mkdir(parents=True)
    params.arms_table(preset).to_csv(run_dir / "arms.csv", index=False)
    ids = [f"p{n:02d}" for n in range(n_patients)]
    of_fold = np.arange(n_patients) % max(folds, 2)
    size, ease = rng.uniform(2e4, 9e4, n_patients), rng.normal(0, 0.3, n_patients)
    for arm in params.arms(preset):
        folder = run_dir / arm["arm"]
        for name in ("tables", "records"):
            (folder / name).mkdir(parents=True)
        fold = int(arm.get("fold", 0))
        of_arm = np.log(recall[f"{arm['magnification']:g}x"] / (1 - recall[f"{arm['magnification']:g}x"]))
        tp = np.rint(size / (1 + np.exp(-(of_arm + ease + rng.normal(0, 0.1, n_patients)))))
        counts = np.stack([tp, rng.uniform(2e3, 6e3, n_patients), np.rint(size) - tp, np.full(n_patients, 1e6)], axis=1)
        slides = pd.DataFrame({"slide_id": ids, "patient_id": ids, "cancer_type": "lung"})
        split = np.select([of_fold == fold, of_fold == (fold + 1) % max(folds, 2)], ["test", "val"], "train")
        slides = slides.assign(split=split, grid_mpp=4.0, mpp=10 / arm["magnification"], n_targets=2,
                               target_mm2=size * 16 / 1e6, tissue_mm2=60.0)  # fmt: skip
        slides[list(COUNTS)] = np.rint(counts).astype(np.int64)
        grid = pd.concat([slides.assign(threshold_by=by, threshold=at + 0.01 * fold * (by == "validation"))
                          for by, at in (("fixed", 0.5), ("validation", 0.4))])  # fmt: skip
        grid = grid[grid["split"] != "train"]
        history = {"epoch": [1, 2], "steps": [20, 40], "val_iou": [0.1, 0.2], "best": [False, True]}
        history |= {"negative_to_positive": 3.0, "empty_batches": [1, 3], "gradient_tiles": 152}
        projected = {"width_px0": 80_000, "height_px0": 60_000, "mpp0": 0.25, "tissue_fraction": 0.4, "device": "cpu",
                     "tissue_mm2": 120.0, "minutes": arm["magnification"], "minutes_low": 1.0, "minutes_high": 30.0,
                     "cpu": "made-up", "gpu": "", "threads": 2, "engine": "torch", "precision": "fp32"}  # fmt: skip
        tables = {
            "05_grid_counts": grid, "05_counts_per_slide": grid[grid["split"] == "test"],
            "03_history": pd.DataFrame(history), "06_projection": pd.DataFrame([projected]),
            "06_summary": pd.DataFrame({"slide_id": ["all"], "warm": True, "s_per_cm2": 1.0}),
            "06_stages": pd.DataFrame({"slide_id": ["p00"], "repeat": 0, "stage": "read", "seconds": 1.0}),
        }  # fmt: skip
        for name, table in tables.items():
            table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        values = {"magnification": arm["magnification"], "split_hash": f"split{fold}", "target_class": "TLS"}
        (folder / "records" / "01_tiling.json").write_text(json.dumps({"values": values}))
    return run_dir


def edit(run_dir: Path, arm: str, table: str, change) -> None:
    """Change one table of an arm."""
    path = run_dir / arm / "tables" / f"{table}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
