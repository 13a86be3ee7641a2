"""Plan of a made-up tissue section, in um: where tumour, stroma, fat and lymphoid tissue lie, before any cell is drawn.

The plan of a section is a set of smooth fields on a lattice of 4 um. Most are signed distances to a border:
positive inside, negative outside.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from tlskit.textures import signed_distance, smooth_noise, soft_step

__all__ = [
    "CANCER_TYPES",
    "GRID_UM",
    "Section",
    "Structure",
    "draw_outline",
    "draw_section",
    "draw_tls_diameters",
]

CANCER_TYPES = ("oropharyngeal", "lung", "breast", "oesophageal")
GRID_UM = 4.0

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
        return _area(self.outline_um)


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


def _area(outline) -> float:
    x, y = outline[:, 0], outline[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def draw_tls_diameters(rng: np.random.Generator, count: int, *, largest_um: float = TLS_DIAMETER_UM[1]):
    """Equivalent diameters of `count` TLS in um: log-normal between 150 and 900 um, mean area near 0.21 mm2."""
    smallest_um = TLS_DIAMETER_UM[0]
    drawn: list[float] = []
    while len(drawn) < count:
        diameter = _TLS_MEDIAN_UM * float(np.exp(rng.normal(0, _TLS_SPREAD)))
        if smallest_um <= diameter <= TLS_DIAMETER_UM[1]:
            drawn.append(min(diameter, max(smallest_um, largest_um)))
    return np.array(drawn)


class _Blob:
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
        self.size = float(np.sqrt(np.pi * diameter_um**2 / 4 / _area(self.outline())))

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
        field[y0:y1, x0:x1] = (self.radius(np.arctan2(v, u)) - np.hypot(u, v)) * self.size
        return field


def draw_outline(blob: _Blob, rng: np.random.Generator):
    """The outline as a person draws it: without the finest bays, a little off, 40 to 80 points."""
    outline = blob.outline(int(rng.integers(40, 81)), waves=8)
    t = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    slip = sum(rng.normal(0, 0.007) * np.cos(k * t + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    centre = np.array([blob.x, blob.y])
    return centre + (outline - centre) * (1 + slip)[:, None]


def _place(rng, room, radius_um, *, prefer=None, tries=60):
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
    edge = np.minimum(edge, np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)) - 30)
    f["tissue"] = signed_distance(edge > 0, mpp=GRID_UM)

    # Tumour on one side, with an uneven front.
    heading = rng.uniform(0, 2 * np.pi)
    front = np.cos(heading) * (x - width / 2) + np.sin(heading) * (y - height / 2) + 0.14 * side * noise(0.28 * side)
    front = front - np.quantile(front[f["tissue"] > 0], rng.uniform(0.42, 0.58))
    _ARCHITECTURES[cancer_type](rng, f, front.astype(np.float32), noise, (x, y))

    structures: list[Structure] = []
    room = f["tissue"].copy()

    def add(kind, blob, *, margin_um, outline=None):
        outline = blob.outline() if outline is None else outline
        diameter = float(np.sqrt(4 * _area(outline) / np.pi))
        structures.append(Structure(kind, float(blob.x), float(blob.y), diameter, outline))
        level = blob.level(shape)
        np.minimum(room, -level - margin_um, out=room)
        return level

    far = np.full(shape, -1e4, np.float32)
    f["tls"], f["germinal"], f["dark"] = far.copy(), far.copy(), far.copy()
    at_front = np.exp(-((front / (0.16 * side)) ** 2)) + 0.15
    for diameter in sorted(draw_tls_diameters(rng, n_tls, largest_um=0.42 * side), reverse=True):
        place = _place(rng, room, diameter * 0.62 + 25, prefer=at_front)
        if place is None and structures:
            continue
        if place is None:  # no room for the largest: a smaller one, where there is most
            row, column = np.unravel_index(np.argmax(room), shape)
            place = ((column + 0.5) * GRID_UM, (row + 0.5) * GRID_UM)
            diameter = max(120.0, (float(room[row, column]) - 25) / 0.62)
        blob = _Blob(rng, *place, diameter)
        np.maximum(f["tls"], add("tls", blob, margin_um=40, outline=draw_outline(blob, rng)), out=f["tls"])
        if diameter > 280 and rng.uniform() < 0.65:
            shift = rng.uniform(0, 0.12) * diameter
            turn = rng.uniform(0, 2 * np.pi)
            centre = _Blob(
                rng,
                place[0] + shift * np.cos(turn),
                place[1] + shift * np.sin(turn),
                diameter * rng.uniform(0.38, 0.58),
                stretch=1.25,
            )
            np.maximum(f["germinal"], add("germinal_centre", centre, margin_um=0), out=f["germinal"])
    np.minimum(f["germinal"], f["tls"] - 45, out=f["germinal"])

    area_mm2 = float((f["tissue"] > 0).sum()) * (GRID_UM / 1000) ** 2
    for _ in range(1 + rng.poisson(0.25 * area_mm2)):
        diameter = rng.uniform(160, min(560, 0.35 * side))
        place = _place(rng, room, diameter * 0.6 + 20, prefer=(front > 0) + 0.1)
        if place is not None:
            blob = _Blob(rng, *place, diameter, wobble=0.12)
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
        place = _place(rng, f["tissue"], 60)
        if place is None:
            break
        reach = rng.uniform(0.09, 0.2) * side
        blob = _Blob(rng, *place, 2 * reach, wobble=0.25, stretch=2.2)
        level = blob.level(shape)
        add("infiltrate", blob, margin_um=-1e4)
        # No border: the density falls off over most of the infiltrate's own width.
        falling = soft_step(level, 1.5 * reach) ** 1.6
        density = density + rng.uniform(3500, 8500) * falling * np.clip(0.75 + 0.5 * noise(60, 2), 0.05, 1.6)
    for _ in range(2 + rng.poisson(0.9 * area_mm2)):
        diameter = rng.uniform(55, 140)
        place = _place(rng, room, diameter * 0.6 + 15)
        if place is not None:
            blob = _Blob(rng, *place, diameter, wobble=0.12, stretch=1.6)
            level = add("small_aggregate", blob, margin_um=20)
            density = np.maximum(density, 13500 * soft_step(level, 14))
    return density.astype(np.float32)


def _vessels(rng, f, shape, area_mm2):
    """Arteries and veins: a wall of muscle, a lumen, in some of them blood."""
    room = np.minimum(f["tissue"], -np.maximum(np.maximum(f["epithelium"], f["tls"]), f["alveoli"]))
    for _ in range(2 + rng.poisson(1.6 * area_mm2)):
        lumen_um = float(np.exp(rng.normal(np.log(32), 0.45)))
        wall_um = lumen_um * rng.uniform(0.15, 0.5) + 3
        place = _place(rng, room, lumen_um / 2 + wall_um + 8)
        if place is None:
            continue
        blob = _Blob(rng, *place, lumen_um, wobble=0.07, stretch=2.2)
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


# ---- architectures: each adds its fields ---------------------------------------------------------------------


def _nests(f, mask, *, smallest_um2=500.0):
    """Signed distance to a mask without its specks."""
    count, label, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] * GRID_UM**2 >= smallest_um2
    keep[0] = False
    return np.minimum(signed_distance(keep[label], mpp=GRID_UM), f["tissue"] - 4)


def _in_zone(noise_field, front, fade_um=120.0):
    """Noise that sinks below any threshold outside the tumour's zone."""
    return noise_field - 2.5 * np.clip(-front / fade_um + 0.3, 0, 1.5)


