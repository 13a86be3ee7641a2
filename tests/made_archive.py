"""An archive of a run, made up of tables alone: what the comparison, the charts and the report read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.metrics import objects
from tlskit.metrics.scores import COUNTS

#: What the cohort says of itself.
CAPTION = "made-up numbers"

#: Quality and seconds a slide of each made-up arm.
ARMS = {1: (0.35, 2.0), 4: (0.62, 25.0), 10: (0.60, 160.0), 20: (0.45, 700.0)}


def write_archive(
    run_dir: Path, *, arms=ARMS, n_patients: int = 12, seed: int = 0, split_hash: str = "f00d", with_targets=True
) -> Path:
    """Write ``<run_dir>/<arm>/tables/*.csv`` for every arm; the same slides and targets, or none, in all."""
    run_dir = Path(run_dir)
    rng = np.random.default_rng(seed)
    slides = pd.DataFrame(
        {
            "slide_id": [f"slide_{n:02d}" for n in range(n_patients + 2)],
            "patient_id": [f"p{n % n_patients:02d}" for n in range(n_patients + 2)],
            "cancer_type": [("lung", "oropharyngeal")[n % n_patients % 3 == 2] for n in range(n_patients + 2)],
            "split": "test",
        }
    )
    targets = rng.gamma(2, 0.3, len(slides))
    targets[-1 if with_targets else slice(None)] = 0.0
    for magnification, (quality, seconds) in arms.items():
        of_arm = np.random.default_rng([seed, magnification])
        folder = run_dir / f"{magnification:g}x"
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        (folder / "records").mkdir(exist_ok=True)
        values = {"magnification": magnification, "split_hash": split_hash, "target_class": "TLS"}
        (folder / "records" / "01_tiling.json").write_text(json.dumps({"caption": CAPTION, "values": values}))
        for name, table in _tables(slides, targets, magnification, quality, seconds, of_arm).items():
            table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    return run_dir


def _counts(truth, total, quality, rng):
    """Counts of units with this much truth; recall about `quality`, precision a little below."""
    recall = np.clip(rng.normal(quality, 0.08, len(truth)), 0.02, 0.98)
    tp = np.rint(truth * recall)
    fp = np.rint(tp * (1 / np.clip(rng.normal(quality, 0.1, len(truth)), 0.05, 0.98) - 1))
    fn = np.rint(truth) - tp
    return dict(zip(COUNTS, np.array([tp, fp, fn, np.rint(total) - tp - fp - fn]).astype(np.int64), strict=True))


def _tables(slides, targets, magnification, quality, seconds, rng):
    mpp = 10 / magnification
    area_px = 100e6 / mpp**2  # a slide of 100 mm2
    rules = {"fixed": 0.5, "validation": 0.3 + 0.02 * magnification}
    per_slide, per_tile, wsi_tiles, grid, histograms, found, of_slides = [], [], [], [], [], [], []
    for rule, threshold in rules.items():
        better = quality + (0.03 if rule == "validation" else 0.0)
        ids = slides.assign(threshold_by=rule, threshold=threshold)
        truth = targets * 1e6 / mpp**2
        facts = {"n_targets": np.rint(targets * 5).astype(int), "target_mm2": targets, "tissue_mm2": 60.0}
        counts = _counts(truth, np.full(len(truth), area_px), better, rng)
        tissue = {f"{c}_tissue": n for c, n in counts.items()}
        tissue["tn_tissue"] = (counts["tn"] * 0.6).astype(np.int64)
        per_slide.append(ids.assign(**counts, **tissue, mpp=mpp, **facts))
        grid_counts = _counts(targets * 1e6 / 16, np.full(len(truth), 60e6 / 16), better, rng)
        off = np.rint(targets * 1e6 / 16 * 0.004 * mpp).astype(np.int64)
        whole = np.rint(targets * 1e6 / 16).astype(np.int64)
        ceiling = {
            "ceiling_tp": whole - off,
            "ceiling_fp": off,
            "ceiling_fn": off,
            "ceiling_tn": int(60e6 / 16) - whole - off,
        }
        outside = {"target_px_outside_tissue": np.rint(whole * 0.002).astype(int), "marked_px_outside": 40}
        grid.append(ids.assign(grid_mpp=4.0, mpp=mpp, **grid_counts, **ceiling, **outside, tissue_mm2=60.0))
        n_tiles = max(2, int(6 * magnification))
        tiles = slides.loc[slides.index.repeat(n_tiles)].reset_index(drop=True)
        tiles.insert(0, "tile_id", [f"{s}_{n}" for n, s in enumerate(tiles["slide_id"])])
        share = np.where(rng.random(len(tiles)) < 0.6 / (3 + magnification), rng.random(len(tiles)), 0)
        share *= targets.any()
        counts = _counts(share * 512**2 * 0.3, np.full(len(tiles), 512**2), better, rng)
        counts["fp"][rng.random(len(tiles)) < 0.3 / (3 + magnification)] += 900
        wsi_tiles.append(tiles.assign(threshold_by=rule, threshold=threshold, **counts))
        some = tiles.iloc[:: max(1, len(tiles) // 40)].reset_index(drop=True)
        some = some if targets.any() else some.head(0)  # tiles that hold target
        share = 0.1 + 0.06 * magnification * rng.random(len(some)) / 2
        counts = _counts(np.clip(share, 0, 0.9) * 512**2, np.full(len(some), 512**2), better + 0.1, rng)
        per_tile.append(some.assign(threshold_by=rule, threshold=threshold, **counts))
        found.append(_objects(slides, targets, better, rule, threshold, rng))
        n = found[-1].groupby(["slide_id", "kind"])["area_um2"].agg(["size", "sum"]).unstack(fill_value=0)
        n = n.reindex(slides["slide_id"], fill_value=0)
        for what in ("size", "sum"):
            n[what, "truth"] = n.get((what, "truth"), 0)
        of_slides.append(
            ids.assign(
                n_truth=n["size"]["truth"].to_numpy(), n_predicted=n["size"]["predicted"].to_numpy(),
                truth_mm2=n["sum"]["truth"].to_numpy() / 1e6, predicted_mm2=n["sum"]["predicted"].to_numpy() / 1e6,
                tissue_mm2=60.0,
            )
        )  # fmt: skip
    bins = np.arange(256)
    for row, target in zip(slides.itertuples(index=False), targets, strict=True):
        for region, size in (("slide", area_px), ("tissue", area_px * 0.6)):
            negative = np.exp(-bins / 14)
            positive = np.exp(-0.5 * ((bins - 255 * quality - 40) / 55) ** 2)
            for value, shape, pixels in ((0, negative, size), (1, positive, target * 1e6 / mpp**2)):
                count = np.rint(shape / shape.sum() * pixels).astype(np.int64)
                here = {"region": region, "truth": value, "bin": bins, "count": count}
                histograms.append(pd.DataFrame(row._asdict() | here)[count > 0])
    projection = pd.DataFrame(
        [
            {"width_px0": 80_000, "height_px0": 60_000, "mpp0": 0.25, "tissue_fraction": 0.4, "tissue_mm2": 120.0}
            | {"windows": 1000, "s_per_window": seconds / 500, "minutes": seconds / 30}
            | {"minutes_low": seconds / 33, "minutes_high": seconds / 27, "magnification": magnification, "mpp": mpp}
            | {"engine": "torch", "precision": "fp32", "device": "cpu", "threads": 2, "cpu": "made-up", "gpu": np.nan}
        ]
    )
    summary = pd.DataFrame({"slide_id": ["slide_00", "all"], "warm": True, "s_per_cm2": seconds / 0.6})
    repeats = [
        {
            "slide_id": row.slide_id,
            "repeat": repeat,
            "warm": repeat > 0,
            "stage": stage,
            "seconds": part * seconds * jitter,
        }
        for row in slides.head(4).itertuples()
        for repeat in range(3)
        for jitter in [rng.lognormal(0, 0.15)]
        for stage, part in (("read", 0.2), ("forward", 0.7), ("write", 0.1))
    ]
    return {
        "04_counts_per_tile": pd.concat(per_tile), "05_counts_per_slide": pd.concat(per_slide),
        "05_counts_per_tile": pd.concat(wsi_tiles), "05_histograms": pd.concat(histograms),
        "05_grid_counts": pd.concat(grid), "05_objects": pd.concat(found), "05_objects_per_slide": pd.concat(of_slides),
        "05_objects_by_threshold": _by_threshold(slides, targets, quality), "03_history": _history(quality),
        "01_tiles_per_slide": slides.assign(mpp0=0.25),
        "06_stages": pd.DataFrame(repeats), "06_projection": projection, "06_summary": summary,
    }  # fmt: skip


def _by_threshold(slides, targets, quality):
    rows = []
    for row, target in zip(slides.itertuples(index=False), targets, strict=True):
        for threshold in (0.05, 0.3, 0.5, 0.7, 0.95):
            n = int(round(target * 5))
            found = min(n, round(n * (quality + 0.4 * (0.5 - threshold))))
            false = round(6 * (1 - quality) * (1 - threshold))
            row_of = {"threshold": threshold, "n_truth": n, "n_found": found, "n_predicted": found + false}
            rows.append(row._asdict() | row_of | {"n_false": false, "tissue_mm2": 60.0})
    return pd.DataFrame(rows)


def _history(quality):
    epochs = np.arange(1, 6)
    curve = 1 / epochs
    return pd.DataFrame(
        {"epoch": epochs, "steps": epochs * 20, "train_loss": curve, "val_loss": curve + 0.1}
        | {"val_iou": quality * (1 - curve / 2), "best": epochs == 5}
    )


def _objects(slides, targets, quality, rule, threshold, rng):
    rows = []
    for row, target in zip(slides.itertuples(index=False), targets, strict=True):
        for n in range(int(round(target * 5))):
            area = float(rng.lognormal(np.log(4e4), 1.2))
            seen = bool(rng.random() < quality + 0.1 * np.log10(area / 4e4))
            rows.append(row._asdict() | {"kind": "truth", "object_id": n, "area_um2": area, "hit": seen})
            if seen:
                of_predicted = {
                    "kind": "predicted",
                    "object_id": n,
                    "area_um2": area * rng.lognormal(0, 0.3),
                    "hit": True,
                }
                rows.append(row._asdict() | of_predicted)
        for n in range(rng.poisson(4 * (1 - quality))):
            rows.append(row._asdict() | {"kind": "predicted", "object_id": 100 + n, "area_um2": 9e3, "hit": False})
    table = pd.DataFrame(rows)
    table["size_class"] = objects.size_class(table["area_um2"])
    table["diameter_um"] = objects.diameter_um(table["area_um2"])
    # Where true objects lie is the same in all arms.
    table["x_px0"], table["y_px0"] = 1000.0 + 3000.0 * table["object_id"], 500.0
    hit = table.pop("hit")
    table["best_iou"] = np.where(hit, rng.uniform(0.5, 0.9, len(table)), 0.0)
    of_found = (table["kind"] == "truth") & hit
    for name, value in {"surface_mean_um": 18.0, "surface_95_um": 60.0, "nsd_20_um": 0.7, "nsd_50_um": 0.9}.items():
        table[name] = np.where(of_found, value, np.nan)
    table["n_predicted_on_it"] = np.where(table["kind"] == "truth", hit * 1.0, np.nan)
    table["merged_with"] = np.where(table["kind"] == "truth", 0.0, np.nan)
    for name in objects.MATCH_RULES:
        table[f"matched_{name}"] = hit & ((rng.random(len(table)) < 0.8) | (name != "iou50"))
    table["false_area_um2"] = np.where(
        table["kind"] == "predicted", table["area_um2"] * np.where(hit, 0.2, 1.0), np.nan
    )
    return table.assign(threshold_by=rule, threshold=threshold)
