"""A training step fed from the slide, over the same step on tensors in memory: 256 px, batch 8, shuffled.

``train_step_over_compute`` reads and augments tiles of a slide at a real scan's scale (0.2529 um/px, 20x from level 0:
every tile is decoded and resampled), on as many threads as the package takes by itself. ``_plain_tiles`` does without
augmentation, ``_png`` reads tiles written as PNG.
"""

import statistics
import time

import numpy as np
import pandas as pd
import shapely

from tests.benchmarks import harness, made

TILE_PX, BATCH, STEPS, MAGNIFICATION = 256, 8, 3, 20
WORKERS = 1


def main(repeats: int = 5) -> None:
    import torch
    from segmentation_models_pytorch.losses import DiceLoss

    from tlskit.networks import hardware as compute
    from tlskit.networks import models
    from tlskit.tiles import tiling
    from tlskit.tiles.batching import read_batches
    from tlskit.tiles.datasets import TileDataset

    compute.tune_allocator()
    # Where a CPU only emulates bf16, training does not use it, and a slow step would flatter the feed.
    is_bf16 = compute.pick_precision("auto", "cpu") == "bf16"
    manifest = cohort_of(made.quartering(20_480))
    settings = {"magnification": MAGNIFICATION, "tile_px": TILE_PX, "target_class": "TLS"}
    tiles = tiling.tile_cohort(
        manifest, keep_tiles="target", tile_store="png", tiles_dir=harness.WORK / "feed_tiles", **settings
    ).tiles
    sets = {
        "": TileDataset(tiles, manifest, augment=True, **settings),
        "_plain_tiles": TileDataset(tiles, manifest, **settings),
        "_png": TileDataset(tiles, manifest, tile_store="png", tiles_dir=harness.WORK / "feed_tiles", **settings),
    }
    torch.manual_seed(0)
    model = models.build_model(encoder_weights="none").train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    loss = DiceLoss(mode="binary", from_logits=True)
    rng = np.random.default_rng(0)

    def steps(batches):
        """Seconds of some steps in the middle of an epoch: the first batch is ready, and another one comes after."""
        batches = iter(batches)
        batch = next(batches)
        start = time.perf_counter()
        for _ in range(STEPS):
            images, masks, _ = batch
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                logits = model(images)
            optimiser.zero_grad(set_to_none=True)
            loss(logits.float(), masks).backward()
            optimiser.step()
            batch = next(batches)
        return time.perf_counter() - start

    def plan():
        # While the last step is computed, the next batch is being made already.
        batches = STEPS + 1 + WORKERS
        return list(rng.permutation(len(tiles))[: batches * BATCH].reshape(batches, BATCH))

    memory = [sets["_plain_tiles"].batch(rows) for rows in plan()]
    candidates = {"memory": lambda: steps(memory)}
    for name, data in sets.items():
        candidates[name] = lambda data=data: steps(read_batches(data, plan(), workers=WORKERS))
    seconds = harness.interleaved(candidates, repeats=repeats)
    figures = {f"train_step_over_compute{name}": harness.ratio(seconds[name], seconds["memory"]) for name in sets}
    figures["train_step_ms"] = 1000 * statistics.median(seconds["memory"]) / STEPS
    for name, data in sets.items():
        took = []
        for rows in plan() + plan():
            start = time.thread_time()
            data.batch(rows, seeds=rows.tolist())
            took.append(time.thread_time() - start)
        figures[f"batch_ms_of_one_core{name}"] = 1000 * statistics.median(took)
    harness.report("training_feed", figures, seconds={name or "slide": took for name, took in seconds.items()})


def cohort_of(path) -> pd.DataFrame:
    """One slide with targets, at a real scan's um/px."""
    from tlskit.cohort import manifest as cohort
    from tlskit.outlines import reading as annotations

    outlines = harness.WORK / "feed.geojson"
    targets = [shapely.Point(x, y).buffer(700) for x in range(3000, 18_000, 3000) for y in range(7000, 14_000, 3000)]
    annotations.write_geojson(outlines, targets, class_name="TLS")
    row = {
        "slide_id": "feed", "patient_id": "feed", "cancer_type": "none", "slide_path": str(path),
        "annotation_path": str(outlines), "mpp_override": 0.2529, "split": "",
    }  # fmt: skip
    cohort.write_manifest(pd.DataFrame([row]), harness.WORK / "feed.csv")
    return cohort.read_manifest(harness.WORK / "feed.csv")
