"""A cohort to train on in seconds: dark discs on pale pink noise, at 10x, with its tile table."""

import numpy as np
import pandas as pd
from made_cohort import outlined_slide, tile_rows
from shapely.geometry import Point

from tlskit.outlines import reading as annotations


def write_cohort(folder, seed=0):
    """Three slides at 10x: dark discs, outlined, on pale pink noise; the third is for validation."""
    rng = np.random.default_rng(seed)
    rows, tiles = [], []
    for number in range(3):
        discs = [Point(x, y).buffer(rng.uniform(14, 26)) for x in range(40, 320, 64) for y in range(40, 192, 64)]
        mask = annotations.rasterise(discs, x_px=0, y_px=0, width_px=320, height_px=192, mpp=1.0, mpp0=1.0)
        image = rng.integers(190, 240, (192, 320, 3)) - [0, 40, 10]  # grey pictures are refused as stained slides
        image[mask] -= 90
        rows.append(outlined_slide(folder, f"s{number}", image.astype(np.uint8), discs, mpp=1.0))
        split, step = ("train", 32) if number < 2 else ("val", 64)
        of_tile = {"patient_id": f"p{number}", "split": split, "target_fraction": 0.3, "use": "both"}
        tiles += tile_rows(f"s{number}", range(0, 257, 64), range(0, 129, step), 64, **of_tile)
    return pd.DataFrame(tiles), pd.DataFrame(rows)
