"""Objects: matching against an exhaustive matcher, post-processing in um, agreement."""

import itertools
import math
import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from tlskit.errors import ParameterError
from tlskit.metrics import objects
from tlskit.outlines import rasters
from tlskit.outlines import reading as annotations
from tlskit.outlines.truth import Truth


def exhaustive(quality, minimum):
    """Most pairs, then most quality, over all one-to-one assignments."""
    n, m = quality.shape
    best = (0, 0.0)
    for size in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.permutations(range(m), size):
                values = [quality[r, c] for r, c in zip(rows, columns, strict=True)]
                if all(v >= minimum and v > 0 for v in values):
                    best = max(best, (size, sum(values)))
    return best


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.integers(1, 4).flatmap(
            lambda m: st.lists(
                st.lists(st.sampled_from([0, 0.05, 0.1, 0.3, 0.5, 0.9]), min_size=m, max_size=m), min_size=n, max_size=n
            )
        )
    ),
    st.sampled_from([0.1, 0.5]),
)
def test_matching_is_as_good_as_trying_every_assignment(rows, minimum):
    quality = np.array(rows, float)
    pairs = objects.match(quality, minimum=minimum)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    assert all(quality[r, c] >= minimum for r, c in pairs)
    size, total = exhaustive(quality, minimum)
    assert len(pairs) == size
    assert sum(quality[r, c] for r, c in pairs) == pytest.approx(total)


def test_nothing_is_matched_with_nothing():
    assert objects.match(np.zeros((0, 3)), minimum=0.1) == []
    assert objects.match(np.zeros((2, 2)), minimum=0.0) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_objects_of_random_masks_have_the_iou_of_their_pixels(seed):
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.random((40, 50)), 2.5) for _ in range(2)]
    truth, predicted = (s > np.quantile(s, 0.8) for s in smooth)
    table = objects.compare(predicted, truth, mpp=2.0, mpp0=0.5)
    labels, n = ndimage.label(predicted)
    polygons = annotations.polygonise(truth, mpp=2.0, mpp0=0.5)
    ours = table[table["kind"] == "predicted"]
    assert len(ours) == n
    quality = np.zeros((n, len(polygons)))
    for k, polygon in enumerate(polygons):
        of_truth = Truth([polygon], mpp0=0.5).at(0, 0, 50, 40, mpp=2.0)
        for j in range(n):
            quality[j, k] = np.sum(of_truth & (labels == j + 1)) / np.sum(of_truth | (labels == j + 1))
    of_truth = table[table["kind"] == "truth"]["best_iou"]
    assert sorted(of_truth) == pytest.approx(sorted(quality.max(axis=0, initial=0)))
    assert sorted(ours["best_iou"]) == pytest.approx(sorted(quality.max(axis=1, initial=0)))
    assert ours["matched_iou10"].sum() == exhaustive_size(quality, 0.1)
    assert ours["area_um2"].sum() == pytest.approx(predicted.sum() * 4)
    assert ours["false_area_um2"].sum() == pytest.approx((predicted & ~truth).sum() * 4)


def exhaustive_size(quality, minimum):
    """Size of the largest matching, by augmenting paths."""
    owner = {}

    def place(row, seen):
        for column in np.flatnonzero(quality[row] >= minimum):
            if column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(quality)))


def test_the_polygon_of_a_mask_has_exactly_the_masks_area():
    y, x = np.mgrid[:60, :60]
    disc = (x - 30) ** 2 + (y - 28) ** 2 < 225
    disc[25:30, 28:33] = False
    (polygon,) = annotations.polygonise(disc, mpp=10.0, mpp0=0.25)
    assert polygon.area * 0.25**2 == pytest.approx(disc.sum() * 100.0, rel=1e-12)


@pytest.mark.parametrize("mpp", [1.0, 2.5, 4.0])
def test_post_processing_does_the_same_um_at_every_scale(mpp):
    def picture(*boxes):
        """Boxes in um, on 400 x 400 um."""
        x = (np.arange(round(400 / mpp)) + 0.5) * mpp
        mask = np.zeros((len(x), len(x)), bool)
        for (x0, y0, x1, y1), value in boxes:
            mask[np.ix_((x > y0) & (x < y1), (x > x0) & (x < x1))] = value
        return mask

    block = ((100, 100, 300, 300), True)
    hole = ((180, 180, 220, 220), False)
    speck = ((20, 20, 40, 40), True)
    slit = ((100, 240, 300, 250), False)
    mask = picture(block, hole, speck, slit)
    options = {"mpp": mpp, "closing_um": 0.0, "max_hole_um2": 0.0, "min_area_um2": 0.0}
    np.testing.assert_array_equal(objects.post_process(mask, **options), mask)
    assert not objects.post_process(mask, **options | {"min_area_um2": 500.0})[: round(60 / mpp)].any()
    kept = objects.post_process(mask, **options | {"min_area_um2": 300.0})
    np.testing.assert_array_equal(kept, mask)
    filled = objects.post_process(mask, **options | {"max_hole_um2": 2000.0})
    np.testing.assert_array_equal(filled, picture(block, speck, slit))
    np.testing.assert_array_equal(objects.post_process(mask, **options | {"max_hole_um2": 1000.0}), mask)
    closed = objects.post_process(picture(block, slit), **options | {"closing_um": 24.0})
    assert closed.sum() == pytest.approx(picture(block).sum(), rel=0.01)
    assert objects.label(closed)[1] == 1
    assert objects.label(objects.post_process(picture(block, slit), **options | {"closing_um": 4.0}))[1] == 2


