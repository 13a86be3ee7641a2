"""Objects of a mask: post-processing in um, one-to-one matching with the truth, size classes, agreement.

Everything is given in um, so that it does the same to a mask of any um/px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from tlskit.errors import ParameterError
from tlskit.outlines import mask_parts

__all__ = [
    "MATCH_RULES",
    "SIZE_CLASSES",
    "agreement",
    "compare",
    "diameter_um",
    "label",
    "match",
    "object_scores",
    "post_process",
    "size_class",
]

#: Upper ends of the classes of diameter, um (diameter of the circle of the same area).
SIZE_CLASSES = (("under 100 um", 100.0), ("100-300 um", 300.0), ("over 300 um", math.inf))

#: A predicted and a true object may be a pair if their IoU reaches 0.1 or 0.5, or if the predicted object's centroid
#: lies inside the true one.
MATCH_RULES = ("iou10", "iou50", "centroid")


def diameter_um(area_um2):
    """Diameter of the circle of this area: 2 sqrt(area / pi)."""
    return 2 * np.sqrt(np.asarray(area_um2, np.float64) / math.pi)


def size_class(area_um2) -> np.ndarray:
    """Class of each area by its `diameter_um`: under 100 um, 100-300 um (both included), over 300 um."""
    diameter = diameter_um(area_um2)
    names = np.array([name for name, _ in SIZE_CLASSES], dtype=object)
    which = np.where(diameter < SIZE_CLASSES[0][1], 0, np.where(diameter <= SIZE_CLASSES[1][1], 1, 2))
    return names[which]


def post_process(
    mask: np.ndarray,
    *,
    mpp: float,
    min_area_um2: float = 1000.0,
    closing_um: float = 16.0,
    max_hole_um2: float = math.inf,
) -> np.ndarray:
    """Close gaps, fill holes and drop small objects, in this order.

    Parameters
    ----------
    mask
        ``(H, W) bool``.
    mpp
        um/px of the mask.
    min_area_um2
        Objects with a smaller area are dropped.
    closing_um
        Gaps up to about this wide are closed, by a disc of this diameter; less than a pixel does nothing.
    max_hole_um2
        Holes (8-connected background that does not reach the mask's edge) up to this area are filled; 0 fills none.

    Returns
    -------
    ndarray
        ``(H, W) bool``, a new array.
    """
    if min(min_area_um2, closing_um, max_hole_um2) < 0:
        raise ParameterError("Sizes of post-processing should not be negative (um and um2).")
    mask = np.ascontiguousarray(mask, dtype=bool)
    radius = closing_um / 2 / mpp
    if 0 < max_hole_um2 < math.inf:  # the size of a hole with an object in it is not seen from a part
        return _processed(mask, mpp, radius, min_area_um2, max_hole_um2)
    out = np.zeros_like(mask)
    for top, left, part in mask_parts(mask, reach_px=radius + 1):
        height, width = part.shape
        out[top : top + height, left : left + width] |= _processed(part, mpp, radius, min_area_um2, max_hole_um2)
    return out


def _processed(mask: np.ndarray, mpp: float, radius: float, min_area_um2: float, max_hole_um2: float) -> np.ndarray:
    """As `post_process`, of a part: distances and labels take ten times the memory of a mask."""
    if radius >= 0.5 and mask.any():
        mask = _close(mask, radius)
    if max_hole_um2 > 0 and not mask.all():
        holes, count, stats, _ = label(~mask, connectivity=8)
        at_edge = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
        fill = stats[:, cv2.CC_STAT_AREA] * mpp**2 <= max_hole_um2
        fill[at_edge] = False
        fill[0] = False
        mask = mask | fill[holes]
    if min_area_um2 > 0 and mask.any():
        labels, _, stats, _ = label(mask)
        keep = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= min_area_um2
        keep[0] = False
        mask = keep[labels]
    return mask


def _close(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """Closing with a disc: what lies within the radius of the mask, less what lies within it of the rest.

    By exact distances rather than a structuring element, so that a disc of 1.6 px differs from one of 2 px.
    """
    pad = math.ceil(radius_px) + 1
    padded = np.pad(mask, pad).view(np.uint8)
    near = cv2.distanceTransform(1 - padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius_px
    inner = cv2.distanceTransform(near.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius_px
    return inner[pad:-pad, pad:-pad] | mask


def label(mask: np.ndarray, *, connectivity: int = 4) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Connected components: pixels that share a side, as polygons along pixel edges hang together.

    One rule for what is filtered, counted, matched and written for QuPath: pixels that meet at a corner only are two
    objects in all of them.

    Returns
    -------
    labels : ndarray
        ``(H, W) int32``, 0 outside.
    count : int
        Number of components.
    stats : ndarray
        ``(count + 1, 5)`` of OpenCV: left, top, width, height, area in pixels; row 0 is the outside.
    centroids : ndarray
        ``(count + 1, 2) float64``: x, y of the mean pixel *index*; add 0.5 for the pixel-edge frame.
    """
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S
    )
    return labels, count - 1, stats, centroids


