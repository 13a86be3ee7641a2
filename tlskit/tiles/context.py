"""A tile's context: the wider field round the same centre, read at a coarser um/px.

The context of a tile is a square of `context_px` pixels at `ratio` times the tile's um/px. Training and inference take
its place from the one function here, so that a network meets on a slide what it was trained on.
"""

from __future__ import annotations

import numpy as np

from tlskit.errors import ParameterError

__all__ = ["CONTEXT_OF", "RATIOS", "context_faults", "context_origin", "other_windows", "own_field_only"]

#: How many times coarser than its tile a context may be; 0: the network sees the tile alone.
RATIOS = (0, 2, 4, 8)

#: What is shown as context: the field round the tile; or, as controls, the tile's own field at the context's um/px
#: (nothing that the tile does not hold), or the context of another tile (true to life, and of no use).
CONTEXT_OF = ("field", "self", "other")

#: Side in tile pixels of a cell of the network's deepest features, where tile and context meet.
CELL_PX = 32


def context_faults(tile_px: int, context_px: int, ratio: int, context_of: str = "field") -> list[str]:
    """What keeps a context from meeting its tile in whole cells of the network, each fault with its remedy."""
    if ratio not in RATIOS:
        return [f"`context_ratio` should be one of {', '.join(map(str, RATIOS))}, not {ratio!r}"]
    if context_of not in CONTEXT_OF:
        return [f"`context_of` should be one of {', '.join(CONTEXT_OF)}, not {context_of!r}"]
    if not ratio:
        return [f"`context_of: {context_of}` needs a `context_ratio`: 2, 4 or 8"] if context_of != "field" else []
    faults = []
    if tile_px % (2 * CELL_PX):
        faults.append(
            f"`tile_px` should be a multiple of {2 * CELL_PX} where there is a context, so that both have the same "
            f"centre between cells of the network; it is {tile_px}. Use {max(64, round(tile_px / 64) * 64)}"
        )
    if context_px % CELL_PX or context_px < CELL_PX:
        faults.append(
            f"`context_px` should be a multiple of {CELL_PX}, because the network halves its input five times; it is "
            f"{context_px}. Use {max(CELL_PX, round(context_px / CELL_PX) * CELL_PX)}"
        )
    elif context_px * ratio <= tile_px:
        faults.append(
            f"`context_px: {context_px}` at `context_ratio: {ratio}` covers {context_px * ratio} px of the tile's "
            f"lattice, and the tile itself {tile_px}: no context is left. Use a `context_px` of "
            f"{tile_px // ratio // CELL_PX * CELL_PX + CELL_PX} or more"
        )
    return faults


def context_origin(x_px, y_px, tile_px: int, context_px: int, ratio: int):
    """Top-left corner of the context that has the same centre as a tile.

    Parameters
    ----------
    x_px, y_px : int or int array
        Top-left corner of the tile in pixels of its own working lattice (`tlskit.units`: pixel i covers level-0
        ``[i d, (i + 1) d)``); it may lie outside the slide.
    tile_px : int
        Side of the tile in those pixels, even.
    context_px : int
        Side of the context in pixels of the context's lattice, which are `ratio` times as wide; even.
    ratio : int
        um/px of the context over um/px of the tile.

    Returns
    -------
    x_px, y_px : int or int64 array
        In pixels of the context's working lattice, whose origin is the slide's top-left corner too: pixel i covers
        level-0 ``[i r d, (i + 1) r d)``. ``slide.read(x, y, context_px, context_px, mpp=ratio * mpp)`` reads it, white
        beyond the slide. In tile pixels it begins at ``ratio * x`` and is ``ratio * context_px`` wide.

    Notes
    -----
    ``(x + tile_px / 2) / ratio - context_px / 2``: whole where ``x + tile_px / 2`` is a multiple of the ratio, as
    it is for whole strides of a grid; elsewhere the nearest whole pixel, half a context pixel off at most (4 tile
    pixels at ratio 8, an eighth of a cell of the network's deepest features).
    """
    if tile_px % 2 or context_px % 2:
        raise ParameterError(
            f"A tile and a context of {tile_px} and {context_px} px have no common middle: make both even."
        )

    def along(corner):
        whole = np.asarray(corner)
        if whole.dtype.kind not in "iu":
            raise ParameterError(f"A tile's corner is a whole number of working pixels, not {corner!r}.")
        found = (2 * whole.astype(np.int64) + tile_px + ratio) // (2 * ratio) - context_px // 2
        return found if found.ndim else int(found)

    return along(x_px), along(y_px)


def own_field_only(context: np.ndarray, tile_px: int, ratio: int, *, outside=255) -> np.ndarray:
    """A context of which only the tile's own field is left: the control that holds no new information.

    Parameters
    ----------
    context : (..., C, C, 3) uint8
        Or a mask ``(C, C)`` with `outside` as what is to stand there.
    tile_px, ratio
        Of `context_origin`.

    Returns
    -------
    array
        A copy, white (`outside`) beyond the ``tile_px / ratio`` pixels in the middle.
    """
    side_axes = (-3, -2) if context.ndim > 2 else (0, 1)
    side_px = context.shape[side_axes[0]]
    own_px = tile_px // ratio
    first = max(0, (side_px - own_px) // 2)
    middle = [slice(None)] * context.ndim
    for axis in side_axes:
        middle[axis] = slice(first, first + own_px)
    kept = np.full_like(context, outside)
    kept[tuple(middle)] = context[tuple(middle)]
    return kept


def other_windows(count: int) -> np.ndarray:
    """Whose context each of a slide's windows is shown under ``context_of: other``: half of them further on.

    Returns
    -------
    (count,) int64
        A window's number for each window, never its own; -1 (white) for a window that is the only one.
    """
    if count == 1:
        return np.array([-1], np.int64)
    return (np.arange(count, dtype=np.int64) + count // 2) % max(count, 1)
