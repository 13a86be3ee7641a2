"""A study without code: the manifest and the preset are those that a coder would write, the sweep is the same."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_run import make_run

from tlskit.cohort import read_manifest
from tlskit.errors import ParameterError
from tlskit.explore import study_progress, study_setup, study_slides
from tlskit.explore.study_page import StudyPage
from tlskit.explore.widgets import Message
from tlskit.study import estimates, params, status, sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    make_run(tmp_path, n_slides=3, size_mm=(1.9, 1.5), magnifications=(1,))
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", dirs_exist_ok=True)
    shutil.copytree(ROOT / "params", tmp_path / "params", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slides_of(project):
    return project / "outputs" / "cohorts" / "made" / "slides"


def test_slides_and_outlines_are_paired_and_problems_told_with_their_remedy(project):
    folder = slides_of(project)
    (folder / "S2.geojson").unlink()
    (folder / "more").mkdir()
    shutil.copy(folder / "S3.geojson", folder / "more" / "S3.geojson")
    (folder / "broken.svs").write_bytes(b"no slide")
    rows = {row["slide_id"]: row for row in study_slides.pair_folder(folder)}
    assert rows["S1"]["annotation_path"] == folder / "S1.geojson" and not rows["S1"]["problem"]
    assert "export them from QuPath as S2.geojson" in rows["S2"]["problem"]
    assert "2 files of outlines" in rows["S3"]["problem"] and "keep one" in rows["S3"]["problem"]
    assert "cannot be opened" in rows["broken"]["problem"] and "take it out" in rows["broken"]["problem"]
    assert study_slides.classes_of(list(rows.values()))["TLS"] > 0


def test_a_slide_that_does_not_say_its_scale_is_given_one(tmp_path):
    tifffile.imwrite(tmp_path / "plain.tiff", np.full((600, 800, 3), 230, np.uint8), tile=(256, 256), photometric="rgb")
    (tmp_path / "plain.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (without,) = study_slides.pair_folder(tmp_path)
    assert "um/px" in without["problem"] and without["mpp_override"] is None
    (row,) = study_slides.pair_folder(tmp_path, mpp=0.5)
    assert row["mpp_override"] == 0.5 and not row["problem"]
    (odd,) = study_slides.pair_folder(tmp_path, mpp=500)
    assert "which a scan can have" in odd["problem"]


def test_patients_come_from_a_pattern():
    patients_of = study_slides.patients_of
    assert patients_of(["P1_a", "P1_b", "P2_a"], "^([^_]+)") == {"P1_a": "P1", "P1_b": "P1", "P2_a": "P2"}
    with pytest.raises(ParameterError, match="finds no patient in 1 name"):
        patients_of(["P1_a", "x"], "P[0-9]")
    with pytest.raises(ParameterError, match="no regular expression"):
        patients_of(["P1"], "(")


def test_patients_come_from_a_column_of_any_table(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("Nr;Scan;Case\n1;scans/P1_a.svs;K7\n2;P1_b;K7\n3;P2.x;K8\n", encoding="utf-16")
    ids = ["P1_a", "P1_b", "P2.x"]
    rows, table = study_slides.look_at_table(path)
    assert rows == [] and study_slides.slide_column(ids, table) == "Scan"
    found = study_slides.patients_of_columns(ids, table, "Scan", "Case")
    assert found == {"P1_a": "K7", "P1_b": "K7", "P2.x": "K8"}
    with pytest.raises(ParameterError, match="gives no patient for 1 name"):
        study_slides.patients_of_columns([*ids, "P9"], table, "Scan", "Case")
    path.write_text("Scan,Case\nP1_a,K7\nP1_a,K8\n")
    with pytest.raises(ParameterError, match="with two patients"):
        study_slides.patients_of_columns(["P1_a"], study_slides.look_at_table(path)[1], "Scan", "Case")


def test_the_page_writes_what_a_coder_would_and_checks_it(project):
    page = StudyPage("outputs", slides_of(project), Message())
    page.look()
    form = page.form
    assert "3 slides, 3 of them" in form.summary.value and form.target.value == "TLS"
    form.name.value = "mine"
    form.magnifications[20].value = form.magnifications[10].value = False
    form.write.click()
    assert form.preset == project / "params" / "mine.yaml", page.message.value
    manifest = read_manifest(project / "outputs" / "cohorts" / "mine" / "manifest.csv")
    assert list(manifest["slide_id"]) == ["S1", "S2", "S3"]
    preset = params.read_preset(form.preset)
    assert preset["run_name"] == "mine" and preset["sweep"] == {"magnification": [4, 1]}
    assert preset["manifest"] == "outputs/cohorts/mine/manifest.csv"
    for said in ("tlskit sweep params/mine.yaml", '<th scope="row">Time</th><td>about', "are free"):
        assert said in form.checked.value
    jobs = sweep.plan(sweep.prepare(form.preset))
    assert set(form.guessed) == {job.name for job in jobs}
    found = study_progress.look(form.preset, form.guessed)
    assert [(one.arm, one.step) for one in found.pieces] == [job.name for job in jobs]
    assert {one.state for one in found.pieces} == {"left"} and not found.runs and not found.begun
    assert found.left_s == pytest.approx(sum(form.guessed.values()))
    assert f"0 of {len(jobs)} notebooks are done" in page.watch.progress.value and not page.watch.start.disabled
    # A name that is taken, by another study or by a run, is refused; what this page wrote may be written again.
    form.write.click()
    assert not page.message.value
    for taken in ("made", "demo", "../x", ""):
        form.name.value = taken
        form.write.click()
        assert "already" in page.message.value or "no name" in page.message.value
        assert form.preset is None and page.watch.start.disabled


def test_a_manifest_that_somebody_wrote_is_used_as_it_is(project):
    page = StudyPage("outputs", project, Message())
    form = page.form
    form.source.value = "table"
    form.table.value = str(project / "outputs" / "cohorts" / "made" / "manifest.csv")
    assert "3 slides, 3 of them" in form.summary.value
    assert [row["patient_id"] for row in form.rows] == ["P1", "P2", "P3"]
    form.write.click()
    preset = params.read_preset(form.preset)
    assert preset["manifest"] == "outputs/cohorts/made/manifest.csv"
    assert not (project / "outputs" / "cohorts" / "my-study" / "manifest.csv").exists()


def test_a_begun_study_is_found_again_with_what_its_run_has_written(project):
    page = StudyPage("outputs", slides_of(project), Message())
    page.look()
    page.form.magnifications[20].value = page.form.magnifications[10].value = False
    page.form.write.click()
    preset = sweep.prepare(page.form.preset)
    jobs = {job.name: job for job in sweep.plan(preset)}
    run_dir = sweep.run_dir_of(preset)
    sweep.hold(run_dir, preset)
    for step, values in {
        "01_tiling": {"state": "done", "seconds": 20.0, "slides": [{"slide_id": "S2", "reason": "is torn"}]},
        "02_patient_split": {"state": "failed", "reason": "too few patients"},
    }.items():
        job = jobs["4x", step]
        made = {"key": job.key, "ingredients": job.ingredients, "products": {}, "slides": [], "attempt": "a"}
        status.write_step(run_dir / "4x", step, made | values)
    again = StudyPage("outputs", slides_of(project), Message())
    again.look()
    assert ("begun before: my-study", page.form.preset) in again.begun.options
    again.begun.value = page.form.preset
    said = again.watch.progress.value
    for words in ("1 of", "S2: is torn", "too few patients", "20 s"):
        assert words in said
    assert again.watch.start.description == "Go on" and not again.watch.start.disabled
    assert again.form.layout.display == "none"


def test_time_left_is_measured_by_what_is_done():
    guessed = {("1x", "a"): 10.0, ("1x", "b"): 100.0, ("4x", "a"): 10.0}
    assert estimates.seconds_left(guessed, {}) == 120
    assert estimates.seconds_left(guessed, {("1x", "a"): 30.0}) == 330  # this machine takes three times as long
    assert estimates.seconds_left(guessed, {("1x", "a"): 30.0}, {("1x", "b"): 100.0}) == 230
    assert estimates.seconds_left(guessed, {("1x", "a"): 10.0}, {("1x", "b"): 500.0}) == 110
    # A training tells what it needs yet, by its own steps.
    assert estimates.seconds_left(guessed, {("1x", "a"): 10.0}, {("1x", "b"): 500.0}, {("1x", "b"): 40.0}) == 50
    assert estimates.in_words(30) == "less than a minute" and estimates.in_words(3 * 3600) == "about 3.0 hours"


def test_the_sweep_runs_in_a_process_of_its_own_and_is_found_again(project, monkeypatch):
    preset = project / "params" / "mine.yaml"
    preset.write_text("run_name: mine\n")
    waits = project / "waits.py"
    waits.write_text("import time\ntime.sleep(60)\n")
    real = study_setup.subprocess.Popen
    monkeypatch.setattr(
        study_setup.subprocess,
        "Popen",
        lambda words, **options: real([sys.executable, str(waits), *words[3:]], **options),
    )
    pid = study_setup.start_sweep(preset)
    try:
        assert [process.pid for process in study_setup.sweeps_of(preset)] == [pid]
        assert study_setup.start_sweep(preset) == pid  # not a second one
        assert study_setup.sweeps_of(project / "params" / "demo.yaml") == []
    finally:
        process = study_setup.psutil.Process(pid)
        process.kill()
        process.wait(10)
