"""The page for people who do not code: look at a run, or segment a slide from a folder.

`page` is what the notebook ``app.ipynb`` holds; `tlskit.explore.server` opens that notebook through Voila.
"""

from __future__ import annotations

import html
import logging
import os
from pathlib import Path

import ipywidgets

from tlskit.explore import explorers, study_progress
from tlskit.explore.folder_page import FolderPage
from tlskit.explore.measures import Measures
from tlskit.explore.server import OUTPUTS
from tlskit.explore.slide_explorer import SlideDesk
from tlskit.explore.study_page import StudyPage
from tlskit.explore.study_setup import sweeps_of
from tlskit.explore.widgets import Message, guarded
from tlskit.files import resolve
from tlskit.study import find_runs, open_archive

__all__ = ["page"]

log = logging.getLogger(__name__)

_FULL = ipywidgets.Layout(width="100%")
_STYLE = {"description_width": "60px"}


class _RunPage(ipywidgets.VBox):
    """Choose a run; its explorer."""

    def __init__(self, outputs_dir: str | Path, message: Message):
        super().__init__()
        self.message, self._outputs_dir = message, outputs_dir
        self.desk: SlideDesk | None = None
        names = [path.name for path in find_runs(outputs_dir)]
        self.runs = ipywidgets.Dropdown(
            options=names, value=None, description="Run", layout=ipywidgets.Layout(width="330px"), style=_STYLE
        )
        self.caption = ipywidgets.HTML()
        self.again = ipywidgets.Button(
            description="Train again with what I corrected", layout=ipywidgets.Layout(width="auto"), disabled=not names,
            tooltip="a new study of this run's slides, with the outlines that were drawn by hand; the run stays",
        )  # fmt: skip
        row = ipywidgets.Layout(flex_flow="row wrap")
        self.children = [ipywidgets.HBox([self.runs, self.again, self.caption], layout=row)]
        self.runs.observe(self._pick, "value")

    def start(self) -> None:
        """Show the newest run, when the page is first looked at."""
        if self.runs.value is None and self.runs.options:
            self.runs.value = self.runs.options[0]
        elif not self.runs.options:
            self.message.say("There is no run yet. Segment a slide from a folder, or run the study first: make demo.")

    @guarded
    def _pick(self, _) -> None:
        self.message.say()
        old, self.desk = self.desk, None
        self.children = self.children[:1]
        if old is not None:
            old.close()
        self.caption.value = ""
        archive = open_archive(resolve(self._outputs_dir) / self.runs.value)
        self.caption.value = f'<span class="tlskit-hint">{html.escape(archive.caption)}</span>'
        self.desk = explorers.slide(archive)
        self.desk.fold_code()
        measures = Measures(self.desk, self.desk.message)
        self.children = [*self.children[:1], self.desk, measures]


def page(*, outputs_dir: str | Path = "outputs") -> ipywidgets.VBox:
    """The whole page.

    Parameters
    ----------
    outputs_dir
        Folder of all runs, relative to the project's root.
    """
    outputs_dir = os.environ.get(OUTPUTS, outputs_dir)
    message = Message()
    title = ipywidgets.HTML(
        '<h1 class="tlskit-h1">tlskit</h1><div class="tlskit-note tlskit-muted">'
        "Look at segmented slides, or segment one. For research, not for diagnosis.</div>"
    )
    what = ipywidgets.ToggleButtons(
        options=[("A run of the study", "run"), ("A slide from a folder", "folder"), ("A new study", "study")],
        style={"button_width": "190px"},
    )
    pages = {"run": _RunPage(outputs_dir, message), "folder": FolderPage(outputs_dir, message)}
    pages["study"] = StudyPage(outputs_dir, Path(pages["folder"].chooser.folder.value), message)
    body = ipywidgets.VBox([])

    def turn(_=None) -> None:
        message.say()
        body.children = [pages[what.value]]
        if what.value == "run":
            pages["run"].start()
        else:
            pages[what.value].look()

    def train_again(_) -> None:
        what.value = "study"
        pages["study"].correct(pages["run"].runs.value)

    pages["run"].again.on_click(train_again)
    what.observe(turn, "value")
    if any(sweeps_of(path) for _, path in study_progress.begun(outputs_dir)):
        what.value = "study"  # it is looked at again after a reload, or after the page was closed
    elif not pages["run"].runs.options:
        what.value = "folder"
    turn()
    whole = ipywidgets.VBox([title, what, message, body], layout=_FULL)
    whole.pages = pages
    return whole
