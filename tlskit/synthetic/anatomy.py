"""Plan of a made-up tissue section, in um: where tumour, stroma, fat and lymphoid tissue lie, before any cell is drawn.

The plan of a section is a set of smooth fields on a lattice of 4 um. Most are signed distances to a border:
positive inside, negative outside.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from tlskit.synthetic.shapes import GRID_UM, Blob, hand_drawn, place, polygon_area
from tlskit.synthetic.textures import signed_distance, smooth_noise, soft_step
from tlskit.synthetic.tumours import ARCHITECTURES

__all__ = [
    "CANCER_TYPES",
    "Section",
    "Structure",
    "draw_section",
    "draw_tls_diameters",
]

CANCER_TYPES = tuple(ARCHITECTURES)

# TLS are log-normal in diameter, cut off at both ends; the median is set so that the mean area is 0.21 mm2.
TLS_DIAMETER_UM = (150.0, 900.0)
_TLS_MEDIAN_UM = 485.0
_TLS_SPREAD = 0.40


@dataclasses.dataclass(frozen=True)
class Structure:
    """Something with an outline: `kind`, centre and equivalent diameter in um, outline (N, 2) in um."""

    kind: str
    x_um: float
    y_um: float
    diameter_um: float
    outline_um: np.ndarray

    @property
    def area_um2(self) -> float:
        return polygon_area(self.outline_um)

    def polygon_px0(self, mpp0: float):
        """The outline as a shapely Polygon in level-0 px, to a hundredth of a pixel."""
        from shapely.geometry import Polygon

        return Polygon(np.round(self.outline_um / mpp0, 2))


@dataclasses.dataclass(frozen=True)
class Section:
    """The plan of one section.

    Attributes
    ----------
    size_um : (width, height)
    cancer_type : str
    structures : list of Structure
        Kinds `tls`, `germinal_centre`, `small_aggregate`, `infiltrate`, `dark_nest`.
    fields : dict of (H, W) float32 on the 4 um lattice
        Signed distances in um `tissue`, `epithelium`, `lumen`, `dark`, `keratin`, `tls`, `germinal`, `fat`,
        `alveoli`, `muscle`, `vessel`, `blood`; `squamous` (share, 0 to 1); `lymphocytes` (per mm2), `angle` of the
        fibres (radians), `loose` (0 dense to 1 loose stroma).
    """

    size_um: tuple[float, float]
    cancer_type: str
    structures: list[Structure]
    fields: dict[str, np.ndarray]


def draw_tls_diameters(rng: np.random.Generator, count: int, *, largest_um: float = TLS_DIAMETER_UM[1]):
    """Equivalent diameters of `count` TLS in um: log-normal between 150 and 900 um, mean area near 0.21 mm2."""
    smallest_um = TLS_DIAMETER_UM[0]
    drawn: list[float] = []
    while len(drawn) < count:
        diameter = _TLS_MEDIAN_UM * float(np.exp(rng.normal(0, _TLS_SPREAD)))
        if smallest_um <= diameter <= TLS_DIAMETER_UM[1]:
            drawn.append(min(diameter, max(smallest_um, largest_um)))
    return np.array(drawn)


def draw_section(rng: np.random.Generator, size_um: tuple[float, float], cancer_type: str, *, n_tls: int) -> Section:
    """Plan a section.

    Parameters
    ----------
    size_um : (width, height)
        Of the slide; the section fills most of it.
    cancer_type : one of CANCER_TYPES
    n_tls : int
        How many TLS to place; on a small section, or one without room, fewer may fit.
    """
    width, height = size_um
    shape = (int(np.ceil(height / GRID_UM)), int(np.ceil(width / GRID_UM)))

    def noise(scale_um, octaves=1):
        return smooth_noise(shape, scale_um / GRID_UM, rng, octaves=octaves)

    x = ((np.arange(shape[1]) + 0.5) * GRID_UM)[None, :].astype(np.float32)
    y = ((np.arange(shape[0]) + 0.5) * GRID_UM)[:, None].astype(np.float32)
    f: dict[str, np.ndarray] = {}

    # The section on the glass.
    power = rng.uniform(2.2, 4.0)
    u = np.abs((x - width * rng.uniform(0.48, 0.52)) / (width * rng.uniform(0.43, 0.47)))
    v = np.abs((y - height * rng.uniform(0.48, 0.52)) / (height * rng.uniform(0.43, 0.47)))
    side = min(width, height)
    edge = (1 - (u**power + v**power) ** (1 / power)) * side / 2
    edge = edge + 0.035 * side * noise(0.22 * side) + 9 * noise(110) + 4 * noise(30)
    edge = np.minimum(edge, np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)) - 70)
    f["tissue"] = signed_distance(edge > 0, mpp=GRID_UM)

    # Tumour on one side, with an uneven front.
    heading = rng.uniform(0, 2 * np.pi)
    front = np.cos(heading) * (x - width / 2) + np.sin(heading) * (y - height / 2) + 0.14 * side * noise(0.28 * side)
    front = front - np.quantile(front[f["tissue"] > 0], rng.uniform(0.42, 0.58))
    ARCHITECTURES[cancer_type](rng, f, front.astype(np.float32), noise, (x, y))

    structures: list[Structure] = []
    room = f["tissue"].copy()

    def add(kind, blob, *, margin_um, outline=None):
        outline = blob.outline() if outline is None else outline
        diameter = float(np.sqrt(4 * polygon_area(outline) / np.pi))
        structures.append(Structure(kind, float(blob.x), float(blob.y), diameter, outline))
        level = blob.level(shape)
        np.minimum(room, -level - margin_um, out=room)
        return level

    far = np.full(shape, -1e4, np.float32)
    f["tls"], f["germinal"], f["dark"] = far.copy(), far.copy(), far.copy()
    at_front = np.exp(-((front / (0.16 * side)) ** 2)) + 0.15
    for diameter in sorted(draw_tls_diameters(rng, n_tls, largest_um=0.42 * side), reverse=True):
        spot = place(rng, room, diameter * 0.62 + 25, prefer=at_front)
        if spot is None and structures:
            continue
        if spot is None:  # no room for the largest: a smaller one, where there is most
            row, column = np.unravel_index(np.argmax(room), shape)
            spot = ((column + 0.5) * GRID_UM, (row + 0.5) * GRID_UM)
            diameter = max(120.0, (float(room[row, column]) - 25) / 0.62)
        blob = Blob(rng, *spot, diameter)
        np.maximum(f["tls"], add("tls", blob, margin_um=40, outline=hand_drawn(blob, rng)), out=f["tls"])
        if diameter > 280 and rng.uniform() < 0.55:
            shift = rng.uniform(0, 0.12) * diameter
            turn = rng.uniform(0, 2 * np.pi)
            centre = Blob(
                rng,
                spot[0] + shift * np.cos(turn),
                spot[1] + shift * np.sin(turn),
                diameter * rng.uniform(0.38, 0.58),
                stretch=1.25,
            )
            np.maximum(f["germinal"], add("germinal_centre", centre, margin_um=0), out=f["germinal"])
    np.minimum(f["germinal"], f["tls"] - 45, out=f["germinal"])

    area_mm2 = float((f["tissue"] > 0).sum()) * (GRID_UM / 1000) ** 2
    for _ in range(1 + rng.poisson(0.25 * area_mm2)):
        diameter = rng.uniform(160, min(560, 0.35 * side))
        spot = place(rng, room, diameter * 0.6 + 20, prefer=(front > 0) + 0.1)
        if spot is not None:
            blob = Blob(rng, *spot, diameter, wobble=0.12)
            np.maximum(f["dark"], add("dark_nest", blob, margin_um=30), out=f["dark"])

    f["lymphocytes"] = _lymphocytes(rng, f, shape, room, area_mm2, side, noise, add)
    for name in ("epithelium", "lumen", "fat", "alveoli", "muscle", "keratin", "vessel", "blood"):
        if name not in f:
            f[name] = far.copy()
        np.minimum(f[name], -f["tls"] - 22, out=f[name])
        np.minimum(f[name], -f["dark"] - 6, out=f[name])
    np.maximum(f["epithelium"], f["dark"], out=f["epithelium"])
    _vessels(rng, f, shape, area_mm2)
    for name in ("epithelium", "muscle"):
        np.minimum(f[name], f["tissue"] - 2, out=f[name])
    f["angle"], f["loose"] = _directions(f, noise)
    return Section((width, height), cancer_type, structures, f)


def _lymphocytes(rng, f, shape, room, area_mm2, side, noise, add):
    """Lymphocytes per mm2 outside TLS: scattered, in diffuse infiltrates, in small dense aggregates."""
    grain = np.exp(0.7 * noise(45, 2))
    density = 130 * grain
    for _ in range(1 + rng.poisson(0.35 * area_mm2)):
        spot = place(rng, f["tissue"], 60)
        if spot is None:
            break
        reach = rng.uniform(0.09, 0.2) * side
        blob = Blob(rng, *spot, 2 * reach, wobble=0.25, stretch=2.2)
        level = blob.level(shape)
        add("infiltrate", blob, margin_um=-1e4)
        # No border: the density falls off over most of the infiltrate's own width.
        falling = soft_step(level, 1.5 * reach) ** 1.6
        density = density + rng.uniform(3500, 8500) * falling * np.clip(0.75 + 0.5 * noise(60, 2), 0.05, 1.6)
    for _ in range(2 + rng.poisson(0.9 * area_mm2)):
        diameter = rng.uniform(55, 140)
        spot = place(rng, room, diameter * 0.6 + 15)
        if spot is not None:
            blob = Blob(rng, *spot, diameter, wobble=0.12, stretch=1.6)
            level = add("small_aggregate", blob, margin_um=20)
            density = np.maximum(density, 13500 * soft_step(level, 14))
    return density.astype(np.float32)


def _vessels(rng, f, shape, area_mm2):
    """Arteries and veins: a wall of muscle, a lumen, in some of them blood."""
    room = np.minimum(f["tissue"], -np.maximum(np.maximum(f["epithelium"], f["tls"]), f["alveoli"]))
    for _ in range(2 + rng.poisson(1.6 * area_mm2)):
        lumen_um = float(np.exp(rng.normal(np.log(32), 0.45)))
        wall_um = lumen_um * rng.uniform(0.15, 0.5) + 3
        spot = place(rng, room, lumen_um / 2 + wall_um + 8)
        if spot is None:
            continue
        blob = Blob(rng, *spot, lumen_um, wobble=0.07, stretch=2.2)
        level = blob.level(shape)
        np.maximum(f["vessel"], level + wall_um, out=f["vessel"])
        np.maximum(f["lumen"], level, out=f["lumen"])
        if rng.uniform() < 0.7:
            np.maximum(f["blood"], level - rng.uniform(0, 3), out=f["blood"])
        np.minimum(f["fat"], -(level + wall_um + 4), out=f["fat"])
        np.minimum(room, -(level + wall_um + 30), out=room)


def _directions(f, noise):
    """Direction of the fibres: along whatever is near, wandering elsewhere."""
    wander = np.pi * 0.9 * noise(420) + 0.5 * noise(130)
    c, s = np.cos(2 * wander), np.sin(2 * wander)
    for name, reach_um, weight in (("epithelium", 45, 3.0), ("tls", 60, 4.0), ("vessel", 22, 6.0), ("tissue", 60, 2.5)):
        level = cv2.GaussianBlur(np.clip(f[name], -400, 400), (0, 0), 3.0)
        gy, gx = np.gradient(level)
        along = np.arctan2(gy, gx) + np.pi / 2
        pull = weight * np.exp(-np.abs(level) / reach_um) * (np.hypot(gx, gy) > 0.2)
        c, s = c + pull * np.cos(2 * along), s + pull * np.sin(2 * along)
    c, s = cv2.GaussianBlur(c.astype(np.float32), (0, 0), 2.5), cv2.GaussianBlur(s.astype(np.float32), (0, 0), 2.5)
    loose = soft_step(noise(300, 2) - 0.45, 1.8)
    return (0.5 * np.arctan2(s, c)).astype(np.float32), loose.astype(np.float32)
