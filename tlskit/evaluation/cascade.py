"""A cascade judged from maps that are there: what a coarse network's screen spares the fine one, and what it loses.

A sweep has both networks' full maps of validation and test slides. The cascade's map is the fine one where a window
would have been run, and 0 elsewhere; a real run differs from that only where windows over a pixel are partly run (at
the rim of what is run, less than a window wide). So every setting of a screen can be judged without running a network,
and one is chosen on validation slides (`tlskit.evaluation.screen_choice`). Everything is counted on the common grid, in
the region that `grid_counting.evaluate_grid` counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlskit import units
from tlskit.errors import MapError, ParameterError
from tlskit.evaluation.opened_slides import Opened, over_slides
from tlskit.maps import ProbMap, Windows, distance_um, make_screen, open_map, screen_of, windows_over
from tlskit.metrics import COUNTS, SIZE_CLASSES, TIE_SHIFT_PX, area_means, objects

__all__ = ["GROW_UM", "KEPT_SHARE", "SCREEN_THRESHOLDS", "SIZES", "screen_counts"]

#: Settings that are tried: thresholds of the coarse map, and um by which it is grown.
SCREEN_THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
GROW_UM = (0.0, 32.0, 64.0, 128.0, 256.0)

#: A true object is kept where the fine network looks at this share of it.
KEPT_SHARE = 0.5

#: Size classes, and how columns name them.
SIZES = {name: name.replace(" ", "_").replace("-", "_") for name, _ in SIZE_CLASSES}


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
    **slides,
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
        Add, for each growth, an ``oracle`` (the truth itself, grown by as much: the most that can be saved) and, for
        each setting, a ``random`` screen: what is expected of as many windows drawn at random from those on tissue.
    grid_mpp
        um/px of the common grid.
    slides
        What is read of them: target_class, ignore_class, region_class, missing_target, resolution_by, on_failure of
        `grid_counting.evaluate_grid`.

    Returns
    -------
    DataFrame
        One row a slide and setting: slide_id, patient_id, cancer_type, split, screen (``none``, ``map``, ``oracle``,
        ``random``), screen_threshold, grow_um, windows (run), windows_full, tp, fp, fn, tn (of the cascade), tp_lost,
        fp_spared (pixels of the full run that the screen took away), n_targets, n_kept (of them; nan for ``random``),
        and both by size class (``n_targets_over_300_um``, ``n_kept_over_300_um``, ...). The row of ``none`` is the full
        run.

    Raises
    ------
    ParameterError
        If no slide has both maps.
    MapError
        If a map is not of a full run.
    """
    coarse = dict(zip(coarse_maps["slide_id"].astype(str), coarse_maps["map_path"], strict=True))
    both = fine_maps[fine_maps["slide_id"].astype(str).isin(list(coarse))]
    if both.empty:
        raise ParameterError("No slide has a map of both networks: run 05_wsi_evaluation in both arms.")
    levels = sorted(set(screen_thresholds))

    def count(ids: dict, opened: Opened) -> _Table:
        if opened.map.unseen:
            raise MapError(f"{opened.map.path.name} was predicted under a screen: what a screen loses is not in it.")
        case = _case(opened, threshold, grid_mpp)
        with open_map(coarse[str(ids["slide_id"])]) as coarse_map:
            return _Table(pd.DataFrame(_rows(ids, case, coarse_map, opened, levels, grow_um, controls)))

    return over_slides(count, _Table, both, manifest, **slides).counts


class _Table(NamedTuple):
    counts: pd.DataFrame


class _Case(NamedTuple):
    """One slide: what its pixels on the grid are, where windows lie, and the true objects."""

    code: np.ndarray  # of each grid pixel: predicted + 2 * target, 4 where it does not count; (H, W) uint8
    windows: Windows
    grid_mpp: float
    objects: list  # of each true object: its size class, its place on the grid, its pixels there

    def spread(self, values: np.ndarray) -> np.ndarray:
        """`Windows.spread` over the grid."""
        return self.windows.spread(values, self.grid_mpp, self.code.shape[::-1])


def _case(opened: Opened, threshold: float, grid_mpp: float) -> _Case:
    fine, truth = opened.map, opened.truth
    ratio = grid_mpp / fine.mpp
    size_px = units.lattice_size(opened.size_px0, truth.mpp0, grid_mpp)
    width, height = size_px
    code = np.zeros((height, width), np.uint8)
    source = {"ratio": ratio, "grid_px": size_px, "shift_px": TIE_SHIFT_PX}
    means = area_means(lambda y, h: fine.read(0, y, fine.size_px[0], h), fine.size_px, **source)
    for y, values in means:
        rows = len(values)
        target = truth.at(0, y, width, rows, mpp=grid_mpp)
        inside = opened.tissue.at(0, y, width, rows, mpp=grid_mpp) | target
        inside &= ~truth.ignored_at(0, y, width, rows, mpp=grid_mpp)
        here = code[y : y + rows]
        here[:] = (values >= 255 * threshold - 1e-6) + 2 * target.astype(np.uint8)
        here[~inside] = 4
    for x, y, w, h in fine.invalid:
        rows, columns = (slice(math.floor(a / ratio), math.ceil((a + n) / ratio)) for a, n in ((y, h), (x, w)))
        code[rows, columns] = 4
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
    return _Case(code, windows_over(fine, opened.all_tissue), grid_mpp, true_objects)


