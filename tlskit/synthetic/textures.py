"""Random fields from which made-up tissue is drawn: smooth noise, fibres along a direction, cells side by side."""

from __future__ import annotations

import functools

import cv2
import numpy as np

__all__ = [
    "NoiseField",
    "enlarge",
    "fibre_strength",
    "fibres",
    "mosaic",
    "signed_distance",
    "smooth_noise",
    "soft_step",
    "spread_apart",
]


class NoiseField:
    """Smooth noise of mean 0 and standard deviation 1 of which any rows can be asked for.

    Knots are a lattice of `scale_px`, with a random offset and cubic interpolation between them; each further
    octave is half as wide and half as strong.
    """

    def __init__(self, shape: tuple[int, int], scale_px: float, rng: np.random.Generator, *, octaves: int = 1):
        self.shape = shape
        self._octaves = []
        for octave in range(octaves):
            step = max(1.0, scale_px / 2**octave)
            size = (int(shape[0] / step) + 4, int(shape[1] / step) + 4)
            knots = rng.standard_normal(size, dtype=np.float32) * np.float32(0.5**octave)
            self._octaves.append((knots, step, rng.uniform(0, 1, 2)))
        # Mean and spread from a coarse look at the whole field, so that windows of it agree.
        stride = max(1.0, scale_px / 2 ** (octaves - 1) / 3.3)
        look = self._sample((0, 0), (int(shape[0] / stride) + 1, int(shape[1] / stride) + 1), stride)
        mean, deviation = float(look.mean()), max(float(look.std()), 1e-6)
        for knots, _, _ in self._octaves:
            knots /= deviation
        self._octaves[0][0][:] -= mean / deviation

    def _sample(self, corner, size, stride=1.0):
        total = None
        for knots, step, shift in self._octaves:
            # Knot k lies at pixel (k - 1 - shift) * step.
            scale = stride / step
            matrix = np.array(
                [[scale, 0, corner[1] / step + 1 + shift[0]], [0, scale, corner[0] / step + 1 + shift[1]]]
            )
            layer = cv2.warpAffine(
                knots,
                matrix,
                (size[1], size[0]),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT,
            )
            total = layer if total is None else cv2.add(total, layer, dst=total)
        return total

    def rows(self, top: int, bottom: int):
        """Rows `top` to `bottom` of the field, (bottom - top, W) float32."""
        return self._sample((top, 0), (bottom - top, self.shape[1]))


def smooth_noise(shape: tuple[int, int], scale_px: float, rng: np.random.Generator, *, octaves: int = 1):
    """A whole `NoiseField`: bumps about `scale_px` across, mean 0, standard deviation 1. -> (H, W) float32."""
    return NoiseField(shape, scale_px, rng, octaves=octaves).rows(0, shape[0])


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

    Averages of two copies moved by 1/2, 1, 2, 4, ... pixels to either side stand for one long average along the
    line of flow: the number of passes grows with the logarithm of the streaks' length.

    Parameters
    ----------
    noise : (H, W) float32
    angle : (H, W) float32
        Direction of the fibres in radians, x to the right, y down.
    reach_px : float
        Half the length of a streak.

    Returns
    -------
    (H, W) float32
        A sum, not an average: scale it by `fibre_strength`. Within `reach_px` of the border streaks are bent.
    """
    height, width = noise.shape
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    cosine, sine = np.cos(angle), np.sin(angle)
    step = 0.5
    while step <= reach_px / 2:
        ahead = cv2.remap(noise, x + step * cosine, y + step * sine, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        behind = cv2.remap(noise, x - step * cosine, y - step * sine, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        noise = cv2.add(ahead, behind, dst=ahead)
        step *= 2
    return noise


@functools.lru_cache(maxsize=8)
def fibre_strength(blur_px: float, reach_px: float) -> float:
    """Standard deviation of `fibres` made of white noise blurred by `blur_px`."""
    rng = np.random.default_rng(7)
    noise = cv2.GaussianBlur(rng.standard_normal((512, 512), dtype=np.float32), (0, 0), blur_px)
    return float(fibres(noise, smooth_noise((512, 512), 60, rng), reach_px=reach_px)[99:-99, 99:-99].std())


def mosaic(points_px, shape: tuple[int, int]):
    """Every pixel's nearest point, as tightly packed cells have it.

    Parameters
    ----------
    points_px : (N, 2) float array of x, y
    shape : (H, W)

    Returns
    -------
    (H, W) int32
        The index of a nearest point.
    """
    height, width = shape
    column = np.clip(points_px[:, 0].astype(np.int64), 0, width - 1)
    row = np.clip(points_px[:, 1].astype(np.int64), 0, height - 1)
    seeds = np.ones(shape, np.uint8)
    seeds[row, column] = 0
    _, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    index_of = np.zeros(int(label.max()) + 1, np.int32)
    index_of[label[row, column]] = np.arange(len(points_px), dtype=np.int32)
    return np.take(index_of, label, out=label)


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


def enlarge(field, *, scale: float, rows: tuple[int, int], width: int, from_row: float = 0.0):
    """Some rows of a field on a lattice `scale` times as fine, by linear interpolation between pixel centres.

    Parameters
    ----------
    field : (h, w) float32
        Its first row is row `from_row` of the coarse lattice.
    scale : float
        Fine pixels along one coarse pixel.
    rows : (top, bottom)
        In fine pixels.
    width : int
        In fine pixels.

    Returns
    -------
    (bottom - top, width) float32
    """
    top, bottom = rows
    offset = 0.5 / scale - 0.5
    matrix = np.array([[1 / scale, 0, offset], [0, 1 / scale, offset + top / scale - from_row]])
    return cv2.warpAffine(
        field,
        matrix,
        (width, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
