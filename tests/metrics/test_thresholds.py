"""Histograms of a map give its counts at every threshold; the choice is made on validation alone."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from tlskit.errors import ParameterError, RunError
from tlskit.metrics import scores as metrics
from tlskit.metrics import thresholds


def histograms(stored, truth, slide_id="a", region="slide", **columns):
    rows = []
    for target in (0, 1):
        count = np.bincount(stored[truth == target], minlength=256)
        bins = np.flatnonzero(count)
        ids = {"slide_id": slide_id, "patient_id": slide_id} | columns
        rows.append(pd.DataFrame(ids | {"region": region, "truth": target, "bin": bins, "count": count[bins]}))
    return pd.concat(rows, ignore_index=True)


def made(seed=0, n=4000):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.2
    probability = np.where(truth, rng.beta(4, 2, n), rng.beta(2, 5, n))
    return np.rint(probability * 255).astype(np.uint8), truth


def test_a_threshold_cuts_where_the_contract_of_the_map_says():
    assert thresholds.cut(0.5) == 128 and thresholds.cut(0) == 0 and thresholds.cut(1) == 255
    for value in range(1, 256):
        assert thresholds.cut(thresholds.threshold_of(value)) == value
        assert thresholds.cut(value / 255) == value
    assert thresholds.threshold_of(128) == 0.5
    with pytest.raises(ParameterError, match="between 0 and 1"):
        thresholds.cut(1.2)


def test_joint_histograms_are_plain_counts_also_of_slices():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, (70, 90), dtype=np.uint8)
    code = rng.choice([0, 1, 2, 3, 255], (70, 90)).astype(np.uint8)
    found = thresholds.joint_histogram(values[3:60, 5:80], code[3:60, 5:80], codes=4)
    for k in range(4):
        expected = np.bincount(values[3:60, 5:80][code[3:60, 5:80] == k], minlength=256)
        np.testing.assert_array_equal(found[k], expected)


def test_histograms_stay_exact_beyond_what_float32_counts():
    values = np.zeros((4100, 4100), np.uint8)
    found = thresholds.joint_histogram(values, np.zeros_like(values), codes=2)
    assert found[0, 0] == 4100 * 4100 > 2**24
    assert found.sum() == 4100 * 4100


def test_counts_at_every_cut_are_those_of_the_pixels():
    stored, truth = made()
    both = np.stack([np.bincount(stored[truth == t], minlength=256) for t in (0, 1)])
    counts = thresholds.counts_at(both, np.arange(257))
    for cut in (0, 1, 77, 128, 255, 256):
        assert tuple(counts[cut]) == tuple(metrics.count_pixels(stored >= cut, truth).values())


def test_precision_and_recall_are_scikit_learns():
    stored, truth = made()
    curve = thresholds.pr_curve(histograms(stored, truth))
    row = curve[curve["cut"] == 100].iloc[0]
    assert row["precision"] == pytest.approx(sk.precision_score(truth, stored >= 100))
    assert row["recall"] == pytest.approx(sk.recall_score(truth, stored >= 100))
    # scikit-learn also has the cut at 0, where everything is positive: its last step.
    expected = sk.average_precision_score(truth, stored) - truth.mean() * (1 - np.mean(stored[truth] >= 1))
    assert row["average_precision"] == pytest.approx(expected, abs=1e-9)
    assert row["prevalence"] == pytest.approx(truth.mean())


def test_the_calibration_error_is_that_of_the_pixels():
    stored, truth = made()
    probability = stored / 255
    which = np.minimum(stored.astype(int) * 10 // 255, 9)
    expected = sum(
        abs(probability[which == k].mean() - truth[which == k].mean()) * np.mean(which == k)
        for k in range(10)
        if np.any(which == k)
    )
    table = histograms(stored, truth, region="tissue")
    assert thresholds.calibration_error(table) == pytest.approx(expected)
    reliability = thresholds.calibration(table)
    assert reliability["pixels"].sum() == len(stored)
    assert reliability["target_share"].iloc[4] == pytest.approx(truth[which == 4].mean())


def test_the_chosen_threshold_has_the_highest_dice_of_all():
    stored, truth = made()
    chosen = thresholds.choose_threshold(histograms(stored, truth, split="val"))
    dice = [sk.f1_score(truth, stored >= cut) for cut in range(1, 256)]
    assert chosen["dice"] == pytest.approx(max(dice))
    assert sk.f1_score(truth, stored >= thresholds.cut(chosen["threshold"])) == pytest.approx(max(dice))
    assert chosen["dice_at_half"] == pytest.approx(dice[127])
    assert (chosen["n_slides"], chosen["n_patients"]) == (1, 1)


def test_of_equally_good_thresholds_the_nearest_to_one_half_is_chosen():
    stored, truth = np.array([10] * 90 + [240] * 10, np.uint8), np.array([False] * 90 + [True] * 10)
    assert thresholds.choose_threshold(histograms(stored, truth))["threshold"] == 0.5


def test_a_recall_floor_is_kept_at_the_highest_threshold_that_keeps_it():
    stored, truth = made()
    chosen = thresholds.choose_threshold(histograms(stored, truth), rule="recall", recall_floor=0.9)
    cut = thresholds.cut(chosen["threshold"])
    assert sk.recall_score(truth, stored >= cut) >= 0.9 > sk.recall_score(truth, stored >= cut + 1)


def test_slides_are_pooled_and_arms_kept_apart():
    one, two = made(1), made(2)
    table = pd.concat([histograms(*one, "a"), histograms(*two, "b")])
    curve = thresholds.pr_curve(table)
    stored, truth = (np.concatenate([x, y]) for x, y in zip(one, two, strict=True))
    assert curve["dice"].iloc[120] == pytest.approx(sk.f1_score(truth, stored >= 121))
    apart = thresholds.pr_curve(table.assign(arm=table["slide_id"]), by="arm")
    assert apart.groupby("arm")["n_slides"].first().tolist() == [1, 1]


def test_test_slides_choose_nothing():
    stored, truth = made()
    with pytest.raises(ParameterError, match="validation slides only.*test"):
        thresholds.choose_threshold(histograms(stored, truth, split="test"))
    with pytest.raises(ParameterError, match="dice or recall"):
        thresholds.choose_threshold(histograms(stored, truth), rule="iou")


def test_without_target_one_half_is_kept_and_said(caplog):
    stored, _ = made()
    chosen = thresholds.choose_threshold(histograms(stored, np.zeros(len(stored), bool)))
    assert chosen["threshold"] == 0.5 and "no target" in chosen["reason"]
    assert "no target" in caplog.text
    assert math.isnan(chosen["dice"])


def test_a_frozen_threshold_is_read_back_with_one_half_beside_it(tmp_path):
    path = tmp_path / "threshold.json"
    assert thresholds.read_threshold(path) == {"fixed": 0.5}
    stored, truth = made()
    chosen = thresholds.choose_threshold(histograms(stored, truth))
    thresholds.write_threshold(path, chosen, checkpoint_sha256="abc")
    assert thresholds.read_threshold(path, checkpoint_sha256="abc") == {"fixed": 0.5, "validation": chosen["threshold"]}
    with pytest.raises(RunError, match="another checkpoint"):
        thresholds.read_threshold(path, checkpoint_sha256="def")


def test_a_region_or_column_that_is_not_there_is_named():
    stored, truth = made()
    with pytest.raises(ParameterError, match="region 'tissue'; they hold slide"):
        thresholds.calibration(histograms(stored, truth))
    with pytest.raises(ParameterError, match="lacks bin"):
        thresholds.pr_curve(histograms(stored, truth).drop(columns="bin"))
