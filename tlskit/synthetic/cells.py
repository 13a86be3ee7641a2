"""Where the cells of a made-up section lie, what they are and how they are turned."""

from __future__ import annotations

import cv2
import numpy as np

from tlskit.synthetic.nuclei import KINDS
from tlskit.synthetic.textures import smooth_noise, soft_step, spread_apart

__all__ = ["CELL_DTYPE", "place_cells"]

CELL_DTYPE = np.dtype(
    [
        ("x_um", "f4"),
        ("y_um", "f4"),
        ("kind", "i2"),
        ("angle", "f4"),
        ("variant", "i4"),
        ("strength", "f4"),
    ]
)

#: Half the room a cell claims when cells are pushed apart, um.
_RADIUS_UM = {
    "lymphocyte": 4.1, "plasma": 4.4, "follicle": 5.3, "tumour": 7.4, "dark": 5.0, "basal": 4.8, "gland": 4.9,
    "spindle": 3.6, "muscle": 3.8, "macrophage": 4.5, "red_cell": 3.1, "pyknotic": 2.5, "ghost": 0.5,
    "tingible": 9.0, "pigment": 0.4,
}  # fmt: skip


def place_cells(section, openness, rng: np.random.Generator, *, grid_um: float = 4.0):
    """Draw the cells of a section.

    Parameters
    ----------
    section : tlskit.synthetic.anatomy.Section
    openness : (H, W) uint8
        On a lattice of 1 um: 255 inside air and fat, 0 in tissue (see `histology.open_spaces`).

    Returns
    -------
    structured array of CELL_DTYPE, sorted by y_um
    """
    f = section.fields
    shape = f["tissue"].shape
    fine, broad = smooth_noise(shape, 26 / grid_um, rng), smooth_noise(shape, 90 / grid_um, rng, octaves=2)
    density = _densities(section, fine, broad)
    points, kinds = [], []
    for kind in KINDS:
        if kind not in density:
            continue
        expected = np.clip(density[kind], 0, None) * (grid_um / 1000) ** 2 * (f["tissue"] > 3)
        points.append(_scatter(expected, rng) * grid_um)
        kinds.append(np.full(len(points[-1]), KINDS.index(kind), np.int16))
    on_walls, wall_kinds, wall_angles = _wall_cells(section, openness, rng)
    points, kinds = np.concatenate([*points, on_walls]), np.concatenate([*kinds, wall_kinds])
    wall = np.full(len(points), np.nan)
    wall[len(points) - len(on_walls) :] = wall_angles

    radius = np.array([_RADIUS_UM[kind] for kind in KINDS])[kinds] * rng.uniform(0.85, 1.1, len(kinds))
    points = spread_apart(points, radius, passes=9)
    column = np.clip(points[:, 0].astype(int), 0, openness.shape[1] - 1)
    row = np.clip(points[:, 1].astype(int), 0, openness.shape[0] - 1)
    keep = openness[row, column] < 150
    g_column = np.clip((points[:, 0] / grid_um).astype(int), 0, shape[1] - 1)
    g_row = np.clip((points[:, 1] / grid_um).astype(int), 0, shape[0] - 1)
    red = kinds == KINDS.index("red_cell")
    keep &= (f["lumen"][g_row, g_column] < 1.5) | red
    keep &= f["tissue"][g_row, g_column] > 3
    points, kinds, wall, g_row, g_column = points[keep], kinds[keep], wall[keep], g_row[keep], g_column[keep]

    cells = np.zeros(len(points), CELL_DTYPE)
    cells["x_um"], cells["y_um"], cells["kind"] = points[:, 0], points[:, 1], kinds
    angle = _angles(f, kinds, g_row, g_column, rng)
    cells["angle"] = np.where(np.isnan(wall), angle, wall)
    cells["variant"] = rng.integers(0, 2**30, len(points))
    cells["strength"] = np.clip(rng.normal(1.0, 0.10, len(points)), 0.7, 1.3)
    return cells[np.argsort(cells["y_um"], kind="stable")]


