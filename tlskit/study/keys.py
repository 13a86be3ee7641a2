"""The key of a step: a hash of all that decides what it writes, and the sentence that says what has changed.

What decides is the step's parameters, the keys of the steps that it reads, the content of the slides and outlines, the
cells of its notebook and the code that these reach. What draws and files (`figures`, `study`) is left out for the
numbered steps: no later step reads a picture, so that a new colour in a chart trains no network again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from tlskit import cohort
from tlskit.errors import TlskitError
from tlskit.files import project_root, resolve, sha256_of_file
from tlskit.slides import content_id
from tlskit.sources import bare, code_state

__all__ = [
    "CASCADE", "COMPARE", "COMPARE_ARM", "MEETINGS", "READS", "STEPS", "cells_that_run", "code_cells", "cohort_content",
    "differences", "ingredients", "key_of", "notebook_path", "plain_value", "program", "reads",
]  # fmt: skip

#: Raised when what is written changes for all steps: everything that was made before is out of date.
FORMAT = 2

#: The numbered notebooks, run in this order in every arm.
STEPS = (
    "01_tiling",
    "02_patient_split",
    "03_training",
    "04_tile_evaluation",
    "05_wsi_evaluation",
    "06_wsi_inference_timing",
)

#: The notebook that brings the arms together, and its folder inside a run.
COMPARE, COMPARE_ARM = "compare_magnifications", "compare"

#: Notebooks in which arms meet, each run after all arms, and their folders inside a run.
MEETINGS = {COMPARE: COMPARE_ARM, "controls": "controls", "cascade": "cascade"}
#: The notebook of cascades, whose tables the comparison reads where a run has it: its folder and name.
CASCADE = ("cascade", "cascade")

#: Which steps of its arm a step reads, directly; a step that is not named here reads all numbered ones before it.
READS = {
    "01_tiling": (),
    "02_patient_split": ("01_tiling",),
    "03_training": ("01_tiling", "02_patient_split"),
    "04_tile_evaluation": ("01_tiling", "02_patient_split", "03_training"),
    "05_wsi_evaluation": ("01_tiling", "02_patient_split", "03_training"),
    "06_wsi_inference_timing": ("02_patient_split", "03_training"),
}

#: Which step chose the value of a parameter that is ``auto``: it is read, too.
CHOSEN_BY = {("06_wsi_inference_timing", "window_overlap"): "05_wsi_evaluation"}

#: The numbered step that reads the outlines of a second reader: to no other one do they matter.
SECOND_READER = "05_wsi_evaluation"

#: Parameters that say where, and on how many threads, and change no result.
PLACES = ("run_name", "outputs_dir", "manifest", "arm", "workers")

#: Parameters that may name a file: it counts by its content.
FILES = ("encoder_weights",)

#: What files and draws, and decides no number of a numbered step.
PLUMBING = ("errors", "files", "sources", "study", "figures", "explore")


def reads(step: str, parameters: Mapping) -> list[str]:
    """The numbered steps of its arm that a step reads, directly, with these parameters."""
    found = READS.get(step, [before for before in STEPS if before < step])
    chosen = [by for (of, name), by in CHOSEN_BY.items() if of == step and parameters.get(name) == "auto"]
    return [before for before in (*found, *chosen) if before in STEPS]


def notebook_path(step: str) -> Path:
    """The notebook of a step, in the project's ``notebooks``."""
    return project_root() / "notebooks" / f"{step}.ipynb"


