"""Cascades beside the arms: their place in the choice, made on validation patients, and among quality and minutes."""

import numpy as np
import pandas as pd
import pytest
from made_folds import edit, write_folds

from tlskit import figures
from tlskit.evaluation import answers, cascade_arms
from tlskit.metrics.scores import COUNTS

PAIR = "4x before 20x"


def with_cascade(run_dir, *, spared=0.9, lost=0.0, share=0.1, by="bound"):
    """Tables of notebook cascade: its screen takes away a share of the 20x network's false and of its true pixels."""
    folder = run_dir / "cascade" / "tables"
    folder.mkdir(parents=True)
    setting = {"screen_threshold": 0.05, "grow_um": 64.0}
    names = {"coarse": "4x", "fine": "20x", "pair": PAIR}
    pd.DataFrame([names | {"screen": "map", "windows_share": share, "by": by} | setting]).to_csv(
        folder / "chosen.csv", index=False
    )
    grid = pd.read_csv(run_dir / "20x" / "tables" / "05_grid_counts.csv").query("threshold_by == 'fixed'")
    for name, split in (("validation_counts", "val"), ("test_counts", "test")):
        full = grid[grid["split"] == split][["slide_id", "patient_id", "cancer_type", "split", *COUNTS]]
        full = full.assign(**names, screen="none", screen_threshold=np.nan, grow_um=np.nan, windows=100,
                           windows_full=100)  # fmt: skip
        mine = full.assign(screen="map", windows=100 * share, **setting)
        gone, missed = np.rint(full["fp"] * spared).astype(int), np.rint(full["tp"] * lost).astype(int)
        mine = mine.assign(fp=full["fp"] - gone, tn=full["tn"] + gone, tp=full["tp"] - missed, fn=full["fn"] + missed)
        pd.concat([full, mine]).to_csv(folder / f"{name}.csv", index=False)
    kept = names | {"screen": "map", "windows_share": share, "recall_kept": 1 - lost, "low": 0.98 - lost, "high": 1.0}
    pd.DataFrame([kept]).to_csv(folder / "test.csv", index=False)
    return run_dir


@pytest.fixture
def run_dir(tmp_path):
    """20x is chosen on validation patients."""
    return write_folds(tmp_path / "r", recall={"20x": 0.75, "4x": 0.4}, folds=1)


def test_a_cascade_that_is_better_takes_the_place_of_the_chosen_arm(run_dir):
    alone = answers.answer(run_dir, draws=20)
    assert alone.front.loc[alone.front["chosen"], "arm"].tolist() == ["20x"] and alone.cascades.empty
    found = answers.answer(with_cascade(run_dir), draws=20)
    pd.testing.assert_frame_equal(found.front, alone.front)  # what is shown of the arms stays as it was
    assert found.words[0] == alone.words[0] and found.words[2:] == alone.words[1:]
    row = found.cascades.iloc[0]
    assert row["arm"] == PAIR and row["chosen"] and row["share_chosen"] > 0.5
    assert row["minutes"] == pytest.approx(4 + 0.1 * 20)
    counts = pd.read_csv(run_dir / "cascade/tables/test_counts.csv").query("screen == 'map'")[list(COUNTS)].sum()
    assert row["estimate"] == pytest.approx(counts["tp"] / (counts["tp"] + counts["fp"] + counts["fn"]))
    assert f"In the place of 20x, a cascade is chosen on the same validation patients: {PAIR}, shown" in found.words[1]
    better = row["estimate"] - found.front.set_index("arm").loc["20x", "estimate"]
    assert f"{row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f}), {better:+.3f} (" in found.words[1]
    assert "10% of the windows of 20x, of whose own recall it keeps 1.000 (0.980 to 1.000)" in found.words[1]


