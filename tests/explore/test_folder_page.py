"""The folder page: what stands on it is of the slide and of the network that it names."""

import errno
import json
import shutil
import time

import numpy as np
import pytest
import tifffile
from made_run import make_run, write_map

from tlskit.evaluation import stored_screens
from tlskit.explore import app, drawn_files, folder_page
from tlskit.files import sha256_of_file
from tlskit.maps import open_map


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    run_dir = make_run(tmp_path_factory.mktemp("project"), n_slides=2, size_mm=(1.9, 1.5), magnifications=(1, 4))
    (run_dir / "1x" / "work" / "checkpoint.pt").write_bytes(b"the first network")
    return run_dir.parent


@pytest.fixture
def page(outputs):
    whole = app.page(outputs_dir=outputs)
    yield whole.pages["folder"]
    shutil.rmtree(outputs / "segmented", ignore_errors=True)


def slide_path(outputs, name="S1"):
    return outputs / "cohorts" / "made" / "slides" / f"{name}.tiff"


def segmented(page, network="") -> None:
    """As if the slide that is shown had been segmented by the present checkpoint, or another."""
    archive, arm = page._models[0]
    made_by = network or sha256_of_file(arm.checkpoint_path)
    with open_map(arm.map_path("S1")) as source:
        values, mpp = source.read(0, 0, *source.size_px), source.mpp
    page.map_path().parent.mkdir(parents=True, exist_ok=True)
    write_map(page.map_path(), values, mpp=mpp, metadata={"checkpoint_sha256": made_by, "slide_id": "S1"})


class SlowJob:
    """A segmentation that ends when it is told to."""

    lost, screening = 0, False

    def __init__(self, *_, **__):
        self.state, self.done, self.total, self.reason = "running", 1, 2, ""

    def wait(self, _):
        time.sleep(0.02)
        return self.state

    def cancel(self):
        self.state = "cancelled"


def draw(page, x=100.0):
    view = page.desk.view
    ring = [[x, 100.0], [x + 200, 100.0], [x + 200, 300.0]]
    view.drawn = [*view.drawn, {"rings": [ring], "class": "TLS"}]


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_map_of_an_earlier_network_is_shown_as_old_and_not_measured(page, outputs):
    page.take(slide_path(outputs))
    segmented(page)
    page.take(slide_path(outputs))
    assert "was segmented before" in page.status.value and not page.measures.geojson.disabled
    assert "Old map" not in page.desk.heading.value
    segmented(page, network="0123456789abcdef")
    page.take(slide_path(outputs))
    assert "Old map" in page.desk.heading.value and "01234567" in page.desk.heading.value
    assert "earlier network" in page.status.value and page.segment.description == "Segment again"
    assert page.measures.geojson.disabled and page.measures.csv.disabled and page.measures.measure.disabled


@pytest.fixture
def screened(outputs):
    """The run with a second network, and a screen before it that its notebook cascade stored."""
    run_dir = outputs / "made"
    coarse, fine = (run_dir / arm / "work" / "checkpoint.pt" for arm in ("1x", "4x"))
    fine.write_bytes(b"the fine network")
    row = {"coarse": "1x", "fine": "4x", "screen": "map", "screen_threshold": 0.05, "grow_um": 64.0}
    row |= {"windows_share": 0.16, "coarse_sha256": sha256_of_file(coarse), "fine_sha256": sha256_of_file(fine)}
    stored = run_dir / stored_screens.SCREENS
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps([row, row | {"screen": "none", "screen_threshold": None, "grow_um": None}]))
    yield row
    shutil.rmtree(run_dir / "cascade")
    fine.unlink()


