"""Why a file is no slide: each cause in its own sentence, and what a slide states against itself."""

import errno
import os
import resource
import struct

import numpy as np
import pytest
import tifffile
from made_slides import DATA, NO_DATA, aperio_description, picture, vips_slide

from tlskit.errors import ScaleError, SlideError
from tlskit.slides import open_slide
from tlskit.slides.opening import cause


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "download it again"),
        (b"PK\x03\x04 zip", "zip archive"),
        (b"\x89PNG\r\n", "a PNG picture"),
        (b"II*\0" + struct.pack("<I", 9999) + bytes(40), "byte 9,999 and it ends at byte 48"),
        (b"", "empty .0 bytes."),
        (b"anything else", "OpenSlide cannot open"),
    ],
)
def test_a_file_that_is_no_slide_says_what_it_is(tmp_path, content, said):
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    with pytest.raises(SlideError, match=said):
        open_slide(path)


def test_folders_and_dangling_links_are_named(tmp_path):
    (tmp_path / "scan").mkdir()
    with pytest.raises(SlideError, match="a folder.*MIRAX"):
        open_slide(tmp_path / "scan")
    (tmp_path / "scan" / "1.dcm").touch()
    with pytest.raises(SlideError, match="name one .dcm file"):
        open_slide(tmp_path / "scan")
    (tmp_path / "link.svs").symlink_to(tmp_path / "gone.svs")
    with pytest.raises(SlideError, match="a link to a file that is not there"):
        open_slide(tmp_path / "link.svs")


def test_no_right_to_read_and_no_handle_left_are_other_sentences(tmp_path):
    path = vips_slide(tmp_path / "a.tif", picture(300, 260))
    assert "permission denied" in cause(path, PermissionError(errno.EACCES, "denied"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 200), limits[1]))
        with pytest.raises(OSError, match="Too many"):
            while True:
                held.append(os.open(path, os.O_RDONLY))
        with pytest.raises(SlideError, match="too many open files"):
            open_slide(path)
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    open_slide(path).close()


def test_a_property_whose_name_is_no_utf_8_is_no_obstacle(tmp_path):
    path = tmp_path / "a.svs"
    text = aperio_description(600, 500, mpp=0.5, power=20) + "|Gerat = 5"
    tifffile.imwrite(path, picture(600, 500), tile=(256, 256), compression="lzw", metadata=None, description=text)
    path.write_bytes(path.read_bytes().replace(b"Gerat", b"Ger\xe4t"))
    with open_slide(path) as slide:
        assert slide.mpp0 == 0.5 and slide.read(0, 400, 50, 50, mpp=0.5).shape == (50, 50, 3)


@pytest.mark.parametrize(("image", "said"), [(np.uint8, "no colour"), (np.uint16, "16 bits a channel")])
def test_grey_and_deep_tiffs_are_refused(tmp_path, image, said):
    pixels = picture(600, 500)[..., 0] if image is np.uint8 else picture(600, 500).astype(image) * 16
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, pixels, tile=(256, 256), compression="lzw", resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
    )
    with pytest.raises(SlideError, match=said):
        open_slide(path)


@pytest.mark.parametrize("kind", [1, 0], ids=["reduced", "plain"])
def test_the_scale_is_that_of_level_0_whichever_directory_comes_first(tmp_path, kind):
    """Where the second directory is not marked as a level OpenSlide shows the first, the smallest, alone."""
    path = tmp_path / "a.tif"
    image = picture(1024, 768)
    coding = {"tile": (128, 128), "compression": "lzw", "metadata": None, "photometric": "rgb"}
    with tifffile.TiffWriter(path) as out:
        for factor in (4, 1):
            out.write(
                np.ascontiguousarray(image[::factor, ::factor]), **coding, subfiletype=kind,
                resolution=(2e4 / factor,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip
    if not kind:
        with pytest.raises(SlideError, match="a larger picture of 1024 x 768 px"):
            open_slide(path)
        return
    with open_slide(path) as slide:
        assert slide.size_px0 == (1024, 768) and slide.mpp0 == pytest.approx(0.5)


def test_statements_of_a_scale_that_contradict_one_another_are_told_with_both_figures(tmp_path):
    path = vips_slide(tmp_path / "a.tif", picture(600, 500), mpp=0.25, power=40, xres=2000.0, yres=2000.0)
    with open_slide(path) as slide:
        assert slide.mpp0 == 0.25
        assert ["0.25 um/px" in said and "0.5" in said and "factor of 4" in said for said in slide.doubts] == [True]
    with open_slide(path, mpp_override=1.0) as slide:
        assert slide.mpp0 == 1.0 and len(slide.doubts) == 3


@pytest.mark.parametrize("value", [0.0005, 0.04, 21.0])
def test_an_override_that_no_scan_has_is_refused(tmp_path, value):
    with pytest.raises(ScaleError, match="between 0.05 and 20"):
        open_slide(vips_slide(tmp_path / "a.tif", picture(300, 260)), mpp_override=value)


def test_an_overview_is_called_one_and_not_given_an_override(tmp_path):
    path = vips_slide(tmp_path / "a.tif", picture(600, 500), mpp=29.0, power=None)
    with pytest.raises(ScaleError, match="29 um/px: an overview") as caught:
        open_slide(path)
    assert "mpp_override" not in str(caught.value)


@pytest.mark.skipif(not (DATA / "cases" / "slides").is_dir(), reason=NO_DATA)
def test_the_collected_cases_have_their_right_values():
    cases = DATA / "cases" / "slides"
    with pytest.raises(SlideError, match="tiles of 268435696 x 240 px"):
        open_slide(cases / "glib_abort.tif")
    with pytest.raises(SlideError, match="no colour"):
        open_slide(cases / "b_grey8.tif")
    with open_slide(cases / "x_offset.tif") as slide:
        slide.thumbnail(mpp=slide.mpp0)
        assert [(row["x_px0"], row["y_px0"], row["width_px0"]) for row in slide.lost] == [(0, 256, 256)]
    with open_slide(cases / "k_latin1_key.svs") as slide:
        assert slide.mpp0 == 0.5
    with open_slide(cases / "a_padded_levels.tif") as slide:
        assert slide.level_downsamples == (1, 2, 4, 8, 16) and [slide.level_for(m) for m in (1, 2, 4, 8)] == [
            1,
            2,
            3,
            4,
        ]
