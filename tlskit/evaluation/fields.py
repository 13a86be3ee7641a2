"""Where a run's arms fail: the worst slides, the largest misses and false alarms, and their pictures in every arm.

What is worst is said by the archived tables; pictures are cut from the slides and maps where these still lie.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import RunError
from tlskit.evaluation.arm_tables import arms, collect, only_slides_of, test_counts
from tlskit.evaluation.cascades import maps_of, truth_of
from tlskit.maps import open_map
from tlskit.metrics import cut, ratios
from tlskit.outlines import read_truth

__all__ = ["pictures", "worst_objects", "worst_slides"]

#: Side of a picture, px; a field of an object shows at least this much, and false alarms nearer than that are one.
_SIDE_PX, _FIELD_UM = 360, 500.0


def worst_slides(
    run_dir: str | Path, *, n: int = 10, threshold_by: str = "fixed", slides: str = "same"
) -> pd.DataFrame:
    """The slides on which the arms are wrong over the largest area, worst first.

    Parameters
    ----------
    run_dir, threshold_by, slides
        Of `tlskit.evaluation.comparison.intervals`.
    n
        How many.

    Returns
    -------
    DataFrame
        slide_id, patient_id, cancer_type, target_mm2, missed_mm2, false_mm2 (means of the arms, on the common grid),
        and ``IoU <arm>`` of each arm (nan: neither target nor anything marked).
    """
    counts = test_counts(run_dir, "05_grid_counts", threshold_by, slides)
    ids = ["slide_id", "patient_id", "cancer_type"]
    pixels = counts.groupby([*ids, "arm"], sort=False)[["tp", "fp", "fn", "tn"]].mean().reset_index()
    mm2 = counts["grid_mpp"].iloc[0] ** 2 / 1e6
    of_slide = pixels.groupby(ids, sort=False)[["tp", "fp", "fn"]].mean() * mm2
    table = pd.DataFrame(
        {"target_mm2": of_slide["tp"] + of_slide["fn"], "missed_mm2": of_slide["fn"], "false_mm2": of_slide["fp"]}
    )
    pixels["iou"] = ratios(*(pixels[c].to_numpy(float) for c in ("tp", "fp", "fn", "tn")))["iou"]
    wide = pixels.pivot(index="slide_id", columns="arm", values="iou")[list(dict.fromkeys(counts["arm"]))]
    wrong = (table["missed_mm2"] + table["false_mm2"]).sort_values(ascending=False, kind="stable")
    return table.loc[wrong.index[:n]].reset_index().merge(wide.add_prefix("IoU "), on="slide_id")


def worst_objects(
    run_dir: str | Path, *, n: int = 5, threshold_by: str = "fixed", slides: str = "same"
) -> pd.DataFrame:
    """The largest true objects that arms missed, and the largest false ones, those of most arms first.

    Parameters
    ----------
    run_dir, threshold_by, slides
        Of `tlskit.evaluation.comparison.intervals`.
    n
        How many of either kind.

    Returns
    -------
    DataFrame
        kind (``missed``, ``false alarm``), slide_id, x_px0, y_px0 (centroid), area_um2 (of the largest), diameter_um,
        arms (by name, those that miss or mark it), n_arms. An object is missed or false by the rule iou10; false ones
        of several arms nearer than 500 um are one.

    Raises
    ------
    RunError
        If an earlier archive does not say where objects lie.
    """
    of_slides = test_counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    found = only_slides_of(collect(run_dir, "05_objects"), of_slides, threshold_by)
    wrong = found[~found["matched_iou10"].astype(bool)].sort_values("area_um2", ascending=False, kind="stable")
    if "x_px0" not in wrong:
        raise RunError("The objects of this archive do not say where they lie: run step 05 again.")
    mpp0 = _mpp0_of(run_dir)
    rows = []
    for kind, name in (("truth", "missed"), ("predicted", "false alarm")):
        places: list[dict] = []
        for row in wrong[wrong["kind"] == kind].itertuples():
            near = _near(places, row, 1.0 if kind == "truth" else _FIELD_UM / mpp0.get(str(row.slide_id), 0.25))
            if near is None:
                places.append(
                    {"kind": name, "slide_id": str(row.slide_id), "x_px0": row.x_px0, "y_px0": row.y_px0}
                    | {"area_um2": row.area_um2, "diameter_um": row.diameter_um, "arms": [row.arm]}
                )
            elif row.arm not in near["arms"]:
                near["arms"].append(row.arm)
        places.sort(key=lambda place: (-len(place["arms"]), -place["area_um2"]))
        rows += places[:n]
    columns = ["kind", "slide_id", "x_px0", "y_px0", "area_um2", "diameter_um", "arms", "n_arms"]
    return pd.DataFrame([row | {"arms": ", ".join(row["arms"]), "n_arms": len(row["arms"])} for row in rows],
                        columns=columns)  # fmt: skip


def _near(places: list[dict], row, px0: float) -> dict | None:
    """The place of the same slide that lies within some level-0 px of an object."""
    for place in places:
        same = place["slide_id"] == str(row.slide_id)
        if same and math.hypot(place["x_px0"] - row.x_px0, place["y_px0"] - row.y_px0) <= px0:
            return place
    return None


def _mpp0_of(run_dir: str | Path) -> dict[str, float]:
    """um per level-0 px of the slides, as they were tiled."""
    try:
        table = collect(run_dir, "01_tiles_per_slide")
    except RunError:
        return {}
    return dict(zip(table["slide_id"].astype(str), table["mpp0"], strict=True))


def pictures(
    run_dir: str | Path, manifest: pd.DataFrame, wanted: pd.DataFrame, *, threshold_by: str = "fixed"
) -> tuple[list[dict], list[str]]:
    """The same fields in every arm, for `tlskit.figures.worst_fields`.

    Parameters
    ----------
    run_dir
        Folder of the run, with the maps of its arms.
    manifest
        Of the cohort.
    wanted
        Rows of `worst_slides` (whole slides) or `worst_objects` (fields around an object).
    threshold_by
        Rule of the threshold from which a pixel is drawn as predicted.

    Returns
    -------
    panels : list of dict
        title, arm, rgb (H, W, 3 uint8), truth, predicted ((H, W) bool), mpp (um per pixel of the picture): one for
        each row and arm, of several trainings of an arm the first that tested the slide.
    missing : list of str
        What could not be drawn, and why.
    """
    rows = {str(row.slide_id): row for row in slide_rows(manifest)}
    maps, thresholds, missing = _maps_by_slide(run_dir, threshold_by)
    panels = []
    for one in wanted.itertuples():
        slide_id = str(one.slide_id)
        if slide_id not in rows or slide_id not in maps:
            why = "does not stand in the manifest" if slide_id not in rows else "has no map left"
            missing.append(f"{slide_id} {why}")
            continue
        try:
            panels += _of_slide(rows[slide_id], one, maps[slide_id], thresholds)
        except Exception as error:  # a slide that is gone or broken since costs its pictures, not the report
            missing.append(f"{slide_id} cannot be read ({type(error).__name__})")
    return panels, list(dict.fromkeys(missing))


def _maps_by_slide(run_dir: str | Path, threshold_by: str) -> tuple[dict, dict, list[str]]:
    """Of each slide the map and the arm's folder by arm, the thresholds by folder, and arms without maps."""
    maps: dict[str, dict[str, tuple[str, Path]]] = {}
    thresholds, missing = {}, []
    for arm in arms(run_dir).itertuples():
        counts = pd.read_csv(arm.dir / "tables" / "05_grid_counts.csv", dtype={"slide_id": str})
        counts = counts[counts["threshold_by"] == threshold_by]
        thresholds[arm.dir] = float(counts["threshold"].iloc[0])
        tested = set(counts.loc[counts["split"] == "test", "slide_id"] if "split" in counts else counts["slide_id"])
        try:
            of_arm = maps_of(arm.dir)
        except RunError as error:
            missing.append(str(error).rstrip("."))
            continue
        for row in of_arm.itertuples():
            if row.slide_id in tested:
                maps.setdefault(row.slide_id, {}).setdefault(arm.variant, (row.map_path, arm.dir))
    return maps, thresholds, missing


