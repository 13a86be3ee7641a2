"""The answer of a comparison: its first table, and what would change it, each with the figure that shows it.

From the archive alone, like `tlskit.evaluation.comparison`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, RunError, TlskitError
from tlskit.evaluation import arm_tables, cascade_arms, comparison, costs, decision, reviewing, validation_choice
from tlskit.evaluation.arm_tables import ARM
from tlskit.metrics import training_note

__all__ = [
    "Answer",
    "answer",
    "answer_table",
    "changed_by_averaging",
    "changed_by_threshold",
    "changed_by_training",
    "missing_arms",
]


class Answer(NamedTuple):
    """Which arm is chosen, and what the test patients say of it and of the others."""

    #: Of `tlskit.evaluation.costs.pareto`; `chosen` is the choice made on validation where there is one. With
    #: chosen_by (``validation``, ``test``), chosen_on_test, share_chosen (of the draws; nan without such a choice).
    front: pd.DataFrame
    #: Of `tlskit.evaluation.validation_choice`; empty where the choice is by test patients, and where none is chosen.
    on_validation: pd.DataFrame
    tested: pd.DataFrame
    #: The choice and its test score first, then what cascades would change of it, then what the test patients alone
    #: show.
    words: list[str]
    #: Of `tlskit.evaluation.cascade_arms`; empty where the run has none that spares windows.
    cascades: pd.DataFrame = pd.DataFrame()


def answer(run_dir: str | Path, *, draws: int = 200, **options) -> Answer:
    """The answer of a run: chosen on validation patients, reported on test patients.

    An archive without validation slides on the common grid (one of before they were counted), or one whose arms lack
    some of them, is answered by its test patients alone, and `words` says so.

    Parameters
    ----------
    run_dir
        Folder of the run.
    draws
        Of `tlskit.evaluation.validation_choice.chosen_on_validation`.
    **options
        Of `tlskit.evaluation.costs.pareto`: score, pooling, threshold_by, margin, usable, slides.

    Raises
    ------
    ComparisonError
        If the test slides of the arms cannot be compared.
    LeakageError
        If a patient is in validation and test.
    """
    front = costs.pareto(run_dir, **options)
    missing = missing_arms(run_dir, front)
    of_test = {"chosen_by": "test", "chosen_on_test": front["chosen"], "share_chosen": np.nan}
    if len(front) < 2:
        return Answer(front.assign(**of_test), pd.DataFrame(), pd.DataFrame(), [decision.choice(front, missing)])
    try:
        chosen = validation_choice.chosen_on_validation(run_dir, draws=draws, **options)
    except (RunError, ComparisonError) as error:
        words = [decision.choice(front, missing)]
        if front["chosen"].any():
            words.append(
                "This choice is by the same test patients as the scores, and a score by which an arm was chosen is too "
                f"high as a rule. No choice on validation: {error}"
            )
        return _with_cascades(
            Answer(front.assign(**of_test), pd.DataFrame(), pd.DataFrame(), words), run_dir, draws, options
        )
    tested = validation_choice.score_of_choice(run_dir, chosen, slides=options.get("slides", "same"))
    of_validation = {
        "chosen": front["arm"].isin(chosen.loc[chosen["chosen"], "arm"]),
        "chosen_by": "validation",
        "share_chosen": front["arm"].map(chosen.groupby("arm")["share_chosen"].mean()).astype(float),
    }
    front = front.assign(**of_test | of_validation)
    words = [validation_choice.in_words(chosen, tested), decision.choice(front, missing)]
    return _with_cascades(Answer(front, chosen, tested, words), run_dir, draws, options)


def _with_cascades(found: Answer, run_dir: str | Path, draws: int, options: dict) -> Answer:
    """The answer, with what the cascades of the run would change of it."""
    beside = cascade_arms.cascades_beside(run_dir, found.front, draws=draws, **options)
    words = [found.words[0], *([beside.words] if beside.words else []), *found.words[1:]]
    return found._replace(words=words, cascades=beside.table)


def missing_arms(run_dir: str | Path, front: pd.DataFrame) -> dict[str, str]:
    """Arms of the run that are not in the answer, each with the reason."""
    path = Path(run_dir) / "compare" / "left_out.csv"
    missing = {}
    if path.is_file():
        left_out = pd.read_csv(path, dtype=str, keep_default_na=False)
        missing = {row.arm: f"{row.state}, {row.why}".strip(", ").rstrip(".") for row in left_out.itertuples()}
    for variant in dict.fromkeys(arm_tables.arms(run_dir)["variant"]):
        if variant not in set(front["arm"]):
            missing[variant] = "it has no counts on the common grid"
    return missing


def answer_table(run_dir: str | Path, front: pd.DataFrame, *, slides: str = "same") -> pd.DataFrame:
    """What each arm scores, finds, misses, falsely finds, and costs.

    Parameters
    ----------
    run_dir
        Folder of the run.
    front
        Of `tlskit.evaluation.costs.pareto`.
    slides
        Of `tlskit.evaluation.arm_tables.check_arms`.

    Returns
    -------
    DataFrame
        arm, threshold_by, threshold, estimate, low, high (of the score of `front`, at this rule), n_found, n_missed
        (objects of a slide, mean; rule iou10), false_per_slide, false_per_empty_slide (nan: no slide is without
        target), minutes (of a slide of the stated size): one row an arm and rule of threshold.
    """
    score, on, pooling = (front[c].iloc[0] for c in ("score", "on", "pooling"))
    rows = []
    for rule in _rules(run_dir, front):
        options = {"threshold_by": rule, "slides": slides}
        table = comparison.intervals(run_dir, on=on, scores=[score], pooling=pooling, **options)
        counts = arm_tables.test_counts(run_dir, comparison.BOOTSTRAPPED[on], **options)
        table["threshold"] = table["arm"].map(counts.groupby("arm")["threshold"].mean())
        table = table[[*ARM, "threshold_by", "threshold", "estimate", "low", "high"]]
        try:
            found = comparison.object_table(run_dir, rules=["iou10"], **options).set_index("arm")
            empty = reviewing.without_target(run_dir, **options)
        except TlskitError:
            rows.append(table)
            continue
        by_arm = table["arm"]
        table["n_found"] = by_arm.map(found["n_found"] / found["n_slides"])
        table["n_missed"] = by_arm.map((found["n_truth"] - found["n_found"]) / found["n_slides"])
        table["false_per_slide"] = by_arm.map(found["false_objects_per_slide"])
        of_empty = empty.set_index("arm")["false_objects_per_slide"] if len(empty) else pd.Series(dtype=float)
        table["false_per_empty_slide"] = by_arm.map(of_empty).astype(float)
        rows.append(table)
    table = pd.concat(rows, ignore_index=True)
    if front["minutes"].notna().any():
        table["minutes"] = table["arm"].map(front.set_index("arm")["minutes"])
    return table


def changed_by_training(front: pd.DataFrame) -> str:
    """What another training would change: the spread between those that there are, or that nobody knows."""
    score = decision.score_word(front["score"].iloc[0])
    several = front[front["n_repeats"] > 1]
    if several.empty:
        return f"Training. {training_note(int(front['n_folds'].max()))}"
    each = "; ".join(f"{row.arm} {row.repeat_sd:.3f} ({row.n_repeats} trainings)" for row in several.itertuples())
    single = front.loc[front["n_repeats"] <= 1, "arm"].tolist()
    text = f"Training. Standard deviation of the {score} between trainings of one arm: {each}. The intervals hold it."
    return text + (f" Trained once, with the mean spread of the others: {', '.join(single)}." if single else "")


def changed_by_threshold(run_dir: str | Path, front: pd.DataFrame, **options) -> str:
    """What the other rule for the threshold would change; `front` and `options` of `answer`."""
    rules = _rules(run_dir, front)
    if front["estimate"].isna().all():
        return "Threshold. There is no target: another threshold changes only what is falsely marked."
    if len(rules) < 2:
        return "Threshold. The arms were counted at one threshold only: what another would change is not known."
    other = answer(run_dir, draws=0, **options | {"threshold_by": rules[1]}).front
    counts = arm_tables.test_counts(run_dir, "05_grid_counts", rules[1], options.get("slides", "same"))
    at = counts.groupby("arm")["threshold"].mean()
    then = front.set_index("arm")["estimate"]
    each = "; ".join(
        f"{row.arm} {then.get(row.arm, np.nan):.3f} to {row.estimate:.3f} (at {at[row.arm]:.2f})"
        for row in other.itertuples()
    )
    names = {"fixed": "the fixed threshold", "validation": "the thresholds chosen on validation slides"}
    kept = [", ".join(table.loc[table["in_set"], "arm"]) for table in (front, other)]
    chosen = [", ".join(table.loc[table["chosen"], "arm"]) or "none" for table in (front, other)]
    text = f"Threshold. At {names[rules[1]]} the {decision.score_word(front['score'].iloc[0])} goes from {each}."
    if kept[0] == kept[1] and chosen[0] == chosen[1]:
        return f"{text} What is shown, and what is chosen, stays the same."
    return (
        f"{text} Not shown to be worse than the best: {kept[1]} (above: {kept[0]}); chosen: {chosen[1]} (above: "
        f"{chosen[0]})."
    )


def changed_by_averaging(audited: pd.DataFrame) -> str:
    """Whether another way of averaging would name another arm, level by level; `audited` of `comparison.audit`."""
    if audited["arm"].nunique() < 2:
        return ""
    winners, parts = comparison.audit_winners(audited), []
    for level, name in (("wsi", "whole slides"), ("tile", "tiles")):
        of_level = winners[(winners["level"] == level) & (winners["iou"] != "undefined")]
        answers = of_level["iou"].value_counts()
        if len(answers) == 1:
            parts.append(f"on {name}, all {len(of_level)} ways to average name {answers.index[0]}")
        elif len(answers):
            listed = ", ".join(f"{arm} in {n}" for arm, n in answers.items())
            parts.append(f"on {name}, of {len(of_level)} ways to average, the highest IoU is that of {listed}")
    text = "; ".join(parts)
    return f"Averaging. By point estimates alone (no way says how sure it is): {text}." if text else ""


def _rules(run_dir: str | Path, front: pd.DataFrame) -> list[str]:
    """The rule of the answer first, then the other one where the archive has it."""
    first = front["threshold_by"].iloc[0]
    table = comparison.BOOTSTRAPPED[front["on"].iloc[0]]
    return [first, *(rule for rule in arm_tables.collect(run_dir, table)["threshold_by"].unique() if rule != first)]
