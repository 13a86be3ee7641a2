"""The explorers' static twins: what a slider shows, as a figure for a given value of it.

Each takes a run (its name, folder or `tlskit.study.Archive`) and plain values, and returns a matplotlib ``Figure``;
the explorers of `explorers` and `figure_explorers` show the call that makes their present view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import patheffects

from tlskit.errors import ParameterError, RunError
from tlskit.evaluation import level_near, scores_at
from tlskit.figures import arm_styles, curves, done, forest, person_band, plots, score_name, spread_tiles
from tlskit.maps import frames_of, probmaps
from tlskit.metrics import thresholds
from tlskit.outlines import polygonise
from tlskit.study import Archive, Arm, Run, open_archive
from tlskit.units import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PERSON_MIN_PER_SLIDE",
    "choose_tiles",
    "cost_table",
    "slide_field",
    "threshold_curves",
    "tile_page",
    "timing_figure",
]

#: What may stand for a run.
AnyRun = str | Path | Archive | Run

#: Minutes that a person takes for a slide, as the paper gives them.
PERSON_MIN_PER_SLIDE = (5.0, 10.0)

_SCORES = ("dice", "iou", "precision", "recall")

#: Error ranges and orders of `choose_tiles`.
ORDERS = ("target_fraction", "error", "iou")


def slide_field(
    run: AnyRun,
    *,
    slide_id: str,
    threshold: float = 0.5,
    field: Sequence[float] | None = None,
    arms: Sequence[str] | None = None,
    context: bool = False,
    outputs_dir: str | Path = "outputs",
    width_px: int = 640,
) -> Figure:
    """The same field of a slide at every magnification: truth in cyan, prediction in yellow; hatched where a map has no
    answer.

    Parameters
    ----------
    run
        A run.
    slide_id
        Of its cohort.
    threshold
        Probability from which a pixel is positive.
    field
        Centre x, centre y and width in level-0 px; None shows the whole slide.
    arms
        Names of the arms, one panel each; None shows all that have a map of the slide.
    context
        Frame the window in the middle (white), and the context that an arm's network saw with it (dashed).
    width_px
        Pixels across a panel.
    """
    archive = open_archive(run, outputs_dir=outputs_dir)
    chosen = [arm for arm in archive.arms if arm.has_map(slide_id) and (arms is None or arm.name in arms)]
    with archive.open_slide(slide_id) as slide:
        width, height = slide.size_px0
        x, y, across = field if field is not None and len(field) else (width / 2, height / 2, max(width, height))
        down = across * 0.75 if field is not None and len(field) else height
        d = max(1.0, across / width_px)
        size = (max(1, round(across / d)), max(1, round(down / d)))
        left, top = round((x - across / 2) / d), round((y - down / 2) / d)
        pixels = slide.read(left, top, *size, mpp=slide.mpp0 * d)
        polygons = archive.targets(slide_id, slide)
        columns = min(2, max(1, len(chosen)))
        rows = max(1, math.ceil(len(chosen) / columns))
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(5.2 * columns, (5.2 * size[1] / size[0] + 0.45) * rows),
            squeeze=False,
            layout="constrained",
        )
        for ax in axes.flat[len(chosen) or 1 :]:
            ax.set_axis_off()
        hatched, told = set(), []
        for ax, arm in zip(axes.flat, chosen or [None], strict=False):
            ax.imshow(pixels, extent=(0, size[0], size[1], 0), interpolation="antialiased")
            where = {"scale": 1 / d, "shift": (-left, -top)}
            plots.draw_outlines(ax, polygons, colour=plots.TRUTH_COLOUR, **where)
            if arm is not None:
                with probmaps.open_map(arm.map_path(slide_id)) as probmap:
                    predicted = _outlines_in(probmap, (left, top, *size), d, slide.mpp0, threshold)
                    frames = frames_of(probmap) if context else None
                    of_map = {"scale": probmap.mpp / slide.mpp0 / d, "shift": (-left, -top)}
                    for kind, boxes in (("unseen", probmap.unseen), ("lost", probmap.invalid)):
                        if boxes:
                            hatched.add(kind)
                            plots.draw_hatched(ax, boxes, kind, **of_map)
                told.append(f"{_title(arm, slide_id, threshold)}, {counted(len(predicted), 'outline')} predicted here")
                if frames is not None:
                    plots.draw_context(ax, frames.at(x, y), **where)
                plots.draw_outlines(ax, predicted, colour=plots.PREDICTION_COLOUR, **where)
                ax.set_title(_title(arm, slide_id, threshold), fontsize=9)
            ax.set_xlim(0, size[0])
            ax.set_ylim(size[1], 0)
            plots.bare(ax)
            _scale_bar(ax, slide.mpp0 * d, size)
        figure.suptitle(f"{slide_id}, threshold {threshold:g}", fontsize=10)
    plots.draw_legend(figure, truth=True, prediction=bool(chosen), hatched=hatched)
    here = f"a field {across * slide.mpp0:,.0f} um wide of " if field is not None and len(field) else ""
    words = f"{here}slide {slide_id}, {counted(len(polygons), 'outline')} of the truth on the slide"
    return done(figure, f"{words[0].upper()}{words[1:]}; at {threshold:g}: {'; '.join(told) or 'no map'}.")


def _outlines_in(probmap, box, d: float, mpp0: float, threshold: float) -> list:
    """Outlines of what is positive in a box given in px of `d` level-0 px, from the level that fits it."""
    level, mpp = level_near(probmap, mpp0 * d)
    ratio = mpp0 * d / mpp  # pixels of that level along one of the box
    x, y = (math.floor(v * ratio) - 1 for v in box[:2])
    width, height = (math.ceil(v * ratio) + 3 for v in box[2:])
    values = probmap.read(x, y, width, height, level=level)
    marked = probmap.marked(values, thresholds.cut(threshold), x, y, level=level)
    return polygonise(marked, mpp=mpp, mpp0=mpp0, x_px=x, y_px=y)


def _scale_bar(ax, mpp: float, size: tuple[int, int]) -> None:
    """A bar of at most a quarter of the field's width, in its lower left corner."""
    power = 10 ** math.floor(math.log10(size[0] * mpp / 4))
    length_um = max(n * power for n in (1, 2, 5) if n * power <= size[0] * mpp / 4)
    left, y = 0.03 * size[0], size[1] - 0.04 * size[0]
    for colour, width in (("black", 5), ("white", 2.5)):
        ax.plot([left, left + length_um / mpp], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
    label = ax.text(left, y - 0.015 * size[0], text, color="white", fontsize=8, va="bottom")
    label.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])


