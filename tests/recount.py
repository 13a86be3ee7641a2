"""An evaluation counted once more with other libraries: shapely, tifffile, scipy, scikit-image and pandas.

Nothing of tlskit is used here but, as given, the mask of tissue: what tissue is, is a definition and no count.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
import tifffile
from scipy import ndimage, sparse
from skimage import measure

COUNTS = ["tp", "fp", "fn", "tn"]


def polygons_of(path: Path, name: str = "TLS") -> shapely.Geometry:
    """The union of the outlines of a class in a QuPath file, level-0 px."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    features = document["features"] if isinstance(document, dict) else document
    found = [
        shapely.from_geojson(json.dumps(feature["geometry"]))
        for feature in features
        if feature["properties"].get("classification", {}).get("name") == name
    ]
    return shapely.union_all(found)


def rasterised(target: shapely.Geometry, size_px: tuple[int, int], mpp: float, mpp0: float) -> np.ndarray:
    """Pixels whose centre lies in the target, ``(H, W) bool``."""
    x, y = ((np.arange(n) + 0.5) * mpp / mpp0 for n in size_px)
    shapely.prepare(target)
    return np.stack([shapely.contains_xy(target, x, np.full(len(x), at)) for at in y])


def means_on_grid(values: np.ndarray, ratio: float, grid_px: tuple[int, int], shift: float = 1e-4) -> np.ndarray:
    """Means of a map over the pixels of a grid, by a matrix of overlaps for each axis."""

    def overlaps(n_grid: int, n_map: int) -> sparse.csr_matrix:
        edges = np.minimum(np.arange(n_grid + 1) * ratio + shift, n_map)
        rows = sparse.lil_matrix((n_grid, n_map))
        for n, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            for pixel in range(math.floor(low), min(n_map, math.ceil(high))):
                share = min(high, pixel + 1) - max(low, pixel)
                if share > 0:
                    rows[n, pixel] = share / (high - low)
        return rows.tocsr()

    across, down = overlaps(grid_px[0], values.shape[1]), overlaps(grid_px[1], values.shape[0])
    return down @ values.astype(float) @ across.T.toarray()


def on_lattice(tissue: np.ndarray, tissue_mpp: float, size_px: tuple[int, int], mpp: float) -> np.ndarray:
    """The mask of tissue under the centres of other pixels."""
    column, row = (np.floor((np.arange(n) + 0.5) * mpp / tissue_mpp).astype(int) for n in size_px)
    inside = np.zeros(size_px[::-1], bool)
    on_x, on_y = column < tissue.shape[1], row < tissue.shape[0]
    inside[np.ix_(on_y, on_x)] = tissue[np.ix_(row[on_y], column[on_x])]
    return inside


def processed(mask: np.ndarray, region: np.ndarray, mpp: float, *, least_um2=1000.0, closing_um=16.0) -> np.ndarray:
    """Objects of a mask: gaps closed, holes filled, kept inside the region, small ones dropped (before and after)."""

    def without_small(some: np.ndarray) -> np.ndarray:
        labels = measure.label(some, connectivity=1)
        keep = [one.label for one in measure.regionprops(labels) if one.area * mpp**2 >= least_um2]
        return np.isin(labels, keep)

    radius = closing_um / 2 / mpp
    if radius >= 0.5 and mask.any():
        padded = np.pad(mask, math.ceil(radius) + 1)
        near = ndimage.distance_transform_edt(~padded) <= radius
        inner = (ndimage.distance_transform_edt(near) > radius) if not near.all() else near
        cut = math.ceil(radius) + 1
        mask = inner[cut:-cut, cut:-cut] | mask
    return without_small(without_small(_filled(mask)) & region)


def _filled(mask: np.ndarray) -> np.ndarray:
    """Holes filled: background that meets no edge of the picture, pixels at a corner hanging together."""
    holes = measure.label(~mask, connectivity=2)
    at_edge = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    return mask | ((holes > 0) & ~np.isin(holes, at_edge))


