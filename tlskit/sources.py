"""Which code makes a result: the modules that a module or a notebook reaches, and the state of each.

Imports are followed through the doors of the wings, lazily loaded ones and those inside functions included, name by
name: a notebook that calls ``tiles.tile_cohort`` reaches the module that holds it and what that imports, not all of
`tlskit.tiles`. Nothing is imported for it: the sources are read. Comments, docstrings and blank lines are no code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["bare", "code_state", "reached", "without_comments"]

_PACKAGE = Path(__file__).parent
#: Strings, which may hold what looks like a comment, and comments.
_STRING_OR_COMMENT = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|#[^\n]*''', re.DOTALL
)


class _Source(NamedTuple):
    """What one reading of a source tells: every kernel of a sweep reads all that its notebook reaches.

    What it imports from tlskit, (below, name, alias) each; attributes by name; names used otherwise; the source `bare`.
    """

    imported: list[tuple[str, str, str]]
    used: dict[str, set[str]]
    handed_on: set[str]
    bare: str


def code_state(start: str, *, without: Iterable[str] = ()) -> dict[str, str]:
    """State of every module that some code reaches: a hash of its source, by its dotted name below `tlskit`.

    Parameters
    ----------
    start
        Dotted name of a module (``"networks.training"``), or the text of a program that imports from tlskit.
    without
        Wings that are left out, with what only they reach.
    """
    return {name: _state(path) for name, path in sorted(reached(start, without=without).items())}


def reached(start: str, *, without: Iterable[str] = ()) -> dict[str, Path]:
    """The modules of `code_state` and their files; the starting module among them."""
    without, found, waiting = set(without), {}, []
    path = _module_path(start) if start.replace(".", "").replace("_", "").isalnum() else None
    if path is not None:
        found[start] = path
        waiting.append(path.read_text(encoding="utf-8"))
    else:
        waiting.append(start)
    while waiting:
        for name in _imported(waiting.pop()):
            if name not in found and name.split(".")[0] not in without:
                found[name] = _module_path(name)
                if found[name].suffix == ".py":
                    waiting.append(found[name].read_text(encoding="utf-8"))
    return found


def _imported(source: str) -> set[str]:
    """Dotted names of the modules that a source imports from tlskit, doors opened."""
    names, used, handed_on, _ = _read(source)
    found = set()
    for below, name, alias in names:
        if not below and (_PACKAGE / name / "__init__.py").is_file():
            # A wing: what is taken out of it, and all of it where it is handed on as a value.
            for attribute in used.get(alias, ()):
                found |= _of_name(name, attribute)
            if alias in handed_on:
                found |= {f"{name}.{module}" for module in _door(name).values()}
        else:
            found |= _of_name(below, name)
    return found


@functools.lru_cache(maxsize=1024)
def _read(source: str) -> _Source:
    lines = without_comments(source).splitlines()
    names, used, values, plain = [], {}, [], set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            values.append(node)
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
            plain.add(id(node.value))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                head, *rest = alias.name.split(".")
                if head == "tlskit" and rest:
                    names.append((".".join(rest[:-1]), rest[-1], ""))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tlskit" and not node.level:
            below = node.module.partition(".")[2]
            names += [(below, alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                for row in range(first.lineno, first.end_lineno + 1):
                    lines[row - 1] = ""
        for name in node._fields:
            inside = getattr(node, name, None)
            if isinstance(inside, list):
                waiting += [one for one in inside if isinstance(one, ast.AST)]
            elif isinstance(inside, ast.AST) and not isinstance(inside, (ast.expr_context, ast.Constant)):
                waiting.append(inside)
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    return _Source(names, used, {node.id for node in values if id(node) not in plain}, text)


def _of_name(below: str, name: str) -> set[str]:
    """The module that ``from tlskit.<below> import <name>`` reaches."""
    dotted = f"{below}.{name}".lstrip(".")
    if _module_path(dotted) is not None:
        return {dotted, *_beside(dotted)}
    if _module_path(below) is not None:
        return {below, *_beside(below)}
    door = _door(below) if (_PACKAGE / below.replace(".", "/") / "__init__.py").is_file() else {}
    return {f"{below}.{door[name]}", *_beside(f"{below}.{door[name]}")} if name in door else set()


def _beside(dotted: str) -> set[str]:
    """A page's template belongs to the code that fills it: it lies beside, under the module's name."""
    path = _PACKAGE / dotted.replace(".", "/")
    return {f"{dotted}.{template.name}" for template in path.parent.glob(f"{path.name}.*.j2")}


def _module_path(dotted: str) -> Path | None:
    if dotted.endswith(".j2"):
        wing, _, name = dotted.partition(".")
        return _PACKAGE / wing / name.split(".", 1)[1]
    path = _PACKAGE / f"{dotted.replace('.', '/')}.py"
    return path if dotted and path.is_file() else None


def _door(wing: str) -> dict[str, str]:
    """What a wing's door names, and the module inside that holds it."""
    return _named((_PACKAGE / wing.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=64)
def _named(door: str) -> dict[str, str]:
    tree = ast.parse(door)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "attach":
            given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
            named = {name: module for module, names in given.get("submod_attrs", {}).items() for name in names}
            return named | {module: module for module in given.get("submodules", [])}
    return {}


def _state(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return hashlib.sha256((bare(text) if path.suffix == ".py" else text).encode()).hexdigest()[:16]


def without_comments(source: str) -> str:
    """A source as it is, without what follows a ``#`` that stands in no string."""
    return _STRING_OR_COMMENT.sub(lambda found: "" if found[0][0] == "#" else found[0], source)


def bare(source: str) -> str:
    """A source without comments, docstrings and blank lines: what is left decides what it does."""
    return _read(source).bare
