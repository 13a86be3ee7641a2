"""What a preset asks for: every notebook of every arm, whether it is done, and why it is not.

A step is done when its status says so under the key that its parameters, its inputs and its code have now
(`tlskit.study.keys`), whoever ran it, and all that it wrote is still there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tlskit.errors import ManifestError, ParameterError
from tlskit.files import portable, project_root, resolve
from tlskit.study import declarations, keys, params, standing, status
from tlskit.study.keys import notebook_path
from tlskit.study.ledger import claims_of
from tlskit.study.status import read_status

__all__ = [
    "ASKED_BY", "Job", "arms_asked", "declared_values", "jobs_of", "meetings", "notebooks", "plain", "plan", "prepare",
    "portable_preset", "run_dir_of", "whole_preset", "why_not_done",
]  # fmt: skip

#: Key of a preset, as `prepare` returns it, that says that it was narrowed to some of its arms.
PARTIAL = "partial"

#: Which presets ask for the notebooks of `keys.MEETINGS`; the comparison is made last: its page may show theirs.
ASKED_BY = {"cascade": params.has_cascade, "controls": params.has_controls}


@dataclass(frozen=True)
class Job:
    """One notebook to run: its arm, the parameters it declares, its key, and why it is to be run, if it is.

    ``twins`` are the other arms of the run in which the step has the same key; ``same_as`` is the one of them from
    which a step that is to be made will be taken over (`tlskit.study.takeover`), empty where it will be run.
    """

    arm: str
    step: str
    parameters: dict
    key: str
    output: Path
    done: bool
    why: str = ""
    before: tuple[tuple[str, str], ...] = ()
    ingredients: dict | None = None
    twins: tuple[str, ...] = ()
    same_as: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """Arm and step."""
        return self.arm, self.step

    @property
    def piece(self) -> str:
        """Name of the claim."""
        return f"{self.arm}/{self.step}"

    @property
    def shared_piece(self) -> str:
        """Name of the claim that all arms share in which the step has this key; empty where there is one alone."""
        return f"{self.step}/{self.key}" if self.twins else ""


def prepare(preset_path: str | Path, overrides: dict | None = None) -> dict:
    """Read a preset, apply `overrides`, and refuse what no notebook declares.

    Raises
    ------
    ParameterError
        For an unknown or mistyped parameter, with the nearest name; before anything has run.
    """
    written, overrides = params.read_preset(preset_path), overrides or {}
    preset = params.override(written, overrides)
    declarations.check(preset, [notebook_path(step) for step in notebooks()])
    if set(overrides) & set(params.factors(written)):
        preset[PARTIAL] = True
    return preset


def notebooks() -> list[str]:
    """Names of the notebooks that a sweep of this project can run, in order."""
    return [*keys.STEPS, *(step for step in ASKED_BY if notebook_path(step).is_file()), keys.COMPARE]


def meetings(preset: dict) -> list[str]:
    """The notebooks in which the arms of a preset meet: the comparison, and those that it asks for."""
    return [step for step in notebooks() if step == keys.COMPARE or (step in ASKED_BY and ASKED_BY[step](preset))]


def run_dir_of(preset: dict) -> Path:
    """Folder of the run that a preset makes."""
    defaults = declared_values()
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
    whole = whole_preset(preset, run_dir)
    names = [arm["arm"] for arm in params.arms(plain(preset))]
    jobs = jobs_of(whole, run_dir, names, retry)
    met = meetings(whole)
    known_arms = [*names, *(keys.MEETINGS[step] for step in met)]
    for what, chosen, known in (("arm", arms, known_arms), ("step", steps, [*keys.STEPS, *met])):
        unknown = sorted(set(chosen or []) - set(known))
        if unknown:
            raise ParameterError(f"This preset has no {what} {', '.join(unknown)}; it has {', '.join(known)}.")
    chosen = arms or known_arms
    return _with_sources([job for job in jobs if job.arm in chosen and (not steps or job.step in steps)], jobs)


def _with_sources(chosen: list[Job], jobs: list[Job]) -> list[Job]:
    """Say of each job that is to be made from which arm it will be taken over: one that is done, else the first."""
    done, coming, found = {job.name for job in jobs if job.done}, set(), []
    for job in chosen:
        names = [arm for arm in job.twins if (arm, job.step) in done] or [
            arm for arm in job.twins if (arm, job.step) in coming
        ]
        found.append(job if job.done or not names else replace(job, same_as=names[0]))
        coming.add(job.name)
    return found


def plain(preset: dict) -> dict:
    return {name: value for name, value in preset.items() if name != PARTIAL}


def whole_preset(preset: dict, run_dir: Path) -> dict:
    """The preset of the run: of one that was narrowed to some arms, with the others that the run has already."""
    given = plain(preset)
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


def portable_preset(preset: dict) -> dict:
    """The preset without a folder of this machine: for what is archived, executed notebooks included."""
    paths = {name: preset.get(name) for name in ("manifest", "outputs_dir", *keys.FILES)}
    absolute = {n: Path(v).expanduser() for n, v in paths.items() if isinstance(v, str)}
    return preset | {n: portable(path, project_root()) for n, path in absolute.items() if path.is_absolute()}


def jobs_of(preset: dict, run_dir: Path, names: list[str], retry: bool) -> list[Job]:
    """All jobs of the run: those of the arms `names` first, the others next, those in which arms meet last."""
    met = meetings(preset)
    declared = {step: declarations.notebook_parameters(notebook_path(step)) for step in (*keys.STEPS, *met)}
    programs = {step: keys.program(step) for step in declared}
    defaults = declared_values()
    preset = portable_preset(preset)
    try:
        content = keys.cohort_content(preset.get("manifest", defaults["manifest"]))
    except ManifestError:
        content = {}  # `run_sweep` refuses it, `check` lists its faults
    earlier = {(r.arm, r.step) for r in read_status(run_dir).itertuples() if not r.slide_id}
    jobs: dict[tuple[str, str], Job] = {}

    def add(arm: str, step: str, given: dict, inputs: dict[str, str], before: tuple) -> None:
        parameters = {name: given.get(name, parameter.default) for name, parameter in declared[step].items()}
        made_of = keys.ingredients(step, parameters, inputs, content, programs[step])
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
        for step in keys.STEPS:
            values = {name: given.get(name, parameter.default) for name, parameter in declared[step].items()}
            read = keys.reads(step, values)
            add(arm, step, given, {s: jobs[arm, s].key for s in read}, tuple((arm, s) for s in read))
    equal: dict[tuple[str, str], list[str]] = {}
    for job in jobs.values():
        equal.setdefault((job.step, job.key), []).append(job.arm)
    for job in list(jobs.values()):
        twins = tuple(arm for arm in equal[job.step, job.key] if arm != job.arm)
        jobs[job.name] = replace(job, twins=twins)
    fixed = {name: value for name, value in preset.items() if name != params.SWEEP}
    compared = [arm["arm"] for arm in all_arms]
    if preset.get("compare_arms", defaults.get("compare_arms")) == "ready":
        compared = [arm for arm in compared if all(jobs[arm, step].done for step in keys.STEPS)]
    inputs = {f"{arm}/{step}": jobs[arm, step].key for arm in compared for step in keys.STEPS}
    before = tuple((arm, earlier) for arm in compared for earlier in keys.STEPS)
    for step in met:
        # Cascades stand among the arms of the comparison.
        also = [keys.CASCADE] if step == keys.COMPARE and keys.CASCADE in jobs else []
        of_these = {"/".join(name): jobs[name].key for name in also}
        add(keys.MEETINGS[step], step, fixed, inputs | of_these, (*before, *also))
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


def arms_asked(preset: dict) -> str:
    return preset.get("compare_arms", declared_values().get("compare_arms", "all"))


def declared_values() -> dict:
    """Values that the notebooks declare."""
    declared = [declarations.notebook_parameters(notebook_path(step)) for step in notebooks()]
    return {name: parameter.default for step in declared for name, parameter in step.items()}
