"""How charts look, set once: palette, sizes, the look of an arm, names and units, words for who does not see them.

Levels are told apart by colour (Okabe and Ito's palette, made for colour-blind readers) and by marker or dashes, so
that a print in grey still reads. `set_theme` gives the same look to whatever a researcher draws with seaborn.
"""

import functools
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tlskit import units
from tlskit.units import counted

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
VERMILION, SKY, BLACK, YELLOW = "#d55e00", "#56b4e9", "#222222", "#f0e442"
GREY, LIGHT_GREY, BAND = "#8a8a8a", "#bdbdbd", "#e8e4d8"

PALETTE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK)
# One more marker than colours: the first 56 levels differ in one of the two, neighbours in both.
_LOOKS = {"color": PALETTE, "marker": ("o", "s", "D", "^", "v", "P", "*", "X"),
          "linestyle": ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (7, 2)))}  # fmt: skip

#: Width of a figure in inches: one and two columns of a journal (89 and 183 mm).
WIDTHS_IN = {"single": 3.5, "double": 7.2}

#: matplotlib's settings, over seaborn's "ticks" and "paper".
THEME = {
    **sns.axes_style("ticks"), **sns.plotting_context("paper"), "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "font.size": 8, "axes.titlesize": 8,
    "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "legend.frameon": False, "figure.titlesize": 9, "figure.labelsize": 8, "lines.linewidth": 1.4,
    "lines.markersize": 5, "xtick.major.size": 3, "ytick.major.size": 3, "xtick.minor.size": 1.5,
}  # fmt: skip

POOLINGS = {
    "as_published": "one reading of the paper: mean of batches",
    "as_published_tiles": "one reading of the paper: mean of tiles",
    "batch_mean": "mean of batches", "pooled": "all pixels pooled",
    "per_slide": "mean of slides", "per_patient": "mean of patients", "per_tile": "mean of tiles",
}  # fmt: skip
_NAMES = {"iou": "IoU", "mcc": "MCC", "dice": "Dice", "f1": "F1", "tile": "tiles", "wsi": "whole slides"} | POOLINGS

_arms: list[str] = []  # of the run at hand, in the order of their looks


def set_theme(arms: Iterable[str] | None = None) -> None:
    """Give seaborn and matplotlib the look of this kit's charts, for what a notebook's own cells draw.

    `arms` are the names of all arms of a run: each keeps its colour and marker in every figure, also in one that lacks
    some of them. Without it, what was set before stays.
    """
    sns.set_theme(context="paper", style="ticks", palette=PALETTE, rc=THEME)
    if arms is not None:
        _arms[:] = levels(pd.Series(list(arms), dtype=object, name="arm"))


def arm_styles(arms: Iterable[str]) -> dict[str, dict]:
    """Colour, marker and dashes by arm: by its place among the run's arms, where `set_theme` was told those; what else
    stands beside them (cascades) comes after."""
    arms = list(arms)
    known = levels(pd.Series(arms, dtype=object, name="arm"))
    if set(arms) & set(_arms):
        known = [*_arms, *(arm for arm in known if arm not in _arms)]
    of_all = styles_of("", known)
    return {arm: of_all[arm] for arm in arms}


def styles_of(column: str, names: Sequence[str]) -> dict[str, dict]:
    """Colour, marker and dashes of each level of a column."""
    looks = [{key: values[n % len(values)] for key, values in _LOOKS.items()} for n in range(len(names))]
    return arm_styles(names) if column == "arm" else dict(zip(names, looks, strict=True))


def plain(**colours: str) -> dict[str, dict]:
    """Looks of levels that differ by colour alone, as the parts of a bar do."""
    return {name: {"color": colour, "marker": "s", "linestyle": "-"} for name, colour in colours.items()}