def match(quality: np.ndarray, *, minimum: float) -> list[tuple[int, int]]:
    """Pair predicted with true objects, one to one.

    The largest possible number of pairs is made; among the ways to do so, the one with the highest summed quality.

    Parameters
    ----------
    quality
        ``(n_predicted, n_truth)``, such as the IoU of each couple, in [0, 1].
    minimum
        Couples below it, and couples of quality 0, are not paired.

    Returns
    -------
    list of (predicted, truth)
        Indices.
    """
    from scipy.optimize import linear_sum_assignment

    quality = np.asarray(quality, np.float64)
    allowed = (quality >= minimum) & (quality > 0)
    rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    if not len(rows):
        return []
    # One more pair is worth more than any gain in quality: each pair counts as many as there can be pairs, plus 1.
    worth = np.where(allowed, quality + min(len(rows), len(columns)) + 1, 0)[np.ix_(rows, columns)]
    pairs = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
    return [(int(rows[r]), int(columns[c])) for r, c in pairs if worth[r, c] > 0]


def compare(mask: np.ndarray, truth: np.ndarray, *, mpp: float, mpp0: float) -> pd.DataFrame:
    """Objects of a predicted mask beside the true ones, both counted by the same rules.

    An object of either side is what hangs together in its mask (`label`). Both masks are post-processed alike before
    (`post_process`): what is closed, filled and dropped on one side is on the other, so that a prediction equal to the
    truth finds all of it.

    Parameters
    ----------
    mask, truth
        ``(H, W) bool``, post-processed, on the working lattice at `mpp` from the slide's top left.
    mpp, mpp0
        um/px of the masks, and of level 0.

    Returns
    -------
    DataFrame
        One row an object, the true ones first: kind, object_id, area_um2 (of its pixels), diameter_um, size_class,
        x_px0, y_px0 (centroid), best_iou, matched_iou10, matched_iou50, matched_centroid, false_area_um2.
    """
    mask, truth = np.asarray(mask, bool), np.asarray(truth, bool)
    if mask.shape != truth.shape:
        raise ParameterError(f"Predicted and true mask should have one shape, not {mask.shape} and {truth.shape}.")
    d = mpp / mpp0
    labels, n_predicted, stats, centroids = label(mask)
    true_labels, n_true, true_stats, true_centroids = label(truth)
    areas_px, true_areas_px = (some[1:, cv2.CC_STAT_AREA].astype(np.float64) for some in (stats, true_stats))
    both = mask & truth
    pairs_px, shared_px = np.unique(
        labels[both].astype(np.int64) * (n_true + 1) + true_labels[both], return_counts=True
    )
    shared = np.zeros((n_predicted, n_true))
    shared[pairs_px // (n_true + 1) - 1, pairs_px % (n_true + 1) - 1] = shared_px
    iou = shared / np.maximum(areas_px[:, None] + true_areas_px[None] - shared, 1)
    inside = np.zeros((n_predicted, n_true), bool)
    x, y = np.rint(centroids[1:]).astype(int).T
    at = true_labels[y, x] if n_predicted else np.zeros(0, int)
    inside[np.flatnonzero(at), at[at > 0] - 1] = True
    covered = shared.sum(axis=1)
    # Of several centroids inside one true object, the one of the larger overlap is its match.
    quality = {"iou10": (iou, 0.1), "iou50": (iou, 0.5), "centroid": (np.where(inside, 0.5 + iou / 2, 0), 0.5)}
    pairs = {rule: match(q, minimum=minimum) for rule, (q, minimum) in quality.items()}

    tables = []
    for side, kind, areas, where in (
        (1, "truth", true_areas_px * mpp**2, (true_centroids[1:] + 0.5) * d),
        (0, "predicted", areas_px * mpp**2, (centroids[1:] + 0.5) * d),
    ):
        table = pd.DataFrame({"kind": kind, "object_id": np.arange(len(areas)), "area_um2": areas})
        table["diameter_um"], table["size_class"] = diameter_um(areas), size_class(areas)
        table["x_px0"], table["y_px0"] = where[:, 0], where[:, 1]
        table["best_iou"] = iou.max(axis=1 - side, initial=0.0)
        for rule in MATCH_RULES:
            table[f"matched_{rule}"] = np.isin(table["object_id"], [pair[side] for pair in pairs[rule]])
        table["false_area_um2"] = (areas_px - covered) * mpp**2 if kind == "predicted" else float("nan")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def object_scores(
    found: pd.DataFrame, slides: pd.DataFrame, *, rule: str = "iou10", by: str | Sequence[str] = ()
) -> pd.DataFrame:
    """Objects found, missed and false, of all slides together.

    Parameters
    ----------
    found
        One row an object: slide_id, kind (``truth`` or ``predicted``), area_um2, size_class, false_area_um2 (of
        predicted
        ones: what lies in no true object), and ``matched_<rule>`` (bool).
    slides
        One row a slide, those without objects too: slide_id, patient_id, tissue_mm2.
    rule
        One of `MATCH_RULES`.
    by
        Columns to group by; both tables have them.

    Returns
    -------
    DataFrame
        Columns: those of `by`; rule, n_truth, n_predicted, n_found, recall, precision, f1, recall and number by size
        class
        (``recall_under_100_um``, ``n_under_100_um``, ...), false_objects_per_slide, false_objects_per_cm2 and
        false_area_mm2_per_mm2 (of tissue), n_slides, n_patients. 0/0 is nan.
    """
    if rule not in MATCH_RULES:
        raise ParameterError(f"`rule` should be one of {', '.join(MATCH_RULES)}, not {rule!r}.")
    by = [by] if isinstance(by, str) else list(by)
    groups = slides.groupby(by, sort=False, dropna=False) if by else [((), slides)]
    rows = []
    for key, in_group in groups:
        here = found
        for column, value in zip(by, key, strict=True):
            here = here[here[column] == value]
        truth, predicted = here[here["kind"] == "truth"], here[here["kind"] == "predicted"]
        hit_truth = truth[f"matched_{rule}"].astype(bool)
        hit = predicted[f"matched_{rule}"].astype(bool)
        row = dict(zip(by, key, strict=True)) | {
            "rule": rule,
            "n_truth": len(truth),
            "n_predicted": len(predicted),
            "n_found": int(hit_truth.sum()),
            "recall": _ratio(hit_truth.sum(), len(truth)),
            "precision": _ratio(hit.sum(), len(predicted)),
            "f1": _ratio(2 * hit_truth.sum(), len(truth) + len(predicted)),
        }
        for name, _ in SIZE_CLASSES:
            of_class = (truth["size_class"] == name).astype(bool)
            short = name.replace(" ", "_").replace("-", "_")
            row[f"recall_{short}"] = _ratio((hit_truth & of_class).sum(), of_class.sum())
            row[f"n_{short}"] = int(of_class.sum())
        tissue_mm2 = in_group["tissue_mm2"].sum()
        row["false_objects_per_slide"] = _ratio((~hit).sum(), len(in_group))
        row["false_objects_per_cm2"] = _ratio((~hit).sum(), tissue_mm2 / 100)
        row["false_area_mm2_per_mm2"] = _ratio(predicted["false_area_um2"].sum() / 1e6, tissue_mm2)
        row["n_slides"], row["n_patients"] = len(in_group), in_group["patient_id"].nunique()
        rows.append(row)
    return pd.DataFrame(rows)


def agreement(predicted: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """How well two measurements of the same slides agree.

    Parameters
    ----------
    predicted, truth
        One number a patient (or another independent unit), such as the number or the area of objects.

    Returns
    -------
    dict
        n; bias (mean of predicted - truth), sd, limit_low and limit_high (within which 95 % of new differences are
        expected: bias -+ t sd sqrt(1 + 1/n), t of n - 1 degrees of freedom, which is 1.96 only for many); concordance
        (Lin 1989: 2 s_xy / (s_x^2 + s_y^2 + (mean_x - mean_y)^2), moments over n). nan where undefined: limits of one
        unit, concordance of fewer than three or where either side does not vary.
    """
    x, y = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ParameterError(f"Expected one number a slide on both sides, found shapes {x.shape} and {y.shape}.")
    nan = float("nan")
    if not len(x):
        return {"n": 0, "bias": nan, "sd": nan, "limit_low": nan, "limit_high": nan, "concordance": nan}
    difference = x - y
    bias = float(difference.mean())
    sd = float(difference.std(ddof=1)) if len(x) > 1 else nan
    half = nan
    if len(x) > 1:
        from scipy import stats

        half = float(stats.t.ppf(0.975, len(x) - 1)) * sd * math.sqrt(1 + 1 / len(x))
    concordance = nan
    if len(x) > 2 and x.var() > 0 and y.var() > 0:
        spread = x.var() + y.var() + (x.mean() - y.mean()) ** 2
        concordance = float(2 * ((x - x.mean()) * (y - y.mean())).mean() / spread)
    return {
        "n": len(x), "bias": bias, "sd": sd, "limit_low": bias - half, "limit_high": bias + half,
        "concordance": concordance,
    }  # fmt: skip


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
