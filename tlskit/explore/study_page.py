"""A study from the page in three steps: slides, question, run; and those that were begun before."""

from __future__ import annotations

from pathlib import Path

import ipywidgets

from tlskit.explore import study_progress
from tlskit.explore.study_form import StudyForm
from tlskit.explore.study_setup import sweeps_of
from tlskit.explore.study_watch import StudyWatch
from tlskit.explore.widgets import Message, form_field, guarded

__all__ = ["StudyPage"]

_NEW = ("a new one", None)


class StudyPage(ipywidgets.VBox):
    """Slides, question, run; each step below the one before it.

    Parameters
    ----------
    outputs_dir
        Folder of all runs.
    start
        Folder of slides to begin in.
    message
        Where errors are told.
    """

    def __init__(self, outputs_dir: str | Path, start: Path, message: Message):
        self.message, self._outputs_dir = message, outputs_dir
        self.form = StudyForm(outputs_dir, start, message, self._checked)
        self.watch = StudyWatch(message, self._started)
        self.begun = ipywidgets.Dropdown(options=[_NEW], description="Study", **form_field())
        self.begun.observe(self._take_up, "value")
        super().__init__([self.begun, self.form, self.watch])

    @guarded
    def look(self) -> None:
        """Look what there is, when the page is turned to: a study that runs is shown."""
        found = self._list()
        running = [path for path in found if sweeps_of(path)]
        if self.begun.value is None and self.form.preset is None and running:
            self.begun.value = running[0]
        if self.begun.value is None:
            self.form.look()

    def _list(self) -> list[Path]:
        found = study_progress.begun(self._outputs_dir)
        options = [_NEW, *((f"begun before: {name}", path) for name, path in found)]
        if list(self.begun.options) != options:
            keep = self.begun.value
            self.begun.options = options
            self.begun.value = keep if keep in [path for _, path in options] else None
        return [path for _, path in found]

    def correct(self, run: str) -> None:
        """Turn to what was corrected in a run."""
        self.begun.value = None
        self.form.corrections.refresh()
        if run in self.form.corrections.run.options:
            self.form.corrections.run.value = run
        self.form.source.value = "run"

    @guarded
    def _take_up(self, _) -> None:
        self.form.layout.display = "none" if self.begun.value else ""
        if self.begun.value is None:
            self.form.look()
            self.watch.take(self.form.preset, self.form.guessed)
        else:
            self.watch.take(self.begun.value)

    def _started(self, preset: Path) -> None:
        """What was asked is settled: the form makes room for what becomes of it."""
        if self.begun.value != preset:
            self._list()
            self.begun.value = preset

    def _checked(self) -> None:
        self.watch.take(self.form.preset, self.form.guessed)
