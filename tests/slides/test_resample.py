"""Area averaging against the definition, computed in float64 pixel by pixel."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tlskit.slides.resample import area_average, area_weights, snapped_ratio, source_span

RATIOS = [0.97, 1.0, 1.25, 1.97706603, 2.0, 2.5, 3.0, 4.0, 5.0, 7.9, 20.04]


def defined(source, ratio, x, y, width, height):
    """The mean over each pixel's exact area, float64."""

    def overlap(start, count, length):
        table = np.zeros((count, length))
        for i in range(count):
            low, high = (start + i) * ratio, (start + i + 1) * ratio
            for k in range(length):
                table[i, k] = max(0.0, min(high, k + 1) - max(low, k)) / ratio
        return table

    rows, columns = overlap(y, height, source.shape[0]), overlap(x, width, source.shape[1])
    return np.stack([rows @ source[..., c].astype(float) @ columns.T for c in range(3)], axis=-1)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (330, 410, 3), dtype=np.uint8)


def whole(source, ratio):
    height, width = source.shape[:2]
    width, height = int(width / ratio + 1e-9), int(height / ratio + 1e-9)
    return area_average(source, ratio=ratio, x_px=0, y_px=0, width_px=width, height_px=height)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_pixel_is_the_mean_over_its_exact_area(noise, ratio):
    height, width = (int(side / ratio) - 3 for side in noise.shape[:2])
    got = area_average(noise, ratio=ratio, x_px=2, y_px=1, width_px=width, height_px=height)
    expected = defined(noise, ratio, 2, 1, width, height)
    assert np.abs(got - expected).max() < 0.5 + 0.1  # half a grey level of rounding, a tenth for the weights
    assert np.mean(got == np.floor(expected + 0.5)) > 0.97


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_region_has_the_same_pixels_however_it_is_cut(noise, ratio):
    everything = whole(noise, ratio)
    rng = np.random.default_rng(1)
    height, width = everything.shape[:2]
    for _ in range(40):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(1, width - x + 1), rng.integers(1, height - y + 1)
        (x0, x1), (y0, y1) = source_span(x, x + w, ratio), source_span(y, y + h, ratio)
        cut = noise[y0:y1, x0:x1].copy()
        got = area_average(cut, ratio=ratio, x_px=x, y_px=y, width_px=w, height_px=h, source_x=x0, source_y=y0)
        np.testing.assert_array_equal(got, everything[y : y + h, x : x + w])


@pytest.mark.parametrize("ratio", [1.0, 1.97706603, 2.0, 2.5, 4.0, 20.04])
def test_pixels_that_are_put_where_they_are_needed_give_the_same(noise, ratio):
    asked = []

    def put(array, x, y):
        asked.append((x, y, *array.shape[:2]))
        array[:] = noise[y : y + array.shape[0], x : x + array.shape[1]]

    expected = whole(noise, ratio)[1:, 2:]
    height, width = expected.shape[:2]
    got = area_average(put, ratio=ratio, x_px=2, y_px=1, width_px=width, height_px=height)
    np.testing.assert_array_equal(got, expected)
    (x0, x1), (y0, y1) = source_span(2, 2 + width, ratio), source_span(1, 1 + height, ratio)
    assert all(x0 <= x and x + w <= x1 and y0 <= y and y + h <= y1 for x, y, h, w in asked)
    canvas = np.full((height, width + 9, 6), 7, np.uint8)  # colours apart: not what is written to directly
    area_average(put, ratio=ratio, x_px=2, y_px=1, width_px=width, height_px=height, out=canvas[:, 4:-5, ::2])
    np.testing.assert_array_equal(canvas[:, 4:-5, ::2], expected)
    assert (canvas[:, :4] == 7).all() and (canvas[:, -5:] == 7).all() and (canvas[..., 1::2] == 7).all()


def test_far_from_the_origin_positions_do_not_drift():
    ratio, x = 5000 / 2529, 40_000
    x0, x1 = source_span(x, x + 50, ratio)
    ramp = np.repeat((np.arange(x0, x1) % 256).astype(np.uint8)[None, :, None], 3, axis=2).repeat(4, axis=0)
    got = area_average(ramp, ratio=ratio, x_px=x, y_px=0, width_px=50, height_px=2, source_x=x0)
    for i in range(50):
        low, high = (x + i) * 5000 / 2529, (x + i + 1) * 5000 / 2529
        k = np.arange(int(low), int(high) + 1)
        part = np.minimum(high, k + 1) - np.maximum(low, k)
        assert abs(got[0, i, 0] - (part * (k % 256)).sum() / ratio) < 0.6


def test_twice_coarser_equals_opencv_and_rounds_half_up(noise):
    np.testing.assert_array_equal(whole(noise, 2.0), cv2.resize(noise, (205, 165), interpolation=cv2.INTER_AREA))
    block = np.array([[0, 1], [1, 0]], np.uint8)[..., None].repeat(3, axis=2)
    assert area_average(block, ratio=2.0, x_px=0, y_px=0, width_px=1, height_px=1).tolist() == [[[1, 1, 1]]]
    block = np.array([[0] * 4] * 2 + [[1] * 4] * 2, np.uint8)[..., None].repeat(3, axis=2)
    assert area_average(block, ratio=4.0, x_px=0, y_px=0, width_px=1, height_px=1).tolist() == [[[1, 1, 1]]]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_a_flat_field_stays_exactly_flat(ratio, value):
    assert (whole(np.full((90, 120, 3), value, np.uint8), ratio) == value).all()


@pytest.mark.parametrize("ratio", RATIOS)
def test_weights_are_whole_numbers_that_sum_to_the_total(ratio):
    _, weights = area_weights(12_345, 500, ratio, 4096)
    assert (weights == np.rint(weights)).all() and (weights >= 0).all()
    assert (weights.sum(1) == 4096).all()


def test_strided_targets_are_filled_and_nothing_beside_them(noise):
    for ratio in (1.0, 2.0, 2.5):
        canvas = np.full((60, 80, 3), 7, np.uint8)
        area_average(noise, ratio=ratio, x_px=3, y_px=4, width_px=50, height_px=40, out=canvas[10:50, 20:70])
        np.testing.assert_array_equal(canvas[10:50, 20:70], whole(noise, ratio)[4:44, 3:53])
        canvas[10:50, 20:70] = 7
        assert (canvas == 7).all()


def test_ratios_within_float_noise_of_a_whole_number_are_that_number():
    assert snapped_ratio(0.5 / 0.25) == 2 and snapped_ratio(0.3 / 0.1) == 3.0
    assert snapped_ratio(0.9995) == 0.9995 and snapped_ratio(1.9999) == 1.9999


@pytest.mark.parametrize("kept", ["nowhere", "damaged"])
def test_where_compiled_code_cannot_be_kept_it_is_compiled_again(tmp_path, kept):
    code = (
        "import numpy as np; from tlskit.slides.resample import area_average as a; "
        "print(a(np.full((9, 9, 3), 7, np.uint8), ratio=2.5, x_px=0, y_px=0, width_px=3, height_px=3).tolist())"
    )

    def run(folder):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    folder = tmp_path / "kept"
    if kept == "nowhere":
        folder.write_text("a file where the folder should be")
    else:
        run(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:-7])
    assert json.loads(run(folder).stdout) == [[[7, 7, 7]] * 3] * 3


def test_too_little_source_is_refused(noise):
    with pytest.raises(ValueError, match="need source columns"):
        area_average(noise[:, :40], ratio=2.0, x_px=0, y_px=0, width_px=30, height_px=10)
