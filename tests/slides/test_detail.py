"""Detail taken away: what is finer turns grey, what is coarser stays, and the arm's own um/px changes nothing."""

import numpy as np
import pytest
from made_slides import picture, vips_slide

from tlskit.errors import ScaleError
from tlskit.slides import tissue
from tlskit.slides.slide import open_slide

LOSSLESS = {"compression": "deflate"}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return vips_slide(tmp_path_factory.mktemp("detail") / "noisy.tif", picture(1531, 1207), mpp=0.25)


def striped(path, period_um: float):
    """Black and white columns, 0.25 um/px, `period_um` from one black one to the next."""
    half = round(period_um / 0.25 / 2)
    columns = np.where(np.arange(1280) // half % 2, 255, 0).astype(np.uint8)
    return vips_slide(path, np.repeat(np.tile(columns, (640, 1))[..., None], 3, axis=2), mpp=0.25, **LOSSLESS)


@pytest.mark.parametrize("mpp", [0.5, 1.0, 2.5])
def test_at_the_arms_own_um_per_px_nothing_changes_bit_for_bit(noisy, mpp):
    with open_slide(noisy) as plain, open_slide(noisy, detail_mpp=mpp) as same:
        assert np.array_equal(plain.read(-3, 7, 120, 90, mpp=mpp), same.read(-3, 7, 120, 90, mpp=mpp))
        xy = np.array([[0, 0], [40, 0], [13, 31]])
        for (i, a), (j, b) in zip(plain.windows(xy, 64, mpp=mpp), same.windows(xy, 64, mpp=mpp), strict=True):
            assert i == j and np.array_equal(a, b)


def test_stripes_finer_than_the_detail_turn_grey_and_coarser_ones_stay(tmp_path):
    fine, coarse = striped(tmp_path / "fine.tif", 1.0), striped(tmp_path / "coarse.tif", 20.0)
    with open_slide(fine, detail_mpp=2.5) as slide:
        seen = slide.read(0, 0, 500, 64, mpp=0.5).astype(int)
        assert np.abs(seen - 127.5).max() < 27  # 2.5 um hold two and a half periods: half a stripe is left over
    with open_slide(fine, detail_mpp=2.0) as slide:
        assert np.abs(slide.read(0, 0, 500, 64, mpp=0.5).astype(int) - 127.5).max() < 1
    with open_slide(coarse) as sharp, open_slide(coarse, detail_mpp=2.5) as slide:
        assert np.array_equal(slide.read(0, 0, 500, 64, mpp=0.5), sharp.read(0, 0, 500, 64, mpp=0.5))


@pytest.mark.parametrize("detail_mpp", [1.0, 2.5, 10.0, 1.3])
def test_pixels_are_those_of_the_coarse_magnification_enlarged(noisy, detail_mpp):
    mpp, (x, y, width, height) = 0.5, (-5, 11, 211, 170)
    with open_slide(noisy) as plain, open_slide(noisy, detail_mpp=detail_mpp) as slide:
        seen = slide.read(x, y, width, height, mpp=mpp)
        for column, row in ((0, 0), (210, 169), (100, 31), (7, 160)):
            at = [int(np.floor((v + 0.5) * mpp / detail_mpp)) for v in (x + column, y + row)]
            assert np.array_equal(seen[row, column], plain.read(*at, 1, 1, mpp=detail_mpp)[0, 0])
        assert slide.level_for(mpp) == plain.level_for(detail_mpp)


@pytest.mark.parametrize("detail_mpp", [1.0, 2.5, 1.3, 10.0])
@pytest.mark.parametrize("stride", [24, 7])
def test_a_tile_alone_and_cut_from_a_stream_are_identical_and_in_raster_order(noisy, detail_mpp, stride):
    xy = np.array([(x, y) for y in range(-8, 100, stride) for x in range(-8, 140, stride)])
    with open_slide(noisy, detail_mpp=detail_mpp) as slide:
        order = []
        for i, window in slide.windows(xy, 64, mpp=0.5):
            order.append(i)
            if i % 5 == 0:
                assert np.array_equal(window, slide.read(*xy[i], 64, 64, mpp=0.5))
    assert order == list(range(len(xy)))


def test_what_is_tissue_does_not_depend_on_the_detail(noisy):
    with open_slide(noisy) as plain, open_slide(noisy, detail_mpp=20.0) as slide:
        assert np.array_equal(tissue.tissue_mask(plain).mask, tissue.tissue_mask(slide).mask)


def test_a_um_per_px_finer_than_the_scan_is_refused_with_little_detail_too(noisy):
    with open_slide(noisy, detail_mpp=2.5) as slide, pytest.raises(ScaleError):
        slide.read(0, 0, 8, 8, mpp=0.1)
