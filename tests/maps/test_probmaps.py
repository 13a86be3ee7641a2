"""Probability maps: written in any order, resumed, read back, and opened by other software."""

import json
import os

import numpy as np
import pytest
import tifffile

from tlskit.errors import MapError, ParameterError
from tlskit.evaluation.predictions import outline_map
from tlskit.maps import map_writer, probmaps
from tlskit.outlines import rasterise


def smooth(width, height, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2)).astype(np.uint8)
    return np.kron(coarse, np.ones((16, 16), np.uint8))[:height, :width]


def write(path, values, *, order=None, block_px=64, stop_after=None, resume=False, commit_every=1, **metadata):
    height, width = values.shape
    writer = map_writer.MapWriter(
        path, (width, height), mpp=2.5, block_px=block_px, metadata={"slide_id": "s 1", **metadata}, resume=resume
    )
    corners = [(x, y) for y in range(0, height, block_px) for x in range(0, width, block_px)]
    corners = [corners[i] for i in order] if order is not None else corners
    with writer:
        for n, (x, y) in enumerate(corners):
            if {"n": n} in writer.notes:
                continue
            if stop_after is not None and n == stop_after:
                raise KeyboardInterrupt
            writer.write_block(x, y, values[y : y + block_px, x : x + block_px])
            if n % commit_every == commit_every - 1:
                writer.commit({"n": n})
    return path


def test_what_is_written_is_read_back_at_any_place(tmp_path):
    values = smooth(333, 201)
    with probmaps.open_map(write(tmp_path / "m.tif", values)) as m:
        assert m.size_px == (333, 201) and m.mpp == 2.5 and m.metadata["slide_id"] == "s 1" and m.invalid == []
        assert np.array_equal(m.read(0, 0, 333, 201), values)
        assert np.array_equal(m.read(50, 60, 100, 90), values[60:150, 50:150])
        outside = m.read(-10, 190, 30, 30)
        assert np.array_equal(outside[:11, 10:], values[190:, :20])
        assert not outside[:, :10].any() and not outside[11:].any()
        assert np.array_equal(np.vstack([band for _, band in m.bands(37)]), values)
        assert [y for y, _ in m.bands(100)] == [0, 100, 200]


def test_levels_are_two_by_two_means_and_an_odd_edge_stands_for_itself(tmp_path):
    values = smooth(333, 201)
    with probmaps.open_map(write(tmp_path / "m.tif", values)) as m:
        assert m.level_sizes_px == [(333, 201), (167, 101), (84, 51), (42, 26)]
        level = values.astype(int)
        for number, (width, height) in enumerate(m.level_sizes_px[1:], 1):
            level = np.pad(level, ((0, level.shape[0] % 2), (0, level.shape[1] % 2)), mode="edge")
            level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2] + 2) // 4
            assert np.array_equal(m.read(0, 0, width, height, level=number), level)
        overview, mpp = m.overview(100)
        assert overview.shape == (51, 84) and mpp == pytest.approx(2.5 * 333 / 84)


def test_openslide_opens_a_map_with_its_levels_and_resolution(tmp_path):
    import openslide

    values = smooth(700, 500)
    path = write(tmp_path / "m.tif", values)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((700, 500), (350, 250), (175, 125), (88, 63), (44, 32))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.5, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(2.5, rel=1e-6)
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 0, (700, 500)))[..., 0], values)


def test_libvips_and_tifffile_read_the_same_pixels(tmp_path):
    import pyvips

    values = smooth(333, 201)
    path = write(tmp_path / "m.tif", values)
    assert np.array_equal(pyvips.Image.new_from_file(str(path)).numpy(), values)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff and tiff.pages[0].is_tiled and np.array_equal(tiff.pages[0].asarray(), values)
        assert json.loads(tiff.pages[0].description)["mpp"] == 2.5


def test_the_file_does_not_depend_on_the_order_of_blocks_or_commits(tmp_path):
    values = smooth(333, 201)
    one = write(tmp_path / "one.tif", values).read_bytes()
    order = np.random.default_rng(3).permutation(24)
    assert write(tmp_path / "two.tif", values, order=order, commit_every=5).read_bytes() == one


@pytest.mark.parametrize("stop_after", [0, 1, 7, 23])
def test_a_stopped_map_goes_on_to_the_same_file(tmp_path, stop_after):
    values = smooth(333, 201)
    whole = write(tmp_path / "whole.tif", values).read_bytes()
    path = tmp_path / "m.tif"
    with pytest.raises(KeyboardInterrupt):
        write(path, values, stop_after=stop_after)
    assert not path.exists()
    writer = map_writer.MapWriter(path, (333, 201), mpp=2.5, block_px=64, metadata={"slide_id": "s 1"}, resume=True)
    assert [note["n"] for note in writer.notes] == list(range(stop_after))
    writer._close()
    write(path, values, resume=True)
    assert path.read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["m.tif", "whole.tif"]


def test_a_torn_journal_loses_only_its_torn_end(tmp_path):
    values = smooth(333, 201)
    whole = write(tmp_path / "whole.tif", values).read_bytes()
    path = tmp_path / "m.tif"
    with pytest.raises(KeyboardInterrupt):
        write(path, values, stop_after=9)
    part = tmp_path / ".m.tif.part"
    journal = (part / "journal.jsonl").read_bytes()
    (part / "journal.jsonl").write_bytes(journal[:-20])  # the kill came in the middle of a line
    blocks = bytearray((part / "blocks.bin").read_bytes())
    index = json.loads(journal.split(b"\n")[6].split(b" ", 1)[1])["blocks"][0]
    blocks[index[2]] ^= 0xFF  # and the sixth block never reached the disk
    (part / "blocks.bin").write_bytes(blocks)
    writer = map_writer.MapWriter(path, (333, 201), mpp=2.5, block_px=64, metadata={"slide_id": "s 1"}, resume=True)
    assert len(writer.notes) == 5
    writer._close()
    write(path, values, resume=True)
    assert path.read_bytes() == whole


