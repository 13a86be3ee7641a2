"""Charts draw what their tables say, of one arm, four, and twenty of three factors; no text meets another."""

import pytest
from made_archive import write_archive
from made_figures import check_layout
from made_tables import of_twenty_arms, pairs_of_twenty_arms

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
    pr_curves threshold_curves calibration_curves""".split()}  # fmt: skip

#: Column whose values are the x (or, second, the y) of the marks.
VALUES = {
    "minutes_bars": "minutes", "score_intervals": "estimate", "ceilings": "iou", "audit_chart": None,
    "pareto_front": "minutes", "difference_intervals": None, "object_recall": None, "agreement": None,
    "iou_by_magnification": None, "pr_curves": None, "threshold_curves": None, "calibration_curves": None,
}  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("arms", ["one arm, one patient", "four arms", "twenty arms"])
def test_no_text_meets_another_at_both_sizes_and_words_say_what_is_shown(name, arms, tables, recwarn):
    table = tables[arms][name]
    for size in SIZES:
        figure = CHARTS[name](table, size=size)
        check_layout(figure)
        assert figure.get_figwidth() == style.WIDTHS_IN[size]
        alt = style.alt_text(figure)
        assert len(alt) > 40 and "nan" not in alt
        if name != "difference_intervals" or len(table):
            assert any("n = " in ax.get_title() for ax in figure.axes)
    assert not [w for w in recwarn if "layout" in str(w.message)]
