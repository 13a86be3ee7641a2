"""One run by many: sweeps that are started together, and workers that an engine starts, some of which are killed."""

import subprocess

import kill_sweep
import pytest
from made_project import (
    PARAMETERS,
    STEPS,
    notebook,
    sweep_command,
    workers_environment,
    write_archiving_project,
    write_project,
)  # fmt: skip
from typer.testing import CliRunner

from tlskit.__main__ import GO_ON, app
from tlskit.study import keys, launch, status, sweep
from tlskit.study.status import read_status


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A project whose notebooks leave tables and a map, and what a serial sweep of it leaves: ``outputs/serial``."""
    folder = tmp_path_factory.mktemp("project")
    write_archiving_project(folder)
    done = subprocess.run(
        command("serial"), cwd=folder, env=workers_environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def command(name: str, *more: str) -> list[str]:
    return sweep_command("-p", f"run_name={name}", *more)


@pytest.mark.slow
def test_two_sweeps_started_in_the_same_second_share_the_work_and_neither_waits_for_ever(serial):
    options = {"cwd": serial, "env": workers_environment(serial), "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command("both"), **options) for _ in range(2)]
    said = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum(text.count(" done in ") for text in said) == 5, said  # each once, by either
    assert kill_sweep.differing(serial / "outputs/both", serial / "outputs/serial")[2] == []
    assert not (serial / "outputs/both/.claims").exists()


@pytest.mark.slow
def test_a_launch_whose_workers_and_launcher_are_killed_leaves_what_a_serial_sweep_leaves(serial):
    table = kill_sweep.kill_launches(
        lambda name: command(name, "--on", "local:2"), serial / "outputs/serial", kills=3, per_run=3,
        cwd=serial, env=workers_environment(serial),
    )  # fmt: skip
    assert (table["differing"] == "none").all() and (table["exit_code"] == 0).all(), table.to_string()
    assert list(table["killed"]) == ["worker", "worker", "launcher"]
    assert table["at_work"].str.contains(" ").all()  # each while something was being run


@pytest.mark.slow
def test_a_disk_that_is_full_on_one_worker_stops_no_other(tmp_path):
    """The first notebook to come meets a full disk: another worker runs it, and the exit code is that of the work."""
    full = """
from pathlib import Path
from tlskit.errors import DiskFullError
from tlskit.study import runs
run = runs.open_run(run_name, "01_tiling", arm=arm, outputs_dir=outputs_dir, given=globals())
try:
    Path("first").open("x").close()
except FileExistsError:
    run.record(n=1)
else:
    raise DiskFullError("there is no room left")
"""
    write_project(tmp_path, notebook(PARAMETERS, (full, [])), *[notebook(PARAMETERS, ("print(arm)", []))] * 2)
    done = subprocess.run(
        command("full", "--on", "local:2", "--step", "01_tiling"), cwd=tmp_path, env=workers_environment(tmp_path),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("A worker has stopped: there is no room left") == 1
    assert read_status(tmp_path / "outputs/full")["status"].tolist() == ["done", "done"]


def test_a_launch_with_nothing_to_do_asks_for_no_worker(serial, monkeypatch):
    monkeypatch.chdir(serial)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    monkeypatch.setattr(launch.cluster, "share", None)
    preset = sweep.prepare("params/p.yaml", {"run_name": "serial"})
    lines = []
    table, failures, lost = launch.sweep_on(preset, on="local:2", report=lines.append)
    assert (table["status"] == "done").all() and len(lines) == 5 and not failures and not lost


def test_what_is_left_when_the_workers_went_is_told_and_the_exit_code_says_go_on(serial, monkeypatch):
    monkeypatch.chdir(serial)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    monkeypatch.setattr(launch.cluster, "share", lambda *a, **k: launch.cluster.Outcome([], lost=True))
    words = ["sweep", "params/p.yaml", "-p", "run_name=left", "--on", "local:2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == GO_ON == 75 and "run the same command to go on" in result.output
    assert "4x 01_tiling : not run yet" in result.output
    result = CliRunner().invoke(app, [*words, "--force"])
    assert result.exit_code == 2 and "--force" in result.output


def test_what_failed_since_a_launch_began_is_not_tried_again_by_a_worker_that_comes_late(serial, monkeypatch):
    monkeypatch.chdir(serial)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    preset = sweep.prepare("params/p.yaml", {"run_name": "late", "magnification": 4})
    jobs = sweep.plan(preset)
    before = {job.piece: None for job in jobs}
    status.write_step(serial / "outputs/late/4x", "01_tiling", {"state": "failed", "attempt": "a", "reason": "no luck"})
    table = sweep.run_sweep(preset, attempts=before)
    assert list(table["status"]) == ["failed", "blocked", "blocked"]
    assert read_status(serial / "outputs/late")["reason"].tolist() == ["no luck"]
