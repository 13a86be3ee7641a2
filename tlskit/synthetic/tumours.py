"""How the four cancer types are built: nests, glands, alveoli, fat and muscle, as fields of a section's plan.

Each function gets the fields drawn so far (`tissue`, the signed distance to the section's edge), the distance to
the tumour's front (positive on the tumour's side) and a source of noise by scale, and adds its own fields.
"""

from __future__ import annotations

import cv2
import numpy as np

from tlskit.synthetic.shapes import GRID_UM, Blob, place
from tlskit.synthetic.textures import signed_distance, soft_step

__all__ = ["ARCHITECTURES"]


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
        centre_um = place(rng, np.minimum(f["tissue"], -glands), spread_um + 30, prefer=prefer)
        if centre_um is None:
            break
        for _ in range(int(rng.integers(*per_cluster))):
            centre = np.asarray(centre_um) + rng.normal(0, spread_um * 0.55, 2)
            column, row = (np.clip(centre / GRID_UM, 0, np.array(shape[::-1]) - 1)).astype(int)
            diameter = rng.uniform(*diameter_um)
            if glands[row, column] > -diameter / 2 - 4 or f["tissue"][row, column] < diameter / 2 + 5:
                continue
            level = Blob(rng, *centre, diameter, wobble=0.06, stretch=1.6, detail=6).level(shape)
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


ARCHITECTURES = {
    "oropharyngeal": _oropharyngeal,
    "lung": _lung,
    "breast": _breast,
    "oesophageal": _oesophageal,
}
