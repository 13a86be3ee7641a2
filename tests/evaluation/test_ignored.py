"""What is outlined as to be ignored, and what cannot be read, counts neither in training nor in any score."""

from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from made_cohort import manifest_row
from made_slides import patch_tile, vips_slide
from shapely import box
from torch import nn

from tlskit import evaluation, units
from tlskit.errors import AnnotationError, ParameterError, SlideError
from tlskit.maps import map_writer
from tlskit.metrics import scores as metrics
from tlskit.networks import loop, losses
from tlskit.outlines import reading as annotations
from tlskit.outlines.truth import IGNORED, Truth, read_truth
from tlskit.slides.slide import open_slide
from tlskit.tiles import datasets, tiling

MPP0, SIZE = 0.5, (1024, 768)
TARGETS = [box(100, 100, 400, 300), box(600, 400, 900, 700)]
IGNORE = [box(300, 0, 700, 500)]  # takes a third of the first target and some of the second


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A slide full of tissue with two targets and a region to be ignored over both, and its manifest."""
    folder = tmp_path_factory.mktemp("ignored")
    rng = np.random.default_rng(0)
    image = (np.array([205, 130, 180]) + rng.integers(-20, 20, (SIZE[1], SIZE[0], 1))).astype(np.uint8)
    vips_slide(folder / "s.tif", image, mpp=MPP0, power=20, quality=90)
    annotations.write_geojson(
        folder / "s.geojson", [*TARGETS, *IGNORE], class_name=["TLS", "TLS", "Fold"], color={"TLS": (1, 2, 3),
        "Fold": (9, 9, 9)},
    )  # fmt: skip
    row = manifest_row("s", folder / "s.tif", folder / "s.geojson")
    return folder, pd.DataFrame([row])


def expected_codes(mpp=1.0):
    """Codes of all pixels, by their centres."""
    width, height = units.lattice_size(SIZE, MPP0, mpp)
    x, y = np.meshgrid((np.arange(width) + 0.5) * mpp / MPP0, (np.arange(height) + 0.5) * mpp / MPP0)

    def inside(polygons):
        return np.any([(x > p.bounds[0]) & (x < p.bounds[2]) & (y > p.bounds[1]) & (y < p.bounds[3])
                       for p in polygons], axis=0)  # fmt: skip

    return np.where(inside(IGNORE), IGNORED, inside(TARGETS)).astype(np.uint8)


def tiles_of(made, **options):
    settings = {"magnification": 10, "tile_px": 64, "overlap": 0.0, "target_class": "TLS", "ignore_class": "Fold"}
    return tiling.tile_cohort(made[1], **(settings | options))


def test_the_ignored_area_is_cut_out_of_the_truth_and_wins_where_both_are_drawn(made):
    _, manifest = made
    row = next(manifest.itertuples())
    with open_slide(row.slide_path) as slide:
        truth = read_truth(row, slide, "TLS", ignore_class=["Fold", "Ink"])
        plain = read_truth(row, slide, "TLS")
    codes = expected_codes()
    height, width = codes.shape
    assert np.array_equal(truth.coded_at(0, 0, width, height, mpp=1.0), codes)
    assert np.array_equal(truth.at(0, 0, width, height, mpp=1.0), codes == 1)
    assert truth.area_mm2 * 1e6 / MPP0**2 == pytest.approx(200 * 200 + 300 * 300 - 100 * 100)
    assert not plain.ignored and plain.area_mm2 * 1e6 / MPP0**2 == pytest.approx(300 * 200 + 300 * 300)
    with pytest.raises(ParameterError, match="'TLS' is in `target_class` and in `ignore_class`"):
        read_truth(row, slide, "TLS", ignore_class="TLS")
    with pytest.raises(AnnotationError, match="'Fold'"):
        read_truth(row, slide, "Tumour", ignore_class="")


def test_a_slide_with_nothing_but_ignored_areas_is_one_without_targets(made, tmp_path):
    _, manifest = made
    path = annotations.write_geojson(tmp_path / "only.geojson", IGNORE, class_name="Fold")
    row = SimpleNamespace(annotation_path=str(path))
    with open_slide(manifest["slide_path"][0]) as slide:
        assert read_truth(row, slide, "TLS", ignore_class="Fold").polygons == []
        with pytest.raises(AnnotationError, match="no annotation of the class 'TLS'"):
            read_truth(row, slide, "TLS")


def test_tiles_are_kept_for_targets_that_count(made):
    codes = expected_codes()
    tiles, slides = tiles_of(made)
    expected = [
        (x, y) for y in range(0, 384, 64) for x in range(0, 512, 64) if (codes[y : y + 64, x : x + 64] == 1).any()
    ]
    assert list(zip(tiles["x_px0"] / 2, tiles["y_px0"] / 2, strict=True)) == expected
    for tile in tiles.itertuples():
        x, y = int(tile.x_px0 / 2), int(tile.y_px0 / 2)
        assert tile.target_fraction == (codes[y : y + 64, x : x + 64] == 1).mean()
    assert slides["target_mm2"][0] == pytest.approx((200 * 200 + 300 * 300 - 100 * 100) * MPP0**2 / 1e6)
    assert len(tiles) < len(tiles_of(made, ignore_class="").tiles)


@pytest.mark.parametrize("store", ["slide", "png"])
def test_masks_of_the_network_say_what_is_ignored(made, tmp_path, store):
    codes = expected_codes()
    tiles, _ = tiles_of(made, tile_store=store, tiles_dir=tmp_path)
    dataset = datasets.TileDataset(
        tiles, made[1], magnification=10, tile_px=64, target_class="TLS", ignore_class="Fold", tile_store=store,
        tiles_dir=tmp_path,
    )  # fmt: skip
    seen = set()
    for index, tile in enumerate(tiles.itertuples()):
        x, y = int(tile.x_px0 / 2), int(tile.y_px0 / 2)
        mask = dataset.read(index)[1].numpy()
        assert np.array_equal(mask, codes[y : y + 64, x : x + 64])
        assert np.array_equal(dataset.batch([index])[1][0, 0].numpy(), mask.astype(np.float32))
        seen |= set(np.unique(mask))
    assert seen == {0, 1, IGNORED}
    if store == "png":  # for other tools what is ignored is background
        grey = cv2.imread(str(tmp_path / "s" / f"{tiles['tile_id'][0]}-mask.png"), cv2.IMREAD_GRAYSCALE)
        assert set(np.unique(grey)) <= {0, 127, 255}


def test_ignored_pixels_have_no_say_in_the_loss_or_in_validation():
    torch.manual_seed(0)
    images, masks = torch.rand(2, 3, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    masks[:, :, :, 5:] = IGNORED
    net, loss = nn.Conv2d(3, 1, 1), losses.make_loss("dice")
    logits = net(images).detach().requires_grad_()
    loss(logits, masks).backward()
    assert (logits.grad[..., 5:] == 0).all() and (logits.grad[..., :5] != 0).all()
    assert float(loss(logits, masks).detach()) == pytest.approx(
        float(loss(logits[..., :5], masks[..., :5]).detach()), rel=1e-6
    )
    whole = loop.validate(net, [(images, masks, torch.arange(2))])
    part = loop.validate(net, [(images[..., :5], masks[..., :5], torch.arange(2))])
    assert torch.equal(whole[0], part[0]) and whole[1:] == pytest.approx(part[1:])


class Half(nn.Module):
    def forward(self, x):
        return torch.where(torch.arange(x.shape[-1]) % 2 == 0, 4.0, -4.0).expand(len(x), 1, *x.shape[-2:])


def checkpoint():
    return SimpleNamespace(
        model=Half(), magnification=10, mpp=1.0, tile_px=64, overlap=0.5, normalisation="divide_255", sha256="0",
        resolution_by="mpp", target_class="TLS", ignore_class="Fold",
    )  # fmt: skip


def test_counts_of_tiles_leave_ignored_pixels_out(made):
    codes = expected_codes()
    tiles = tiles_of(made, ignore_class="", keep_tiles="tissue").tiles  # some lie wholly in what is ignored
    counts = evaluation.evaluate_tiles(checkpoint(), tiles, made[1], batch_size=4, workers=0)
    positive = np.arange(512) % 2 == 0
    expected = {}
    for tile in tiles.itertuples():
        code = codes[int(tile.y_px0 / 2) :, int(tile.x_px0 / 2) :][:64, :64]
        found = np.broadcast_to(positive[:64], code.shape)
        if (code != IGNORED).any():
            expected[tile.tile_id] = tuple(metrics.count_pixels(found, code == 1, valid=code != IGNORED).values())
    assert dict(zip(counts["tile_id"], counts[list(metrics.COUNTS)].itertuples(index=False, name=None),
                    strict=True)) == expected  # fmt: skip
    assert len(expected) < len(tiles)


@pytest.fixture(scope="module")
def map_path(made):
    """Everything is predicted, and a part could not be."""
    path = made[0] / "m.tif"
    values = np.full((384, 512), 200, np.uint8)
    metadata = {"mpp0": MPP0, "invalid": [[0, 340, 200, 44]]}
    with map_writer.MapWriter(path, (512, 384), mpp=1.0, block_px=128, metadata=metadata) as writer:
        for y in range(0, 384, 128):
            for x in range(0, 512, 128):
                writer.write_block(x, y, values[y : y + 128, x : x + 128])
    return path


def test_counts_of_whole_slides_leave_ignored_pixels_out(made, map_path):
    table = pd.DataFrame({"slide_id": ["s"], "map_path": [str(map_path)]})
    found = evaluation.evaluate_slides(table, made[1], target_class="TLS", ignore_class="Fold", tile_px=64)
    codes = expected_codes()
    valid = codes != IGNORED
    lost = np.zeros_like(valid)
    lost[340:, :200] = True
    row = found.slides.iloc[0]
    expected = metrics.count_pixels(np.ones_like(valid), codes == 1, valid=valid & ~lost)
    assert tuple(row[list(metrics.COUNTS)]) == tuple(expected.values())
    assert row["invalid_px"] == lost.sum() and row["ignored_px"] == (~valid & ~lost).sum()
    assert tuple(found.tiles[list(metrics.COUNTS)].sum()) == tuple(expected.values())
    assert (found.tiles[list(metrics.COUNTS)].sum(axis=1) > 0).all() and len(found.tiles) < 48
    whole = found.histograms[found.histograms["region"] == "slide"]
    assert whole["count"].sum() == (valid & ~lost).sum()
    assert row["tissue_mm2"] < 0.85 * SIZE[0] * SIZE[1] * MPP0**2 / 1e6


def test_objects_and_the_grid_leave_ignored_areas_out(made, map_path):
    table = pd.DataFrame({"slide_id": ["s"], "map_path": [str(map_path)]})
    options = {"target_class": "TLS", "grid_mpp": 2.0, "min_object_um2": 100.0, "closing_um": 0.0}
    found = evaluation.evaluate_grid(table, made[1], ignore_class="Fold", **options)
    predicted = found.objects[found.objects["kind"] == "predicted"]
    # The map marks everything: objects are the region that pixels are counted in, and nothing of the glass beside it.
    counted = found.counts.iloc[0]
    assert predicted["area_um2"].sum() == 4 * (counted["tp"] + counted["fp"])
    assert counted["fn"] == counted["tn"] == 0 and counted["marked_px_outside"] > 0
    marked = counted["tp"] + counted["fp"] + counted["marked_px_outside"]
    lost_um2 = 200 * 44  # of which nothing is known
    assert 4 * marked == pytest.approx(512 * 384 - lost_um2 - IGNORE[0].area * MPP0**2, rel=0.01)
    truth = found.objects[found.objects["kind"] == "truth"]
    assert sorted(truth["area_um2"]) == pytest.approx([200 * 200 / 4, (300 * 300 - 100 * 100) / 4])
    row = found.counts.iloc[0]
    assert row["tp"] == pytest.approx((200 * 200 + 300 * 300 - 100 * 100) / 16, rel=0.03) and row["fn"] == 0
    assert row["ceiling_fp"] + row["ceiling_fn"] == 0


def test_post_processing_fills_nothing_that_does_not_count(made, map_path):
    table = pd.DataFrame({"slide_id": ["s"], "map_path": [str(map_path)]})
    options = {"target_class": "TLS", "grid_mpp": 2.0, "min_object_um2": 100.0}
    found = evaluation.evaluate_grid(table, made[1], ignore_class="Fold", closing_um=400.0, **options)
    predicted = found.objects[found.objects["kind"] == "predicted"]
    row = found.counts.iloc[0]
    # Closing and filled holes may not reach into what is ignored, nor onto glass.
    assert predicted["area_um2"].sum() <= 4 * row[["tp", "fp", "fn", "tn"]].sum()


def test_an_object_in_a_lost_region_is_neither_found_nor_missed():
    truth = Truth([box(0, 0, 100, 100), box(200, 0, 300, 100)], mpp0=0.5)
    seen = truth.without([(90, 0, 70, 60)], mpp=1.0)
    assert [p.bounds for p in seen.polygons] == [(0, 0, 100, 100)]
    assert truth.without([], mpp=1.0) is truth


def damaged(made, folder):
    """The slide again, with one of its JPEG tiles zeroed; and its manifest."""
    path = folder / "damaged.tif"
    path.write_bytes((made[0] / "s.tif").read_bytes())
    patch_tile(path, 0, 0, lambda data: bytes(len(data)))
    return path, made[1].assign(slide_path=str(path))


def test_a_tile_in_a_damaged_part_is_ignored_and_written_down_and_a_slide_that_is_gone_is_an_error(made, tmp_path):
    path, manifest = damaged(made, tmp_path)
    tiles = pd.DataFrame(
        {"tile_id": ["lost", "well"], "slide_id": "s", "x_px0": [64.0, 640.0], "y_px0": [64.0, 448.0], "size_px0": 64.0}
    )
    options = {"magnification": 20, "tile_px": 64, "target_class": "TLS"}
    dataset = datasets.TileDataset(tiles, manifest, **options)
    image, mask = dataset.read(0)
    assert (image == 255).all() and (mask == IGNORED).all() and list(dataset.lost) == ["lost"]
    assert (dataset.read(1)[1] == 1).all()
    made_for = checkpoint()
    made_for.magnification, made_for.mpp = 20, 0.5
    counts = evaluation.evaluate_tiles(made_for, tiles, manifest, workers=0)
    assert list(counts["tile_id"]) == ["well"]
    path.write_bytes(b"")  # as a share that is no longer there
    dataset.close()
    with pytest.raises(SlideError):
        dataset.read(0)
