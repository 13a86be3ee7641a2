"""Pick a slide from a folder of the machine that runs the page: a slide is gigabytes and is not uploaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets

from tlskit.explore.widgets import Message, guarded

__all__ = ["SLIDE_SUFFIXES", "SlideChooser", "slide_files"]

#: What OpenSlide may open, by the ends of the names.
SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm",
)  # fmt: skip


def slide_files(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the slides in a folder, without hidden ones."""
    entries = sorted(folder.iterdir(), key=lambda path: path.name.lower())
    entries = [path for path in entries if not path.name.startswith(".")]
    folders = [path.name for path in entries if path.is_dir()]
    return folders, [path.name for path in entries if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()]


class SlideChooser(ipywidgets.VBox):
    """Folder, list and button; keyboard: Tab to the list, arrows, Tab to Open.

    Parameters
    ----------
    start
        Folder to begin in.
    on_slide
        Called with the path of the slide that was chosen.
    message
        Where an error is told.
    """

    def __init__(self, start: Path, *, on_slide: Callable[[Path], None], message: Message):
        self.message, self._on_slide = message, on_slide
        self.folder = ipywidgets.Text(
            description="Folder", continuous_update=False, layout=ipywidgets.Layout(width="auto"),
            style={"description_width": "60px"},
        )  # fmt: skip
        self.entries = ipywidgets.Select(rows=7, layout=ipywidgets.Layout(width="auto"), description="")
        self.open_button = ipywidgets.Button(description="Open", tooltip="open the chosen slide or folder")
        self.open_button.on_click(self._open)
        self.folder.observe(self._go, "value")
        super().__init__([self.folder, self.entries, self.open_button])
        self.folder.value = str(start)

    @guarded
    def _go(self, _=None) -> None:
        folder = Path(self.folder.value.strip().strip('"')).expanduser()
        if folder.is_file():
            self._on_slide(folder)
            return
        self.entries.options = []
        if not folder.is_dir():
            self.message.say(f"There is no folder {folder}.", "bad")
            return
        folders, slides = slide_files(folder)
        up = [("one folder up", folder.parent)] if folder.parent != folder else []
        self.entries.options = [
            *((name, folder / name) for name in slides), *((f"{name}/", folder / name) for name in folders), *up
        ]  # fmt: skip
        self.message.say("" if slides else f"No slide lies in {folder.name or folder}; open one of its folders.")

    @guarded
    def _open(self, _=None) -> None:
        chosen = self.entries.value
        if chosen is None:
            return
        if chosen.is_dir():
            self.folder.value = str(chosen)
        else:
            self._on_slide(chosen)
