"""A cascade judged from maps that are there: what a coarse network's screen spares the fine one, and what it loses.

A sweep has both networks' full maps of validation and test slides. The cascade's map is the fine one where a window
would have been run, and 0 elsewhere; a real run differs from that only where windows over a pixel are partly run (at
the rim of what is run, less than a window wide). So every setting of a screen can be judged without running a network,
and one is chosen on validation slides. Everything is counted on the common grid inside tissue, as
`counting.evaluate_grid` counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlskit import units
from tlskit.errors import ParameterError
from tlskit.evaluation.counting import _Opened, _over_slides
from tlskit.maps import distance_um, make_screen, open_map, screen_of, windows_over
from tlskit.metrics import COUNTS, SIZE_CLASSES, area_means, count_pixels, objects, uncertainty

__all__ = ["GROW_UM", "SCREEN_THRESHOLDS", "choose_screen", "screen_counts", "screen_summary"]

#: Settings that are tried: thresholds of the coarse map, and um by which it is grown.
SCREEN_THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
GROW_UM = (0.0, 32.0, 64.0, 128.0, 256.0)

#: A true object is kept where the fine network looks at this share of it.
KEPT_SHARE = 0.5
#: Random screens of equal size that are drawn, and their seed.
_RANDOM_DRAWS, _SEED = 20, 0

_SIZES = {name: name.replace(" ", "_").replace("-", "_") for name, _ in SIZE_CLASSES}
_SETTING = ["screen", "screen_threshold", "grow_um"]


def screen_counts(
    fine_maps: pd.DataFrame,
    coarse_maps: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    threshold: float,
    screen_thresholds: Sequence[float] = SCREEN_THRESHOLDS,
    grow_um: Sequence[float] = GROW_UM,
    controls: bool = False,
    grid_mpp: float = 4.0,
    target_class: str | list[str],
    ignore_class: str | list[str] = "",
    missing_target: str = "error",
    resolution_by: str = "mpp",
    on_failure=None,
) -> pd.DataFrame:
    """What each setting of a screen keeps of each slide.

    Parameters
    ----------
    fine_maps, coarse_maps
        slide_id, map_path of the two networks' full maps; slides that both have.
    manifest
        Of the cohort, with ``split``.
    threshold
        Probability of the fine map from which a pixel counts.
    screen_thresholds, grow_um
        Settings of the screen; all combinations are tried.
    controls
        Add, for each setting, an ``oracle`` (the truth itself, grown by as much: the most that can be saved) and a
        ``random`` screen (as many windows, drawn at random from those on tissue; means over 20 draws).
    grid_mpp
        um/px of the common grid.
    target_class, ignore_class, missing_target, resolution_by, on_failure
        Of `counting.evaluate_grid`.

    Returns
    -------
    DataFrame
        One row a slide and setting: slide_id, patient_id, cancer_type, split, screen (``none``, ``map``, ``oracle``,
        ``random``), screen_threshold, grow_um, windows (run), windows_full, tp, fp, fn, tn (of the cascade), tp_lost,
        fp_spared (pixels of the full run that the screen took away), n_targets, n_kept, and both by size class
        (``n_targets_over_300_um``, ``n_kept_over_300_um``, ...). The row of ``none`` is the full run.
    """
    coarse = dict(zip(coarse_maps["slide_id"].astype(str), coarse_maps["map_path"], strict=True))
    both = fine_maps[fine_maps["slide_id"].astype(str).isin(coarse)]
    if both.empty:
        raise ParameterError("No slide has a map of both networks: run 05_wsi_evaluation in both arms.")

    def count(ids: dict, opened: _Opened) -> _Table:
        case = _case(opened, threshold, grid_mpp)
        with open_map(coarse[str(ids["slide_id"])]) as coarse_map:
            return _Table(_rows(ids, case, coarse_map, opened, screen_thresholds, grow_um, controls))

    return _over_slides(
        count, _Table, both, manifest, target_class=target_class, ignore_class=ignore_class,
        missing_target=missing_target, resolution_by=resolution_by, on_failure=on_failure,
    ).counts  # fmt: skip


class _Table(NamedTuple):
    counts: pd.DataFrame


class _Case(NamedTuple):
    """One slide: the fine map, the truth and the tissue on the grid, and where windows lie."""

    positive: np.ndarray
    target: np.ndarray
    inside: np.ndarray
    on_tissue: np.ndarray  # windows on tissue, (rows, columns) bool
    covers: object  # windows, (rows, columns) bool -> grid pixels that they cover, (H, W) bool
    objects: list  # of each true object: its size class, its place on the grid, its pixels there


def _case(opened: _Opened, threshold: float, grid_mpp: float) -> _Case:
    fine, truth = opened.map, opened.truth
    ratio = grid_mpp / fine.mpp
    size_px = units.lattice_size(opened.size_px0, truth.mpp0, grid_mpp)
    width, height = size_px
    positive = np.zeros((height, width), bool)
    means = area_means(lambda y, h: fine.read(0, y, fine.size_px[0], h), fine.size_px, ratio=ratio, grid_px=size_px)
    for y, values in means:
        positive[y : y + len(values)] = values >= 255 * threshold - 1e-6
    inside = opened.tissue.at(0, 0, width, height, mpp=grid_mpp)
    inside &= ~truth.ignored_at(0, 0, width, height, mpp=grid_mpp)
    for x, y, w, h in fine.invalid:
        rows, columns = (slice(math.floor(a / ratio), math.ceil((a + n) / ratio)) for a, n in ((y, h), (x, w)))
        inside[rows, columns] = False
    windows = windows_over(fine, opened.tissue)
    d = grid_mpp / truth.mpp0
    true_objects = []
    for n, polygon in enumerate(truth.polygons):
        x0, y0, x1, y1 = (v / d for v in polygon.bounds)
        left, top, right, bottom = max(0, int(x0)), max(0, int(y0)), min(width, int(x1) + 1), min(height, int(y1) + 1)
        if left >= right or top >= bottom:
            continue
        pixels = truth.at(left, top, right - left, bottom - top, mpp=grid_mpp, only=n)
        if pixels.any():
            kind = str(objects.size_class(np.array([polygon.area * truth.mpp0**2]))[0])
            true_objects.append((kind, np.s_[top:bottom, left:right], pixels))
    return _Case(
        positive, truth.at(0, 0, width, height, mpp=grid_mpp), inside, windows.on_tissue,
        lambda run: windows.cover(run, grid_mpp, size_px), true_objects,
    )  # fmt: skip


def _rows(ids, case: _Case, coarse_map, opened, thresholds, grow_um, controls) -> pd.DataFrame:
    rng = np.random.default_rng(_SEED)
    rows = [_row(ids, case, case.on_tissue, "none", math.nan, math.nan)]
    windows = windows_over(opened.map, opened.tissue)
    truth_um = None
    for t in thresholds:
        grown = make_screen(coarse_map, threshold=t, grow_um=0.0)
        away_um = distance_um(grown.area.mask, grown.area.mpp)
        for grow in grow_um:
            run = case.on_tissue & windows.touched(screen_of(grown, away_um, grow))
            rows.append(_row(ids, case, run, "map", t, grow))
            if controls:
                if truth_um is None:
                    height, width = grown.area.mask.shape
                    mask = opened.truth.at(0, 0, width, height, mpp=grown.area.mpp)
                    truth_um = distance_um(mask, grown.area.mpp)
                oracle = case.on_tissue & windows.touched(screen_of(grown, truth_um, grow))
                rows.append(_row(ids, case, oracle, "oracle", t, grow))
                drawn = [_random(case.on_tissue, run, rng) for _ in range(_RANDOM_DRAWS)]
                table = pd.DataFrame([_row(ids, case, one, "random", t, grow) for one in drawn])
                mean = table.drop(columns=["screen_threshold", "grow_um"]).mean(numeric_only=True)
                rows.append(table.iloc[0].to_dict() | mean.to_dict())
    return pd.DataFrame(rows)


def _random(on_tissue: np.ndarray, run: np.ndarray, rng) -> np.ndarray:
    """As many windows as `run` has, drawn from those on tissue."""
    drawn = np.zeros(on_tissue.size, bool)
    drawn[rng.choice(np.flatnonzero(on_tissue), int(run.sum()), replace=False)] = True
    return drawn.reshape(on_tissue.shape)


def _row(ids: dict, case: _Case, run: np.ndarray, screen: str, threshold: float, grow_um: float) -> dict:
    seen = np.ones(case.positive.shape, bool) if screen == "none" else case.covers(run)
    positive = case.positive & seen
    counts = count_pixels(positive, case.target, valid=case.inside)
    lost = case.positive & ~seen & case.inside
    row = ids | {"screen": screen, "screen_threshold": threshold, "grow_um": grow_um}
    row |= {"windows": int(run.sum()), "windows_full": int(case.on_tissue.sum())}
    row |= dict(zip(COUNTS, counts.values(), strict=True))
    row |= {"tp_lost": int((lost & case.target).sum()), "fp_spared": int((lost & ~case.target).sum())}
    kept = [(kind, seen[where][pixels].mean() >= KEPT_SHARE) for kind, where, pixels in case.objects]
    row |= {"n_targets": len(kept), "n_kept": sum(is_kept for _, is_kept in kept)}
    for name, short in _SIZES.items():
        of_class = [is_kept for kind, is_kept in kept if kind == name]
        row |= {f"n_targets_{short}": len(of_class), f"n_kept_{short}": sum(of_class)}
    return row


def screen_summary(counts: pd.DataFrame) -> pd.DataFrame:
    """Settings of a screen over all slides of `counts` (of one split).

    Returns
    -------
    DataFrame
        screen, screen_threshold, grow_um; windows_share (of the full run's windows); recall_kept (true pixels of the
        full run that the cascade still has) with low, high (95 %, patients), method, warning; targets_kept (share of
        the true objects) and n_targets; dice, iou, recall, precision of the cascade and ``<score>_full``; n_slides,
        n_patients, n_with_target.
    """
    rows = []
    for setting, here in counts.groupby(_SETTING, sort=False, dropna=False):
        total = here[["windows", "windows_full", *COUNTS, "tp_lost", "fp_spared", "n_targets", "n_kept"]].sum()
        row = dict(zip(_SETTING, setting, strict=True))
        row |= {"windows_share": _ratio(total["windows"], total["windows_full"])}
        row |= _recall_kept(here)
        row |= {"targets_kept": _ratio(total["n_kept"], total["n_targets"]), "n_targets": int(total["n_targets"])}
        full = {"tp": total["tp"] + total["tp_lost"], "fp": total["fp"] + total["fp_spared"]}
        full |= {"fn": total["fn"] - total["tp_lost"]}
        for suffix, of in (("", total), ("_full", full)):
            tp, fp, fn = of["tp"], of["fp"], of["fn"]
            row |= {
                f"dice{suffix}": _ratio(2 * tp, 2 * tp + fp + fn), f"iou{suffix}": _ratio(tp, tp + fp + fn),
                f"recall{suffix}": _ratio(tp, tp + fn), f"precision{suffix}": _ratio(tp, tp + fp),
            }  # fmt: skip
        rows.append(row | {"n_slides": here["slide_id"].nunique(), "n_patients": here["patient_id"].nunique()})
    return pd.DataFrame(rows)


def _recall_kept(here: pd.DataFrame) -> dict:
    """Share of the full run's true pixels that are kept, with its interval over patients."""
    table = here.assign(arm="x", fn=here["tp_lost"], fp=0, tn=0)
    found = uncertainty.intervals(table, scores=["recall"], by=["arm"]).iloc[0]
    return {
        "recall_kept": found["estimate"], "low": found["low"], "high": found["high"], "method": found["method"],
        "n_with_target": int(found["n_with_target"]), "warning": found["warning"],
    }  # fmt: skip


