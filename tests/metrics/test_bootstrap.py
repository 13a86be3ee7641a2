"""Intervals: coverage in simulated cohorts, pairing, and what small cohorts are told."""

import time

import numpy as np
import pandas as pd
import pytest

from tlskit.errors import ComparisonError, ParameterError
from tlskit.metrics import bootstrap
from tlskit.metrics import scores as metrics


def draw_patients(n, rng):
    """Counts of two arms for each patient: the second arm finds less and marks more, on the same targets."""
    size = rng.gamma(2, 1, n)
    found = rng.beta(6, 2, n)
    first = np.stack([size * found, rng.gamma(1.5, 0.3, n), size * (1 - found), np.full(n, 50.0)], axis=1)
    found = np.clip(found - 0.1 * rng.random(n), 0, 1)
    second = np.stack([size * found, first[:, 1] * 2 * rng.random(n), size * (1 - found), np.full(n, 50.0)], axis=1)
    return first * 1e4, second * 1e4


def counts_of(*arms):
    tables = []
    for name, counts in zip("ab", arms, strict=False):
        ids = [f"p{k:04d}" for k in range(len(counts))]
        tables.append(pd.DataFrame(counts, columns=list(metrics.COUNTS)).assign(arm=name, patient_id=ids, slide_id=ids))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("pooling", ["pooled", "per_patient"])
def test_intervals_of_60_patients_cover_as_often_as_they_say(pooling):
    population = draw_patients(400_000, np.random.default_rng(1))
    if pooling == "pooled":
        truth = [float(metrics.ratios(*arm.sum(axis=0))["iou"]) for arm in population]
    else:
        truth = [float(metrics.ratios(*arm.T)["iou"].mean()) for arm in population]
    rng, n = np.random.default_rng(2), 600
    # All cohorts in one table, as if they were arms: one call gives all the intervals.
    cohorts = [draw_patients(60, rng) for _ in range(n)]
    ids = np.tile([f"p{k:02d}" for k in range(60)], n)
    tables = [
        pd.DataFrame(np.concatenate([cohort[arm] for cohort in cohorts]), columns=list(metrics.COUNTS)).assign(
            arm=np.repeat(np.arange(n), 60), patient_id=ids, slide_id=ids
        )
        for arm in (0, 1)
    ]
    options = {"scores": ["iou"], "pooling": pooling, "by": ["arm"]}
    found = bootstrap.intervals(tables[0], **options, draws=1000, seed=3)
    covered = found["low"].le(truth[0]) & found["high"].ge(truth[0])
    assert 0.93 <= covered.mean() <= 0.97
    # Differences of each cohort's two arms, by the same steps as `differences`, which would pair all cohorts.
    weights = bootstrap.patient_weights(60, 1000, seed=4)
    whole = np.ones((1, 60))
    pairs = [bootstrap._arms(table, region="slide", **options) for table in tables]
    hits = 0
    for first, second in zip(*pairs, strict=True):
        both = np.concatenate([first.units, second.units], axis=1)
        sample, observed = (
            bootstrap._sample_of_difference(first, second, "iou", *bootstrap._moments(w, both))
            for w in (weights, whole)
        )
        low, high, method = bootstrap._interval(sample, observed, 60, 0.95, scale="plain")
        hits += method == "bootstrap-t" and low <= truth[0] - truth[1] <= high
    assert 0.93 <= hits / n <= 0.97


def test_the_estimate_is_the_score_and_a_draw_is_a_resampling_of_whole_patients():
    counts = counts_of(*draw_patients(30, np.random.default_rng(3)))
    for pooling in ("pooled", "per_patient", "per_slide"):
        row = bootstrap.intervals(counts, pooling=pooling, by=["arm"], scores=metrics.SCORES, draws=300)
        expected = metrics.score(counts, pooling=pooling, by="arm").set_index("arm")
        for found in row.itertuples():
            assert found.estimate == pytest.approx(expected.loc[found.arm, found.score])
            assert found.low < found.estimate < found.high
    weights = bootstrap.patient_weights(30, 1000, seed=4)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(weights, bootstrap.patient_weights(30, 1000, seed=4))


def test_linearised_standard_errors_are_those_of_the_jackknife():
    counts, _ = draw_patients(200, np.random.default_rng(5))
    table = counts_of(counts)
    for pooling in ("pooled", "per_patient"):
        arm = bootstrap._Arm({}, table, np.array(sorted(table["patient_id"]), object), metrics.SCORES, pooling)
        for name in metrics.SCORES:
            left_out = arm.value_and_gradient(name, arm.units.sum(axis=0) - arm.units)[0]
            jackknife = np.sqrt(len(left_out) * left_out.var())
            assert arm.sample(name, *arm.whole)[1][0] == pytest.approx(jackknife, rel=0.03)