def _title(arm: Arm, slide_id: str, threshold: float) -> str:
    histogram = arm.histograms.get(slide_id)
    if histogram is None:
        return arm.name
    scores = scores_at(histogram, threshold)
    return f"{arm.name}   IoU {scores['iou']:.2f}   Dice {scores['dice']:.2f}   of the whole slide"


def choose_tiles(
    tiles: pd.DataFrame,
    *,
    split: str = "",
    cancer_type: str = "",
    slide_id: str = "",
    target_fraction: Sequence[float] = (0.0, 1.0),
    error: Sequence[float] = (0.0, 1.0),
) -> pd.DataFrame:
    """Rows of a tile table (`tlskit.study.archive.Archive.tiles`); an empty text takes all.

    `target_fraction` and `error` are ranges, both ends included. Tiles that were not evaluated have no error; they stay
    as long as the range of errors is the whole of 0 to 1.
    """
    keep = tiles["target_fraction"].between(*target_fraction)
    for column, value in (("split", split), ("cancer_type", cancer_type), ("slide_id", slide_id)):
        if value:
            keep &= tiles[column] == value
    if tuple(error) != (0.0, 1.0):
        keep &= tiles["error"].between(*error)
    return tiles[keep]


def tile_page(
    run: AnyRun,
    *,
    arm: str,
    order: str = "target_fraction",
    n_tiles: int = 12,
    outputs_dir: str | Path = "outputs",
    **choice,
) -> Figure:
    """Tiles of one arm with their outlines, chosen by `choose_tiles`, at even steps of the column `order`.

    Parameters
    ----------
    run, arm
        A run and one of its arms.
    order
        ``target_fraction``, ``error`` or ``iou``; tiles without it are left out.
    n_tiles
        At most this many.
    **choice
        Of `choose_tiles`.
    """
    if order not in ORDERS:
        raise ParameterError(f"`order` should be one of {', '.join(ORDERS)}, not {order!r}.")
    archive = open_archive(run, outputs_dir=outputs_dir)
    of = archive.arm(arm)
    tiles = choose_tiles(archive.tiles(of), **choice).dropna(subset=[order])
    chosen = spread_tiles(tiles, n_tiles, by=order) if len(tiles) else tiles
    figure = plots.tile_gallery(
        chosen, archive.manifest, magnification=of.magnification, tile_px=int(of.values["01_tiling"]["tile_px"]),
        target_class=archive.target_class, **archive.reading, n_tiles=max(1, len(chosen)), columns=6,
        by=order,
    )  # fmt: skip
    for ax, tile in zip(figure.axes, chosen.itertuples(), strict=False):
        scores = "" if math.isnan(tile.error) else f"\nwrong {tile.error:.0%}, IoU {tile.iou:.2f}"
        ax.set_title(f"{tile.slide_id}, target {tile.target_fraction:.0%}{scores}", fontsize=8)
    figure.suptitle(f"{arm}: {len(chosen)} of {len(tiles)} tiles", fontsize=9)
    return figure


