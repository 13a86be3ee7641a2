"""The notebooks over the grid of a preset: which steps there are, which are done, and papermill for the rest.

A step is done when its key stands in ``status.csv``: a hash of its parameters, its notebook, the code of the
package, the cohort's files and the key of the step before it. Anything else reruns it.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from tlskit.errors import DiskFullError, ParameterError, RunError
from tlskit.files import TEMPORARY, code_state, disk_full, files_state, is_disk_full, project_root, resolve, write_text
from tlskit.study import params
from tlskit.study.runs import STATUS_COLUMNS, read_status, write_status

__all__ = ["COMPARE", "STEPS", "Job", "notebook_path", "plan", "prepare", "run_sweep", "summary"]

log = logging.getLogger(__name__)

#: The numbered notebooks, run in this order in every arm.
STEPS = (
    "01_tiling",
    "02_patient_split",
    "03_training",
    "04_tile_evaluation",
    "05_wsi_evaluation",
    "06_wsi_inference_timing",
)

#: The notebook that brings the arms together, run once after them.
COMPARE = "compare_magnifications"

#: Folder of `COMPARE` inside a run.
COMPARE_ARM = "compare"


@dataclass(frozen=True)
class Job:
    """One notebook to run: its arm, the parameters it declares, and its key."""

    arm: str
    step: str
    parameters: dict
    key: str
    output: Path
    done: bool


def notebook_path(step: str) -> Path:
    """The notebook of a step, in the project's ``notebooks``."""
    return project_root() / "notebooks" / f"{step}.ipynb"


def prepare(preset_path: str | Path, overrides: dict | None = None) -> dict:
    """Read a preset, apply `overrides`, and refuse what no notebook declares.

    Raises
    ------
    ParameterError
        For an unknown or mistyped parameter, with the nearest name; before anything has run.
    """
    preset = params.override(params.read_preset(preset_path), overrides or {})
    params.check(preset, [notebook_path(step) for step in (*STEPS, COMPARE)])
    return preset


def plan(
    preset: dict, *, arms: list[str] | None = None, steps: list[str] | None = None, retry: bool = False
) -> list[Job]:
    """Every notebook that the preset asks for, in order, and whether it is done already.

    Parameters
    ----------
    preset
        As `prepare` returns it.
    arms, steps
        Keep only these (``["4x"]``, ``["compare"]``; ``["01_tiling"]``).
    retry
        Count a step in which a slide failed as not done. A slide that was exported anew makes all steps rerun by
        itself; this is for one that was out of reach for a while.
    """
    declared = {step: params.notebook_parameters(notebook_path(step)) for step in (*STEPS, COMPARE)}
    defaults = {name: parameter.default for step in declared.values() for name, parameter in step.items()}
    run_dir = resolve(preset.get("outputs_dir", defaults["outputs_dir"])) / preset.get("run_name", defaults["run_name"])
    status = read_status(run_dir)
    done = {(row.arm, row.step): row.key for row in status.itertuples() if row.status == "done" and row.slide_id == ""}
    if retry:
        failed = {(row.arm, row.step) for row in status.itertuples() if row.slide_id}
        done = {job: key for job, key in done.items() if job not in failed}
    common = _hash(code_state(), _cohort_state(resolve(preset.get("manifest", defaults["manifest"]))))
    jobs, last_keys = [], []

    def add(arm: str, step: str, given: dict, before: str, before_done: bool) -> tuple[str, bool]:
        parameters = {name: given.get(name, parameter.default) for name, parameter in declared[step].items()}
        key = _hash(common, _notebook_state(step), json.dumps(parameters, sort_keys=True), before)
        output = run_dir / arm / f"{step}.ipynb"
        # A step whose forerunner has to run again is out of date, whatever its own key says: a comparison made while
        # an arm had failed is one.
        is_done = before_done and done.get((arm, step)) == key and output.is_file()
        jobs.append(Job(arm, step, parameters, key, output, is_done))
        return key, is_done

    all_arms = params.arms(preset)
    for given in all_arms:
        key, is_done = "", True
        for step in STEPS:
            key, is_done = add(given["arm"], step, given, key, is_done)
        last_keys.append(key)
    fixed = {name: value for name, value in preset.items() if name != params.SWEEP}
    add(
        COMPARE_ARM,
        COMPARE,
        fixed | {"arms": [arm["arm"] for arm in all_arms]},
        _hash(*last_keys),
        all(job.done for job in jobs),
    )

    known_arms = [arm["arm"] for arm in all_arms] + [COMPARE_ARM]
    for what, chosen, known in (("arm", arms, known_arms), ("step", steps, [*STEPS, COMPARE])):
        unknown = sorted(set(chosen or []) - set(known))
        if unknown:
            raise ParameterError(f"This preset has no {what} {', '.join(unknown)}; it has {', '.join(known)}.")
    return [job for job in jobs if (not arms or job.arm in arms) and (not steps or job.step in steps)]


