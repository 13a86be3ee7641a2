"""A study that runs: how far it is, pause and go on; and when it is done, its report with the slides beside it."""

from __future__ import annotations

import html
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets

from tlskit.explore import explorers, study_progress, study_setup
from tlskit.explore.report_view import ReportView
from tlskit.explore.study_progress import WORDS, StudyProgress
from tlskit.explore.widgets import Download, Message, guarded, heading_2, note
from tlskit.files import portable, project_root
from tlskit.study import estimates, open_archive, progress, sweep

__all__ = ["StudyWatch"]

#: Seconds between two looks at the status files.
_EVERY_S = 3.0

_SIGNS = {"done": "&#10003;", "running": "&#9654;", "failed": "&#10007;"}


class StudyWatch(ipywidgets.VBox):
    """Step 3 of a study. `take` shows one; it is looked at as long as it runs.

    Parameters
    ----------
    message
        Where errors are told.
    on_start
        Called with the preset that was started.
    """

    def __init__(self, message: Message, on_start: Callable[[Path], None] = lambda _: None):
        self.message, self._on_start = message, on_start
        self.preset: Path | None = None
        self._guessed: dict | None = None
        self._watching = 0
        self._desk = None
        self._paused = False
        self.start = ipywidgets.Button(description="Start", button_style="primary", disabled=True)
        self.pause = ipywidgets.Button(description="Pause", disabled=True)
        self.progress = ipywidgets.HTML(note("Write and check a study above, or choose one that was begun before."))
        self.show = ipywidgets.ToggleButtons(
            options=[("Progress", "progress"), ("Report", "report"), ("Its slides", "slides")],
            style={"button_width": "110px"}, layout=ipywidgets.Layout(display="none"),
        )  # fmt: skip
        self.report = ReportView(message)
        self.save = Download("Save the report (HTML)", self._report_file, message)
        self._body = ipywidgets.VBox([self.progress])
        self.start.on_click(self._start)
        self.pause.on_click(self._pause)
        self.show.observe(self._turn, "value")
        buttons = ipywidgets.HBox([self.start, self.pause, self.show], layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([heading_2("3. Run"), buttons, self._body])

    def take(self, preset: Path | None, guessed: dict | None = None) -> None:
        """Show a study, and follow it where it runs; None for none."""
        self._watching += 1
        self.preset, self._guessed, self._paused = preset, guessed, False
        self._put_away()
        self.show.layout.display, self.show.value = "none", "progress"
        if preset is None:
            self.start.disabled = self.pause.disabled = True
            self.progress.value = note("Write and check a study above, or choose one that was begun before.")
            return
        self._show(study_progress.look(preset, guessed))
        self._follow()

    def _follow(self) -> None:
        self._watching += 1
        threading.Thread(
            target=self._watch, args=(self.preset, self._watching), name="tlskit-study", daemon=True
        ).start()

    @guarded
    def _start(self, _) -> None:
        if self.preset is None:
            return
        self.message.say()
        self._paused = False
        study_setup.start_sweep(self.preset)
        self.start.disabled, self.pause.disabled = True, False
        self._follow()
        self._on_start(self.preset)

    @guarded
    def _pause(self, _) -> None:
        self._paused = True
        for process in study_setup.sweeps_of(self.preset):
            process.send_signal(signal.SIGTERM)
        self.pause.disabled = True
        self.message.say("Pausing: what is finished is kept, and Go on takes up what was not.")

    @guarded
    def _watch(self, preset: Path, number: int) -> None:
        while number == self._watching:
            if self._guessed is None:
                self._guessed = estimates.guess_seconds(sweep.prepare(preset))
            found = study_progress.look(preset, self._guessed)
            if number != self._watching:
                return
            self._show(found)
            if not found.runs:
                return
            time.sleep(_EVERY_S)

    def _show(self, found: StudyProgress) -> None:
        self.start.description = "Go on" if found.begun else "Start"
        self.start.disabled, self.pause.disabled = found.runs or found.complete, not found.runs or self._paused
        self.progress.value = _as_html(found, self.preset, self._paused)
        ready = found.complete and found.report_path.is_file()
        if ready and self.show.layout.display == "none":
            self.show.layout.display = ""
            self.report.show(found.report_path)

    @guarded
    def _turn(self, _) -> None:
        what = self.show.value
        if what != "slides":
            self._put_away()
        if what == "report":
            self._body.children = [self.save, self.report]
        elif what == "slides":
            archive = open_archive(sweep.run_dir_of(sweep.prepare(self.preset)))
            self._desk = explorers.slide(archive)
            self._desk.fold_code()
            self._body.children = [self._desk]

    def _put_away(self) -> None:
        self._body.children = [self.progress]
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()

    def _report_file(self) -> tuple[str, str, bytes]:
        run_dir = sweep.run_dir_of(sweep.prepare(self.preset))
        return f"{run_dir.name}_report.html", "text/html", (run_dir / "compare" / "report.html").read_bytes()


def _as_html(found: StudyProgress, preset: Path, paused: bool) -> str:
    total = len(found.pieces)
    if found.complete:
        end = "Its report and its slides are above."
    elif found.runs and paused:
        end = "It is pausing."
    elif found.runs:
        left = f", {estimates.in_words(found.left_s)} left (a guess)" if found.left_s is not None else ""
        end = f"It goes on when this page is closed{left}."
    elif any(piece.state == "failed" for piece in found.pieces):
        end = "It has stopped: what failed is named below. Go on tries it again."
    elif found.begun:
        end = "It has stopped. Go on takes up what was not finished."
    else:
        end = "It has not been started."
    rows = "".join(_row(piece, found.maps.get((piece.arm, piece.step))) for piece in found.pieces)
    heads = "".join(f"<th>{word}</th>" for word in ("", "Arm", "Notebook", "What it does", "State", "Time"))
    return (
        f'<p role="status" class="tlskit-strong">{html.escape(found.run_dir.name)}: {found.done} of {total} notebooks '
        f"are done. {html.escape(end)}</p>"
        f'<progress class="tlskit-bar" max="{total}" value="{found.done}" aria-label="notebooks done"></progress>'
        f'<table class="tlskit-table tlskit-progress"><tr>{heads}<th>What failed, and why</th></tr>{rows}</table>'
        f"<p class='tlskit-muted'>The same from a shell: <code>{html.escape(study_setup.command_line(preset))}</code>; "
        f"what it says is in <code>{html.escape(portable(study_setup.log_path(preset), project_root()))}</code>.</p>"
    )


def _row(piece, maps: tuple[int, int] | None) -> str:
    state = f"{maps[0]} of {maps[1]} slides" if maps else piece.at or {"left": "to do"}.get(piece.state, piece.state)
    if piece.state == "left" and piece.same_as:
        state = f"taken over from {piece.same_as}"
    seconds = "" if piece.seconds is None else f"{piece.seconds:.0f} s"
    lost = [f"{slide}: {reason}" for slide, reason in piece.slides]
    if piece.state == "failed" or (piece.state == "left" and progress.is_telling(piece.why)):
        lost.insert(0, piece.why)
    cells = [piece.arm, piece.step, WORDS.get(piece.step, ""), state, seconds]
    return (
        f'<tr class="tlskit-is-{piece.state}"><td aria-hidden="true">{_SIGNS.get(piece.state, "")}</td>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + f'<td class="tlskit-bad">{html.escape("; ".join(filter(None, lost)))}</td></tr>'
    )
