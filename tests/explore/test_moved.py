"""Runs that lie elsewhere: outside a project, on another disk, without `run.yaml`; and the page of a folder of runs."""

import json
import os
import shutil

import pandas as pd
import pytest
from made_run import make_run
from typer.testing import CliRunner

from tlskit.__main__ import app as command_line
from tlskit.errors import RunError
from tlskit.explore import app, figure_explorers, server
from tlskit.explore import explorers as explore
from tlskit.files import project_root
from tlskit.study import archive, declarations, runs, status


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with one run of a small slide at 1x and 4x: ``outputs/made``."""
    return make_run(tmp_path_factory.mktemp("project"), n_slides=1, size_mm=(1.9, 1.5), magnifications=(1, 4))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder that is in no project."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def shown(study, slide_id="S1"):
    desk = explore.slide(study)
    try:
        desk.show(explore.sheet_of(study, slide_id))
        return desk.sheet.slide_id, sorted(desk.sheet.maps)
    finally:
        desk.close()


def test_a_run_is_explored_from_outside_its_project(made, elsewhere):
    study = archive.open_archive(made)
    assert shown(study) == ("S1", ["1x", "4x"]) and "synthetic" in study.caption
    assert figure_explorers.threshold(study) is not None


def test_a_project_on_another_disk_is_explored_as_before(made, elsewhere):
    project = made.parents[1]
    moved = elsewhere / "other disk"
    shutil.copytree(project, moved)
    study = archive.open_archive(moved / "outputs/made")
    assert shown(study) == ("S1", ["1x", "4x"])
    assert study.row("S1").slide_path.startswith(str(moved))


def test_a_run_that_left_its_cohort_behind_says_so_and_takes_the_manifest(made, elsewhere):
    shutil.copytree(made, elsewhere / "made")
    study = archive.open_archive(elsewhere / "made")
    with pytest.raises(RunError, match=r"Was the run moved without it\? Name it: `manifest=`"):
        explore.slide(study)
    study = archive.open_archive(elsewhere / "made", manifest=made.parents[1] / "outputs/cohorts/made/manifest.csv")
    assert shown(study) == ("S1", ["1x", "4x"])


def test_a_run_made_by_notebooks_alone_is_explored(made, elsewhere, monkeypatch):
    project = elsewhere / "project"
    shutil.copytree(made.parents[1], project)
    shutil.rmtree(project / "notebooks")
    shutil.copytree(project_root(os.path.dirname(__file__)) / "notebooks", project / "notebooks")
    run_dir = project / "outputs/made"
    (run_dir / "run.yaml").unlink()
    monkeypatch.chdir(project)
    declared = declarations.notebook_parameters(project / "notebooks/01_tiling.ipynb")
    given = {name: parameter.default for name, parameter in declared.items()}
    given |= {"run_name": "made", "manifest": "outputs/cohorts/made/manifest.csv"}
    for magnification in (1, 4):
        arm_dir = run_dir / f"{magnification}x"
        values = json.loads((arm_dir / "records/01_tiling.json").read_text())["values"]
        tiles = pd.read_parquet(arm_dir / "work/tiles.parquet")
        run = runs.open_run(
            "made", "01_tiling", magnification=magnification, given=given | {"magnification": magnification}
        )
        run.save(tiles, "tiles")
        run.record(**values)
        assert status.read_step(arm_dir, "01_tiling")["by"] == "hand"
    monkeypatch.chdir(elsewhere)
    study = archive.open_archive(run_dir)
    assert not (run_dir / "run.yaml").exists() and shown(study) == ("S1", ["1x", "4x"])
    assert len(study.tiles(study.arm("4x"))) > 0
    page = app.page(outputs_dir=run_dir.parent)
    page.pages["run"].runs.value = "made"
    assert page.pages["run"].desk.sheet.slide_id == "S1"


def test_the_page_is_opened_for_a_folder_of_runs_without_a_project(made, elsewhere, monkeypatch):
    launched = []
    voila = pytest.importorskip("voila.app")
    monkeypatch.setattr(voila.Voila, "launch_instance", lambda argv, config: launched.append(argv))
    monkeypatch.setenv(server.OUTPUTS, "")  # and put back after the test
    result = CliRunner().invoke(command_line, ["app", "--no-browser", "--outputs", str(made.parent)])
    assert result.exit_code == 0, result.output
    assert launched[0][0].endswith("app.ipynb") and os.path.isfile(launched[0][0])
    page = app.page()  # as that notebook makes it, in a process that has the variable
    assert page.pages["run"].runs.options == ("made",)
    result = CliRunner().invoke(command_line, ["app", "--outputs", str(elsewhere / "none")])
    assert isinstance(result.exception, RunError) and "There is no folder" in str(result.exception)
