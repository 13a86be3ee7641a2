"""The headline numbers of a run, recomputed from its archived counts without tlskit: recompute.py outputs/demo"""

import re
import sys
from pathlib import Path

import pandas as pd

run = Path(sys.argv[1])
# The run's own number of tiles in a batch, where its preset says one.
said = re.search(r"(?m)^batch_size: *(\d+)", (run / "run.yaml").read_text()) if (run / "run.yaml").is_file() else None
batch_size = int(said[1]) if said else 8
no_arms = ("compare", "controls", "cascade")
for tables in sorted(path for path in run.glob("*/tables") if path.parent.name not in no_arms):
    for name in ("05_counts_per_tile", "05_grid_counts"):
        if not (tables / f"{name}.csv").is_file():
            continue
        # A patient may be called NA; validation slides are counted too, and are no test.
        ids = dict.fromkeys(("slide_id", "patient_id", "split", "threshold_by"), str)
        counts = pd.read_csv(tables / f"{name}.csv", dtype=ids, keep_default_na=False)
        counts = counts[(counts["threshold_by"] == "fixed") & (counts.get("split", "test") != "val")]
        tp, fp, fn = counts[["tp", "fp", "fn"]].sum()
        iou, dice = tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)
        print(f"{tables.parent.name:>5} {name:<19} pooled IoU {iou:.4f}  Dice {dice:.4f}", end="")
        if "tile_id" in counts:  # one reading of the paper: means of batches, an empty one counting 1
            batch = counts.reset_index(drop=True).groupby(lambda row: row // batch_size)[["tp", "fp", "fn"]].sum()
            print(f"  mean of batches {(batch.tp / batch.sum(axis=1)).fillna(1).mean():.4f}", end="")
        print(f"  {counts.slide_id.nunique()} slides of {counts.patient_id.nunique()} patients")
