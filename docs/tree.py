"""Write the tree of the package into the page on its architecture: ``python docs/tree.py``."""

import textwrap
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
PACKAGE = PAGE.parents[1] / "tlskit"
START, END = "```text\n", "```\n"


def page(text: str) -> str:
    """The page with its tree anew: the ground, then the wings in the order of the package's own documentation."""
    listed = (PACKAGE / "__init__.py").read_text(encoding="utf-8").split("::\n", 1)[1].split("\n\nA wing", 1)[0]
    tree = "tlskit/\n"
    for wing in ["", *(f"{line.split()[0]}/" for line in listed.splitlines() if line.strip())]:
        modules = sorted(path.stem for path in (PACKAGE / wing).glob("*.py") if not path.stem.startswith("__"))
        tree += textwrap.fill(" ".join(modules), 118, initial_indent=f"  {wing:12}", subsequent_indent=" " * 14) + "\n"
    before, rest = text.split(START, 1)
    return before + START + tree + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
