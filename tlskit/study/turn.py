"""One sweep's way through a run: what it may claim it runs, what others have claimed it waits for."""

from __future__ import annotations

import datetime
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tlskit.errors import DiskFullError
from tlskit.study import kernel, keys, status, takeover
from tlskit.study.ledger import claims_of, heavy_products
from tlskit.study.planning import Job, arms_asked, jobs_of, whole_preset, why_not_done
from tlskit.study.provenance import provenance

__all__ = ["Turn"]

log = logging.getLogger(__name__)


class Turn:
    """One sweep's way through its jobs; each `once` looks at all that is left, and runs what it can claim."""

    def __init__(
        self, run_dir: Path, preset: dict, jobs: list[Job], *, force: bool, retry: bool, report: Callable,
        attempts: dict | None = None, before_run: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.run_dir, self.preset, self.retry, self.report = run_dir, preset, retry, report
        self.jobs, self.force, self.before_run = {job.name: job for job in jobs}, force, before_run
        self.left = dict(self.jobs)
        self.blocked: dict[tuple[str, str], tuple[str, str]] = {}
        self.failed: set[tuple[str, str]] = set()
        self.claims = claims_of(run_dir)
        self.started = time.monotonic()
        # What had failed before this sweep began is tried again; what fails meanwhile, here or elsewhere, is not.
        twins = {(arm, job.step) for job in jobs for arm in job.twins}
        self.attempts = {name: self._found(name).get("attempt") for name in {*self.jobs, *twins}}
        if attempts is not None:
            self.attempts |= {name: attempts.get(job.piece) for name, job in self.jobs.items()}
        for job in jobs:
            if job.done and not force:
                self._close(job, "done before, skipped")

    def _found(self, name: tuple[str, str]) -> dict:
        return status.read_step(self.run_dir / name[0], name[1]) or {}

    def _close(self, job: Job, said: str) -> None:
        self.left.pop(job.name, None)
        number = list(self.jobs).index(job.name) + 1
        width = len(str(len(self.jobs)))
        self.report(f"[{number:>{width}}/{len(self.jobs)}] {job.arm:>4} {job.step:<24} {said}")

    def once(self) -> bool:
        """Look at what is left; whether anything was done."""
        for job in list(self.left.values()):
            if any(name in self.left for name in job.before):
                continue  # its turn has not come: its status need not be read, of hundreds in a large run
            found = self._found(job.name)
            fresh = found.get("attempt") != self.attempts[job.name]
            if fresh and found.get("state") == "failed" and not self.claims.is_taken(job.piece):
                self.failed.add(job.name)
                self._close(job, "FAILED in another sweep")
                self.report(f"        {found.get('reason', '')}")
                return True
            if fresh and not why_not_done(self.run_dir, job):
                self._close(job, "done by another sweep")
                return True
            if said := self._obstacle(job):
                self._close(job, said)
                return True
            if not self._is_ready(job):
                continue
            if found.get("by") == "hand" and found.get("state") == "running" and not self.claims.take(job.piece):
                self._block(job, "it is open in a notebook: run that to its end, or close its kernel")
                self._close(job, "left out: it is open in a notebook")
                return True
            if self._claim(job):
                with self.claims.releasing(job.piece), self.claims.releasing(job.shared_piece):
                    self._make(job)
                return True
        return False

    def _claim(self, job: Job) -> bool:
        """Claim a step, and before it what equal arms share: who finds that taken does something else meanwhile."""
        if job.shared_piece and not self.claims.take(job.shared_piece):
            self.claims.release(job.piece)
            return False
        if self.claims.holds(job.piece) or self.claims.take(job.piece):
            return True
        self.claims.release(job.shared_piece)
        return False

    def _states(self, job: Job) -> list[tuple[tuple[str, str], str]]:
        """The steps before a job that are not done, with the reason."""
        waits = []
        for name in job.before:
            if name[1] in keys.MEETINGS and (name in self.failed or name in self.blocked or name not in self.jobs):
                continue  # the comparison goes on without cascades, and says so
            if name in self.left or name in self.failed or name in self.blocked:
                waits.append((name, "failed" if name in self.failed else ""))
            elif name not in self.jobs and (why := self._outside().get(name)):
                waits.append((name, why))
        return waits

    def _outside(self) -> dict[tuple[str, str], str]:
        """Why the run's other jobs, which this sweep does not make, are not done."""
        if not hasattr(self, "_others"):
            whole = jobs_of(whole_preset(self.preset, self.run_dir), self.run_dir, [], self.retry)
            self._others = {job.name: job.why for job in whole if job.why}
        return self._others

    def _is_ready(self, job: Job) -> bool:
        return not self._states(job)

    def _obstacle(self, job: Job) -> str:
        """What to say of a job that cannot be run by waiting; empty where it can."""
        waits = self._states(job)
        if any(name in self.left for name, _ in waits):
            return ""
        if job.step in keys.MEETINGS and arms_asked(self.preset) == "ready":
            done = {arm for arm, of in job.before if of not in keys.MEETINGS} - {name[0] for name, _ in waits}
            return "" if done or not waits else self._block(job, "no arm is ready to be compared")
        stopped = [name for name, _ in waits if name in self.failed or name in self.blocked]
        if stopped and job.step in keys.MEETINGS:
            arms = ", ".join(dict.fromkeys(arm for arm, _ in stopped))
            return self._block(job, f"arm {arms} failed; `-p compare_arms=ready` compares the others")
        if stopped:
            return self._block(job, "an earlier step of this arm failed")
        if waits:
            (arm, step), why = waits[0]
            kind = "waits" if job.step in keys.MEETINGS and len(self.jobs) > 1 else "blocked"
            return self._block(job, f"{arm} {step} is to be run first ({why})", kind)
        return ""

    def _block(self, job: Job, reason: str, kind: str = "blocked") -> str:
        self.blocked[job.name] = (kind, reason)
        return f"{'blocked' if kind == 'blocked' else 'waits'}: {reason}"

    def _make(self, job: Job) -> None:
        """Take a step over from an equal arm that has made it, or run it."""
        if self._found(job.name).get("attempt") != self.attempts[job.name] and not why_not_done(self.run_dir, job):
            self._close(job, "done by another sweep")  # it ended between the look and the claim
            return
        source, begun, reason = self._source(job), time.monotonic(), ""
        taken = bool(source) and _take(self.run_dir, job, source)
        if not taken:
            self.before_run()
            reason = run_job(self.run_dir, job, lambda: self.claims.holds(job.piece))
        seconds = time.monotonic() - begun
        if reason:
            self.failed.add(job.name)
        found = self._found(job.name)
        failures, helped = len(found.get("slides", [])), 0 if taken else len(found.get("helped", {}))
        slides = f"   {failures} slide(s) failed" if failures else ""
        slides += f"   {helped} slide(s) made by other workers" if helped else ""
        elapsed = datetime.timedelta(seconds=round(time.monotonic() - self.started))
        did = "FAILED" if reason else f"as {source}: taken over" if taken else "done"
        self._close(job, f"{did} in {seconds:5.0f} s   elapsed {elapsed}{slides}")
        if reason:
            self.report(f"        {reason}")

    def _source(self, job: Job) -> str:
        """The arm from which a step can be taken over: there it is done, and all that it wrote is as it was."""
        for arm in job.twins:
            # What is to be run again is taken over only from whom has run it since this sweep began.
            fresh = self._found((arm, job.step)).get("attempt") != self.attempts[arm, job.step]
            if (fresh or not self.force) and not why_not_done(
                self.run_dir, replace(job, arm=arm), retry=self.retry and not fresh
            ):
                return arm
        return ""


def _take(run_dir: Path, job: Job, source: str) -> bool:
    begun, blank = time.monotonic(), _blank(job, secrets.token_hex(8))
    if why := takeover.take_over(run_dir, source, job.arm, job.step, blank):
        log.warning("%s %s is not taken over from %s: %s. It is run.", *job.name, source, why)
        return False
    found = status.read_step(run_dir / job.arm, job.step)
    status.write_step(run_dir / job.arm, job.step, found | {"seconds": round(time.monotonic() - begun, 1)})
    return True


def _blank(job: Job, attempt: str) -> dict:
    """The status of a step that has just begun."""
    return {
        "key": job.key, "ingredients": job.ingredients, "arm": job.arm, "step": job.step, "state": "running",
        "by": "sweep", "products": {}, "slides": [], "attempt": attempt, "provenance": provenance(),
    }  # fmt: skip


def run_job(run_dir: Path, job: Job, holds: Callable[[], bool]) -> str:
    """Execute one notebook and end its status; the reason of its failure, or an empty text."""
    attempt, begun, stopped, reason = secrets.token_hex(8), time.monotonic(), False, ""
    arm_dir = run_dir / job.arm
    blank = _blank(job, attempt)
    try:
        status.clear(arm_dir, job.step)
        reason = kernel.execute(job.step, job.output, job.parameters, attempt=attempt, title=f"{job.arm} {job.step}")
    except BaseException as error:
        # Not the step's fault: another process, with another disk, or this one later, may take it.
        stopped, reason = True, str(error) if isinstance(error, DiskFullError) else "stopped before its end"
        raise
    finally:
        if not holds():
            log.warning("%s %s: another sweep took it over, because this one showed no sign of life.", *job.name)
        else:
            # What the notebook itself has written down, where it keeps a status.
            found = status.read_step(arm_dir, job.step) or {}
            found = found if found.get("attempt") == attempt else blank
            state = "running" if stopped else "failed" if reason else "done"
            found |= {"seconds": round(time.monotonic() - begun, 1), "state": state}
            if reason:
                found["reason"] = reason
            elif job.output.is_file():
                products = [job.output, *heavy_products(arm_dir, job.step)]
                found["products"] |= dict(status.describe(arm_dir, path) for path in products)
            try:
                status.write_step(arm_dir, job.step, found)
            except OSError:  # there may be no room for this line either
                log.warning("%s %s: its status could not be written.", *job.name)
    return reason