def _scatter(expected, rng, *, block_px: int = 4):
    """Points with a given expected number in each pixel, more even than pure chance. -> (N, 2) x, y in pixels.

    Cells do not lie in heaps with holes between them, as independent points do: in each block of pixels their
    number is the expected one, rounded up or down at random. Within a block they lie anywhere.
    """
    height, width = expected.shape
    expected = np.pad(expected, ((0, -height % block_px), (0, -width % block_px)))
    rows, columns = (side // block_px for side in expected.shape)
    blocks = expected.reshape(rows, block_px, columns, block_px).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    total = np.cumsum(blocks, axis=1)
    count = np.floor(total[:, -1] + rng.uniform(0, 1, len(total))).astype(np.int64)
    block = np.repeat(np.arange(len(total)), count)
    # The pixel within the block: where a random share of the block's total falls.
    level = rng.uniform(0, 1, len(block))[:, None] * total[block, -1:]
    pixel = np.minimum((total[block] <= level).sum(axis=1), block_px**2 - 1)
    corner = np.stack([block % columns, block // columns], axis=1) * block_px
    within = np.stack([pixel % block_px, pixel // block_px], axis=1)
    return corner + within + rng.uniform(0, 1, corner.shape)


def _densities(section, fine, broad):
    """Cells per mm2 of each kind, on the section's lattice."""
    f = section.fields
    inside = soft_step(f["epithelium"], 4)
    air = np.maximum.reduce([soft_step(f[name], 4) for name in ("lumen", "fat", "alveoli", "vessel")])
    tls = soft_step(f["tls"] + 8 * fine, 26)
    centre = soft_step(f["germinal"] + 6 * fine, 16)
    dark = soft_step(f["dark"] + 4 * fine, 8)
    keratin = soft_step(f["keratin"], 20)
    muscle = soft_step(f["muscle"], 20) * (1 - tls)
    stroma = (1 - inside) * (1 - air) * (1 - tls)
    solid = inside * (1 - soft_step(f["lumen"] + 3, 4)) * (1 - dark)
    halo = 2600 * np.exp(-np.maximum(-f["tls"], 0) / 38.0) * (f["tls"] < 0)
    squamous = f["squamous"]
    border = np.exp(-(((f["epithelium"] - 6.5) / 4.5) ** 2))
    near_lumen = np.maximum(f["lumen"], -f["epithelium"])  # whichever side a gland's cells rest on
    ring = np.exp(-((np.minimum(f["epithelium"], 99) - 8) ** 2) / 60.0) + 0.55 * (near_lumen < -10)
    depth = soft_step(f["epithelium"] - 40, 60)

    lymphocytes = f["lymphocytes"] * (1 - 0.85 * inside) * (1 - air) + halo * (1 - 0.8 * inside)
    lymphocytes = lymphocytes * (1 - tls) * (1 - 0.6 * muscle) + 17000 * tls * (1 - 0.86 * centre)
    return {
        "lymphocyte": lymphocytes,
        "plasma": 0.10 * lymphocytes * (1 - tls) + 350 * (halo > 300) * stroma,
        "follicle": 8200 * centre * tls,
        "ghost": 6500 * tls + 0.25 * lymphocytes * (1 - tls) + 2500 * solid + 5000 * dark,
        "tingible": 120 * centre * tls,
        "pigment": 4e4 * (section.cancer_type == "lung") * stroma * soft_step(fine + 0.8 * broad - 2.3, 0.8),
        "pyknotic": 110 * centre * tls + 60 * solid,
        "tumour": solid * squamous * (1 - border) * (4300 - 1900 * depth) * (1 - 0.85 * keratin)
        + solid * (1 - squamous) * 1200 * ring * (1 + 0.4 * broad),
        "basal": solid * squamous * border * 8600,
        "gland": solid * (1 - squamous) * 7800 * ring,
        "dark": dark * 9400,
        "spindle": stroma * (1 - muscle) * np.clip(1150 + 450 * broad, 200, 3000) + 200 * tls * (1 - centre)
        + 7000 * soft_step(f["vessel"], 2) * (1 - soft_step(f["lumen"] + 3.5, 3)) * soft_step(f["lumen"] + 9, 3),
        "muscle": muscle * 1500 + 2400 * soft_step(f["vessel"], 3) * (1 - soft_step(f["lumen"] + 9, 3)),
        "red_cell": soft_step(f["blood"] + 10 * broad, 3) * 15000,
    }  # fmt: skip


def _wall_cells(section, openness, rng):
    """Cells in the thin walls between alveoli and between fat cells, found on the 1 um lattice itself."""
    f = section.fields
    height, width = openness.shape
    points, kinds, angles = [np.zeros((0, 2))], [np.zeros(0, np.int16)], [np.zeros(0)]
    for name, per_mm2, choice in (
        ("alveoli", 7000, ("macrophage", "spindle", "lymphocyte")),
        ("fat", 1500, ("spindle",)),
    ):
        zone = (f[name] > 2) & (f["tissue"] > 6)
        if not zone.any():
            continue
        large = cv2.resize(zone.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        solid = (large > 0) & (openness < 90)
        rows, columns = np.nonzero(solid)
        count = min(len(rows), rng.poisson(len(rows) * per_mm2 * 1e-6))
        picked = rng.integers(0, max(1, len(rows)), count)
        rows, columns = rows[picked], columns[picked]
        # A wall runs along the smallest change of emptiness: the second moments of its gradient.
        gx, gy = (cv2.Sobel(openness, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
        xx, yy, xy = (cv2.boxFilter(product, -1, (11, 11)) for product in (gx * gx, gy * gy, gx * gy))
        xx, yy, xy = xx[rows, columns], yy[rows, columns], xy[rows, columns]
        along = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
        points.append(np.stack([columns, rows], axis=1) + rng.uniform(0, 1, (count, 2)))
        kinds.append(np.array([KINDS.index(k) for k in choice], np.int16)[rng.integers(0, len(choice), count)])
        angles.append(along + rng.normal(0, 0.15, count))
    return np.concatenate(points), np.concatenate(kinds), np.concatenate(angles)


def _angles(f, kinds, rows, columns, rng):
    """Spindle cells lie along the fibres, gland and basal cells stand on their border, the others anyhow."""
    angle = rng.uniform(0, np.pi, len(kinds))
    for names, field, turn, spread in (
        (("spindle", "muscle"), None, 0.0, 0.16),
        (("basal", "gland"), "epithelium", 0.0, 0.35),
    ):
        which = np.isin(kinds, [KINDS.index(name) for name in names])
        if field is None:
            direction = f["angle"]
        else:
            gy, gx = np.gradient(cv2.GaussianBlur(np.clip(f[field], -60, 60), (0, 0), 1.2))
            direction = np.arctan2(gy, gx)
        angle[which] = direction[rows[which], columns[which]] + turn + rng.normal(0, spread, int(which.sum()))
    return angle
