"""Who learns what only the context tells: ``python tests/oracle_table.py [seeds]`` trains four networks and prints.

A minute or two a network on a core; efficientnet-b0 from random weights, tiles of 64 px, contexts of 96 px at ratio 4.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pandas as pd
from made_oracle import ARMS, target_found, train_arm, write_oracle


def table(seeds: int = 3, **changes) -> pd.DataFrame:
    """One row an arm and seed: validation IoU, share of target found, share of the look-alikes taken for it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            (place := Path(folder) / str(seed)).mkdir()
            cohort = write_oracle(place, slides=6, seed=seed)
            for name in ARMS:
                trained = train_arm(cohort, place / f"{name[:2]}.pt", name, seed=seed, **changes)
                rows.append({"arm": name, "seed": seed} | target_found(trained))
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    made = table(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    means = made.groupby("arm", sort=False)[["val_iou", "found", "false_alarms"]]
    print(means.agg(["mean", "min", "max"]).round(3).to_string())
