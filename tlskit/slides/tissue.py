"""Where there is tissue on a bright-field slide: found at low resolution, asked at any."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from tlskit import units
from tlskit.errors import SlideError
from tlskit.slides.glass import brightest, darkest, glass_colour, haze, not_bright_field, roughness, whitened
from tlskit.slides.ink import ink_mask, large
from tlskit.slides.slide import Slide

__all__ = ["Tissue", "searched_once", "tissue_mask"]

#: Bounds of the threshold on colourfulness (largest minus smallest of R, G, B, glass made white, 0-255). Below the
#: lower lies the noise of JPEG and sensor, so that empty glass has no tissue; the upper is under the palest stroma,
#: so that a field full of tissue is not split into pale and dark.
COLOURFULNESS_BOUNDS = (9.0, 18.0)

#: Shares of a stain that is not H&E: brown (DAB) on this much of the tissue; and H&E has eosin on at least this much.
_BROWN_SHARE = 0.02
_EOSIN_SHARE = 0.02

#: Within `searched_once`: tissue by what was searched, and how.
_FOUND: ContextVar[dict[tuple, Tissue] | None] = ContextVar("found", default=None)


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
    stain : str
        What speaks against H&E, as a sentence; empty where nothing does.
    ink_mm2 : float
        Area of pen marks, with their margin; no tissue is looked for there.
    """

    mask: np.ndarray
    mpp: float
    mpp0: float
    stain: str = ""
    ink_mm2: float = 0.0

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


@contextlib.contextmanager
def searched_once() -> Iterator[None]:
    """A slide's tissue is searched once in here, however many ask for it: for networks one after the other over it.

    A slide of which a part could not be read is searched each time.
    """
    token = _FOUND.set({}) if _FOUND.get() is None else None
    try:
        yield
    finally:
        if token:
            _FOUND.reset(token)


def tissue_mask(
    slide: Slide,
    *,
    mpp: float = 8.0,
    min_object_um2: float = 20_000.0,
    min_hole_um2: float = 20_000.0,
    closing_um: float = 24.0,
) -> Tissue:
    """Find the tissue of a bright-field slide by its colour.

    Glass is found from the slide itself, whatever its tint, and made white; what is more colourful than Otsu's
    threshold (kept within `COLOURFULNESS_BOUNDS`) is tissue. Haze (stain beside the section: pale, and as smooth as the
    glass) is none. Ink is taken out with a margin of 48 um: green, blue, cyan, orange and black where it is flat and
    strong; red, pink and purple, which stains are too, only as a stroke that lies on glass along a third of its edge.
    Brown ink is not told from DAB.
    Gaps are closed, small holes filled, small objects dropped. Regions of the slide that cannot be read count as no
    tissue and are recorded in ``slide.lost``.

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
        If the background is dark (fluorescence) or nothing has colour: there, colour does not tell tissue from glass.
    """
    found, settings = _FOUND.get(), (mpp, min_object_um2, min_hole_um2, closing_um)
    if found is None:
        return _search(slide, *settings)
    what = (slide.path, slide.mpp0, slide.apply_icc, *settings)
    tissue = found.get(what) or _search(slide, *settings)
    if not slide.lost:
        found[what] = tissue
    return tissue


def _search(slide: Slide, mpp: float, min_object_um2: float, min_hole_um2: float, closing_um: float) -> Tissue:
    image, mpp = slide.thumbnail(mpp=max(mpp, slide.mpp0))
    fault = not_bright_field(image)
    if fault:
        raise SlideError(f"{slide.path}: {fault}")
    rough = roughness(image)
    white = whitened(image, glass_colour(image, rough))
    smooth = cv2.GaussianBlur(white, (0, 0), max(0.5, 8.0 / mpp))
    colourfulness = brightest(smooth) - darkest(smooth)
    mask = colourfulness > _threshold(colourfulness)
    ink = ink_mask(white, smooth, ~mask, mpp)
    mask &= ~ink & ~haze(colourfulness, rough, ~mask)
    radius = max(1, round(closing_um / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc, borderType=cv2.BORDER_REPLICATE) > 0
    pixel_um2 = mpp**2
    mask = ~large(~mask, min_hole_um2 / pixel_um2, connectivity=4)
    mask = large(mask, min_object_um2 / pixel_um2, connectivity=8) & ~ink
    stain = _not_hematoxylin_and_eosin(white[mask])
    return Tissue(mask, float(mpp), float(slide.mpp0), stain, units.area_mm2(int(ink.sum()), mpp))


def _threshold(colourfulness: np.ndarray) -> float:
    from skimage.filters import threshold_otsu  # brings half of scipy, which only a search for tissue needs

    low, high = COLOURFULNESS_BOUNDS
    flat = colourfulness.max() - colourfulness.min() < 1
    return high if flat else float(np.clip(threshold_otsu(colourfulness), low, high))


def _not_hematoxylin_and_eosin(pixels: np.ndarray) -> str:
    """What speaks against H&E in the tissue's pixels, (N, 3), glass at 255."""
    if not len(pixels):
        return ""
    red, green, blue = (-np.log((pixels + 1.0) / 256.0)).T
    brown = float(((blue > 1.1 * green) & (blue > 0.3)).mean())
    eosin = float((red < 0.6 * green).mean())
    if brown > _BROWN_SHARE:
        return f"{brown:.0%} of its tissue is brown, as in immunohistochemistry (DAB), not H&E."
    if eosin < _EOSIN_SHARE:
        return f"{eosin:.1%} of its tissue is pink: a stain without eosin, or one far bluer than H&E is."
    return ""
