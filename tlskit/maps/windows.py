"""Windows over a slide: how they lie, which of them are run, which stand for all, and what could not be predicted."""

from __future__ import annotations

import hashlib
import math
import zlib
from pathlib import Path

import cv2
import numpy as np

from tlskit import units
from tlskit.errors import ParameterError
from tlskit.maps.blending import Layout, hann_layout
from tlskit.maps.context import slide_context
from tlskit.networks import inputs
from tlskit.slides import tissue_mask

__all__ = [
    "count_to_check",
    "invalid_boxes",
    "layout_for",
    "looked_at",
    "made_of",
    "plan_windows",
    "spread_windows",
    "typical_windows",
    "windows_key",
]

_WINDOWS_A_CHECK = 500


def layout_for(checkpoint, *, overlap: float | None = None) -> Layout:
    """How windows lie: as large as the checkpoint's tiles, under Hann weights.

    Larger windows would need fewer products, but a network with squeeze-and-excitation sees the whole window.

    Parameters
    ----------
    checkpoint
        With ``tile_px`` and, unless `overlap` is given, ``overlap``.
    overlap : float, optional
        Share by which windows overlap; by default as in training.
    """
    return hann_layout(int(checkpoint.tile_px), getattr(checkpoint, "overlap", 0.5) if overlap is None else overlap)


def plan_windows(slide, layout, size_px, mpp, tissue) -> tuple[np.ndarray, float]:
    """Which windows to run, (rows, columns) bool, and the area of tissue in mm2."""
    xs, ys = layout.starts(size_px[0]), layout.starts(size_px[1])
    if tissue is False:
        return np.ones((len(ys), len(xs)), bool), units.area_mm2(size_px[0] * size_px[1], mpp)
    if tissue is None:
        tissue = tissue_mask(slide)
    x_px0, y_px0, side_px0 = layout.boxes_px0(size_px, mpp, slide.mpp0)
    fractions = tissue.fractions(x_px0.ravel(), y_px0.ravel(), side_px0.ravel())
    planned = (np.asarray(fractions) > 0).reshape(x_px0.shape)
    for box in slide.lost:
        # What could not be read when tissue was looked for is not glass: it is tried again here, and then either
        # predicted or marked invalid.
        across = (x_px0[0] + side_px0[0, 0] > box["x_px0"]) & (x_px0[0] < box["x_px0"] + box["width_px0"])
        down = (y_px0[:, 0] + side_px0[0, 0] > box["y_px0"]) & (y_px0[:, 0] < box["y_px0"] + box["height_px0"])
        planned |= down[:, None] & across
    return planned, float(tissue.area_mm2)


def looked_at(screen, slide, layout: Layout, size_px, mpp: float) -> np.ndarray:
    """Which windows a `screening.Screen` touches, (rows, columns) bool; all without one."""
    if screen is None:
        return np.ones([len(layout.starts(side)) for side in size_px[::-1]], bool)
    if not math.isclose(screen.area.mpp0, slide.mpp0, rel_tol=1e-6):
        raise ParameterError(
            f"The screen is of a slide with {screen.area.mpp0:g} um/px, {Path(slide.path).name} has {slide.mpp0:g}."
        )
    return screen.touches(*layout.boxes_px0(size_px, mpp, slide.mpp0))


def typical_windows(checkpoint, slide, layout, count: int) -> np.ndarray:
    """At most `count` windows of a slide as `predict_slide` would run them, rich in tissue: see `spread_windows`."""
    planned, _ = plan_windows(slide, layout, tuple(slide.size_px(checkpoint.mpp)), checkpoint.mpp, None)
    context = slide_context(checkpoint, slide, layout, planned)
    return spread_windows(slide, layout, checkpoint.mpp, planned, count, context)


