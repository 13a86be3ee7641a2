"""How well the objects that were found are drawn: distance between boundaries, objects merged, objects split."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd

from tlskit.metrics.objects import label

__all__ = ["COVERED", "TOLERANCES_UM", "shape_table"]

#: Tolerances of the normalised surface distance, um.
TOLERANCES_UM = (20, 50, 100)

#: Share of a true object that a predicted one covers to count as meeting it, for merges and splits.
COVERED = 0.1


def shape_table(mask: np.ndarray, truth: np.ndarray, *, mpp: float) -> pd.DataFrame:
    """Of each true object: what covers it, and how far the boundaries lie apart.

    Boundaries are those of masks, so that a distance is known to about one pixel (`mpp`).

    Parameters
    ----------
    mask, truth
        ``(H, W) bool``, as `tlskit.metrics.objects.compare` takes them.
    mpp
        um/px of the masks.

    Returns
    -------
    DataFrame
        One row a true object: object_id (as of `compare`); n_predicted_on_it (predicted objects that cover `COVERED` of
        it or more: two or more split it), merged_with (other true objects that such a predicted object also meets);
        surface_mean_um (mean distance, both ways) and surface_95_um (95 % quantile) between its boundary and that of
        the predicted object that it shares most with, nsd_20_um, nsd_50_um, nsd_100_um (share of both boundaries that
        lies within this distance of the other); nan where nothing touches it.
    """
    labels, _, stats, _ = label(np.asarray(mask, bool))
    true_labels, n_true, true_stats, _ = label(np.asarray(truth, bool))
    met: list[set[int]] = []
    rows = []
    for n in range(1, n_true + 1):
        row = {"object_id": n - 1, "surface_mean_um": math.nan, "surface_95_um": math.nan}
        row |= {f"nsd_{tolerance}_um": math.nan for tolerance in TOLERANCES_UM}
        here = _box(true_stats[n])
        own = true_labels[here] == n
        shared = np.bincount(labels[here][own], minlength=1)
        shared[0] = 0
        met.append({int(k) for k in np.flatnonzero(shared >= max(1, COVERED * true_stats[n, cv2.CC_STAT_AREA]))})
        if shared.any():
            k = int(shared.argmax())
            both = _box(true_stats[n], stats[k])
            row |= _distances(true_labels[both] == n, labels[both] == k, mpp)
        rows.append(row)
    columns = ["object_id", "surface_mean_um", "surface_95_um", *(f"nsd_{t}_um" for t in TOLERANCES_UM)]
    table = pd.DataFrame(rows, columns=columns)
    table["n_predicted_on_it"] = [len(objects) for objects in met]
    owners: dict[int, int] = {}
    for k in (k for objects in met for k in objects):
        owners[k] = owners.get(k, 0) + 1
    table["merged_with"] = [max((owners[k] - 1 for k in objects), default=0) for objects in met]
    return table


def _box(*stats: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold all of some objects."""
    left, top = (min(int(s[i]) for s in stats) for i in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP))
    right = max(int(s[cv2.CC_STAT_LEFT] + s[cv2.CC_STAT_WIDTH]) for s in stats)
    bottom = max(int(s[cv2.CC_STAT_TOP] + s[cv2.CC_STAT_HEIGHT]) for s in stats)
    return slice(top, bottom), slice(left, right)


def _distances(truth: np.ndarray, predicted: np.ndarray, mpp: float) -> dict[str, float]:
    edges = [_edge(np.pad(mask, 1)) for mask in (truth, predicted)]
    to = [cv2.distanceTransform(1 - e.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * mpp for e in edges]
    apart = np.concatenate([to[1][edges[0]], to[0][edges[1]]])
    row = {"surface_mean_um": float(apart.mean()), "surface_95_um": float(np.quantile(apart, 0.95))}
    return row | {f"nsd_{t}_um": float((apart <= t).mean()) for t in TOLERANCES_UM}


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch, by a side, one outside it."""
    inner = cv2.erode(mask.view(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))).view(bool)
    return mask & ~inner
