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
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, ParameterError
from tlskit.metrics.scores import COUNTS, SCORES, ratios

__all__ = ["FEW_PATIENTS", "METHOD", "contrasts", "differences", "intervals", "patients_needed", "training_note"]

#: With fewer test patients (for scores that need a target: with a target) an interval is shown with a warning.
FEW_PATIENTS = 10

#: How the intervals are made, in words for a caption or a methods section.
METHOD = "t intervals of the cluster-robust (CR2) standard error over patients, Bell-McCaffrey degrees of freedom"

#: Where the spread between trainings that an interval holds comes from.
OWN, LENT, NO_SPREAD = "own", "other arms", "none"

POOLINGS = ("pooled", "per_patient", "per_slide")

#: Scores that only patients with a target tell something about.
NEED_TARGET = ("dice", "iou", "recall", "precision", "mcc")


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
    arms = _arms(counts, by=list(by), scores=scores, pooling=pooling, region=region, repeat=repeat)
    lent, rows = {name: _between(arms, name) for name in scores}, []
    for arm, name in itertools.product(arms, scores):
        value, se, df = _estimate([(arm, 1.0)], name, lent[name])
        forward, backward, slope = _SCALES["fisher" if value <= 0 else "logit"]
        low, high, method = float("nan"), float("nan"), "none"
        if df > 0 and -1 < value < 1 and (name == "mcc" or value > 0):
            half = _t(df, level) * se * slope(value)
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
        for arm in _arms(counts, by=by, scores=scores, pooling=pooling, region=region, repeat=repeat)
    }
    if unknown := sorted({str(a) for weights in wanted.values() for a in weights} - set(map(str, arms))):
        raise ParameterError(f"No arm {', '.join(unknown)}; there are {', '.join(map(str, arms))}.")
    lent, rows = {name: _between(arms.values(), name) for name in scores}, []
    for (label, weights), name in itertools.product(wanted.items(), scores):
        parts = [(arms[arm], float(weight)) for arm, weight in weights.items()]
        value, se, df = _estimate(parts, name, lent[name])
        bound = sum(abs(weight) for _, weight in parts)
        ends = {"low": np.nan, "high": np.nan, "low_all": np.nan, "high_all": np.nan}
        if df > 0 and np.isfinite(value):
            for suffix, share in (("", 1), ("_all", len(wanted))):
                half = _t(df, 1 - (1 - level) / share) * se
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


