"""Colours corrected by a slide's ICC profile: the same for tissue, tiles and network, on every way of reading."""

import io
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pyvips
import torch
from made_slides import picture, vips_slide
from PIL import Image, ImageCms
from torch import nn

from tlskit.cohort import from_slides
from tlskit.errors import CheckpointError, SlideError
from tlskit.maps import inference, probmaps
from tlskit.networks import models
from tlskit.slides import tissue
from tlskit.slides.slide import open_slide
from tlskit.tiles import datasets

MPP0 = 0.5
ENCODER = "tu-mobilenetv3_small_050"
P3 = pyvips.Image.profile_load("p3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def image():
    return picture(700, 560, seed=3)


@pytest.fixture(scope="module")
def slide_path(folder, image):
    return write_with_profile(folder / "p3.tif", image, P3)


def write_with_profile(path, image, profile):
    return vips_slide(path, image, mpp=MPP0, power=20, quality=95, icc=profile)


def corrected(pixels, profile=P3):
    """What Pillow makes of pixels whose profile is known."""
    return np.asarray(
        ImageCms.profileToProfile(
            Image.fromarray(pixels), ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        )
    )


@pytest.mark.parametrize("fast", [True, False])
def test_pixels_are_those_of_the_profile_on_both_ways_of_reading(slide_path, fast):
    with open_slide(slide_path, fast=fast) as raw, open_slide(slide_path, fast=fast, apply_icc=True) as slide:
        assert slide.reader == ("jpeg" if fast else "openslide") and "P3" in slide.icc_profile and not raw.icc_profile
        plain = raw.read(-20, 100, 300, 300, mpp=MPP0)
        found = slide.read(-20, 100, 300, 300, mpp=MPP0)
        assert np.array_equal(found[:, 20:], corrected(plain[:, 20:])) and (found != plain).any(axis=2).mean() > 0.5
        assert (found[:, :20] == 255).all()  # beyond the slide nothing was scanned
        again = pickle.loads(pickle.dumps(slide))
        for mpp in (0.5, 1.3, 4.0):
            one = slide.read(10, 10, 60, 60, mpp=mpp)
            ((_, window),) = slide.windows(np.array([[10, 10]]), 60, mpp=mpp)
            assert np.array_equal(one, window) and np.array_equal(one, again.read(10, 10, 60, 60, mpp=mpp))
        again.close()


def test_a_slide_without_a_profile_is_read_as_scanned(folder, image):
    path = vips_slide(folder / "bare.tif", image, mpp=MPP0, power=20)
    with open_slide(path) as raw, open_slide(path, apply_icc=True) as slide:
        assert slide.apply_icc and slide.icc_profile == ""
        assert np.array_equal(slide.read(0, 0, 200, 200, mpp=1.0), raw.read(0, 0, 200, 200, mpp=1.0))


def test_a_profile_that_cannot_be_used_is_an_error_only_when_it_is_to_be_used(folder, image):
    path = write_with_profile(folder / "broken.tif", image, P3[:200] + bytes(len(P3) - 200))
    open_slide(path).close()
    with pytest.raises(SlideError, match="broken.tif: its ICC profile cannot be used"):
        open_slide(path, apply_icc=True)


class Red(nn.Module):
    """The probability is the red channel."""

    def forward(self, x):
        return torch.logit(x[:, :1].clamp(1e-6, 1 - 1e-6))


def checkpoint(apply_icc):
    return SimpleNamespace(
        model=Red(), magnification=10, mpp=1.0, tile_px=64, overlap=0.5, normalisation="divide_255", sha256="0",
        resolution_by="mpp", target_class="TLS", apply_icc=apply_icc,
    )  # fmt: skip


def test_tissue_tiles_and_network_see_the_same_pixels(slide_path, tmp_path):
    manifest = from_slides([slide_path])
    made = checkpoint(True)
    options = {"engine": "torch", "precision": "exact", "progress": False, "tissue": False}
    with open_slide(slide_path, apply_icc=True) as slide:
        red = slide.read(0, 0, *slide.size_px(1.0), mpp=1.0)[..., 0]
        expected = tissue.tissue_mask(slide)
    table = inference.predict_cohort(made, manifest, tmp_path, **options)
    with probmaps.open_map(table["map_path"][0]) as found:
        assert np.array_equal(found.read(0, 0, *found.size_px), red)
        assert found.metadata["parameters"]["apply_icc"] is True
    tiles = manifest.assign(tile_id="t", x_px0=128.0, y_px0=256.0, size_px0=128.0)
    reading = {"magnification": 10, "tile_px": 64, "target_class": "TLS", "apply_icc": True}
    tile, _ = datasets.TileDataset(tiles, manifest, **reading).read(0)
    assert np.array_equal(tile[0].numpy(), red[128:192, 64:128])
    with open_slide(slide_path) as raw:
        assert not np.array_equal(tissue.tissue_mask(raw).mask, expected.mask)
        with pytest.raises(CheckpointError, match="trained with `apply_icc: true`, but p3.tif was opened"):
            inference.predict_slide(made, raw, tmp_path / "m.tif", **options)
    # A map of other colours is not kept.
    table = inference.predict_cohort(checkpoint(False), manifest, tmp_path, **options)
    assert list(table["kept"]) == [False]


def test_a_checkpoint_remembers_and_an_older_one_was_trained_without(tmp_path):
    made = models.Checkpoint(
        model=models.build_model(encoder=ENCODER, encoder_weights="none"),
        encoder=ENCODER, magnification=4, mpp=2.5, tile_px=64, overlap=0.5,
        normalisation="divide_255", threshold=0.5, target_class="TLS", resolution_by="mpp", split_hash="",
        history=pd.DataFrame({"epoch": [1]}), ignore_class=["Fold"], apply_icc=True,
    )  # fmt: skip
    models.save_checkpoint(tmp_path / "c.pt", made)
    found = models.load_checkpoint(tmp_path / "c.pt", device="cpu")
    assert found.apply_icc is True and found.ignore_class == ["Fold"]
    payload = torch.load(tmp_path / "c.pt", weights_only=True)
    del payload["apply_icc"], payload["ignore_class"]
    torch.save(payload, tmp_path / "old.pt")
    found = models.load_checkpoint(tmp_path / "old.pt", device="cpu")
    assert found.apply_icc is False and found.ignore_class == ""
    assert math.isclose(found.mpp, 2.5)
