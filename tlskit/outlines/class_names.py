"""Names of classes: as QuPath writes them down, what it can hold, which of them mean the same, which are predictions.

QuPath derives a class from another (``TLS: mature`` from ``TLS``) and names it by all its ancestors, joined by ": ".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from tlskit.errors import ParameterError

__all__ = [
    "PREDICTED",
    "check_class_name",
    "derived_from",
    "is_prediction",
    "listed",
    "plain",
    "prediction_class",
    "says_the_target",
    "tidy",
    "wanted_names",
]

#: Every class of predicted outlines begins with this word, and no class of the truth may.
PREDICTED = "predicted "


def tidy(name: str) -> str:
    """A class's name as QuPath shows it: parts between colons without blanks around them, joined by ": ".

    A name that QuPath could not hold (``a::b``) stays as it is.
    """
    parts = [part.strip() for part in name.split(":")]
    return ": ".join(parts) if all(parts) else name.strip()


def check_class_name(name: str) -> str:
    """The name, if QuPath can hold it: not blank, no line end, nothing empty between or beside colons.

    QuPath 0.4 and later refuse a whole file for one such name.

    Raises
    ------
    ParameterError
    """
    problem = ""
    if not isinstance(name, str) or not name.strip():
        problem = "is blank"
    elif re.search(r"[\r\n]", name):
        problem = "holds a line end"
    elif not all(part.strip() for part in name.split(":")):
        problem = "has nothing before, after or between its colons"
    if problem:
        raise ParameterError(
            f"{name!r} cannot be a class in QuPath: it {problem}, and QuPath would refuse the whole file. Name the "
            "class by letters, such as 'TLS' or 'TLS: mature'."
        )
    return name


def listed(names: str | Sequence[str] | None) -> list[str]:
    """One name, several or none, as a list."""
    return [names] if isinstance(names, str) and names else list(names or ())


def wanted_names(names: str | Sequence[str] | None) -> set[str]:
    """The names that are asked for, as they are given and as QuPath shows them."""
    return {form for name in listed(names) for form in (name, tidy(name))}


def plain(name: str) -> str:
    """A name less what people do not see or mean: case, spaces, punctuation, and how accents are encoded."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name)).casefold()


def prediction_class(target_class: str | Sequence[str], arm: float | str) -> str:
    """The one name of predicted outlines, in QuPath, on the page and in files: such as ``predicted TLS 4x``.

    Never the target's own: predictions must not be read as truth by the next training. `arm` is a magnification, or
    what else tells one network from another.
    """
    names = " or ".join(listed(target_class)) or "target"
    made_by = arm if isinstance(arm, str) else f"{arm:g}x"
    return check_class_name(PREDICTED + re.sub(r"[:\s]+", " ", f"{names} {made_by}").strip())


def is_prediction(name: str | None) -> bool:
    """Whether a class is one of predicted outlines."""
    return bool(name) and name.casefold().startswith(PREDICTED)


def says_the_target(name: str, target_class: str | Sequence[str]) -> str:
    """How a class that is not the target resembles it: ``derived``, ``spelling``, ``named``, or nothing.

    ``derived`` from the target in QuPath (``TLS: mature``), the same but for ``spelling`` (``Tls``, other encoding of
    accents), or a name in which the target's stands as a word (``TLS (GC+)``, ``immature TLS``).
    """
    for wanted in map(tidy, listed(target_class)):
        if name == wanted or is_prediction(name):
            continue
        if name.startswith(f"{wanted}: "):
            return "derived"
        if plain(name) == plain(wanted):
            return "spelling"
        if plain(wanted) and re.search(rf"(?<!\w){re.escape(_folded(wanted))}(?!\w)", _folded(name)):
            return "named"
    return ""


def derived_from(name: str, parents: Iterable[str]) -> bool:
    """Whether a class is derived from one of these in QuPath."""
    return any(name.startswith(f"{tidy(parent)}: ") for parent in parents)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
