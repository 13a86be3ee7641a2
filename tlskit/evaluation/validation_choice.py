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

from tlskit.errors import ComparisonError, LeakageError, RunError
from tlskit.evaluation.arm_tables import ARM, collect, test_counts
from tlskit.evaluation.costs import minutes_per_slide
from tlskit.evaluation.decision import decide, score_word
from tlskit.metrics import bootstrap, uncertainty
from tlskit.units import counted

__all__ = ["chosen_on_validation", "in_words", "score_of_choice", "validation_counts"]

_TABLE = "05_grid_counts"


def validation_counts(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """Counts of the validation slides on the common grid, all arms and trainings.

    Raises
    ------
    RunError
        If the archive holds none (step 05 counts them since grids are counted by set), or several `split_seed` are
        swept.
    LeakageError
        If a patient is in validation and test of one fold.
    ComparisonError
        If the arms cannot be compared (`tlskit.evaluation.arm_tables.check_arms`).
    """
    table = collect(run_dir, _TABLE)
    if "split_seed" in table and table["split_seed"].nunique() > 1:
        raise RunError(
            "Several `split_seed` are swept: a patient chosen by in one split is tested in another, so that no choice "
            "is told from its test. Sweep `fold` instead."
        )
    if "split" not in table or not (table["split"] == "val").any():
        raise RunError(f"The tables {_TABLE} hold no validation slides: run step 05 again in all arms.")
    by = [*ARM, *(c for c in ("seed", "fold", "split_seed") if c in table), "patient_id"]
    sets = table.groupby(by, dropna=False)["split"].nunique()
    if (sets > 1).any():
        row = dict(zip(by, sets.idxmax(), strict=True))
        raise LeakageError(
            f"The patient {row['patient_id']} is in validation and test of {row['arm']}: a choice made on it is not "
            "told from its test. Run step 02 again."
        )
    return test_counts(run_dir, _TABLE, threshold_by, slides, "val")


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
        Draws of the validation patients, with replacement; the rule is put to each of them anew. 0: how firm the choice
        is is not asked.

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
        share = pd.Series(picked, dtype=object).value_counts() / max(1, draws)
        table = table.assign(share_chosen=table["arm"].map(share).fillna(0.0).astype(float), draws=draws)
        table = table.assign(share_none=1 - len(picked) / max(1, draws))
        table["warning"] = table["warning"].str.replace("test patient", "validation patient")
        table.insert(0, "fold", fold)
        tables.append(table)
    columns = ["fold", *ARM, "score", "estimate", "low", "high", "n_patients", "n_with_target", "usable", "chosen"]
    columns += ["reason", "share_chosen", "share_none", "draws", "margin", "usable_score",
                "warning"]  # fmt: skip
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


def in_words(chosen: pd.DataFrame, tested: pd.DataFrame) -> str:
    """What was chosen, why, how firmly, and the one test score; of `chosen_on_validation` and `score_of_choice`."""
    first, n_folds = chosen.iloc[0], chosen["fold"].nunique(dropna=False)
    picked = chosen[chosen["chosen"]]
    if n_folds > 1:
        text = _in_folds(chosen)
    else:
        n, k = int(first["n_patients"]), int(first["n_with_target"])
        whom = counted(n, "validation patient") + (f" ({k} with a target)" if k < n else "")
        what = f"Chosen on {whom}: {picked['arm'].item()}," if len(picked) else f"No arm is chosen on {whom}:"
        text = f"{what} {_reason(first)}."
        if first["warning"] and first["reason"] not in ("no target", "nothing found"):
            text += f" Caution: {first['warning']}."
    if first["draws"]:
        shares = chosen.groupby("arm", sort=False)["share_chosen"].mean()
        listed = ", ".join(f"{arm} in {share:.0%}" for arm, share in shares.items() if share > 0)
        none = chosen.groupby("fold", dropna=False)["share_none"].first().mean()
        whose = "them" if n_folds == 1 else "each fold's (means of the folds)"
        text += f" In {first['draws']} draws of {whose} the rule chose "
        text += (f"{listed}, none in {none:.0%}." if none else f"{listed}.") if listed else "none."
    return f"{text} {_tested(tested, first['score'], n_folds)}"


def _in_folds(chosen: pd.DataFrame) -> str:
    """Which arm the validation patients of each fold choose."""
    folds = chosen["fold"].nunique()
    of_fold = {f"{fold:g}": rows.loc[rows["chosen"], "arm"].tolist() for fold, rows in chosen.groupby("fold")}
    by_arm: dict[str, list[str]] = {}
    for fold, arms in of_fold.items():
        by_arm.setdefault(arms[0] if arms else "none", []).append(fold)
    if len(by_arm) == 1:
        return f"Chosen in each of {folds} folds, on its own validation patients: {next(iter(by_arm))}."
    each = "; ".join(f"{arm} in fold{'s' * (len(some) > 1)} {', '.join(some)}" for arm, some in by_arm.items())
    return f"Chosen fold by fold, on its own validation patients: {each}."


def _reason(row: pd.Series) -> str:
    score, margin = score_word(row["score"]), f"{row['margin']:g}"
    return {
        "shown best": "shown there to be better than every other arm",
        "fastest within margin": f"the fastest of the arms shown there to be at most {margin} worse than every other",
        "no target": "they hold no target",
        "nothing found": "no arm found any of their target",
        "none usable": f"no arm reaches an {score} of {row['usable_score']:g}, the least that the preset calls usable",
        "one arm": "there is no other to choose from",
        "no time": f"several arms are shown to be at most {margin} worse than every other, and which is the fastest is "
        "not known",
        "not shown": f"none is shown to be the best, or to be at most {margin} worse than every other",
    }[row["reason"]]


def _tested(tested: pd.DataFrame, score: str, n_folds: int) -> str:
    if not len(tested):
        return "So no test score is that of a choice."
    row, word = tested.iloc[0], score_word(score)
    n = int(row["n_patients"])
    unseen = "which the choice did not see" if n_folds == 1 else "which no choice saw"
    whom = f"the {counted(n, 'test patient')}, {unseen}"
    if np.isnan(row["estimate"]):
        return f"The{whom[3:]}, hold no target: its {word} cannot be measured."
    ends = "no interval" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
    return f"Its {word} on {whom}: {row['estimate']:.3f} ({ends})."
