"""Keeping the status file of a step while its notebook runs: whoever runs it, from the first write to the record cell.

A step that a sweep runs, papermill by hand, or a person in JupyterLab leaves the same file, with the key of what was
truly run: its parameters as they stand in the notebook's memory, the keys that the steps before it left, the slides and
outlines as they lie there now, and, by hand, whether all cells were run as they stand in the notebook.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from tlskit.errors import RunError
from tlskit.files import Claims, portable, project_root, resolve, without_machine
from tlskit.study import declarations, keys, status
from tlskit.study.provenance import provenance

__all__ = ["ATTEMPT", "Ledger", "claims_of"]

log = logging.getLogger(__name__)

#: Environment variable by which a sweep tells the kernel that it runs the notebook, and names this run of the step.
ATTEMPT = "TLSKIT_ATTEMPT"

_claims: dict[Path, Claims] = {}


def claims_of(run_dir: str | Path) -> Claims:
    """This process's claims on the steps of a run, ``<arm>/<step>`` each."""
    folder = Path(run_dir).resolve() / ".claims"
    return _claims.setdefault(folder, Claims(folder))


class Ledger:
    """The status file of one step that is being run.

    Parameters
    ----------
    run_dir, arm, step
        Where.
    given
        Names and values of the notebook, ``globals()``; None where it is run by a script that does not say, whose key
        is then unknown.
    """

    def __init__(self, run_dir: Path, arm: str, step: str, given: Mapping | None = None, inputs: Mapping | None = None):
        self.run_dir, self.arm_dir, self.arm, self.step = run_dir, run_dir / arm, arm, step
        self.attempt = os.environ.get(ATTEMPT, "")
        self.by = "sweep" if self.attempt else "hand" if given is not None else "script"
        self._given, self._begun, self._ended, self._started = given, False, False, time.monotonic()
        self._declared = declarations.notebook_parameters(keys.notebook_path(step)) if given is not None else {}
        self.parameters = {name: given[name] for name in self._declared if name in given} if given else {}
        declarations.refuse_values(self.parameters, self._declared)
        self._opened_at = len(self._history())
        self.values: dict = {}
        if given is not None:
            self.values = {"ingredients": self._ingredients(inputs), "key": ""}
            self.values["key"] = keys.key_of(self.values["ingredients"])
            if "manifest" in self.parameters:
                self.values["manifest"] = portable(resolve(self.parameters["manifest"]), project_root(self.run_dir))

    def _ingredients(self, inputs: Mapping | None) -> dict:
        content = keys.cohort_content(self.parameters["manifest"]) if "manifest" in self.parameters else {}
        if inputs is None:
            inputs = {}
            for before in keys.reads(self.step, self.parameters):
                inputs[before] = self._key_before(before, content)
        return keys.ingredients(self.step, self.parameters, inputs, content)

    def _key_before(self, step: str, content: Mapping) -> str:
        """Key of a step that this one reads.

        Raises
        ------
        RunError
            If it failed or was not ended, or slides or outlines have changed since.
        """
        found = status.read_step(self.arm_dir, step)
        if found is None:
            return ""  # of an earlier version, or not run: what is to be read says so where it is missing
        if found.get("state") not in ("done", "partly"):
            word = {"running": "was not run to its end", "failed": "failed"}.get(found.get("state"), "is not done")
            raise RunError(
                f"{step} {word} in arm {self.arm} of run {self.run_dir.name}: run it first. What it may have left "
                "of an earlier run is not used."
            )
        then = found.get("ingredients", {}).get("cohort", {})
        changed = [
            slide_id
            for slide_id in content
            if slide_id in then
            and any(
                then[slide_id].get(part) != content[slide_id][part]
                and "missing" not in (then[slide_id].get(part) or "") + content[slide_id][part]
                for part in ("slide", "outlines")
            )
        ]
        if changed:
            listed = ", ".join(changed[:5]) + (" and more" if len(changed) > 5 else "")
            raise RunError(
                f"The slide or the outlines of {listed} changed since {step} was run in arm {self.arm} of run "
                f"{self.run_dir.name}: run it again first, or `tlskit sweep`, which does."
            )
        return found.get("key", "")

    def begin(self) -> None:
        """Before the first file is written: claim the step, remove what an earlier run of it left, say that it runs."""
        self._refuse_changed()
        if self._begun:
            return
        if self.by == "hand" and not self._claim():
            raise RunError(
                f"{self.step} of arm {self.arm} of run {self.run_dir.name} is being run by somebody else at this "
                "moment. Wait until it has ended, or give this notebook another `run_name`."
            )
        self._begun = True
        status.clear(self.arm_dir, self.step)
        self.values |= {
            "arm": self.arm, "step": self.step, "state": "running", "by": self.by, "products": {}, "slides": [],
            "attempt": self.attempt or secrets.token_hex(8), "provenance": provenance(),
        }  # fmt: skip
        self.values.setdefault("key", "")
        self._write()

    def _claim(self) -> bool:
        claims, piece = claims_of(self.run_dir), f"{self.arm}/{self.step}"
        return claims.holds(piece) or claims.take(piece)

    def wrote(self, path: Path) -> None:
        """Enter a file that the step has written."""
        self._enter(path)
        self._judge() if self._ended else self._write()

    def _enter(self, path: Path) -> None:
        name, product = status.describe(self.arm_dir, path)
        self.values.setdefault("products", {})[name] = product

    def failed(self, slide_id: str, reason: str) -> None:
        """Enter a slide that failed."""
        self.begin()
        row = {"slide_id": slide_id, "reason": without_machine(" ".join(reason.split()))}
        self.values["slides"] = [s for s in self.values["slides"] if s["slide_id"] != slide_id] + [row]
        self._write()

    def helped(self, slides: Mapping[str, Mapping]) -> None:
        """Enter slides that other workers made for this step: which process, and its seconds."""
        if slides:
            self.values["helped"] = dict(slides)
            self._write()

    def end(self) -> None:
        """After the record: enter what lies in ``work`` and ``geojson``, and say that the step is done."""
        for path in heavy_products(self.arm_dir, self.step):
            self._enter(path)
        self._ended = True
        self._judge()
        if self.by == "hand":
            claims_of(self.run_dir).release(f"{self.arm}/{self.step}")

    def _judge(self) -> None:
        """Say that the step is done; by hand, look whether it was run as it stands in the notebook."""
        missing, foreign = self._cells_by_hand() if self.by == "hand" else ([], [])
        if foreign:
            self.values["ingredients"]["cells"] = [hashlib.sha256(c.encode()).hexdigest()[:16] for c in foreign]
            self.values["reason"] = f"run by hand with cells of its own ({_short(foreign[0])})"
        if missing:
            self.values["ingredients"]["left_out"] = [_short(cell) for cell in missing]
            self.values["reason"] = f"run by hand without some cells ({_short(missing[0])})"
        if foreign or missing:
            self.values["key"] = keys.key_of(self.values["ingredients"])
        self.values |= {"state": "partly" if missing else "done", "provenance": provenance()}
        self.values.setdefault("seconds", round(time.monotonic() - self._started, 1))
        self._write()

    def _write(self) -> None:
        status.write_step(self.arm_dir, self.step, self.values)

    def _refuse_changed(self) -> None:
        """Values that were changed after the run was opened would stand under the key of others."""
        for name, value in self.parameters.items():
            now = self._given.get(name)
            if declarations.differ(now, value):
                raise RunError(
                    f"`{name}` was {value!r} when the run was opened, and is {now!r} now. Run the cell with "
                    "`study.open_run` again, and those after it, so that what is saved stands under its parameters."
                )

    def _history(self) -> list[str]:
        """Cells that this kernel has run so far; none outside of one."""
        found = (self._given or {}).get("In", [])
        return [cell for cell in found if isinstance(cell, str)] if isinstance(found, list) else []

    def _cells_by_hand(self) -> tuple[list[str], list[str]]:
        """Cells of the notebook, from the one that opens the run on, that were not run; and others that were."""
        history = [cell.strip() for cell in self._history()]
        if not history:
            return [], []
        cells = [cell.strip() for cell in keys.cells_that_run(self.step)]
        opening = next((n for n, cell in enumerate(cells) if "open_run(" in cell), 0)
        ran = history[max(0, self._opened_at - 1) :]
        known = {cell.strip() for cell in ("".join(c["source"]) for c in keys.code_cells(self.step))}
        missing = [cell for cell in cells[opening:] if cell not in ran]
        return missing, [cell for cell in ran if cell and cell not in known and not _only_looks(cell)]


