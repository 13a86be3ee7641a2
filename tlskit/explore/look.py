"""The look of the widgets: each brings the common style with its own, wherever it is shown first."""

from pathlib import Path

__all__ = ["with_look"]


def with_look(name: str) -> str:
    """A style sheet of this folder behind ``look.css``."""
    here = Path(__file__).parent
    return (here / "look.css").read_text(encoding="utf-8") + (here / name).read_text(encoding="utf-8")