def test_differences_are_paired():
    first, _ = draw_patients(40, np.random.default_rng(6))
    same = bootstrap.differences(counts_of(first, first), by=["arm"], draws=500).set_index("score").loc["iou"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    assert same["share_first_better"] == 0.5
    # The same patients in another order of rows are the same patients.
    shuffled = counts_of(first, first).sample(frac=1, random_state=0)
    again = bootstrap.differences(shuffled, by=["arm"], draws=500).set_index("score").loc["iou"]
    assert (again["low"], again["high"]) == (0, 0)
    # A constant handicap is certain, however much patients differ.
    worse = first.copy()
    worse[:, 0], worse[:, 2] = first[:, 0] * 0.9, first[:, 2] + first[:, 0] * 0.1
    row = bootstrap.differences(counts_of(first, worse), by=["arm"], scores=["recall"], draws=500).iloc[0]
    alone = bootstrap.intervals(counts_of(first, worse), by=["arm"], scores=["recall"], draws=500).iloc[0]
    assert row["high"] - row["low"] < (alone["high"] - alone["low"]) / 5
    assert row["excludes_zero"]


def test_ten_thousand_draws_of_500_patients_take_seconds():
    counts = counts_of(*draw_patients(500, np.random.default_rng(7)))
    start = time.perf_counter()
    bootstrap.intervals(counts, by=["arm"])
    bootstrap.differences(counts, by=["arm"])
    assert time.perf_counter() - start < 20


def test_small_cohorts_are_warned_of():
    first, _ = draw_patients(9, np.random.default_rng(8))
    few = bootstrap.intervals(counts_of(first), by=["arm"], draws=200).iloc[0]
    assert "only 9 test patients" in few["warning"] and few["method"] == "percentile"
    one = bootstrap.intervals(counts_of(first[:1]), by=["arm"], draws=200).iloc[0]
    assert "no interval" in one["warning"] and np.isnan(one["low"]) and one["method"] == "none"
    first, _ = draw_patients(10, np.random.default_rng(8))
    enough = bootstrap.intervals(counts_of(first), by=["arm"], draws=200).iloc[0]
    assert enough["warning"] == "" and enough["method"] == "bootstrap-t"


def test_undefined_draws_are_counted_and_left_out():
    first, _ = draw_patients(12, np.random.default_rng(9))
    first[3:, 0] = first[3:, 2] = 0  # three of twelve patients hold all the targets
    row = bootstrap.intervals(counts_of(first), by=["arm"], scores=["recall"], draws=2000).iloc[0]
    assert 0 < row["n_undefined_draws"] < 200
    assert 0 <= row["low"] < row["estimate"] < row["high"] <= 1
    nothing = np.array([[0, 0, 0, 9.0]] * 12)
    row = bootstrap.intervals(counts_of(nothing), by=["arm"], scores=["dice"], draws=100).iloc[0]
    assert np.isnan(row["estimate"]) and np.isnan(row["low"])


def test_a_perfect_score_has_an_interval_of_no_width_rather_than_an_error():
    perfect = np.array([[5.0, 0, 0, 9]] * 12)
    row = bootstrap.intervals(counts_of(perfect), by=["arm"], scores=["iou"], draws=100).iloc[0]
    assert (row["estimate"], row["low"], row["high"]) == (1, 1, 1)


def test_arms_on_other_slides_or_mixed_thresholds_are_refused():
    counts = counts_of(*draw_patients(12, np.random.default_rng(10)))
    with pytest.raises(ComparisonError, match="a and b stand on different slides .*p0003"):
        bootstrap.intervals(
            counts.drop(index=counts.index[(counts["arm"] == "b") & (counts["slide_id"] == "p0003")]), by=["arm"]
        )
    with pytest.raises(ParameterError, match="threshold_by"):
        bootstrap.intervals(counts.assign(threshold_by=["x", "y"] * 12), by=["arm"])
    with pytest.raises(ParameterError, match="batch"):
        bootstrap.intervals(counts, by=["arm"], pooling="batch_mean")
    with pytest.raises(ParameterError, match="Unknown score.*f2"):
        bootstrap.intervals(counts, by=["arm"], scores=["f2"])
