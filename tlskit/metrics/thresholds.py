"""From histograms of a probability map, by truth, to counts at every threshold: curves, calibration, the choice.

A map stores ``q = rint(255 p)``; a pixel is positive at threshold t if ``q >= cut(t)``. A slide's two histograms
(of q where there is target, and where there is none) therefore hold its counts at all 255 thresholds, and nothing
needs to be inferred again.

A *histogram table* has the columns ``slide_id patient_id ... region truth bin count``: region ``slide`` or
``tissue``, truth 0 or 1, bin 0 to 255; bins without pixels have no row. Pixels that a screen kept the network from
have no probability. They have the bin `UNSEEN`: nothing is marked there at any threshold, so that they count as
negative at each (a curve ends at the recall that can be reached where the network looked), and calibration, which asks
what a probability means, is without them.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tlskit.errors import ParameterError, RunError
from tlskit.files import write_text
from tlskit.metrics.scores import COUNTS, ratios

__all__ = [
    "UNSEEN",
    "calibration",
    "calibration_error",
    "choose_threshold",
    "counts_at",
    "counts_from_histograms",
    "cut",
    "dense",
    "joint_histogram",
    "named_thresholds",
    "pr_curve",
    "read_threshold",
    "threshold_of",
    "write_threshold",
]

log = logging.getLogger(__name__)

#: What a threshold is when nothing has been chosen.
FIXED = 0.5

#: Bin of pixels that were not looked at.
UNSEEN = -1

#: OpenCV counts in float32, which holds whole numbers up to this.
_EXACT_IN_FLOAT32 = 2**24


def cut(threshold: float) -> int:
    """Smallest stored value that is positive at a threshold: ``ceil(255 threshold)``, so 128 at 0.5."""
    if not 0 <= threshold <= 1:
        raise ParameterError(f"A threshold should lie between 0 and 1, not {threshold!r}.")
    # 255 * (7 / 255) is 7.000000000000001: such a hair must not move the cut to the next value.
    return math.ceil(threshold * 255 - 1e-9)


def threshold_of(cut_value: int) -> float:
    """A threshold whose `cut` is this stored value: ``(cut - 0.5) / 255``, halfway to the value below; 0.5 for 128."""
    return (cut_value - 0.5) / 255


def named_thresholds(threshold: float | Mapping[str, float]) -> dict[str, float]:
    """``0.5`` -> ``{"fixed": 0.5}``; a mapping such as ``{"fixed": 0.5, "validation": 0.37}`` is checked and kept.

    The names become the column ``threshold_by``: the chosen threshold differs between arms, its rule does not.
    """
    named = dict(threshold) if isinstance(threshold, Mapping) else {"fixed": threshold}
    for value in named.values():
        cut(value)
    return {str(name): float(value) for name, value in named.items()}


def joint_histogram(values: np.ndarray, code: np.ndarray, *, codes: int) -> np.ndarray:
    """Histogram of stored probabilities for each code of a pixel.

    Parameters
    ----------
    values, code
        ``(H, W) uint8``; pixels whose code is `codes` or more are not counted.
    codes
        Number of codes.

    Returns
    -------
    ndarray
        ``(codes, 256) int64``.
    """
    rows = max(1, _EXACT_IN_FLOAT32 // max(1, values.shape[1]))
    total = np.zeros((256, codes), np.int64)
    for top in range(0, len(values), rows):
        part = [values[top : top + rows], code[top : top + rows]]
        total += cv2.calcHist(part, [0, 1], None, [256, codes], [0, 256, 0, codes]).astype(np.int64)
    return total.T


def counts_at(histograms: np.ndarray, cuts: int | Sequence[int]) -> np.ndarray:
    """Counts at one or several cuts.

    Parameters
    ----------
    histograms
        ``(..., 2, 256)``: without target, with target. A 257th entry holds pixels that were not looked at: they are
        negative at every cut.
    cuts
        Smallest positive stored value(s), 0 to 256.

    Returns
    -------
    ndarray
        ``(..., len(cuts), 4) int64``: tp, fp, fn, tn.
    """
    histograms = np.asarray(histograms, np.int64)
    cuts = np.atleast_1d(np.asarray(cuts, np.int64))
    above = np.zeros((*histograms.shape[:-1], 257), np.int64)
    above[..., :256] = histograms[..., 255::-1].cumsum(axis=-1)[..., ::-1]
    positive, total = above[..., cuts], histograms.sum(axis=-1, keepdims=True)
    fp, tp = positive[..., 0, :], positive[..., 1, :]
    return np.stack([tp, fp, total[..., 1, :] - tp, total[..., 0, :] - fp], axis=-1)


def counts_from_histograms(
    histograms: pd.DataFrame, thresholds: float | Mapping[str, float] | Iterable[float], *, region: str = "slide"
) -> pd.DataFrame:
    """A counts table, one row a slide and threshold, for `tlskit.metrics.scores.score`.

    Parameters
    ----------
    histograms
        A histogram table.
    thresholds
        A number, a mapping of names to numbers, or many numbers (named by themselves, ``"0.37"``).
    region
        ``slide`` or ``tissue``.

    Returns
    -------
    DataFrame
        The id columns, threshold_by, threshold, tp, fp, fn, tn.
    """
    if not isinstance(thresholds, (Mapping, int, float)):
        thresholds = {f"{t:g}": t for t in thresholds}
    named = named_thresholds(thresholds)
    ids, by_slide = dense(histograms, region)
    counts = counts_at(by_slide, [cut(t) for t in named.values()])
    tables = [
        ids.assign(threshold_by=name, threshold=value, **dict(zip(COUNTS, counts[:, n].T, strict=True)))
        for n, (name, value) in enumerate(named.items())
    ]
    return pd.concat(tables, ignore_index=True)


def pr_curve(histograms: pd.DataFrame, *, by: str | Sequence[str] = (), region: str = "slide") -> pd.DataFrame:
    """Precision, recall, Dice and IoU of all pixels pooled, at every threshold of the stored map.

    Parameters
    ----------
    histograms
        A histogram table; slides of one group are pooled.
    by
        Columns to group by, such as ``["arm", "magnification"]``.
    region
        ``slide`` or ``tissue``.

    Returns
    -------
    DataFrame
        Columns: those of `by`; cut (1 to 255), threshold, precision, recall, dice, iou; average_precision (of the
        group: the sum of precision times the gain in recall, from the highest threshold down) and recall_at_end (recall
        at the highest stored value, where the curve ends: what of the target is stored as 255 is one point, however the
        probabilities behind it differ, so that average precision ranks no arms where this is large), recall_limit
        (share of the target that was looked at: no threshold reaches more); prevalence, n_slides.
    """
    rows = []
    for key, ids, pooled in _pooled(histograms, by, region):
        cuts = np.arange(1, 256)
        counts = counts_at(pooled, cuts)
        scores = ratios(*counts.T)
        recall = np.append(scores["recall"], 0.0)  # nothing is positive above the highest threshold
        precision = np.nan_to_num(scores["precision"], nan=0.0)
        rows.append(
            pd.DataFrame(key, index=cuts).assign(
                cut=cuts,
                threshold=threshold_of(cuts),
                **{name: scores[name] for name in ("precision", "recall", "dice", "iou")},
                average_precision=float(((recall[:-1] - recall[1:]) * precision).sum()),
                recall_at_end=float(recall[-2]),
                recall_limit=float(pooled[1, :256].sum() / pooled[1].sum()) if pooled[1].any() else float("nan"),
                prevalence=pooled[1].sum() / max(1, pooled.sum()),
                n_slides=len(ids),
            )
        )
    return pd.concat(rows, ignore_index=True)


def calibration(
    histograms: pd.DataFrame, *, n_bins: int = 10, by: str | Sequence[str] = (), region: str = "tissue"
) -> pd.DataFrame:
    """Reliability: of the pixels given about p, the share that is target; in tissue unless told.

    Parameters
    ----------
    histograms
        A histogram table; slides of one group are pooled.
    n_bins
        Bins of equal width in probability.
    by, region
        As in `pr_curve`.

    Returns
    -------
    DataFrame
        Columns: those of `by`; bin_low, bin_high, mean_probability, target_share (both nan in an empty bin), pixels,
        calibration_error (of the group: the mean of the bins' distance between the two, weighted by pixels, over all
        bins but the lowest), calibration_error_all (over all: nearly all pixels are background of a probability near 0,
        which any network gets right), unseen_pixels (of the group: not looked at, and in no bin), n_slides.
    """
    rows = []
    edges = np.linspace(0, 1, n_bins + 1)
    stored = np.arange(256) / 255
    # In whole numbers: 0.6 is 153 / 255, and as a float64 it falls on either side of a bin's edge.
    which = np.minimum(np.arange(256) * n_bins // 255, n_bins - 1)
    for key, ids, pooled in _pooled(histograms, by, region):
        pooled, unseen = pooled[:, :256], int(pooled[:, 256].sum())
        pixels = np.bincount(which, weights=pooled.sum(axis=0), minlength=n_bins)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(which, weights=pooled.sum(axis=0) * stored, minlength=n_bins) / pixels
            share = np.bincount(which, weights=pooled[1], minlength=n_bins) / pixels
        apart = np.nan_to_num(np.abs(mean - share)) * pixels
        above = pixels[1:].sum()
        error = float(apart[1:].sum() / above) if above else float("nan")
        rows.append(
            pd.DataFrame(key, index=np.arange(n_bins)).assign(
                bin_low=edges[:-1], bin_high=edges[1:], mean_probability=mean, target_share=share,
                pixels=pixels.astype(np.int64), calibration_error=error,
                calibration_error_all=float(apart.sum() / max(1.0, pixels.sum())), unseen_pixels=unseen,
                n_slides=len(ids),
            )
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def calibration_error(histograms: pd.DataFrame, *, n_bins: int = 10, region: str = "tissue") -> float:
    """Expected calibration error of all pixels pooled (Naeini et al. 2015): see `calibration`."""
    return float(calibration(histograms, n_bins=n_bins, region=region)["calibration_error_all"].iloc[0])


def choose_threshold(
    histograms: pd.DataFrame, *, rule: str = "dice", recall_floor: float = 0.9, region: str = "slide"
) -> dict:
    """Choose a threshold on validation slides.

    Parameters
    ----------
    histograms
        A histogram table **of validation slides only**; a column ``split`` with any other value is refused.
    rule
        ``dice``: the highest pooled Dice (of equals, the nearest to 0.5). ``recall``: the highest threshold whose
        pooled
        recall is at least `recall_floor`, so that the fewest false pixels are paid for it.
    recall_floor
        For the rule ``recall``.
    region
        ``slide`` or ``tissue``.

    Returns
    -------
    dict
        threshold, rule, reason (a sentence), dice, recall, precision at it, dice_at_half, n_slides, n_patients. Where
        validation holds no target the threshold is 0.5, and the reason says so.
    """
    if rule not in ("dice", "recall"):
        raise ParameterError(f"`rule` should be dice or recall, not {rule!r}.")
    if "split" in histograms and set(histograms["split"].unique()) - {"val"}:
        raise ParameterError(
            "A threshold is chosen on validation slides only; the histograms hold the sets "
            f"{', '.join(sorted(map(str, histograms['split'].unique())))}. Select the rows with split == 'val'."
        )
    curve = pr_curve(histograms, region=region) if len(histograms) else None
    if curve is None or not curve["recall"].notna().any():
        reason = "the validation slides hold no target, so that no threshold is better than another: 0.5 is kept"
        log.warning("Threshold: %s.", reason)
        row, threshold = dict.fromkeys(("dice", "recall", "precision"), float("nan")), FIXED
    else:
        distance = (curve["threshold"] - FIXED).abs()
        if rule == "dice":
            best = curve["dice"].max()
            chosen = distance[curve["dice"] >= best - 1e-12].idxmin()
            reason = f"highest pooled Dice on {curve['n_slides'].iloc[0]} validation slides"
        else:
            enough = curve.index[curve["recall"] >= recall_floor]
            chosen = enough.max() if len(enough) else curve.index[0]
            reason = f"highest threshold with a pooled recall of at least {recall_floor:g} on validation slides"
            if not len(enough):
                reason = f"no threshold reaches a recall of {recall_floor:g} on validation slides: the lowest one"
        row, threshold = curve.loc[chosen], float(curve.loc[chosen, "threshold"])
    at_half = float(curve.loc[curve["cut"] == 128, "dice"].iloc[0]) if curve is not None else float("nan")
    return {
        "threshold": threshold,
        "rule": rule if rule == "dice" else f"recall>={recall_floor:g}",
        "reason": reason,
        **{name: float(row[name]) for name in ("dice", "recall", "precision")},
        "dice_at_half": at_half,
        "n_slides": int(histograms["slide_id"].nunique()) if len(histograms) else 0,
        "n_patients": int(histograms["patient_id"].nunique()) if len(histograms) and "patient_id" in histograms else 0,
    }


def write_threshold(path: str | Path, chosen: Mapping, *, checkpoint_sha256: str = "") -> dict:
    """Freeze a choice of `choose_threshold` in a JSON file beside the checkpoint (``work/threshold.json``)."""
    values = dict(chosen) | {"checkpoint_sha256": checkpoint_sha256}
    plain = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
    write_text(path, json.dumps(plain, indent=1) + "\n")
    return values


def read_threshold(path: str | Path, *, checkpoint_sha256: str = "") -> dict[str, float]:
    """Thresholds to evaluate at: ``{"fixed": 0.5}``, and ``"validation"`` where one was frozen beside the checkpoint.

    Raises
    ------
    RunError
        If the choice was made with another checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        return {"fixed": FIXED}
    chosen = json.loads(path.read_text(encoding="utf-8"))
    if checkpoint_sha256 and chosen.get("checkpoint_sha256") not in ("", None, checkpoint_sha256):
        raise RunError(
            f"{path.name} was chosen with another checkpoint than the one beside it: delete it and choose again on the "
            "validation slides."
        )
    return {"fixed": FIXED, "validation": float(chosen["threshold"])}


