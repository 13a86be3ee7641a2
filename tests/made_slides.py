"""Slides that tests make for themselves: every kind of JPEG coding, pyramid and size that a reader meets."""

from pathlib import Path

import cv2
import numpy as np
import pyvips
import tifffile

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NO_DATA = f"needs the real slides of {DATA.name}/slides beside the repository's folder"


def picture(width: int, height: int, *, seed: int = 0, glass: int = 242) -> np.ndarray:
    """A colourful, smooth random picture (height, width, 3) uint8 whose upper quarter is glass."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(
        rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    image[: height // 4] = glass
    return image


def aperio_description(width: int, height: int, *, mpp: float | None, power: float | None) -> str:
    fields = "" if power is None else f"|AppMag = {power:g}"
    fields += "" if mpp is None else f"|MPP = {mpp:g}"
    return f"Aperio Image Library made\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=80{fields}"


def vips_slide(
    path: Path, image: np.ndarray, *, mpp=0.25, power=40, quality=80, description=True, xres=None, yres=None,
    icc: bytes | None = None, **options
) -> Path:  # fmt: skip
    """Levels 1, 2, 4, ...; YCbCr 4:2:0 below quality 90, RGB 4:4:4 from there on; generic without `description`."""
    height, width = image.shape[:2]
    vips = pyvips.Image.new_from_array(image).copy(interpretation="srgb", xres=xres or 1.0, yres=yres or 1.0)
    if description:
        text = aperio_description(width, height, mpp=mpp, power=power)
        vips.set_type(pyvips.GValue.gstr_type, "image-description", text)
    if icc is not None:
        vips.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    settings = {"tile_width": 256, "tile_height": 256, "compression": "jpeg", "Q": quality, "pyramid": True}
    vips.tiffsave(str(path), tile=True, resunit="cm", **(settings | options))
    return path


#: Ways to code JPEG tiles with tifffile: photometric, compressionargs, subsampling.
CODINGS = {
    "rgb_444": ("rgb", {"level": 80, "colorspace": "rgb", "outcolorspace": "rgb"}, None),
    "ycbcr_444": ("ycbcr", {"level": 80, "colorspace": "ycbcr", "outcolorspace": "ycbcr"}, (1, 1)),
    "ycbcr_422": ("ycbcr", {"level": 80, "colorspace": "ycbcr", "outcolorspace": "ycbcr"}, (2, 1)),
    "ycbcr_420": ("ycbcr", {"level": 80, "colorspace": "ycbcr", "outcolorspace": "ycbcr"}, (2, 2)),
}


def quartering_slide(
    path: Path, image: np.ndarray, *, coding="ycbcr_420", mpp=0.25, power=40, tile_px=240, factors=(1, 4, 16)
) -> Path:
    """Levels 1, 4, 16 as Aperio's scanners write them."""
    height, width = image.shape[:2]
    photometric, arguments, subsampling = CODINGS[coding]
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for factor in factors:
            level = cv2.resize(image, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
            if photometric == "ycbcr":  # tifffile hands pixels to the encoder as they are
                level = cv2.cvtColor(level, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
            out.write(
                level,
                tile=(tile_px, tile_px),
                photometric=photometric,
                compression="jpeg",
                compressionargs=arguments,
                subsampling=subsampling,
                metadata=None,
                subfiletype=0 if factor == 1 else 1,
                description=aperio_description(width, height, mpp=mpp, power=power),
            )
    return path


def patch_tile(path: Path, column: int, row: int, change, *, page: int = 0) -> None:
    """Replace the coded bytes of one tile by ``change(bytes)`` of the same length; None makes the tile absent."""
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[page]
        index = row * -(-tags.imagewidth // tags.tilewidth) + column
        offset, count = tags.dataoffsets[index], tags.databytecounts[index]
        counts = tags.tags["TileByteCounts"]
        where = counts.valueoffset + index * (counts.valueoffset and {3: 2, 4: 4, 16: 8}[counts.dtype])
        width = {3: 2, 4: 4, 16: 8}[counts.dtype]
    with open(path, "r+b") as file:
        if change is None:
            file.seek(where)
            file.write(bytes(width))
        else:
            file.seek(offset)
            data = bytes(change(file.read(count)))
            assert len(data) == count
            file.seek(offset)
            file.write(data)
