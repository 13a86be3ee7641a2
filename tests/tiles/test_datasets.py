"""Tiles as tensors, from slides and from PNG files, and batches made in threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from made_cohort import outlined_slide, tile_rows
from shapely.geometry import Point, box

from tlskit import units
from tlskit.errors import ParameterError, RunError, SlideError
from tlskit.outlines import reading as annotations
from tlskit.tiles import batching, datasets
from tlskit.tiles.normalisation import normalise

MPP0, MAGNIFICATION, TILE_PX = 0.5, 10, 64  # two level-0 pixels along a working pixel


@pytest.fixture(scope="module")
def cohort_dir(tmp_path_factory):
    """Two slides: dark squares and discs, outlined, on a smooth colour field."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number, targets in enumerate(([box(100, 60, 300, 200), Point(420, 380).buffer(70)], [box(90, 90, 380, 300)])):
        y, x = np.mgrid[0:512, 0:600]
        image = np.stack([120 + x // 5, 120 + y // 5, 200 - (x + y) // 10 + 10 * number], 2).astype(np.uint8)
        mask = annotations.rasterise(targets, x_px=0, y_px=0, width_px=600, height_px=512, mpp=MPP0, mpp0=MPP0)
        image[mask] //= 2
        rows.append(outlined_slide(folder, f"s{number}", image, targets, mpp=MPP0, quality=95))
    rows.append(rows[0] | {"slide_id": "bare", "annotation_path": ""})
    return folder, pd.DataFrame(rows)


def tile_table(slides=("s0", "s1"), *, step_px=48, tile_px=TILE_PX, magnification=MAGNIFICATION):
    d = units.mpp_for_magnification(magnification) / MPP0
    corners = range(0, 300 - tile_px + 1, step_px), range(0, 256 - tile_px + 1, step_px)
    return pd.DataFrame([row for slide in slides for row in tile_rows(slide, *corners, tile_px, d=d)])


def make_dataset(cohort_dir, tiles=None, **changes):
    tiles = tile_table() if tiles is None else tiles
    settings = {"magnification": MAGNIFICATION, "tile_px": TILE_PX, "target_class": "TLS"} | changes
    return datasets.TileDataset(tiles, cohort_dir[1], **settings)


def test_an_item_is_the_slide_s_pixels_over_255_and_the_pixel_centres_inside_the_outline(cohort_dir):
    dataset = make_dataset(cohort_dir)
    image, mask, index = (tensor[0] for tensor in dataset.batch([7]))
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
    assert (mask.shape, mask.dtype, index) == ((1, 64, 64), torch.float32, 7)
    row = dataset.tiles.iloc[7]
    x0, y0 = int(row.x_px0), int(row.y_px0)
    # References of another make: OpenSlide's own level of that resolution, and shapely asked about each pixel's centre.
    slide = openslide.OpenSlide(cohort_dir[0] / "s0.tiff")
    assert slide.level_downsamples[1] == 2
    region = np.asarray(slide.read_region((x0, y0), 1, (64, 64)))[..., :3]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), region.astype(np.float32) / 255)
    targets = [box(100, 60, 300, 200), Point(420, 380).buffer(70)]
    inside = [
        [any(t.contains(Point(x0 + 2 * i + 1, y0 + 2 * j + 1)) for t in targets) for i in range(64)] for j in range(64)
    ]
    assert 0 < np.sum(inside) < 64 * 64
    assert np.array_equal(mask[0].numpy().astype(bool), inside)


def test_a_slide_without_annotation_file_has_empty_masks(cohort_dir):
    dataset = make_dataset(cohort_dir, tile_table(["bare"]))
    assert dataset.batch(range(len(dataset)))[1].sum() == 0


def test_png_tiles_give_the_same_items_as_the_slide(cohort_dir, tmp_path):
    from_slide = make_dataset(cohort_dir)
    for i, row in from_slide.tiles.iterrows():
        image, mask = from_slide.read(i)
        (tmp_path / row.slide_id).mkdir(exist_ok=True)
        bgr = cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(tmp_path / row.slide_id / f"{row.tile_id}.png"), bgr)
        cv2.imwrite(str(tmp_path / row.slide_id / f"{row.tile_id}-mask.png"), mask.numpy().astype(np.uint8) * 255)
    from_png = make_dataset(cohort_dir, tile_store="png", tiles_dir=tmp_path)
    everything = range(len(from_slide))
    for a, b in zip(from_slide.batch(everything), from_png.batch(everything), strict=True):
        assert torch.equal(a, b)
    (tmp_path / "s0" / f"{from_slide.tiles.tile_id[0]}.png").write_bytes(b"no png")
    with pytest.raises(RunError, match="damaged"):
        from_png.read(0)
    (tmp_path / "s0" / f"{from_slide.tiles.tile_id[0]}.png").unlink()
    with pytest.raises(RunError, match="01_tiling"):
        from_png.read(0)


