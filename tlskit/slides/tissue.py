"""Where there is tissue on a bright-field slide: found at low resolution, asked at any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from tlskit import units
from tlskit.errors import SlideError
from tlskit.slides.slide import Slide

__all__ = ["Tissue", "tissue_mask"]

#: Bounds of the threshold on colourfulness (largest minus smallest of R, G, B, glass made white, 0-255). Below the
#: lower lies the noise of JPEG and sensor, so that empty glass has no tissue; the upper is under the palest stroma,
#: so that a field full of tissue is not split into pale and dark.
COLOURFULNESS_BOUNDS = (9.0, 18.0)

#: Haematoxylin and eosin both take more green than red out of the light; green and blue ink do the opposite.
_INK_GREEN_OVER_RED = 14.0
#: Black ink: darker than any tissue averaged over 8 um, and without colour.
_INK_BLACK = 75.0
_INK_GREY = 30.0
_INK_MIN_UM2 = 20_000.0
_INK_MARGIN_UM = 48.0

#: In bright field the brightest tenth of a slide has at least this in every channel: it is glass, or pale tissue. In
#: fluorescence what is bright is so in one channel or two.
_DARK = 64
_BRIGHTEST_SHARE = 0.1


@dataclass(frozen=True)
class Tissue:
    """A tissue mask of a whole slide.

    Attributes
    ----------
    mask : (H, W) bool
        Pixel (i, j) covers ``mpp`` um squared from the slide's top left; True is tissue.
    mpp : float
        um per pixel of the mask.
    mpp0 : float
        um per level-0 pixel of its slide.
    """

    mask: np.ndarray
    mpp: float
    mpp0: float

    @property
    def area_mm2(self) -> float:
        """Area of tissue in mm2."""
        return units.area_mm2(int(self.mask.sum()), self.mpp)

    def fractions(self, x_px0, y_px0, size_px0) -> np.ndarray:
        """Fraction of each square box that is tissue, (N,) float64; what lies off the slide is none.

        Boxes are given by their top-left corners and sides in level-0 pixels, arrays or numbers.
        """
        scale = self.mpp0 / self.mpp
        x, y, size = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) * scale for v in (x_px0, y_px0, size_px0)))
        inside = self._sum(x + size, y + size) - self._sum(x, y + size) - self._sum(x + size, y) + self._sum(x, y)
        return np.clip(inside / size**2, 0, 1)

    def at(self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float) -> np.ndarray:
        """The mask on a working lattice, (height_px, width_px) bool, by the pixel under each centre."""
        scale = mpp / self.mpp
        columns = np.floor((x_px + np.arange(width_px) + 0.5) * scale).astype(np.int64)
        rows = np.floor((y_px + np.arange(height_px) + 0.5) * scale).astype(np.int64)
        height, width = self.mask.shape
        # Many working rows share a row of the mask: each of those is looked up once, then copied.
        unique, copies = np.unique(np.clip(rows, 0, height - 1), return_inverse=True)
        found = self.mask[np.ix_(unique, np.clip(columns, 0, width - 1))][copies]
        found[(rows < 0) | (rows >= height)] = False
        found[:, (columns < 0) | (columns >= width)] = False
        return found

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return cv2.integral(self.mask.astype(np.uint8)).astype(np.float64)

    def _sum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tissue pixels left of and above a position; linear within a pixel, hence exact."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        i, j = np.minimum(y.astype(np.int64), height - 1), np.minimum(x.astype(np.int64), width - 1)
        v, u = y - i, x - j
        c = self._cumulative
        top = c[i, j] * (1 - u) + c[i, j + 1] * u
        return top * (1 - v) + (c[i + 1, j] * (1 - u) + c[i + 1, j + 1] * u) * v


def tissue_mask(
    slide: Slide,
    *,
    mpp: float = 8.0,
    min_object_um2: float = 20_000.0,
    min_hole_um2: float = 20_000.0,
    closing_um: float = 24.0,
) -> Tissue:
    """Find the tissue of a bright-field slide by its colour.

    Glass is made white; what is more colourful than Otsu's threshold (kept within `COLOURFULNESS_BOUNDS`) is tissue.
    Green, blue and black ink is taken out with a margin. Gaps are closed, small holes filled, small objects dropped.
    Regions of the slide that cannot be read count as no tissue and are recorded in ``slide.lost``.

    Parameters
    ----------
    slide : Slide
    mpp : float
        um/px of the mask; a slide scanned more coarsely gives a mask at its own um/px.
    min_object_um2, min_hole_um2 : float
        Smaller pieces of tissue are dropped, smaller holes in it filled.
    closing_um : float
        Gaps up to about twice this are bridged.

    Raises
    ------
    SlideError
        If the background is dark (fluorescence): there, colour does not tell tissue from glass.
    """
    image, mpp = slide.thumbnail(mpp=max(mpp, slide.mpp0))
    if np.quantile(image.min(axis=2), 1 - _BRIGHTEST_SHARE) < _DARK:
        raise SlideError(
            f"{slide.path}: the background of this slide is dark, as in fluorescence. Tissue is looked for on "
            "bright-field slides (H&E) only: leave this slide out, or run without a tissue mask where that is offered."
        )
    white = _glass_made_white(image)
    smooth = cv2.GaussianBlur(white, (0, 0), max(0.5, 8.0 / mpp))
    colourfulness = smooth.max(axis=2) - smooth.min(axis=2)
    low, high = COLOURFULNESS_BOUNDS
    flat = colourfulness.max() - colourfulness.min() < 1
    threshold = high if flat else float(np.clip(threshold_otsu(colourfulness), low, high))
    mask = colourfulness > threshold
    ink = _ink(smooth, mpp)
    mask &= ~ink
    radius = max(1, round(closing_um / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc, borderType=cv2.BORDER_REPLICATE) > 0
    pixel_um2 = mpp**2
    mask = ~_large(~mask, min_hole_um2 / pixel_um2, connectivity=4)
    mask = _large(mask, min_object_um2 / pixel_um2, connectivity=8)
    return Tissue(mask & ~ink, float(mpp), float(slide.mpp0))


def _glass_made_white(image: np.ndarray) -> np.ndarray:
    """Divide by the colour of the glass, where there is enough of it to measure; (H, W, 3) float32."""
    pixels = image.reshape(-1, 3)
    glass = pixels[(pixels.min(1) > 200) & (pixels.max(1) - pixels.min(1) < 20) & (pixels.min(1) < 255)]
    colour = np.median(glass, axis=0) if len(glass) > 0.005 * len(pixels) else np.full(3, 245.0)
    return np.minimum(image.astype(np.float32) * (255.0 / colour).astype(np.float32), 255.0)


def _ink(smooth: np.ndarray, mpp: float) -> np.ndarray:
    """Pen marks, (H, W) bool, with a margin."""
    red, green = smooth[..., 0], smooth[..., 1]
    brightest = smooth.max(axis=2)
    ink = green - red > _INK_GREEN_OVER_RED
    ink |= (brightest < _INK_BLACK) & (brightest - smooth.min(axis=2) < _INK_GREY)
    ink = _large(ink, _INK_MIN_UM2 / mpp**2, connectivity=8)
    if not ink.any():
        return ink
    radius = max(1, round(_INK_MARGIN_UM / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(ink.astype(np.uint8), disc) > 0


def _large(mask: np.ndarray, min_px: float, *, connectivity: int) -> np.ndarray:
    """Connected parts of at least `min_px` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False
    return keep[labels]
