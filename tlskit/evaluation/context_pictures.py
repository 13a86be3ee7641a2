"""Where context changed the answer: the window in which it put most right, and the one in which it did most harm."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import RunError
from tlskit.evaluation.arm_tables import REPEATS, arms
from tlskit.evaluation.cascade_pictures import square_field
from tlskit.evaluation.cascades import maps_of, slides_of, truth_of
from tlskit.files import read_table
from tlskit.maps import Frames, ProbMap, frames_of, open_map
from tlskit.metrics import cut
from tlskit.networks import load_checkpoint
from tlskit.outlines import IGNORED, read_truth

__all__ = ["context_fields", "gains"]

log = logging.getLogger(__name__)

#: Windows are compared at this um/px or finer by less than a factor of two.
_MPP = 4.0
#: No picture is shown of less than this.
_LEAST_MM2 = 1e-3
#: What context did to a window, and its sign in `gains`.
_KINDS = {"right": 1, "wrong": -1}


def context_fields(
    run_dir: str | Path, manifest: pd.DataFrame, effects: pd.DataFrame, *, threshold_by: str = "validation"
) -> list[dict]:
    """Pictures of windows of test slides: where context put most right, and where it did most harm.

    Two of each network with context that the run has beside the same network without. A pixel counts for context where
    that network alone is right, and against it where the other alone is. Both are extremes, and say nothing of how
    often either happens: that is in `effects`.

    Parameters
    ----------
    run_dir, manifest
        Folder of the run; its cohort.
    effects
        Of `effects.context_effects`.
    threshold_by
        ``fixed`` or ``validation``: the thresholds at which each network's map is cut.

    Returns
    -------
    list of dict
        As `figures.worst_fields` takes them, three a window: without context, with it, and the whole context that the
        network saw. A window is shown from 1,000 um2 on; where only one of the two has that much, its title says so.
        Empty where no arm has context, nothing of that size differs, no slide of a training was counted, or the folders
        ``work`` of the arms are gone: all but the first are warned of.
    """
    pairs = effects[effects["against"] == "without context"] if len(effects) else effects
    panels = []
    for pair in pairs.itertuples():
        names = _first_trainings(Path(run_dir), pair.arm, pair.reference)
        if not all((Path(run_dir) / name / "work" / "checkpoint.pt").is_file() for name in names):
            log.warning("No pictures of context: the maps of %s and %s are not there any more.", *names)
            continue
        try:
            found = _extremes(Path(run_dir), names, manifest, threshold_by)
        except RunError as error:  # all slides of a training failed: the others' pictures are shown
            log.warning("%s", error)
            continue
        if not found:
            log.warning("%s: no picture, context changed no window of a test slide by %g mm2.", pair.arm, _LEAST_MM2)
        for kind in [kind for kind in _KINDS if kind in found]:
            slide_id, mm2, pictures = found[kind]
            title = f"{pair.arm}, {slide_id}: context put {mm2:.3f} mm2 {kind}"
            title += "".join(f"; nowhere {_LEAST_MM2:g} mm2 {other}" for other in _KINDS if other not in found)
            panels += [picture | {"title": title} for picture in pictures]
    return panels


def _extremes(run_dir: Path, names: tuple[str, str], manifest: pd.DataFrame, threshold_by: str) -> dict[str, tuple]:
    """Slide, mm2 and pictures of the test window in which context put most right, and most wrong."""
    least = [cut(_threshold(run_dir / name, threshold_by)) for name in names]
    paths = [maps_of(run_dir / name).set_index("slide_id")["map_path"] for name in names]
    of_truth, checkpoint = truth_of(run_dir / names[0]), load_checkpoint(run_dir / names[0] / "work" / "checkpoint.pt")
    reading = {"resolution_by": of_truth.pop("resolution_by"), "apply_icc": checkpoint.apply_icc}
    missing = of_truth.pop("missing_target", "error")
    found: dict[str, tuple[str, float, list[dict]]] = {}
    for row in slide_rows(slides_of(run_dir, names[0], manifest, "test")):
        slide_id = str(row.slide_id)
        if not all(slide_id in of for of in paths):
            continue
        with (
            open_row(row, **reading) as slide,
            open_map(paths[0][slide_id]) as seen,
            open_map(paths[1][slide_id]) as alone,
        ):
            truth = read_truth(row, slide, missing=missing, **of_truth)
            by_window = gains(seen, alone, truth, least)
            for kind, sign in _KINDS.items():
                j, i = np.unravel_index(np.argmax(sign * by_window), by_window.shape)
                mm2 = sign * float(by_window[j, i])
                if mm2 > found.get(kind, ("", _LEAST_MM2))[1]:
                    found[kind] = slide_id, mm2, _pictures(slide, (seen, alone), truth, frames_of(seen), (i, j), least)
    return found


def _threshold(folder: Path, threshold_by: str) -> float:
    """Of one training: those of an arm's folds and seeds each have their own."""
    counted = read_table(folder / "tables" / "05_counts_per_slide.csv")
    found = counted.loc[counted["threshold_by"] == threshold_by, "threshold"]
    if found.empty:
        raise RunError(f"{folder.name} has no slide counted at the threshold {threshold_by!r}: no pictures of context.")
    return float(found.iloc[0])


