"""A slide's outlines as a mask, band by band: gigapixel masks are never whole in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon, box

from tlskit.errors import AnnotationError, ParameterError
from tlskit.outlines.class_names import check_class_name, is_prediction, listed, wanted_names
from tlskit.outlines.findings import Told, also_holds
from tlskit.outlines.outline import Annotations, Outline
from tlskit.outlines.placing import limits, placement
from tlskit.outlines.rasters import polygons_of
from tlskit.outlines.reading import outlines_of, rasterise, read_annotations, without_ignored
from tlskit.outlines.targets import gathered

__all__ = ["IGNORED", "Truth", "check_classes", "read_truth", "truth_of"]

#: Value of a mask's pixel that counts neither as target (1) nor as background (0).
IGNORED = 255


class Truth:
    """The polygons of one slide, rasterised where they are asked for.

    Parameters
    ----------
    polygons
        Of the target, in level-0 px.
    mpp0
        um per level-0 px.
    ignored
        Areas that count neither as target nor as background, in level-0 px. They are cut out of the target.

    told, drawn
        What is to be known of them, and the target's outlines of the file before that.

    Attributes
    ----------
    polygons, ignored : list of Polygon
        The target without what is ignored, and that.
    told : list of Told
    drawn : list of Outline
    """

    def __init__(
        self, polygons: Sequence[Polygon], *, mpp0: float, ignored: Sequence[Polygon] = (), told: Sequence[Told] = (),
        drawn: Sequence[Outline] = (),
    ):  # fmt: skip
        self.told, self.drawn = list(told), list(drawn)
        self.ignored = list(ignored)
        self.polygons = _cut_out(polygons, self.ignored) if self.ignored else list(polygons)
        self.mpp0 = float(mpp0)
        self._bounds, self._ignored_bounds = (
            np.array([p.bounds for p in some], np.float64).reshape(-1, 4) for some in (self.polygons, self.ignored)
        )

    @property
    def area_mm2(self) -> float:
        """Area of the union of the polygons."""
        return float(shapely.union_all(self.polygons).area) * (self.mpp0 / 1000) ** 2 if self.polygons else 0.0

    def without(self, boxes_px: Sequence[tuple[int, int, int, int]], *, mpp: float) -> Truth:
        """The same with some rectangles (x, y, width, height in working px at `mpp`) ignored, too."""
        d = mpp / self.mpp0
        boxes = [box(x * d, y * d, (x + w) * d, (y + h) * d) for x, y, w, h in boxes_px]
        if not boxes:
            return self
        ignored = [*self.ignored, *boxes]
        return Truth(self.polygons, mpp0=self.mpp0, ignored=ignored, told=self.told, drawn=self.drawn)

    def at(
        self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float, only: int | None = None
    ) -> np.ndarray:
        """Mask of a rectangle of the working lattice at `mpp`, ``(height_px, width_px) bool``.

        `only` is the number of a polygon to draw alone.
        """
        chosen = slice(None) if only is None else slice(only, only + 1)
        return self._drawn(self.polygons[chosen], self._bounds[chosen], x_px, y_px, width_px, height_px, mpp)

    def ignored_at(self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float) -> np.ndarray:
        """Mask of what is ignored in a rectangle, ``(height_px, width_px) bool``."""
        return self._drawn(self.ignored, self._ignored_bounds, x_px, y_px, width_px, height_px, mpp)

    def coded_at(self, x_px: int, y_px: int, width_px: int, height_px: int, *, mpp: float) -> np.ndarray:
        """Both in one, ``(height_px, width_px) uint8``: 1 target, 0 background, `IGNORED`."""
        mask = self.at(x_px, y_px, width_px, height_px, mpp=mpp).view(np.uint8)
        if self.ignored:
            mask[self.ignored_at(x_px, y_px, width_px, height_px, mpp=mpp)] = IGNORED
        return mask

    def _drawn(self, polygons, bounds_px0, x_px, y_px, width_px, height_px, mpp) -> np.ndarray:
        mask = np.zeros((height_px, width_px), bool)
        x0, y0, x1, y1 = (bounds_px0 / (mpp / self.mpp0)).T
        hit = (x1 > x_px) & (x0 < x_px + width_px) & (y1 > y_px) & (y0 < y_px + height_px)
        # One polygon at a time, each in its own box: a slide is nearly all background.
        for n in np.flatnonzero(hit):
            left, top = max(x_px, math.floor(x0[n])), max(y_px, math.floor(y0[n]))
            right, bottom = min(x_px + width_px, math.ceil(x1[n])), min(y_px + height_px, math.ceil(y1[n]))
            if left < right and top < bottom:
                mask[top - y_px : bottom - y_px, left - x_px : right - x_px] |= rasterise(
                    [polygons[n]], x_px=left, y_px=top, width_px=right - left, height_px=bottom - top,
                    mpp=mpp, mpp0=self.mpp0,
                )  # fmt: skip
        return mask


def read_truth(
    row,
    slide,
    target_class: str | Sequence[str],
    *,
    ignore_class: str | Sequence[str] | None = None,
    region_class: str | Sequence[str] | None = None,
    missing: str = "error",
) -> Truth:
    """The outlines of one slide of a cohort, in its level-0 px.

    Parameters
    ----------
    row
        Of the manifest (`cohort.slide_rows`). Its `outline_origin` says where a GeoJSON counts pixels from: ``scan``
        (or empty; the corner of what was scanned, as QuPath counts) or ``slide``.
    slide : slides.Slide
        It says where its scanned part lies.
    target_class, missing
        Of `reading.read_targets`.
    ignore_class
        Class(es) whose area counts neither as target nor as background; empty or None for none. Where such an area and
        a target overlap, the area wins.
    region_class
        Class(es) of regions that were looked through wholly, such as QuPath's ``Region*``: outside them only the target
        counts, and everything else is ignored. Empty or None: the whole slide was looked through.

    Returns
    -------
    Truth
        Its `told` says what of the file is not used, and why; see `targets.gathered`.

    Raises
    ------
    AnnotationError
        As `reading.read_targets`; if all outlines of the target lie off the scanned part; or if regions are asked
        for and the slide has none.
    ParameterError
        If a class is to be two of target, ignored and region, or the target one of predictions; or if QuPath could
        not hold a class's name.
    """
    check_classes(target_class, ignore_class, region_class)
    from_slide = getattr(row, "outline_origin", "") == "slide"
    found = read_annotations(row.annotation_path, origin_px0=(0, 0) if from_slide else slide.bounds_px0[:2])
    return truth_of(
        found, slide, target_class, ignore_class=ignore_class, region_class=region_class, missing=missing,
        path=row.annotation_path,
    )  # fmt: skip


def truth_of(
    found: Annotations, slide, target_class, *, ignore_class=None, region_class=None, missing="error", path=""
) -> Truth:
    """`read_truth` of a file that was read already; `path` is for the messages."""
    rest, ignored = without_ignored(found, ignore_class)
    rest, regions = without_ignored(rest, region_class)
    if listed(region_class) and not regions:
        raise AnnotationError(
            f"{path} holds no region of the class {' or '.join(map(repr, listed(region_class)))}. Draw it around what "
            "was looked through for targets (all of the slide, if all was), or leave `region_class` empty."
        )
    outlines = outlines_of(rest, target_class, missing=missing, path=path)
    told = also_holds(found, target_class, ignore_class, region_class)
    limit = limits(slide.size_px0, slide.bounds_px0)
    polygons, more = gathered(outlines, mpp0=slide.mpp0, limit=limit)
    if outlines and not polygons:
        where = placement(
            [outline.geometry for outline in outlines], size_px0=slide.size_px0, mpp0=slide.mpp0,
            level_downsamples=slide.level_downsamples, bounds_px0=slide.bounds_px0,
        )  # fmt: skip
        raise AnnotationError(f"{path} has no outline on the slide. {where.reason}")
    if regions:
        everywhere = shapely.union_all([*regions, *polygons])
        ignored = [*ignored, *polygons_of(box(0, 0, *slide.size_px0).difference(everywhere))]
    return Truth(polygons, mpp0=slide.mpp0, ignored=ignored, told=[*told, *more], drawn=outlines)


def check_classes(target_class, ignore_class=None, region_class=None) -> None:
    """Refuse a class that is to be two things at once, and predictions as the truth.

    Raises
    ------
    ParameterError
    """
    given = {"target_class": target_class, "ignore_class": ignore_class, "region_class": region_class}
    names = {parameter: wanted_names(value) for parameter, value in given.items()}
    for name in sorted(set().union(*names.values())):
        check_class_name(name)
    for one, other in (("target_class", "ignore_class"), ("target_class", "region_class"),
                       ("ignore_class", "region_class")):  # fmt: skip
        if both := names[one] & names[other]:
            raise ParameterError(f"{sorted(both)[0]!r} is in `{one}` and in `{other}`: take it out of one.")
    predicted = sorted(filter(is_prediction, names["target_class"]))
    if predicted:
        raise ParameterError(
            f"{predicted[0]!r} is the class of predicted outlines, which are no truth. In QuPath, give those that a "
            "person has looked at the target's class, and name that in `target_class`."
        )


def _cut_out(polygons: Sequence[Polygon], areas: Sequence[Polygon]) -> list[Polygon]:
    gone = shapely.union_all(areas)
    left = (polygon.difference(gone) if polygon.intersects(gone) else polygon for polygon in polygons)
    return [part for geometry in left for part in polygons_of(geometry) if part.area > 0]
