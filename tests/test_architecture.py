"""The page on the architecture says what is there."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_tree_is_the_packages():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    assert PAGE.read_text() == tree.page(PAGE.read_text()), "python docs/tree.py writes the tree anew"


def test_every_file_and_name_on_the_page_is_there():
    text = PAGE.read_text()
    source = "\n".join(path.read_text() for folder in ("tlskit", "tests") for path in (ROOT / folder).rglob("*.py"))
    folder, missing = "", []
    for word in re.findall(r"`([^`\n]+)`", text.replace("```", "")):
        name = word.strip("*").rsplit(".", 1)[-1]
        if " " in word:
            continue
        if word.endswith((".py", ".js")):
            folder = word.rsplit("/", 1)[0] if "/" in word else folder  # `slides/bands.py`, `jpegs.py`
            path = f"{folder}/{word.rsplit('/', 1)[-1]}"
            found = any((ROOT / start / path).is_file() for start in ("", "tlskit"))
        elif word.endswith("/"):
            found = any((ROOT / start / word).is_dir() for start in ("", "tlskit"))
        elif re.fullmatch(r"[a-z_]+\.[A-Za-z_.]+", word):
            found = re.search(rf"\b{name}\b", source)
        elif re.fullmatch(r"(tiling|wsi|forward|train|test)_[a-z0-9_*]+", word):
            found = all(part.strip("_") in source for part in word.split("*"))
        else:
            continue
        missing += [] if found else [word]
    assert not missing
