"""Colours of a scan brought to sRGB by the ICC profile that it carries.

Each stored tile is corrected when it is decoded, by whichever way it is decoded, and before anything is averaged: the
profile speaks of the scanner's own pixels.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from tlskit.errors import SlideError

__all__ = ["Colours", "Corrected", "of_slide"]


class Colours:
    """A profile's way to sRGB; may be pickled, and shared by threads.

    Attributes
    ----------
    name : str
        Description of the profile.
    """

    def __init__(self, profile: bytes):
        self._profile = profile
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        self.name = ImageCms.getProfileDescription(opened).strip() or "unnamed profile"
        # The profile's own intent, as OpenSlide's documentation has it.
        self._transform = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), "RGB", "RGB", ImageCms.getDefaultIntent(opened)
        )

    def correct(self, pixels: np.ndarray) -> np.ndarray:
        """``(H, W, 3) uint8`` of the scanner to sRGB."""
        return np.asarray(self._transform.apply(Image.fromarray(pixels)))

    def __reduce__(self):
        return Colours, (self._profile,)


class Corrected:
    """A level (see `tlskit.slides.bands`) whose tiles have corrected colours; white beyond its edge stays white."""

    def __init__(self, level, colours: Colours):
        self._level, self._colours = level, colours
        self.index, self.size_px, self.tile_px = level.index, level.size_px, level.tile_px

    def tile(self, column: int, row: int, buffer: np.ndarray | None = None):
        pixels, lost = self._level.tile(column, row, buffer)
        width, height = (
            min(side, size - at * side)
            for side, size, at in zip(self.tile_px, self.size_px, (column, row), strict=True)
        )
        pixels[:height, :width] = self._colours.correct(np.ascontiguousarray(pixels[:height, :width]))
        return pixels, lost


def of_slide(scan) -> Colours | None:
    """The profile of a scan, or None where it has none.

    Raises
    ------
    SlideError
        If it has one that cannot be used.
    """
    try:
        profile = scan.icc_profile()
        return Colours(profile) if profile else None
    except (ImageCms.PyCMSError, OSError) as error:
        raise SlideError(
            f"{scan.path}: its ICC profile cannot be used ({error}). Leave the slide out, or run with "
            "`apply_icc: false` on all slides."
        ) from error
