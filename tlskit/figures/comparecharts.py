"""Charts of arms beside each other: tables of `tlskit.evaluation` in, matplotlib ``Figure`` out.

Each takes the options of `tlskit.figures.charts` and `tlskit.figures.panels` besides its own.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlskit import units
from tlskit.evaluation import beaten_by_none, choice
from tlskit.figures import style
from tlskit.figures.charts import FEW, UNIT, chart, curves, forest, trend
from tlskit.figures.panels import name_right, person_band, span, unit
from tlskit.figures.style import POOLINGS, score_name
from tlskit.metrics import PERSON_MINUTES_PER_SLIDE, SIZE_CLASSES, audit_published_table, published
from tlskit.metrics import agreement as agree
from tlskit.units import counted

__all__ = [
    "agreement", "audit_chart", "ceilings", "difference_intervals", "froc", "iou_by_magnification", "minutes_bars",
    "object_recall", "pareto_front", "published_audit_chart", "score_intervals", "subgroup_intervals",
]  # fmt: skip

_RULES = {"iou10": "IoU of 0.1 or more", "iou50": "IoU of 0.5 or more", "centroid": "centroid inside"}
_PAIRS = 15  # of arms are drawn; of more, those with the arm that is ahead most often
_ARMS_BESIDE = 4  # whose intervals stand below each other in one row of subgroups; more have a panel each
_PERSON = "band: a person, {:g}-{:g} min a slide".format(*PERSON_MINUTES_PER_SLIDE)


def iou_by_magnification(table: pd.DataFrame, *, color: str | None = None, **options) -> Figure:
    """A score by magnification on tiles and on whole slides, beside the published one as printed and as implied.

    `table` of `tlskit.evaluation.comparison.iou_by_magnification`. With a factor as `color`, of this cohort's pooled
    scores alone; by default the colour is the way of averaging.
    """
    score, ours = table["score"].iloc[0], table["source"] != published.SOURCE
    options = {"col": "level", "limits": unit(table["value"]), "ylabel": score_name(score),
               "n": lambda rows: style.n_text(rows[~rows["source"].isin(["", published.SOURCE])]),
               "alt": f"{score_name(score)} by magnification."} | options  # fmt: skip
    if color:
        return trend(table[ours & (table["pooling"] == "pooled")], y="value", color=color, **options)
    table = table.assign(_who=("this cohort, " + table["pooling"].map(POOLINGS)).where(ours, "published, as printed"))
    implied = audit_published_table().rename(columns={f"{score}_implied": "value"})
    if "value" in implied and not ours.all():
        implied = implied.assign(_who="published, pooled (implied by its precision and recall)", source="")
        table = pd.concat([table, implied[["level", "magnification", "value", "_who", "source"]]])
    who = sorted(table["_who"].unique(), key=lambda of: (of.startswith("published"), of))
    looks = style.styles_of("", who)
    looks |= {of: looks[of] | {"color": style.GREY} for of in who if of.startswith("published")}
    return trend(
        table.assign(_who=pd.Categorical(table["_who"], who)), y="value", color="_who", looks=looks, group=[], **options
    )


def score_intervals(table: pd.DataFrame, **options) -> Figure:
    """Scores of each arm with their intervals, one panel a score; `table` of `evaluation.comparison.intervals`."""
    words = f"score\n{stands_on(table)}"
    repeated = "repeat_sd" in table and table["repeat_sd"].notna().any()
    words += f"\npale: one standard deviation of {style.same(table['n_repeats'])} trainings" * bool(repeated)

    def spread(ax, rows) -> None:
        low, high = rows["estimate"] - rows["repeat_sd"], rows["estimate"] + rows["repeat_sd"]
        ax.hlines(rows["_at"], low, high, color=style.GREY, alpha=0.35, linewidth=5, zorder=0.5)

    return chart(forest, table, options, dodge=False, col="score", xlabel=words, each=spread if repeated else None,
                 alt=f"Scores of the arms, {style.n_text(table)}.")  # fmt: skip


@style.unless_empty("One arm alone has no difference to another.")
def difference_intervals(
    table: pd.DataFrame, *, score: str | None = None, against: str | None = None, **options
) -> Figure:
    """Paired differences between arms: thick their own intervals, thin those that hold for all pairs at once.

    Filled are differences that are shown: their thin interval excludes 0.

    `table` of `tlskit.evaluation.comparison.differences`; `score`, by default its last. With `against`, pairs with that
    arm only, as the other minus it: of more than 15 pairs, by default, the arm that is ahead most often.
    """
    score = score or table["score"].iloc[-1]
    table = table[table["score"] == score]
    note = "thick: 95 % of this pair" + "; thin: of all pairs at once" * (len(table) > 1) + "; filled: shown"
    if against is None and len(table) > _PAIRS:
        against = table["first"].where(table["difference"] > 0, table["second"]).value_counts().idxmax()
    if against:
        swapped = {"first": "second", "low": "high", "low_all": "high_all"}
        turned = table.rename(columns=swapped | {b: a for a, b in swapped.items()})
        turned[["difference", "low", "high", "low_all", "high_all"]] *= -1
        ours = pd.concat([table, turned]).query("second == @against").set_index("first")
        note += f"; {len(ours)} of {len(table)} pairs, all with {against}"
        table = ours.loc[style.levels(ours.index.to_series(name="arm"))].reset_index()
    words = f"difference in {score_name(score)}, same patients in both arms ({note})\n{stands_on(table)}"
    return chart(differences, table.assign(pair=table["first"] + " - " + table["second"]), options, y="pair",
                 alt=f"Paired differences in {score_name(score)}.", xlabel=words)  # fmt: skip


def differences(table: pd.DataFrame, *, x: str = "difference", **options) -> Figure:
    """A `forest` of differences with both intervals; filled where the one of all rows at once excludes 0."""
    table = table.assign(shown=(table["low_all"] > 0) | (table["high_all"] < 0))
    looks = style.plain(yes=style.BLUE, no=style.GREY)
    return chart(forest, table, options, x=x, wide=("low_all", "high_all"), color="shown", fill="shown", dodge=False,
                 zero=True, number="{:+.2f}".format, looks=looks, show_legend=False)  # fmt: skip


def stands_on(table: pd.DataFrame) -> str:
    """What intervals stand on: patients, pixels, trainings; in words."""
    first, fewest = table.iloc[0], table["n_repeats"].min()
    patients = counted(first["n_patients"], "test patient")
    patients += f", {first['n_with_target']} with a target" * int(first["n_with_target"] < first["n_patients"])
    where = {"grid": "common grid, tissue and target", "wsi": "whole slides, own pixels"}.get(first.get("on", ""), "")
    pixels = ", ".join(filter(None, (POOLINGS.get(first.get("pooling"), ""), where)))
    folds = f" in each of {first['n_folds']:g} folds" if first["n_folds"] > 1 else ""
    trained = {"other arms": f"arms trained once{folds} with the spread of the others",
               "none": f"arms trained once{folds}: another training is not in it"}  # fmt: skip
    trained = [words for spread, words in trained.items() if (table["spread"] == spread).any()]
    text = f"{100 * first.get('level', 0.95):g} % t intervals over {patients}" + f" ({pixels})" * bool(pixels)
    text += f"\n{[*trained, f'{fewest:g} trainings an arm{folds}'][0]}"
    return text + (f"\nCaution: {first['warning']}." if isinstance(first["warning"], str) and first["warning"] else "")


def ceilings(table: pd.DataFrame, *, score: str = "iou", readers: pd.DataFrame | None = None, **options) -> Figure:
    """A score (``iou`` or ``dice``) on the common grid beside that of the outlines as pixels of the magnification.

    `table` of `tlskit.evaluation.comparison.grid_table`; `readers` of `tlskit.evaluation.reader_table`: what two people
    reach against each other is a line, its interval a band.
    """
    top, (people, band) = f"ceiling_{score}", _two_people(readers, score, "x")
    words = f"{score_name(score)} on a common grid of {table['grid_mpp'].iloc[0]:g} um/px, tissue and target "
    words += "(no target: undefined)" if table[top].isna().all() else (
        f"(bar: the outlines themselves as such pixels, {table[top].min():.3f} to {table[top].max():.3f})")  # fmt: skip

    def each(ax, rows) -> None:
        ax.hlines(rows["_at"], rows[score], rows[top], color="0.8", linewidth=1, zorder=0.9)
        ax.plot(rows[top], rows["_at"], "|", color=style.BLACK, markersize=9, markeredgewidth=2)
        band(ax, rows)

    return chart(forest, table, options, x=score, low=None, high=None, number="{:.3f}".format, each=each,
                 limits=(0, 1), xlabel=words + people, alt=f"{words}{people}.")  # fmt: skip


def _two_people(readers: pd.DataFrame | None, score: str, axis: str) -> tuple[str, Callable]:
    """What two people reach against each other: words for an axis, and what draws it there."""
    if readers is None or readers.empty or pd.isna(readers.iloc[0].get(score)):
        return "", lambda ax, _: None
    two = readers.iloc[0]
    ends = two[[score, f"{score}_low", f"{score}_high"]].astype(float)
    few = bool(two["n_slides"] < two["n_slides_compared"])
    words = f"\ndotted: two people against each other, {ends[score]:.3f}"
    words += f" ({two['n_slides']:g} of {two['n_slides_compared']:g} slides)" * few

    def draw_it(ax, _) -> None:
        line, band = (ax.axvline, ax.axvspan) if axis == "x" else (ax.axhline, ax.axhspan)
        band(ends.min(), ends.max(), color=style.BLACK, alpha=0.08, zorder=0, linewidth=0)
        # Green would be an arm's colour.
        line(ends[score], color=style.BLACK, linewidth=1.1, linestyle=":", zorder=0)
        limits = pd.Series([*getattr(ax, f"get_{axis}lim")(), *ends])
        room = 0.04 * (limits.max() - limits.min())
        if limits.min() < limits[0] or limits.max() > limits[1]:
            getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        ax.set(**{f"{axis}lim": (min(limits[0], ends.min() - room), max(limits[1], ends.max() + room))})

    return words, draw_it


def object_recall(table: pd.DataFrame, *, rule: str = "iou10", **options) -> Figure:
    """Objects found by size class, and false objects by area of tissue, at a `rule` of matching.

    `table` of `tlskit.evaluation.comparison.object_table`.
    """
    table, false = table[table["rule"] == rule], "false objects\nper cm² of tissue"
    keys = {size: size.replace(" ", "_").replace("-", "_") for size, _ in SIZE_CLASSES}
    columns = {f"recall,\n{size}": (f"recall_{of}", f"n_{of}") for size, of in keys.items()}
    columns |= {"recall, all": ("recall", "n_truth"), "precision": ("precision", "n_predicted"),
                "F1": ("f1", "n_truth"), false: ("false_objects_per_cm2", "n_slides")}  # fmt: skip
    long = pd.concat([table.assign(what=k, share=table[v], _n=table[n]) for k, (v, n) in columns.items()])

    def n(rows) -> str:
        return f"n = {counted(style.same(rows['_n']), 'slide' if set(rows['what']) == {false} else 'object')}"

    def each(ax, rows) -> None:
        if set(rows["what"]) == {false}:
            span(ax, [*rows["share"], 0.0], room=0.8)

    return chart(forest, long, options, x="share", low=None, high=None, limits=(0, 1), each=each, n=n, col="what",
                 share=(False, True), xlabel=f"share (a match is: {_RULES[rule]})",
                 alt="Objects found by size, precision, and false objects.")  # fmt: skip


def agreement(points: pd.DataFrame, *, what: str = "area_mm2", **options) -> Figure:
    """Bland and Altman's plot of each arm: predicted minus true against their mean, one point a patient.

    `points` of `tlskit.evaluation.comparison.agreement_points`; `what` is ``area_mm2`` or ``number``.
    """
    columns = {"area_mm2": ["predicted_mm2", "truth_mm2"], "number": ["n_predicted", "n_truth"]}[what]
    measure = "area of objects, mm²" if what == "area_mm2" else "number of objects"
    found = {arm: agree(*rows[columns].to_numpy(float).T) for arm, rows in points.groupby("arm", sort=False)}
    told = {arm: f"bias {of['bias']:.3g}, concordance {of['concordance']:.2f}".replace("nan", "undefined")
            for arm, of in found.items()}  # fmt: skip
    predicted, truth = points[columns].to_numpy(float).T
    points = points.assign(_mean=(predicted + truth) / 2, _apart=predicted - truth)
    limits = pd.DataFrame(found).loc[["bias", "limit_low", "limit_high"]]
    heights = [*points["_apart"], *limits.to_numpy(float).ravel(), 0.0]

    def each(ax, rows) -> None:
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        for at, dashes in zip(limits[rows["arm"].iloc[0]], ("-", "--", "--"), strict=True):
            ax.axhline(at, color=style.BLACK, linewidth=0.9, linestyle=dashes)

    return chart(
        curves, points, options, x="_mean", y="_apart", color="arm", col="arm", join=None, marks=(("_apart", True),),
        mark_pt=4, told=told, each=each, show_legend=False, panel_in=(1.5, 1.4), ylabel="predicted - true",
        n=lambda rows: f"n = {counted(len(rows), 'patient')}\n{told[rows['arm'].iloc[0]]}",
        frame={"x": {"values": points["_mean"]}, "y": {"values": heights, "ticks": 4}},
        xlabel=f"mean of predicted and true ({measure}; line: bias; dashes: 95 % of new patients)",
        alt=f"Predicted minus true {measure}, one point a patient.",
    )  # fmt: skip


def minutes_bars(table: pd.DataFrame, *, with_published: bool = True, **options) -> Figure:
    """Minutes that one stated slide takes in each arm (log scale), beside a person and the published times.

    `table` of `tlskit.evaluation.costs.minutes_per_slide`.
    """
    facts = published.facts().set_index("magnification")["minutes_per_slide"] if with_published else {}
    table = table.assign(_published=table["magnification"].map(facts).astype(float))
    words = f"projected to a slide of {table['slide'].iloc[0]}; line: by the fastest and the slowest pass"
    words += "; hollow: published, a laptop GPU and other slides" * bool(table["_published"].notna().any())
    ends = np.append(table[["minutes_min", "minutes_max", "_published"]], PERSON_MINUTES_PER_SLIDE)

    def each(ax, rows) -> None:
        ax.plot(rows["_published"], rows["_at"], "D", color=style.GREY, markersize=5, markerfacecolor="none")
        person_band(ax)

    return chart(forest, table, options, x="minutes", low="minutes_min", high="minutes_max", log=True, each=each,
                 limits=(np.nanmin(ends), np.nanmax(ends)), number=units.minutes_text,
                 n=lambda rows: f"timed: n = {counted(style.same(rows['n_slides']), 'slide')}",
                 xlabel=f"minutes per slide ({words}; {_PERSON})", alt="Minutes per slide, least to most.")  # fmt: skip


def pareto_front(
    front: pd.DataFrame, *, color: str = "arm", readers: pd.DataFrame | None = None,
    cascades: pd.DataFrame | None = None, **options,
) -> Figure:  # fmt: skip
    """Quality against minutes of one stated slide, both with their spread; where an arm is chosen, it is ringed.

    Cascades stand among the arms, and take part in which is beaten by none; one that takes the place of the chosen arm
    is ringed in its stead. Arms without a time are not drawn; the words of `tlskit.evaluation.choice` name them.

    `front` of `tlskit.evaluation.costs.pareto`, or the one of `tlskit.evaluation.answer`, which has `cascades`, too;
    `readers` as in `ceilings`.
    """
    score, why = score_name(front["score"].iloc[0]), choice(front)
    people, band = _two_people(readers, front["score"].iloc[0], "y")
    by = f"chosen on {front['chosen_by'].iloc[0] if 'chosen_by' in front else 'test'} patients"
    if front["chosen"].any():
        why = f"{', '.join(front.loc[front['chosen'], 'arm'])}: {by}. {why}"
    if cascades is not None and len(cascades):
        why = f"{why} Cascades: {', '.join(cascades['arm'])}."
        if cascades["chosen"].any():
            why = f"In its place, {', '.join(cascades.loc[cascades['chosen'], 'arm'])} (ringed). {why}"
            front = front.assign(chosen=False)
        front = pd.concat([front, cascades.reindex(columns=front.columns)], ignore_index=True)
        front["on_front"] = beaten_by_none(front["estimate"], front["minutes"])
    front = front[front["minutes"].notna()].astype({"on_front": bool, "chosen": bool})
    if front["estimate"].isna().all():
        return style.words(f"No arm has both a time and a score to draw. {why}", options.get("size", "double"))
    slides, words = front["slide"].dropna().unique(), f"ringed: {by}; " * bool(front["chosen"].any())
    words = f"for a slide of {slides[0]}; " * (len(slides) == 1) + words
    words += f"line: fastest to slowest pass; dashes: no arm is both better and faster; {_PERSON}"
    ends = front[["estimate", "low", "high"]].to_numpy(float)
    least, most = np.nanmin(ends), np.nanmax(ends)  # arms that score alike have a tenth around them, within 0 to 1
    frame = {"x": {"values": front[["minutes", "minutes_min", "minutes_max"]], "log": True},
             "y": {"limits": (min(least, 0.9), max(most, min(least + 0.1, 1.0))), "ticks": 6}}  # fmt: skip

    def each(ax, rows) -> None:
        best = rows[rows["on_front"]].sort_values("minutes")
        ax.plot(best["minutes"], best["estimate"], color="0.6", linewidth=0.9, linestyle="--", zorder=0.9)
        person_band(ax)
        band(ax, rows)
        name_right(ax, rows, "minutes", "estimate")

    return chart(
        curves, front, options, x="minutes", y="estimate", color=color, join=None, low="low", high="high", each=each,
        left="minutes_min", right="minutes_max", marks=(("estimate", True),), chosen="chosen", frame=frame,
        show_legend=color != "arm", panel_in=(3.0, 3.0), ylabel=f"{score} (line: 95 % interval)",
        xlabel=f"minutes per slide ({words}){people}", alt=f"{score} against minutes. {why}",
    )  # fmt: skip


def audit_chart(table: pd.DataFrame, *, score: str = "iou", **options) -> Figure:
    """The same predictions under every pooling and empty rule; the winner of each row is ringed and named.

    `table` of `tlskit.evaluation.comparison.audit`. Rules for empty units that give the same scores share a row.
    """
    best, arms = f"best_{score}", style.levels(table["arm"])
    scores = table.groupby(["pooling", "empty"], sort=False)[score].agg(lambda of: tuple(of.round(12).fillna(-9)))
    alike = scores.reset_index().groupby(["pooling", score], sort=False)["empty"].agg(list).reset_index()
    several = alike["pooling"].duplicated(keep=False)
    alike["rule"] = alike["pooling"].map(POOLINGS) + (", empty: " + alike["empty"].map(" or ".join)).where(several, "")
    alike["empty"] = alike["empty"].str[0]
    rows = alike[["pooling", "empty", "rule"]].merge(table, on=["pooling", "empty"])
    winners = rows[rows[best]].groupby(["level", "rule"])["arm"].agg(
        lambda of: " = ".join(of) if len(of) < 3 else f"{len(of)} arms").rename("_winner")  # fmt: skip
    rows = rows.merge(winners, how="left", on=["level", "rule"]).fillna({"_winner": "n/a"})
    seen = rows["arm"].isin(rows.loc[rows[best], "arm"]) | (len(arms) <= FEW)
    rows["_who"] = pd.Categorical(rows["arm"].where(seen, "no winner"), [*arms, "no winner"])
    told = [f"{score_name(level)}: {', '.join(of['arm'].unique())}" for level, of in rows[rows[best]].groupby("level")]

    def n(here) -> str:
        shares = here.loc[here["pooling"] == "pooled", "prevalence"].agg(["min", "max"]).map("{:.2%}".format)
        return f"{style.n_text(here)}\ntarget: {' to '.join(dict.fromkeys(shares))} of pixels"

    def each(ax, here) -> None:
        won = here[here[best]]
        ax.scatter(won[score], won["_at"], s=121, facecolors="none", edgecolors=style.BLACK, zorder=2)

    return chart(
        forest, rows, options, x=score, y="rule", color="_who", low=None, high=None, number="_winner", dodge=False,
        looks=style.arm_styles(arms) | style.plain(**{"no winner": "0.75"}), limits=unit(rows[score]), each=each, n=n,
        col="level", xlabel=f"{score_name(score)} (ringed, and named at the right: the best)",
        alt=f"{score_name(score)} averaged in every way. Best in some row, {'; '.join(told)}.",
    )  # fmt: skip


def published_audit_chart(**options) -> Figure:
    """The printed table beside what its own precision, recall and specificity imply (`audit_published_table`)."""
    table = audit_published_table()
    table["unit"] = table["level"].map({"tile": "tile ", "wsi": "slide "}) + table["magnification"].map("{:g}x".format)
    scores, parts = ("dice", "iou", "mcc"), ("printed", "implied", "agrees")
    long = pd.concat(table.assign(score=of, **{part: table[f"{of}_{part}"] for part in parts}) for of in scores)

    def each(ax, rows) -> None:
        ax.hlines(rows["_at"], rows["printed"], rows["implied"], color="0.75", linewidth=1.2, zorder=0.9)
        ax.plot(rows["printed"], rows["_at"], "o", color=style.ORANGE, markersize=8, markerfacecolor="none")

    return chart(forest, long, options, x="implied", y="unit", low=None, high=None, number=None, limits=(0, 1),
                 each=each, col="score", n=lambda rows: f"{rows['agrees'].sum()} of n = {len(rows)} rows agree",
                 xlabel="score (hollow: as printed; filled: implied by precision, recall and specificity)",
                 alt="Published scores, as its printed precision, recall and specificity imply them.")  # fmt: skip


def froc(table: pd.DataFrame, **options) -> Figure:
    """Share of objects found against false objects per mm2 of tissue, over all thresholds; a line an arm.

    `table` has ``arm, threshold, recall, false_per_mm2, n_truth, n_slides, mark``, in the order of the thresholds;
    ``mark`` is ``fixed`` (filled), ``validation`` (hollow) or empty. The axis is logarithmic down to the least number
    above 0, and linear from there to 0.
    """
    some = table["false_per_mm2"][table["false_per_mm2"] > 0]
    least, most = (some.min(), some.max()) if len(some) else (0.1, 1.0)
    tens = 10.0 ** np.arange(np.ceil(np.log10(least)), np.log10(most) + 0.08)

    def each(ax, _) -> None:
        # Where no power of ten lies between, the highest value is the one that is told.
        few = tens[:: -1 - (len(tens) - 1) // (4 if len(ax.figure.axes) < 4 else 2)] if len(tens) else [most]
        ax.set_xscale("symlog", linthresh=least, linscale=0.4)
        ax.set_xlim(-0.3 * least, 1.3 * most)
        ax.set_xticks([0, *few], ["0", *(f"{ten:.3g}" for ten in few)])
        ax.minorticks_off()

    def n(rows) -> str:
        return f"n = {counted(style.same(rows['n_truth']), 'object')}, {counted(style.same(rows['n_slides']), 'slide')}"

    table = table.assign(**{f"_{of}": table["recall"].where(table["mark"] == of) for of in ("fixed", "validation")})
    fixed = table[table["mark"] == "fixed"].dropna(subset=["recall", "false_per_mm2"])
    told = ", ".join(f"{r.arm} {r.recall:.2f} at {r.false_per_mm2:.2g}" for r in fixed.itertuples())
    hollow = "; hollow: chosen on validation" * bool(table["_validation"].notna().any())
    figure = chart(
        curves, table, options, x="false_per_mm2", y="recall", marks=(("_fixed", True), ("_validation", False)),
        each=each, frame={"y": UNIT}, n=n, ylabel="recall of objects",
        xlabel=f"false objects per mm² of tissue (filled: the fixed threshold{hollow})",
    )  # fmt: skip
    words = "Recall of objects against false objects per mm2 of tissue, over all thresholds."
    return style.done(figure, f"{words} At the fixed threshold: {told or 'undefined'}.")


@style.unless_empty("No subgroup to show: all patients are of one group.")
def subgroup_intervals(table: pd.DataFrame, *, score: str = "", **options) -> Figure:
    """A score of each arm in each subgroup of patients, with its interval; beside each the patients it stands on.

    `table` has ``by`` (``cancer_type``, ``site``), ``group, arm, n_patients, n_with_target, estimate, low, high``.
    """
    several, groups = table["by"].nunique() > 1, []
    for (by, group), rows in table.groupby(["by", "group"], sort=False, dropna=False):
        name = f"{by.replace('_', ' ')}: " * several + style.level_name("group", group)
        n = f"n = {style.same(rows['n_patients'])} ({style.same(rows['n_with_target'])} with target)"
        groups.append(rows.assign(_group=f"{name}\n{n}"))
    name = score_name(score or (table["score"].iloc[0] if "score" in table else "score"))
    beside = table["arm"].nunique() <= _ARMS_BESIDE
    return chart(
        forest, pd.concat(groups), options, y="_group", color="arm", limits=unit(table[["estimate", "low", "high"]]),
        dodge=beside, col=None if beside else "arm", show_legend=beside and table["arm"].nunique() > 1,
        n=lambda rows: f"n = {style.same(rows.groupby(['by', 'arm'], observed=True)['n_patients'].sum())} patients",
        xlabel=f"{name} (line: 95 % interval over patients)", alt=f"{name} in subgroups of patients.",
    )  # fmt: skip
