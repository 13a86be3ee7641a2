"""The parts of a report that reviewers ask for: shapes, thresholds of objects, empty slides, subgroups, training."""

from __future__ import annotations

import pandas as pd

from tlskit import cohort, figures
from tlskit.errors import RunError, TlskitError
from tlskit.evaluation import fields, reviewing
from tlskit.study import runs
from tlskit.study.report_page import Section, add_figure, add_table
from tlskit.units import counted

__all__ = ["froc", "shapes", "subgroups", "training", "without_target", "worst"]

#: Slides or fields of one figure, so that it fits a page.
_A_FIGURE = 5


def shapes(section: Section, run: runs.Run, options: dict) -> None:
    """How well objects are drawn."""
    table = reviewing.shapes(run.dir, **options)
    names = {
        "object_dice": "Dice of a found object (median)", "object_dice_all": "Dice of all objects (mean, missed 0)",
        "surface_mean_um": "boundary distance, um (median)", "surface_95_um": "its 95 % quantile, um",
        "nsd_20_um": "share within 20 um", "nsd_50_um": "within 50 um", "nsd_100_um": "within 100 um",
        "n_split": "objects split", "n_merged": "objects merged",
    }  # fmt: skip
    caption = (
        "How well true objects are drawn. Boundaries are those of the grid's pixels; a distance is known to one pixel."
    )
    add_table(section, run, table, "shapes", caption, names=names)


def froc(section: Section, run: runs.Run, options: dict) -> None:
    """Recall against false objects over thresholds."""
    table = reviewing.froc(run.dir, slides=options["slides"])
    caption = "Objects found against false objects per mm2 of tissue, over thresholds."
    add_figure(section, run, figures.froc(table), "froc", caption)
    add_table(section, run, table, "froc", "Recall and false objects at each threshold.")


def without_target(section: Section, run: runs.Run, options: dict) -> None:
    """What arms mark where there is nothing to mark."""
    table = reviewing.without_target(run.dir, **options)
    if table.empty:
        section.text.append("Every test slide holds a target: what the arms mark on slides without one is not known.")
        return
    first = table.iloc[0]
    section.text.append(
        f"{counted(first['n_slides'], 'test slide')} of {counted(first['n_patients'], 'patient')} without target: "
        "everything marked there is false."
    )
    names = {"n_clean": "slides with nothing marked"}
    add_table(section, run, table, "slides_without_target", "Slides without target.", names=names)


def subgroups(section: Section, run: runs.Run, table: pd.DataFrame) -> None:
    """Scores by group with their intervals, and each arm's worst group."""
    worst = table[table["worst"]]
    for by, rows in worst.groupby("by", sort=False):
        listed = "; ".join(f"{row.arm}: {row.group} {row.estimate:.3f} ({row.low:.3f} to {row.high:.3f}), "
                           f"{row.n_with_target} patients with a target" for row in rows.itertuples())  # fmt: skip
        section.text.append(f"Lowest IoU by {by.replace('_', ' ')}, among groups of three or more patients with a "
                            f"target: {listed}.")  # fmt: skip
    if worst.empty:
        section.text.append("No group has three patients with a target: none is called the worst.")
    section.text.append("The intervals of groups are each on their own; the cohort was not planned to compare them.")
    figure = figures.subgroup_intervals(table, score="iou")
    add_figure(section, run, figure, "subgroups", "IoU of each group with its own 95 % interval.")
    add_table(section, run, table, "subgroups", "IoU on the common grid by group.")


def training(section: Section, run: runs.Run) -> None:
    """Loss and validation score of each training."""
    table = reviewing.training_curves(run.dir)
    keys = [c for c in ("arm", "seed", "fold", "split_seed") if c in table]
    last = table.groupby(keys, sort=False, dropna=False).agg(
        epochs=("epoch", "max"), steps=("steps", "max"), last_train_loss=("train_loss", "last"),
        last_val_loss=("val_loss", "last"), highest_val_iou=("val_iou", "max"),
    )  # fmt: skip
    named = table.assign(arm=table[keys].apply(_training_name, axis=1)) if keys[1:] else table
    caption = "Loss and validation IoU of every training, by the optimiser's steps; the epoch that was kept is marked."
    add_figure(section, run, figures.training_history(named, x="steps"), "training_curves", caption)
    kept = table[table["best"].astype(bool)].groupby(keys, sort=False, dropna=False)["epoch"].last()
    run.table(table, "training_curves")
    add_table(
        section, run, last.join(kept.rename("epoch_kept")).reset_index(), "trainings",
        "Each training: its length, its losses, and the epoch whose network was kept.",
    )  # fmt: skip


def _training_name(row: pd.Series) -> str:
    """An arm with what tells its trainings apart: ``4x, seed 1``."""
    parts = [f"{name} {value:g}" for name, value in row.items() if name != "arm" and pd.notna(value)]
    return ", ".join([row["arm"], *parts])


def worst(section: Section, run: runs.Run, manifest: str, options: dict) -> None:
    """The slides and objects on which the arms are most wrong, and their pictures in all arms.

    Parameters
    ----------
    section, run
        Of the report.
    manifest
        Path of the cohort's manifest; empty where it is not known.
    options
        threshold_by, slides.
    """
    slides, missing = fields.worst_slides(run.dir, **options), []
    try:
        objects = fields.worst_objects(run.dir, **options)
    except TlskitError as error:
        objects = pd.DataFrame(columns=["kind"])
        missing.append(str(error).rstrip("."))
    section.text.append(
        "The slides with the largest area that is missed or falsely marked (mean of the arms), and the largest true "
        "objects missed and false objects found, those of most arms first. Every row is one field, the same in all "
        "arms; pictures show all that a network marks, also what is too small to be an object or lies on glass."
    )
    shown = {"worst_slides": slides, "missed": objects[objects["kind"] == "missed"],
             "false_alarms": objects[objects["kind"] == "false alarm"]}  # fmt: skip
    captions = {"worst_slides": "The worst slides", "missed": "The largest true objects that arms missed",
                "false_alarms": "The largest false objects"}  # fmt: skip
    try:
        if not manifest:
            raise RunError("the run does not say which manifest its cohort has")
        rows = cohort.read_manifest(manifest)
        for name, table in shown.items():
            for first in range(0, len(table), _A_FIGURE):
                panels, lost = fields.pictures(
                    run.dir, rows, table.iloc[first : first + _A_FIGURE], threshold_by=options["threshold_by"]
                )
                missing += lost
                if panels:
                    number = f"_{first // _A_FIGURE + 1}" if len(table) > _A_FIGURE else ""
                    figure = figures.worst_fields(panels)
                    add_figure(section, run, figure, f"{name}{number}", f"{captions[name]}, in all arms.")
    except TlskitError as error:
        missing.append(str(error).rstrip("."))
    if missing:
        section.text.append(f"Pictures are missing: {'; '.join(dict.fromkeys(missing))}.")
    add_table(section, run, slides, "worst_slides", "The worst slides, by area missed and falsely marked.")
    add_table(section, run, objects, "worst_objects", "The largest objects missed, and false ones.")
