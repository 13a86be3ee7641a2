"""``compare/`` of a run, rebuilt from its archive: tables, figures, and one page that needs nothing else to be read."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from tlskit import charts, cohort, comparison, published, runs
from tlskit.errors import ComparisonError, RunError, TlskitError
from tlskit.files import resolve, write_text, writing
from tlskit.metrics import SCORES

__all__ = ["write_report"]

log = logging.getLogger(__name__)

#: Programs that print a page to PDF, in order of preference.
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")

#: Columns that would widen the page beyond reading; the CSV files have them.
_HIDDEN = {
    "region", "batch_size", "n_undefined_recall", "n_undefined_specificity", "n_undefined_precision", "n_undefined_mcc",
    "draws", "n_undefined_draws", "warning", "threshold_by", "on", "n_pairs", "method", "n_units", "minutes_median",
    "n_under_100_um", "n_100_300_um", "n_over_300_um", "false_objects_per_slide", "f1", "limit_low", "limit_high",
}  # fmt: skip


@dataclass
class _Section:
    """One part of the page: a heading, sentences, tables and figures, or the reason why it is missing."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[dict] = field(default_factory=list)
    figures: list[dict] = field(default_factory=list)


def write_report(
    run_dir: str | Path,
    *,
    threshold_by: str = "fixed",
    batch_size: int = 8,
    draws: int = 10_000,
    slides: str = "same",
    pdf: bool = True,
) -> Path:
    """Rebuild the comparison of a run's arms from their tables, and write it as one HTML page.

    Tables and figures go to ``compare/tables`` and ``compare/figures``, the page to ``compare/report.html`` (images
    inside, no network), and to ``compare/report.pdf`` where a browser is installed that can print it. No slide, map or
    model is opened. A part whose tables are missing says so; the others are made.

    Parameters
    ----------
    run_dir
        Folder of the run.
    threshold_by
        ``fixed`` or ``validation``.
    batch_size
        Of the poolings by batch.
    draws
        Of the bootstrap.
    slides
        Of `tlskit.comparison.check_arms`.
    pdf
        Whether to try a PDF.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    ComparisonError
        If the arms do not stand on the same patients, slides and targets.
    """
    run_dir = Path(run_dir)
    run = runs.Run(run_dir, run_dir / "compare", "compare", "compare_magnifications", _caption(run_dir))
    stands_on = comparison.check_arms(run_dir, slides=slides)
    options = {"threshold_by": threshold_by, "slides": slides}
    makers: list[tuple[str, Callable[[_Section], None]]] = [
        ("The answer in short", lambda s: _answer(s, run, options, draws, batch_size)),
        ("The cohort", lambda s: _cohort(s, run, stands_on)),
        ("Scores by magnification", lambda s: _table_one(s, run, options, batch_size)),
        ("What it costs", lambda s: _cost(s, run, options, draws)),
        ("How sure the scores are", lambda s: _intervals(s, run, options, draws)),
        ("One common grid", lambda s: _grid(s, run, options)),
        ("How the way of averaging decides", lambda s: _audit(s, run, options, batch_size)),
        ("Objects found, missed and false", lambda s: _objects(s, run, options)),
        ("Thresholds and calibration", lambda s: _thresholds(s, run, slides)),
        ("The published table, audited", lambda s: _published(s, run)),
        ("What failed", lambda s: _failures(s, run_dir)),
        ("Provenance", lambda s: _provenance(s, run_dir)),
    ]
    sections = []
    for title, make in makers:
        section = _Section(title)
        try:
            make(section)
        except ComparisonError:
            raise
        except TlskitError as error:
            log.warning("Report, %s: %s", title, error)
            section.text.append(f"Not available: {error}")
        sections.append(section)
    page = run.arm_dir / "report.html"
    write_text(page, _render(run, sections))
    if pdf:
        _print(page, page.with_suffix(".pdf"))
    return page


def _caption(run_dir: Path) -> str:
    """What the cohort says of itself (that it is synthetic); empty where the manifest is not at hand."""
    try:
        preset = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8")) or {}
        return cohort.caption(cohort.read_manifest(resolve(preset["manifest"])))
    except (OSError, KeyError, TypeError, TlskitError, yaml.YAMLError):
        return ""


def _answer(section: _Section, run: runs.Run, options: dict, draws: int, batch_size: int) -> None:
    section.text.append(comparison.choice(comparison.pareto(run.dir, draws=draws, **options)))
    audited = comparison.audit_winners(comparison.audit(run.dir, batch_size=batch_size, **options))
    of_slides = audited[(audited["level"] == "wsi") & (audited["iou"] != "undefined")]
    answers = of_slides["iou"].value_counts()
    if len(answers) > 1:
        listed = ", ".join(f"{arm} in {n}" for arm, n in answers.items())
        section.text.append(
            f"The way of averaging matters: of {len(of_slides)} ways to average the IoU of the same whole-slide "
            f"predictions, the best arm is {listed}."
        )
    elif len(answers):
        section.text.append(f"Whichever way the IoU of whole slides is averaged, {answers.index[0]} is the best arm.")


