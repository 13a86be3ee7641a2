"""Charts of arms beside each other: tables of `tlskit.evaluation` in, matplotlib ``Figure`` out.

Each takes the options of `tlskit.figures.panels` besides its own: `color`, `col`, `row`, `size` and labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn.objects as so

from tlskit import units
from tlskit.evaluation import beaten_by_none, choice
from tlskit.figures import style
from tlskit.figures.panels import (
    FEW,
    PERSON,
    at_right,
    dots,
    draw,
    draw_forest,
    draw_trend,
    name_right,
    person_band,
    span,
    unit,
)  # fmt: skip
from tlskit.figures.style import POOLINGS, score_name
from tlskit.metrics import PERSON_MINUTES_PER_SLIDE, SIZE_CLASSES, audit_published_table, published
from tlskit.metrics import agreement as agree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "agreement", "audit_chart", "ceilings", "difference_intervals", "iou_by_magnification", "minutes_bars",
    "object_recall", "pareto_front", "published_audit_chart", "score_intervals", "tradeoff",
]  # fmt: skip

_RULES = {"iou10": "IoU of 0.1 or more", "iou50": "IoU of 0.5 or more", "centroid": "centroid inside"}
_PAIRS = 15  # of arms are drawn; of more, those with the arm that is ahead most often


def iou_by_magnification(table: pd.DataFrame, *, color: str | None = None, **options) -> Figure:
    """A score by magnification on tiles and on whole slides, beside the published one as printed and as implied.

    `table` of `tlskit.evaluation.comparison.iou_by_magnification`. With a factor as `color`, of this cohort's pooled
    scores alone; by default the colour is the way of averaging.
    """
    score, ours = table["score"].iloc[0], table["source"] != published.SOURCE
    defaults = {"col": "level", "limits": unit(table["value"]), "ylabel": score_name(score),
                "alt": f"{score_name(score)} by magnification.",
                "n": lambda rows: style.n_text(rows[~rows["source"].isin(["", published.SOURCE])])}  # fmt: skip
    if color:
        table = table[ours & (table["pooling"] == "pooled")]
        return draw_trend(table, color=color, **defaults | options).figure
    table = table.assign(_who=("this cohort, " + table["pooling"].map(POOLINGS)).where(ours, "published, as printed"))
    implied = audit_published_table().rename(columns={f"{score}_implied": "value"})
    if "value" in implied and not ours.all():
        implied = implied.assign(_who="published, pooled (implied by its precision and recall)", source="")
        table = pd.concat([table, implied[["level", "magnification", "value", "_who", "source"]]])
    order = sorted(table["_who"].unique(), key=lambda who: (who[0] == "p", who))
    looks = style.styles_of("_who", order)
    for who, marker, dashes in zip((who for who in order if who[0] == "p"), "pX", ("--", ":"), strict=False):
        looks[who] = {"color": style.GREY, "marker": marker, "linestyle": dashes}
    table = table.assign(_who=pd.Categorical(table["_who"], order))
    return draw_trend(table, color="_who", looks=looks, group=[], **defaults | options).figure


def score_intervals(table: pd.DataFrame, **options) -> Figure:
    """Scores of each arm with their intervals, one panel a score; `table` of `evaluation.comparison.intervals`."""
    words, under = f"score\n{_interval_caption(table)}", ()
    if "repeat_sd" in table and table["repeat_sd"].notna().any():
        table = table.assign(_less=table["estimate"] - table["repeat_sd"], _more=table["estimate"] + table["repeat_sd"])
        under = ((so.Range(linewidth=5, alpha=0.35), {"xmin": "_less", "xmax": "_more"}),)
        words += f"\nwide, pale: one standard deviation of {style.same(table['n_repeats'])} trainings"
    return draw_forest(table, under=under, **{"col": "score", "dodge": False, "xlabel": words,
                                 "alt": "Scores of the arms with their intervals."} | options).figure  # fmt: skip


def difference_intervals(
    table: pd.DataFrame, *, score: str | None = None, against: str | None = None, **options
) -> Figure:
    """Paired differences between arms: thick their own intervals, thin those that hold for all pairs at once.

    Filled are differences that are shown: their thin interval excludes 0.

    `table` of `tlskit.evaluation.comparison.differences`; `score`, by default its last. With `against`, pairs with that
    arm only, as the other minus it: of more than 15 pairs, by default, the arm that is ahead most often.
    """
    if table.empty:
        return style.words("One arm alone has no difference to another.", options.get("size", "double"))
    score = score or table["score"].iloc[-1]
    table = table[table["score"] == score]
    note = "thick: 95 % of this pair" + "; thin: of all pairs at once" * (len(table) > 1) + "; filled: shown"
    if against is None and len(table) > _PAIRS:
        against = table["first"].where(table["difference"] > 0, table["second"]).value_counts().idxmax()
    if against:
        swapped = {"first": "second", "low": "high", "low_all": "high_all"}
        turned = table.rename(columns=swapped | {b: a for a, b in swapped.items()})
        turned[["difference", "low", "high", "low_all", "high_all"]] *= -1
        both = pd.concat([table, turned])
        note += f"; {(both['second'] == against).sum()} of {len(table)} pairs, all with {against}"
        table = both[both["second"] == against].set_index("first")
        table = table.loc[style.levels(table.index.to_series(name="arm"))].reset_index()
    table = table.assign(pair=table["first"] + " - " + table["second"], _sure=table["shown"] != "")
    words = f"difference in {score_name(score)}, same patients in both arms ({note})\n{_interval_caption(table)}"
    return draw_forest(
        table, x="difference", y="pair", color="_sure", fill="_sure", dodge=False, zero=True, number="{:+.2f}".format,
        looks=style.plain(yes=style.BLUE, no=style.GREY), low="low_all", high="high_all",
        under=((so.Range(linewidth=3.5, alpha=0.45), {"xmin": "low", "xmax": "high"}),),
        **{"show_legend": False, "xlabel": words, "alt": f"Paired differences in {score_name(score)}."} | options,
    ).figure  # fmt: skip


def ceilings(table: pd.DataFrame, *, score: str = "iou", readers: pd.DataFrame | None = None, **options) -> Figure:
    """A score (``iou`` or ``dice``) on the common grid beside that of the outlines as pixels of the magnification.

    `table` of `tlskit.evaluation.comparison.grid_table`; `readers` of `tlskit.evaluation.reader_table`: what two people
    reach against each other is a band.
    """
    top, name = f"ceiling_{score}", score_name(score)
    bar = f"bar: the outlines themselves as such pixels, {table[top].min():.3f} to {table[top].max():.3f}"
    words = f"{name} on a common grid of {table['grid_mpp'].iloc[0]:g} um/px, tissue and target ({bar})"
    under = ((so.Range(color="0.8", linewidth=1), {"xmin": score, "xmax": top, "color": None}),
             (so.Dot(color=style.BLACK, marker="|", pointsize=9, edgewidth=2), {"x": top, "color": None}))  # fmt: skip
    made = draw_forest(
        table, x=score, low=None, high=None, under=under, number="{:.3f}".format,
        **{"limits": (0, 1), "xlabel": f"{words}{_two_people(readers, score)}", "alt": f"{words}."} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        _band_of_two(ax, readers, score, "x")
    return made.figure


def _two_people(readers: pd.DataFrame | None, score: str) -> str:
    """What the band of two people is, for an axis' words."""
    if readers is None or readers.empty or score not in readers or pd.isna(readers[score].iloc[0]):
        return ""
    two = readers.iloc[0]
    some = f" ({two['n_slides']} of {two['n_slides_compared']} slides)" * bool(
        two["n_slides"] < two["n_slides_compared"]
    )
    return f"\ndotted: two people against each other, {two[score]:.3f}{some}"


