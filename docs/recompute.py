"""The headline numbers of a run, recomputed from its archived counts without tlskit: recompute.py outputs/demo"""

import sys
from pathlib import Path

import pandas as pd

for tables in sorted(Path(sys.argv[1]).glob("*x*/tables")):
    for name in ("05_counts_per_tile", "05_grid_counts"):
        counts = pd.read_csv(tables / f"{name}.csv").query("threshold_by == 'fixed'")
        tp, fp, fn = counts[["tp", "fp", "fn"]].sum()
        iou, dice = tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)
        print(f"{tables.parent.name:>5} {name:<19} pooled IoU {iou:.4f}  Dice {dice:.4f}", end="")
        if "tile_id" in counts:  # the published way: batches of 8 tiles, an empty one counting 1
            batch = counts.reset_index(drop=True).groupby(lambda row: row // 8)[["tp", "fp", "fn"]].sum()
            print(f"  mean of batches {(batch.tp / batch.sum(axis=1)).fillna(1).mean():.4f}", end="")
        print(f"  {counts.slide_id.nunique()} slides of {counts.patient_id.nunique()} patients")