class Rebuilding:
    """The status file of a comparison that a command makes again: what it writes is entered, and with which options."""

    def __init__(self, run_dir: Path, options: Mapping, inputs: Mapping[str, str]):
        self.arm_dir, self.options, self.inputs = run_dir / keys.COMPARE_ARM, dict(options), dict(inputs)
        found = status.read_step(self.arm_dir, keys.COMPARE)
        self.values = found or {
            "arm": keys.COMPARE_ARM, "step": keys.COMPARE, "key": "", "slides": [], "by": "command", "products": {},
        }  # fmt: skip

    def begin(self) -> None:
        """Nothing is removed: the notebook's own tables stay."""

    def wrote(self, path: Path) -> None:
        """Enter a file."""
        name, product = status.describe(self.arm_dir, path)
        self.values["products"][name] = product

    def failed(self, slide_id: str, reason: str) -> None:
        """No slide is opened by a comparison."""

    def end(self) -> None:
        """Say that the comparison was made again: under a key of its own where its options or inputs were others."""
        made = self.values.get("ingredients", {})
        then, before = made.get("parameters", {}), made.get("inputs", self.inputs)
        others = [f"with `{name}` {value!r}" for name, value in self.options.items() if then.get(name, value) != value]
        anew = [name for name in {**before, **self.inputs} if before.get(name) != self.inputs.get(name)]
        if anew:
            others.append(f"after {', '.join(anew)} changed")
            made["inputs"] = self.inputs
            log.warning(
                "Since the notebook of the comparison was run, %s changed: tables and report are made again, the "
                "executed notebook shows what was before. The next sweep runs it again.", ", ".join(anew),
            )  # fmt: skip
        if others:
            listed = ", ".join(others)
            self.values["reason"] = f"made again by `tlskit compare` {listed}"
            self.values["key"] = hashlib.sha256(f"{self.values['key']} {listed}".encode()).hexdigest()[:16]
        self.values |= {"state": "done", "attempt": secrets.token_hex(8), "provenance": provenance()}
        status.write_step(self.arm_dir, keys.COMPARE, self.values)


