"""The page on the architecture says what is there."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def test_the_tree_is_the_packages():
    assert TEXT == runpy.run_path(str(ROOT / "docs" / "tree.py"))["page"](TEXT), "python docs/tree.py writes it anew"


def test_every_file_and_name_on_the_page_is_there():
    files = {path.relative_to(ROOT).as_posix() for folder in ("tlskit", "tests") for path in (ROOT / folder).rglob("*")}
    source = "\n".join((ROOT / name).read_text() for name in files if name.endswith(".py"))
    words = set(re.findall(r"`([\w./*]+)`", TEXT))
    assert len(words) > 60
    missing = {
        w
        for w in words
        if "/" in w or w.endswith(".py")
        if not any(f"/{f}".endswith(f"/{w.rstrip('/')}") for f in files)
    }
    for word in words:
        if not ("/" in word or word.endswith(".py")):
            missing |= {word for part in re.split(r"[.*]", word) if part.strip("_") not in source}
    assert not missing
