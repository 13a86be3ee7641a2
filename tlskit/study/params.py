"""Presets: flat YAML files of parameters, and the arms that their ``sweep`` makes.

What the parameters are, and which values they may have, is in `tlskit.study.declarations`.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path

import pandas as pd
import yaml

from tlskit.errors import ParameterError
from tlskit.units import magnification_name

__all__ = [
    "CLASSES",
    "SWEEP",
    "arms",
    "arms_table",
    "factors",
    "has_cascade",
    "has_controls",
    "override",
    "parse_value",
    "read_preset",
    "stated_arms",
]

#: The one key of a preset that is not a parameter of a notebook: what varies between the arms.
SWEEP = "sweep"

#: Parameters that may be lists themselves: in a list of arms their lists are values, not several arms.
LISTS = ("target_class", "ignore_class", "region_class", "split_ratios")

#: Parameters that hold the name of a class in QuPath, or a list of names.
CLASSES = ("target_class", "ignore_class", "region_class")


class _AsPapermill(yaml.SafeLoader):
    """YAML's safe loader as papermill uses it: a date is a text."""


_AsPapermill.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(_AsPapermill):
    """YAML's safe loader, which in addition refuses a key given twice (YAML keeps the last one silently)."""

    def construct_mapping(self, node, deep=False):
        seen = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ParameterError(
                    f"{self.name}, line {key_node.start_mark.line + 1}: the key {key!r} was already given in line "
                    f"{seen[key]}. Remove one of the two."
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as a text (it wants 1.0e-3); a learning rate is written like that by everybody. After `-p` it is a
# number for papermill too; in a file it is a text for papermill, and `read_preset` refuses it.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_preset(path: str | Path) -> dict:
    """Read a preset: a flat mapping of parameter names to plain values, and perhaps the key ``sweep``.

    Parameters
    ----------
    path
        A YAML file.

    Returns
    -------
    dict
        Name to value, in the order of the file.

    Raises
    ------
    ParameterError
        If the file is missing, is not YAML (a tab, say), gives a key twice, is not flat, or holds a number that
        papermill alone would take for a text.
    """
    path = Path(path)
    if not path.is_file():
        presets = ", ".join(sorted(p.as_posix() for p in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(f"There is no preset {path.as_posix()}. Presets in that folder: {presets}.")
    text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.splitlines(), start=1):
        if "\t" in line.split("#")[0]:
            raise ParameterError(f"{path.name}, line {number}: a tab. YAML is indented with spaces; replace the tab.")
    stream = io.StringIO(text)
    stream.name = path.name
    try:
        preset = _Loader(stream).get_single_data()
    except yaml.YAMLError as error:
        hint = ""
        mark = getattr(error, "problem_mark", None)
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        name, colon, value = line.partition(":")
        if colon and ":" in value and name.strip() in CLASSES:
            hint = f" A name with a colon stands in quotes: {name.strip()}: '{value.strip()}'."
        raise ParameterError(f"{path.name} is not valid YAML: {error}.{hint}") from error
    if not isinstance(preset, dict):
        raise ParameterError(f"{path.name} should hold lines of the form `name: value`; it holds {preset!r}.")
    for name, value in preset.items():
        if name == SWEEP:
            _check_sweep(path.name, value)
        elif isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value)):
            one = next((v for v in value if isinstance(v, dict) and len(v) == 1), None) if name in CLASSES else None
            if isinstance(value, list) and one is not None:
                class_name = ": ".join(str(part) for part in next(iter(one.items())))
                raise ParameterError(f"{path.name}: in {name}, a name with a colon stands in quotes: '{class_name}'.")
            raise ParameterError(f"{path.name}: {name} is nested. A preset is flat, so that papermill can read it too.")
    _check_papermill_agrees(path.name, preset, yaml.load(text, _AsPapermill))
    return preset


def _check_papermill_agrees(file_name: str, preset: dict, papermills: dict) -> None:
    """The same file means the same to ``papermill -f``."""
    for name, value in preset.items():
        if name != SWEEP and value != papermills[name]:
            raise ParameterError(
                f"{file_name}: in `{name}: {papermills[name]}` papermill reads a text, not a number. Write a point "
                "before the e (1.0e-3), or 0.001."
            )


def _check_sweep(file_name: str, sweep: object) -> None:
    if isinstance(sweep, dict) and all(isinstance(values, list) and values for values in sweep.values()):
        return
    if isinstance(sweep, list) and sweep and all(isinstance(given, dict) and given for given in sweep):
        return
    raise ParameterError(
        f"{file_name}: `sweep` should map parameters to lists, such as `magnification: [20, 10, 4, 1]`, of which every "
        "combination is made, or be a list of arms, such as `- {magnification: 20, tile_px: 1280}`; "
        f"it is {sweep!r}."
    )