def _rows(ids: dict, case: _Case, coarse: ProbMap, opened: Opened, levels: list, grow_um, controls: bool) -> list:
    """Rows of `screen_counts` of one slide.

    A window that a screen touches is touched by that of every lower threshold, too. So each growth needs one look at
    the pixels: at the number of thresholds by which a window over the pixel is run.
    """
    on_tissue = case.windows.on_tissue
    everywhere = np.full(case.code.shape, 1, np.uint8)
    rows = _at_levels(ids, case, everywhere, on_tissue.astype(np.uint8), "none", [math.nan], math.nan)
    screens = [make_screen(coarse, threshold=t, grow_um=0.0) for t in levels]
    away_um = [distance_um(screen.area.mask, screen.area.mpp) for screen in screens]
    at_random = _Random(case) if controls and levels else None
    for grow in grow_um if levels else ():
        touched = [case.windows.touched(screen_of(s, away, grow)) for s, away in zip(screens, away_um, strict=True)]
        reached = np.sum(touched, axis=0, dtype=np.uint8) * on_tissue
        of_grow = _at_levels(ids, case, case.spread(reached), reached, "map", levels, grow)
        rows += of_grow + [at_random.row(ids, row) for row in (of_grow if at_random else ())]
    if controls and levels:
        like, (height, width) = screens[0], screens[0].area.mask.shape
        truth_um = distance_um(opened.truth.at(0, 0, width, height, mpp=like.area.mpp), like.area.mpp)
        for grow in grow_um:
            run = (case.windows.touched(screen_of(like, truth_um, grow)) & on_tissue).astype(np.uint8)
            rows += _at_levels(ids, case, case.spread(run), run, "oracle", [math.nan], grow)
    return rows


def _at_levels(
    ids: dict, case: _Case, seen: np.ndarray, reached: np.ndarray, screen: str, levels: list, grow: float
) -> list[dict]:
    """A row a level: a pixel is looked at by the first `seen` of the levels, a window run by the first `reached`."""
    table = np.bincount((seen.astype(np.int64) * 5 + case.code).ravel(), minlength=5 * (len(levels) + 1))
    table = table.reshape(-1, 5)[:, :4]
    shares = [(kind, seen[where][pixels]) for kind, where, pixels in case.objects]
    rows = []
    for n, level in enumerate(levels):
        looked, lost = table[n + 1 :].sum(axis=0), table[: n + 1].sum(axis=0)
        row = ids | {"screen": screen, "screen_threshold": level, "grow_um": grow}
        row |= {"windows": int((reached > n).sum()), "windows_full": int(case.windows.on_tissue.sum())}
        row |= _counts(looked, lost)
        kept = [(kind, bool((pixels > n).mean() >= KEPT_SHARE)) for kind, pixels in shares]
        row |= {"n_targets": len(kept), "n_kept": sum(is_kept for _, is_kept in kept)}
        for name, short in SIZES.items():
            of_class = [is_kept for kind, is_kept in kept if kind == name]
            row |= {f"n_targets_{short}": len(of_class), f"n_kept_{short}": sum(of_class)}
        rows.append(row)
    return rows


def _counts(looked: np.ndarray, lost: np.ndarray) -> dict:
    """tp, fp, fn, tn, tp_lost, fp_spared from pixels by code (0 to 3), those looked at and those not."""
    found = (looked[3], looked[1], looked[2] + lost[2] + lost[3], looked[0] + lost[0] + lost[1])
    return dict(zip(COUNTS, found, strict=True)) | {"tp_lost": lost[3], "fp_spared": lost[1]}


class _Random:
    """What is expected of windows drawn at random: a pixel under c of n windows is missed by k of them with probability
    ``(n - k)! (n - c)! / (n! (n - k - c)!)``."""

    def __init__(self, case: _Case):
        self._n = int(case.windows.on_tissue.sum())
        depth = case.windows.depth(case.windows.on_tissue, case.grid_mpp, case.code.shape[::-1])
        self._table = np.bincount((depth.astype(np.int64) * 5 + case.code).ravel(), minlength=5)
        self._table = np.pad(self._table, (0, -len(self._table) % 5)).reshape(-1, 5)[:, :4].astype(float)

    def row(self, ids: dict, like: dict) -> dict:
        """As many windows as the row `like` has."""
        missed, n, k = np.ones(len(self._table)), self._n, like["windows"]
        for c in range(1, len(missed)):
            missed[c] = missed[c - 1] * max(0, n - k - c + 1) / max(1, n - c + 1)
        lost = (self._table * missed[:, None]).sum(axis=0)
        nothing = {name: math.nan for name in like if name.startswith("n_kept")}
        return like | ids | {"screen": "random"} | _counts(self._table.sum(axis=0) - lost, lost) | nothing
