"""The slides of a folder as pictures, with what is known of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from tlskit.errors import TlskitError
from tlskit.explore.look import with_look
from tlskit.explore.wishes import NewestWishes
from tlskit.slides import open_slide

__all__ = ["Gallery", "thumbnail"]

log = logging.getLogger(__name__)

#: Longest side of a picture, px.
PICTURE_PX = 240

#: Pictures kept in the kernel, of some 10 KB each.
KEPT = 2000


def thumbnail(path: str | Path, **reading) -> tuple[np.ndarray, float]:
    """A slide in small, ``(H, W, 3) uint8``, its longer side at most `PICTURE_PX`; and level-0 px per px of it.

    Raises
    ------
    SlideError
        If it cannot be read.
    """
    with open_slide(path, **reading) as slide:
        mpp = slide.mpp0 * max(1.0, max(slide.size_px0) / PICTURE_PX)
        width, height = slide.size_px(mpp)
        return slide.read(0, 0, width, height, mpp=mpp), mpp / slide.mpp0


class Gallery(anywidget.AnyWidget):
    """Cards in a list box. Pictures are made when a browser shows them, one after the other.

    Parameters
    ----------
    on_open
        Called with the number of the card that was opened.
    known
        Gives a few words on a slide: what is known of it. Called beside its picture, in another thread.
    outlines
        Gives polygons in level-0 px that are drawn over the picture of a slide. Called in the same thread.
    reading
        Gives options of `tlskit.slides.open_slide` for a slide.
    color
        RGB of the outlines.

    Attributes
    ----------
    items : list of dict
        name, kind (``slide``, ``folder``, ``up``); words that stand below it from the beginning (``note``), and whether
        they tell of a fault (``bad``).
    index : int
        The chosen one, or -1.
    folder : str
        Where they lie: pictures of another folder are not shown.
    turn : int
        Counts up when what is known may have changed: the browser then asks again.
    label : str
        What the list holds, for readers of a screen.
    """

    _esm = Path(__file__).with_name("gallery.js")
    _css = with_look("gallery.css")
    items = traitlets.List([]).tag(sync=True)
    index = traitlets.Int(-1).tag(sync=True)
    folder = traitlets.Unicode("").tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)
    label = traitlets.Unicode("Slides and folders").tag(sync=True)

    def __init__(
        self,
        on_open: Callable[[int], None],
        known: Callable[[Path], str] = lambda _: "",
        *,
        outlines: Callable[[Path], Sequence] = lambda _: (),
        reading: Callable[[Path], dict] = lambda _: {},
        color: tuple[int, int, int] = (192, 35, 156),
        **traits,
    ):
        super().__init__(**traits)
        self._on_open, self._known, self._outlines, self._reading = on_open, known, outlines, reading
        self._color = color
        #: Called with a path, or only a name, that was dropped on the cards, and whether it is a path.
        self.on_drop: Callable[[str, bool], None] = lambda text, has_path: None
        self._paths: dict[str, Path] = {}
        self._pictures: dict[Path, tuple[bytes, float]] = {}
        self._wishes = NewestWishes(self._serve, "tlskit-thumbnails")
        self.on_msg(self._on_message)

    def show(self, folder: Path, items: Sequence[dict], paths: Mapping[str, Path] | None = None) -> None:
        """Show other cards; the same folder keeps its choice and its pictures.

        `paths` gives the files of cards, by name, where they do not all lie in the folder.
        """
        same = str(folder) == self.folder
        slides = [item["name"] for item in items if item["kind"] == "slide"]
        self._paths = {name: Path((paths or {}).get(name, Path(folder) / name)) for name in slides}
        with self.hold_sync():
            self.folder = str(folder)
            self.items = list(items)
            if not same or self.index >= len(items):
                self.index = -1

    def _on_message(self, _, content: dict, buffers) -> None:
        if content.get("kind") == "open" and 0 <= int(content.get("index", -1)) < len(self.items):
            self._on_open(int(content["index"]))
        if content.get("kind") == "dropped":
            self.on_drop(str(content.get("text", "")), bool(content.get("path")))
        if content.get("kind") != "pictures" or content.get("folder") != self.folder:
            return
        # Only names of this folder's list: a message cannot ask for another file.
        self._wishes.ask(
            (self.folder, name, self._paths[name]) for name in content.get("names", []) if name in self._paths
        )

    def _serve(self, wish: tuple[str, str, Path]) -> None:
        folder, name, path = wish
        try:
            data, known, bad = self._picture(path), self._known(path), False
        except (TlskitError, OSError, ValueError) as error:
            log.info("%s has no picture: %s", name, error)
            data, known, bad = b"", "cannot be opened", True
        message = {"kind": "picture", "folder": folder, "name": name, "known": known, "bad": bad}
        self.send(message, buffers=[data] if data else None)

    def _picture(self, path: Path) -> bytes:
        import simplejpeg

        if path not in self._pictures:
            if len(self._pictures) >= KEPT:
                self._pictures.clear()
            pixels, d = thumbnail(path, **self._reading(path))
            self._pictures[path] = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=80), d
        data, d = self._pictures[path]
        polygons = self._outlines(path)
        if not polygons:
            return data
        pixels = _with_outlines(simplejpeg.decode_jpeg(data), polygons, d, self._color)
        return simplejpeg.encode_jpeg(pixels, quality=85)


def _with_outlines(pixels: np.ndarray, polygons: Sequence, d: float, color: tuple[int, int, int]) -> np.ndarray:
    """A picture with the outer rings of polygons, a dark line under the coloured one; `d` is level-0 px per px."""
    import cv2

    # Sixteenths of a pixel; pixel 0 of the picture covers [0, 1), its centre is what OpenCV calls 0.
    rings = [np.round((np.asarray(p.exterior.coords)[:, :2] / d - 0.5) * 16).astype(np.int32) for p in polygons]
    pixels = np.ascontiguousarray(pixels)
    for line, width in (((20, 20, 20), 4), (color, 2)):
        cv2.polylines(pixels, rings, True, line, width, cv2.LINE_AA, shift=4)
    return pixels
