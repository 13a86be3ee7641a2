"""One door to pixels: the same for a tile, a stream, a thumbnail, a thread, a process; and OpenSlide's."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pytest
from made_slides import DATA, NO_DATA, patch_tile, picture, quartering_slide, vips_slide

from tlskit.errors import ScaleError, SlideError
from tlskit.slides import levels, tilecache
from tlskit.slides import slide as slides
from tlskit.slides.slide import open_slide

MPP_OF = {20: 0.5, 10: 1.0, 4: 2.5, 1: 10.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Slides of both pyramids, at the nominal and at a real scale, none a multiple of its tiles."""
    folder = tmp_path_factory.mktemp("slides")
    image = picture(2531, 1999)
    return {
        "halving": vips_slide(folder / "halving.tif", image),
        "quartering": quartering_slide(folder / "quartering.tif", image),
        "real_scale": quartering_slide(folder / "real.tif", image, mpp=0.2529, coding="rgb_444"),
        "one_level": vips_slide(folder / "one.tif", image, pyramid=False, mpp=0.499, power=20),
    }


def through_openslide(path, level):
    """A whole level, white where there is nothing."""
    with openslide.OpenSlide(path) as scan:
        rgba = np.asarray(scan.read_region((0, 0), level, scan.level_dimensions[level]))
    return np.where(rgba[..., 3:] == 255, rgba[..., :3], 255).astype(np.float64)


def area_mean(pixels, ratio, x, y):
    """Working pixel (x, y) by its definition, on a white plane."""
    (x0, x1), (y0, y1) = ((v * ratio, (v + 1) * ratio) for v in (x, y))
    total = np.zeros(3)
    for row in range(int(np.floor(y0)), int(np.ceil(y1))):
        for column in range(int(np.floor(x0)), int(np.ceil(x1))):
            part = (min(x1, column + 1) - max(x0, column)) * (min(y1, row + 1) - max(y0, row))
            inside = 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]
            total += part * (pixels[row, column] if inside else 255)
    return total / ratio**2


@pytest.mark.parametrize("magnification", [20, 10, 4, 1])
@pytest.mark.parametrize("name", ["halving", "quartering", "real_scale", "one_level"])
@pytest.mark.parametrize("fast", [True, False], ids=["jpeg", "openslide"])
def test_pixels_are_area_means_of_openslides_pixels(made, name, magnification, fast):
    with open_slide(made[name], fast=fast) as slide:
        mpp = MPP_OF[magnification]
        assert slide.reader_for(mpp) == ("jpeg" if fast else "openslide")
        level = slide.level_for(mpp)
        pixels = through_openslide(made[name], level)
        ratio = mpp / slide.mpp0 / slide.level_downsamples[level]
        width, height = slide.size_px(mpp)
        image = slide.read(-3, -2, width + 8, height + 6, mpp=mpp)
        rng = np.random.default_rng(0)
        spots = [(-1, 5), (0, 0), (width - 1, height - 1), (width, height), (width - 1, 3), (2, height - 1)]
        spots += list(zip(rng.integers(0, width, 200).tolist(), rng.integers(0, height, 200).tolist(), strict=True))
        for x, y in spots:
            assert np.abs(image[y + 2, x + 3] - area_mean(pixels, ratio, x, y)).max() < 0.6, (x, y)


