"""A slide of a run under the lens, in JupyterLab and on the page: the slide view with the run's maps, truth and scores.

What it returns is a box to show; its ``value`` is the present choice, for the next cell, and its ``code`` the line that
makes the same view without sliders. Beside it stands its static twin in `static_views`, because what a widget shows
does not live in an executed copy of a notebook. The other explorers: `figure_explorers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets

from tlskit.errors import TlskitError
from tlskit.explore.slide_explorer import Sheet, SlideDesk
from tlskit.maps import probmaps
from tlskit.study import Archive, open_archive

if TYPE_CHECKING:
    from tlskit.explore.static_views import AnyRun

__all__ = ["sheet_of", "slide"]


def slide(
    run: AnyRun,
    *,
    slide_id: str | None = None,
    threshold: float = 0.5,
    height_px: int = 560,
    outputs_dir: str | Path = "outputs",
) -> SlideDesk:
    """A slide of a run, to be moved and zoomed, under the maps of all its arms.

    Parameters
    ----------
    run
        Name or folder of a run, or what `tlskit.study.runs.open_run` or `tlskit.study.archive.open_archive` returned.
    slide_id
        The slide to begin with; by default the first that has a map.
    threshold
        To begin with.
    height_px
        Height of the view.

    Returns
    -------
    SlideDesk
        ``value``: slide_id, map (name of the arm), side_by_side, context, threshold, field, drawn.
    """
    archive = open_archive(run, outputs_dir=outputs_dir)

    def reproduce(value: dict) -> str:
        field = tuple(round(v) for v in value["field"]) or None
        arms = f", arms=[{value['map']!r}]" if value["map"] and not value["side_by_side"] else ""
        context = ", context=True" if value["context"] else ""
        return (
            f"explore.slide_field({archive.name!r}, slide_id={value['slide_id']!r}, threshold={value['threshold']:g}, "
            f"field={field}{arms}{context})\n\nthreshold: {value['threshold']:g}  # in a preset"
        )

    picker = ipywidgets.Dropdown(
        options=archive.slide_ids, description="Slide", layout=ipywidgets.Layout(width="auto"),
        style={"description_width": "96px"},
    )  # fmt: skip
    desk = SlideDesk(
        [arm.name for arm in archive.arms],
        reproduce=reproduce,
        save_to=lambda chosen: archive.dir / "explore" / "geojson" / f"{chosen}.geojson",
        threshold=threshold,
        height_px=height_px,
        above=[picker],
    )
    desk.picker = picker

    def pick(_=None) -> None:
        try:
            desk.message.say("")
            desk.show(sheet_of(archive, picker.value))
        except (TlskitError, OSError) as error:
            desk.clear()
            desk.message.fail(error)

    if slide_id is not None:
        archive.row(slide_id)
        picker.value = slide_id
    picker.observe(pick, "value")
    pick()
    return desk


def sheet_of(archive: Archive, slide_id: str) -> Sheet:
    """A slide of a run with its maps, truth and histograms."""
    arms = [arm for arm in archive.arms if arm.has_map(slide_id)]
    target, slide = archive.target_class, archive.open_slide(slide_id)
    other = [arm.name for arm in archive.arms if arm not in arms and arm.map_path(slide_id).is_file()]
    notes = [
        f"The map of {name} is damaged or of another network than the arm's: it is not shown. "
        "Run the study's sweep again to make it new."
        for name in other
    ]
    return Sheet(
        slide_id=slide_id,
        slide=slide,
        maps={arm.name: probmaps.open_map(arm.map_path(slide_id)) for arm in arms},
        truth=archive.targets(slide_id, slide),
        histograms={arm.name: arm.histograms[slide_id] for arm in arms if slide_id in arm.histograms},
        thresholds={arm.name: arm.thresholds["validation"] for arm in arms if "validation" in arm.thresholds},
        class_name=target if isinstance(target, str) else target[0],
        sets={arm.name: archive.set_of(slide_id, arm) for arm in archive.arms},
        notes=notes,
        processing={k: archive.settings[k] for k in ("min_object_um2", "closing_um") if k in archive.settings},
    )
