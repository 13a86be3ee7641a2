"""Roundish shapes in um: their outlines, their distance fields, and where there is room for them."""

from __future__ import annotations

import numpy as np

__all__ = ["GRID_UM", "Blob", "hand_drawn", "place", "polygon_area"]

#: Lattice on which a section is planned, um.
GRID_UM = 4.0


class Blob:
    """A roundish shape of a given area: an ellipse whose radius wobbles."""

    def __init__(self, rng, x_um, y_um, diameter_um, *, wobble=0.09, stretch=1.45, detail=12):
        self.x, self.y, self.turn = x_um, y_um, rng.uniform(0, np.pi)
        aspect = rng.uniform(1.0, stretch)
        self.a, self.b = np.sqrt(aspect), 1 / np.sqrt(aspect)
        k = np.arange(2, detail + 1)
        self.waves = [
            (int(n), float(w), float(p))
            for n, w, p in zip(
                k, rng.normal(0, wobble, len(k)) / (k - 1) ** 0.9, rng.uniform(0, 2 * np.pi, len(k)), strict=True
            )
        ]
        self.size = 1.0
        self.size = float(np.sqrt(np.pi * diameter_um**2 / 4 / polygon_area(self.outline())))

    def radius(self, t, *, waves=99):
        total = np.ones_like(t)
        for n, weight, phase in self.waves:
            if n <= waves:
                total = total + weight * np.cos(n * t + phase)
        return np.maximum(total, 0.25)

    def outline(self, count=90, *, waves=99):
        t = np.linspace(0, 2 * np.pi, count, endpoint=False)
        rho = self.radius(t, waves=waves)
        u, v = self.size * self.a * rho * np.cos(t), self.size * self.b * rho * np.sin(t)
        c, s = np.cos(self.turn), np.sin(self.turn)
        return np.stack([self.x + c * u - s * v, self.y + s * u + c * v], axis=1)

    def level(self, shape):
        """Roughly the signed distance to the outline in um on the lattice, -1e4 far away."""
        field = np.full(shape, -1e4, np.float32)
        reach = self.size * max(self.a, self.b) * 1.6 + 250
        x0, x1 = (int(np.clip((self.x + f * reach) / GRID_UM, 0, shape[1])) for f in (-1, 1))
        y0, y1 = (int(np.clip((self.y + f * reach) / GRID_UM, 0, shape[0])) for f in (-1, 1))
        if x0 >= x1 or y0 >= y1:
            return field
        x = (np.arange(x0, x1) + 0.5)[None, :] * GRID_UM - self.x
        y = (np.arange(y0, y1) + 0.5)[:, None] * GRID_UM - self.y
        c, s = np.cos(self.turn), np.sin(self.turn)
        u, v = (c * x + s * y) / (self.size * self.a), (-s * x + c * y) / (self.size * self.b)
        turns = np.linspace(-np.pi, np.pi, 721)
        radius = np.interp(np.arctan2(v, u).ravel(), turns, self.radius(turns)).reshape(u.shape)
        field[y0:y1, x0:x1] = (radius - np.hypot(u, v)) * self.size
        return field


def hand_drawn(blob: Blob, rng: np.random.Generator):
    """The outline as a person draws it: without the finest bays, a little off, 40 to 80 points."""
    outline = blob.outline(int(rng.integers(40, 81)), waves=8)
    t = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    slip = sum(rng.normal(0, 0.007) * np.cos(k * t + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    centre = np.array([blob.x, blob.y])
    return centre + (outline - centre) * (1 + slip)[:, None]


def place(rng, room, radius_um, *, prefer=None, tries=60):
    """A lattice point whose `room` (um to anything in the way) is at least the radius; None where there is none."""
    rows, columns = np.nonzero(room > radius_um)
    if not len(rows):
        return None
    picked = rng.integers(0, len(rows), tries)
    if prefer is not None:
        weight = prefer[rows[picked], columns[picked]] + 1e-6
        choice = picked[rng.choice(tries, p=weight / weight.sum())]
    else:
        choice = picked[0]
    offset = rng.uniform(0, 1, 2)
    return (columns[choice] + offset[0]) * GRID_UM, (rows[choice] + offset[1]) * GRID_UM


def polygon_area(outline) -> float:
    """Area of a polygon (N, 2), by the shoelace formula."""
    x, y = outline[:, 0], outline[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