@pytest.mark.parametrize(("name", "mpp", "ratio"), [("halving", 0.25, 1), ("halving", 0.5, 1), ("quartering", 0.5, 2)])
def test_where_a_level_fits_pixels_equal_openslides_exactly(made, name, mpp, ratio):
    with open_slide(made[name]) as slide:
        pixels = through_openslide(made[name], slide.level_for(mpp)).astype(np.uint8)
        height, width = (side // ratio for side in pixels.shape[:2])
        expected = cv2.resize(pixels[: height * ratio, : width * ratio], (width, height), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(slide.read(0, 0, width, height, mpp=mpp), expected)


@pytest.mark.skipif(not (DATA / "slides").is_dir(), reason=NO_DATA)
@pytest.mark.parametrize("mpp", [0.499, 0.5, 1.0, 2.5, 10.0])
def test_both_readers_agree_on_the_real_slide(mpp):
    path = DATA / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as fast, open_slide(path, fast=False) as plain:
        assert (fast.reader, plain.reader) == ("jpeg", "openslide")
        width, height = fast.size_px(mpp)
        a = fast.read(-5, -5, width + 10, height + 10, mpp=mpp)
        np.testing.assert_array_equal(a, plain.read(-5, -5, width + 10, height + 10, mpp=mpp))
        if mpp == 0.499:
            np.testing.assert_array_equal(a[5:-5, 5:-5], through_openslide(path, 0).astype(np.uint8))


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("name", ["halving", "quartering", "real_scale", "one_level"])
@pytest.mark.parametrize("fast", [True, False], ids=["jpeg", "openslide"])
def test_a_tile_alone_and_cut_from_a_band_are_identical(made, name, mpp, fast):
    with open_slide(made[name], fast=fast) as slide:
        if mpp < slide.mpp0 * 0.95:
            with pytest.raises(ScaleError, match="never recorded"):
                slide.read(0, 0, 10, 10, mpp=mpp)
            return
        width, height = slide.size_px(mpp)
        rng = np.random.default_rng(1)
        side = 96
        xy = np.stack([rng.integers(-40, width + 5, 30), rng.integers(-40, height + 5, 30)], axis=1)
        for i, window in slide.windows(xy, side, mpp=mpp):
            np.testing.assert_array_equal(window, slide.read(*xy[i], side, side, mpp=mpp))


@pytest.mark.parametrize("size", [(2531, 1999), (4002, 3001), (4093, 1507)], ids=str)
def test_levels_of_rounded_size_are_read_through_openslide_as_they_are_stored(tmp_path, size):
    """OpenSlide reads between pixels where its ratio of sizes (2.0005) meets none: a seam, and up to 62 grey levels."""
    path = vips_slide(tmp_path / "a.tif", picture(*size), quality=90)
    with open_slide(path) as fast, open_slide(path, fast=False) as plain:
        for mpp in (0.25, 0.5, 1.0, 2.5):
            assert (fast.reader_for(mpp), plain.reader_for(mpp)) == ("jpeg", "openslide")
            assert plain.level_for(mpp) == fast.level_for(mpp)
            width, height = fast.size_px(mpp)
            for x, y in ((0, 0), (width // 2, height // 2), (width - 300, height - 300)):
                a, b = (s.read(x, y, 300, 300, mpp=mpp) for s in (fast, plain))
                np.testing.assert_array_equal(a, b)


def test_a_large_level_that_cannot_be_read_as_stored_is_not_read_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(levels, "MOST_AT_ONCE_PX", 1024)
    monkeypatch.setattr(levels, "_FARTHEST_PX", 100)
    path = vips_slide(tmp_path / "a.tif", picture(2701, 1803), quality=90)
    with open_slide(path) as fast, open_slide(path, fast=False) as plain:
        assert (fast.level_for(0.5), plain.level_for(0.5)) == (1, 0)
        difference = fast.read(900, 500, 200, 200, mpp=0.5).astype(int) - plain.read(900, 500, 200, 200, mpp=0.5)
        assert np.abs(difference).mean() < 2  # JPEG twice against JPEG once


def test_the_level_read_is_the_coarsest_that_is_fine_enough(made):
    with open_slide(made["halving"]) as slide:
        assert [slide.level_for(m) for m in (0.25, 0.4999, 0.5, 0.99, 1.0, 2.5, 10.0)] == [0, 1, 1, 1, 2, 3, 4]
        assert slide.level_for(0.499) == 0
        assert slide.level_for(0.24) == 0
        with pytest.raises(ScaleError, match="never recorded"):
            slide.level_for(0.2374)
    with open_slide(made["real_scale"]) as slide:
        assert [slide.level_for(m) for m in (0.25, 0.5, 1.0, 2.5, 10.0)] == [0, 0, 0, 1, 2 if 10 / 0.2529 >= 16 else 1]


def test_facts_of_a_slide(made):
    with open_slide(made["real_scale"]) as slide:
        assert (slide.size_px0, slide.mpp0, slide.mpp_source) == ((2531, 1999), 0.2529, "openslide")
        assert (slide.objective_power, slide.vendor, slide.reader) == (40, "aperio", "jpeg")
        assert slide.bounds_px0 == (0, 0, 2531, 1999) and slide.level_downsamples == (1, 4, 16)
        assert slide.size_px(0.5) == (1280, 1011)
    with open_slide(made["real_scale"], resolution_by="objective") as slide:
        assert (slide.mpp0, slide.mpp_source) == (0.25, "objective")
    with open_slide(made["real_scale"], mpp_override=0.3) as slide:
        assert (slide.mpp0, slide.mpp_source) == (0.3, "manifest")


@pytest.mark.parametrize("name", ["halving", "real_scale", "one_level"])
def test_a_thumbnail_is_the_slide_read_at_its_um_per_px(made, name):
    with open_slide(made[name]) as slide:
        image, mpp = slide.thumbnail(max_px=300)
        assert image.shape[1] in (299, 300) and (image.shape[1], image.shape[0]) == slide.size_px(mpp)
        np.testing.assert_array_equal(image, slide.read(0, 0, *image.shape[1::-1], mpp=mpp))
        image, mpp = slide.thumbnail(mpp=8.0)
        assert mpp == 8.0 and (image.shape[1], image.shape[0]) == slide.size_px(8.0)
        assert slide.thumbnail(max_px=10_000)[1] == slide.mpp0


def _crc(arguments):
    slide, x, y, mpp = arguments
    return int(
        np.bitwise_xor.reduce(slide.read(x, y, 200, 200, mpp=mpp).astype(np.int64).ravel() * np.arange(1, 120_001))
    )


def _jobs(slide):
    return [(slide, x, y, mpp) for mpp in (0.5, 1.0) for y in range(0, 900, 150) for x in range(0, 1200, 150)]


@pytest.mark.parametrize("name", ["quartering", "real_scale"])
@pytest.mark.parametrize("fast", [True, False], ids=["jpeg", "openslide"])
def test_eight_threads_see_the_same_pixels(made, name, fast):
    slide = open_slide(made[name], fast=fast)
    expected = [_crc(job) for job in _jobs(open_slide(made[name], fast=False))]
    tilecache.cache.reset()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_crc, _jobs(slide))) == expected


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_four_worker_processes_see_the_same_pixels(made, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start} processes")
    for fast in (True, False) if start == "fork" else (True,):
        slide = open_slide(made["quartering"], fast=fast)
        jobs = _jobs(slide)[::3]
        expected = [_crc(job) for job in jobs]
        with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context(start)) as pool:
            assert list(pool.map(_crc, jobs, chunksize=4)) == expected


def _inherited(_):
    return [_crc((_parent["slide"], x, 100, 0.5)) for x in range(0, 1000, 50)]


_parent = {}


def test_handles_inherited_by_fork_do_not_disturb_one_another(made):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork processes")
    for fast in (True, False):
        _parent["slide"] = open_slide(made["quartering"], fast=fast)
        expected = _inherited(0)
        with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
            results = list(pool.map(_inherited, range(12)))
        assert all(r == expected for r in results)
        assert _inherited(0) == expected


def test_a_pickled_slide_reads_the_same(made):
    with open_slide(made["quartering"]) as slide:
        again = pickle.loads(pickle.dumps(slide))
        assert again.reader == "jpeg" and again.mpp0 == slide.mpp0
        np.testing.assert_array_equal(again.read(5, 5, 90, 90, mpp=0.5), slide.read(5, 5, 90, 90, mpp=0.5))


@pytest.fixture
def damaged(tmp_path):
    path = quartering_slide(tmp_path / "damaged.tif", picture(1500, 1300))
    patch_tile(path, 2, 1, lambda data: bytes(len(data)))  # level-0 pixels [480, 720) x [240, 480)
    return path


@pytest.mark.parametrize("fast", [True, False], ids=["jpeg", "openslide"])
def test_reading_goes_on_after_a_damaged_region(damaged, fast):
    with open_slide(damaged, fast=fast) as slide:
        before = slide.read(0, 0, 200, 200, mpp=0.25)
        with pytest.raises(SlideError, match=r"damaged.tif.*\(480, 240\), 240 x 240 px"):
            slide.read(450, 200, 100, 100, mpp=0.25)
        tilecache.cache.reset()
        np.testing.assert_array_equal(slide.read(0, 0, 200, 200, mpp=0.25), before)
        assert slide.read(720, 240, 100, 100, mpp=0.25).min() < 200
        assert [(r["x_px0"], r["y_px0"], r["width_px0"], r["height_px0"], r["level"]) for r in slide.lost] == [
            (480, 240, 240, 240, 0)
        ]
        with pytest.raises(SlideError, match="damaged.tif"):
            list(slide.windows([(0, 0), (450, 200)], 100, mpp=0.25))
        assert len(slide.lost) == 1


@pytest.mark.parametrize("fast", [True, False], ids=["jpeg", "openslide"])
def test_threads_reading_beside_damage_are_not_harmed(damaged, fast):
    with open_slide(damaged, fast=fast) as slide:

        def attempt(x):
            try:
                return slide.read(x, 250, 100, 100, mpp=0.25).sum()
            except SlideError:
                return "lost"

        positions = [0, 100, 500, 800, 600, 1000, 550, 1200] * 6
        tilecache.cache.reset()
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(attempt, positions))
    assert [g == "lost" for g in got] == [x in (500, 600, 550) for x in positions]


