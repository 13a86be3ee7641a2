"""Charts of the controls: what each takes away, and whether the difference between magnifications goes with it.

Tables of `tlskit.evaluation.effects`; each takes the options of `tlskit.figures.charts` and `tlskit.figures.panels`
besides. An empty table gives a figure that says what the run lacks.
"""

import pandas as pd
from matplotlib.figure import Figure

from tlskit import units
from tlskit.figures import style
from tlskit.figures.charts import chart, trend
from tlskit.figures.comparecharts import differences, stands_on
from tlskit.figures.panels import unit
from tlskit.figures.style import score_name

__all__ = ["context_effects", "control_effects", "control_scores", "detail_ladder", "two_by_two"]

_FILLED = "(thick: 95 % of this row; thin: of all rows at once; filled: shown)"


@style.unless_empty("No arm of this run has scores.")
def control_scores(table: pd.DataFrame, **options) -> Figure:
    """The score along magnification under each control, one panel a control; `table` of `effects.control_scores`."""
    return _scores(table, "magnification", " by magnification under each control.", options, col="control",
                   xlabel=f"magnification\n{stands_on(table)}", size="double", panel_in=(1.6, 1.5))  # fmt: skip


@style.unless_empty("The run has no condition at two magnifications: there is no difference to explain.")
def control_effects(table: pd.DataFrame, **options) -> Figure:
    """The difference between magnifications under each control, beside how much it changed from the plain condition.

    `table` of `effects.control_effects`. Filled marks: the simultaneous interval excludes 0.
    """
    first = table.iloc[0]
    apart = f"{first['finer'].split('_')[0]} - {first['coarser'].split('_')[0]}"
    what = {"difference": f"difference, {apart}", "change": "change from the plain difference"}
    table = table.assign(what=pd.Categorical(table["what"].map(what), list(what.values())))
    words = f"difference in {score_name(first['score'])} {_FILLED}\n{stands_on(table)}"
    own = {"x": "estimate", "y": "control", "alt": "What controls change."}
    return chart(differences, table, options, col="what", xlabel=words, **own)


@style.unless_empty("No network of this run has context.")
def context_effects(table: pd.DataFrame, **options) -> Figure:
    """What context in the network gains over its controls, one panel an arm; `table` of `effects.context_effects`."""
    table = table.assign(network=table["magnification"].map(units.magnification_name) + ", " + table["control"])
    words = f"{score_name(table['score'].iloc[0])} with context, less that of each row {_FILLED}\n{stands_on(table)}"
    own = {"x": "estimate", "y": "against", "alt": "What context in the network gains."}
    return chart(differences, table, options, col="network", xlabel=words, **own)


@style.unless_empty("No four arms of this run differ in negatives and in context, field or magnification alone.")
def two_by_two(table: pd.DataFrame, **options) -> Figure:
    """Four scores over two factors, and the interaction in words; `table` of `effects.two_by_two`."""
    scores, last = table[table["what"] == "score"].sort_values(["first_level", "second_level"]), table.iloc[-1]
    first, second = (scores[f"{which}_level"].map(level_words(last[which])) for which in ("first", "second"))
    at = "" if pd.isna(last["magnification"]) else f" at {units.magnification_name(last['magnification'])}"
    interval = "no interval" if pd.isna(last["low"]) else f"{last['low']:+.3f} to {last['high']:+.3f}"
    words = f"interaction{at}: {last['estimate']:+.3f} ({interval})\n{stands_on(scores)}"
    table = scores.assign(first=first, _second=second)
    return _scores(table, "first", f" of four arms; {words}.", options, color="_second", xlabel=words)


@style.unless_empty("No arm of this run is blurred (`detail_mpp`) beside a sharp one of the same kind.")
def detail_ladder(table: pd.DataFrame, **options) -> Figure:
    """The score as detail is taken away from one magnification, beside other magnifications at that detail.

    `table` of `effects.detail_ladder`.
    """
    at = units.magnification_name(table.loc[table["kind"] == "blurred", "magnification"].iloc[0])
    kinds = {"blurred": f"tiles of {at}, blurred", "own magnification": "coarser magnification, its own tiles"}
    table = table.assign(tiles=pd.Categorical(table["kind"].map(kinds), list(kinds.values())))
    words = f"finest detail that is let through, um/px\n{stands_on(table)}"
    return _scores(table, "detail_mpp", " as detail is taken away.", options, color="tiles", log=True, xlabel=words)


def _scores(table: pd.DataFrame, x: str, alt: str, options: dict, **own) -> Figure:
    """Scores with their intervals along a factor."""
    name, limits = score_name(table["score"].iloc[0]), unit(table[["low", "high"]])
    own = {"ylabel": name, "panel_in": (2.4, 2.2), "size": "single", "alt": name + alt} | own
    return chart(trend, table, options, x=x, group=[], limits=limits, **own)


def level_words(factor: str):
    """How the levels of a factor are called in a chart and in a sentence."""
    if factor == "magnification":
        return units.magnification_name
    words, none = {
        "negatives_per_batch": ("{:g} tiles without target a batch", "tiles with target alone"),
        "field_um": ("a tile covers {:g} um", ""), "context_ratio": ("context {:g} times as coarse", "without context"),
    }.get(factor, (f"{factor.replace('_', ' ')} {{:g}}", ""))  # fmt: skip
    return lambda level: words.format(level) if level or not none else none
