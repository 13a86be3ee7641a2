"""Levels that are not all of level 0 are mended or left out, and said; sizes alone are not believed."""

import logging

import cv2
import numpy as np
import pytest
import tifffile
from made_slides import aperio_description, picture

from tlskit.slides import open_slide
from tlskit.slides.pyramid import one_factor


def made_of(path, levels):
    height, width = levels[0].shape[:2]
    with tifffile.TiffWriter(path) as out:
        for i, level in enumerate(levels):
            out.write(
                level, tile=(256, 256), photometric="rgb", compression="lzw", metadata=None, subfiletype=int(i > 0),
                description=aperio_description(width, height, mpp=0.25, power=40),
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def image():
    image = picture(2200, 1300, glass=243)
    cv2.circle(image, (2050, 1100), 60, (120, 20, 140), -1)
    return image


def shrunk(image, factor):
    height, width = (side // factor for side in image.shape[:2])
    return cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)


def padded(image):
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % 256), (0, -width % 256), (0, 0)), constant_values=255)


def test_levels_padded_to_whole_tiles_are_read_where_they_belong(tmp_path, image):
    path = made_of(tmp_path / "a.svs", [image, padded(shrunk(image, 2)), padded(shrunk(image, 4))])
    with open_slide(path) as slide:
        for mpp, level in ((0.5, 1), (1.0, 2)):
            assert slide.level_for(mpp) == level
            got = slide.read(0, 0, *slide.size_px(mpp), mpp=mpp)[: 1296 * 25 // 100, : 2200 * 25 // 100]
            expected = shrunk(image, 2 * level)[: got.shape[0], : got.shape[1]]
            assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("wrong", ["macro", "turned", "shifted"])
def test_a_level_that_shows_something_else_is_left_out_and_said(tmp_path, image, wrong, caplog):
    half = shrunk(image, 2)
    other = {
        "macro": cv2.resize(image, (700, 650), interpolation=cv2.INTER_AREA),
        "turned": np.ascontiguousarray(half[::-1, ::-1]),
        "shifted": np.roll(half, 24, axis=1),
    }[wrong]
    with caplog.at_level(logging.WARNING), open_slide(made_of(tmp_path / f"{wrong}.svs", [image, other])) as slide:
        assert slide.level_for(0.5) == 0
        assert any("level 1" in said for said in slide.doubts) and "the level is not read" in caplog.text
        got = slide.read(900, 450, 150, 150, mpp=0.5).astype(int)
        assert np.abs(got - half[450:600, 900:1050]).max() <= 1


@pytest.mark.parametrize("how", ["mean", "decimated", "brighter", "blank"])
def test_levels_as_scanners_make_them_are_believed(tmp_path, image, how):
    source = np.full_like(image, 240) if how == "blank" else image
    level = shrunk(source, 2)
    if how == "decimated":
        level = np.ascontiguousarray(source[::2, ::2])
    if how == "brighter":
        level = np.clip(level.astype(int) + 6, 0, 255).astype(np.uint8)
    with open_slide(made_of(tmp_path / f"{how}.svs", [source, level])) as slide:
        assert slide.level_for(0.5) == 1 and not slide.doubts


def test_one_factor_allows_a_pixel_of_rounding_and_no_more():
    assert one_factor((4001, 3003), (2000, 1502)) and one_factor((4001, 3003), (2001, 1501))
    assert not one_factor((4400, 1300), (2304, 768)) and not one_factor((2200, 1300), (700, 650))
