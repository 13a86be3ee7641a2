"""What the controls say about why one magnification does better, in words; and what they cannot say.

Numbers in brackets are simultaneous 95 % intervals, for all rows of their table. A sentence claims that something is
*shown* only where such an interval excludes 0, and that it matters less than the margin that was stated beforehand only
where it lies within that margin. Everything else is *not told*: an interval that holds 0 is no proof of no difference.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tlskit.evaluation.factors import PLAIN

__all__ = ["style_why", "why"]

#: What a control does, by words of its name.
CAUSES = {
    "every tile once": "the number of training steps is left to differ between magnifications, as published",
    "positive pixels": "the share of target pixels in training is the same at all magnifications",
    "negatives a batch": "every batch has tiles without target",
    "tiles drawn alike": "tiles are drawn as the tissue has them",
    "own field as context": "a second branch of the network sees the tile's own field again",
    "another tile's context": "a second branch of the network sees the context of another tile",
    "times as coarse": "the network also sees a wider field",
    "field": "a tile covers the same field at all magnifications",
    "hard negatives": "the network trained on its own false alarms",
    "loss": "the loss is another one",
    "encoder": "the encoder is another one",
}


def why(
    effects: pd.DataFrame,
    square: pd.DataFrame,
    ladder: pd.DataFrame,
    arms: pd.DataFrame,
    *,
    context: pd.DataFrame | None = None,
    margin: float = 0.05,
) -> pd.DataFrame:
    """Questions and what this cohort answers.

    Parameters
    ----------
    effects, square, ladder
        Of `effects.control_effects`, `effects.two_by_two` and `effects.detail_ladder`, of the same score.
    arms
        Of `factors.arm_factors`.
    context
        Of `effects.context_effects`; None or empty: no network has context.
    margin
        Change of a score that is held to be of no matter, stated beforehand.

    Returns
    -------
    DataFrame
        question, answer.
    """
    rows = [("Is there a difference between magnifications?", _difference(effects))]
    for control in effects.loc[effects["what"] == "change", "control"]:
        rows.append((f"Does it change with: {control}?", _change(effects, control, margin)))
    rows.append(("Do negatives matter more with a larger field or context?", _interaction(square, margin)))
    if context is not None and len(context):
        rows.append(("Is it context in the network?", _context(context, margin)))
    rows.append(("Is it the detail?", _detail(ladder, margin)))
    rows.append(("What can this run not show?", _limits(effects, square, ladder, arms)))
    return pd.DataFrame(rows, columns=["question", "answer"])


def style_why(table: pd.DataFrame):
    """`why` for the eye: whole sentences, left-aligned.

    Returns
    -------
    pandas.io.formats.style.Styler
    """
    left = {"text-align": "left", "white-space": "normal", "vertical-align": "top", "max-width": "40em"}
    return table.style.hide(axis="index").set_properties(**left)


def _difference(effects: pd.DataFrame) -> str:
    plain = effects[(effects["control"] == PLAIN) & (effects["what"] == "difference")]
    if plain.empty:
        return "The plain condition was not run at two magnifications: there is no difference to explain."
    row = plain.iloc[0]
    name = f"{row['finer'].split('_')[0]} - {row['coarser'].split('_')[0]}, plain: {_number(row)}."
    if not np.isfinite(row["low_all"]):
        return f"{name} It has no interval ({row['warning'] or 'too few patients'}): nothing is shown."
    if _shown(row):
        return f"{name} The {'finer' if row['estimate'] > 0 else 'coarser'} one is shown to do better."
    return f"{name} Not shown: what follows explains a difference that this cohort does not establish."


def _change(effects: pd.DataFrame, control: str, margin: float) -> str:
    rows = effects[effects["control"] == control].set_index("what")
    under, change = rows.loc["difference"], rows.loc["change"]
    plain = effects[(effects["control"] == PLAIN) & (effects["what"] == "difference")].iloc[0]
    said = " and ".join(
        next((text for word, text in CAUSES.items() if word in part), f"there is {part}")
        for part in control.split(", ")
    )
    text = f"Where {said}, the difference is {_number(under)}; it changed by {_number(change)}."
    if not np.isfinite(change["low_all"]):
        return f"{text} Without an interval nothing is shown."
    if _shown(change):
        smaller = np.sign(change["estimate"]) != np.sign(plain["estimate"])
        if not smaller:
            return f"{text} Shown: the difference grew."
        if _shown(under) and np.sign(under["estimate"]) != np.sign(plain["estimate"]):
            return f"{text} Shown: it turns the order of the two magnifications round."
        rest = "what is left is still shown" if _shown(under) else "what is left is not shown to differ from 0"
        return f"{text} Shown: this takes away part of the difference or all of it; {rest}."
    if -margin < change["low_all"] and change["high_all"] < margin:
        return f"{text} Shown: it changes the difference by less than {margin:g}."
    return f"{text} Not told: the interval holds 0 and also changes of more than {margin:g}."


def _interaction(square: pd.DataFrame, margin: float) -> str:
    if square.empty:
        return "Not asked: no four arms differ in negatives and in a second factor alone."
    row = square.iloc[-1]
    other = {
        "magnification": "magnification (field and detail change with it, so that this is not context alone)",
        "field_um": f"the field of a tile at {row['magnification']:g}x (a larger tile also holds more pixels a step)",
        "context_ratio": f"context in the network at {row['magnification']:g}x",
    }.get(row["second"], row["second"])
    text = f"Negatives by {other}: interaction {_number(row)}."
    if not np.isfinite(row["low_all"]):
        return f"{text} Without an interval nothing is shown."
    if _shown(row):
        more = "more" if row["estimate"] > 0 else "less"
        return f"{text} Shown: negatives gain {more} at its higher level than at the lower."
    if -margin < row["low_all"] and row["high_all"] < margin:
        return f"{text} Shown: the two add up, but for less than {margin:g}."
    return f"{text} Not told apart from two effects that add up."


def _detail(ladder: pd.DataFrame, margin: float) -> str:
    rows = ladder[ladder["change"].notna()] if len(ladder) else ladder
    if rows.empty:
        return "Not asked: no arm is blurred beside a sharp one."
    at, parts = f"{rows['magnification'].iloc[0]:g}x", []
    for row in rows.to_dict("records"):
        change = {"score": row["score"], "estimate": row["change"]}
        change |= {"low_all": row["change_low_all"], "high_all": row["change_high_all"]}
        parts.append(f"to {row['detail_mpp']:g} um/px {_number(change)}, {_verdict(change, margin)}")
    return f"The same tiles of {at}, with detail taken away {'; '.join(parts)}. Nothing else differs in these arms."


def _context(context: pd.DataFrame, margin: float) -> str:
    said = []
    for _, rows in context.groupby("arm", sort=False):
        each = "; ".join(
            f"against {row['against']} {_number(row)}, {_verdict(row, margin)}" for _, row in rows.iterrows()
        )
        gains = rows.set_index("against").apply(lambda row: row["low_all"] > 0, axis=1)
        asked = {"without context", "own field as context", "another tile's context"}
        if asked <= set(gains.index) and gains.all():
            end = "Shown: the wider field helps, and not the second branch alone"
        elif gains.get("without context", False):
            end = "That it helps is shown; that the wider field does it, and not the second branch alone, is not"
        else:
            end = "That the wider field helps is not shown"
        first = rows.iloc[0]
        said.append(f"{first['magnification']:g}x, {first['control']}: {each}. {end}.")
    return " ".join(said)


def _verdict(row, margin: float) -> str:
    if _shown(row):
        return "shown"
    return f"shown to be less than {margin:g}" if -margin < row["low_all"] and row["high_all"] < margin else "not told"


def _limits(effects: pd.DataFrame, square: pd.DataFrame, ladder: pd.DataFrame, arms: pd.DataFrame) -> str:
    said, lacking = [], arms[arms["n_trainings"] < arms["n_planned"]]
    if len(lacking):
        each = ", ".join(f"{row.arm} ({row.n_trainings} of {row.n_planned} trainings)" for row in lacking.itertuples())
        said.append(f"Left out as failed, out of date or not run: {each}")
    arms = arms[arms["n_trainings"] > 0]
    controls = " | ".join(arms["control"])
    absent = {
        "equal share of target pixels": "positive pixels" in controls,
        "equal field": "field" in controls,
        "length of training as published": "every tile once" in controls or "steps an epoch" in controls,
        "detail alone": len(ladder) > 0,
        "context in the network": "context_ratio" in arms and (arms["context_ratio"] > 0).any(),
    }
    if missing := [name for name, there in absent.items() if not there]:
        said.append(f"Not run: {', '.join(missing)}")
    if len(effects):
        first, fewest = effects.iloc[0], int(effects["n_repeats"].min())
        if (effects["spread"] == "other arms").any():
            said.append(
                "Some arms were trained once: their intervals hold the mean spread between trainings of the others"
            )
        elif fewest < 2:
            once = "once a fold" if first["n_folds"] > 1 else "once"
            said.append(f"Arms were trained {once}: intervals say nothing of another training (another seed)")
        elif fewest < 3:
            said.append(f"{fewest} trainings an arm tell little of how much trainings differ")
        if first["warning"]:
            said.append(first["warning"][0].upper() + first["warning"][1:])
    if len(square) and square["second"].iloc[0] == "magnification":
        said.append("Field and detail are held apart by the fixed field and the blur alone, not in the 2 x 2")
    said.append("A control takes away one stated cause; causes that nobody stated stay where they are")
    return ". ".join(said) + "."


def _shown(row) -> bool:
    return bool(row["low_all"] > 0 or row["high_all"] < 0)


def _number(row) -> str:
    """With the interval that claims stand on: simultaneous for all rows of the table."""
    ends = f"{row['low_all']:+.3f} to {row['high_all']:+.3f}" if np.isfinite(row["low_all"]) else "no interval"
    name = {"iou": "IoU", "mcc": "MCC", "dice": "Dice"}.get(row["score"], row["score"])
    return f"{name} {row['estimate']:+.3f} ({ends})"
