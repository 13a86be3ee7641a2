"""The zoomable slide in JupyterLab and Voila: one widget, behind one function, so that it can be replaced.

`slide_view` is all that the explorers know of it. The widget is an `anywidget` without other dependencies: the
browser (``viewer.js`` and its parts) asks for tiles of the slide and of its maps, at the level that fits the screen,
and applies the threshold itself. A tick of a slider therefore reads nothing: no map, and never the slide.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import traitlets

from tlskit.errors import TlskitError
from tlskit.explore.drawings import Drawn, interned
from tlskit.explore.look import joined, with_look
from tlskit.explore.wishes import NewestWishes
from tlskit.maps import frames_of

try:
    import anywidget
except ImportError as error:
    raise ImportError("The slide view needs the package anywidget: pip install 'tlskit[app]'.") from error

if TYPE_CHECKING:
    from shapely.geometry import Polygon

    from tlskit.maps import ProbMap
    from tlskit.slides import Slide

__all__ = ["SlideView", "slide_view"]

log = logging.getLogger(__name__)

#: Side of a tile sent to the browser, px; ``viewer_pixels.js`` has the same number.
TILE_PX = 256
_JPEG_QUALITY = 88
#: Encoded tiles kept in the kernel, so that going back and forth between slides and views reads nothing twice.
_CACHE_BYTES = 96 << 20


class SlideView(anywidget.AnyWidget):
    """A slide that can be moved and zoomed, with probability maps and outlines over it. Made by `slide_view`.

    Attributes
    ----------
    field : list of float
        Centre x, centre y and width of what is shown, in level-0 px; settable. Empty until a browser shows it.
    threshold, opacity : float
        Of the map that is shown. Both may be linked to a slider in the browser (`ipywidgets.jslink`).
    active : int
        Number of the map that is shown.
    side_by_side : bool
        Show all maps at once, linked.
    layer : str
        ``mask``: what is positive; ``probability``: the map itself in colours.
    outlines, show_truth : bool
        Draw the edge of what is positive; draw the truth.
    drawn : list of dict
        Outlines drawn by hand: ``{"rings": [[[x, y], ...], ...], "class": name}`` in level-0 px, as in `drawings`.
    drawn_source : int
        `source` of the slide that they were drawn on.
    change, saved : int
        Number of the browser's last change of what is drawn, and of the last one that has been written.
    edits : list of dict
        Changes of what is drawn that the kernel made, newest last: ``number``, ``source``, outlines ``added`` and
        ``gone``, ``own`` (it was asked for in this window; else another one did it).
    heard : int
        Number of the last of them that the browser has taken in.
    shelf : str
        Name of the place where its outlines are kept; the browser keeps under it what could not be written there.
    unwritten : list of str
        The `shelf` of slides whose outlines could not be written, and have not been since.
    selected : int
        Number of the outline that was clicked, or -1.
    draw_class : str
        Class of the next outline.
    title : str
        What is shown, for readers of a screen; empty for nothing.
    marker : list of float
        A dashed circle: x, y, radius in level-0 px; empty for none.
    show_context : bool
        Frame the map's window in the middle, and the context that the network saw with it, where it saw one.
    """

    _esm = joined("viewer_pixels.js", "viewer_marks.js", "viewer_layers.js", "viewer_hands.js", "viewer.js")
    _css = with_look("viewer.css")

    source = traitlets.Int(0).tag(sync=True)
    size_px0 = traitlets.List([1, 1]).tag(sync=True)
    mpp0 = traitlets.Float(0.0).tag(sync=True)
    levels = traitlets.Int(1).tag(sync=True)
    maps = traitlets.List([]).tag(sync=True)
    truth = traitlets.List([]).tag(sync=True)
    field = traitlets.List([]).tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    opacity = traitlets.Float(0.35).tag(sync=True)
    active = traitlets.Int(0).tag(sync=True)
    side_by_side = traitlets.Bool(False).tag(sync=True)
    layer = traitlets.Unicode("mask").tag(sync=True)
    outlines = traitlets.Bool(True).tag(sync=True)
    show_truth = traitlets.Bool(True).tag(sync=True)
    # Thousands of outlines, at every change of one: they are plain values, and are not walked through to make sure.
    drawn = traitlets.List([]).tag(sync=True, to_json=lambda value, _: value, from_json=lambda value, _: value)
    drawn_source = traitlets.Int(0).tag(sync=True)
    change = traitlets.Int(0).tag(sync=True)
    saved = traitlets.Int(0).tag(sync=True)
    edits = traitlets.List([]).tag(sync=True)
    heard = traitlets.Int(0).tag(sync=True)
    shelf = traitlets.Unicode("").tag(sync=True)
    unwritten = traitlets.List([]).tag(sync=True)
    selected = traitlets.Int(-1).tag(sync=True)
    draw_class = traitlets.Unicode("TLS").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    marker = traitlets.List([]).tag(sync=True)
    show_context = traitlets.Bool(False).tag(sync=True)
    height_px = traitlets.Int(560).tag(sync=True)

    def __init__(self, **traits):
        self._outlines: list[Drawn] = []  # as they were last: where traits are held, `drawn` is the new list already
        super().__init__(**traits)
        self._slide: Slide | None = None
        self._maps: list[ProbMap] = []
        self._wishes = NewestWishes(self._serve, "tlskit-tiles")
        self._reading = threading.Lock()
        self._cache: dict[tuple[int, str], tuple[dict, bytes]] = {}
        self._cached_bytes = 0
        #: Called with what the browser asks to be done with outlines: ``cut``, ``merge``, ``outlines`` (of a file).
        self.on_edit: Callable[[dict, list], None] = lambda content, buffers: None
        #: Called when a browser has begun to show the view: what was said before that may have been said to nobody.
        self.on_ready: Callable[[], None] = lambda: None
        self.on_msg(self._on_message)

    @traitlets.validate("drawn")
    def _known_outlines(self, proposal: dict) -> list:
        self._outlines = interned(proposal["value"], self._outlines)
        return self._outlines

    def _should_send_property(self, key: str, value: object) -> bool:
        # What the browser has just sent needs no telling. ipywidgets finds that out by way of JSON.
        if key == "drawn" and key in self._property_lock and value == self._property_lock[key]:
            self._states_to_send.discard(key)
            return False
        return super()._should_send_property(key, value)

    def show(
        self,
        slide: Slide | None,
        *,
        maps: Mapping[str, ProbMap] | None = None,
        truth: Sequence[Polygon] = (),
        field: Sequence[float] = (),
        drawn: Sequence[dict] = (),
        shelf: str = "",
        title: str = "",
    ) -> None:
        """Show another slide, or nothing. The slide and the maps shown before are closed.

        `drawn` are its outlines by hand, `shelf` names the place where they are kept. Where `title` stays the same, so
        do the place that is looked at and an outline that is being drawn.
        """
        maps = dict(maps or {})
        with self._reading:
            old = [self._slide, *self._maps]
            self._slide, self._maps = slide, list(maps.values())
            self._wishes.forget()
            self._cache.clear()
            self._cached_bytes = 0
        keep = [slide, *maps.values()]
        for one in old:
            if one is not None and not any(one is other for other in keep):
                one.close()
        width, height = slide.size_px0 if slide is not None else (1, 1)
        # One message, and the number of the source last: the browser then finds all of it new.
        # And nobody hears of the new outlines before he hears which slide they are of.
        with self.hold_sync(), self.hold_trait_notifications():
            self.size_px0 = [width, height]
            self.mpp0 = float(slide.mpp0) if slide is not None else 0.0
            self.levels = max(1, int(np.ceil(np.log2(max(width, height) / TILE_PX))) - 1)
            self.maps = [
                {
                    "name": name,
                    "d": probmap.mpp / slide.mpp0,
                    "sizes_px": [list(size) for size in probmap.level_sizes_px],
                    "lost": _boxes(probmap.invalid, probmap.mpp / slide.mpp0),
                    "unseen": _boxes(probmap.unseen, probmap.mpp / slide.mpp0),
                    "frames": _frames(probmap),
                }
                for name, probmap in maps.items()
            ]
            self.truth = [rings(polygon) for polygon in truth]
            self.active = min(self.active, max(0, len(maps) - 1))
            if not field and title and title == self.title:
                field = self.field
            self.drawn, self.selected, self.marker, self.field = list(drawn), -1, [], list(field)
            self.title, self.shelf = title, shelf
            self.source += 1
            self.drawn_source = self.source

    def go_to(self, x_px0: float, y_px0: float, *, width_px0: float, mark_px0: float = 0.0) -> None:
        """Centre the view on a place; with a dashed circle of radius `mark_px0` around it."""
        with self.hold_sync():
            self.marker = [float(x_px0), float(y_px0), float(mark_px0)] if mark_px0 else []
            self.field = [round(float(v), 2) for v in (x_px0, y_px0, width_px0)]

    def close(self) -> None:
        """Close the widget, the slide and the maps."""
        self._wishes.close()
        for one in (self._slide, *self._maps):
            if one is not None:
                one.close()
        self._slide, self._maps = None, []
        super().close()

    def tile(self, key: str) -> tuple[dict, bytes]:
        """One tile as it is sent: ``"s/<level>/<x>/<y>"`` of the slide, ``"<n>/<level>/<x>/<y>"`` of map n.

        Returns
        -------
        facts : dict
            key, width, height; or key and reason where it cannot be read.
        data : bytes
            JPEG of the slide at ``2 ** level`` level-0 px per px; of a map 256 x 256 stored values, deflated.
        """
        source, *numbers = key.split("/")
        level, x, y = (int(n) for n in numbers)
        left, top = x * TILE_PX, y * TILE_PX
        if source != "s":
            values = self._maps[int(source)].read(left, top, TILE_PX, TILE_PX, level=level)
            return {"key": key, "width": TILE_PX, "height": TILE_PX}, zlib.compress(values.tobytes(), 1)
        import simplejpeg

        width, height = (-(-side >> level) for side in self._slide.size_px0)
        width, height = min(TILE_PX, width - left), min(TILE_PX, height - top)
        pixels = self._slide.read(left, top, width, height, mpp=self._slide.mpp0 * 2**level)
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_JPEG_QUALITY, colorsubsampling="420")
        return {"key": key, "width": width, "height": height}, data

    def _on_message(self, _, content: dict, buffers) -> None:
        if content.get("kind") == "ready":
            self.on_ready()
        if content.get("kind") in ("cut", "merge", "outlines") and content.get("source") == self.source:
            self.on_edit(content, buffers)
        if content.get("kind") != "tiles" or content.get("source") != self.source:
            return
        self._wishes.ask(key for key in content["want"] if isinstance(key, str))

    def _serve(self, key: str) -> None:
        with self._reading:
            source = self.source
            message, data = self._cached(source, key)
        self.send(message | {"source": source}, buffers=[data] if data else None)

    def _cached(self, source: int, key: str) -> tuple[dict, bytes]:
        found = self._cache.get((source, key))
        if found is not None:
            return found
        try:
            facts, data = self.tile(key)
            message = {"kind": "tile"} | facts
        except (TlskitError, OSError) as error:
            log.warning("%s: %s", key, error)
            return {"kind": "lost", "key": key, "reason": str(error)}, b""
        except (ValueError, IndexError, AttributeError) as error:
            log.debug("tile %r was asked of a slide that is shown no more: %s", key, error)
            return {"kind": "stale", "key": key}, b""
        self._cache[source, key] = message, data
        self._cached_bytes += len(data)
        while self._cached_bytes > _CACHE_BYTES:
            oldest = next(iter(self._cache))
            self._cached_bytes -= len(self._cache.pop(oldest)[1])
        return message, data


def slide_view(
    slide: Slide | None = None,
    *,
    maps: Mapping[str, ProbMap] | None = None,
    truth: Sequence[Polygon] = (),
    height_px: int = 560,
) -> SlideView:
    """A zoomable view of a slide: the one door to the viewer.

    Parameters
    ----------
    slide
        An open `tlskit.slides.slide.Slide`; the view closes it when it shows another one.
    maps
        Open probability maps by the name that is shown, such as ``{"4x": ...}``.
    truth
        Polygons in level-0 px.
    height_px
        Height on the screen.
    """
    view = SlideView(height_px=height_px)
    if slide is not None:
        view.show(slide, maps=maps, truth=truth)
    return view


def _boxes(boxes, d: float) -> list[list[float]]:
    """Boxes in working pixels as (x, y, width, height) in level-0 px."""
    return [[round(float(v) * d, 2) for v in box] for box in boxes]


def _frames(probmap: ProbMap) -> dict | None:
    """Windows and contexts of a map as the browser takes them."""
    frames = frames_of(probmap)
    if frames is None:
        return None
    edges = {name: [at.round(2).tolist() for at in getattr(frames, name)] for name in ("windows", "contexts")}
    return edges | {"window_px0": frames.window_px0, "context_px0": frames.context_px0}


def rings(polygon: Polygon) -> list[list[list[float]]]:
    """Outer ring and holes of a polygon as lists of (x, y), without the point that repeats the first."""
    return [np.asarray(ring.coords)[:-1, :2].round(2).tolist() for ring in (polygon.exterior, *polygon.interiors)]
