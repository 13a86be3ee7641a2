"""The page for people who do not code: look at a run, or segment a slide from a folder; and the server that shows it.

`page` is what the notebook ``app.ipynb`` holds; `serve` opens that notebook through Voila, on this machine only and
with a token.
"""

from __future__ import annotations

import hashlib
import html
import logging
import os
import threading
from pathlib import Path

import ipywidgets
import numpy as np

from tlskit.errors import RunError, TlskitError
from tlskit.evaluation import Findings
from tlskit.explore import explorers
from tlskit.explore.folder_chooser import SlideChooser
from tlskit.explore.segmenting import Job
from tlskit.explore.slide_explorer import Sheet, SlideDesk
from tlskit.explore.widgets import Download, Message, guarded
from tlskit.files import project_root, resolve
from tlskit.maps import probmaps
from tlskit.outlines import prediction_class, write_geojson
from tlskit.slides import open_slide
from tlskit.study import Archive, Arm, find_runs, open_archive, project

__all__ = ["area_table", "page", "serve"]

log = logging.getLogger(__name__)

#: um/px at which areas and outlines are measured, as the study's common grid.
MEASURE_MPP = 4.0

#: Environment variable by which `serve` tells the page where the runs lie.
OUTPUTS = "TLSKIT_OUTPUTS"

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
        self.children = [ipywidgets.HBox([self.runs, self.caption])]
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
        archive = open_archive(resolve(self._outputs_dir) / self.runs.value)
        self.caption.value = f'<span style="color:#7a3b00">{html.escape(archive.caption)}</span>'
        self.desk = explorers.slide(archive)
        self.desk.fold_code()
        measures = _Measures(self.desk, self.desk.message)
        self.children = [*self.children[:1], self.desk, measures]


