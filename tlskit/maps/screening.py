"""Where a fine network looks: a coarse network's map, cut low and grown, as a screen over the slide.

Where tissue is and where to look are two questions: a screen never changes the area of tissue. What the coarse network
could not read is looked at by the fine one. Pixels of tissue that are not looked at are marked in the map
(`ProbMap.unseen`): they hold 0, which is no probability of the fine network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from tlskit.errors import MapError, ParameterError
from tlskit.maps.blending import Layout
from tlskit.maps.probmaps import ProbMap
from tlskit.maps.windows import invalid_boxes
from tlskit.metrics import cut
from tlskit.slides import Tissue

__all__ = ["SCREEN_MPP", "Screen", "Windows", "distance_um", "make_screen", "reduced", "screen_of", "windows_over"]

#: A screen is held at this many um/px or a little more: 30 MB for a slide of 22 x 22 mm, and no coarser than a window.
SCREEN_MPP = 4.0


@dataclass(frozen=True)
class Screen:
    """Where to look.

    Attributes
    ----------
    area : Tissue
        Its mask is True where to look; pixel (i, j) covers ``area.mpp`` um squared from the slide's top left.
    facts : dict
        What it was made of, as a map's metadata carries it: ``checkpoint_sha256`` and ``magnification`` of the coarse
        network, ``threshold``, ``grow_um``, and the ``sha256`` of its pixels.
    """

    area: Tissue
    facts: dict = field(compare=False)

    def touches(self, x_px0, y_px0, size_px0) -> np.ndarray:
        """Whether each square box, in level-0 pixels, meets any pixel of it: bool, in the shape of the boxes."""
        scale = self.area.mpp0 / self.area.mpp
        height, width = self.area.mask.shape
        left, top, side = (np.asarray(v, np.float64) * scale for v in (x_px0, y_px0, size_px0))
        # A billionth of a pixel is rounding, and no part of a box.
        x0, y0 = (np.floor(at + 1e-9).astype(np.int64) for at in (left, top))
        x1, y1 = (np.ceil(at + side - 1e-9).astype(np.int64) for at in (left, top))
        x0, x1, y0, y1 = (np.clip(at, 0, end) for at, end in ((x0, width), (x1, width), (y0, height), (y1, height)))
        total = self._counted
        return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] > 0

    @cached_property
    def _counted(self) -> np.ndarray:
        """Pixels above and left of each corner, (H + 1, W + 1) int32."""
        return cv2.integral(self.area.mask.astype(np.uint8))


def reduced(coarse: ProbMap, *, mpp: float = SCREEN_MPP) -> tuple[np.ndarray, float]:
    """A map in blocks of at least `mpp` um, each with the *largest* stored value in it: (H, W) uint8, and its um/px.

    What the map marks invalid is 255: nobody knows what is there.
    """
    side = max(1, math.ceil(mpp / coarse.mpp - 1e-9))
    width, height = coarse.size_px
    found = np.zeros((-(-height // side), -(-width // side)), np.uint8)
    rows = side * max(1, coarse.block_px // side)
    for y, band in coarse.bands(rows):
        for x, top, w, h in coarse.invalid:
            band[max(0, top - y) : max(0, top + h - y), x : x + w] = 255
        padded = np.pad(band, ((0, -len(band) % side), (0, -width % side)))
        # rows against rows, then columns against columns: a tenth of the time of one maximum over two short axes
        high = np.maximum.reduce([padded[row::side] for row in range(side)])
        blocks = np.maximum.reduce([high[:, column::side] for column in range(side)])
        found[y // side : y // side + len(blocks)] = blocks
    return found, coarse.mpp * side


def distance_um(mask: np.ndarray, mpp: float) -> np.ndarray:
    """Distance of each pixel's centre to the nearest pixel of `mask`, um, (H, W) float32; inf where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * np.float32(mpp)


def make_screen(coarse: ProbMap, *, threshold: float, grow_um: float) -> Screen:
    """Where a coarse map reaches `threshold`, grown by `grow_um`.

    Parameters
    ----------
    coarse : ProbMap
        Of the same slide.
    threshold : float
        Probability from which a place is looked at; 0 looks everywhere.
    grow_um : float
        Everything within this distance is looked at, too.

    Raises
    ------
    ParameterError
        If the growth is negative or no number, or the threshold is outside [0, 1].
    MapError
        If the coarse map is itself the result of a screen: what it did not look at is not known to be empty.
    """
    if not 0 <= grow_um < math.inf:
        raise ParameterError(f"`screen_grow_um` should be 0 or more um, not {grow_um!r}.")
    if coarse.unseen:
        raise MapError(
            f"{coarse.path.name} was itself predicted under a screen. Screen with the map of a network that looked at "
            "all of the tissue."
        )
    values, mpp = reduced(coarse)
    mask = values >= cut(threshold)
    facts = {
        "checkpoint_sha256": coarse.metadata.get("checkpoint_sha256", ""),
        "magnification": coarse.metadata.get("magnification"),
        "threshold": float(threshold),
    }
    plain = Screen(Tissue(mask, mpp, float(coarse.metadata["mpp0"])), facts)
    return screen_of(plain, distance_um(mask, mpp), grow_um)