def _acini(rng, f, shape, *, clusters, diameter_um, spread_um, per_cluster, lumen_share, prefer=None):
    """Clusters of small round glands; their signed distance and that of their lumina."""
    glands = np.full(shape, -1e4, np.float32)
    lumina = glands.copy()
    for _ in range(clusters):
        place = _place(rng, np.minimum(f["tissue"], -glands), spread_um + 30, prefer=prefer)
        if place is None:
            break
        for _ in range(int(rng.integers(*per_cluster))):
            centre = np.asarray(place) + rng.normal(0, spread_um * 0.55, 2)
            column, row = (np.clip(centre / GRID_UM, 0, np.array(shape[::-1]) - 1)).astype(int)
            diameter = rng.uniform(*diameter_um)
            if glands[row, column] > -diameter / 2 - 4 or f["tissue"][row, column] < diameter / 2 + 5:
                continue
            level = _Blob(rng, *centre, diameter, wobble=0.06, stretch=1.6, detail=6).level(shape)
            np.maximum(glands, level, out=glands)
            np.maximum(lumina, level - diameter / 2 * (1 - lumen_share), out=lumina)
    return glands, lumina


def _oropharyngeal(rng, f, front, noise, xy):
    """Solid squamous nests with keratin, under a stretch of surface epithelium."""
    blobs = _in_zone(noise(150, 2), front)
    f["epithelium"] = _nests(f, blobs > rng.uniform(0.0, 0.25))
    x, y = xy
    heading = rng.uniform(0, 2 * np.pi)
    turn = np.arctan2(y - y.mean(), x - x.mean()) - heading
    sector = soft_step(np.cos(turn) - rng.uniform(0.35, 0.6), 0.15)
    thickness = 130 + 25 * noise(260) + 22 * noise(55)
    lining = np.where(sector > 0.5, thickness - f["tissue"], -200).astype(np.float32)
    lining = _nests(f, (lining > 0) & (f["tissue"] > 0), smallest_um2=4000)
    np.maximum(f["epithelium"], lining, out=f["epithelium"])
    f["keratin"] = np.minimum(f["epithelium"] - 52, 28 * (noise(90) - 0.3)).astype(np.float32)
    f["squamous"] = np.ones_like(f["epithelium"])


