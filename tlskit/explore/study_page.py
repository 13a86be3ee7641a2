"""A study from the page in three steps: slides, question, run."""

from __future__ import annotations

import html
import signal
import threading
import time
from pathlib import Path

import ipywidgets

from tlskit.errors import ParameterError
from tlskit.explore import study_setup
from tlskit.explore.widgets import Message, guarded
from tlskit.study import preflight, sweep

__all__ = ["StudyPage"]

#: Seconds between two looks at the status files.
_EVERY_S = 3.0
_STYLE = {"description_width": "130px"}


def _wide() -> ipywidgets.Layout:
    return ipywidgets.Layout(width="560px", max_width="100%")


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
        self.rows: list[dict] = []
        self.preset: Path | None = None
        self._written: set[str] = set()
        self._watching = 0
        self.folder = ipywidgets.Text(
            str(start), description="Folder of slides", continuous_update=False, layout=_wide(), style=_STYLE
        )
        self.pattern = ipywidgets.Text("(.+)", description="Patient is", layout=_wide(), style=_STYLE)
        self.cancer_type = ipywidgets.Text("not stated", description="Cancer type", layout=_wide(), style=_STYLE)
        self.found = ipywidgets.HTML()
        self.target = ipywidgets.Dropdown(description="Target class", layout=_wide(), style=_STYLE)
        self.magnifications = {m: ipywidgets.Checkbox(True, description=f"{m}x", indent=False) for m in (20, 10, 4, 1)}
        self.kind = ipywidgets.Dropdown(
            options=[("quick: small tiles, few steps, to see that all works", "quick"), ("full: as published", "full")],
            description="How", layout=_wide(), style=_STYLE,
        )  # fmt: skip
        self.name = ipywidgets.Text("my-study", description="Name", layout=_wide(), style=_STYLE)
        self.write = ipywidgets.Button(description="Write and check", layout=ipywidgets.Layout(width="180px"))
        self.checked = ipywidgets.HTML()
        self.start = ipywidgets.Button(description="Start", button_style="primary", disabled=True)
        self.pause = ipywidgets.Button(description="Pause", disabled=True)
        self.progress = ipywidgets.HTML()
        self.folder.observe(self._look, "value")
        self.pattern.observe(self._preview, "value")
        self.write.on_click(self._write)
        self.start.on_click(self._start)
        self.pause.on_click(self._pause)
        boxes = ipywidgets.HBox([ipywidgets.Label("Magnifications"), *self.magnifications.values()])
        super().__init__(
            [
                _title("1. Slides"), self.folder, self.pattern, self.cancer_type, self.found,
                _title("2. Question"), self.target, boxes, self.kind, self.name, self.write, self.checked,
                _title("3. Run"), ipywidgets.HBox([self.start, self.pause]), self.progress,
            ]
        )  # fmt: skip

    @guarded
    def look(self) -> None:
        """Look at the folder, when the page is first turned to."""
        if not self.rows:
            self._look()

    @guarded
    def _look(self, _=None) -> None:
        folder = Path(self.folder.value.strip().strip('"')).expanduser()
        self.rows, self.target.options = [], []
        if not folder.is_dir():
            raise ParameterError(f"There is no folder {folder}.")
        self.rows = study_setup.pair_folder(folder)
        counts, faults = study_setup.classes_of(self.rows)
        self.target.options = [(f"{name} ({number} outlines)", name) for name, number in counts.most_common()]
        self.target.value = counts.most_common(1)[0][0] if counts else None
        self.message.say(" ".join(faults), "bad")
        self._preview()

    @guarded
    def _preview(self, _=None) -> None:
        self.start.disabled = True  # what is written and checked is of another choice now
        names = [row["slide_id"] for row in self.rows]
        try:
            patients = study_setup.patients_of(names, self.pattern.value)
            fault = ""
        except ParameterError as error:
            patients, fault = {}, str(error)
        rows = "".join(
            f"<tr><td>{html.escape(row['slide_id'])}</td><td>{html.escape(patients.get(row['slide_id'], '?'))}</td>"
            f"<td>{html.escape(row['annotation_path'].name if row['annotation_path'] else '')}</td>"
            f'<td style="color:#a01414">{html.escape(row["problem"])}</td></tr>'
            for row in self.rows
        )
        usable = sum(not row["problem"] for row in self.rows)
        n_patients = len(set(patients.values()))
        said = f"{len(names)} slides, {usable} of them with outlines and no problem, {n_patients} patients"
        self.found.value = (
            f'<p style="margin:4px 0"><b>{said}</b> <span style="color:#a01414">{html.escape(fault)}</span></p>'
            '<div style="max-height:240px;overflow:auto" tabindex="0" role="region" aria-label="Slides of the study">'
            '<table class="tlskit-study" style="line-height:1.5"><tr><th>Slide</th><th>Patient</th><th>Outlines</th>'
            f"<th>Problem</th></tr>{rows}</table></div>"
        )

    @guarded
    def _write(self, _) -> None:
        self.message.say()
        self.start.disabled = True
        patients = study_setup.patients_of([row["slide_id"] for row in self.rows], self.pattern.value)
        if self.target.value is None:
            raise ParameterError("No outlines were found, so there is no target class to choose.")
        name = self.name.value.strip()
        self.preset = study_setup.write_study(
            name, self.rows, patients, target_class=self.target.value, kind=self.kind.value,
            magnifications=[m for m, box in self.magnifications.items() if box.value],
            cancer_type=self.cancer_type.value.strip() or "not stated", outputs_dir=self._outputs_dir,
            replace=name in self._written,
        )  # fmt: skip
        self._written.add(name)
        table = preflight.check_preset(sweep.prepare(self.preset))
        errors = int((table["severity"] == "error").sum())
        lines = "".join(
            f"<li>{html.escape(' '.join(str(value) for value in row if str(value) not in ('', 'nan')))}</li>"
            for row in table.itertuples(index=False)
        )
        self.checked.value = (
            f"<p>Written: <code>{html.escape(self.preset.name)}</code> and its manifest. The same from a shell: "
            f"<code>{html.escape(study_setup.command_line(self.preset))}</code></p>"
            f"<p><b>{errors} error(s), {len(table) - errors} other finding(s)</b></p><ul>{lines}</ul>"
        )
        self.start.disabled = errors > 0

    @guarded
    def _start(self, _) -> None:
        study_setup.start_sweep(self.preset)
        self.start.disabled, self.pause.disabled = True, False
        self._watching += 1
        threading.Thread(
            target=self._watch, args=(self.preset, self._watching), name="tlskit-study", daemon=True
        ).start()

    @guarded
    def _pause(self, _) -> None:
        for process in study_setup.sweeps_of(self.preset):
            process.send_signal(signal.SIGTERM)
        self.message.say("Paused: Start goes on where it stopped.")

    @guarded
    def _watch(self, preset: Path, number: int) -> None:
        runs = True
        while runs and number == self._watching:
            runs = bool(study_setup.sweeps_of(preset))
            self.show_progress(study_setup.run_states(preset), runs)
            time.sleep(_EVERY_S if runs else 0)
        self.start.disabled, self.pause.disabled = False, True

    def show_progress(self, states: list[dict], runs: bool) -> None:
        """The notebooks with their states."""
        done = sum(state["state"] == "done" for state in states)
        rows = "".join(
            f"<tr><td>{html.escape(s['arm'])}</td><td>{html.escape(s['step'])}</td><td>{html.escape(s['state'])}</td>"
            f'<td style="color:#a01414">{html.escape(s["reason"])}</td></tr>'
            for s in states
        )
        end = (
            ""
            if runs
            else (" The report is compare/report.html of the run." if done == len(states) else " It has stopped.")
        )
        self.progress.value = (
            f"<p><b>{done} of {len(states)} notebooks are done.</b> It goes on when this page is closed.{end}</p>"
            f'<table class="tlskit-progress" style="line-height:1.5">{rows}</table>'
        )


def _title(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f'<h2 style="font:600 17px system-ui,sans-serif;margin:10px 0 2px">{text}</h2>')
