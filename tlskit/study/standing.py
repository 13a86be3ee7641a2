"""What stands in a run, arm by arm: what is ready to be compared, and what is missing, failed or out of date.

Nothing but the archive is looked at: an archive on another disk, without slides and code, says the same.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml

from tlskit.errors import ComparisonError, ParameterError
from tlskit.files import write_text
from tlskit.study import declarations, keys, params, status

__all__ = ["LEFT_OUT", "arm_names", "choose_arms", "keys_of_arms", "read_preset_of", "standing"]

log = logging.getLogger(__name__)

#: Which arms a comparison leaves out, and why; beside its tables.
LEFT_OUT = "left_out.csv"

#: Folders of a run that are no arms.
NO_ARMS = (*keys.MEETINGS.values(), "explore")


def read_preset_of(run_dir: str | Path) -> dict:
    """``run.yaml`` of a run; empty where there is none, or it is no YAML (a run can be looked at without it)."""
    path = Path(run_dir) / "run.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning(
            "run.yaml of %s cannot be read and is passed over: %s", path.parent.name, " ".join(str(error).split())
        )
        return {}
    return found if isinstance(found, dict) else {}


def arm_names(run_dir: str | Path) -> list[str]:
    """The arms of a run: of ``arms.csv``, else those that ``run.yaml`` makes, else the folders that hold tables."""
    run_dir = Path(run_dir)
    if (run_dir / "arms.csv").is_file():
        text = (run_dir / "arms.csv").read_text(encoding="utf-8")
        return [row["arm"] for row in csv.DictReader(io.StringIO(text))]
    preset = read_preset_of(run_dir)
    if preset.get(params.SWEEP):
        try:
            return [arm["arm"] for arm in params.arms(preset)]
        except (ParameterError, TypeError, AttributeError, ValueError):
            pass
    folders = sorted(path for path in run_dir.iterdir() if path.is_dir()) if run_dir.is_dir() else []
    return [path.name for path in folders if (path / "tables").is_dir() and path.name not in NO_ARMS]


def standing(run_dir: str | Path) -> pd.DataFrame:
    """How each arm of a run stands.

    Returns
    -------
    DataFrame
        One row an arm: ``arm``; ``state``: ``ready``, ``unknown`` (made by an earlier version or by a script: under
        which key is not known), ``missing``, ``failed`` or ``stale``; ``why``, a sentence, empty where it is ready.
    """
    run_dir, rows = Path(run_dir), []
    names, found = arm_names(run_dir), status.steps_of(run_dir)
    expected = _expected(run_dir)
    wanted = [step for step in keys.STEPS if any((arm, step) in found for arm in names)]
    earlier = status.read_status(run_dir)
    code: dict[tuple[str, str], str] = {}
    for arm in names:
        steps = {step: found[arm, step] for step in keys.STEPS if (arm, step) in found}
        state, why = _of_arm(run_dir / arm, arm, steps, wanted, expected.get(arm, {}), earlier)
        for step, values in steps.items() if state == "ready" else ():
            made = values.get("ingredients", {})
            for what, text in (("code", "other code"), ("cohort", "other slides, outlines or patients")):
                first = code.setdefault((step, what), (arm, made.get(what)))
                if first[1] != made.get(what) and state == "ready":
                    state, why = "stale", f"{step} was run with {text} than that of {first[0]}"
        rows.append({"arm": arm, "state": state, "why": why})
    return pd.DataFrame(rows, columns=["arm", "state", "why"])


def _of_arm(arm_dir: Path, arm: str, steps: Mapping, wanted: list, expected: Mapping, earlier) -> tuple[str, str]:
    if not (arm_dir / "tables").is_dir() or not any((arm_dir / "tables").iterdir()):
        return "missing", "it has no tables" if arm_dir.is_dir() else "it has not been run"
    if not steps:
        failed = earlier[(earlier["arm"] == arm) & (earlier["slide_id"] == "") & (earlier["status"] == "failed")]
        if len(failed):
            return "failed", f"{failed['step'].iloc[0]} failed: {failed['reason'].iloc[0]}"
        return "unknown", "made by an earlier version or by a script, under which parameters is not known"
    for step in wanted:
        values = steps.get(step)
        if values is None:
            return "missing", f"{step} has not been run"
        state = values.get("state")
        if state == "failed":
            return "failed", f"{step} failed: {values.get('reason', '')}"
        if state != "done":
            return "stale", f"{step} {'was not run to its end' if state == 'running' else values.get('reason', state)}"
        if not values.get("key"):
            return "unknown", f"{step} was run by a script, under which parameters is not known"
        made = values["ingredients"]
        for before, key in made.get("inputs", {}).items():
            if before in steps and steps[before].get("key") != key:
                return "stale", f"{step} was made of another {before} than is there now"
        for name, value in made.get("parameters", {}).items():
            wanted_value = keys.plain_value(expected[name]) if name in expected else value
            if name not in keys.FILES and declarations.differ(wanted_value, value):
                return "stale", f"{step} was run with `{name}` {value!r}; the run's preset has {wanted_value!r}"
        products = {n: p for n, p in values.get("products", {}).items() if n.split("/")[0] in ("tables", "records")}
        if fault := status.fault_of_products(arm_dir, {"products": products}):
            return "stale", fault
    return "ready", ""


def _expected(run_dir: Path) -> dict[str, dict]:
    preset = read_preset_of(run_dir)
    try:
        return {arm["arm"]: arm for arm in params.arms(preset)} if preset.get(params.SWEEP) else {}
    except (ParameterError, TypeError, AttributeError, ValueError):
        return {}


def choose_arms(run_dir: str | Path, arms: str = "all") -> list[str]:
    """Decide which arms are compared, and write down which are not.

    Parameters
    ----------
    run_dir
        Folder of the run.
    arms
        ``all``: refuse where an arm is missing, failed or out of date. ``ready``: leave it out; ``left_out.csv`` in
        ``compare`` names it, with the reason.

    Raises
    ------
    ComparisonError
        Naming the arms that cannot be compared, each with its reason.
    """
    if arms not in ("all", "ready"):
        raise ParameterError(f"`compare_arms` should be all or ready, not {arms!r}.")
    run_dir = Path(run_dir)
    table = standing(run_dir)
    bad = table[~table["state"].isin(["ready", "unknown"])]
    kept = table[table["state"].isin(["ready", "unknown"])]
    if len(bad) and (arms == "all" or kept.empty):
        lines = [f"  - {row.arm} is {_WORDS[row.state]}: {row.why}" for row in bad.itertuples()]
        raise ComparisonError(
            f"The arms of the run {run_dir.name} cannot be compared as they stand:\n" + "\n".join(lines) + "\n"
            "Run the sweep again (`tlskit plan` says what it will do), or leave them out: `compare_arms: ready` in the "
            "preset, `tlskit compare --arms ready`."
        )
    path = run_dir / keys.COMPARE_ARM / LEFT_OUT
    if len(bad):
        write_text(path, bad.to_csv(index=False, lineterminator="\n"))
    else:
        path.unlink(missing_ok=True)
    return list(kept["arm"])


_WORDS = {"missing": "missing", "failed": "failed", "stale": "out of date"}


def keys_of_arms(run_dir: str | Path, arms: list[str], step: str = "") -> dict[str, str]:
    """Keys of all steps of some arms, as a comparison of them counts them: ``{"4x/01_tiling": ...}``; of the cascades,
    too, where `step` is the comparison and the run's preset asks for them."""
    found, preset = status.steps_of(run_dir), read_preset_of(run_dir)
    wanted = [name for name in found if name[0] in arms and name[1] in keys.STEPS]
    if step == keys.COMPARE and keys.CASCADE in found and preset.get(params.SWEEP) and params.has_cascade(preset):
        wanted.append(keys.CASCADE)
    return {"/".join(name): found[name].get("key", "") for name in wanted}
