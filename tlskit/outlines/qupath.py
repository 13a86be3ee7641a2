"""Scripts for QuPath: outlines and the manifest out of a project, predictions and maps back, a map over a slide.

They stand as Groovy beside this module, in ``scripts``; what they share is put into each, so that a script is one file.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from tlskit.files import write_text
from tlskit.outlines.class_names import prediction_class

__all__ = ["EXPORT_NAME", "IMPORT_NAME", "OVERLAY_NAME", "write_scripts"]

EXPORT_NAME = "export_for_tlskit.groovy"
IMPORT_NAME = "import_from_tlskit.groovy"
OVERLAY_NAME = "map_over_slide.groovy"

#: Pieces that several scripts share: in all, an image must have the same slide_id.
_SHARED = {"@COMMON@": "common.groovy", "@FOLDERS@": "folders.groovy", "@BUILDER@": "builder.groovy"}


def write_scripts(
    folder: str | Path = ".", *, target_class: str = "TLS", arm: str | Path = "outputs/demo/4x"
) -> list[Path]:
    """Write the three Groovy scripts; they run in QuPath 0.3.2 to 0.7.

    Parameters
    ----------
    folder
        Where to; made if it is not there.
    target_class
        Named in the scripts' examples, and in the class of outlines that bear none of predictions.
    arm
        Folder of a run's magnification, or of ``tlskit predict``, whose results are to be brought in or shown; can be
        changed in the scripts.

    Returns
    -------
    list of Path
        Of the export, the import, and the map over the slide.
    """
    folder = Path(folder)
    values = {
        **{key: _source(name).rstrip("\n") for key, name in _SHARED.items()},
        "@TARGET@": _quoted(target_class),
        "@EXAMPLE@": prediction_class(target_class, Path(arm).name).replace("*/", ""),
        '"@ARM@"': _quoted(Path(arm).absolute().as_posix()),
    }
    written = []
    for name in (EXPORT_NAME, IMPORT_NAME, OVERLAY_NAME):
        text = _source(name)
        for key, value in values.items():
            text = text.replace(key, value)
        written.append(write_text(folder / name, text))
    return written


def _source(name: str) -> str:
    return (files("tlskit.outlines") / "scripts" / name).read_text(encoding="utf-8")


def _quoted(text: str) -> str:
    """A Groovy string; a dollar sign would begin an expression in it."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")
