"""The target as it was drawn to objects as predictions are: each place once, on the slide, no specks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon, box

from tlskit.outlines.findings import Told
from tlskit.outlines.outline import Outline
from tlskit.outlines.rasters import polygons_of
from tlskit.units import counted

__all__ = ["OVERLAP", "SPECK_SHARE", "SPECK_UM2", "gathered"]

#: A part of an outline is a speck, as the wand leaves them, below this share of it and this area.
SPECK_SHARE, SPECK_UM2 = 0.01, 500.0

#: Outlines of a larger IoU, or of which one holds this share of the other, are one object drawn twice.
OVERLAP, CONTAINED = 0.1, 0.9


def gathered(
    outlines: Sequence[Outline], *, mpp0: float, limit: tuple[float, float, float, float]
) -> tuple[list[Polygon], list[Told]]:
    """Objects of the target, and what was done to what was drawn.

    Predictions are objects that do not overlap, on the slide, without specks; the truth is brought to the same form.
    Parts of an outline are objects of their own. Specks are left out (`SPECK_SHARE`, `SPECK_UM2`), and so is what lies
    off the scan. Outlines that overlap by more than an IoU of `OVERLAP`, or lie one in the other, are united.

    Parameters
    ----------
    outlines
        Of the target, level-0 px.
    mpp0
        um/px of level 0.
    limit
        Left, top, right and bottom of the scan, level-0 px.

    Returns
    -------
    polygons : list of Polygon
        In the order of the outlines.
    told : list of Told
        With figures and what to do; nothing where all is as drawn.
    """
    told: list[Told] = []
    parts, specks = [], []
    for outline in outlines:
        whole = outline.geometry.area
        for part in outline.polygons:
            speck = part.area < SPECK_SHARE * whole and part.area * mpp0**2 < SPECK_UM2
            (specks if speck else parts).append(part)
    if specks:
        areas = np.array([part.area for part in specks]) * mpp0**2
        told.append(
            Told(
                "warning", "area", f"{counted(len(specks), 'speck')} of {_range(areas)} um2 beside larger outlines "
                f"{'is' if len(specks) == 1 else 'are'} left out.",
                "In QuPath: Objects > Annotations > Split annotations, and delete the small ones.",
            )
        )  # fmt: skip
    on_slide, off = _clipped(parts, limit)
    if off:
        told.append(
            Told("warning", "place", f"{counted(off, 'outline')} of the target {'lies' if off == 1 else 'lie'} wholly "
                 "off the slide, not used.", "Delete them in QuPath, or correct `annotation_path`.")
        )  # fmt: skip
    united, warning = _united(on_slide)
    return united, told + warning


def _clipped(parts: list[Polygon], limit) -> tuple[list[Polygon], int]:
    """What of the parts lies on the scan, and the number of those that do not at all."""
    frame = box(*limit)
    found, off = [], 0
    for part in parts:
        left, top, right, bottom = part.bounds
        if left >= limit[0] and top >= limit[1] and right <= limit[2] and bottom <= limit[3]:
            found.append(part)
            continue
        pieces = [piece for piece in polygons_of(part.intersection(frame)) if piece.area > 0]
        off += not pieces
        found += pieces
    return found, off


def _united(parts: list[Polygon]) -> tuple[list[Polygon], list[Told]]:
    pairs = _overlapping(parts)
    if not pairs:
        return parts, []
    group = list(range(len(parts)))
    for one, other, _, _ in pairs:
        low, high = sorted((group[one], group[other]))
        group = [low if g == high else g for g in group]
    united = []
    for first in sorted(set(group)):
        members = [part for part, g in zip(parts, group, strict=True) if g == first]
        united += members if len(members) == 1 else polygons_of(shapely.union_all(members))
    summed, union = sum(part.area for part in parts), float(shapely.union_all(parts).area)
    largest = max(iou for _, _, iou, _ in pairs)
    n_inside = sum(inside for *_, inside in pairs)
    kinds = []
    if n_inside < len(pairs):
        kinds.append(f"{counted(len(pairs) - n_inside, 'pair')} of outlines overlap (IoU up to {largest:.2f})")
    if n_inside:
        kinds.append(f"{counted(n_inside, 'outline')} {'lies' if n_inside == 1 else 'lie'} inside another")
    what = f"{' and '.join(kinds)}: {len(parts)} outlines are {counted(len(united), 'object')}"
    what += f", with {union / summed:.0%} of their summed area."
    return united, [Told("warning", "outlines", what, "In QuPath, delete the copies, or merge what is one object.")]


def _overlapping(parts: list[Polygon]) -> list[tuple[int, int, float, bool]]:
    """Pairs that are one object: numbers, IoU, and whether one lies in the other."""
    if len(parts) < 2:
        return []
    tree = shapely.STRtree(parts)
    one, other = tree.query(parts, predicate="intersects")
    once = one < other
    found = []
    for i, j in zip(one[once].tolist(), other[once].tolist(), strict=True):
        shared = parts[i].intersection(parts[j]).area
        smaller, both = min(parts[i].area, parts[j].area), parts[i].area + parts[j].area - shared
        iou = shared / both if both else 0.0
        if iou > OVERLAP or shared > CONTAINED * smaller:
            found.append((i, j, iou, shared > CONTAINED * smaller and iou < 0.5))
    return found


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2g}" if high - low < 0.05 * high else f"{low:.2g} to {high:.2g}"
