"""A study without code: the manifest and the preset are those that a coder would write, the sweep is the same."""

import shutil
import sys
from pathlib import Path

import pytest
from made_run import make_run

from tlskit.cohort import read_manifest
from tlskit.errors import ParameterError
from tlskit.explore import study_setup
from tlskit.explore.study_page import StudyPage
from tlskit.explore.widgets import Message
from tlskit.study import params, sweep

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


def test_slides_and_outlines_are_paired_and_problems_told(project):
    folder = slides_of(project)
    (folder / "S2.geojson").unlink()
    (folder / "more").mkdir()
    shutil.copy(folder / "S3.geojson", folder / "more" / "S3.geojson")
    rows = {row["slide_id"]: row for row in study_setup.pair_folder(folder)}
    assert rows["S1"]["annotation_path"] == folder / "S1.geojson" and not rows["S1"]["problem"]
    assert "No outlines" in rows["S2"]["problem"] and "2 files of outlines" in rows["S3"]["problem"]
    assert study_setup.classes_of(list(rows.values()))[0]["TLS"] > 0


def test_patients_come_from_a_pattern():
    assert study_setup.patients_of(["P1_a", "P1_b", "P2_a"], "^([^_]+)") == {"P1_a": "P1", "P1_b": "P1", "P2_a": "P2"}
    with pytest.raises(ParameterError, match="finds no patient in 1 name"):
        study_setup.patients_of(["P1_a", "x"], "P[0-9]")
    with pytest.raises(ParameterError, match="no regular expression"):
        study_setup.patients_of(["P1"], "(")


def test_the_page_writes_what_a_coder_would_and_checks_it(project):
    page = StudyPage("outputs", slides_of(project), Message())
    page.look()
    assert "3 slides, 3 of them" in page.found.value and page.target.value == "TLS"
    page.name.value = "mine"
    page.magnifications[20].value = page.magnifications[10].value = False
    page.write.click()
    assert page.preset == project / "params" / "mine.yaml", page.message.value
    manifest = read_manifest(project / "outputs" / "cohorts" / "mine" / "manifest.csv")
    assert list(manifest["slide_id"]) == ["S1", "S2", "S3"]
    preset = params.read_preset(page.preset)
    assert preset["run_name"] == "mine" and preset["sweep"] == {"magnification": [4, 1]}
    assert preset["manifest"] == "outputs/cohorts/mine/manifest.csv"
    assert "tlskit sweep params/mine.yaml" in page.checked.value
    states = study_setup.run_states(page.preset)
    assert len(states) == len(sweep.plan(sweep.prepare(page.preset))) and {s["state"] for s in states} == {"waits"}
    page.show_progress(states, True)
    assert f"0 of {len(states)} notebooks are done" in page.progress.value
    # A name that is taken, by another study or by a run, is refused; what this page wrote may be written again.
    page.write.click()
    assert not page.message.value
    for taken in ("made", "demo", "../x", ""):
        page.name.value = taken
        page.write.click()
        assert "already" in page.message.value or "no name" in page.message.value


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
