"""Charts draw what their tables say, of one arm, four, and twenty of three factors; no text meets another."""

import numpy as np
import pytest
from made_archive import write_archive
from made_tables import of_twenty_arms, pairs_of_twenty_arms
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Annotation, Text

from tlskit.evaluation import arm_tables, comparison, costs
from tlskit.figures import charts, comparecharts, style

SIZES = ("double", "single")


def tables_of(run):
    """Every table that a chart takes, of one run."""
    of_slides = arm_tables.collect(run, "05_objects_per_slide")
    return {
        "iou_by_magnification": comparison.iou_by_magnification(run), "minutes_bars": costs.minutes_per_slide(run),
        "score_intervals": comparison.intervals(run, draws=50),
        "difference_intervals": comparison.differences(run, draws=50), "ceilings": comparison.grid_table(run),
        "object_recall": comparison.object_table(run), "audit_chart": comparison.audit(run),
        "pareto_front": costs.pareto(run, draws=50), "agreement": of_slides[of_slides["threshold_by"] == "fixed"],
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


def marks(ax, zorder=3):
    """x and y of the marks of a panel."""
    found = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection) and c.get_zorder() == zorder]
    points = np.concatenate(found) if found else np.empty((0, 2))
    return np.asarray(points[np.isfinite(points).all(axis=1)])


def texts(figure):
    """Every text that is seen, and its box."""
    FigureCanvasAgg(figure).draw()
    seen = []
    for text in figure.findobj(Text):
        off = isinstance(text, Annotation) and not text.get_text()
        if text.get_visible() and text.get_text().strip() and not off:
            box = text.get_window_extent() if not isinstance(text, Annotation) else Text.get_window_extent(text)
            if not any(_out_of_sight(ax, text, box) for ax in figure.axes):
                seen.append((text.get_text(), box))
    return seen


def _out_of_sight(ax, text, box):
    """Whether a text is the label of a tick that lies outside the axis' limits (matplotlib keeps, but hides those)."""
    frame = ax.get_window_extent()
    if text in ax.get_xticklabels(which="both"):
        return not frame.x0 - 1 <= (box.x0 + box.x1) / 2 <= frame.x1 + 1
    return text in ax.get_yticklabels(which="both") and not frame.y0 - 1 <= (box.y0 + box.y1) / 2 <= frame.y1 + 1


def check_layout(figure):
    assert not plt.get_fignums(), "an open figure would be shown twice in a notebook"
    found = texts(figure)
    for n, (text, box) in enumerate(found):
        assert box.x0 >= -2 and box.x1 <= figure.bbox.x1 + 2, f"{text!r} leaves the figure"
        assert box.y0 >= -2 and box.y1 <= figure.bbox.y1 + 2, f"{text!r} leaves the figure"
        for other, there in found[n + 1 :]:
            across = min(box.x1, there.x1) - max(box.x0, there.x0)
            down = min(box.y1, there.y1) - max(box.y0, there.y0)
            assert across <= 1 or down <= 1, f"{text!r} and {other!r} lie on one another"


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