def _cohort(section: _Section, run: runs.Run, stands_on: pd.DataFrame) -> None:
    section.text.append(
        f"{charts.same(stands_on['n_slides'])} test slides of {charts.same(stands_on['n_patients'])} patients, "
        f"the same in "
        f"all {len(stands_on)} arms. An arm is a model trained and run at one magnification (10x is 1 um per pixel)."
    )
    left_out = int(stands_on["slides_left_out"].max())
    if left_out:
        section.text.append(f"Up to {left_out} slides of an arm were left out, because another arm lacks them.")
    if run.caption:
        section.text.append(f"These are {run.caption}.")
    split_path = run.split_path
    if split_path.is_file():
        split = pd.read_csv(split_path, dtype=str)
        of_type = "cancer_type" if "cancer_type" in split else "patient_id"
        table = split.groupby(["split", of_type]).size().unstack(fill_value=0) if of_type == "cancer_type" else None
        if table is not None:
            table["all"] = table.sum(axis=1)
            order = [name for name in ("train", "val", "test") if name in table.index]
            _add_table(
                section, run, table.loc[order].reset_index(), "patients_by_split", "Patients by set and cancer type."
            )
    _add_table(section, run, stands_on, "arms", "What each arm's test stands on.")


def _table_one(section: _Section, run: runs.Run, options: dict, batch_size: int) -> None:
    table = comparison.table_one(run.dir, batch_size=batch_size, **options)
    section.text.append(
        "The paper's Table 1 for this cohort, beside the published one. Dice and IoU averaged as published are "
        "means over "
        f"batches of {batch_size} tiles in which a batch without target and prediction counts 1; pooled scores "
        f"are of all "
        "pixels together. Best of each column in bold, within each block."
    )
    _add_table(section, run, table, "table_one", "", bold_within=["source", "level", "pooling"])
    figure = charts.iou_by_magnification(comparison.iou_by_magnification(run.dir, batch_size=batch_size, **options))
    _add_figure(section, run, figure, "iou_by_magnification", "IoU by magnification, on tiles and on whole slides.")


def _cost(section: _Section, run: runs.Run, options: dict, draws: int) -> None:
    minutes = comparison.minutes_per_slide(run.dir)
    front = comparison.pareto(run.dir, draws=draws, **options)
    caption = "Quality on the common grid against time; dashed: no other arm is both better and faster."
    _add_figure(section, run, charts.pareto(front), "pareto", caption)
    run.table(front, "pareto")
    _add_table(section, run, minutes, "minutes", "Minutes per slide; hardware is listed under Provenance.")
    _add_figure(section, run, charts.minutes_per_slide(minutes), "minutes", "Minutes per slide.")


def _intervals(section: _Section, run: runs.Run, options: dict, draws: int) -> None:
    table = comparison.intervals(run.dir, draws=draws, **options)
    apart = comparison.differences(run.dir, draws=draws, **options)
    section.text.append(
        f"Whole patients were drawn again {draws:,} times, the same ones for every arm. A difference between "
        f"two arms is "
        "more certain than their two intervals suggest, because hard patients are hard for both."
    )
    section.text += [f"Caution: {w}." for w in table["warning"].dropna().unique() if w]
    _add_figure(section, run, charts.intervals(table), "intervals", "Scores on the common grid with 95 % intervals.")
    _add_figure(section, run, charts.differences(apart), "differences", "Differences between arms.")
    _add_table(section, run, table, "intervals", "")
    _add_table(section, run, apart, "differences", "")


def _grid(section: _Section, run: runs.Run, options: dict) -> None:
    table = comparison.grid_table(run.dir, **options)
    section.text.append(
        "Every arm's probabilities, brought to the same physical pixels and scored against outlines drawn there once, "
        "inside the same tissue. The ceiling is what the outlines themselves reach when drawn at that magnification."
    )
    _add_figure(section, run, charts.ceilings(table), "grid", "IoU and its ceiling on the common grid.")
    _add_table(section, run, table, "grid", "")


