"""Tiles as tensors: pixels read from the slide and masks drawn from the polygons when they are needed."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torchvision.transforms.v2 import functional as v2

from tlskit import units
from tlskit.cohort import open_row, slide_rows
from tlskit.errors import ParameterError, RunError, SlideError, SlideGoneError
from tlskit.outlines import IGNORED, Truth, read_truth
from tlskit.slides import Slide
from tlskit.tiles.context import context_faults, context_origin, own_field_only
from tlskit.tiles.normalisation import check_normalisation, normalise
from tlskit.tiles.pngs import context_stem, read_tile

__all__ = ["TileDataset", "augment_tile"]

log = logging.getLogger(__name__)

#: Slides kept open at a time; the least recently used one is let go of first.
MAX_OPEN_SLIDES = 64

#: Colour jitter, mild: stains differ more than this between laboratories, less between slides of one. No hue: it
#: would cost nine times as much as all the rest, 4 % of a training step on a CPU.
BRIGHTNESS, CONTRAST, SATURATION = 0.15, 0.15, 0.15

_TILE_COLUMNS = ("tile_id", "slide_id", "x_px0", "y_px0", "size_px0")


class _DamagedError(Exception):
    """A part of a slide cannot be read; the rest of it can."""


class TileDataset:
    """Tiles of a table, read as images and masks when they are asked for.

    A mask's pixel is 1 (target), 0 (background) or `IGNORED`: of a class to be ignored, or of a tile that
    lies in a damaged part of its slide (or whose context does), which is white and ignored as a whole.

    Slides are opened when first needed, and at most `MAX_OPEN_SLIDES` stay open; the polygons of a slide are parsed
    once. Several threads may read at a time.

    Parameters
    ----------
    tiles
        Table with ``tile_id, slide_id, x_px0, y_px0, size_px0``; item i is its i-th row.
    manifest
        The cohort, with a row for each slide of `tiles`.
    magnification, tile_px
        What the tiles were cut at; checked against the table.
    target_class
        Annotation class (or several) that makes the mask. A slide without it has empty masks: tiling has already
        refused those that are faults.
    ignore_class
        Annotation class (or several) whose area is ignored.
    region_class
        Annotation class (or several) of regions outside which only the target counts.
    resolution_by, apply_icc, detail_mpp
        Of `tlskit.slides.slide.open_slide`.
    tile_store, tiles_dir
        ``slide`` reads from the slides; ``png`` reads ``<tiles_dir>/<slide_id>/<tile_id>.png`` and ``...-mask.png``.
    augment
        Flips, quarter turns and mild colour jitter (`augment_tile`).
    normalisation
        One of `tlskit.tiles.normalisation.NORMALISATIONS`.
    context_ratio, context_px
        Each tile comes with its context, the field of `context_px` pixels at `context_ratio` times the um/px round the
        same centre (`tlskit.tiles.context_origin`), white beyond the slide. A ratio of 0: tiles alone.
    context_of
        One of `tlskit.tiles.CONTEXT_OF`. ``other`` draws a tile of another slide of the table (of the same, where there
        is but one slide), by the seed of the reading; a tile that is the only one gets a white context.
    context_masks
        Give masks of the contexts, too.

    Attributes
    ----------
    lost : dict of str to str
        Tiles that could not be read so far, and why.

    Raises
    ------
    ParameterError
        If the table was cut at another magnification or tile size, or lacks a column.
    RunError
        If a slide of the table is not in the manifest, or a PNG tile is missing.
    """

    def __init__(
        self,
        tiles: pd.DataFrame,
        manifest: pd.DataFrame,
        *,
        magnification: float,
        tile_px: int,
        target_class: str | Sequence[str],
        ignore_class: str | Sequence[str] | None = None,
        region_class: str | Sequence[str] | None = None,
        resolution_by: str = "mpp",
        apply_icc: bool = False,
        detail_mpp: float = 0.0,
        tile_store: str = "slide",
        tiles_dir: str | Path | None = None,
        augment: bool = False,
        normalisation: str = "divide_255",
        context_ratio: int = 0,
        context_px: int = 256,
        context_of: str = "field",
        context_masks: bool = False,
    ):
        missing = [name for name in _TILE_COLUMNS if name not in tiles]
        if missing:
            raise ParameterError(f"The tile table lacks the column(s) {', '.join(missing)}: make it with 01_tiling.")
        if tile_store not in ("slide", "png"):
            raise ParameterError(f"`tile_store` should be 'slide' or 'png', not {tile_store!r}.")
        if tile_store == "png" and tiles_dir is None:
            raise ParameterError("`tile_store: png` needs `tiles_dir`, the folder in which 01_tiling wrote the tiles.")
        if tile_store == "png" and detail_mpp:
            raise ParameterError("`detail_mpp` needs `tile_store: slide`: PNG tiles hold all the detail of their arm.")
        check_normalisation(normalisation)
        if faults := context_faults(int(tile_px), context_px, context_ratio, context_of):
            raise ParameterError(". ".join(faults) + ".")
        self.context_ratio, self.context_px, self.context_of = context_ratio, context_px, context_of
        self.context_masks = context_masks
        self.tiles = tiles.reset_index(drop=True)
        self.tile_px = int(tile_px)
        self.mpp = units.mpp_for_magnification(magnification)
        self.target_class = target_class
        self._not_target = {"ignore_class": ignore_class, "region_class": region_class}
        self._reading = {"resolution_by": resolution_by, "apply_icc": apply_icc, "detail_mpp": detail_mpp}
        self.tiles_dir = Path(tiles_dir) if tile_store == "png" else None
        self.augment = augment
        self.normalisation = normalisation
        self._rows = {row.slide_id: row for row in slide_rows(manifest)}
        strangers = sorted(set(self.tiles["slide_id"]) - set(self._rows))
        if strangers:
            raise RunError(
                f"{len(strangers)} slide(s) of the tile table are not in the manifest, first {strangers[0]!r}. The "
                "tiles were cut from another manifest: run 01_tiling again."
            )
        self._slide_codes = pd.factorize(self.tiles["slide_id"])[0]
        self._slide_ids, self._tile_ids = self.tiles["slide_id"].tolist(), self.tiles["tile_id"].tolist()
        self.lost: dict[str, str] = {}
        self._boxes_px0 = self.tiles[["x_px0", "y_px0", "size_px0"]].to_numpy(np.float64)
        self._slides: OrderedDict = OrderedDict()
        self._truths: dict[str, Truth] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, index: int, *, seed: int | Sequence[int] = 0) -> tuple[torch.Tensor, ...]:
        """One tile as it is stored: image uint8 ``(3, H, W)`` (channels last in memory) and mask uint8 ``(H, W)``.

        Where there is a context, its image ``(3, C, C)`` follows, and its mask ``(C, C)`` with `context_masks`. With
        ``augment`` all are turned and coloured alike by `seed`: the same seed gives the same pixels, in whatever thread
        and order.
        """
        try:
            parts = [*self._stored(index), *(self._context(index, seed) if self.context_ratio else ())]
        except _DamagedError as error:
            # A damaged part stays damaged: the tile is left out in every epoch alike.
            parts = self._lost(index, error)
        parts = [torch.from_numpy(part) for part in parts]
        parts = [part.permute(2, 0, 1) if part.ndim == 3 else part for part in parts]
        if self.augment:
            parts = augment_tile(*parts, seed=seed)
        return tuple(parts if self.context_masks else parts[:3])

    def batch(self, indices: Sequence[int], *, seeds: Sequence = (), raw: bool = False) -> tuple[torch.Tensor, ...]:
        """Several tiles: images ``(B, 3, H, W)`` float32 channels last, masks ``(B, 1, H, W)`` float32, indices.

        Where there is a context, images ``(B, 3, C, C)`` of it follow, and masks ``(B, 1, C, C)`` with `context_masks`.
        With `raw` images and masks are uint8, as they are stored: a quarter of the bytes on the way to a GPU, where
        `finish` makes of them what they are without.
        """
        count, sides = len(indices), [self.tile_px, self.context_px][: 1 + bool(self.context_ratio)]
        images, masks = [], []
        for side in sides:
            images.append(torch.empty((count, 3, side, side), dtype=torch.uint8, memory_format=torch.channels_last))
            masks.append(torch.empty((count, 1, side, side), dtype=torch.uint8))
        for place, index in enumerate(indices):
            parts = self.read(int(index), seed=seeds[place] if len(seeds) else 0)
            for number, part in enumerate(parts):  # image and mask of the tile, then of the context
                (masks[number // 2][place, 0] if number % 2 else images[number // 2][place]).copy_(part)
        numbers = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        made = images[0], masks[0], numbers, *images[1:], *(masks[1:] if self.context_masks else ())
        return made if raw else self.finish(*made)

    def finish(
        self, images: torch.Tensor, masks: torch.Tensor, numbers: torch.Tensor, *context: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """A raw batch, on any device, as `batch` gives it otherwise: images normalised, masks float32."""
        more = [normalise(part, self.normalisation) for part in context[:1]] + [part.float() for part in context[1:]]
        return normalise(images, self.normalisation), masks.float(), numbers, *more

    def _stored(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self.tiles_dir is not None:
            return read_tile(self._stem(index), self.tile_px)
        x_px, y_px, slide = self._place(index)
        return self._from_slide(index, slide, x_px, y_px, self.tile_px, self.mpp)

    def _context(self, index: int, seed: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What is shown as the context of a tile, and its mask."""
        shown, side, ratio = index, self.context_px, self.context_ratio
        if self.context_of == "other":
            shown = self._another(index, seed)
            if shown is None:
                return np.full((side, side, 3), 255, np.uint8), np.full((side, side), IGNORED, np.uint8)
        if self.tiles_dir is not None:
            image, mask = read_tile(context_stem(self._stem(shown)), side)
        else:
            x_px, y_px, slide = self._place(shown)
            x_px, y_px = context_origin(x_px, y_px, self.tile_px, side, ratio)
            image, mask = self._from_slide(shown, slide, x_px, y_px, side, ratio * self.mpp)
        if self.context_of == "self":
            image = own_field_only(image, self.tile_px, ratio)
            mask = own_field_only(mask, self.tile_px, ratio, outside=IGNORED)
        return image, mask

    def _another(self, index: int, seed: int | Sequence[int]) -> int | None:
        """A tile of another slide, drawn by the seed; of the same where there is but one; None for a lone tile."""
        others = np.flatnonzero(self._slide_codes != self._slide_codes[index])
        others = others if len(others) else np.delete(np.arange(len(self)), index)
        if not len(others):
            return None
        return int(np.random.default_rng((index, *np.atleast_1d(seed).tolist())).choice(others))

    def _stem(self, index: int) -> Path:
        return self.tiles_dir / self._slide_ids[index] / str(self._tile_ids[index])

    def _place(self, index: int) -> tuple[int, int, Slide]:
        """A tile's corner in working pixels, and its slide."""
        slide = self._slide(self._slide_ids[index])
        box_px = units.px0_to_px(self._boxes_px0[index], self.mpp, slide.mpp0)
        x_px, y_px, size_px = (int(v) for v in box_px)
        if size_px != self.tile_px:
            raise ParameterError(
                f"Tile {self._tile_ids[index]} covers {size_px} px at {self.mpp:g} um/px, but `tile_px` is "
                f"{self.tile_px}: the tiles were cut at another magnification or tile size. Run 01_tiling again."
            )
        return x_px, y_px, slide

    def _from_slide(
        self, index: int, slide: Slide, x_px: int, y_px: int, size_px: int, mpp: float
    ) -> tuple[np.ndarray, np.ndarray]:
        try:
            image = slide.read(x_px, y_px, size_px, size_px, mpp=mpp)
        except SlideGoneError:
            raise
        except SlideError as error:
            raise _DamagedError(str(error)) from error
        return image, self._truth(self._slide_ids[index]).coded_at(x_px, y_px, size_px, size_px, mpp=mpp)

    def _lost(self, index: int, error: _DamagedError) -> list[np.ndarray]:
        tile_id = self._tile_ids[index]
        if tile_id not in self.lost:
            self.lost[tile_id] = str(error)
            log.warning("Tile %s is left out: %s", tile_id, error)
        sides = [self.tile_px, self.context_px][: 1 + bool(self.context_ratio)]
        shapes = [shape for side in sides for shape in ((side, side, 3), (side, side))]
        return [np.full(shape, 255 if len(shape) == 3 else IGNORED, np.uint8) for shape in shapes]

    def _slide(self, slide_id: str):
        with self._lock:
            if slide_id in self._slides:
                self._slides.move_to_end(slide_id)
                return self._slides[slide_id]
            slide = open_row(self._rows[slide_id], **self._reading)
            self._slides[slide_id] = slide
            # Not closed here: another thread may be reading it; it closes when the last one lets go of it.
            while len(self._slides) > MAX_OPEN_SLIDES:
                self._slides.popitem(last=False)
            return slide

    def _truth(self, slide_id: str) -> Truth:
        slide, row = self._slide(slide_id), self._rows[slide_id]
        with self._lock:
            if slide_id not in self._truths:
                self._truths[slide_id] = (
                    read_truth(row, slide, self.target_class, missing="empty", **self._not_target)
                    if row.annotation_path
                    else Truth([], mpp0=slide.mpp0)
                )
            return self._truths[slide_id]

    def close(self) -> None:
        """Close all slides; reading again reopens them."""
        with self._lock:
            while self._slides:
                self._slides.popitem()[1].close()


