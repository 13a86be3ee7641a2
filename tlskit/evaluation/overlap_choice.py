"""What overlapping windows cost and give, on validation slides, and the overlap that a network's maps are made with.

A half costs four times the windows of none. Whether that is worth it depends on the network and the magnification, so
the validation slides are asked: how many pixels change side at the threshold, and how much Dice is lost against the
densest. Test slides have no part in it. The price is in windows, which are counted; minutes go with them, and notebook
06 measures those of the overlap that was taken.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import ParameterError
from tlskit.evaluation.counting import evaluate_slides
from tlskit.files import writing
from tlskit.maps import OVERLAPS, map_overlaps, open_map, write_overlap
from tlskit.metrics import choose_threshold, cut, thresholds, uncertainty
from tlskit.units import counted

__all__ = ["MARGIN", "choose_overlap", "overlap_tradeoff", "settle_overlap"]

#: An overlap is enough where it is shown to lose no more than this share of the densest one's Dice.
MARGIN = 0.02

_COLUMNS = [
    "overlap", "windows", "times_windows", "threshold", "flipped", "mask_dice", "dice", "dice_low", "dice_high", "iou",
    "iou_low", "iou_high", "loss", "loss_low", "loss_high", "margin", "n_slides", "n_patients", "n_with_target",
    "warning",
]  # fmt: skip


def overlap_tradeoff(
    checkpoint, validation: pd.DataFrame, out_dir: str | Path, *, n_slides: int, truth: dict, **options
) -> pd.DataFrame:
    """The price and the worth of each overlap, measured on a few validation slides, each run over in one pass.

    Parameters
    ----------
    checkpoint : models.Checkpoint
    validation
        Rows of the manifest, with the column split, which is ``val`` in all of them.
    out_dir
        For the maps: ``<overlap>/<slide_id>.tif``.
    n_slides
        So many of them, a slide of every patient before the second of any; 0: nothing is measured.
    truth
        Of `evaluate_slides`, on_failure included.
    options
        Of `maps.map_overlaps`.

    Returns
    -------
    DataFrame
        A row an overlap; empty where nothing was measured. windows (of a slide, on average), times_windows (of those
        without overlap), threshold (chosen on these slides, by the maps of the densest), flipped (share of the tissue
        whose pixels change side of it against the densest), mask_dice (of the two masks; nan where both are empty),
        then dice and iou against the outlines, pooled, each with ``_low`` and ``_high``; loss (Dice of the densest less
        this one's, with the simultaneous interval loss_low, loss_high), margin (what may be lost), n_slides,
        n_patients, n_with_target (patients), warning (why this can show nothing; else empty).
    """
    if set(validation["split"]) - {"val"}:
        raise ParameterError("The overlap is chosen on validation slides alone: give the rows with split == 'val'.")
    turn = validation.groupby("patient_id").cumcount()
    picked = validation.assign(_turn=turn).sort_values(["_turn", "slide_id"]).drop(columns="_turn").head(n_slides)
    maps = map_overlaps(checkpoint, picked, out_dir, on_failure=truth.get("on_failure"), **options)
    if maps.empty:
        return pd.DataFrame(columns=_COLUMNS)
    maps = maps.merge(picked[["slide_id", "split"]])
    histograms = {level: evaluate_slides(of, picked, **truth).histograms for level, of in maps.groupby("overlap")}
    if any(table.empty for table in histograms.values()):
        return pd.DataFrame(columns=_COLUMNS)
    threshold = choose_threshold(histograms[max(histograms)])["threshold"]
    counts = pd.concat(
        thresholds.counts_from_histograms(table, {"validation": threshold}).assign(overlap=level)
        for level, table in histograms.items()
    )
    whole = counts.groupby("slide_id")["overlap"].nunique() == len(histograms)
    maps, counts = (table[table["slide_id"].isin(whole.index[whole])] for table in (maps, counts))
    return _table(maps, counts, threshold)


def _table(maps: pd.DataFrame, counts: pd.DataFrame, threshold: float) -> pd.DataFrame:
    *others, densest = sorted(maps["overlap"].unique())
    scores = uncertainty.intervals(counts, scores=("dice", "iou"), by=("overlap",)).set_index(["overlap", "score"])
    apart = uncertainty.contrasts(
        counts, {f"{level:g}": {densest: 1.0, level: -1.0} for level in others}, scores=("dice",), by=("overlap",)
    ).set_index("contrast")  # fmt: skip
    masks, rows = _against_densest(maps, threshold), []
    for level in (*others, densest):
        lost = apart.loc[f"{level:g}"] if level in others else dict.fromkeys(("estimate", "low_all", "high_all"), 0.0)
        rows.append(
            {"overlap": level, "windows": maps.loc[maps["overlap"] == level, "windows"].mean()}
            | {"threshold": threshold, **masks[level]}
            | {name + end: scores.loc[(level, name)][column] for name in ("dice", "iou")
               for end, column in (("", "estimate"), ("_low", "low"), ("_high", "high"))}
            | {"loss": lost["estimate"], "loss_low": lost["low_all"], "loss_high": lost["high_all"]}
            | {"margin": MARGIN * scores.loc[(densest, "dice")]["estimate"]}
            | {name: scores.loc[(level, "dice")][name] for name in ("n_slides", "n_patients", "n_with_target")}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    n, few = table["n_with_target"].min(), uncertainty.FEW_PATIENTS
    whom = f"{counted(n, 'validation patient')} with a target, fewer than {few}"
    table["warning"] = f"{whom}: too few to show which overlap is enough" if n < few else ""
    table["times_windows"] = table["windows"] / table["windows"].min()
    return table[_COLUMNS]


def _against_densest(maps: pd.DataFrame, threshold: float) -> dict[float, dict]:
    """Of each overlap: the share of the tissue that changes side against the densest, and the Dice of both masks."""
    at, sums = cut(threshold), {level: np.zeros(4) for level in maps["overlap"].unique()}
    for _, rows in maps.groupby("slide_id"):
        paths = rows.set_index("overlap")["map_path"]
        with open_map(paths[paths.index.max()]) as dense:
            for level, path in paths.items():
                with open_map(path) as other:
                    for (y, one), (_, two) in zip(dense.bands(), other.bands(), strict=True):
                        one, two = dense.marked(one, at, y_px=y), other.marked(two, at, y_px=y)
                        sums[level][:3] += (one ^ two).sum(), (one & two).sum(), one.sum() + two.sum()
                    sums[level][3] += dense.metadata["tissue_mm2"] * 1e6 / dense.mpp**2
    return {
        level: {"flipped": changed / tissue if tissue else np.nan, "mask_dice": 2 * both / each if each else np.nan}
        for level, (changed, both, each, tissue) in sums.items()
    }


def choose_overlap(table: pd.DataFrame, asked: float | str = "auto") -> tuple[float, str]:
    """The overlap to make maps with, and why: a number as it was asked for, or what validation slides say is enough.

    ``auto`` takes the least overlap that is shown, by the simultaneous interval over patients, to lose no more than
    `MARGIN` of the densest one's Dice. Where that cannot be shown (fewer than ten validation patients with a target,
    nothing measured) the densest is taken, a half.

    Parameters
    ----------
    table
        Of `overlap_tradeoff`.
    asked
        ``window_overlap`` of the preset.
    """
    overlap, reason = _enough(table)
    if asked == "auto":
        return overlap, reason
    return float(asked), "as asked for" + (f" (auto would take {overlap:g}: {reason})" if len(table) else "")


def _enough(table: pd.DataFrame) -> tuple[float, str]:
    densest = table.iloc[-1] if len(table) else {"overlap": OVERLAPS[-1], "warning": "no validation slide was measured"}
    most = float(densest["overlap"])
    taken = f"the densest, {most:g}, is taken"
    if densest["warning"]:
        return most, f"{densest['warning']}, so {taken}"
    if not densest["dice"] > 0:
        return most, f"nothing of the target is found on validation slides, so {taken}"
    enough = table[table["loss_high"] <= table["margin"]].iloc[0]
    if enough["overlap"] == most:
        return most, f"less is not shown to lose at most {densest['margin']:.3f} of Dice, so {taken}"
    return float(enough["overlap"]), (
        f"the least that is shown to lose at most {enough['margin']:.3f} of Dice: {enough['loss']:+.4f} "
        f"({enough['loss_low']:+.4f} to {enough['loss_high']:+.4f}) of "
        f"{counted(densest['n_with_target'], 'validation patient')} with a target"
    )


def settle_overlap(
    table: pd.DataFrame, asked: float | str, checkpoint, *, note: str | Path, made_in: str | Path, maps_dir: str | Path
) -> tuple[float, str]:
    """Choose, note the choice for all who run the network, and place those of the measured maps that it asks for.

    Parameters
    ----------
    table, asked
        Of `choose_overlap`, whose answer is returned.
    note
        ``work/overlap.json``, beside the checkpoint.
    made_in, maps_dir
        Where `overlap_tradeoff` made its maps, and the folder of the arm's maps.
    """
    overlap, reason = choose_overlap(table, asked)
    write_overlap(note, overlap, asked=asked, reason=reason, checkpoint=checkpoint)
    for path in sorted(Path(made_in).glob(f"{overlap:g}/*.tif")):
        with writing(Path(maps_dir) / path.name) as temporary:
            shutil.copyfile(path, temporary)
    return overlap, reason
