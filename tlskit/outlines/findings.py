"""What a reader of a file of outlines should know: what was repaired, what is not used, why there is no target."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tlskit.outlines.class_names import (
    derived_from,
    is_prediction,
    listed,
    plain,
    says_the_target,
    wanted_names,
)
from tlskit.outlines.outline import UNCLASSIFIED, Annotations
from tlskit.units import counted

__all__ = ["Told", "also_holds", "describe", "why_no_target"]


class Told(NamedTuple):
    """One thing to know: ``error``, ``warning`` or ``note``, what it is about, a sentence, and what to do."""

    severity: str
    problem: str
    what: str
    remedy: str = ""


def describe(found: Annotations) -> list[str]:
    """What was met in a file besides plain areas, a sentence each; nothing if all of it was plain areas."""
    report, said = found.report, []
    if report["skipped"]:
        said.append("Not used: " + ", ".join(f"{n} {kind}" for kind, n in report["skipped"].items()) + ".")
    if report["not_areas"]:
        said.append("Not areas: " + ", ".join(f"{n} {kind}" for kind, n in report["not_areas"].items()) + ".")
    if report["without_area"]:
        said.append(f"{report['without_area']} objects are empty or collapsed to a line.")
    if report["other_types"]:
        words = ", ".join(f"{word!r} ({n})" for word, n in report["other_types"].items())
        said.append(f"Read as annotations, as QuPath does, though of another type: {words}.")
    if report["off_plane"]:
        said.append(f"{report['off_plane']} outlines lie on another z or t plane than the first; they are used.")
    for repair in report["repaired"]:
        before, after = repair["area_before_px0"], repair["area_after_px0"]
        change = f"{(after - before) / before:+.2%}" if before else f"+{after:.0f} px"
        change = "unchanged" if change in ("-0.00%", "+0.00%") else change
        dropped = ""
        if repair["slivers"]:
            pieces = counted(repair["slivers"], "sliver")
            dropped = f"; {pieces} of {repair['slivers_px0']:.3g} px2 in all left out"
        said.append(
            f"Object {repair['number']} ({repair['class_name']}) was repaired: {repair['reason']}; "
            f"area {change}{dropped}."
        )
    if report["negatives"]:
        said.append(f"{report['negatives']} negative areas were cut out.")
    return said + report["notes"]


def also_holds(
    found: Annotations,
    target_class: str | Sequence[str],
    ignore_class: str | Sequence[str] | None = None,
    region_class: str | Sequence[str] | None = None,
) -> list[Told]:
    """What a file holds that is neither target nor ignored nor a region: it becomes background, and is told."""
    used = wanted_names(target_class) | wanted_names(ignore_class) | wanted_names(region_class)
    rest = {name: n for name, n in found.report["classes"].items() if name not in used}
    told, background = [], dict(rest)
    wanted = " or ".join(map(repr, listed(target_class)))

    def warn(names: Mapping[str, int], what: str, remedy: str) -> None:
        if names:
            told.append(Told("warning", "class", f"It also holds {_with_numbers(names)}{what}", remedy))
        for name in names:
            background.pop(name, None)

    warn(
        {name: n for name, n in rest.items() if is_prediction(name)},
        ": predictions, background here.",
        "In QuPath, give those that are right the target's class and delete the others.",
    )
    for kind, what, remedy in (
        ("derived", f", derived from {wanted} and not used: background.",
         "List them in `target_class` as well, if they are meant."),
        ("spelling", ", the same name but for its spelling, and not used: background.",
         "Give them the same class in QuPath, or list both in `target_class`."),
        ("named", f", which names {wanted} and is not used: background.",
         "List it in `target_class`, or in `ignore_class` if it is doubtful."),
    ):  # fmt: skip
        warn({name: n for name, n in background.items() if says_the_target(name, target_class) == kind}, what, remedy)
    for parents, parameter in ((listed(ignore_class), "ignore_class"), (listed(region_class), "region_class")):
        names = {name: n for name, n in background.items() if derived_from(name, parents)}
        warn(
            names, f", derived from {' or '.join(map(repr, parents))} and not used as such: background.",
            f"List them in `{parameter}` as well.",
        )  # fmt: skip
    named = _named_as(found, target_class)
    if named:
        n = sum(named.values())
        background[UNCLASSIFIED] = background.get(UNCLASSIFIED, n) - n
        told.append(
            Told(
                "warning",
                "class",
                f"{counted(n, 'object')} without a class {'is' if n == 1 else 'are'} named "
                f"{' or '.join(map(repr, named))}, and not used: background.",
                "In QuPath, give them the class (Set class), not only the name.",
            )  # fmt: skip
        )
    for what in ("not_areas", "skipped"):
        lost = {key: n for key, n in found.report[what].items() if key.partition(": ")[2] in wanted_names(target_class)}
        if lost:
            kinds = ", ".join(f"{n} {key}" for key, n in lost.items())
            remedy = "Draw them as polygons." if what == "not_areas" else "Make them annotations in QuPath."
            told.append(Told("warning", "class", f"Of the target's class, but not used: {kinds}.", remedy))
    empty = sum(n for name, n in found.report["empty_of"].items() if name in wanted_names(target_class))
    if empty:
        what = f"Of the target's class, but empty or collapsed to a line: {counted(empty, 'object')}."
        told.append(Told("warning", "class", what, "Draw or delete them in QuPath."))
    if found.report["elsewhere"]:
        what = f"{counted(found.report['elsewhere'], 'area')} in the file, but not where its outlines stand: not used."
        told.append(Told("warning", "class", what, "Export it again from the program in which it was drawn."))
    background = {name: n for name, n in background.items() if n > 0}
    if background:
        told.append(Told("note", "class", f"It also holds {_with_numbers(background)}: background."))
    return told


def why_no_target(found: Annotations, target_class: str | Sequence[str]) -> tuple[str, bool]:
    """Why a file with objects holds no area of the target, and whether it holds the target in another form.

    The text follows the file's name.
    """
    wanted, names = wanted_names(target_class), listed(target_class)
    report = found.report
    classes = Counter(outline.class_name or UNCLASSIFIED for outline in found.outlines)
    skipped, not_areas = report["skipped"], report["not_areas"]
    text = f"({report['format']}) holds no annotation of the class {' or '.join(map(repr, names))}"
    if classes:
        text += f", but {_with_numbers(classes)}"
    text += "."
    forms = {plain(w) for w in names} - {""}
    drawn_otherwise = [
        key for key in not_areas if (name := key.partition(": ")[2]) in wanted or (name and plain(name) in forms)
    ]
    if drawn_otherwise:
        return f"{text} It has {drawn_otherwise[0]}, which has no area: draw it as a polygon of the class.", True
    elsewhere = [key for key in skipped if key.partition(": ")[2] in wanted]
    if elsewhere:
        kind = elsewhere[0].partition(": ")[0]
        return f"{text} It has {skipped[elsewhere[0]]} of the type {kind}: make them annotations in QuPath.", True
    predictions = {name: n for name, n in classes.items() if is_prediction(name)}
    if predictions:
        return (
            f"{text} These are predictions that nobody has looked through: in QuPath, give those that are right the "
            "target's class and delete the others."
        ), True
    lower = {name.lower(): name for name in classes}
    near = [lower[n] for w in names for n in difflib.get_close_matches(w.lower(), lower, n=1, cutoff=0.6)]
    same = [name for name in classes if plain(name) in forms]
    if near or same:
        return f"{text} Is it {(same or near)[0]!r}? Set `target_class` to the exact name.", bool(same)
    by_name = list(_named_as(found, target_class))
    if by_name:
        return f"{text} {by_name[0]!r} is the name of objects without a class: in QuPath, give them the class.", True
    if not classes:
        held = [f"{n} {kind}" for counts in (skipped, not_areas) for kind, n in counts.items()]
        held += [f"{report['without_area']} without an area"] * bool(report["without_area"])
        remedy = "Draw it as a polygon, with the class" if not_areas else "Export the annotations"
        text += f" It has only {', '.join(held) or 'what is cut out'}. {remedy}, or set `missing_target: empty`."
        return text, False
    return f"{text} Set `target_class` to one of these, or `missing_target: empty` if a slide may be without.", False


def _named_as(found: Annotations, target_class: str | Sequence[str]) -> dict[str, int]:
    """Names of unclassified objects that are the target's but for spelling."""
    forms = {plain(name) for name in listed(target_class)} - {""}
    return {name: n for name, n in found.report["named_but_unclassified"].items() if plain(name) in forms}


def _with_numbers(names: Mapping[str, int]) -> str:
    return ", ".join(f"{name!r} ({n})" for name, n in names.items())
