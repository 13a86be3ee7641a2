"""Write the tree of the package into the page on its architecture: ``python docs/tree.py``."""

from __future__ import annotations

import textwrap
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
PACKAGE = PAGE.parents[1] / "tlskit"
START, END = "```text\n", "```\n"


def order() -> list[str]:
    """The wings from the ground up, as the package's own documentation lists them."""
    listed = (PACKAGE / "__init__.py").read_text(encoding="utf-8").split("::\n", 1)[1].split("\n\nA wing", 1)[0]
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def tree() -> str:
    """Package, wings and modules."""
    ground = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))
    lines = ["tlskit/", _line("", ground)]
    for wing in order():
        modules = sorted(path.stem for path in (PACKAGE / wing).glob("*.py") if path.stem != "__init__")
        lines.append(_line(f"{wing}/", modules))
    return "\n".join([*lines, _line("__main__", ["(the command line)"])]) + "\n"


def _line(name: str, words: list[str]) -> str:
    return textwrap.fill(" ".join(words), 118, initial_indent=f"  {name:12}", subsequent_indent=" " * 14)


def page(text: str) -> str:
    """The page with its tree written anew."""
    before, rest = text.split(START, 1)
    return before + START + tree() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