def choose_screen(counts: pd.DataFrame, *, recall_floor: float = 0.99) -> dict:
    """The cheapest screen that keeps enough, by validation slides alone.

    Parameters
    ----------
    counts
        Of `screen_counts`; only rows of the split ``val`` are looked at.
    recall_floor
        Share of the fine network's own true pixels that has to be kept: by the lower end of its 95 % interval over
        patients, or, where patients are too few for an interval, by the estimate, which is then said.

    Returns
    -------
    dict
        The row of `screen_summary` that was chosen, with ``recall_floor``, ``by`` (``bound``, ``estimate`` or
        ``none``) and ``reason`` (a sentence). Where nothing reaches the floor it is the full run (screen ``none``).
    """
    validation = counts[(counts["split"] == "val") & counts["screen"].isin(["map", "none"])]
    if validation.empty:
        raise ParameterError("A screen is chosen on validation slides, and none of them has maps of both networks.")
    table = screen_summary(validation).sort_values(["windows_share", "grow_um"], kind="stable")
    full = table[table["screen"] == "none"].iloc[0]
    table = table[table["screen"] == "map"]
    n = f"{int(full['n_patients'])} validation patients ({int(full['n_with_target'])} with a target)"
    bounded = table[table["low"] >= recall_floor]
    estimated = table[table["recall_kept"] >= recall_floor]
    if len(bounded):
        chosen, by = bounded.iloc[0], "bound"
        reason = (
            f"the cheapest screen whose recall kept is at least {recall_floor:g} by the lower end of its 95 % interval "
            f"over {n}"
        )
    elif len(estimated):
        chosen, by = estimated.iloc[0], "estimate"
        reason = (
            f"no screen keeps {recall_floor:g} by the lower end of an interval over {n}; the cheapest one whose "
            "estimate does is taken, which is no promise for other patients"
        )
    else:
        chosen, by = full, "none"
        reason = f"no screen keeps {recall_floor:g} of the fine network's true pixels on {n}: it looks everywhere"
    return chosen.to_dict() | {"recall_floor": recall_floor, "by": by, "reason": reason}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