class _FolderPage(ipywidgets.VBox):
    """Pick a slide and a model, segment, look, measure."""

    def __init__(self, outputs_dir: str | Path, message: Message):
        super().__init__()
        self.message, self._outputs_dir = message, outputs_dir
        self.slide_path: Path | None = None
        self.job: Job | None = None
        self._models = _models(outputs_dir)
        self.model = ipywidgets.Dropdown(
            options=[(_model_name(archive, arm), n) for n, (archive, arm) in enumerate(self._models)],
            description="Model", layout=ipywidgets.Layout(width="auto"), style=_STYLE,
        )  # fmt: skip
        self.segment = ipywidgets.Button(description="Segment", button_style="primary", disabled=True)
        self.cancel = ipywidgets.Button(description="Cancel", disabled=True)
        self.progress = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="auto"))
        self.status = ipywidgets.HTML("1. Open a slide. 2. Choose a model. 3. Press Segment.")
        self.chooser = SlideChooser(_first_folder(outputs_dir), on_slide=self.take, message=message)
        self.desk = SlideDesk(["map"], reproduce=self._reproduce, save_to=self._drawn_path)
        self.desk.fold_code()
        self.measures = _Measures(self.desk, message)
        self.segment.on_click(self._start)
        self.cancel.on_click(self._stop)
        self.model.observe(self._show, "value")
        work = ipywidgets.VBox(
            [self.model, ipywidgets.HBox([self.segment, self.cancel]), self.progress, self.status],
            layout=ipywidgets.Layout(flex="1 1 420px"),
        )
        self.chooser.layout.flex = "1 1 420px"
        top = ipywidgets.HBox(
            [self.chooser, work],
            layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="18px", margin="0 0 12px 0"),
        )
        self._below = ipywidgets.VBox([])
        self.children = [top, self._below]
        if not self._models:
            self.message.say("There is no trained model in this project yet: run the study first (make demo).")

    @guarded
    def take(self, path: Path) -> None:
        """Take a slide up: show it, with its map where it was segmented before."""
        self.message.say()
        open_slide(path).close()  # an unreadable file is told here, before anything on the page changes
        self.slide_path = path
        self.segment.disabled = not self._models or self.job is not None
        self._show()

    def map_path(self) -> Path:
        """Where the map of this slide by this model lies: two slides of one name in two folders have two maps."""
        archive, arm = self._models[self.model.value]
        place = hashlib.sha256(str(self.slide_path.resolve()).encode()).hexdigest()[:8]
        folder = resolve(self._outputs_dir) / "segmented" / f"{archive.name}-{arm.name}"
        return folder / f"{self.slide_path.stem}-{place}.tif"

    @guarded
    def _show(self, _=None) -> None:
        if self.slide_path is None:
            return
        slide = open_slide(self.slide_path, **self._reading())
        maps, chosen, target = {}, {}, "TLS"
        if self._models:
            archive, arm = self._models[self.model.value]
            target = archive.target_class if isinstance(archive.target_class, str) else archive.target_class[0]
            if self.map_path().is_file():
                maps = {arm.name: probmaps.open_map(self.map_path())}
                chosen = {arm.name: arm.thresholds["validation"]} if "validation" in arm.thresholds else {}
        self.desk.show(Sheet(self.slide_path.stem, slide, maps, thresholds=chosen, class_name=target))
        self.measures.refresh()
        if not self._below.children:
            self._below.children = [self.desk, self.measures]
        if self.job is None:
            self._say("Segmented before: here is its map." if maps else "Press Segment to run the model on this slide.")

    def _reading(self) -> dict:
        return self._models[self.model.value][0].reading if self._models else {}

    @guarded
    def _start(self, _) -> None:
        self.message.say()
        _, arm = self._models[self.model.value]
        self.segment.disabled, self.cancel.disabled, self.model.disabled = True, False, True
        self.progress.value, self.progress.bar_style = 0, "info"
        self.job = Job(self.slide_path, arm.checkpoint_path, self.map_path())
        threading.Thread(target=self._follow, args=(self.job,), name="tlskit-follow", daemon=True).start()

    def _stop(self, _) -> None:
        if self.job is not None:
            self.job.cancel()

    def _follow(self, job: Job) -> None:
        while job.wait(0.3) == "running":
            if job.total:
                self.progress.value = job.done / job.total
                self._say(f"Segmenting: {job.done} of {job.total} windows.")
            else:
                self._say("Loading the model and looking for tissue.")
        self.job = None
        self.segment.disabled, self.cancel.disabled, self.model.disabled = False, True, False
        if job.state == "done":
            self.progress.value, self.progress.bar_style = 1, "success"
            self._show()
            self._say("Done. Move the threshold, then download outlines or areas.")
        elif job.state == "cancelled":
            self.progress.bar_style = "warning"
            self._say("Cancelled. Press Segment to go on from where it stopped.")
        else:
            self.progress.bar_style = "danger"
            self._say("")
            self.message.say(job.reason, "bad")

    def _say(self, text: str) -> None:
        self.status.value = html.escape(text)

    def _reproduce(self, value: dict) -> str:
        if not self._models or self.slide_path is None:
            return ""
        archive, arm = self._models[self.model.value]
        return (
            f"checkpoint = models.load_checkpoint({f'outputs/{archive.name}/{arm.name}/work/checkpoint.pt'!r})\n"
            f"inference.predict_slide(checkpoint, {self.slide_path.name!r}, {self.map_path().name!r})\n"
            f"threshold = {value['threshold']:g}"
        )

    def _drawn_path(self, slide_id: str) -> Path:
        return resolve(self._outputs_dir) / "segmented" / "drawn" / f"{slide_id}.geojson"


