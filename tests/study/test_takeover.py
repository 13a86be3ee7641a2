"""What an equal arm has made is taken over: once made, in each arm, and only as it was."""

import json
import logging
import socket
import subprocess
import threading
import time

import kill_sweep
import pytest
from made_project import (
    PARAMETERS,
    STEPS,
    notebook,
    run_by_hand,
    run_in_process,
    sweep_command,
    sweep_environment,
    write_project,
)  # fmt: skip
from typer.testing import CliRunner

from tlskit import files
from tlskit.__main__ import app
from tlskit.files import sha256_of_file
from tlskit.study import keys, report, report_page, status, sweep, takeover, turn
from tlskit.study.ledger import Claims, claims_of

FIRST = """
import time
from pathlib import Path
import pandas as pd
from tlskit import study
run = study.open_run(
    run_name, "01_tiling", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals()
)
run.table(pd.DataFrame({"n": range(9)}), "tiles_per_slide")
run.save(pd.DataFrame({"n": range(1000)}), "tiles")
(run.work / "tiles").mkdir(exist_ok=True)
(run.work / "tiles" / "a.png").write_text("pixels")
time.sleep(pause_s)
Path("ran.txt").open("a").write(arm + "\\n")
run.record(magnification=magnification)
"""
SECOND = """
import pandas as pd
from tlskit import study
run = study.open_run(
    run_name, "02_patient_split", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals()
)
run.table(run.load("tiles", made_by="01_tiling") * rate, "seen")
run.record(rate=rate)
"""
COMPARE = """
from tlskit import study
run = study.open_run(run_name, "compare_magnifications", outputs_dir=outputs_dir, given=globals())
run.record(n=1)
"""
A, B, C = "4x_rate=1", "4x_rate=2", "4x_rate=3"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with three arms that differ in a parameter of the second step alone."""
    write_project(
        tmp_path, notebook(PARAMETERS + "pause_s = 0.0  # seconds\n", (FIRST, [])),
        notebook(PARAMETERS + "rate = 1  # of Adam\n", (SECOND, [])), notebook(PARAMETERS, (COMPARE, [])),
    )  # fmt: skip
    (tmp_path / "params/p.yaml").write_text("run_name: r\nsweep:\n  - {magnification: 4, rate: [1, 2, 3]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    return tmp_path


@pytest.fixture
def without_kernels(monkeypatch):
    """Notebooks are run in this process; the list of what was run."""
    ran = []

    def execute(step, output, parameters, *, attempt, title):
        ran.append(title)
        return run_in_process(step, output, parameters, attempt=attempt, title=title)

    monkeypatch.setattr(turn.kernel, "execute", execute)
    return ran


def swept(**options):
    lines = []
    sweep.run_sweep(sweep.prepare("params/p.yaml"), report=lines.append, **options)
    return lines


def left():
    return {f"{job.arm} {job.step}": job.why for job in sweep.plan(sweep.prepare("params/p.yaml")) if not job.done}


def contents(arm_dir):
    kinds = ("tables/*", "work/*.parquet", "work/tiles/*")
    return {str(p.relative_to(arm_dir)): p.read_bytes() for kind in kinds for p in sorted(arm_dir.glob(kind))}


def test_equal_arms_make_a_step_once_and_hold_the_same_bytes_as_if_each_had_run_it(project, without_kernels):
    lines = swept()
    assert [title for title in without_kernels if "01_tiling" in title] == [f"{A} 01_tiling"]
    assert sum("02_patient_split" in title for title in without_kernels) == 3  # they differ in it
    assert any(f"{B} 01_tiling" in line and f"as {A}: taken over" in line for line in lines)
    assert left() == {}
    together = contents(project / "outputs/r" / B)
    for path in (project / "outputs/r" / A / "work", project / "outputs/r" / B / "work"):
        assert (path / "tiles/a.png").stat().st_nlink == 3 and (path / "tiles.parquet").stat().st_nlink == 1
    sweep.run_sweep(sweep.prepare("params/p.yaml", {"run_name": "alone", "rate": 2}))
    (alone,) = (project / "outputs/alone").glob("4x*")
    assert without_kernels.count(f"{alone.name} 01_tiling") == 1 and alone.name != A
    assert contents(alone) == together and len(together) == 4


def test_the_status_the_record_and_the_notebook_say_where_it_is_from(project, without_kernels):
    swept()
    for arm in (B, C):  # C may take it from B: whose it is stays said
        arm_dir = project / "outputs/r" / arm
        assert status.read_step(arm_dir, "01_tiling")["taken_from"] == A
        record = json.loads((arm_dir / "records/01_tiling.json").read_text())
        assert (record["arm"], record["taken_from"]) == (arm, A)
        cells = json.loads((arm_dir / "01_tiling.ipynb").read_text())["cells"]
        said = "".join(cells[0]["source"])
        assert f"Taken over from arm {A}." in said and f"not run in arm {arm}" in said
        assert [cell["id"] for cell in cells].count(takeover.NOTE_ID) == 1
    assert "taken_from" not in status.read_step(project / "outputs/r" / A, "01_tiling")


def test_the_report_says_what_was_run_once(project, without_kernels):
    swept()
    section = report_page.Section("Provenance")
    report._provenance(section, project / "outputs/r", {})
    assert section.text[0] == f"Equal in 01_tiling, and so run once, in {A}, and taken over from there: {B}, {C}."


def test_the_plan_says_as_which_arm(project, without_kernels):
    said = CliRunner().invoke(app, ["plan", "params/p.yaml"]).output
    assert f"{A}  01_tiling                 to run: not run yet" in said
    assert f"{B}  01_tiling                 as {A}: not run yet" in said
    assert "5 of 7 notebooks to run. 2 more are taken over from arms that are equal in them." in said
    # Of what is asked for, and not from an arm that is not made.
    assert not any(job.same_as for job in sweep.plan(sweep.prepare("params/p.yaml"), arms=[C]))
    swept(arms=[C])
    assert [job.same_as for job in sweep.plan(sweep.prepare("params/p.yaml"), steps=["01_tiling"])] == [C, C, ""]
    swept()
    assert [title for title in without_kernels if "01_tiling" in title] == [f"{C} 01_tiling"]


def test_what_was_taken_stays_when_the_other_arm_goes(project, without_kernels):
    swept()
    for path in (project / "outputs/r" / A / "work").rglob("*"):
        path.unlink() if path.is_file() else None
    assert set(left()) == {f"{A} 01_tiling", f"{A} 02_patient_split", "compare compare_magnifications"}
    swept()
    assert sum("01_tiling" in title for title in without_kernels) == 1  # it comes back from the arms that took it
    assert left() == {} and "taken_from" not in status.read_step(project / "outputs/r" / A, "01_tiling")
    assert takeover.NOTE_ID not in (project / "outputs/r" / A / "01_tiling.ipynb").read_text()
    assert "taken_from" not in (project / "outputs/r" / A / "records/01_tiling.json").read_text()


@pytest.mark.parametrize("name", ["tables/01_tiles_per_slide.csv", "records/01_tiling.json", "work/tiles/a.png"])
def test_what_was_changed_or_lost_in_the_other_arm_is_not_taken(project, without_kernels, name):
    swept(arms=[A])
    path = project / "outputs/r" / A / name
    path.unlink() if name.endswith("png") else path.write_text("{}")
    swept(arms=[B])
    assert [title for title in without_kernels if "01_tiling" in title] == [f"{A} 01_tiling", f"{B} 01_tiling"]


def test_a_heavy_file_of_the_same_size_with_other_bytes_is_not_taken(project, without_kernels, caplog):
    swept(arms=[A])
    path = project / "outputs/r" / A / "work/tiles.parquet"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    with caplog.at_level(logging.WARNING):
        swept(arms=[B])
    assert "is not taken over from" in caplog.text and "tiles.parquet is not what its status says" in caplog.text
    assert (project / "outputs/r" / B / "work/tiles.parquet").read_bytes() == good
    assert not list((project / "outputs/r").rglob(".tmp-*"))


def test_a_disk_without_links_gets_copies(project, without_kernels, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(takeover.os, "link", refuse)
    swept()
    paths = [project / "outputs/r" / arm / "work/tiles/a.png" for arm in (A, B)]
    assert sha256_of_file(paths[0]) == sha256_of_file(paths[1]) and paths[0].stat().st_nlink == 1
    assert sum("01_tiling" in title for title in without_kernels) == 1


def test_a_take_over_that_is_cut_off_is_made_anew_and_leaves_nothing(project, without_kernels, monkeypatch):
    swept(arms=[A])

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    for name in ("_place", "_write_notebook", "_check"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(takeover, name, cut_off)
            swept(arms=[B])
        assert status.read_step(project / "outputs/r" / B, "01_tiling")["state"] == "running"
        assert left()[f"{B} 01_tiling"] == "not run to its end"
    swept()
    assert left() == {} and sum("01_tiling" in title for title in without_kernels) == 1
    assert not list((project / "outputs/r").rglob(".tmp-*")) and not (project / "outputs/r" / B / "set_aside").exists()


def test_what_the_arm_had_before_is_replaced(project, without_kernels):
    run_by_hand("01_tiling", run_name="r", arm=B, magnification=4, pause_s=0.001)  # of another key
    (project / "outputs/r" / B / "tables/01_other.csv").write_text("mine")
    swept()
    tables = sorted(path.name for path in (project / "outputs/r" / B / "tables").glob("01_*"))
    assert tables == ["01_tiles_per_slide.csv"]
    assert (project / "outputs/r" / B / "set_aside/tables/01_other.csv").read_text() == "mine"
    assert left() == {}


def test_forced_or_tried_again_it_is_run_anew_once(project, without_kernels):
    swept()
    del without_kernels[:]
    swept(force=True, steps=["01_tiling"])
    assert without_kernels == [f"{A} 01_tiling"]
    for arm in (A, B, C):
        found = status.read_step(project / "outputs/r" / arm, "01_tiling")
        status.write_step(
            project / "outputs/r" / arm, "01_tiling", found | {"slides": [{"slide_id": "s1", "reason": "away"}]}
        )
    assert left() == {}
    swept(retry=True, steps=["01_tiling"])
    assert without_kernels == [f"{A} 01_tiling"] * 2
    assert not status.read_step(project / "outputs/r" / C, "01_tiling")["slides"]


def test_slides_that_failed_in_it_are_told_in_each_arm(project, without_kernels):
    swept(arms=[A])
    found = status.read_step(project / "outputs/r" / A, "01_tiling")
    status.write_step(
        project / "outputs/r" / A, "01_tiling", found | {"slides": [{"slide_id": "s1", "reason": "away"}]}
    )
    lines = swept(arms=[B])
    assert any(f"{B} 01_tiling" in line and "1 slide(s) failed" in line for line in lines)
    assert (status.read_status(project / "outputs/r").query(f"arm == '{B}'")["slide_id"] == "s1").any()


def test_while_one_makes_it_another_does_something_else_or_waits(project, without_kernels):
    jobs = sweep.plan(sweep.prepare("params/p.yaml"))
    assert len({job.shared_piece for job in jobs if job.step == "01_tiling"}) == 1
    other = Claims(claims_of(project / "outputs/r").folder)
    assert other.take(jobs[0].shared_piece)
    thread = threading.Thread(target=swept)
    thread.start()
    thread.join(2.5)
    assert thread.is_alive() and not without_kernels
    other.release(jobs[0].shared_piece)
    thread.join(30)
    assert not thread.is_alive() and left() == {}


def test_what_a_node_held_that_vanished_is_taken_over_also_where_flock_does_nothing(
    project, without_kernels, monkeypatch
):
    monkeypatch.setattr(files, "LEASE_S", 2.0)
    monkeypatch.setattr("fcntl.flock", lambda *_: pytest.fail("`flock` is not to be relied on"))
    sweep.hold(project / "outputs/r", sweep.prepare("params/p.yaml"))
    job = sweep.plan(sweep.prepare("params/p.yaml"))[0]
    held = Claims(project / "outputs/r/.claims")
    for piece in (job.shared_piece, job.piece):  # as the node wrote them before it went, half way through the step
        assert held.take(piece)
        path = project / f"outputs/r/.claims/{piece}.claim"
        path.with_suffix(".left").write_text(path.read_text().replace(f"host={socket.gethostname()}", "host=node3"))
        held.release(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in (project / "outputs/r/.claims").rglob("*.left"):
        path.rename(path.with_suffix(".claim"))
    status.write_step(project / "outputs/r" / A, "01_tiling", turn._blank(job, "of node3"))
    start = time.monotonic()
    swept()
    assert 2.0 <= time.monotonic() - start < 60 and left() == {}
    assert sum("01_tiling" in title for title in without_kernels) == 1
    assert not (project / "outputs/r/.claims").exists()


@pytest.mark.slow
def test_two_sweeps_at_once_run_an_equal_step_once_and_a_killed_one_is_gone_on_with(project):
    options = {"cwd": project, "env": sweep_environment() | {"OMP_NUM_THREADS": "1"}}
    words = ["-p", "pause_s=1.0"]
    killed = kill_sweep.kill_after(sweep_command(*words, "-p", "run_name=two"), 6, whole=True, **options)
    both = [
        subprocess.Popen(
            sweep_command(*words, "-p", "run_name=two"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            **options,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [one.communicate(timeout=180)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    ran = (project / "ran.txt").read_text().split()
    assert len(ran) == 1, (ran, killed, said)
    assert len({json.dumps(sorted(map(str, contents(project / "outputs/two" / arm)))) for arm in (A, B, C)}) == 1
    assert not (project / "outputs/two/.claims").exists() and not list((project / "outputs/two").rglob(".tmp-*"))
