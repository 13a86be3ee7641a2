"""A page to look a cohort over: each slide small, with its tissue and outlines drawn in, its facts and findings.

Fifty pictures show in a minute what no rule does: a turned slide, outlines of another section, a pen mark, a blank.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tlskit.cohort.manifest import SlideRow, inspect_manifest, open_row, slide_rows
from tlskit.errors import TlskitError
from tlskit.files import write_text
from tlskit.outlines import read_annotations, targets_of
from tlskit.slides import tissue_mask

__all__ = ["write_slide_page"]

_PICTURE_PX = 420
#: Colours of the lines, RGB, told apart by people who do not see red or green, on pink and on white.
_TISSUE, _TARGETS = (0, 90, 200), (0, 0, 0)
_WORST_FIRST = ("error", "warning", "note", "ok")


def write_slide_page(
    manifest: str | Path,
    findings: pd.DataFrame,
    path: str | Path,
    *,
    target_class: str | Sequence[str],
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    workers: int = 2,
) -> Path:
    """Write one HTML page of all slides of a manifest, those with the worst findings first.

    The page stands alone: its pictures are inside it, about 40 kB a slide.

    Parameters
    ----------
    manifest
        As it was given to `checks.check_manifest`.
    findings
        What that returned.
    path
        File to write.
    target_class
        Class whose outlines are drawn.
    resolution_by, apply_icc
        See `slides.open_slide`.
    workers
        Slides looked at together.
    """
    table, _ = inspect_manifest(manifest)
    rows = list(slide_rows(table))
    by_slide = {name: group.to_dict("records") for name, group in findings.groupby("slide_id", sort=False)}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        looks = pool.map(lambda row: _look(row, target_class, resolution_by, apply_icc), rows)
        looks = list(tqdm(looks, total=len(rows), desc="page", unit="slide", disable=not rows))
    cards = [(_badness(by_slide.get(row.slide_id, [])), i) for i, row in enumerate(rows)]
    body = "".join(_card(rows[i], by_slide.get(rows[i].slide_id, []), *looks[i]) for _, i in sorted(cards))
    severities = [_badness(by_slide.get(row.slide_id, []))[0] for row in rows]
    counted = ", ".join(
        f"{severities.count(i)} with {word}"
        for i, word in enumerate(("an error", "a warning", "a note"))
        if i in severities
    )
    whole = "".join(_finding(row) for row in by_slide.get("", []) if row["severity"] != "ok")
    name = html.escape(Path(manifest).name)
    body = body.replace(html.escape(f"{Path(manifest).absolute().parent}{os.sep}"), "")  # as the manifest has them
    text = _PAGE.format(
        title=f"Slides of {name}", count=f"{len(rows)} slides: {counted or 'nothing found'}.",
        cohort=f"<section><h2>Whole cohort</h2><ul>{whole}</ul></section>" if whole else "", cards=body,
        tissue=f"rgb{_TISSUE}", targets=f"rgb{_TARGETS}",
    )  # fmt: skip
    return write_text(path, text)


def _badness(findings: list[dict]) -> tuple[int, int]:
    """Sorts worst first: the worst severity, then how many of it."""
    ranks = [_WORST_FIRST.index(row["severity"]) for row in findings]
    worst = min(ranks, default=len(_WORST_FIRST) - 1)
    return worst, -ranks.count(worst)


def _look(row: SlideRow, target_class, resolution_by: str, apply_icc: bool) -> tuple[np.ndarray | None, list]:
    """The picture of a slide and its facts, as far as it can be looked at."""
    facts: list[tuple[str, str]] = []
    try:
        with open_row(row, resolution_by=resolution_by, apply_icc=apply_icc) as slide:
            width, height = slide.size_px0
            mm = (width * slide.mpp0 / 1000, height * slide.mpp0 / 1000)
            facts += [
                ("size", f"{width} x {height} px, {mm[0]:.1f} x {mm[1]:.1f} mm"),
                ("scale", f"{slide.mpp0:.4g} um/px, from: {slide.mpp_source}"),
            ]
            if slide.objective_power:
                facts.append(("objective", f"{slide.objective_power:g}x"))
            image, mpp = slide.thumbnail(max_px=_PICTURE_PX * 2)
            facts.append(("levels", ", ".join(f"{d:.4g}" for d in slide.level_downsamples)))
            facts.append(("read by", f"{slide.reader} ({slide.vendor or 'unknown format'})"))
            drawn = _draw_tissue(image, slide, mpp, facts)
            if row.annotation_path:
                _draw_targets(drawn, row, slide, mpp, target_class, facts)
            return drawn, facts
    except TlskitError:  # said by the findings
        return None, facts
    except Exception as error:  # the page shows what can be shown
        facts.append(("not shown", f"{type(error).__name__}: {error}"))
        return None, facts


def _draw_tissue(image: np.ndarray, slide, mpp: float, facts: list) -> np.ndarray:
    drawn = np.ascontiguousarray(image)
    try:
        tissue = tissue_mask(slide)
    except TlskitError as error:
        facts.append(("tissue", str(error).partition(": ")[2]))
        return drawn
    facts.append(
        ("tissue", f"{tissue.area_mm2:.3g} mm2" + (f"; {tissue.ink_mm2:.2g} mm2 of ink" * bool(tissue.ink_mm2)))
    )
    mask = tissue.at(0, 0, image.shape[1], image.shape[0], mpp=mpp).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, contours, -1, _TISSUE, 2, lineType=cv2.LINE_AA)


def _draw_targets(drawn: np.ndarray, row: SlideRow, slide, mpp: float, target_class, facts: list) -> None:
    try:
        found = read_annotations(row.annotation_path)
        targets = targets_of(found, target_class, missing="none", path=row.annotation_path)
    except TlskitError as error:
        facts.append(("outlines", str(error)))
        return
    area_mm2 = sum(polygon.area for polygon in targets) * (slide.mpp0 / 1000) ** 2
    facts.append(("outlines", f"{len(targets)}, {area_mm2:.3g} mm2"))
    for polygon in targets:
        for part in getattr(polygon, "geoms", [polygon]):
            rings = [np.rint(np.asarray(ring.coords)[:, :2] * slide.mpp0 / mpp * 16).astype(np.int32)
                     for ring in (part.exterior, *part.interiors)]  # fmt: skip
            cv2.polylines(drawn, rings, True, (255, 255, 255), 5, lineType=cv2.LINE_AA, shift=4)
            cv2.polylines(drawn, rings, True, _TARGETS, 2, lineType=cv2.LINE_AA, shift=4)


def _card(row: SlideRow, findings: list[dict], image: np.ndarray | None, facts: list) -> str:
    worst = _WORST_FIRST[_badness(findings)[0]]
    picture = '<p class="none">no picture</p>'
    if image is not None:
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
        alt = html.escape(f"{row.slide_id}, with its tissue and outlines drawn in")
        picture = f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
    told = [_finding(entry) for entry in sorted(findings, key=lambda entry: _WORST_FIRST.index(entry["severity"]))]
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts)
    return (
        f'<article class="{worst}"><div class="picture">{picture}</div><div><h2>{html.escape(row.slide_id)} '
        f"<small>patient {html.escape(row.patient_id)}, {html.escape(row.cancer_type)}</small></h2>"
        f"<ul>{''.join(told)}</ul><dl>{listed}</dl></div></article>\n"
    )


def _finding(row: dict) -> str:
    what = html.escape(str(row["what"]))
    remedy = f" <em>{html.escape(str(row['remedy']))}</em>" if row["remedy"] else ""
    kind = "" if row["problem"] == "ok" else f"{html.escape(row['problem'])}: "
    return f'<li class="{row["severity"]}"><b>{row["severity"]}</b> {kind}{what}{remedy}</li>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1b1b1b; }}
h1 {{ font-size: 1.5rem; margin: 0; }} h2 {{ font-size: 1.1rem; margin: 0 0 .4rem; }}
small {{ font-weight: normal; color: #555; }}
article {{ display: grid; grid-template-columns: 300px 1fr; gap: 1.2rem; padding: 1rem; margin: 1rem 0;
  border: 1px solid #ccc; border-left: 6px solid #999; }}
article.error {{ border-left-color: #b00020; }} article.warning {{ border-left-color: #b26a00; }}
article.note, article.ok {{ border-left-color: #2e6b3a; }}
.picture {{ text-align: center; }} img {{ max-width: 300px; max-height: 300px; border: 1px solid #ddd; }}
.none {{ color: #555; padding: 4rem 0; background: #f2f2f2; margin: 0; }}
ul {{ margin: 0 0 .6rem; padding: 0; list-style: none; }} li {{ margin: .2rem 0; overflow-wrap: anywhere; }}
li b {{ display: inline-block; min-width: 4.6em; }}
li.error b {{ color: #b00020; }} li.warning b {{ color: #8a5000; }} li.ok b, li.note b {{ color: #2e6b3a; }}
em {{ color: #444; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem; margin: 0; color: #333; font-size: .92em; }}
dt {{ color: #555; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
.key span {{ display: inline-block; width: 1.6em; border-top: 3px solid; vertical-align: middle;
  margin: 0 .3em 0 1em; }}
@media (max-width: 700px) {{ article {{ grid-template-columns: 1fr; }} }}
</style></head><body><main>
<h1>{title}</h1><p>{count} Worst first.
<span class="key"><span style="color: {tissue}"></span>tissue <span style="color: {targets}"></span>outlines</span></p>
{cohort}{cards}</main></body></html>
"""
