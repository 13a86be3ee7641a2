"""Patients drawn again, with replacement, the same ones for every arm: how often would another draw choose otherwise?

A draw is a set of weights (how often each patient was drawn), and all draws of a score are one matrix product of
weights with the patients' sums. Intervals are not made from draws: see `tlskit.metrics.uncertainty` for why.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from tlskit.metrics.influence import arms_of, estimate, spread_between, t_quantile

__all__ = ["patient_weights", "redrawn", "share_best"]

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


def share_best(
    counts: pd.DataFrame,
    *,
    score: str = "iou",
    pooling: str = "pooled",
    by: Sequence[str] = ("arm", "magnification"),
    region: str = "slide",
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """In which share of draws of the patients each arm has the highest score.

    Parameters
    ----------
    counts, score, pooling, by, region
        As in `tlskit.metrics.uncertainty.intervals`.
    draws, seed
        The same seed draws the same patients.

    Returns
    -------
    DataFrame
        The columns of `by`; score, share_best (equals share the draw), draws, n_undefined_draws (of any arm: left out),
        n_patients.
    """
    arms = arms_of(counts, by=list(by), scores=[score], pooling=pooling, region=region)
    weights = patient_weights(arms[0].n_patients, draws, seed=seed)
    values = np.stack([arm.at(score, weights.astype(np.float64) @ arm.units)[0] for arm in arms])
    defined = ~np.isnan(values).any(axis=0)
    best = values[:, defined] >= values[:, defined].max(axis=0, initial=-np.inf) - 1e-12
    shares = (best / best.sum(axis=0)).mean(axis=1) if defined.any() else np.full(len(arms), np.nan)
    return pd.DataFrame(
        arm.key
        | {"score": score, "share_best": float(share), "draws": draws, "n_undefined_draws": int((~defined).sum())}
        | {"n_patients": arm.n_patients}
        for arm, share in zip(arms, shares, strict=True)
    )


def redrawn(
    counts: pd.DataFrame,
    *,
    score: str = "iou",
    pooling: str = "pooled",
    by: Sequence[str] = ("arm", "magnification"),
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Scores and differences as other draws of the patients would give them, for a rule that is put to each draw.

    A patient drawn twice counts as two patients, so that a draw shows somewhat more than as many new patients would.

    Parameters
    ----------
    counts, score, pooling, by, level
        As in `tlskit.metrics.uncertainty.intervals` and `differences`.
    draws, seed
        As in `share_best`.

    Yields
    ------
    tuple of DataFrame
        The columns of `by`, estimate, n_with_target (of the patients as they are); first, second, difference, low_all,
        high_all.
    """
    arms = arms_of(counts, by=list(by), scores=[score], pooling=pooling, region="slide")
    pairs = list(itertools.combinations(range(len(arms)), 2))
    for weights in patient_weights(arms[0].n_patients, draws, seed=seed):
        drawn = np.repeat(np.arange(len(weights)), weights.astype(int))
        of_draw = [arm.of_patients(drawn) for arm in arms]
        quality = [
            arm.key | {"estimate": arm.influence(score)[0], "n_with_target": arm.n_with_target} for arm in of_draw
        ]
        apart, lent = [], spread_between(of_draw, score)
        for first, second in pairs:
            value, se, df = estimate([(of_draw[first], 1.0), (of_draw[second], -1.0)], score, lent)
            half = t_quantile(df, 1 - (1 - level) / len(pairs)) * se if df > 0 else float("nan")
            names = {"first": arms[first].key[by[0]], "second": arms[second].key[by[0]]}
            apart.append(names | {"difference": value, "low_all": value - half, "high_all": value + half})
        yield pd.DataFrame(quality), pd.DataFrame(apart)