def _audit(section: _Section, run: runs.Run, options: dict, batch_size: int) -> None:
    table = comparison.audit(run.dir, batch_size=batch_size, **options)
    winners = comparison.audit_winners(table)
    named = sorted(set(winners["iou"]) - {"undefined"})
    section.text.append(
        "The same predictions, averaged in every way. "
        + (
            f"By IoU, {len(named)} different answers come out: {', '.join(named)}."
            if len(named) > 1
            else f"By IoU, every way names {named[0]}."
            if named
            else "IoU is undefined throughout."
        )
    )
    run.table(table, "audit")
    _add_figure(section, run, charts.audit(table), "audit", "IoU under every pooling and rule for empty units.")
    run.table(winners, "audit_winners")
    wide = winners.pivot_table(index=["level", "pooling"], columns="empty", values="iou", aggfunc="first", sort=False)
    wide = wide.rename(columns=lambda rule: f"empty: {rule}").reset_index()
    section.tables.append(_table(wide, "The arm with the best IoU, by pooling and by what an empty unit counts."))


def _objects(section: _Section, run: runs.Run, options: dict) -> None:
    table = comparison.object_table(run.dir, **options)
    agreed = comparison.agreement_table(run.dir, **options)
    section.text.append("Objects are post-processed in um, in the same way at every magnification.")
    _add_figure(section, run, charts.object_recall(table), "objects", "Recall by size, precision, and false objects.")
    _add_table(section, run, table, "objects", "")
    of_slides = comparison.collect(run.dir, "05_objects_per_slide")
    of_slides = of_slides[of_slides["threshold_by"] == options["threshold_by"]]
    caption = "Area of objects of each slide, predicted against true."
    _add_figure(section, run, charts.agreement(of_slides), "agreement", caption)
    _add_table(section, run, agreed, "agreement", "")


def _thresholds(section: _Section, run: runs.Run, slides: str) -> None:
    table = comparison.threshold_table(run.dir, slides=slides)
    section.text.append(
        "Whole slides, all pixels pooled, at 0.5 and, where one was chosen on validation slides, at that threshold."
    )
    _add_table(section, run, table.drop(columns="threshold_by"), "thresholds", "")
    chosen = table[table["threshold_by"] == "validation"].set_index("arm")["threshold"].to_dict()
    figure = charts.pr_curves(comparison.pr_curves(run.dir, slides=slides), chosen=chosen or None)
    _add_figure(section, run, figure, "pr_curves", "Precision and recall over all thresholds.")
    calibrated = comparison.calibration(run.dir, slides=slides)
    run.table(calibrated, "calibration")
    _add_figure(section, run, charts.calibration(calibrated), "calibration", "Calibration inside tissue.")


def _published(section: _Section, run: runs.Run) -> None:
    table = published.audit()
    section.text.append(
        f"{published.SOURCE}: the printed MCC follows from the printed precision, recall and specificity in all rows; "
        "printed Dice and IoU do not. They are means over batches or tiles; on whole slides the two are nearly equal, "
        "which happens when most of what is averaged counts 1, as an empty batch does by convention."
    )
    _add_figure(section, run, charts.published_audit(), "published_audit", "Printed and implied scores.")
    columns = ["level", "magnification"]
    columns += [f"{score}_{kind}" for score in ("dice", "iou", "mcc") for kind in ("printed", "implied")]
    run.table(table, "published_audit")
    section.tables.append(_table(table[columns], "Printed scores, and those that the printed rates imply."))


def _failures(section: _Section, run_dir: Path) -> None:
    status = runs.read_status(run_dir)
    failed = status[status["status"].isin(["failed", "blocked"])]
    if failed.empty:
        section.text.append("Nothing is noted in status.csv.")
    else:
        section.tables.append(_table(failed[["arm", "step", "slide_id", "status", "reason"]], "From status.csv."))


