"""A sweep that is killed and resumed leaves what an undisturbed one leaves. `kill_sweep` does so to a real study."""

import subprocess

import kill_sweep
import pytest
from made_project import sweep_command, sweep_environment, write_archiving_project

from tlskit.study.status import read_status

KILLS = 3


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_and_resumed_leaves_the_same_archive(tmp_path):
    write_archiving_project(tmp_path)
    options = {"cwd": tmp_path, "env": sweep_environment()}

    def command(name):
        return sweep_command("-p", f"run_name={name}", "-p", "magnification=4")

    subprocess.run(command("undisturbed"), **options, check=True, capture_output=True)
    undisturbed = tmp_path / "outputs/undisturbed"
    seconds = read_status(undisturbed)["seconds"].astype(float).sum()
    table = kill_sweep.kill_runs(
        command, undisturbed, kills=KILLS, per_run=KILLS, moments_s=(0.1 * seconds, 0.6 * seconds), **options
    )
    assert (table["differing"] == "none").all() and (table["exit_code"] == 0).all(), table.to_string()
    # Tables, split, outlines, tiles, and the map by its pixels.
    assert (table["identical"] == 12 + 1 + 1 + 1 + 1).all() and (table["orphans_left"] == 0).all()
    for run in set(table["run"]):
        path = f"outputs/{run}/4x/work/maps/s1.tif"
        assert (tmp_path / path).read_bytes() == (undisturbed / "4x/work/maps/s1.tif").read_bytes()


def test_a_difference_would_be_found(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        folder = tmp_path / name / "4x/tables"
        folder.mkdir(parents=True)
        (folder / "03_history.csv").write_text(f"epoch,seconds\n1,{value}\n")  # times may differ
        (folder / "06_stages.csv").write_text(f"seconds\n{value}\n")
    assert kill_sweep.differing(tmp_path / "a", tmp_path / "b") == (0, 1, [])
    (tmp_path / "a/split.csv").write_text("p1,train\n")
    (tmp_path / "a/4x/tables/03_history.csv").write_text("epoch,seconds\n2,1\n")
    (tmp_path / "a/4x/tables/.tmp-x.csv").write_text("")
    assert kill_sweep.differing(tmp_path / "a", tmp_path / "b")[2] == [
        "split.csv (only in one)", "4x/tables/03_history.csv", "4x/tables/.tmp-x.csv (left over)",
    ]  # fmt: skip
