"""Engines and the launcher: what `--on` takes, the script that a batch system gets, workers that die, and lost jobs."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import distributed
import made_pieces
import pytest

from tlskit.errors import ParameterError, RunError
from tlskit.study import cluster, engine

SLURM = """\
scheduler: slurm
jobs: 2
queue: gpu
account: my-lab
cores: 3
memory: 4GiB
walltime: "08:00:00"
interface: lo
job_extra_directives: ["--gres=gpu:1"]
job_script_prologue: ["module load openslide"]
log_directory: logs
"""
SCRIPT = """\
#!/usr/bin/env bash

#SBATCH -J tlskit
#SBATCH -e logs/tlskit-%J.err
#SBATCH -o logs/tlskit-%J.out
#SBATCH -p gpu
#SBATCH -A my-lab
#SBATCH -n 1
#SBATCH --cpus-per-task=3
#SBATCH --mem=4G
#SBATCH -t 08:00:00
#SBATCH --gres=gpu:1
module load openslide
PYTHON -m distributed.cli.dask_worker SCHEDULER --name NAME --nthreads 3 --memory-limit 4.00GiB --nanny \
--death-timeout 60 --nthreads 1 --no-dashboard --interface lo --protocol tls:// --tls-ca-file KEY --tls-cert KEY \
--tls-key KEY
"""
#: Takes a script as sbatch does, keeps it (dask-jobqueue deletes its own), and runs it in the background.
SBATCH = """\
#!/bin/sh
number=0
while ! mkdir "$FAKE_JOBS/job.$number" 2> /dev/null; do number=$((number + 1)); done
cp "$1" "$FAKE_JOBS/script.$number"
timeout 600 sh "$FAKE_JOBS/script.$number" > "$FAKE_JOBS/out.$number" 2>&1 &
echo $! > "$FAKE_JOBS/pid.$number"
echo "Submitted batch job $number"
"""
SCANCEL = """\
#!/bin/sh
kill $(cat "$FAKE_JOBS/pid.$1") 2> /dev/null
echo "$1" >> "$FAKE_JOBS/cancelled"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study's folder, with ``slurm.yaml``, in which tests are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "slurm.yaml").write_text(SLURM)
    return tmp_path


@pytest.fixture
def fake_slurm(folder, monkeypatch):
    """``sbatch`` and ``scancel`` on the PATH."""
    (folder / "bin").mkdir()
    (folder / "jobs").mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_JOBS", str(folder / "jobs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return folder / "jobs"


def made(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("p*"))}


def share(folder: Path, call, on: str, pieces: int = 8, **options) -> tuple[cluster.Outcome, list[str]]:
    lines: list[str] = []
    (folder / "work").mkdir(exist_ok=True)
    given = {"folder": str(folder / "work"), "pieces": pieces}
    return cluster.share(call, given, on=on, shared_dir=folder / "shared", report=lines.append, **options), lines


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("local", "should be local:N"),
        ("local:0", "at least one worker"),
        ("http://host:1", "should be local:N"),
        ("tcp://host", "should be local:N"),
        ("none.yaml", "there is no file none.yaml"),
    ],
)
def test_what_is_not_understood_is_refused(folder, on, message):
    with pytest.raises(ParameterError, match=message):
        engine.parse(on)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("queeue: gpu", "there is no `queeue`; did you mean `queue`"),
        ("processes: 4", "`processes` should be 1"),
        ("n_workers: 4", "`n_workers` is decided by tlskit"),
        ("jobs: many", "`jobs` should be a whole number"),
        ("walltime: 12:00:00", "`walltime` should be a text"),  # YAML 1.1 reads a number in base 60
        ("scheduler: slrum", "should say `scheduler:` slurm, pbs"),
        ("queue: [", "not valid YAML"),
    ],
)
def test_a_faulty_yaml_is_refused_before_a_job_is_made(folder, line, message):
    name = line.split(":")[0]
    kept = [text for text in SLURM.splitlines() if not text.startswith(f"{name}:")]
    (folder / "slurm.yaml").write_text("\n".join([*kept, line]))
    with pytest.raises(ParameterError, match=message):
        engine.parse("slurm.yaml")


