"""An evaluation counted once more by other libraries: not one pixel, grid cell or object may differ."""

import json

import cv2
import made_run
import numpy as np
import pandas as pd
import pytest
import recount
import shapely
from made_cohort import manifest_row

from tlskit import evaluation, units
from tlskit.slides import slide as slides
from tlskit.slides import tiffs, tissue_mask

MPP0, SIZE = 0.5, (2604, 2201)
COUNTS = ["tp", "fp", "fn", "tn"]


def make_slide(folder, name, rng):
    """A slide with tissue in its middle, three targets (one partly on glass), and its outlines."""
    image = np.full((SIZE[1], SIZE[0], 3), 244, np.uint8)
    image[150:2000, 120:2300] = (215, 150, 190)
    tiffs.write_slide(folder / f"{name}.tif", image, mpp=MPP0, objective_power=20)
    discs = [shapely.Point(*rng.uniform(400, 1800, 2)).buffer(r) for r in rng.uniform(60, 300, 2)]
    discs.append(shapely.Point(2300, 1000).buffer(120))
    features = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(disc)),
         "properties": {"objectType": "annotation", "classification": {"name": "TLS"}}} for disc in discs
    ]  # fmt: skip
    path = folder / f"{name}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return manifest_row(name, folder / f"{name}.tif", path, patient_id=name, split="test"), shapely.union_all(discs)


def make_map(folder, name, target, mpp, rng):
    """Blobs of noise, more likely where the target is."""
    size = units.lattice_size(SIZE, MPP0, mpp)
    noise = cv2.GaussianBlur(rng.normal(0, 1, size[::-1]), (0, 0), 30 / mpp)
    truth = recount.rasterised(target, size, mpp, MPP0)
    values = 255 / (1 + np.exp(-(noise / noise.std() + 2.5 * truth - 1.2)))
    path = folder / f"{name}_{mpp:g}.tif"
    made_run.write_map(path, np.rint(values).astype(np.uint8), mpp=mpp, metadata={"mpp0": MPP0}, block_px=64)
    return str(path)


@pytest.mark.parametrize("mpp", [2.5, 10.0])
def test_another_way_of_counting_finds_the_same(tmp_path, mpp):
    rng = np.random.default_rng(int(mpp))
    made = {name: make_slide(tmp_path, name, rng) for name in "ab"}
    manifest = pd.DataFrame([row for row, _ in made.values()])
    paths = {name: make_map(tmp_path, name, target, mpp, rng) for name, (_, target) in made.items()}
    maps = pd.DataFrame({"slide_id": list(paths), "map_path": list(paths.values()), "split": "test"})
    cuts = {"fixed": 0.5, "validation": 0.31}
    whole = evaluation.evaluate_slides(maps, manifest, target_class="TLS", threshold=cuts)
    grid = evaluation.evaluate_grid(maps, manifest, target_class="TLS", threshold=cuts)
    again = []
    for name, (row, target) in made.items():
        with slides.open_slide(row["slide_path"]) as slide:
            tissue = tissue_mask(slide)
        for rule, threshold in cuts.items():
            found = recount.recounted(
                paths[name], target, tissue.mask, tissue.mpp, size_px0=SIZE, mpp0=MPP0, mpp=mpp, threshold=threshold
            )
            again.append({"slide_id": name, "threshold_by": rule} | found)
    recount.compare(pd.DataFrame(again), whole.slides, grid.counts, grid.objects_per_slide, grid.objects)
    tiles = whole.tiles.groupby(["slide_id", "threshold_by"])[COUNTS].sum()
    assert tiles.equals(whole.slides.groupby(["slide_id", "threshold_by"])[COUNTS].sum())