def _band_of_two(ax, readers: pd.DataFrame | None, score: str, axis: str) -> None:
    """A line at what two people reach against each other, and a band over its interval."""
    if not _two_people(readers, score):
        return
    value, low, high = readers.iloc[0][[score, f"{score}_low", f"{score}_high"]].astype(float)
    line, band = (ax.axvline, ax.axvspan) if axis == "x" else (ax.axhline, ax.axhspan)
    if np.isfinite(low):
        band(low, high, color=style.BLACK, alpha=0.08, zorder=0, linewidth=0)
    line(value, color=style.BLACK, linewidth=1.1, linestyle=":", zorder=0)


def object_recall(table: pd.DataFrame, *, rule: str = "iou10", **options) -> Figure:
    """Objects found by size class, and false objects by area of tissue, at a `rule` of matching.

    `table` of `tlskit.evaluation.comparison.object_table`.
    """
    table, false = table[table["rule"] == rule], "false objects\nper cm² of tissue"
    short = {name: name.replace(" ", "_").replace("-", "_") for name, _ in SIZE_CLASSES}
    columns = {f"recall,\n{name}": (f"recall_{of}", f"n_{of}") for name, of in short.items()}
    columns |= {"recall, all": ("recall", "n_truth"), "precision": ("precision", "n_predicted"),
                "F1": ("f1", "n_truth"), false: ("false_objects_per_cm2", "n_slides")}  # fmt: skip
    long = pd.concat([table.assign(what=k, share=table[v], _n=table[n]) for k, (v, n) in columns.items()])

    def n(rows: pd.DataFrame) -> str:
        return f"n = {style.same(rows['_n'])} {'slides' if rows['what'].iloc[0] == false else 'objects'}"

    made = draw_forest(
        long, x="share", low=None, high=None, limits=(0, 1), alt="Objects found by size, precision, and false objects.",
        **{"col": "what", "share": (False, True), "n": n, "xlabel": f"share (a match is: {_RULES[rule]})"} | options,
    )  # fmt: skip
    for ax, rows in made:
        if set(rows["what"]) == {false}:
            span(ax, [*rows["share"], 0.0], room=0.5)
    return made.figure


