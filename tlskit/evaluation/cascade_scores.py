"""A cascade that was run, beside its two networks alone: scores, what the approximation missed by, and minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.evaluation.cascades import PAIR, maps_of, slides_of, truth_of
from tlskit.evaluation.grid_counting import evaluate_grid
from tlskit.maps import open_map
from tlskit.metrics import objects, uncertainty

__all__ = ["approximation", "differences", "grid_counts", "minutes", "scores"]

_SCORES = ["dice", "iou", "recall", "precision"]


def grid_counts(
    run_dir: str | Path,
    manifest: pd.DataFrame,
    chosen: pd.DataFrame,
    maps: pd.DataFrame,
    *,
    threshold: float = 0.5,
    grid_mpp: float = 4.0,
    min_object_um2: float = 1000.0,
    on_failure=None,
) -> dict[str, tuple]:
    """Counts of the cascade that was run, of its fine and of its coarse network, on the same test slides.

    Parameters
    ----------
    chosen, maps
        Of `cascades.choose` and `cascades.run_cascade`.
    threshold, grid_mpp, min_object_um2, on_failure
        Of `grid_counting.evaluate_grid`.

    Returns
    -------
    dict of str to GridCounts
        By ``cascade`` and the names of the two arms.
    """
    run_dir, row = Path(run_dir), chosen[chosen["is_run"]].iloc[0]
    slides = slides_of(run_dir, row["fine"], manifest, "test")
    slides = slides[slides["slide_id"].astype(str).isin(maps["slide_id"].astype(str))]
    of = {"cascade": maps, row["fine"]: maps_of(run_dir / row["fine"]), row["coarse"]: maps_of(run_dir / row["coarse"])}
    return {
        arm: evaluate_grid(
            table[table["slide_id"].astype(str).isin(slides["slide_id"].astype(str))], slides, threshold=threshold,
            grid_mpp=grid_mpp, min_object_um2=min_object_um2, on_failure=on_failure, **truth_of(run_dir / row["fine"]),
        )
        for arm, table in of.items()
    }  # fmt: skip


def scores(counted: dict) -> pd.DataFrame:
    """The cascade and its two networks alone.

    Parameters
    ----------
    counted
        Of `grid_counts`.

    Returns
    -------
    DataFrame
        One row an arm and score (`uncertainty.intervals`: arm, score, estimate, low, high, ..., warning), and of each
        arm: object_recall, object_f1 (objects that meet by an IoU of 0.1), false_objects_per_mm2 of tissue, slides_lost
        (with a target of which nothing is found).
    """
    counts = pd.concat([grid.counts.assign(arm=arm) for arm, grid in counted.items()], ignore_index=True)
    table = uncertainty.intervals(counts, scores=_SCORES, by=["arm"])
    for arm, grid in counted.items():
        found = objects.object_scores(grid.objects, grid.objects_per_slide).iloc[0]
        lost = (grid.counts["tp"] == 0) & (grid.counts["tp"] + grid.counts["fn"] > 0)
        of_arm = {"object_recall": found["recall"], "object_f1": found["f1"], "slides_lost": int(lost.sum())}
        of_arm["false_objects_per_mm2"] = found["false_objects_per_cm2"] / 100
        table.loc[table["arm"] == arm, list(of_arm)] = list(of_arm.values())
    return table


def differences(counted: dict) -> pd.DataFrame:
    """Paired differences, the cascade less each network alone: `uncertainty.differences`."""
    counts = pd.concat([grid.counts.assign(arm=arm) for arm, grid in counted.items()], ignore_index=True)
    apart = uncertainty.differences(counts, scores=_SCORES, by=["arm"])
    return apart[apart["first"] == "cascade"].reset_index(drop=True)


def approximation(counts: pd.DataFrame, chosen: pd.DataFrame, counted: dict) -> pd.DataFrame:
    """What the maps that were there said of the cascade, beside what it did.

    Parameters
    ----------
    counts
        Of `cascades.trade_off` on test slides, at the chosen settings.
    counted
        Of `grid_counts`.

    Returns
    -------
    DataFrame
        slide_id, tp, fp, tp_run, fp_run (pixels of the grid: as expected, and as run), differing_share (of the
        positive pixels).
    """
    row = chosen[chosen["is_run"]].iloc[0]
    here = counts[(counts["coarse"] == row["coarse"]) & (counts["fine"] == row["fine"])]
    here = here[here["screen"] == row["screen"]][["slide_id", "tp", "fp"]]
    real = counted["cascade"].counts[["slide_id", "tp", "fp"]].rename(columns={"tp": "tp_run", "fp": "fp_run"})
    table = here.merge(real, on="slide_id", validate="1:1")
    moved = (table["tp"] - table["tp_run"]).abs() + (table["fp"] - table["fp_run"]).abs()
    return table.assign(differing_share=moved / (table["tp"] + table["fp"]).replace(0, np.nan))


def minutes(run_dir: str | Path, counts: pd.DataFrame) -> pd.DataFrame:
    """Minutes that the chosen cascades take for a slide, by the seconds that a window takes in 06 (warm passes).

    Parameters
    ----------
    counts
        Of `cascades.trade_off` at the chosen settings.

    Returns
    -------
    DataFrame
        coarse, fine, pair, minutes (mean of the slides, the screen's own included), minutes_screen (its part),
        minutes_full (the fine network alone), times_faster, n_slides. nan where an arm was not timed.
    """
    run_dir, rows = Path(run_dir), []
    for (coarse, fine, pair), here in counts.groupby([*PAIR, "pair"], sort=False):
        full = here[here["screen"] == "none"]
        chosen = here[here["screen"] == "map"] if (here["screen"] == "map").any() else full
        n, windows = len(full), _windows(run_dir / coarse, full["slide_id"])
        screen = windows * _window_s(run_dir / coarse) / 60 / n
        whole, looked = (t["windows"].sum() * _window_s(run_dir / fine) / 60 / n for t in (full, chosen))
        if chosen is full:
            screen = 0.0  # it looks everywhere: no screen is needed
        rows.append(
            {"coarse": coarse, "fine": fine, "pair": pair, "minutes": looked + screen, "minutes_screen": screen}
            | {"minutes_full": whole, "times_faster": whole / (looked + screen) if looked + screen else np.nan}
            | {"n_slides": n}
        )
    return pd.DataFrame(rows)


def _window_s(arm_dir: Path) -> float:
    """Seconds of the wall clock for a window, of warm passes where there are any; nan where none was timed."""
    path = arm_dir / "tables" / "06_stages.csv"
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["kind", "windows", "warm", "seconds"])
    walls = table[(table["kind"] == "wall") & (table["windows"] > 0)]
    warm = walls[walls["warm"].astype(bool)]
    timed = warm if len(warm) else walls
    return float(timed["seconds"].sum() / timed["windows"].sum()) if len(timed) else float("nan")


def _windows(arm_dir: Path, slide_ids) -> int:
    """Windows that an arm ran on some slides."""
    maps, total = maps_of(arm_dir).set_index("slide_id")["map_path"], 0
    for slide_id in slide_ids:
        with open_map(maps[str(slide_id)]) as found:
            total += int(found.metadata["windows"])
    return total
