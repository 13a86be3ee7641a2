"""The notebooks over the grid of a preset: which steps there are, which are done, and papermill for the rest.

A step is done when its status says so under the key that its parameters, its inputs and its code have now
(`tlskit.study.keys`), whoever ran it, and all that it wrote is still there. Any number of processes may sweep one run:
each claims a step before it runs it (`tlskit.files.Claims`, the pieces are ``<arm>/<step>``), passes over what others
have claimed, and ends when nothing is left. Another launcher starts `run_sweep` of the same preset in each of its
workers; it has nothing else to say to them.
"""

from __future__ import annotations

import datetime
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from tlskit.errors import DiskFullError, ManifestError, ParameterError, RunError
from tlskit.files import LEASE_S, clean_temporaries, portable, project_root, resolve, write_text
from tlskit.study import beforehand, kernel, keys, params, standing, status
from tlskit.study.keys import COMPARE, MEETINGS, STEPS, notebook_path
from tlskit.study.ledger import claims_of, heavy_products
from tlskit.study.provenance import provenance
from tlskit.study.status import STATUS_COLUMNS, read_status

__all__ = [
    "COMPARE",
    "STEPS",
    "Job",
    "notebook_path",
    "notebooks",
    "plan",
    "prepare",
    "run_dir_of",
    "run_sweep",
    "summary",
]

log = logging.getLogger(__name__)

#: Claim by which a sweep holds the run itself, for the moment in which it writes ``run.yaml``.
HOLD = "run"

#: Key of a preset, as `prepare` returns it, that says that it was narrowed to some of its arms.
PARTIAL = "partial"

#: Which presets ask for the notebooks of `keys.MEETINGS`; the comparison is made last: its page may show theirs.
ASKED_BY = {"cascade": params.has_cascade, "controls": params.has_controls}

#: Seconds between two looks at steps that others have claimed.
POLL_S = 1.0


@dataclass(frozen=True)
class Job:
    """One notebook to run: its arm, the parameters it declares, its key, and why it is to be run, if it is."""

    arm: str
    step: str
    parameters: dict
    key: str
    output: Path
    done: bool
    why: str = ""
    before: tuple[tuple[str, str], ...] = ()
    ingredients: dict | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Arm and step."""
        return self.arm, self.step

    @property
    def piece(self) -> str:
        """Name of the claim."""
        return f"{self.arm}/{self.step}"


def prepare(preset_path: str | Path, overrides: dict | None = None) -> dict:
    """Read a preset, apply `overrides`, and refuse what no notebook declares.

    Raises
    ------
    ParameterError
        For an unknown or mistyped parameter, with the nearest name; before anything has run.
    """
    written, overrides = params.read_preset(preset_path), overrides or {}
    preset = params.override(written, overrides)
    params.check(preset, [notebook_path(step) for step in notebooks()])
    if set(overrides) & set(params.factors(written)):
        preset[PARTIAL] = True
    return preset


def notebooks() -> list[str]:
    """Names of the notebooks that a sweep of this project can run, in order."""
    return [*STEPS, *(step for step in ASKED_BY if notebook_path(step).is_file()), COMPARE]


def meetings(preset: dict) -> list[str]:
    """The notebooks in which the arms of a preset meet: the comparison, and those that it asks for."""
    return [step for step in notebooks() if step == COMPARE or (step in ASKED_BY and ASKED_BY[step](preset))]


def run_dir_of(preset: dict) -> Path:
    """Folder of the run that a preset makes."""
    defaults = _defaults()
    name = preset.get("run_name", defaults["run_name"])
    return resolve(preset.get("outputs_dir", defaults["outputs_dir"])) / name


def plan(
    preset: dict, *, arms: list[str] | None = None, steps: list[str] | None = None, retry: bool = False
) -> list[Job]:
    """Every notebook that the preset asks for, in order, whether it is done already, and why it is not.

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
    run_dir = run_dir_of(preset)
    whole = _whole(preset, run_dir)
    names = [arm["arm"] for arm in params.arms(_plain(preset))]
    jobs = _jobs(whole, run_dir, names, retry)
    met = meetings(whole)
    known_arms = [*names, *(MEETINGS[step] for step in met)]
    for what, chosen, known in (("arm", arms, known_arms), ("step", steps, [*STEPS, *met])):
        unknown = sorted(set(chosen or []) - set(known))
        if unknown:
            raise ParameterError(f"This preset has no {what} {', '.join(unknown)}; it has {', '.join(known)}.")
    chosen = arms or known_arms
    return [job for job in jobs if job.arm in chosen and (not steps or job.step in steps)]


