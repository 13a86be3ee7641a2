"""``compare/`` of a run, rebuilt from its archive: tables, figures, and one page that needs nothing else to be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tlskit.errors import ComparisonError, LeakageError, ParameterError, TlskitError
from tlskit.evaluation import arms, check_arms, reviewing, unlike_settings
from tlskit.figures import cohort_flow, set_theme
from tlskit.files import read_table, write_text
from tlskit.study import keys, params, report_scores, report_texts, runs, standing, status
from tlskit.study.ledger import Rebuilding
from tlskit.study.report_page import Section, add_figure, add_table, print_pdf, render, show_table
from tlskit.units import counted

__all__ = ["options_of", "write_report"]

log = logging.getLogger(__name__)

#: Parameters of a comparison: what it is made with where neither the caller nor the run's archive says another value.
DEFAULTS = {
    "batch_size": 8, "bootstrap_draws": 10_000, "margin": 0.05, "usable_score": 0.1, "compare_slides": "same",
}  # fmt: skip


def options_of(run_dir: str | Path) -> dict:
    """Parameters of a run's comparison: those of its preset, else those that its notebook was run with, else defaults.

    So a comparison that is made again has the numbers of the run, not those of some default.
    """
    made = (status.read_step(Path(run_dir) / keys.COMPARE_ARM, keys.COMPARE) or {}).get("ingredients", {})
    known = made.get("parameters", {}) | standing.read_preset_of(run_dir)
    return {name: known.get(name, default) for name, default in DEFAULTS.items()}


def write_report(
    run: str | Path | runs.Run,
    *,
    threshold_by: str = "fixed",
    batch_size: int | None = None,
    draws: int | None = None,
    margin: float | None = None,
    usable: float | None = None,
    slides: str | None = None,
    compare_arms: str = "all",
    manifest: str | None = None,
    pdf: bool = True,
) -> Path:
    """Rebuild the comparison of a run's arms from their tables, and write it as one HTML page.

    Tables and figures go to ``compare/tables`` and ``compare/figures``, the page to ``compare/report.html`` (images
    inside, no network), and to ``compare/report.pdf`` where a browser is installed that can print it; beside it
    ``summary.md``, ``summary.tex`` and ``checklist.md``. Numbers are of tables alone; slides and maps are opened for
    the pictures of the worst fields, where they still lie. A part that lacks something says so; the others are made.

    Parameters
    ----------
    run
        What `runs.open_run` returned in the notebook of the comparison; or the folder of a run, whose comparison is
        made again.
    threshold_by
        ``fixed`` or ``validation``.
    batch_size, draws, margin, usable, slides
        Of the poolings by batch; resamples of the patients; of `tlskit.evaluation.costs.pareto`; of `check_arms`. By
        default those of the run (`options_of`).
    compare_arms
        Of `standing.choose_arms`, where a folder is given: refuse (``all``) or leave out (``ready``) arms that are
        missing, failed or out of date.
    manifest
        The cohort, for the pictures; by default that of the run's preset.
    pdf
        Whether to try a PDF.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    ComparisonError
        If an arm is missing, failed or out of date, or the arms do not stand on the same patients, slides and targets.
    ParameterError
        If `threshold_by` is unknown, or `draws` or `batch_size` is below 1.
    """
    if threshold_by not in ("fixed", "validation"):
        raise ParameterError(f"`threshold_by` should be fixed or validation, not {threshold_by!r}.")
    opened = isinstance(run, runs.Run)
    run_dir = run.dir if opened else Path(run)
    given = {"batch_size": batch_size, "bootstrap_draws": draws, "margin": margin, "usable_score": usable}
    given |= {"compare_slides": slides}
    options = options_of(run_dir) | {name: value for name, value in given.items() if value is not None}
    if options["bootstrap_draws"] < 1 or options["batch_size"] < 1:
        raise ParameterError(
            f"`draws` and `batch_size` should be at least 1, not {options['bootstrap_draws']} and "
            f"{options['batch_size']}."
        )
    if not opened:
        inputs = standing.keys_of_arms(run_dir, standing.choose_arms(run_dir, compare_arms), keys.COMPARE)
        others = {"compare_arms": compare_arms} | ({"threshold_by": threshold_by} if threshold_by != "fixed" else {})
        folder, step = run_dir / keys.COMPARE_ARM, keys.COMPARE
        run = runs.Run(
            run_dir, folder, keys.COMPARE_ARM, step, _caption(run_dir), Rebuilding(run_dir, options | others, inputs)
        )
    stands_on = check_arms(run_dir, slides=options["compare_slides"])
    set_theme(arms=stands_on["arm"])
    asked = report_scores.Asked(
        run, threshold_by=threshold_by, slides=options["compare_slides"], batch_size=options["batch_size"],
        draws=options["bootstrap_draws"], margin=options["margin"], usable=options["usable_score"],
        manifest=manifest or standing.read_preset_of(run_dir).get("manifest", ""),
    )  # fmt: skip
    parts: list[tuple[str, Callable[[Section], None]]] = [
        ("The answer", lambda s: report_scores.answer(s, asked)),
        ("The cohort", lambda s: _cohort(s, run, stands_on)),
        *((title, lambda s, make=make: make(s, asked)) for title, make in report_scores.PARTS),
        ("What failed", lambda s: _failures(s, run_dir)),
        ("Provenance", lambda s: _provenance(s, run_dir, options)),
    ]
    sections = []
    for title, make in parts:
        section = Section(title)
        try:
            make(section)
        except LeakageError:
            raise
        except ComparisonError as error:
            if "Times of these arms" not in str(error):
                raise
            section.text.append(f"Not available: {error}")
        except TlskitError as error:
            log.warning("Report, %s: %s", title, error)
            section.text.append(f"Not available: {error}")
        sections.append(section)
    page = run.arm_dir / "report.html"
    write_text(page, render(run, sections))
    words = report_texts.summary(run, asked.answer, stands_on, asked.readers)
    texts = {"summary.md": words, "summary.tex": report_texts.latex(words)}
    texts["checklist.md"] = report_texts.checklist(
        run, asked.answer.front, stands_on, unlike_settings(run_dir), asked.readers
    )
    for name, text in texts.items():
        write_text(run.arm_dir / name, text)
    if pdf:
        print_pdf(page, page.with_suffix(".pdf"))
    for path in (page, page.with_suffix(".pdf"), *(run.arm_dir / name for name in texts)):
        if path.is_file() and run.ledger is not None:
            run.ledger.wrote(path)
    if not opened:
        run.ledger.end()
    return page


def _caption(run_dir: Path) -> str:
    """What the cohort said of itself (that it is synthetic) when the arms were run; empty where it said nothing."""
    captions = [
        json.loads(path.read_text(encoding="utf-8")).get("caption", "")
        for arm in arms(run_dir)["dir"]
        for path in sorted((arm / "records").glob("*.json"))
    ]
    return next(filter(None, captions), "")


def _cohort(section: Section, run: runs.Run, stands_on: pd.DataFrame) -> None:
    n_arms, first = len(stands_on), stands_on.iloc[0]
    section.text.append(
        f"{counted(first['n_slides'], 'test slide')} of {counted(first['n_patients'], 'patient')}, the same in "
        f"{'all ' if n_arms > 1 else ''}{counted(n_arms, 'arm')}; {counted(first['n_slides_with_target'], 'slide')} of "
        f"{counted(first['n_patients_with_target'], 'patient')} hold a target. An arm is a model trained and run in "
        "one way, as a rule at one magnification (10x is 1 um per pixel)."
    )
    if run.caption:
        section.text.append(f"These are {run.caption}.")
    unlike = unlike_settings(run.dir)
    for name, values in unlike.items():
        listed = ", ".join(f"{arm} {value}" for arm, value in values.items())
        section.text.append(f"Beside their magnification the arms differ in {name}: {listed}.")
    split = read_table(run.split_path) if run.split_path.is_file() else None
    steps = reviewing.flow(run.dir, split, stands_on)
    run.table(steps, "flow")
    add_figure(section, run, cohort_flow(steps), "flow", "From the cohort to the comparison.")
    if split is not None and "cancer_type" in split:
        # A run with folds lists each patient once a fold.
        table = split.drop_duplicates(["patient_id", "split"]).groupby(["split", "cancer_type"]).size()
        table = table.unstack(fill_value=0).assign(all=lambda t: t.sum(axis=1))
        order = [name for name in ("train", "val", "test") if name in table.index]
        add_table(section, run, table.loc[order].reset_index(), "patients_by_split", "Patients by set and cancer type.")
    add_table(section, run, stands_on, "arms", "What each arm's test stands on.")


def _failures(section: Section, run_dir: Path) -> None:
    """What failed in what is shown: a step that was done since, or an arm that is no longer one, is not told."""
    found = status.read_status(run_dir)
    shown = {*standing.arm_names(run_dir), *arms(run_dir)["arm"]}
    found = found[found["arm"].isin(shown)]
    of_steps = found[found["slide_id"] == ""].drop_duplicates(["arm", "step"], keep="last")
    of_slides = found[found["slide_id"] != ""].drop_duplicates(["arm", "step", "slide_id"], keep="last")
    failed = pd.concat([of_steps, of_slides])
    failed = failed[failed["status"].isin(["failed", "blocked", "partly"])].sort_index()
    if failed.empty:
        section.text.append("Nothing failed in what is shown here.")
    else:
        section.tables.append(show_table(failed[["arm", "step", "slide_id", "status", "reason"]], "Steps and slides."))


def _provenance(section: Section, run_dir: Path, options: dict) -> None:
    """Code, packages and machines by what each step says it was made with; an earlier archive has one for all."""
    made: dict[str, list[str]] = {}
    for (arm, step), found in status.steps_of(run_dir).items():
        _enter(made, found.get("provenance"), f"{arm}/{step}")
    if not made:
        for path in sorted(run_dir.glob("*/records/*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            _enter(made, record.get("provenance"), f"{path.parents[1].name}/{path.stem}")
    if not made and (run_dir / "provenance.json").is_file():
        _enter(made, json.loads((run_dir / "provenance.json").read_text(encoding="utf-8")), "the run")
    section.text += _taken_over(run_dir)
    if not made:
        section.text.append("The archive does not say with what it was made.")
    elif len(made) > 1:
        section.text.append(f"Caution: the steps were made with {len(made)} different states of code or machines.")
    for text, steps in made.items():
        facts = json.loads(text)
        rows = [{"what": name, "value": value} for name, value in _facts(facts)]
        listed = ", ".join(steps) if len(steps) < 6 else f"{', '.join(steps[:4])} and {len(steps) - 4} more"
        section.tables.append(show_table(pd.DataFrame(rows), f"What made the numbers of {listed}."))
    rows = [{"parameter": name, "value": str(value)} for name, value in options.items()]
    section.tables.append(show_table(pd.DataFrame(rows), "Parameters of this comparison."))
    if preset := standing.read_preset_of(run_dir):
        rows = [{"parameter": name, "value": str(value)} for name, value in preset.items()]
        section.tables.append(show_table(pd.DataFrame(rows), "The preset, run.yaml."))
    elif parameters := {
        f"{arm}/{step}: {name}": value
        for (arm, step), found in status.steps_of(run_dir).items()
        for name, value in found.get("ingredients", {}).get("parameters", {}).items()
        if name not in (params.SWEEP, *keys.FILES)
    }:
        rows = [{"parameter": name, "value": str(value)} for name, value in parameters.items()]
        section.tables.append(show_table(pd.DataFrame(rows), "The parameters of each step."))


def _taken_over(run_dir: Path) -> list[str]:
    """Which steps were made once for several arms: what they hold twice is one measurement."""
    of_arm: dict[tuple[str, str], list[str]] = {}
    for (arm, step), found in status.steps_of(run_dir).items():
        if found.get("taken_from"):
            of_arm.setdefault((found["taken_from"], arm), []).append(step)
    arms_of: dict[tuple[str, str], list[str]] = {}
    for (source, arm), steps in of_arm.items():
        arms_of.setdefault((source, ", ".join(steps)), []).append(arm)
    return [
        f"Equal in {steps}, and so run once, in {source}, and taken over from there: {', '.join(arms)}."
        for (source, steps), arms in arms_of.items()
    ]


def _enter(made: dict[str, list[str]], facts: dict | None, step: str) -> None:
    if facts:
        steady = {name: value for name, value in facts.items() if name not in ("time_utc", "hardware")}
        made.setdefault(json.dumps(steady, sort_keys=True), []).append(step)


def _facts(facts: dict) -> list[tuple[str, str]]:
    rows = []
    for name, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {key}".strip(), "" if v is None else str(v)) for key, v in parts]
    return rows
