"""A study set up without writing a file: slides and outlines paired, a manifest, a preset, and the sweep started.

What is written is what a coder would write: ``outputs/cohorts/<name>/manifest.csv`` and ``params/<name>.yaml``; what
is started is ``tlskit sweep params/<name>.yaml`` in a process of its own, which goes on when the page is closed.
"""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

from tlskit.errors import ParameterError, TlskitError
from tlskit.explore.folder_chooser import slide_files
from tlskit.files import portable, project_root, resolve, write_text
from tlskit.outlines import UNCLASSIFIED, read_annotations
from tlskit.study import params, project, status, sweep

__all__ = [
    "KINDS", "classes_of", "command_line", "pair_folder", "patients_of", "run_states", "start_sweep", "sweeps_of",
    "write_study",
]  # fmt: skip

#: The presets that a study starts from.
KINDS = {"quick": "demo", "full": "paper"}

_OUTLINES = (".geojson", ".json", ".geojson.gz", ".xml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")


def pair_folder(folder: str | Path) -> list[dict]:
    """Slides of a folder, each with the outlines of its name, there or in one of its folders.

    Returns
    -------
    list of dict
        slide_id, slide_path, annotation_path (None where there is none), problem (a sentence, or empty).
    """
    folder = Path(folder)
    folders, slides = slide_files(folder)
    ids = Counter(Path(name).stem for name in slides)
    rows = []
    for name in slides:
        stem = Path(name).stem
        found = [
            path
            for where in (folder, *(folder / inner for inner in folders))
            for end in _OUTLINES
            if (path := where / f"{stem}{end}").is_file()
        ]
        problem = ""
        if ids[stem] > 1:
            problem = f"{ids[stem]} slides are called {stem}: rename all but one."
        elif len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            problem = f"{len(found)} files of outlines have its name ({names}): keep one."
        elif not found:
            problem = f"No outlines: export them from QuPath as {stem}.geojson, an empty export for no target."
        path = found[0] if len(found) == 1 else None
        rows.append({"slide_id": stem, "slide_path": folder / name, "annotation_path": path, "problem": problem})
    return rows


def patients_of(slide_ids: Sequence[str], pattern: str) -> dict[str, str]:
    """The patient of each slide: what the pattern's first group (or the pattern) finds in its name.

    Raises
    ------
    ParameterError
        If the pattern is none, or finds nothing in some name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ParameterError(
            f"{pattern!r} is no regular expression: {error}. Every slide its own patient: (.+)"
        ) from error
    found, without = {}, []
    for slide_id in slide_ids:
        match = expression.search(slide_id)
        patient = (match[1] if expression.groups else match[0]) if match else ""
        if patient:
            found[slide_id] = patient
        else:
            without.append(slide_id)
    if without:
        raise ParameterError(
            f"The pattern {pattern!r} finds no patient in {len(without)} name(s): {', '.join(without[:4])}."
        )
    return found


def classes_of(rows: Sequence[dict]) -> tuple[Counter, list[str]]:
    """Areas by class over all outlines, and a sentence for each file that cannot be read."""
    counts, faults = Counter(), []
    for row in rows:
        if row["annotation_path"] is None:
            continue
        try:
            outlines = read_annotations(row["annotation_path"]).outlines
        except TlskitError as error:
            faults.append(str(error))
            continue
        counts.update(outline.class_name or UNCLASSIFIED for outline in outlines)
    return counts, faults


def write_study(
    name: str,
    rows: Sequence[dict],
    patients: dict[str, str],
    *,
    target_class: str,
    magnifications: Sequence[float],
    kind: str = "quick",
    cancer_type: str = "not stated",
    outputs_dir: str | Path = "outputs",
    replace: bool = False,
) -> Path:
    """Write the manifest and the preset of a study; returns the preset's path.

    Parameters
    ----------
    name
        Of the run: letters, digits, ``_`` and ``-``.
    rows, patients
        As of `pair_folder` and `patients_of`; rows with a problem are not written.
    kind
        A key of `KINDS`.
    replace
        Write over a preset and manifest of this name, as long as nothing has been run by them.

    Raises
    ------
    ParameterError
        If the name is none or taken, or there is nothing to study.
    """
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"{name!r} is no name for a study: letters, digits, - and _, beginning with a letter or digit."
        )
    usable = [row for row in rows if not row["problem"]]
    if not usable or not magnifications:
        raise ParameterError("There should be at least one slide without a problem, and one magnification.")
    root = project.require_project()
    preset_path = root / "params" / f"{name}.yaml"
    manifest_path = resolve(outputs_dir) / "cohorts" / name / "manifest.csv"
    taken = [path for path in (preset_path, manifest_path) if path.exists()]
    if (resolve(outputs_dir) / name).exists() or (taken and not replace):
        raise ParameterError(f"There is a study called {name} already: choose another name.")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path"])
    for row in usable:
        paths = [
            Path(os.path.relpath(row[key], manifest_path.parent)).as_posix()
            for key in ("slide_path", "annotation_path")
        ]
        writer.writerow([row["slide_id"], patients[row["slide_id"]], cancer_type, *paths])
    base = root / "params" / f"{KINDS[kind]}.yaml"
    preset = params.read_preset(base if base.is_file() else project.packaged("params") / base.name)
    preset |= {"run_name": name, "manifest": portable(manifest_path, root), "target_class": target_class}
    if str(outputs_dir) != "outputs":
        preset["outputs_dir"] = str(outputs_dir)
    preset["sweep"] = {"magnification": [int(m) if m == int(m) else m for m in magnifications]}
    manifest_path.parent.mkdir(parents=True, exist_ok=True)
    write_text(manifest_path, table.getvalue())
    write_text(preset_path, yaml.safe_dump(preset, sort_keys=False, allow_unicode=True))
    sweep.prepare(preset_path)
    return preset_path


def command_line(preset_path: Path) -> str:
    """What a coder would type."""
    return f"tlskit sweep {portable(preset_path, project_root())}"


def start_sweep(preset_path: Path) -> int:
    """Start the sweep in a process of its own, or find the one that runs; returns its process id."""
    if running := sweeps_of(preset_path):
        return running[0].pid
    root = project_root()
    log = resolve("outputs") / f"{preset_path.stem}.sweep.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tlskit", "sweep", portable(preset_path, root)],
            cwd=root, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
        )  # fmt: skip
    return process.pid


def sweeps_of(preset_path: Path) -> list[psutil.Process]:
    """Processes of this machine that sweep this preset, whoever started them."""
    wanted = preset_path.resolve()
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "sweep" in words and process.status() != psutil.STATUS_ZOMBIE:
                cwd = Path(process.cwd())
                if any(word.endswith(wanted.name) and (cwd / word).resolve() == wanted for word in words):
                    found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def run_states(preset_path: Path) -> list[dict]:
    """Every notebook that the preset asks for, in order: arm, step, state (``waits`` where it has none), reason."""
    preset = sweep.prepare(preset_path)

    known = status.steps_of(sweep.run_dir_of(preset))
    states = []
    for job in sweep.plan(preset):
        found = known.get((job.arm, job.step), {})
        state = "done" if job.done else found.get("state", "waits")
        state = "to do again" if state == "done" and not job.done else state
        slides = [f"{slide.get('slide_id', '')}: {slide.get('reason', '')}" for slide in found.get("slides", [])]
        states.append(
            {
                "arm": job.arm,
                "step": job.step,
                "state": state,
                "reason": "; ".join([found.get("reason", ""), *slides]).strip("; "),
            }
        )
    return states
