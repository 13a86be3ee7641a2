"""Colours of a scan brought to sRGB by the ICC profile that it carries.

Each stored tile is corrected when it is decoded, by whichever way it is decoded, and before anything is averaged: the
profile speaks of the scanner's own pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageCms

from tlskit.errors import SlideError
from tlskit.slides.directories import Directory

__all__ = ["Colours", "Corrected", "of_slide", "refuse_grey"]

_PALETTE = 3


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


def refuse_grey(scan, directories: Sequence[Directory]) -> None:
    """Refuse a TIFF whose level 0 is, by its tags, no 8-bit colour.

    Raises
    ------
    SlideError
    """
    own = next((d for d in directories if d.size_px == scan.level_sizes_px[0]), None)
    if own is None:
        return
    if own.bits != 8:
        raise SlideError(
            f"{scan.path}: it has {own.bits} bits a channel; tlskit reads 8-bit colour (H&E, bright field). Convert "
            "it with the scanner's software, so that glass is white: other programs guess where white lies."
        )
    if own.samples < 3 and own.photometric != _PALETTE:
        raise SlideError(
            f"{scan.path}: it has no colour ({own.samples} channel{'s' * (own.samples > 1)} of grey), where H&E has "
            "three. Give the colour scan."
        )


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