def _provenance(section: _Section, run_dir: Path) -> None:
    path = run_dir / "provenance.json"
    if not path.is_file():
        raise RunError("the run has no provenance.json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [{"what": f"{name} {key}".strip(), "value": "" if v is None else str(v)} for key, v in parts]
    section.tables.append(_table(pd.DataFrame(rows), "What made the numbers."))
    if (run_dir / "run.yaml").is_file():
        preset = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8")) or {}
        rows = [{"parameter": name, "value": str(value)} for name, value in preset.items()]
        section.tables.append(_table(pd.DataFrame(rows), "The preset, run.yaml."))


def _add_table(
    section: _Section,
    run: runs.Run,
    table: pd.DataFrame,
    name: str,
    caption: str,
    *,
    bold_within: list[str] | None = None,
) -> None:
    run.table(table, name)
    section.tables.append(_table(table, caption, bold_within=bold_within))


def _add_figure(section: _Section, run: runs.Run, figure, name: str, caption: str) -> None:
    run.figure(figure, name)
    png = (run.arm_dir / "figures" / f"{name}.png").read_bytes()
    section.figures.append({"caption": caption, "data": base64.b64encode(png).decode("ascii")})


def _table(table: pd.DataFrame, caption: str, *, bold_within: list[str] | None = None) -> dict:
    """What the template needs of a table: its header, and cells as (text, is it a number, is it bold)."""
    bold = pd.DataFrame(False, index=table.index, columns=table.columns)
    if bold_within:
        scores = [s for s in SCORES if s in table]
        bold[scores] = table[scores] == table.groupby(bold_within, sort=False)[scores].transform("max")
    if "arm" in table and "magnification" in table:
        # An arm is named after its magnification, so that one of the two columns is enough.
        table = table.drop(columns="magnification")
    kept = [c for c in table if c not in _HIDDEN and not table[c].isna().all()]
    if "level" in kept and pd.api.types.is_numeric_dtype(table["level"]):
        kept.remove("level")
    columns = [_texts(table[c]) for c in kept]
    number = [pd.api.types.is_numeric_dtype(table[c]) and not pd.api.types.is_bool_dtype(table[c]) for c in kept]
    rows = [
        [(text[n], number[k], bool(bold[kept[k]].iloc[n])) for k, text in enumerate(columns)] for n in range(len(table))
    ]
    return {"caption": caption, "header": [c.replace("_", " ") for c in kept], "rows": rows}


def _texts(column: pd.Series) -> list[str]:
    """A column as text: whole numbers as such, others with the digits that its smallest numbers need."""
    if pd.api.types.is_bool_dtype(column):
        return ["yes" if value else "no" for value in column]
    if not pd.api.types.is_numeric_dtype(column):
        short = column.replace({published.SOURCE: "published"})
        return ["-" if pd.isna(value) else str(value).replace("_", " ") for value in short]
    values = column.astype("Float64")
    whole = (values.dropna() % 1 == 0).all() and column.name not in SCORES
    small = values.abs().max() < 0.05
    return ["-" if pd.isna(v) else f"{v:.0f}" if whole else f"{v:.4f}" if small else f"{v:.3f}" for v in values]


def _render(run: runs.Run, sections: list[_Section]) -> str:
    import jinja2

    # Names of slides, classes and reasons come from files: everything is escaped.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_PAGE).render(run=run.dir.name, caption=run.caption, sections=sections)


def _print(page: Path, path: Path) -> None:
    """Print the page to PDF, where a browser is installed; without one the page stands alone."""
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
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
            subprocess.run(
                [*command, f"--user-data-dir={profile}", f"--print-to-pdf={temporary}", page.resolve().as_uri()],
                check=True, capture_output=True, timeout=120,
            )  # fmt: skip
            if not temporary.read_bytes().startswith(b"%PDF"):
                raise OSError("the browser wrote no PDF")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("No PDF of the report: %s could not print it (%s).", Path(browser).name, type(error).__name__)
        path.unlink(missing_ok=True)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ run }}: comparison of magnifications</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ddd;
padding-top: 1rem; }
.note { background: #f4f1e8; padding: .5rem .8rem; } nav ol { columns: 2; padding-left: 1.4rem; }
figure { margin: 1rem 0; break-inside: avoid; } img { max-width: 100%; height: auto; }
figcaption, caption { color: #555; font-size: .9rem; text-align: left; padding: .2rem 0; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th { text-align: left; border-bottom: 1.5px solid #444; padding: .2rem .5rem; vertical-align: bottom; }
td { border-bottom: 1px solid #e6e6e6; padding: .15rem .5rem; overflow-wrap: break-word; }
td.n { text-align: right; white-space: nowrap; } td.t { white-space: nowrap; }
a { color: #0072b2; }
@media print { body { max-width: none; margin: 0; font-size: 12px; } table { font-size: 7.5px; } .scroll { overflow:
visible; }
th, td { padding: .1rem .2rem; } tr { break-inside: avoid; } h2 { break-after: avoid; } @page { size: A4; margin:
14mm; } }
</style>
</head>
<body>
<h1>At which magnification should the model be trained and run?</h1>
<p>Run <strong>{{ run }}</strong>{% if caption %} &middot; {{ caption }}{% endif %}</p>
<nav><ol>
{% for section in sections %}
<li><a href="#s{{ loop.index }}">{{ section.title }}</a></li>
{% endfor %}
</ol></nav>
{% for section in sections %}
<section id="s{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% for text in section.text %}
<p{% if text.startswith("Caution") or text.startswith("Not available") %} class="note"{% endif %}>{{ text }}</p>
{% endfor %}
{% for figure in section.figures %}
<figure><img alt="{{ figure.caption }}" src="data:image/png;base64,{{ figure.data }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% for table in section.tables %}
<div class="scroll"><table>
{% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for name in table.header %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for text, number, bold in row %}<td{% if number %} class="n"{% elif text|length < 25 %} class="t"{% endif %}>{%
if bold %}<b>{{ text }}</b>{% else
%}{{ text }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