def _plain(preset: dict) -> dict:
    return {name: value for name, value in preset.items() if name != PARTIAL}


def _whole(preset: dict, run_dir: Path) -> dict:
    """The preset of the run: of one that was narrowed to some arms, with the others that the run has already."""
    given = _plain(preset)
    if not preset.get(PARTIAL):
        return given
    before = standing.read_preset_of(run_dir)
    try:
        others = params.stated_arms(before.get(params.SWEEP, {}))
    except (ParameterError, TypeError, AttributeError):
        others = []
    mine = params.stated_arms(given[params.SWEEP])
    added = [one for one in mine if one not in others]
    if not others or [one for one in others if set(one) != set(mine[0])]:
        return given
    return given | {params.SWEEP: before[params.SWEEP] if not added else others + added}


def _jobs(preset: dict, run_dir: Path, names: list[str], retry: bool) -> list[Job]:
    """All jobs of the run: those of the arms `names` first, the others next, those in which arms meet last."""
    met = meetings(preset)
    declared = {step: params.notebook_parameters(notebook_path(step)) for step in (*STEPS, *met)}
    defaults = _defaults()
    root = project_root()
    for name in ("manifest", "outputs_dir", *keys.FILES):  # no folder of this machine in an executed notebook
        value = preset.get(name)
        if isinstance(value, str) and Path(value).expanduser().is_absolute():
            preset = preset | {name: portable(Path(value).expanduser(), root)}
    try:
        content = keys.cohort_content(preset.get("manifest", defaults["manifest"]))
    except ManifestError:
        content = {}  # `run_sweep` refuses it, `check` lists its faults
    earlier = {(r.arm, r.step) for r in read_status(run_dir).itertuples() if not r.slide_id}
    jobs: dict[tuple[str, str], Job] = {}

    def add(arm: str, step: str, given: dict, inputs: dict[str, str], before: tuple) -> None:
        parameters = {name: given.get(name, parameter.default) for name, parameter in declared[step].items()}
        made_of = keys.ingredients(step, parameters, inputs, content)
        job = Job(
            arm, step, parameters, keys.key_of(made_of), run_dir / arm / f"{step}.ipynb", False, before=before,
            ingredients=made_of,
        )  # fmt: skip
        waits = [jobs[name] for name in before if not jobs[name].done]
        why = why_not_done(run_dir, job, retry=retry, known=(arm, step) in earlier)
        if waits and not why:
            of_arm = waits[0].step if waits[0].arm == arm else f"{waits[0].arm} {waits[0].step}"
            why = f"after {of_arm}"
        jobs[arm, step] = replace(job, done=not why, why=why)

    all_arms = params.arms(preset)
    for given in sorted(all_arms, key=lambda arm: arm["arm"] not in names):
        arm = given["arm"]
        for step in STEPS:
            read = [s for s in keys.READS.get(step, STEPS[: STEPS.index(step)]) if s in STEPS]
            add(arm, step, given, {s: jobs[arm, s].key for s in read}, tuple((arm, s) for s in read))
    fixed = {name: value for name, value in preset.items() if name != params.SWEEP}
    compared = [arm["arm"] for arm in all_arms]
    if preset.get("compare_arms", defaults.get("compare_arms")) == "ready":
        compared = [arm for arm in compared if all(jobs[arm, step].done for step in STEPS)]
    inputs = {f"{arm}/{step}": jobs[arm, step].key for arm in compared for step in STEPS}
    for step in met:
        add(MEETINGS[step], step, fixed, inputs, tuple((arm, before) for arm in compared for before in STEPS))
    return list(jobs.values())


