"""Tables of twenty arms of three factors, from those of an archive of four."""

import itertools

import numpy as np
import pandas as pd

#: Magnification x negatives x seed.
FACTORS = list(itertools.product((1.0, 2.5, 4.0, 10.0, 20.0), (False, True), (0, 1)))


def name(magnification, negatives, seed):
    return f"{magnification:g}x_negatives{int(negatives)}_seed{seed}"


def of_twenty_arms(table: pd.DataFrame) -> pd.DataFrame:
    """Each arm's rows are those of one of the table's arms, its numbers a little moved; with the factors' columns."""
    rng, parts = np.random.default_rng(0), []
    groups = [rows for _, rows in table.groupby("arm", sort=False)]
    for n, (magnification, negatives, seed) in enumerate(FACTORS):
        rows = groups[n % len(groups)].copy()
        for column in rows.select_dtypes("float"):
            if column not in ("magnification", "threshold", "level", "grid_mpp", "margin"):
                rows[column] = rows[column] * rng.uniform(0.9, 1.0)
        factors = {"arm": name(magnification, negatives, seed), "magnification": magnification}
        parts.append(rows.assign(**factors, negatives=negatives, seed=seed))
    return pd.concat(parts, ignore_index=True)


def pairs_of_twenty_arms(differences: pd.DataFrame) -> pd.DataFrame:
    """Every pair of the twenty arms, with the numbers of some pair of `differences`."""
    pairs = itertools.combinations([name(*factors) for factors in FACTORS], 2)
    rows = differences.to_dict("records")
    return pd.DataFrame([rows[n % len(rows)] | {"first": a, "second": b} for n, (a, b) in enumerate(pairs)])
