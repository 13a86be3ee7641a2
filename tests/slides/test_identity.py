"""Which slide a file is: copies are one slide whatever they are called; other content is another."""

import os
import shutil

import numpy as np
import pytest
from made_slides import picture, vips_slide

from tlskit.errors import SlideError
from tlskit.slides import content_id


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    return vips_slide(tmp_path_factory.mktemp("identity") / "a.tif", noise, quality=95)


def test_a_copy_is_the_same_slide_under_any_name_and_time(slide, tmp_path):
    copy = shutil.copy(slide, tmp_path / "other name.svs")
    os.utime(copy, (1, 1))
    assert slide.stat().st_size > 10 * 2**16
    assert content_id(copy) == content_id(slide) == content_id(str(slide))
    assert len(content_id(slide)) == 16


@pytest.mark.parametrize("where", ["head", "tail", "middle", "cut", "longer"])
def test_other_content_is_another_slide(slide, tmp_path, where):
    data = bytearray(slide.read_bytes())
    at = {"head": 9, "tail": -9, "middle": (len(data) - 2**16) * 4 // 9 + 100}.get(where)
    if at is not None:
        data[at] ^= 1
    data = data[:-1] if where == "cut" else data + b"\0" if where == "longer" else data
    (tmp_path / "b.tif").write_bytes(data)
    assert content_id(tmp_path / "b.tif") != content_id(slide)


def test_a_small_file_is_hashed_whole(tmp_path):
    one = vips_slide(tmp_path / "one.tif", picture(300, 200, seed=1))
    data = bytearray(one.read_bytes())
    for at in range(0, len(data), len(data) // 7):
        changed = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
        (tmp_path / "two.tif").write_bytes(changed)
        assert content_id(tmp_path / "two.tif") != content_id(one)


def test_a_zarr_folder_is_known_by_metadata_and_chunks(tmp_path):
    for name in ("a.zarr", "b.zarr"):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / "zarr.json").write_text("{}")
        (tmp_path / name / "0" / "0.0").write_bytes(b"pixels")
    assert content_id(tmp_path / "a.zarr") == content_id(tmp_path / "b.zarr")
    (tmp_path / "b.zarr" / "0" / "0.0").write_bytes(b"pixelz")
    assert content_id(tmp_path / "a.zarr") != content_id(tmp_path / "b.zarr")


def test_what_is_not_there_or_no_slide_is_said(tmp_path):
    with pytest.raises(SlideError, match="cannot be read"):
        content_id(tmp_path / "missing.svs")
    with pytest.raises(SlideError, match="a folder"):
        content_id(tmp_path)
