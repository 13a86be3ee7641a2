"""Arms as sums by patient: a score of them, each patient's influence on it, and its standard error.

`tlskit.metrics.uncertainty` says what is made of it, and where the formulas come from.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, ParameterError
from tlskit.metrics.scores import COUNTS, SCORES, ratios

__all__ = ["NEED_TARGET", "POOLINGS", "Arm", "arms_of", "estimate", "spread_between", "summed", "t_quantile"]

POOLINGS = ("pooled", "per_patient", "per_slide")

#: Scores that only patients with a target tell something about.
NEED_TARGET = ("dice", "iou", "recall", "precision", "mcc")


def arms_of(
    counts: pd.DataFrame, *, by: list[str], scores: Sequence[str], pooling: str, region: str, repeat: str = "seed"
) -> list[Arm]:
    """The arms of a counts table, all on the same patients and slides; parameters as in `uncertainty.intervals`.

    Raises
    ------
    ComparisonError
        If arms, or trainings of one arm, stand on different slides.
    ParameterError
        If a score or pooling is unknown, or the table mixes sets, thresholds or grids.
    """
    if pooling not in POOLINGS:
        raise ParameterError(
            f"Intervals over patients know {', '.join(POOLINGS)}, not {pooling!r}: a batch holds tiles of several "
            "patients."
        )
    unknown = [name for name in scores if name not in SCORES]
    if unknown:
        raise ParameterError(f"Unknown score(s) {', '.join(unknown)}; known are {', '.join(SCORES)}.")
    if region == "tissue":
        counts = counts.assign(**{c: counts[f"{c}_tissue"] for c in COUNTS})
    for column in ("split", "threshold_by", "grid_mpp"):
        if column in counts and column not in by and counts[column].nunique() > 1:
            raise ParameterError(f"The counts mix several values of `{column}`: select one of them first.")
    groups = list(counts.groupby(by, sort=False)) if by else [((), counts)]
    ids = ["patient_id", "slide_id"] if "slide_id" in counts else ["patient_id"]
    first_key, first = groups[0]
    expected = set(zip(*(first[c] for c in ids), strict=True))
    patients = np.array(sorted(first["patient_id"].unique()), dtype=object)
    arms = []
    for key, group in groups:
        parts = (
            [part for _, part in group.groupby(repeat, dropna=False)]
            if repeat in group and repeat not in by
            else [group]
        )
        for part in parts:
            there = set(zip(*(part[c] for c in ids), strict=True))
            if there != expected:
                differing = ", ".join("/".join(map(str, i)) for i in sorted(there ^ expected, key=str)[:5])
                names = " ".join(map(str, first_key[:1])), " ".join(map(str, key[:1]))
                what = f"The arms {' and '.join(names)}" if names[0] != names[1] else f"The trainings of {names[0]}"
                raise ComparisonError(
                    f"{what} stand on different slides ({differing}): a paired comparison needs the same patients "
                    "and slides in all arms."
                )
        arm = Arm(dict(zip(by, key, strict=True)), group, patients, scores, pooling)
        if len(parts) > 1:
            arm.repeats = [Arm(arm.key, part, patients, scores, pooling) for part in parts]
        arms.append(arm)
    return arms


def _once(method: Callable) -> Callable:
    """Kept by score with the arm: every pair of arms, and every draw of the patients, asks for it again."""

    @functools.wraps(method)
    def asked(self: Arm, name: str):
        key = (method.__name__, name)
        if key not in self._known:
            self._known[key] = method(self, name)
        return self._known[key]

    return asked


class Arm:
    """One arm's sums by patient, from which its scores and the patients' influence on them follow.

    Every score is a function of sums over patients: of the four counts (``pooled``), or, for a mean, of the sum of the
    defined scores and their number.
    """

    def __init__(self, key: dict, group: pd.DataFrame, patients: np.ndarray, scores: Sequence[str], pooling: str):
        self.key, self.scores, self.pooling = key, list(scores), pooling
        self.n_patients = len(patients)
        self.n_slides = group["slide_id"].nunique() if "slide_id" in group else 0
        self.n_folds = group["fold"].nunique() if "fold" in group else 0
        patient = np.searchsorted(patients, group["patient_id"].to_numpy(object))
        counts = group[list(COUNTS)].to_numpy(np.float64)
        with_target = summed(counts, patient, len(patients))[:, [0, 2]].sum(axis=1) > 0
        self.n_with_target = int(with_target.sum())
        if pooling == "per_slide":
            _, first, slide = np.unique(group["slide_id"].to_numpy(object), return_index=True, return_inverse=True)
            units = _scores_summed(summed(counts, slide, len(first)), self.scores)
            self.units = summed(units, patient[first], len(patients))
        else:
            self.units = summed(counts, patient, len(patients))
            if pooling == "per_patient":
                self.units = _scores_summed(self.units, self.scores)
        # Scores do not change with the scale of the counts; squares of gigapixels would be needlessly large.
        if pooling == "pooled":
            self.units = self.units / max(1.0, self.units.sum())
        self.repeats: list[Arm] = []
        self._known: dict[tuple[str, str], object] = {}  # of `_once`

    def of_patients(self, drawn: np.ndarray) -> Arm:
        """The arm with the patients of these indices."""
        of_draw = copy.copy(self)
        of_draw.units, of_draw._known = self.units[drawn], {}
        of_draw.repeats = [training.of_patients(drawn) for training in self.repeats]
        return of_draw

    @property
    def n_repeats(self) -> int:
        return max(1, len(self.repeats))

    @_once
    def repeat_sd(self, name: str) -> float:
        """Standard deviation of the score between trainings."""
        values = [float(of_one.at(name, of_one.units.sum(axis=0)[None])[0][0]) for of_one in self.repeats]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def at(self, name: str, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score ``(draws,)`` of sums ``(draws, k)``, and its derivative by each of them ``(draws, k)``."""
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

    @_once
    def influence(self, name: str) -> tuple[float, np.ndarray, np.ndarray]:
        """Score, and of each patient its influence and its share of the denominator, ``(n_patients,)``.

        The functions here do not change when all patients are counted twice, so the influences sum to 0 by themselves.
        MCC has no one denominator: the share is that of IoU, of what is target or marked.
        """
        value, gradient = self.at(name, self.units.sum(axis=0)[None])
        if self.pooling != "pooled":
            weight = self.units[:, self.scores.index(name) + len(self.scores)]
        else:
            weight = self.units @ np.array(_LINEAR.get(name, _LINEAR["iou"])[1], np.float64)
        total = weight.sum()
        share = weight / total if total > 0 else np.full(len(weight), np.nan)
        return float(value[0]), self.units @ gradient[0], share


