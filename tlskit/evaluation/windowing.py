"""What larger windows do to the scores: measured on validation slides before they are used.

A window larger than the training tile, of which only the centre counts, needs far fewer products for the same map. But
squeeze-and-excitation averages over the whole window, so that the network is shown another context than it was trained
on. Whether that matters is a question for the trained network and the slides at hand, not for a rule.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import ParameterError, TlskitError
from tlskit.files import write_text
from tlskit.maps import inference, open_map
from tlskit.networks import engines
from tlskit.outlines import Truth, read_truth

__all__ = ["compare_windows"]

log = logging.getLogger(__name__)

_COUNTS = ("tp", "fp", "fn")


def compare_windows(
    checkpoint,
    manifest_rows: Iterable,
    out_dir,
    *,
    window_px: int,
    halo_px: int | None = None,
    threshold: float | None = None,
    missing_target: str = "error",
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 8,
    progress: bool = True,
    on_failure=None,
) -> pd.DataFrame:
    """Predict slides with the checkpoint's windows and with larger ones, and compare maps and scores.

    Parameters
    ----------
    checkpoint : models.Checkpoint
    manifest_rows : DataFrame or iterable of its rows
        Validation slides, never test slides: this is a choice made by looking at scores.
    out_dir : path
        That of the cohort's maps, where `inference.predict_cohort` looks for the result. Maps go to
        ``<out_dir>/window_<size>/<slide_id>.tif``, the result to ``<out_dir>/window_<size>.json``.
    window_px, halo_px
        See `inference.layout_for`.
    threshold : float, optional
        By default the checkpoint's.
    missing_target : str
        See `tlskit.outlines.read_targets`.
    engine, precision, device, threads, batch_size, progress
        See `inference.predict_slide`.
    on_failure : callable, optional
        Called with slide_id and exception for a slide that fails; without it the error is raised.

    Returns
    -------
    DataFrame
        One row a slide and one, "all", with the counts of all pooled: slide_id, mean_abs_dprob, max_dprob (between the
        two maps), agreement (Dice of one thresholded map with the other), dice_tile, dice_window, dice_change (window
        less tile; nan where neither truth nor map has a pixel), s_tile, s_window (wall time), speedup. The same, with
        window and halo, is in the JSON file.
    """
    if isinstance(manifest_rows, pd.DataFrame):
        manifest_rows = slide_rows(manifest_rows)
    threshold = float(checkpoint.threshold if threshold is None else threshold)
    cut = math.ceil(threshold * 255)
    sizes = {"tile": {}, "window": {"window_px": window_px, "halo_px": halo_px}}
    layouts = {name: inference.layout_for(checkpoint, **options) for name, options in sizes.items()}
    sources = {
        name: engines.EngineSource(
            checkpoint, engine=engine, precision=precision, window_px=layout.window_px, device=device, threads=threads
        )
        for name, layout in layouts.items()
    }
    out_dir = Path(out_dir)
    rows = []
    for row in manifest_rows:
        try:
            seconds, maps = {}, {}
            for name, options in sizes.items():
                with open_row(row, **inference.reading_of(checkpoint)) as slide:
                    truth = _truth_of(row, slide, checkpoint, missing_target)
                    made = inference.predict_slide(
                        checkpoint, slide, out_dir / f"window_{layouts[name].window_px}" / f"{row.slide_id}.tif",
                        slide_id=row.slide_id, engine=sources[name], batch_size=batch_size, progress=progress,
                        **options,
                    )  # fmt: skip
                seconds[f"s_{name}"], maps[name] = made.wall_s, made.path
            rows.append({"slide_id": row.slide_id, **_compare(maps, truth, cut), **seconds})
        except (TlskitError, OSError) as error:
            if on_failure is None:
                raise
            on_failure(row.slide_id, error)
    if not rows:
        raise ParameterError("No slide could be compared; `window_px` cannot be judged without validation slides.")
    counted = pd.DataFrame(rows)
    whole = counted.drop(columns="slide_id").sum(numeric_only=True).to_dict()
    whole["max"] = counted["max"].max()
    table = pd.DataFrame([_scores(row) for row in [*rows, {"slide_id": "all", **whole}]])
    record = {
        "window_px": layouts["window"].window_px,
        "halo_px": layouts["window"].halo_px,
        "tile_px": layouts["tile"].window_px,
        "tile_stride_px": layouts["tile"].stride_px,
        "threshold": threshold,
        "checkpoint_sha256": getattr(checkpoint, "sha256", ""),
        "slides": json.loads(table.to_json(orient="records")),
    }
    write_text(out_dir / f"window_{record['window_px']}.json", json.dumps(record, indent=2) + "\n")
    change = table["dice_change"].iloc[-1]
    log.info("windows of %d px change the pooled Dice by %+.4f", record["window_px"], change)
    return table


def _truth_of(row, slide, checkpoint, missing_target: str) -> Truth:
    if not row.annotation_path:
        return Truth([], mpp0=slide.mpp0)
    ignored = getattr(checkpoint, "ignore_class", "")
    return read_truth(row, slide, checkpoint.target_class, ignore_class=ignored, missing=missing_target)


def _compare(maps: dict[str, Path], truth: Truth, cut: int) -> dict:
    """Counts of two maps of one slide, band by band."""
    counts = {f"{c}_{name}": 0 for c in _COUNTS for name in maps} | {"both": 0, "n_tile": 0, "n_window": 0}
    total, largest, pixels = 0, 0, 0
    with open_map(maps["tile"]) as tile, open_map(maps["window"]) as window:
        width = tile.size_px[0]
        for (y_px, one), (_, other) in zip(tile.bands(), window.bands(), strict=True):
            target = truth.at(0, y_px, width, len(one), mpp=tile.mpp)
            counted = ~truth.ignored_at(0, y_px, width, len(one), mpp=tile.mpp)
            difference = np.abs(one.astype(np.int16) - other)
            total += int(difference.sum())
            largest = max(largest, int(difference.max()))
            pixels += difference.size
            positive = {"tile": one >= cut, "window": other >= cut}
            counts["both"] += int((positive["tile"] & positive["window"]).sum())
            for name, found in positive.items():
                counts[f"n_{name}"] += int(found.sum())
                counts[f"tp_{name}"] += int((found & target).sum())
                counts[f"fp_{name}"] += int((found & ~target & counted).sum())
                counts[f"fn_{name}"] += int((~found & target).sum())
    return {**counts, "sum": total, "max": largest, "pixels": pixels}


def _scores(counts: dict) -> dict:
    def dice(both, one, other):
        return 2 * both / (one + other) if one + other else float("nan")

    scores = {
        f"dice_{name}": dice(
            counts[f"tp_{name}"],
            counts[f"tp_{name}"] + counts[f"fp_{name}"],
            counts[f"tp_{name}"] + counts[f"fn_{name}"],
        )
        for name in ("tile", "window")
    }
    return {
        "slide_id": counts["slide_id"],
        "mean_abs_dprob": counts["sum"] / counts["pixels"] / 255,
        "max_dprob": counts["max"] / 255,
        "agreement": dice(counts["both"], counts["n_tile"], counts["n_window"]),
        **scores,
        "dice_change": scores["dice_window"] - scores["dice_tile"],
        "s_tile": counts["s_tile"],
        "s_window": counts["s_window"],
        "speedup": counts["s_tile"] / counts["s_window"],
    }