def code_cells(step: str) -> list[dict]:
    """Code cells of a step's notebook, as nbformat has them."""
    cells = json.loads(notebook_path(step).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def cohort_content(manifest: str | Path) -> dict[str, dict]:
    """Who stands in a manifest, by content: ``{slide_id: {"slide": ..., "outlines": ..., "row": ...}}`` in its order.

    With ``"second"`` where there are outlines of a second reader. Folders and times of the files have no part in it. A
    file that cannot be read is ``"missing"``.
    """
    paths = ("slide_path", "annotation_path", "annotation_path_2")
    found = {}
    for values in cohort.read_manifest(manifest).to_dict("records"):
        others = {name: str(value) for name, value in values.items() if name not in paths}
        if not others.get("site"):
            others.pop("site", None)  # as the manifests of before, which did not know the column
        found[str(values["slide_id"])] = {
            "slide": _slide(values["slide_path"]),
            "outlines": _outlines(values["annotation_path"]),
            "row": _hash(json.dumps(others, sort_keys=True)),
        }
        if second := values.get("annotation_path_2"):
            found[str(values["slide_id"])]["second"] = _outlines(second)
    return found


def _slide(path: str) -> str:
    try:
        return content_id(path)
    except (TlskitError, OSError):
        return "missing"


def _outlines(path: str | None) -> str:
    if not isinstance(path, str) or not path:
        return "none"
    try:
        return sha256_of_file(path)[:16] + Path(path).suffix.lower()
    except OSError:
        return "missing"


def plain_value(value: object) -> object:
    """A parameter as it counts: 4 and 4.0 are the same, a tuple is a list."""
    if isinstance(value, (list, tuple)):
        return [plain_value(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def program(step: str) -> dict:
    """What a step does: its notebook's cells and the code that they reach, each by its hash."""
    sources = cells_that_run(step)
    numbered = step not in MEETINGS
    return {
        "notebook": _hash(*map(bare, sources)),
        "code": code_state("\n".join(sources), without=PLUMBING if numbered else ("errors", "files", "sources")),
    }


def ingredients(
    step: str,
    parameters: Mapping,
    inputs: Mapping[str, str],
    content: Mapping[str, dict],
    does: Mapping | None = None,
) -> dict:
    """All that decides what a step writes; `key_of` makes the key of it.

    Parameters
    ----------
    step
        Name of the notebook.
    parameters
        All that it declares.
    inputs
        Keys of the steps that it reads.
    content
        Of `cohort_content`.
    does
        Of `program`, where it was read before: a plan of many arms reads the code of a step once.
    """
    counted = {name: plain_value(value) for name, value in sorted(parameters.items()) if name not in PLACES}
    for name in FILES:
        if isinstance(counted.get(name), str) and resolve(counted[name]).is_file():
            counted[name] = f"{Path(counted[name]).name} {sha256_of_file(resolve(counted[name]))[:16]}"
    return {
        "format": FORMAT,
        "step": step,
        "parameters": counted,
        "inputs": dict(sorted(inputs.items())),
        "cohort": {
            slide_id: {name: part for name, part in parts.items() if name != "second" or step == SECOND_READER}
            for slide_id, parts in content.items()
        },
        **(program(step) if does is None else does),
    }


def cells_that_run(step: str) -> list[str]:
    """Sources of the cells that a sweep runs, but for the values of the parameters."""
    passed_over = {"parameters", "skip-execution"}
    cells = [c for c in code_cells(step) if not passed_over & set(c.get("metadata", {}).get("tags", []))]
    return ["".join(cell["source"]) for cell in cells]


def key_of(found: Mapping) -> str:
    """The key that `ingredients` make; 16 hexadecimal digits."""
    order = list(found["cohort"])  # the tables are in the order of the manifest
    return _hash(json.dumps(found, sort_keys=True, default=str), *order)


def differences(then: Mapping, now: Mapping) -> list[str]:
    """What differs between the ingredients of a step that was run and those of the step to be run, as sentences."""
    said = []
    for name in sorted({*then.get("parameters", {}), *now["parameters"]}):
        old, new = then.get("parameters", {}).get(name, "none"), now["parameters"].get(name, "none")
        if old != new:
            said.append(f"`{name}` was {_said(old)}, is {_said(new)}")
    said += _cohort_differences(then.get("cohort", {}), now["cohort"])
    for name in sorted({*then.get("inputs", {}), *now["inputs"]}):
        if then.get("inputs", {}).get(name) != now["inputs"].get(name):
            said.append(f"{name} before it is another one")
    if then.get("notebook") != now["notebook"]:
        said.append("the notebook changed")
    old, new = then.get("code", {}), now["code"]
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        said.append(f"the code of {listed} changed")
    if then.get("format") != now["format"]:
        said.append("the archive's format changed")
    return said


def _cohort_differences(then: Mapping, now: Mapping) -> list[str]:
    words = {"slide": "the slide file of", "outlines": "outlines of", "row": "the manifest's row of",
             "second": "the second reader's outlines of"}  # fmt: skip
    groups: dict[str, list[str]] = {}
    for slide_id in {**then, **now}:
        old, new = then.get(slide_id), now.get(slide_id)
        if old is None or new is None:
            groups.setdefault("new in the manifest:" if old is None else "no longer in the manifest:", []).append(
                slide_id
            )
            continue
        for part, word in words.items():
            if old.get(part) != new.get(part):
                lost = "missing" in (new.get(part) or "")
                groups.setdefault(f"{word} {{}} {'cannot be read' if lost else 'changed'}", []).append(slide_id)
    said = []
    for text, slides in groups.items():
        listed = ", ".join(slides[:3]) + (f" and {len(slides) - 3} more" if len(slides) > 3 else "")
        said.append(text.format(listed) if "{}" in text else f"{text} {listed}")
    if not said and list(then) != list(now):
        said.append("the order of the manifest changed")
    return said


def _said(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
