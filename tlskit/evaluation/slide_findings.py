"""What one map says about one slide at one threshold: scores from its histogram, and objects found, missed and false.

Made for sliders: scores need no pixel, and objects come from a level of the map's pyramid, each threshold once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tlskit.metrics import COUNTS, counts_at, cut, objects, ratios
from tlskit.outlines import Truth

if TYPE_CHECKING:
    from shapely.geometry import Polygon

    from tlskit.maps import ProbMap

__all__ = ["Findings", "level_near", "scores_at"]

#: Rule by which a predicted and a true object are a pair: see `tlskit.metrics.objects.MATCH_RULES`.
RULE = "iou10"


def scores_at(histogram: np.ndarray, threshold: float) -> dict[str, float]:
    """Counts and scores of one slide, ``tp fp fn tn accuracy dice iou recall ...``; 0/0 is nan.

    Parameters
    ----------
    histogram
        Stored values without and with target, as `tlskit.metrics.counts_at` takes them.
    threshold
        Probability from which a pixel is positive.
    """
    counts = counts_at(histogram, cut(threshold))[0]
    scores = ratios(*(counts[i : i + 1] for i in range(4)))
    return dict(zip(COUNTS, map(int, counts), strict=True)) | {name: float(v[0]) for name, v in scores.items()}


def level_near(probmap: ProbMap, mpp: float) -> tuple[int, float]:
    """The coarsest level of a map that is not coarser than `mpp`, and its um/px; level 0 if there is none."""
    level = 0
    while level + 1 < len(probmap.level_sizes_px) and probmap.mpp * 2 ** (level + 1) <= mpp * 1.001:
        level += 1
    return level, probmap.mpp * 2**level


class Findings:
    """Objects of one slide in one map, at any threshold.

    Parameters
    ----------
    probmap
        An open map; read once, at the level nearest to `goal_mpp`.
    polygons
        True objects, in level-0 px.
    mpp0
        um per level-0 px.
    goal_mpp
        um/px to look at. Objects smaller than a few of these pixels come and go; the study's own tables
        (``05_objects``) stand on a finer grid.
    min_object_um2, closing_um
        Of `tlskit.metrics.objects.post_process`.
    """

    def __init__(
        self,
        probmap: ProbMap,
        polygons: Sequence[Polygon],
        *,
        mpp0: float,
        goal_mpp: float = 8.0,
        min_object_um2: float = 1000.0,
        closing_um: float = 16.0,
    ):
        self.level, self.mpp = level_near(probmap, goal_mpp)
        self.mpp0 = mpp0
        self.polygons = list(polygons)
        self._processing = {"min_area_um2": min_object_um2, "closing_um": closing_um}
        width, height = probmap.level_sizes_px[self.level]
        self._values = probmap.read(0, 0, width, height, level=self.level)
        self._answered = probmap.marked(self._values, 0, level=self.level)
        truth = Truth(self.polygons, mpp0=mpp0)
        # The truth does not move with the threshold: its mask is drawn once.
        self._truth = objects.post_process(
            truth.at(0, 0, width, height, mpp=self.mpp), mpp=self.mpp, **self._processing
        )
        self._tables: dict[int, pd.DataFrame] = {}
        self._lock = threading.Lock()

    def mask(self, threshold: float) -> np.ndarray:
        """Predicted objects after post-processing, ``(H, W) bool`` at `mpp`."""
        return objects.post_process((self._values >= cut(threshold)) & self._answered, mpp=self.mpp, **self._processing)

    def at(self, threshold: float) -> pd.DataFrame:
        """Table of objects, as `tlskit.metrics.objects.compare` gives it, with ``ok``: whether it has its match."""
        key = cut(threshold)
        with self._lock:
            if key not in self._tables:
                table = objects.compare(self.mask(threshold), self._truth, mpp=self.mpp, mpp0=self.mpp0)
                self._tables[key] = table.assign(ok=table[f"matched_{RULE}"].astype(bool))
            return self._tables[key]

    def counts(self, threshold: float) -> dict[str, int]:
        """Number of objects: found, missed (true), false (predicted)."""
        table = self.at(threshold)
        truth, predicted = table[table["kind"] == "truth"], table[table["kind"] == "predicted"]
        return {
            "found": int(truth["ok"].sum()), "missed": int((~truth["ok"]).sum()), "false": int((~predicted["ok"]).sum())
        }  # fmt: skip

    def misses(self, threshold: float) -> pd.DataFrame:
        """True objects without a match, the largest first."""
        return self._unmatched(threshold, "truth")

    def false_alarms(self, threshold: float) -> pd.DataFrame:
        """Predicted objects without a match, the largest first."""
        return self._unmatched(threshold, "predicted")

    def _unmatched(self, threshold: float, kind: str) -> pd.DataFrame:
        table = self.at(threshold)
        return table[(table["kind"] == kind) & ~table["ok"]].sort_values("area_um2", ascending=False, kind="stable")

    def outlines(self, threshold: float) -> list[Polygon]:
        """Predicted objects as polygons in level-0 px, along pixel edges."""
        from tlskit.outlines import polygonise

        return polygonise(self.mask(threshold), mpp=self.mpp, mpp0=self.mpp0)
