"""Which arm one would choose, and whether the patients tell: rules on tables, and the rule's outcome in words.

The rule is stated beforehand, in the preset (`margin`, `usable_score`), and never rewards luck:

* An arm is *shown to be worse* if another one is better by its simultaneous interval (`metrics.uncertainty`). The
  arms that are not are the set that the cohort leaves: one of them is the best.
* *Chosen* is an arm that is shown to be better than all others; else the fastest of those that are shown to be at most
  `margin` worse than every other arm. Where nothing is shown, nothing is chosen.
* An arm below `usable_score` is not chosen, however it compares.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tlskit import units

__all__ = ["choice", "decide", "score_word"]


def decide(
    quality: pd.DataFrame, apart: pd.DataFrame, minutes: pd.Series | None = None, *, margin: float, usable: float
) -> pd.DataFrame:
    """The arms with what is shown of each.

    Parameters
    ----------
    quality, apart
        Of one score: `metrics.uncertainty.intervals` and `differences`, with the column arm.
    minutes
        Of a slide, by arm; arms without a time are never the fastest.
    margin
        How much worse than another an arm may be and still be taken for its speed, in the score's unit.
    usable
        Lowest score with which an arm may be chosen.

    Returns
    -------
    DataFrame
        `quality` with the columns difference_to_best, difference_low, difference_high (simultaneous, against the arm
        with the highest estimate), in_set, shown_best, within_margin, usable, chosen, reason (the same in all rows:
        ``no target``, ``nothing found``, ``none usable``, ``one arm``, ``shown best``, ``fastest within margin``,
        ``no time``, ``not shown``), margin, usable_score.
    """
    table = quality.reset_index(drop=True).copy()
    names = table["arm"].tolist()
    # value[a, b]: how much better a is than b; low and high: its simultaneous interval.
    value, low, high = (np.full((len(names), len(names)), np.nan) for _ in range(3))
    if len(apart):
        place = {name: n for n, name in enumerate(names)}
        first, second = (apart[side].map(place).to_numpy(int) for side in ("first", "second"))
        ends = (value, "difference", "difference"), (low, "low_all", "high_all"), (high, "high_all", "low_all")
        for matrix, there, back in ends:
            matrix[first, second], matrix[second, first] = apart[there], -apart[back]
    itself, several = np.eye(len(names), dtype=bool), len(names) > 1
    table["in_set"] = ~(high < 0).any(axis=1)
    table["shown_best"] = (itself | (low > 0)).all(axis=1) & several
    table["within_margin"] = (itself | (low > -margin)).all(axis=1) & several
    table["usable"] = table["estimate"] >= usable
    if table["estimate"].notna().any():
        best = int(table["estimate"].idxmax())
        for matrix, column in ((value, "difference_to_best"), (low, "difference_low"), (high, "difference_high")):
            table[column] = np.where(np.arange(len(names)) == best, 0.0, matrix[:, best])
    time = table["arm"].map(minutes) if minutes is not None else pd.Series(np.nan, index=table.index)
    chosen, reason = _chosen(table, time.astype(float))
    return table.assign(chosen=table["arm"] == chosen, reason=reason, margin=margin, usable_score=usable)


def _chosen(table: pd.DataFrame, minutes: pd.Series) -> tuple[str | None, str]:
    if (table["n_with_target"] == 0).all():
        return None, "no target"
    if not (table["estimate"] > 0).any():
        return None, "nothing found"
    if not table["usable"].any():
        return None, "none usable"
    if len(table) == 1:
        return None, "one arm"
    shown = table[table["shown_best"] & table["usable"]]
    if len(shown):
        return shown["arm"].iloc[0], "shown best"
    near = table[table["within_margin"] & table["usable"]]
    if len(near):
        timed = minutes[near.index].dropna()
        # Without its time an arm could be the faster one: the choice would be by chance.
        if len(timed) < len(near):
            return None, "no time"
        return near.loc[timed.idxmin(), "arm"], "fastest within margin"
    return None, "not shown"


def choice(front: pd.DataFrame, missing: Mapping[str, str] | None = None) -> str:
    """What the patients say of the arms, in words: which are not shown to be worse, which one would be chosen, why.

    Parameters
    ----------
    front
        Of `decide`, with the columns minutes, false_mm2 and tissue_mm2 where they are known
        (`tlskit.evaluation.costs.pareto`). Where the choice was made on validation patients (column chosen_by of
        `tlskit.evaluation.answers.answer`), what the test patients show is said to be no choice.
    missing
        Arms of the preset that are not in it, each with the reason (``failed in 03_training``).
    """
    first, names = front.iloc[0], front["arm"].tolist()
    missing = dict(missing or {})
    score, reason = score_word(first["score"]), first["reason"]
    n, k = int(first["n_patients"]), int(first["n_with_target"])
    scored = reason not in ("no target", "nothing found")
    whom = units.counted(n, "test patient") + (f" ({k} with a target)" if k < n else "")
    none = "" if by_validation(front) else ", and none is chosen"
    if reason == "no target":
        text = f"The test slides hold no target: IoU, Dice and recall cannot be measured{none}."
        if "false_mm2" in front:
            areas = " and ".join(f"{row.arm} {row.false_mm2:.3g} mm2" for row in front.itertuples())
            text += f" Falsely marked of {first['tissue_mm2']:.3g} mm2 of tissue: {areas}."
    elif reason == "nothing found":
        verb = "has" if len(names) == 1 else "all have" if len(names) > 2 else "both have"
        what = f"{score} 0" if front["estimate"].notna().all() else f"no {score} above 0"
        text = f"No arm found any of the target in {whom}: {_listed(names)} {verb} {what}{none}."
    else:
        text = _compared(front, score, whom, none)
    if by_validation(front):
        # Names of arms keep their letters; the sentences' own beginnings go on after the colon.
        begins = ("No ", "The ", "Not ", "One ")
        text = f"The test patients alone: {text[0].lower() if text.startswith(begins) else text[0]}{text[1:]}"
    if scored:
        text += _found_nothing(front)
    text += "".join(f" {arm} is not compared: {why}." for arm, why in missing.items())
    no_time = front.loc[front["minutes"].isna(), "arm"].tolist() if "minutes" in front else []
    if no_time and scored:
        why = next((str(w) for w in front.get("minutes_note", pd.Series(dtype=str)) if isinstance(w, str) and w), "")
        text += f" No time for {_listed(no_time)}" + (f": {why}" if why else "") + "."
    if isinstance(first["warning"], str) and first["warning"] and scored:
        text += f" Caution: {first['warning']}."
    return text


def _found_nothing(front: pd.DataFrame) -> str:
    """What an arm's 0 is: a difference from it is the whole score of the other arm, and its interval that score's."""
    silent = front.loc[front["estimate"] == 0, "arm"].tolist()
    if not silent:
        return ""
    verb = "finds" if len(silent) == 1 else "find"
    return f" {_listed(silent)} {verb} nothing of the target at this threshold: another may change that."


def by_validation(front: pd.DataFrame) -> bool:
    """Whether the arm of `front` was chosen on validation patients."""
    return "chosen_by" in front and (front["chosen_by"] == "validation").all()


def _compared(front: pd.DataFrame, score: str, whom: str, none: str) -> str:
    first, picked = front.iloc[0], "Chosen is"
    if by_validation(front):
        front, picked = front.assign(chosen=front["chosen_on_test"]), "The rule would choose by them"
    rows = {row.arm: row for row in front.itertuples()}
    inside = front.loc[front["in_set"], "arm"].tolist()
    outside = front.loc[~front["in_set"], "arm"].tolist()
    each = "; ".join(f"{arm} {_with_interval(row)}" for arm, row in rows.items())
    best = front.loc[front["estimate"].idxmax(), "arm"]
    if first["reason"] == "one arm":
        return f"One arm, nothing to compare: {score} {each}, of {whom}."
    if first["reason"] == "none usable":
        return (
            f"No arm reaches an {score} of {first['usable_score']:g}, the least that the preset calls usable: {each}, "
            f"of {whom}" + (". None is chosen." if none else ".")
        )
    if len(inside) == 1:
        text = f"{inside[0]} is shown to be better than {_listed(outside)} by {score}, of {whom}: {each}."
    elif outside:
        text = (
            f"Not shown to be worse than the best by {score}, of {whom}: {_listed(inside)}. Shown to be worse: "
            f"{_listed(outside)}. {each}."
        )
    else:
        text = f"Not told apart by {score}, of {whom}: {_listed(list(rows))}. {each}."
    if first["reason"] == "fastest within margin":
        chosen = front[front["chosen"]].iloc[0]
        slower = front[(front["arm"] != chosen["arm"]) & front["within_margin"]]
        text += f" {picked} {chosen['arm']}: shown to be at most {first['margin']:g} worse than every other arm"
        text += ", and the fastest of those that are." if len(slower) else "."
        if chosen["arm"] != best and np.isfinite(chosen["difference_low"]):
            text += (
                f" Paired difference to {best}, the highest score: {chosen['difference_to_best']:+.3f} "
                f"({chosen['difference_low']:+.3f} to {chosen['difference_high']:+.3f}, simultaneous 95 %)."
            )
    elif first["reason"] == "shown best":
        text += f" {picked} {front.loc[front['chosen'], 'arm'].item()}."
    elif first["reason"] == "no time":
        near = front.loc[front["within_margin"], "arm"].tolist()
        text += (
            f" {_listed(near)} are shown to be at most {first['margin']:g} worse than every other; which is the faster "
            f"is not known{none}."
        )
    else:
        text += " None is chosen: no" if none else " No"
        text += f" arm is shown to be the best, or to be at most {first['margin']:g} worse than every other."
    return text


def score_word(score: str) -> str:
    """As it is written in a sentence: ``iou`` -> ``IoU``."""
    return {"iou": "IoU", "mcc": "MCC", "dice": "Dice"}.get(score, score)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def _with_interval(row) -> str:
    if np.isnan(row.estimate):
        text = "undefined"
    else:
        ends = "no interval" if np.isnan(row.low) else f"{row.low:.3f} to {row.high:.3f}"
        text = f"{row.estimate:.3f} ({ends})"
    minutes = getattr(row, "minutes", float("nan"))
    return text if np.isnan(minutes) else f"{text}, {units.minutes_text(minutes)} a slide"
