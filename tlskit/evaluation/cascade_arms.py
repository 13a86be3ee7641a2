"""Cascades beside the arms: what each scores and costs, and whether one takes the place of the arm that is chosen.

A cascade's counts are those that the notebook ``cascade`` made of both networks' full maps, at the screen that it chose
on validation patients. The choice goes in two steps, so that asking for cascades takes nothing from what is shown of
the arms: first the arm (`tlskit.evaluation.validation_choice`), then, on the same validation patients, each cascade
against that arm, by paired differences that hold for all cascades at once. A cascade takes the arm's place if it is
shown to be better (of several the fastest), else if it is faster and shown to be at most `margin` worse (again the
fastest). A screen always loses a little of what the fine network finds: that this is *shown* is no reason against a
cascade, as long as the loss is shown to be small.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlskit.errors import ComparisonError, RunError
from tlskit.evaluation.arm_tables import ARM, REPEATS, arms, test_counts
from tlskit.evaluation.decision import score_word
from tlskit.files import read_table
from tlskit.metrics import COUNTS, bootstrap, uncertainty
from tlskit.units import counted

__all__ = ["Cascades", "cascades_beside"]

_GRID = "05_grid_counts"
#: Tables of the notebook, by set.
_TABLES = {"val": "validation_counts", "test": "test_counts"}


class Cascades(NamedTuple):
    """The cascades of a run beside its arms.

    Attributes
    ----------
    table : DataFrame
        A row a cascade that spares windows: arm (``1x before 20x``), magnification (of the fine network), coarse, fine,
        score, estimate, low, high (test patients), minutes, minutes_min, minutes_max (of the stated slide, the screen's
        own included), windows_share (of the fine network's, on test slides), recall_kept with recall_kept_low,
        recall_kept_high (of the fine network's own), by (how the screen was chosen), chosen, share_chosen (of the draws
        of validation patients). Empty where there is none.
    words : str
        What is chosen, or why nothing can be said of cascades; empty where the run has none.
    """

    table: pd.DataFrame
    words: str


def cascades_beside(
    run_dir: str | Path,
    front: pd.DataFrame,
    *,
    score: str = "iou",
    pooling: str = "pooled",
    threshold_by: str = "fixed",
    margin: float = 0.05,
    usable: float = 0.1,
    slides: str = "same",
    draws: int = 200,
    seed: int = 0,
) -> Cascades:
    """The cascades of a run, and whether one takes the place of the chosen arm.

    Parameters
    ----------
    run_dir
        Folder of the run.
    front
        The arms: of `tlskit.evaluation.answer`, with minutes and ``chosen``.
    score, pooling, threshold_by, margin, usable, slides, draws, seed
        Of `tlskit.evaluation.validation_choice.chosen_on_validation`.
    """
    run_dir, none = Path(run_dir), pd.DataFrame()
    if not (run_dir / "cascade" / "tables" / "test.csv").is_file():
        begun = (run_dir / "cascade" / "status").is_dir()
        return Cascades(none, "Cascades are left out: notebook cascade was not run to its end." if begun else "")
    chosen = read_table(run_dir / "cascade" / "tables" / "chosen.csv")
    spares = chosen[(chosen["screen"] == "map") & (chosen["windows_share"] < 1)]
    if spares.empty:
        return Cascades(none, "Cascades: no screen that keeps enough on validation patients spares a window.")
    try:
        counts = {split: _counts(run_dir, spares, split, threshold_by, slides) for split in _TABLES}
    except (RunError, ComparisonError) as error:
        return Cascades(none, f"Cascades are left out: {error}")
    options = {"pooling": pooling, "by": ARM}
    table = uncertainty.intervals(counts["test"], scores=[score], **options)
    table = table[table["arm"].isin(spares["pair"])].merge(
        spares[["pair", "coarse", "fine", "by"]].rename(columns={"pair": "arm"}), on="arm", validate="1:1"
    )
    kept = read_table(run_dir / "cascade" / "tables" / "test.csv")
    kept = kept[kept["screen"] == "map"].set_index("pair")
    for name, column in (
        ("windows_share", "windows_share"), ("recall_kept", "recall_kept"), ("recall_kept_low", "low"),
        ("recall_kept_high", "high"),
    ):  # fmt: skip
        table[name] = table["arm"].map(kept[column]).astype(float)
    for name in ("minutes", "minutes_min", "minutes_max"):
        table[name] = _minutes(front, table, table["windows_share"], name)
    table = table.assign(chosen=False, share_chosen=np.nan, on_front=False)
    arm = front.loc[front["chosen"], "arm"].tolist()
    if len(arm) != 1 or front["chosen_by"].iloc[0] != "validation":
        return Cascades(table, f"{_told(table, score)} No arm is chosen on validation patients that one could replace.")

    family = _Family(counts["val"], arm[0], spares["pair"].tolist(), score, pooling, len(spares))
    minutes = pd.Series(_minutes(front, spares, spares["windows_share"]).to_numpy(), index=spares["pair"])
    rule = {"minutes": minutes, "of_arm": front.loc[front["chosen"], "minutes"].astype(float).item()}
    rule |= {"margin": margin, "usable": usable}
    apart = family.as_they_are()
    picked, reason = _picked(apart, **rule)
    again = pd.Series([_picked(drawn, **rule)[0] for drawn in family.redrawn(draws, seed)], dtype=object)
    table["chosen"] = table["arm"] == picked
    if draws:
        table["share_chosen"] = [(again == name).mean() for name in table["arm"]]
    words = _chosen_in_words(table, reason, arm[0], margin, draws)
    if picked:
        of_pair = counts["test"][counts["test"]["arm"].isin([picked, arm[0]])]
        words += _tested_in_words(table[table["chosen"]].iloc[0], of_pair, score, pooling, arm[0])
    return Cascades(table, f"{words} {_told(table, score)}")


def _counts(run_dir: Path, spares: pd.DataFrame, split: str, threshold_by: str, slides: str) -> pd.DataFrame:
    """Counts on the common grid of one set of patients: the arms', then the cascades' at their chosen screens.

    Raises
    ------
    RunError
        If the cascades' counts are not of the same networks, slides or threshold as the arms'.
    """
    if arms(run_dir)[list(REPEATS)].notna().any(axis=None):
        raise RunError("arms were trained several times, and screens are chosen for each training alone.")
    of_arms = test_counts(run_dir, _GRID, threshold_by, slides, split)
    table = read_table(run_dir / "cascade" / "tables" / f"{_TABLES[split]}.csv")
    table = table[table["slide_id"].astype(str).isin(of_arms["slide_id"].astype(str))]
    # The full run of the fine network is in both: what differs is of other maps, or of another threshold.
    full = table[table["screen"] == "none"].drop(columns="arm", errors="ignore").rename(columns={"fine": "arm"})
    both = of_arms.merge(full, on=["arm", "slide_id"], suffixes=("", "_full"))
    pairs = spares[["fine"]].assign(n=of_arms["slide_id"].nunique()).groupby("fine")["n"].first()
    fine = both[both["arm"].isin(pairs.index)]
    if (fine.groupby("arm")["slide_id"].nunique().reindex(pairs.index, fill_value=0) < pairs).any():
        raise RunError("notebook cascade did not count all slides that the arms are compared on: run it again.")
    if (fine[list(COUNTS)].to_numpy() != fine[[f"{c}_full" for c in COUNTS]].to_numpy()).any():
        why = "it counts at the fixed threshold alone" if threshold_by != "fixed" else "run it again"
        raise RunError(f"notebook cascade counted other maps, or at another threshold, than the arms: {why}.")
    keys = ["pair", "screen", "screen_threshold", "grow_um"]
    found = table.merge(spares[keys], on=keys).rename(columns={"pair": "arm"})
    scale = of_arms.drop_duplicates("arm").set_index("arm")["magnification"]
    found["magnification"] = found["fine"].map(scale)
    columns = [*ARM, "slide_id", "patient_id", "cancer_type", *COUNTS]
    return pd.concat([of_arms[columns], found[columns]], ignore_index=True)


def _minutes(front: pd.DataFrame, cascades: pd.DataFrame, share: pd.Series, name: str = "minutes") -> pd.Series:
    """Of the stated slide: all of the coarse network's minutes, and the share of the fine one's that is run."""
    of_arm = front.set_index("arm")[name].astype(float)
    return cascades["coarse"].map(of_arm) + share * cascades["fine"].map(of_arm)


def _told(table: pd.DataFrame, score: str) -> str:
    """Each cascade in a few words: what the test patients say of it."""
    each = "; ".join(
        f"{row.arm} {row.estimate:.3f}{_ends(row.low, row.high)}, {row.windows_share:.0%} of the windows of {row.fine}"
        + f", of whose own recall it keeps {row.recall_kept:.3f}{_ends(row.recall_kept_low, row.recall_kept_high)}"
        for row in table.itertuples()
    )
    patients = counted(int(table["n_patients"].max()), "test patient")
    text = f"Cascades, their screens chosen on validation patients, by {score_word(score)} of {patients}: {each}."
    if (table["by"] == "estimate").any():
        unsure = ", ".join(table.loc[table["by"] == "estimate", "arm"])
        text += f" Too few validation patients to promise the recall of {unsure}."
    return text


class _Family(NamedTuple):
    """Each of `n` cascades against one arm: its estimate, and the simultaneous low end of its difference to the arm."""

    counts: pd.DataFrame
    arm: str
    names: list[str]
    score: str
    pooling: str
    n: int

    def _options(self) -> dict:
        return {"pooling": self.pooling, "by": ARM, "level": 1 - 0.05 / self.n}

    def _pair(self, name: str) -> pd.DataFrame:
        return self.counts[self.counts["arm"].isin([self.arm, name])]

    def _row(self, name: str, quality: pd.DataFrame, apart: pd.DataFrame) -> dict:
        row = apart.iloc[0]
        low = row["low_all"] if row["first"] == name else -row["high_all"]
        return {"arm": name, "estimate": quality.set_index("arm")["estimate"][name], "low": low}

    def as_they_are(self) -> pd.DataFrame:
        rows = []
        for name in self.names:
            quality = uncertainty.intervals(self._pair(name), scores=[self.score], **self._options())
            apart = uncertainty.differences(self._pair(name), scores=[self.score], **self._options())
            rows.append(self._row(name, quality, apart))
        return pd.DataFrame(rows)

    def redrawn(self, draws: int, seed: int) -> Iterator[pd.DataFrame]:
        """The same patients are drawn for all cascades."""
        drawn = [
            bootstrap.redrawn(self._pair(name), score=self.score, draws=draws, seed=seed, **self._options())
            for name in self.names
        ]
        for of_draw in zip(*drawn, strict=True):
            yield pd.DataFrame([self._row(name, *one) for name, one in zip(self.names, of_draw, strict=True)])


def _picked(
    apart: pd.DataFrame, *, minutes: pd.Series, of_arm: float, margin: float, usable: float
) -> tuple[str | None, str]:
    """The cascade that takes the arm's place, by the rule of the module's text, and ``better``, ``faster`` or empty."""
    table = apart[apart["estimate"] >= usable]
    time = table["arm"].map(minutes)
    better = table["low"] > 0
    near = (table["low"] > -margin) & (time < of_arm)
    for fits, reason in ((better, "better"), (near, "faster")):
        # Without its time one of several could be the fastest: the choice would be by chance.
        if fits.sum() == 1 or (fits.any() and time[fits].notna().all()):
            return table.loc[time[fits].idxmin() if fits.sum() > 1 else fits.idxmax(), "arm"], reason
    return None, ""


def _chosen_in_words(table: pd.DataFrame, reason: str, arm: str, margin: float, draws: int) -> str:
    shares = ""
    if draws:
        listed = ", ".join(f"{row.arm} in {row.share_chosen:.0%}" for row in table.itertuples())
        shares = f" In {draws} draws of them the rule chose {listed}."
    if not reason:
        return (
            f"No cascade takes the place of {arm} on the same validation patients: none is shown there to be better, "
            f"or faster and at most {margin:g} worse.{shares}"
        )
    name = table.loc[table["chosen"], "arm"].item()
    why = {
        "better": f"shown there to be better than {arm}",
        "faster": f"faster than {arm}, and shown there to be at most {margin:g} worse",
    }[reason]
    return f"In the place of {arm}, a cascade is chosen on the same validation patients: {name}, {why}.{shares}"


def _tested_in_words(row: pd.Series, counts: pd.DataFrame, score: str, pooling: str, arm: str) -> str:
    apart = uncertainty.differences(counts, scores=[score], pooling=pooling, by=ARM).iloc[0]
    sign = 1 if apart["first"] == row["arm"] else -1
    low, high = sorted((sign * apart["low"], sign * apart["high"]))
    patients = counted(int(row["n_patients"]), "test patient")
    text = (
        f" Its {score_word(score)} on the {patients}, which the choice did not see: "
        f"{row['estimate']:.3f}{_ends(row['low'], row['high'])}, {sign * apart['difference']:+.3f}"
        f"{_ends(low, high, '+.3f')} against {arm}."
    )
    return text


def _ends(low: float, high: float, form: str = ".3f") -> str:
    return " (no interval)" if np.isnan(low) else f" ({low:{form}} to {high:{form}})"
