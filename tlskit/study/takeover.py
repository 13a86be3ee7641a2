"""A step that an equal arm has made already is taken over, not run again.

Arms are equal in a step where its key is: all that decides what it writes is the same, so arms that differ in their
loss alone tile once, and those that differ in the overlap of windows alone train once. What was made stands in each of
them, under a status and a notebook of its own that say where it came from. Each file is compared with what the other
arm's status says of it after it was placed. Maps and stored tiles, which are many and heavy, are hard links where the
disk knows any: the kit replaces files and changes none in place, so no arm can spoil another's. The rest is copied.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tlskit.errors import TlskitError
from tlskit.files import disk_full, is_disk_full, sha256_of_file, temporary_beside, without_machine, write_text, writing
from tlskit.study import status

__all__ = ["NOTE_ID", "take_over"]

#: How the names of products begin that are linked.
LINKED = ("work/maps/", "work/tiles/")

#: Files beside a step's products that are taken along as they are: notes that other machines may add to.
COMPANIONS = {"03_training": ("work/engine.json",)}

#: What a run of the step that was cut off would have gone on with.
LEFTOVERS = {"03_training": ("work/*-training.ckpt",)}

#: Id of the first cell of a notebook that was taken over.
NOTE_ID = "taken-over"


class _Changed(TlskitError):
    """What was to be taken over is not what its status says."""


def take_over(run_dir: Path, source: str, arm: str, step: str, blank: Mapping) -> str:
    """Place in `arm` what `source` made in a step, under a status of its own.

    Only who holds the step's claim may. A process that is killed in it leaves the step "not run to its end".

    Parameters
    ----------
    run_dir
        Folder of the run.
    source, arm, step
        From where, to where, and what. The step of `source` is done, under the same key.
    blank
        The status of the step while it is made.

    Returns
    -------
    str
        Why it could not be taken over; empty where it was.
    """
    made, arm_dir, source_dir = status.read_step(run_dir / source, step), run_dir / arm, run_dir / source
    if made is None or made.get("state") != "done" or made.get("key") != blank["key"]:
        return "it is being made again"
    # What others took from this arm, and it lost since, is its own again.
    origin = made.get("taken_from", source)
    said = {} if origin == arm else {"taken_from": origin}
    status.clear(arm_dir, step)
    (arm_dir / f"{step}.failed.ipynb").unlink(missing_ok=True)
    status.write_step(arm_dir, step, blank)
    products: dict[str, list] = {}
    try:
        for name, known in made["products"].items():
            place, path = source_dir / name, arm_dir / name
            if name.startswith("../"):  # of the whole run
                products[name] = known
                continue
            if name == f"{step}.ipynb":
                _write_notebook(place, path, origin, arm, step)
            elif name == f"records/{step}.json":
                _check(place, known)
                record = json.loads(place.read_text(encoding="utf-8"))
                record = {n: value for n, value in record.items() if n != "taken_from"} | {"arm": arm, **said}
                write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
            else:
                _place(place, path, known, linked=f"{name}/".startswith(LINKED))
            products[name] = status.describe(arm_dir, path)[1]
            status.write_step(arm_dir, step, {**blank, "products": products})
        for name in COMPANIONS.get(step, ()):
            if (source_dir / name).is_file():
                write_text(arm_dir / name, (source_dir / name).read_text(encoding="utf-8"))
    except (_Changed, OSError, ValueError) as error:
        if is_disk_full(error):
            raise disk_full(arm_dir / step) from error
        return without_machine(str(error))
    for pattern in LEFTOVERS.get(step, ()):
        for path in arm_dir.glob(pattern):
            path.unlink(missing_ok=True)
    kept = {name: made[name] for name in ("slides", "provenance", "manifest") if name in made}
    status.write_step(arm_dir, step, {**blank, **kept, **said, "state": "done", "products": products})
    return ""


def _place(source: Path, path: Path, known: list, *, linked: bool) -> None:
    """Put a file, or a folder of files, at `path`, whole or not at all, and only if it is what is known of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        temporary = temporary_beside(path)
        try:
            shutil.copytree(source, temporary, copy_function=_link, ignore=shutil.ignore_patterns(".tmp-*"))
            if sum(1 for one in temporary.rglob("*") if one.is_file()) < known[0]:
                raise _Changed(f"files of {source.name} are gone")
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return
    with writing(path) as temporary:
        (_link if linked else shutil.copyfile)(source, temporary)
        _check(temporary, known, source.name)


def _link(source: str | Path, path: str | Path) -> None:
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError as error:  # a disk that knows no links, or allows none
        if is_disk_full(error):
            raise
        shutil.copyfile(source, path)


def _check(path: Path, known: list, name: str = "") -> None:
    size, *digests = known
    if path.stat().st_size != size or any(digest and sha256_of_file(path) != digest for digest in set(digests)):
        raise _Changed(f"{name or path.name} is not what its status says")


def _write_notebook(source: Path, path: Path, origin: str, arm: str, step: str) -> None:
    """The executed copy of the other arm, which says at its top whose it is."""
    said = [
        f"> **Taken over from arm {origin}.** {step} was not run in arm {arm}: all that decides its result is the\n",
        f"> same in both, so that what {origin} made stands here, too. Below is its notebook, and figures bear its\n",
        "> name.",
    ]
    notebook = json.loads(source.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell.get("id") != NOTE_ID]
    note = {"cell_type": "markdown", "id": NOTE_ID, "metadata": {}, "source": said}
    notebook["cells"] = cells if origin == arm else [note, *cells]
    write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
