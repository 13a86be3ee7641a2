"""How sure a score is: intervals over patients, of scores, of differences between arms and of any contrast of arms.

Tiles of one slide, and slides of one patient, resemble one another; counted as if they were independent, they make
intervals far too narrow. So the patient is the unit. Every score is a smooth function of sums over patients, and its
variance is the sum of the patients' squared influences (score's gradient times the patient's values), each enlarged by
``1 / (1 - h)``, h being the patient's share of the score's denominator: large patients pull the score towards
themselves (CR2; Bell and McCaffrey 2002). The interval is estimate -+ t times the root of that, with the degrees of
freedom of Bell and McCaffrey for a ratio,

    ``df = 1 / (sum h^2 + (sum q)^2 - sum q^2)``,  ``q = h^2 / (1 - h)``,

which is n - 1 for n equal patients, and fewer where few patients hold most of the target: of twelve patients of whom
three have a target, recall has at most 2. Scores are put on the logit scale (an MCC of 0 or less: Fisher's z), which
keeps them inside their range; differences stay on the plain scale. In simulated cohorts of 3 to 60 patients these
intervals cover in 92 to 97 of 100 (``docs/coverage.md``), where percentiles of a bootstrap cover 77 at three patients.

Simultaneous intervals share the 5 % between all pairs by Bonferroni. The distribution of the largest of all t from
drawn patients (max-t) was tried: with Gaussian multipliers it lets 7 to 16 % of cohorts of equal arms pass below 24
patients, and by resampling it is wider than Bonferroni.

**Repeats.** Where an arm was trained several times (column `repeat`, the seed), its score is of all repeats together,
and the variance between repeats, divided by their number, is added to that between patients. An arm that was trained
once beside arms that were trained several times takes the mean variance between those arms' trainings (as if all arms
depended on chance alike; column `spread`: ``other arms``): without it the arm that was looked at least would look
surest. Where no arm has repeats, intervals say nothing of another training: `training_note`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tlskit.errors import ParameterError
from tlskit.metrics.influence import NEED_TARGET, Arm, arms_of, estimate, spread_between, t_quantile

__all__ = ["FEW_PATIENTS", "METHOD", "contrasts", "differences", "intervals", "patients_needed", "training_note"]

#: With fewer test patients (for scores that need a target: with a target) an interval is shown with a warning.
FEW_PATIENTS = 10

#: How the intervals are made, in words for a caption or a methods section.
METHOD = "t intervals of the cluster-robust (CR2) standard error over patients, Bell-McCaffrey degrees of freedom"

#: Where the spread between trainings that an interval holds comes from.
OWN, LENT, NO_SPREAD = "own", "other arms", "none"


def intervals(
    counts: pd.DataFrame,
    *,
    scores: Sequence[str] = ("dice", "iou", "recall", "precision", "mcc"),
    pooling: str = "pooled",
    by: Sequence[str] = ("arm", "magnification"),
    region: str = "slide",
    level: float = 0.95,
    repeat: str = "seed",
) -> pd.DataFrame:
    """Each arm's scores with intervals.

    Parameters
    ----------
    counts
        A counts table, by slide (or finer), of one split and one threshold rule.
    scores
        Some of `tlskit.metrics.scores.SCORES`.
    pooling
        ``pooled``, ``per_patient`` or ``per_slide``; empty units are left out of means (rule ``exclude``). Batches are
        made across patients, so ``batch_mean`` has no interval over patients.
    by
        Columns that name an arm. All arms must stand on the same patients and slides.
    region
        ``slide`` or ``tissue``.
    level
        Of the intervals.
    repeat
        Column that tells trainings of one arm apart; a table without it has one training of each.

    Returns
    -------
    DataFrame
        Columns: those of `by`; score, pooling, region, estimate, low, high, level, method (``t`` or ``none``), se, df,
        n_repeats (trainings; with folds, of each fold), n_folds (0: none), repeat_sd (nan for one training), spread
        (between trainings, in the interval: ``own``, of ``other arms``, or ``none``), n_slides, n_patients,
        n_with_target (patients), warning (empty, or why the interval deserves caution). An interval of ``none`` is nan:
        of fewer than two patients that tell something, and of a score of exactly 0 or 1.

    Raises
    ------
    ComparisonError
        If the arms differ in patients or slides; the message names them.
    """
    arms = arms_of(counts, by=list(by), scores=scores, pooling=pooling, region=region, repeat=repeat)
    lent, rows = {name: spread_between(arms, name) for name in scores}, []
    for arm, name in itertools.product(arms, scores):
        value, se, df = estimate([(arm, 1.0)], name, lent[name])
        forward, backward, slope = _SCALES["fisher" if value <= 0 else "logit"]
        low, high, method = float("nan"), float("nan"), "none"
        if df > 0 and -1 < value < 1 and (name == "mcc" or value > 0):
            half = t_quantile(df, level) * se * slope(value)
            low, high, method = float(backward(forward(value) - half)), float(backward(forward(value) + half)), "t"
        rows.append(
            arm.key
            | {"score": name, "pooling": pooling, "region": region, "estimate": value, "low": low, "high": high}
            | {"level": level, "method": method, "se": se, "df": df, "n_repeats": arm.n_repeats}
            | {"n_folds": arm.n_folds, "repeat_sd": arm.repeat_sd(name), "spread": _spread([arm], lent[name])}
            | {"n_slides": arm.n_slides, "n_patients": arm.n_patients, "n_with_target": arm.n_with_target}
            | {"warning": _warning(arm, name, value)}
        )
    return pd.DataFrame(rows)


def contrasts(
    counts: pd.DataFrame,
    wanted: Mapping[str, Mapping[str, float]],
    *,
    scores: Sequence[str] = ("dice", "iou"),
    pooling: str = "pooled",
    by: Sequence[str] = ("arm", "magnification"),
    region: str = "slide",
    level: float = 0.95,
    repeat: str = "seed",
) -> pd.DataFrame:
    """Weighted sums of arms' scores with intervals, paired: all arms are scored on the same patients.

    Parameters
    ----------
    counts, scores, pooling, by, region, level, repeat
        As in `intervals`; the first column of `by` names the arm.
    wanted
        Name of a contrast to its weights by arm: ``{"4x - 20x": {"4x": 1, "20x": -1}}``; an interaction is
        ``{"a": 1, "b": -1, "c": -1, "d": 1}``.

    Returns
    -------
    DataFrame
        contrast, score, pooling, region, estimate, low, high, low_all, high_all (simultaneous for all contrasts of this
        table, score by score), excludes_zero, level, method, se, df, n_contrasts, n_repeats (the fewest of an arm),
        n_folds, spread (``other arms`` where an arm takes theirs), n_slides, n_patients, n_with_target, warning. Arms
        of `counts` that are in no contrast lend their spread all the same.
    """
    by = list(by)
    arms = {
        arm.key[by[0]]: arm
        for arm in arms_of(counts, by=by, scores=scores, pooling=pooling, region=region, repeat=repeat)
    }
    if unknown := sorted({str(a) for weights in wanted.values() for a in weights} - set(map(str, arms))):
        raise ParameterError(f"No arm {', '.join(unknown)}; there are {', '.join(map(str, arms))}.")
    lent, rows = {name: spread_between(arms.values(), name) for name in scores}, []
    for (label, weights), name in itertools.product(wanted.items(), scores):
        parts = [(arms[arm], float(weight)) for arm, weight in weights.items()]
        value, se, df = estimate(parts, name, lent[name])
        bound = sum(abs(weight) for _, weight in parts)
        ends = {"low": np.nan, "high": np.nan, "low_all": np.nan, "high_all": np.nan}
        if df > 0 and np.isfinite(value):
            for suffix, share in (("", 1), ("_all", len(wanted))):
                half = t_quantile(df, 1 - (1 - level) / share) * se
                ends[f"low{suffix}"], ends[f"high{suffix}"] = max(-bound, value - half), min(bound, value + half)
        first = parts[0][0]
        rows.append(
            {"contrast": label, "score": name, "pooling": pooling, "region": region, "estimate": value}
            | ends
            | {"excludes_zero": bool(ends["low"] > 0 or ends["high"] < 0), "level": level}
            | {"method": "t" if df > 0 else "none", "se": se, "df": df, "n_contrasts": len(wanted)}
            | {"n_repeats": min(arm.n_repeats for arm, _ in parts), "n_folds": max(arm.n_folds for arm, _ in parts)}
            | {"spread": _spread([arm for arm, _ in parts], lent[name]), "n_slides": first.n_slides}
            | {"n_patients": first.n_patients, "n_with_target": first.n_with_target}
            | {"warning": _warning(first, name, value)}
        )
    columns = ["contrast", "score", "pooling", "region", "estimate", "low", "high", "low_all", "high_all"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def differences(counts: pd.DataFrame, *, by: Sequence[str] = ("arm", "magnification"), **options) -> pd.DataFrame:
    """Every pairwise difference between arms, paired, with its own interval and one that holds for all pairs at once.

    Parameters
    ----------
    counts, by, options
        Of `contrasts`.

    Returns
    -------
    DataFrame
        first, second (arms), difference (first - second) in the place of `contrasts`' contrast and estimate; shown
        (``first``, ``second`` or empty: which of the two is shown to be better, by the simultaneous interval); n_pairs
        in the place of n_contrasts.
    """
    names = list(dict.fromkeys(counts[list(by)[0]]))
    pairs = list(itertools.combinations(names, 2))
    wanted = {f"{n}": {first: 1.0, second: -1.0} for n, (first, second) in enumerate(pairs)}
    table = contrasts(counts, wanted, by=by, **options)
    number = table.pop("contrast").astype(int) if len(table) else table.pop("contrast")
    table.insert(0, "first", [pairs[n][0] for n in number])
    table.insert(1, "second", [pairs[n][1] for n in number])
    table = table.rename(columns={"estimate": "difference", "n_contrasts": "n_pairs"})
    table["shown"] = np.select([table["low_all"] > 0, table["high_all"] < 0], ["first", "second"], "")
    return table


def training_note(n_folds: int = 0) -> str:
    """What intervals leave out where every arm was trained once, or once in each fold."""
    once = f"once in each of {n_folds} folds" if n_folds > 1 else "once"
    note = (
        f"Each arm was trained {once}: the intervals say how other patients would change the scores, not how another "
        "training (another seed, another machine) would."
    )
    if n_folds > 1:
        note += " Patients of one fold share a network, and are counted as if each had its own."
    return note


def patients_needed(table: pd.DataFrame, *, half_width: float = 0.05) -> pd.Series:
    """How many such patients an interval of this half-width would take, by row of `intervals` or `differences`.

    By the standard error found here, which falls with the root of their number: ``n (1.96 se / half_width)^2``; a rough
    number where `se` itself stands on few patients, and nan where it is not known or is 0.
    """
    se = table["se"].where(table["se"] > 0)
    return np.ceil(table["n_patients"] * (1.96 * se / half_width) ** 2)


def _spread(arms: Sequence[Arm], lent: tuple[float, int]) -> str:
    """Whose spread between trainings an interval of these arms holds."""
    if all(arm.n_repeats > 1 for arm in arms):
        return OWN
    return LENT if lent[1] else NO_SPREAD


#: Scales on which intervals are made: there, back, and the derivative there.
_SCALES = {
    "logit": (lambda v: np.log(v / (1 - v)), lambda v: 1 / (1 + np.exp(-v)), lambda v: 1 / (v * (1 - v))),
    "fisher": (np.arctanh, np.tanh, lambda v: 1 / (1 - v * v)),
}


def _warning(arm: Arm, name: str, value: float) -> str:
    n, targets = arm.n_patients, arm.n_with_target
    if name in NEED_TARGET and targets == 0:
        return "no test patient has a target: the score cannot be measured"
    if n < 2:
        return "one patient: no interval can be given"
    if name in NEED_TARGET and targets < 2:
        return f"only one of {n} test patients has a target: no interval can be given"
    if value in (0.0, 1.0):
        return f"a score of exactly {value:g} has no interval"
    if name in NEED_TARGET and targets < min(FEW_PATIENTS, n):
        return f"only {targets} of {n} test patients have a target: few patients say little about others"
    if n < FEW_PATIENTS:
        return f"only {n} test patients: few patients say little about others"
    return ""