def test_a_cascade_as_good_and_faster_takes_it_by_the_margin_and_a_bad_one_does_not(tmp_path):
    recall = {"20x": 0.75, "4x": 0.4}
    like = with_cascade(write_folds(tmp_path / "like", recall=recall, folds=1), spared=0.0, lost=0.002)
    words = answers.answer(like, draws=0).words[1]
    assert f"{PAIR}, faster than 20x, and shown there to be at most 0.05 worse." in words
    worse = with_cascade(write_folds(tmp_path / "worse", recall=recall, folds=1), spared=0.0, lost=0.4, by="estimate")
    found = answers.answer(worse, draws=10)
    assert not found.cascades["chosen"].any()
    assert "No cascade takes the place of 20x on the same validation patients: none is shown" in found.words[1]
    assert f"Too few validation patients to promise the recall of {PAIR}." in found.words[1]


def test_the_choice_of_a_cascade_does_not_look_at_the_test_patients(run_dir):
    before = answers.answer(with_cascade(run_dir), draws=10)
    for arm, table in (("20x", "05_grid_counts"), ("4x", "05_grid_counts"), ("cascade", "test_counts")):

        def turned(rows):
            test = rows["split"] == "test"
            rows.loc[test, ["tp", "fn"]] = rows.loc[test, ["fn", "tp"]].to_numpy()
            return rows

        edit(run_dir, arm, table, turned)
    after = answers.answer(run_dir, draws=10)
    assert after.cascades["chosen"].tolist() == before.cascades["chosen"].tolist() == [True]
    assert after.cascades["share_chosen"].tolist() == before.cascades["share_chosen"].tolist()
    assert after.cascades["estimate"].item() != pytest.approx(before.cascades["estimate"].item(), abs=0.01)


def test_counts_of_other_maps_or_at_another_threshold_are_left_out_and_said(run_dir):
    with_cascade(run_dir)
    other = answers.answer(run_dir, draws=0, threshold_by="validation")
    assert len(other.cascades) == 1, "here the counts at both thresholds are the same"

    def again(rows):
        rows.loc[rows["threshold_by"] == "fixed", "tp"] += 1
        return rows

    edit(run_dir, "20x", "05_grid_counts", again)
    found = answers.answer(run_dir, draws=0)
    assert found.cascades.empty and "Cascades are left out: notebook cascade counted other maps" in found.words[1]


def test_cascades_stand_among_the_arms_of_the_figure_and_the_ring_moves(run_dir):
    found = answers.answer(with_cascade(run_dir), draws=0)
    alone, both = (figures.pareto_front(found.front, cascades=c) for c in (None, found.cascades))
    names = [{text.get_text() for text in figure.axes[0].texts} for figure in (alone, both)]
    assert not any(PAIR in text for text in names[0]) and any(PAIR in text for text in names[1])
    minutes, iou = found.cascades.iloc[0][["minutes", "estimate"]]
    rings = [line for line in both.axes[0].lines if line.get_markersize() == 11]
    assert [(x, y) for line in rings for x, y in line.get_xydata()] == [pytest.approx((minutes, iou))]


def test_the_fastest_of_those_that_fit_is_picked_and_none_by_chance():
    apart = pd.DataFrame({"arm": ["a", "b", "c"], "estimate": [0.5, 0.5, 0.5], "low": [-0.01, -0.02, -0.2]})
    rule = {"of_arm": 10.0, "margin": 0.05, "usable": 0.1}
    minutes = pd.Series({"a": 4.0, "b": 3.0, "c": 1.0})
    assert cascade_arms._picked(apart, minutes=minutes, **rule) == ("b", "faster")
    assert cascade_arms._picked(apart.assign(low=[0.01, -0.02, -0.2]), minutes=minutes, **rule) == ("a", "better")
    unknown = minutes.where(minutes.index != "b")
    assert cascade_arms._picked(apart, minutes=unknown, **rule) == ("a", "faster"), "what has no time is not faster"
    shown = apart.assign(low=[0.01, 0.02, -0.2])
    assert cascade_arms._picked(shown, minutes=unknown, **rule)[1] != "better", "which is the fastest is not known"
    assert cascade_arms._picked(apart.assign(estimate=0.05), minutes=minutes, **rule) == (None, "")
    assert cascade_arms._picked(apart, minutes=minutes + 20, **rule) == (None, "")