def test_closing_is_that_of_a_disc():
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.random((80, 90)), 2) > 0.51
    for radius in (1.0, 2.0, 3.6):
        y, x = np.mgrid[-4:5, -4:5]
        expected = ndimage.binary_closing(np.pad(mask, 10), structure=x**2 + y**2 <= radius**2 + 1e-9)[10:-10, 10:-10]
        ours = objects.post_process(mask, mpp=1.0, closing_um=2 * radius, max_hole_um2=0, min_area_um2=0)
        np.testing.assert_array_equal(ours, expected)


def test_a_mask_at_the_edge_is_closed_and_filled_as_anywhere_else():
    full = np.ones((20, 20), bool)
    np.testing.assert_array_equal(objects.post_process(full, mpp=4.0), full)
    empty = np.zeros((20, 20), bool)
    assert not objects.post_process(empty, mpp=4.0).any()
    bay = full.copy()
    bay[5:9, 0:5] = False  # reaches the edge: glass, not a hole
    assert not objects.post_process(bay, mpp=4.0, closing_um=0)[6, 2]
    with pytest.raises(ParameterError, match="negative"):
        objects.post_process(full, mpp=4.0, closing_um=-1)


def test_size_classes_go_by_the_diameter_of_the_circle_of_the_same_area():
    areas = [math.pi * (d / 2) ** 2 for d in (20, 99.9, 100.01, 299.9, 300.1, 900)]
    assert objects.size_class(areas).tolist() == ["under 100 um"] * 2 + ["100-300 um"] * 2 + ["over 300 um"] * 2
    assert objects.diameter_um(areas) == pytest.approx([20, 99.9, 100.01, 299.9, 300.1, 900])


def test_a_prediction_equal_to_the_truth_finds_all_of_it_whatever_was_drawn():
    """Specks, copies, one inside another, neighbours that touch: both sides are counted by the same rules."""
    polygons = [
        shapely.box(8, 8, 48, 48), shapely.box(40, 8, 80, 48), shapely.box(100, 100, 160, 160),
        shapely.box(101, 101, 161, 161), shapely.box(110, 110, 120, 120), shapely.box(200, 8, 204, 12),
        shapely.box(8, 200, 60, 260), shapely.box(60, 260, 90, 300),
    ]  # fmt: skip
    drawn = Truth(polygons, mpp0=1.0).at(0, 0, 80, 80, mpp=4.0)
    for options in ({"min_area_um2": 100.0, "closing_um": 0.0}, {"min_area_um2": 1000.0}, {"min_area_um2": 0.0}):
        mask = objects.post_process(drawn, mpp=4.0, **options)
        table = objects.compare(mask, mask, mpp=4.0, mpp0=1.0)
        truth, predicted = (table[table["kind"] == kind] for kind in ("truth", "predicted"))
        assert len(truth) == len(predicted) > 0
        assert (table["best_iou"] == 1).all() and table[[f"matched_{r}" for r in objects.MATCH_RULES]].all(axis=None)
        assert (predicted["false_area_um2"] == 0).all()
    assert len(objects.compare(drawn, np.zeros_like(drawn), mpp=4.0, mpp0=1.0)) == objects.label(drawn)[1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), smallest=st.floats(1, 60))
def test_what_is_filtered_counted_and_written_is_one_number(seed, smallest):
    """Pixels that touch a kept object at a corner are not part of it in any of the three."""
    rng = np.random.default_rng(seed)
    mask = ndimage.uniform_filter(rng.random((50, 60)), 3) < 0.46
    kept = objects.post_process(mask, mpp=1.0, min_area_um2=smallest, closing_um=0, max_hole_um2=0)
    polygons = annotations.polygonise(kept, mpp=1.0, mpp0=0.25)
    _, count, stats, _ = objects.label(kept)
    areas = sorted(p.area * 0.25**2 for p in polygons)
    assert len(polygons) == count and np.allclose(areas, sorted(stats[1:, 4]))
    assert not areas or areas[0] >= smallest


