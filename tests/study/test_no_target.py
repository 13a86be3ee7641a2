"""Runs whose test slides hold no target, or are of one patient, go through comparison and report, which say so."""

import re

import pandas as pd
import pytest
from made_archive import write_archive

from tlskit.figures import style
from tlskit.study import report, runs

RUNS = {
    "no target": {"arms": {1: (0.35, 2.0), 4: (0.62, 25.0)}, "n_patients": 4, "with_targets": False},
    "one patient, one arm": {"arms": {4: (0.62, 25.0)}, "n_patients": 1},
}


@pytest.mark.parametrize("name", RUNS)
def test_every_chart_of_comparison_and_report_is_drawn_and_no_text_has_nan(name, tmp_path, monkeypatch):
    run_dir = write_archive(tmp_path / "run", **RUNS[name])
    split = pd.DataFrame([("p00", "lung", "test"), ("p90", "lung", "train")])
    split.set_axis(["patient_id", "cancer_type", "split"], axis=1).to_csv(run_dir / "split.csv", index=False)
    said, file = {}, runs.Run.figure

    def figure(run, made, of):
        texts = [text.get_text() for text in made.findobj(lambda part: hasattr(part, "get_text"))]
        said[of] = " ".join([style.alt_text(made), *texts])
        return file(run, made, of)

    monkeypatch.setattr(runs.Run, "figure", figure)
    monkeypatch.setattr(runs, "FIGURE_DPI", 40)  # what is said is read, not what is seen
    page = report.write_report(run_dir, draws=50, pdf=False).read_text(encoding="utf-8")
    page = re.sub(r"<[^>]+>|base64,[^\"]*", " ", page)
    assert "Not available" not in page
    assert not [of for of, text in [("page", page), *said.items()] if re.search(r"\bnan\b|nan ?%", text)]
    assert {"intervals", "differences", "grid", "objects", "agreement", "froc", "minutes", "pr_curves", "calibration",
            "audit", "iou_by_magnification", "pareto"} <= set(said)  # fmt: skip
    if name == "no target":
        assert "no target" in said["intervals"] and "no target" in said["grid"] and "none is chosen" in said["pareto"]
        assert "n = 0 objects" in said["froc"] and "The test slides hold no target" in page
    else:
        assert "n = 1 patient" in said["intervals"] and "One arm alone" in said["differences"]
