"""Scores against scikit-learn and segmentation-models-pytorch, and the identities that pooling must keep."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tlskit.errors import ParameterError
from tlskit.metrics import scores as metrics

counts_of_unit = st.tuples(*[st.integers(0, 6)] * 4).filter(lambda c: sum(c) > 0)


def table(rows, *, slides=None, patients=None):
    frame = pd.DataFrame(rows, columns=list(metrics.COUNTS))
    n = len(frame)
    slides = slides or ["s"] * n
    return frame.assign(tile_id=[f"t{k}" for k in range(n)], slide_id=slides, patient_id=patients or slides)


def random_masks(n, *, side=24, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((n, side, side)) < rng.uniform(0.05, 0.5, (n, 1, 1))
    return truth ^ (rng.random(truth.shape) < 0.15), truth


def test_all_seven_scores_are_those_of_scikit_learn_on_the_pixels():
    prediction, truth = random_masks(6)
    counts = table([tuple(metrics.count_pixels(p, t).values()) for p, t in zip(prediction, truth, strict=True)])
    p, t = prediction.ravel(), truth.ravel()
    row = metrics.score(counts).iloc[0]
    assert row["accuracy"] == pytest.approx(sk.accuracy_score(t, p))
    assert row["dice"] == pytest.approx(sk.f1_score(t, p))
    assert row["iou"] == pytest.approx(sk.jaccard_score(t, p))
    assert row["recall"] == pytest.approx(sk.recall_score(t, p))
    assert row["specificity"] == pytest.approx(sk.recall_score(t, p, pos_label=False))
    assert row["precision"] == pytest.approx(sk.precision_score(t, p))
    assert row["mcc"] == pytest.approx(sk.matthews_corrcoef(t, p))
    assert row["prevalence"] == pytest.approx(t.mean())


@settings(max_examples=200, deadline=None)
@given(counts_of_unit)
def test_every_score_of_tiny_counts_is_that_of_the_pixels_written_out(counts):
    tp, fp, fn, tn = counts
    p = np.repeat([True, True, False, False], counts)
    t = np.repeat([True, False, True, False], counts)
    scores = {name: float(value) for name, value in metrics.ratios(*counts).items()}
    assert scores["accuracy"] == pytest.approx(np.mean(p == t))
    both, either = np.sum(p & t), np.sum(p | t)
    assert scores["iou"] == pytest.approx(both / either) if either else math.isnan(scores["iou"])
    assert scores["dice"] == pytest.approx(2 * both / (p.sum() + t.sum())) if either else math.isnan(scores["dice"])
    assert scores["recall"] == pytest.approx(p[t].mean()) if t.any() else math.isnan(scores["recall"])
    assert scores["precision"] == pytest.approx(t[p].mean()) if p.any() else math.isnan(scores["precision"])
    assert scores["specificity"] == pytest.approx((~p[~t]).mean()) if not t.all() else math.isnan(scores["specificity"])
    if p.std() > 0 and t.std() > 0:
        assert scores["mcc"] == pytest.approx(np.corrcoef(p, t)[0, 1], abs=1e-9)
    else:
        assert math.isnan(scores["mcc"])


def predicted_tiles(n_tiles):
    """Probabilities and truths ``(N, 1, 16, 16)``; the second batch of 8 has neither target nor prediction."""
    rng = np.random.default_rng(1)
    truth = rng.random((n_tiles, 1, 16, 16)) < 0.3
    probability = np.where(truth, rng.beta(4, 2, truth.shape), rng.beta(2, 4, truth.shape)).astype(np.float32)
    truth[8:16], probability[8:16] = False, 0.1
    pairs = zip(probability[:, 0], truth[:, 0], strict=True)
    return probability, truth, table([tuple(metrics.count_pixels(p >= 0.5, t).values()) for p, t in pairs])


@pytest.mark.parametrize("n_tiles", [24, 27])
def test_batch_mean_is_what_the_authors_script_averages(n_tiles):
    import segmentation_models_pytorch as smp
    import torch

    probability, truth, counts = predicted_tiles(n_tiles)
    of_batches = {"iou": [], "dice": []}
    for first in range(0, n_tiles, 8):
        output, target = torch.tensor(probability[first : first + 8]), torch.tensor(truth[first : first + 8]).long()
        tp, fp, fn, tn = smp.metrics.get_stats(output, target, mode="binary", threshold=0.5)
        of_batches["iou"].append(float(smp.metrics.iou_score(tp, fp, fn, tn, reduction="micro")))
        of_batches["dice"].append(float(smp.metrics.f1_score(tp, fp, fn, tn, reduction="micro")))
    for name, values in of_batches.items():
        # The library leaves an empty batch at 0/0; what it counts is a decision of whoever averages.
        assert np.isnan(values).tolist() == [False, True, False, False][: len(values)]
        for pooling, empty, expected in (
            ("batch_mean", "one", np.mean(np.nan_to_num(values, nan=1.0))),
            ("as_published", None, np.mean(np.nan_to_num(values, nan=1.0))),
            ("batch_mean", "zero", np.mean(np.nan_to_num(values, nan=0.0))),
            ("batch_mean", "exclude", np.nanmean(values)),
        ):
            row = metrics.score(counts, pooling=pooling, empty=empty, batch_size=8).iloc[0]
            assert row[name] == pytest.approx(expected, abs=1e-6)
            averaged = math.ceil(n_tiles / 8) - (empty == "exclude")
            assert (row["n_units"], row["n_undefined"]) == (averaged, 1)
    published, pooled = metrics.score(counts, pooling="as_published").iloc[0], metrics.score(counts).iloc[0]
    for name in ("accuracy", "recall", "specificity", "precision", "mcc"):
        assert published[name] == pooled[name]


def test_means_of_tiles_with_empty_ones_are_the_librarys_imagewise_reduction():
    import segmentation_models_pytorch as smp
    import torch

    probability, truth, counts = predicted_tiles(20)
    stats = smp.metrics.get_stats(torch.tensor(probability), torch.tensor(truth).long(), mode="binary", threshold=0.5)
    row = metrics.score(counts, pooling="per_tile", empty="one").iloc[0]
    assert row["iou"] == pytest.approx(float(smp.metrics.iou_score(*stats, reduction="micro-imagewise")), abs=1e-6)
    assert row["dice"] == pytest.approx(float(smp.metrics.f1_score(*stats, reduction="micro-imagewise")), abs=1e-6)


def test_pooled_of_one_slide_is_that_slides_score_under_every_pooling_by_slide():
    counts = table([(5, 2, 1, 40), (0, 3, 2, 30)])
    expected = metrics.per_unit(counts).iloc[0]
    for pooling in ("pooled", "per_slide", "per_patient"):
        row = metrics.score(counts, pooling=pooling).iloc[0]
        assert all(row[name] == pytest.approx(expected[name]) for name in metrics.SCORES)


@given(counts_of_unit.filter(lambda c: c[0] > 0 and c[3] > 0), st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_means_over_equal_units_are_the_units_score(unit, n):
    counts = table([unit] * n, slides=[f"s{k}" for k in range(n)])
    expected = metrics.ratios(*unit)
    for pooling in ("per_slide", "per_patient", "per_tile", "pooled", "batch_mean"):
        row = metrics.score(counts, pooling=pooling, batch_size=1).iloc[0]
        for name in metrics.SCORES:
            assert row[name] == pytest.approx(float(expected[name]), nan_ok=True)


def test_a_mean_over_patients_pools_a_patients_slides_first():
    counts = table([(8, 0, 2, 10), (0, 0, 10, 10), (5, 5, 0, 10)], slides=["a", "b", "c"], patients=["p", "p", "q"])
    row = metrics.score(counts, pooling="per_patient").iloc[0]
    assert row["iou"] == pytest.approx((8 / 20 + 5 / 10) / 2)
    assert (row["n_units"], row["n_slides"], row["n_patients"]) == (2, 3, 2)
    assert metrics.score(counts, pooling="per_slide").iloc[0]["iou"] == pytest.approx((0.8 + 0 + 0.5) / 3)


def test_the_rule_for_empty_units_is_kept_and_counted():
    counts = table([(6, 2, 2, 10), (0, 0, 0, 20), (0, 4, 0, 16), (0, 0, 5, 15)], slides=list("abcd"))
    rows = {rule: metrics.score(counts, pooling="per_slide", empty=rule).iloc[0] for rule in metrics.EMPTY_RULES}
    assert rows["one"]["iou"] == pytest.approx((0.6 + 1 + 0 + 0) / 4)
    assert rows["zero"]["iou"] == pytest.approx(0.6 / 4)
    # The slides with a target, whatever was predicted in the others: the same two for every arm.
    assert rows["exclude"]["iou"] == pytest.approx(0.6 / 2)
    assert [rows[rule]["n_undefined"] for rule in metrics.EMPTY_RULES] == [1, 1, 2]
    assert [rows[rule]["n_units"] for rule in metrics.EMPTY_RULES] == [4, 4, 2]
    # Recall of c (no target) and precision of d (nothing predicted) are undefined whatever the rule.
    assert [rows[r]["n_undefined_recall"] for r in ("one", "exclude")] == [1, 2]
    assert rows["one"]["recall"] == pytest.approx((0.75 + 1 + 0) / 3)
    assert rows["one"]["n_undefined_precision"] == 1
    assert rows["one"]["n_undefined_mcc"] == 3


def test_a_cohort_without_target_and_prediction_has_no_score_unless_a_rule_gives_one():
    counts = table([(0, 0, 0, 9)] * 3)
    assert math.isnan(metrics.score(counts).iloc[0]["dice"])
    assert metrics.score(counts, empty="one").iloc[0]["dice"] == 1
    assert metrics.score(counts.iloc[:0]).iloc[0]["n_units"] == 1
    assert math.isnan(metrics.score(counts.iloc[:0], empty="one").iloc[0]["dice"])


def test_counts_of_gigapixels_lose_nothing():
    counts = table([(3_000_000_000, 1_000_000_000, 2_000_000_000, 44_000_000_000)])
    row = metrics.score(counts).iloc[0]
    assert row["iou"] == 0.5
    assert row["mcc"] == pytest.approx((3 * 44 - 2) / math.sqrt(4 * 5 * 45 * 46))


def test_groups_are_scored_apart_and_never_mixed_silently():
    one, two = table([(4, 1, 1, 9)]), table([(1, 1, 4, 9)])
    both = pd.concat([one.assign(arm="4x", threshold=0.5), two.assign(arm="1x", threshold=0.4)])
    scores = metrics.score(both, by="arm")
    assert scores["arm"].tolist() == ["4x", "1x"]
    assert scores["iou"].tolist() == pytest.approx([4 / 6, 1 / 6])
    with pytest.raises(ParameterError, match="mix several values of `arm`.*4x, 1x"):
        metrics.score(both)
    with pytest.raises(ParameterError, match="split"):
        metrics.per_unit(pd.concat([one.assign(split="val"), two.assign(split="test")]))


def test_counts_inside_tissue_are_scored_on_request():
    counts = table([(4, 3, 1, 9)]).assign(tp_tissue=4, fp_tissue=0, fn_tissue=0, tn_tissue=2)
    assert metrics.score(counts, region="tissue").iloc[0]["iou"] == 1
    with pytest.raises(ParameterError, match="tp_tissue"):
        metrics.score(table([(1, 1, 1, 1)]), region="tissue")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "micro"}, "`pooling` should be one of pooled"),
        ({"empty": "skip"}, "`empty` should be one of one"),
        ({"pooling": "as_published", "empty": "zero"}, "counts an empty unit 1"),
        ({"batch_size": 0, "pooling": "batch_mean"}, "at least 1"),
        ({"region": "stroma"}, "slide or tissue"),
        ({"by": ["cohort"]}, "lacks cohort"),
    ],
)
def test_unknown_wishes_are_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        metrics.score(table([(1, 1, 1, 1)]), **options)


def test_slides_cannot_be_averaged_as_tiles():
    with pytest.raises(ParameterError, match="no column tile_id"):
        metrics.score(table([(1, 1, 1, 1)]).drop(columns="tile_id"), pooling="batch_mean")


def test_masks_of_different_size_are_refused():
    with pytest.raises(ParameterError, match="not one lattice"):
        metrics.count_pixels(np.zeros((3, 3), bool), np.zeros((3, 4), bool))
    valid = np.array([[True, False]])
    assert metrics.count_pixels(np.array([[1, 1]]), np.array([[0, 1]]), valid=valid) == {
        "tp": 0,
        "fp": 1,
        "fn": 0,
        "tn": 0,
    }


def test_a_score_table_has_one_row_a_pooling():
    scores = metrics.score_table(table([(4, 1, 1, 9)] * 3))
    assert scores["pooling"].tolist() == ["as_published", "batch_mean", "pooled", "per_slide", "per_patient"]
    assert scores["batch_size"].tolist() == [8, 8, 0, 0, 0]


def test_two_arms_are_averaged_over_the_same_slides_whatever_they_predict():
    quiet = table([(6, 2, 2, 10), (0, 0, 0, 20), (3, 0, 3, 9)], slides=list("abc"))
    loud = table([(6, 2, 2, 10), (0, 9, 0, 11), (3, 0, 3, 9)], slides=list("abc"))
    rows = [metrics.score(counts, pooling="per_slide").iloc[0] for counts in (quiet, loud)]
    assert rows[0]["iou"] == rows[1]["iou"] == pytest.approx((0.6 + 0.5) / 2)
    assert rows[0]["n_units"] == rows[1]["n_units"] == 2
    assert rows[0]["specificity"] > rows[1]["specificity"]


def test_the_order_of_rows_moves_a_mean_over_batches_and_the_range_says_how_far():
    rng = np.random.default_rng(0)
    rows = [(5, 1, 1, 9) if k < 30 else (0, 0, 0, 16) for k in range(90)]
    sorted_rows, mixed = table(rows), table([rows[k] for k in rng.permutation(90)])
    by_hand = [metrics.score(counts, pooling="batch_mean").iloc[0]["iou"] for counts in (sorted_rows, mixed)]
    found = metrics.order_range(sorted_rows, orders=100)
    assert found["iou"] == by_hand[0] > found["iou_high"]
    assert found["iou_low"] <= by_hand[1] <= found["iou_high"]
    tiles = metrics.score(sorted_rows, pooling="as_published_tiles").iloc[0]
    assert tiles["iou"] == pytest.approx((30 * 5 / 7 + 60) / 90) and tiles["recall"] == pytest.approx(5 / 6)
