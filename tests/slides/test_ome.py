"""OME-TIFF and OME-Zarr: exact to tifffile and zarr, the scale from their metadata, and nothing that is not colour."""

import pickle

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from made_slides import picture

from tlskit.errors import ScaleError, SlideError
from tlskit.slides import content_id, open_slide

SIZE = (1501, 1103)


def levels_of(image, n=3):
    found = [image]
    for _ in range(n - 1):
        height, width = (side // 2 for side in found[-1].shape[:2])
        small = cv2.resize(found[-1], (width, height), interpolation=cv2.INTER_AREA)
        found.append(small.reshape(height, width, *image.shape[2:]))
    return found


def ome_tiff(path, image, *, mpp=0.25, unit="µm", compression="deflate", planar=False, names=None, **options):
    metadata = {"axes": "CYX" if planar else "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
    metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit} if mpp else {}
    metadata = {k: v for k, v in metadata.items() if v is not None}
    if names:
        metadata["Channel"] = {"Name": names}
    first, *rest = levels_of(image)
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as out:
        kind = {"photometric": "minisblack" if planar else "rgb", "tile": (256, 256), "compression": compression}
        for i, level in enumerate((first, *rest)):
            pixels = np.moveaxis(level, -1, 0) if planar else level
            if i == 0:
                out.write(pixels, subifds=len(rest), metadata=metadata, **kind, **options)
            else:
                out.write(pixels, subfiletype=1, **kind)
    return path


def ome_zarr(path, image, *, mpp=0.25, unit="micrometer", version=0.4, chunk=256, axes="tczyx", n=3):
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version < 0.5 else 3)
    names = [{"name": a, "type": "space" if a in "xyz" else "other", **({"unit": unit} if a in "xy" and unit else {})}
             for a in axes]  # fmt: skip
    datasets = []
    for i, level in enumerate(levels_of(image, n)):
        pixels = np.moveaxis(level, -1, 0)
        order = {"tczyx": pixels[None, :, None], "cyx": pixels, "yxc": level}[axes]
        chunks = tuple({"y": chunk, "x": chunk}.get(a, 1 if axes != "yxc" else 3) for a in axes)
        array = group.create_array(str(i), shape=order.shape, chunks=chunks, dtype=order.dtype)
        array[:] = order
        scale = [mpp * 2**i if a in "xy" else 1.0 for a in axes]
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    multiscales = [{"version": str(version), "axes": names, "datasets": datasets}]
    group.attrs.update({"ome": {"multiscales": multiscales}} if version >= 0.5 else {"multiscales": multiscales})
    return path


@pytest.fixture(scope="module")
def image():
    return picture(*SIZE)


