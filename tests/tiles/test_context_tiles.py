"""Tiles with their contexts, from slides and from PNG files; and the controls that show another context."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_cohort import outlined_slide, tile_rows
from made_slides import patch_tile
from shapely.geometry import box

from tlskit import tiles as wing
from tlskit.errors import ParameterError
from tlskit.outlines import IGNORED
from tlskit.slides import jpegs, open_slide
from tlskit.tiles import TileDataset, context_origin, tile_cohort
from tlskit.tiles.datasets import augment_tile

MPP0, TILE_PX, CONTEXT_PX, RATIO, WIDTH, HEIGHT = 0.5, 64, 96, 4, 1400, 1000
ASKED = {"magnification": 10, "tile_px": TILE_PX, "target_class": "TLS"}
CONTEXT = {"context_ratio": RATIO, "context_px": CONTEXT_PX}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two slides with outlines on smooth colours, each other's opposite in blue; tiles at the edges and within."""
    folder, rows, tiles = tmp_path_factory.mktemp("context"), [], []
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for number, targets in enumerate(([box(100, 60, 500, 400), box(900, 700, 1000, 800)], [box(300, 90, 680, 500)])):
        image = np.stack([20 + x // 8, 20 + y // 6, np.full_like(x, 60 + 100 * number)], 2).astype(np.uint8)
        image[:, 1216:] = 240  # glass, without which no tissue is looked for
        rows.append(outlined_slide(folder, f"s{number}", image, targets, mpp=MPP0, quality=95, tile_px=128))
        tiles += tile_rows(f"s{number}", [0, 35, 300, 636], [0, 202, 436], TILE_PX, d=2)
    return folder, pd.DataFrame(rows), pd.DataFrame(tiles)


def test_a_context_is_the_coarser_slide_round_the_same_centre_and_white_beyond_it(made):
    _, manifest, tiles = made
    dataset = TileDataset(tiles, manifest, **ASKED, **CONTEXT, context_masks=True)
    images, masks, _, contexts, wide = dataset.batch(range(len(tiles)))
    assert (contexts.shape[1:], wide.shape[1:]) == ((3, 96, 96), (1, 96, 96))
    alone = TileDataset(tiles, manifest, **ASKED).batch(range(len(tiles)))
    assert len(alone) == 3 and torch.equal(alone[0], images) and torch.equal(alone[1], masks)
    slide, seen_beyond = open_slide(manifest["slide_path"][0]), 0
    for number, row in enumerate(tiles[tiles["slide_id"] == "s0"].itertuples()):
        x, y = context_origin(int(row.x_px0 / 2), int(row.y_px0 / 2), TILE_PX, CONTEXT_PX, RATIO)
        expected = slide.read(x, y, CONTEXT_PX, CONTEXT_PX, mpp=RATIO * 1.0)
        assert np.array_equal((contexts[number] * 255).round().permute(1, 2, 0).numpy(), expected)
        px0 = 2 * RATIO * (np.arange(CONTEXT_PX) + 0.5)
        beyond = ((px0 + 2 * RATIO * y < 0) | (px0 + 2 * RATIO * y > HEIGHT))[:, None] | (
            (px0 + 2 * RATIO * x < 0) | (px0 + 2 * RATIO * x > WIDTH)
        )
        assert (expected[beyond] == 255).all() and (expected[~beyond].min(-1) < 250).all()
        seen_beyond += beyond.any()
    assert 6 < seen_beyond < 12
    # What lies under the tile is the tile, seen coarser.
    own = slice((CONTEXT_PX - TILE_PX // RATIO) // 2, (CONTEXT_PX + TILE_PX // RATIO) // 2)
    coarse = torch.nn.functional.avg_pool2d(images, RATIO)
    whole = [n for n, row in enumerate(tiles.itertuples()) if (row.x_px0 / 2) % RATIO == (row.y_px0 / 2) % RATIO == 0]
    assert len(whole) == 12
    assert (contexts[whole][..., own, own] - coarse[whole]).abs().max() < 6 / 255
    assert (wide[whole][..., own, own] - torch.nn.functional.avg_pool2d(masks, RATIO)[whole]).abs().mean() < 0.02


def test_png_files_hold_the_same_contexts(made, tmp_path):
    _, manifest, _ = made
    asked = {"magnification": 10, "tile_px": TILE_PX, "target_class": "TLS", "workers": 1}
    cut = tile_cohort(manifest, **asked, **CONTEXT, tile_store="png", tiles_dir=tmp_path).tiles
    plain = tile_cohort(manifest, **asked).tiles
    pd.testing.assert_frame_equal(cut, plain)
    picked = cut.iloc[:: max(1, len(cut) // 12)]
    for of in ("field", "self", "other"):
        options = ASKED | CONTEXT | {"context_of": of, "context_masks": True, "augment": True}
        from_slide = TileDataset(picked, manifest, **options)
        from_png = TileDataset(picked, manifest, **options, tile_store="png", tiles_dir=tmp_path)
        seeds = [(5, n) for n in range(len(picked))]
        for a, b in zip(*(each.batch(range(len(picked)), seeds=seeds) for each in (from_slide, from_png)), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ParameterError, match="asked for are 64"):
        options = ASKED | {"context_ratio": 4, "context_px": 64}
        TileDataset(picked, manifest, **options, tile_store="png", tiles_dir=tmp_path).read(0)


def test_the_tile_s_own_field_is_all_that_the_control_self_shows(made):
    _, manifest, tiles = made
    shown, field = (
        TileDataset(tiles, manifest, **ASKED, **CONTEXT, context_of=of, context_masks=True).batch(range(len(tiles)))
        for of in ("self", "field")
    )
    own = slice((CONTEXT_PX - TILE_PX // RATIO) // 2, (CONTEXT_PX + TILE_PX // RATIO) // 2)
    assert torch.equal(shown[3][..., own, own], field[3][..., own, own])
    outside = torch.ones(CONTEXT_PX, CONTEXT_PX, dtype=torch.bool)
    outside[own, own] = False
    assert (shown[3][..., outside] == 1).all() and (shown[4][..., outside] == IGNORED).all()
    assert (field[3][..., outside] < 1).any()


def test_the_control_other_shows_another_slide_drawn_anew_each_time_by_the_seed(made):
    _, manifest, tiles = made
    dataset = TileDataset(tiles, manifest, **ASKED, **CONTEXT, context_of="other")
    everything = range(len(tiles))

    def drawn(seed):
        return dataset.batch(everything, seeds=[(seed, n) for n in everything])[3]

    first, again, later = drawn(1), drawn(1), drawn(2)
    assert torch.equal(first, again) and not torch.equal(first, later)
    blue = first[:, 2].flatten(1).min(1).values * 255  # 60 on the first slide, 160 on the second
    assert ((blue > 110) == torch.tensor(tiles["slide_id"].to_numpy() == "s0")).all()
    fields = TileDataset(tiles, manifest, **ASKED, **CONTEXT).batch(everything)[3]
    assert all(any(torch.equal(one, field) for field in fields) for one in first)
    # Where there is but one slide, another of its tiles; and white where there is no other.
    one_slide = tiles[tiles["slide_id"] == "s0"].reset_index(drop=True)
    dataset = TileDataset(one_slide, manifest, **ASKED, **CONTEXT, context_of="other")
    of_slide = TileDataset(one_slide, manifest, **ASKED, **CONTEXT).batch(range(12))[3]
    shown = dataset.batch(range(12))[3]
    assert not any(torch.equal(a, b) for a, b in zip(shown, of_slide, strict=True))
    alone = TileDataset(one_slide[:1], manifest, **ASKED, **CONTEXT, context_of="other", context_masks=True)
    assert (alone.batch([0])[3] == 1).all() and (alone.batch([0])[4] == IGNORED).all()


def test_tile_and_context_are_turned_alike():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    picture = torch.stack([y * 3 + 20, x * 3 + 20, torch.full_like(x, 90)]).to(torch.uint8)
    mask = ((picture[0] > 110) & (picture[1] > 140)).to(torch.uint8)
    shown = set()
    for seed in range(40):
        image, turned, context, wide = augment_tile(picture, mask, picture, mask, seed=seed)
        assert torch.equal(turned, wide)
        assert (image.int() - context.int()).abs().max() <= 2  # the same picture, and the same colours to a rounding
        shown.add(turned.numpy().tobytes())
    assert len(shown) == 8


def test_tile_and_context_are_coloured_by_one_function():
    """A colour that both hold comes out as the same colour, however dark the rest of either is."""
    dark, light = torch.full((3, 64, 64), 60, dtype=torch.uint8), torch.full((3, 64, 64), 250, dtype=torch.uint8)
    common = torch.tensor([150, 90, 140], dtype=torch.uint8)[:, None, None]
    dark[:, 28:36, 28:36] = light[:, 28:36, 28:36] = common
    mask, changed = torch.zeros((64, 64), dtype=torch.uint8), 0
    for seed in range(20):
        image, _, context, _ = augment_tile(dark, mask, light, mask, seed=seed)
        assert (image[:, 32, 32].int() - context[:, 32, 32].int()).abs().max() <= 2
        changed = max(changed, int((context[:, 32, 32].int() - common[:, 0, 0].int()).abs().max()))
        alone, _ = augment_tile(dark, mask, seed=seed)
        assert torch.equal(alone, image)  # a context changes nothing of its tile
    assert changed > 15


def test_what_is_ignored_is_ignored_in_both(made):
    _, manifest, tiles = made
    dataset = TileDataset(
        tiles, manifest, magnification=10, tile_px=TILE_PX, target_class="none", ignore_class="TLS", **CONTEXT,
        context_masks=True,
    )  # fmt: skip
    target = TileDataset(tiles, manifest, **ASKED, **CONTEXT, context_masks=True)
    for ignored, drawn in zip(dataset.batch(range(12))[1::3], target.batch(range(12))[1::3], strict=True):
        assert drawn.sum() > 0 and torch.equal(ignored == IGNORED, drawn == 1)


def test_a_tile_whose_context_cannot_be_read_is_left_out_and_told(made, tmp_path):
    folder, manifest, _ = made
    path = tmp_path / "damaged.tiff"
    path.write_bytes((folder / "s0.tiff").read_bytes())
    context = {"context_ratio": 2, "context_px": CONTEXT_PX}
    level = open_slide(path).level_for(2.0)
    assert level > open_slide(path).level_for(1.0)
    patch_tile(path, 0, 0, lambda data: bytes(len(data)), page=level)
    rows = manifest[:1].assign(slide_path=str(path))
    tiles = pd.DataFrame(tile_rows("s0", [0, 636], [0, 436], TILE_PX, d=2))
    dataset = TileDataset(tiles, rows, **ASKED, **context, context_masks=True)
    _, masks, _, contexts, wide = dataset.batch(range(4))
    lost = [n for n in range(4) if tiles["tile_id"][n] in dataset.lost]
    assert 0 in lost and 3 not in lost
    assert (masks[lost] == IGNORED).all() and (wide[lost] == IGNORED).all() and (contexts[lost] == 1).all()
    assert not TileDataset(tiles, rows, **ASKED).batch(range(4))[1].eq(IGNORED).any()
    told = []
    cut = tile_cohort(rows, **ASKED, **context, workers=1, on_failure=lambda slide, error: told.append(str(error)))
    whole = tile_cohort(rows, **ASKED, workers=1)
    assert cut.slides["dropped_lost"][0] == len(whole.tiles) - len(cut.tiles) > 0
    assert "tiles are left out" in told[0]


def test_stored_tiles_that_a_tile_and_its_context_share_are_decoded_once(made, monkeypatch):
    _, manifest, tiles = made
    decoded = []

    def tile(self, column, row, real=jpegs.JpegLevel.tile):
        decoded.append((self.index, column, row))
        return real(self, column, row)

    monkeypatch.setattr(jpegs.JpegLevel, "tile", tile)
    dataset = TileDataset(tiles[:12], manifest, **ASKED, context_ratio=2, context_px=64)
    for index in range(12):
        dataset.read(index)
    dataset.read(3)
    assert decoded and len(decoded) == len(set(decoded))


def test_the_door_names_what_inference_needs():
    assert {"context_origin", "own_field_only", "other_windows"} <= set(wing.__all__)
