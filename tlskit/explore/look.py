"""The look and the scripts of the widgets: each brings the common style with its own, wherever it is shown first."""

import re
from pathlib import Path

__all__ = ["joined", "with_look"]

_HERE = Path(__file__).parent


def with_look(name: str) -> str:
    """A style sheet of this folder behind ``look.css``."""
    return (_HERE / "look.css").read_text(encoding="utf-8") + (_HERE / name).read_text(encoding="utf-8")


def joined(*names: str) -> str:
    """Modules of this folder as the one that a widget may have: each behind those that it imports from."""
    text = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)
    without = re.sub(r'^import \{[^}]*\} from "\./.*";\n', "", text, flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", without, flags=re.MULTILINE)
