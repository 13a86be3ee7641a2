"""How far a study is, from what its run has written down; and which studies there are in a project.

Nothing is kept by the page: it may be closed, and so may the machine. What a preset asks for and what the status files
of its run say is read again at every look.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tlskit import cohort
from tlskit.errors import TlskitError
from tlskit.explore.study_setup import sweeps_of
from tlskit.files import project_root, resolve
from tlskit.study import estimates, params, status, sweep

__all__ = ["Notebook", "Progress", "begun", "look"]

#: What a step is about, for people who have not read its notebook.
WORDS = {
    "01_tiling": "cut into tiles",
    "02_patient_split": "who is tested",
    "03_training": "training",
    "04_tile_evaluation": "scores of tiles",
    "05_wsi_evaluation": "whole slides",
    "06_wsi_inference_timing": "minutes a slide",
    "cascade": "a coarse network before a fine one",
    "controls": "why",
    "compare_magnifications": "the report",
}


@dataclass(frozen=True)
class Notebook:
    """One notebook of a study: ``state`` is done, running, failed, waits or to do again."""

    arm: str
    step: str
    state: str
    reason: str = ""
    failed_slides: tuple[str, ...] = ()
    seconds: float | None = None
    slides: tuple[int, int] | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Arm and step."""
        return self.arm, self.step


@dataclass(frozen=True)
class Progress:
    """All notebooks of a study in order, whether a sweep is at it, and seconds that are left, as a guess."""

    run_dir: Path
    notebooks: tuple[Notebook, ...] = field(default=())
    runs: bool = False
    left_s: float | None = None

    @property
    def done(self) -> int:
        """Notebooks that are done."""
        return sum(one.state == "done" for one in self.notebooks)

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to run."""
        return bool(self.notebooks) and self.done == len(self.notebooks)

    @property
    def report_path(self) -> Path:
        """The page of the report."""
        return self.run_dir / "compare" / "report.html"


def look(preset_path: Path, guessed: Mapping[tuple[str, str], float] | None = None) -> Progress:
    """How far a study is.

    Parameters
    ----------
    preset_path
        Its preset.
    guessed
        Of `tlskit.study.estimates.guess_seconds`; without it nothing is said of the time left.
    """
    runs = bool(sweeps_of(preset_path))
    preset = sweep.prepare(preset_path)
    run_dir = sweep.run_dir_of(preset)
    known = status.steps_of(run_dir)
    found, took, running = [], {}, {}
    for job in sweep.plan(preset):
        values = known.get(job.name, {})
        state = _state(job, values, runs)
        lost = tuple(f"{slide.get('slide_id', '')}: {slide.get('reason', '')}" for slide in values.get("slides", []))
        seconds = values.get("seconds")
        if state == "running":
            seconds = running[job.name] = _seconds_since(values)
        elif state == "done" and seconds:
            took[job.name] = seconds
        split_step = known.get((job.arm, "02_patient_split"), {})
        slides = _slides_of(run_dir, job, split_step) if state == "running" else None
        reason = values.get("reason", "") if state in ("failed", "to do again") else ""
        found.append(Notebook(job.arm, job.step, state, reason, lost, seconds, slides))
    done = {one.name for one in found if one.state == "done"}
    left = None
    if guessed:
        rest = {name: s for name, s in guessed.items() if name in took or name not in done}
        left = estimates.seconds_left(rest, took, running)
    return Progress(run_dir, tuple(found), runs, left)


def _state(job, values: Mapping, runs: bool) -> str:
    if job.done:
        return "done"
    state = values.get("state", "waits")
    if state == "running":
        return "running" if runs else "stopped"
    return "to do again" if state in ("done", "partly") else state


def _seconds_since(values: Mapping) -> float:
    try:
        begun = datetime.datetime.fromisoformat(values["provenance"]["time_utc"])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return max(0.0, (datetime.datetime.now(datetime.UTC) - begun).total_seconds())


def _slides_of(run_dir: Path, job, split_step: Mapping) -> tuple[int, int] | None:
    """Slides whose maps lie there, of all that the step looks at; None for a step that does not say."""
    if job.step != "05_wsi_evaluation":
        return None
    fold = split_step.get("ingredients", {}).get("parameters", {}).get("fold", 0)
    try:
        slides = cohort.read_manifest(job.parameters["manifest"])
        slides = cohort.attach_split(slides, cohort.read_split(run_dir / "split.csv", fold=fold))
    except (TlskitError, OSError, ValueError):
        return None  # the step itself will say what is wrong
    wanted = slides.loc[slides["split"] != "train", "slide_id"]
    return sum((run_dir / job.arm / "work" / "maps" / f"{name}.tif").is_file() for name in wanted), len(wanted)


def begun(outputs_dir: str | Path = "outputs") -> list[tuple[str, Path]]:
    """Studies of this project, by name and preset: those that run at this moment first, then the newest.

    A study is a preset in ``params`` whose run has a folder, or whose manifest was written by the page.
    """
    found = []
    for path in sorted((project_root() / "params").glob("*.yaml")):
        try:
            preset = params.read_preset(path)
            run_dir = resolve(preset.get("outputs_dir", "outputs")) / preset.get("run_name", path.stem)
        except (TlskitError, OSError, TypeError):
            continue
        if run_dir.parent != resolve(outputs_dir):
            continue
        own = resolve(outputs_dir) / "cohorts" / path.stem / "manifest.csv"
        marks = [mark for mark in (run_dir / "run.yaml", own) if mark.is_file()]
        if marks:
            found.append((bool(sweeps_of(path)), max(mark.stat().st_mtime for mark in marks), run_dir.name, path))
    return [(name, path) for _, _, name, path in sorted(found, key=lambda one: one[:3], reverse=True)]