def heavy_products(arm_dir: Path, step: str) -> list[Path]:
    """What a step leaves in ``work`` and ``geojson`` by other ways than the run's own: networks, maps, outlines."""
    work = arm_dir / "work"
    found = {
        "01_tiling": [work / "tiles"],
        "02_patient_split": [arm_dir.parent / "split.csv"],
        "03_training": [work / "checkpoint.pt"],
        "cascade": [work / "screens.json", *sorted(work.glob("maps/*.tif"))],
        "05_wsi_evaluation": [
            work / "overlap.json", work / "threshold.json", *sorted(work.glob("maps/*.tif")),
            *sorted(arm_dir.glob("geojson/*.geojson")),
        ],
    }.get(step, [])  # fmt: skip
    return [path for path in found if path.exists()]


def _short(cell: str) -> str:
    first = cell.strip().splitlines()[0]
    return first if len(first) <= 60 else f"{first[:57]}..."


def _only_looks(cell: str) -> bool:
    """Whether a cell only shows something: a name, an attribute, an item, or the head of a table."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:
        return False
    looks = {"head", "tail", "describe", "info", "print", "len", "list", "sorted", "display", "type", "dir"}
    for statement in statements:
        if not isinstance(statement, ast.Expr):
            return False
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name not in looks:
                    return False
            elif isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield)):
                return False
    return True


def check_open(name: str, what: str) -> None:
    """Refuse a name that could leave the run's folder."""
    if not declarations.NAME.fullmatch(str(name)):
        raise RunError(f"`{what}` should be letters, digits, '.', '_', '-' and begin with a letter or digit: {name!r}.")
