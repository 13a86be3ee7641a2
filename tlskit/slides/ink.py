"""Pen marks told from tissue by what ink is: flat, strong, of a colour no stain has, or a stroke on glass."""

from __future__ import annotations

import cv2
import numpy as np

from tlskit.slides.glass import brightest, darkest, roughness

__all__ = ["ink_mask", "large"]

#: Greener than red and than blue: no stain of tissue is.
_GREEN_OVER_RED = 25.0
_GREEN_OVER_BLUE = 8.0
#: Blue and cyan ink: green over red as in a blue counterstain, but far stronger, and flat where nuclei are grainy.
_BLUE_OVER_RED = 14.0
_BLUE_STRONG = 110.0
_BLUE_DARK = (60.0, 50.0)
#: Orange and yellow ink; brown (DAB) is weaker and grainy.
_ORANGE_STRONG = 150.0
_FLAT = 6.0
#: Black ink: darker than any tissue averaged over 8 um, without colour, and flat.
_BLACK = 75.0
_GREY = 30.0
_BLACK_FLAT = 10.0
#: Red, pink and purple ink has the colours of stains: it is ink only as a stroke, evenly strong, over bare glass.
_STROKE_STRONG = 100.0
_STROKE_FLAT = 3.0
_STROKE_LONG = 3.0
_STROKE_ON_GLASS = 0.3

_MIN_UM2 = 20_000.0
_MARGIN_UM = 48.0


def ink_mask(white: np.ndarray, smooth: np.ndarray, bare: np.ndarray, mpp: float) -> np.ndarray:
    """Pen marks with a margin, (H, W) bool.

    Parameters
    ----------
    white, smooth : (H, W, 3) float32
        The slide with its glass made white, and that smoothed over 8 um.
    bare : (H, W) bool
        Glass.
    mpp : float
        um per pixel.
    """
    red, green, blue = (smooth[..., i] for i in range(3))
    highest, lowest = brightest(smooth), darkest(smooth)
    strength = highest - lowest
    rough = roughness(white)
    ink = (green - red > _GREEN_OVER_RED) & (green - blue > _GREEN_OVER_BLUE)
    flat = rough <= _FLAT
    strong = (strength > _BLUE_STRONG) | ((strength > _BLUE_DARK[0]) & (lowest < _BLUE_DARK[1]))
    ink |= flat & (green - red > _BLUE_OVER_RED) & strong
    ink |= flat & (red >= green) & (green - blue > 0.25 * strength) & (strength > _ORANGE_STRONG)
    ink |= (rough <= _BLACK_FLAT) & (highest < _BLACK) & (strength < _GREY)
    ink = large(ink, _MIN_UM2 / mpp**2, connectivity=8)
    ink |= _strokes((strength > _STROKE_STRONG) & (rough <= _FLAT), rough, bare, mpp)
    if not ink.any():
        return ink
    return cv2.dilate(ink.astype(np.uint8), _disc(_MARGIN_UM / mpp)) > 0


def _strokes(strong: np.ndarray, rough: np.ndarray, bare: np.ndarray, mpp: float) -> np.ndarray:
    """Parts that are long, evenly coloured and lie on glass along much of their edge."""
    found = np.zeros_like(strong)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(strong.astype(np.uint8), connectivity=8)
    beside_glass = cv2.dilate(bare.astype(np.uint8), _disc(_MARGIN_UM / mpp)) > 0
    for label in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= _MIN_UM2 / mpp**2):
        if label == 0:
            continue
        x, y, width, height, area = (int(v) for v in stats[label])
        box = np.s_[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1]
        part = labels[box] == label
        inside = cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        edge = part & (inside <= 1.5)
        across = 2 * float(inside.max())
        if (
            area / across**2 >= _STROKE_LONG
            and np.median(rough[box][part]) <= _STROKE_FLAT
            and beside_glass[box][edge].mean() >= _STROKE_ON_GLASS
        ):
            found[box] |= part
    return found


def large(mask: np.ndarray, min_px: float, *, connectivity: int) -> np.ndarray:
    """Connected parts of at least `min_px` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False
    return keep[labels]


def _disc(radius_px: float) -> np.ndarray:
    radius = max(1, round(radius_px))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