def why_not_done(run_dir: Path, job: Job, *, retry: bool = False, known: bool = False) -> str:
    """Why a job is to be run, as far as its own status says; empty where it is done."""
    found = status.read_step(run_dir / job.arm, job.step)
    if found is None:
        return "made by an earlier version, its key is unknown" if known else "not run yet"
    state = found.get("state")
    by = "run by hand: " if found.get("by") == "hand" else ""
    if state == "failed":
        return f"failed: {found.get('reason', '')}"
    if state == "running":
        taken = claims_of(run_dir).is_taken(job.piece)
        return "being run at this moment" if taken else f"{by}not run to its end"
    if found.get("key") != job.key:
        if not found.get("key"):
            return "run by a script, its key is unknown"
        said = [found["reason"]] if found.get("reason") else []
        said += keys.differences(found["ingredients"], job.ingredients)
        return by * (not found.get("reason")) + ("; ".join(said[:3]) or "something else than now was run")
    if retry and found.get("slides"):
        return f"{len(found['slides'])} slide(s) failed in it"
    return status.fault_of_products(run_dir / job.arm, found)


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
    turn = _Turn(run_dir, preset, jobs, force=force, retry=retry, attempts=attempts, report=report)
    while turn.left:
        if not turn.once():
            time.sleep(POLL_S)
    tidy(run_dir)
    return summary(run_dir, jobs, turn.blocked)


def look_beforehand(preset: dict, jobs: list[Job]) -> None:
    """Refuse what cannot work, and a faulty manifest, before a kernel starts or a folder is made."""
    keys.cohort_content(jobs[0].parameters["manifest"])  # faults of the manifest are all told before a kernel starts
    if not all(job.done for job in jobs):
        beforehand.refuse_impossible([_defaults() | arm for arm in params.arms(_plain(preset))])