def test_a_slide_that_vanishes_is_an_error_that_names_it(tmp_path):
    path = vips_slide(tmp_path / "gone.tif", picture(800, 700))
    slide = pickle.loads(pickle.dumps(open_slide(path)))
    path.unlink()
    with pytest.raises(SlideError, match="gone.tif"):
        slide.read(0, 0, 100, 100, mpp=0.25)


def test_a_thumbnail_of_a_damaged_slide_is_white_there(damaged):
    with open_slide(damaged) as slide:
        image, _ = slide.thumbnail(mpp=0.25)
        expected = picture(1500, 1300)
        assert (image[240:480, 480:720] == 255).all()
        expected[240:480, 480:720] = 255
        assert np.abs(image.astype(int) - expected).mean() < 8
        assert len(slide.lost) == 1


def test_on_lost_is_checked_before_anything_is_read(made):
    with open_slide(made["halving"]) as slide, pytest.raises(ValueError, match="on_lost"):
        slide.windows([(0, 0)], 10, mpp=0.5, on_lost="ignore")


def test_decoded_tiles_are_kept_within_limits(made, monkeypatch):
    monkeypatch.setattr(slides, "cache", tilecache.TileCache(3_000_000))
    with open_slide(made["quartering"]) as slide:
        slide.read(0, 0, 1200, 900, mpp=0.5)
        assert 2_000_000 < slides.cache.bytes <= 3_000_000
        level = slide._level(0)
        decoded = level.decoded
        slide.read(1000, 800, 64, 64, mpp=0.5)
        assert level.decoded == decoded
    assert slides.cache.bytes == 0 and not slides.cache.tiles
