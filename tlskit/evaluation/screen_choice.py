"""Which screen a cascade gets: the cheapest one that keeps enough on validation slides, and how sure that is."""

from __future__ import annotations

import pandas as pd

from tlskit.errors import ParameterError
from tlskit.evaluation.cascade import SIZES
from tlskit.metrics import COUNTS, uncertainty

__all__ = ["choose_screen", "kept_by_size", "screen_summary"]

_SETTING = ["screen", "screen_threshold", "grow_um"]

#: Chance, at each end, that an interval misses.
_TAIL = 0.025


def screen_summary(counts: pd.DataFrame) -> pd.DataFrame:
    """Settings of a screen over all slides of `counts` (of one split).

    Parameters
    ----------
    counts
        Of `cascade.screen_counts`.

    Returns
    -------
    DataFrame
        screen, screen_threshold, grow_um; windows_share (of the full run's windows); recall_kept (true pixels of the
        full run that the cascade still has) with low, high (95 %, over patients), method (``t``; ``exact`` where
        nothing was lost: as if a patient lost all or nothing; ``none``), warning; targets_kept (share of the true
        objects) and n_targets; dice, iou, recall, precision of the cascade and ``<score>_full``; n_slides, n_patients,
        n_with_target (of the patients: those in whom the full run found something true).
    """
    rows = []
    for setting, here in counts.groupby(_SETTING, sort=False, dropna=False):
        total = here[["windows", "windows_full", *COUNTS, "tp_lost", "fp_spared", "n_targets", "n_kept"]].sum(
            skipna=False
        )
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
    table = here[["slide_id", "patient_id", "tp"]].assign(arm="x", fn=here["tp_lost"], fp=0, tn=0)
    found = _interval(table)
    return {
        "recall_kept": found["estimate"], "low": found["low"], "high": found["high"], "method": found["method"],
        "n_with_target": int(found["n_with_target"]), "warning": found["warning"],
    }  # fmt: skip


def _interval(table: pd.DataFrame) -> dict:
    """`uncertainty.intervals` of a recall. Where it is 1 in every patient: the mean of shares between 0 and 1 of which
    all n are 1 is at least ``0.025^(1/n)``, but for a chance of 2.5 %."""
    found = uncertainty.intervals(table, scores=["recall"], by=["arm"]).iloc[0].to_dict()
    if found["method"] == "none" and found["estimate"] == 1 and found["n_with_target"]:
        found |= {"low": _TAIL ** (1 / found["n_with_target"]), "high": 1.0, "method": "exact"}
    return found


def kept_by_size(counts: pd.DataFrame) -> pd.DataFrame:
    """True objects that a screen keeps, by size class, with intervals over patients.

    Parameters
    ----------
    counts
        Of `cascade.screen_counts`: one setting, one split.

    Returns
    -------
    DataFrame
        size_class, n_targets, n_kept, targets_kept with low, high, method, n_patients (with such an object), warning.
    """
    rows = []
    for name, short in SIZES.items():
        kept, n = counts[f"n_kept_{short}"], counts[f"n_targets_{short}"]
        table = counts[["slide_id", "patient_id"]].assign(arm="x", tp=kept, fn=n - kept, fp=0, tn=0)
        found = _interval(table) if n.sum() else {}
        rows.append(
            {"size_class": name, "n_targets": int(n.sum()), "n_kept": int(kept.sum())}
            | {"targets_kept": _ratio(kept.sum(), n.sum())}
            | {key: found.get(key, float("nan")) for key in ("low", "high")}
            | {"method": found.get("method", "none"), "n_patients": int(found.get("n_with_target", 0))}
            | {"warning": found.get("warning", "")}
        )
    return pd.DataFrame(rows)


def choose_screen(counts: pd.DataFrame, *, recall_floor: float = 0.99) -> dict:
    """The cheapest screen that keeps enough, by validation slides alone.

    Parameters
    ----------
    counts
        Of `cascade.screen_counts`; only rows of the split ``val`` are looked at.
    recall_floor
        Share of the fine network's own true pixels that has to be kept: by the lower end of its 95 % interval over
        patients, or, where patients are too few for that, by the estimate, which is then said. Fewer than
        `uncertainty.FEW_PATIENTS` always are: two patients who happen to lose almost the same have a tight interval.

    Returns
    -------
    dict
        The row of `screen_summary` that was chosen, with ``recall_floor``, ``by`` (``bound``, ``estimate`` or
        ``none``) and ``reason`` (a sentence). Where nothing reaches the floor, or nothing is spared, it is the full run
        (screen ``none``).

    Raises
    ------
    ParameterError
        If there is no validation slide with both maps, or `recall_floor` is not above 0 and at most 1.
    """
    if not 0 < recall_floor <= 1:
        raise ParameterError(f"`screen_recall_floor` should be above 0 and at most 1, not {recall_floor!r}.")
    validation = counts[(counts["split"] == "val") & counts["screen"].isin(["map", "none"])]
    if validation.empty:
        raise ParameterError("A screen is chosen on validation slides, and none of them has maps of both networks.")
    table = screen_summary(validation).sort_values(["windows_share", "grow_um"], kind="stable")
    full = table[table["screen"] == "none"].iloc[0]
    table = table[table["screen"] == "map"]
    with_target = f"{int(full['n_with_target'])} in whom the fine network finds any"
    n = f"{int(full['n_patients'])} validation patients ({with_target})"
    bounded = table[(table["low"] >= recall_floor) & (table["n_with_target"] >= uncertainty.FEW_PATIENTS)]
    estimated = table[table["recall_kept"] >= recall_floor]
    if full["n_with_target"] == 0:
        chosen, by = full, "none"
        reason = f"the fine network finds no target in any of {n}: nothing says what a screen would lose"
    elif len(bounded):
        chosen, by = bounded.iloc[0], "bound"
        reason = (
            f"the cheapest screen whose recall kept is at least {recall_floor:g} by the lower end of its 95 % interval "
            f"over {n}"
        )
    elif len(estimated):
        chosen, by = estimated.iloc[0], "estimate"
        reason = (
            f"{n} are too few to be sure of {recall_floor:g} for any screen; the cheapest one whose estimate reaches "
            f"it is taken ({_bound(chosen)}), which is no promise for other patients"
        )
    else:
        chosen, by = full, "none"
        reason = f"no screen keeps {recall_floor:g} of the fine network's true pixels on {n}: it looks everywhere"
    warning = chosen["warning"].replace("test patient", "validation patient")
    return chosen.to_dict() | {"warning": warning, "recall_floor": recall_floor, "by": by, "reason": reason}


def _bound(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return "without an interval"
    return f"lower end of its interval: {row['low']:.3f}"


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
