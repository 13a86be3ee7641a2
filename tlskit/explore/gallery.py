"""The slides of a folder as pictures, with what is known of each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from tlskit.errors import TlskitError
from tlskit.slides import open_slide

__all__ = ["Gallery", "thumbnail"]

log = logging.getLogger(__name__)

#: Longest side of a picture, px.
PICTURE_PX = 240

#: Pictures kept in the kernel, of some 10 KB each.
KEPT = 2000


def thumbnail(path: str | Path, **reading) -> np.ndarray:
    """A slide in small, ``(H, W, 3) uint8``, its longer side at most `PICTURE_PX`.

    Raises
    ------
    SlideError
        If it cannot be read.
    """
    with open_slide(path, **reading) as slide:
        mpp = slide.mpp0 * max(1.0, max(slide.size_px0) / PICTURE_PX)
        width, height = slide.size_px(mpp)
        return slide.read(0, 0, width, height, mpp=mpp)


class Gallery(anywidget.AnyWidget):
    """Cards in a list box. Pictures are made when a browser shows them, one after the other.

    Parameters
    ----------
    on_open
        Called with the number of the card that was opened.
    known
        Gives a few words on a slide: what is known of it. Called beside its picture, in another thread.

    Attributes
    ----------
    items : list of dict
        name and kind (``slide``, ``folder``, ``up``).
    index : int
        The chosen one, or -1.
    folder : str
        Where they lie: pictures of another folder are not shown.
    turn : int
        Counts up when what is known may have changed: the browser then asks again.
    """

    _esm = Path(__file__).with_name("gallery.js")
    _css = Path(__file__).with_name("gallery.css")
    items = traitlets.List([]).tag(sync=True)
    index = traitlets.Int(-1).tag(sync=True)
    folder = traitlets.Unicode("").tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)

    def __init__(self, on_open: Callable[[int], None], known: Callable[[Path], str] = lambda _: ""):
        super().__init__()
        self._on_open, self._known = on_open, known
        self._pictures: dict[tuple[str, str], bytes] = {}
        self._wanted: list[tuple[str, str]] = []
        self._waking = threading.Condition()
        self._worker: threading.Thread | None = None
        self.on_msg(self._on_message)

    def show(self, folder: Path, items: Sequence[dict]) -> None:
        """Show other cards; the same folder keeps its choice and its pictures."""
        same = str(folder) == self.folder
        with self.hold_sync():
            self.folder = str(folder)
            self.items = list(items)
            if not same or self.index >= len(items):
                self.index = -1

    def _on_message(self, _, content: dict, buffers) -> None:
        if content.get("kind") == "open" and 0 <= int(content.get("index", -1)) < len(self.items):
            self._on_open(int(content["index"]))
        if content.get("kind") != "pictures" or content.get("folder") != self.folder:
            return
        slides = {item["name"] for item in self.items if item["kind"] == "slide"}
        with self._waking:
            # Only names of this folder's list: a message cannot ask for another file.
            self._wanted = [(self.folder, name) for name in content.get("names", []) if name in slides]
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name="tlskit-thumbnails", daemon=True)
                self._worker.start()
            self._waking.notify_all()

    def _serve(self) -> None:
        while True:
            with self._waking:
                while not self._wanted:
                    self._waking.wait()
                folder, name = self._wanted.pop(0)
            try:
                data, known, bad = self._picture(folder, name), self._known(Path(folder) / name), False
            except (TlskitError, OSError, ValueError) as error:
                log.info("%s has no picture: %s", name, error)
                data, known, bad = b"", "cannot be opened", True
            message = {"kind": "picture", "folder": folder, "name": name, "known": known, "bad": bad}
            self.send(message, buffers=[data] if data else None)

    def _picture(self, folder: str, name: str) -> bytes:
        import simplejpeg

        if (folder, name) not in self._pictures:
            if len(self._pictures) >= KEPT:
                self._pictures.clear()
            pixels = np.ascontiguousarray(thumbnail(Path(folder) / name))
            self._pictures[folder, name] = simplejpeg.encode_jpeg(pixels, quality=80)
        return self._pictures[folder, name]