class _Measures(ipywidgets.VBox):
    """Number and area of the objects at the present threshold, and both as files."""

    def __init__(self, desk: SlideDesk, message: Message):
        self.desk, self.message = desk, message
        self.measure = ipywidgets.Button(description="Measure", tooltip="number and area at this threshold")
        self.geojson = Download("Download outlines for QuPath (GeoJSON)", self.make_geojson, message)
        self.csv = Download("Download areas (CSV)", self.make_csv, message)
        self.result = ipywidgets.HTML()
        self.measure.on_click(self._measure)
        row = ipywidgets.Layout(flex_flow="row wrap", grid_gap="8px", align_items="center")
        super().__init__([ipywidgets.HBox([self.measure, self.geojson, self.csv, self.result], layout=row)])
        desk.observe(lambda _: self.refresh(), "value")
        self.refresh()

    def refresh(self) -> None:
        """Follow the desk: nothing to measure without a map; what was measured at another threshold goes."""
        self.geojson.disabled = self.csv.disabled = self.measure.disabled = not self.desk.map_name
        key = (self.desk.value.get("slide_id"), self.desk.map_name, self.desk.threshold.value)
        if key != getattr(self, "_shown", None):
            self.result.value = ""

    def outlines(self) -> list:
        """Objects at the present threshold, post-processed, as polygons in level-0 px."""
        sheet = self.desk.sheet
        if sheet is None or not self.desk.map_name:
            raise RunError("There is nothing to measure yet: segment the slide first.")
        found = Findings(
            sheet.maps[self.desk.map_name], (), mpp0=sheet.slide.mpp0, goal_mpp=MEASURE_MPP, **sheet.processing
        )
        return found.outlines(self.desk.threshold.value)

    @guarded
    def _measure(self, _) -> None:
        table = area_table(self.outlines(), mpp0=self.desk.sheet.slide.mpp0)
        total = table["area_um2"].sum() / 1e6
        self._shown = (self.desk.value.get("slide_id"), self.desk.map_name, self.desk.threshold.value)
        self.result.value = html.escape(
            f"{len(table)} objects, {total:.3f} mm2 in all, at threshold {self.desk.threshold.value:.2f}"
        )

    def make_geojson(self) -> tuple[str, str, bytes]:
        """Name, media type and bytes of the outlines."""
        import tempfile

        polygons = self.outlines()
        areas = area_table(polygons, mpp0=self.desk.sheet.slide.mpp0)["area_um2"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self._stem()}.geojson"
            write_geojson(
                path, polygons, class_name=prediction_class(self.desk.sheet.class_name, self.desk.map_name),
                origin_px0=self.desk.sheet.slide.bounds_px0[:2],
                measurements=[{"Area um^2": float(area)} for area in areas],
            )  # fmt: skip
            return path.name, "application/geo+json", path.read_bytes()

    def make_csv(self) -> tuple[str, str, bytes]:
        """Name, media type and bytes of the table of areas."""
        table = area_table(self.outlines(), mpp0=self.desk.sheet.slide.mpp0)
        table.insert(0, "slide_id", self.desk.sheet.slide_id)
        table.insert(1, "map", self.desk.map_name)
        table.insert(2, "threshold", round(self.desk.threshold.value, 4))
        return f"{self._stem()}_areas.csv", "text/csv", table.to_csv(index=False, lineterminator="\n").encode()

    def _stem(self) -> str:
        return f"{self.desk.sheet.slide_id}_{self.desk.map_name}_{self.desk.threshold.value:.2f}"


def area_table(polygons: list, *, mpp0: float):
    """Areas of outlines in level-0 px: object_id, area_um2, diameter_um (of the circle of that area), x_px0, y_px0."""
    import pandas as pd

    from tlskit.metrics import diameter_um

    areas = np.array([p.area for p in polygons], np.float64) * mpp0**2
    return pd.DataFrame(
        {
            "object_id": np.arange(len(polygons)),
            "area_um2": areas.round(2),
            "diameter_um": diameter_um(areas).round(2),
            "x_px0": [round(p.centroid.x, 1) for p in polygons],
            "y_px0": [round(p.centroid.y, 1) for p in polygons],
        }
    )


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
        '<h1 style="font:600 22px system-ui,sans-serif;margin:4px 0">tlskit</h1>'
        '<div style="color:#555;line-height:1.4">'
        "Look at segmented slides, or segment one. For research, not for diagnosis.</div>"
    )
    what = ipywidgets.ToggleButtons(
        options=[("A run of the study", "run"), ("A slide from a folder", "folder")], style={"button_width": "190px"}
    )
    pages = {"run": _RunPage(outputs_dir, message), "folder": _FolderPage(outputs_dir, message)}
    body = ipywidgets.VBox([])

    def turn(_=None) -> None:
        message.say()
        body.children = [pages[what.value]]
        if what.value == "run":
            pages["run"].start()

    what.observe(turn, "value")
    if not pages["run"].runs.options:
        what.value = "folder"
    turn()
    whole = ipywidgets.VBox([title, what, message, body], layout=_FULL)
    whole.pages = pages
    return whole