def test_a_stored_screen_is_offered_kept_apart_and_handed_to_the_job(screened, page, outputs, monkeypatch):
    given = []
    monkeypatch.setattr(folder_page, "Job", lambda *order, **_: given.append(order) or SlowJob())
    page.take(slide_path(outputs))
    assert page.screen.layout.display == "none", "nothing is coarser than 1x"
    page.model.value = [arm.name for _, arm in page._models].index("4x")
    labels = [label for label, _ in page.screen.options]
    assert labels == ["everywhere", "where 1x finds something first, 16% of the windows"]
    plain = page.map_path()
    page.screen.value = screened
    assert page.map_path() != plain and page.map_path().parent.name == "made-4x-screened-by-1x"
    page._start(None)
    slide, checkpoint, out, screen = given[0]
    assert (checkpoint, out) == (outputs / "made/4x/work/checkpoint.pt", page.map_path())
    assert screen == (outputs / "made/1x/work/checkpoint.pt", 0.05, 64.0, outputs / "segmented/made-1x")
    assert page.screen.disabled
    page.job.state = "done"
    until(lambda: page.job is None and not page.screen.disabled)
    # A map under another screen than the stored one is an old one.
    under = {"checkpoint_sha256": screened["coarse_sha256"], "threshold": 0.05, "grow_um": 64.0}
    for grow_um, old in ((64.0, False), (32.0, True)):
        page.map_path().parent.mkdir(parents=True, exist_ok=True)
        write_map(page.map_path(), np.zeros((600, 760), np.uint8), mpp=2.5, metadata={
            "checkpoint_sha256": screened["fine_sha256"], "unseen": [[0, 0, 90, 90]],
            "parameters": {"screen": under | {"grow_um": grow_um}},
        })  # fmt: skip
        page.take(slide_path(outputs))
        assert ("Old map" in page.desk.heading.value) == old
    assert page.desk.view.maps[0]["unseen"], "and it is hatched"
    assert f"where network {screened['coarse_sha256'][:8]} found something first" in page.desk.heading.value
    assert "segmented by made, 4x where 1x found something" in page._known(slide_path(outputs))
    assert "predicting.ScreenSetting('outputs/made/1x/work/checkpoint.pt', 0.05, 64)" in page._reproduce(
        {"threshold": 0.5}
    )
    page.screen.value = None
    assert page.map_path() == plain


def test_a_screen_of_other_networks_is_not_offered(screened, outputs):
    (outputs / "made/4x/work/checkpoint.pt").write_bytes(b"trained again")
    page = app.page(outputs_dir=outputs).pages["folder"]
    page.model.value = [arm.name for _, arm in page._models].index("4x")
    assert [label for label, _ in page.screen.options] == ["everywhere"]


def test_a_slide_that_cannot_be_opened_takes_the_one_before_away(page, outputs, tmp_path):
    page.take(slide_path(outputs))
    segmented(page)
    page.take(slide_path(outputs))
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"none")
    page.take(broken)
    assert page.desk.sheet is None and page.slide_path is None and page.desk.view.title == ""
    for widget in (page.segment, page.measures.geojson, page.measures.csv, page.measures.measure, page.desk.save):
        assert widget.disabled
    assert page.desk.heading.value == "" and "broken.svs" in page.status.value
    page._start(None)
    assert page.job is None
    page.take(slide_path(outputs))
    assert page.desk.view.title == "S1.tiff" and not page.segment.disabled


def test_a_segmentation_that_ends_names_its_slide_and_leaves_the_one_that_is_shown(page, outputs, monkeypatch):
    monkeypatch.setattr(folder_page, "Job", SlowJob)
    page.take(slide_path(outputs))
    page._start(None)
    job = page.job
    page.take(slide_path(outputs, "S2"))
    shown = page.desk.sheet
    until(lambda: "Segmenting S1.tiff" in page.status.value)
    job.state = "done"
    until(lambda: page.job is None and "Done" in page.status.value)
    assert "S1.tiff is segmented. It is not the slide below" in page.status.value
    assert page.desk.sheet is shown and "S2.tiff" in page.desk.heading.value


def test_what_is_drawn_outlives_a_segmentation_the_model_and_other_slides(page, outputs, monkeypatch):
    monkeypatch.setattr(folder_page, "Job", SlowJob)
    page.take(slide_path(outputs))
    page.desk.view.field = [500.0, 400.0, 900.0]
    draw(page)
    page._start(None)
    page.job.state = "done"
    until(lambda: page.job is None and "Done" in page.status.value)
    assert len(page.desk.view.drawn) == 1 and page.desk.view.field == [500.0, 400.0, 900.0]
    page.take(slide_path(outputs, "S2"))
    assert page.desk.view.drawn == []
    page.take(slide_path(outputs))
    draw(page, 600.0)
    assert len(page.desk.view.drawn) == 2 and "2 outline(s) saved" in page.desk.hand.state.value


def test_what_a_slow_browser_draws_goes_to_the_slide_it_was_drawn_on(page, outputs):
    page.take(slide_path(outputs))
    view, before = page.desk.view, page.desk.view.source
    page.take(slide_path(outputs, "S2"))
    late = {"rings": [[[0, 0], [90, 0], [90, 90]]], "class": "TLS"}
    view.set_state({"drawn": [late], "drawn_source": before})
    assert view.drawn == [] and view.drawn_source == view.source
    page.take(slide_path(outputs))
    assert len(view.drawn) == 1