class _Turn:
    """One sweep's way through its jobs; each `once` looks at all that is left, and runs what it can claim."""

    def __init__(
        self, run_dir: Path, preset: dict, jobs: list[Job], *, force: bool, retry: bool, report: Callable,
        attempts: dict | None = None,
    ):  # fmt: skip
        self.run_dir, self.preset, self.retry, self.report = run_dir, preset, retry, report
        self.jobs, self.force = {job.name: job for job in jobs}, force
        self.left = dict(self.jobs)
        self.blocked: dict[tuple[str, str], tuple[str, str]] = {}
        self.failed: set[tuple[str, str]] = set()
        self.claims = claims_of(run_dir)
        self.started = time.monotonic()
        # What had failed before this sweep began is tried again; what fails meanwhile, here or elsewhere, is not.
        self.attempts = {name: self._found(name).get("attempt") for name in self.jobs}
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
            if self.claims.holds(job.piece) or self.claims.take(job.piece):
                with self.claims.releasing(job.piece):
                    self._run(job)
                return True
        return False

    def _states(self, job: Job) -> list[tuple[tuple[str, str], str]]:
        """The steps before a job that are not done, with the reason."""
        waits = []
        for name in job.before:
            if name in self.left or name in self.failed or name in self.blocked:
                waits.append((name, "failed" if name in self.failed else ""))
            elif name not in self.jobs and (why := self._outside().get(name)):
                waits.append((name, why))
        return waits

    def _outside(self) -> dict[tuple[str, str], str]:
        """Why the run's other jobs, which this sweep does not make, are not done."""
        if not hasattr(self, "_others"):
            whole = _jobs(_whole(self.preset, self.run_dir), self.run_dir, [], self.retry)
            self._others = {job.name: job.why for job in whole if job.why}
        return self._others

    def _is_ready(self, job: Job) -> bool:
        return not self._states(job)

    def _obstacle(self, job: Job) -> str:
        """What to say of a job that cannot be run by waiting; empty where it can."""
        waits = self._states(job)
        if any(name in self.left for name, _ in waits):
            return ""
        if job.step in MEETINGS and _arms_asked(self.preset) == "ready":
            done = {arm for arm, _ in job.before} - {name[0] for name, _ in waits}
            return "" if done or not waits else self._block(job, "no arm is ready to be compared")
        stopped = [name for name, _ in waits if name in self.failed or name in self.blocked]
        if stopped and job.step in MEETINGS:
            arms = ", ".join(dict.fromkeys(arm for arm, _ in stopped))
            return self._block(job, f"arm {arms} failed; `-p compare_arms=ready` compares the others")
        if stopped:
            return self._block(job, "an earlier step of this arm failed")
        if waits:
            (arm, step), why = waits[0]
            kind = "waits" if job.step in MEETINGS and len(self.jobs) > 1 else "blocked"
            return self._block(job, f"{arm} {step} is to be run first ({why})", kind)
        return ""

    def _block(self, job: Job, reason: str, kind: str = "blocked") -> str:
        self.blocked[job.name] = (kind, reason)
        return f"{'blocked' if kind == 'blocked' else 'waits'}: {reason}"

    def _run(self, job: Job) -> None:
        if self._found(job.name).get("attempt") != self.attempts[job.name] and not why_not_done(self.run_dir, job):
            self._close(job, "done by another sweep")  # it ended between the look and the claim
            return
        begun = time.monotonic()
        reason = _run_job(self.run_dir, job, lambda: self.claims.holds(job.piece))
        seconds = time.monotonic() - begun
        if reason:
            self.failed.add(job.name)
        failures = len(self._found(job.name).get("slides", []))
        slides = f"   {failures} slide(s) failed" if failures else ""
        elapsed = datetime.timedelta(seconds=round(time.monotonic() - self.started))
        self._close(job, f"{'FAILED' if reason else 'done'} in {seconds:5.0f} s   elapsed {elapsed}{slides}")
        if reason:
            self.report(f"        {reason}")


def _arms_asked(preset: dict) -> str:
    return preset.get("compare_arms", _defaults().get("compare_arms", "all"))


def _run_job(run_dir: Path, job: Job, holds: Callable[[], bool]) -> str:
    """Execute one notebook and end its status; the reason of its failure, or an empty text."""
    attempt, begun, stopped, reason = secrets.token_hex(8), time.monotonic(), False, ""
    arm_dir = run_dir / job.arm
    blank = {
        "key": job.key, "ingredients": job.ingredients, "arm": job.arm, "step": job.step, "state": "running",
        "by": "sweep", "products": {}, "slides": [], "attempt": attempt, "provenance": provenance(),
    }  # fmt: skip
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


def hold(run_dir: Path, preset: dict) -> None:
    """Write what the run is made of, unless another preset is being swept into it at this moment."""
    whole = _whole(preset, run_dir)
    root = project_root()
    for name in ("manifest", "outputs_dir", *keys.FILES):
        value = whole.get(name)
        if isinstance(value, str) and Path(value).expanduser().is_absolute():
            whole[name] = portable(Path(value).expanduser(), root)
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    arms = params.arms_table(whole, _defaults()).to_csv(index=False, lineterminator="\n")
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
    for path in sorted(claims.folder.glob("*/*.claim")):
        piece = path.relative_to(claims.folder).with_suffix("").as_posix()
        if claims.holds(piece):
            continue
        if claims.take(piece):
            claims.release(piece)
        elif path.exists():
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


def _defaults() -> dict:
    """Values that the notebooks declare."""
    declared = [params.notebook_parameters(notebook_path(step)) for step in notebooks()]
    return {name: parameter.default for step in declared for name, parameter in step.items()}
