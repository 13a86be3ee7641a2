"""Pick a slide from a folder of the machine that runs the page: a slide is gigabytes and is not uploaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets

from tlskit.explore.gallery import Gallery
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
    """Folder, cards and button; keyboard: Tab to the cards, arrows, Enter opens.

    Parameters
    ----------
    start
        Folder to begin in.
    on_slide
        Called with the path of the slide that was chosen.
    message
        Where an error is told.
    known
        Gives a few words on a slide, for its card.
    outlines, reading
        Of `tlskit.explore.gallery.Gallery`.
    """

    def __init__(
        self,
        start: Path,
        *,
        on_slide: Callable[[Path], None],
        message: Message,
        known: Callable[[Path], str] = lambda _: "",
        outlines: Callable[[Path], Sequence] = lambda _: (),
        reading: Callable[[Path], dict] = lambda _: {},
    ):
        self.message, self._on_slide = message, on_slide
        self._paths: list[Path] = []
        self.folder = ipywidgets.Text(
            description="Folder", continuous_update=False, layout=ipywidgets.Layout(width="auto"),
            style={"description_width": "60px"},
        )  # fmt: skip
        self.gallery = Gallery(self._open_number, known, outlines=outlines, reading=reading)
        self.gallery.on_drop = self._dropped
        self.open_button = ipywidgets.Button(description="Open", tooltip="open the chosen slide or folder")
        self.open_button.on_click(lambda _: self._open_number(self.gallery.index))
        self.folder.observe(self._go, "value")
        super().__init__([self.folder, self.gallery, self.open_button])
        self.folder.value = str(start)

    def refresh(self) -> None:
        """What is known of the slides may have changed."""
        self.gallery.turn += 1

    @guarded
    def _go(self, _=None) -> None:
        folder = Path(self.folder.value.strip().strip('"')).expanduser()
        if folder.is_file():
            self._on_slide(folder)
            return
        self._paths = []
        if not folder.is_dir():
            self.gallery.show(folder, [])
            self.message.say(f"There is no folder {folder}.", "bad")
            return
        folders, slides = slide_files(folder)
        cards = [(name, "slide", folder / name) for name in slides]
        cards += [(name, "folder", folder / name) for name in folders]
        if folder.parent != folder:
            cards.append(("one folder up", "up", folder.parent))
        self._paths = [path for _, _, path in cards]
        self.gallery.show(folder, [{"name": name, "kind": kind} for name, kind, _ in cards])
        self.message.say("" if slides else f"No slide lies in {folder.name or folder}; open one of its folders.")

    @guarded
    def _dropped(self, text: str, has_path: bool) -> None:
        """A path that was dropped on the cards, or the name of a file whose path the browser does not tell."""
        if has_path:
            self.folder.value = text
            return
        names = [path.name for path in self._paths]
        if text in names:
            self._open_number(names.index(text))
        else:
            self.message.say(
                f"{text} is not in this folder, and a browser does not say where a dropped file lies: paste its path "
                "into Folder.", "bad",
            )  # fmt: skip

    @guarded
    def _open_number(self, number: int) -> None:
        if not 0 <= number < len(self._paths):
            return
        chosen = self._paths[number]
        if not chosen.exists():  # renamed, moved or deleted since its card was made
            folder = Path(self.folder.value).expanduser()
            self._go()
            if folder.is_dir():
                self.message.say(
                    f"{chosen.name} lies no longer in {folder.name}; the cards are of what is there.", "bad"
                )
        elif chosen.is_dir():
            self.folder.value = str(chosen)
        else:
            self._on_slide(chosen)
