"""Slides and question of a study, as a form: what a coder would write into a manifest and a preset."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

import ipywidgets

from tlskit.errors import ParameterError
from tlskit.explore import study_setup, study_slides
from tlskit.explore.gallery import Gallery
from tlskit.explore.retraining import Corrections
from tlskit.explore.widgets import Message, form_field, guarded, heading_2, note
from tlskit.outlines import read_annotations
from tlskit.study import estimates, preflight, sweep

__all__ = ["StudyForm"]

_CYAN = (0, 229, 255)


class StudyForm(ipywidgets.VBox):
    """Steps 1 and 2. `preset` is the path of what was written and found without error, else None.

    Parameters
    ----------
    outputs_dir
        Folder of all runs.
    start
        Folder of slides to begin in.
    message
        Where errors are told.
    on_checked
        Called whenever `preset` may have changed.
    """

    def __init__(self, outputs_dir: str | Path, start: Path, message: Message, on_checked: Callable[[], None]):
        self.message, self._outputs_dir, self._on_checked = message, outputs_dir, on_checked
        self.rows: list[dict] = []
        self.preset: Path | None = None
        self.guessed: dict | None = None
        self._columns = None
        self._written: set[str] = set()
        self.source = ipywidgets.ToggleButtons(
            options=[("a folder", "folder"), ("a manifest", "table"), ("a run, and what I corrected", "run")],
            style={"button_width": "auto"},
        )  # fmt: skip
        self.folder = _text(str(start), "Folder of slides")
        self.table = _text("", "Table (CSV)", "a manifest; or any table with a column of slides and one of patients")
        self.slide_column = ipywidgets.Dropdown(description="Column of slides", **form_field())
        self.patient_column = ipywidgets.Dropdown(description="Column of patients", **form_field())
        self.pattern = _text("(.+)", "Patient is", "what this pattern finds in the name of a slide")
        self.mpp = _text("", "um/px", "only for slides that do not say it themselves, such as 0.25")
        self.cancer_type = _text("not stated", "Cancer type")
        self.corrections = Corrections(outputs_dir, message)
        self.summary = ipywidgets.HTML()
        self.gallery = Gallery(
            lambda _: None, outlines=self._outlines_of, reading=self._reading_of, color=_CYAN,
            label="Slides of the study",
        )  # fmt: skip
        self.target = ipywidgets.Dropdown(description="Target class", **form_field())
        self.magnifications = {
            m: ipywidgets.Checkbox(True, description=f"{m}x", indent=False, layout=ipywidgets.Layout(width="80px"))
            for m in (20, 10, 4, 1)
        }
        self.kind = ipywidgets.Dropdown(
            options=[("quick: small tiles, few steps, to see that all works", "quick"), ("full: as published", "full")],
            description="How", **form_field(),
        )  # fmt: skip
        self.name = _text("my-study", "Name")
        self.write = ipywidgets.Button(description="Write and check", layout=ipywidgets.Layout(width="180px"))
        self.checked = ipywidgets.HTML()
        for widget in (self.source, self.folder, self.table, self.mpp, self.corrections.run):
            widget.observe(self._look, "value")
        for widget in (self.pattern, self.slide_column, self.patient_column):
            widget.observe(self._preview, "value")
        for widget in (self.target, self.kind, self.name, self.cancer_type, *self.magnifications.values()):
            widget.observe(self._unchecked, "value")
        self.write.on_click(self._write)
        self._where = ipywidgets.VBox([])
        boxes = ipywidgets.HBox(
            [_label("Magnifications"), *self.magnifications.values()], layout=ipywidgets.Layout(flex_flow="row wrap")
        )
        super().__init__(
            [
                heading_2("1. Slides"), ipywidgets.HBox([_label("Slides from"), self.source]), self._where,
                self.summary, self.gallery,
                heading_2("2. Question"), self.target, boxes, self.kind, self.name, self.write, self.checked,
            ]
        )  # fmt: skip

    # -- slides --------------------------------------------------------------------------------------------------------

    @guarded
    def look(self) -> None:
        """Look at the folder, when the page is first turned to."""
        if not self.rows:
            self._look()

    @guarded
    def _look(self, _=None) -> None:
        self.message.say()
        self.rows, self._columns = [], None
        source = self.source.value
        try:
            if source == "run":
                self._where.children = [self.corrections]
                self.rows = self.corrections.rows()
            else:
                self._show_boxes()
                self._find()
        finally:
            counts = study_slides.classes_of(self.rows)
            self.target.options = [(f"{name} ({number} outlines)", name) for name, number in counts.most_common()]
            wanted = self.corrections.target_class if source == "run" else None
            names = [name for name, _ in counts.most_common()]
            self.target.value = wanted if wanted in names else names[0] if names else None
            self._preview()

    def _find(self) -> None:
        if self.source.value == "table" and self.table.value.strip():
            self.rows, self._columns = study_slides.look_at_table(_path(self.table.value))
        if not self.rows and (self.source.value == "folder" or self._columns is not None):
            folder = _path(self.folder.value)
            if not folder.is_dir():
                raise ParameterError(f"There is no folder {folder}.")
            self.rows = study_slides.pair_folder(folder, mpp=self._mpp())
        self._show_boxes()

    def _show_boxes(self) -> None:
        boxes = {
            "folder": [self.folder, self.pattern, self.cancer_type, self.mpp],
            "table": [self.table],
        }[self.source.value]
        if self._columns is not None:
            boxes += [self.folder, self.slide_column, self.patient_column, self.cancer_type, self.mpp]
            names = list(self._columns.columns)
            if list(self.slide_column.options) != names:
                ids = [row["slide_id"] for row in self.rows]
                self.slide_column.options = self.patient_column.options = names
                self.slide_column.value = study_slides.slide_column(ids, self._columns)
                likely = [name for name in names if "patient" in name.lower() or "case" in name.lower()]
                self.patient_column.value = (likely or names)[0]
        self._where.children = boxes

    def _mpp(self) -> float | None:
        text = self.mpp.value.strip().replace(",", ".")
        try:
            return float(text) if text else None
        except ValueError as error:
            raise ParameterError(f"um/px should be a number such as 0.25, not {text!r}.") from error

    @property
    def manifest(self) -> Path | None:
        """The manifest that is used as it is, if one was given."""
        whole = self.source.value == "table" and self._columns is None and self.rows
        return _path(self.table.value).absolute() if whole else None

    @guarded
    def _preview(self, _=None) -> None:
        self._unchecked()
        fault = ""
        names = [row["slide_id"] for row in self.rows]
        try:
            self._give_patients(names)
        except ParameterError as error:
            fault = str(error)
        rows = sorted(self.rows, key=lambda row: (row["patient_id"], row["slide_id"]))
        cards = [
            {"name": _card(row), "kind": "slide", "note": _words(row), "bad": bool(row["problem"])} for row in rows
        ]
        self.gallery.show(
            Path(f"{self.source.value}:{self.folder.value}"), cards, {_card(row): row["slide_path"] for row in rows}
        )
        self.gallery.turn += 1
        self.gallery.layout.display = "" if rows else "none"
        usable = [row for row in self.rows if not row["problem"]]
        patients = {row["patient_id"] for row in self.rows if row["patient_id"]}
        said = f"{len(names)} slides, {len(usable)} of them with outlines and no problem, {len(patients)} patients"
        self.summary.value = note(said, "strong") + note(fault, "bad")

    def _give_patients(self, names: list[str]) -> None:
        if not self.rows or self.source.value == "run" or self.manifest:
            return
        for row in self.rows:
            row["patient_id"], row["cancer_type"] = "", self.cancer_type.value.strip()
        if self._columns is not None:
            columns = self.slide_column.value, self.patient_column.value
            found = study_slides.patients_of_columns(names, self._columns, *columns)
        else:
            found = study_slides.patients_of(names, self.pattern.value)
        for row in self.rows:
            row["patient_id"] = found[row["slide_id"]]

    def _row_of(self, path: Path) -> dict:
        return next((row for row in self.rows if row["slide_path"] == path), {})

    def _reading_of(self, path: Path) -> dict:
        mpp = self._row_of(path).get("mpp_override")
        return {"mpp_override": mpp} if mpp else {}

    def _outlines_of(self, path: Path) -> list:
        outlines = self._row_of(path).get("annotation_path")
        if outlines is None or not outlines.is_file():
            return []
        return [polygon for outline in read_annotations(outlines).outlines for polygon in outline.polygons]

    # -- question ------------------------------------------------------------------------------------------------------

    def _unchecked(self, _=None) -> None:
        """What was written and checked was of another choice."""
        if self.preset is not None:
            self.preset, self.guessed, self.checked.value = None, None, ""
            self._on_checked()

    @guarded
    def _write(self, _) -> None:
        self.message.say()
        self._unchecked()
        if self.target.value is None:
            raise ParameterError("No outlines were found, so there is no target class to choose.")
        self._give_patients([row["slide_id"] for row in self.rows])
        self.write.disabled, name = True, self.name.value.strip()
        self.checked.value = note("Writing, and looking at slides, outlines, memory and disk ...")
        try:
            rows, like = self.rows, None
            if self.source.value == "run":
                study_setup.check_name(name, self._outputs_dir, replace=name in self._written)
                rows, like = self.corrections.write(name), self.corrections.preset
            preset = study_setup.write_study(
                name, rows, target_class=self.target.value, kind=self.kind.value, like=like, manifest=self.manifest,
                magnifications=[m for m, box in self.magnifications.items() if box.value],
                outputs_dir=self._outputs_dir, replace=name in self._written,
            )  # fmt: skip
            self._written.add(name)
            self._check(preset)
        except Exception:
            self.checked.value = ""
            raise
        finally:
            self.write.disabled = False

    def _check(self, path: Path) -> None:
        preset = sweep.prepare(path)
        table = preflight.check_preset(preset)
        errors = int((table["severity"] == "error").sum())
        self.guessed = estimates.guess_seconds(preset) if not errors else None
        time = f"{estimates.in_words(sum(self.guessed.values()))} on this machine" if self.guessed else "not known"
        found = table.fillna("")
        disk = next((row.what for row in found.itertuples() if row.problem == "disk"), "not known")
        lines = "".join(
            f"<tr><td>{html.escape(row.severity)}</td><td>{html.escape(row.slide_id)}</td>"
            f"<td>{html.escape(row.what)}</td><td>{html.escape(row.remedy)}</td></tr>"
            for row in found.itertuples()
            if row.problem != "disk" or row.severity != "note"
        )
        facts = {
            "Time": f"{time} (a guess: half of it to twice as much)",
            "Disk": html.escape(disk),
            "Written": f"<code>params/{html.escape(path.name)}</code> and its manifest",
            "From a shell": f"<code>{html.escape(study_setup.command_line(path))}</code>",
        }
        rows = "".join(f'<tr><th scope="row">{name}</th><td>{fact}</td></tr>' for name, fact in facts.items())
        self.checked.value = (
            f'<p class="tlskit-{"bad" if errors else "good"}"><b>{errors} error(s), {len(table) - errors} other '
            f'finding(s)</b></p><table class="tlskit-facts">{rows}</table>'
            f'<details {"open" if errors else ""}><summary>All findings</summary><div tabindex="0" role="region" '
            'class="tlskit-scroll" aria-label="Findings"><table class="tlskit-table"><tr><th></th><th>Slide</th>'
            f"<th>Found</th><th>Remedy</th></tr>{lines}</table></div></details>"
        )
        self.preset = path if not errors else None
        self._on_checked()


def _card(row: dict) -> str:
    return row["slide_path"].name if row["slide_path"].stem == row["slide_id"] else row["slide_id"]


def _words(row: dict) -> str:
    patient = f"patient {row['patient_id'] or '?'}"
    if row["problem"]:
        return f"{patient}. {row['problem']}"
    outlines = f"{row.get('outlines', 0)} outline(s)" if row["annotation_path"] else "no outlines"
    return "; ".join(filter(None, [patient, outlines, row.get("said", "")]))


def _text(value: str, label: str, tooltip: str = "") -> ipywidgets.Text:
    return ipywidgets.Text(
        value, description=label, placeholder=tooltip, tooltip=tooltip or label, continuous_update=False,
        **form_field(),
    )  # fmt: skip


def _label(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f'<span class="tlskit-label">{text}</span>')


def _path(text: str) -> Path:
    return Path(text.strip().strip('"')).expanduser()
