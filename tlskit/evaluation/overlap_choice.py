"""What overlapping windows cost and give, on validation slides, and the overlap that a network's maps are made with.

A half costs four times the windows of none. Whether that is worth it depends on the network and the magnification, so
the validation slides are asked: how many pixels change side at the threshold, and how much Dice is lost against the
densest. Test slides have no part in it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import ParameterError
from tlskit.evaluation.counting import evaluate_slides
from tlskit.maps import map_overlaps, open_map, write_overlap
from tlskit.metrics import choose_threshold, cut, uncertainty
from tlskit.metrics.thresholds import counts_from_histograms
from tlskit.units import counted

__all__ = ["MARGIN", "choose_overlap", "overlap_tradeoff", "settle_overlap"]

#: An overlap is enough where it is shown to lose no more than this share of the densest one's Dice.
MARGIN = 0.02


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
        A row an overlap; empty where nothing was measured. windows and minutes (of a slide, on average), times_windows
        (of those without overlap), threshold (chosen on these slides, by the maps of the densest), flipped (share of
        the tissue whose pixels change side of it against the densest), mask_dice (of the two masks), then dice and iou
        against the outlines, pooled, each with ``_low`` and ``_high``; loss (Dice of the densest less this one's, with
        the simultaneous interval loss_low, loss_high), margin (what may be lost), n_slides, n_patients, n_with_target,
        warning.
    """
    if set(validation["split"]) - {"val"}:
        raise ParameterError("The overlap is chosen on validation slides alone: give the rows with split == 'val'.")
    turn = validation.groupby("patient_id").cumcount()
    picked = validation.assign(_turn=turn).sort_values(["_turn", "slide_id"]).drop(columns="_turn").head(n_slides)
    maps = map_overlaps(checkpoint, picked, out_dir, on_failure=truth.get("on_failure"), **options)
    if maps.empty:
        return pd.DataFrame(columns=["overlap", "windows", "minutes"])
    levels = sorted(maps["overlap"].unique())
    maps = maps.merge(picked[["slide_id", "split"]])
    histograms = {
        level: evaluate_slides(maps[maps["overlap"] == level], picked, **truth).histograms for level in levels
    }
    chosen = choose_threshold(histograms[levels[-1]])
    counts = pd.concat(
        [counts_from_histograms(table, {"validation": chosen["threshold"]}).assign(overlap=level)
         for level, table in histograms.items()]
    )  # fmt: skip
    whole = counts.groupby("slide_id")["overlap"].nunique() == len(levels)
    counts = counts[counts["slide_id"].isin(whole.index[whole])]
    maps = maps[maps["slide_id"].isin(whole.index[whole])]
    return _table(maps, counts, chosen["threshold"])


