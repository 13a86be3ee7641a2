"""Counts of pixels, and the scores made of them; every score says how it was pooled.

A *counts table* has one row a unit (a tile, a slide) with whole numbers ``tp fp fn tn`` and the ids of the unit
(``tile_id``, ``slide_id``, ``patient_id``). Counts add up exactly over tiles, slides and patients; scores do not,
so they are made last, by `score`.

**Pooling.** ``pooled``: the counts of all rows are summed, one score. ``per_tile``, ``per_slide``, ``per_patient``:
counts are summed within each tile (a row), slide or patient, scored, and the scores averaged. ``batch_mean``: rows
are taken in table order in batches of `batch_size` (the last may be smaller), counts summed within each batch,
scored, and averaged; all seven scores are averaged in the same way, and they depend on the order of the rows:
`order_range` says how much. ``as_published``: one reading of an evaluation that was not published (McCombe et al.
2022): Dice and IoU by ``batch_mean`` with an empty batch counted 1, the other five ``pooled``; ``as_published_tiles``
is the other reading, with means over tiles.

**Empty units.** A unit with neither target nor prediction (``tp = fp = fn = 0``) has no Dice, IoU, recall or
precision (0/0). `empty` decides: ``one`` and ``zero`` put that value in their place. ``exclude`` averages over the
units that hold a target, and over no other: the same units whatever was predicted, so that two arms are averages over
the same slides (a false alarm in a unit without target is counted by specificity and by false area, not here).
``one`` is what segmentation-models-pytorch does in its imagewise reductions (``zero_division=1.0``); its ``micro``
reduction of a batch gives nan there, so that whoever averages batches has to decide. Any other 0/0 is undefined under
every rule: nan, left out, and counted. Such are the precision of a unit in which nothing was predicted but something
missed, the recall of a unit without target, the specificity of a unit without background, and MCC where a margin is
empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tlskit.errors import ParameterError

__all__ = [
    "COUNTS",
    "EMPTY_RULES",
    "POOLINGS",
    "SCORES",
    "count_pixels",
    "order_range",
    "per_unit",
    "ratios",
    "score",
    "score_table",
]

COUNTS = ("tp", "fp", "fn", "tn")

#: In the order of the published table.
SCORES = ("accuracy", "dice", "iou", "recall", "specificity", "precision", "mcc")

POOLINGS = ("pooled", "per_tile", "per_slide", "per_patient", "batch_mean", "as_published", "as_published_tiles")

#: Poolings that stand on the order or the cut of tiles.
_OF_TILES = ("per_tile", "batch_mean", "as_published", "as_published_tiles")

EMPTY_RULES = ("one", "zero", "exclude")

_UNIT_COLUMN = {"per_slide": "slide_id", "per_patient": "patient_id"}

#: Scores that an empty unit takes from the rule; specificity and accuracy are defined there, MCC has no agreed value.
_EMPTY_TAKES = ("dice", "iou", "recall", "precision")

#: Rows that differ in one of these answer different questions and must not be added up.
_NEVER_MIXED = ("arm", "magnification", "split", "threshold_by", "threshold", "grid_mpp")


def count_pixels(prediction: np.ndarray, truth: np.ndarray, *, valid: np.ndarray | None = None) -> dict[str, int]:
    """Count pixels of two masks.

    Parameters
    ----------
    prediction, truth
        Masks ``(H, W) bool`` on one lattice.
    valid
        Mask of the pixels to count; by default all.

    Returns
    -------
    dict
        ``tp``, ``fp``, ``fn``, ``tn``.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape:
        raise ParameterError(
            f"The prediction is {prediction.shape} pixels and the truth {truth.shape}: not one lattice."
        )
    if valid is not None:
        prediction, truth = prediction[valid], truth[valid]
    tp = int(np.count_nonzero(prediction & truth))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": prediction.size - tp - fp - fn}


def ratios(tp, fp, fn, tn, *, empty: str = "exclude") -> dict[str, np.ndarray]:
    """The seven scores of each unit, nan where undefined.

    Dice = 2 tp / (2 tp + fp + fn), IoU = tp / (tp + fp + fn), and Matthews' correlation coefficient
    (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)) (Matthews 1975).

    Parameters
    ----------
    tp, fp, fn, tn
        Counts (arrays of one shape, or numbers); weighted counts need not be whole.
    empty
        ``one``, ``zero`` or ``exclude`` (nan): see the module's text.

    Returns
    -------
    dict
        Name to float64 array, in the order of `SCORES`.
    """
    if empty not in EMPTY_RULES:
        raise ParameterError(f"`empty` should be one of {', '.join(EMPTY_RULES)}, not {empty!r}.")
    tp, fp, fn, tn = (np.asarray(c, np.float64) for c in (tp, fp, fn, tn))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "dice": 2 * tp / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn),
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            # Two roots: the product of four counts of gigapixels is near the end of what a float64 holds exactly.
            "mcc": (tp * tn - fp * fn) / (np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))),
        }
    if empty != "exclude":
        is_empty = (tp + fp + fn == 0) & (tn > 0)
        for name in _EMPTY_TAKES:
            scores[name] = np.where(is_empty, 1.0 if empty == "one" else 0.0, scores[name])
    return scores


