"""How sure a score is: patients are drawn again, with replacement, the same ones for every arm.

Tiles of one slide, and slides of one patient, resemble one another; drawing them as if they were independent makes
intervals far too narrow. So whole patients are drawn. A draw is a set of weights (how often each patient was drawn),
and
all draws of a score are one matrix product of weights with the patients' sums.

Intervals are bootstrap-t (Efron and Tibshirani 1993, chapter 12): each draw's deviation is divided by that draw's own
standard error, which is linearised (every score is a smooth function of sums over patients). In simulated cohorts of 60
patients they cover as often as they say, where plain percentiles fall short. They are made on the logit scale (MCC: on
the Fisher z scale), which keeps them inside the score's range; those of differences on the plain scale. With fewer than
`FEW_PATIENTS` patients a draw's standard error means little, and percentiles are given, with a warning.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, ParameterError
from tlskit.metrics.scores import COUNTS, SCORES, ratios

__all__ = ["FEW_PATIENTS", "differences", "intervals", "patient_weights"]

#: With fewer test patients an interval is shown with a warning.
FEW_PATIENTS = 10

_POOLINGS = ("pooled", "per_patient", "per_slide")

#: Draws per matrix product: bounds the memory.
_CHUNK = 2000


def patient_weights(n_patients: int, draws: int, *, seed: int = 0) -> np.ndarray:
    """How often each patient was drawn in each draw, ``(draws, n_patients) float32``; each row sums to `n_patients`."""
    rng = np.random.default_rng(seed)
    weights = np.empty((draws, n_patients), np.float32)
    offsets = np.arange(_CHUNK)[:, None] * n_patients
    for first in range(0, draws, _CHUNK):
        rows = min(_CHUNK, draws - first)
        drawn = rng.integers(0, n_patients, (rows, n_patients)) + offsets[:rows]
        weights[first : first + rows] = np.bincount(drawn.ravel(), minlength=rows * n_patients).reshape(
            rows, n_patients
        )
    return weights


def intervals(
    counts: pd.DataFrame,
    *,
    scores: Sequence[str] = ("dice", "iou", "recall", "precision", "mcc"),
    pooling: str = "pooled",
    by: Sequence[str] = ("arm", "magnification"),
    region: str = "slide",
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Each arm's scores with intervals.

    Parameters
    ----------
    counts
        A counts table, by slide (or finer), of one split and one threshold rule.
    scores
        Some of `tlskit.metrics.scores.SCORES`.
    pooling
        ``pooled``, ``per_patient`` or ``per_slide``; empty units are left out of means (rule ``exclude``). Batches are
        made across patients, so ``batch_mean`` has no bootstrap over patients.
    by
        Columns that name an arm. All arms must stand on the same patients and slides.
    region
        ``slide`` or ``tissue``.
    draws, level, seed
        Of the bootstrap. The same seed draws the same patients.

    Returns
    -------
    DataFrame
        Columns: those of `by`; score, pooling, region, estimate, low, high, level, method, draws, n_undefined_draws
        (left
        out of the interval), n_slides, n_patients, warning (empty, or why the interval deserves caution).

    Raises
    ------
    ComparisonError
        If the arms differ in patients or slides; the message names them.
    """
    arms = _arms(counts, by=list(by), scores=scores, pooling=pooling, region=region)
    weights = patient_weights(arms[0].n_patients, draws, seed=seed)
    rows = []
    for arm in arms:
        moments = _moments(weights, arm.units)
        for name in scores:
            sample = arm.sample(name, *moments)
            low, high, method = _interval(
                sample, arm.sample(name, *arm.whole), arm.n_patients, level, scale=_scale(name)
            )
            rows.append(
                arm.key
                | {"score": name, "pooling": pooling, "region": region, "estimate": float(arm.estimate(name))}
                | {"low": low, "high": high, "level": level, "method": method, "draws": draws}
                | {"n_undefined_draws": int(np.isnan(sample[0]).sum()), "n_slides": arm.n_slides}
                | {"n_patients": arm.n_patients, "warning": _warning(arm.n_patients)}
            )
    return pd.DataFrame(rows)


