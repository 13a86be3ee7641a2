"""Random fields from which made-up tissue is drawn: smooth noise, fibres along a direction, cells side by side."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["fibres", "mosaic", "resize_rows", "signed_distance", "smooth_noise", "soft_step", "spread_apart"]


def smooth_noise(shape: tuple[int, int], scale_px: float, rng: np.random.Generator, *, octaves: int = 1):
    """Smooth noise of mean 0 and standard deviation 1: bumps about `scale_px` across, each octave half as wide.

    Parameters
    ----------
    shape : (H, W)
    scale_px : float
        Distance between the knots of the widest octave.

    Returns
    -------
    (H, W) float32
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(1.0, scale_px / 2**octave)
        knots = rng.standard_normal((int(height / step) + 4, int(width / step) + 4), dtype=np.float32)
        shift = rng.uniform(0, 1, 2)
        # Knot k lies at pixel (k - shift - 1) * step; a cubic through the knots has no visible lattice.
        matrix = np.array([[1 / step, 0, 1 + shift[0]], [0, 1 / step, 1 + shift[1]]])
        total += 0.5**octave * cv2.warpAffine(
            knots, matrix, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )
    deviation = float(total.std())
    return (total - total.mean()) / deviation if deviation > 0 else total


def soft_step(distance, softness: float = 1.0):
    """0 well below zero, 1 well above, a straight ramp `softness` wide between."""
    return np.clip(distance / softness + 0.5, 0.0, 1.0)


def signed_distance(inside, *, mpp: float = 1.0):
    """Distance to the border of a mask in um: positive inside, negative outside. (H, W) bool -> (H, W) float32."""
    inside = np.ascontiguousarray(inside, dtype=np.uint8)
    if not inside.any():
        return np.full(inside.shape, -1e4, np.float32)
    within = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    without = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5) if not inside.all() else np.zeros_like(within)
    return (within - without) * np.float32(mpp)


def fibres(noise, angle, *, reach_px: float):
    """Smear noise along a direction field (line integral convolution), giving streaks that follow it.

    Averages of two copies moved by 1, 2, 4, ... pixels to either side stand for one long average along the line
    of flow: the number of passes grows with the logarithm of the streaks' length.

    Parameters
    ----------
    noise : (H, W) float32
    angle : (H, W) float32
        Direction of the fibres in radians, x to the right, y down.
    reach_px : float
        Half the length of a streak.

    Returns
    -------
    (H, W) float32, standard deviation 1
    """
    height, width = noise.shape
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    cosine, sine = np.cos(angle), np.sin(angle)
    step = 1.0
    while step <= reach_px:
        ahead = cv2.remap(noise, x + step * cosine, y + step * sine, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        behind = cv2.remap(noise, x - step * cosine, y - step * sine, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        noise = ahead
        noise += behind
        step *= 2
    noise -= noise.mean()
    noise /= max(float(noise.std()), 1e-6)
    return noise


def mosaic(points_px, shape: tuple[int, int]):
    """Every pixel's nearest point, as tightly packed cells have it.

    Parameters
    ----------
    points_px : (N, 2) float array of x, y
    shape : (H, W)

    Returns
    -------
    owner : (H, W) int32, the index of a nearest point
    distance : (H, W) float32, pixels to it
    """
    height, width = shape
    column = np.clip(points_px[:, 0].astype(np.int64), 0, width - 1)
    row = np.clip(points_px[:, 1].astype(np.int64), 0, height - 1)
    seeds = np.ones(shape, np.uint8)
    seeds[row, column] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    index_of = np.zeros(int(label.max()) + 1, np.int32)
    index_of[label[row, column]] = np.arange(len(points_px), dtype=np.int32)
    return index_of[label], distance


def spread_apart(points_um, radius_um, *, passes: int = 5, share: float = 0.9):
    """Push discs that overlap away from each other, so that random points become a packing without a lattice.

    Parameters
    ----------
    points_um : (N, 2) float array
    radius_um : (N,) float array
    share : float
        Two discs are left in peace when their centres are further apart than this share of the radii's sum.

    Returns
    -------
    (N, 2) float array
    """
    from scipy.spatial import cKDTree

    points = np.array(points_um, dtype=np.float64)
    if len(points) < 2:
        return points
    reach = 2.0 * share * float(np.quantile(radius_um, 0.98))
    for _ in range(passes):
        pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
        if not len(pairs):
            break
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        first, second = pairs[:, 0], pairs[:, 1]
        gap = points[second] - points[first]
        distance = np.maximum(np.hypot(gap[:, 0], gap[:, 1]), 1e-3)
        overlap = share * (radius_um[first] + radius_um[second]) - distance
        push = np.where(overlap > 0, 0.35 * overlap / distance, 0.0)[:, None] * gap
        for axis in (0, 1):
            points[:, axis] -= np.bincount(first, push[:, axis], len(points))
            points[:, axis] += np.bincount(second, push[:, axis], len(points))
    return points


def resize_rows(field, *, scale: float, rows: tuple[int, int], width: int):
    """Some rows of a field on a finer lattice: pixel i there lies at ``(i + 0.5) / scale - 0.5`` in `field`."""
    top, bottom = rows
    offset = 0.5 / scale - 0.5
    matrix = np.array([[1 / scale, 0, offset], [0, 1 / scale, offset + top / scale]])
    return cv2.warpAffine(
        field,
        matrix,
        (width, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
