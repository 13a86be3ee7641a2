"""um/px that a person has given for slides that do not say it: one small file beside the segmented slides."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock

from tlskit.errors import RunError
from tlskit.files import resolve, write_text

__all__ = ["give_mpp", "given_mpp"]


def _path(outputs_dir: str | Path) -> Path:
    return resolve(outputs_dir) / "segmented" / "um_per_px.json"


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path.name} in {path.parent.name}, which holds um/px given by hand, cannot be read."
        ) from error
    return found if isinstance(found, dict) else {}


def given_mpp(outputs_dir: str | Path, slide_id: str) -> float | None:
    """um/px that was given for a slide, known by its content; None where nobody has."""
    value = _read(_path(outputs_dir)).get(slide_id, {}).get("mpp")
    return float(value) if value else None


def give_mpp(outputs_dir: str | Path, slide_id: str, name: str, mpp: float) -> None:
    """Keep the um/px of a slide."""
    path = _path(outputs_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=10):
        write_text(path, json.dumps(_read(path) | {slide_id: {"mpp": mpp, "slide": name}}, indent=1) + "\n")
