"""How well the objects that were found are drawn: distance between boundaries, objects merged, objects split."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd

__all__ = ["COVERED", "TOLERANCES_UM", "shape_table"]

#: Tolerances of the normalised surface distance, um.
TOLERANCES_UM = (20, 50, 100)

#: Share of a true object that a predicted one covers to count as meeting it, for merges and splits.
COVERED = 0.1


def shape_table(labels: np.ndarray, polygons: list, *, mpp: float, mpp0: float, truth_at: Callable) -> pd.DataFrame:
    """Of each true object: what covers it, and how far the boundaries lie apart.

    Boundaries are those of masks, so that a distance is known to about one pixel (`mpp`).

    Parameters
    ----------
    labels
        Predicted objects, ``(H, W) int``, 0 outside, on the lattice at `mpp` from the slide's top left.
    polygons
        True objects, in level-0 px.
    mpp, mpp0
        um/px of the labels, and of level 0.
    truth_at
        As in `tlskit.metrics.objects.compare`.

    Returns
    -------
    DataFrame
        One row a true object: object_id; n_predicted_on_it (predicted objects that cover `COVERED` of it or more: two
        or more split it), merged_with (other true objects that share one of those with it);
        surface_mean_um (mean distance, both ways) and surface_95_um (95 % quantile) between its boundary and that of
        the predicted object that it shares most with, nsd_20_um, nsd_50_um, nsd_100_um (share of both boundaries that
        lies within this distance of the other); nan where nothing touches it.
    """
    height, width = labels.shape
    d = mpp / mpp0
    met: list[set[int]] = []
    rows = []
    boxes = _boxes(labels)
    for n, polygon in enumerate(polygons):
        row = {"object_id": n, "surface_mean_um": math.nan, "surface_95_um": math.nan}
        row |= {f"nsd_{tolerance}_um": math.nan for tolerance in TOLERANCES_UM}
        x0, y0, x1, y1 = (v / d for v in polygon.bounds)
        left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
        right, bottom = min(width, math.ceil(x1)), min(height, math.ceil(y1))
        met.append(set())
        if left < right and top < bottom:
            truth = truth_at(left, top, right - left, bottom - top, mpp=mpp, only=n)
            shared = np.bincount(labels[top:bottom, left:right][truth])
            shared[:1] = 0
            met[-1] = {int(k) for k in np.flatnonzero(shared >= max(1, COVERED * truth.sum()))}
            if shared.any():
                k = int(shared.argmax())
                l2, t2, w2, h2 = boxes[k]
                box = min(left, l2), min(top, t2), max(right, l2 + w2), max(bottom, t2 + h2)
                whole = truth_at(box[0], box[1], box[2] - box[0], box[3] - box[1], mpp=mpp, only=n)
                predicted = labels[box[1] : box[3], box[0] : box[2]] == k
                row |= _distances(whole, predicted, mpp)
        rows.append(row)
    table = pd.DataFrame(rows, columns=["object_id", "surface_mean_um", "surface_95_um"] if not rows else None)
    table["n_predicted_on_it"] = [len(here) for here in met]
    owners: dict[int, int] = {}
    for here in met:
        for k in here:
            owners[k] = owners.get(k, 0) + 1
    table["merged_with"] = [max((owners[k] - 1 for k in here), default=0) for here in met]
    return table


def _boxes(labels: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Left, top, width, height of each label, by its number."""
    from scipy import ndimage

    found = ndimage.find_objects(labels)
    boxes = [(s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) if s else () for s in found]
    return [(), *boxes]


def _distances(truth: np.ndarray, predicted: np.ndarray, mpp: float) -> dict[str, float]:
    edges = [_edge(np.pad(mask, 1)) for mask in (truth, predicted)]
    if not all(edge.any() for edge in edges):
        return {}
    to = [cv2.distanceTransform(1 - e.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * mpp for e in edges]
    apart = np.concatenate([to[1][edges[0]], to[0][edges[1]]])
    row = {"surface_mean_um": float(apart.mean()), "surface_95_um": float(np.quantile(apart, 0.95))}
    return row | {f"nsd_{t}_um": float((apart <= t).mean()) for t in TOLERANCES_UM}


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch, by a side, one outside it."""
    inner = cv2.erode(mask.view(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))).view(bool)
    return mask & ~inner