def test_slides_of_one_name_in_two_folders_share_nothing(page, outputs, tmp_path):
    page.take(slide_path(outputs))
    draw(page)
    other = tmp_path / "S1.tiff"
    shutil.copy(slide_path(outputs, "S2"), other)
    page.take(other)
    assert page.desk.view.drawn == []
    moved = tmp_path / "moved.tiff"
    shutil.copy(slide_path(outputs), moved)
    page.take(moved)
    assert len(page.desk.view.drawn) == 1  # the same slide, wherever it lies


def test_a_change_that_was_taken_back_before_it_was_heard_of_is_told_as_written(page, outputs):
    page.take(slide_path(outputs))
    view = page.desk.view
    here = {"drawn_source": view.source}
    # The browser drew an outline and deleted it; the kernel, busy, hears of both at once.
    view.set_state({"drawn": [], "change": 2} | here)
    assert view.saved == 2
    one = {"rings": [[[0, 0], [90, 0], [90, 90]]], "class": "TLS"}
    view.set_state({"drawn": [one], "change": 3} | here)
    assert view.saved == 3
    page._drawn_path("").write_text("no GeoJSON")
    view.set_state({"drawn": [], "change": 4} | here)
    assert view.saved == 3 and "NOT saved" in page.desk.hand.state.value


def test_a_hole_is_cut_outlines_become_one_and_a_file_is_taken_in(page, outputs):
    page.take(slide_path(outputs))
    view = page.desk.view

    def ask(kind, *buffers, source=None, **content):
        view._on_message(view, {"kind": kind, "source": source or view.source} | content, list(buffers))

    draw(page, 100.0)
    draw(page, 200.0)
    ask("merge", index=0)
    assert len(view.drawn) == 1 and view.selected == 0
    area = page.desk.polygons()[0].area
    ask("cut", ring=[[250, 150], [270, 150], [270, 170], [250, 170]])
    assert page.desk.polygons()[0].area == area - 400
    ask("cut", ring=[[900, 900], [910, 900], [910, 910]])
    assert "lies in no drawn outline" in page.desk.hand.state.value
    ask("merge", index=0)
    assert "no other drawn outline to merge this one with" in page.desk.hand.state.value
    draw(page, 700.0)
    before = list(view.drawn)
    ask("merge", index=0)
    left, right = (page.desk.polygons()[n].bounds for n in (0, 1))
    gap_um = (right[0] - left[2]) * view.mpp0
    assert f"class {before[1]['class']}, lies {gap_um:,.0f} um away" in page.desk.hand.state.value
    assert view.drawn == before
    view.drawn = before[:1]
    ask("merge", index=0, source=view.source - 1)  # of a slide that is shown no more
    content = slide_path(outputs).with_suffix(".geojson").read_bytes()
    ask("outlines", content, name="../S1.geojson")
    number = len(view.drawn)
    assert number > 1 and f"{number - 1} of {number - 1} outline(s)" in page.desk.message.value
    ask("outlines", content, name="S1.geojson")
    assert len(view.drawn) == number  # not a second time
    ask("outlines", b"{", name="broken.geojson")
    assert len(view.drawn) == number and "broken.geojson" in page.desk.message.value