def spread_windows(slide, layout, mpp: float, planned: np.ndarray, count: int, context=None) -> np.ndarray:
    """At most `count` of the planned windows, spread over the slide: ``(count, S, S, 3) uint8``, or with `context`.

    The innermost first: a window all of whose neighbours are planned, too, is full of tissue; one at the rim is half
    glass. What cannot be read is passed over.
    """
    side, context_px = layout.window_px, getattr(context, "px", 0)
    found = inputs.room(0, side, context_px)
    if count < 1 or not planned.any():
        return found
    depth = cv2.distanceTransform(np.pad(planned, 1).astype(np.uint8), cv2.DIST_C, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(planned)
    inner = np.argsort(-depth[rows, columns], kind="stable")[: max(count, len(rows) // 2)]
    inner.sort()  # in the order of rows, so that evenly spaced ones lie all over the slide
    picked = inner[np.linspace(0, len(inner) - 1, min(count, len(inner))).astype(int)]
    rows, columns = rows[picked], columns[picked]
    xy = np.stack([columns, rows], 1).astype(np.int64) * layout.stride_px
    read = slide.windows(xy, side, mpp=mpp, on_lost="skip")
    if context is not None:
        context.begin([(0, rows, columns)])
        read = context.beside(read, rows, columns)
    found, taken = inputs.room(len(xy), side, context_px), 0
    for _, window in read:
        if window is not None:
            found[taken] = window
            taken += 1
    return found[:taken]


def count_to_check(planned: int, path) -> int:
    """How many of a slide's planned windows an engine that was chosen before is looked at again by: at most 4.

    Plain float32 takes up to ten times as long as an engine: one window in 500 is a fiftieth of the slide's own work.
    Of slides with fewer windows some are picked, by their names, so that in every run the same ones are looked at.
    """
    return min(4, int(planned / _WINDOWS_A_CHECK + zlib.crc32(Path(path).name.encode()) / 2**32))


def invalid_boxes(layout: Layout, size_px, planned: np.ndarray, run: np.ndarray) -> list[list[int]]:
    """What should have been predicted and was not: boxes (x, y, width, height) in working pixels."""
    if np.array_equal(planned, run):
        return []
    edges, owners = [], []
    for size, count in zip(size_px, run.shape[::-1], strict=True):
        starts = np.arange(count) * layout.stride_px
        cuts = np.unique(np.clip(np.concatenate([starts, starts + layout.window_px, [0, size]]), 0, size))
        # between two cuts the same windows cover every pixel: those from `first` to before `last`
        first = np.searchsorted(starts + layout.window_px, cuts[:-1], side="right")
        last = np.searchsorted(starts, cuts[:-1], side="right")
        edges.append(cuts)
        owners.append((first, last))
    (x_first, x_last), (y_first, y_last) = owners

    def covered(windows):
        total = np.zeros((windows.shape[0] + 1, windows.shape[1] + 1), np.int64)
        total[1:, 1:] = windows.cumsum(0).cumsum(1)
        rows = total[y_last] - total[y_first]
        return (rows[:, x_last] - rows[:, x_first]) > 0

    missing = covered(planned) & ~covered(run)
    xs, ys = edges
    open_boxes: dict[tuple[int, int], list[int]] = {}
    boxes = []
    for j in range(missing.shape[0]):
        line = np.concatenate([[False], missing[j], [False]])
        starts, stops = np.flatnonzero(~line[:-1] & line[1:]), np.flatnonzero(line[:-1] & ~line[1:])
        runs = {(int(xs[a]), int(xs[b])) for a, b in zip(starts, stops, strict=True)}
        going_on = {}
        for left, right in sorted(runs):
            box = open_boxes.get((left, right)) or [left, int(ys[j]), right - left, 0]
            if box[3] == 0:
                boxes.append(box)
            box[3] = int(ys[j + 1]) - box[1]
            going_on[left, right] = box
        open_boxes = going_on
    return boxes


def windows_key(planned: np.ndarray) -> dict:
    """Which windows a map is to cover, as its metadata have it."""
    return {"windows_sha256": hashlib.sha256(np.packbits(planned).tobytes()).hexdigest()}


def made_of(slide, layout, size_px, on_tissue: np.ndarray, planned: np.ndarray, run: np.ndarray) -> dict:
    """What became of the windows of a map, for its metadata: those with tissue, to be run, and run."""
    return {
        "windows": int(run.sum()),
        "windows_skipped": int(on_tissue.size - on_tissue.sum()),
        "windows_screened": int(on_tissue.sum() - planned.sum()),
        "windows_lost": int(planned.sum() - run.sum()),
        "invalid": invalid_boxes(layout, size_px, planned, run),
        "unseen": invalid_boxes(layout, size_px, on_tissue, planned),
        "lost": list(slide.lost),
        "reader": slide.reader,
    }
