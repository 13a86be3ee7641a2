"""Scores and counts of objects as small tables of HTML. Texts are escaped: names may come from a manifest."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from tlskit.maps import context_words

__all__ = ["SETS", "heading", "object_table", "origin_of", "score_table"]

SETS = {"train": "training slide", "val": "validation slide", "test": "test slide"}


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def origin_of(probmap) -> str:
    """What a map's numbers stand on: um/px and the network, by the first digits of its hash; of a cascade's map, also
    the network that said where it looked."""
    network = probmap.metadata.get("checkpoint_sha256", "")
    made = probmap.metadata.get("parameters", {})
    seen = context_words(made.get("context", {}), probmap.mpp)
    said = f"{probmap.mpp:g} um/px, {seen}{', ' if seen else ''}"
    said += f"network {network[:8]}" if network else "network not recorded"
    if screen := made.get("screen"):
        said += f", where network {screen['checkpoint_sha256'][:8]} found something first (hatched: not looked at)"
    return said


def heading(slide_id: str, set_name: str, name: str, origin: str, is_old: bool, notes: Sequence[str] = ()) -> str:
    """Which slide it is, of which set, and whose map lies over it; in red what a reader must not overlook."""
    said = f'<h2 class="tlskit-h2 tlskit-slide">{html.escape(slide_id)}</h2>'
    if set_name == "train":
        said += _red("Training slide: the network has learnt from it. Nothing here says how well it works.")
    elif set_name:
        said += _small(SETS.get(set_name, set_name).capitalize())
    if name and is_old:
        said += _red(
            f"Old map: {name} ({origin}) is of an earlier network, or screen, than the one that is chosen now."
        )
    elif name:
        said += _small(f"Map {name}: {origin}")
    return said + "".join(_red(text) for text in notes)


def score_table(
    scores: Mapping[str, dict], threshold: float, has_map: bool, truth, set_name: str = "", origin: str = ""
) -> str:
    """One row a map; the names of the maps only where there is more than one row."""
    if not has_map:
        return _small("No model has been run on this slide yet.")
    if truth is None:
        return _small("Nobody has outlined this slide: no scores.")
    if not scores:
        if set_name == "train":
            return _small("A training slide: it is not scored.")
        return _small("05_wsi_evaluation has not counted this slide with this network: no scores.")
    labels = {"iou": "IoU", "dice": "Dice", "precision": "Precision", "recall": "Recall"}
    head = _cells(["", *labels.values()] if len(scores) > 1 else labels.values())
    rows = [
        (_cells([name]) if len(scores) > 1 else "")
        + "".join(f'<td><b class="tlskit-score" data-score="{score}">{_number(of[score])}</b></td>' for score in labels)
        for name, of in scores.items()
    ]
    of_what = "" if len(scores) > 1 else f"{next(iter(scores))}, "
    return (
        f'<table class="tlskit-scores tlskit-numbers" data-threshold="{threshold:.2f}">'
        + "".join(f"<tr>{row}</tr>" for row in (head, *rows))
        + "</table>"
        + _small(f"{of_what}all pixels of the slide, threshold {threshold:.2f}" + (f", {origin}" if of_what else ""))
    )


def object_table(counts: dict, name: str, mpp: float, threshold: float, origin: str = "") -> str:
    """Objects found, missed and false at a threshold."""
    numbers = "".join(
        f'<td><b class="tlskit-objects" data-count="{kind}">{number}</b></td>' for kind, number in counts.items()
    )
    return (
        f'<table class="tlskit-numbers" data-threshold="{threshold:.2f}">'
        f"<tr>{_cells(kind.capitalize() for kind in counts)}</tr><tr>{numbers}</tr></table>"
    ) + _small(f"{name}, objects, threshold {threshold:.2f}, counted at {mpp:g} um/px; map: {origin}")


def _cells(texts) -> str:
    return "".join(f"<td>{html.escape(text)}</td>" for text in texts)


def _small(text: str) -> str:
    return f'<div class="tlskit-note tlskit-muted">{html.escape(text)}</div>'


def _red(text: str) -> str:
    return f'<div class="tlskit-note tlskit-warning">{html.escape(text)}</div>'
