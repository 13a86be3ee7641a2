"""What lies beside the tissue: glass of whatever tint, found from the slide itself; haze; what is not bright field."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["brightest", "darkest", "glass_colour", "haze", "not_bright_field", "roughness", "whitened"]

#: Side of the window, in pixels, in which roughness is measured (at 8 um/px 40 um: some nuclei).
_WINDOW_PX = 5

#: Glass is as smooth as this (grey levels), bright, of a pale tint, and covers at least this share of the slide.
_SMOOTH = 3.0
_GLASS_LEAST = 185
_GLASS_MOST_TINT = 60
_GLASS_SHARE = 0.005
#: Pixels that were never scanned are written as white; glass of a pink tint beside them is tissue.
_NEVER_SCANNED = 254
_PINK = 10
#: Taken where the slide shows no glass at all.
_USUAL_GLASS = 245.0

#: Stain that ran out of the section is pale (colourfulness below this) and as smooth as the glass around it.
_HAZE_MOST_COLOUR = 45.0

#: In bright field the brightest tenth of a slide has at least this in every channel: it is glass, or pale tissue. In
#: fluorescence what is bright is so in one channel or two.
_DARK = 64
_BRIGHTEST_SHARE = 0.1
#: Three grey planes: where something is darker than glass by this much, and next to nothing of it has colour.
_DARKER = 40
_NO_COLOUR = 8
_COLOURED_SHARE = 0.002
_LEAST_SEEN_PX = 200


def brightest(image: np.ndarray) -> np.ndarray:
    """The largest channel of each pixel, (H, W), of (H, W, 3): NumPy's own ``max(axis=2)`` takes ten times as long."""
    red, green, blue = np.moveaxis(image, 2, 0)
    return np.maximum(np.maximum(red, green), blue)


def darkest(image: np.ndarray) -> np.ndarray:
    """The smallest channel of each pixel, as `brightest`."""
    red, green, blue = np.moveaxis(image, 2, 0)
    return np.minimum(np.minimum(red, green), blue)


def not_bright_field(image: np.ndarray) -> str:
    """Why a small picture of a slide, (H, W, 3) uint8, is not one of stained tissue in bright field; else empty."""
    lowest = darkest(image)
    if np.quantile(lowest, 1 - _BRIGHTEST_SHARE) < _DARK:
        return (
            "the background of this slide is dark, as in fluorescence. Tissue is looked for on bright-field slides "
            "(H&E) only: leave this slide out, or run without a tissue mask where that is offered."
        )
    lowest = lowest.astype(np.int16)
    seen = lowest < np.quantile(lowest, 0.99) - _DARKER
    if seen.sum() >= _LEAST_SEEN_PX:
        coloured = brightest(image)[seen] - lowest[seen] > _NO_COLOUR
        if coloured.mean() < _COLOURED_SHARE:
            return (
                "nothing on this slide has colour: it is a grey picture in three channels, where H&E is pink and blue. "
                "Give the colour scan."
            )
    return ""


def roughness(image: np.ndarray) -> np.ndarray:
    """Standard deviation of grey levels in a small window around each pixel, mean of the channels, (H, W) float32."""
    pixels, size = image.astype(np.float32), (_WINDOW_PX, _WINDOW_PX)
    mean = cv2.blur(pixels, size)
    red, green, blue = np.moveaxis(np.sqrt(np.maximum(cv2.blur(pixels * pixels, size) - mean * mean, 0)), 2, 0)
    return (red + green + blue) / np.float32(3)


def glass_colour(image: np.ndarray, rough: np.ndarray) -> np.ndarray:
    """RGB of the glass: the brightest smooth colour that covers some of the slide; near white where there is none."""
    smooth = rough <= _SMOOTH
    blank = smooth & (darkest(image) >= _NEVER_SCANNED)
    tinted = image[smooth & ~blank]
    if len(tinted) >= _GLASS_SHARE * rough.size:
        light = tinted.mean(axis=1, dtype=np.float32)
        near = tinted[light >= np.quantile(light, 0.99) - 8]
        red, green, blue = colour = np.median(near, axis=0)
        believed = (
            len(near) >= _GLASS_SHARE * rough.size
            and colour.min() >= _GLASS_LEAST
            and np.ptp(colour) <= _GLASS_MOST_TINT
        )
        if believed and not (blank.mean() > _GLASS_SHARE and min(red, blue) - green > _PINK):
            return colour.astype(np.float32)
    return np.full(3, 255.0 if blank.mean() > _GLASS_SHARE else _USUAL_GLASS, np.float32)


def whitened(image: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """The picture divided by the colour of the glass, (H, W, 3) float32, glass at 255."""
    return np.minimum(image.astype(np.float32) * (255.0 / np.maximum(glass, 1)).astype(np.float32), 255.0)


def haze(colourfulness: np.ndarray, rough: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """Where stain lies beside the section, (H, W) bool: pale, and as smooth as the bare glass (a mask)."""
    noise = float(np.median(rough[bare])) if bare.any() else 1.0
    return (colourfulness < _HAZE_MOST_COLOUR) & (rough <= np.clip(2 * noise + 0.8, 2.0, 3.0))
