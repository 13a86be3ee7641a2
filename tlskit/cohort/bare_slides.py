"""Slides without a manifest, as `tlskit predict` is given them."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tlskit.cohort.manifest import SlideRow
from tlskit.errors import ScaleError, SlideError
from tlskit.slides import PLAUSIBLE_MPP, open_slide

__all__ = ["from_slides"]

log = logging.getLogger(__name__)

#: Two statements of a um/px that differ by less than this factor agree.
_AGREE = 1.05


def from_slides(paths: Sequence[str | os.PathLike], *, mpp_where_missing: float | None = None) -> pd.DataFrame:
    """A table as of `read_manifest` for bare slides, without patients and outlines.

    Parameters
    ----------
    paths
        Slides; a slide's id is its file name without suffix, numbered where two are alike.
    mpp_where_missing
        um/px of those that do not say it. A slide that says another keeps its own, and that is warned of with both
        figures.

    Raises
    ------
    ScaleError
        If `mpp_where_missing` is none that a scan can have.
    """
    low, high = PLAUSIBLE_MPP
    if mpp_where_missing is not None and not low <= mpp_where_missing <= high:
        raise ScaleError(f"A scan can have {low:g} to {high:g} um/px, not {mpp_where_missing:g}. Correct `--mpp`.")
    used: set[str] = set()
    rows = []
    for path in map(Path, paths):
        stem = re.sub(r"[^A-Za-z0-9._ -]", "_", path.stem).strip(". ") or "slide"
        slide_id = next(name for n in itertools.count(1) if (name := stem if n == 1 else f"{stem}_{n}") not in used)
        used.add(slide_id)
        override = math.nan if mpp_where_missing is None else _where_missing(path, float(mpp_where_missing))
        rows.append(SlideRow(slide_id, slide_id, "", str(path.absolute()), "", override))
    return pd.DataFrame(rows, columns=SlideRow._fields)


def _where_missing(path: Path, mpp: float) -> float:
    """`mpp` as the override of a slide that states no um/px that can be believed; nan for one that does."""
    try:
        with open_slide(path) as slide:
            stated = slide.mpp0
    except ScaleError:
        return mpp
    except SlideError:
        return math.nan  # said when the slide's turn comes
    if not 1 / _AGREE <= mpp / stated <= _AGREE:
        log.warning(
            "%s: it says %.4g um/px, and %.4g was given for slides that say nothing: %.4g is taken. Areas would differ "
            "by a factor of %.3g.", path.name, stated, mpp, stated, max(mpp / stated, stated / mpp) ** 2,
        )  # fmt: skip
    return math.nan
