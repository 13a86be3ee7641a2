"""The scale of a slide: where it comes from, and what is not believed."""

import numpy as np
import pytest
import tifffile
from made_slides import DATA, NO_DATA, picture, quartering_slide, vips_slide

from tlskit.errors import ParameterError, ScaleError, SlideError
from tlskit.slides.directories import read_directories
from tlskit.slides.scale import find_mpp0
from tlskit.slides.scans import Scan


def mpp0_of(path, mpp_override=None, resolution_by="mpp"):
    scan = Scan(path)
    directories = read_directories(path)
    return find_mpp0(scan, mpp_override=mpp_override, resolution_by=resolution_by, directories=directories)[:2]


@pytest.fixture(scope="module")
def image():
    return picture(300, 260)


def generic(path, image, xres, yres):
    """A generic tiled TIFF with pixels per millimetre in its tags."""
    return vips_slide(path, image, description=False, xres=xres, yres=yres)


def test_um_per_px_comes_from_the_slide(tmp_path, image):
    assert mpp0_of(vips_slide(tmp_path / "a.tif", image, mpp=0.2529)) == (0.2529, "openslide")


def test_um_per_px_comes_from_tiff_tags_and_is_said_to(tmp_path, image):
    mpp0, source = mpp0_of(generic(tmp_path / "a.tif", image, 1000 / 0.5, 1000 / 0.5))
    assert source == "tiff" and mpp0 == pytest.approx(0.5, rel=1e-6)


def test_an_override_wins_over_everything_and_nan_means_none(tmp_path, image):
    path = vips_slide(tmp_path / "a.tif", image, mpp=0.25)
    assert mpp0_of(path, mpp_override=0.4) == (0.4, "manifest")
    assert mpp0_of(path, mpp_override=0.4, resolution_by="objective") == (0.4, "manifest")
    assert mpp0_of(path, mpp_override=float("nan")) == (0.25, "openslide")
    assert mpp0_of(generic(tmp_path / "b.tif", image, 2.8346, 2.8346), mpp_override=0.4) == (0.4, "manifest")


def test_objective_power_counts_only_when_asked_for(tmp_path, image):
    path = quartering_slide(tmp_path / "a.tif", image, mpp=None, power=20, factors=(1,))
    with pytest.raises(ScaleError, match="objective power of 20.*mpp_override"):
        mpp0_of(path)
    assert mpp0_of(path, resolution_by="objective") == (0.5, "objective")
    path = vips_slide(tmp_path / "b.tif", image, mpp=0.2529, power=40)
    assert mpp0_of(path, resolution_by="objective") == (0.25, "objective")
    with pytest.raises(ScaleError, match="no objective power.*mpp_override"):
        mpp0_of(generic(tmp_path / "c.tif", image, 2000, 2000), resolution_by="objective")


def test_without_any_scale_the_column_to_fill_is_named(tmp_path, image):
    with pytest.raises(ScaleError, match="no um/px.*mpp_override"):
        mpp0_of(quartering_slide(tmp_path / "a.tif", image, mpp=None, power=None, factors=(1,)))


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_print_resolutions_are_not_believed(tmp_path, image, dpi):
    path = generic(tmp_path / "a.tif", image, dpi / 25.4, dpi / 25.4)
    with pytest.raises(ScaleError, match=rf"{dpi} dots per inch.*mpp_override"):
        mpp0_of(path)


def test_x_and_y_may_differ_by_five_per_cent_and_no_more(tmp_path, image):
    mpp0, _ = mpp0_of(generic(tmp_path / "a.tif", image, 2000, 2000 / 1.04))
    assert mpp0 == pytest.approx(0.51)
    with pytest.raises(ScaleError, match="between x .* and y"):
        mpp0_of(generic(tmp_path / "b.tif", image, 2000, 2000 / 1.06))


@pytest.mark.parametrize("value", [0.0, -0.25, float("inf")])
def test_impossible_overrides_are_refused(tmp_path, image, value):
    with pytest.raises(ScaleError, match="mpp_override"):
        mpp0_of(vips_slide(tmp_path / "a.tif", image), mpp_override=value)


def test_resolution_by_anything_else_is_refused(tmp_path, image):
    with pytest.raises(ParameterError, match="magnification"):
        mpp0_of(vips_slide(tmp_path / "a.tif", image), resolution_by="magnification")


def test_downsamples_are_the_whole_numbers_behind_rounded_sizes(tmp_path):
    scan = Scan(vips_slide(tmp_path / "a.tif", picture(2531, 1999)))
    assert scan.level_downsamples == (1, 2, 4, 8, 16)
    assert scan.level_sizes_px[1] == (1265, 999)


def test_files_that_are_no_slides_are_refused_by_name(tmp_path, image):
    with pytest.raises(SlideError, match="no such slide file"):
        Scan(tmp_path / "absent.svs")
    (tmp_path / "empty.svs").touch()
    with pytest.raises(SlideError, match="empty.svs: the file is empty"):
        Scan(tmp_path / "empty.svs")
    path = vips_slide(tmp_path / "cut.tif", image)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlideError, match="cut.tif"):
        Scan(path).read_level(0, 0, 0, 300, 260)


def test_transparent_pixels_are_white(tmp_path, image):
    scan = Scan(vips_slide(tmp_path / "a.tif", image))
    got = scan.read_level(0, 250, 200, 100, 100)
    assert (got[60:] == 255).all() and (got[:, 50:] == 255).all() and got[:60, :50].min() < 200


@pytest.mark.skipif(not (DATA / "slides").is_dir(), reason=NO_DATA)
def test_real_slides_have_the_scale_they_state():
    assert mpp0_of(DATA / "slides" / "CMU-1-Small-Region.svs") == (0.499, "openslide")
    assert mpp0_of(DATA / "slides" / "cmu_no_mpp.svs", resolution_by="objective") == (0.5, "objective")
    for name in ("cmu_no_mpp.svs", "cmu_no_mpp_no_objective.svs"):
        with pytest.raises(ScaleError, match="mpp_override"):
            mpp0_of(DATA / "slides" / name)
    for name in ("cmu_truncated.svs", "empty.svs"):
        with pytest.raises(SlideError, match=name):
            Scan(DATA / "slides" / name)


def test_tags_of_tifffile_in_inches_are_read(tmp_path, image):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, tile=(128, 128), resolution=(25400 / 0.25,) * 2, resolutionunit="INCH")
    mpp0, source = mpp0_of(path)
    assert source == "tiff" and mpp0 == pytest.approx(0.25)
    assert np.array_equal(Scan(path).read_level(0, 0, 0, 300, 260), image)
