"""The choice of an arm: nothing is chosen that is not shown, and what cannot be measured is said."""

import numpy as np
import pandas as pd
import pytest
from coverage_table import choices

from tlskit.evaluation import decision
from tlskit.metrics import uncertainty


def decided(counts, minutes=None, *, margin=0.05, usable=0.0):
    quality = uncertainty.intervals(counts, scores=["iou"])
    apart = uncertainty.differences(counts, scores=["iou"])
    given = pd.Series(minutes, dtype=float) if minutes else None
    front = decision.decide(quality, apart, given, margin=margin, usable=usable)
    return front if given is None else front.assign(minutes=front["arm"].map(given))


def made(scores, n=40, seed=0):
    """Counts of arms with about these recalls and a little luck, on the same patients."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(500, 1500, n)
    parts = []
    for k, (arm, recall) in enumerate(scores.items()):
        tp = np.rint(size * np.clip(recall + rng.normal(0, 0.02, n) * (0 < recall < 1), 0, 1))
        ids = [f"p{i}" for i in range(n)]
        here = {"tp": tp, "fp": np.rint(size * 0.05), "fn": np.rint(size) - tp, "tn": 9e4, "arm": arm}
        parts.append(pd.DataFrame(here | {"magnification": k + 1.0, "patient_id": ids, "slide_id": ids}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(("population", "n_patients"), [("even", 9), ("few targets", 12), ("even", 23)])
def test_of_equal_arms_hardly_any_is_ever_shown_to_be_better(population, n_patients):
    """The page's second table (docs/coverage.md, 480 cohorts a row) with fewer cohorts."""
    cohorts = 40
    shares = choices(population, n_patients, cohorts=cohorts, seed=3)
    # 5 % of 40 are 2; more than 6 come by chance once in two hundred.
    assert shares["any shown better"] <= 6 / cohorts and shares["one arm"] <= 6 / cohorts
    assert shares["shown best"] <= shares["any shown better"]
    assert shares["shown best"] + shares["within margin"] + shares["none"] == pytest.approx(1)
    assert shares["slowest"] <= 4 / cohorts  # among equal arms the slowest is chosen by luck alone: 1 % at 23 patients


def test_the_best_is_chosen_where_it_is_shown_and_the_fastest_within_the_margin():
    minutes = {"1x": 1, "4x": 5, "20x": 60}
    clear = decided(made({"1x": 0.3, "4x": 0.6, "20x": 0.9}), minutes)
    assert clear.loc[clear["chosen"], "arm"].tolist() == ["20x"] and clear["in_set"].sum() == 1
    assert decision.choice(clear).startswith("20x is shown to be better than 1x and 4x by IoU")
    near = decided(made({"1x": 0.3, "4x": 0.80, "20x": 0.805}), minutes)
    assert near.loc[near["chosen"], "arm"].tolist() == ["4x"]
    assert "Chosen is 4x: shown to be at most 0.05 worse than every other arm" in decision.choice(near)
    assert near["in_set"].tolist() == [False, True, True]
    # The margin is the preset's: with none, nothing is shown between the two.
    assert not decided(made({"1x": 0.3, "4x": 0.80, "20x": 0.805}), minutes, margin=0.0)["chosen"].any()


def test_without_its_time_an_arm_may_be_the_faster_one_and_none_is_chosen():
    front = decided(made({"4x": 0.80, "20x": 0.805}), {"4x": 5, "20x": np.nan})
    assert front["reason"].iloc[0] == "no time" and not front["chosen"].any()
    assert "No time for 20x" in decision.choice(front)


def test_arms_that_found_nothing_are_not_recommended_for_their_speed():
    front = decided(made({"1x": 0.0, "4x": 0.0}), {"1x": 1, "4x": 5})
    words = decision.choice(front)
    assert not front["chosen"].any() and "1x and 4x both have IoU 0, and none is chosen" in words


def test_slides_without_any_target_measure_no_score_and_false_areas_are_said():
    nothing = made({"1x": 0.0, "4x": 0.0}).assign(tp=0, fn=0)
    front = decided(nothing).assign(false_mm2=[1.8, 22.4], tissue_mm2=24.8)
    words = decision.choice(front)
    assert words.startswith("The test slides hold no target: IoU, Dice and recall cannot be measured")
    assert "Falsely marked of 24.8 mm2 of tissue: 1x 1.8 mm2 and 4x 22.4 mm2." in words and "best" not in words


def test_an_arm_that_marks_nothing_is_said_to_because_a_difference_from_it_is_the_other_arms_score():
    words = decision.choice(decided(made({"1x": 0.0, "4x": 0.6, "20x": 0.9}), {"1x": 1, "4x": 5, "20x": 60}))
    assert "1x finds nothing of the target at this threshold: another may change that." in words
    assert "finds nothing" not in decision.choice(decided(made({"4x": 0.6, "20x": 0.9})))


def test_an_arm_below_what_is_usable_is_not_chosen():
    front = decided(made({"1x": 0.02, "4x": 0.05}), {"1x": 1, "4x": 5}, usable=0.1)
    assert front["reason"].iloc[0] == "none usable" and "None is chosen" in decision.choice(front)


@pytest.mark.parametrize("n", [1, 3])
def test_few_patients_are_said_and_one_alone_shows_nothing(n):
    front = decided(made({"1x": 0.5, "4x": 0.6}, n=n))
    assert "Caution: " in decision.choice(front)
    if n == 1:
        assert front["in_set"].all() and not front["chosen"].any()


def test_arms_that_are_missing_are_named():
    words = decision.choice(decided(made({"1x": 0.5, "4x": 0.6})), {"10x": "failed, 03_training failed: out of memory"})
    assert "10x is not compared: failed, 03_training failed: out of memory." in words


def test_one_arm_whose_score_is_not_defined_is_not_called_nan():
    counts = made({"4x": 0.5}).assign(tp=0, fp=0)  # nothing is marked: precision has no denominator
    quality = uncertainty.intervals(counts, scores=["precision"])
    front = decision.decide(quality, uncertainty.differences(counts, scores=["precision"]), margin=0.05, usable=0.1)
    words = decision.choice(front)
    assert "nan" not in words and "4x has no precision above 0" in words
    two = pd.concat([made({"4x": 0.5}), made({"20x": 0.5}).assign(tp=0, fp=0)])
    quality = uncertainty.intervals(two, scores=["precision"])
    front = decision.decide(quality, uncertainty.differences(two, scores=["precision"]), margin=0.05, usable=0.1)
    assert "20x undefined" in decision.choice(front) and "nan" not in decision.choice(front)