def test_a_journal_made_for_something_else_is_thrown_away(tmp_path):
    values = smooth(333, 201)
    path = tmp_path / "m.tif"
    with pytest.raises(KeyboardInterrupt):
        write(path, values, stop_after=9, checkpoint="a")
    other = np.zeros_like(values)
    write(path, other, resume=True, checkpoint="b")
    with probmaps.open_map(path) as m:
        assert not m.read(0, 0, 333, 201).any()


def test_blocks_never_written_are_zero_at_every_level(tmp_path):
    path = tmp_path / "m.tif"
    with map_writer.MapWriter(path, (1000, 600), mpp=0.5, block_px=256) as writer:
        writer.write_block(256, 256, np.full((256, 256), 200, np.uint8))
    with probmaps.open_map(path) as m:
        expected = np.zeros((600, 1000), np.uint8)
        expected[256:512, 256:512] = 200
        assert np.array_equal(m.read(0, 0, 1000, 600), expected)
        assert np.array_equal(m.read(0, 0, 500, 300, level=1), expected[::2, ::2])


def test_invalid_boxes_come_back_as_boxes(tmp_path):
    with map_writer.MapWriter(tmp_path / "m.tif", (64, 64), mpp=1.0, block_px=64) as writer:
        writer.metadata["invalid"] = [[0, 0, 10, 20]]
    assert probmaps.open_map(tmp_path / "m.tif").invalid == [(0, 0, 10, 20)]


def test_a_map_can_be_sent_to_another_process(tmp_path):
    import pickle

    values = smooth(100, 100)
    again = pickle.loads(pickle.dumps(probmaps.open_map(write(tmp_path / "m.tif", values))))
    assert np.array_equal(again.read(0, 0, 100, 100), values)


def test_misplaced_and_misshapen_blocks_are_refused(tmp_path):
    writer = map_writer.MapWriter(tmp_path / "m.tif", (100, 100), mpp=1.0, block_px=64)
    for x, y, block in (
        (1, 0, np.zeros((64, 64), np.uint8)),
        (128, 0, np.zeros((64, 64), np.uint8)),
        (64, 0, np.zeros((64, 64), np.uint8)),
        (0, 0, np.zeros((64, 64), np.float32)),
    ):
        with pytest.raises(ParameterError, match="m.tif"):
            writer.write_block(x, y, block)
    writer.discard()
    assert os.listdir(tmp_path) == []


def test_what_is_no_map_is_refused_by_name(tmp_path):
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((64, 64), np.uint8), tile=(64, 64))
    (tmp_path / "text.tif").write_text("no TIFF")
    for name in ("other.tif", "text.tif", "missing.tif"):
        with pytest.raises(MapError, match=name):
            probmaps.open_map(tmp_path / name)


def test_a_damaged_block_is_named(tmp_path):
    path = write(tmp_path / "m.tif", smooth(128, 64))
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[1]
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(MapError, match=r"block \(1, 0\)"):
        probmaps.open_map(path).read(0, 0, 128, 64)


def test_a_map_that_was_cut_off_is_told_when_it_is_opened(tmp_path):
    path = write(tmp_path / "m.tif", smooth(333, 201))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(MapError, match=f"cut off: it has {len(whole) - 1} of {len(whole)} bytes. Copy it again"):
        probmaps.open_map(path)
    path.write_bytes(whole)
    probmaps.open_map(path)


def test_what_was_not_looked_at_is_marked_at_no_threshold_on_any_level(tmp_path):
    metadata = {"unseen": [[0, 0, 100, 64]], "invalid": [[96, 96, 32, 32]], "mpp0": 1.0}
    with map_writer.MapWriter(tmp_path / "m.tif", (128, 128), mpp=2.0, block_px=32, metadata=metadata) as writer:
        writer.write_block(32, 96, np.full((32, 32), 90, np.uint8))
    seen = np.ones((128, 128), bool)
    seen[:64, :100] = seen[96:, 96:] = False
    with probmaps.open_map(tmp_path / "m.tif") as found:
        values = found.read(0, 0, 128, 128)
        assert np.array_equal(found.marked(values, 0), seen) and np.array_equal(found.marked(values, 90), values == 90)
        assert np.array_equal(found.marked(values[40:, 30:90], 0, 30, 40), seen[40:, 30:90])
        at = found.under(-20, 30, 120, 90, mpp=2.5)  # a picture that begins left of the map and ends below it
        pictured = np.pad(seen, 64)[np.ix_(at[1] + 64, at[0] + 64)]
        assert np.array_equal(found.marked_at(*at, 0), pictured) and pictured.any() and not pictured.all()
        assert np.array_equal(found.marked_at(*at, 90), np.pad(values == 90, 64)[np.ix_(at[1] + 64, at[0] + 64)])
        small, _ = found.overview(64)
        assert np.array_equal(found.marked(small, 0, level=1), seen[1::2, 1::2])
        everywhere = outline_map(tmp_path / "m.tif", mpp0=1.0, threshold=0, min_object_um2=0)[0]
        outlined = rasterise(everywhere, x_px=0, y_px=0, width_px=128, height_px=128, mpp=2.0, mpp0=1.0) > 0
    assert not outlined[:60, :96].any() and not outlined[100:, 100:].any() and outlined[70:90].all()