class Arm:
    """One arm's sums by patient, from which its scores and the patients' influence on them follow.

    Every score is a function of sums over patients: of the four counts (``pooled``), or, for a mean, of the sum of the
    defined scores and their number.
    """

    def __init__(self, key: dict, group: pd.DataFrame, patients: np.ndarray, scores: Sequence[str], pooling: str):
        self.key, self.scores, self.pooling = key, list(scores), pooling
        self.n_patients = len(patients)
        self.n_slides = group["slide_id"].nunique() if "slide_id" in group else 0
        self.n_folds = group["fold"].nunique() if "fold" in group else 0
        patient = np.searchsorted(patients, group["patient_id"].to_numpy(object))
        counts = group[list(COUNTS)].to_numpy(np.float64)
        with_target = summed(counts, patient, len(patients))[:, [0, 2]].sum(axis=1) > 0
        self.n_with_target = int(with_target.sum())
        if pooling == "per_slide":
            _, first, slide = np.unique(group["slide_id"].to_numpy(object), return_index=True, return_inverse=True)
            units = _scores_summed(summed(counts, slide, len(first)), self.scores)
            self.units = summed(units, patient[first], len(patients))
        else:
            self.units = summed(counts, patient, len(patients))
            if pooling == "per_patient":
                self.units = _scores_summed(self.units, self.scores)
        # Scores do not change with the scale of the counts; squares of gigapixels would be needlessly large.
        if pooling == "pooled":
            self.units = self.units / max(1.0, self.units.sum())
        self.repeats: list[Arm] = []

    @property
    def n_repeats(self) -> int:
        return max(1, len(self.repeats))

    def repeat_sd(self, name: str) -> float:
        """Standard deviation of the score between trainings."""
        values = [float(of_one.at(name, of_one.units.sum(axis=0)[None])[0][0]) for of_one in self.repeats]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

    def at(self, name: str, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score ``(draws,)`` of sums ``(draws, k)``, and its derivative by each of them ``(draws, k)``."""
        if self.pooling != "pooled":
            n, m = self.scores.index(name), len(self.scores)
            top, bottom = np.eye(2 * m)[n], np.eye(2 * m)[n + m]
        elif name in _LINEAR:
            top, bottom = (np.array(side, np.float64) for side in _LINEAR[name])
        else:
            return _mcc_and_gradient(sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            below = np.where(sums @ bottom > 0, sums @ bottom, np.nan)
            value = (sums @ top) / below
            return value, (top - value[:, None] * bottom) / below[:, None]

    def influence(self, name: str) -> tuple[float, np.ndarray, np.ndarray]:
        """Score, and of each patient its influence and its share of the denominator, ``(n_patients,)``.

        The functions here do not change when all patients are counted twice, so the influences sum to 0 by themselves.
        MCC has no one denominator: the share is that of IoU, of what is target or marked.
        """
        value, gradient = self.at(name, self.units.sum(axis=0)[None])
        if self.pooling != "pooled":
            weight = self.units[:, self.scores.index(name) + len(self.scores)]
        else:
            weight = self.units @ np.array(_LINEAR.get(name, _LINEAR["iou"])[1], np.float64)
        total = weight.sum()
        share = weight / total if total > 0 else np.full(len(weight), np.nan)
        return float(value[0]), self.units @ gradient[0], share


def summed(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """Sums of rows by their owner, ``(n, k)``."""
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, owner, values)
    return sums


def _between(arms: Iterable[Arm], name: str) -> tuple[float, int]:
    """Variance of a score between trainings of one arm, over all arms that have several, and its degrees of freedom."""
    found = [(arm.repeat_sd(name) ** 2, arm.n_repeats - 1) for arm in arms if arm.n_repeats > 1]
    found = [(variance, df) for variance, df in found if np.isfinite(variance)]
    df = sum(df for _, df in found)
    return (sum(variance * df for variance, df in found) / df if df else float("nan")), df


def _spread(arms: Sequence[Arm], lent: tuple[float, int]) -> str:
    """Whose spread between trainings an interval of these arms holds."""
    if all(arm.n_repeats > 1 for arm in arms):
        return OWN
    return LENT if lent[1] else NO_SPREAD


def _estimate(parts: list[tuple[Arm, float]], name: str, lent: tuple[float, int]) -> tuple[float, float, float]:
    """Weighted sum of arms' scores, its standard error, and degrees of freedom; df 0 where there is no interval."""
    found = [(*arm.influence(name), weight) for arm, weight in parts]
    value = sum(weight * score for score, _, _, weight in found)
    influence = sum(weight * psi for _, psi, _, weight in found)
    share = sum(abs(weight) * h for _, _, h, weight in found) / sum(abs(weight) for *_, weight in found)
    if not np.isfinite(value) or not np.isfinite(share).all() or share.max() > 1 - 1e-9:
        return float(value), float("nan"), 0.0
    variance = float((influence**2 / (1 - share)).sum())
    q = share**2 / (1 - share)
    df = 1 / float((share**2).sum() + q.sum() ** 2 - (q**2).sum())
    several = [(weight**2 * arm.repeat_sd(name) ** 2 / arm.n_repeats, arm.n_repeats - 1) for arm, weight in parts
               if arm.n_repeats > 1]  # fmt: skip
    between = sum(v for v, _ in several if np.isfinite(v))
    own = sum(n for _, n in several)
    once = sum(weight**2 for arm, weight in parts if arm.n_repeats == 1)
    if once and lent[1]:
        between, own = between + once * lent[0], lent[1]
    if between > 0:
        # Satterthwaite: each part of the variance is as sure as its own degrees of freedom.
        df = (variance + between) ** 2 / (variance**2 / df + between**2 / own)
        variance += between
    return float(value), float(np.sqrt(variance)), df


def _t(df: float, level: float) -> float:
    from scipy import stats

    # Below 1 the tails have no end that a table of scores could show.
    return float(stats.t.ppf((1 + level) / 2, max(1.0, df)))


def _scores_summed(counts: np.ndarray, scores: list[str]) -> np.ndarray:
    """Of each unit its scores (0 where undefined), and whether they are defined, ``(n, 2 m)``."""
    of_unit = ratios(*counts.T)
    without = counts[:, 0] + counts[:, 2] == 0
    # Means of these are over the units with a target: the same ones in every arm (`tlskit.metrics.scores`).
    values = [np.where(without & (name in NEED_TARGET), np.nan, of_unit[name]) for name in scores]
    values = np.stack(values, axis=1)
    return np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1)