def _lung(rng, f, front, noise, xy):
    """Acinar glands in a scar; around them alveoli."""
    blobs = _in_zone(noise(85, 2), front)
    f["epithelium"] = _nests(f, blobs > rng.uniform(0.2, 0.4))
    f["lumen"] = (np.minimum(f["epithelium"] - 22, 18 * (noise(48) + 0.1))).astype(np.float32)
    f["alveoli"] = np.minimum(-front - 110 + 40 * noise(160), f["tissue"] + 30).astype(np.float32)
    f["squamous"] = np.zeros_like(f["epithelium"])


def _breast(rng, f, front, noise, xy):
    """Cords and small tubules; fat and benign lobules outside."""
    blobs = _in_zone(noise(44, 2), front)
    f["epithelium"] = _nests(f, blobs > rng.uniform(0.5, 0.7), smallest_um2=250)
    f["lumen"] = np.minimum(f["epithelium"] - 13, 12 * (noise(30) - 0.6)).astype(np.float32)
    shape = front.shape
    outside = (front < -60) + 0.02
    lobules, lobule_lumina = _acini(
        rng, f, shape, clusters=int(rng.integers(2, 5)), diameter_um=(32, 58), spread_um=120,
        per_cluster=(14, 34), lumen_share=0.4, prefer=outside,
    )  # fmt: skip
    ducts, duct_lumina = _acini(
        rng, f, shape, clusters=int(rng.integers(2, 4)), diameter_um=(90, 230), spread_um=170,
        per_cluster=(1, 4), lumen_share=0.72, prefer=outside,
    )  # fmt: skip
    benign = np.maximum(lobules, ducts)
    for name, level in (("epithelium", benign), ("lumen", np.maximum(lobule_lumina, duct_lumina))):
        f[name] = np.maximum(np.minimum(f[name], -benign - 10), level).astype(np.float32)
    fat = np.minimum(-front - 60 + 90 * noise(330, 2), f["tissue"] + 25)
    f["fat"] = np.minimum(fat, -benign - 45).astype(np.float32)
    f["squamous"] = np.zeros_like(f["epithelium"])


def _oesophageal(rng, f, front, noise, xy):
    """Cribriform glands, bundles of muscle and groups of mucous glands."""
    blobs = _in_zone(noise(125, 2), front)
    f["epithelium"] = _nests(f, blobs > rng.uniform(0.05, 0.25))
    f["lumen"] = np.minimum(f["epithelium"] - 17, 16 * (noise(36) - 0.35)).astype(np.float32)
    glands, lumina = _acini(
        rng, f, front.shape, clusters=int(rng.integers(2, 5)), diameter_um=(38, 66), spread_um=110,
        per_cluster=(10, 26), lumen_share=0.3, prefer=(front < -40) + 0.02,
    )  # fmt: skip
    f["epithelium"] = np.maximum(np.minimum(f["epithelium"], -glands - 10), glands)
    f["lumen"] = np.maximum(np.minimum(f["lumen"], -glands - 10), lumina)
    bundles = 55 * (noise(260, 2) + 0.55)
    f["muscle"] = np.minimum(np.minimum(bundles, -front - 130), -glands - 40).astype(np.float32)
    f["squamous"] = np.zeros_like(f["epithelium"])


_ARCHITECTURES = {
    "oropharyngeal": _oropharyngeal,
    "lung": _lung,
    "breast": _breast,
    "oesophageal": _oesophageal,
}