def test_um_per_px_is_given_where_a_slide_does_not_say_it_and_kept(page, outputs, tmp_path):
    path = tmp_path / "plain.tiff"
    pixels = np.random.default_rng(0).integers(150, 250, (600, 800, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
    page.take(path)
    assert page.slide_path is None and page.mpp.layout.display == "" and page.segment.disabled
    page.mpp.value = "500"
    assert "which a scan can have" in page.message.value and page.slide_path is None
    page.mpp.value = "0,5"
    assert page.slide_path == path and page.desk.view.mpp0 == 0.5 and page.mpp.layout.display == "none"
    assert "0.5 um/px was given by hand" in page.desk.heading.value
    moved = tmp_path / "moved.tiff"
    shutil.copy(path, moved)
    page.take(slide_path(outputs))
    assert "by hand" not in page.desk.heading.value
    page.take(moved)
    assert page.desk.view.mpp0 == 0.5
    draw(page)
    assert json.loads(page._drawn_path("").read_text())["tlskit"]["mpp_override"] == 0.5


def test_a_dropped_path_is_opened_and_a_name_alone_is_looked_for_in_the_folder(page, outputs):
    gallery = page.chooser.gallery

    def drop(text, path):
        gallery._on_message(gallery, {"kind": "dropped", "text": text, "path": path}, [])

    page.chooser.folder.value = str(slide_path(outputs).parent)
    drop(str(slide_path(outputs)), True)
    assert page.slide_path == slide_path(outputs)
    drop("S2.tiff", False)
    assert page.slide_path == slide_path(outputs, "S2")
    drop("elsewhere.svs", False)
    assert "paste its path" in page.message.value and page.slide_path == slide_path(outputs, "S2")


def test_the_card_of_a_slide_shows_what_was_drawn_on_it(page, outputs):
    path = slide_path(outputs)
    page.chooser.folder.value = str(path.parent)
    gallery = page.chooser.gallery
    plain = gallery._picture(path)
    page.take(path)
    draw(page)
    assert len(page._outlines_of(path)) == 1 and gallery._picture(path) != plain


def test_a_page_that_is_loaded_again_finds_the_segmentation_that_runs(page, outputs, monkeypatch):
    job = SlowJob()
    job.slide_path = slide_path(outputs, "S2")
    SlowJob.running = classmethod(lambda cls, folder: [job])
    monkeypatch.setattr(folder_page, "Job", SlowJob)
    page.look()
    assert page.job is job and page.slide_path == job.slide_path and not page.cancel.disabled
    until(lambda: "Segmenting S2.tiff: 1 of 2 windows" in page.status.value)
    page.cancel.click()
    until(lambda: page.job is None and "cancelled" in page.status.value)


def test_what_another_window_drew_stays_when_a_change_had_not_heard_of_it(page, outputs):
    page.take(slide_path(outputs))
    view, path = page.desk.view, page._drawn_path("")

    def say(outlines):
        """As the browser does: the whole list, and the number of the change."""
        with view.hold_trait_notifications():
            view.drawn, view.change = outlines, view.change + 1

    first, other, second, third = (
        {"rings": [[[x, 0], [x + 50, 0], [x, 50]]], "class": "TLS"} for x in range(0, 400, 100)
    )
    say([first])
    drawn_files.save_drawn(path, [other], [])
    say([first, second])  # the kernel finds the other window's outline in the file, and tells of it
    assert len(view.drawn) == 3 and len(view.edits[-1]["added"]) == 1 and not view.edits[-1]["own"]
    say([first, second, third])  # on its way before that was heard
    assert len(drawn_files.read_drawn(path)) == 4
    say([second, third])  # and what is taken away meanwhile is taken away
    left = {one["rings"][0][0][0] for one in drawn_files.read_drawn(path)}
    assert len(drawn_files.read_drawn(path)) == 3 and 0 not in left
    view.heard = view.edits[-1]["number"]
    say([one for one in view.drawn if one["rings"][0][0][0] != 100])  # seen, and deleted on purpose
    assert {one["rings"][0][0][0] for one in drawn_files.read_drawn(path)} == {200, 300}


def test_an_outline_that_was_copied_stays_when_another_was_drawn_at_the_same_moment(page, outputs):
    page.take(slide_path(outputs))
    view, hand = page.desk.view, page.desk.hand
    first, copy, second = ({"rings": [[[x, 0], [x + 50, 0], [x, 50]]], "class": "TLS"} for x in range(0, 300, 100))
    view.drawn, view.change = [first], 1
    hand.put([first, copy])
    assert view.edits[-1]["own"]
    view.drawn, view.change = [first, second], 2
    assert len(drawn_files.read_drawn(page._drawn_path(""))) == 3


def test_a_true_outline_is_said_to_be_none(page, outputs):
    page.take(slide_path(outputs))
    hand = page.desk.hand
    hand._copy_source = lambda: ([folder_page.polygon_of({"rings": [[[0, 0], [90, 0], [0, 90]]]})], 0.25)
    page.desk.view.field = [20, 20, 100]
    hand.deny.click()
    assert [one["class"] for one in drawn_files.read_drawn(page._drawn_path(""))] == ["no TLS"]


def test_thousands_of_outlines_are_taken_in_and_changed_without_losing_one(page, outputs):
    page.take(slide_path(outputs))
    view = page.desk.view
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([20 * np.cos(angles), 20 * np.sin(angles)], axis=1)
    features = [
        {"type": "Feature", "properties": {"classification": {"name": "TLS"}},
         "geometry": {"type": "Polygon", "coordinates": [(np.vstack([ring, ring[:1]]) + [x, y]).tolist()]}}
        for x in range(50, 3050, 50) for y in range(50, 2550, 50)
    ]  # fmt: skip
    file = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    start = time.process_time()
    content = {"kind": "outlines", "name": "many.geojson", "source": view.source}
    view._on_message(view, content, [file])
    view.heard = view.edits[-1]["number"]
    assert len(view.drawn) == 3000
    taken_in = time.process_time() - start
    angles = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    large = (5000 + 900 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).round(2).tolist()
    start = time.process_time()
    view.drawn, view.change = [*view.drawn[1:], {"rings": [large], "class": "TLS"}], 1
    changed = time.process_time() - start
    saved = drawn_files.read_drawn(page._drawn_path(""))
    assert view.saved == 1 and len(saved) == 3000 and max(len(one["rings"][0]) for one in saved) == 20_000
    print(f"seconds of processor time: {taken_in:.1f} to take in, {changed:.1f} for a change")
    assert changed < 8, "a change is written while one looks on"


def test_outlines_that_could_not_be_written_come_back_with_their_slide_and_are_tried_again(page, outputs, monkeypatch):
    real = drawn_files.save_drawn

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    page.take(slide_path(outputs))
    view, path = page.desk.view, page._drawn_path("")
    draw(page, 100.0)
    kept = drawn_files.read_drawn(path)
    monkeypatch.setattr(drawn_files, "save_drawn", refuse)
    draw(page, 300.0)
    name = view.shelf
    said = page.desk.hand.state.value
    assert view.unwritten == [name] and f"NOT saved: {path.name} cannot be written in the folder drawn" in said
    assert "Errno" not in said and str(path.parent) not in said
    page.take(slide_path(outputs, "S2"))
    assert view.unwritten == [name] != [view.shelf] and not view.drawn
    page.take(slide_path(outputs))
    assert len(view.drawn) == 2 and view.unwritten == [name] and "NOT saved" in page.desk.hand.state.value
    # Another window has drawn meanwhile; then there is room again.
    monkeypatch.setattr(drawn_files, "save_drawn", real)
    other = {"rings": [[[600, 0], [650, 0], [600, 50]]], "class": "TLS"}
    real(path, [*kept, other], kept)
    page.take(slide_path(outputs, "S2"))
    page.take(slide_path(outputs))
    assert len(view.drawn) == 3 and view.unwritten == [] and view.saved == view.change
    assert "3 outline(s) saved" in page.desk.hand.state.value
    assert drawn_files.read_drawn(path) == view.drawn


def test_a_slide_that_is_gone_takes_its_map_off_the_desk_and_is_not_segmented(page, outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_page, "Job", SlowJob)
    path = tmp_path / "S9.tiff"
    shutil.copy(slide_path(outputs), path)
    page.take(path)
    path.rename(tmp_path / "S8.tiff")
    page.segment.click()
    assert "S9.tiff lies no longer in" in page.message.value and page.job is None
    draw(page)
    page._show()  # as another model is chosen
    assert page.slide_path is None and page.desk.value == {} and "S9.tiff cannot be opened" in page.status.value
    page.take(tmp_path / "S8.tiff")
    assert len(page.desk.view.drawn) == 1


def test_a_change_of_one_outline_leaves_all_others_the_objects_that_they_were(page, outputs):
    page.take(slide_path(outputs))
    view = page.desk.view
    some = [{"rings": [[[x, 0], [x + 50, 0], [x, 50]]], "class": "TLS"} for x in range(0, 500, 100)]
    # As the browser sends them: new lists every time.
    view.set_state({"drawn": json.loads(json.dumps(some)), "change": 1, "drawn_source": view.source})
    before = list(view.drawn)
    some[2]["rings"][0][2] = [200, 60]
    view.set_state({"drawn": json.loads(json.dumps(some)), "change": 2, "drawn_source": view.source})
    assert [one is other for one, other in zip(view.drawn, before, strict=True)] == [True, True, False, True, True]
    assert view.saved == 2 and drawn_files.read_drawn(page._drawn_path("")) == some
    assert [polygon.area for polygon in page.desk.polygons()] == [1250, 1250, 1500, 1250, 1250]
