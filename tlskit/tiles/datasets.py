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
from tlskit.tiles.normalisation import check_normalisation, normalise
from tlskit.tiles.pngs import read_tile

__all__ = ["TileDataset", "augment_tile"]

log = logging.getLogger(__name__)

#: Slides kept open at a time; the least recently used one is let go of first.
MAX_OPEN_SLIDES = 64

#: Colour jitter, mild: stains differ more than this between laboratories, less between slides of one. No hue: it
#: would cost nine times as much as all the rest, 4 % of a training step on a CPU.
BRIGHTNESS, CONTRAST, SATURATION = 0.15, 0.15, 0.15

_TILE_COLUMNS = ("tile_id", "slide_id", "x_px0", "y_px0", "size_px0")


class TileDataset:
    """Tiles of a table, read as images and masks when they are asked for.

    A mask's pixel is 1 (target), 0 (background) or `IGNORED`: of a class to be ignored, or of a tile that
    lies in a damaged part of its slide, which is white and ignored as a whole.

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
        self._slide_ids, self._tile_ids = self.tiles["slide_id"].tolist(), self.tiles["tile_id"].tolist()
        self.lost: dict[str, str] = {}
        self._boxes_px0 = self.tiles[["x_px0", "y_px0", "size_px0"]].to_numpy(np.float64)
        self._slides: OrderedDict = OrderedDict()
        self._truths: dict[str, Truth] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, index: int, *, seed: int | Sequence[int] = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """One tile as it is stored: image uint8 ``(3, H, W)`` (channels last in memory) and mask uint8 ``(H, W)``.

        With ``augment`` the tile is turned and coloured by `seed`: the same seed gives the same pixels, in whatever
        thread and order.
        """
        if self.tiles_dir is not None:
            image, mask = read_tile(self.tiles_dir / self._slide_ids[index] / str(self._tile_ids[index]), self.tile_px)
        else:
            image, mask = self._from_slide(index)
        image, mask = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)
        return augment_tile(image, mask, seed=seed) if self.augment else (image, mask)

    def batch(self, indices: Sequence[int], *, seeds: Sequence = ()) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Several tiles: images ``(B, 3, H, W)`` float32 channels last, masks ``(B, 1, H, W)`` float32, indices."""
        images = torch.empty(
            (len(indices), 3, self.tile_px, self.tile_px), dtype=torch.uint8, memory_format=torch.channels_last
        )
        masks = torch.empty((len(indices), 1, self.tile_px, self.tile_px), dtype=torch.float32)
        for place, index in enumerate(indices):
            images[place], masks[place, 0] = self.read(int(index), seed=seeds[place] if len(seeds) else 0)
        return normalise(images, self.normalisation), masks, torch.as_tensor(np.asarray(indices, dtype=np.int64))

    def _from_slide(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        slide_id = self._slide_ids[index]
        slide = self._slide(slide_id)
        x_px0, y_px0, size_px0 = self._boxes_px0[index]
        x_px, y_px, size_px = (int(v) for v in units.px0_to_px((x_px0, y_px0, size_px0), self.mpp, slide.mpp0))
        if size_px != self.tile_px:
            raise ParameterError(
                f"Tile {self._tile_ids[index]} covers {size_px} px at {self.mpp:g} um/px, but `tile_px` is "
                f"{self.tile_px}: the tiles were cut at another magnification or tile size. Run 01_tiling again."
            )
        try:
            image = slide.read(x_px, y_px, size_px, size_px, mpp=self.mpp)
        except SlideGoneError:
            raise
        except SlideError as error:
            # A damaged part stays damaged: the tile is left out in every epoch alike.
            return self._lost(index, error)
        return image, self._truth(slide_id).coded_at(x_px, y_px, size_px, size_px, mpp=self.mpp)

    def _lost(self, index: int, error: SlideError) -> tuple[np.ndarray, np.ndarray]:
        tile_id = self._tile_ids[index]
        if tile_id not in self.lost:
            self.lost[tile_id] = str(error)
            log.warning("Tile %s is left out: %s", tile_id, error)
        shape = (self.tile_px, self.tile_px)
        return np.full((*shape, 3), 255, np.uint8), np.full(shape, IGNORED, np.uint8)

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
    image: torch.Tensor, mask: torch.Tensor, *, seed: int | Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One of the eight flips and quarter turns, and mild colour jitter; the mask follows the geometry.

    Parameters
    ----------
    image, mask
        uint8 ``(3, S, S)``, and any ``(S, S)``.
    seed
        Decides everything. torchvision's random transforms draw from torch's global generator instead, which threads
        would share with the network's own dropout; so their functional forms are used, with numbers drawn here.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        image, mask = v2.horizontal_flip(image), v2.horizontal_flip(mask)
    turns = int(rng.integers(4))
    image, mask = torch.rot90(image, turns, (-2, -1)), torch.rot90(mask, turns, (-2, -1))
    image = v2.adjust_brightness(image, 1 + BRIGHTNESS * rng.uniform(-1, 1))
    image = v2.adjust_contrast(image, 1 + CONTRAST * rng.uniform(-1, 1))
    image = v2.adjust_saturation(image, 1 + SATURATION * rng.uniform(-1, 1))
    return image, mask
