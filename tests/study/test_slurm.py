"""A sweep on a real Slurm, where this machine has one: its jobs do what a serial sweep does, and are cancelled."""

import subprocess
import time

import kill_sweep
import pytest
from made_project import sweep_command, workers_environment, write_archiving_project
from made_slurm import NoSlurm, slurm

YAML = """\
scheduler: slurm
jobs: 2
queue: short
cores: 1
memory: 2GiB
walltime: "00:10:00"
interface: lo
"""


@pytest.mark.slow
def test_a_sweep_by_jobs_of_slurm_leaves_what_a_serial_sweep_leaves(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    write_archiving_project(folder)
    (folder / "slurm.yaml").write_text(YAML)
    env = workers_environment(folder)
    given = {"cwd": folder, "capture_output": True, "text": True, "timeout": 200}
    try:
        with slurm(tmp_path / "slurm") as found:
            env |= found
            command = sweep_command("-p", "run_name=jobs", "--on", "slurm.yaml")
            with open(tmp_path / "said", "w") as out:
                sweep = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
            seen = ""
            while sweep.poll() is None:
                queue = subprocess.run(["squeue", "--format=%i %j %T %M"], env=env, **given).stdout
                seen = max(seen, queue, key=lambda text: text.count("RUNNING"))
                time.sleep(0.5)
            said = (tmp_path / "said").read_text()
            print(seen, said)
            assert sweep.returncode == 0, said
            assert seen.count(" tlskit RUNNING ") == 2, seen
            deadline = time.monotonic() + 30
            while (left := subprocess.run(["squeue", "--noheader"], env=env, **given).stdout) and (
                time.monotonic() < deadline
            ):
                time.sleep(0.5)
            assert left == "", "jobs are left"
    except NoSlurm as reason:
        pytest.skip(f"no Slurm: {reason}")
    serial = subprocess.run(sweep_command("-p", "run_name=serial"), env=env, **given)
    assert serial.returncode == 0, serial.stdout + serial.stderr
    assert kill_sweep.differing(folder / "outputs/jobs", folder / "outputs/serial")[2] == []
