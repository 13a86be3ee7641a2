"""Haematoxylin and eosin: from amounts of stain to colour by the law of Beer and Lambert."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Stain", "colour", "draw_stain"]

# Optical density of one unit of stain in red, green and blue, each of length 1. Starting point of every slide;
# the values lie between those in use for stain separation (Ruifrok and Johnston 2001; Macenko et al. 2009).
_HAEMATOXYLIN = (0.60, 0.70, 0.40)
_EOSIN = (0.12, 0.86, 0.48)


@dataclasses.dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned.

    `haematoxylin` and `eosin` are the optical densities (base e) of one unit of stain in red, green and blue;
    `white` is the colour of empty glass.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]


def draw_stain(rng: np.random.Generator) -> Stain:
    """A stain such as one laboratory's bath on one day: hue, strength and white vary between slides."""

    def vector(base, spread, strength):
        base = np.asarray(base) + rng.normal(0, spread, 3)
        base = np.clip(base, 0.03, None)
        return tuple(float(v) for v in strength * base / np.linalg.norm(base))

    glass = rng.uniform(242.0, 245.0)
    return Stain(
        haematoxylin=vector(_HAEMATOXYLIN, 0.025, np.exp(rng.normal(0, 0.12))),
        eosin=vector(_EOSIN, 0.03, np.exp(rng.normal(0, 0.16))),
        white=tuple(float(v) for v in glass + rng.normal(0, 0.6, 3)),
    )


def colour(haematoxylin, eosin, stain: Stain, *, grain=None):
    """Amounts of stain to RGB: ``white * exp(-(h * H + e * E))``, per channel.

    Parameters
    ----------
    haematoxylin, eosin : (H, W) float32
        Units of stain; about 1 makes a dark nucleus or a red fibre.
    grain : (H, W) float32, optional
        Camera noise in grey levels, added to all channels.

    Returns
    -------
    (H, W, 3) uint8
    """
    rgb = np.empty((*haematoxylin.shape, 3), np.uint8)
    for channel in range(3):
        density = haematoxylin * np.float32(-stain.haematoxylin[channel])
        density -= eosin * np.float32(stain.eosin[channel])
        np.exp(density, out=density)
        density *= np.float32(stain.white[channel])
        if grain is not None:
            density += grain
        np.clip(density + np.float32(0.5), 0, 255, out=density)
        rgb[..., channel] = density
    return rgb
