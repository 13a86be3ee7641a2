"""Across magnifications: the tables of all arms of a run brought together, from the archive alone.

No slide, map or model is opened. Every function takes the run's folder and returns a table; whole-slide comparisons are
refused where the arms do not stand on the same patients, slides and targets (`check_arms`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit import bootstrap, metrics, objects, published, thresholds
from tlskit.errors import ComparisonError, ParameterError, RunError
from tlskit.metrics import EMPTY_RULES, SCORES

__all__ = [
    "agreement_table",
    "arms",
    "audit",
    "audit_winners",
    "calibration",
    "check_arms",
    "choice",
    "collect",
    "differences",
    "grid_table",
    "intervals",
    "iou_by_magnification",
    "minutes_per_slide",
    "object_table",
    "pareto",
    "pr_curves",
    "style_table_one",
    "table_one",
    "threshold_table",
]

log = logging.getLogger(__name__)

ARM = ["arm", "magnification"]

#: Levels of the published table, and the tables of counts by tile behind them.
LEVELS = {"tile": "04_counts_per_tile", "wsi": "05_counts_per_tile"}

_TEXT = {"slide_id": str, "patient_id": str, "cancer_type": str, "tile_id": str, "split": str}

#: What the steps record that must be the same in all arms.
_SHARED = ("split_hash", "target_class", "resolution_by")


def arms(run_dir: str | Path) -> pd.DataFrame:
    """The arms of a run, coarsest first: arm, magnification (as recorded, else by the folder's name), dir.

    An arm is a folder of the run that holds ``tables``, other than ``compare``.
    """
    run_dir = Path(run_dir)
    rows = []
    for folder in sorted(run_dir.iterdir()) if run_dir.is_dir() else []:
        if (folder / "tables").is_dir() and folder.name != "compare":
            magnification = _recorded(folder).get("magnification")
            named = re.match(r"([0-9.]+)x", folder.name)
            if magnification is None and named:
                magnification = float(named.group(1))
            rows.append({"arm": folder.name, "magnification": magnification, "dir": folder})
    if not rows:
        raise RunError(f"The run {run_dir.name} has no arm with tables yet: run the numbered notebooks first.")
    table = pd.DataFrame(rows).astype({"magnification": float})
    return table.sort_values(ARM[::-1], kind="stable", ignore_index=True)


def collect(run_dir: str | Path, table: str) -> pd.DataFrame:
    """One table of all arms, one below the other, with the columns arm and magnification in front.

    Parameters
    ----------
    run_dir
        Folder of the run.
    table
        Such as ``"05_scores"``, for ``<arm>/tables/05_scores.csv``. Arms that lack it are left out, and logged.

    Raises
    ------
    RunError
        If no arm has it.
    """
    found = []
    for arm in arms(run_dir).itertuples():
        path = arm.dir / "tables" / f"{table}.csv"
        if path.is_file() and path.stat().st_size > 1:
            text = {column: kind for column, kind in _TEXT.items()}
            rows = pd.read_csv(path, dtype=text, keep_default_na=True)
            found.append(pd.concat([_constant(rows, arm), rows.drop(columns=ARM, errors="ignore")], axis=1))
        else:
            log.warning("The arm %s has no table %s: left out.", arm.arm, table)
    if not found:
        raise RunError(f"No arm of the run {Path(run_dir).name} has the table {table}: run step {table[:2]} first.")
    return pd.concat(found, ignore_index=True)


def check_arms(run_dir: str | Path, *, slides: str = "same") -> pd.DataFrame:
    """What each arm stands on; refuses arms that cannot be compared.

    Parameters
    ----------
    run_dir
        Folder of the run.
    slides
        ``same``: all arms must have evaluated the same slides. ``common``: comparisons are made on the slides that all
        arms have; the others are counted in ``slides_left_out``.

    Returns
    -------
    DataFrame
        arm, magnification, n_slides, n_patients, n_targets, target_mm2 (of the test slides compared), slides_left_out.

    Raises
    ------
    ComparisonError
        If arms differ in split, target class, slides or outlines; the message names each difference.
    """
    if slides not in ("same", "common"):
        raise ParameterError(f"`slides` should be same or common, not {slides!r}.")
    faults = []
    recorded = {arm.arm: _recorded(arm.dir) for arm in arms(run_dir).itertuples()}
    for name in _SHARED:
        values = {arm: values[name] for arm, values in recorded.items() if name in values}
        if len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
            listed = ", ".join(f"{arm} {str(v)[:12] if name == 'split_hash' else v}" for arm, v in values.items())
            faults.append(f"{name} differs: {listed}")
    counts = _test(collect(run_dir, "05_counts_per_slide"))
    counts = counts.drop_duplicates(["arm", "slide_id"])
    here = {arm: set(group["slide_id"]) for arm, group in counts.groupby("arm", sort=False)}
    common, every = set.intersection(*here.values()), set.union(*here.values())
    for arm, there in here.items():
        if slides == "same" and every - there:
            missing = ", ".join(sorted(every - there)[:5])
            faults.append(
                f"{arm} lacks {len(every - there)} slide(s) that another arm has ({missing}): see status.csv for why, "
                f"or compare on the {len(common)} slides that all arms share with slides='common'"
            )
    if slides == "common" and not common:
        faults.append("no slide was evaluated in all arms")
    shared = counts[counts["slide_id"].isin(common)]
    for column, tolerance in (("patient_id", None), ("n_targets", 0.0), ("target_mm2", 1e-6)):
        if column in shared:
            faults += _differing(shared, column, tolerance)
    if faults:
        raise ComparisonError(
            f"The arms of the run {Path(run_dir).name} cannot be compared:\n" + "\n".join(f"  - {f}" for f in faults)
        )
    table = shared.groupby(ARM, sort=False).agg(n_slides=("slide_id", "nunique"), n_patients=("patient_id", "nunique"))
    for column in ("n_targets", "target_mm2"):
        if column in shared:
            table[column] = shared.groupby(ARM, sort=False)[column].sum()
    table["slides_left_out"] = [len(here[arm] - common) for arm, _ in table.index]
    return table.reset_index()


def table_one(
    run_dir: str | Path,
    *,
    threshold_by: str = "fixed",
    poolings: Sequence[str] = ("as_published", "pooled"),
    batch_size: int = 8,
    with_published: bool = True,
    slides: str = "same",
) -> pd.DataFrame:
    """The paper's Table 1 for this cohort: seven scores at tile and whole-slide level, by magnification.

    ``as_published`` averages Dice and IoU over batches, an empty batch counting 1, and pools the rest, as the paper
    does;
    ``pooled`` is of all pixels together.

    Parameters
    ----------
    run_dir
        Folder of the run.
    threshold_by
        ``fixed`` (0.5) or ``validation`` (chosen for each arm); tiles counted at one threshold only keep that one.
    poolings, batch_size
        Of `tlskit.metrics.score`.
    with_published
        Whether to put the printed table below.
    slides
        Of `check_arms`.

    Returns
    -------
    DataFrame
        source (``this cohort`` or the paper), level (``tile``, ``wsi``), pooling, arm, magnification, threshold, the
        seven scores, prevalence, n_slides, n_patients.
    """
    tables = []
    for level, name in LEVELS.items():
        counts = _counts(run_dir, name, threshold_by, slides)
        scores = metrics.score_table(counts, poolings=poolings, batch_size=batch_size, by=[*ARM, "threshold"])
        tables.append(scores.assign(source="this cohort", level=level))
    if with_published:
        printed = published.table_one()
        printed["arm"] = [f"{m:g}x" for m in printed["magnification"]]
        printed["n_slides"] = [published.TEST_SLIDES if level == "wsi" else pd.NA for level in printed["level"]]
        tables.append(printed.assign(source=published.SOURCE, pooling="as printed"))
    table = pd.concat(tables, ignore_index=True)
    columns = ["source", "level", "pooling", *ARM, "threshold", *SCORES, "prevalence", "n_slides", "n_patients"]
    return table[columns].astype({"n_slides": "Int64", "n_patients": "Int64"})


def style_table_one(table: pd.DataFrame):
    """`table_one` for the eye: three decimals, and the best of each column bold within source, level and pooling.

    Returns
    -------
    pandas.io.formats.style.Styler
    """
    group = ["source", "level", "pooling"]

    def bold(of_table: pd.DataFrame) -> pd.DataFrame:
        best = of_table.groupby(group, sort=False)[list(SCORES)].transform("max")
        styles = pd.DataFrame("", index=of_table.index, columns=of_table.columns)
        styles[list(SCORES)] = np.where(of_table[list(SCORES)] == best, "font-weight: bold", "")
        return styles

    digits = dict.fromkeys(SCORES, "{:.3f}") | {"prevalence": "{:.4f}", "threshold": "{:.3f}", "magnification": "{:g}"}
    styler = table.style.apply(bold, axis=None).format(digits, na_rep="-").hide(axis="index")
    return styler.set_properties(**{"text-align": "right"}).set_caption(
        "Best of each column in bold, within source, level and pooling. as_published: Dice and IoU averaged "
        "over batches, "
        "an empty batch counting 1; the other scores of all pixels pooled."
    )


def iou_by_magnification(
    run_dir: str | Path, *, threshold_by: str = "fixed", score: str = "iou", **options
) -> pd.DataFrame:
    """One score of `table_one` in long form, for `tlskit.charts.iou_by_magnification`.

    Returns
    -------
    DataFrame
        source, level, pooling, arm, magnification, score, value, n_slides.
    """
    table = table_one(run_dir, threshold_by=threshold_by, **options)
    table = table.assign(score=score, value=table[score])
    return table[["source", "level", "pooling", *ARM, "score", "value", "n_slides"]]


def audit(
    run_dir: str | Path, *, threshold_by: str = "fixed", batch_size: int = 8, slides: str = "same"
) -> pd.DataFrame:
    """The same predictions under every pooling and every rule for empty units.

    Returns
    -------
    DataFrame
        level, arm, magnification, and the columns of `tlskit.metrics.score`, with ``best_<score>`` (bool: the best
        arm of
        this level, pooling and rule; equals share it) for each of the seven scores.
    """
    tables = []
    for level, name in LEVELS.items():
        counts = _counts(run_dir, name, threshold_by, slides)
        for pooling in ("pooled", "per_patient", "per_slide", "per_tile", "batch_mean"):
            for empty in EMPTY_RULES:
                scores = metrics.score(counts, pooling=pooling, empty=empty, batch_size=batch_size, by=ARM)
                for name_of_score in SCORES:
                    values = scores[name_of_score]
                    scores[f"best_{name_of_score}"] = values.notna() & (values >= values.max() - 1e-12)
                scores.insert(0, "level", level)
                tables.append(scores)
    return pd.concat(tables, ignore_index=True)


def audit_winners(audited: pd.DataFrame, *, scores: Sequence[str] = ("dice", "iou", "mcc")) -> pd.DataFrame:
    """Which arm wins under each pooling and rule: level, pooling, empty, and for each score the arm(s) that are
    best."""
    rows = []
    for key, group in audited.groupby(["level", "pooling", "empty"], sort=False):
        row = dict(zip(("level", "pooling", "empty"), key, strict=True))
        rows.append(row | {s: " = ".join(group.loc[group[f"best_{s}"], "arm"]) or "undefined" for s in scores})
    return pd.DataFrame(rows)


def grid_table(
    run_dir: str | Path, *, threshold_by: str = "fixed", pooling: str = "pooled", slides: str = "same"
) -> pd.DataFrame:
    """Scores on the common grid, inside the same tissue, each beside the ceiling of its magnification.

    Returns
    -------
    DataFrame
        arm, magnification, grid_mpp, threshold, pooling, dice, ceiling_dice, iou, ceiling_iou, iou_of_ceiling (iou /
        ceiling_iou), recall, precision, mcc, prevalence, n_slides, n_patients.
    """
    counts = _counts(run_dir, "05_grid_counts", threshold_by, slides)
    by = [*ARM, "grid_mpp", "threshold"]
    table = metrics.score(counts, pooling=pooling, by=by)
    of_ceiling = counts.assign(**{c: counts[f"ceiling_{c}"] for c in metrics.COUNTS})
    ceiling = metrics.score(of_ceiling, pooling=pooling, by=by)
    table = table.assign(ceiling_dice=ceiling["dice"], ceiling_iou=ceiling["iou"])
    table["iou_of_ceiling"] = table["iou"] / table["ceiling_iou"]
    ordered = ["pooling", "dice", "ceiling_dice", "iou", "ceiling_iou", "iou_of_ceiling", "recall", "precision", "mcc"]
    return table[[*by, *ordered, "prevalence", "n_slides", "n_patients"]]


def object_table(
    run_dir: str | Path,
    *,
    threshold_by: str = "fixed",
    rules: Sequence[str] = objects.MATCH_RULES,
    slides: str = "same",
) -> pd.DataFrame:
    """Objects found, missed and false by arm and rule of matching: `tlskit.objects.object_scores`."""
    of_slides = _counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    found = _only(collect(run_dir, "05_objects"), of_slides, threshold_by)
    return pd.concat([objects.object_scores(found, of_slides, rule=r, by=ARM) for r in rules], ignore_index=True)


def agreement_table(run_dir: str | Path, *, threshold_by: str = "fixed", slides: str = "same") -> pd.DataFrame:
    """Number and area of objects of each slide, predicted against true: `tlskit.objects.agreement` by arm.

    Returns
    -------
    DataFrame
        arm, magnification, what (``number``, ``area_mm2``), n, bias, sd, limit_low, limit_high, concordance.
    """
    of_slides = _counts(run_dir, "05_objects_per_slide", threshold_by, slides)
    rows = []
    for key, group in of_slides.groupby(ARM, sort=False):
        for what, columns in (("number", ("n_predicted", "n_truth")), ("area_mm2", ("predicted_mm2", "truth_mm2"))):
            agreed = objects.agreement(*(group[c].to_numpy() for c in columns))
            rows.append(dict(zip(ARM, key, strict=True)) | {"what": what} | agreed)
    return pd.DataFrame(rows)


def threshold_table(run_dir: str | Path, *, slides: str = "same") -> pd.DataFrame:
    """Whole-slide scores, pooled, at 0.5 and at the threshold chosen on validation: one row an arm and rule."""
    rules = collect(run_dir, "05_counts_per_slide")["threshold_by"].unique()
    tables = [
        metrics.score(_counts(run_dir, "05_counts_per_slide", rule, slides), by=[*ARM, "threshold_by", "threshold"])
        for rule in rules
    ]
    return pd.concat(tables, ignore_index=True).sort_values(["magnification", "arm", "threshold_by"], ignore_index=True)


def pr_curves(run_dir: str | Path, *, region: str = "slide", slides: str = "same") -> pd.DataFrame:
    """`tlskit.thresholds.pr_curve` of the test slides, by arm."""
    return thresholds.pr_curve(_histograms(run_dir, slides), by=ARM, region=region)


def calibration(run_dir: str | Path, *, n_bins: int = 10, region: str = "tissue", slides: str = "same") -> pd.DataFrame:
    """`tlskit.thresholds.calibration` of the test slides, by arm."""
    return thresholds.calibration(_histograms(run_dir, slides), n_bins=n_bins, by=ARM, region=region)


def intervals(
    run_dir: str | Path,
    *,
    on: str = "grid",
    scores: Sequence[str] = ("dice", "iou", "recall", "precision", "mcc"),
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    draws: int = 10_000,
    seed: int = 0,
    slides: str = "same",
) -> pd.DataFrame:
    """Each arm's scores with 95 % intervals: `tlskit.bootstrap.intervals`.

    `on` is ``grid`` (the common grid, inside tissue) or ``wsi`` (each magnification's own pixels, whole slides).
    """
    counts = _counts(run_dir, _BOOTSTRAPPED[_known(on)], threshold_by, slides)
    table = bootstrap.intervals(counts, scores=scores, pooling=pooling, by=ARM, draws=draws, seed=seed)
    return table.assign(on=on, threshold_by=threshold_by)


def differences(
    run_dir: str | Path,
    *,
    on: str = "grid",
    scores: Sequence[str] = ("dice", "iou"),
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    draws: int = 10_000,
    seed: int = 0,
    slides: str = "same",
) -> pd.DataFrame:
    """Every pairwise difference between arms with its 95 % interval: `tlskit.bootstrap.differences`. `on` as above."""
    counts = _counts(run_dir, _BOOTSTRAPPED[_known(on)], threshold_by, slides)
    table = bootstrap.differences(counts, scores=scores, pooling=pooling, by=ARM, draws=draws, seed=seed)
    return table.assign(on=on, threshold_by=threshold_by)


def minutes_per_slide(run_dir: str | Path) -> pd.DataFrame:
    """Minutes that one slide takes, by arm, from the timing notebook.

    A slide's time is the median of its warm passes (the first pass warms the machine up; it counts where it is the only
    one), by the wall clock where it was kept, else the sum of the stages. The spread is over slides.

    Returns
    -------
    DataFrame
        arm, magnification, minutes (mean over slides), minutes_median, minutes_q25, minutes_q75, minutes_min,
        minutes_max, slides_per_minute, n_slides, n_repeats.
    """
    stages = collect(run_dir, "06_stages")
    whole = stages[stages["stage"].isin(_WALL)]
    # Stages run side by side: where the wall clock was kept, their sum is not the time that passed.
    stages = whole if len(whole) else stages
    if "repeat" not in stages:
        stages = stages.assign(repeat=0)
    if "warm" not in stages:
        stages = stages.assign(warm=stages["repeat"] > stages.groupby([*ARM, "slide_id"])["repeat"].transform("min"))
    seconds = stages.groupby([*ARM, "slide_id", "repeat", "warm"], sort=False)["seconds"].sum().reset_index()
    has_warm = seconds.groupby([*ARM, "slide_id"], sort=False)["warm"].transform("any")
    timed = seconds[seconds["warm"] | ~has_warm]
    minutes = timed.groupby([*ARM, "slide_id"], sort=False)["seconds"].median().div(60)
    by_arm = minutes.groupby(level=ARM, sort=False)
    table = pd.DataFrame({"minutes": by_arm.mean(), "minutes_median": by_arm.median()})
    table["minutes_q25"], table["minutes_q75"] = by_arm.quantile(0.25), by_arm.quantile(0.75)
    table["minutes_min"], table["minutes_max"] = by_arm.min(), by_arm.max()
    table["slides_per_minute"] = 1 / table["minutes"]
    table["n_slides"] = by_arm.size()
    table["n_repeats"] = timed.groupby(ARM, sort=False)["repeat"].nunique()
    return table.reset_index()


def pareto(
    run_dir: str | Path,
    *,
    score: str = "iou",
    on: str = "grid",
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    margin: float = 0.05,
    draws: int = 10_000,
    seed: int = 0,
    slides: str = "same",
) -> pd.DataFrame:
    """Quality against minutes per slide, and the arm that one would choose.

    Chosen is the fastest arm that is shown to be at most `margin` worse than the best one: the whole 95 % interval of
    the
    paired difference lies above ``-margin``. Where too few patients leave no faster arm shown to be so, the best stays.

    Returns
    -------
    DataFrame
        arm, magnification, score, estimate, low, high, the columns of `minutes_per_slide`, on_front (no other arm is
        both
        better and faster), difference_to_best, difference_low, difference_high, within_margin, chosen, margin, on,
        pooling,
        threshold_by, n_patients, warning.
    """
    options = {
        "on": on,
        "pooling": pooling,
        "threshold_by": threshold_by,
        "draws": draws,
        "seed": seed,
        "slides": slides,
    }
    quality = intervals(run_dir, scores=[score], **options)
    apart = differences(run_dir, scores=[score], **options)
    table = quality.drop(columns=["n_slides"]).merge(minutes_per_slide(run_dir), on=ARM, how="inner", validate="1:1")
    if table.empty or table["estimate"].isna().all():
        raise RunError(f"No arm of the run {Path(run_dir).name} has both a score on whole slides and a time.")
    q, minutes = table["estimate"].to_numpy(), table["minutes"].to_numpy()
    table["on_front"] = [
        not np.isnan(q[n]) and not any((q >= q[n]) & (minutes <= minutes[n]) & ((q > q[n]) | (minutes < minutes[n])))
        for n in range(len(table))
    ]
    best = table.loc[table["estimate"].idxmax(), "arm"]
    to_best = [_difference(apart, arm, best) for arm in table["arm"]]
    table["difference_to_best"], table["difference_low"], table["difference_high"] = zip(*to_best, strict=True)
    table["within_margin"] = (table["arm"] == best) | (table["difference_low"] > -margin)
    candidates = table[table["within_margin"]]
    table["chosen"] = table["arm"] == candidates.loc[candidates["minutes"].idxmin(), "arm"]
    return table.assign(margin=margin)


def choice(front: pd.DataFrame) -> str:
    """The chosen arm of `pareto` in words, with the reason."""
    chosen = front[front["chosen"]].iloc[0]
    best = front.loc[front["estimate"].idxmax()]
    name = {"iou": "IoU", "mcc": "MCC"}.get(chosen["score"], chosen["score"].capitalize())
    low, high = published.PERSON_MINUTES_PER_SLIDE
    text = f"{chosen['arm']}: {name} {_with_interval(chosen)}, {_minutes(chosen['minutes'])} a slide"
    person = "less than" if chosen["minutes"] < low else "as long as" if chosen["minutes"] <= high else "longer than"
    text += f" ({person} the {low:g}-{high:g} min of a person). "
    if chosen["arm"] == best["arm"]:
        faster = front[front["minutes"] < chosen["minutes"]]
        text += "It has the best score"
        if len(faster):
            text += (
                f", and no faster arm is shown to be at most {chosen['margin']:g} worse "
                f"(the whole 95 % interval of the paired difference would have to lie above -{chosen['margin']:g})."
            )
        else:
            text += " and is the fastest."
    else:
        text += (
            f"The best score is that of {best['arm']} ({_with_interval(best)}, {_minutes(best['minutes'])}), but "
            f"{chosen['arm']} is {best['minutes'] / chosen['minutes']:.1f} times as fast and at most "
            f"{chosen['margin']:g} "
            f"worse: paired difference {chosen['difference_to_best']:+.3f} "
            f"(95 % interval {chosen['difference_low']:+.3f} to {chosen['difference_high']:+.3f})."
        )
    if isinstance(chosen["warning"], str) and chosen["warning"]:
        text += f" Caution: {chosen['warning']}."
    return text


_BOOTSTRAPPED = {"grid": "05_grid_counts", "wsi": "05_counts_per_slide"}

#: Names under which a timing table may keep the time that passed, beside its stages.
_WALL = ("wall", "total")


def _known(on: str) -> str:
    if on not in _BOOTSTRAPPED:
        raise ParameterError(f"`on` should be one of {', '.join(_BOOTSTRAPPED)}, not {on!r}.")
    return on


def _constant(rows: pd.DataFrame, arm) -> pd.DataFrame:
    return pd.DataFrame({"arm": arm.arm, "magnification": arm.magnification}, index=rows.index)


def _recorded(arm_dir: Path) -> dict:
    """Values that the arm's steps recorded, later steps over earlier ones."""
    values: dict = {}
    for path in sorted((arm_dir / "records").glob("*.json")):
        values |= json.loads(path.read_text(encoding="utf-8")).get("values", {})
    return values


def _test(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the test set; all where the table does not know of sets."""
    if "split" not in table or table["split"].isna().all():
        return table
    test = table[table["split"] == "test"]
    if test.empty:
        raise RunError("None of the evaluated slides is of the test set: evaluate the test slides first.")
    return test


def _counts(run_dir: str | Path, name: str, threshold_by: str, slides: str) -> pd.DataFrame:
    """A table of the test set at one rule of threshold; of whole slides, those that the arms may be compared on."""
    table = _test(collect(run_dir, name))
    rules = table["threshold_by"].unique()
    if name.startswith("04") and threshold_by not in rules and len(rules) == 1:
        # A threshold is chosen on whole slides, after the tiles were counted; the column threshold says which it was.
        threshold_by = rules[0]
    table = table[table["threshold_by"] == threshold_by]
    if table.empty:
        raise RunError(f"The table {name} has no counts at the threshold {threshold_by!r}; it has {', '.join(rules)}.")
    # Tiles are another matter: which slides have a tile with a target depends on the size of a tile.
    if not name.startswith("04"):
        check_arms(run_dir, slides=slides)
        here = [set(group["slide_id"]) for _, group in table.groupby("arm")]
        if slides == "common":
            table = table[table["slide_id"].isin(set.intersection(*here))]
        elif any(there != here[0] for there in here):
            raise ComparisonError(
                f"The arms of {name} stand on different slides: run step {name[:2]} again in all arms."
            )
    return table.reset_index(drop=True)


def _only(table: pd.DataFrame, of_slides: pd.DataFrame, threshold_by: str) -> pd.DataFrame:
    keys = of_slides[["arm", "slide_id"]].drop_duplicates()
    return table[table["threshold_by"] == threshold_by].merge(keys, on=["arm", "slide_id"])


def _histograms(run_dir: str | Path, slides: str) -> pd.DataFrame:
    table = _test(collect(run_dir, "05_histograms"))
    check_arms(run_dir, slides=slides)
    common = set.intersection(*(set(group["slide_id"]) for _, group in table.groupby("arm")))
    return table[table["slide_id"].isin(common)]


def _differing(counts: pd.DataFrame, column: str, tolerance: float | None) -> list[str]:
    wide = counts.pivot(index="slide_id", columns="arm", values=column)
    if tolerance is None:
        odd = wide[wide.nunique(axis=1, dropna=False) > 1]
    else:
        odd = wide[(wide.max(axis=1) - wide.min(axis=1)) > tolerance * wide.max(axis=1).clip(lower=1)]
    return [
        f"{column} of slide {slide_id} differs: " + ", ".join(f"{arm} {value}" for arm, value in row.items())
        for slide_id, row in odd.head(5).iterrows()
    ]


def _difference(apart: pd.DataFrame, arm: str, best: str) -> tuple[float, float, float]:
    if arm == best:
        return 0.0, 0.0, 0.0
    row = apart[(apart["first"] == arm) & (apart["second"] == best)]
    if len(row):
        return tuple(float(v) for v in row.iloc[0][["difference", "low", "high"]])
    row = apart[(apart["first"] == best) & (apart["second"] == arm)].iloc[0]
    return -float(row["difference"]), -float(row["high"]), -float(row["low"])


def _with_interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return f"{row['estimate']:.3f} (no interval)"
    return f"{row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f} min" if minutes >= 1 else f"{minutes * 60:.0f} s" if minutes >= 1 / 60 else "under 1 s"