def screen_of(like: Screen, away_um: np.ndarray, grow_um: float) -> Screen:
    """A screen of everything within `grow_um` of something, by the distances of `distance_um`; else as `like`."""
    mask = away_um <= grow_um
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    return Screen(dataclasses.replace(like.area, mask=mask), like.facts | {"grow_um": float(grow_um), "sha256": digest})


class Windows(NamedTuple):
    """The windows of a map that exists: which lie on tissue, which a screen touches, which pixels some of them cover.

    Attributes
    ----------
    layout : blending.Layout
    size_px : (int, int)
        Of the map, working pixels.
    mpp, mpp0 : float
        um per working pixel and per level-0 pixel.
    on_tissue : (rows, columns) bool
    """

    layout: Layout
    size_px: tuple[int, int]
    mpp: float
    mpp0: float
    on_tissue: np.ndarray

    def touched(self, screen: Screen) -> np.ndarray:
        """Windows that a screen touches, (rows, columns) bool."""
        return screen.touches(*self.layout.boxes_px0(self.size_px, self.mpp, self.mpp0))

    def unseen(self, screen: Screen) -> list[tuple[int, int, int, int]]:
        """What a run under a screen would not look at, as its map's `ProbMap.unseen` says it."""
        run = self.touched(screen) & self.on_tissue
        return [tuple(box) for box in invalid_boxes(self.layout, self.size_px, self.on_tissue, run)]

    def spread(self, values: np.ndarray, grid_mpp: float, grid_px: tuple[int, int]) -> np.ndarray:
        """The largest value of the windows over each pixel's centre, on a grid of the same origin.

        Parameters
        ----------
        values : (rows, columns)
            0 or more, of each window.
        grid_mpp, grid_px
            um/px of the grid; its width and height.

        Returns
        -------
        (H, W), dtype of `values`; 0 where there is no window.
        """
        at = []
        for length, count in zip(grid_px, values.shape[::-1], strict=True):
            centre, starts = (np.arange(length) + 0.5) * grid_mpp / self.mpp, np.arange(count) * self.layout.stride_px
            first = np.searchsorted(starts + self.layout.window_px, centre, side="right")
            at.append((first, np.searchsorted(starts, centre, side="right") - first))
        (columns, wide), (rows, high) = at
        padded = np.pad(values, ((0, 1), (0, 1)))  # what lies behind the last window is under none
        across = np.zeros((len(padded), len(columns)), values.dtype)
        for step in range(int(wide.max(initial=0))):
            here = np.where(step < wide, columns + step, -1)
            np.maximum(across, padded[:, here], out=across)
        found = np.zeros((len(rows), len(columns)), values.dtype)
        for step in range(int(high.max(initial=0))):
            here = np.where(step < high, rows + step, -1)
            np.maximum(found, across[here], out=found)
        return found

    def depth(self, run: np.ndarray, grid_mpp: float, grid_px: tuple[int, int]) -> np.ndarray:
        """How many windows of `run` lie over each pixel's centre, (H, W) int32, on a grid as in `spread`."""
        total = np.pad(run.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        ends = []
        for length, count in zip(grid_px, run.shape[::-1], strict=True):
            centre, starts = (np.arange(length) + 0.5) * grid_mpp / self.mpp, np.arange(count) * self.layout.stride_px
            first = np.searchsorted(starts + self.layout.window_px, centre, side="right")
            ends.append((first, np.searchsorted(starts, centre, side="right")))
        (x_first, x_last), (y_first, y_last) = ends
        rows = total[y_last] - total[y_first]
        return (rows[:, x_last] - rows[:, x_first]).astype(np.int32)


def windows_over(prob_map: ProbMap, tissue: Tissue) -> Windows:
    """The windows by which a map was made, and which of them lie on tissue, or where the slide could not be read.

    Raises
    ------
    MapError
        If the map was made of windows in other tissue than `tissue`.
    """
    made, metadata = prob_map.metadata["parameters"], prob_map.metadata
    layout = Layout(int(made["window_px"]), int(made["stride_px"]), np.ones(1))
    mpp0 = float(metadata["mpp0"])
    x, y, side = layout.boxes_px0(prob_map.size_px, prob_map.mpp, mpp0)
    on_tissue = np.ones(x.shape, bool)
    if made.get("tissue_only", True):
        on_tissue = np.asarray(tissue.fractions(x.ravel(), y.ravel(), side.ravel())).reshape(x.shape) > 0
    parts = ("windows", "windows_lost", "windows_screened")
    planned = sum(int(metadata.get(part, 0)) for part in parts) if "windows" in metadata else int(on_tissue.sum())
    if on_tissue.sum() != planned and metadata.get("lost"):  # what could not be read was tried, tissue or not
        for box in metadata["lost"]:
            across = (x + side > box["x_px0"]) & (x < box["x_px0"] + box["width_px0"])
            on_tissue |= across & (y + side > box["y_px0"]) & (y < box["y_px0"] + box["height_px0"])
    elif on_tissue.sum() != planned:
        raise MapError(
            f"{prob_map.path.name} was made of {planned} windows, and {on_tissue.sum()} lie on the tissue that is "
            "found now: the slide has changed, or what is tissue. Predict it again."
        )
    return Windows(layout, prob_map.size_px, prob_map.mpp, mpp0, on_tissue)
