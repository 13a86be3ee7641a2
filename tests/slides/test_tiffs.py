"""Slides written by tlskit are read back by OpenSlide, an independent reader, as an Aperio slide."""

import hashlib

import numpy as np
import openslide
import pytest
import pyvips
import tifffile

from tlskit import files
from tlskit.errors import ParameterError
from tlskit.slides import tiffs


@pytest.fixture
def picture():
    """(700, 900, 3): glass of (242, 242, 242), a smooth red-blue ramp in the left third."""
    image = np.full((700, 900, 3), 242, np.uint8)
    image[:, :300, 0] = np.linspace(60, 220, 700).astype(np.uint8)[:, None]
    image[:, :300, 1] = 80
    image[:, :300, 2] = np.linspace(220, 60, 700).astype(np.uint8)[:, None]
    return image


@pytest.mark.parametrize(("mpp", "power"), [(0.2529, 40), (0.499, 20)])
def test_openslide_reports_an_aperio_slide_with_its_scale(tmp_path, picture, mpp, power):
    path = tiffs.write_slide(tmp_path / "a.tif", picture, mpp=mpp, objective_power=power)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == mpp
        assert float(slide.properties["openslide.mpp-y"]) == mpp
        assert float(slide.properties["openslide.objective-power"]) == power
        assert slide.dimensions == (900, 700)
        assert [round(d) for d in slide.level_downsamples] == [1, 2, 4]
        assert slide.properties["openslide.level[0].tile-width"] == "256"


def test_colours_come_back_as_written_at_every_level(tmp_path, picture):
    path = tiffs.write_slide(tmp_path / "a.tif", picture, mpp=0.5, objective_power=20)
    with openslide.OpenSlide(path) as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            seen = np.asarray(slide.read_region((0, 0), level, (width, height)))[..., :3].astype(int)
            glass = seen[:-16, int(width * 0.4) : -16]  # the last blocks are compressed together with padding
            assert glass.size > 0
            assert np.abs(glass - 242).max() <= 1
            assert np.abs(seen[:, int(width * 0.4) :] - 242).max() <= 20
        seen = np.asarray(slide.read_region((0, 0), 0, (900, 700)))[..., :3].astype(int)
    assert np.abs(seen[:, :290] - picture[:, :290].astype(int)).mean() < 2


def test_resolution_tags_say_the_same_um_per_px(tmp_path, picture):
    path = tiffs.write_slide(tmp_path / "a.tif", picture, mpp=0.2529, objective_power=40)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        pixels, units = page.tags["XResolution"].value
        assert page.tags["ResolutionUnit"].value == 3  # centimetre
        assert 1e4 / (pixels / units) == pytest.approx(0.2529, rel=1e-5)
        assert page.tags["ImageDescription"].value.startswith("Aperio Image Library")
        assert page.is_tiled and page.compression.name == "JPEG"


def test_same_pixels_give_the_same_bytes_from_array_and_from_pyvips(tmp_path, picture):
    strided = np.repeat(picture, 2, axis=1)[:, ::2]
    image = pyvips.Image.new_from_array(picture)
    digests = set()
    for i, source in enumerate([picture, strided, image, picture]):
        path = tiffs.write_slide(tmp_path / f"{i}.tif", source, mpp=0.5, objective_power=20)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_failed_write_leaves_neither_the_slide_nor_a_temporary_file(tmp_path, picture, monkeypatch):
    def fails(source, target):
        raise OSError("disk is gone")

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(OSError, match="disk is gone"):
        tiffs.write_slide(tmp_path / "a.tif", picture, mpp=0.5, objective_power=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": np.zeros((5, 5), np.uint8)}, "RGB image"),
        ({"image": np.zeros((5, 5, 3), np.float32)}, "float32"),
        ({"mpp": 0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"objective_power": -20}, "objective_power"),
        ({"quality": 0}, "quality"),
        ({"tile_px": 250}, "multiple of 16"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tmp_path, picture, change, reason):
    arguments = {"image": picture, "mpp": 0.5, "objective_power": 20, "quality": 85, "tile_px": 256} | change
    with pytest.raises(ParameterError, match=reason):
        tiffs.write_slide(tmp_path / "a.tif", arguments.pop("image"), **arguments)
    assert not (tmp_path / "a.tif").exists()
