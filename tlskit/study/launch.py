"""One sweep on many workers: looked at and held here, run by whoever an engine starts, summed up here.

A worker does what `sweep.run_sweep` does where it stands: nothing here decides which of them runs which notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from tlskit.study import cluster, engine, keys, status, sweep

__all__ = ["GO_ON", "Launched", "sweep_on"]

#: What is said where the workers went before the work was done.
GO_ON = "The workers have gone before all was done. What was finished is kept; run the same command to go on."

#: How a line of a worker ends that says nothing of its own work.
_ELSEWHERE = ("done before, skipped", "done by another sweep", "FAILED in another sweep")


class Launched(NamedTuple):
    """What became of a launch.

    Attributes
    ----------
    table
        As of `sweep.run_sweep`.
    failures
        What each worker said that stopped.
    lost
        Whether the workers went before the work was done.
    """

    table: pd.DataFrame
    failures: list[str]
    lost: bool


def sweep_on(
    preset: dict,
    *,
    on: str,
    arms: list[str] | None = None,
    steps: list[str] | None = None,
    retry: bool = False,
    report: Callable[[str], None] = print,
    lost_s: float = cluster.LOST_S,
) -> Launched:
    """Run what is not done of a preset, on the workers of an engine.

    Parameters
    ----------
    preset, arms, steps, retry
        As for `sweep.run_sweep`.
    on
        As of `engine.parse`.
    report
        Called with one line for each notebook that has ended, and for workers that come and go.
    lost_s
        See `cluster.LOST_S`.

    Raises
    ------
    ParameterError, RunError
        If something cannot work, or another preset is being swept into the run: before any worker is asked for.
    """
    engine.parse(on)
    jobs = sweep.plan(preset, arms=arms, steps=steps, retry=retry)
    run_dir = sweep.run_dir_of(preset)
    left = [job for job in jobs if not job.done]
    for job in jobs:
        if job.done:
            report(f"{job.arm:>8} {job.step:<24} done before, skipped")
    if not left:
        return Launched(sweep.summary(run_dir, jobs), [], lost=False)
    sweep.look_beforehand(preset, jobs)
    sweep.hold(run_dir, preset)
    attempts = {job.piece: (status.read_step(run_dir / job.arm, job.step) or {}).get("attempt") for job in jobs}
    arguments = {"preset": preset, "arms": arms, "steps": steps, "retry": retry, "attempts": attempts}
    outcome = cluster.share(
        run_here, arguments, on=on, program=_program(), shared_dir=run_dir.parent, report=report, lost_s=lost_s
    )
    sweep.tidy(run_dir)
    left = [job for job in sweep.plan(preset, arms=arms, steps=steps) if not job.done]
    blocked = {job.name: ("blocked", job.why) for job in left if not job.why.startswith("failed: ")}
    return Launched(sweep.summary(run_dir, jobs, blocked), outcome.failures, outcome.lost)


def run_here(preset: dict, arms, steps, retry: bool, attempts: dict, report: Callable[[str], None]) -> None:
    """The task of a worker."""
    sweep.run_sweep(
        preset, arms=arms, steps=steps, retry=retry, attempts=attempts,
        report=lambda line: None if line.endswith(_ELSEWHERE) else report(line),
    )  # fmt: skip


def _program() -> str:
    """What decides the keys: a worker with other code would file what it makes where nobody looks for it."""
    cells = [cell for step in (*keys.STEPS, keys.COMPARE) for cell in keys.cells_that_run(step)]
    return "\n".join(["from tlskit.study import sweep", "sweep.run_sweep()", *cells])
