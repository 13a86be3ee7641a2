"""A second reader of made-up slides: who draws a little otherwise, overlooks some and marks some that are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon

from tlskit.synthetic.anatomy import Structure

__all__ = ["second_outlines"]

#: How the second reader differs: um by which a whole outline is wider or narrower, and by which it wobbles (standard
#: deviations); share of the TLS that are overlooked, and of the small aggregates that are taken for one.
WIDER_UM, WOBBLE_UM, MISSED, ADDED = 8.0, 10.0, 0.1, 0.25


def second_outlines(structures: Sequence[Structure], mpp0: float, rng: np.random.Generator) -> list[Polygon]:
    """Outlines of the TLS of a section as a second person might draw them.

    Parameters
    ----------
    structures
        Of `tlskit.synthetic.plan_section`.
    mpp0
        um per level-0 px.
    rng
        The same generator draws the same outlines.

    Returns
    -------
    list of Polygon
        In level-0 px.
    """
    drawn = []
    for one in structures:
        # Drawn for every structure, so that one of them more does not change the others.
        share, wider, phases = rng.random(), rng.normal(0, WIDER_UM), rng.uniform(0, 2 * np.pi, 4)
        sizes = rng.normal(0, WOBBLE_UM / 2, 4)
        seen = one.kind == "tls" and share >= MISSED
        added = one.kind == "small_aggregate" and share < ADDED
        if not (seen or added):
            continue
        away = one.outline_um - (one.x_um, one.y_um)
        angle, radius = np.arctan2(away[:, 1], away[:, 0]), np.hypot(*away.T)
        waves = sizes @ np.sin(np.arange(1, 5)[:, None] * angle + phases[:, None])
        moved = away * (np.maximum(radius + wider + waves, 0.5 * radius) / radius)[:, None]
        outline = shapely.make_valid(Polygon(np.round((moved + (one.x_um, one.y_um)) / mpp0, 2)))
        drawn += [part for part in shapely.get_parts(outline) if part.geom_type == "Polygon"]
    return drawn
