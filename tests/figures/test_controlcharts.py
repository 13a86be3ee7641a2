"""Charts of the controls: every control a panel or a row, its numbers written, words where a table is empty."""

import matplotlib.pyplot as plt
import pytest
from made_controls import CONTEXT_PRESET, write_controls

from tlskit.evaluation import effects, factors
from tlskit.figures import controlcharts


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    run_dir = write_controls(tmp_path_factory.mktemp("outputs") / "controls")
    arms, counts = factors.arm_factors(run_dir), factors.grid_counts(run_dir)
    makers = (effects.control_scores, effects.control_effects, effects.two_by_two, effects.detail_ladder)
    return {make.__name__: make(counts, arms) for make in makers}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def all_text(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_a_panel_a_control(tables):
    figure = controlcharts.control_scores(tables["control_scores"])
    assert len(figure.axes) == 8
    assert {ax.get_title().split("\n")[0] for ax in figure.axes} >= {
        "plain",
        "every tile once an epoch",
        "field 160 um",
    }
    assert "over 12 test patients\n3 trainings an arm" in all_text(figure)


def test_the_difference_and_its_change_stand_side_by_side(tables):
    figure = controlcharts.control_effects(tables["control_effects"])
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].startswith("difference, 20x - 4x") and titles[1].startswith("change from the plain difference")
    written = all_text(figure)
    for row in tables["control_effects"].itertuples():
        assert f"{row.estimate:+.2f}" in written


def test_the_two_by_two_says_its_interaction(tables):
    table = tables["two_by_two"]
    figure = controlcharts.two_by_two(table)
    assert f"interaction at 20x: {table['estimate'].iloc[-1]:+.3f}" in all_text(figure)
    assert "a tile covers 160 um" in all_text(figure)
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert ticks == ["tiles with target alone", "4 tiles without target a batch"]


def test_the_ladder_has_a_step_for_each_blur(tables):
    figure = controlcharts.detail_ladder(tables["detail_ladder"])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0.5", "2.5", "10"]
    assert "tiles of 20x, blurred" in all_text(figure)


def test_context_stands_beside_each_of_its_controls(tmp_path):
    run_dir = write_controls(tmp_path / "c", preset=CONTEXT_PRESET)
    table = effects.context_effects(factors.grid_counts(run_dir), factors.arm_factors(run_dir))
    figure = controlcharts.context_effects(table)
    figure.draw_without_rendering()  # names of rows are written when it is drawn
    written = all_text(figure)
    for row in table.itertuples():
        assert f"{row.estimate:+.2f}" in written and row.against in written
    assert all(ax.get_xlim()[0] < 0 < ax.get_xlim()[1] for ax in figure.axes)
    figure = controlcharts.context_effects(table.iloc[:0])
    assert not figure.axes and "has context" in all_text(figure)


@pytest.mark.parametrize("name", ["control_scores", "control_effects", "two_by_two", "detail_ladder"])
def test_an_empty_table_gives_words(tables, name):
    figure = getattr(controlcharts, name)(tables[name].iloc[:0])
    assert not figure.axes and len(all_text(figure)) > 20
