"""A cohort whose target can be told by the context alone, and what each kind of network makes of it.

On every site lies the same dark disc; it is the target where the ring round the site is blue, and is not where the ring
is pink. The ring begins outside the tile. So a network that sees the tile alone can at best take every disc for target.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from made_cohort import outlined_slide, tile_rows
from shapely.geometry import Point

from tlskit.networks import training
from tlskit.outlines import reading as annotations

TILE_PX, RATIO, CONTEXT_PX, MPP = 64, 4, 96, 1.0

#: A site's side, and where its ring lies, from and to its centre along either axis: px at `MPP`.
SITE_PX, RING_PX = 320, (48, 120)

#: What a network is trained as, by name.
ARMS = {
    "single": {},
    "hook": {"context_ratio": RATIO, "context_px": CONTEXT_PX},
    "H1, its own field": {"context_ratio": RATIO, "context_px": CONTEXT_PX, "context_of": "self"},
    "H2, another's": {"context_ratio": RATIO, "context_px": CONTEXT_PX, "context_of": "other"},
}


def write_oracle(folder, *, slides: int = 5, sites: tuple[int, int] = (4, 3), seed: int = 0):
    """Slides of which half of the sites hold the target, the last two for validation: tile table and manifest."""
    rng = np.random.default_rng(seed)
    rows, tiles, count = [], [], sites[0] * sites[1]
    for number in range(slides):
        width, height = (SITE_PX * n for n in sites)
        image = rng.integers(200, 240, (height, width, 3)) - [0, 30, 10]
        is_target = rng.permutation(np.arange(count) % 2 == 0)
        discs, corners = [], []
        for site in range(count):
            left, top = SITE_PX * (site % sites[0]), SITE_PX * (site // sites[0])
            y, x = np.abs(np.mgrid[0:SITE_PX, 0:SITE_PX] - (SITE_PX - 1) / 2)
            ring = (np.maximum(x, y) >= RING_PX[0]) & (np.maximum(x, y) < RING_PX[1])
            image[top : top + SITE_PX, left : left + SITE_PX][ring] -= [90, 60, 0] if is_target[site] else [0, 90, 60]
            corner = left + (SITE_PX - TILE_PX) // 2, top + (SITE_PX - TILE_PX) // 2
            radius, (dx, dy) = rng.uniform(12, 20), rng.uniform(22, TILE_PX - 22, 2)
            discs.append(Point(corner[0] + dx, corner[1] + dy).buffer(radius))
            corners.append(corner)
        drawn = annotations.rasterise(discs, x_px=0, y_px=0, width_px=width, height_px=height, mpp=MPP, mpp0=MPP)
        image[drawn] -= 80
        name = f"s{number}"
        targets = [disc for disc, holds in zip(discs, is_target, strict=True) if holds]
        rows.append(outlined_slide(folder, name, image.clip(0, 255).astype(np.uint8), targets, mpp=MPP))
        for (x, y), holds in zip(corners, is_target, strict=True):
            of_tile = {"patient_id": name, "split": "val" if number >= slides - 2 else "train", "use": "both"}
            tiles += tile_rows(name, [x], [y], TILE_PX, target_fraction=0.2 * holds, **of_tile)
    return pd.DataFrame(tiles), pd.DataFrame(rows)


def train_arm(cohort, out_path, name: str, **changes) -> training.Training:
    """One of `ARMS` on a cohort of `write_oracle`, all with the same tiles, steps and seed."""
    tiles, manifest = cohort
    settings = {
        "magnification": 10 / MPP, "tile_px": TILE_PX, "overlap": 0.0, "target_class": "TLS",
        "encoder": "efficientnet-b0", "encoder_weights": "none", "epochs": 2, "steps_per_epoch": 60, "batch_size": 4,
        "learning_rate": 3e-3, "loss": "dice_bce", "augment": True, "seed": 0, "device": "cpu", "split_hash": "",
    }  # fmt: skip
    return training.train(tiles, manifest, out_path=out_path, **(settings | ARMS[name] | changes))


def target_found(trained: training.Training) -> dict[str, float]:
    """Of the discs' pixels in validation tiles: the share taken for target where they are, and where they are not."""
    counts = trained.val_counts
    tp, fp, fn = counts[["tp", "fp", "fn"]].sum()
    without = counts[counts["tp"] + counts["fn"] == 0]
    disc_px = (tp + fn) / (len(counts) - len(without))  # on average; discs are alike with and without
    return {
        "val_iou": trained.best_val_iou,
        "found": tp / (tp + fn),
        "false_alarms": without["fp"].sum() / (disc_px * len(without)),
    }