def summed(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """Sums of rows by their owner, ``(n, k)``."""
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, owner, values)
    return sums


def spread_between(arms: Iterable[Arm], name: str) -> tuple[float, int]:
    """Variance of a score between trainings of one arm, over all arms that have several, and its degrees of freedom."""
    found = [(arm.repeat_sd(name) ** 2, arm.n_repeats - 1) for arm in arms if arm.n_repeats > 1]
    found = [(variance, df) for variance, df in found if np.isfinite(variance)]
    df = sum(df for _, df in found)
    return (sum(variance * df for variance, df in found) / df if df else float("nan")), df


def estimate(parts: list[tuple[Arm, float]], name: str, lent: tuple[float, int]) -> tuple[float, float, float]:
    """Weighted sum of arms' scores, its standard error, and degrees of freedom; df 0 where there is no interval."""
    found = [(*arm.influence(name), weight) for arm, weight in parts]
    value = sum(weight * score for score, _, _, weight in found)
    influence = sum(weight * psi for _, psi, _, weight in found)
    share = sum(abs(weight) * h for _, _, h, weight in found) / sum(abs(weight) for *_, weight in found)
    if not np.isfinite(value) or not np.isfinite(share).all() or share.max() > 1 - 1e-9:
        return float(value), float("nan"), 0.0
    variance = float((influence**2 / (1 - share)).sum())
    q = share**2 / (1 - share)
    df = 1 / float((share**2).sum() + q.sum() ** 2 - (q**2).sum())
    several = [(weight**2 * arm.repeat_sd(name) ** 2 / arm.n_repeats, arm.n_repeats - 1) for arm, weight in parts
               if arm.n_repeats > 1]  # fmt: skip
    between = sum(v for v, _ in several if np.isfinite(v))
    own = sum(n for _, n in several)
    once = sum(weight**2 for arm, weight in parts if arm.n_repeats == 1)
    if once and lent[1]:
        between, own = between + once * lent[0], lent[1]
    if between > 0:
        # Satterthwaite: each part of the variance is as sure as its own degrees of freedom.
        df = (variance + between) ** 2 / (variance**2 / df + between**2 / own)
        variance += between
    return float(value), float(np.sqrt(variance)), df


def t_quantile(df: float, level: float) -> float:
    from scipy import special

    # Below 1 the tails have no end that a table of scores could show.
    return float(special.stdtrit(max(1.0, df), (1 + level) / 2))


def _scores_summed(counts: np.ndarray, scores: list[str]) -> np.ndarray:
    """Of each unit its scores (0 where undefined), and whether they are defined, ``(n, 2 m)``."""
    of_unit = ratios(*counts.T)
    without = counts[:, 0] + counts[:, 2] == 0
    # Means of these are over the units with a target: the same ones in every arm (`tlskit.metrics.scores`).
    values = [np.where(without & (name in NEED_TARGET), np.nan, of_unit[name]) for name in scores]
    values = np.stack(values, axis=1)
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
