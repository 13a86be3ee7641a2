"""Write whole-slide images: tiled, pyramidal JPEG TIFFs that OpenSlide and QuPath open as Aperio slides."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from tlskit import files
from tlskit.errors import ParameterError

__all__ = ["write_slide"]

#: A plain TIFF counts its bytes in 32 bits: images with more raw bytes than this are written as BigTIFF.
_BIGTIFF_FROM_BYTES = 2**31


def write_slide(
    path: str | os.PathLike,
    image,
    *,
    mpp: float,
    objective_power: float,
    quality: int = 85,
    tile_px: int = 256,
) -> Path:
    """Write an RGB image as a whole-slide TIFF.

    The file is a tiled JPEG pyramid (each level half the one before, by 2x2 means, down to a single tile).
    Its first ImageDescription has the form of an Aperio slide, from which OpenSlide takes um/px and objective
    power; the TIFF resolution tags say the same um/px. The file is written under a temporary name in the same
    folder and then renamed, so that a half-written slide never stands under its final name. The same pixels
    and arguments give the same bytes.

    Tiles that hang over the right or bottom edge are filled up with black before compression, so that the
    last 16 pixels there may differ from `image` by more than JPEG does elsewhere.

    Parameters
    ----------
    path : path
        File to write; an existing one is replaced. The folder is made if it is missing.
    image : (H, W, 3) uint8 array, or pyvips.Image with three uint8 bands
        RGB at level 0. A pyvips image is streamed, so that it may be larger than memory.
    mpp : float
        um per pixel of level 0.
    objective_power : float
        Magnification of the scanner's objective, such as 20 or 40.
    quality : int
        JPEG quality, 1 to 100. Chroma is stored at half resolution below 90.
    tile_px : int
        Side of a tile in pixels, a multiple of 16.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    ParameterError
        If the image is not 8-bit RGB, or a number is out of range.
    """
    path = Path(path)
    for name, value in (("mpp", mpp), ("objective_power", objective_power)):
        if not (math.isfinite(value) and value > 0):
            raise ParameterError(f"write_slide({path.name}): {name} must be positive, not {value!r}.")
    if not 1 <= quality <= 100:
        raise ParameterError(f"write_slide({path.name}): quality must lie in 1..100, not {quality!r}.")
    if tile_px < 16 or tile_px % 16:
        raise ParameterError(f"write_slide({path.name}): tile_px must be a multiple of 16, not {tile_px!r}.")

    import pyvips

    source = _as_vips(image, path.name).copy(xres=1000.0 / mpp, yres=1000.0 / mpp)  # copy: tags are set below
    width, height = source.width, source.height
    description = (
        f"Aperio Image Library tlskit\n{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px}) "
        f"JPEG/RGB Q={quality}|AppMag = {objective_power:g}|MPP = {mpp:.10g}"
    )
    source.set_type(pyvips.GValue.gstr_type, "image-description", description)

    with files.writing(path) as temporary:
        source.tiffsave(
            str(temporary),
            tile=True,
            tile_width=tile_px,
            tile_height=tile_px,
            compression="jpeg",
            Q=int(quality),
            pyramid=True,
            bigtiff=width * height * 3 >= _BIGTIFF_FROM_BYTES,
            resunit="cm",
        )
    return path


def _as_vips(image, name: str):
    """The image as pyvips sees it, after checking that it is 8-bit RGB."""
    import pyvips

    if isinstance(image, pyvips.Image):
        if image.bands != 3 or image.format != "uchar":
            raise ParameterError(
                f"write_slide({name}): expected three uint8 bands, found {image.bands} of {image.format}. "
                "Convert first, e.g. image.colourspace('srgb').extract_band(0, n=3).cast('uchar')."
            )
        return image.copy(interpretation="srgb")
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ParameterError(
            f"write_slide({name}): expected an RGB image (height, width, 3) uint8, found {image.shape} {image.dtype}."
        )
    height, width = image.shape[:2]
    image = np.ascontiguousarray(image)
    return pyvips.Image.new_from_memory(image, width, height, 3, "uchar").copy(interpretation="srgb")
