"""Where a tile's context lies: the one arithmetic that training and inference share."""

import numpy as np
import pytest

from tlskit.errors import ParameterError
from tlskit.tiles import context_faults, context_origin, other_windows, own_field_only


@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize(
    ("tile_px", "context_px"), [(64, 64), (64, 96), (512, 256), (512, 512), (128, 256), (448, 288)]
)
def test_tile_and_context_have_one_centre(ratio, tile_px, context_px):
    x = np.arange(-3 * tile_px, 3 * tile_px)
    x_context, y_context = context_origin(x, x + 5, tile_px, context_px, ratio)
    for corner, found in ((x, x_context), (x + 5, y_context)):
        off_px = ratio * (found + context_px / 2) - (corner + tile_px / 2)  # in pixels of the tile
        assert np.abs(off_px).max() <= ratio / 2
        assert (off_px[(corner + tile_px // 2) % ratio == 0] == 0).all()
    assert (np.diff(x_context) >= 0).all()
    assert context_origin(7, -9, tile_px, context_px, ratio) == tuple(
        int(v[0]) for v in context_origin(np.array([7]), np.array([-9]), tile_px, context_px, ratio)
    )


def test_a_corner_worked_out_by_hand():
    # 512 px at 2.5 um/px from x = 1024: the centre is 1280 px = 3200 um, at 10 um/px pixel 320, less 128.
    assert context_origin(1024, 0, 512, 256, 4) == (192, -64)


def test_a_corner_between_pixels_and_an_odd_side_are_refused():
    with pytest.raises(ParameterError, match="whole number"):
        context_origin(0.5, 0, 64, 64, 2)
    with pytest.raises(ParameterError, match="even"):
        context_origin(0, 0, 65, 64, 2)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_the_own_field_is_what_the_tile_covers(ratio):
    context = np.arange(2 * 96 * 96 * 3, dtype=np.int64).reshape(2, 96, 96, 3).astype(np.uint8) // 2
    kept = own_field_only(context, 64, ratio)
    x_context, _ = context_origin(0, 0, 64, 96, ratio)
    own = slice(-x_context, -x_context + 64 // ratio)  # of a tile at the slide's corner
    assert np.array_equal(kept[:, own, own], context[:, own, own])
    kept[:, own, own] = 255
    assert (kept == 255).all() and (context < 128).all()
    mask = own_field_only(context[0, ..., 0], 64, ratio, outside=200)
    assert np.array_equal(mask[own, own], context[0, own, own, 0])
    assert (mask == 200).sum() == 96**2 - (64 // ratio) ** 2


def test_another_window_is_never_the_same_one():
    for count in (2, 3, 4, 11, 100):
        others = other_windows(count)
        assert sorted(others) == list(range(count)) and (others != np.arange(count)).all()
    assert other_windows(1).tolist() == [-1] and not len(other_windows(0))


def test_sizes_that_do_not_meet_are_refused_with_a_remedy_that_works():
    assert context_faults(512, 256, 4) == context_faults(96, 100, 0) == []
    for tile_px, context_px, ratio, said in (
        (96, 96, 4, "`tile_px`"), (512, 100, 4, "multiple of 32"), (512, 128, 4, "no context is left"),
        (512, 256, 3, "one of"),
    ):  # fmt: skip
        (fault,) = context_faults(tile_px, context_px, ratio)
        assert said in fault
    assert "160 or more" in context_faults(512, 128, 4)[0] and not context_faults(512, 160, 4)
    assert "`context_ratio`" in context_faults(512, 256, 0, "self")[0]
    assert "one of field" in context_faults(512, 256, 4, "both")[0]
