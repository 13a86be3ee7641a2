"""Charts of the controls: what each takes away, and whether the difference between magnifications goes with it.

Tables of `tlskit.evaluation.effects`; each takes the options of `tlskit.figures.panels` besides. An empty table gives a
figure that says what the run lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from tlskit import units
from tlskit.figures import style
from tlskit.figures.panels import draw_forest, draw_trend, unit
from tlskit.figures.style import score_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["context_effects", "control_effects", "control_scores", "detail_ladder", "two_by_two"]


def control_scores(table: pd.DataFrame, **options) -> Figure:
    """The score along magnification under each control, one panel a control; `table` of `effects.control_scores`."""
    if table.empty:
        return style.words("No arm of this run has scores.", options.get("size", "double"))
    name = score_name(table["score"].iloc[0])
    return draw_trend(
        table, x="magnification", y="estimate", low="low", high="high", group=[], limits=unit(table[["low", "high"]]),
        **{"col": "control", "xlabel": f"magnification\n{_stands_on(table)}", "ylabel": name}
        | {"panel_in": (1.6, 1.5), "alt": f"{name} by magnification under each control."} | options,
    ).figure  # fmt: skip


def control_effects(table: pd.DataFrame, **options) -> Figure:
    """The difference between magnifications under each control, beside how much it changed from the plain condition.

    `table` of `effects.control_effects`. Filled marks: the simultaneous interval excludes 0.
    """
    if table.empty:
        said = "The run has no condition at two magnifications: there is no difference to explain."
        return style.words(said, options.get("size", "double"))
    first = table.iloc[0]
    apart = f"{first['finer'].split('_')[0]} - {first['coarser'].split('_')[0]}"
    what = {"difference": f"difference, {apart}", "change": "change from the plain difference"}
    table = table.assign(
        what=pd.Categorical(table["what"].map(what), [w for k, w in what.items() if (table["what"] == k).any()]),
        control=pd.Categorical(table["control"], list(dict.fromkeys(table["control"]))),
        shown=(table["low_all"] > 0) | (table["high_all"] < 0),
    )
    words = f"difference in {score_name(first['score'])} (filled: shown, all rows taken together)\n{_stands_on(table)}"
    return draw_forest(
        table, x="estimate", y="control", color="shown", fill="shown", dodge=False, zero=True,
        number="{:+.2f}".format, looks=style.plain(yes=style.BLUE, no=style.GREY),
        **{"col": "what", "show_legend": False, "xlabel": words, "alt": "What controls change."} | options,
    ).figure  # fmt: skip


def two_by_two(table: pd.DataFrame, **options) -> Figure:
    """Four scores over two factors, and the interaction in words; `table` of `effects.two_by_two`."""
    if table.empty:
        said = "No four arms of this run differ in negatives and in context, field or magnification alone."
        return style.words(said, options.get("size", "double"))
    scores, last = table[table["what"] == "score"], table.iloc[-1]
    names = {"first": level_words(last["first"]), "second": level_words(last["second"])}
    scores = scores.sort_values(["first_level", "second_level"])
    table = scores.assign(first=scores["first_level"].map(names["first"]))
    table["second"] = table["second_level"].map(names["second"])
    at = "" if pd.isna(last["magnification"]) else f" at {units.magnification_name(last['magnification'])}"
    name = score_name(last["score"])
    interval = f"{last['low']:+.3f} to {last['high']:+.3f}" if last["low"] == last["low"] else "no interval"
    words = f"interaction{at}: {last['estimate']:+.3f} ({interval})\n{_stands_on(scores)}"
    return draw_trend(
        table.rename(columns={"second": " "}), x="first", y="estimate", low="low", high="high", color=" ", group=[],
        limits=unit(table[["low", "high"]]),
        **{"size": "single", "xlabel": words, "ylabel": name, "panel_in": (2.4, 2.2)}
        | {"alt": f"{name} of four arms; {words}."} | options,
    ).figure  # fmt: skip


def detail_ladder(table: pd.DataFrame, **options) -> Figure:
    """The score as detail is taken away from one magnification, beside other magnifications at that detail.

    `table` of `effects.detail_ladder`.
    """
    if table.empty:
        said = "No arm of this run is blurred (`detail_mpp`) beside a sharp one of the same kind."
        return style.words(said, options.get("size", "double"))
    name = score_name(table["score"].iloc[0])
    at = units.magnification_name(table.loc[table["kind"] == "blurred", "magnification"].iloc[0])
    kinds = {"blurred": f"tiles of {at}, blurred", "own magnification": "coarser magnification, its own tiles"}
    table = table.assign(tiles=pd.Categorical(table["kind"].map(kinds), list(kinds.values())))
    words = f"finest detail that is let through, um/px\n{_stands_on(table)}"
    return draw_trend(
        table, x="detail_mpp", y="estimate", low="low", high="high", color="tiles", group=[], log=True,
        limits=unit(table[["low", "high"]]),
        **{"xlabel": words, "ylabel": name, "panel_in": (2.4, 2.2), "size": "single"}
        | {"alt": f"{name} as detail is taken away."} | options,
    ).figure  # fmt: skip


def context_effects(table: pd.DataFrame, **options) -> Figure:
    """What context in the network gains over its controls, one panel an arm; `table` of `effects.context_effects`."""
    if table.empty:
        return style.words("No network of this run has context.", options.get("size", "double"))
    table = table.assign(
        against=pd.Categorical(table["against"], list(dict.fromkeys(table["against"]))),
        network=[f"{units.magnification_name(row.magnification)}, {row.control}" for row in table.itertuples()],
        shown=(table["low_all"] > 0) | (table["high_all"] < 0),
    )
    name = score_name(table["score"].iloc[0])
    words = f"{name} with context, less that of each row (filled: shown, all rows taken together)\n{_stands_on(table)}"
    return draw_forest(
        table, x="estimate", y="against", color="shown", fill="shown", dodge=False, zero=True,
        number="{:+.2f}".format, looks=style.plain(yes=style.BLUE, no=style.GREY),
        **{"col": "network", "show_legend": False, "xlabel": words, "alt": "What context in the network gains."}
        | options,
    ).figure  # fmt: skip


def level_words(factor: str):
    """How the levels of a factor are called in a chart and in a sentence."""
    if factor == "negatives_per_batch":
        return lambda level: f"{level:g} tiles without target a batch" if level else "tiles with target alone"
    if factor == "field_um":
        return lambda level: f"a tile covers {level:g} um"
    if factor == "magnification":
        return units.magnification_name
    if factor == "context_ratio":
        return lambda level: f"context {level:g} times as coarse" if level else "without context"
    return lambda level: f"{factor.replace('_', ' ')} {level:g}"


def _stands_on(table: pd.DataFrame) -> str:
    """What the intervals stand on, and whose spread between trainings they hold."""
    first, fewest = table.iloc[0], int(table["n_repeats"].min())
    n, k = int(first["n_patients"]), int(first["n_with_target"])
    patients = f"{n} test patients" + (f" ({k} with a target)" if k < n else "")
    each = f" in each of {int(first['n_folds'])} folds" if first["n_folds"] > 1 else ""
    trained = f"{fewest} trainings an arm{each}"
    if (table["spread"] == "other arms").any():
        trained = f"arms trained once{each} with the spread of the others"
    elif (table["spread"] == "none").any():
        trained = f"arms trained once{each}: another training is not in it"
    return f"95 % t intervals over {patients}\n{trained}"
