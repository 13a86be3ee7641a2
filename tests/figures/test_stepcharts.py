"""Charts of the steps' tables show the tables' numbers."""

import numpy as np
import pandas as pd
import pytest
from made_figures import boxes, check_layout, marks

from tlskit.figures import stepcharts, style


def test_kept_and_dropped_tiles_add_up_to_the_grid():
    slides = pd.DataFrame(
        {
            "slide_id": ["b", "a"],
            "kept_tiles": [3, 0],
            "dropped_no_target": [4, 9],
            "dropped_no_tissue": [2, 1],
            "dropped_edge": [1, 2],
        }
    )
    ax = stepcharts.tiles_per_slide(slides).axes[0]
    ends = {row: left + wide for left, wide, row, _ in boxes(ax)}  # the last of a row
    assert ends == {0: 12, 1: 10} and [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.texts] == ["0", "3"]


def test_sets_are_stacked_by_cancer_type_and_totalled():
    summary = pd.DataFrame(
        {
            "split": ["train", "train", "val", "train", "val", "test"],
            "cancer_type": ["lung", "breast", "lung", "all", "all", "all"],
            "patients": [4, 2, 1, 6, 1, 0],
            "slides": [5, 2, 1, 7, 1, 0],
        }
    )
    figure = stepcharts.split_bars(summary)
    assert [ax.get_title() for ax in figure.axes] == ["patients\nn = 7", "slides\nn = 8"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["6", "1", "0"]


def test_many_cancer_types_have_a_colour_each_time():
    names = [f"type {n}" for n in range(11)]
    summary = pd.DataFrame({"split": "train", "cancer_type": names, "patients": 1})
    drawn = [bar for bar in boxes(stepcharts.split_bars(summary).axes[0]) if bar[1]]
    assert [(left, wide, row) for left, wide, row, _ in drawn] == [(n, 1, 0) for n in range(len(names))]


@pytest.mark.parametrize(("ious", "kept"), [([0.2, 0.6, 0.5], 2), ([0.7, 0.6, 0.5], 1)])
def test_the_kept_epoch_is_marked(ious, kept):
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [0.9, 0.5, 0.4], "val_loss": [0.8, 0.6, 0.6], "val_iou": ious,
         "tiles_per_s": [5.0, 6.0, 5.5]}
    )  # fmt: skip
    figure = stepcharts.training_history(history)
    loss, middle, speed = figure.axes
    rings = [line.get_xydata() for line in middle.lines if line.get_markersize() == 11]
    assert all([tuple(xy) for xy in ring] == [(kept, max(ious))] for ring in rings) and rings
    drawn = {tuple(line.get_ydata()) for line in loss.lines if len(line.get_ydata())}
    assert drawn == {(0.9, 0.5, 0.4), (0.8, 0.6, 0.6)}
    assert [tuple(line.get_ydata()) for line in speed.lines if len(line.get_ydata())] == [(5.0, 6.0, 5.5)]
    assert f"kept: epoch {kept}, IoU {max(ious):.3f}" in " ".join(middle.get_title().split())
    check_layout(figure)


def test_bars_of_stages_are_medians_of_warm_passes_and_the_wall_is_a_line():
    rows = []
    for repeat, seconds in enumerate((9.0, 2.0, 4.0)):
        for stage, kind, share in (("read", "work", 0.5), ("forward", "work", 1.0), ("wait_read", "wait", 0.2),
                                   ("wall", "wall", 1.1)):  # fmt: skip
            rows.append(
                {"slide_id": "s", "repeat": repeat, "warm": repeat > 0, "stage": stage, "kind": kind,
                 "seconds": share * seconds}
            )  # fmt: skip
    ax = stepcharts.stage_bars(pd.DataFrame(rows)).axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["read", "forward", "waiting: read"]
    assert [wide for _, wide, _, _ in boxes(ax)] == pytest.approx([1.5, 3.0, 0.6])
    assert "3.3 s that passed" in ax.get_title()
    assert ax.lines[-1].get_xdata()[0] == pytest.approx(3.3)


def overlaps_table(n_patients=2):
    """As of `evaluation.overlap_tradeoff`."""
    table = pd.DataFrame(
        {"overlap": [0.0, 0.25, 0.5], "windows": [55.5, 96.5, 204.0], "times_windows": [1.0, 1.74, 3.68],
         "flipped": [0.0042, 0.0009, 0.0], "dice": [0.873, 0.881, 0.883], "loss": [0.0102, 0.0016, 0.0],
         "margin": 0.0177, "n_patients": n_patients}
    )  # fmt: skip
    ends = {"dice_low": -0.06, "dice_high": 0.05, "loss_low": -0.01, "loss_high": 0.012}
    return table.assign(**{name: table[name.split("_")[0]] + by for name, by in ends.items()})


@pytest.mark.parametrize("size", ["single", "double"])
def test_price_and_worth_of_overlaps_are_marks_and_what_is_taken_is_ringed(size):
    table, why = overlaps_table(), "2 validation patients with a target, fewer than 10: so the densest is taken"
    figure = stepcharts.overlap_tradeoff(table, taken=0.5, why=why, size=size)
    check_layout(figure)
    for ax, values in zip(figure.axes, (table["dice"], table["loss"], 100 * table["flipped"]), strict=True):
        assert np.allclose(sorted(map(tuple, marks(ax))), sorted(zip(table["times_windows"], values, strict=True)))
        rings = [line.get_xydata() for line in ax.lines if line.get_markersize() == 11 and len(line.get_xdata())]
        assert np.allclose(rings, [[(3.68, values.iloc[-1])]])
    assert [0.0177, 0.0177] in [list(line.get_ydata()) for line in figure.axes[1].lines]
    said = " ".join(figure.get_supxlabel().split())
    assert f"taken: 0.5, {why}" in said
    assert "0: 56 windows a slide, Dice 0.873, 0.42% of the tissue flips" in style.alt_text(figure)
    assert "nan" not in style.alt_text(figure)


def test_an_overlap_that_was_not_measured_has_no_ring_and_nothing_measured_is_said():
    figure = stepcharts.overlap_tradeoff(overlaps_table(), taken=0.125, why="as asked for")
    assert not [
        line for ax in figure.axes for line in ax.lines if line.get_markersize() == 11 and len(line.get_xdata())
    ]
    assert "taken: 0.125, as asked for" in " ".join(figure.get_supxlabel().split())
    nothing = stepcharts.overlap_tradeoff(overlaps_table().head(0), taken=0.5, why="x")
    assert style.alt_text(nothing).startswith("No validation slide was run over")
    one = overlaps_table(1).assign(dice_low=np.nan, dice_high=np.nan, loss_low=np.nan, loss_high=np.nan)
    check_layout(stepcharts.overlap_tradeoff(one, taken=0.25, why="as asked for"))