def _of_slide(row, one, maps: dict[str, tuple[str, Path]], thresholds: dict) -> list[dict]:
    """Pictures of one field in all arms that have a map of the slide."""
    first = next(iter(maps.values()))[1]
    truth_by = truth_of(first)
    missing, resolution_by = truth_by.pop("missing_target", "error"), truth_by.pop("resolution_by", "mpp")
    with ExitStack() as stack:
        opened = {arm: (stack.enter_context(open_map(path)), folder) for arm, (path, folder) in maps.items()}
        apply_icc = next(iter(opened.values()))[0].metadata.get("parameters", {}).get("apply_icc", False)
        slide = stack.enter_context(open_row(row, resolution_by=resolution_by, apply_icc=apply_icc))
        truth = read_truth(row, slide, missing=missing, **truth_by)
        left, top, width, height, mpp = _box(one, slide)
        shared = {"title": _title(one), "rgb": slide.read(left, top, width, height, mpp=mpp), "mpp": mpp,
                  "truth": truth.at(left, top, width, height, mpp=mpp)}  # fmt: skip
        return [
            shared
            | {
                "arm": arm,
                "predicted": prob_map.marked_at(
                    *prob_map.under(left, top, width, height, mpp=mpp), cut(thresholds[folder])
                ),
            }
            for arm, (prob_map, folder) in opened.items()
        ]


def _box(one, slide) -> tuple[int, int, int, int, float]:
    """Left, top, width and height (px at mpp) of a picture, and its mpp: round an object, or the whole slide."""
    if not hasattr(one, "x_px0"):
        mpp = max(slide.mpp0, max(slide.size_px0) * slide.mpp0 / _SIDE_PX)
        return 0, 0, *slide.size_px(mpp), mpp
    side_um = max(_FIELD_UM, 1.6 * one.diameter_um)
    mpp = max(slide.mpp0, side_um / _SIDE_PX)
    side = math.ceil(side_um / mpp)
    left, top = (round(v * slide.mpp0 / mpp - side / 2) for v in (one.x_px0, one.y_px0))
    return left, top, side, side, mpp


def _title(one) -> str:
    if hasattr(one, "x_px0"):
        return f"{one.slide_id}: {one.kind}, {one.diameter_um:.0f} um"
    return f"{one.slide_id}\nmissed {one.missed_mm2:.2g}, false {one.false_mm2:.2g} mm2"
