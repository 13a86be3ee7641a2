"""One slide under the lens: the view, its sliders, its scores, its misses, and outlines drawn by hand.

`SlideDesk` knows nothing of runs: `explorers` feeds it with slides of a run, `app` with any slide.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ipywidgets
import numpy as np

from tlskit.evaluation import Findings, scores_at
from tlskit.explore import viewer
from tlskit.explore.drawings import polygon_of, tidied
from tlskit.explore.hand_outlines import HandOutlines
from tlskit.explore.score_tables import heading, object_table, origin_of, score_table
from tlskit.explore.widgets import Explorer, guarded, resend
from tlskit.maps import frames_of

__all__ = ["Sheet", "SlideDesk"]

#: Objects are counted when the slider has rested this long: while it moves, the processor is the picture's.
_PATIENCE_S = 0.12


@dataclass(frozen=True)
class Sheet:
    """A slide with all that is known of it.

    Attributes
    ----------
    slide_id
        Shown as text.
    slide
        Open `tlskit.slides.slide.Slide`; the desk closes it, and the maps.
    maps
        Open maps by name, coarsest magnification first.
    truth
        True outlines in level-0 px; None where nobody has drawn them.
    histograms
        ``(2, 256)`` by the map's name, for the scores.
    thresholds
        Thresholds chosen for each map, by its name.
    class_name
        Of outlines that are saved.
    processing
        ``min_object_um2`` and ``closing_um``, as the run counts objects.
    sets
        ``train``, ``val`` or ``test`` by the map's name: what the slide was to that network.
    old
        Names of the maps that are of an earlier network: they are shown as such, and neither measured nor scored.
    notes
        Sentences about it that stand over the view.
    about
        What is written down beside outlines that are drawn on it.
    """

    slide_id: str
    slide: object
    maps: Mapping[str, object]
    truth: Sequence | None = None
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    class_name: str = "TLS"
    processing: Mapping[str, float] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    old: Collection[str] = ()
    notes: Sequence[str] = ()
    about: Mapping[str, object] = field(default_factory=dict)


class SlideDesk(Explorer):
    """View, sliders and scores of one slide at a time.

    Parameters
    ----------
    names
        Names of all maps that a slide may have: the stops of the magnification slider.
    reproduce
        Gives the lines of code for a value.
    save_to
        Gives the file that drawn outlines of a slide are saved in.
    height_px
        Height of the view.

    Attributes
    ----------
    value : dict
        slide_id, map (name), side_by_side, context (whether it is framed), threshold, field (centre x, centre y, width
        in level-0 px), drawn (outlines, polygons).
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        reproduce: Callable[[dict], str],
        save_to: Callable[[str], Path],
        threshold: float = 0.5,
        height_px: int = 560,
        above: Sequence[ipywidgets.Widget] = (),
    ):
        super().__init__()
        self.sheet: Sheet | None = None
        self._reproduce, self._save_to = reproduce, save_to
        self._findings: dict[str, Findings] = {}
        self._jumps = {"misses": 0, "false_alarms": 0}
        self._polygons: tuple[list, list] = ([], [])
        self._ticket = 0
        self._counting = threading.Lock()
        self.view = viewer.slide_view(height_px=height_px)
        self.view.on_ready = lambda: resend(self)
        self._make_controls(names, threshold)
        self._link_controls()
        self.children = [self._laid_out(above)]

    def _make_controls(self, names: Sequence[str], threshold: float) -> None:
        def common() -> dict:
            # A layout for each: one may be hidden, and must not take the others with it.
            return {"layout": ipywidgets.Layout(width="auto"), "style": {"description_width": "96px"}}

        self.magnification = ipywidgets.SelectionSlider(
            options=[(name, i) for i, name in enumerate(names)] or [("none", 0)], description="Magnification",
            tooltip="whose model's map is shown", **common(),
        )  # fmt: skip
        self.threshold = ipywidgets.FloatSlider(
            threshold, min=0.01, max=0.99, step=0.01, description="Threshold", readout_format=".2f", **common()
        )
        self.opacity = ipywidgets.FloatSlider(
            0.35, min=0, max=1, step=0.05, description="Opacity", readout_format=".2f", **common()
        )
        self.look = ipywidgets.ToggleButtons(
            options=[("prediction", "mask"), ("probability", "probability")], description="Layer",
            layout=ipywidgets.Layout(width="auto"), style={"description_width": "96px", "button_width": "112px"},
        )  # fmt: skip
        self.outlines = _check("prediction's edge (yellow)")
        self.show_truth = _check("truth (cyan)")
        self.side_by_side = _check("all magnifications side by side", False)
        self.show_context = _check("window in the middle, and its context (white)", False)
        self.chosen = _button("Use the threshold from validation")
        self.next_miss, self.next_false = _button("Next miss"), _button("Next false alarm")
        self.scores, self.objects = ipywidgets.HTML(), ipywidgets.HTML()
        self.heading = ipywidgets.HTML()
        self.hand = HandOutlines(self.view, copy_source=self._copyable, message=self.message)
        self.copy, self.save, self.class_name = self.hand.copy, self.hand.save, self.hand.class_name

    def _link_controls(self) -> None:
        # In the browser, without the kernel: this is what makes a slider feel like one.
        for source, trait, target in (
            (self.threshold, "value", "threshold"), (self.opacity, "value", "opacity"),
            (self.magnification, "index", "active"), (self.outlines, "value", "outlines"),
            (self.show_truth, "value", "show_truth"), (self.side_by_side, "value", "side_by_side"),
            (self.show_context, "value", "show_context"),
        ):  # fmt: skip
            ipywidgets.jsdlink((source, trait), (self.view, target))
        self.look.observe(lambda change: setattr(self.view, "layer", change["new"]), "value")
        for widget, trait in (
            (self.threshold, "value"), (self.magnification, "value"), (self.side_by_side, "value"),
            (self.show_context, "value"), (self.view, "field"), (self.view, "drawn"),
        ):  # fmt: skip
            widget.observe(self._changed, trait)
        self.chosen.on_click(self._use_chosen)
        self.next_miss.on_click(lambda _: self.jump("misses"))
        self.next_false.on_click(lambda _: self.jump("false_alarms"))

    def _laid_out(self, above: Sequence[ipywidgets.Widget]) -> ipywidgets.Widget:
        row = ipywidgets.Layout(flex_flow="row wrap", width="100%")
        panel = [
            *above, self.magnification, self.threshold, self.chosen, self.scores, self.objects,
            ipywidgets.HBox([self.next_miss, self.next_false], layout=row), self.message, self.look, self.opacity,
            self.outlines, self.show_truth, self.side_by_side, self.show_context, self.hand,
        ]  # fmt: skip
        left = ipywidgets.Layout(flex="1 1 440px", min_width="400px")
        return ipywidgets.HBox(
            [
                ipywidgets.VBox([self.heading, self.view, self._code_box], layout=left),
                ipywidgets.VBox(panel, layout=ipywidgets.Layout(flex="0 0 330px", width="330px")),
            ],
            layout=ipywidgets.Layout(flex_flow="row wrap", width="100%", grid_gap="14px"),
        )

    # -- what is shown -------------------------------------------------------------------------------------------------

    @property
    def map_name(self) -> str:
        """Name of the map that is shown, or empty."""
        names = list(self.sheet.maps) if self.sheet else []
        return names[min(self.magnification.index or 0, len(names) - 1)] if names else ""

    def show(self, sheet: Sheet, *, field: Sequence[float] = ()) -> None:
        """Put another slide on the desk."""
        keep = self.map_name
        with self._counting:  # the maps of the slide before are closed below: nobody may be reading them
            self.sheet = sheet
            self._findings = {}
        self._jumps = dict.fromkeys(self._jumps, 0)
        names = list(sheet.maps)
        if [label for label, _ in self.magnification.options] != (names or ["none"]):
            self.magnification.options = [(name, i) for i, name in enumerate(names)] or [("none", 0)]
            self.magnification.index = names.index(keep) if keep in names else 0
        self.view.active = self.magnification.index or 0
        self.class_name.value = self.view.draw_class = sheet.class_name
        drawn = self.hand.take(
            self._save_to(sheet.slide_id),
            origin_px0=sheet.slide.bounds_px0[:2],
            about={"slide_id": sheet.slide_id, **sheet.about},
        )
        self.view.show(
            sheet.slide, maps=sheet.maps, truth=sheet.truth or (), field=field, drawn=drawn, shelf=self.hand.shelf,
            title=sheet.slide_id,
        )  # fmt: skip
        self.copy.disabled = self.save.disabled = False
        for widget in (self.magnification, self.threshold, self.opacity, self.look, self.outlines):
            widget.disabled = not names
        self.magnification.layout.display = "none" if len(names) < 2 else ""
        self.side_by_side.disabled = len(names) < 2
        self.show_context.layout.display = "" if any(map(frames_of, sheet.maps.values())) else "none"
        self.show_truth.disabled = not sheet.truth
        self.next_miss.disabled = self.next_false.disabled = sheet.truth is None or not set(names) - set(sheet.old)
        self._changed()

    def clear(self) -> None:
        """Take the slide off the desk: nothing of it may stand under another one's name."""
        with self._counting:
            self.sheet, self._findings = None, {}
            self._ticket += 1
        self.view.show(None)
        self.magnification.options = [("none", 0)]
        for widget in (
            self.magnification, self.threshold, self.opacity, self.look, self.outlines, self.side_by_side,
            self.show_truth, self.next_miss, self.next_false, self.chosen, self.copy, self.save,
        ):  # fmt: skip
            widget.disabled = True
        for text in (self.heading, self.scores, self.objects):
            text.value = ""
        self.hand.state.say()
        self.value = {}
        self.show_code("")

    def close(self) -> None:
        """Close the desk, its slide and its maps."""
        with self._counting:
            self.sheet, self._findings = None, {}
        self.view.close()
        super().close()

    @guarded
    def _changed(self, _=None) -> None:
        if self.sheet is None:
            return
        name, threshold = self.map_name, self.threshold.value
        self.value = {
            "slide_id": self.sheet.slide_id,
            "map": name,
            "side_by_side": self.side_by_side.value and len(self.sheet.maps) > 1,
            "context": self.show_context.value and self.show_context.layout.display != "none",
            "threshold": round(threshold, 4),
            "field": list(self.view.field),
            "drawn": self.polygons(),
        }
        self.show_code(self._reproduce(self.value))
        chosen = self.sheet.thresholds.get(name)
        self.chosen.disabled = chosen is None
        self.chosen.description = (
            "No threshold from validation" if chosen is None else f"Use the threshold from validation, {chosen:.2f}"
        )
        names = list(self.sheet.maps) if self.value["side_by_side"] else [name]
        scores = {
            each: scores_at(self.sheet.histograms[each], threshold)
            for each in names
            if each in self.sheet.histograms and each not in self.sheet.old
        }
        sheet = self.sheet
        shown = origin_of(sheet.maps[name]) if name else ""
        every = set(sheet.sets.values())
        set_name = sheet.sets.get(name, "") if name else every.pop() if len(every) == 1 else ""
        self.heading.value = heading(sheet.slide_id, set_name, name, shown, name in sheet.old, sheet.notes)
        self.scores.value = score_table(scores, threshold, bool(name), sheet.truth, set_name, shown)
        if name and sheet.truth is not None and name not in sheet.old:
            self._count_later(name, threshold)
        else:
            self.objects.value = ""

    # -- objects -------------------------------------------------------------------------------------------------------

    def findings_of(self, name: str) -> Findings:
        """Objects of a map; made when first asked for."""
        if name not in self._findings:
            self._findings[name] = Findings(
                self.sheet.maps[name], self.sheet.truth or (), mpp0=self.sheet.slide.mpp0,
                min_object_um2=self.sheet.processing.get("min_object_um2", 1000.0),
                closing_um=self.sheet.processing.get("closing_um", 16.0),
            )  # fmt: skip
        return self._findings[name]

    def _count_later(self, name: str, threshold: float) -> None:
        """Objects need pixels, some 0.1 s of them: they follow a moment after the picture, and only the newest wish."""
        self._ticket += 1
        ticket, sheet = self._ticket, self.sheet

        @guarded
        def count(self):
            time.sleep(_PATIENCE_S)
            with self._counting:
                if ticket != self._ticket or sheet is not self.sheet:
                    return
                found = self.findings_of(name)
                counts = found.counts(threshold)
                if ticket == self._ticket:
                    self.objects.value = object_table(counts, name, found.mpp, threshold, origin_of(sheet.maps[name]))

        threading.Thread(target=count, args=(self,), name="tlskit-objects", daemon=True).start()

    @guarded
    def jump(self, kind: str) -> None:
        """Go to the next one of ``misses`` or ``false_alarms``, the largest first, and around."""
        with self._counting:
            table = getattr(self.findings_of(self.map_name), kind)(self.threshold.value)
        what = "miss" if kind == "misses" else "false alarm"
        if table.empty:
            self.message.say(f"No {what} at this threshold.")
            return
        number = self._jumps[kind] % len(table)
        self._jumps[kind] = number + 1
        row = table.iloc[number]
        radius = max(row["diameter_um"], 60) / self.sheet.slide.mpp0
        self.view.go_to(row["x_px0"], row["y_px0"], width_px0=radius * 5, mark_px0=radius)
        self.message.say(f"{what.capitalize()} {number + 1} of {len(table)}: {row['diameter_um']:.0f} um across.")

    @guarded
    def _use_chosen(self, _) -> None:
        self.threshold.value = round(self.sheet.thresholds[self.map_name], 4)

    # -- outlines ------------------------------------------------------------------------------------------------------

    def polygons(self) -> list:
        """Outlines drawn by hand, as valid polygons in level-0 px."""
        drawn = self.view.drawn
        if self._polygons[0] is not drawn:  # a tick of a slider asks again and again
            self._polygons = drawn, [polygon_of(one) for one in tidied(drawn)]
        return self._polygons[1]

    def _copyable(self) -> tuple[list, float]:
        """Predictions of the map that is shown, then true outlines; um per level-0 px."""
        if self.sheet is None:
            return [], 1.0
        sources = []
        if self.map_name and self.map_name not in self.sheet.old:
            with self._counting:
                sources += self.findings_of(self.map_name).outlines(self.threshold.value)
        return sources + list(self.sheet.truth or ()), self.sheet.slide.mpp0


def _check(label: str, value: bool = True) -> ipywidgets.Checkbox:
    return ipywidgets.Checkbox(
        value, description=label, indent=False, layout=ipywidgets.Layout(width="100%", height="26px")
    )


def _button(label: str, tooltip: str = "") -> ipywidgets.Button:
    return ipywidgets.Button(description=label, tooltip=tooltip or label, layout=ipywidgets.Layout(width="auto"))