#: Scores that are a ratio of two linear functions of (tp, fp, fn, tn).
_LINEAR = {
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "dice": ((2, 0, 0, 0), (2, 1, 1, 0)),
    "iou": ((1, 0, 0, 0), (1, 1, 1, 0)),
    "recall": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "specificity": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "precision": ((1, 0, 0, 0), (1, 1, 0, 0)),
}


def _mcc_and_gradient(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tp, fp, fn, tn = sums.T
    value = ratios(tp, fp, fn, tn)["mcc"]
    with np.errstate(divide="ignore", invalid="ignore"):
        product = np.stack([tn, -fn, -fp, tp], axis=1)
        root = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
        a, b, c, d = 1 / (tp + fp), 1 / (tp + fn), 1 / (tn + fp), 1 / (tn + fn)
        margins = np.stack([a + b, a + c, b + d, c + d], axis=1)
        return value, product / root[:, None] - value[:, None] / 2 * margins


#: Scales on which intervals are made: there, back, and the derivative there.
_SCALES = {
    "logit": (lambda v: np.log(v / (1 - v)), lambda v: 1 / (1 + np.exp(-v)), lambda v: 1 / (v * (1 - v))),
    "fisher": (np.arctanh, np.tanh, lambda v: 1 / (1 - v * v)),
}


def _arms(
    counts: pd.DataFrame, *, by: list[str], scores: Sequence[str], pooling: str, region: str, repeat: str = "seed"
) -> list[Arm]:
    if pooling not in POOLINGS:
        raise ParameterError(
            f"Intervals over patients know {', '.join(POOLINGS)}, not {pooling!r}: a batch holds tiles of several "
            "patients."
        )
    unknown = [name for name in scores if name not in SCORES]
    if unknown:
        raise ParameterError(f"Unknown score(s) {', '.join(unknown)}; known are {', '.join(SCORES)}.")
    if region == "tissue":
        counts = counts.assign(**{c: counts[f"{c}_tissue"] for c in COUNTS})
    for column in ("split", "threshold_by", "grid_mpp"):
        if column in counts and column not in by and counts[column].nunique() > 1:
            raise ParameterError(f"The counts mix several values of `{column}`: select one of them first.")
    groups = list(counts.groupby(by, sort=False)) if by else [((), counts)]
    ids = ["patient_id", "slide_id"] if "slide_id" in counts else ["patient_id"]
    first_key, first = groups[0]
    expected = set(zip(*(first[c] for c in ids), strict=True))
    patients = np.array(sorted(first["patient_id"].unique()), dtype=object)
    arms = []
    for key, group in groups:
        parts = (
            [part for _, part in group.groupby(repeat, dropna=False)]
            if repeat in group and repeat not in by
            else [group]
        )
        for part in parts:
            there = set(zip(*(part[c] for c in ids), strict=True))
            if there != expected:
                differing = ", ".join("/".join(map(str, i)) for i in sorted(there ^ expected, key=str)[:5])
                names = " ".join(map(str, first_key[:1])), " ".join(map(str, key[:1]))
                what = f"The arms {' and '.join(names)}" if names[0] != names[1] else f"The trainings of {names[0]}"
                raise ComparisonError(
                    f"{what} stand on different slides ({differing}): a paired comparison needs the same patients "
                    "and slides in all arms."
                )
        arm = Arm(dict(zip(by, key, strict=True)), group, patients, scores, pooling)
        if len(parts) > 1:
            arm.repeats = [Arm(arm.key, part, patients, scores, pooling) for part in parts]
        arms.append(arm)
    return arms


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