def differences(
    counts: pd.DataFrame,
    *,
    scores: Sequence[str] = ("dice", "iou"),
    pooling: str = "pooled",
    by: Sequence[str] = ("arm", "magnification"),
    region: str = "slide",
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every pairwise difference between arms, paired: both arms are scored on the same drawn patients.

    Each interval stands for itself: with many pairs, some exclude 0 by chance.

    Parameters
    ----------
    counts, scores, pooling, by, region, draws, level, seed
        As in `intervals`; the first column of `by` names the arm.

    Returns
    -------
    DataFrame
        first, second (arms), score, pooling, region, difference (first - second), low, high, excludes_zero,
        share_first_better (of the draws; a tie counts half), level, method, draws, n_undefined_draws, n_pairs (of
        arms, in this
        table, for each score), n_slides, n_patients, warning.
    """
    by = list(by)
    arms = _arms(counts, by=by, scores=scores, pooling=pooling, region=region)
    weights = patient_weights(arms[0].n_patients, draws, seed=seed)
    pairs = list(itertools.combinations(arms, 2))
    rows = []
    for first, second in pairs:
        both = np.concatenate([first.units, second.units], axis=1)
        moments, whole = _moments(weights, both), _moments(np.ones((1, len(both))), both)
        for name in scores:
            sample = _sample_of_difference(first, second, name, *moments)
            observed = _sample_of_difference(first, second, name, *whole)
            low, high, method = _interval(sample, observed, first.n_patients, level, scale="plain")
            defined = sample[0][~np.isnan(sample[0])]
            better = float(((defined > 0) + 0.5 * (defined == 0)).mean()) if len(defined) else float("nan")
            rows.append(
                {"first": first.key[by[0]], "second": second.key[by[0]], "score": name, "pooling": pooling}
                | {"region": region, "difference": float(observed[0][0]), "low": low, "high": high}
                | {"excludes_zero": bool(low > 0 or high < 0), "share_first_better": better, "level": level}
                | {"method": method, "draws": draws, "n_undefined_draws": int(np.isnan(sample[0]).sum())}
                | {"n_pairs": len(pairs), "n_slides": first.n_slides, "n_patients": first.n_patients}
                | {"warning": _warning(first.n_patients)}
            )
    columns = ["first", "second", "score", "pooling", "region", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=None if rows else columns)


class _Arm:
    """One arm's sums by patient, from which any weighting of patients gives its scores and their standard errors.

    Every score is a function of sums over patients: of the four counts (``pooled``), or, for a mean, of the sum of the
    defined scores and their number.
    """

    def __init__(self, key: dict, group: pd.DataFrame, patients: np.ndarray, scores: Sequence[str], pooling: str):
        self.key, self.scores, self.pooling = key, list(scores), pooling
        self.n_patients = len(patients)
        self.n_slides = group["slide_id"].nunique() if "slide_id" in group else 0
        patient = np.searchsorted(patients, group["patient_id"].to_numpy(object))
        counts = group[list(COUNTS)].to_numpy(np.float64)
        if pooling == "per_slide":
            _, first, slide = np.unique(group["slide_id"].to_numpy(object), return_index=True, return_inverse=True)
            units = _scores_summed(_summed(counts, slide, len(first)), self.scores)
            self.units = _summed(units, patient[first], len(patients))
        else:
            self.units = _summed(counts, patient, len(patients))
            if pooling == "per_patient":
                self.units = _scores_summed(self.units, self.scores)
        # Scores do not change with the scale of the counts; squares of gigapixels would be needlessly large.
        if pooling == "pooled":
            self.units = self.units / max(1.0, self.units.sum())
        self.whole = _moments(np.ones((1, self.n_patients)), self.units)

    def estimate(self, name: str) -> float:
        return self.sample(name, *self.whole)[0][0]

    def value_and_gradient(self, name: str, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score ``(draws,)`` and its derivative by each sum ``(draws, k)``."""
        if self.pooling != "pooled":
            n, m = self.scores.index(name), len(self.scores)
            top, bottom = np.eye(2 * m)[n], np.eye(2 * m)[n + m]
        elif name in _LINEAR:
            top, bottom = (np.array(side, np.float64) for side in _LINEAR[name])
        else:
            return _mcc_and_gradient(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            below = np.where(sums @ bottom > 0, sums @ bottom, np.nan)
            value = (sums @ top) / below
            return value, (top - value[:, None] * bottom) / below[:, None]

    def sample(self, name: str, sums: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and standard error of each draw."""
        value, gradient = self.value_and_gradient(name, sums)
        return value, _standard_error(gradient, squares)


def _summed(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """Sums of rows by their owner, ``(n, k)``."""
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, owner, values)
    return sums


def _scores_summed(counts: np.ndarray, scores: list[str]) -> np.ndarray:
    """Of each unit its scores (0 where undefined), and whether they are defined, ``(n, 2 m)``."""
    of_unit = ratios(*counts.T)
    values = np.stack([of_unit[name] for name in scores], axis=1)
    return np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1)


#: Scores that are a ratio of two linear functions of (tp, fp, fn, tn).
_LINEAR = {
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "dice": ((2, 0, 0, 0), (2, 1, 1, 0)),
    "iou": ((1, 0, 0, 0), (1, 1, 1, 0)),
    "recall": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "specificity": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "precision": ((1, 0, 0, 0), (1, 1, 0, 0)),
}


def _mcc_and_gradient(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tp, fp, fn, tn = sums.T
    value = ratios(tp, fp, fn, tn)["mcc"]
    with np.errstate(divide="ignore", invalid="ignore"):
        product = np.stack([tn, -fn, -fp, tp], axis=1)
        root = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
        a, b, c, d = 1 / (tp + fp), 1 / (tp + fn), 1 / (tn + fp), 1 / (tn + fn)
        margins = np.stack([a + b, a + c, b + d, c + d], axis=1)
        return value, product / root[:, None] - value[:, None] / 2 * margins


def _sample_of_difference(first: _Arm, second: _Arm, name: str, sums: np.ndarray, squares: np.ndarray):
    k = first.units.shape[1]
    a, gradient_a = first.value_and_gradient(name, sums[:, :k])
    b, gradient_b = second.value_and_gradient(name, sums[:, k:])
    return a - b, _standard_error(np.concatenate([gradient_a, -gradient_b], axis=1), squares)


def _moments(weights: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums ``(draws, k)`` and sums of squares and products ``(draws, k, k)`` of patients' values."""
    k = units.shape[1]
    columns = np.concatenate([units, (units[:, :, None] * units[:, None, :]).reshape(len(units), k * k)], axis=1)
    chunks = range(0, len(weights), _CHUNK)
    sums = np.concatenate([weights[c : c + _CHUNK].astype(np.float64) @ columns for c in chunks])
    return sums[:, :k], sums[:, k:].reshape(-1, k, k)


def _standard_error(gradient: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Of a function of sums: the root of the summed squares of each patient's influence, gradient times values.

    The functions here do not change when all patients are counted twice, so the influences sum to 0 by themselves.
    """
    return np.sqrt(np.maximum(((gradient[:, None, :] @ squares)[:, 0, :] * gradient).sum(axis=1), 0))


def _scale(name: str) -> str:
    return "fisher" if name == "mcc" else "logit"


def _interval(
    sample: tuple[np.ndarray, np.ndarray],
    observed: tuple[np.ndarray, np.ndarray],
    n_patients: int,
    level: float,
    *,
    scale: str,
) -> tuple[float, float, str]:
    """Ends of the interval, and how it was made: ``bootstrap-t``, ``percentile`` or ``none``."""
    values, errors = sample
    # As arrays: 0/0 is then nan, which is looked for below, and not an exception.
    estimate, error = observed[0][0], observed[1][0] * np.sqrt(n_patients / max(1, n_patients - 1))
    defined = values[~np.isnan(values)]
    # Of one patient every draw is the same: no interval, rather than one of no width.
    if n_patients < 2 or np.isnan(estimate) or len(defined) < len(values) / 2:
        return float("nan"), float("nan"), "none"
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        forward, backward, slope = _SCALES[scale]
        t = (forward(values) - forward(estimate)) / (errors * slope(values))
        usable = np.isfinite(t) & (errors > 0)
    if n_patients >= FEW_PATIENTS and error > 0 and np.isfinite(forward(estimate)) and usable.mean() > 0.9:
        high, low = np.quantile(t[usable], tails)
        ends = [float(backward(forward(estimate) - q * error * slope(estimate))) for q in (low, high)]
        return ends[0], ends[1], "bootstrap-t"
    low, high = np.quantile(defined, tails)
    return float(low), float(high), "percentile"


#: Scales on which intervals are made: there, back, and the derivative there.
_SCALES = {
    "plain": (lambda v: v, lambda v: v, lambda v: np.ones_like(v)),
    "logit": (lambda v: np.log(v / (1 - v)), lambda v: 1 / (1 + np.exp(-v)), lambda v: 1 / (v * (1 - v))),
    "fisher": (np.arctanh, np.tanh, lambda v: 1 / (1 - v * v)),
}


def _arms(counts: pd.DataFrame, *, by: list[str], scores: Sequence[str], pooling: str, region: str) -> list[_Arm]:
    if pooling not in _POOLINGS:
        raise ParameterError(
            f"The bootstrap over patients knows {', '.join(_POOLINGS)}, not {pooling!r}: a batch holds tiles of "
            "several patients."
        )
    unknown = [name for name in scores if name not in SCORES]
    if unknown:
        raise ParameterError(f"Unknown score(s) {', '.join(unknown)}; known are {', '.join(SCORES)}.")
    if region == "tissue":
        counts = counts.assign(**{c: counts[f"{c}_tissue"] for c in COUNTS})
    groups = list(counts.groupby(by, sort=False)) if by else [((), counts)]
    ids = ["patient_id", "slide_id"] if "slide_id" in counts else ["patient_id"]
    first_key, first = groups[0]
    expected = set(zip(*(first[c] for c in ids), strict=True))
    for key, group in groups[1:]:
        there = set(zip(*(group[c] for c in ids), strict=True))
        if there != expected:
            differing = ", ".join("/".join(i) for i in sorted(there ^ expected)[:5])
            raise ComparisonError(
                f"The arms {first_key[0]} and {key[0]} stand on different slides ({differing}): a paired "
                "comparison needs the same patients and slides in all arms."
            )
    for column in ("split", "threshold_by", "grid_mpp"):
        if column in counts and column not in by and counts[column].nunique() > 1:
            raise ParameterError(f"The counts mix several values of `{column}`: select one of them first.")
    patients = np.array(sorted(first["patient_id"].unique()), dtype=object)
    return [_Arm(dict(zip(by, key, strict=True)), group, patients, scores, pooling) for key, group in groups]


def _warning(n_patients: int) -> str:
    if n_patients < 2:
        return "one patient: no interval can be given"
    if n_patients < FEW_PATIENTS:
        return (
            f"only {n_patients} test patients: the interval is wide because the cohort is small, and may still be "
            "too narrow"
        )
    return ""
