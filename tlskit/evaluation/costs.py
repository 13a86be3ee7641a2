"""What a magnification costs: minutes for a slide of a stated size, quality against them, and the arm one would choose.

From the archive alone, like `tlskit.evaluation.comparison`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, RunError
from tlskit.evaluation.arm_tables import ARM, collect, test_counts
from tlskit.evaluation.comparison import BOOTSTRAPPED, differences, intervals
from tlskit.evaluation.decision import decide
from tlskit.units import counted

__all__ = ["beaten_by_none", "minutes_per_slide", "pareto"]

#: What must be the same where times are put beside one another.
_SAME = ("device", "cpu", "gpu", "threads", "width_px0", "height_px0", "mpp0", "tissue_fraction")


def minutes_per_slide(run_dir: str | Path) -> pd.DataFrame:
    """Minutes that a slide of a stated size takes, by arm, as the timing notebook projected them.

    Slides of a demo or a section are no measure of a slide: times are seconds per cm2 of tissue, and minutes for one
    slide that is the same in all arms. Trainings of one arm are averaged.

    Returns
    -------
    DataFrame
        arm, magnification, minutes, minutes_min, minutes_max (from the fastest and the slowest pass), s_per_cm2 (of the
        slides that were timed), slides_per_minute, n_slides (timed), n_repeats (passes over them), slide (of the
        projection, in words), hardware (in words), engine, precision.

    Raises
    ------
    ComparisonError
        If arms were timed on other slides, another machine, or projected to another slide; it names the difference.
    """
    projected, summary = collect(run_dir, "06_projection"), collect(run_dir, "06_summary")
    stages = collect(run_dir, "06_stages")
    faults = []
    for name in _SAME:
        if name in projected and projected[name].nunique(dropna=False) > 1:
            each = projected.drop_duplicates("arm").set_index("arm")[name]
            faults.append(f"{name} differs: " + ", ".join(f"{arm} {value}" for arm, value in each.items()))
    of_slides = stages[stages["slide_id"] != ""]
    timed = of_slides.groupby("arm", sort=False)["slide_id"].agg(lambda ids: tuple(sorted(set(ids))))
    if timed.nunique() > 1:
        listed = "; ".join(f"{arm} {', '.join(ids[:3])}" for arm, ids in timed.items())
        faults.append(f"the slides that were timed differ: {listed}")
    if faults:
        raise ComparisonError("Times of these arms cannot be put beside one another: " + "; ".join(faults) + ".")
    of_all = summary[summary["slide_id"] == "all"].sort_values("warm").groupby("arm", sort=False).tail(1)
    s_per_cm2 = of_all.groupby("arm")["s_per_cm2"].mean() if "s_per_cm2" in of_all else pd.Series(dtype=float)
    passes = of_slides.groupby("arm")["repeat"].nunique()
    rows = []
    for (arm, magnification), group in projected.groupby(ARM, sort=False):
        first = group.iloc[0]
        minutes = group["minutes"].mean()
        rows.append(
            {"arm": arm, "magnification": magnification, "minutes": minutes, "minutes_min": group["minutes_low"].min()}
            | {"minutes_max": group["minutes_high"].max(), "s_per_cm2": s_per_cm2.get(arm, np.nan)}
            | {"slides_per_minute": 1 / minutes, "n_slides": len(timed.get(arm, ())), "n_repeats": passes.get(arm, 0)}
            | {"slide": slide_in_words(first), "hardware": hardware_in_words(first)}
            | {name: first.get(name, "") for name in ("engine", "precision")}
        )
    return pd.DataFrame(rows)


def slide_in_words(row: pd.Series) -> str:
    """Size of the slide that a time was projected to."""
    return (
        f"{row['width_px0']:,.0f} x {row['height_px0']:,.0f} px at {row['mpp0']:g} um/px, "
        f"{row['tissue_mm2']:.0f} mm2 of tissue"
    )


def hardware_in_words(row: pd.Series) -> str:
    """Machine that a time was measured on."""
    gpu = row.get("gpu", "")
    if row.get("device", "cpu") != "cpu" and isinstance(gpu, str) and gpu:
        return gpu
    threads = int(row.get("threads", 1))
    return f"{row.get('cpu', 'CPU')}, {counted(threads, 'thread')}"


def pareto(
    run_dir: str | Path,
    *,
    score: str = "iou",
    on: str = "grid",
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    margin: float = 0.05,
    usable: float = 0.1,
    slides: str = "same",
    split: str = "test",
) -> pd.DataFrame:
    """Quality and minutes of every arm, and which one would be chosen by the rule of `tlskit.evaluation.decision`.

    An arm without a time stays: it may be the best.

    Returns
    -------
    DataFrame
        The columns of `decision.decide` and of `minutes_per_slide` (nan without a time; n_slides is n_slides_timed, and
        n_repeats n_passes); minutes_note (why times are missing, the
        same in all rows); on_front (no other arm is both better and faster); false_mm2 (marked where there
        is no target), tissue_mm2; on, pooling, threshold_by.
    """
    options = {"on": on, "pooling": pooling, "threshold_by": threshold_by, "slides": slides, "split": split}
    quality = intervals(run_dir, scores=[score], **options)
    apart = differences(run_dir, scores=[score], **options)
    note, times = "", pd.DataFrame(columns=["arm", "minutes", "minutes_min", "minutes_max"])
    try:
        times = minutes_per_slide(run_dir)
    except (RunError, ComparisonError) as error:
        note = str(error).rstrip(".")
    front = decide(quality, apart, times.set_index("arm")["minutes"].astype(float), margin=margin, usable=usable)
    times = times.rename(columns={"n_slides": "n_slides_timed", "n_repeats": "n_passes"})
    table = front.merge(times.drop(columns="magnification", errors="ignore"), on="arm", how="left", validate="1:1")
    table = table.astype({name: float for name in ("minutes", "minutes_min", "minutes_max")})
    table["on_front"] = beaten_by_none(table["estimate"], table["minutes"])
    counts = test_counts(run_dir, BOOTSTRAPPED[on], threshold_by, slides, split)
    pixel_mm2 = (counts["grid_mpp"] if on == "grid" else counts["mpp"]) ** 2 / 1e6
    n_trainings = counts.groupby("arm")["slide_id"].agg(lambda ids: len(ids) / ids.nunique())
    table["false_mm2"] = table["arm"].map((counts["fp"] * pixel_mm2).groupby(counts["arm"]).sum() / n_trainings)
    if "tissue_mm2" in counts:
        table["tissue_mm2"] = table["arm"].map(counts.groupby("arm")["tissue_mm2"].sum() / n_trainings)
    return table.assign(minutes_note=note)


def beaten_by_none(quality: pd.Series, minutes: pd.Series) -> list[bool]:
    """Of each arm, whether no other one is as good and as fast, and better or faster; never one without a time."""
    q, cost = quality.to_numpy(float), minutes.to_numpy(float)
    return [
        bool(np.isfinite(q[n] + cost[n])) and not any((q >= q[n]) & (cost <= cost[n]) & ((q > q[n]) | (cost < cost[n])))
        for n in range(len(q))
    ]
