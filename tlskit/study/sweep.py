"""The notebooks over the grid of a preset: papermill for those that are not done, beside any number of other sweeps.

Any number of processes may sweep one run: each claims a step before it runs it (`tlskit.files.Claims`, the pieces are
``<arm>/<step>``), passes over what others have claimed, and ends when nothing is left. Another launcher starts
`run_sweep` of the same preset in each of its workers; it has nothing else to say to them. One that finds nothing to run
helps with the slides of a step that another is at (`tlskit.study.helping`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from tlskit.errors import RunError
from tlskit.files import LEASE_S, clean_temporaries, write_text
from tlskit.study import beforehand, keys, params
from tlskit.study.helping import Helper
from tlskit.study.ledger import claims_of
from tlskit.study.planning import (
    Job,
    declared_values,
    notebooks,
    plain,
    plan,
    portable_preset,
    prepare,
    run_dir_of,
    whole_preset,
)  # fmt: skip
from tlskit.study.status import STATUS_COLUMNS, read_status
from tlskit.study.turn import Turn

__all__ = ["hold", "look_beforehand", "notebooks", "plan", "prepare", "run_dir_of", "run_sweep", "summary", "tidy"]

log = logging.getLogger(__name__)

#: Claim by which a sweep holds the run itself, for the moment in which it writes ``run.yaml``.
HOLD = "run"

#: Seconds between two looks at steps that others have claimed.
POLL_S = 1.0


def run_sweep(
    preset: dict,
    *,
    arms: list[str] | None = None,
    steps: list[str] | None = None,
    force: bool = False,
    retry: bool = False,
    attempts: dict | None = None,
    report: Callable[[str], None] = log.info,
) -> pd.DataFrame:
    """Run what is not done, beside any number of other sweeps of the same preset.

    A step that fails ends its arm, not the sweep. What another sweep runs is waited for; what it fails at is not tried
    a second time.

    Parameters
    ----------
    preset
        As `prepare` returns it.
    arms, steps, retry
        As for `plan`.
    force
        Run steps that are done, too. A network and maps that are what would be made are kept all the same: delete the
        arm's ``work`` to have them made anew.
    attempts
        Of a launch on many workers: which run of each step (by ``<arm>/<step>``) there was when it began, so that one
        who comes late does not try again what has failed since.
    report
        Called with one line for each notebook.

    Returns
    -------
    DataFrame
        The rows of `status.read_status` for the jobs asked for; ``status`` is done, failed, or blocked (by a step that
        failed), or ``waits`` (for arms that this sweep does not make).

    Raises
    ------
    DiskFullError
        If there is no room left for the archive: no step after it would fare better.
    RunError
        If another preset is being swept into the run at this moment; nothing has been changed then.
    """
    jobs = plan(preset, arms=arms, steps=steps, retry=retry)
    if not jobs:
        return pd.DataFrame(columns=STATUS_COLUMNS)
    look_beforehand(preset, jobs)
    run_dir = run_dir_of(preset)
    hold(run_dir, preset)
    with contextlib.closing(Helper(run_dir, report)) as helper:
        turn = Turn(
            run_dir, preset, jobs, force=force, retry=retry, attempts=attempts, report=report, before_run=helper.close
        )
        while turn.left:
            if not turn.once() and not helper.help(turn.left.values()):
                time.sleep(POLL_S)
    tidy(run_dir)
    return summary(run_dir, jobs, turn.blocked)


def look_beforehand(preset: dict, jobs: list[Job]) -> None:
    """Refuse what cannot work, and a faulty manifest, before a kernel starts or a folder is made."""
    keys.cohort_content(jobs[0].parameters["manifest"])  # faults of the manifest are all told before a kernel starts
    if not all(job.done for job in jobs):
        beforehand.refuse_impossible([declared_values() | arm for arm in params.arms(plain(preset))])


def hold(run_dir: Path, preset: dict) -> None:
    """Write what the run is made of, unless another preset is being swept into it at this moment."""
    whole = portable_preset(whole_preset(preset, run_dir))
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    arms = params.arms_table(whole, declared_values()).to_csv(index=False, lineterminator="\n")
    claims = claims_of(run_dir)
    until = time.monotonic() + 2 * LEASE_S + 5
    while not claims.take(HOLD):
        if time.monotonic() > until:
            raise RunError(f"The run {run_dir.name} is held by another sweep that does not let go of it.")
        time.sleep(0.1)
    with claims.releasing(HOLD):
        path = run_dir / "run.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            if busy := _busy(run_dir):
                raise RunError(
                    f"Another preset is being swept into the run {run_dir.name} at this moment ({', '.join(busy)}). "
                    "Wait until it has ended, or give this one another `run_name`. Nothing was changed."
                )
            write_text(path, text)
        if not (run_dir / "arms.csv").is_file() or (run_dir / "arms.csv").read_text(encoding="utf-8") != arms:
            write_text(run_dir / "arms.csv", arms)


def _busy(run_dir: Path) -> list[str]:
    """Steps of the run that somebody living holds; claims of the dead of this machine are removed."""
    claims, busy = claims_of(run_dir), []
    for path in sorted(claims.folder.glob("*/**/*.claim")):
        piece = path.relative_to(claims.folder).with_suffix("").as_posix()
        if claims.holds(piece):
            continue
        if claims.take(piece):
            claims.release(piece)
        elif path.exists() and path.parent.name not in keys.STEPS:  # of equal arms, or a slide: beside an arm's own
            busy.append(piece.replace("/", " "))
    return busy


def tidy(run_dir: Path) -> None:
    """Remove what the dead of this machine have left half written."""
    _busy(run_dir)
    clean_temporaries(run_dir)


def summary(run_dir: Path, jobs: list[Job], blocked: dict | None = None) -> pd.DataFrame:
    """Rows of `status.read_status` that belong to `jobs`: their steps, and the slides that failed in them."""
    table, order = read_status(run_dir), {job.name: number for number, job in enumerate(jobs)}
    blocked = blocked or {}
    mine = [(row.arm, row.step) in order and (row.arm, row.step) not in blocked for row in table.itertuples()]
    rows = [
        dict.fromkeys(STATUS_COLUMNS, "") | {"arm": arm, "step": step, "status": kind, "reason": reason}
        for (arm, step), (kind, reason) in blocked.items()
    ]
    table = pd.concat([table[mine], pd.DataFrame(rows, columns=STATUS_COLUMNS)], ignore_index=True)
    place = [order[row.arm, row.step] for row in table.itertuples()]
    return table.iloc[sorted(range(len(table)), key=place.__getitem__)].reset_index(drop=True)