def per_unit(
    counts: pd.DataFrame, unit: str = "slide_id", *, region: str = "slide", empty: str = "exclude"
) -> pd.DataFrame:
    """Counts summed within each unit, with its seven scores beside them: the table behind "best, median, worst".

    Parameters
    ----------
    counts
        A counts table.
    unit
        Column that names the unit: ``slide_id``, ``patient_id`` or ``tile_id``.
    region
        ``slide``, or ``tissue`` for the columns ``tp_tissue ...``.
    empty
        As in `ratios`.

    Returns
    -------
    DataFrame
        One row a unit, in order of first appearance: the unit, those of ``slide_id patient_id cancer_type split`` that
        are constant within units, ``tp fp fn tn``, prevalence, the seven scores.
    """
    counts = _counts_of_region(counts, region)
    _need(counts, [unit])
    _refuse_mixtures(counts, counts.index)
    kept = [unit] + [
        c
        for c in ("slide_id", "patient_id", "cancer_type", "split")
        if c in counts and c != unit and (counts.groupby(unit)[c].nunique() <= 1).all()
    ]
    table = (
        counts.groupby(unit, sort=False).agg({c: "first" for c in kept[1:]} | {c: "sum" for c in COUNTS}).reset_index()
    )
    table["prevalence"] = _prevalence(table)
    return table.assign(**ratios(*(table[c] for c in COUNTS), empty=empty))


