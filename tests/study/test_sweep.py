"""The sweep: in order, refused before it starts if mistyped, nothing done twice, failures survived."""

import json

import pandas as pd
import pytest
from made_project import PARAMETERS, STEPS, notebook, run_in_process, write_project
from typer.testing import CliRunner

from tlskit.__main__ import app
from tlskit.errors import ParameterError
from tlskit.study import kernel, keys, status, sweep
from tlskit.study.status import read_status


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two small steps and a comparison, run by real kernels."""
    write = "from pathlib import Path\nPath(f'log_{arm}.txt').open('a').write('%s %s\\n')"
    fail = "if fail_at == magnification: raise ValueError('bad  luck')"
    first = PARAMETERS + "level = 1  # how deep\n"
    second = PARAMETERS + "fail_at = 0  # magnification to fail at\n"
    write_project(
        tmp_path,
        notebook(first, (write % ("first", "{level}"), []), ("raise RuntimeError('skipped')", ["skip-execution"])),
        notebook(second, (fail, []), (write % ("second", ""), [])),
        notebook(PARAMETERS, ("print(arm)", [])),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    return tmp_path


@pytest.fixture
def no_kernels(monkeypatch):
    """Steps run in this process: what a sweep runs and what follows does not depend on how."""
    monkeypatch.setattr(kernel, "execute", run_in_process)


def statuses(project) -> dict:
    return {(r.arm, r.step): r.status for r in read_status(project / "outputs/r").itertuples() if not r.slide_id}


@pytest.mark.slow
def test_a_sweep_runs_in_order_and_then_has_nothing_to_do(project):
    lines = []
    table = sweep.run_sweep(sweep.prepare("params/p.yaml"), report=lines.append)
    assert list(zip(table["arm"], table["step"], strict=True)) == [
        ("4x", "01_tiling"), ("4x", "02_patient_split"), ("1x", "01_tiling"), ("1x", "02_patient_split"),
        ("compare", "compare_magnifications"),
    ]  # fmt: skip
    assert (table["status"] == "done").all() and len(lines) == 5
    assert (project / "outputs/r/4x/01_tiling.ipynb").is_file()
    # The cell tagged skip-execution raises: it was passed over.
    executed = json.loads((project / "outputs/r/4x/01_tiling.ipynb").read_text())
    assert [c["execution_count"] for c in executed["cells"]][-1] is None

    again = []
    sweep.run_sweep(sweep.prepare("params/p.yaml"), report=again.append)
    assert all("skipped" in line for line in again)

    # A changed parameter reruns the step that has it and all that follow it, in the arms it touches.
    jobs = sweep.plan(sweep.prepare("params/p.yaml", {"fail_at": 7}))
    assert [(job.arm, job.step) for job in jobs if not job.done] == [
        ("4x", "02_patient_split"), ("1x", "02_patient_split"), ("compare", "compare_magnifications"),
    ]  # fmt: skip
    # A slide that was exported anew reruns everything, and it is said which.
    (project / "slide.svs").write_text("other pixels")
    jobs = sweep.plan(sweep.prepare("params/p.yaml"))
    assert not any(job.done for job in jobs)
    assert jobs[0].why == "the slide file of s1 changed" and jobs[1].why.startswith("the slide file of s1 changed; ")


@pytest.mark.slow
def test_a_failing_step_ends_its_arm_and_not_the_sweep(project):
    result = CliRunner().invoke(app, ["sweep", "params/p.yaml", "-p", "fail_at=4"])
    assert result.exit_code == 1
    assert statuses(project) == {
        ("4x", "01_tiling"): "done", ("4x", "02_patient_split"): "failed",
        ("1x", "01_tiling"): "done", ("1x", "02_patient_split"): "done",
    }  # fmt: skip
    assert "blocked: arm 4x failed; `-p compare_arms=ready` compares the others" in result.output
    reasons = read_status(project / "outputs/r").set_index(["arm", "step"])["reason"]
    assert reasons["4x", "02_patient_split"].startswith("ValueError: bad luck")
    assert (project / "outputs/r/4x/02_patient_split.failed.ipynb").is_file()
    assert not (project / "outputs/r/4x/02_patient_split.ipynb").exists()

    # Repaired, only what is missing is run.
    result = CliRunner().invoke(app, ["plan", "params/p.yaml", "-p", "fail_at=4"])
    assert "2 of 5 notebooks to run" in result.output  # the failed step, and the comparison made without it


@pytest.fixture
def project_with_controls(project):
    """The same with a notebook for controls, and arms of one magnification that differ in `level`."""
    cells = [("assert fail_at != -1, 'no figure'", []), ("print(outputs_dir)", [])]
    (project / "notebooks/controls.ipynb").write_text(notebook(PARAMETERS + "fail_at = 0  # or -1\n", *cells))
    (project / "params/p.yaml").write_text("run_name: r\nsweep:\n  - {magnification: 4, level: [1, 2]}\n")
    (project / "params/seeds.yaml").write_text("run_name: r\nsweep:\n  - {magnification: 4, seed: [1, 2]}\n")
    for step in STEPS:  # a preset may name what any notebook declares
        path = project / f"notebooks/{step}.ipynb"
        found = json.loads(path.read_text())
        found["cells"][0]["source"].append("seed = 0  # of training\n")
        path.write_text(json.dumps(found))
    return project


def test_controls_are_asked_for_by_arms_of_one_magnification_that_differ(project_with_controls):
    jobs = sweep.plan(sweep.prepare("params/p.yaml"))
    assert [job.name for job in jobs][-2:] == [("controls", "controls"), ("compare", "compare_magnifications")]
    assert set(jobs[-2].before) == {job.name for job in jobs[:-2]}
    assert sweep.plan(sweep.prepare("params/p.yaml"), arms=["controls"]) == jobs[-2:-1]
    # Trainings of one arm are no controls, nor is an arm alone.
    assert "controls" not in {job.arm for job in sweep.plan(sweep.prepare("params/seeds.yaml"))}
    assert "controls" not in {job.arm for job in sweep.plan(sweep.prepare("params/p.yaml", {"level": 2}))}


def test_the_notebooks_in_which_arms_meet_do_not_wait_for_each_other(project_with_controls, no_kernels):
    sweep.run_sweep(sweep.prepare("params/p.yaml", {"fail_at": -1}))
    assert statuses(project_with_controls)["controls", "controls"] == "failed"
    assert statuses(project_with_controls)["compare", "compare_magnifications"] == "done"
    (project_with_controls / "notebooks/compare_magnifications.ipynb").write_text(
        notebook(PARAMETERS, ("raise ValueError('no report')", []))
    )
    sweep.run_sweep(sweep.prepare("params/p.yaml"))
    assert statuses(project_with_controls)["controls", "controls"] == "done"
    assert statuses(project_with_controls)["compare", "compare_magnifications"] == "failed"


def test_the_comparison_follows_the_cascades_that_it_reads_and_does_without_where_they_fail(project, no_kernels):
    cells = [("assert floor < 1, 'no screen'", []), ("print(arm)", [])]
    (project / "notebooks/cascade.ipynb").write_text(notebook(PARAMETERS + "floor = 0.9  # of recall\n", *cells))
    jobs = sweep.plan(sweep.prepare("params/p.yaml"))
    assert [job.name for job in jobs[-2:]] == [keys.CASCADE, ("compare", "compare_magnifications")]
    assert jobs[-1].before[-1] == keys.CASCADE and jobs[-1].ingredients["inputs"]["cascade/cascade"] == jobs[-2].key
    sweep.run_sweep(sweep.prepare("params/p.yaml", {"floor": 1}))
    assert (statuses(project)[keys.CASCADE], statuses(project)["compare", keys.COMPARE]) == ("failed", "done")
    # Mended, or with another floor, the comparison is made again.
    for floor in (0.9, 0.8):
        again = []
        sweep.run_sweep(sweep.prepare("params/p.yaml", {"floor": floor}), report=again.append)
        assert sum(" done in " in line for line in again) == 2, again
    assert all(job.done for job in sweep.plan(sweep.prepare("params/p.yaml", {"floor": 0.8})))
    # It is asked for alone.
    sweep.run_sweep(sweep.prepare("params/p.yaml", {"floor": 0.7}), arms=["compare"])
    assert statuses(project)["compare", keys.COMPARE] == "done"


def test_an_unknown_parameter_is_refused_before_a_kernel_starts(project):
    with pytest.raises(ParameterError, match="did you mean `fail_at`"):
        sweep.prepare("params/p.yaml", {"failat": 1})
    assert not (project / "outputs").exists()


def test_an_override_of_a_swept_parameter_leaves_one_arm(project):
    jobs = sweep.plan(sweep.prepare("params/p.yaml", {"magnification": 2}))
    assert list(dict.fromkeys(job.arm for job in jobs)) == ["2x", "compare"]


def test_an_unknown_arm_or_step_is_refused(project):
    with pytest.raises(ParameterError, match="no arm 40x; it has 4x, 1x, compare"):
        sweep.plan(sweep.prepare("params/p.yaml"), arms=["40x"])
    with pytest.raises(ParameterError, match="no step 07_x"):
        sweep.plan(sweep.prepare("params/p.yaml"), steps=["07_x"])


def test_the_summary_keeps_only_the_asked_jobs(project):
    status.write_step(project / "outputs/r/9x", "01_tiling", {"state": "done"})
    jobs = sweep.plan(sweep.prepare("params/p.yaml"))
    assert isinstance(sweep.summary(project / "outputs/r", jobs), pd.DataFrame)
    assert len(sweep.summary(project / "outputs/r", jobs)) == 0


def test_the_command_line_ends_in_a_sentence(project, capsys, monkeypatch):
    from tlskit import __main__

    monkeypatch.setattr("sys.argv", ["tlskit", "sweep", "params/none.yaml"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == 2
    assert "There is no preset params/none.yaml" in capsys.readouterr().err


def test_a_step_in_which_a_slide_failed_is_run_again_when_that_is_asked_for(project, no_kernels):
    sweep.run_sweep(sweep.prepare("params/p.yaml"))
    arm_dir = project / "outputs/r/1x"
    found = status.read_step(arm_dir, "02_patient_split")
    found["slides"] = [{"slide_id": "s1", "reason": "out of reach"}]
    status.write_step(arm_dir, "02_patient_split", found)
    assert all(job.done for job in sweep.plan(sweep.prepare("params/p.yaml")))
    jobs = sweep.plan(sweep.prepare("params/p.yaml"), retry=True)
    assert [(job.arm, job.step) for job in jobs if not job.done] == [
        ("1x", "02_patient_split"), ("compare", "compare_magnifications"),
    ]  # fmt: skip