def run_sweep(
    preset: dict,
    *,
    arms: list[str] | None = None,
    steps: list[str] | None = None,
    force: bool = False,
    retry: bool = False,
    report: Callable[[str], None] = log.info,
) -> pd.DataFrame:
    """Run what is not done. A step that fails ends its arm, not the sweep.

    Parameters
    ----------
    preset
        As `prepare` returns it.
    arms, steps, retry
        As for `plan`.
    force
        Run steps that are done, too. A network and maps that are what would be made are kept all the same: delete the
        arm's ``work`` to have them made anew.
    report
        Called with one line for each notebook.

    Returns
    -------
    DataFrame
        The rows of ``status.csv`` for the jobs asked for; ``status`` is done, failed or blocked.

    Raises
    ------
    DiskFullError
        If there is no room left for the archive: no step after it would fare better.
    """
    jobs = plan(preset, arms=arms, steps=steps, retry=retry)
    if not jobs:
        return pd.DataFrame(columns=STATUS_COLUMNS)
    run_dir = jobs[0].output.parent.parent
    write_text(run_dir / "run.yaml", yaml.safe_dump(preset, sort_keys=False, allow_unicode=True))
    write_text(run_dir / "arms.csv", params.arms_table(preset, _defaults()).to_csv(index=False, lineterminator="\n"))
    broken: set[str] = set()
    started = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        where = f"[{number:>{len(str(len(jobs)))}}/{len(jobs)}] {job.arm:>4} {job.step:<24}"
        if job.done and not force:
            report(f"{where} done before, skipped")
            continue
        if job.arm in broken:
            _note(job, run_dir, "blocked", "an earlier step of this arm failed", 0.0)
            report(f"{where} blocked by the step before it")
            continue
        start = time.monotonic()
        try:
            reason = _run_job(job, run_dir)
        except DiskFullError as error:
            with contextlib.suppress(OSError):  # there may be no room for this line either
                _note(job, run_dir, "failed", str(error), time.monotonic() - start)
            raise
        seconds = time.monotonic() - start
        _note(job, run_dir, "failed" if reason else "done", reason, seconds)
        if reason:
            broken.add(job.arm)
        elapsed = datetime.timedelta(seconds=round(time.monotonic() - started))
        failures = _failed_slides(run_dir, job)
        slides = f"   {failures} slide(s) failed" if failures else ""
        report(f"{where} {'FAILED' if reason else 'done'} in {seconds:5.0f} s   elapsed {elapsed}{slides}")
        if reason:
            report(f"        {reason}")
    return summary(run_dir, jobs)


def summary(run_dir: Path, jobs: list[Job]) -> pd.DataFrame:
    """Rows of ``status.csv`` that belong to `jobs`: their steps, and the slides that failed in them."""
    status = read_status(run_dir)
    wanted = {(job.arm, job.step) for job in jobs}
    return status[[(row.arm, row.step) in wanted for row in status.itertuples()]].reset_index(drop=True)


def _run_job(job: Job, run_dir: Path) -> str:
    """Execute one notebook; the reason of its failure, or an empty text."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    partial = job.output.with_name(f".{job.step}.partial.ipynb")
    failed = job.output.with_name(f"{job.step}.failed.ipynb")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / f".{job.arm}.lock", timeout=0):
            # What a killed run was writing when it ended has no final name, and nobody will finish it.
            for stale in (job.output, failed, *job.output.parent.rglob(f"{TEMPORARY}*")):
                stale.unlink(missing_ok=True)
            papermill.execute_notebook(
                str(notebook_path(job.step)),
                str(partial),
                parameters=job.parameters,
                cwd=str(project_root()),
                kernel_name="python3",
                # Cells done so far, while a person looks on; nothing where output goes to a file.
                progress_bar={"desc": f"{job.arm} {job.step}", "leave": False, "disable": None},
                # The kernel tells every user that its local connection is not encrypted, and that it was stopped.
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        partial.replace(job.output)
        return ""
    except Timeout:
        raise RunError(
            f"Another sweep is working on arm {job.arm} of run {run_dir.name} at this moment. Wait for it, or run "
            "another arm with --arm."
        ) from None
    except PapermillExecutionError as error:
        # The failed copy is kept for reading: papermill puts the error at its top.
        partial.replace(failed)
        if error.ename == DiskFullError.__name__:
            raise DiskFullError(error.evalue) from None
        if f"[Errno {errno.ENOSPC}]" in error.evalue:  # out of a library that writes by itself
            raise disk_full(job.output) from None
        return " ".join(f"{error.ename}: {error.evalue}".split()) + f" (see {failed.name})"
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(job.output) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _defaults() -> dict:
    """Values that the notebooks declare."""
    declared = [params.notebook_parameters(notebook_path(step)) for step in (*STEPS, COMPARE)]
    return {name: parameter.default for step in declared for name, parameter in step.items()}


def _note(job: Job, run_dir: Path, status: str, reason: str, seconds: float) -> None:
    row = {"arm": job.arm, "step": job.step, "slide_id": "", "status": status, "reason": reason}
    write_status(run_dir, [row | {"seconds": f"{seconds:.1f}", "key": job.key if status == "done" else ""}])


def _failed_slides(run_dir: Path, job: Job) -> int:
    status = read_status(run_dir)
    return int(((status["arm"] == job.arm) & (status["step"] == job.step) & (status["slide_id"] != "")).sum())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _notebook_state(step: str) -> str:
    """Hash of a notebook's code; its prose may change without a rerun."""
    cells = json.loads(notebook_path(step).read_text(encoding="utf-8"))["cells"]
    return _hash(*("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))


def _cohort_state(manifest: Path) -> str:
    """Hash of the manifest, and of size and time of every file beside it that it names."""
    if not manifest.is_file():
        return "missing"
    text = manifest.read_text(encoding="utf-8-sig")
    cells = (cell.strip() for row in csv.reader(text.splitlines()) for cell in row)
    return _hash(text, files_state(manifest.parent / cell for cell in cells if cell))
