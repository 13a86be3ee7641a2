"""Workers of this machine on one sweep: two of one core each against one, and what an engine costs a notebook.

Notebooks of some seconds each, which compute on one core, without a network and with hardly a disk. Two rivals run the
same notebooks, in the same kernels, by papermill and nothing else: one after the other, and in two processes, which is
what two cores of this machine give at best. Scaling is of the time from when all workers are there; how long they take
to come is told apart. Seconds want a machine with nothing else on; seconds of processors hold on any.
"""

import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from tests.benchmarks.harness import WORK, ratio, report
from tests.made_project import PARAMETERS, notebook, sweep_command, workers_environment, write_project

ARMS = 6
#: So long does a notebook compute alone, roughly.
SECONDS = 3

COMPUTE = """
import numpy as np
import pandas as pd
from tlskit.study import runs
run = runs.open_run(run_name, "01_tiling", arm=arm, outputs_dir=outputs_dir, given=globals())
rng, total = np.random.default_rng(int(magnification)), 0.0
for _ in range(rounds):
    total += float(np.sort(rng.random(100_000)).mean())
run.table(pd.DataFrame({"total": [total]}), "totals")
run.record(n=1)
"""
#: Papermill and nothing else, over the arms that are given.
PAPERMILL = """
import sys
from pathlib import Path
import papermill
for arm in sys.argv[2:]:
    folder = Path("outputs") / sys.argv[1] / f"{arm}x"
    folder.mkdir(parents=True, exist_ok=True)
    given = {"run_name": sys.argv[1], "arm": f"{arm}x", "magnification": int(arm)}
    papermill.execute_notebook(
        "notebooks/01_tiling.ipynb", str(folder / "01_tiling.ipynb"), parameters=given, progress_bar=False,
    )
"""


def made_project(folder: Path) -> dict[str, str]:
    """A project of one step and `ARMS` arms, whose step takes about `SECONDS`; the environment of its workers."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given = PARAMETERS + f"rounds = {_rounds()}  # of sorting\n"
    write_project(folder, notebook(given, (COMPUTE, [])), notebook(PARAMETERS), notebook(PARAMETERS))
    (folder / "params/p.yaml").write_text(f"sweep: {{magnification: {list(range(1, ARMS + 1))}}}\n")
    return workers_environment(folder) | {"PYTHONUNBUFFERED": "1"}


def _rounds() -> int:
    import numpy as np

    rng = np.random.default_rng(0)
    start = time.process_time()
    for _ in range(100):
        np.sort(rng.random(100_000)).mean()
    return max(1, round(100 * SECONDS / (time.process_time() - start)))


def swept(folder: Path, env: dict, name: str, *more: str) -> dict[str, float]:
    """Seconds until the workers are there, from then to the end, all notebooks' own, and of the processors."""
    command = sweep_command("-p", f"run_name={name}", "--step", "01_tiling", *more)
    shutil.rmtree(folder / "outputs" / name, ignore_errors=True)
    start, here, ended, used = time.perf_counter(), None, None, _used()
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            all_here = re.fullmatch(r"Workers: (\d+) of \1\.", line.strip())
            here = time.perf_counter() if all_here or (here is None and not more) else here
            ended = time.perf_counter() if " done in " in line else ended
    if process.returncode:
        raise RuntimeError(f"the sweep {name} ended with {process.returncode}")
    found = pd.concat([pd.read_json(p, typ="series") for p in folder.glob(f"outputs/{name}/*/status/*.json")], axis=1)
    begun = here if more else start
    return {
        "start": begun - start, "work": ended - begun, "notebooks": float(found.loc["seconds"].sum()),
        "processors": _used() - used,
    }  # fmt: skip


def milled(folder: Path, env: dict, name: str, processes: int) -> dict[str, float]:
    """The same notebooks by papermill alone, in so many processes."""
    shutil.rmtree(folder / "outputs" / name, ignore_errors=True)
    arms, start, used = [str(arm) for arm in range(1, ARMS + 1)], time.perf_counter(), _used()
    running = [
        subprocess.Popen([sys.executable, "-c", PAPERMILL, name, *arms[n::processes]], cwd=folder, env=env)
        for n in range(processes)
    ]
    if any(process.wait() for process in running):
        raise RuntimeError("papermill failed")
    return {"work": time.perf_counter() - start, "processors": _used() - used}


def _used() -> float:
    """Seconds of processors of all processes that have ended, kernels included."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def main(repeats: int) -> None:
    folder = WORK / "engine"
    env = made_project(folder)
    takes = {
        "sweep": lambda: swept(folder, env, "sweep"),
        "papermill": lambda: milled(folder, env, "papermill", 1),
        "one": lambda: swept(folder, env, "one", "--on", "local:1"),
        "two": lambda: swept(folder, env, "two", "--on", "local:2"),
        "papermill_two": lambda: milled(folder, env, "papermill_two", 2),
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(min(repeats, 2)):
        for name, take in takes.items():
            for what, value in take().items():
                seconds.setdefault(f"{name}_{what}", []).append(value)

    def over(slow: str, fast: str) -> float:
        """What a notebook takes longer by."""
        return statistics.median((a - b) / ARMS for a, b in zip(seconds[slow], seconds[fast], strict=True))

    report(
        "engine",
        {
            "engine_two_workers_over_one": ratio(seconds["one_work"], seconds["two_work"]),
            "papermill_two_processes_over_one": ratio(seconds["papermill_work"], seconds["papermill_two_work"]),
            "sweep_over_papermill_s_per_notebook": over("sweep_work", "papermill_work"),
            "sweep_over_papermill_processor_s_per_notebook": over("sweep_processors", "papermill_processors"),
            "engine_between_notebooks_s": over("one_work", "one_notebooks"),
            "engine_start_s": statistics.median(seconds["two_start"]),
            "notebook_s": statistics.median(seconds["sweep_notebooks"]) / ARMS,
            "cores": os.cpu_count(),
        },
        seconds=seconds,
    )
