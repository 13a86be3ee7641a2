"""What a control changes: contrasts within a magnification, and of those between magnifications, with intervals.

Of each condition (`tlskit.evaluation.factors`) the difference between its finest and its coarsest magnification is
taken, and by how much that difference changes from the plain condition to the control: a difference of differences,
the interaction of the control with magnification. If a control takes away the cause of a difference, the difference
goes with it; if it stays, the cause lies elsewhere.

In: a table of counts by slide of one set and one rule of threshold (`tlskit.evaluation.arm_tables.test_counts`), and
the arms' factors. All contrasts are paired by patient, with trainings as a level of their own, pooled over all pixels
of the common grid (`tlskit.metrics.uncertainty`). Columns of every table: estimate; low, high (its own 95 % interval);
low_all, high_all (simultaneous for the table); n_repeats (the fewest trainings of an arm; with folds, of each fold),
n_folds, spread (between trainings: ``own``, of ``other arms``, or ``none``), n_patients, n_with_target, warning.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tlskit.evaluation.factors import CONTEXT, PLAIN, alike, first_square, mates
from tlskit.metrics import uncertainty
from tlskit.units import mpp_for_magnification

__all__ = [
    "SECOND_FACTORS", "context_effects", "control_effects", "control_scores", "detail_ladder", "two_by_two",
    "within_magnification",
]  # fmt: skip

#: Second factors of the 2 x 2 beside negatives, the first that a run has: context in the network, a larger field at one
#: um/px, or magnification itself, with which field and detail change together.
SECOND_FACTORS = ("context_ratio", "field_um", "magnification")

_ENDS = ["estimate", "low", "high", "low_all", "high_all"]
_COLUMNS = [*_ENDS, "n_repeats", "n_folds", "spread", "n_patients", "n_with_target", "warning"]


def control_effects(counts: pd.DataFrame, arms: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """The difference between magnifications under each control, and by how much it changed.

    Parameters
    ----------
    counts
        Counts of the common grid by slide, arm and training.
    arms
        Of `factors.arm_factors`.
    score
        One of `tlskit.metrics.SCORES`.

    Returns
    -------
    DataFrame
        control, what (``difference``: finest - coarsest of the run's magnifications; ``change``: that of the control
        less that of the plain condition), finer, coarser (arms), score, and the module's columns. Controls that lack
        one of the two magnifications have no row.
    """
    ends = arms["magnification"].max(), arms["magnification"].min()
    arms, rows, wanted, plain = _with_counts(arms, counts), [], [], {}
    if ends[0] > ends[1]:
        for control in _plain_first(arms):
            of = arms[arms["control"] == control].drop_duplicates("magnification").set_index("magnification")["arm"]
            if not set(ends) <= set(of.index):
                continue
            pair = {of[ends[0]]: 1.0, of[ends[1]]: -1.0}
            row = {"control": control, "finer": of[ends[0]], "coarser": of[ends[1]]}
            rows.append(row | {"what": "difference"})
            wanted.append(pair)
            if control == PLAIN:
                plain = pair
            elif plain:
                rows.append(row | {"what": "change"})
                wanted.append(pair | {arm: -weight for arm, weight in plain.items()})
    columns = ["control", "what", "finer", "coarser"]
    return _contrasted(counts, rows, wanted, columns, score)


def control_scores(counts: pd.DataFrame, arms: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """The score of every arm: control, magnification, arm, score, and the module's columns."""
    arms = _with_counts(arms, counts)
    order = {control: place for place, control in enumerate(_plain_first(arms))}
    rows = arms[["control", "magnification", "arm"]]
    rows = rows.assign(_place=rows["control"].map(order)).sort_values(["_place", "magnification"], kind="stable")
    return _scored(counts, rows.drop(columns="_place"), score)


