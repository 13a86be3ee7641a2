"""Pictures of what a screen took away are of things that it took away."""

from types import SimpleNamespace

import numpy as np
import shapely

from tlskit.evaluation import cascade_pictures
from tlskit.maps import outside
from tlskit.outlines import Truth

LEAST = 128


def a_map(values):
    """Of 2 um/px, seen at half the size."""
    return SimpleNamespace(
        overview=lambda _: (values, 4.0),
        size_px=(2 * values.shape[1], 2 * values.shape[0]),
        mpp=2.0,
        answered=lambda x_px, y_px: outside([], x_px, y_px),
    )


def test_a_lost_object_and_a_removed_false_alarm_are_found_and_nothing_else():
    fine = np.zeros((100, 120), np.uint8)
    fine[10:20, 10:30] = fine[50:60, 50:60] = fine[80:90, 80:110] = 200  # true and lost, true and kept, false and gone
    unseen = [(0, 0, 240, 80), (0, 140, 240, 60)]
    boxes = [shapely.box(40, 40, 120, 80), shapely.box(200, 200, 240, 240)]
    truth = Truth(boxes, mpp0=1.0)
    found = list(cascade_pictures._taken_away(a_map(fine), unseen, truth, LEAST))
    assert [kind for kind, *_ in found] == ["true object, lost", "false alarm, gone"]
    assert found[0][1] == (40.0, 40.0, 120.0, 80.0) and found[1][1] == (320.0, 320.0, 440.0, 360.0)
    assert np.allclose([mm2 for *_, mm2 in found], [200 * 16 / 1e6, 300 * 16 / 1e6])
    assert not list(cascade_pictures._taken_away(a_map(fine), [], truth, LEAST)), "it looked at everything"