def _models(outputs_dir: str | Path) -> list[tuple[Archive, Arm]]:
    """Every trained network of every run."""
    found = []
    for folder in find_runs(outputs_dir):
        try:
            archive = open_archive(folder)
        except (TlskitError, OSError, ValueError) as error:
            log.warning("The run %s is left out: %s", folder.name, error)
            continue
        found += [(archive, arm) for arm in archive.arms if arm.checkpoint_path.is_file()]
    return found


def _model_name(archive: Archive, arm: Arm) -> str:
    return f"{archive.name}, {arm.name}" + (
        "" if arm.name.startswith(f"{arm.magnification:g}x") else f" ({arm.magnification:g}x)"
    )


def _first_folder(outputs_dir: str | Path) -> Path:
    """Where the newest run's slides lie; else the project."""
    for folder in find_runs(outputs_dir):
        try:
            path = Path(open_archive(folder).manifest["slide_path"].iloc[0]).parent
        except (TlskitError, OSError, ValueError, LookupError):
            continue
        if path.is_dir():
            return path
    return project_root()


def serve(*, port: int = 8866, open_browser: bool = True, outputs_dir: str | Path | None = None) -> None:
    """Show the page in a browser, until Ctrl+C. It is served to this machine only, and asks for a token.

    Parameters
    ----------
    port
        On this machine.
    open_browser
        Whether to open one.
    outputs_dir
        Folder of the runs to look at, where it is not the project's own.

    Raises
    ------
    RunError
        If Voila is not installed, or the project's notebook or the folder is missing.
    """
    if outputs_dir is not None:
        folder = Path(outputs_dir).expanduser().absolute()
        if not folder.is_dir():
            raise RunError(f"There is no folder {outputs_dir} with runs to look at.")
        os.environ[OUTPUTS] = str(folder)  # for the notebook, which Voila runs in a process of its own
    try:
        from voila.app import Voila
    except ImportError as error:
        raise RunError("The page needs Voila, anywidget and ipywidgets: pip install 'tlskit[app]'.") from error
    from traitlets.config import Config

    notebook = project_root() / "notebooks" / "app.ipynb"
    if not notebook.is_file() and outputs_dir is not None:
        notebook = project.packaged("notebooks") / "app.ipynb"
    if not notebook.is_file():
        raise RunError(f"notebooks/app.ipynb is not in {project_root().name}: run this in the project's folder.")
    templates = str(Path(__file__).with_name("page"))
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [templates, os.environ.get("JUPYTER_PATH")]))
    config = Config()
    config.Voila.ip = "127.0.0.1"
    config.Voila.port = port
    config.Voila.open_browser = open_browser
    config.Voila.auto_token = True
    # Nothing on the page may come from, or go to, anywhere else, whatever a library would like to load.
    own = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
    sockets = "ws://127.0.0.1:* ws://localhost:*"
    config.Voila.tornado_settings = {
        "headers": {"Content-Security-Policy": f"default-src {own}; connect-src 'self' {sockets} data: blob:"}
    }
    config.VoilaConfiguration.template = "tlskit"
    config.VoilaConfiguration.file_allowlist = []
    config.VoilaConfiguration.show_tracebacks = False
    # A page that was left open over night gives its memory back.
    config.MappingKernelManager.cull_idle_timeout = 8 * 3600
    Voila.launch_instance(argv=[str(notebook)], config=config)
