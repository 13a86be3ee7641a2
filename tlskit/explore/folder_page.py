"""A slide from a folder: choose it and a network, segment, look, measure, correct."""

from __future__ import annotations

import html
import threading
from pathlib import Path

import ipywidgets

from tlskit.errors import ScaleError, SlideError, TlskitError
from tlskit.explore.drawings import polygon_of
from tlskit.explore.drawn_files import read_drawn
from tlskit.explore.folder_chooser import SlideChooser
from tlskit.explore.given_scales import give_mpp, given_mpp
from tlskit.explore.measures import Measures
from tlskit.explore.score_tables import SETS
from tlskit.explore.segmenting import Job
from tlskit.explore.slide_explorer import Sheet, SlideDesk
from tlskit.explore.trained_models import first_folder, is_old, model_name, screen_name, set_in, trained_models
from tlskit.explore.widgets import Message, guarded
from tlskit.files import portable, project_root, resolve
from tlskit.maps import probmaps
from tlskit.slides import content_id, open_slide

__all__ = ["FolderPage"]

_STYLE = {"description_width": "60px"}

#: Between the model and the coarser one that said where it looks, in the name of their maps' folder.
_UNDER = "-screened-by-"


class FolderPage(ipywidgets.VBox):
    """Pick a slide and a model, segment, look, measure."""

    def __init__(self, outputs_dir: str | Path, message: Message):
        super().__init__()
        self.message, self._outputs_dir = message, outputs_dir
        self.slide_path: Path | None = None
        self.slide_id = ""
        self._turning = threading.RLock()
        self.job: Job | None = None
        self._models = trained_models(outputs_dir)
        self.model = ipywidgets.Dropdown(
            options=[(model_name(archive, arm), n) for n, (archive, arm) in enumerate(self._models)],
            description="Model", layout=ipywidgets.Layout(width="auto"), style=_STYLE,
        )  # fmt: skip
        self.mpp = ipywidgets.Text(
            description="um/px", placeholder="of this slide, which does not say it, such as 0.25", style=_STYLE,
            continuous_update=False, layout=ipywidgets.Layout(width="auto", display="none"),
        )  # fmt: skip
        self._without_mpp: Path | None = None
        self.screen = ipywidgets.Dropdown(
            description="Look", options=[("everywhere", None)], layout=ipywidgets.Layout(width="auto"), style=_STYLE,
            tooltip="A coarser model may say first where this one looks: faster, and what it lost was measured.",
        )  # fmt: skip
        self.segment = ipywidgets.Button(description="Segment", button_style="primary", disabled=True)
        self.cancel = ipywidgets.Button(description="Cancel", disabled=True)
        self.progress = ipywidgets.FloatProgress(min=0, max=1, layout=ipywidgets.Layout(width="auto"))
        self.status = ipywidgets.HTML("1. Open a slide. 2. Choose a model. 3. Press Segment.")
        self.chooser = SlideChooser(
            first_folder(outputs_dir), on_slide=self.take, message=message, known=self._known,
            outlines=self._outlines_of, reading=lambda path: self._reading(content_id(path)),
        )  # fmt: skip
        self.desk = SlideDesk(["map"], reproduce=self._reproduce, save_to=self._drawn_path)
        self.desk.fold_code()
        self.measures = Measures(self.desk, message)
        self.segment.on_click(self._start)
        self.cancel.on_click(self._stop)
        self._offer_screens()
        self.model.observe(self._offer_screens, "value")
        self.model.observe(self._show, "value")
        self.screen.observe(self._show, "value")
        self.mpp.observe(self._give_mpp, "value")
        buttons = ipywidgets.HBox([self.segment, self.cancel])
        work = ipywidgets.VBox(
            [self.mpp, self.model, self.screen, buttons, self.progress, self.status],
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
        with self._turning:
            self.message.say()
            try:
                self.slide_id = content_id(path)
                open_slide(path, **self._reading()).close()
                self._ask_for_mpp(None)
            except (TlskitError, OSError) as error:
                self._lose(Path(path), error)
                return
            self.slide_path = path
            self._show()

    def _lose(self, path: Path, error: Exception) -> None:
        """A slide cannot be shown, or no longer: nothing of the slide before, or of another model's map, may stand
        under its name. What was drawn on it is kept, and comes back with it."""
        self.slide_path, self.slide_id = None, ""
        self._show()
        self._say(f"{path.name} cannot be opened.")
        self._ask_for_mpp(path if isinstance(error, ScaleError) else None)
        self.message.fail(error)

    def map_path(self) -> Path:
        """Where the map of this slide by this model lies. A slide is known by its content: moved, it finds its map
        again; another slide under its name does not."""
        archive, arm = self._models[self.model.value]
        under = f"{_UNDER}{self.screen.value['coarse']}" if self.screen.value else ""
        folder = resolve(self._outputs_dir) / "segmented" / f"{archive.name}-{arm.name}{under}"
        return _of_slide(folder, self.slide_path.stem, self.slide_id, ".tif")

    def _offer_screens(self, _=None) -> None:
        """What notebook cascade chose for this model, besides the whole of the tissue."""
        archive, arm = self._models[self.model.value] if self._models else (None, None)
        screens = archive.screens(arm) if archive else []
        # The widget compares values: a row is one even where another one is equal.
        self.screen.options = [("everywhere", None), *((screen_name(row), row) for row in screens)]
        self.screen.layout.display = "" if screens else "none"

    def _screen_of_job(self) -> tuple | None:
        """The screen as `Job` takes it."""
        if (row := self.screen.value) is None:
            return None
        archive, _ = self._models[self.model.value]
        coarse = archive.arm(row["coarse"]).checkpoint_path
        maps = resolve(self._outputs_dir) / "segmented" / f"{archive.name}-{row['coarse']}"
        return coarse, row["screen_threshold"], row["grow_um"], maps

    @guarded
    def _show(self, _=None) -> None:
        with self._turning:
            self.segment.disabled = self.slide_path is None or not self._models or self.job is not None
            if self.slide_path is None:
                self.desk.clear()
                self.measures.refresh()
                return
            try:
                slide = open_slide(self.slide_path, **self._reading())
            except (TlskitError, OSError) as error:
                self._lose(self.slide_path, error)  # it was renamed, say
                return
            maps, chosen, target, old, sets = {}, {}, "TLS", (), {}
            if self._models:
                archive, arm = self._models[self.model.value]
                target = archive.target_class if isinstance(archive.target_class, str) else archive.target_class[0]
                sets = {arm.name: set_in(archive, arm, self.slide_path, self.slide_id)}
                if self.map_path().is_file():
                    maps = {arm.name: probmaps.open_map(self.map_path())}
                    old = tuple(maps) if is_old(maps[arm.name], arm, self.screen.value) else ()
                    chosen = {arm.name: arm.thresholds["validation"]} if "validation" in arm.thresholds else {}
            self.desk.show(
                Sheet(
                    self.slide_path.name,
                    slide,
                    maps,
                    thresholds=chosen,
                    class_name=target,
                    old=old,
                    sets=sets,
                    notes=self._notes(),
                    about=self._about(),
                )
            )
            self.measures.refresh()
            if not self._below.children:
                self._below.children = [self.desk, self.measures]
            self.segment.description = "Segment again" if maps else "Segment"
            if self.job is None:
                self._say(
                    f"{self.slide_path.name}: its map is of an earlier network or screen. "
                    "Press Segment again to make it new."
                    if old
                    else f"{self.slide_path.name} was segmented before: here is its map."
                    if maps
                    else f"Press Segment to run the model on {self.slide_path.name}."
                )

    def _reading(self, slide_id: str = "") -> dict:
        reading = self._models[self.model.value][0].reading if self._models else {}
        mpp = given_mpp(self._outputs_dir, slide_id or self.slide_id)
        return reading | ({"mpp_override": mpp} if mpp else {})

    def _ask_for_mpp(self, path: Path | None) -> None:
        """Show the box for um/px where the slide does not say it; it is kept for this slide, wherever it lies."""
        self._without_mpp = path
        self.mpp.layout.display = "" if path else "none"
        self.mpp.value = ""

    @guarded
    def _give_mpp(self, _) -> None:
        text, path = self.mpp.value.strip().replace(",", "."), self._without_mpp
        if not text or path is None:
            return
        try:
            mpp = float(text)
        except ValueError as error:
            raise ScaleError(f"um/px should be a number such as 0.25, not {text!r}.") from error
        open_slide(path, **self._reading() | {"mpp_override": mpp}).close()  # refuses what no scan has
        give_mpp(self._outputs_dir, content_id(path), path.name, mpp)
        self.take(path)
        self.chooser.refresh()

    @guarded
    def _start(self, _) -> None:
        self.message.say()
        if self.slide_path is None or self.job is not None:
            return
        if not self.slide_path.exists():
            raise SlideError(
                f"{self.slide_path.name} lies no longer in {self.slide_path.parent.name}: it was renamed, moved or "
                "deleted. Open it where it is now; what was drawn on it comes along."
            )
        _, arm = self._models[self.model.value]
        mpp = given_mpp(self._outputs_dir, self.slide_id)
        self._take_up(
            Job(self.slide_path, arm.checkpoint_path, self.map_path(), self._screen_of_job(), mpp_override=mpp),
            self.slide_path, self.slide_id,
        )  # fmt: skip

    @guarded
    def look(self) -> None:
        """Find a segmentation that was begun by a page that is gone, when this one is first turned to."""
        if self.job is None and (found := Job.running(resolve(self._outputs_dir) / "segmented")):
            path = found[0].slide_path
            self.take(path)
            self._take_up(found[0], path, content_id(path))

    def _take_up(self, job: Job, path: Path, slide_id: str) -> None:
        self.job = job
        self.segment.disabled, self.cancel.disabled, self.model.disabled = True, False, True
        self.screen.disabled = True
        self.progress.value, self.progress.bar_style = 0, "info"
        threading.Thread(target=self._follow, args=(job, path, slide_id), name="tlskit-follow", daemon=True).start()

    def _stop(self, _) -> None:
        if self.job is not None:
            self.job.cancel()

    def _follow(self, job: Job, path: Path, slide_id: str) -> None:
        while job.wait(0.3) == "running":
            if job.total:
                self.progress.value = job.done / job.total
                doing = f"Looking where to segment {path.name}" if job.screening else f"Segmenting {path.name}"
                self._say(f"{doing}: {job.done} of {job.total} windows.")
            else:
                self._say(f"{path.name}: loading the model and looking for tissue.")
        with self._turning:
            self.job = None
            self.segment.disabled = self.slide_path is None
            self.cancel.disabled, self.model.disabled, self.screen.disabled = True, False, False
            self.chooser.refresh()
            if job.state == "done":
                self.progress.value, self.progress.bar_style = 1, "success"
                if self.slide_id == slide_id:
                    self._show()
                if self.slide_path is not None and self.slide_id == slide_id:
                    self._say(f"Done: {path.name}. Move the threshold, then download outlines or areas.")
                else:
                    self._say(f"Done: {path.name} is segmented. It is not the slide below; open it to see its map.")
                if job.lost:
                    self.message.say(f"{job.lost} window(s) of {path.name} could not be read; they are hatched.", "bad")
            elif job.state == "cancelled":
                self.progress.bar_style = "warning"
                self._say(f"{path.name}: cancelled. Press Segment to go on from where it stopped.")
            else:
                self.progress.bar_style = "danger"
                self._say(f"{path.name} was not segmented.")
                self.message.say(f"{path.name}: {job.reason}", "bad")

    def _say(self, text: str) -> None:
        self.status.value = html.escape(text)

    def _reproduce(self, value: dict) -> str:
        if not self._models or self.slide_path is None:
            return ""
        archive, arm = self._models[self.model.value]
        if row := self.screen.value:
            coarse, fine = (f"outputs/{archive.name}/{name}/work/checkpoint.pt" for name in (row["coarse"], arm.name))
            return (
                f"screen = predicting.ScreenSetting({coarse!r}, {row['screen_threshold']:g}, {row['grow_um']:g})\n"
                f"predicting.predict([{self.slide_path.name!r}], {fine!r}, 'segmented', screen=screen, "
                f"threshold={value['threshold']:g})"
            )
        return (
            f"checkpoint = models.load_checkpoint({f'outputs/{archive.name}/{arm.name}/work/checkpoint.pt'!r})\n"
            f"inference.predict_slide(checkpoint, {self.slide_path.name!r}, {self.map_path().name!r})\n"
            f"threshold = {value['threshold']:g}"
        )

    def _about(self) -> dict:
        """Where the slide lies, for who wants to learn from what is drawn on it."""
        given = {"mpp_override": mpp} if (mpp := given_mpp(self._outputs_dir, self.slide_id)) else {}
        return {"slide": portable(self.slide_path, project_root())} | given

    def _outlines_of(self, path: Path) -> list:
        """What was drawn on a slide, for its card."""
        drawn = _of_slide(resolve(self._outputs_dir) / "segmented" / "drawn", path.stem, content_id(path), ".geojson")
        if not drawn.is_file():
            return []
        with open_slide(path, **self._reading(content_id(path))) as slide:
            return [polygon_of(one) for one in read_drawn(drawn, slide.bounds_px0[:2])]

    def _drawn_path(self, _: str) -> Path:
        folder = resolve(self._outputs_dir) / "segmented" / "drawn"
        return _of_slide(folder, self.slide_path.stem, self.slide_id, ".geojson")

    def _known(self, path: Path) -> str:
        """What is known of a slide, in a few words for its card."""
        slide_id, folder = content_id(path), resolve(self._outputs_dir) / "segmented"
        words = []
        for archive, arm in self._models:
            of_model = folder / f"{archive.name}-{arm.name}"
            if any(of_model.glob(f"*-{slide_id}.tif")):
                words.append(f"segmented by {model_name(archive, arm)}")
            for under in folder.glob(f"{archive.name}-{arm.name}{_UNDER}*"):
                if any(under.glob(f"*-{slide_id}.tif")):
                    first = under.name.rpartition(_UNDER)[2]
                    words.append(f"segmented by {model_name(archive, arm)} where {first} found something")
        for drawn in (folder / "drawn").glob(f"*-{slide_id}.geojson"):
            if number := len(read_drawn(drawn)):
                words.append(f"{number} outline(s) drawn")
        for archive in {archive.name: archive for archive, _ in self._models}.values():
            for arm in archive.arms[:1]:
                if found := set_in(archive, arm, path, slide_id):
                    words.append(f"{SETS[found]} of {archive.name}")
        return "; ".join(words) or "nothing known yet"

    def _notes(self) -> list[str]:
        """What was given by hand; and what was saved before a slide was known by its content may be of another one."""
        mpp = given_mpp(self._outputs_dir, self.slide_id)
        given = [f"{mpp:g} um/px was given by hand: the slide does not say it."] if mpp else []
        earlier = resolve(self._outputs_dir) / "segmented" / "drawn" / f"{self.slide_path.stem}.geojson"
        if not earlier.is_file():
            return given
        return [
            *given,
            f"{earlier.name} in {earlier.parent.name} holds outlines that an earlier version saved under this name. "
            "They may be of another slide, and are not shown here.",
        ]


def _of_slide(folder: Path, stem: str, slide_id: str, suffix: str) -> Path:
    """The slide's file, under whatever name it had when the file was made; else where one would be made."""
    found = sorted(folder.glob(f"*-{slide_id}{suffix}"))
    return found[0] if found else folder / f"{stem}-{slide_id}{suffix}"
