"""Drawings of single cell nuclei, in amounts of haematoxylin, and stamping them into a picture."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

__all__ = ["KINDS", "NUCLEI", "Nucleus", "sprites", "stamp"]

ANGLES = 18  # drawings of a long nucleus over half a turn


@dataclasses.dataclass(frozen=True)
class Nucleus:
    """What nuclei of one kind look like. Lengths in um, darkness in units of haematoxylin."""

    length_um: tuple[float, float]
    aspect: tuple[float, float]  # length over width
    darkness: tuple[float, float]
    rim: float  # extra darkness of the membrane
    clumps: float  # contrast of the chromatin
    wobble: float  # irregularity of the outline
    nucleoli: float = 0.0  # expected number
    pointed: bool = False
    blur_um: float = 0.0  # out of focus
    variants: int = 10


NUCLEI = {
    "lymphocyte": Nucleus((6.2, 7.8), (1.0, 1.2), (1.1, 1.6), 0.10, 0.42, 0.05, variants=96),
    "plasma": Nucleus((6.6, 8.0), (1.0, 1.25), (1.0, 1.4), 0.15, 0.60, 0.05, variants=48),
    "follicle": Nucleus((7.5, 11.5), (1.0, 1.4), (0.32, 0.80), 0.45, 0.60, 0.08, 1.5, variants=96),
    "tumour": Nucleus((10.5, 17.0), (1.05, 1.65), (0.34, 0.85), 0.50, 0.62, 0.09, 1.4),
    "dark": Nucleus((8.5, 12.5), (1.05, 1.7), (0.88, 1.36), 0.15, 0.40, 0.10, 0.3),
    "basal": Nucleus((8.5, 12.0), (1.25, 1.8), (0.75, 1.2), 0.25, 0.50, 0.07, 0.4),
    "gland": Nucleus((8.5, 13.0), (1.3, 1.9), (0.48, 0.95), 0.35, 0.55, 0.06, 0.9),
    "spindle": Nucleus((9.0, 22.0), (2.6, 6.0), (0.75, 1.35), 0.08, 0.35, 0.06, pointed=True),
    "muscle": Nucleus((12.0, 22.0), (4.0, 6.5), (0.65, 1.0), 0.10, 0.30, 0.03),
    "macrophage": Nucleus((6.5, 9.5), (1.1, 1.6), (0.5, 0.9), 0.25, 0.45, 0.10, 0.6),
    "red_cell": Nucleus((5.6, 7.2), (1.0, 1.35), (0.72, 0.90), 0.10, 0.05, 0.03),
    "tingible": Nucleus((6.5, 9.0), (1.1, 1.6), (0.40, 0.65), 0.35, 0.45, 0.10, 0.8, variants=12),
    "pigment": Nucleus((0.9, 2.6), (1.0, 1.6), (1.6, 2.6), 0.0, 0.10, 0.15, variants=8),
    "pyknotic": Nucleus((2.0, 5.5), (1.0, 1.6), (1.5, 2.0), 0.0, 0.10, 0.12),
    "ghost": Nucleus((6.0, 8.0), (1.0, 1.3), (0.30, 0.55), 0.0, 0.20, 0.06, blur_um=1.3, variants=48),
}
KINDS = tuple(NUCLEI)
_ROUND = {"lymphocyte", "plasma", "follicle", "ghost"}  # drawn at any angle; turned and mirrored when stamped


def _draw(nucleus: Nucleus, angle: float, mpp: float, rng: np.random.Generator):
    """One nucleus on a lattice of `mpp`, (S, S) float32 with S odd."""
    fine = min(0.25, mpp / 1.5)
    # Long nuclei are drawn from the middle of the range more often than from its ends.
    length = rng.triangular(nucleus.length_um[0], np.mean(nucleus.length_um), nucleus.length_um[1])
    aspect = rng.uniform(*nucleus.aspect)
    if not nucleus.pointed and aspect < 2:
        length *= np.sqrt((1 + aspect) / 2)
    a, b = length / 2, length / 2 / aspect
    half = int(np.ceil((a * 1.3 + 1.0 + nucleus.blur_um) / mpp)) + 1
    side = 2 * half + 1
    count = max(side, int(round(side * mpp / fine)))
    position = ((np.arange(count, dtype=np.float32) + 0.5) / count - 0.5) * side * mpp
    x, y = position[None, :], position[:, None]
    u = (x * np.cos(angle) + y * np.sin(angle)) / a
    v = (-x * np.sin(angle) + y * np.cos(angle)) / b
    if nucleus.pointed:
        v = v + 0.35 * rng.normal() * (u**2 - 0.4)  # a slight bend
        v = v * (1 + 0.45 * u**2)
    turn = np.arctan2(v, u)
    rho = np.hypot(u, v)
    radius = np.ones_like(rho)
    for k in range(2, 6):
        radius += nucleus.wobble * rng.normal() / (k - 1) * np.cos(k * turn + rng.uniform(0, 2 * np.pi))
    rho = rho / radius

    softness = rng.uniform(0.45, 1.0) + 2 * nucleus.blur_um  # um: nuclei lie at different heights of the section
    inside = np.clip((1 - rho) * min(a, b) / softness + 0.5, 0, 1)
    inside = inside * inside * (3 - 2 * inside)
    darkness = rng.uniform(*nucleus.darkness)
    chromatin = _chromatin(fine)
    row, column = rng.integers(0, chromatin.shape[0] - count, 2)
    chromatin = chromatin[row : row + count, column : column + count]
    rim_width = 0.65 / min(a, b)
    amount = darkness * (1 + nucleus.clumps * 0.6 * chromatin)
    amount = amount + nucleus.rim * np.exp(-(((0.96 - rho) / rim_width) ** 2))
    for _ in range(rng.poisson(nucleus.nucleoli)):
        r, t = np.sqrt(rng.uniform(0, 0.3)), rng.uniform(0, 2 * np.pi)
        size_um = rng.uniform(0.7, 1.3)
        squared = ((u - r * np.cos(t)) * a) ** 2 + ((v - r * np.sin(t)) * b) ** 2
        amount = amount + rng.uniform(0.5, 1.0) * np.exp(-squared / (2 * (size_um * 0.6) ** 2))
    amount = np.maximum(amount, 0.12) * inside
    drawn = cv2.resize(amount.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(drawn)


@functools.lru_cache(maxsize=4)
def _chromatin(fine: float):
    """A sheet of mottled texture from which each nucleus takes a piece; `fine` is its um/px."""
    rng = np.random.default_rng(20219)
    side = int(160 / fine)
    sheet = np.zeros((side, side), np.float32)
    for weight, size_um in ((0.55, 0.55), (0.35, 1.4)):
        layer = cv2.GaussianBlur(rng.standard_normal((side, side), dtype=np.float32), (0, 0), size_um / fine)
        sheet += weight / layer.std() * layer
    return sheet


@functools.lru_cache(maxsize=4)
def sprites(mpp: float):
    """The library of nuclei at `mpp`: ``{kind: list by angle of lists of (S, S) float32}``.

    It is the same for every slide at one um/px; slides differ in what they take from it.
    """
    library = {}
    for number, (kind, nucleus) in enumerate(NUCLEI.items()):
        rng = np.random.default_rng([20220, number])
        if kind in _ROUND:
            drawn = [_draw(nucleus, rng.uniform(0, np.pi), mpp, rng) for _ in range(nucleus.variants)]
            library[kind] = [[turned for one in drawn for turned in (one, one[::-1], one[:, ::-1], one.T, one.T[::-1])]]
        else:
            library[kind] = [
                [_draw(nucleus, np.pi * step / ANGLES, mpp, rng) for _ in range(nucleus.variants)]
                for step in range(ANGLES)
            ]
    return library


def stamp(plane, cells, *, mpp: float, top_px: int, rng: np.random.Generator | None = None):
    """Add nuclei to a plane of haematoxylin, in place.

    Parameters
    ----------
    plane : (H, W) float32
        Rows `top_px` to ``top_px + H`` of the slide.
    cells : structured array
        Fields `x_um`, `y_um`, `kind` (index into KINDS), `angle` (radians), `variant` (int), `strength`.
    mpp : float
        um per pixel of `plane`.
    """
    height, width = plane.shape
    library = [sprites(mpp)[kind] for kind in KINDS]
    columns = np.rint(cells["x_um"] / mpp - 0.5).astype(np.int64)
    rows = np.rint(cells["y_um"] / mpp - 0.5).astype(np.int64) - top_px
    turns = np.mod(np.rint(cells["angle"] * (ANGLES / np.pi)), ANGLES).astype(np.int64)
    for column, row, kind, turn, variant, strength in zip(
        columns.tolist(),
        rows.tolist(),
        cells["kind"].tolist(),
        turns.tolist(),
        cells["variant"].tolist(),
        cells["strength"].tolist(),
        strict=True,
    ):
        by_angle = library[kind]
        choices = by_angle[turn % len(by_angle)]
        drawn = choices[variant % len(choices)]
        half = drawn.shape[0] // 2
        x0, y0 = column - half, row - half
        left, right = max(0, -x0), min(drawn.shape[1], width - x0)
        above, below = max(0, -y0), min(drawn.shape[0], height - y0)
        if left >= right or above >= below:
            continue
        part = plane[y0 + above : y0 + below, x0 + left : x0 + right]
        ink = drawn[above:below, left:right] * strength
        # Overlapping nuclei are darker than either, but less than their sum: the section is thinner than both.
        shared = np.minimum(part, ink)
        np.maximum(part, ink, out=part)
        part += 0.25 * shared