def score(
    counts: pd.DataFrame,
    *,
    pooling: str = "pooled",
    empty: str | None = None,
    batch_size: int = 8,
    by: str | Sequence[str] = (),
    region: str = "slide",
) -> pd.DataFrame:
    """The seven scores of a counts table, one row for each group.

    Parameters
    ----------
    counts
        A counts table. ``per_tile``, ``batch_mean`` and ``as_published`` need one row a tile (a column ``tile_id``).
    pooling
        One of `POOLINGS`: see the module's text.
    empty
        ``one``, ``zero`` or ``exclude``; by default ``one`` for ``batch_mean`` and ``as_published``, else ``exclude``.
    batch_size
        Rows of a batch of ``batch_mean``.
    by
        Columns to group by, such as ``["arm", "magnification"]``; the rows of one group are scored together.
    region
        ``slide`` (all pixels) or ``tissue`` (the columns ``tp_tissue ...``).

    Returns
    -------
    DataFrame
        Columns: those of `by`; pooling, empty, region; the seven scores; prevalence (share of target pixels, pooled);
        n_units (tiles, slides, patients or batches that Dice and IoU were averaged over); n_undefined (units left out
        under ``exclude`` because they hold no target; else those with neither target nor prediction, which were given
        the rule's value); n_undefined_recall, _specificity, _precision, _mcc (units left out of that average);
        n_slides, n_patients; batch_size (0 where there are no batches).

    Raises
    ------
    ParameterError
        For an unknown pooling or rule, a missing column, or a group that mixes arms, splits or thresholds.
    """
    if pooling not in POOLINGS:
        raise ParameterError(f"`pooling` should be one of {', '.join(POOLINGS)}, not {pooling!r}.")
    published = pooling.startswith("as_published")
    empty = empty or ("one" if pooling == "batch_mean" or published else "exclude")
    if published and empty != "one":
        raise ParameterError(f"`{pooling}` counts an empty unit 1; ask for `batch_mean` or `per_tile` instead.")
    if batch_size < 1:
        raise ParameterError(f"`batch_size` should be at least 1, not {batch_size!r}.")
    by = [by] if isinstance(by, str) else list(by)
    counts = _counts_of_region(counts, region)
    _need(counts, by)
    if pooling in _OF_TILES and "tile_id" not in counts:
        raise ParameterError(
            f"`{pooling}` needs counts by tile, and this table has no column tile_id: give the table counts_per_tile."
        )
    _need(counts, [_UNIT_COLUMN[pooling]] if pooling in _UNIT_COLUMN else [])
    groups = counts.groupby(by, sort=False, dropna=False) if by else [((), counts)]
    rows = []
    for key, group in groups:
        _refuse_mixtures(group, key)
        row = dict(zip(by, key, strict=True)) | {"pooling": pooling, "empty": empty, "region": region}
        rows.append(row | _score_group(group, pooling=pooling, empty=empty, batch_size=batch_size))
    columns = [*by, "pooling", "empty", "region", *SCORES, "prevalence", "n_units", "n_undefined"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def score_table(
    counts: pd.DataFrame,
    *,
    poolings: Sequence[str] = ("as_published", "batch_mean", "pooled", "per_slide", "per_patient"),
    empty: str | None = None,
    batch_size: int = 8,
    by: str | Sequence[str] = (),
    region: str = "slide",
) -> pd.DataFrame:
    """The scores under several poolings, one below the other: `score` for each of `poolings`."""
    tables = [score(counts, pooling=p, empty=empty, batch_size=batch_size, by=by, region=region) for p in poolings]
    return pd.concat(tables, ignore_index=True)


def order_range(
    counts: pd.DataFrame, *, batch_size: int = 8, empty: str = "one", orders: int = 200, seed: int = 0
) -> dict[str, float]:
    """How far the order of the rows moves a mean over batches.

    Parameters
    ----------
    counts
        A counts table by tile, of one arm, split and threshold.
    batch_size, empty
        Of `score` with ``batch_mean``.
    orders
        Random orders to try.
    seed
        Of the orders.

    Returns
    -------
    dict
        ``dice``, ``iou``: in the table's own order; ``dice_low``, ``dice_high``, ``iou_low``, ``iou_high``: the 2.5 %
        and 97.5 % quantiles over the orders.
    """
    rows, rng = counts[list(COUNTS)].to_numpy(np.float64), np.random.default_rng(seed)
    if not len(rows):
        return {f"{name}{end}": float("nan") for name in ("dice", "iou") for end in ("", "_low", "_high")}
    starts = np.arange(0, len(rows), batch_size)
    means = {"dice": [], "iou": []}
    for order in [np.arange(len(rows)), *(rng.permutation(len(rows)) for _ in range(orders))]:
        of_batches = ratios(*np.add.reduceat(rows[order], starts, axis=0).T, empty=empty)
        for name in means:
            means[name].append(_mean(of_batches[name]))
    result = {}
    for name, values in means.items():
        low, high = np.nanquantile(values[1:], [0.025, 0.975]) if orders else (np.nan, np.nan)
        result |= {name: values[0], f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def _score_group(group: pd.DataFrame, *, pooling: str, empty: str, batch_size: int) -> dict:
    units = _units(group, pooling, batch_size)
    scores = ratios(*units.T, empty=empty)
    without = (units[:, 0] + units[:, 2] == 0) if pooling != "pooled" else np.zeros(len(units), bool)
    if empty == "exclude":
        # The units with a target, whatever was predicted in the others: the same ones in every arm.
        for name in (*_EMPTY_TAKES, "mcc"):
            scores[name] = np.where(without, np.nan, scores[name])
    row = {name: _mean(scores[name]) for name in SCORES}
    undefined = {name: int(np.isnan(scores[name]).sum()) for name in ("recall", "specificity", "precision", "mcc")}
    if pooling.startswith("as_published"):
        pooled = _score_group(group, pooling="pooled", empty="exclude", batch_size=batch_size)
        row |= {name: pooled[name] for name in SCORES if name not in ("dice", "iou")}
        undefined = {name: pooled[f"n_undefined_{name}"] for name in undefined}
    row["prevalence"] = _prevalence(group[list(COUNTS)].sum())
    row["n_units"] = len(units) - (int(without.sum()) if empty == "exclude" else 0)
    row["n_undefined"] = int((without if empty == "exclude" else units[:, :3].sum(axis=1) == 0).sum())
    row |= {f"n_undefined_{name}": n for name, n in undefined.items()}
    row |= {
        f"n_{what}s": group[f"{what}_id"].nunique() if f"{what}_id" in group else 0 for what in ("slide", "patient")
    }
    return row | {"batch_size": batch_size if pooling in ("batch_mean", "as_published") else 0}


def _units(group: pd.DataFrame, pooling: str, batch_size: int) -> np.ndarray:
    """Counts of the units that are averaged, ``(N, 4)``."""
    counts = group[list(COUNTS)].to_numpy()
    if pooling == "pooled":
        return counts.sum(axis=0, keepdims=True)
    if pooling in ("per_tile", "as_published_tiles"):
        return counts
    if pooling in _UNIT_COLUMN:
        return group.groupby(_UNIT_COLUMN[pooling], sort=False)[list(COUNTS)].sum().to_numpy()
    starts = np.arange(0, len(counts), batch_size)
    return np.add.reduceat(counts, starts, axis=0) if len(counts) else counts


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _prevalence(counts):
    total = sum(counts[c] for c in COUNTS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(counts["tp"] + counts["fn"], np.asarray(total, np.float64))


def _counts_of_region(counts: pd.DataFrame, region: str) -> pd.DataFrame:
    if region not in ("slide", "tissue"):
        raise ParameterError(f"`region` should be slide or tissue, not {region!r}.")
    if region == "tissue":
        _need(counts, [f"{c}_tissue" for c in COUNTS])
        counts = counts.assign(**{c: counts[f"{c}_tissue"] for c in COUNTS})
    _need(counts, list(COUNTS))
    return counts


def _need(counts: pd.DataFrame, columns: list[str]) -> None:
    missing = [c for c in columns if c not in counts]
    if missing:
        raise ParameterError(
            f"The counts table lacks {', '.join(missing)}; it has {', '.join(map(str, counts.columns))}."
        )


def _refuse_mixtures(group: pd.DataFrame, key: object) -> None:
    for column in _NEVER_MIXED:
        if column in group and group[column].nunique(dropna=False) > 1:
            values = ", ".join(str(v) for v in group[column].unique()[:5])
            raise ParameterError(
                f"The counts to be scored together mix several values of `{column}` ({values}): select one of them "
                f"first, or give by=['{column}']."
            )
