"""Kill a sweep at random moments, resume it, and compare what it leaves with an undisturbed run.

``python -m tests.kill_sweep --kills 20`` sweeps a small study (two equal arms, all notebooks, real kernels), kills
each run four times in succession, prints a row for each kill and writes ``outputs/kill_sweep/rows.csv``.
`tests/test_kill_sweep.py` does the same to a study of seconds. Half of the kills take the sweep and all its kernels at
once, as a power cut does; the other half take the sweep alone, as a user's ``kill -9`` does, and it is resumed while
the orphaned kernel may still be at work. With ``--on local:3`` workers, their helpers and launchers of launches are
killed instead, spread over all steps.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import yaml

from tlskit.files import Claims, write_text
from tlskit.maps import probmaps
from tlskit.study import helping, keys
from tlskit.study.runs import read_status

ROOT = Path(__file__).resolve().parents[1]

#: What a clock says differs between any two runs; everything else in a table has to be the same, byte for byte.
CLOCK_COLUMNS = {
    "01_tiles_per_slide": ["seconds"],
    "03_history": ["tiles_per_s", "seconds", "threads"],
    # A map that the killed run had finished is kept by the resumed one, and has no times.
    "05_maps": ["kept", "wall_s", "max_dprob", "compile_s", "compile_loaded", "check_s", "*_s"],
    "pareto": ["minutes*", "s_per_cm2", "slides_per_minute"],
    "answer": ["minutes*"],
}  # fmt: skip
#: Tables of nothing but times.
CLOCK_TABLES = ("06_stages", "06_summary", "06_projection", "minutes")


class Killed(NamedTuple):
    """What a kill met: whether the sweep was still running, the processes that were left, and when."""

    alive: bool
    survivors: list[psutil.Process]
    after_s: float


def kill_after(command: list[str], seconds: float, *, whole: bool, cwd: Path, env: dict | None = None) -> Killed:
    """Start a sweep and SIGKILL it after some seconds: with all its descendants, or alone."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ran_s = run_for(process, seconds)
    if process.poll() is not None:
        return Killed(False, [], ran_s)
    sweep = psutil.Process(process.pid)
    # Stopped first, so that nothing is born between the listing and the kill. Kernels lead sessions of their own: the
    # process group of the sweep does not hold them.
    sweep.suspend()
    children = sweep.children(recursive=True)
    for victim in [*(children if whole else []), sweep]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait()
    return Killed(True, [] if whole else children, ran_s)


def run_for(process: subprocess.Popen, seconds: float = np.inf) -> float:
    """Wait for a process, that long at most; returns for how long. Time for which all were paused does not count."""
    ran, last = 0.0, time.monotonic()
    while process.poll() is None and ran < seconds:
        time.sleep(min(0.05, seconds - ran))
        now = time.monotonic()
        ran, last = ran + min(now - last, 0.5), now
    return ran


def differing(run: Path, undisturbed: Path) -> tuple[int, int, list[str]]:
    """Compare all that two archives hold but figures, notebooks and times.

    Returns
    -------
    compared : int
        Tables that are compared whole, split.csv, the GeoJSON files and the pixels of maps among them.
    without_times : int
        Tables that are compared after their columns of times were taken out.
    differing : list of str
        Names of files that differ, or that only one of the two has; files under a temporary name too.
    """
    compared = without_times = 0
    wrong = []
    kinds = ("split.csv", "*/tables/*.csv", "*/geojson/*.geojson", "*/work/tiles.parquet", "*/work/maps/*.tif")
    files = [
        {p.relative_to(folder) for kind in kinds for p in folder.glob(kind) if not p.name.startswith(".")}
        for folder in (run, undisturbed)
    ]
    wrong += [f"{name} (only in one)" for name in sorted(map(str, files[0] ^ files[1]))]
    for name in sorted(files[0] & files[1]):
        if name.stem in CLOCK_TABLES:
            continue
        clocks = CLOCK_COLUMNS.get(name.stem)
        if name.suffix == ".tif":  # it names its network, whose history holds times
            compared += 1
            same = _pixels(run / name) == _pixels(undisturbed / name)
        elif name.suffix == ".geojson":
            compared += 1
            same = _outlines(run / name) == _outlines(undisturbed / name)
        elif clocks is None:
            compared += 1
            same = (run / name).read_bytes() == (undisturbed / name).read_bytes()
        else:
            without_times += 1
            same = _without(run / name, clocks) == _without(undisturbed / name, clocks)
        wrong += [] if same else [str(name)]
    wrong += [f"{p.relative_to(run)} (left over)" for p in run.rglob("*") if p.name.startswith(".tmp-")]
    wrong += [f"{p.relative_to(run)} (left over)" for p in run.rglob("*.part")]
    return compared, without_times, wrong


