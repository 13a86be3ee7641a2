"""Tissue found on pictures whose tissue is known, and asked for at other resolutions."""

import cv2
import numpy as np
import pytest
from made_slides import vips_slide
from made_tissue import INKS, STAINS, TINTS, dice, pen, section, small, with_haze
from made_tissue import slide_of as stained_slide

from tlskit.errors import SlideError
from tlskit.slides import glass, tissue
from tlskit.slides.slide import open_slide
from tlskit.slides.tissue import Tissue, tissue_mask

MPP0 = 2.0
EOSIN, HAEMATOXYLIN, PALE = (226, 150, 190), (118, 80, 150), (238, 214, 228)


def field(width=1600, height=1200, glass=(243, 242, 244), noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return np.float32(glass) + rng.normal(0, noise, (height, width, 3)).astype(np.float32)


def textured(shape, seed=1):
    """H&E-like: pale to strong eosin with nuclei."""
    rng = np.random.default_rng(seed)
    blend = cv2.GaussianBlur(rng.random(shape, dtype=np.float32), (0, 0), 12)
    blend = np.clip((blend - blend.mean()) / blend.std() * 0.25 + 0.5, 0, 1)[..., None]
    picture = blend * np.float32(EOSIN) + (1 - blend) * np.float32(PALE)
    nuclei = cv2.GaussianBlur(rng.random(shape, dtype=np.float32), (0, 0), 1.5) > 0.56
    picture[nuclei] = HAEMATOXYLIN
    return picture + rng.normal(0, 3, (*shape, 3))


def disc(shape, x, y, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def slide_of(tmp_path, picture, **options):
    image = np.clip(picture, 0, 255).astype(np.uint8)
    return open_slide(vips_slide(tmp_path / "a.tif", image, mpp=MPP0, power=5, **options))


def overlap(found, known):
    """Dice of the mask and what is known at level 0."""
    known = cv2.resize(known.astype(np.uint8), found.shape[::-1], interpolation=cv2.INTER_AREA) > 0
    return 2 * (found & known).sum() / (found.sum() + known.sum())


@pytest.mark.parametrize("glass", [(243, 242, 244), (255, 255, 255), (232, 236, 240), (222, 220, 224)], ids=str)
def test_a_piece_of_tissue_is_found_on_any_glass(tmp_path, glass):
    picture = field(glass=glass)
    known = disc(picture.shape[:2], 800, 600, 400)
    picture[known] = (textured(picture.shape[:2]) * (np.float32(glass) / 245))[known]
    with slide_of(tmp_path, picture) as slide:
        found = tissue_mask(slide)
    assert found.mpp == 8.0 and found.mask.shape == (300, 400)
    assert overlap(found.mask, known) > 0.97
    assert found.area_mm2 == pytest.approx(np.pi * 0.8**2, rel=0.04)


@pytest.mark.parametrize("noise", [0.0, 2.0, 6.0])
def test_an_empty_slide_has_no_tissue(tmp_path, noise):
    with slide_of(tmp_path, field(noise=noise)) as slide:
        assert tissue_mask(slide).area_mm2 == 0


def test_a_field_full_of_tissue_is_tissue(tmp_path):
    with slide_of(tmp_path, textured((1200, 1600))) as slide:
        assert tissue_mask(slide).mask.mean() > 0.99


def test_pale_stroma_beside_dark_nuclei_is_tissue(tmp_path):
    picture = field()
    grain = cv2.GaussianBlur(np.random.default_rng(2).normal(0, 60, (800, 600)), (0, 0), 4)[..., None]
    picture[200:1000, 200:800] = PALE + grain * (0.3, 1.0, 0.6)
    picture[200:1000, 800:1400] = HAEMATOXYLIN
    known = np.zeros(picture.shape[:2], bool)
    known[200:1000, 200:1400] = True
    with slide_of(tmp_path, picture) as slide:
        assert overlap(tissue_mask(slide).mask, known) > 0.97


@pytest.mark.parametrize("ink", [(30, 150, 70), (40, 70, 190), (22, 22, 26), (20, 110, 120)], ids=str)
def test_pen_marks_are_no_tissue_on_glass_or_across_tissue(tmp_path, ink):
    picture = field()
    known = disc(picture.shape[:2], 800, 600, 380)
    picture[known] = textured(picture.shape[:2])[known]
    pen = np.zeros(picture.shape[:2], np.uint8)
    cv2.line(pen, (100, 100), (1500, 140), 1, 50)
    cv2.line(pen, (300, 700), (1300, 640), 1, 50)
    picture[pen > 0] = ink
    with slide_of(tmp_path, picture) as slide:
        found = tissue_mask(slide).mask
    pen_small = cv2.resize(pen, found.shape[::-1], interpolation=cv2.INTER_AREA) > 0
    assert not found[pen_small].any()
    margin = cv2.dilate(pen, np.ones((161, 161), np.uint8)) > 0
    assert overlap(found & (cv2.resize(margin.astype(np.uint8), found.shape[::-1]) == 0), known & ~margin) > 0.97


@pytest.mark.parametrize("stain", STAINS)
def test_tissue_of_any_stain_is_found_on_glass_of_any_tint(tmp_path, stain):
    """No cliff: fixed cuts called glass of (245, 240, 222) tissue, and blue counterstains ink."""
    picture, known = section(stain)
    for tint in TINTS:
        with open_slide(stained_slide(tmp_path / f"{tint}.tif", picture, tint)) as slide:
            found = tissue_mask(slide)
        assert dice(found.mask, small(known)) > 0.98, tint
        assert found.ink_mm2 == 0


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("stain", ["h&e", "blue counterstain", "violet"])
def test_ink_of_any_colour_is_no_tissue_and_takes_none_with_it(tmp_path, stain, ink):
    picture, known = section(stain)
    picture, drawn = pen(picture, ink)
    with open_slide(stained_slide(tmp_path / "a.tif", picture, "yellowish")) as slide:
        found = tissue_mask(slide)
    beside = cv2.dilate(drawn.astype(np.uint8), np.ones((161, 161), np.uint8)) > 0
    assert not found.mask[small(drawn)].any() and found.ink_mm2 > 0.5
    assert dice(found.mask & ~small(beside), small(known & ~beside)) > 0.98


@pytest.mark.parametrize("level", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("stain", ["h&e", "pale", "bluish"])
def test_haze_beside_the_section_is_no_tissue(tmp_path, stain, level):
    picture, known = section(stain)
    with open_slide(stained_slide(tmp_path / "a.tif", with_haze(picture, known, level))) as slide:
        found = tissue_mask(slide).mask
    assert found.sum() / small(known).sum() == pytest.approx(1, abs=0.03)


def test_a_stain_that_is_not_h_and_e_is_said(tmp_path):
    said = {}
    for stain in STAINS:
        with open_slide(stained_slide(tmp_path / "a.tif", section(stain)[0])) as slide:
            said[stain] = tissue_mask(slide).stain
    assert "brown" in said["dab"] and "without eosin" in said["blue counterstain"]
    assert said["h&e"] == said["strong"] == said["pale"] == ""


def test_three_grey_planes_are_refused_in_a_sentence(tmp_path):
    picture = section("h&e")[0].mean(axis=2, keepdims=True).repeat(3, axis=2)
    with slide_of(tmp_path, picture) as slide, pytest.raises(SlideError, match="nothing on this slide has colour"):
        tissue_mask(slide)


def test_specks_are_dropped_and_small_holes_filled(tmp_path):
    picture = field()
    known = disc(picture.shape[:2], 800, 600, 400)
    picture[known] = EOSIN
    picture[disc(picture.shape[:2], 800, 500, 25)] = 243  # 7,900 um2, below the smallest hole that is kept
    picture[disc(picture.shape[:2], 800, 750, 90)] = 243  # 102,000 um2
    picture[disc(picture.shape[:2], 100, 100, 25)] = EOSIN
    with slide_of(tmp_path, picture) as slide:
        found = tissue_mask(slide).mask
    assert found[500 // 4, 800 // 4] and not found[750 // 4, 800 // 4] and not found[100 // 4, 100 // 4]


def test_a_dark_background_is_refused_in_a_sentence(tmp_path):
    picture = field(glass=(6, 6, 8))
    picture[disc(picture.shape[:2], 800, 600, 300)] = (60, 20, 180)
    with slide_of(tmp_path, picture) as slide, pytest.raises(SlideError, match="dark, as in fluorescence"):
        tissue_mask(slide)


def test_fluorescence_that_fills_the_slide_is_refused_and_tissue_that_does_so_is_not(tmp_path):
    picture = field(glass=(6, 6, 8))
    picture[disc(picture.shape[:2], 800, 600, 750)] = (60, 20, 180)  # most of it is bright, in one channel
    with slide_of(tmp_path, picture) as slide, pytest.raises(SlideError, match="dark, as in fluorescence"):
        tissue_mask(slide)
    picture[:] = (110, 70, 140)  # tumour from edge to edge
    with slide_of(tmp_path, picture) as slide:
        tissue_mask(slide)


def test_a_coarse_scan_gives_a_mask_at_its_own_um_per_px(tmp_path):
    picture = field(400, 300)
    picture[100:200, 100:300] = EOSIN
    path = vips_slide(tmp_path / "a.tif", picture.clip(0, 255).astype(np.uint8), mpp=12.0, power=1)
    with open_slide(path) as slide:
        found = tissue_mask(slide)
    assert found.mpp == 12.0 and found.mask.shape == (300, 400)
    assert found.area_mm2 == pytest.approx(100 * 200 * 0.012**2, rel=0.1)


@pytest.fixture
def known():
    rng = np.random.default_rng(0)
    return Tissue(cv2.GaussianBlur(rng.random((90, 120)), (0, 0), 4) > 0.5, 8.0, 0.2529)


def test_fractions_of_boxes_are_exact(known):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-300, 4000, 50), rng.uniform(-300, 3000, 50)
    size = rng.uniform(5, 900, 50)
    got = known.fractions(x, y, size)
    scale = known.mpp0 / known.mpp
    for i in range(50):
        x0, y0, side = x[i] * scale, y[i] * scale, size[i] * scale
        columns = np.clip(np.minimum(x0 + side, np.arange(121)[1:]) - np.maximum(x0, np.arange(120)), 0, None)
        rows = np.clip(np.minimum(y0 + side, np.arange(91)[1:]) - np.maximum(y0, np.arange(90)), 0, None)
        assert got[i] == pytest.approx(rows @ known.mask @ columns / side**2, abs=1e-9)


def test_one_size_serves_many_boxes_and_no_boxes_are_fine(known):
    assert known.fractions([0, 100], [0, 100], 400.0).shape == (2,)
    assert known.fractions([], [], 400.0).shape == (0,)
    assert Tissue(np.ones((10, 10), bool), 8.0, 0.5).fractions(16, 16, 64) == 1.0


@pytest.mark.parametrize("mpp", [0.5, 2.5, 8.0, 10.0])
def test_lookup_takes_the_mask_pixel_under_each_centre(known, mpp):
    got = known.at(-3, -2, 60, 50, mpp=mpp)
    for row in range(50):
        for column in range(60):
            i, j = (int(np.floor((v + 0.5) * mpp / 8.0)) for v in (row - 2, column - 3))
            inside = 0 <= i < 90 and 0 <= j < 120
            assert got[row, column] == (inside and known.mask[i, j])


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A slide full of tissue of which one tile cannot be read, and how often that was tried."""
    picture = field()
    picture[:] = EOSIN
    with slide_of(tmp_path, picture, pyramid=False) as slide:
        from tlskit.slides.bands import Lost

        level, tried = slide._level(0), []
        original = level.tile

        def tile(column, row, buffer=None):
            pixels, lost = original(column, row, buffer)
            if (column, row) == (2, 2):
                tried.append(1)
                pixels[:] = 255
                lost = [Lost(512, 512, 256, 256, "broken")]
            return pixels, lost

        monkeypatch.setattr(level, "tile", tile)
        yield slide, tried


def test_no_tissue_is_guessed_where_the_slide_could_not_be_read(broken):
    slide, _ = broken
    found = tissue.tissue_mask(slide)
    assert len(slide.lost) == 1
    assert not found.mask[140:180, 140:180].any() and found.mask[10:100, 10:100].all()


def test_one_search_serves_all_who_ask_for_a_slide_that_was_read_whole(tmp_path, monkeypatch, broken):
    slide, tried = broken
    with tissue.searched_once():
        tissue.tissue_mask(slide)
        once = len(tried)
        tissue.tissue_mask(slide)
    assert len(tried) == 2 * once > 0, "what could not be read is tried again"
    searches, search = [], tissue._search
    monkeypatch.setattr(tissue, "_search", lambda slide, *how: searches.append(how) or search(slide, *how))
    (tmp_path / "whole").mkdir()
    with slide_of(tmp_path / "whole", field()) as slide:
        with tissue.searched_once():
            first = tissue.tissue_mask(slide)
            with tissue.searched_once():
                assert tissue.tissue_mask(slide) is first
            assert tissue.tissue_mask(slide) is first and len(searches) == 1
            assert tissue.tissue_mask(slide, mpp=16.0).mpp == 16.0, "asked for in another way, searched in another way"
        again = tissue.tissue_mask(slide)
    assert len(searches) == 3 and np.array_equal(again.mask, first.mask)


def test_the_brightest_and_the_darkest_channel_are_numpys():
    for dtype in (np.uint8, np.float32):
        image = (np.random.default_rng(0).random((31, 17, 3)) * 255).astype(dtype)
        for found, expected in ((glass.brightest(image), image.max(axis=2)), (glass.darkest(image), image.min(axis=2))):
            assert found.dtype == dtype and np.array_equal(found, expected)
