"""Charts draw what the tables say, on a run that is whole, and on the awkward ones."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_archive import write_archive
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tlskit.evaluation import arm_tables as armtables
from tlskit.evaluation import comparison, costs
from tlskit.figures import auditcharts, charts, comparecharts
from tlskit.metrics import scores as metrics


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
    """Two arms off the published magnifications, three patients."""
    return write_archive(tmp_path_factory.mktemp("runs") / "small", arms={2: (0.4, 0.5), 5: (0.5, 900.0)}, n_patients=3)


def draw(figure):
    """Lay the figure out, as saving it would; a closed figure's own canvas draws nothing."""
    FigureCanvasAgg(figure).draw()


def of_arm(run_dir, table):
    table = armtables.collect(run_dir, table)
    return table[(table["threshold_by"] == "fixed") & (table["arm"] == table["arm"].iloc[0])]


CHARTS = {
    "scores": lambda run: charts.score_bars(metrics.score_table(of_arm(run, "05_counts_per_tile"))),
    "per_slide": lambda run: charts.per_slide(metrics.per_unit(of_arm(run, "05_counts_per_slide"))),
    "iou_by_magnification": lambda run: comparecharts.iou_by_magnification(comparison.iou_by_magnification(run)),
    "minutes_per_slide": lambda run: comparecharts.minutes_bars(costs.minutes_per_slide(run)),
    "audit": lambda run: auditcharts.audit_chart(comparison.audit(run)),
    "intervals": lambda run: comparecharts.score_intervals(comparison.intervals(run, draws=200)),
    "differences": lambda run: comparecharts.difference_intervals(comparison.differences(run, draws=200)),
    "pr_curves": lambda run: charts.pr_curves(comparison.pr_curves(run), chosen={"4x": 0.4}),
    "threshold_curves": lambda run: charts.threshold_curves(comparison.pr_curves(run), chosen={"4x": 0.4}),
    "calibration": lambda run: charts.calibration_curves(comparison.calibration(run)),
    "ceilings": lambda run: comparecharts.ceilings(comparison.grid_table(run)),
    "object_recall": lambda run: comparecharts.object_recall(comparison.object_table(run)),
    "agreement": lambda run: comparecharts.agreement(of_arm(run, "05_objects_per_slide")),
    "pareto": lambda run: comparecharts.pareto_front(costs.pareto(run, draws=200)),
    "published_audit": lambda run: auditcharts.published_audit_chart(),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_within_its_canvas_and_left_closed(name, run_dir, small_dir, recwarn):
    for run in (run_dir, small_dir):
        figure = CHARTS[name](run)
        draw(figure)
        assert not plt.get_fignums(), "an open figure would be shown twice in a notebook"
        assert figure.get_size_inches()[0] <= 8.2
        labelled = [ax for ax in figure.axes if ax.get_visible() and (ax.get_xlabel() or ax.get_ylabel())]
        assert labelled or figure.get_supxlabel()
        # What stands on an axis is inside the picture, and the panels do not lie on one another.
        boxes = [ax.get_tightbbox() for ax in figure.axes if ax.get_visible()]
        for n, box in enumerate(boxes):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            for other in boxes[n + 1 :]:
                assert not (
                    box.x0 < other.x1 - 1 and other.x0 < box.x1 - 1 and box.y0 < other.y1 - 1 and other.y0 < box.y1 - 1
                )
    assert not [w for w in recwarn if "layout" in str(w.message)]


@pytest.mark.parametrize("name", ["object_recall", "intervals", "differences", "audit", "minutes_per_slide"])
def test_tick_labels_do_not_touch(name, run_dir):
    figure = CHARTS[name](run_dir)
    draw(figure)
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text() and t.get_visible()]
            for n, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[n + 1 :])


def test_the_line_of_a_cohort_has_the_tables_values(run_dir):
    table = comparison.iou_by_magnification(run_dir)
    figure = comparecharts.iou_by_magnification(table)
    for ax, level in zip(figure.axes, ("tile", "wsi"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
        expected = table[(table["level"] == level) & (table["pooling"] == "pooled")]["value"]
        np.testing.assert_allclose(lines["this cohort, all pixels pooled"], expected)
        printed = table[(table["level"] == level) & (table["pooling"] == "as printed")]["value"]
        np.testing.assert_allclose(lines["published, as printed"], printed)


def test_the_chosen_arm_and_its_reason_stand_on_the_pareto_figure(run_dir):
    front = costs.pareto(run_dir, draws=200)
    figure = comparecharts.pareto_front(front)
    title = figure.axes[0].get_title(loc="left").replace("\n", " ")
    assert title == "Chosen: " + costs.choice(front)
    assert "a person\n5-10 min" in [t.get_text() for t in figure.axes[0].texts]


def test_the_audit_figure_rings_the_winner_of_each_row(run_dir):
    audit = comparison.audit(run_dir)
    figure = auditcharts.audit_chart(audit)
    named = [t.get_text() for t in figure.axes[1].texts]
    winners = comparison.audit_winners(audit).query("level == 'wsi'")["iou"]
    assert set(winners) <= set(named)
    assert "empty: one" in " ".join(t.get_text() for t in figure.axes[1].get_yticklabels())
