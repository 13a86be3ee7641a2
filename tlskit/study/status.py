"""What has become of each step of a run: one file a step, ``<arm>/status/<step>.json``, written by whoever runs it.

A file holds ``state`` (``running``, ``done``, ``failed``, ``partly``: by hand, with cells left out), ``key`` and the
``ingredients`` it was made of (`tlskit.study.keys`), ``products`` (each file that the step wrote, with its size and
its SHA-256), ``slides`` that failed with the reason, ``seconds``, ``by`` (``sweep``, ``hand`` or ``script``),
``attempt`` (a random name of the run of this step), ``provenance`` and, of a step that an equal arm had made,
``taken_from`` (`tlskit.study.takeover`), of one with whose slides other workers helped, ``helped`` (by slide, which
process and its seconds: `tlskit.study.sharing`).

Archives made before there were such files have one ``status.csv``: it is read, and their keys count as unknown.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tlskit.files import sha256_of_file, write_text

__all__ = [
    "STATUS_COLUMNS", "clear", "describe", "fault_of_products", "read_step", "read_status", "step_path", "steps_of",
    "write_step",
]  # fmt: skip

log = logging.getLogger(__name__)

STATUS_COLUMNS = ["arm", "step", "slide_id", "status", "reason", "seconds", "key"]

#: Folders of an arm whose files are looked at by content; those of ``work`` are known by their size.
_BY_CONTENT = ("tables", "records", "geojson", "..")

#: What a step goes on with when it is run again, and throws away by itself where it does not fit.
_KEPT = ("checkpoint.pt", "maps", "tiles")

#: Where what somebody else wrote under a step's name is put before the step is run again.
SET_ASIDE = "set_aside"


def step_path(arm_dir: str | Path, step: str) -> Path:
    """The status file of a step."""
    return Path(arm_dir) / "status" / f"{step}.json"


def read_step(arm_dir: str | Path, step: str) -> dict | None:
    """What the status file of a step says; None where the step was never run, or its file is no JSON."""
    try:
        found = json.loads(step_path(arm_dir, step).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_step(arm_dir: str | Path, step: str, values: Mapping) -> None:
    """Write the status file of a step. Only who holds the step's claim may."""
    write_text(step_path(arm_dir, step), json.dumps(dict(values), indent=1) + "\n")


def steps_of(run_dir: str | Path) -> dict[tuple[str, str], dict]:
    """All status files of a run, by arm and step."""
    found = {}
    for path in sorted(Path(run_dir).glob("*/status/*.json")):
        values = read_step(path.parents[1], path.stem)
        if values is not None and not path.name.startswith("."):
            found[path.parents[1].name, path.stem] = values
    return found


def read_status(run_dir: str | Path) -> pd.DataFrame:
    """The status of all steps of a run: one row a step (``slide_id`` empty) and one for each slide that failed in it.

    Columns of text: arm, step, slide_id, status, reason, seconds, key. Steps that only an earlier version's
    ``status.csv`` knows stand as it has them.
    """
    run_dir, rows = Path(run_dir), []
    for (arm, step), found in steps_of(run_dir).items():
        row = {"arm": arm, "step": step, "slide_id": "", "reason": found.get("reason", ""), "key": found.get("key", "")}
        seconds = found.get("seconds")
        rows.append(row | {"status": found.get("state", ""), "seconds": "" if seconds is None else f"{seconds:.1f}"})
        for slide in found.get("slides", []):
            rows.append(row | slide | {"status": "failed", "seconds": "", "key": ""})
    table = pd.DataFrame(rows, columns=STATUS_COLUMNS).astype(str)
    if (run_dir / "status.csv").is_file():
        earlier = pd.read_csv(run_dir / "status.csv", dtype=str, keep_default_na=False)
        known = set(zip(table["arm"], table["step"], strict=True))
        unknown = [(row.arm, row.step) not in known for row in earlier.itertuples()]
        table = pd.concat([earlier[unknown], table], ignore_index=True)
    return table


def describe(arm_dir: Path, path: Path) -> tuple[str, list]:
    """A product's name relative to the arm, and its size and SHA-256.

    Where it is looked at by content the hash stands second; else third, for those who take the file over.
    """
    name = path.relative_to(arm_dir).as_posix() if path.is_relative_to(arm_dir) else f"../{path.name}"
    if path.is_dir():
        return name, [sum(1 for p in path.rglob("*") if p.is_file()), "files"]
    if path.suffix == ".ipynb":  # JupyterLab writes it anew when somebody looks at it
        return name, [0, "exists"]
    size, digest = path.stat().st_size, sha256_of_file(path)
    return name, [size, digest] if name.split("/")[0] in _BY_CONTENT else [size, "", digest]


def fault_of_products(arm_dir: str | Path, found: Mapping) -> str:
    """What is wrong with the products of a step, as a sentence: one is gone, or another hand changed it; else empty."""
    arm_dir = Path(arm_dir)
    for name, (size, digest, *_) in found.get("products", {}).items():
        path = arm_dir / name
        if not path.exists():
            return f"{name} is gone"
        if digest == "exists":
            continue
        if digest == "files":
            if sum(1 for p in path.rglob("*") if p.is_file()) < size:
                return f"files of {name} are gone"
        elif path.stat().st_size != size or (digest and sha256_of_file(path) != digest):
            return f"{name} was changed by another hand"
    return ""


def clear(arm_dir: str | Path, step: str) -> None:
    """Remove what an earlier run of a step left, so that nothing of it stands beside what is made now.

    What the step did not write, or another hand changed since, is moved to ``set_aside`` and told. Networks, maps and
    tiles stay: what makes them looks whether they are what would be made.
    """
    arm_dir = Path(arm_dir)
    found = read_step(arm_dir, step)
    products = (found or {}).get("products", {})
    number = step.split("_")[0]
    prefix = f"{number}_" if number.isdigit() else ""
    under_name = [p for folder in ("tables", "figures") for p in (arm_dir / folder).glob(f"{prefix}*")]
    if not prefix:
        under_name = [p for p in under_name if p.relative_to(arm_dir).as_posix() in products]
    here = {path.relative_to(arm_dir).as_posix(): path for path in [arm_dir / name for name in products] + under_name}
    here |= {f"{folder}{step}.json": arm_dir / f"{folder}{step}.json" for folder in ("records/",)}
    for name, path in here.items():
        inside = Path(name).parts
        if not path.exists() or inside[0] == ".." or (inside[0] == "work" and inside[1] in _KEPT):
            continue
        # Of an archive that kept no list, all that bears the step's number is its own.
        own = found is None or not products or (name in products and not _changed(path, products[name]))
        if own or inside[0] == "figures":
            path.unlink(missing_ok=True)
        else:
            aside = arm_dir / SET_ASIDE / name
            aside.parent.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in aside.parent.glob(f"{aside.stem}*"))
            aside = aside.with_stem(f"{aside.stem}_{number + 1}") if number else aside
            path.replace(aside)
            log.warning(
                "%s of %s was not as %s had left it: it was moved to %s.",
                name, arm_dir.name, step, aside.relative_to(arm_dir).as_posix(),
            )  # fmt: skip


def _changed(path: Path, product: list) -> bool:
    size, digest, *_ = product
    if digest == "exists":
        return False
    return path.is_file() and (path.stat().st_size != size or bool(digest) and sha256_of_file(path) != digest)
