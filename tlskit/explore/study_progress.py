"""How far a study is, from what its run has written down; and which studies there are in a project.

Nothing is kept by the page: it may be closed, and so may the machine. What a preset asks for and what the status files
of its run say is read again at every look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tlskit import cohort
from tlskit.errors import TlskitError
from tlskit.explore.study_setup import sweeps_of
from tlskit.files import project_root, resolve
from tlskit.study import estimates, params, progress, status, sweep

__all__ = ["WORDS", "StudyProgress", "begun", "look"]

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
class StudyProgress:
    """All notebooks of a study in order, whether a sweep is at it, and seconds that are left, as a guess.

    ``maps`` says of notebooks that write a map for each slide how many there are, and of how many.
    """

    run_dir: Path
    pieces: tuple[progress.Piece, ...] = ()
    runs: bool = False
    left_s: float | None = None
    maps: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Notebooks that are done."""
        return sum(piece.state == "done" for piece in self.pieces)

    @property
    def begun(self) -> bool:
        """Whether anything was run."""
        return any(piece.state != "left" for piece in self.pieces) or (self.run_dir / "run.yaml").is_file()

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to run."""
        return bool(self.pieces) and self.done == len(self.pieces)

    @property
    def report_path(self) -> Path:
        """The page of the report."""
        return self.run_dir / "compare" / "report.html"


def look(preset_path: Path, guessed: Mapping[tuple[str, str], float] | None = None) -> StudyProgress:
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
    jobs = {job.name: job for job in sweep.plan(preset)}
    if (run_dir / "run.yaml").is_file():
        pieces = [piece for piece in progress.look(run_dir).pieces if (piece.arm, piece.step) in jobs]
    else:
        pieces = [progress.Piece(arm, step, "left") for arm, step in jobs]
    maps, left = {}, None
    for piece in pieces:
        name = piece.arm, piece.step
        if piece.state == "running" and (found := _maps_of(run_dir, jobs[name])):
            maps[name] = found
    if guessed:
        took = {(p.arm, p.step): p.seconds for p in pieces if p.state == "done" and p.seconds}
        running = {(p.arm, p.step): p.seconds or 0.0 for p in pieces if p.state == "running"}
        told = {(p.arm, p.step): p.left_s for p in pieces if p.left_s is not None}
        free = {(p.arm, p.step) for p in pieces if p.same_as or p.state == "done"}
        rest = {name: seconds for name, seconds in guessed.items() if name in took or name not in free}
        left = estimates.seconds_left(rest, took, running, told)
    return StudyProgress(run_dir, tuple(pieces), runs, left, maps)


def _maps_of(run_dir: Path, job) -> tuple[int, int] | None:
    """Slides whose maps lie there, of all that the step looks at; None for a step that makes none."""
    if job.step != "05_wsi_evaluation":
        return None
    values = status.read_step(run_dir / job.arm, "02_patient_split") or {}
    fold = values.get("ingredients", {}).get("parameters", {}).get("fold", 0)
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
