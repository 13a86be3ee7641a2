"""The page of a report: sections of sentences, tables and figures, rendered to HTML that stands alone, and to PDF."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tlskit.figures import alt_text, score_name
from tlskit.files import writing
from tlskit.metrics import SCORES, published
from tlskit.study import runs

__all__ = ["Section", "add_figure", "add_table", "find_browser", "print_pdf", "render", "show_table"]

log = logging.getLogger(__name__)

#: Programs that print a page to PDF, in order of preference.
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")

#: Columns that would widen the page beyond reading where none are named; the CSV files have them.
_HIDDEN = {
    "region", "batch_size", "n_undefined_recall", "n_undefined_specificity", "n_undefined_precision", "n_undefined_mcc",
    "warning", "on",
}  # fmt: skip


@dataclass
class Section:
    """One part of the page: a heading, sentences, tables and figures, or the reason why it is missing."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[dict] = field(default_factory=list)
    figures: list[dict] = field(default_factory=list)


def render(run: runs.Run, sections: list[Section]) -> str:
    import jinja2

    # Names of slides, classes and reasons come from files: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(run=run.dir.name, caption=run.caption, sections=sections)


def add_table(
    section: Section,
    run: runs.Run,
    table: pd.DataFrame,
    name: str,
    caption: str,
    *,
    columns: list[str] | None = None,
    names: dict[str, str] | None = None,
    bold: pd.DataFrame | None = None,
) -> None:
    """File a table, and show it, or those of its `columns` that it has, folded under the figures."""
    run.table(table, name)
    bold = None if bold is None else bold.rename(columns=names or {})
    shown = table if columns is None else table[[c for c in columns if c in table]]
    section.tables.append(show_table(shown.rename(columns=names or {}), caption, bold=bold))


def add_figure(section: Section, run: runs.Run, figure, name: str, caption: str) -> None:
    run.figure(figure, name)
    png = (run.arm_dir / "figures" / f"{name}.png").read_bytes()
    shown = {"caption": caption, "alt": alt_text(figure, caption), "data": base64.b64encode(png).decode("ascii")}
    # In print a chart takes a third of a page at most; rows of pictures need their height.
    section.figures.append(shown | {"tall": figure.get_figheight() > figure.get_figwidth()})


def show_table(table: pd.DataFrame, caption: str, *, bold: pd.DataFrame | None = None, folded: bool = True) -> dict:
    """What the template needs of a table: its header, and cells as (text, is it a number, is it bold)."""
    if "arm" in table and "magnification" in table:
        # An arm is named after its magnification, so that one of the two columns is enough.
        table = table.drop(columns="magnification")
    kept = [c for c in table if c not in _HIDDEN and not (len(table) and table[c].isna().all())]
    if "level" in kept and pd.api.types.is_numeric_dtype(table["level"]):
        kept.remove("level")
    columns = [_texts(table[c]) for c in kept]
    number = [pd.api.types.is_numeric_dtype(table[c]) and not pd.api.types.is_bool_dtype(table[c]) for c in kept]
    rows = [
        [
            (text[n], number[k], bool(bold is not None and kept[k] in bold and bold[kept[k]].iloc[n]))
            for k, text in enumerate(columns)
        ]
        for n in range(len(table))
    ]
    header = [score_name(c).replace("_", " ") for c in kept]
    return {"caption": caption, "header": header, "rows": rows, "folded": folded}


def _texts(column: pd.Series) -> list[str]:
    """A column as text: whole numbers as such, others with the digits that its smallest numbers need."""
    if pd.api.types.is_bool_dtype(column):
        return ["yes" if value else "no" for value in column]
    if not pd.api.types.is_numeric_dtype(column):
        # Words of the program are written for people; names of slides, arms and classes stay as they are.
        word = score_name if column.name in ("pooling", "level", "score", "by") else str
        short = column.replace({published.SOURCE: "published"}) if column.name == "source" else column
        return ["-" if pd.isna(value) else word(value) for value in short]
    values = column.astype("Float64")
    whole = (values.dropna() % 1 == 0).all() and column.name not in SCORES
    small = values.abs().max() < 0.05
    return ["-" if pd.isna(v) else f"{v:.0f}" if whole else f"{v:.4f}" if small else f"{v:.3f}" for v in values]


def find_browser() -> str | None:
    """Path of a browser that prints a page to PDF; None where none is installed."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def print_pdf(page: Path, path: Path) -> None:
    """Print the page to PDF, where a browser is installed; without one the page stands alone."""
    browser = find_browser()
    if browser is None:
        log.info("No PDF of the report: none of %s is installed.", ", ".join(_BROWSERS))
        path.unlink(missing_ok=True)
        return
    command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer", "--disable-dev-shm-usage"]
    # Chromium refuses its sandbox to root, as in a container; the page is our own and loads nothing.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")
    try:
        with tempfile.TemporaryDirectory() as profile, writing(path) as temporary:
            # What is folded on the screen is not left out of the print.
            unfolded = Path(profile) / "report.html"
            text = page.read_text(encoding="utf-8").replace("<details>", "<details open>")
            unfolded.write_text(text, encoding="utf-8")
            subprocess.run(
                [*command, f"--user-data-dir={profile}", f"--print-to-pdf={temporary}", unfolded.as_uri()],
                check=True, capture_output=True, timeout=120,
            )  # fmt: skip
            if not temporary.read_bytes().startswith(b"%PDF"):
                raise OSError("the browser wrote no PDF")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("No PDF of the report: %s could not print it (%s).", Path(browser).name, type(error).__name__)
        path.unlink(missing_ok=True)
