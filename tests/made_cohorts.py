"""Cohorts drawn at random from a population in which the arms are equal, or differ by a known amount."""

import numpy as np
import pandas as pd

from tlskit.metrics.scores import COUNTS

#: Share of patients with a target, and the spread of the size of targets (sd of its logarithm), by population.
POPULATIONS = {"even": (1.0, 0.6), "unequal": (1.0, 1.0), "few targets": (0.25, 0.7)}


def draw(population: str, n_patients: int, rng: np.random.Generator, *, n_arms: int = 4) -> np.ndarray:
    """Counts ``(n_patients, n_arms, 4)``: a hard patient is hard for all arms, and each arm has luck of its own.

    All arms are equal: in a large population they have the same scores.
    """
    share, spread = POPULATIONS[population]
    size = np.exp(rng.normal(0, spread, n_patients)) * (rng.random(n_patients) < share)
    ease = rng.beta(5, 2, n_patients)
    logit = np.log(ease / (1 - ease))[:, None] + rng.normal(0, 0.5, (n_patients, n_arms))
    tp = size[:, None] / (1 + np.exp(-logit))
    fp = rng.gamma(1.5, 0.3, n_patients)[:, None] * np.exp(rng.normal(0, 0.5, (n_patients, n_arms)))
    counts = [tp, fp, size[:, None] - tp, np.full_like(tp, 50.0)]
    return np.rint(np.stack(counts, axis=-1) * 1e5)


def table(counts: np.ndarray, names=None) -> pd.DataFrame:
    """A counts table, one slide a patient, with the columns arm and magnification."""
    names = names or [f"arm{k}" for k in range(counts.shape[1])]
    ids = [f"p{n:04d}" for n in range(len(counts))]
    parts = [
        pd.DataFrame(counts[:, k], columns=list(COUNTS)).assign(
            arm=name, magnification=float(k + 1), patient_id=ids, slide_id=ids
        )
        for k, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)
