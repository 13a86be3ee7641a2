"""Scores and counts of objects as small tables of HTML. Texts are escaped: names may come from a manifest."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

__all__ = ["object_table", "score_table"]


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def score_table(scores: Mapping[str, dict], threshold: float, has_map: bool, truth) -> str:
    """One row a map; the names of the maps only where there is more than one row."""
    if not has_map:
        return _small("No model has been run on this slide yet.")
    if truth is None:
        return _small("Nobody has outlined this slide: no scores.")
    if not scores:
        return _small("Scores appear once 05_wsi_evaluation has been run for this slide.")
    labels = {"iou": "IoU", "dice": "Dice", "precision": "Precision", "recall": "Recall"}
    head = _cells(["", *labels.values()] if len(scores) > 1 else labels.values())
    rows = [
        (_cells([name]) if len(scores) > 1 else "")
        + "".join(
            f'<td style="padding:0 12px 0 0"><b class="tlskit-score" data-score="{score}">{_number(of[score])}</b></td>'
            for score in labels
        )
        for name, of in scores.items()
    ]
    of_what = "" if len(scores) > 1 else f"{next(iter(scores))}, "
    return (
        f'<table class="tlskit-scores" data-threshold="{threshold:.2f}" style="line-height:1.35">'
        + "".join(f"<tr>{row}</tr>" for row in (head, *rows))
        + "</table>"
        + _small(f"{of_what}all pixels of the slide")
    )


def object_table(counts: dict, name: str, mpp: float, threshold: float) -> str:
    numbers = "".join(
        f'<td><b class="tlskit-objects" data-count="{kind}">{number}</b></td>' for kind, number in counts.items()
    )
    return (
        f'<table data-threshold="{threshold:.2f}" style="line-height:1.35">'
        f"<tr>{_cells(kind.capitalize() for kind in counts)}</tr><tr>{numbers}</tr></table>"
    ) + _small(f"{name}, objects, counted at {mpp:g} um/px")


def _cells(texts) -> str:
    return "".join(f'<td style="padding:0 12px 0 0">{html.escape(text)}</td>' for text in texts)


def _small(text: str) -> str:
    return f'<div style="font-size:12px;color:#666;line-height:1.35">{html.escape(text)}</div>'
