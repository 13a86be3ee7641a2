"""What the notebooks declare of their parameters, and the check that refuses a mistyped preset before anything runs.

papermill injects whatever it is given and only warns about a name that no notebook declares, so a typo would
silently run the default. Here an unknown name is an error that offers the nearest known one.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tlskit.errors import ParameterError
from tlskit.networks import LOSSES
from tlskit.outlines import check_classes
from tlskit.study.beforehand import arm_faults
from tlskit.study.params import CLASSES, SWEEP, arms, factors, stated_arms
from tlskit.tiles import CONTEXT_OF, RATIOS

__all__ = ["NAME", "Parameter", "check", "differ", "notebook_parameters", "refuse_values"]

#: What all arms of a run share: its place, its cohort, and who is tested in it.
NOT_SWEPT = {
    "arm": "it is made of what is swept",
    "run_name": "all arms lie in one run; sweep twice, with `-p run_name=...`",
    "outputs_dir": "all arms lie in one run",
    "manifest": "all arms stand on the same cohort; make a run of each cohort",
    "split_seed": "all arms are tested on the same patients; make a run of each split",
    "split_ratios": "all arms are tested on the same patients; make a run of each split",
    "folds": "all arms stand on the same folds; sweep `fold`, and make a run of each number of folds",
}

#: What can name a folder of an archive on every system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")

#: Values that can be refused without knowing the data. ``(low, high)`` is inclusive.
CHOICES = {
    "resolution_by": ("mpp", "objective"),
    "edge_tiles": ("drop", "pad"),
    "tile_store": ("slide", "png"),
    "keep_tiles": ("target", "tissue"),
    "missing_target": ("error", "empty"),
    "precision": ("auto", "exact", "bf16"),
    "engine": ("auto", "torch", "openvino"),
    "normalisation": ("divide_255", "imagenet"),
    "context_ratio": RATIOS,
    "context_of": CONTEXT_OF,
    "loss": LOSSES,
    "compare_slides": ("same", "common"),
    "compare_arms": ("all", "ready"),
}
#: Numbers that are chosen by the study itself where they are ``auto``.
OR_AUTO = ("window_overlap",)
RANGES = {
    "magnification": (0.1, 100),
    "tile_px": (32, 8192),
    "overlap": (0, 0.9),
    "window_overlap": (0, 0.9),
    "overlap_slides": (0, 1_000_000),
    "threshold": (0, 1),
    "screen_recall_floor": (0.01, 1),
    "screen_slides": (0, 1_000_000),
    "min_tissue": (0, 1),
    "epochs": (1, 10_000),
    "batch_size": (1, 4096),
    "learning_rate": (1e-8, 10),
    "negatives_per_batch": (-1, 4095),
    "positive_pixels": (0, 1),
    "hard_negatives": (0, 1),
    "detail_mpp": (0, 100),
    "context_px": (32, 8192),
    "context_loss_weight": (0, 100),
    "folds": (0, 100),
    "fold": (0, 99),
    "steps_per_epoch": (0, 10_000_000),
    "workers": (0, 256),
    "timing_repeats": (1, 1000),
    "timing_slides": (0, 1_000_000),
    "tissue_share": (0.001, 1),
    "grid_mpp": (0.25, 100),
    "min_object_um2": (0, 1e9),
    "bootstrap_draws": (1, 10_000_000),
    "margin": (0, 1),
    "usable_score": (0, 1),
    "seed": (0, 2**32 - 1),
    "split_seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: its name, default and the help behind the ``#``."""

    name: str
    default: object
    help: str