def threshold_curves(
    run: AnyRun,
    *,
    threshold: float = 0.5,
    split: str = "test",
    score: str = "dice",
    outputs_dir: str | Path = "outputs",
) -> Figure:
    """Precision against recall, and a score against the threshold, one line a magnification, all pixels pooled.

    Parameters
    ----------
    run
        A run.
    threshold
        Where the marks stand.
    split
        Set of slides (train, val, test); empty takes all.
    score
        ``dice``, ``iou``, ``precision`` or ``recall``.
    """
    if score not in _SCORES:
        raise ParameterError(f"`score` should be one of {', '.join(_SCORES)}, not {score!r}.")
    table = pr_curves(run, split=split, outputs_dir=outputs_dir)
    pairs = {"recall": "precision", "threshold": score}
    parts = [table.assign(of=n, _x=table[x], _y=table[y]) for n, (x, y) in enumerate(pairs.items())]
    figure = curves(
        pd.concat(parts), x="_x", y="_y", col="of", n=lambda rows: f"n = {rows['n_slides'].iloc[0]} slides",
        color="arm", share=(False, False), xlabel=f"{split or 'all'} slides, all pixels pooled",
        alt=f"Precision against recall, and {score_name(score)} at every threshold.",
    )  # fmt: skip
    for ax, (x, y) in zip(figure.axes, pairs.items(), strict=True):
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=score_name(y))
    # For the explorer, which moves them.
    figure.tlskit_marks = put_cursor(figure, table, threshold, score)
    return figure


def pr_curves(run: AnyRun, *, split: str = "test", outputs_dir: str | Path = "outputs") -> pd.DataFrame:
    """`tlskit.metrics.thresholds.pr_curve` of every arm, of the slides of one set."""
    archive = open_archive(run, outputs_dir=outputs_dir)
    table = archive.histograms(split or None)
    if table.empty:
        raise RunError(f"Run {archive.name} has no evaluated slide in the set {split!r}.")
    return thresholds.pr_curve(table, by=["arm", "magnification"])


