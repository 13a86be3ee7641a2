"""Painting a planned section as haematoxylin and eosin on glass, band by band."""

from __future__ import annotations

import cv2
import numpy as np

from tlskit import stains, textures
from tlskit.nuclei import KINDS, stamp
from tlskit.textures import smooth_noise, soft_step

__all__ = ["open_spaces", "paint"]

BAND_PX = 512
_FIELD_MPP = 1.0  # what lies between the nuclei is drawn at this um/px and enlarged


def _field_shape(section):
    return tuple(int(np.ceil(side / _FIELD_MPP)) for side in reversed(section.size_um))


def _enlarge(field, shape, grid_um=4.0):
    """A field of the plan on the 1 um lattice."""
    scale = grid_um / _FIELD_MPP
    matrix = np.array([[1 / scale, 0, 0.5 / scale - 0.5], [0, 1 / scale, 0.5 / scale - 0.5]])
    return cv2.warpAffine(
        field, matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def open_spaces(section, rng: np.random.Generator):
    """Air and fat: how empty each place is, on a lattice of 1 um.

    Fat cells and alveoli are the cells of a mosaic of random points; what remains between them is their wall.

    Returns
    -------
    (H, W) float32 in 0..1
    """
    shape = _field_shape(section)
    empty = np.zeros(shape, np.float32)
    for name, spacing_um, wall_um, bend_um, rounding_um in (("fat", 66, 1.7, 4, 5), ("alveoli", 150, 4.5, 26, 7)):
        level = section.fields[name]
        if level.max() <= 0:
            continue
        width, height = section.size_um
        count = int(width * height / spacing_um**2 * 1.25)
        points = rng.uniform(0, 1, (count, 2)) * [width, height]
        radius = spacing_um / 2 * np.exp(rng.normal(0, 0.22, count))
        points = textures.spread_apart(points, radius, passes=8, share=1.0)
        owner, _ = textures.mosaic(points / _FIELD_MPP, shape)
        wall = np.zeros(shape, np.uint8)
        wall[:, 1:] |= owner[:, 1:] != owner[:, :-1]
        wall[1:] |= owner[1:] != owner[:-1]
        del owner
        distance = cv2.distanceTransform(1 - wall, cv2.DIST_L2, 5)
        bend_x = bend_um * smooth_noise(shape, spacing_um * 0.45, rng)
        bend_y = bend_um * smooth_noise(shape, spacing_um * 0.45, rng)
        bend_x += np.arange(shape[1], dtype=np.float32)[None, :]
        bend_y += np.arange(shape[0], dtype=np.float32)[:, None]
        distance = cv2.remap(distance, bend_x, bend_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        del bend_x, bend_y
        thickness = wall_um * np.clip(1 + 0.5 * smooth_noise(shape, 40, rng), 0.5, 3)
        hollow = cv2.GaussianBlur(soft_step(distance - thickness, 1.5).astype(np.float32), (0, 0), rounding_um)
        space = soft_step(hollow - 0.62, 0.25) * soft_step(distance - thickness * 0.7, 1.3)
        # Only spaces that lie well inside the zone are open, so that the zone ends at walls.
        zone = soft_step(_enlarge(level, shape) + 6 * smooth_noise(shape, 30, rng), 4)
        np.maximum(empty, space * zone, out=empty)
    return empty


def paint(section, cells, openness, stain: stains.Stain, *, mpp: float, rng: np.random.Generator):
    """The picture of a section.

    Parameters
    ----------
    section : tlskit.anatomy.Section
    cells : structured array
        From `tlskit.cells.place_cells`.
    openness : (H, W) float32
        From `open_spaces`.
    mpp : float
        um per pixel of the picture.

    Returns
    -------
    (H, W, 3) uint8
    """
    width, height = (int(round(side / mpp)) for side in section.size_um)
    haematoxylin, eosin = _ground(section, cells, openness, rng)
    image = np.empty((height, width, 3), np.uint8)
    scale = _FIELD_MPP / mpp
    red = cells["kind"] == KINDS.index("red_cell")
    red_cells, nucleated = cells[red], cells[~red]
    reach_um = 30.0
    for top in range(0, height, BAND_PX):
        bottom = min(height, top + BAND_PX)
        h = textures.resize_rows(haematoxylin, scale=scale, rows=(top, bottom), width=width)
        e = textures.resize_rows(eosin, scale=scale, rows=(top, bottom), width=width)
        grain = rng.standard_normal((bottom - top, width), dtype=np.float32)
        soft = cv2.GaussianBlur(grain, (0, 0), 0.45 / mpp)
        soft *= np.float32(0.11 / max(float(soft.std()), 1e-6))
        soft += 1
        e *= soft
        h *= soft
        for group, plane, through in ((nucleated, h, True), (red_cells, e, False)):
            near = slice(
                *np.searchsorted(group["y_um"], [top * mpp - reach_um, bottom * mpp + reach_um])
            )
            if through:
                ink = np.zeros_like(plane)
                stamp(ink, group[near], mpp=mpp, top_px=top)
                # Eosin of the cytoplasm above and below still shows through a nucleus.
                e *= 1 - 0.55 * np.clip(ink / 0.8, 0, 1)
                plane *= 1 - 0.5 * np.clip(ink, 0, 1)
                plane += ink
            else:
                stamp(plane, group[near], mpp=mpp, top_px=top)
        grain *= 0.9
        image[top:bottom] = stains.colour(h, e, stain, grain=grain)
    return image


def _ground(section, cells, openness, rng):
    """Haematoxylin and eosin of everything but nuclei, on the 1 um lattice."""
    shape = _field_shape(section)
    f = section.fields

    def noise(scale_um, octaves=1):
        return smooth_noise(shape, scale_um / _FIELD_MPP, rng, octaves=octaves)

    rough = 1.6 * noise(7) + 1.4 * noise(22)
    eosin, cracks = _stroma(f, shape, noise, rng)
    haematoxylin = 0.035 + 0.02 * noise(60)

    # Smooth muscle: dense, even, along its fibres.
    muscle = np.maximum(
        soft_step(_enlarge(f["muscle"], shape) + 2 * rough, 10), soft_step(_enlarge(f["vessel"], shape) + rough, 2)
    )
    if muscle.max() > 0:
        eosin += muscle * (0.66 + 0.45 * (eosin - 0.55) - eosin)
        haematoxylin += 0.05 * muscle

    # Lymphoid tissue: hardly any collagen, a pale violet ground.
    tls = soft_step(_enlarge(f["tls"], shape) + 6 * noise(24), 40)
    crowd = np.clip(_enlarge(f["lymphocytes"], shape) / 9000, 0, 1)
    np.maximum(tls, crowd, out=tls)
    centre = soft_step(_enlarge(f["germinal"], shape) + 4 * noise(20), 24)
    ground = 0.27 + 0.05 * noise(5) + 0.06 * centre
    eosin += 0.88 * tls * (ground - eosin)
    haematoxylin += tls * (0.15 - 0.03 * centre)
    del crowd

    inside = soft_step(_enlarge(f["epithelium"], shape) + rough, 2.2)
    if inside.max() > 0:
        e_cell, h_cell = _cytoplasm(section, cells, shape, noise, rng)
        # A cleft opens here and there between a nest and the stroma, where the tissue shrank.
        outer = _enlarge(f["epithelium"], shape) + rough
        cleft = soft_step(outer + 5.5, 3) * (1 - inside) * soft_step(noise(110) - 0.75, 0.5)
        eosin *= 1 - 0.8 * cleft
        haematoxylin *= 1 - 0.8 * cleft
        eosin += inside * (e_cell - eosin)
        haematoxylin += inside * (h_cell - haematoxylin)
        del e_cell, h_cell, outer, cleft

    blood = soft_step(_enlarge(f["blood"], shape), 4)
    lumen = soft_step(_enlarge(f["lumen"], shape) + 0.7 * rough, 2.0)
    hollow = np.maximum(lumen * (1 - 0.25 * blood), openness)
    secretion = np.clip(0.05 * noise(35) - 0.01, 0, 1) * lumen
    tissue = soft_step(_enlarge(f["tissue"], shape) + 2 * rough + 3 * noise(14), 3)
    present = tissue * (1 - hollow)
    eosin = np.clip(eosin, 0.0, 1.6) * present + secretion
    haematoxylin = np.clip(haematoxylin, 0.0, 1.2) * present
    return haematoxylin.astype(np.float32), eosin.astype(np.float32)


def _stroma(f, shape, noise, rng):
    """Collagen: wavy fibrils and bundles along the direction field, torn apart by pale gaps."""
    angle = _enlarge_angle(f["angle"], shape)
    angle += 0.38 * noise(34) + 0.16 * noise(14)
    seed = rng.standard_normal(shape, dtype=np.float32)
    fine = textures.fibres(cv2.GaussianBlur(seed, (0, 0), 0.7), angle, reach_px=16)
    half = (shape[0] // 2 + 1, shape[1] // 2 + 1)
    coarse_angle = cv2.resize(angle, half[::-1], interpolation=cv2.INTER_NEAREST)
    seed = cv2.GaussianBlur(rng.standard_normal(half, dtype=np.float32), (0, 0), 2.0)
    bundles = textures.fibres(seed, coarse_angle, reach_px=32)
    bundles = cv2.resize(bundles, shape[::-1], interpolation=cv2.INTER_LINEAR)
    loose = _enlarge(f["loose"], shape)
    eosin = 0.60 - 0.20 * loose + 0.09 * fine + 0.11 * bundles
    gaps = soft_step(-bundles - 0.35 * fine - 1.45 + 1.0 * loose, 0.7)
    eosin *= 1 - 0.82 * gaps
    return eosin.astype(np.float32), gaps


def _enlarge_angle(angle, shape):
    """Directions have no sign, so their doubled angle is enlarged, not the angle."""
    c = _enlarge(np.cos(2 * angle).astype(np.float32), shape)
    s = _enlarge(np.sin(2 * angle).astype(np.float32), shape)
    return (0.5 * np.arctan2(s, c)).astype(np.float32)


def _cytoplasm(section, cells, shape, noise, rng):
    """Cytoplasm of epithelium: each cell a little different from the next, with borders between them."""
    f = section.fields
    kinds = [KINDS.index(kind) for kind in ("tumour", "dark", "basal", "gland")]
    own = cells[np.isin(cells["kind"], kinds)]
    if not len(own):
        return np.full(shape, 0.45, np.float32), np.full(shape, 0.15, np.float32)
    points = np.stack([own["x_um"], own["y_um"]], axis=1) / _FIELD_MPP
    owner, distance = textures.mosaic(points, shape)
    tone = rng.normal(0, 1, (2, len(own))).astype(np.float32)
    eosin = 0.43 + 0.045 * tone[0][owner] + 0.04 * noise(4) + 0.03 * noise(70)
    haematoxylin = 0.17 + 0.03 * tone[1][owner] + 0.02 * noise(5)
    border = np.zeros(shape, np.float32)
    border[:, 1:] += owner[:, 1:] != owner[:, :-1]
    border[1:] += owner[1:] != owner[:-1]
    border = cv2.GaussianBlur(np.minimum(border, 1), (0, 0), 0.8)
    squamous = float(f["squamous"].mean())
    eosin += border * (0.16 if squamous < 0.5 else -0.16)
    dark = soft_step(_enlarge(f["dark"], shape), 6)
    haematoxylin += dark * 0.16
    eosin -= dark * 0.06
    keratin = soft_step(_enlarge(f["keratin"], shape) + 4 * noise(20), 12)
    if keratin.max() > 0:
        eosin += keratin * (0.78 + 0.10 * noise(9) + 0.08 * noise(40) - eosin)
        haematoxylin *= 1 - 0.8 * keratin
    return eosin.astype(np.float32), haematoxylin.astype(np.float32)
