"""What a cascade's screen took away, cut out of the slides: a true object that was lost, a false alarm that is gone."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tlskit.cohort import open_row, slide_rows
from tlskit.evaluation.cascades import maps_of, slides_of, truth_of
from tlskit.maps import ProbMap, make_screen, open_map, outside, windows_over
from tlskit.metrics import cut
from tlskit.networks import load_checkpoint
from tlskit.outlines import read_truth
from tlskit.slides import tissue_mask

__all__ = ["lost_and_spared", "square_field"]

#: Objects are looked for at this um/px or finer by less than a factor of two; a field shows at least this much.
_MPP, _FIELD_UM = 4.0, 500.0

#: Smaller pieces than this are no objects, and no pictures are shown of them.
_LEAST_MM2 = 1e-3

#: Side of a field's picture, pixels.
_SIDE_PX = 360


def lost_and_spared(
    run_dir: str | Path, manifest: pd.DataFrame, chosen: pd.DataFrame, *, threshold: float = 0.5, on_failure=None
) -> list[dict]:
    """Pictures of the largest true object that a cascade loses on test slides, and the largest false alarm it removes.

    All test slides are looked through, by both networks' full maps: of the cascade that `cascades.run_cascade` runs.
    Lost is what the fine network marks of a true object where the cascade marks none of that object; removed is a
    connected piece that the fine network marks, that holds no target, and of which the cascade marks nothing.

    Parameters
    ----------
    run_dir, manifest
        Folder of the run; its cohort.
    chosen
        Of `cascades.choose`.
    threshold
        Probability from which a pixel counts.
    on_failure : callable, optional
        Called with slide_id and exception for a slide that fails; without it the error is raised.

    Returns
    -------
    list of dict
        title, rgb (H, W, 3 uint8), truth, predicted (by the fine network alone), seen (where the cascade looks; all
        (H, W) bool), mpp (um per pixel of the picture). Empty where nothing above 1,000 um2 was taken away.
    """
    run_dir, row = Path(run_dir), chosen[chosen["is_run"]].iloc[0]
    if row["screen"] != "map":
        return []
    full, coarse = (maps_of(run_dir / row[side]).set_index("slide_id")["map_path"] for side in ("fine", "coarse"))
    arm_truth = truth_of(run_dir / row["fine"])
    checkpoint = load_checkpoint(run_dir / row["fine"] / "work" / "checkpoint.pt")
    reading = {"resolution_by": arm_truth.pop("resolution_by"), "apply_icc": checkpoint.apply_icc}
    missing = arm_truth.pop("missing_target", "error")
    largest: dict[str, tuple] = {}
    for one in slide_rows(slides_of(run_dir, row["fine"], manifest, "test")):
        slide_id = str(one.slide_id)
        if slide_id not in full or slide_id not in coarse:
            continue
        try:
            with (
                open_row(one, **reading) as slide,
                open_map(full[slide_id]) as fine,
                open_map(coarse[slide_id]) as of_coarse,
            ):
                truth = read_truth(one, slide, missing=missing, **arm_truth)
                screen = make_screen(of_coarse, threshold=row["screen_threshold"], grow_um=row["grow_um"])
                unseen = windows_over(fine, tissue_mask(slide)).unseen(screen)
                for kind, box, mm2 in _taken_away(fine, unseen, truth, cut(threshold)):
                    if mm2 > largest.get(kind, (_LEAST_MM2,))[0]:
                        title = f"{slide_id}: {kind}"
                        largest[kind] = (mm2, _field(slide, fine, unseen, truth, box, cut(threshold), title))
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(slide_id, error)
    return [largest[kind][1] for kind in sorted(largest, reverse=True)]


def _taken_away(fine: ProbMap, unseen: list[tuple], truth, least: int):
    """What the cascade marks nothing of and the fine network does: kind, box in um (left, top, right, bottom), mm2."""
    if not unseen:
        return
    values, mpp = fine.overview(max(1, math.ceil(max(fine.size_px) * min(1.0, 2 * fine.mpp / _MPP))))
    height, width = values.shape
    at = [(np.arange(side) + 0.5) * mpp / fine.mpp for side in (width, height)]
    marked = (values >= least) & fine.answered(*at)
    still = marked & outside(unseen, *at)
    for n, polygon in enumerate(truth.polygons):
        left, top, right, bottom = (v * truth.mpp0 for v in polygon.bounds)
        x0, y0 = max(0, int(left / mpp)), max(0, int(top / mpp))
        x1, y1 = min(width, math.ceil(right / mpp)), min(height, math.ceil(bottom / mpp))
        if x1 > x0 and y1 > y0:
            pixels = truth.at(x0, y0, x1 - x0, y1 - y0, mpp=mpp, only=n)
            here = marked[y0:y1, x0:x1] & pixels
            if here.any() and not (still[y0:y1, x0:x1] & pixels).any():
                yield "true object, lost", (left, top, right, bottom), here.sum() * mpp**2 / 1e6
    _, labels, found, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8))
    touched = np.zeros(len(found), bool)
    touched[np.unique(labels[truth.at(0, 0, width, height, mpp=mpp) | still])] = True
    touched[0] = True
    for n in np.flatnonzero(~touched):
        x, y, w, h, area = (int(v) for v in found[n])
        yield "false alarm, gone", tuple(v * mpp for v in (x, y, x + w, y + h)), area * mpp**2 / 1e6


def _field(slide, fine: ProbMap, unseen: list[tuple], truth, box_um: tuple, least: int, title: str) -> dict:
    """A square field round a box, as `lost_and_spared` returns it."""
    left, top, right, bottom = box_um
    side_um = max(_FIELD_UM, 1.6 * max(right - left, bottom - top))
    middle = ((left + right) / 2, (top + bottom) / 2)
    field, at_x, at_y = square_field(slide, fine, truth, *(at - side_um / 2 for at in middle), side_um, least)
    area = (right - left) * (bottom - top) / 1e6
    return {"title": f"{title}\nin a box of {area:.3f} mm2", **field, "seen": outside(unseen, at_x, at_y)}


def square_field(
    slide, prob_map: ProbMap, truth, left_um: float, top_um: float, side_um: float, least: int
) -> tuple[dict, np.ndarray, np.ndarray]:
    """A square of a slide with its truth and what a map marks in it: rgb, truth, predicted, mpp (as `lost_and_spared`).

    Then the map's columns and rows under the centres of the picture's pixels, ``(side,) int64`` each.
    """
    mpp = max(side_um / _SIDE_PX, prob_map.mpp)
    side = math.ceil(side_um / mpp)
    x, y = round(left_um / mpp), round(top_um / mpp)
    at_x, at_y = prob_map.under(x, y, side, side, mpp=mpp)
    picture = {
        "rgb": slide.read(x, y, side, side, mpp=mpp), "truth": truth.at(x, y, side, side, mpp=mpp),
        "predicted": prob_map.marked_at(at_x, at_y, least), "mpp": mpp,
    }  # fmt: skip
    return picture, at_x, at_y
