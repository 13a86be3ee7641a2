"""A slide whose colours are the answer, for testing a whole pipeline without a trained model."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from tlskit.outlines import write_geojson
from tlskit.slides import tiffs
from tlskit.synthetic import anatomy

__all__ = ["OracleSlide", "make_oracle_slide"]


@dataclasses.dataclass(frozen=True)
class OracleSlide:
    """A slide whose colours are the answer.

    `polygons` are shapely Polygons in level-0 px; `colours` (N, 3) uint8, one a polygon; `background` is the colour
    of everything else on the "tissue", `glass` that of the empty margin around it.
    """

    slide_path: Path
    annotation_path: Path
    polygons: list
    colours: np.ndarray
    background: tuple[int, int, int]
    glass: tuple[int, int, int]
    mpp: float


def make_oracle_slide(
    path: str | os.PathLike,
    *,
    size_mm: tuple[float, float] = (2.6, 2.1),
    mpp: float = 0.499,
    objective_power: float = 20,
    n_tls: int = 4,
    margin_um: float = 100.0,
    seed: int = 0,
) -> OracleSlide:
    """A slide on which every TLS has one flat colour of its own, for testing a whole pipeline.

    All TLS have the same red, 70, on a background with red 230 (green and blue tell them apart), so that
    ``(230 - red) / 160`` is the share of a pixel that lies in a TLS, at any magnification. A pixel belongs to a TLS
    if its centre does. The JPEG is of high quality, with full colour resolution. The outlines are written beside
    the slide as `<name>.geojson`.

    Parameters
    ----------
    path : path
        The slide to write.
    size_mm : (width, height)
    n_tls : int
        At most this many; fewer where they find no room.
    margin_um : float
        Width of the empty glass around the flat "tissue".
    """
    from rasterio.features import rasterize

    path = Path(path)
    rng = np.random.default_rng([seed, 77])
    width, height = (int(round(side * 1000 / mpp)) for side in size_mm)
    section = anatomy.draw_section(rng, (width * mpp, height * mpp), "oropharyngeal", n_tls=n_tls)
    polygons = [one.polygon_px0(mpp) for one in section.structures if one.kind == "tls"]
    glass, background = (243, 243, 243), (230, 150, 190)
    colours = np.array([(70, 40 + 23 * (i % 5), 110 + 19 * (i % 6)) for i in range(len(polygons))], np.uint8)
    image = np.full((height, width, 3), glass, np.uint8)
    margin = int(round(margin_um / mpp))
    image[margin : height - margin, margin : width - margin] = background
    if polygons:
        label = rasterize(
            [(polygon, i + 1) for i, polygon in enumerate(polygons)], out_shape=(height, width), dtype="uint8"
        )
        image[label > 0] = colours[label[label > 0].astype(int) - 1]
    tiffs.write_slide(path, image, mpp=mpp, objective_power=objective_power, quality=95)
    annotation_path = path.with_suffix(".geojson")
    write_geojson(annotation_path, polygons, class_name="TLS")
    return OracleSlide(path, annotation_path, polygons, colours, background, glass, mpp)