def augment_tile(
    image: torch.Tensor, mask: torch.Tensor, *context: torch.Tensor, seed: int | Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """One of the eight flips and quarter turns, and mild colour jitter; the mask follows the geometry.

    Parameters
    ----------
    image, mask
        uint8 ``(3, S, S)``, and any ``(S, S)``.
    context
        Image ``(3, C, C)`` and mask ``(C, C)`` of the tile's context, or nothing: turned as the tile is, and coloured
        by the same function of a pixel's colour.
    seed
        Decides everything. torchvision's random transforms draw from torch's global generator instead, which threads
        would share with the network's own dropout; so their functional forms are used, with numbers drawn here.
    """
    rng = np.random.default_rng(seed)
    parts = [image, mask, *context]
    if rng.random() < 0.5:
        parts = [v2.horizontal_flip(part) for part in parts]
    turns = int(rng.integers(4))
    parts = [torch.rot90(part, turns, (-2, -1)) for part in parts]
    brightness, contrast, saturation = (1 + most * rng.uniform(-1, 1) for most in (BRIGHTNESS, CONTRAST, SATURATION))
    bright = v2.adjust_brightness(parts[0], brightness)
    parts[0] = v2.adjust_saturation(v2.adjust_contrast(bright, contrast), saturation)
    if context:
        wide = v2.adjust_brightness(parts[2], brightness)
        # Contrast moves colours away from the mean grey: the tile's, also for its context.
        grey = v2.rgb_to_grayscale(bright).float().mean()
        wide = (wide.float() * contrast + grey * (1 - contrast)).clamp_(0, 255).to(torch.uint8)
        parts[2] = v2.adjust_saturation(wide, saturation)
    return tuple(parts)