def within_magnification(counts: pd.DataFrame, arms: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """Each control against the plain condition of its own magnification.

    Returns
    -------
    DataFrame
        control, magnification, arm, plain (arm), score, and the module's columns, of control - plain.
    """
    arms, rows, wanted = _with_counts(arms, counts), [], []
    plain = arms[arms["control"] == PLAIN].drop_duplicates("magnification").set_index("magnification")["arm"]
    for control in [name for name in _plain_first(arms) if name != PLAIN]:
        for row in arms[arms["control"] == control].sort_values("magnification", ascending=False).itertuples():
            if row.magnification in plain.index:
                reference = plain[row.magnification]
                rows.append({"control": control, "magnification": row.magnification, "arm": row.arm})
                rows[-1]["plain"] = reference
                wanted.append({row.arm: 1.0, reference: -1.0})
    return _contrasted(counts, rows, wanted, ["control", "magnification", "arm", "plain"], score)


def two_by_two(
    counts: pd.DataFrame,
    arms: pd.DataFrame,
    *,
    first: str = "negatives_per_batch",
    second: Sequence[str] = SECOND_FACTORS,
    score: str = "iou",
) -> pd.DataFrame:
    """Two factors at two levels each, everything else alike: four scores, four simple effects, and the interaction.

    Parameters
    ----------
    counts, arms, score
        As of `control_effects`.
    first, second
        Factors; of several for `second` the first is taken that makes a `factors.square` with `first`.

    Returns
    -------
    DataFrame
        what (``score``, ``effect`` or ``interaction``), first, second (names of the factors), first_level, second_level
        (of a score; of an effect that of the factor held fixed, the other nan), magnification (nan where it is a
        factor), arm (of a score), score, and the module's columns. Effects are higher level - lower; the interaction is
        the effect of the first factor at the higher level of the second less that at the lower. Empty where no four
        arms differ in these factors alone.
    """
    arms = _with_counts(arms, counts)
    name, cells = first_square(arms, first, second)
    columns = ["what", "first", "second", "first_level", "second_level", "magnification", "arm"]
    if not cells:
        return pd.DataFrame(columns=[*columns, "score", *_COLUMNS])
    (low, left), (high, right) = min(cells), max(cells)
    at = float("nan")
    if name != "magnification":
        at = float(arms.set_index("arm")["magnification"][cells[low, left]])
    named = {"first": first, "second": name, "magnification": at}
    nan, rows, wanted = float("nan"), [], []
    for level in (left, right):
        rows.append(named | {"what": "effect", "first_level": nan, "second_level": level, "arm": ""})
        wanted.append({cells[high, level]: 1.0, cells[low, level]: -1.0})
    for level in (low, high):
        rows.append(named | {"what": "effect", "first_level": level, "second_level": nan, "arm": ""})
        wanted.append({cells[level, right]: 1.0, cells[level, left]: -1.0})
    rows.append(named | {"what": "interaction", "first_level": nan, "second_level": nan, "arm": ""})
    wanted.append({cells[high, right]: 1.0, cells[low, right]: -1.0, cells[high, left]: -1.0, cells[low, left]: 1.0})
    changes = _contrasted(counts, rows, wanted, columns, score)
    keys = [named | {"what": "score", "first_level": a, "second_level": b, "arm": cells[a, b]} for a, b in cells]
    return pd.concat([_scored(counts, pd.DataFrame(keys)[columns], score), changes], ignore_index=True)


def detail_ladder(counts: pd.DataFrame, arms: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """Detail taken away step by step from one magnification: same tiles, masks, imbalance, steps and network.

    Beside them stand the plain arms of coarser magnifications: they have that detail at their own um/px, and another
    field and other tiles.

    Returns
    -------
    DataFrame
        kind (``blurred`` or ``own magnification``), magnification, detail_mpp (um/px of the finest detail that is let
        through), arm, score, the module's columns of the score, and change, change_low, change_high,
        change_low_all, change_high_all: the blurred arm less the sharp one (nan for the sharp one and for other
        magnifications). Empty where no arm is blurred, or none of the same kind is sharp.
    """
    columns = ["kind", "magnification", "detail_mpp", "arm"]
    changes = [f"change{end}" for end in ("", "_low", "_high", "_low_all", "_high_all")]
    empty = pd.DataFrame(columns=[*columns, "score", *_COLUMNS, *changes])
    arms = _with_counts(arms, counts)
    if "detail_mpp" not in arms or not (arms["detail_mpp"] > 0).any():
        return empty
    same = arms.groupby(alike(arms, "detail_mpp"), dropna=False)
    ladders = [group for _, group in same if (group["detail_mpp"] == 0).any()]
    steps = max(ladders, key=lambda rows: (rows["detail_mpp"].nunique(), rows["magnification"].iloc[0]), default=None)
    if steps is None or len(steps) < 2:
        return empty
    at = float(steps["magnification"].iloc[0])
    own_mpp = mpp_for_magnification(at)
    steps = steps.assign(kind="blurred", detail_mpp=steps["detail_mpp"].where(steps["detail_mpp"] > 0, own_mpp))
    coarser = arms[(arms["control"] == PLAIN) & (arms["magnification"] < at)]
    coarser = coarser.assign(
        kind="own magnification", detail_mpp=[mpp_for_magnification(m) for m in coarser["magnification"]]
    )
    made = pd.concat([steps, coarser]).sort_values(["kind", "detail_mpp"])[columns].reset_index(drop=True)
    blurred = made.loc[made["kind"] == "blurred", "arm"].tolist()
    sharp, rest = blurred[0], blurred[1:]
    apart = _contrasted(
        counts, [{"arm": arm} for arm in rest], [{arm: 1.0, sharp: -1.0} for arm in rest], ["arm"], score
    )
    apart = apart.set_index("arm").reindex(made["arm"])
    made = _scored(counts, made, score)
    for column, source in zip(changes, _ENDS, strict=True):
        made[column] = apart[source].to_numpy(float)
    return made


def context_effects(counts: pd.DataFrame, arms: pd.DataFrame, *, score: str = "iou") -> pd.DataFrame:
    """What context in the network gains, and whether it is the wider field that does it.

    A network with context has a second branch, which may help by its parameters alone. So each is set beside the
    network without context and beside those whose second branch is shown nothing new (the tile's own field) or nothing
    of use (the context of another tile), and beside a larger encoder without context, as far as the run has them.

    Returns
    -------
    DataFrame
        magnification, control, arm (with the wider field as context), against (``without context``, ``own field as
        context``, ``another tile's context``, ``<encoder> without context``), reference (its arm), score, and the
        module's columns, of arm - reference; all else is alike in the two. Empty where no network has context.
    """
    arms, rows, wanted = _with_counts(arms, counts), [], []
    if "context_ratio" in arms:
        arms = arms.assign(context_of=arms.get("context_of", "field"))
        for row in arms[(arms["context_ratio"] > 0) & (arms["context_of"] == "field")].to_dict("records"):
            other = mates(arms, row, *CONTEXT).query("context_ratio == 0").assign(against="without context")
            found = [other, mates(arms, row, "context_of")]
            if "encoder" in arms:
                larger = mates(arms, row, *CONTEXT, "encoder").query("context_ratio == 0")
                larger = larger[larger["encoder"] != row["encoder"]]
                found.append(larger.assign(against=larger["encoder"] + " without context"))
            names = {"self": "own field as context", "other": "another tile's context"}
            found[1] = found[1][found[1]["context_of"] != "field"]
            found[1] = found[1].assign(against=found[1]["context_of"].map(names))
            for reference, against in pd.concat(found)[["arm", "against"]].itertuples(index=False):
                named = {name: row[name] for name in ("magnification", "control", "arm")}
                rows.append(named | {"against": against, "reference": reference})
                wanted.append({row["arm"]: 1.0, reference: -1.0})
    return _contrasted(counts, rows, wanted, ["magnification", "control", "arm", "against", "reference"], score)


def _with_counts(arms: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """Without those that failed or were not run."""
    return arms[arms["arm"].isin(counts["arm"])].reset_index(drop=True)


def _plain_first(arms: pd.DataFrame) -> list[str]:
    return sorted(arms["control"].unique(), key=lambda control: control != PLAIN)


def _contrasted(counts: pd.DataFrame, rows: list[dict], wanted: list[dict], columns: list[str], score: str):
    """`rows`, each with the estimate and intervals of its contrast of arms."""
    if not rows:
        return pd.DataFrame(columns=[*columns, "score", *_COLUMNS])
    made = uncertainty.contrasts(counts, dict(enumerate(wanted)), scores=[score], by=["arm"])
    return pd.concat([pd.DataFrame(rows)[columns], made[["score", *_COLUMNS]]], axis=1)


def _scored(counts: pd.DataFrame, rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """`rows`, each with its arm's own score and interval; simultaneous ones are not of single scores, and nan."""
    scores = uncertainty.intervals(counts, scores=[score], by=["arm"]).set_index("arm").loc[rows["arm"]]
    scores = scores.reindex(columns=["score", *_COLUMNS]).reset_index(drop=True)
    return pd.concat([rows.reset_index(drop=True), scores], axis=1)