def pairs(predicted: np.ndarray, truth: np.ndarray, least: float) -> int:
    """The largest number of one-to-one pairs of objects whose IoU reaches `least`."""
    labels, of_truth = measure.label(predicted, connectivity=1), measure.label(truth, connectivity=1)
    table = pd.crosstab(labels.ravel(), of_truth.ravel())
    area, true_area = table.sum(axis=1), table.sum(axis=0)
    shared = table.loc[table.index > 0, table.columns > 0]
    if shared.empty:
        return 0
    union = area[shared.index].to_numpy()[:, None] + true_area[shared.columns].to_numpy() - shared.to_numpy()
    fits = sparse.csr_matrix((shared.to_numpy() / union >= least) & (shared.to_numpy() > 0))
    return int((sparse.csgraph.maximum_bipartite_matching(fits, perm_type="column") >= 0).sum())


def recounted(
    map_path: Path, target: shapely.Geometry, tissue: np.ndarray, tissue_mpp: float, *, size_px0: tuple[int, int],
    mpp0: float, mpp: float, threshold: float, grid_mpp: float = 4.0,
) -> dict[str, float]:  # fmt: skip
    """Counts of one slide: of the map's own pixels, of the grid, of objects."""
    values = tifffile.imread(map_path)
    values = values[..., 0] if values.ndim == 3 else values
    height, width = values.shape
    truth = rasterised(target, (width, height), mpp, mpp0)
    marked = values >= math.ceil(255 * threshold - 1e-9)
    here = {f"own_{name}": n for name, n in _counts(marked, truth).items()}
    grid_px = tuple(max(1, math.floor(side * mpp0 / grid_mpp + 0.5)) for side in size_px0)
    on_grid = rasterised(target, grid_px, grid_mpp, mpp0)
    region = on_lattice(tissue, tissue_mpp, grid_px, grid_mpp) | on_grid
    positive = means_on_grid(values, grid_mpp / mpp, grid_px) >= 255 * threshold - 1e-6
    coarse = means_on_grid(truth, grid_mpp / mpp, grid_px) >= 0.5 - 1e-9
    here |= _counts(positive[region], on_grid[region])
    here |= {f"ceiling_{name}": n for name, n in _counts(coarse[region], on_grid[region]).items()}
    found, true = processed(positive & region, region, grid_mpp), processed(on_grid, region, grid_mpp)
    here |= {
        "n_predicted": measure.label(found, connectivity=1).max(),
        "predicted_mm2": found.sum() * grid_mpp**2 / 1e6,
    }
    here |= {"n_truth": measure.label(true, connectivity=1).max(), "n_found": pairs(found, true, 0.1)}
    return here | {"n_found50": pairs(found, true, 0.5)}


def _counts(marked: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    table = pd.Series(np.char.add(np.where(truth, "t", "b"), np.where(marked, "m", "-")).ravel()).value_counts()
    return {name: int(table.get(code, 0)) for name, code in {"tp": "tm", "fp": "bm", "fn": "t-", "tn": "b-"}.items()}


def iou(table: pd.DataFrame) -> float:
    """Pooled IoU of counts."""
    return table["tp"].sum() / table[["tp", "fp", "fn"]].to_numpy().sum()


def compare(again, whole, counts, of_slides, objects):
    """Compare what was counted again, by slide and rule of threshold, with the tables of an evaluation."""
    keys = ["slide_id", "threshold_by"]
    again = again.set_index(keys).sort_index()
    own = whole.set_index(keys).sort_index()[COUNTS]
    pd.testing.assert_frame_equal(again[[f"own_{c}" for c in COUNTS]].set_axis(COUNTS, axis=1), own, check_dtype=False)
    names = [*COUNTS, *(f"ceiling_{c}" for c in COUNTS)]
    pd.testing.assert_frame_equal(again[names], counts.set_index(keys).sort_index()[names], check_dtype=False)
    names = ["n_truth", "n_predicted", "predicted_mm2"]
    pd.testing.assert_frame_equal(again[names], of_slides.set_index(keys).sort_index()[names], check_dtype=False)
    truth = objects[objects["kind"] == "truth"]
    for rule, name in (("iou10", "n_found"), ("iou50", "n_found50")):
        found = truth[truth[f"matched_{rule}"].astype(bool)].groupby(keys).size().reindex(again.index, fill_value=0)
        assert found.tolist() == again[name].tolist()
    for rule, rows in again.groupby("threshold_by"):
        scored = counts[counts["threshold_by"] == rule]
        assert iou(rows) == iou(scored)
