"""The arm chosen on validation patients, its test score reported once, and how firm that choice is.

An arm chosen by its test score has been lucky there as a rule: the score that it is then reported with is too high. So
the rule of `tlskit.evaluation.decision` is put to the validation rows of the common grid; test rows are read after
that, of the chosen arm alone. A run with folds chooses inside each fold, and the score is of all folds' test patients
together, each by the arm that its own fold chose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, RunError
from tlskit.evaluation.arm_tables import ARM, check_arms, collect, of_split, test_counts
from tlskit.evaluation.costs import minutes_per_slide
from tlskit.evaluation.decision import decide, score_word
from tlskit.metrics import bootstrap, uncertainty

__all__ = ["chosen_on_validation", "in_words", "score_of_choice", "validation_counts"]

_TABLE = "05_grid_counts"


def validation_counts(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """Counts of the validation slides on the common grid, all arms and trainings.

    Raises
    ------
    RunError
        If the archive holds none: step 05 counts them since grids are counted by set.
    ComparisonError
        If the arms cannot be compared (`check_arms`), a patient is in validation and test of one fold, or several
        `split_seed` are swept.
    """
    check_arms(run_dir, slides=slides)
    table = collect(run_dir, _TABLE)
    if "split_seed" in table and table["split_seed"].nunique() > 1:
        raise ComparisonError(
            "Several `split_seed` are swept: a patient chosen by in one split is tested in another, so that no choice "
            "is told from its test. Sweep `fold` instead."
        )
    if "split" not in table or not (table["split"] == "val").any():
        raise RunError(f"The tables {_TABLE} hold no validation slides: run step 05 again in all arms.")
    by = [*ARM, *(c for c in ("seed", "fold", "split_seed") if c in table), "patient_id"]
    sets = table.groupby(by, dropna=False)["split"].nunique()
    if (sets > 1).any():
        row = dict(zip(by, sets.idxmax(), strict=True))
        raise ComparisonError(
            f"The patient {row['patient_id']} is in validation and test of {row['arm']}: a choice made on it is not "
            "told from its test. Run step 02 again."
        )
    table = of_split(table, "val")
    table = table[table["threshold_by"] == threshold_by].reset_index(drop=True)
    if table.empty:
        raise RunError(f"The table {_TABLE} has no validation counts at the threshold {threshold_by!r}.")
    if slides == "common":
        table = table[table["slide_id"].isin(_in_all_trainings(table))]
    return table


def _in_all_trainings(table: pd.DataFrame) -> pd.Index:
    by = [*ARM, *(c for c in ("seed", "split_seed") if c in table)]
    trainings, of_slide = table[by].drop_duplicates(), table.drop_duplicates([*by, "slide_id"])["slide_id"]
    number = of_slide.value_counts()
    return number.index[number == len(trainings)]


def chosen_on_validation(
    run_dir: str | Path,
    *,
    score: str = "iou",
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    margin: float = 0.05,
    usable: float = 0.1,
    slides: str = "same",
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """What the validation patients show of each arm, which they choose, and how often others like them would.

    Parameters
    ----------
    run_dir
        Folder of the run.
    score, pooling, threshold_by, margin, usable, slides
        Of `tlskit.evaluation.costs.pareto`.
    draws, seed
        Draws of the validation patients, with replacement; the rule is put to each of them anew.

    Returns
    -------
    DataFrame
        fold (nan in a run without folds), arm, magnification, estimate, low, high, n_patients, n_with_target (all of
        validation), usable, chosen, reason (of `decision.decide`), share_chosen (of the draws in which the rule chose
        this arm), share_none (in which it chose none; the same in all rows of a fold), draws.
    """
    counts = validation_counts(run_dir, threshold_by=threshold_by, slides=slides)
    try:
        minutes = minutes_per_slide(run_dir).set_index("arm")["minutes"].astype(float)
    except (RunError, ComparisonError):
        minutes = None
    rule = {"margin": margin, "usable": usable}
    tables = []
    for fold, group in _folds(counts):
        options = {"pooling": pooling, "by": ARM}
        quality = uncertainty.intervals(group, scores=[score], **options)
        table = decide(quality, uncertainty.differences(group, scores=[score], **options), minutes, **rule)
        picked = []
        for drawn in bootstrap.redrawn(group, score=score, draws=draws, seed=seed, **options):
            again = decide(*drawn, minutes, **rule)
            picked += again.loc[again["chosen"], "arm"].tolist()
        share = pd.Series(picked, dtype=object).value_counts() / draws
        table = table.assign(share_chosen=table["arm"].map(share).fillna(0.0).astype(float), draws=draws)
        table = table.assign(share_none=1 - len(picked) / draws)
        table.insert(0, "fold", fold)
        tables.append(table)
    columns = ["fold", *ARM, "score", "estimate", "low", "high", "n_patients", "n_with_target", "usable", "chosen"]
    columns += ["reason", "share_chosen", "share_none", "draws", "margin", "usable_score"]
    return pd.concat(tables, ignore_index=True)[columns].assign(pooling=pooling, threshold_by=threshold_by)


def _folds(table: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    return list(table.groupby("fold", sort=True)) if "fold" in table else [(np.nan, table)]


def score_of_choice(run_dir: str | Path, chosen: pd.DataFrame, *, slides: str = "same") -> pd.DataFrame:
    """The test score of what was chosen: of `uncertainty.intervals` one row; empty where a fold chose nothing.

    Parameters
    ----------
    run_dir
        Folder of the run.
    chosen
        Of `chosen_on_validation`.
    slides
        As there.
    """
    picked = chosen[chosen["chosen"]]
    if len(picked) < chosen["fold"].nunique(dropna=False):
        return pd.DataFrame()
    first = chosen.iloc[0]
    table = test_counts(run_dir, _TABLE, first["threshold_by"], slides)
    arm = table["fold"].map(picked.set_index("fold")["arm"]) if "fold" in table else picked["arm"].item()
    table = table[table["arm"] == arm].assign(choice="chosen on validation")
    return uncertainty.intervals(table, scores=[first["score"]], pooling=first["pooling"], by=["choice"])


def in_words(chosen: pd.DataFrame, tested: pd.DataFrame) -> list[str]:
    """What was chosen where, how firmly, and the one test score; of `chosen_on_validation` and `score_of_choice`."""
    lines = []
    for fold, table in chosen.groupby("fold", dropna=False, sort=True):
        first, where = table.iloc[0], "" if np.isnan(fold) else f"Fold {fold:g}: "
        arm = table.loc[table["chosen"], "arm"]
        shares = ", ".join(f"{row.arm} in {row.share_chosen:.0%}" for row in table.itertuples())
        lines.append(
            f"{where}{arm.item() if len(arm) else 'No arm'} is chosen ({first['reason']}), of {first['n_patients']} "
            f"validation patients ({first['n_with_target']} with a target). In {first['draws']} draws of them the rule "
            f"chose {shares}, none in {first['share_none']:.0%}."
        )
    if len(tested):
        row, word = tested.iloc[0], score_word(tested["score"].iloc[0])
        ends = "no interval" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"On the {row['n_patients']} test patients, which the choice did not see, what was chosen has an {word} of "
            f"{row['estimate']:.3f} ({ends})."
        )
    else:
        lines.append("Not every validation set chooses an arm: no test score is that of the choice.")
    return lines