def agreement(points: pd.DataFrame, *, what: str = "area_mm2", **options) -> Figure:
    """Bland and Altman's plot of each arm: predicted minus true against their mean, one point a patient.

    `points` of `tlskit.evaluation.comparison.agreement_points`; `what` is ``area_mm2`` or ``number``.
    """
    columns = {"area_mm2": ("predicted_mm2", "truth_mm2"), "number": ("n_predicted", "n_truth")}[what]
    found = {arm: agree(*(rows[c].to_numpy(float) for c in columns)) for arm, rows in points.groupby("arm")}
    predicted, truth = (points[c].astype(float) for c in columns)
    measure = "area of objects, mm²" if what == "area_mm2" else "number of objects"

    def n(rows: pd.DataFrame) -> str:
        return (
            f"n = {len(rows)} patient{'s' * (len(rows) != 1)}\nconcordance {_or_undefined(found[rows['arm'].iloc[0]])}"
        )

    words = f"mean of predicted and true ({measure}; one point a patient; line: bias; dashes: 95 % of new patients)"
    made = draw(
        points.assign(_mean=(predicted + truth) / 2, _apart=predicted - truth),
        [(dots(4, alpha=0.8), [], {})], x="_mean", y="_apart", color="arm", show_legend=False,
        **{"col": "arm", "panel_in": (1.5, 1.4), "n": n, "ylabel": "predicted - true", "xlabel": words} | options,
    )  # fmt: skip
    for ax, rows in made:
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        for key, dashes in {"bias": "-", "limit_low": "--", "limit_high": "--"}.items():
            ax.axhline(found[rows["arm"].iloc[0]][key], color=style.BLACK, linewidth=0.9, linestyle=dashes)
    told = ", ".join(
        f"{arm} {_or_undefined(f, 'bias', '.3g')} (concordance {_or_undefined(f)})" for arm, f in found.items()
    )
    return style.done(made.figure, f"Predicted minus true {measure}, one point a patient. Bias: {told}.")


