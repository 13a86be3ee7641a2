"""Tables that people keep in a spreadsheet and save as CSV, in whatever encoding and with whatever separator."""

from __future__ import annotations

import csv
import difflib
import io
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tlskit.errors import ManifestError
from tlskit.files import resolve

__all__ = ["cells_of", "found", "read_columns"]

log = logging.getLogger(__name__)


def read_columns(path: str | os.PathLike) -> pd.DataFrame:
    """Any table that people keep beside their slides, in the encodings and separators of a manifest; all as text.

    Raises
    ------
    ManifestError
        If the file is missing or no CSV at all.
    """
    header, rows = cells_of(found(path))
    cells = [(cells + [""] * len(header))[: len(header)] for _, cells in rows]
    names = [name or f"column {number + 1}" for number, name in enumerate(header)]
    return pd.DataFrame(cells, columns=names, dtype=str)


def found(path: str | os.PathLike) -> Path:
    """Relative to the project's root, as in a preset; failing that to the working folder, as in a shell."""
    resolved = resolve(path)
    return resolved if resolved.is_file() or not Path(path).is_file() else Path(path).absolute()


def cells_of(path: Path, columns: Sequence[str] = ()) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header, and the rows that are not blank with their numbers; `columns` are what an empty file should hold."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.csv")], n=1)
        hint = f" Is it {near[0]}?" if near else " Correct `manifest` in the preset, or make it (`tlskit synth`)."
        raise ManifestError(f"There is no manifest {path}.{hint}") from error
    except OSError as error:
        raise ManifestError(f"The manifest {path} cannot be read: {error.strerror or error}.") from error
    if content[:2] == b"PK":
        raise ManifestError(f"{path} is an Excel workbook. Save it as CSV UTF-8 (comma separated).")
    text = _decoded(path, content)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first, _, rest = text.partition("\n")
    declared = re.fullmatch(r'"?sep=(.)"?', first.strip())
    if declared:
        delimiter, text, skipped = declared[1], rest, 1
    else:
        unquoted = re.sub(r'"[^"]*"', "", first)
        delimiter, skipped = max(",;\t", key=unquoted.count), 0
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        # A cell can hold line ends: the number is that of the row's last line.
        rows = [(reader.line_num + skipped, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise ManifestError(f"{path}, row {reader.line_num + skipped}: not a CSV row ({error}).") from error
    if not rows or not any(rows[0][1]):
        wanted = f"a header with the columns {', '.join(columns)}" if columns else "a header"
        raise ManifestError(f"{path} is empty where {wanted} should be.")
    return rows[0][1], [(number, cells) for number, cells in rows[1:] if any(cells)]


def _decoded(path: Path, content: bytes) -> str:
    """The text of a CSV as Excel or an editor may have written it; what had to be guessed is told."""
    encoding = "utf-8-sig"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif content[1:2] == b"\0" or content[:1] == b"\0":  # UTF-16 without its mark: every other byte of a header is 0
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        if encoding != "utf-8-sig":
            raise ManifestError(
                f"{path} begins as UTF-16 and does not go on so. In Excel: Save As > CSV UTF-8 (comma separated)."
            ) from error
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise ManifestError(
                f"{path}, row {row}: a character that is not UTF-8. In Excel: Save As > CSV UTF-8 (comma separated)."
            ) from error
        log.warning(
            "%s, row %d, is not UTF-8: it is read as Windows-1252, %r. If that is wrong, save it as CSV UTF-8.",
            path.name, row, text.splitlines()[row - 1][:80] if row <= len(text.splitlines()) else "",
        )  # fmt: skip
        return text
