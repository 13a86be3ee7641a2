"""The archive of a run: what is shown is what is saved, and nothing is half-written."""

import json
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tlskit import files
from tlskit.errors import RunError, SlideError
from tlskit.study import provenance, runs, status

plt.switch_backend("Agg")


@pytest.fixture
def run(tmp_path):
    return runs.open_run("study", "01_tiling", magnification=4, caption="synthetic data", outputs_dir=tmp_path)


def test_a_table_is_returned_as_it_was_and_saved_under_the_steps_number(run):
    table = pd.DataFrame({"slide_id": ["007"], "dice": [0.5]})
    assert run.table(table, "scores") is table
    assert (run.dir / "4x/tables/01_scores.csv").read_text() == "slide_id,dice\n007,0.5\n"
    assert run.read_table("01_scores")["slide_id"].tolist() == ["007"]


def test_a_figure_is_saved_as_png_and_pdf_with_its_caption(run):
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    assert run.figure(figure, "line") is figure
    first = {p.name: p.read_bytes() for p in (run.dir / "4x/figures").iterdir()}
    assert set(first) == {"01_line.png", "01_line.pdf"}
    assert "synthetic data" in figure.texts[-1].get_text()
    run.figure(figure, "line")
    assert {p.name: p.read_bytes() for p in (run.dir / "4x/figures").iterdir()} == first


def test_a_closed_figure_is_laid_out_before_it_is_saved(run):
    figure, ax = plt.subplots(layout="constrained")
    ax.plot([0, 1], label="a label as long as half of the figure")
    legend = figure.legend(loc="outside right upper")
    plt.close(figure)  # as charts do with what they return
    run.figure(figure, "line")
    assert ax.get_window_extent().x1 <= legend.get_window_extent().x0


def test_records_add_up_and_are_read_by_later_steps(run, tmp_path):
    run.record(tiles=np.int64(3), mean=np.float32(0.5), undefined=float("nan"))
    run.record(names=("a", "b"))
    later = runs.open_run("study", "02_patient_split", magnification=4, outputs_dir=tmp_path)
    assert later.previous("01_tiling") == {"tiles": 3, "mean": 0.5, "undefined": None, "names": ["a", "b"]}


def test_a_missing_step_is_an_error_that_names_it(run):
    with pytest.raises(RunError, match="run 03_training first"):
        run.previous("03_training")
    with pytest.raises(RunError, match="run 01_tiling first"):
        run.load("tiles", made_by="01_tiling")
    with pytest.raises(RunError, match="run step 05 first"):
        run.read_table("05_scores")


def test_a_failed_slide_is_a_row_with_its_reason_until_the_step_is_run_again(run, tmp_path):
    run.failed("slide_3", SlideError("slide_3.svs cannot be opened:\n export it again"))
    table = runs.read_status(run.dir)
    row = table[table["slide_id"] != ""].iloc[0]
    assert (row["arm"], row["step"], row["slide_id"], row["status"]) == ("4x", "01_tiling", "slide_3", "failed")
    assert row["reason"] == "slide_3.svs cannot be opened: export it again"
    runs.open_run("study", "02_patient_split", magnification=4, outputs_dir=tmp_path).record(patients=1)
    again = runs.open_run("study", "01_tiling", magnification=4, outputs_dir=tmp_path)
    assert (runs.read_status(run.dir)["slide_id"] != "").sum() == 1  # opened, and nothing written yet
    again.record(tiles=1)
    assert (runs.read_status(run.dir)["slide_id"] == "").all()


def test_steps_that_write_their_status_at_the_same_time_lose_nothing(tmp_path):
    arms = [f"{i}x" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda arm: status.write_step(tmp_path / arm, "01_tiling", {"state": "done"}), arms))
    assert len(status.read_status(tmp_path)) == 40


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "c:\\d"])
def test_a_name_cannot_leave_the_runs_folder(tmp_path, name):
    with pytest.raises(RunError, match="run_name"):
        runs.open_run(name, "01_tiling", magnification=4, outputs_dir=tmp_path)


def test_provenance_names_no_user_and_no_folder(run):
    run.record(tiles=1)
    text = (run.dir / "4x/status/01_tiling.json").read_text()
    assert json.loads(text)["provenance"]["packages"]["torch"]
    assert str(files.project_root()) not in text


def test_provenance_works_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance()["python"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.writing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_the_outlines_of_an_earlier_run_of_05_go_before_the_first_is_written(tmp_path):
    options = {"magnification": 4, "outputs_dir": tmp_path}
    first = runs.open_run("study", "05_wsi_evaluation", **options)
    for name in ("s1", "s2"):
        (first.geojson_dir / f"{name}.geojson").write_text("of the first network")
    first.record(n=1)
    (first.geojson_dir / "mine.geojson").write_text("drawn by hand")
    (first.geojson_dir / "s2.geojson").write_text("corrected by hand")
    again = runs.open_run("study", "05_wsi_evaluation", **options)
    assert (tmp_path / "study/4x/geojson/s1.geojson").is_file()  # nothing is written yet: nothing is touched
    again.table(pd.DataFrame({"n": [1]}), "maps")
    again.failed("s1", SlideError("it cannot be read"))
    left = {path.name: path.read_text() for path in again.geojson_dir.iterdir()}
    assert left == {"mine.geojson": "drawn by hand"}  # a slide that fails now has no outlines of before
    aside = tmp_path / "study/4x/set_aside/geojson/s2.geojson"
    assert aside.read_text() == "corrected by hand"


def test_what_a_step_alone_reads_outlives_a_run_that_was_cut_off_and_is_gone_with_the_record(tmp_path):
    options = {"magnification": 4, "outputs_dir": tmp_path}
    first = runs.open_run("study", "05_wsi_evaluation", **options)
    (first.scratch_dir / "0.5").mkdir(parents=True)
    (first.scratch_dir / "0.5" / "s.tif").write_text("map")
    again = runs.open_run("study", "05_wsi_evaluation", **options)
    assert (again.scratch_dir / "0.5" / "s.tif").is_file()
    again.overlap_path.write_text("{}")
    runs.open_run("study", "06_wsi_inference_timing", **options).record(n=1)
    assert again.scratch_dir.is_dir()
    again.record(n=1)
    assert not again.scratch_dir.exists() and "work/overlap.json" in again.ledger.values["products"]