MAKERS = {
    "deflate": lambda folder, image: ome_tiff(folder / "a.ome.tif", image),
    "lzw": lambda folder, image: ome_tiff(folder / "a.tif", image, compression="lzw"),
    "planar": lambda folder, image: ome_tiff(folder / "a.ome.tif", image, planar=True, names=["Red", "Green", "Blue"]),
    "zarr_04": lambda folder, image: ome_zarr(folder / "a.ome.zarr", image),
    "zarr_05": lambda folder, image: ome_zarr(folder / "a.zarr", image, version=0.5, axes="cyx"),
    "zarr_colours_last": lambda folder, image: ome_zarr(folder / "a.zarr", image, axes="yxc"),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_every_level_equals_what_was_written(tmp_path, image, maker):
    path = MAKERS[maker](tmp_path, image)
    with open_slide(path) as slide:
        assert slide.reader == ("ome-zarr" if "zarr" in maker else "ome-tiff")
        assert (slide.mpp0, slide.mpp_source, slide.size_px0) == (0.25, "ome", SIZE)
        assert slide.level_downsamples == (1, 2, 4) and not slide.doubts
        for i, level in enumerate(levels_of(image)):
            height, width = level.shape[:2]
            assert slide.level_for(0.25 * 2**i) == i
            np.testing.assert_array_equal(slide.read(0, 0, width, height, mpp=0.25 * 2**i), level)
        beyond = slide.read(SIZE[0] - 10, SIZE[1] - 10, 20, 20, mpp=0.25)
        assert (beyond[10:] == 255).all() and (beyond[:, 10:] == 255).all()
        copy = pickle.loads(pickle.dumps(slide))
        np.testing.assert_array_equal(copy.read(500, 400, 90, 80, mpp=0.25), image[400:480, 500:590])
        copy.close()
    assert content_id(path)


def test_jpeg_tiles_in_sub_directories_equal_tifffiles(tmp_path, image):
    path = ome_tiff(tmp_path / "a.ome.tif", image, compression="jpeg")
    with tifffile.TiffFile(path) as tiff, open_slide(path) as slide:
        for i, level in enumerate(tiff.series[0].levels):
            pixels = level.asarray()
            np.testing.assert_array_equal(slide.read(0, 0, *pixels.shape[1::-1], mpp=0.25 * 2**i), pixels)


def test_um_per_px_may_be_in_any_unit_and_must_be_there(tmp_path, image):
    small = image[:300, :300]
    with open_slide(ome_tiff(tmp_path / "nm.ome.tif", small, mpp=250, unit="nm")) as slide:
        assert slide.mpp0 == pytest.approx(0.25)
    with open_slide(ome_zarr(tmp_path / "mm.zarr", small, mpp=0.0005, unit="millimeter")) as slide:
        assert slide.mpp0 == pytest.approx(0.5)
    for path in (
        ome_tiff(tmp_path / "pixel.ome.tif", small, mpp=1.0, unit="pixel"),
        ome_tiff(tmp_path / "none.ome.tif", small, mpp=None),
        ome_zarr(tmp_path / "none.zarr", small, unit=None),
    ):
        with pytest.raises(ScaleError, match="mpp_override"):
            open_slide(path)
        with open_slide(path, mpp_override=0.5) as slide:
            assert slide.mpp0 == 0.5


def test_tags_that_contradict_the_ome_metadata_are_told_with_both_figures(tmp_path, image):
    path = ome_tiff(tmp_path / "a.ome.tif", image[:300, :300], mpp=0.25)
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        places = [tags[name].valueoffset for name in ("XResolution", "YResolution")]
        unit = tags["ResolutionUnit"].valueoffset
    with open(path, "r+b") as file:
        for place in places:
            file.seek(place)
            file.write((20000).to_bytes(4, "little") + (1).to_bytes(4, "little"))
        file.seek(unit)
        file.write((3).to_bytes(2, "little"))
    with open_slide(path) as slide:
        assert slide.mpp0 == 0.25
        assert any("0.25 um/px (its OME metadata)" in said and "0.5" in said for said in slide.doubts)


@pytest.mark.parametrize("kind", ["fluorescence", "sixteen", "stack", "two", "zarr_two", "zarr_sixteen"])
def test_what_is_no_colour_is_refused_in_a_sentence(tmp_path, image, kind):
    small = np.ascontiguousarray(image[:300, :300])
    path, match = tmp_path / "a.ome.tif", "not red, green and blue"
    if kind == "fluorescence":
        ome_tiff(path, small, planar=True, names=["DAPI", "FITC", "Cy5"])
        match = "DAPI, FITC, Cy5"
    elif kind == "sixteen":
        ome_tiff(path, small.astype(np.uint16) * 16)
        match = "16 bits a channel"
    elif kind == "stack":
        tifffile.imwrite(path, np.stack([small] * 3), metadata={"axes": "ZYXS"}, photometric="rgb", tile=(128, 128))
        match = "a stack .3 along Z"
    elif kind == "two":
        tifffile.imwrite(path, np.moveaxis(small, -1, 0)[:2], metadata={"axes": "CYX"}, tile=(128, 128))
    elif kind == "zarr_two":
        path = ome_zarr(tmp_path / "a.zarr", small[..., :2])
    else:
        path, match = ome_zarr(tmp_path / "a.zarr", small.astype(np.uint16)), "16 bits a channel"
    with pytest.raises(SlideError, match=match):
        open_slide(path, mpp_override=0.5)


def test_a_chunk_that_is_missing_is_lost_and_not_black(tmp_path, image):
    path = ome_zarr(tmp_path / "a.zarr", image, axes="yxc")
    with open_slide(path) as slide:
        next(path.glob("0/*1*1*")).unlink()
        whole = slide.thumbnail(mpp=0.25)[0]
        assert (whole[256:512, 256:512] == 255).all() and len(slide.lost) == 1
        np.testing.assert_array_equal(whole[512:], image[512:])


def test_a_damaged_ome_tiff_is_a_slides_failure(tmp_path, image):
    path = ome_tiff(tmp_path / "a.ome.tif", image)
    with open_slide(path) as slide:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 4])
        slide.close()
        with pytest.raises(SlideError, match="a.ome.tif"):
            slide.read(1000, 800, 200, 200, mpp=0.25)
    with pytest.raises(SlideError, match="a.ome.tif"):
        open_slide(path)
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match="b.zarr"):
        open_slide(tmp_path / "b.zarr")
