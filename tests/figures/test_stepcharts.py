"""Charts of the steps' tables show the tables' numbers."""

import pandas as pd
import pytest
from made_figures import boxes, check_layout

from tlskit.figures import stepcharts


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