def _or_undefined(agreed: dict, what: str = "concordance", form: str = ".2f") -> str:
    return "undefined" if np.isnan(agreed[what]) else f"{agreed[what]:{form}}"


def minutes_bars(table: pd.DataFrame, *, with_published: bool = True, **options) -> Figure:
    """Minutes that one stated slide takes in each arm (log scale), beside a person and the published times.

    `table` of `tlskit.evaluation.costs.minutes_per_slide`.
    """
    facts = published.facts().set_index("magnification")["minutes_per_slide"] if with_published else {}
    table = table.assign(_published=table["magnification"].map(facts).astype(float))
    under, slide = [], table["slide"].iloc[0]
    words = f"projected to a slide of {slide}; line: by the fastest and the slowest pass"
    if table["_published"].notna().any():
        words += "; hollow: published, a laptop GPU and other slides"
        mark = so.Dot(color=style.GREY, marker="D", fill=False, pointsize=5)
        under.append((mark, {"x": "_published", "color": None}))
    ends = np.append(table[["minutes_min", "minutes_max", "_published"]], PERSON_MINUTES_PER_SLIDE)
    made = draw_forest(
        table, x="minutes", low="minutes_min", high="minutes_max", under=tuple(under), log=True,
        limits=(np.nanmin(ends), np.nanmax(ends)), number=units.minutes_text, alt="Minutes per slide, least to most.",
        **{"xlabel": f"minutes per slide ({words}; {PERSON})", "n": _n_timed} | options,
    )  # fmt: skip
    for ax in made.axes.values():
        person_band(ax)
    return made.figure


def _n_timed(rows: pd.DataFrame) -> str:
    timed = style.same(rows["n_slides"])
    return f"timed: n = {timed} slide{'s' * (str(timed) != '1')}"


def tradeoff(
    table: pd.DataFrame, *, x: str = "minutes", y: str = "estimate", color: str = "arm",
    ends: tuple[str, ...] = ("minutes_min", "minutes_max", "low", "high"), front: str = "on_front",
    chosen: str = "chosen", limits: tuple[float, float] | None = None, alt: str = "", **options,
) -> Figure:  # fmt: skip
    """Quality `y` (within `limits`) against cost `x` (log scale), a mark an arm, its name at the right.

    `ends` are the columns of the least and greatest x and y. `front` and `chosen` are columns of bool: arms that none
    beats in both, joined by dashes; the arm that is ringed. Columns that the table lacks are not drawn.
    """
    x_ends, y_ends = (pair if set(pair) <= set(table) else () for pair in (ends[:2], ends[2:]))
    layers = [(so.Range(linewidth=1.1), [], {"orient": "y", "xmin": x_ends[0], "xmax": x_ends[1]})] if x_ends else []
    layers += [(so.Range(linewidth=1.1), [], {"ymin": y_ends[0], "ymax": y_ends[1]})] if y_ends else []
    told = table.assign(**{c: table.get(c, False) for c in (front, chosen)}).astype({front: bool, chosen: bool})
    defaults = {"show_legend": color != "arm", "panel_in": (3.0, 3.0), "ylabel": score_name(y)}
    made = draw(told, [*layers, (dots(6), [], {})], x=x, y=y, color=color, **defaults | options)
    for ax, rows in made:
        span(ax, table[[x, *x_ends]], log=True)
        span(ax, table[[y, *y_ends]], limits=limits, axis="y", ticks=6)
        best = rows[rows[front]].sort_values(x)
        ax.plot(best[x], best[y], color="0.6", linewidth=0.9, linestyle="--", zorder=0)
        one = rows[rows[chosen]]
        ax.plot(one[x], one[y], "o", markersize=13, markerfacecolor="none", color=style.BLACK)
    made.figure.draw_without_rendering()
    for ax, rows in made:
        name_right(ax, rows, x, y)
    return style.done(made.figure, f"{alt} {made.told(y, 'arm', *y_ends)}")


