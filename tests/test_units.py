"""Magnifications, um/px and pixels of two lattices; how a duration is said."""

import numpy as np
import pytest

from tlskit import units
from tlskit.errors import ScaleError


@pytest.mark.parametrize(("magnification", "mpp"), [(20, 0.5), (10, 1.0), (4, 2.5), (1, 10.0), (2.5, 4.0)])
def test_ten_is_one_um_a_pixel(magnification, mpp):
    assert units.mpp_for_magnification(magnification) == mpp
    assert units.magnification_for_mpp(mpp) == magnification
    assert units.magnification_name(magnification) == f"{magnification}x"


@pytest.mark.parametrize("mpp0", [0.25, 0.2529, 0.499])
def test_pixels_go_to_level_0_and_back(mpp0):
    at = np.array([0, 1, 255, 40_000])
    assert np.array_equal(units.px0_to_px(units.px_to_px0(at, 0.5, mpp0), 0.5, mpp0), at)


def test_more_resolution_than_was_scanned_is_refused():
    assert units.downsample(0.5, 0.25) == 2.0
    assert units.downsample(0.5, 0.52) < 1  # scanners are a few per cent off
    with pytest.raises(ScaleError):
        units.downsample(0.5, 1.0)


@pytest.mark.parametrize(
    ("minutes", "text"), [(0.0135, "0.81 s"), (0.15, "9 s"), (0.75, "45 s"), (0.998, "1.0 min"), (23.5, "23.5 min")]
)
def test_a_duration_is_said_in_the_unit_that_fits(minutes, text):
    assert units.minutes_text(minutes) == text


def test_numbers_of_things_are_said_as_one_says_them():
    said = [units.counted(n, "slide") for n in (0, 1, 2.0)] + [units.counted("1-3", "patient")]
    assert said == ["0 slides", "1 slide", "2 slides", "1-3 patients"]
    assert units.counted(2, "class", "classes") == "2 classes"
