"""Sections of known outline in many stains, on glass of many tints, at the 8 um/px at which tissue is found."""

import functools

import cv2
import numpy as np
from made_slides import vips_slide

#: Glass as scanners and old mounting media make it.
TINTS = {
    "white": (255, 255, 255), "grey": (210, 208, 212), "yellowish": (245, 240, 226), "yellow": (245, 240, 222),
    "amber": (240, 225, 200), "bluish": (222, 232, 245), "greenish": (232, 245, 236), "pinkish": (245, 232, 240),
}  # fmt: skip

#: Matrix, paler matrix and nuclei.
STAINS = {
    "h&e": ((226, 150, 190), (238, 214, 228), (118, 80, 150)),
    "strong": ((205, 95, 150), (225, 160, 195), (80, 45, 120)),
    "pale": ((236, 200, 220), (244, 230, 238), (170, 150, 195)),
    "bluish": ((190, 175, 225), (222, 215, 238), (95, 85, 165)),
    "blue counterstain": ((214, 220, 236), (232, 235, 243), (110, 130, 185)),
    "dab": ((205, 190, 170), (230, 228, 228), (105, 65, 35)),
    "dense blue": ((120, 135, 190), (150, 160, 205), (85, 100, 165)),
    "violet": ((125, 95, 180), (150, 120, 195), (90, 60, 150)),
}

INKS = {
    "green": (30, 150, 70), "blue": (40, 70, 190), "black": (22, 22, 26), "cyan": (20, 110, 120), "red": (205, 35, 45),
    "orange": (240, 120, 20), "purple": (120, 30, 150), "pink": (230, 40, 130), "thin blue": (100, 130, 220),
    "thin green": (120, 200, 140),
}  # fmt: skip

MPP, _FINE = 8.0, 4
_SHAPE = (1200, 1600)


@functools.cache
def section(stain: str) -> tuple[np.ndarray, np.ndarray]:
    """An oval section with two dense follicles, (1200, 1600, 3) float32 on white at 2 um/px, and where it is."""
    rng = np.random.default_rng(1)
    matrix, pale, nuclei = (np.float32(colour) for colour in STAINS[stain])
    rows, columns = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
    known = ((columns - 800) / 480) ** 2 + ((rows - 600) / 400) ** 2 <= 1

    def field(sigma):
        noise = cv2.GaussianBlur(rng.random(_SHAPE, dtype=np.float32), (0, 0), sigma)
        return (noise - noise.mean()) / noise.std()

    blend = np.clip(field(12) * 0.25 + 0.5, 0, 1)[..., None]
    tissue = blend * matrix + (1 - blend) * pale
    grain = field(1.5)
    tissue[grain > 0.9] = nuclei
    for x, y in ((700, 500), (950, 700)):
        follicle = (columns - x) ** 2 + (rows - y) ** 2 <= 90**2
        tissue[follicle & (grain > -0.4)] = nuclei
    picture = np.full((*_SHAPE, 3), 255, np.float32)
    picture[known] = tissue[known]
    return picture, known


def pen(picture: np.ndarray, ink: str) -> tuple[np.ndarray, np.ndarray]:
    """The picture with two strokes 100 um wide, one on glass and one across the section; and where they are."""
    drawn = np.zeros(picture.shape[:2], np.uint8)
    cv2.line(drawn, (100, 100), (1500, 140), 1, 50)
    cv2.line(drawn, (60, 700), (1540, 640), 1, 50)
    picture = picture.copy()
    picture[drawn > 0] = INKS[ink]
    return picture, drawn > 0


def with_haze(picture: np.ndarray, known: np.ndarray, level: float) -> np.ndarray:
    """The picture with eosin that ran out of the section, of a share `level` of its strength."""
    rows, columns = np.mgrid[: _SHAPE[0], : _SHAPE[1]]
    haze = np.exp(-((((columns - 1350) / 260) ** 2 + ((rows - 600) / 380) ** 2) ** 2)) * level
    haze[known] = 0
    return picture * (1 - haze[..., None] * (1 - np.float32((226, 120, 170)) / 255))


def slide_of(path, picture: np.ndarray, tint: str = "grey"):
    """A slide at 8 um/px of a picture at 2, on tinted glass, with noise."""
    noise = np.random.default_rng(0).normal(0, 2, picture.shape)
    image = picture * (np.float32(TINTS[tint]) / 255) + noise
    small = cv2.resize(image.astype(np.float32), None, fx=1 / _FINE, fy=1 / _FINE, interpolation=cv2.INTER_AREA)
    return vips_slide(path, np.clip(small, 0, 255).astype(np.uint8), mpp=MPP, power=1.25, quality=90)


def small(mask: np.ndarray) -> np.ndarray:
    """A mask at 2 um/px at 8 um/px: whatever is touched."""
    return cv2.resize(mask.astype(np.uint8) * 255, (400, 300), interpolation=cv2.INTER_AREA) > 0


def dice(found: np.ndarray, known: np.ndarray) -> float:
    return 2 * (found & known).sum() / max(1, found.sum() + known.sum())
