"""A cohort to train on in seconds: dark discs on pale noise, at 10x, with its tile table."""

import numpy as np
import pandas as pd
from shapely.geometry import Point

from tlskit.outlines import reading as annotations
from tlskit.slides import tiffs


def write_cohort(folder):
    """Three slides at 10x: dark discs, outlined, on pale noise; the third is for validation."""
    rng = np.random.default_rng(0)
    rows, tiles = [], []
    for number in range(3):
        discs = [Point(x, y).buffer(rng.uniform(14, 26)) for x in range(40, 320, 64) for y in range(40, 192, 64)]
        mask = annotations.rasterise(discs, x_px=0, y_px=0, width_px=320, height_px=192, mpp=1.0, mpp0=1.0)
        image = rng.integers(190, 240, (192, 320, 3))
        image[mask] -= 90
        tiffs.write_slide(folder / f"s{number}.tiff", image.astype(np.uint8), mpp=1.0, objective_power=10)
        annotations.write_geojson(folder / f"s{number}.geojson", discs, class_name="TLS")
        rows.append(
            {
                "slide_id": f"s{number}",
                "patient_id": f"p{number}",
                "cancer_type": "lung",
                "slide_path": str(folder / f"s{number}.tiff"),
                "annotation_path": str(folder / f"s{number}.geojson"),
                "mpp_override": np.nan,
                "split": "",
            }
        )
        tiles += [
            {
                "tile_id": f"s{number}_(1,{x},{y},64,64)",
                "slide_id": f"s{number}",
                "patient_id": f"p{number}",
                "x_px0": float(x),
                "y_px0": float(y),
                "size_px0": 64.0,
                "target_fraction": 0.3,
                "use": "both",
                "split": "val" if number == 2 else "train",
            }
            for y in range(0, 129, 32 if number < 2 else 64)
            for x in range(0, 257, 64)
        ]
    return pd.DataFrame(tiles), pd.DataFrame(rows)
