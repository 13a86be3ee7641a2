"""Slides for the benchmarks, made on the spot and kept in ``outputs/benchmarks/work``."""

import os
from pathlib import Path

import cv2
import numpy as np
import tifffile

from tests.benchmarks.harness import WORK

#: um/px of level 0, as a nominal 40x scan has it.
MPP0 = 0.25
OBJECTIVE_POWER = 40
QUALITY = 80
TILE_PX = 256


def halving(side_px: int) -> Path:
    """A square slide with levels 1, 2, 4, ... (JPEG Q80, YCbCr 4:2:0, half glass, about 1.3 bit a pixel)."""
    return halving_of(WORK / f"halving_{side_px}.tif", side_px, side_px)


def halving_of(path: Path, width_px: int, height_px: int) -> Path:
    """The same of any size: tissue over the middle half of its height, glass above and below."""
    if not path.exists():
        import pyvips

        field = pyvips.Image.new_from_array(_tissue(4096)).copy(interpretation="srgb")
        glass = (pyvips.Image.black(width_px, height_px) + [243, 242, 244]).cast("uchar")
        tissue = field.replicate(-(-width_px // 4096), -(-height_px // 4096)).crop(0, 0, width_px, height_px // 2)
        picture = glass.insert(tissue, 0, height_px // 4)
        picture = picture.copy(interpretation="srgb", xres=1000 / MPP0, yres=1000 / MPP0)
        picture.set_type(pyvips.GValue.gstr_type, "image-description", _description(width_px, height_px))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.tif")
        picture.tiffsave(
            str(partial), tile=True, tile_width=TILE_PX, tile_height=TILE_PX, compression="jpeg", Q=QUALITY,
            pyramid=True, bigtiff=True, resunit="cm",
        )  # fmt: skip
        os.replace(partial, path)
    return path


def quartering(side_px: int) -> Path:
    """The same slide with levels 1, 4, 16, as Aperio's scanners write: the very same coded tiles."""
    path = WORK / f"quartering_{side_px}.tif"
    if not path.exists():
        source = halving(side_px)
        partial = path.with_suffix(".part.tif")
        with tifffile.TiffFile(source) as tiff, tifffile.TiffWriter(partial, bigtiff=True) as out:
            for level in (0, 2, 4):
                page = tiff.pages[level]
                coded = tiff.filehandle.read_segments(page.dataoffsets, page.databytecounts, sort=False)
                out.write(
                    (data for data, _ in coded),
                    shape=page.shape, dtype=page.dtype, tile=(TILE_PX, TILE_PX), photometric="ycbcr",
                    compression="jpeg", jpegtables=page.jpegtables, subsampling=(2, 2), metadata=None,
                    description=_description(side_px, side_px), subfiletype=0 if level == 0 else 1,
                )  # fmt: skip
        os.replace(partial, path)
    return path


def whole(width_px: int, height_px: int, tissue_fraction: float) -> Path:
    """A slide of full size with levels 1, 4, 16: one field of 4096 px over and over where there is tissue, else glass.

    Its coded tiles are copied, so that 80,000 x 60,000 px take seconds to make. Tissue is the fields nearest to the
    centre, up to `tissue_fraction` of the slide: a round section with a stepped edge.
    """
    path = WORK / f"whole_{width_px}x{height_px}_{tissue_fraction:g}.tif"
    if not path.exists():
        import simplejpeg

        field_px = 16 * TILE_PX
        rows, columns = -(-height_px // field_px), -(-width_px // field_px)
        y, x = np.mgrid[:rows, :columns] + 0.5
        distance = (x * field_px / width_px - 0.5) ** 2 + (y * field_px / height_px - 0.5) ** 2
        inside = np.zeros(rows * columns, bool)
        inside[
            np.argsort(distance.ravel(), kind="stable")[: round(tissue_fraction * width_px * height_px / field_px**2)]
        ] = True
        inside = inside.reshape(rows, columns)

        def coded(image):
            return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=QUALITY, colorsubsampling="420")

        glass = coded(np.full((TILE_PX, TILE_PX, 3), 243, np.uint8))
        picture = _tissue(field_px)
        partial = path.with_suffix(".part.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(partial, bigtiff=True) as out:
            for factor in (1, 4, 16):
                level = cv2.resize(picture, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
                n = field_px // factor // TILE_PX
                tiles = [
                    [coded(level[r * TILE_PX : (r + 1) * TILE_PX, c * TILE_PX : (c + 1) * TILE_PX]) for c in range(n)]
                    for r in range(n)
                ]
                height, width = height_px // factor, width_px // factor
                out.write(
                    (
                        tiles[r % n][c % n] if inside[r // n, c // n] else glass
                        for r in range(-(-height // TILE_PX))
                        for c in range(-(-width // TILE_PX))
                    ),
                    shape=(height, width, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), photometric="ycbcr",
                    compression="jpeg", subsampling=(2, 2), metadata=None,
                    description=_description(width_px, height_px), subfiletype=0 if factor == 1 else 1,
                )  # fmt: skip
        os.replace(partial, path)
    return path


def _description(width_px: int, height_px: int) -> str:
    size = f"{width_px}x{height_px}"
    return (
        f"Aperio Image Library made\n{size} [0,0 {size}] ({TILE_PX}x{TILE_PX}) "
        f"JPEG/RGB Q={QUALITY}|AppMag = {OBJECTIVE_POWER}|MPP = {MPP0}"
    )


def _tissue(side_px: int) -> np.ndarray:
    """A field that costs a JPEG decoder what H&E costs it: nuclei on a mottled ground, (side, side, 3) uint8."""
    rng = np.random.default_rng(1)

    def noise(sigma):
        field = rng.standard_normal((side_px // max(1, int(sigma / 2)),) * 2).astype(np.float32)
        field = cv2.resize(field, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        return field / field.std()

    nuclei = 1 / (1 + np.exp(-6 * (noise(14) - 1.0)))
    ground = 0.5 + 0.15 * noise(80) + 0.12 * noise(10)
    grain = 0.05 * noise(3)
    haematoxylin = np.clip(1.2 * nuclei + grain, 0, None)[..., None] * np.float32([0.65, 0.70, 0.29])
    eosin = np.clip(ground + grain, 0, None)[..., None] * np.float32([0.07, 0.75, 0.15])
    return np.clip(243 * np.exp(-haematoxylin - eosin), 0, 255).astype(np.uint8)