def dense(histograms: pd.DataFrame, region: str = "slide") -> tuple[pd.DataFrame, np.ndarray]:
    """Ids of the slides of a histogram table, and their histograms, of one region.

    Returns
    -------
    ids : DataFrame
    dense : ndarray
        ``(N, 2, 257) int64``: without target, with target; the last entry is of pixels that were not looked at.
    """
    missing = [c for c in ("slide_id", "region", "truth", "bin", "count") if c not in histograms]
    if missing:
        raise ParameterError(f"The table of histograms lacks {', '.join(missing)}.")
    rows = histograms[histograms["region"] == region]
    if rows.empty:
        raise ParameterError(
            f"The histograms hold no row for the region {region!r}; they hold "
            f"{', '.join(map(str, histograms['region'].unique())) or 'nothing'}."
        )
    id_columns = [c for c in histograms if c not in ("region", "truth", "bin", "count")]
    slide = rows.groupby(id_columns, sort=False, dropna=False).ngroup().to_numpy()
    ids = rows[id_columns].drop_duplicates().reset_index(drop=True)
    found, bins = np.zeros((len(ids), 2, 257), np.int64), rows["bin"].to_numpy(int)
    np.add.at(
        found, (slide, rows["truth"].to_numpy(int), np.where(bins == UNSEEN, 256, bins)), rows["count"].to_numpy()
    )
    return ids, found


def _pooled(histograms: pd.DataFrame, by: str | Sequence[str], region: str):
    """For each group: its key as a dict, the ids of its slides, and its pooled histograms ``(2, 257)``."""
    by = [by] if isinstance(by, str) else list(by)
    ids, by_slide = dense(histograms, region)
    if not by:
        yield {}, ids, by_slide.sum(axis=0)
        return
    for key, group in ids.groupby(by, sort=False, dropna=False):
        yield dict(zip(by, key, strict=True)), group, by_slide[group.index].sum(axis=0)
