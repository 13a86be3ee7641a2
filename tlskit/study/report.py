"""``compare/`` of a run, rebuilt from its archive: tables, figures, and one page that needs nothing else to be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from tlskit.errors import ComparisonError, ParameterError, RunError, TlskitError
from tlskit.evaluation import arms, check_arms, collect, comparison, costs
from tlskit.figures import charts, comparecharts, same, set_theme
from tlskit.files import write_text
from tlskit.metrics import published
from tlskit.study import keys, runs, standing
from tlskit.study.ledger import Rebuilding
from tlskit.study.report_page import Section, add_figure, add_table, html_table, print_pdf, render

__all__ = ["write_report"]

log = logging.getLogger(__name__)


def write_report(
    run: str | Path | runs.Run,
    *,
    threshold_by: str = "fixed",
    batch_size: int = 8,
    draws: int = 10_000,
    slides: str = "same",
    compare_arms: str = "all",
    pdf: bool = True,
) -> Path:
    """Rebuild the comparison of a run's arms from their tables, and write it as one HTML page.

    Tables and figures go to ``compare/tables`` and ``compare/figures``, the page to ``compare/report.html`` (images
    inside, no network), and to ``compare/report.pdf`` where a browser is installed that can print it. No slide, map or
    model is opened. A part whose tables are missing says so; the others are made.

    Parameters
    ----------
    run
        What `runs.open_run` returned in the notebook of the comparison; or the folder of a run, whose comparison is
        made again.
    threshold_by
        ``fixed`` or ``validation``.
    batch_size
        Of the poolings by batch.
    draws
        Of the bootstrap.
    slides
        Of `tlskit.evaluation.arm_tables.check_arms`.
    compare_arms
        Of `standing.choose_arms`, where a folder is given: refuse (``all``) or leave out (``ready``) arms that are
        missing, failed or out of date.
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
    if draws < 1 or batch_size < 1:
        raise ParameterError(f"`draws` and `batch_size` should be at least 1, not {draws} and {batch_size}.")
    opened = isinstance(run, runs.Run)
    run_dir = run.dir if opened else Path(run)
    if not opened:
        standing.choose_arms(run_dir, compare_arms)
        options = {"bootstrap_draws": draws, "compare_slides": slides, "compare_arms": compare_arms}
        rebuilding = Rebuilding(run_dir, options | ({"threshold_by": threshold_by} if threshold_by != "fixed" else {}))
        folder, step = run_dir / keys.COMPARE_ARM, keys.COMPARE
        run = runs.Run(run_dir, folder, keys.COMPARE_ARM, step, _caption(run_dir), rebuilding)
    stands_on = check_arms(run_dir, slides=slides)
    set_theme(arms=stands_on["arm"])
    options = {"threshold_by": threshold_by, "slides": slides}
    makers: list[tuple[str, Callable[[Section], None]]] = [
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
        section = Section(title)
        try:
            make(section)
        except ComparisonError:
            raise
        except TlskitError as error:
            log.warning("Report, %s: %s", title, error)
            section.text.append(f"Not available: {error}")
        sections.append(section)
    page = run.arm_dir / "report.html"
    write_text(page, render(run, sections))
    if pdf:
        print_pdf(page, page.with_suffix(".pdf"))
    for path in (page, page.with_suffix(".pdf")):
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


def _answer(section: Section, run: runs.Run, options: dict, draws: int, batch_size: int) -> None:
    section.text.append(costs.choice(costs.pareto(run.dir, draws=draws, **options)))
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


def _cohort(section: Section, run: runs.Run, stands_on: pd.DataFrame) -> None:
    section.text.append(
        f"{same(stands_on['n_slides'])} test slides of {same(stands_on['n_patients'])} patients, the "
        f"same in all {len(stands_on)} arms. An arm is a model trained and run at one magnification (10x is 1 um per "
        "pixel)."
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
            add_table(
                section, run, table.loc[order].reset_index(), "patients_by_split", "Patients by set and cancer type."
            )
    add_table(section, run, stands_on, "arms", "What each arm's test stands on.")


def _table_one(section: Section, run: runs.Run, options: dict, batch_size: int) -> None:
    table = comparison.table_one(run.dir, batch_size=batch_size, **options)
    section.text.append(
        "The paper's Table 1 for this cohort, beside the published one. Dice and IoU averaged as published are "
        f"means over batches of {batch_size} tiles in which a batch without target and prediction counts 1; pooled "
        "scores are of all pixels together. Best of each column in bold, within each block."
    )
    add_table(section, run, table, "table_one", "", bold_within=["source", "level", "pooling"])
    figure = comparecharts.iou_by_magnification(
        comparison.iou_by_magnification(run.dir, batch_size=batch_size, **options)
    )
    add_figure(section, run, figure, "iou_by_magnification", "IoU by magnification, on tiles and on whole slides.")


def _cost(section: Section, run: runs.Run, options: dict, draws: int) -> None:
    minutes = costs.minutes_per_slide(run.dir)
    front = costs.pareto(run.dir, draws=draws, **options)
    caption = "Quality on the common grid against time; dashed: no other arm is both better and faster."
    add_figure(section, run, comparecharts.pareto_front(front), "pareto", caption)
    run.table(front, "pareto")
    add_table(section, run, minutes, "minutes", "Minutes per slide; hardware is listed under Provenance.")
    add_figure(section, run, comparecharts.minutes_bars(minutes), "minutes", "Minutes per slide.")


def _intervals(section: Section, run: runs.Run, options: dict, draws: int) -> None:
    table = comparison.intervals(run.dir, draws=draws, **options)
    apart = comparison.differences(run.dir, draws=draws, **options)
    section.text.append(
        f"Whole patients were drawn again {draws:,} times, the same ones for every arm. A difference between "
        "two arms is more certain than their two intervals suggest, because hard patients are hard for both."
    )
    section.text += [f"Caution: {w}." for w in table["warning"].dropna().unique() if w]
    add_figure(
        section,
        run,
        comparecharts.score_intervals(table),
        "intervals",
        "Scores on the common grid with 95 % intervals.",
    )
    add_figure(section, run, comparecharts.difference_intervals(apart), "differences", "Differences between arms.")
    add_table(section, run, table, "intervals", "")
    add_table(section, run, apart, "differences", "")


def _grid(section: Section, run: runs.Run, options: dict) -> None:
    table = comparison.grid_table(run.dir, **options)
    section.text.append(
        "Every arm's probabilities, brought to the same physical pixels and scored against outlines drawn there once, "
        "inside the same tissue. The ceiling is what the outlines themselves reach when drawn at that magnification."
    )
    add_figure(section, run, comparecharts.ceilings(table), "grid", "IoU and its ceiling on the common grid.")
    add_table(section, run, table, "grid", "")


def _audit(section: Section, run: runs.Run, options: dict, batch_size: int) -> None:
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
    add_figure(
        section, run, comparecharts.audit_chart(table), "audit", "IoU under every pooling and rule for empty units."
    )
    run.table(winners, "audit_winners")
    wide = winners.pivot_table(index=["level", "pooling"], columns="empty", values="iou", aggfunc="first", sort=False)
    wide = wide.rename(columns=lambda rule: f"empty: {rule}").reset_index()
    section.tables.append(html_table(wide, "The arm with the best IoU, by pooling and by what an empty unit counts."))


def _objects(section: Section, run: runs.Run, options: dict) -> None:
    table = comparison.object_table(run.dir, **options)
    agreed = comparison.agreement_table(run.dir, **options)
    section.text.append("Objects are post-processed in um, in the same way at every magnification.")
    add_figure(
        section, run, comparecharts.object_recall(table), "objects", "Recall by size, precision, and false objects."
    )
    add_table(section, run, table, "objects", "")
    of_slides = collect(run.dir, "05_objects_per_slide")
    of_slides = of_slides[of_slides["threshold_by"] == options["threshold_by"]]
    if "split" in of_slides:
        of_slides = of_slides[of_slides["split"] != "val"]  # counted too, for the choice of an arm
    caption = "Area of objects of each slide, predicted against true."
    add_figure(section, run, comparecharts.agreement(of_slides), "agreement", caption)
    add_table(section, run, agreed, "agreement", "")


def _thresholds(section: Section, run: runs.Run, slides: str) -> None:
    table = comparison.threshold_table(run.dir, slides=slides)
    section.text.append(
        "Whole slides, all pixels pooled, at 0.5 and, where one was chosen on validation slides, at that threshold."
    )
    add_table(section, run, table.drop(columns="threshold_by"), "thresholds", "")
    chosen = table[table["threshold_by"] == "validation"].set_index("arm")["threshold"].to_dict()
    figure = charts.pr_curves(comparison.pr_curves(run.dir, slides=slides), chosen=chosen or None)
    add_figure(section, run, figure, "pr_curves", "Precision and recall over all thresholds.")
    calibrated = comparison.calibration(run.dir, slides=slides)
    run.table(calibrated, "calibration")
    add_figure(section, run, charts.calibration_curves(calibrated), "calibration", "Calibration inside tissue.")


def _published(section: Section, run: runs.Run) -> None:
    table = published.audit_published_table()
    section.text.append(
        f"{published.SOURCE}: the printed MCC follows from the printed precision, recall and specificity in all rows; "
        "printed Dice and IoU do not. They are means over batches or tiles; on whole slides the two are nearly equal, "
        "which happens when most of what is averaged counts 1, as an empty batch does by convention."
    )
    add_figure(section, run, comparecharts.published_audit_chart(), "published_audit", "Printed and implied scores.")
    columns = ["level", "magnification"]
    columns += [f"{score}_{kind}" for score in ("dice", "iou", "mcc") for kind in ("printed", "implied")]
    run.table(table, "published_audit")
    section.tables.append(html_table(table[columns], "Printed scores, and those that the printed rates imply."))


def _failures(section: Section, run_dir: Path) -> None:
    status = runs.read_status(run_dir)
    failed = status[status["status"].isin(["failed", "blocked"])]
    if failed.empty:
        section.text.append("Nothing is noted in status.csv.")
    else:
        section.tables.append(html_table(failed[["arm", "step", "slide_id", "status", "reason"]], "From status.csv."))


def _provenance(section: Section, run_dir: Path) -> None:
    path = run_dir / "provenance.json"
    if not path.is_file():
        raise RunError("the run has no provenance.json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [{"what": f"{name} {key}".strip(), "value": "" if v is None else str(v)} for key, v in parts]
    section.tables.append(html_table(pd.DataFrame(rows), "What made the numbers."))
    if (run_dir / "run.yaml").is_file():
        preset = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8")) or {}
        rows = [{"parameter": name, "value": str(value)} for name, value in preset.items()]
        section.tables.append(html_table(pd.DataFrame(rows), "The preset, run.yaml."))