def _without(path: Path, clocks: list[str]) -> str:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    dropped = [c for c in table for clock in clocks if Path(c).match(clock)]
    return table.drop(columns=dropped).to_csv(index=False)


def _pixels(path: Path) -> bytes:
    with probmaps.open_map(path) as found:
        return found.read(0, 0, *found.size_px).tobytes()


def _outlines(path: Path) -> str:
    """A GeoJSON's text without the hash of its network, whose history holds times."""
    return re.sub(r'"checkpoint_sha256": *"[0-9a-f]*"', "", path.read_text(encoding="utf-8"))


def at_work(run_dir: Path, jobs: list[tuple[str, str]]) -> tuple[str, int]:
    """The notebook that a killed sweep was at (the first that is not done), and how many were done."""
    status = read_status(run_dir)
    done = {(row.arm, row.step) for row in status.itertuples() if row.status == "done" and not row.slide_id}
    left = [job for job in jobs if job not in done]
    return (" ".join(left[0]) if left else "-"), len(jobs) - len(left)


def kill_runs(
    command: Callable[[str], list[str]], undisturbed: Path, *, kills: int, per_run: int, moments_s: tuple[float, float],
    seed: int = 0, cwd: Path = ROOT, env: dict | None = None, report: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Kill runs at random moments, several times each, resume them to their end, and compare each with `undisturbed`.

    Parameters
    ----------
    command
        Gives the command that sweeps a run of that name, into the folder that `undisturbed` lies in.
    undisturbed
        A finished run.
    moments_s
        Seconds after its start between which a sweep is killed.

    Returns
    -------
    DataFrame
        One row a kill: kill, run, after_s, killed, at_work (the notebook), done_before; and of its run: exit_code,
        identical and identical_but_times (numbers of tables), differing, orphans_left (kernels that outlived all).
    """
    status = read_status(undisturbed)
    jobs = [(row.arm, row.step) for row in status.itertuples() if not row.slide_id]
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < kills:
        run = undisturbed.with_name(f"killed_{len(rows) + 1}")
        shutil.rmtree(run, ignore_errors=True)
        here, orphans = [], []
        while len(here) < min(per_run, kills - len(rows)):
            whole = bool((len(rows) + len(here)) % 2)
            killed = kill_after(command(run.name), rng.uniform(*moments_s), whole=whole, cwd=cwd, env=env)
            if not killed.alive:
                break  # it had come to its end before
            orphans += killed.survivors
            where, done = at_work(run, jobs)
            here.append(
                {
                    "kill": len(rows) + len(here) + 1, "run": run.name, "after_s": round(killed.after_s, 1),
                    "killed": "sweep and kernels" if whole else "sweep alone", "at_work": where, "done_before": done,
                }
            )  # fmt: skip
        resumed = subprocess.run(
            command(run.name),
            cwd=cwd,
            env=env,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        identical, but_times, wrong = differing(run, undisturbed)
        result = {
            "exit_code": resumed.returncode, "identical": identical, "identical_but_times": but_times,
            "differing": "; ".join(wrong) or "none", "orphans_left": len(psutil.wait_procs(orphans, timeout=5)[1]),
        }  # fmt: skip
        if wrong or resumed.returncode:
            report(resumed.stdout[-2000:])
        rows += [kill | result for kill in here]
        if here:
            report(pd.DataFrame(rows[len(rows) - len(here) :]).to_string(index=False, header=len(rows) == len(here)))
    return pd.DataFrame(rows)


def kill_launches(
    command: Callable[[str], list[str]], undisturbed: Path, *, kills: int, per_run: int, seed: int = 0,
    cwd: Path = ROOT, env: dict | None = None, until: float = np.inf, report: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Kill workers of a launch (``--on local:N``), or whoever launched them; compare as `kill_runs` does.

    The kills of a run are spread over its steps: each waits until a worker is at its step, or a later one, and comes at
    a random moment of the time that the step took undisturbed. A launch whose worker is killed goes on by itself; one
    that is killed with its scheduler is given again. In turn a worker that runs a notebook is killed, the process by
    which a worker helps another with slides (or, where none does, a worker), and the launcher.

    Parameters
    ----------
    command
        Gives the command that launches the sweep of a run of that name.
    until
        By `time.monotonic`: from then on nothing is killed, and no other run is begun.

    Returns
    -------
    DataFrame
        One row a kill: kill, run, after_s (in the step), killed, at_work; and of its run: launches, exit_code,
        identical, identical_but_times, differing.
    """
    seconds: dict[str, float] = {}
    for row in read_status(undisturbed).itertuples():
        if row.seconds:  # the longest: others took it over from an equal arm
            seconds[row.step] = max(seconds.get(row.step, 0.0), float(row.seconds))
    steps, rng, rows = sorted(seconds), np.random.default_rng(seed), []
    while len(rows) < kills and time.monotonic() < until:
        run = undisturbed.with_name(f"launched_{len(rows) + 1}")
        shutil.rmtree(run, ignore_errors=True)
        here, launches, code = [], 0, None
        count = min(per_run, kills - len(rows))
        targets = [steps[number * len(steps) // count] for number in range(count)]
        while code is None:
            with open(undisturbed.with_name(f"{run.name}.log"), "a") as out:
                process = subprocess.Popen(command(run.name), cwd=cwd, env=env, stdout=out, stderr=out)
            launches += 1
            while process.poll() is None:
                if not targets or time.monotonic() > until:
                    run_for(process)
                    continue
                step = max(_steps_at_work(run), default="")
                if step < targets[0]:
                    time.sleep(0.1)
                    continue
                ran_s = run_for(process, rng.uniform(0.1, 0.9) * seconds.get(step, 1.0))
                killed = _kill_one(process.pid, run, number=len(rows) + len(here), step=step, rng=rng)
                if not killed:
                    continue
                targets.pop(0)
                here.append({"kill": len(rows) + len(here) + 1, "run": run.name, "after_s": round(ran_s, 1)} | killed)
                if killed["killed"] == "launcher":
                    process.wait()
                    break
            else:
                code = process.wait()
                code = None if code and launches < 20 else code  # it says: run the same command again
        identical, but_times, wrong = differing(run, undisturbed)
        result = {
            "launches": launches, "exit_code": code, "identical": identical, "identical_but_times": but_times,
            "differing": "; ".join(wrong) or "none",
        }  # fmt: skip
        first = not rows
        rows += [kill | result for kill in here]
        if not here:
            raise RuntimeError(f"{run.name} came to its end before a kill")
        report(pd.DataFrame(rows[-len(here) :]).to_string(index=False, header=first))
    return pd.DataFrame(rows)


def _kill_one(launcher_pid: int, run: Path, *, number: int, step: str, rng: np.random.Generator) -> dict | None:
    """SIGKILL a worker (one at `step`, if any still is), a helper or the launcher; None where none is at anything."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(launcher_pid)
        claimed = _at_work(run)
        workers = [one for one in parent.children() if "spawn_main" in " ".join(one.cmdline())]
        busy = [one for one in workers if one.pid in claimed]
        at_step = [one for one in busy if any(words.split()[1] == step for words in claimed[one.pid])]
        children = [one for worker in workers for one in worker.children() if one.pid in claimed]
        helpers = [one for one in children if helping.PROGRAM in one.cmdline()]
        if not busy:
            return None
        if number % 3 == 2:
            parent.kill()
            return {"killed": "launcher", "at_work": ", ".join(claimed[one.pid][0] for one in busy)}
        kind, among = ("helper", helpers) if number % 3 == 1 and helpers else ("worker", at_step or busy)
        victim = among[rng.integers(len(among))]
        victim.kill()
        return {"killed": kind, "at_work": ", ".join(claimed[victim.pid])}
    return None


def _steps_at_work(run: Path) -> set[str]:
    """The steps that living workers are at."""
    return {words.split()[1] for pieces in _at_work(run).values() for words in pieces}


def _at_work(run: Path) -> dict[int, list[str]]:
    """What the processes of this machine that live have claimed of a run."""
    claimed: dict[int, list[str]] = {}
    for piece, holder in Claims(run / ".claims").holders().items():
        if holder.alive and "/" in piece and piece.split("/")[0] not in keys.STEPS:  # of an arm, not of equal arms
            claimed.setdefault(holder.process, []).append(piece.replace("/", " "))
    return claimed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_sweep", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run, one after the other")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments of the kills")
    parser.add_argument("--on", default="", help="local:3: kill workers of launches instead of sweeps")
    parser.add_argument("--minutes", type=float, default=np.inf, help="with --on: nothing is killed after so many")
    given, begun = parser.parse_args(), time.monotonic()
    from tlskit.study import params
    from tlskit.synthetic import cohort as synthetic

    work = ROOT / "outputs" / "kill_sweep"
    manifest = synthetic.make_cohort(work / "cohort", n_patients=4, slide_mm=(0.9, 1.0), seed=1, workers=2)
    preset = work / "kill.yaml"
    # Two arms that are equal in 01 to 04, so that what one takes over is killed, too. Float32 by one
    # engine: what is fastest may be another one in another process.
    settings = params.read_preset(ROOT / "params" / "smoke.yaml") | {
        "manifest": str(manifest), "outputs_dir": str(work / "outputs"), "epochs": 2, "steps_per_epoch": 3,
        "engine": "torch", "precision": "exact", "workers": 1, "bootstrap_draws": 100,
        "sweep": [{"magnification": 4, "window_overlap": [0.25, 0.125]}],
    }  # fmt: skip
    write_text(preset, yaml.safe_dump(settings))
    arms = [word for arm in (*(one["arm"] for one in params.arms(settings)), "compare") for word in ("--arm", arm)]

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "tlskit", "sweep", str(preset), "-p", f"run_name={name}", *arms]

    undisturbed = work / "outputs" / "undisturbed"
    shutil.rmtree(undisturbed, ignore_errors=True)
    serial = subprocess.Popen(command("undisturbed"), cwd=ROOT)
    duration_s = run_for(serial)
    if serial.returncode:
        raise RuntimeError(f"the undisturbed sweep ended with {serial.returncode}")
    shared = {"kills": given.kills, "per_run": given.per_run, "seed": given.seed}
    if given.on:
        until = begun + 60 * given.minutes
        table = kill_launches(lambda name: [*command(name), "--on", given.on], undisturbed, until=until, **shared)
    else:
        table = kill_runs(command, undisturbed, moments_s=(2, duration_s / 2), **shared)
    table.to_csv(work / "rows.csv", index=False)
    bad = table[(table["differing"] != "none") | (table["exit_code"] != 0)]
    print(
        f"{len(table)} kills of {table['run'].nunique()} runs that take {duration_s:.0f} s undisturbed; after "
        f"{len(bad)} of them the tables came out otherwise."
    )
    return len(bad) > 0


if __name__ == "__main__":
    sys.exit(main())