def notebook_parameters(path: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged ``parameters``.

    Each is a line ``name = literal  # help``. The file is read as JSON and the values as literals: nothing of the
    notebook is run.
    """
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{Path(path).name} should have one cell tagged `parameters`; it has {len(cells)}.")
    source = "".join(cells[0]["source"])
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    declared = {}
    for statement in ast.parse(source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise ParameterError(f"{Path(path).name}: the parameters cell should hold only lines `name = value`.")
        name = statement.targets[0].id
        value = ast.literal_eval(statement.value)
        declared[name] = Parameter(name, value, comments.get(statement.end_lineno, ""))
    return declared


def check(preset: dict, notebooks: list[Path]) -> None:
    """Refuse a preset that names an unknown parameter, or gives one a value of the wrong type or out of range, or
    whose parameters do not fit together in some arm.

    Parameters
    ----------
    preset
        As `read_preset` returns it.
    notebooks
        The notebooks whose ``parameters`` cells together declare what there is.

    Raises
    ------
    ParameterError
        Listing every fault, with the nearest known name for an unknown one.
    """
    declared: dict[str, Parameter] = {}
    for path in notebooks:
        declared |= notebook_parameters(path)
    given = [(name, value) for name, value in preset.items() if name != SWEEP]
    given += [item for stated in stated_arms(preset.get(SWEEP, {})) for item in stated.items()]
    faults = [f"`{name}` cannot be swept: {why}" for name, why in NOT_SWEPT.items() if name in factors(preset)]
    if "run_name" in preset and not NAME.fullmatch(str(preset["run_name"])):
        faults.append(
            f"`run_name` names a folder: letters A-Z, digits, '.', '_', '-', beginning with a letter or digit, "
            f"not {preset['run_name']!r}"
        )
    for name, value in given:
        if name not in declared:
            near = difflib.get_close_matches(str(name), declared, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(sorted(declared))}."
            faults.append(f"no notebook has a parameter `{name}`; {hint}")
        else:
            faults += _value_faults(name, value, declared[name].default)
    try:
        check_classes(*(_names(preset, name) for name in CLASSES))
    except ParameterError as error:
        faults.append(str(error).rstrip("."))
    if not faults and "loss" in declared and "folds" in declared:
        defaults = {name: parameter.default for name, parameter in declared.items()}
        faults = [f"{arm['arm']}: {fault}" for arm in arms(preset) for fault in arm_faults(defaults | arm)]
    if faults:
        raise ParameterError("The preset was refused:\n" + "\n".join(f"  - {fault}" for fault in dict.fromkeys(faults)))


def refuse_values(values: Mapping, declared: Mapping[str, Parameter]) -> None:
    """Refuse values of another kind than a notebook declares, whoever gave them.

    Raises
    ------
    ParameterError
        Listing every fault.
    """
    faults = [fault for name, value in values.items() for fault in _value_faults(name, value, declared[name].default)]
    if faults:
        raise ParameterError("The notebook's parameters were refused:\n" + "\n".join(f"  - {f}" for f in faults))


def differ(one: object, other: object) -> bool:
    """Whether two values of a parameter are not the same; 4 and 4.0 are, 1 and True are not."""
    return isinstance(one, bool) != isinstance(other, bool) or one != other


def _names(preset: dict, parameter: str) -> list[str]:
    value = preset.get(parameter, [])
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str) and name]


def _value_faults(name: str, value: object, default: object) -> list[str]:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    allowed = {bool: (bool,), int: (int,), float: (int, float), str: (str,), list: (list,)}[type(default)]
    if name in OR_AUTO:
        if value == "auto":
            return []
        allowed, kinds[type(default)] = (int, float), "auto, or a number"
    # `magnification = 4` is a whole number in the notebook, yet 2.5 is a magnification as well.
    if name == "magnification":
        allowed = (int, float)
    if name in CLASSES:
        allowed = (str, list)
        if isinstance(value, dict):
            named = next(f"{key}: {part}" for key, part in value.items())
            return [f"`{name}` holds a colon, which YAML reads as a mapping; put the name in quotes: '{named}'"]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        return [f"`{name}` should be {kinds[type(default)]} (as in {default!r}), not {value!r}"]
    if name in CHOICES and value not in CHOICES[name]:
        return [f"`{name}` should be one of {', '.join(map(str, CHOICES[name]))}, not {value!r}"]
    if name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
        low, high = RANGES[name]
        return [f"`{name}` should lie between {low:g} and {high:g}, not {value!r}"]
    return []