def gains(seen: ProbMap, alone: ProbMap, truth, least: list[int]) -> np.ndarray:
    """Of each window of two maps of one slide, the area that the first has right and the second wrong, less the other.

    Parameters
    ----------
    seen, alone
        The map of the network with context, and of that without.
    truth : outlines.Truth
    least
        The stored value of either map from which a pixel is positive.

    Returns
    -------
    (rows, columns) float64
        mm2. What is to be ignored, could not be predicted or was not looked at, counts as nothing.
    """
    frames = frames_of(seen)
    values, mpp = seen.overview(max(1, math.ceil(max(seen.size_px) * min(1.0, 2 * seen.mpp / _MPP))))
    others, _ = alone.overview(max(values.shape))
    height, width = values.shape
    coded = truth.coded_at(0, 0, width, height, mpp=mpp)
    right = [(marked >= at) == (coded == 1) for marked, at in zip((values, others), least, strict=True)]
    better = right[0].astype(np.int64) - right[1]
    better[coded == IGNORED] = 0
    for made in (seen, alone):
        better[~made.answered(*((np.arange(count) + 0.5) * mpp / made.mpp for count in (width, height)))] = 0
    total = np.pad(better.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    ends = []
    for starts, length in zip(frames.windows, (width, height), strict=True):
        edges = np.stack([starts, starts + frames.window_px0]) * truth.mpp0 / mpp
        ends.append(np.clip(np.rint(edges).astype(int), 0, length))
    (x0, x1), (y0, y1) = ends
    of_windows = total[y1][:, x1] - total[y0][:, x1] - total[y1][:, x0] + total[y0][:, x0]
    return of_windows * mpp**2 / 1e6


def _first_trainings(run_dir: Path, *variants: str) -> tuple[str, str]:
    """Folders of two arms: of several trainings, the first that both have."""
    table = arms(run_dir)
    first, second = (table[table["variant"] == variant] for variant in variants)
    both = first.merge(second, on=list(REPEATS), suffixes=("", "_other"))  # nan meets nan
    return both["arm"].iloc[0], both["arm_other"].iloc[0]


def _pictures(slide, made: tuple, truth, frames: Frames, at: tuple, least: list[int]) -> list[dict]:
    """A window by both networks, and the context that the first saw with it."""
    (i, j), um = at, slide.mpp0
    window = (frames.windows[0][i] * um, frames.windows[1][j] * um, frames.window_px0 * um)
    context = (frames.contexts[0][i] * um, frames.contexts[1][j] * um, frames.context_px0 * um)
    wanted = (
        ("without context", made[1], window, least[1]),
        ("with context", made[0], window, least[0]),
        ("the whole context", made[0], context, least[0]),
    )
    return [
        square_field(slide, prob_map, truth, *square, cut_at)[0] | {"arm": arm}
        for arm, prob_map, square, cut_at in wanted
    ]