def test_scores_of_objects_count_slides_without_any():
    slides = pd.DataFrame({"slide_id": list("abc"), "patient_id": ["p", "p", "q"], "tissue_mm2": [50.0, 100.0, 50.0]})
    rows = [
        ("a", "truth", 5e3, True), ("a", "truth", 3e4, False), ("b", "truth", 2e5, True),
        ("a", "predicted", 5e3, True), ("b", "predicted", 2e5, True), ("b", "predicted", 1e4, False),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["slide_id", "kind", "area_um2", "matched_iou10"])
    found["size_class"] = objects.size_class(found["area_um2"])
    found["false_area_um2"] = np.where(found["matched_iou10"], 0.0, found["area_um2"])
    row = objects.object_scores(found, slides).iloc[0]
    assert (row["recall"], row["precision"], row["f1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (row["recall_under_100_um"], row["recall_100_300_um"], row["recall_over_300_um"]) == (1, 0, 1)
    assert row["false_objects_per_slide"] == pytest.approx(1 / 3)
    assert row["false_objects_per_cm2"] == pytest.approx(1 / 2)
    assert row["false_area_mm2_per_mm2"] == pytest.approx(0.01 / 200)
    nothing = objects.object_scores(found.iloc[:0], slides).iloc[0]
    assert math.isnan(nothing["recall"]) and math.isnan(nothing["f1"]) and nothing["false_objects_per_slide"] == 0
    with pytest.raises(ParameterError, match="iou10, iou50, centroid"):
        objects.object_scores(found, slides, rule="iou99")


def test_agreement_is_that_of_the_textbook_formulas():
    rng = np.random.default_rng(1)
    truth = rng.gamma(2, 1, 40)
    predicted = 0.9 * truth + rng.normal(0.3, 0.2, 40)
    found = objects.agreement(predicted, truth)
    assert found["bias"] == pytest.approx(np.mean(predicted - truth))
    # Where a new patient's difference is expected: for 40 patients 2.05 sd, not 1.96.
    half = stats.t.ppf(0.975, 39) * np.std(predicted - truth, ddof=1) * np.sqrt(1 + 1 / 40)
    assert found["limit_high"] - found["limit_low"] == pytest.approx(2 * half)
    r = np.corrcoef(predicted, truth)[0, 1]
    spread = predicted.var() + truth.var() + (predicted.mean() - truth.mean()) ** 2
    assert found["concordance"] == pytest.approx(2 * r * predicted.std() * truth.std() / spread)
    assert objects.agreement(truth, truth)["concordance"] == pytest.approx(1)
    assert math.isnan(objects.agreement([], [])["bias"])
    for few in ([2.0], [2.0, 3.0], [2.0, 2.0, 2.0]):
        assert math.isnan(objects.agreement(few, few)["concordance"])
    with pytest.raises(ParameterError, match="one number a slide"):
        objects.agreement([1.0], [1.0, 2.0])


@pytest.mark.parametrize("max_hole_um2", [0.0, np.inf])
@pytest.mark.parametrize("closing_um", [0.0, 9.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_objects_processed_in_parts_are_those_of_the_whole(seed, closing_um, max_hole_um2):
    # Blobs, rings with islands in them, gaps about as wide as the closing, objects at the mask's edges.
    rng = np.random.default_rng(seed)
    mask = np.zeros((700, 900), np.uint8)
    for _ in range(60):
        centre = tuple(int(v) for v in rng.integers(0, (900, 700)))
        radius, thick = int(rng.integers(2, 45)), int(rng.choice([-1, 2, 5]))
        cv2.circle(mask, centre, radius, 1, thick)
    mask = mask.astype(bool)
    settings = {"mpp": 2.0, "min_area_um2": 700.0, "max_hole_um2": max_hole_um2}
    whole = objects._processed(mask, 2.0, closing_um / 4, 700.0, max_hole_um2)
    assert len(list(rasters.mask_parts(mask, reach_px=closing_um / 4 + 1))) > 1
    assert np.array_equal(objects.post_process(mask, closing_um=closing_um, **settings), whole)


def test_a_whole_slide_of_background_takes_little_memory():
    mask = np.zeros((12_000, 12_000), bool)
    mask[100:300, 100:300] = mask[-300:-100, -300:-100] = True
    tracemalloc.start()
    processed = objects.post_process(mask, mpp=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert processed.sum() == 2 * 200 * 200
    assert peak < 1.2 * mask.nbytes + 5e6  # its result, and two small parts
