"""How large a pixel is: um per level-0 pixel, where it was found, and what speaks against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tlskit.errors import ParameterError, ScaleError
from tlskit.slides.directories import Directory

__all__ = ["PLAUSIBLE_MPP", "Scale", "find_mpp0", "positive_number"]

#: um/px of level 0 that a scan can have. Below lies no light microscope; above lie the resolution tags of pictures
#: that never saw a scanner (72 dpi is 352.8 um/px, 300 dpi 84.7).
PLAUSIBLE_MPP = (0.05, 20.0)

#: x and y may differ by this much (pixels are then taken as square, at the mean); so may two statements of a scale.
ASPECT_TOLERANCE = 0.05

#: Objective power and um/px may disagree by this factor; scanners of 20x with 0.23 um/px are told.
_POWER_FACTOR = 1.5

#: Dots per inch that printers and screens have, and cameras write into every picture.
_PRINT_DPI = (72, 96, 100, 120, 150, 180, 200, 240, 250, 300, 350, 360, 400, 600, 720, 1200)

#: No slide is longer.
_LONGEST_MM = 400.0

_UM_PER_UNIT = {"inch": 25400.0, "centimeter": 10000.0}


class Scale(NamedTuple):
    """um/px of level 0.

    Attributes
    ----------
    mpp0 : float
    source : "manifest", "openslide", "ome", "tiff" or "objective"
    doubts : tuple of str
        Sentences, each with both figures: what else the file states that contradicts it.
    """

    mpp0: float
    source: str
    doubts: tuple[str, ...] = ()


class _Stated(NamedTuple):
    source: str
    x: float
    y: float
    where: str

    @property
    def mpp(self) -> float:
        return (self.x + self.y) / 2

    @property
    def square(self) -> bool:
        return abs(self.x - self.y) <= ASPECT_TOLERANCE * min(self.x, self.y)

    @property
    def plausible(self) -> bool:
        return self.square and PLAUSIBLE_MPP[0] <= self.mpp <= PLAUSIBLE_MPP[1]


def find_mpp0(scan, *, mpp_override: float | None, resolution_by: str, directories: Sequence[Directory] = ()) -> Scale:
    """um/px of level 0, where it was found, and what contradicts it.

    An override always wins. Then ``resolution_by="mpp"`` asks the slide (its own metadata, then the TIFF resolution
    tags) and never its objective power; ``resolution_by="objective"`` takes 10 / objective power. Whatever else the
    slide states is compared: more than 5 % between two um/px, or a factor of 1.5 between um/px and objective power,
    is a doubt.

    Parameters
    ----------
    scan
        An open file: ``path``, ``properties`` and ``level_sizes_px`` are asked.
    directories
        Of a TIFF: the tags that count are those of level 0, which need not be the first.

    Raises
    ------
    ScaleError
        If there is none, if x and y differ by more than 5 %, if it (or the override) is outside `PLAUSIBLE_MPP`, or if
        it makes the slide longer than 400 mm.
    """
    name = scan.path.name
    if resolution_by not in ("mpp", "objective"):
        raise ParameterError(f'resolution_by must be "mpp" or "objective", not {resolution_by!r}.')
    power = positive_number(scan.properties.get("openslide.objective-power"))
    stated = _stated(scan, directories)
    if mpp_override is not None and not math.isnan(mpp_override):
        found = Scale(_checked_override(float(mpp_override), name), "manifest")
    elif resolution_by == "objective":
        if power is None:
            raise ScaleError(
                f"{name}: the slide states no objective power, which `resolution_by: objective` asks for. Fill the "
                "manifest's column `mpp_override` for this slide."
            )
        found = Scale(10.0 / power, "objective")
    else:
        found = _first(stated, name, power)
    longest_mm = max(scan.level_sizes_px[0]) * found.mpp0 / 1000
    if longest_mm > _LONGEST_MM:
        width, height = scan.level_sizes_px[0]
        raise ScaleError(
            f"{name}: {width} x {height} px at {found.mpp0:g} um/px would be a slide of {longest_mm:.0f} mm, so the "
            "size or the um/px is wrong. Correct `mpp_override`, or copy the slide again."
        )
    return found._replace(doubts=tuple(_doubts(found, stated, power)))


def _checked_override(value: float, name: str) -> float:
    low, high = PLAUSIBLE_MPP
    if not low <= value <= high:
        raise ScaleError(
            f"{name}: `mpp_override` must be um per pixel between {low:g} and {high:g}, which a scan can have, not "
            f"{value:g}."
        )
    return value


def _first(stated: list[_Stated], name: str, power: float | None) -> Scale:
    """The first thing that the slide states, if it can be believed."""
    if not stated:
        has_power = f" It states an objective power of {power:g}, which is not a measurement" if power else ""
        remedy = " (`resolution_by: objective` would accept it)." if power else ""
        raise ScaleError(
            f"{name}: the slide states no um/px, neither in its metadata nor in its TIFF resolution tags."
            f"{has_power}{remedy} Fill the manifest's column `mpp_override` for this slide."
        )
    first = stated[0]
    if not first.square:
        raise ScaleError(
            f"{name}: um/px differ by more than {ASPECT_TOLERANCE:.0%} between x ({first.x:g}) and y ({first.y:g}), so "
            "its pixels are not square or its metadata are wrong. Fill the manifest's column `mpp_override` if you "
            "know it."
        )
    if not first.plausible:
        raise ScaleError(f"{name}: {_implausible(first)}")
    return Scale(first.mpp, first.source)


def _implausible(stated: _Stated) -> str:
    low, high = PLAUSIBLE_MPP
    dpi = 25400 / stated.mpp
    printed = stated.source == "tiff" and (stated.mpp > 100 or any(abs(dpi - v) < 0.005 * v for v in _PRINT_DPI))
    if stated.mpp > high and not printed:
        return (
            f"the slide's {stated.where} say {stated.mpp:g} um/px: an overview (a macro or label picture), too coarse "
            f"to see cells in, where a scan has {low:g} to {high:g} um/px. Give the file of the scan itself."
        )
    return (
        f"the slide's {stated.where} say {stated.mpp:g} um/px ({dpi:.0f} dots per inch), outside the {low:g} to "
        f"{high:g} um/px a scan can have; such values are print resolutions left behind by another program. Fill the "
        "manifest's column `mpp_override`."
    )


def _stated(scan, directories: Sequence[Directory]) -> list[_Stated]:
    """All that the slide states of its um/px, what is believed first in front."""
    properties, found = scan.properties, []
    if (ome := getattr(scan, "mpp_xy", None)) is not None:
        found.append(_Stated("ome", *ome, "OME metadata"))
    x, y = (positive_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    # For a generic TIFF OpenSlide computes um/px from the tags of the first directory, whichever level that is.
    generic = properties.get("openslide.vendor") == "generic-tiff"
    if x and y and not generic:
        found.append(_Stated("openslide", x, y, "metadata"))
    tags = _tags_of_level_0(scan, directories)
    if tags is not None:
        found.append(_Stated("tiff", *tags, "resolution tags"))
    elif x and y and generic:
        found.append(_Stated("tiff", x, y, "resolution tags"))
    return found


def _tags_of_level_0(scan, directories: Sequence[Directory]) -> tuple[float, float] | None:
    size = scan.level_sizes_px[0]
    own = [d for d in directories if d.size_px == size]
    if own:
        if own[0].mpp_xy is not None:
            return own[0].mpp_xy
        # A level that says nothing: another directory's tags are of that directory's pixels.
        other = next((d for d in directories if d.mpp_xy is not None), None)
        return tuple(v * d / s for v, d, s in zip(other.mpp_xy, other.size_px, size, strict=True)) if other else None
    um = _UM_PER_UNIT.get(scan.properties.get("tiff.ResolutionUnit", ""))
    per_unit = [positive_number(scan.properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    return None if um is None or None in per_unit else (um / per_unit[0], um / per_unit[1])


def _doubts(found: Scale, stated: list[_Stated], power: float | None):
    """Everything stated that contradicts the scale that was taken."""
    taken = f"{found.mpp0:.4g} um/px ({_NAMES[found.source]})"
    for other in stated:
        if other.source != found.source and other.plausible:
            ratio = other.mpp / found.mpp0
            if not 1 / (1 + ASPECT_TOLERANCE) <= ratio <= 1 + ASPECT_TOLERANCE:
                yield (
                    f"{taken} is taken, and the slide's {other.where} say {other.mpp:.4g}: areas differ by a factor of "
                    f"{max(ratio, 1 / ratio) ** 2:.3g}."
                )
    if power and found.source != "objective":
        factor = found.mpp0 * power / 10.0
        if not 1 / _POWER_FACTOR <= factor <= _POWER_FACTOR:
            yield f"{taken} does not suit an objective of {power:g}x, which goes with about {10 / power:.3g}."


_NAMES = {
    "manifest": "`mpp_override`", "openslide": "the slide's metadata", "ome": "its OME metadata",
    "tiff": "its resolution tags", "objective": "10 / objective power",
}  # fmt: skip


def positive_number(text: str | None) -> float | None:
    """A positive finite number from a property, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None
