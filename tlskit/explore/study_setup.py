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
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

from tlskit.errors import ParameterError
from tlskit.files import portable, project_root, resolve, write_text
from tlskit.study import params, project, sweep

__all__ = ["KINDS", "check_name", "command_line", "log_path", "start_sweep", "sweeps_of", "write_study"]

#: The presets that a study starts from.
KINDS = {"quick": "demo", "full": "paper"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")


def write_study(
    name: str,
    rows: Sequence[dict],
    *,
    target_class: str,
    magnifications: Sequence[float],
    kind: str = "quick",
    manifest: str | Path | None = None,
    like: dict | None = None,
    outputs_dir: str | Path = "outputs",
    replace: bool = False,
) -> Path:
    """Write the manifest and the preset of a study; returns the preset's path.

    Parameters
    ----------
    name
        Of the run: letters, digits, ``_`` and ``-``.
    rows
        As of `tlskit.explore.study_slides`, each with its patient; rows with a problem are not written.
    kind
        A key of `KINDS`.
    manifest
        One that somebody has written, to be used as it is; `rows` are then those of it.
    like
        A preset whose parameters are taken instead of those of `kind`.
    replace
        Write over a preset and manifest of this name, as long as nothing has been run by them.

    Raises
    ------
    ParameterError
        If the name is none or taken, or there is nothing to study.
    """
    root, preset_path, manifest_path = check_name(name, outputs_dir, replace=replace)
    usable = [row for row in rows if not row["problem"]]
    if not usable or not magnifications:
        raise ParameterError("There should be at least one slide without a problem, and one magnification.")
    if like is None:
        base = root / "params" / f"{KINDS[kind]}.yaml"
        like = params.read_preset(base if base.is_file() else project.packaged("params") / base.name)
    used = manifest_path if manifest is None else Path(manifest)
    preset = like | {"run_name": name, "manifest": portable(used, root), "target_class": target_class}
    preset.pop("outputs_dir", None)
    if str(outputs_dir) != "outputs":
        preset["outputs_dir"] = str(outputs_dir)
    swept = like.get(params.SWEEP)
    others = {name: v for name, v in swept.items() if name != "magnification"} if isinstance(swept, dict) else {}
    preset[params.SWEEP] = {"magnification": [int(m) if m == int(m) else m for m in magnifications], **others}
    manifest_path.parent.mkdir(parents=True, exist_ok=True)
    if manifest is None:
        write_text(manifest_path, _manifest_text(usable, manifest_path.parent))
    write_text(preset_path, yaml.safe_dump(preset, sort_keys=False, allow_unicode=True))
    sweep.prepare(preset_path)
    return preset_path


def check_name(name: str, outputs_dir: str | Path = "outputs", *, replace: bool = False) -> tuple[Path, Path, Path]:
    """The project, the preset and the manifest of a study by its name.

    Raises
    ------
    ParameterError
        If the name is none or taken.
    """
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"{name!r} is no name for a study: letters, digits, - and _, beginning with a letter or digit."
        )
    root = project.require_project()
    preset_path = root / "params" / f"{name}.yaml"
    manifest_path = resolve(outputs_dir) / "cohorts" / name / "manifest.csv"
    taken = [path for path in (preset_path, manifest_path) if path.exists()]
    if (resolve(outputs_dir) / name).exists() or (taken and not replace):
        raise ParameterError(f"There is a study called {name} already: choose another name.")
    return root, preset_path, manifest_path


def _manifest_text(rows: Sequence[dict], folder: Path) -> str:
    """A manifest that `tlskit.cohort.read_manifest` reads; columns that nobody fills are left out."""
    columns = ["slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path"]
    columns += [name for name in ("mpp_override", "split", "outline_origin") if any(row.get(name) for row in rows)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        paths = {
            name: Path(os.path.relpath(row[name], folder)).as_posix() if row[name] else ""
            for name in ("slide_path", "annotation_path")
        }
        cells = row | paths | {"cancer_type": row.get("cancer_type") or "not stated"}
        writer.writerow(["" if cells.get(name) is None else cells[name] for name in columns])
    return table.getvalue()


def command_line(preset_path: Path) -> str:
    """What a coder would type."""
    return f"tlskit sweep {portable(preset_path, project_root())}"


def log_path(preset_path: Path) -> Path:
    """Where a sweep that the page started writes what it says."""
    return resolve(params.read_preset(preset_path).get("outputs_dir", "outputs")) / f"{preset_path.stem}.sweep.log"


def start_sweep(preset_path: Path) -> int:
    """Start the sweep in a process of its own, or find the one that runs; returns its process id."""
    if running := sweeps_of(preset_path):
        return running[0].pid
    root = project_root()
    log = log_path(preset_path)
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
