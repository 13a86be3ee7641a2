"""Distances between boundaries against distances that are known, merges and splits."""

import numpy as np
import pytest
import shapely

from tlskit.metrics import boundaries
from tlskit.outlines import Truth


def shapes(predicted, true, *, mpp=2.0, size=(400, 300)):
    masks = [Truth(polygons, mpp0=1.0).at(0, 0, *size, mpp=mpp) for polygons in (predicted, true)]
    return boundaries.shape_table(*masks, mpp=mpp)


def test_a_disc_drawn_too_large_lies_that_far_from_the_outline():
    centre = shapely.Point(400, 300)
    table = shapes([centre.buffer(130)], [centre.buffer(100)])
    assert table["surface_mean_um"].item() == pytest.approx(30, abs=2)
    assert table["surface_95_um"].item() == pytest.approx(30, abs=3)
    assert table["nsd_20_um"].item() == 0 and table["nsd_50_um"].item() == 1
    same = shapes([centre.buffer(100)], [centre.buffer(100)])
    assert same["surface_mean_um"].item() == 0 and same["nsd_20_um"].item() == 1


def test_objects_that_nothing_touches_have_no_distance():
    table = shapes([shapely.box(0, 0, 50, 50)], [shapely.box(400, 400, 500, 500)])
    assert np.isnan(table["surface_mean_um"].item()) and table["n_predicted_on_it"].item() == 0
    assert boundaries.shape_table(np.ones((4, 4), bool), np.zeros((4, 4), bool), mpp=1.0).empty


def test_merges_and_splits_are_counted_from_both_sides():
    true = [shapely.box(100, 100, 200, 200), shapely.box(220, 100, 320, 200), shapely.box(400, 100, 560, 200)]
    predicted = [shapely.box(100, 100, 320, 200), shapely.box(400, 100, 460, 200), shapely.box(500, 100, 560, 200)]
    table = shapes(predicted, true)
    assert table["merged_with"].tolist() == [1, 1, 0]
    assert table["n_predicted_on_it"].tolist() == [1, 1, 2]
    # What covers less than a tenth of an object does not count as meeting it.
    sliver = shapes([shapely.box(100, 100, 108, 200)], true)
    assert sliver["n_predicted_on_it"].tolist() == [0, 0, 0]