def pareto_front(
    front: pd.DataFrame, *, cascades: pd.DataFrame | None = None, readers: pd.DataFrame | None = None, **options
) -> Figure:
    """Quality against minutes of one stated slide, both with their spread; where an arm is chosen, it is ringed.

    Cascades stand among the arms, and take part in which is beaten by none; one that takes the place of the chosen arm
    is ringed in its stead.

    Arms without a time are not drawn; the words of `tlskit.evaluation.choice` name them.

    `front` of `tlskit.evaluation.costs.pareto`, or the one of `tlskit.evaluation.answer`, which has `cascades`, too;
    `readers` as in `ceilings`.
    """
    named = front["score"].iloc[0]
    score, why = score_name(named), choice(front)
    by = f"chosen on {front['chosen_by'].iloc[0] if 'chosen_by' in front else 'test'} patients"
    if front["chosen"].any():
        why = f"{', '.join(front.loc[front['chosen'], 'arm'])}: {by}. {why}"
    if cascades is not None and len(cascades):
        front, why = _with_cascades(front, cascades), f"{why} Cascades: {', '.join(cascades['arm'])}."
    timed = front[front["minutes"].notna()]
    if timed.empty or timed["estimate"].isna().all():
        return style.words(f"No arm has both a time and a score to draw. {why}", options.get("size", "double"))
    front, words = timed, f"line: fastest to slowest pass; dashes: no arm is both better and faster; {PERSON}"
    words = f"ringed: {by}; {words}" if front["chosen"].any() else words
    if len(slides := front["slide"].dropna().unique()) == 1:
        words = f"for a slide of {slides[0]}; {words}"
    ends = front[["estimate", "low", "high"]].to_numpy(float)
    if _two_people(readers, named):
        ends = np.append(ends, readers.iloc[0][[named, f"{named}_low", f"{named}_high"]].astype(float))
    least, most = np.nanmin(ends), np.nanmax(ends)  # arms that score alike have a tenth around them, within 0 to 1
    figure = tradeoff(
        front, **{"limits": (min(least, 0.9), max(most, min(least + 0.1, 1.0))),
                  "ylabel": f"{score} (line: 95 % interval)", "alt": f"{score} against minutes. {why}",
                  "xlabel": f"minutes per slide ({words}){_two_people(readers, named)}"} | options,
    )  # fmt: skip
    for ax in figure.axes:
        person_band(ax)
        _band_of_two(ax, readers, named, "y")
    return figure


def _with_cascades(front: pd.DataFrame, cascades: pd.DataFrame) -> pd.DataFrame:
    """Arms and cascades in one table, with the front and the ring of both together."""
    arms = front.assign(chosen=front["chosen"] & (not cascades["chosen"].any()))
    columns = ["arm", "magnification", "score", "estimate", "low", "high", "minutes", "minutes_min", "minutes_max",
               "chosen", "n_slides", "n_patients", "n_with_target"]  # fmt: skip
    both = pd.concat([arms, cascades[[c for c in columns if c in cascades]]], ignore_index=True)
    return both.assign(on_front=beaten_by_none(both["estimate"], both["minutes"]))