def override(preset: dict, values: dict) -> dict:
    """A preset with other values for some parameters.

    A parameter that is swept keeps its place in `sweep`, with that one value: ``magnification=4`` leaves the arms that
    have it, or makes one arm of it where none has.
    """
    if SWEEP in values:
        raise ParameterError("`sweep` is written in the preset; on the command line give a swept parameter one value.")
    sweep = preset.get(SWEEP, {})
    if isinstance(sweep, dict):
        sweep = {name: [values[name]] if name in values else given for name, given in sweep.items()}
    else:
        sweep = stated_arms(sweep)
        stated = {name for given in sweep for name in given}
        kept = [g for g in sweep if all(g.get(n, preset.get(n)) == v for n, v in values.items() if n in stated)]
        replaced = [{name: values.get(name, value) for name, value in given.items()} for given in sweep]
        sweep = kept or [given for n, given in enumerate(replaced) if given not in replaced[:n]]
    return preset | {n: v for n, v in values.items() if n not in factors(preset)} | {SWEEP: sweep}


def parse_value(text: str) -> object:
    """A value as a preset would hold it (``4``, ``1e-3``, ``[a, b]``), from the command line.

    Raises
    ------
    ParameterError
        If it is no YAML.
    """
    stream = io.StringIO(text)
    stream.name = "the value"
    try:
        return _Loader(stream).get_single_data()
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ParameterError(f"{text!r} is no value as a preset would hold it: {problem}.") from error


def stated_arms(sweep: dict | list) -> list[dict]:
    """What `sweep` states of each arm."""
    if isinstance(sweep, dict):
        return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    made = []
    for given in sweep:
        several = {n: v if isinstance(v, list) and n not in LISTS else [v] for n, v in given.items()}
        made += [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]
    return made


def factors(preset: dict) -> list[str]:
    """Names of the parameters that `sweep` states for any arm, magnification first."""
    names = list(dict.fromkeys(name for stated in stated_arms(preset.get(SWEEP, {})) for name in stated))
    return sorted(names, key=lambda name: name != "magnification")


def arms(preset: dict) -> list[dict]:
    """The arms of a preset: one dictionary of parameters an arm, ``sweep`` itself left out.

    ``sweep`` is a mapping of parameters to lists, and every combination is an arm; or a list of mappings, each an arm
    (``- {magnification: 20, tile_px: 1280}``), in which a list makes an arm of each of its values. What it does not
    state for an arm is as elsewhere in the preset.

    Each arm carries ``arm``, the name of its folder: the magnification, followed by whatever else is stated for it
    (``20x``, ``4x_seed=1``). So an arm keeps its folder when others are added or left out.

    Raises
    ------
    ParameterError
        If two arms would be the same, or bear the same name.
    """
    fixed = {name: value for name, value in preset.items() if name != SWEEP}
    made, seen = [], {}
    for stated in stated_arms(preset.get(SWEEP, {})):
        arm = fixed | stated
        rest = [f"{name}={_short(value)}" for name, value in stated.items() if name != "magnification"]
        start = [magnification_name(arm["magnification"])] if "magnification" in arm else []
        arm |= {"arm": "_".join(start + rest) or "all"}
        same = json.dumps({name: arm.get(name) for name in factors(preset)}, sort_keys=True, default=str)
        if same in seen or arm["arm"] in (other["arm"] for other in made):
            raise ParameterError(
                f"`sweep` makes the arm {arm['arm']} twice ({seen.get(same, arm['arm'])}): take one of the two out."
            )
        seen[same] = arm["arm"]
        made.append(arm)
    return made


def has_controls(preset: dict) -> bool:
    """Whether two arms of one magnification differ in more than which training of an arm they are."""
    names = [name for name in factors(preset) if name not in ("magnification", "seed", "fold")]
    found: dict[str, set] = {}
    for arm in arms(preset):
        state = json.dumps([arm.get(name) for name in names], default=str)
        found.setdefault(str(arm.get("magnification")), set()).add(state)
    return any(len(states) > 1 for states in found.values())


def has_cascade(preset: dict) -> bool:
    """Whether two arms differ in magnification alone: the coarser one can be a screen before the finer one.

    A preset that varies causes (`has_controls`) asks which, not for a screen: of its many arms no cascade is made.
    """
    if has_controls(preset):
        return False
    names = [name for name in factors(preset) if name != "magnification"]
    found: dict[str, set] = {}
    for arm in arms(preset):
        state = json.dumps([arm.get(name) for name in names], default=str)
        found.setdefault(state, set()).add(str(arm.get("magnification")))
    return any(len(magnifications) > 1 for magnifications in found.values())


def arms_table(preset: dict, defaults: dict | None = None) -> pd.DataFrame:
    """The factors of each arm: columns ``arm``, ``magnification``, then every other parameter that `sweep` states.

    Parameters
    ----------
    preset
        As `read_preset` returns it.
    defaults
        Values of parameters that the preset is silent on (the notebooks' own).
    """
    names = list(dict.fromkeys(["magnification", *factors(preset)]))
    rows = [{"arm": arm["arm"]} | {n: arm.get(n, (defaults or {}).get(n)) for n in names} for arm in arms(preset)]
    for row in rows:
        row |= {n: json.dumps(v) for n, v in row.items() if isinstance(v, (list, bool))}
    return pd.DataFrame(rows, columns=["arm", *names])


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, (list, bool)) else str(value)
    return "".join(c if c.isalnum() or c in ".-+" else "-" for c in text)