def levels(column: pd.Series) -> list:
    """Values of a factor in the order they are drawn in: numbers ascending, arms by their number, else as they come."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.remove_unused_categories().cat.categories)
    values = list(column.dropna().unique())
    if column.name == "arm":
        parts = {v: re.split(r"(\d+(?:\.\d+)?)", str(v)) for v in values}
        return sorted(values, key=lambda v: [(float(p) if n % 2 else 0.0, p) for n, p in enumerate(parts[v])])
    return sorted(values) if pd.api.types.is_numeric_dtype(column) else values


def level_name(column: str, value: object) -> str:
    """A level as it is written: ``True`` -> ``yes``, magnification 20.0 -> ``20x``, ``iou`` -> ``IoU``."""
    if pd.isna(value):
        return "not set"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        return units.magnification_name(float(value)) if column == "magnification" else f"{value:g}"
    return score_name(str(value))


def score_name(score: str) -> str:
    """As it is written: ``iou`` -> ``IoU``; names that are words stay as they are."""
    return _NAMES.get(score, score)


def same(values: Sequence) -> str:
    """A number that all arms should share; a range where they do not."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def n_text(table: pd.DataFrame) -> str:
    """What a panel stands on, from its table: patients where it knows of them, else slides; else nothing."""
    for what in ("patient", "slide"):
        values = table[f"n_{what}s"].dropna() if f"n_{what}s" in table else []
        if len(values):
            none = "n_with_target" in table and (table["n_with_target"] == 0).all()
            return f"n = {counted(same(values), what)}" + ", no target" * bool(none)
    n = table["slide_id"].nunique() if "slide_id" in table else 0
    return f"n = {counted(n, 'slide')}" if n else ""


def wrap(text: str, width_in: float, *, size: float = 8) -> str:
    """Break a text into lines that fit a width, also after the underscores in an arm's name."""
    across = max(8, int(width_in * 72 / (0.56 * size)))
    return "\n".join(textwrap.fill(line.replace("_", "_ "), across).replace("_ ", "_") for line in text.split("\n"))


def legend(figure: Figure, entries: dict[str, dict], *, title: str = "") -> int:
    """Entries (properties of line and marker by name) above all panels, in as many rows as are returned."""
    handles = [Line2D([], [], label=name, **({"linestyle": "none"} | look)) for name, look in entries.items()]
    across = max(1, min(len(handles), int((figure.get_figwidth() - 0.2) / (0.058 * max(map(len, entries)) + 0.45))))
    place = {"loc": "outside upper center", "columnspacing": 1.2, "handletextpad": 0.5}
    figure.legend(handles=handles, ncols=across, title=title or None, **place)
    return -(-len(handles) // across) + bool(title)


def listed(table: pd.DataFrame, value: str, name: str, low: str | None = None, high: str | None = None) -> str:
    """Values of a table in words, with their intervals: all of a few, else the ends; and how many are undefined."""
    known = table.dropna(subset=[value]).sort_values(value, ascending=False)
    known = known.sort_index() if len(known) <= 4 else known.iloc[[0, -1]]
    ends = known[[low, high]].to_numpy(float) if low and high else np.full((len(known), 2), np.nan)
    told = [f"{row[name]} {row[value]:.3g}" + (f" ({a:.3g} to {b:.3g})" if a <= b else "")
            for (_, row), (a, b) in zip(known.iterrows(), ends, strict=True)]  # fmt: skip
    undefined = table[value].isna().sum()
    if len(table) - undefined > 4:
        told = [f"highest {told[0]}", f"lowest {told[1]}"]
    return ", ".join([*told, *[f"{undefined} undefined"] * bool(undefined)]) or "nothing to show"


def done(figure: Figure, alt: str) -> Figure:
    """Close a figure for pyplot (it would be shown twice), and tie to it the words that say what it shows."""
    figure.tlskit_alt = " ".join(alt.split())
    # Jupyter asks an object for its bundle before it draws it: the words go into the output's metadata.
    figure._repr_mimebundle_ = functools.partial(_alt_bundle, figure.tlskit_alt)
    plt.close(figure)
    return figure


def _alt_bundle(alt: str, include=None, exclude=None) -> tuple[dict, dict]:
    return {}, {"image/png": {"alt": alt}}


def alt_text(figure: Figure, otherwise: str = "") -> str:
    """What a figure shows, in words, for who does not see it; `otherwise` where its maker said nothing."""
    return getattr(figure, "tlskit_alt", "") or otherwise


def words(text: str, size: str = "double") -> Figure:
    """A figure of words, where there is nothing to draw."""
    figure = plt.figure(figsize=(WIDTHS_IN[size], 0.8))
    figure.text(0.5, 0.5, wrap(text, WIDTHS_IN[size]), ha="center", va="center", fontsize=8)
    return done(figure, text)


def unless_empty(said: str) -> Callable:
    """Of a function that draws a table (or a list): what is `said`, as a figure, where that is empty."""

    def decorate(draw: Callable) -> Callable:
        @functools.wraps(draw)
        def drawn(table, **options) -> Figure:
            return draw(table, **options) if len(table) else words(said, options.get("size", "double"))

        return drawn

    return decorate