def _table(maps: pd.DataFrame, counts: pd.DataFrame, threshold: float) -> pd.DataFrame:
    levels = sorted(maps["overlap"].unique())
    densest, others = levels[-1], levels[:-1]
    scores = uncertainty.intervals(counts, scores=("dice", "iou"), by=("overlap",)).set_index(["overlap", "score"])
    apart = uncertainty.contrasts(
        counts, {f"{level:g}": {densest: 1.0, level: -1.0} for level in others}, scores=("dice",), by=("overlap",)
    ).set_index("contrast")  # fmt: skip
    masks, rows = _against_densest(maps, threshold), []
    for level in levels:
        of_level, dice = maps[maps["overlap"] == level], scores.loc[(level, "dice")]
        lost = apart.loc[f"{level:g}"] if level in others else None
        rows.append(
            {"overlap": level, "windows": of_level["windows"].mean(), "minutes": of_level["seconds"].mean() / 60}
            | {"threshold": threshold, **masks[level]}
            | {name + end: scores.loc[(level, name)][column] for name in ("dice", "iou")
               for end, column in (("", "estimate"), ("_low", "low"), ("_high", "high"))}
            | {"loss": lost["estimate"] if level in others else 0.0}
            | {f"loss_{end}": lost[f"{end}_all"] if level in others else 0.0 for end in ("low", "high")}
            | {"margin": MARGIN * scores.loc[(densest, "dice")]["estimate"]}
            | {name: dice[name] for name in ("n_slides", "n_patients", "n_with_target")}
            | {"warning": dice["warning"].replace("test patient", "validation patient")}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.insert(2, "times_windows", table["windows"] / table["windows"].min())
    return table


def _against_densest(maps: pd.DataFrame, threshold: float) -> dict[float, dict]:
    """Of each overlap: the share of the tissue that changes side against the densest, and the Dice of both masks."""
    at, sums = cut(threshold), {level: np.zeros(4) for level in maps["overlap"].unique()}
    for _, rows in maps.groupby("slide_id"):
        paths = rows.set_index("overlap")["map_path"]
        with open_map(paths[paths.index.max()]) as dense:
            for level, path in paths.items():
                with open_map(path) as other:
                    for (_, one), (_, two) in zip(dense.bands(), other.bands(), strict=True):
                        one, two = one >= at, two >= at
                        sums[level][:3] += (one ^ two).sum(), (one & two).sum(), one.sum() + two.sum()
                    sums[level][3] += dense.metadata["tissue_mm2"] * 1e6 / dense.mpp**2
    return {
        level: {"flipped": changed / tissue if tissue else np.nan, "mask_dice": 2 * both / each if each else np.nan}
        for level, (changed, both, each, tissue) in sums.items()
    }


def choose_overlap(table: pd.DataFrame, asked: float | str = "auto") -> tuple[float, str]:
    """The overlap to make maps with, and why: a number as it was asked for, or what validation slides say is enough.

    ``auto`` takes the least overlap that is shown, by the simultaneous interval over patients, to lose no more than
    `MARGIN` of the densest one's Dice. Where fewer than ten validation patients with a target were measured nothing can
    be shown, and the densest is taken.

    Parameters
    ----------
    table
        Of `overlap_tradeoff`.
    asked
        ``window_overlap`` of the preset.
    """
    if asked != "auto":
        return float(asked), "as asked for"
    if table.empty:
        raise ParameterError(
            "`window_overlap: auto` is chosen on validation slides, and none was measured: set `overlap_slides` above 0, "
            "or give `window_overlap` as a number."
        )
    densest = table.iloc[-1]
    n, few = int(densest["n_with_target"]), uncertainty.FEW_PATIENTS
    taken = f"the densest, {densest['overlap']:g}, is taken"
    if n < few:
        whom = f"{counted(n, 'validation patient')} with a target"
        return float(densest["overlap"]), f"{whom}, fewer than {few}: too few to show that less is enough, so {taken}"
    if not densest["dice"] > 0:
        return float(densest["overlap"]), f"nothing of the target is found on validation slides, so {taken}"
    enough = table[table["loss_high"] <= table["margin"]].iloc[0]
    if enough["overlap"] == densest["overlap"]:
        return float(densest["overlap"]), f"less is not shown to lose at most {densest['margin']:.3f} of Dice, so {taken}"
    return float(enough["overlap"]), (
        f"the least that is shown to lose at most {enough['margin']:.3f} of Dice: {enough['loss']:+.4f} "
        f"({enough['loss_low']:+.4f} to {enough['loss_high']:+.4f}) of {counted(n, 'validation patient')}"
    )


def settle_overlap(
    table: pd.DataFrame, asked: float | str, checkpoint, *, note: str | Path, made_in: str | Path, maps_dir: str | Path
) -> float:
    """Choose, note the choice for all who run the network, and keep of the measured maps those that it asks for.

    Parameters
    ----------
    table, asked
        Of `choose_overlap`.
    note
        ``work/overlap.json``, beside the checkpoint.
    made_in, maps_dir
        Where `overlap_tradeoff` made its maps, which are removed, and the folder of the arm's maps.
    """
    overlap, reason = choose_overlap(table, asked)
    write_overlap(note, overlap, asked=asked, reason=reason, checkpoint=checkpoint)
    for path in sorted(Path(made_in).glob(f"{overlap:g}/*.tif")):
        Path(maps_dir).mkdir(parents=True, exist_ok=True)
        path.replace(Path(maps_dir) / path.name)
    shutil.rmtree(made_in, ignore_errors=True)
    return overlap
