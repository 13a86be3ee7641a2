"""Workers of this machine on one sweep: two of one core each against one, and what an engine costs a notebook.

Eight notebooks of some seconds each, which compute on one core, without a network and with hardly a disk. Scaling is of
the time from when all workers are there; how long they take to come is told apart. On a machine with nothing else on.
"""

import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pandas as pd

from tests.benchmarks.harness import WORK, ratio, report
from tests.made_project import PARAMETERS, notebook, sweep_command, workers_environment, write_project

ARMS = 8
#: So long does a notebook compute alone, roughly.
SECONDS = 8

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


def made_project(folder: Path) -> dict[str, str]:
    """A project of one step and `ARMS` arms, whose step takes about `SECONDS`; the environment of its workers."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given = PARAMETERS + f"rounds = {_rounds()}  # of sorting\n"
    write_project(folder, notebook(given, (COMPUTE, [])), notebook(PARAMETERS), notebook(PARAMETERS))
    (folder / "params/p.yaml").write_text(f"sweep: {{magnification: {list(range(1, ARMS + 1))}}}\n")
    return workers_environment(folder)


def _rounds() -> int:
    import numpy as np

    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(100):
        np.sort(rng.random(100_000)).mean()
    return max(1, round(100 * SECONDS / (time.perf_counter() - start)))


def swept(folder: Path, env: dict, name: str, *more: str) -> dict[str, float]:
    """Seconds until the workers are there, from then to the end, and all notebooks' own."""
    command = sweep_command("-p", f"run_name={name}", "--step", "01_tiling", *more)
    shutil.rmtree(folder / "outputs" / name, ignore_errors=True)
    start, here, ended = time.perf_counter(), None, None
    env = env | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            all_here = re.fullmatch(r"Workers: (\d+) of \1\.", line.strip())
            here = time.perf_counter() if all_here or (here is None and not more) else here
            ended = time.perf_counter() if " done in " in line else ended
    if process.returncode:
        raise RuntimeError(f"the sweep {name} ended with {process.returncode}")
    found = pd.concat([pd.read_json(p, typ="series") for p in folder.glob(f"outputs/{name}/*/status/*.json")], axis=1)
    begun = here if more else start
    return {"start": begun - start, "work": ended - begun, "notebooks": float(found.loc["seconds"].sum())}


def main(repeats: int) -> None:
    folder = WORK / "engine"
    env = made_project(folder)
    options = {"serial": (), "one": ("--on", "local:1"), "two": ("--on", "local:2")}
    seconds: dict[str, list[float]] = {
        f"{name}_{what}": [] for name in options for what in ("start", "work", "notebooks")
    }
    for _ in range(min(repeats, 3)):
        for name, more in options.items():
            for what, value in swept(folder, env, name, *more).items():
                seconds[f"{name}_{what}"].append(value)

    def overhead(name: str) -> float:
        each = zip(seconds[f"{name}_work"], seconds[f"{name}_notebooks"], strict=True)
        return statistics.median((work - own) / ARMS for work, own in each)

    report(
        "engine",
        {
            "engine_two_workers_over_one": ratio(seconds["one_work"], seconds["two_work"]),
            "engine_overhead_s_per_notebook": overhead("one"),
            "sweep_overhead_s_per_notebook": overhead("serial"),
            "engine_start_s": statistics.median(seconds["two_start"]),
            "notebook_s": statistics.median(seconds["serial_notebooks"]) / ARMS,
            "cores": os.cpu_count(),
        },
        seconds=seconds,
    )
