"""Tiles as PNG files for other tools: ``<slide_id>/<tile_id>.png`` and ``<tile_id>-mask.png``.

The context of a tile, where there is one, lies beside it: ``<tile_id>-context.png`` and ``<tile_id>-context-mask.png``.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tlskit.errors import ParameterError, RunError
from tlskit.files import writing
from tlskit.outlines import IGNORED

__all__ = ["context_stem", "read_tile", "write_tile"]

#: Grey in a mask of background, target and (127) what is ignored: other tools take what is below 128 as background.
MASK_GREYS = np.zeros(256, np.uint8)
MASK_GREYS[[1, IGNORED]] = 255, 127


def context_stem(stem: Path) -> Path:
    """Where a tile's context lies, for `write_tile` and `read_tile`."""
    return stem.with_name(stem.name + "-context")


def write_tile(stem: Path, image: np.ndarray, mask: np.ndarray) -> None:
    """Write ``<stem>.png``, of RGB ``(H, W, 3) uint8``, and its mask: 1 target, 0 background, or `IGNORED`."""
    for ending, pixels in ((".png", image[..., ::-1]), ("-mask.png", MASK_GREYS[mask])):
        path = stem.with_name(stem.name + ending)
        done, data = cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise OSError(f"{path}: the tile could not be encoded as PNG.")
        with writing(path) as temporary:
            temporary.write_bytes(data.tobytes())


def read_tile(stem: Path, tile_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask as `write_tile` was given them.

    Raises
    ------
    RunError
        If a file is missing or damaged.
    ParameterError
        If the tile (or context) is not `tile_px` wide and high.
    """
    image = cv2.cvtColor(_read(stem.with_name(stem.name + ".png"), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    greys = _read(stem.with_name(stem.name + "-mask.png"), cv2.IMREAD_GRAYSCALE)
    mask = np.where(greys == MASK_GREYS[IGNORED], np.uint8(IGNORED), (greys > 127).view(np.uint8))
    if image.shape != (tile_px, tile_px, 3) or mask.shape != image.shape[:2]:
        raise ParameterError(
            f"PNG tile {stem.name} is {image.shape[1]}x{image.shape[0]} px, its mask {mask.shape[1]}x"
            f"{mask.shape[0]}; asked for are {tile_px}. Run 01_tiling again."
        )
    return image, mask


def _read(path: Path, flags: int) -> np.ndarray:
    if not path.is_file():
        raise RunError(f"There is no tile {path.name} in {path.parent.name}: run 01_tiling with `tile_store: png`.")
    # Not cv2.imread: on Windows it cannot open a path with letters beyond ASCII.
    image = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if image is None:
        raise RunError(f"{path.name} is damaged: it cannot be read as PNG. Run 01_tiling again.")
    return image
