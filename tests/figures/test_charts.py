"""Charts draw what their tables say, of one arm, four, and twenty of three factors; no text meets another."""

import functools

import numpy as np
import pandas as pd
import pytest
from made_archive import write_archive
from made_figures import check_layout, lines, marks
from made_tables import of_twenty_arms, pairs_of_twenty_arms
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tlskit.evaluation import comparison, costs
from tlskit.figures import charts, comparecharts, style

SIZES = ("double", "single")


def tables_of(run):
    """Every table that a chart takes, of one run."""
    return {
        "iou_by_magnification": comparison.iou_by_magnification(run), "minutes_bars": costs.minutes_per_slide(run),
        "score_intervals": comparison.intervals(run),
        "difference_intervals": comparison.differences(run), "ceilings": comparison.grid_table(run),
        "object_recall": comparison.object_table(run), "audit_chart": comparison.audit(run),
        "pareto_front": costs.pareto(run), "agreement": comparison.agreement_points(run),
        "pr_curves": comparison.pr_curves(run), "threshold_curves": comparison.pr_curves(run),
        "calibration_curves": comparison.calibration(run),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {
        "four arms": tables_of(write_archive(folder / "four")),
        "one arm, one patient": tables_of(write_archive(folder / "one", arms={4: (0.6, 25.0)}, n_patients=1)),
    }
    four = made["four arms"]
    made["twenty arms"] = {name: of_twenty_arms(t) for name, t in four.items() if "arm" in t}
    made["twenty arms"]["difference_intervals"] = pairs_of_twenty_arms(four["difference_intervals"])
    return made


CHARTS = {name: getattr(comparecharts, name, None) or getattr(charts, name) for name in """iou_by_magnification
    minutes_bars score_intervals difference_intervals ceilings object_recall audit_chart pareto_front agreement
    pr_curves calibration_curves""".split()}  # fmt: skip
CHARTS["threshold_curves"] = functools.partial(charts.curves, x="threshold", y="dice", alt="Dice at every threshold.")


@pytest.fixture(scope="module")
def chart(tables):
    """A chart of a table as it is, drawn once for all tests that only look at it."""
    return functools.cache(lambda arms, name, size="double": CHARTS[name](tables[arms][name], size=size))


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("arms", ["one arm, one patient", "four arms", "twenty arms"])
def test_no_text_meets_another_at_both_sizes_and_words_say_what_is_shown(name, arms, tables, chart, recwarn):
    table = tables[arms][name]
    for size in SIZES[arms == "twenty arms" :]:  # of twenty arms the narrow one, which has less room
        figure = chart(arms, name, size)
        check_layout(figure)
        assert figure.get_figwidth() == style.WIDTHS_IN[size]
        alt = style.alt_text(figure)
        assert len(alt) > 40 and "nan" not in alt
        if name != "difference_intervals" or len(table):
            assert any("n = " in ax.get_title() for ax in figure.axes)
    assert not [w for w in recwarn if "layout" in str(w.message)]


def drawn(figure):
    """Marks of all panels."""
    return sorted(map(tuple, np.concatenate([np.empty((0, 2)), *map(marks, figure.axes)]).round(9).tolist()))


def spans(figure, along=0):
    """Ends of all straight lines that lie along one axis: intervals, bars, lines of reference."""
    every = [xy for ax in figure.axes for xy in lines(ax) if len(xy) == 2 and xy[0, 1 - along] == xy[1, 1 - along]]
    return {tuple(sorted(xy[:, along].round(9).tolist())) for xy in every}


def ends_of(table, low, high):
    """The intervals of a table that are known."""
    known = table.dropna(subset=[low, high])[[low, high]]
    assert len(known)
    return {tuple(row) for row in known.round(9).to_numpy().tolist()}


def same_numbers(found, wanted):
    wanted = sorted(np.asarray(wanted, float)[np.isfinite(np.asarray(wanted, float))].tolist())
    assert sorted(found) == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("arms", ["four arms", "twenty arms"])
def test_scores_with_intervals_are_the_tables(arms, tables, chart):
    table = tables[arms]["score_intervals"]
    figure = chart(arms, "score_intervals")
    same_numbers([x for x, _ in drawn(figure)], table["estimate"])
    assert ends_of(table, "low", "high") <= spans(figure)
    assert len(figure.axes) == table["score"].nunique() and len({ax.get_xlim() for ax in figure.axes}) == 1


def test_differences_are_the_tables_with_both_intervals(tables, chart):
    table = tables["four arms"]["difference_intervals"]
    one = table[table["score"] == table["score"].iloc[-1]]
    figure = chart("four arms", "difference_intervals")
    same_numbers([x for x, _ in drawn(figure)], one["difference"])
    assert ends_of(one, "low", "high") | ends_of(one, "low_all", "high_all") <= spans(figure)


def test_pairs_with_one_arm_are_turned_so_that_it_is_taken_away(tables):
    table = tables["four arms"]["difference_intervals"]
    one, arm = table[table["score"] == table["score"].iloc[-1]], table["second"].iloc[-1]
    ours = one[(one["first"] == arm) | (one["second"] == arm)]
    sign = np.where(ours["first"] == arm, -1, 1)
    figure = comparecharts.difference_intervals(table, against=arm)
    same_numbers([x for x, _ in drawn(figure)], sign * ours["difference"])
    ends = np.sort(ours[["low_all", "high_all"]].to_numpy().round(9) * sign[:, None], axis=1)
    assert {tuple(pair) for pair in ends.tolist()} <= spans(figure)


def test_quality_against_minutes_is_the_tables_with_both_spreads(tables, chart):
    table = tables["four arms"]["pareto_front"]
    figure = chart("four arms", "pareto_front")
    assert drawn(figure) == sorted(map(tuple, table[["minutes", "estimate"]].round(9).to_numpy().tolist()))
    assert ends_of(table, "minutes_min", "minutes_max") <= spans(figure)
    assert ends_of(table, "low", "high") <= spans(figure, along=1)


@pytest.mark.parametrize("arms", ["four arms", "twenty arms"])
@pytest.mark.parametrize("alike", [False, True])
def test_no_line_to_a_name_crosses_the_ring_of_another_arm(arms, alike, tables):
    table = tables[arms]["pareto_front"].copy()
    if alike:  # of one score, side by side: a straight line to a name would run through every ring at its right
        table["estimate"] = 0.5
    for ringed in table["arm"].iloc[[len(table) // 2, len(table) - 1]]:
        figure = comparecharts.pareto_front(table.assign(chosen=table["arm"] == ringed), size="single")
        FigureCanvasAgg(figure).draw()
        figure.set_layout_engine("none")
        (ax,) = figure.axes
        names = [text for text in ax.texts if text.arrow_patch is not None]
        ring = next(line for line in ax.lines if line.get_markersize() == 11)
        assert len(names) == len(table)
        x, y = ax.transData.transform(ring.get_xydata())[0]
        with_lines = np.asarray(figure.canvas.buffer_rgba()).astype(int)
        for name in names:
            name.arrow_patch.set_visible(False)
        figure.canvas.draw()
        rows, columns = np.indices(with_lines.shape[:2])
        changed = np.abs(np.asarray(figure.canvas.buffer_rgba()) - with_lines).sum(axis=2) > 0
        inside = np.hypot(columns + 0.5 - x, with_lines.shape[0] - rows - 0.5 - y) < 5 * figure.dpi / 72
        assert changed.any() and not changed[inside].any()


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_arms_that_score_alike_have_an_axis_of_scores_within_0_and_1(score, tables):
    table = tables["four arms"]["pareto_front"].assign(estimate=score, low=np.nan, high=np.nan)
    (ax,) = comparecharts.pareto_front(table).axes
    ticks, (low, high) = ax.get_yticks(), ax.get_ylim()
    assert ticks.min() >= 0 and ticks.max() <= 1 and len(ticks) >= 3
    assert low < score < high and low > -0.02 and high < 1.02


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_axis_of_one_value_has_ticks_that_are_read(value, tables):
    table = tables["four arms"]["score_intervals"].assign(estimate=value, low=np.nan, high=np.nan)
    for ax in comparecharts.score_intervals(table).axes:
        ticks = ax.get_xticks()
        assert len(ticks) >= 2 and np.diff(ticks).min() > 0.01 and ticks.min() >= 0 and ticks.max() <= 1
    differences = tables["four arms"]["difference_intervals"].assign(
        difference=0.0, low=np.nan, high=np.nan, low_all=np.nan, high_all=np.nan
    )
    (ax,) = comparecharts.difference_intervals(differences).axes
    assert ax.get_xlim()[0] < -0.04 and np.diff(ax.get_xticks()).min() > 0.01


def test_minutes_are_the_tables_from_the_fastest_to_the_slowest_pass(tables, chart):
    table = tables["four arms"]["minutes_bars"]
    figure = chart("four arms", "minutes_bars")
    same_numbers([x for x, _ in drawn(figure)], table["minutes"])
    assert ends_of(table, "minutes_min", "minutes_max") <= spans(figure)
    assert figure.axes[0].get_xscale() == "log"


def test_agreement_is_predicted_minus_true_over_their_mean(tables, chart):
    points = tables["four arms"]["agreement"]
    figure = chart("four arms", "agreement")
    mean, apart = (points["predicted_mm2"] + points["truth_mm2"]) / 2, points["predicted_mm2"] - points["truth_mm2"]
    assert np.allclose(drawn(figure), sorted(zip(mean, apart, strict=True)), atol=1e-8)
    for ax, (_, rows) in zip(figure.axes, points.groupby("arm", sort=False), strict=True):
        of_arm = rows["predicted_mm2"] - rows["truth_mm2"]
        levels = [line.get_ydata()[0] for line in ax.lines]
        half = (max(levels) - min(levels)) / 2
        assert any(np.isclose(levels, of_arm.mean())) and half > 1.9 * of_arm.std()


def test_scores_on_the_grid_stand_beside_their_ceiling(tables, chart):
    table = tables["four arms"]["ceilings"]
    figure = chart("four arms", "ceilings")
    same_numbers([x for x, _ in drawn(figure)], table["iou"])
    assert ends_of(table, "iou", "ceiling_iou") <= spans(figure)


def test_objects_are_the_tables_of_one_rule(tables):
    table = tables["four arms"]["object_recall"]
    one = table[table["rule"] == "iou50"]
    columns = ["recall", "precision", "f1", "false_objects_per_cm2", *(c for c in table if c.startswith("recall_"))]
    same_numbers(
        [x for x, _ in drawn(comparecharts.object_recall(table, rule="iou50"))], one[columns].to_numpy().ravel()
    )


def test_audited_scores_are_the_tables_and_each_winner_is_ringed(tables, chart):
    table = tables["four arms"]["audit_chart"]
    figure = chart("four arms", "audit_chart")
    assert {x for x, _ in drawn(figure)} == set(table["iou"].dropna().round(9))
    rings = [xy for ax in figure.axes for z in (1, 2, 2.5) for xy in marks(ax, zorder=z)]
    best = set(table.loc[table["best_iou"], "iou"].round(9))
    assert rings and {round(float(x), 9) for x, _ in rings} == best


def test_points_of_a_trend_are_the_tables_and_the_published_ones(tables, chart):
    table = tables["four arms"]["iou_by_magnification"]
    found = [y for _, y in drawn(chart("four arms", "iou_by_magnification"))]
    for value in table["value"].dropna():
        assert np.isclose(found, value, atol=1e-8).any()
    ours = table[(table["source"] == "this cohort") & (table["pooling"] == "pooled")]
    same_numbers([y for _, y in drawn(comparecharts.iou_by_magnification(table, color="arm"))], ours["value"])


@pytest.mark.parametrize(("name", "x", "y"), [("pr_curves", "recall", "precision"),
                                              ("threshold_curves", "threshold", "dice")])  # fmt: skip
def test_curves_run_through_the_tables_points(name, x, y, tables, chart):
    table = tables["four arms"][name]
    found = [xy.round(9).tolist() for ax in chart("four arms", name).axes for xy in lines(ax)]
    for _, rows in table.groupby("arm"):
        assert rows.dropna(subset=[x, y])[[x, y]].round(9).to_numpy().tolist() in found


def test_calibration_is_the_tables(tables, chart):
    table = tables["four arms"]["calibration_curves"].dropna(subset=["mean_probability"])
    share = table["pixels"] / table.groupby("arm")["pixels"].transform("sum")
    wanted = np.concatenate([table["target_share"], share[share > 0]])
    same_numbers([y for _, y in drawn(chart("four arms", "calibration_curves"))], wanted)


#: What is undefined where a cohort has no target, and where a patient is alone: the column, and its interval.
UNKNOWN = {
    "score_intervals": ["estimate", "low", "high"], "difference_intervals": ["difference", "low", "high", "low_all",
    "high_all"], "pareto_front": ["estimate", "low", "high"], "minutes_bars": ["minutes", "minutes_min", "minutes_max"],
    "agreement": ["predicted_mm2", "truth_mm2"], "ceilings": ["iou"], "object_recall": ["recall", "f1", "precision"],
    "pr_curves": ["precision", "recall", "recall_at_end"], "threshold_curves": ["dice"],
    "calibration_curves": ["target_share"], "iou_by_magnification": ["value"],
}  # fmt: skip


@pytest.mark.parametrize("which", ["all", "first"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_undefined_is_told_and_never_drawn_as_a_number(name, which, tables, chart):
    table = tables["four arms"][name]
    whole = len(drawn(chart("four arms", name))) if name not in ("pr_curves", "threshold_curves") else 0
    first = table["arm" if "arm" in table else "first"].iloc[0]
    unknown = pd.Series(True, table.index) if which == "all" else table["arm" if "arm" in table else "first"] == first
    table = table.assign(**{c: table[c].astype(float).mask(unknown) for c in UNKNOWN[name]})
    if name == "pareto_front":
        table = table.assign(reason="no target", chosen=False)
    figure = CHARTS[name](table)
    check_layout(figure)
    assert len(drawn(figure)) < max(whole, 1) or not whole
    said = style.alt_text(figure) + " ".join(
        text.get_text() for text in figure.findobj(lambda of: hasattr(of, "get_text"))
    )
    assert "nan" not in said
