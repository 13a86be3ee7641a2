"""The outlines of a slide that a person draws: read back, written at every change, given a class, copied from a map."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ipywidgets
from filelock import Timeout

from tlskit.errors import TlskitError
from tlskit.explore import drawings, drawn_files
from tlskit.explore.retraining import NO
from tlskit.explore.viewer import SlideView
from tlskit.explore.widgets import Message, guarded

__all__ = ["HandOutlines"]


@dataclass
class _Shelf:
    """Where the outlines of one slide lie, and how they were when they were read or written last."""

    path: Path
    origin_px0: tuple[float, float] = (0.0, 0.0)
    about: dict = field(default_factory=dict)
    base: list[dict] = field(default_factory=list)
    readable: bool = True


class HandOutlines(ipywidgets.VBox):
    """The class box and the buttons below the view.

    Parameters
    ----------
    view
        Where they are drawn.
    copy_source
        Gives the polygons that may be copied, in level-0 px, and um per level-0 px.
    message
        Where errors are told.

    Attributes
    ----------
    class_name, copy, give, deny, save
        Widgets.
    state
        What became of the last change.
    shelf : str
        Name of the place where the outlines of the slide are kept that was taken up last.
    """

    def __init__(self, view: SlideView, *, copy_source: Callable[[], tuple[list, float]], message: Message):
        self.view, self.message, self._copy_source = view, message, copy_source
        self._shelves: dict[int, _Shelf] = {}
        #: Of slides whose outlines could not be written: what was drawn, and what stood in the file then.
        self._left: dict[Path, tuple[list[dict], list[dict]]] = {}
        self.shelf = ""
        self._quiet = self._putting = False
        self._edits = 0
        self.class_name = ipywidgets.Text(
            "TLS", description="Class", continuous_update=False, layout=ipywidgets.Layout(width="auto"),
            style={"description_width": "96px"},
        )  # fmt: skip
        self.give = _button("Give it this class", "the outline that was clicked gets the class above")
        self.copy = _button("Copy the outline in the middle", "copies the prediction, else the truth, to be corrected")
        self.deny = _button(
            "This is no TLS", "copies the true outline in the middle as 'no <class>': training leaves it out"
        )
        self.save = _button("Save outlines", "they are saved at every change; this saves once more and says where")
        self.state = Message()
        self.class_name.observe(self._named, "value")
        self.give.on_click(self._give)
        self.copy.on_click(lambda _: self._copy(self.chosen_class))
        self.deny.on_click(lambda _: self._copy(f"{NO}{self.chosen_class.removeprefix(NO)}"))
        self.save.on_click(lambda _: self.keep(tell=True))
        view.on_edit = self._edit
        # What was drawn and taken back before the kernel heard of it has changed nothing, and is told as written, too.
        view.observe(self._drawn, ["drawn", "change"])
        view.observe(self._selected, ["selected", "drawn"])
        self._selected()
        row = ipywidgets.Layout(flex_flow="row wrap", width="100%")
        super().__init__(
            [self.class_name, ipywidgets.HBox([self.copy, self.give, self.deny, self.save], layout=row), self.state]
        )

    @property
    def chosen_class(self) -> str:
        """Class of the next outline."""
        return self.class_name.value.strip() or "TLS"

    def _named(self, _) -> None:
        self.view.draw_class = self.chosen_class
        self.deny.description = f"This is no {self.chosen_class.removeprefix(NO)}"

    def take(self, path: Path, *, origin_px0: tuple[float, float], about: dict) -> list[dict]:
        """Take up the outlines of the slide that is shown next; returns them. To be called before `view.show`.

        What could not be written when the slide was shown before comes back, and is written now if it can be.
        """
        shelf = _Shelf(path, origin_px0, about)
        self.state.say()
        try:
            shelf.base = drawn_files.read_drawn(path, origin_px0)
        except (TlskitError, OSError) as error:
            shelf.readable = False
            self.state.fail(error)
        if shelf.base:
            self.state.say(f"{len(shelf.base)} saved outline(s) of this slide, from {path.name}.")
        self._shelves[self.view.source + 1] = shelf
        self.shelf = _name_of(path)
        for old in sorted(self._shelves)[:-8]:  # a browser that is eight slides behind has long been told
            del self._shelves[old]
        if path not in self._left:
            return shelf.base
        drawn, known = self._left[path]
        drawn = drawings.merged(known, drawn, shelf.base)
        if self._write(shelf, drawn, shelf.base) is None:
            return drawn
        self.view.saved = self.view.change
        self.state.say(f"{len(shelf.base)} outline(s) saved as {path.name}: they could not be before.", "good")
        return shelf.base

    def put(self, outlines: list[dict]) -> None:
        """Show other outlines on the slide that is shown, and keep them: a step that can be taken back."""
        self._putting = True
        try:
            with self.view.hold_sync(), self.view.hold_trait_notifications():
                self._tell(self.view.drawn, outlines, own=True)
                self.view.drawn_source = self.view.source
                self.view.drawn = outlines
        finally:
            self._putting = False

    def _tell(self, old: list[dict], new: list[dict], *, own: bool) -> None:
        """Say what changes as a difference: the browser may be a few changes ahead, and these stand as well."""
        added, gone = drawings.difference(old, new)
        if added or gone:
            self._edits += 1
            edit = {"number": self._edits, "source": self.view.source, "added": added, "gone": gone, "own": own}
            self.view.edits = [*(one for one in self.view.edits if one["number"] > self.view.heard), edit]

    def _known(self, source: int) -> list[dict]:
        """What stood in the file, as far as the one who made the last change knew: the kernel itself, or the browser.

        What was added before the browser heard of it is not on its list, and has not been taken away by it.
        """
        known = self._shelves[source].base
        if self._putting:
            return known
        for edit in reversed(self.view.edits):
            if edit["number"] > self.view.heard and edit["source"] == source:
                known = drawings.stepped(known, added=edit["gone"], gone=edit["added"])
        return known

    @guarded
    def _drawn(self, _) -> None:
        if not self._quiet:
            self.keep()

    def keep(self, *, tell: bool = False) -> None:
        """Write what is drawn. It stays in the view where that fails, and is tried again at the next change."""
        source, drawn = self.view.drawn_source, list(self.view.drawn)
        shelf = self._shelves.get(source)
        if shelf is None:
            if tell:
                self.state.say("No slide is shown.")
            return
        if source == self.view.source and drawn == shelf.base and not tell:
            self.view.saved = self.view.change
            return
        new = self._write(shelf, drawn, self._known(source))
        if new is None:
            return
        kept = shelf.base
        if source == self.view.source:
            self._show(kept)
        else:  # the browser drew on the slide before while this one was on its way
            self._show(self._shelves[self.view.source].base, same_slide=False)
        if tell and not kept:
            self.state.say("Nothing is drawn yet: press Draw outline above the slide.")
        else:
            place = f"{shelf.path.name} in {shelf.path.parent.name}"
            more = f" {new} of them came from another window." if new > 0 else ""
            self.state.say(f"{len(kept)} outline(s) saved as {place}; QuPath opens it.{more}", "good")

    def _write(self, shelf: _Shelf, drawn: list[dict], known: list[dict]) -> int | None:
        """Write outlines; how many came from another window, or None where it failed: it is said, and they are kept."""
        name, unwritten = _name_of(shelf.path), set(self.view.unwritten)
        try:
            kept = drawn_files.save_drawn(shelf.path, drawn, known, shelf.origin_px0, shelf.about)
        except (TlskitError, OSError, Timeout) as error:
            self._left[shelf.path] = drawn, known
            self.view.unwritten = sorted(unwritten | {name})
            self.state.say(
                f"The outlines are NOT saved: {_reason(error, shelf.path)} They stay on this page, and this browser "
                "keeps them for this slide; press Save outlines when that is mended.", "bad",
            )  # fmt: skip
            return None
        self._left.pop(shelf.path, None)
        self.view.unwritten = sorted(unwritten - {name})
        shelf.base, shelf.readable = drawings.interned(kept, drawn), True
        return len(kept) - len(drawings.tidied(drawn))

    def _show(self, outlines: list[dict], *, same_slide: bool = True) -> None:
        self._quiet = True
        try:
            with self.view.hold_sync(), self.view.hold_trait_notifications():
                if [one["rings"] for one in outlines] != [one["rings"] for one in self.view.drawn]:
                    self.view.selected = -1  # it might be the number of another one now
                if same_slide:
                    self._tell(self.view.drawn, outlines, own=False)
                self.view.drawn_source = self.view.source
                self.view.drawn = outlines
                self.view.saved = self.view.change
        finally:
            self._quiet = False

    def _selected(self, _=None) -> None:
        chosen = self.view.selected
        self.give.disabled = not 0 <= chosen < len(self.view.drawn)

    @guarded
    def _give(self, _) -> None:
        chosen, drawn = self.view.selected, list(self.view.drawn)
        if not 0 <= chosen < len(drawn):
            self.state.say("Click an outline first.")
            return
        drawn[chosen] = drawn[chosen] | {"class": self.chosen_class}
        self.put(drawn)

    @guarded
    def _copy(self, class_name: str) -> None:
        """Copy what lies in the middle: a prediction before the truth, but the truth first where it is denied."""
        from shapely.geometry import Point

        if not self.view.field:
            return
        middle = Point(*self.view.field[:2])
        polygons, mpp0 = self._copy_source()
        for polygon in reversed(polygons) if class_name.startswith(NO) else polygons:
            # In the middle of a hole one is still on the structure that it is a hole of.
            if polygon.contains(middle) or any(_inside(ring, middle) for ring in polygon.interiors):
                # Corners a pixel or so apart would be too many to move by hand.
                simple = polygon.simplify(max(mpp0, 4.0) / mpp0)
                self.put([*self.view.drawn, drawings.as_outline(simple, class_name)])
                return
        self.state.say("Neither a prediction nor a true outline lies in the middle of the view.")

    @guarded
    def _edit(self, content: dict, buffers: list) -> None:
        """Cut a hole, make one of several, or take in the outlines of a file."""
        drawn, kind = list(self.view.drawn), content["kind"]
        if kind == "cut":
            found, number = drawings.cut_out(drawn, content["ring"])
            said = "The hole lies in no drawn outline." if not number else ""
        elif kind == "merge":
            found, number = drawings.joined_at(drawn, int(content["index"]))
            said = "" if number > 1 else self._apart(int(content["index"]))
        else:
            found, said = drawn + self._of_file(str(content.get("name", "")), bytes(buffers[0])), ""
        if said:
            self.state.say(said)
        elif found != drawn:
            self.view.selected = len(found) - 1 if kind == "merge" else -1
            self.put(found)

    def _apart(self, number: int) -> str:
        """Why an outline cannot be merged. One that is several areas would be none: each is an object by itself in
        training and in every score, also where QuPath holds them as one."""
        found = drawings.nearest(self.view.drawn, number)
        if found is None:
            return "There is no other drawn outline to merge this one with."
        name, gap = found
        away = f"lies {gap * self.view.mpp0:,.0f} um away" if gap else "meets it in a single point"
        return (
            "Nothing was merged: no other drawn outline shares an edge or an area with this one. The nearest, of the "
            f"class {name}, {away}. One outline is one area; areas that do not touch are counted one by one. If they "
            "are one structure, draw an outline across the gap, then merge."
        )

    def _of_file(self, name: str, content: bytes) -> list[dict]:
        """Outlines of a GeoJSON that was dropped on the view, those that are drawn already left out."""
        shelf = self._shelves[self.view.source]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(name).name or "outlines.geojson")
            path.write_bytes(content)
            found = drawn_files.read_drawn(path, shelf.origin_px0)
        new, _ = drawings.difference(self.view.drawn, found)
        self.message.say(f"{len(new)} of {len(found)} outline(s) of {name} were taken in.", "good" if new else "")
        return new


def _name_of(path: Path) -> str:
    """A slide's outlines, as the browser knows them."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]


def _reason(error: Exception, path: Path) -> str:
    """Why outlines could not be written, as a sentence."""
    if isinstance(error, Timeout):
        return "another window is writing them."
    if isinstance(error, OSError) and not isinstance(error, TlskitError):
        return f"{path.name} cannot be written in the folder {path.parent.name} ({error.strerror or error})."
    return str(error)


def _inside(ring, point) -> bool:
    from shapely.geometry import Polygon

    return Polygon(ring).contains(point)


def _button(label: str, tooltip: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=label, tooltip=tooltip, layout=ipywidgets.Layout(width="auto"))
