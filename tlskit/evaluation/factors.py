"""Arms as combinations of factors: what each arm changes, and which arms differ in one thing alone.

The *plain condition* is that of the first arm in the preset, magnification apart. A *control* is an arm that differs
from it in something else than its magnification, named by what differs. Trainings of one arm, which differ in seed or
fold alone, are one arm here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError
from tlskit.evaluation.arm_tables import REPEATS, arms, collect, parted, test_counts
from tlskit.units import mpp_for_magnification

__all__ = [
    "CONTEXT", "PLAIN", "alike", "arm_factors", "first_square", "grid_counts", "mates", "named_controls", "square",
    "trainings",
]  # fmt: skip

#: How the condition that no control changes is called.
PLAIN = "plain"

#: Factors of context in the network; without a ratio the others say nothing.
CONTEXT = ("context_ratio", "context_of", "context_px", "context_loss_weight")

#: Columns of `arm_factors` that are no factor of their own.
_NOT_FACTORS = ("arm", "magnification", "field_um", "control", "n_trainings", "n_planned")


def arm_factors(run_dir: str | Path) -> pd.DataFrame:
    """The arms of a run, their factors, and what each changes.

    Returns
    -------
    DataFrame
        One row an arm, in the order of the preset: arm, magnification, control (`PLAIN`, or what differs from the
        preset's first arm), each factor of ``arms.csv``, field_um (what a tile covers) where `tile_px` is a factor, and
        n_trainings, n_planned: how many of its trainings have tables, and how many the preset has.

    Raises
    ------
    ComparisonError
        If the run has no ``arms.csv``: which factors its arms have is then not known.
    """
    path = Path(run_dir) / "arms.csv"
    if not path.is_file():
        raise ComparisonError(
            f"The run {Path(run_dir).name} has no arms.csv, so that the factors of its arms are not known: run it by "
            "`tlskit sweep`, which writes it."
        )
    planned = pd.read_csv(path)
    table, there = named_controls(planned), arms(run_dir)["variant"].value_counts()
    every = _variants(planned).value_counts()
    return table.assign(n_trainings=table["arm"].map(there).fillna(0).astype(int), n_planned=table["arm"].map(every))


def _variants(table: pd.DataFrame) -> pd.Series:
    """The arm that each training belongs to: ``4x_seed=1_tile_px=64`` -> ``4x_tile_px=64``."""
    return table["arm"].map(lambda name: parted(name)[0])


def grid_counts(run_dir: str | Path, *, threshold_by: str = "validation", slides: str = "same") -> pd.DataFrame:
    """Counts of the test slides on the common grid, all arms and trainings, each at its own threshold.

    Parameters
    ----------
    run_dir
        Folder of the run.
    threshold_by
        ``fixed`` or ``validation``: a control may change how sure a network is, and not what it knows.
    slides
        Of `arm_tables.check_arms`.
    """
    return test_counts(run_dir, "05_grid_counts", threshold_by, slides)


def trainings(run_dir: str | Path, factors: pd.DataFrame) -> pd.DataFrame:
    """What each arm was trained on, as measured, means over its trainings.

    Parameters
    ----------
    run_dir
        Folder of the run.
    factors
        Of `arm_factors`.

    Returns
    -------
    DataFrame
        arm, magnification, control, n_trainings, steps (all epochs together), gradient_tiles (tiles in batches that
        the loss learns from), empty_batches (share of batches without target), negative_to_positive (pixels), val_iou
        (of the epoch that was kept).
    """
    history = collect(run_dir, "03_history")
    repeats = [name for name in REPEATS if name in history]
    rows = []
    for (arm, *_), one in history.groupby(["arm", *repeats], sort=False, dropna=False):
        steps = int(one["steps"].max())
        kept = one[one["best"].astype(str) == "True"]
        rows.append(
            {"arm": arm, "steps": steps, "gradient_tiles": one["gradient_tiles"].sum()}
            | {"empty_batches": one["empty_batches"].sum() / steps if steps else np.nan}
            | {"negative_to_positive": one["negative_to_positive"].mean()}
            | {"val_iou": kept["val_iou"].mean() if len(kept) else np.nan}
        )
    table = pd.DataFrame(rows)
    means = table.groupby("arm", sort=False).mean().assign(n_trainings=table.groupby("arm").size()).reset_index()
    columns = ["n_trainings", "steps", "gradient_tiles", "empty_batches", "negative_to_positive", "val_iou"]
    return factors[["arm", "magnification", "control"]].merge(means[["arm", *columns]], on="arm", how="inner")


def named_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Of ``arms.csv`` one row an arm, trainings together, with the column control; see `arm_factors`.

    Tiles of another size that cover the same field at several magnifications are the control ``field 160 um``.
    """
    table = table.assign(arm=_variants(table))
    table = table.drop(columns=[name for name in REPEATS if name in table]).drop_duplicates("arm", ignore_index=True)
    if "tile_px" in table:
        table["field_um"] = [
            px * mpp_for_magnification(m) for px, m in zip(table["tile_px"], table["magnification"], strict=True)
        ]
    names = [name for name in table if name not in _NOT_FACTORS]
    first = table.iloc[0]
    labels = []
    for row in table.to_dict("records"):
        differing = [name for name in names if not _same(row[name], first[name])]
        if "negatives_per_batch" in differing and row.get("positive_pixels", 0) > 0:
            differing.remove("negatives_per_batch")  # the share of target says how many tiles without target there are
        if row.get("context_ratio") == 0:
            differing = [name for name in differing if name not in CONTEXT[1:]]
        elif row.get("context_of", "field") != "field" and "context_of" in differing:
            differing = [name for name in differing if name != "context_ratio"]  # what is shown as context says it
        labels.append(", ".join(_label(name, row, table) for name in differing) or PLAIN)
    table.insert(2, "control", labels)
    return table


def _same(one: object, other: object) -> bool:
    return bool(one == other or (pd.isna(one) and pd.isna(other)))


def _label(name: str, row: dict, table: pd.DataFrame) -> str:
    value = row[name]
    if name == "tile_px" and table.loc[table["field_um"] == row["field_um"], "magnification"].nunique() > 1:
        return f"field {row['field_um']:g} um"
    if name == "steps_per_epoch":
        return f"{value:g} steps an epoch" if value else "every tile once an epoch"
    if name == "negatives_per_batch":
        return {-1: "tiles drawn alike", 0: "no negatives"}.get(value, f"{value:g} negatives a batch")
    if name == "positive_pixels":
        return f"{value:.0%} positive pixels" if value else "positives as they come"
    if name == "detail_mpp":
        return f"blurred to {value:g} um/px" if value else "sharp"
    if name == "hard_negatives":
        return f"{value:.0%} hard negatives" if value else "no hard negatives"
    if name == "context_ratio":
        return f"context {value:g} times as coarse" if value else "no context"
    if name == "context_of":
        return {"field": "context of the field", "self": "own field as context", "other": "another tile's context"}.get(
            value, f"context of {value}"
        )
    words = name.replace("_", " ")
    return f"{words} {value:g}" if isinstance(value, (int, float, np.number)) else f"{words} {value}"


def square(table: pd.DataFrame, first: str, second: str) -> dict[tuple, str]:
    """Four arms at two levels of two factors, alike in every other one: ``{(level of first, of second): arm}``.

    Parameters
    ----------
    table
        Of `arm_factors`.
    first, second
        Names of factors, or ``field_um``. Levels are the least and the largest; of several squares the one that most of
        the arms resemble is taken, of those the one at the finest magnification. A negative level of `first` (tiles
        drawn alike) is neither with nor without.

    Returns
    -------
    dict
        Empty where there are no four such arms.
    """
    if first not in table or second not in table:
        return {}
    fixed = alike(table, first, second)
    drawn = table[table[first] >= 0]
    groups = [group for _, group in drawn.groupby(fixed, dropna=False)] if fixed else [drawn]
    common = table[[name for name in fixed if name != "magnification"]].mode().iloc[:1]
    for group in sorted(groups, key=lambda rows: _rank(rows, common), reverse=True):
        cells = dict(zip(zip(group[first], group[second], strict=True), group["arm"], strict=True))
        ends = [(group[name].min(), group[name].max()) for name in (first, second)]
        wanted = list(itertools.product(*ends))
        if all(low < high for low, high in ends) and all(key in cells for key in wanted):
            return {key: cells[key] for key in wanted}
    return {}


def alike(table: pd.DataFrame, *varied: str) -> list[str]:
    """Columns that must be the same in arms that differ in the factors `varied` alone."""
    # Magnification, tile and field hang together: two of them fix the third.
    free = {*varied, "tile_px"} if "field_um" in varied else {*varied, "field_um"}
    factors = [name for name in table if name not in _NOT_FACTORS or name in ("magnification", "field_um")]
    return [name for name in factors if name not in free]


def mates(table: pd.DataFrame, row: dict, *varied: str) -> pd.DataFrame:
    """Arms of `table` that are like `row` in everything but the factors `varied`."""
    names = alike(table, *varied)
    return table[[all(_same(other[name], row[name]) for name in names) for other in table.to_dict("records")]]


def _rank(group: pd.DataFrame, common: pd.DataFrame) -> tuple[int, float]:
    like = sum(_same(group[name].iloc[0], common[name].iloc[0]) for name in common)
    return like, float(group["magnification"].max())


def first_square(table: pd.DataFrame, first: str, second: Sequence[str]) -> tuple[str, dict[tuple, str]]:
    """Of several second factors the first with which there is a `square`; ``("", {})`` where there is none."""
    for name in second:
        if cells := square(table, first, name):
            return name, cells
    return "", {}
