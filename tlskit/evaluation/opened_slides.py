"""Slides of a cohort one after another, each with its map, outlines and tissue, for what is counted of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import MapError, ParameterError
from tlskit.maps import ProbMap, open_map
from tlskit.outlines import Truth, read_truth
from tlskit.slides import tissue

__all__ = ["IDS", "OnFailure", "Opened", "Thresholds", "counted_tissue", "ids_of", "over_slides", "stacked"]

Thresholds = float | Mapping[str, float]
OnFailure = Callable[[str, Exception], None] | None

#: Columns that say whose a row of a table is.
IDS = ("slide_id", "patient_id", "cancer_type", "split", "site")


class Opened(NamedTuple):
    """What is at hand of a slide while it is counted."""

    map: ProbMap
    truth: Truth
    tissue: tissue.Tissue  # that counts
    size_px0: tuple[int, int]
    all_tissue: tissue.Tissue  # what is ignored included: networks look there, too


def over_slides(
    work, kind, maps: pd.DataFrame, manifest: pd.DataFrame, *, target_class, ignore_class="", region_class="",
    missing_target="error", resolution_by="mpp", on_failure: OnFailure = None,
):  # fmt: skip
    """Tables of all slides stacked, as a tuple of `kind`; a slide that fails leaves no row in any of them."""
    known = {row.slide_id: row for row in slide_rows(manifest)}
    results = []
    for row in tqdm(list(maps.itertuples(index=False)), desc="slides", unit="slide"):
        try:
            if row.slide_id not in known:
                raise ParameterError(f"The slide {row.slide_id} has a map but does not stand in the manifest.")
            of_manifest = known[row.slide_id]
            ids = ids_of(of_manifest, getattr(row, "split", None))
            with open_map(row.map_path) as prob_map:
                # Tissue is looked for in the colours that the network saw.
                apply_icc = prob_map.metadata.get("parameters", {}).get("apply_icc", False)
                with open_row(of_manifest, resolution_by=resolution_by, apply_icc=apply_icc) as slide:
                    _check_scale(prob_map, slide)
                    truth = read_truth(
                        of_manifest, slide, target_class, ignore_class=ignore_class, region_class=region_class,
                        missing=missing_target,
                    )  # fmt: skip
                    found = tissue.tissue_mask(slide)
                    counted = counted_tissue(found, truth)
                    results.append(work(ids, Opened(prob_map, truth, counted, slide.size_px0, found)))
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(str(row.slide_id), error)
    return stacked(results, kind)


def ids_of(row, split: str | None = None) -> dict[str, str]:
    """Whose a slide is, of its row in the manifest; without `split` its set is the manifest's.

    The site (hospital or scanner) is among them where the manifest says it: a reviewer asks for scores by it.
    """
    found = {name: getattr(row, name, "") for name in IDS} | ({"split": split} if split else {})
    return {name: value for name, value in found.items() if value or name in IDS[:3]}


def stacked(results: list, kind):
    """Tables of all slides one below the other, as a tuple of `kind`."""
    return kind(
        *(
            pd.concat([getattr(result, field) for result in results], ignore_index=True) if results else pd.DataFrame()
            for field in kind._fields
        )
    )


def _check_scale(prob_map: ProbMap, slide) -> None:
    mpp0 = prob_map.metadata.get("mpp0", slide.mpp0)
    if not math.isclose(mpp0, slide.mpp0, rel_tol=1e-6):
        raise MapError(
            f"{prob_map.path.name} was predicted with {mpp0:g} um/px at level 0, and the slide now has "
            f"{slide.mpp0:g} (from: {slide.mpp_source}). Predict the slide again."
        )


def counted_tissue(found: tissue.Tissue, truth: Truth) -> tissue.Tissue:
    """A slide's tissue, without what is ignored."""
    if not truth.ignored:
        return found
    height, width = found.mask.shape
    return dataclasses.replace(found, mask=found.mask & ~truth.ignored_at(0, 0, width, height, mpp=found.mpp))