def test_the_yaml_of_the_page_is_accepted_and_is_what_it_says(folder):
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    (folder / "page.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    script = engine.job_script(engine.parse("page.yaml"))
    for line in ("-p gpu", "-A my-lab", "--cpus-per-task=8", "-t 08:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load openslide\n" in script and "--interface ib0" in script


@pytest.mark.parametrize("scheduler", sorted(set(engine.SCHEDULERS) - {"slurm"}))
def test_every_batch_system_gets_a_script(folder, scheduler):
    text = f'scheduler: {scheduler}\njobs: 2\ncores: 3\nmemory: 4GiB\nwalltime: "08:00:00"\ndisk: 1GB\n'
    takes_disk = "disk" in engine._keywords(scheduler)
    lines = [
        line for line in text.splitlines() if line.split(":")[0] in ("scheduler", "jobs", *engine._keywords(scheduler))
    ]
    (folder / "jobs.yaml").write_text(
        "\n".join(lines if takes_disk else [line for line in lines if "disk" not in line])
    )
    assert "distributed.cli.dask_worker <scheduler>" in engine.job_script(engine.parse("jobs.yaml"))


def test_threads_are_what_the_machine_has_divided(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(engine, "_cores", lambda: 16)
    assert engine.parse("local:3").threads == 5 and engine.parse("local:40").threads == 1


@pytest.mark.slow
def test_workers_of_this_machine_share_a_work(folder):
    outcome, lines = share(folder, made_pieces.work, "local:2")
    assert outcome == cluster.Outcome([], lost=False)
    assert len(made(folder / "work")) == 8 and len(set(made(folder / "work").values())) == 2
    assert sum("with 1 threads" in line for line in lines) == 2
    assert not list((folder / "shared").iterdir()), "a key is left"


@pytest.mark.slow
def test_a_scheduler_that_is_late_with_its_answer_has_lost_no_worker(folder, monkeypatch):
    asked, calls = distributed.Client.scheduler_info, itertools.count()

    def late(client, **options):
        if next(calls) % 3:
            raise TimeoutError
        return asked(client, **options)

    monkeypatch.setattr(distributed.Client, "scheduler_info", late)
    outcome, lines = share(folder, made_pieces.work, "local:2")
    assert outcome == cluster.Outcome([], lost=False) and len(made(folder / "work")) == 8 and next(calls) > 3
    assert not [line for line in lines if "has gone" in line] and lines.count("Workers: 2 of 2.") == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_piece_and_nothing_else(folder):
    outcome, lines = share(folder, made_pieces.work_and_die, "local:2")
    assert outcome == cluster.Outcome([], lost=False) and len(made(folder / "work")) == 8
    assert "A worker has gone. What it was doing is taken over by another." in lines


@pytest.mark.slow
def test_a_full_disk_of_one_worker_stops_no_other(folder):
    outcome, lines = share(folder, made_pieces.work_on_a_full_disk, "local:2")
    assert outcome == cluster.Outcome(["there is no room left"], lost=False) and len(made(folder / "work")) == 8


@pytest.mark.slow
def test_the_batch_system_gets_dask_jobqueues_script(folder, fake_slurm):
    outcome, lines = share(folder, made_pieces.work, "slurm.yaml")
    assert outcome == cluster.Outcome([], lost=False) and len(made(folder / "work")) == 8
    assert sum("with 3 threads" in line for line in lines) == 2  # the cores that were asked for, not Dask's one
    scripts = [(fake_slurm / f"script.{n}").read_text() for n in range(2)]
    scripts = [re.sub(r"mktemp \S+/begun-X+ > /dev/null\n", "", script) for script in scripts]
    for script in scripts:
        words = script.replace(sys.executable, "PYTHON").split(" ")
        for option, name in (("dask_worker", "SCHEDULER"), ("--name", "NAME")):
            words[words.index(option if option != "dask_worker" else "distributed.cli.dask_worker") + 1] = name
        for option in ("--tls-ca-file", "--tls-cert", "--tls-key"):
            words[words.index(option) + 1] = "KEY" + "\n" * words[words.index(option) + 1].endswith("\n")
        assert " ".join(words).strip() == SCRIPT.strip()
    deadline = time.monotonic() + 20
    while not (fake_slurm / "cancelled").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sorted((fake_slurm / "cancelled").read_text().split()) == ["0", "1"]


@pytest.mark.slow
def test_jobs_that_are_ended_before_the_work_is_done_are_told(folder, fake_slurm):
    def walltime() -> None:
        deadline = time.monotonic() + 120
        while not made(folder / "work") and time.monotonic() < deadline:
            time.sleep(0.1)
        for number in ("0", "1"):
            subprocess.run(["scancel", number], check=True)

    (folder / "work").mkdir()
    ending = threading.Thread(target=walltime)
    ending.start()
    outcome, lines = share(folder, made_pieces.work, "slurm.yaml", pieces=1000, lost_s=2)
    ending.join()
    assert outcome.lost and 0 < len(made(folder / "work")) < 1000


@pytest.mark.slow
def test_a_job_that_is_refused_is_told_in_a_sentence(folder, fake_slurm):
    (folder / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid account' >&2\nexit 1\n")
    with pytest.raises(RunError, match="invalid account"):
        share(folder, made_pieces.work, "slurm.yaml")


@pytest.mark.slow
def test_jobs_whose_workers_never_reach_the_launcher_are_told_from_jobs_that_queue(folder, fake_slurm, monkeypatch):
    monkeypatch.setattr(cluster, "UNREACHED_S", 1.0)
    monkeypatch.setattr(cluster, "GIVEN_UP_S", 3.0)
    script = '"$FAKE_JOBS/script.$number"'
    (folder / "bin" / "sbatch").write_text(
        SBATCH.replace(f'cp "$1" {script}', f'sed "s/.*dask_worker.*/sleep 60/" "$1" > {script}')
    )
    lines = []
    with pytest.raises(RunError, match=r"2 of 2 jobs have begun, but no worker has reached .*`interface: lo`.*in logs"):
        cluster.share(
            made_pieces.work, {"folder": "work", "pieces": 1}, on="slurm.yaml", shared_dir=folder / "shared",
            report=lines.append,
        )  # fmt: skip
    assert lines[0] == "No worker is here yet: waiting for slurm." and "jobs have begun" in lines[-1]
    assert not list((folder / "shared").iterdir())


def test_without_openssl_nothing_is_started_unprotected(folder, monkeypatch):
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="`openssl` is not on the PATH"):
        share(folder, made_pieces.work, "local:1")


@contextlib.contextmanager
def scheduler_and_worker(paths: list[str]):
    """A Dask scheduler and one worker that finds modules in `paths`; the address."""
    env, command = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, [sys.executable, "-m"]
    with subprocess.Popen(
        [*command, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
         "--scheduler-file", "s.json"], env=env, stderr=subprocess.DEVNULL,
    ) as scheduler:  # fmt: skip
        worker = subprocess.Popen(
            [*command, "distributed.cli.dask_worker", "--scheduler-file", "s.json", "--nthreads", "4",
             "--no-dashboard"], env=env | {"PYTHONPATH": os.pathsep.join(paths)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not Path("s.json").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(0.5)
            yield json.loads(Path("s.json").read_text())["address"]
        finally:
            worker.terminate()
            scheduler.terminate()
            worker.wait()


@pytest.mark.slow
def test_a_scheduler_that_runs_already_is_used_and_one_that_is_not_there_is_told(folder, monkeypatch):
    with monkeypatch.context() as hurried:
        hurried.setattr(engine, "ANSWER_S", 2)
        with pytest.raises(RunError, match="There is no Dask scheduler at tcp://127.0.0.1:1"):
            share(folder, made_pieces.work, "tcp://127.0.0.1:1")
    with scheduler_and_worker(sys.path) as address:
        outcome, lines = share(folder, made_pieces.work, address)
    assert outcome == cluster.Outcome([], lost=False) and len(made(folder / "work")) == 8
    assert sum("threads" in line for line in lines) == 1  # one notebook at a time, however many threads it has


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(folder):
    package = Path(cluster.__file__).parents[1]
    shutil.copytree(package, folder / "other/tlskit", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "other/tlskit/files.py").open("a") as file:
        file.write("\nLEASE_S = 31.0\n")
    with scheduler_and_worker([str(folder / "other"), *sys.path]) as address:
        outcome, lines = share(folder, made_pieces.work, address, program="from tlskit import files\nfiles.Claims")
    assert outcome.failures == ["A worker has another version of tlskit than the launcher: install the same on both."]
    assert not made(folder / "work")


def test_ctrl_c_means_what_it_meant_after_a_batch_system_was_asked_for():
    code = (
        "import signal; from tlskit.study import engine; before = signal.getsignal(signal.SIGINT);"
        "engine._class('slurm'); assert signal.getsignal(signal.SIGINT) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "workers, visible, count, expected",
    [
        (4, None, 2, ["0", "1", "0", "1"]),
        (2, "3,5,7", 8, ["3", "5"]),
        (2, "GPU-a", 1, ["GPU-a", "GPU-a"]),
        (2, "", 2, ["", ""]),
        (2, None, 1, [None, None]),
        (1, None, 0, [None]),
    ],
)
def test_each_worker_of_a_machine_sees_a_gpu_of_its_own(workers, visible, count, expected):
    assert [cluster.gpu_of(number, visible, count) for number in range(workers)] == expected