def test_imagenet_normalisation_is_torchvision_s(cohort_dir):
    from torchvision.transforms.v2 import functional as v2

    plain, normed = (make_dataset(cohort_dir, **how).batch([3])[0][0] for how in ({}, {"normalisation": "imagenet"}))
    expected = v2.normalize(plain, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(normed, expected, atol=1e-6)
    with pytest.raises(ParameterError, match="divide_255, imagenet"):
        make_dataset(cohort_dir, normalisation="macenko")


def test_normalising_keeps_the_input_and_its_memory_format():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    scaled = normalise(images, "divide_255")
    assert torch.equal(images, before) and scaled.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(scaled, before.float() / 255)


def test_augmentation_turns_image_and_mask_alike():
    # Distinct values everywhere: red tells the row, green the column, and the mask is a function of both.
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = torch.stack([y * 4 + 60, x * 4 + 60, torch.full_like(x, 90)]).to(torch.uint8)
    mask = (image[0] > 110) & (image[1] > 140)
    seen = set()
    for seed in range(60):
        turned, turned_mask = datasets.augment_tile(image, mask, seed=seed)
        candidates = [torch.rot90(m, k) for m in (mask, mask.flip(1)) for k in range(4)]
        which = [i for i, candidate in enumerate(candidates) if torch.equal(candidate, turned_mask)]
        assert len(which) == 1
        seen.add(which[0])
        # Colours were only jittered, so the turned image still correlates with the image turned like the mask.
        flipped = image.flip(2) if which[0] >= 4 else image
        expected = torch.rot90(flipped, which[0] % 4, (1, 2)).float()
        for channel in (0, 1):
            pair = torch.stack([turned[channel].float().flatten(), expected[channel].flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.95
    assert seen == set(range(8))


def test_augmentation_depends_on_its_seed_and_not_on_torch_s_generator(cohort_dir):
    dataset = make_dataset(cohort_dir, augment=True)
    torch.manual_seed(0)
    first = dataset.read(5, seed=(1, 2, 3))
    torch.manual_seed(99)
    again, other = dataset.read(5, seed=(1, 2, 3)), dataset.read(5, seed=(1, 2, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_tiles_of_another_magnification_are_refused(cohort_dir):
    with pytest.raises(ParameterError, match=r"covers 160 px at 0\.4 um/px|another magnification"):
        make_dataset(cohort_dir, magnification=5).read(0)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"tile_store": "zip"}, ParameterError, "'slide' or 'png'"),
        ({"tile_store": "png"}, ParameterError, "needs `tiles_dir`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(cohort_dir, changes, error, message):
    with pytest.raises(error, match=message):
        make_dataset(cohort_dir, **changes)


def test_a_table_that_is_not_of_this_cohort_is_refused(cohort_dir):
    with pytest.raises(RunError, match="not in the manifest.*'other'"):
        make_dataset(cohort_dir, tile_table(["other"]))
    with pytest.raises(ParameterError, match="lacks the column"):
        make_dataset(cohort_dir, tile_table().drop(columns="x_px0"))


def _read_all(dataset):
    return [dataset.read(i)[0].sum().item() for i in range(len(dataset))]


def test_threads_read_the_same_pixels(cohort_dir):
    dataset = make_dataset(cohort_dir)
    expected = _read_all(dataset)
    with ThreadPoolExecutor(8) as pool:
        assert [future.result() for future in [pool.submit(_read_all, dataset) for _ in range(8)]] == [expected] * 8


def test_slides_beyond_the_limit_are_let_go_of_and_reopened(cohort_dir, monkeypatch):
    expected = _read_all(make_dataset(cohort_dir))
    monkeypatch.setattr(datasets, "MAX_OPEN_SLIDES", 1)
    dataset = make_dataset(cohort_dir)
    order = np.random.default_rng(0).permutation(len(dataset))
    assert [dataset.read(i)[0].sum().item() for i in order] == [expected[i] for i in order]
    assert len(dataset._slides) == 1
    dataset.close()
    assert _read_all(dataset) == expected


def test_a_slide_that_is_gone_is_an_error_in_the_thread_that_asked(cohort_dir):
    folder, manifest = cohort_dir
    manifest = manifest.assign(slide_path=str(folder / "gone.tiff"))
    dataset = datasets.TileDataset(
        tile_table(), manifest, magnification=MAGNIFICATION, tile_px=TILE_PX, target_class="TLS"
    )
    with pytest.raises(SlideError, match="gone.tiff"):
        next(batching.read_batches(dataset, [[0, 1]], workers=2))


def test_an_epoch_is_one_shuffled_pass_without_the_last_partial_batch():
    first = batching.epoch_batches(21, batch_size=8, seed=3, epoch=0)
    assert [len(batch) for batch in first] == [8, 8]
    assert len(set(np.concatenate(first))) == 16
    again, other = (batching.epoch_batches(21, batch_size=8, seed=3, epoch=epoch) for epoch in (0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, batching.epoch_batches(21, batch_size=8, seed=4, epoch=0))


def test_fewer_tiles_than_a_batch_make_one_batch_and_a_lone_tile_is_doubled():
    assert sorted(np.concatenate(batching.epoch_batches(5, batch_size=8, seed=0, epoch=0))) == [0, 1, 2, 3, 4]
    assert [list(batch) for batch in batching.epoch_batches(1, batch_size=8, seed=0, epoch=0)] == [[0, 0]]


@pytest.mark.parametrize("n_tiles, batch_size, steps", [(7, 4, 5), (100, 8, 3), (3, 8, 2), (1, 4, 2)])
def test_with_steps_every_tile_is_seen_equally_often_to_within_one(n_tiles, batch_size, steps):
    counts = np.zeros(n_tiles, int)
    for epoch in range(6):
        batches = batching.epoch_batches(n_tiles, batch_size=batch_size, steps=steps, seed=1, epoch=epoch)
        assert [len(batch) for batch in batches] == [batch_size] * steps
        counts += np.bincount(np.concatenate(batches), minlength=n_tiles)
        assert counts.max() - counts.min() <= 1
    assert counts.sum() == 6 * steps * batch_size


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_the_plan_s_whatever_the_number_of_threads(cohort_dir, workers):
    dataset = make_dataset(cohort_dir, augment=True)
    plan = batching.epoch_batches(len(dataset), batch_size=5, seed=0, epoch=0)
    batches = list(batching.read_batches(dataset, plan, workers=workers, seed=(4, 2)))
    assert len(batches) == len(plan) == 10
    for number, (images, masks, indices) in enumerate(batches):
        assert indices.tolist() == plan[number].tolist()
        seeds = [(4, 2, 5 * number + place) for place in range(5)]
        expected = dataset.batch(plan[number], seeds=seeds)
        assert torch.equal(images, expected[0]) and torch.equal(masks, expected[1])
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_next_item_is_made_while_the_last_is_used():
    made = threading.Event()

    def make(item):
        if item == 1:
            made.set()
        return item

    items = batching.ahead(make, range(5), workers=1)
    assert next(items) == 0
    assert made.wait(timeout=10)  # the caller holds item 0 and asks for nothing
    assert list(items) == [1, 2, 3, 4]


def test_leaving_early_stops_the_threads_and_an_error_comes_in_its_place():
    def make(item):
        time.sleep(0.01)
        if item == 3:
            raise ValueError("item 3")
        return item

    got = []
    with pytest.raises(ValueError, match="item 3"):
        for item in batching.ahead(make, range(100), workers=2):
            got.append(item)
    assert got == [0, 1, 2]
    items = batching.ahead(make, range(100), workers=2)
    next(items)
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tlskit-ahead")]


def test_threads_that_make_batches_keep_torch_to_one_core_and_leave_the_others_alone():
    class Counting:
        augment = False

        def batch(self, indices, *, seeds):
            return (torch.tensor(torch.get_num_threads()),)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        made = [
            (int(count), torch.get_num_threads())
            for (count,) in batching.read_batches(Counting(), [[0]] * 4, workers=2)
        ]
        assert made == [(1, 3)] * 4
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
