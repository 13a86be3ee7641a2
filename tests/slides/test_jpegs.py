"""The fast path against OpenSlide itself: the same pixels, or none of its own."""

import numpy as np
import openslide
import pytest
import tifffile
from made_slides import CODINGS, DATA, NO_DATA, patch_tile, picture, quartering_slide, vips_slide

from tlskit.errors import SlideGoneError
from tlskit.slides import slide as slides
from tlskit.slides.directories import read_directories
from tlskit.slides.jpegs import JpegLevel, open_jpeg_tiles
from tlskit.slides.scans import Scan


def level_through_openslide(path, level):
    """All pixels of a level, asked for from its origin, where OpenSlide's positions are exact."""
    with openslide.OpenSlide(path) as scan:
        rgba = np.asarray(scan.read_region((0, 0), level, scan.level_dimensions[level]))
    return np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)


def level_through_tiles(level):
    width, height = level.size_px
    w, h = level.tile_px
    rows, columns = -(-height // h), -(-width // w)
    return np.vstack([np.hstack([level.tile(c, r)[0] for c in range(columns)]) for r in range(rows)])


MAKERS = {
    "vips_420": lambda path, image: vips_slide(path, image, quality=80),
    "vips_rgb_444": lambda path, image: vips_slide(path, image, quality=95),
    "vips_generic": lambda path, image: vips_slide(path, image, description=False, xres=4000.0, yres=4000.0),
    "vips_tiles_128x64": lambda path, image: vips_slide(path, image, tile_width=128, tile_height=64),
    **{name: lambda path, image, n=name: quartering_slide(path, image, coding=n) for name in CODINGS},
}


@pytest.mark.parametrize("size", [(1024, 768), (1037, 771), (200, 150)], ids=str)
@pytest.mark.parametrize("maker", MAKERS)
def test_every_pixel_of_every_level_equals_openslide(tmp_path, maker, size):
    path = MAKERS[maker](tmp_path / "a.tif", picture(*size))
    scan = Scan(path)
    tiles = open_jpeg_tiles(scan, read_directories(path))
    for index, (width, height) in enumerate(scan.level_sizes_px):
        level = tiles.level(index)
        assert isinstance(level, JpegLevel), f"level {index} fell back"
        got = level_through_tiles(level)
        np.testing.assert_array_equal(got[:height, :width], level_through_openslide(path, index))
        assert (got[height:] == 255).all() and (got[:, width:] == 255).all()
        assert level.handed_back == 0 and level.decoded == level.counts.size


@pytest.mark.parametrize("maker", MAKERS)
def test_made_slides_have_the_colours_they_were_made_of(tmp_path, maker):
    image = picture(700, 600)
    path = MAKERS[maker](tmp_path / "a.tif", image)
    level = open_jpeg_tiles(Scan(path), read_directories(path)).level(0)
    seen = level_through_tiles(level)[:600, :700].astype(int)
    assert np.abs(seen[:112, :672] - 242).max() <= 2
    assert np.abs(seen - image).mean() < 8


@pytest.mark.skipif(not (DATA / "slides").is_dir(), reason=NO_DATA)
def test_every_pixel_of_the_real_slides_equals_openslide():
    for path in (DATA / "slides" / "CMU-1-Small-Region.svs", DATA / "tonsil" / "tonsil_3.tif"):
        scan = Scan(path)
        for index, (width, height) in enumerate(scan.level_sizes_px):
            level = open_jpeg_tiles(scan, read_directories(path)).level(index)
            np.testing.assert_array_equal(
                level_through_tiles(level)[:height, :width], level_through_openslide(path, index)
            )


def test_other_compressions_and_formats_are_left_to_openslide(tmp_path):
    image = picture(600, 500)
    for compression in ("deflate", "lzw", "jpeg2000"):
        path = tmp_path / f"{compression}.tif"
        tifffile.imwrite(
            path, image, tile=(256, 256), compression=compression, resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
        )
        try:
            slide = slides.open_slide(path)
        except slides.SlideError:
            assert compression == "jpeg2000"  # generic TIFF: OpenSlide itself does not read it
            continue
        assert slide.reader == "openslide"
        np.testing.assert_array_equal(slide.read(0, 0, 600, 500, mpp=slide.mpp0), image)


def without_marker(tiles):
    """Have tiles come without the Adobe marker that libtiff writes into them, as those of scanners do."""
    original = tiles.bytes_at

    def stripped(offset, size):
        data = original(offset, size)
        assert data[2:4] == b"\xff\xee" and data[6:11] == b"Adobe"
        return data[:2] + data[18:] + bytes(16)

    tiles.bytes_at = stripped


def mistake_colours(tiles):
    """Have level 0 decoded as YCbCr: change the transform in the Adobe marker that is put before each tile."""
    without_marker(tiles)
    header = bytearray(tiles._found[0]["header"])
    assert header[6:11] == b"Adobe" and header[17] == 0
    header[17] = 1
    tiles._found[0]["header"] = bytes(header)


def test_a_level_whose_pixels_differ_from_openslides_is_left_to_it(tmp_path):
    path = vips_slide(tmp_path / "a.tif", picture(900, 700), quality=95)
    tiles = open_jpeg_tiles(Scan(path), read_directories(path))
    assert tiles.level(0) is not None
    without_marker(tiles)
    assert tiles.level(0) is not None  # then TIFF's word on the colour space counts
    tiles = open_jpeg_tiles(Scan(path), read_directories(path))
    mistake_colours(tiles)
    assert tiles.level(0) is None  # as if its colour space had been mistaken
    assert open_jpeg_tiles(Scan(path), read_directories(path)).level(1) is not None


def test_a_glassy_level_is_checked_where_it_has_colour(tmp_path):
    image = np.full((1500, 1500, 3), 242, np.uint8)
    image[1100:1200, 600:700] = picture(100, 100)[::-1]
    path = vips_slide(tmp_path / "a.tif", image, quality=95)
    tiles = open_jpeg_tiles(Scan(path), read_directories(path))
    assert tiles.level(0) is not None
    mistake_colours(tiles)
    assert tiles.level(0) is None


@pytest.mark.parametrize("page", [0, 1])
def test_absent_tiles_are_what_openslide_makes_of_them(tmp_path, page):
    path = quartering_slide(tmp_path / "a.tif", picture(2000, 1900))
    for column, row in ((0, 0), (1, 1)):
        patch_tile(path, column, row, None, page=page)
    scan = Scan(path)
    level = open_jpeg_tiles(scan, read_directories(path)).level(page)
    width, height = level.size_px
    np.testing.assert_array_equal(level_through_tiles(level)[:height, :width], level_through_openslide(path, page))
    assert level.handed_back == 2


def zeroed(data):
    return bytes(len(data))


def cut_short(data):
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def stray_bytes(data):
    return data[:-4] + b"\x12\x34\xff\xd9"


def noise(data):
    rng = np.random.default_rng(0)
    out = bytearray(data)
    for at in rng.integers(len(out) // 3, len(out) - 2, 40):
        out[at] ^= 0x5A
    return out


@pytest.mark.parametrize("damage", [zeroed, cut_short, stray_bytes, noise])
@pytest.mark.parametrize("coding", ["ycbcr_420", "rgb_444"])
def test_a_damaged_tile_ends_as_in_openslide(tmp_path, damage, coding):
    path = quartering_slide(tmp_path / "a.tif", picture(1500, 1300), coding=coding)
    patch_tile(path, 3, 2, damage)
    fast, plain = slides.open_slide(path), slides.open_slide(path, fast=False)
    assert (fast.reader, plain.reader) == ("jpeg", "openslide")
    xy = np.array([(x, y) for y in range(0, 1300, 100) for x in range(0, 1500, 100)])
    got = [list(slide.windows(xy, 200, mpp=0.25, on_lost="skip")) for slide in (fast, plain)]
    for (i, a), (j, b) in zip(*got, strict=True):
        assert i == j and (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert fast.lost == plain.lost
    if damage in (zeroed, cut_short):
        assert [(r["x_px0"], r["y_px0"], r["width_px0"], r["height_px0"]) for r in fast.lost] == [(720, 480, 240, 240)]
        lost = {tuple(xy[i]) for i, window in got[0] if window is None}
        assert lost == {(x, y) for x, y in xy.tolist() if 520 < x < 960 and 280 < y < 720}


@pytest.mark.skipif(not (DATA / "slides").is_dir(), reason=NO_DATA)
def test_the_damaged_real_slide_ends_as_in_openslide():
    path = DATA / "slides" / "cmu_dies_mid_read.svs"
    xy = np.array([(x, y) for y in range(0, 2800, 256) for x in range(0, 2100, 256)])
    lost = []
    for fast in (True, False):
        with slides.open_slide(path, fast=fast) as slide:
            done = [i for i, window in slide.windows(xy, 512, mpp=0.5, on_lost="skip") if window is None]
            lost.append((done, slide.lost))
    assert lost[0] == lost[1]
    assert [(r["x_px0"], r["y_px0"]) for r in lost[0][1]] == [(0, 1680), (240, 1680)]
    assert 0 < len(lost[0][0]) < len(xy) / 4


def test_a_slide_cut_short_after_opening_counts_as_gone_and_does_not_crash(tmp_path):
    """Nothing of it can be trusted any more: the slide fails as a whole, and is taken up again when it is back."""
    path = vips_slide(tmp_path / "a.tif", picture(1500, 1300))
    slide = slides.open_slide(path)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size // 3)
    with pytest.raises(SlideGoneError, match="a.tif: this slide was open and can no longer be opened"):
        list(slide.windows([(x, y) for y in range(0, 1200, 100) for x in range(0, 1400, 100)], 200, mpp=0.25))


@pytest.mark.parametrize(("coding", "transform"), [("rgb_444", 1), ("ycbcr_420", 0)])
def test_a_tile_that_names_another_colour_space_than_its_directory_is_openslides(tmp_path, coding, transform):
    """OpenSlide obeys the directory; libjpeg would obey the tile's own Adobe or JFIF marker."""
    path = quartering_slide(tmp_path / "a.tif", picture(2400, 2000), coding=coding)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])

    def change(data):
        kept = data[2:]
        while kept[0] == 0xFF and 0xE0 <= kept[1] <= 0xEF:
            kept = kept[2 + int.from_bytes(kept[2:4], "big") :]
        return (data[:2] + adobe + kept + bytes(len(data)))[: len(data)]

    for column in range(4, 7):
        patch_tile(path, column, 5, change)
    scan = Scan(path)
    level = open_jpeg_tiles(scan, read_directories(path)).level(0)
    width, height = level.size_px
    np.testing.assert_array_equal(level_through_tiles(level)[:height, :width], level_through_openslide(path, 0))
    assert level.handed_back == 3
