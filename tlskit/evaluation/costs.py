"""What a magnification costs: minutes per slide, quality against them, and the arm that one would choose.

From the archive alone, like `tlskit.evaluation.comparison`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tlskit import units
from tlskit.errors import RunError
from tlskit.evaluation.arm_tables import ARM, collect
from tlskit.evaluation.comparison import differences, intervals
from tlskit.metrics import published

__all__ = ["choice", "minutes_per_slide", "pareto"]

#: Names under which a timing table may keep the time that passed, beside its stages.
_WALL = ("wall", "total")


def minutes_per_slide(run_dir: str | Path) -> pd.DataFrame:
    """Minutes that one slide takes, by arm, from the timing notebook.

    A slide's time is the median of its warm passes (the first pass warms the machine up; it counts where it is the only
    one), by the wall clock where it was kept, else the sum of the stages. The spread is over slides.

    Returns
    -------
    DataFrame
        arm, magnification, minutes (mean over slides), minutes_median, minutes_q25, minutes_q75, minutes_min,
        minutes_max, slides_per_minute, n_slides, n_repeats.
    """
    stages = collect(run_dir, "06_stages")
    whole = stages[stages["stage"].isin(_WALL)]
    # Stages run side by side: where the wall clock was kept, their sum is not the time that passed.
    stages = whole if len(whole) else stages
    if "repeat" not in stages:
        stages = stages.assign(repeat=0)
    if "warm" not in stages:
        stages = stages.assign(warm=stages["repeat"] > stages.groupby([*ARM, "slide_id"])["repeat"].transform("min"))
    seconds = stages.groupby([*ARM, "slide_id", "repeat", "warm"], sort=False)["seconds"].sum().reset_index()
    has_warm = seconds.groupby([*ARM, "slide_id"], sort=False)["warm"].transform("any")
    timed = seconds[seconds["warm"] | ~has_warm]
    minutes = timed.groupby([*ARM, "slide_id"], sort=False)["seconds"].median().div(60)
    by_arm = minutes.groupby(level=ARM, sort=False)
    table = pd.DataFrame({"minutes": by_arm.mean(), "minutes_median": by_arm.median()})
    table["minutes_q25"], table["minutes_q75"] = by_arm.quantile(0.25), by_arm.quantile(0.75)
    table["minutes_min"], table["minutes_max"] = by_arm.min(), by_arm.max()
    table["slides_per_minute"] = 1 / table["minutes"]
    table["n_slides"] = by_arm.size()
    table["n_repeats"] = timed.groupby(ARM, sort=False)["repeat"].nunique()
    return table.reset_index()


def pareto(
    run_dir: str | Path,
    *,
    score: str = "iou",
    on: str = "grid",
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    margin: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
    slides: str = "same",
) -> pd.DataFrame:
    """Quality against minutes per slide, and the arm that one would choose.

    Chosen is the fastest arm that is shown to be at most `margin` worse than the best one: the whole 95 % interval of
    the paired difference lies above ``-margin``. Where too few patients leave no faster arm shown to be so, the best
    stays.

    Returns
    -------
    DataFrame
        arm, magnification, score, estimate, low, high, the columns of `minutes_per_slide`, on_front (no other arm is
        both better and faster), difference_to_best, difference_low, difference_high, within_margin, chosen, margin, on,
        pooling, threshold_by, n_patients, warning.
    """
    options = {
        "on": on,
        "pooling": pooling,
        "threshold_by": threshold_by,
        "draws": draws,
        "seed": seed,
        "slides": slides,
    }
    quality = intervals(run_dir, scores=[score], **options)
    apart = differences(run_dir, scores=[score], **options)
    table = quality.drop(columns=["n_slides"]).merge(minutes_per_slide(run_dir), on=ARM, how="inner", validate="1:1")
    if table.empty or table["estimate"].isna().all():
        raise RunError(f"No arm of the run {Path(run_dir).name} has both a score on whole slides and a time.")
    q, minutes = table["estimate"].to_numpy(), table["minutes"].to_numpy()
    table["on_front"] = [
        not np.isnan(q[n]) and not any((q >= q[n]) & (minutes <= minutes[n]) & ((q > q[n]) | (minutes < minutes[n])))
        for n in range(len(table))
    ]
    best = table.loc[table["estimate"].idxmax(), "arm"]
    to_best = [_difference(apart, arm, best) for arm in table["arm"]]
    table["difference_to_best"], table["difference_low"], table["difference_high"] = zip(*to_best, strict=True)
    table["within_margin"] = (table["arm"] == best) | (table["difference_low"] > -margin)
    candidates = table[table["within_margin"]]
    table["chosen"] = table["arm"] == candidates.loc[candidates["minutes"].idxmin(), "arm"]
    return table.assign(margin=margin)


def choice(front: pd.DataFrame) -> str:
    """The chosen arm of `pareto` in words, with the reason."""
    chosen = front[front["chosen"]].iloc[0]
    best = front.loc[front["estimate"].idxmax()]
    name = {"iou": "IoU", "mcc": "MCC"}.get(chosen["score"], chosen["score"].capitalize())
    low, high = published.PERSON_MINUTES_PER_SLIDE
    text = f"{chosen['arm']}: {name} {_with_interval(chosen)}, {units.minutes_text(chosen['minutes'])} a slide"
    person = "less than" if chosen["minutes"] < low else "as long as" if chosen["minutes"] <= high else "longer than"
    text += f" ({person} the {low:g}-{high:g} min of a person). "
    if chosen["arm"] == best["arm"]:
        faster = front[front["minutes"] < chosen["minutes"]]
        text += "It has the best score"
        if len(faster):
            text += (
                f", and no faster arm is shown to be at most {chosen['margin']:g} worse "
                f"(the whole 95 % interval of the paired difference would have to lie above -{chosen['margin']:g})."
            )
        else:
            text += " and is the fastest."
    else:
        text += (
            f"The best score is that of {best['arm']} "
            f"({_with_interval(best)}, {units.minutes_text(best['minutes'])}), but "
            f"{chosen['arm']} is {best['minutes'] / chosen['minutes']:.1f} times as fast and at most "
            f"{chosen['margin']:g} worse: paired difference {chosen['difference_to_best']:+.3f} "
            f"(95 % interval {chosen['difference_low']:+.3f} to {chosen['difference_high']:+.3f})."
        )
    if isinstance(chosen["warning"], str) and chosen["warning"]:
        text += f" Caution: {chosen['warning']}."
    return text


def _difference(apart: pd.DataFrame, arm: str, best: str) -> tuple[float, float, float]:
    if arm == best:
        return 0.0, 0.0, 0.0
    row = apart[(apart["first"] == arm) & (apart["second"] == best)]
    if len(row):
        return tuple(float(v) for v in row.iloc[0][["difference", "low", "high"]])
    row = apart[(apart["first"] == best) & (apart["second"] == arm)].iloc[0]
    return -float(row["difference"]), -float(row["high"]), -float(row["low"])


def _with_interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return f"{row['estimate']:.3f} (no interval)"
    return f"{row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
