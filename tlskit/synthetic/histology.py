"""Painting a planned section as haematoxylin and eosin on glass, band by band."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from tlskit.synthetic import stains, textures
from tlskit.synthetic.nuclei import KINDS, stamp
from tlskit.synthetic.textures import smooth_noise, soft_step

__all__ = ["open_spaces", "paint"]

GRID_UM = 4.0  # lattice of a section's fields
BAND_UM = 500  # height of what is painted at a time
_EPITHELIAL = ("tumour", "dark", "basal", "gland")
_FINE_FIBRES = (0.55, 32)  # blur and reach, um
_BUNDLES = (1.7, 64)  # the same on a lattice of 2 um


def _shape_um(section):
    """What lies between the nuclei is drawn on a lattice of 1 um and enlarged."""
    return tuple(int(np.ceil(side)) for side in reversed(section.size_um))


def open_spaces(section, rng: np.random.Generator):
    """Air and fat: how empty each place is, on a lattice of 1 um.

    Fat cells and alveoli are the cells of a mosaic of random points; what remains between them is their wall.

    Returns
    -------
    (H, W) uint8
        0 in tissue, 255 where there is nothing.
    """
    whole = _shape_um(section)
    empty = np.zeros(whole, np.uint8)
    for name, spacing_um, wall_um, bend_um, rounding_um in (("fat", 66, 1.7, 4, 5), ("alveoli", 165, 6.0, 26, 7)):
        level = section.fields[name]
        rows, columns = np.nonzero(level > -8)
        if not len(rows):
            continue
        top, left = int(rows.min() * GRID_UM), int(columns.min() * GRID_UM)
        bottom = min(whole[0], int((rows.max() + 1) * GRID_UM))
        right = min(whole[1], int((columns.max() + 1) * GRID_UM))
        shape = (bottom - top, right - left)
        count = int(shape[0] * shape[1] / spacing_um**2 * 1.25) + 2
        points = rng.uniform(0, 1, (count, 2)) * [shape[1], shape[0]]
        radius = spacing_um / 2 * np.exp(rng.normal(0, 0.22, count))
        owner = textures.mosaic(textures.spread_apart(points, radius, passes=8, share=1.0), shape)
        tissue = np.ones(shape, np.uint8)
        tissue[:, 1:] &= owner[:, 1:] == owner[:, :-1]
        tissue[1:] &= owner[1:] == owner[:-1]
        del owner
        distance = cv2.distanceTransform(tissue, cv2.DIST_L2, 5)
        bend_x = smooth_noise(shape, spacing_um * 0.45, rng)
        bend_x *= bend_um
        bend_x += np.arange(shape[1], dtype=np.float32)[None, :]
        bend_y = smooth_noise(shape, spacing_um * 0.45, rng)
        bend_y *= bend_um
        bend_y += np.arange(shape[0], dtype=np.float32)[:, None]
        distance = cv2.remap(distance, bend_x, bend_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        del bend_x, bend_y
        thickness = wall_um * np.clip(1 + 0.5 * smooth_noise(shape, 40, rng), 0.5, 3)
        space = soft_step(distance - thickness, 1.5)
        hollow = cv2.GaussianBlur(space, (0, 0), rounding_um)
        space = soft_step(hollow - 0.62, 0.25) * soft_step(distance - thickness * 0.7, 1.3)
        del hollow, distance, thickness
        level = level[int(top / GRID_UM) : int(np.ceil(bottom / GRID_UM))]
        zone = textures.enlarge(level, scale=GRID_UM, rows=(0, shape[0]), width=whole[1])[:, left:right]
        space *= soft_step(zone + 6 * smooth_noise(shape, 30, rng), 4)
        window = empty[top:bottom, left:right]
        np.maximum(window, (space * 255).astype(np.uint8), out=window)
    return empty


def paint(section, cells, openness, stain: stains.Stain, *, mpp: float, rng: np.random.Generator):
    """The picture of a section.

    Parameters
    ----------
    section : tlskit.synthetic.anatomy.Section
    cells : structured array, sorted by y_um
        From `tlskit.synthetic.cells.place_cells`.
    openness : (H, W) uint8
        From `open_spaces`.
    mpp : float
        um per pixel of the picture.

    Returns
    -------
    (H, W, 3) uint8
    """
    width, height = (int(round(side / mpp)) for side in section.size_um)
    ground = _Ground(section, cells, openness, rng)
    red = cells["kind"] == KINDS.index("red_cell")
    image = np.empty((height, width, 3), np.uint8)
    band_px = int(round(BAND_UM / mpp))
    for top in range(0, height, band_px):
        bottom = min(height, top + band_px)
        first, last = max(0, int(top * mpp) - 2), min(ground.shape[0], int(np.ceil(bottom * mpp)) + 2)
        haematoxylin, eosin = (
            textures.enlarge(field, scale=1 / mpp, rows=(top, bottom), width=width, from_row=first)
            for field in ground.rows(first, last)
        )
        grain = rng.standard_normal((bottom - top, width), dtype=np.float32)
        mottle = cv2.GaussianBlur(grain, (0, 0), 0.45 / mpp)
        mottle *= np.float32(0.07 / max(float(mottle[::5, ::5].std()), 1e-6))
        mottle += 1
        haematoxylin *= mottle
        eosin *= mottle

        near = slice(*np.searchsorted(cells["y_um"], [top * mpp - 30, bottom * mpp + 30]))
        ink = np.zeros_like(eosin)
        stamp(ink, cells[near][~red[near]], mpp=mpp, top_px=top)
        cover = np.minimum(ink, 1, out=mottle)
        cover *= -0.55
        cover += 1  # what lies above and below a nucleus still shows through it
        eosin *= cover
        haematoxylin *= cover
        haematoxylin += ink
        stamp(eosin, cells[near][red[near]], mpp=mpp, top_px=top)
        grain *= 0.9
        image[top:bottom] = stains.colour(haematoxylin, eosin, stain, grain=grain)
    return image


class _Ground:
    """Haematoxylin and eosin of everything but nuclei, on a lattice of 1 um, a few rows at a time."""

    def __init__(self, section, cells, openness, rng):
        self.shape = _shape_um(section)
        self.fields, self.cells, self.openness = section.fields, cells, openness
        self.squamous = float(section.fields["squamous"].mean()) > 0.5
        self._noise: dict[str, textures.NoiseField] = {}
        self._seed = int(rng.integers(2**31))
        self._fine_seed = self._white(rng, self.shape)
        self._bundle_seed = self._white(rng, ((self.shape[0] + 1) // 2, (self.shape[1] + 1) // 2))
        self._tone = np.clip(rng.normal(0, 1, (2, len(cells))), -3, 3).astype(np.float32)
        self._epithelial = np.flatnonzero(np.isin(cells["kind"], [KINDS.index(kind) for kind in _EPITHELIAL]))
        # Directions have no sign: their doubled angle is what can be interpolated.
        self._cosine = np.cos(2 * section.fields["angle"])
        self._sine = np.sin(2 * section.fields["angle"])

    @staticmethod
    def _white(rng, shape):
        return np.clip(rng.standard_normal(shape, dtype=np.float32) * 40, -127, 127).astype(np.int8)

    def _field(self, name, rows):
        field = getattr(self, name) if name.startswith("_") else self.fields[name]
        return textures.enlarge(field, scale=GRID_UM, rows=rows, width=self.shape[1])

    def _noise_rows(self, name, scale_um, rows, octaves=1):
        """Each noise has a name, and its own generator, so that bands can ask for it in any order."""
        if name not in self._noise:
            rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
            self._noise[name] = textures.NoiseField(self.shape, scale_um, rng, octaves=octaves)
        return self._noise[name].rows(*rows)

    def rows(self, top: int, bottom: int):
        """Haematoxylin and eosin of rows `top` to `bottom`, two (bottom - top, W) float32."""
        rows = (top, bottom)

        def noise(name, scale_um, octaves=1):
            return self._noise_rows(name, scale_um, rows, octaves)

        def field(name):
            return self._field(name, rows)

        rough = 1.6 * noise("rough fine", 7) + 1.4 * noise("rough", 22)
        eosin, strands = self._stroma(top, bottom, noise)
        haematoxylin = 0.035 + 0.02 * noise("haze", 60)

        # Smooth muscle: dense, even, along its fibres.
        muscle = np.maximum(soft_step(field("muscle") + 2 * rough, 10), soft_step(field("vessel") + rough, 2))
        eosin += muscle * (0.66 + 0.45 * (eosin - 0.55) - eosin)
        haematoxylin += 0.05 * muscle

        # Lymphoid tissue: hardly any collagen, a pale violet ground.
        lymphoid = soft_step(field("tls") + 6 * noise("lymphoid edge", 24), 40)
        crowd = np.clip((field("lymphocytes") - 3500) / 9000, 0, 1) * (1 - 0.7 * muscle)
        np.maximum(lymphoid, crowd, out=lymphoid)
        centre = soft_step(field("germinal") + 4 * noise("germinal edge", 20), 24)
        eosin += 0.88 * lymphoid * (0.27 + 0.05 * noise("lymphoid", 5) + 0.06 * centre - eosin)
        haematoxylin += lymphoid * (0.20 - 0.06 * centre)
        self._bodies(eosin, haematoxylin, top, bottom)

        outer = field("epithelium") + rough
        inside = soft_step(outer, 2.2)
        if inside.any():
            # A cleft opens here and there between a nest and the stroma, where the tissue shrank.
            cleft = soft_step(outer + 5.5, 3) * (1 - inside) * soft_step(noise("cleft", 110) - 0.75, 0.5)
            cleft = 1 - 0.8 * cleft
            eosin *= cleft
            haematoxylin *= cleft
            e_cell, h_cell = self._cytoplasm(top, bottom, noise, strands)
            eosin += inside * (e_cell - eosin)
            haematoxylin += inside * (h_cell - haematoxylin)

        blood = soft_step(field("blood"), 4)
        lumen = soft_step(field("lumen") + 0.7 * rough, 2.0)
        hollow = np.maximum(lumen * (1 - 0.25 * blood), self.openness[top:bottom] * np.float32(1 / 255))
        present = soft_step(field("tissue") + rough + 1.5 * noise("section edge", 14), 3) * (1 - hollow)
        secretion = np.clip(0.05 * noise("secretion", 35) - 0.01, 0, 1) * lumen
        eosin = np.clip(eosin, 0.0, 1.6) * present + secretion
        haematoxylin = np.clip(haematoxylin, 0.0, 1.2) * present
        return haematoxylin, eosin

    def _stroma(self, top, bottom, noise):
        """Collagen: wavy fibrils and bundles along the direction field, torn apart by pale gaps."""
        margin = 2 * _BUNDLES[1] + 8
        above, below = max(0, top - margin) // 2 * 2, min(self.shape[0], bottom + margin)
        wide = (above, below)
        angle = cv2.phase(self._field("_cosine", wide), self._field("_sine", wide)) * 0.5
        angle += 0.38 * self._noise_rows("wave", 34, wide) + 0.16 * self._noise_rows("ripple", 14, wide)

        blur, reach = _BUNDLES
        seed = self._bundle_seed[above // 2 : (below + 1) // 2].astype(np.float32)
        seed = cv2.GaussianBlur(seed, (0, 0), blur)
        bundles = textures.fibres(seed, np.ascontiguousarray(angle[::2, ::2]), reach_px=reach)
        bundles *= np.float32(1 / 40 / textures.fibre_strength(*_BUNDLES))
        bundles = textures.enlarge(bundles, scale=2, rows=(top, bottom), width=self.shape[1], from_row=above / 2)

        blur, reach = _FINE_FIBRES
        near, far = max(above, top - reach - 4), min(below, bottom + reach + 4)
        seed = cv2.GaussianBlur(self._fine_seed[near:far].astype(np.float32), (0, 0), blur)
        fine = textures.fibres(seed, angle[near - above : far - above], reach_px=reach)[top - near : bottom - near]
        fine *= np.float32(1 / 40 / textures.fibre_strength(*_FINE_FIBRES))

        # Dense collagen is pink with narrow clefts; loose stroma is pale, a felt of thin fibres.
        loose = self._field("loose", (top, bottom))
        eosin = 0.55 + 0.07 * noise("collagen", 170) - 0.26 * loose + (0.10 + 0.03 * loose) * fine + 0.11 * bundles
        clefts = soft_step(-bundles - 0.4 * fine - 1.75 + 0.35 * loose, 0.5)
        eosin *= 1 - (0.85 - 0.2 * loose) * clefts
        return np.maximum(eosin, 0.03), fine

    def _cytoplasm(self, top, bottom, noise, strands):
        """Cytoplasm of epithelium: each cell a little different from the next, with borders between them."""
        y_um = self.cells["y_um"][self._epithelial]
        own = self._epithelial[slice(*np.searchsorted(y_um, [top - 40, bottom + 40]))]
        shape = (bottom - top + 80, self.shape[1])
        if len(own):
            points = np.stack([self.cells["x_um"][own], self.cells["y_um"][own] - (top - 40)], axis=1)
            owner = textures.mosaic(points, shape)[40:-40]
            tone_e, tone_h = np.take(self._tone[0][own], owner), np.take(self._tone[1][own], owner)
            border = np.zeros(owner.shape, np.float32)
            border[:, 1:] = owner[:, 1:] != owner[:, :-1]
            border[1:] = np.maximum(border[1:], owner[1:] != owner[:-1])
            border = cv2.GaussianBlur(border, (0, 0), 0.7)
        else:
            tone_e = tone_h = border = np.zeros((bottom - top, self.shape[1]), np.float32)
        eosin = 0.43 + 0.07 * tone_e + 0.04 * noise("cytoplasm", 4) + 0.03 * noise("nest", 70)
        haematoxylin = 0.17 + 0.04 * tone_h + 0.02 * noise("cytoplasm blue", 5)
        eosin += border * np.float32(-0.30 if self.squamous else 0.15)
        dark = soft_step(self._field("dark", (top, bottom)), 6)
        haematoxylin += dark * 0.16
        eosin -= dark * 0.06
        keratin = soft_step(self._field("keratin", (top, bottom)) + 4 * noise("keratin edge", 20), 12)
        if keratin.any():
            eosin += keratin * (0.66 + 0.10 * strands + 0.08 * noise("keratin", 40) - eosin)
            haematoxylin *= 1 - 0.8 * keratin
        return eosin, haematoxylin

    def _bodies(self, eosin, haematoxylin, top, bottom):
        """Cytoplasm of cells that lie singly: pale macrophages of germinal centres, violet plasma cells."""
        near = self.cells[slice(*np.searchsorted(self.cells["y_um"], [top - 25, bottom + 25]))]
        for kind, radius_um, away_um, e_body, h_body in (
            ("tingible", 8.5, 4.0, 0.19, 0.07),
            ("plasma", 5.3, 2.6, 0.36, 0.24),
        ):
            own = near[near["kind"] == KINDS.index(kind)]
            if not len(own):
                continue
            cover = np.zeros((bottom - top + 50, self.shape[1]), np.uint8)
            columns = np.rint((own["x_um"] + away_um * np.cos(own["angle"])) * 4).astype(int)
            rows = np.rint((own["y_um"] - (top - 25) + away_um * np.sin(own["angle"])) * 4).astype(int)
            for x, y, size in zip(columns.tolist(), rows.tolist(), own["strength"].tolist(), strict=True):
                cv2.circle(cover, (x, y), int(radius_um * size * 4), 255, -1, cv2.LINE_AA, shift=2)
            cover = cv2.GaussianBlur(cover, (0, 0), 1.0)[25:-25] * np.float32(0.85 / 255)
            eosin += cover * (e_body - eosin)
            haematoxylin += cover * (h_body - haematoxylin)