def audit_chart(table: pd.DataFrame, *, score: str = "iou", **options) -> Figure:
    """The same predictions under every pooling and empty rule; the winner of each row is ringed and named.

    `table` of `tlskit.evaluation.comparison.audit`.
    """
    best, arms, parts = f"best_{score}", style.levels(table["arm"]), []
    for pooling, of_pooling in table.groupby("pooling", sort=False):
        # Rules for empty units that give the same scores at every level share a row.
        rules: dict[tuple, list[str]] = {}
        for empty, rows in of_pooling.groupby("empty", sort=False):
            rules.setdefault(tuple(rows[score].round(12).fillna(-9)), []).append(empty)
        for shared in rules.values():
            name = POOLINGS[pooling] + (f", empty: {' or '.join(shared)}" if len(rules) > 1 else "")
            parts.append(of_pooling[of_pooling["empty"] == shared[0]].assign(rule=name))
    rows = pd.concat(parts, ignore_index=True)
    won = rows.loc[rows[best], "arm"].unique()
    who = rows["arm"].where(rows["arm"].isin(won) | (len(arms) <= FEW), "no winner")
    rows = rows.assign(_who=pd.Categorical(who, [*arms, "no winner"]), _won=rows[score].where(rows[best]))

    def n(here: pd.DataFrame) -> str:
        shares = here.loc[here["pooling"] == "pooled", "prevalence"].agg(["min", "max"]).map("{:.2%}".format)
        return f"{style.n_text(here)}\ntarget: {' to '.join(dict.fromkeys(shares))} of pixels"

    ring = (so.Dot(color=style.BLACK, marker="o", fill=False, pointsize=11), {"x": "_won", "color": None})
    made = draw_forest(
        rows, x=score, y="rule", color="_who", low=None, high=None, number=None, dodge=False, under=(ring,),
        looks=style.arm_styles(arms) | style.plain(**{"no winner": "0.75"}), limits=unit(rows[score]),
        **{"col": "level", "n": n, "panel_in": (1.6, 0.2 + 0.2 * rows["rule"].nunique()),
           "xlabel": f"{score_name(score)} (ringed, and named at the right: the best)"} | options,
    )  # fmt: skip
    for ax, here in made:
        names = here[here[best]].groupby("rule")["arm"].agg(lambda a: " = ".join(a) if len(a) < 3 else f"{len(a)} arms")
        at_right(ax, {place: names.get(rule, "n/a") for place, rule in enumerate(made.orders["rule"])})
        span(ax, [], limits=unit(rows[score]), room=min(1.0, 0.1 + 0.04 * max(map(len, [*names, "n/a"]))))
    told = [f"{score_name(level)}: {', '.join(of['arm'].unique())}" for level, of in rows[rows[best]].groupby("level")]
    return style.done(made.figure, f"{score_name(score)} averaged in every way. Best in some row, {'; '.join(told)}.")


def published_audit_chart(**options) -> Figure:
    """The printed table beside what its own precision, recall and specificity imply (`audit_published_table`)."""
    names = {"implied": "implied by its precision, recall and specificity", "printed": "as printed"}
    table = audit_published_table()
    table["unit"] = table["level"].map({"tile": "tile ", "wsi": "slide "}) + table["magnification"].map("{:g}x".format)
    parts = [
        table.assign(score=score, value=table[f"{score}_{key}"], _from=name, _full=key == "implied",
                     **{f"_{of}": table[f"{score}_{of}"] for of in ("printed", "implied", "agrees")})
        for score in ("dice", "iou", "mcc") for key, name in names.items()
    ]  # fmt: skip
    line = (so.Range(color="0.75", linewidth=1.2), {"xmin": "_printed", "xmax": "_implied", "color": None})
    return draw_forest(
        pd.concat(parts), x="value", y="unit", color="_from", fill="_full", low=None, high=None, dodge=False,
        number=None, looks=style.plain(**dict(zip(names.values(), (style.BLUE, style.ORANGE), strict=True))),
        limits=(0, 1), under=(line,), alt="Published scores, and what the printed rates imply.",
        **{"col": "score", "xlabel": "score (hollow: as printed)",
           "n": lambda rows: f"{int(rows['_agrees'].sum() / 2)} of n = {len(rows) // 2} rows agree"} | options,
    ).figure  # fmt: skip


def _interval_caption(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    where = {"grid": "common grid, tissue and target", "wsi": "whole slides, own pixels"}.get(first.get("on", ""), "")
    patients = f"{first['n_patients']} patient{'' if first['n_patients'] == 1 else 's'}"
    if first["n_with_target"] < first["n_patients"]:
        patients += f", {first['n_with_target']} with a target"
    text = f"{first['level'] * 100:g} % t intervals over {patients} "
    text += f"({', '.join(filter(None, (POOLINGS.get(first['pooling'], ''), where)))})"
    return text + (f"\nCaution: {first['warning']}." if isinstance(first["warning"], str) and first["warning"] else "")
