"""The parts of a report that show scores: each fills one section from a run's tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from tlskit.errors import RunError, TlskitError
from tlskit.evaluation import answers, comparison, costs, decision, reader_scores, reviewing
from tlskit.figures import charts, comparecharts
from tlskit.metrics import METHOD, published, training_note
from tlskit.study import report_reviewing, runs
from tlskit.study.report_page import Section, add_figure, add_table, show_table

__all__ = ["PARTS", "Asked", "answer"]


@dataclass(frozen=True)
class Asked:
    """What a report is asked for; the answer is made once for all parts."""

    run: runs.Run
    threshold_by: str
    slides: str
    batch_size: int
    draws: int
    margin: float
    usable: float
    manifest: str = ""

    @property
    def options(self) -> dict:
        """Of most functions of `tlskit.evaluation.comparison`."""
        return {"threshold_by": self.threshold_by, "slides": self.slides}

    @cached_property
    def answer(self) -> answers.Answer:
        return answers.answer(self.run.dir, margin=self.margin, usable=self.usable, **self.options)

    @cached_property
    def readers(self) -> pd.DataFrame:
        """Two people against each other; empty where there is no second reader."""
        return reader_scores.reader_table(self.run.dir, **self.options)


def answer(section: Section, asked: Asked) -> None:
    """Which arm is chosen, what the test patients say of each, what each finds and costs, what would change that."""
    run, front = asked.run, asked.answer.front
    section.text += [*asked.answer.words, reader_scores.in_words(asked.readers)]
    table = answers.answer_table(run.dir, front, slides=asked.slides)
    run.table(table, "answer")
    score = decision.score_word(front["score"].iloc[0])
    ends = [
        "undefined"
        if pd.isna(row.estimate)
        else f"{row.estimate:.3f}" + (" (no interval)" if pd.isna(row.low) else f" ({row.low:.3f} to {row.high:.3f})")
        for row in table.itertuples()
    ]
    names = {
        "n_found": "objects found per slide", "n_missed": "missed per slide", "false_per_slide": "false per slide",
        "false_per_empty_slide": "false per slide without target", "minutes": "minutes of the stated slide",
    }  # fmt: skip
    shown = table.assign(**{f"{score} (95 %)": ends}).rename(columns=names)
    shown = shown[["arm", "threshold", f"{score} (95 %)", *(name for name in names.values() if name in shown)]]
    timed = front[front["minutes"].notna()]
    caption = "At both thresholds, 0.5 and the one chosen on validation slides where there is one; objects match at an "
    caption += "IoU of 0.1."
    if len(timed):
        caption += f" Minutes: a slide of {timed['slide'].iloc[0]}, on {timed['hardware'].iloc[0]}."
    section.tables.append(show_table(shown, caption, folded=False))
    section.text.append(answers.changed_by_training(front))
    section.text.append(answers.changed_by_threshold(run.dir, front, margin=asked.margin, usable=asked.usable,
                                                     **asked.options))  # fmt: skip
    try:
        audited = comparison.audit(run.dir, batch_size=asked.batch_size, **asked.options)
        section.text.append(answers.changed_by_averaging(audited))
    except RunError as error:  # tables of tiles that an archive lacks do not take the answer away
        section.text.append(f"Averaging. Not available: {error}")
    section.text = [text for text in section.text if text]
    by = "validation" if decision.by_validation(front) else "test"
    cascades, readers = asked.answer.cascades, asked.readers
    caption = f"Quality on test patients against time. Ringed: what is chosen on {by} patients, where an arm is."
    if len(readers):
        caption += " Dotted: two people against each other."
    figure = comparecharts.pareto_front(front, cascades=cascades, readers=readers)
    add_figure(section, run, figure, "pareto", caption)
    run.table(front, "pareto")
    run.table(cascades, "cascades")
    if len(readers):
        caption = "Two people against each other, and the arms against the first of them, on the slides of both."
        add_table(section, run, readers, "readers", caption)
    if len(cascades):
        columns = ["arm", "estimate", "low", "high", "windows_share", "recall_kept", "recall_kept_low",
                   "recall_kept_high", "by", "minutes", "chosen", "share_chosen"]  # fmt: skip
        add_table(section, run, cascades, "cascades", "Cascades: the coarser network says where the finer one looks. "
                  "Scores of test patients; the share of the finer network's windows that is run, and of its recall "
                  "that is kept.", columns=columns)  # fmt: skip
    if len(chosen := asked.answer.on_validation):
        columns = ["arm", "estimate", "low", "high", "chosen", "share_chosen", "share_none"]
        columns = [*(["fold"] if chosen["fold"].notna().any() else []), *columns]
        add_table(section, run, chosen, "chosen_on_validation", "The choice: scores of the validation patients, and "
                  "how often another draw of them would choose so.", columns=columns)  # fmt: skip
        run.table(asked.answer.tested, "score_of_choice")


def table_one(section: Section, asked: Asked) -> None:
    run = asked.run
    table = comparison.table_one(run.dir, batch_size=asked.batch_size, **asked.options)
    section.text.append(
        "The paper's Table 1 for this cohort, beside the published one. How the paper averaged Dice and IoU was not "
        f"published: one reading is means over batches of {asked.batch_size} tiles in which a batch without target and "
        "prediction counts 1, the other means over tiles. Means over batches depend on the order of the rows; the "
        "last columns give the range over random orders (95 %). Pooled scores are of all pixels together. The best of "
        "a column is bold only where the rows are of the same pixels: tiles of another magnification hold another "
        "share of target."
    )
    figure = comparecharts.iou_by_magnification(
        comparison.iou_by_magnification(run.dir, batch_size=asked.batch_size, **asked.options)
    )
    add_figure(section, run, figure, "iou_by_magnification", "IoU by magnification, on tiles and on whole slides.")
    add_table(section, run, table, "table_one", "The seven scores.", bold=comparison.best_marks(table))


def cost(section: Section, asked: Asked) -> None:
    minutes = costs.minutes_per_slide(asked.run.dir)
    section.text.append(
        f"Minutes for one slide of {minutes['slide'].iloc[0]}, projected from {int(minutes['n_slides'].iloc[0])} timed "
        f"slide(s), on {minutes['hardware'].iloc[0]}."
    )
    add_figure(section, asked.run, comparecharts.minutes_bars(minutes), "minutes", "Minutes per slide.")
    columns = ["arm", "s_per_cm2", "minutes", "minutes_min", "minutes_max", "n_slides", "n_repeats", "engine"]
    add_table(section, asked.run, minutes, "minutes", "Seconds per cm2 of tissue, and minutes.", columns=columns)


def intervals(section: Section, asked: Asked) -> None:
    run = asked.run
    table = comparison.intervals(run.dir, **asked.options)
    apart = comparison.differences(run.dir, **asked.options)
    text = METHOD[0].upper() + METHOD[1:]
    section.text.append(
        f"{text}; docs/coverage.md has how often they hold the truth. A difference between two arms is more certain "
        "than their two intervals suggest, because hard patients are hard for both. A difference is called shown where "
        "the interval that holds for all pairs at once (Bonferroni) excludes 0."
    )
    if (table["n_repeats"] <= 1).all():
        section.text.append(training_note(int(table["n_folds"].max())))
    elif (table["spread"] == "other arms").any():
        once = ", ".join(dict.fromkeys(table.loc[table["n_repeats"] == 1, "arm"]))
        section.text.append(
            f"Trained once: {once}. Their intervals hold the mean spread between the others' trainings."
        )
    section.text += [f"Caution: {w}." for w in table["warning"].dropna().unique() if w]
    caption = "Scores on the common grid with 95 % intervals."
    add_figure(section, run, comparecharts.score_intervals(table), "intervals", caption)
    add_figure(section, run, comparecharts.difference_intervals(apart), "differences", "Differences between arms.")
    columns = ["arm", "score", "estimate", "low", "high", "se", "df", "n_repeats", "repeat_sd", "spread", "n_patients",
               "n_with_target"]  # fmt: skip
    add_table(section, run, table, "intervals", "Scores.", columns=columns)
    columns = ["first", "second", "score", "difference", "low", "high", "low_all", "high_all", "shown"]
    if len(apart):
        add_table(section, run, apart, "differences", "Differences, first minus second.", columns=columns)


def grid(section: Section, asked: Asked) -> None:
    table = comparison.grid_table(asked.run.dir, **asked.options)
    section.text.append(
        "Every arm's probabilities, brought to the same physical pixels and scored against outlines drawn there once, "
        "in the same tissue and target. The bar is what the outlines themselves score when drawn at that "
        "magnification; probabilities that are shares of area can pass it."
    )
    if "share_target_outside_tissue" in table and table["share_target_outside_tissue"].isna().all():
        section.text.append("The slides hold no target: no score is defined.")
    elif "share_target_outside_tissue" in table:
        share = table["share_target_outside_tissue"].max()
        told = (
            f"{share:.1%} of the target lies where no tissue was found. It is counted: what an arm does not mark there "
        )
        section.text.append(f"{'Caution: ' if share > 0.01 else ''}{told}is missed.")
    elif len(table):
        section.text.append("Caution: this archive does not say how much target lies where no tissue was found, and "
                            "does not count it.")  # fmt: skip
    figure = comparecharts.ceilings(table, readers=asked.readers)
    add_figure(section, asked.run, figure, "grid", "IoU on the common grid.")
    add_table(section, asked.run, table, "grid", "Scores on the common grid.")


def averaging(section: Section, asked: Asked) -> None:
    run = asked.run
    table = comparison.audit(run.dir, batch_size=asked.batch_size, **asked.options)
    winners = comparison.audit_winners(table)
    section.text.append(
        "The same predictions, averaged in every way. Each row is a point estimate: which arm it names is no proof "
        "that the arm is better."
    )
    run.table(table, "audit")
    run.table(winners, "audit_winners")
    caption = "IoU under every pooling and rule for empty units."
    add_figure(section, run, comparecharts.audit_chart(table), "audit", caption)
    wide = winners.pivot_table(index=["level", "pooling"], columns="empty", values="iou", aggfunc="first", sort=False)
    wide = wide.rename(columns=lambda rule: f"empty: {rule}").reset_index()
    section.tables.append(
        show_table(wide, "The arm with the highest IoU, by pooling and by what an empty unit counts.")
    )


def objects(section: Section, asked: Asked) -> None:
    run = asked.run
    table = comparison.object_table(run.dir, **asked.options)
    section.text.append("Objects are post-processed in um, in the same way at every magnification.")
    caption = "Recall by size, precision, and false objects."
    add_figure(section, run, comparecharts.object_recall(table), "objects", caption)
    columns = ["arm", "rule", "n_truth", "n_predicted", "n_found", "recall", "precision", "f1",
               "false_objects_per_slide", "false_objects_per_cm2"]  # fmt: skip
    add_table(section, run, table, "objects", "Objects found, by rule of matching.", columns=columns)
    points = comparison.agreement_points(run.dir, **asked.options)
    caption = "Area of objects of each patient, predicted against true."
    add_figure(section, run, comparecharts.agreement(points), "agreement", caption)
    agreed = comparison.agreement_table(run.dir, **asked.options)
    add_table(section, run, agreed, "agreement", "Number and area of objects of each patient, predicted minus true.")
    for make in (report_reviewing.shapes, report_reviewing.froc, report_reviewing.without_target):
        try:
            make(section, run, asked.options)
        except TlskitError as error:
            section.text.append(f"Not available: {error}")


def thresholds(section: Section, asked: Asked) -> None:
    run = asked.run
    table = comparison.threshold_table(run.dir, slides=asked.slides)
    section.text.append(
        "Whole slides, all pixels pooled, at 0.5 and, where one was chosen on validation slides, at that threshold. A "
        "curve of precision and recall ends where the stored probabilities do: what is stored as the highest value is "
        "one point, however much of the target it is. So arms are not ranked by the area under it."
    )
    chosen = table[table["threshold_by"] == "validation"].set_index("arm")["threshold"].to_dict()
    figure = charts.pr_curves(comparison.pr_curves(run.dir, slides=asked.slides), chosen=chosen or None)
    add_figure(section, run, figure, "pr_curves", "Precision and recall over all thresholds.")
    calibrated = comparison.calibration(run.dir, slides=asked.slides)
    run.table(calibrated, "calibration")
    caption = (
        "Calibration inside tissue; the error is of the pixels above the lowest bin, which is nearly all background."
    )
    add_figure(section, run, charts.calibration_curves(calibrated), "calibration", caption)
    columns = ["arm", "threshold_by", "threshold", "dice", "iou", "recall", "precision", "specificity", "mcc"]
    add_table(section, run, table, "thresholds", "Scores at both thresholds.", columns=columns)


def published_table(section: Section, asked: Asked) -> None:
    run, table = asked.run, published.audit_published_table()
    section.text.append(
        f"{published.SOURCE}: the printed MCC follows from the printed precision, recall and specificity in all rows; "
        "printed Dice and IoU do not. They are means over some unit. Which, was not published: over tiles fits the "
        "printed numbers better than over batches (Dice and IoU lie 0.04 apart at 1x, where one unit would have them "
        "0.17 apart)."
    )
    figure = comparecharts.published_audit_chart()
    add_figure(section, run, figure, "published_audit", "Printed and implied scores.")
    columns = ["level", "magnification"]
    columns += [f"{score}_{kind}" for score in ("dice", "iou", "mcc") for kind in ("printed", "implied")]
    add_table(
        section, run, table, "published_audit", "Printed scores, and those that the printed rates imply.",
        columns=columns,
    )  # fmt: skip


def subgroups(section: Section, asked: Asked) -> None:
    table = reviewing.subgroups(asked.run.dir, **asked.options)
    if table.empty:
        section.text.append("All test slides are of one cancer type, and the archive names no sites.")
        return
    report_reviewing.subgroups(section, asked.run, table)


def numbers(section: Section, asked: Asked) -> None:
    """How stable the choice is, how many patients another study would take, and how the arms were trained."""
    run = asked.run
    shares = comparison.share_best(run.dir, draws=asked.draws, **asked.options)
    if len(shares) > 1 and shares["share_best"].notna().any():
        listed = ", ".join(f"{row.arm} {row.share_best:.0%}" for row in shares.itertuples())
        section.text.append(
            f"Of {asked.draws:,} cohorts drawn from these patients (with replacement), the highest IoU is that of: "
            f"{listed}. This is how firm the order of the point estimates is, and no probability that an arm is best."
        )
        run.table(shares, "share_best")
    needed = reviewing.needed(run.dir, **asked.options)
    caption = "Test patients (such as these) that another study would take, by the standard errors found here."
    add_table(section, run, needed, "patients_needed", caption)


def worst(section: Section, asked: Asked) -> None:
    """Where the arms fail, as pictures."""
    report_reviewing.worst(section, asked.run, asked.manifest, asked.options)


def training(section: Section, asked: Asked) -> None:
    """How long each network was trained, and which epoch was kept."""
    report_reviewing.training(section, asked.run)


#: Titles and makers, in the order of the page.
PARTS = (
    ("How sure the scores are", intervals), ("One common grid", grid), ("Objects found, missed and false", objects),
    ("The worst slides and fields", worst),
    ("Cancer types and sites", subgroups), ("What it costs", cost), ("How firm the choice is", numbers),
    ("Thresholds and calibration", thresholds), ("How the way of averaging decides", averaging),
    ("Scores by magnification", table_one), ("How the arms were trained", training),
    ("The published table, audited", published_table),
)  # fmt: skip