def at_threshold(curves: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The row of each arm's curve that stands for a threshold."""
    return curves[curves["cut"] == max(1, thresholds.cut(threshold))]


def put_cursor(figure: Figure, curves: pd.DataFrame, threshold: float, score: str) -> list:
    """Mark a threshold in the figure of `threshold_curves`; returns the marks, which may be moved by `move_cursor`."""
    rows = at_threshold(curves, threshold)
    left, right = figure.axes[:2]
    looks, marks = arm_styles(rows["arm"]), []
    for row in rows.itertuples():
        style = looks[row.arm] | {"linestyle": "none", "markersize": 7, "markeredgecolor": "black", "zorder": 5}
        marks += left.plot([row.recall], [row.precision], **style)
        marks += right.plot([threshold], [getattr(row, score)], **style)
    return [*marks, right.axvline(threshold, color="0.2", linewidth=1)]


def move_cursor(marks: list, curves: pd.DataFrame, threshold: float, score: str) -> None:
    """Move the marks of `put_cursor` to another threshold."""
    for n, row in enumerate(at_threshold(curves, threshold).itertuples()):
        marks[2 * n].set_data([row.recall], [row.precision])
        marks[2 * n + 1].set_data([threshold], [getattr(row, score)])
    marks[-1].set_xdata([threshold, threshold])


def cost_table(run: AnyRun, *, n_slides: int = 100, outputs_dir: str | Path = "outputs") -> pd.DataFrame:
    """What a cohort of `n_slides` costs at each magnification on the machine that timed the run.

    Returns
    -------
    DataFrame
        arm, magnification, timed_slides, seconds_per_slide (mean over the timed slides of the median over the warm
        repeats), fastest_s, slowest_s (slide), hours (of the cohort), slides_per_minute, person_hours_low and
        person_hours_high (5 and 10 minutes a slide, as the paper gives them).
    """
    if n_slides < 1:
        raise ParameterError(f"`n_slides` should be at least 1, not {n_slides!r}.")
    rows = []
    for (arm, magnification), stages in (
        open_archive(run, outputs_dir=outputs_dir).stages().groupby(["arm", "magnification"], sort=False)
    ):
        seconds = _seconds_per_slide(stages)
        mean = float(seconds.mean())
        rows.append(
            {
                "arm": arm, "magnification": magnification, "timed_slides": len(seconds), "seconds_per_slide": mean,
                "fastest_s": float(seconds.min()), "slowest_s": float(seconds.max()),
                "hours": mean * n_slides / 3600, "slides_per_minute": 60 / mean,
                "person_hours_low": PERSON_MIN_PER_SLIDE[0] * n_slides / 60,
                "person_hours_high": PERSON_MIN_PER_SLIDE[1] * n_slides / 60,
            }
        )  # fmt: skip
    return pd.DataFrame(rows).sort_values("magnification", kind="stable", ignore_index=True)


def _seconds_per_slide(stages: pd.DataFrame) -> pd.Series:
    """Seconds from start to end by slide: the median of its repeats, without the cold one where there are more."""
    if "warm" in stages and stages["warm"].astype(bool).any():
        stages = stages[stages["warm"].astype(bool)]
    # Stages run side by side: their sum is not the time that passes. That is a stage of its own.
    whole = stages[stages["stage"].isin(["wall", "total"])]
    source = whole if len(whole) else stages
    return source.groupby(["slide_id", "repeat"])["seconds"].sum().groupby("slide_id").median()


def timing_figure(run: AnyRun, *, n_slides: int = 100, outputs_dir: str | Path = "outputs") -> Figure:
    """Hours that a cohort of `n_slides` takes at each magnification, beside a person's 5 to 10 minutes a slide."""
    table = cost_table(run, n_slides=n_slides, outputs_dir=outputs_dir)
    scale = n_slides / 3600
    table = table.assign(_low=table["fastest_s"] * scale, _high=table["slowest_s"] * scale)
    timed = sorted(set(table["timed_slides"]))
    low, high = PERSON_MIN_PER_SLIDE
    figure = forest(
        table, x="hours", low="_low", high="_high", log=True, number=_duration,
        n=lambda rows: f"n = {' or '.join(map(str, timed))} timed slides", alt=f"Hours for {n_slides} slides.",
        xlabel=f"hours for {n_slides} slides on the machine that timed them "
        f"(line: fastest to slowest timed slide; band: a person, {low:g}-{high:g} min a slide)",
    )  # fmt: skip
    person_band(figure.axes[0], n_slides / 60)
    return figure


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
