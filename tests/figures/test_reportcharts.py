"""Charts of the report and of the cascade draw what their tables say; no text meets another."""

import made_tables as made
import numpy as np
import pandas as pd
import pytest
from made_figures import check_layout, lines, marks
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tlskit import figures
from tlskit.figures import style

ARMS = {n: [arm["arm"] for arm in made.arms_of(n)] for n in (1, 4, 20)}

SHOWN = {
    "froc": lambda n: made.froc_table(n), "subgroup_intervals": lambda n: made.subgroup_table(n),
    "training_history": lambda n: made.training_table(n), "worst_fields": lambda n: made.field_panels(ARMS[n]),
    "cohort_flow": lambda n: made.flow_table().head(n), "screen_tradeoff": lambda n: made.cascade_table(min(n, 3)),
    "cascade_minutes": made.cascade_minutes_table, "screen_fields": lambda n: made.field_panels(ARMS[n], seen=True)[:n],
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize(("n", "size"), [(1, "double"), (4, "single"), (4, "double"), (20, "double")])
def test_no_text_meets_another_and_words_say_what_is_shown(name, n, size):
    figure = getattr(figures, name)(SHOWN[name](n), size=size)
    check_layout(figure)
    assert figure.get_figwidth() == style.WIDTHS_IN[size]
    assert len(style.alt_text(figure)) > 40 and "nan" not in style.alt_text(figure)


def test_recall_is_drawn_against_false_objects_and_none_stands_at_the_tick_that_says_0():
    table = made.froc_table(4)
    ax = figures.froc(table).axes[0]
    zero = ax.get_xticks()[0]
    assert [label.get_text() for label in ax.get_xticklabels()][0] == "0"
    assert zero < table.loc[table["false_per_mm2"] > 0, "false_per_mm2"].min()
    wanted = {tuple(map(tuple, rows.assign(x=rows["false_per_mm2"].where(rows["false_per_mm2"] > 0, zero))
              [["x", "recall"]].round(9).to_numpy())) for _, rows in table.groupby("arm")}  # fmt: skip
    drawn = {tuple(map(tuple, np.round(xy, 9))) for xy in lines(ax) if len(xy) == 21}
    assert drawn == wanted
    assert ax.get_title() == "n = 40 objects, 9 slides"
    at_both = table[table["mark"] != ""]
    assert sorted(marks(ax)[:, 1]) == pytest.approx(sorted(at_both["recall"]))


def test_no_object_at_all_is_told_and_not_drawn():
    figure = figures.froc(made.froc_table(4, targets=False))
    assert len(marks(figure.axes[0])) == 0 and "nan" not in style.alt_text(figure)


def test_subgroups_show_the_tables_own_intervals_and_one_patient_has_none():
    table = made.subgroup_table(4)
    ax = figures.subgroup_intervals(table).axes[0]
    assert sorted(marks(ax)[:, 0]) == pytest.approx(sorted(table["estimate"]))
    assert ax.get_title() == "n = 24-28 patients"
    drawn = {tuple(xy[:, 0].round(9)) for xy in lines(ax)}
    known = table.dropna(subset=["low"])
    assert {tuple(ends) for ends in known[["low", "high"]].to_numpy().round(9)} <= drawn
    assert "oesophageal\nn = 1 (1 with target)" in " ".join(label.get_text() for label in ax.get_yticklabels())


def test_curves_of_training_stand_over_steps_and_the_kept_epoch_is_the_tables():
    table = made.training_table(4)
    loss, val_loss, iou = figures.training_history(table, x="steps").axes
    for ax, column in ((loss, "train_loss"), (val_loss, "val_loss"), (iou, "val_iou")):
        drawn = sorted(map(tuple, np.concatenate([xy for xy in lines(ax) if len(xy) == 5]).tolist()))
        assert np.allclose(drawn, sorted(map(tuple, table[["steps", column]].to_numpy().tolist())))
    best = table[table["best"]]
    ringed = next(line.get_ydata() for line in iou.lines if line.get_markersize() == 11)
    assert sorted(ringed) == pytest.approx(sorted(best["val_iou"]))
    assert "nan" not in style.alt_text(figures.training_history(made.training_table(4, scored=False)))


def test_boxes_of_the_flow_hold_the_numbers_and_what_was_left_out():
    figure = figures.cohort_flow(made.flow_table())
    said = " ".join(" ".join(text.get_text().split()) for text in figure.axes[0].texts)
    for words in (
        "151 patients, 160 slides",
        "149 patients, 157 slides",
        "23 patients, 1 slide ",
        "same content twice",
    ):
        assert words in said
    assert len(figure.axes[0].patches) >= 4


@pytest.mark.parametrize("name", ["worst_fields", "screen_fields"])
def test_no_field_is_a_figure_that_says_so(name):
    assert "No " in style.alt_text(getattr(figures, name)([]))


def test_what_was_not_looked_at_is_drawn_apart():
    panel = made.field_panels(["1x"], seen=True)[:1]
    seen_all = [panel[0] | {"seen": np.ones_like(panel[0]["seen"])}]
    pixels = []
    for panels in (panel, seen_all):
        figure = figures.screen_fields(panels)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels.append(np.asarray(canvas.buffer_rgba())[..., :3].astype(int))
    apart = np.abs(pixels[0] - pixels[1]).sum(axis=2) > 60
    half = apart.shape[1] // 2
    assert apart[:, half:].mean() > 20 * max(apart[:, : half - 5].mean(), 1e-6)
    assert "50% looked at" in style.alt_text(figures.screen_fields(panel))


def test_a_screens_settings_are_joined_by_growth_and_the_chosen_one_is_ringed_above_its_floor():
    table = made.cascade_table(1)
    ax = figures.screen_tradeoff(table, floor=0.97).axes[0]
    of_maps = table[table["screen"] == "map"]
    drawn = [xy for xy in lines(ax) if len(xy) == 8]
    assert len(drawn) == of_maps["grow_um"].nunique()
    assert np.allclose(sorted(np.concatenate(drawn)[:, 0]), sorted(100 * of_maps["windows_share"]))
    assert np.allclose(sorted(np.concatenate(drawn)[:, 1]), sorted(of_maps["recall_kept"]))
    one = table[table["is_chosen"]].iloc[0]
    rings = [line for line in ax.lines if line.get_marker() == "o" and line.get_markersize() == 11]
    assert np.allclose([rings[0].get_xdata()[0], rings[0].get_ydata()[0]], [100 * one.windows_share, one.recall_kept])
    assert [0.97, 0.97] in [list(line.get_ydata()) for line in ax.lines]
    assert "below the panel" in ax.figure.get_supxlabel()


def test_a_screen_of_which_nothing_was_chosen_has_no_ring():
    ax = figures.screen_tradeoff(made.cascade_table(1).assign(is_chosen=False, low=np.nan, high=np.nan)).axes[0]
    assert not [line for line in ax.lines if line.get_markersize() == 11 and len(line.get_xdata())]
    assert "Chosen: none" in style.alt_text(ax.figure)


def test_a_screen_before_a_network_that_finds_nothing_has_no_recall_and_a_cascade_may_be_as_fast():
    said = style.alt_text(figures.screen_tradeoff(made.cascade_table(1).assign(recall_kept=np.nan)))
    assert said.startswith("No recall to keep: the fine network alone finds no target")
    table = made.cascade_minutes_table(1).assign(times_faster=1.004)
    assert "(as fast)" in style.alt_text(figures.cascade_minutes(table))


def test_minutes_of_a_cascade_are_its_parts_beside_the_fine_network_alone():
    table = made.cascade_minutes_table(3)
    ax = figures.cascade_minutes(table).axes[0]
    ends = sorted(
        round(v.max(), 6) for c in ax.collections for path in c.get_paths() if (v := path.vertices[:, 0]).size
    )
    ends = ends or sorted(round(bar.get_x() + bar.get_width(), 6) for bar in ax.patches)
    wanted = [*table["minutes"], *table["minutes_screen"], *table["minutes_full"]]
    assert ends == pytest.approx(sorted(v for v in wanted if np.isfinite(v)))
    assert [text.get_text() for text in ax.texts] == ["3 times faster", "2 times faster", "not timed"]


def test_two_factors_are_a_line_a_level_with_the_tables_intervals():
    table = pd.DataFrame(
        {"negatives": ["none", "none", "4", "4"], "context": ["no", "yes"] * 2, "estimate": [0.5, 0.55, 0.6, 0.75],
         "low": [0.4, 0.5, 0.5, 0.7], "high": [0.6, 0.6, 0.7, 0.8], "n_patients": 12}
    )  # fmt: skip
    figure = figures.trend(table.astype({"negatives": "category"}), x="negatives", color="context")
    check_layout(figure)
    drawn = {tuple(xy[:, 1]) for xy in lines(figure.axes[0])}
    assert {(0.5, 0.6), (0.55, 0.75)} <= drawn | {pair[::-1] for pair in drawn} and {(0.4, 0.6), (0.7, 0.8)} <= drawn


def test_a_second_wider_interval_lies_within_the_limits():
    table = pd.DataFrame({"name": ["a", "b"], "estimate": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3],
                          "low_all": [-0.4, -0.1], "high_all": [0.6, 0.5]})  # fmt: skip
    ax = figures.forest(table, y="name", wide=("low_all", "high_all"), zero=True).axes[0]
    assert (-0.4, 0.6) in {tuple(xy[:, 0]) for xy in lines(ax)}
    assert ax.get_xlim()[0] < -0.4 and ax.get_xlim()[1] > 0.6
