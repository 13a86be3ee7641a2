"""Explorers without a browser: set a value, look at what is shown."""

import json
import re
import time
import zlib

import numpy as np
import pytest
from made_run import make_run
from shapely.geometry import Polygon

from tlskit.errors import ParameterError, RunError
from tlskit.evaluation import slide_findings as findings
from tlskit.explore import app, drawings, drawn_files, figure_explorers
from tlskit.explore import explorers as explore
from tlskit.explore import folder_chooser as chooser
from tlskit.explore import static_views as views
from tlskit.explore.measures import Measures
from tlskit.explore.widgets import Message, note
from tlskit.figures import alt_text
from tlskit.maps import ProbMap, open_map, probmaps
from tlskit.metrics.scores import COUNTS
from tlskit.outlines import reading as annotations
from tlskit.slides import slide as slides
from tlskit.study import archive
from tlskit.units import counted

HTML = "<b onclick=alert(1)>TLS</b>"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of two small slides at 1x and 4x, whose target class looks like HTML."""
    return make_run(
        tmp_path_factory.mktemp("project"), n_slides=2, size_mm=(1.9, 1.5), magnifications=(1, 4), target_class=HTML
    )


@pytest.fixture(scope="module")
def study(run_dir):
    return archive.open_archive(run_dir)


@pytest.fixture
def desk(study):
    made = explore.slide(study)
    yield made
    made.close()


def until(condition, seconds=10.0):
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def values_of(study, slide_id="S1", arm="4x"):
    with probmaps.open_map(study.arm(arm).map_path(slide_id)) as probmap:
        return probmap.read(0, 0, *probmap.size_px), probmap.mpp


def truth_of(study, shape, mpp, slide_id="S1"):
    with study.open_slide(slide_id) as slide:
        return annotations.rasterise(
            study.targets(slide_id), x_px=0, y_px=0, width_px=shape[1], height_px=shape[0], mpp=mpp, mpp0=slide.mpp0
        )


def test_an_archive_tells_its_arms_coarsest_first(study):
    assert [(arm.name, arm.magnification) for arm in study.arms] == [("1x", 1.0), ("4x", 4.0)]
    assert study.slide_ids == ["S1", "S2"]
    assert study.arm("4x").thresholds == {"fixed": 0.5, "validation": 0.42}


def test_a_run_that_is_not_there_is_an_error_that_names_those_that_are(run_dir):
    with pytest.raises(RunError, match="no run 'other'.*made"):
        archive.open_archive(run_dir.parent / "other")


def test_moving_the_threshold_moves_the_scores_to_those_of_the_pixels(desk, study):
    desk.magnification.index = 1
    for threshold in (0.5, 0.2):
        desk.threshold.value = threshold
        values, mpp = values_of(study)
        positive, truth = values >= findings.cut(threshold), truth_of(study, values.shape, mpp)
        tp, union = (positive & truth).sum(), (positive | truth).sum()
        assert f'data-score="iou">{tp / union:.3f}<' in desk.scores.value
        assert f'data-score="recall">{tp / truth.sum():.3f}<' in desk.scores.value
        assert desk.value["threshold"] == threshold and desk.value["map"] == "4x"


def test_the_context_that_a_network_saw_is_framed_on_request(desk, study, monkeypatch):
    assert desk.show_context.layout.display == "none" and all(shown["frames"] is None for shown in desk.view.maps)
    read = probmaps.ProbMap._open

    def with_context(self):
        read(self)
        if self.mpp == 2.5:
            context = {"ratio": 4, "px": 64, "of": "field"}
            self.metadata["parameters"] = {"window_px": 128, "stride_px": 64, "context": context}

    monkeypatch.setattr(probmaps.ProbMap, "_open", with_context)
    desk.picker.value = "S2"
    assert desk.show_context.layout.display == "" and not desk.value["context"] and "context" not in desk.code
    desk.magnification.index = 1
    desk.show_context.value = True
    assert desk.value["context"] and "context=True" in desk.code
    frames = desk.view.maps[1]["frames"]
    d = 2.5 / desk.sheet.slide.mpp0
    assert desk.view.maps[0]["frames"] is None and frames["window_px0"] == pytest.approx(128 * d)
    assert frames["context_px0"] == pytest.approx(256 * d)
    assert frames["windows"][0][1] == pytest.approx(64 * d, abs=0.01)
    assert frames["contexts"][0][1] == pytest.approx(0, abs=0.01), "concentric: 64 px before the window"
    assert "context 640 um across at 10 um/px" in desk.heading.value
    field = (200 * d, 200 * d, 500 * d)
    figure = views.slide_field(study, slide_id="S2", field=field, arms=["4x"], context=True)
    window, context = (patch for patch in figure.axes[0].patches if type(patch).__name__ == "Rectangle")
    assert context.get_width() == pytest.approx(2 * window.get_width())
    plain = views.slide_field(study, slide_id="S2", field=field, arms=["4x"])
    assert not [patch for patch in plain.axes[0].patches if type(patch).__name__ == "Rectangle"]
    with study.open_slide("S2") as slide:
        truth, wide_um = len(study.targets("S2", slide)), field[2] * slide.mpp0
    predicted = len(plain.axes[0].patches) - truth
    said = alt_text(plain)
    assert said.startswith(f"A field {wide_um:,.0f} um wide of slide S2, {counted(truth, 'outline')} of the truth")
    assert "; at 0.5: 4x IoU " in said and said.endswith(f", {counted(predicted, 'outline')} predicted here.")


def test_side_by_side_the_scores_of_all_maps_stand_together(desk, study):
    desk.side_by_side.value = True
    for arm in study.arms:
        iou = findings.scores_at(arm.histograms["S1"], 0.5)["iou"]
        assert f">{arm.name}</td>" in desk.scores.value and f'data-score="iou">{iou:.3f}<' in desk.scores.value
    assert "arms=" not in desk.code  # the figure shows all of them, too


def test_objects_follow_the_threshold(desk, study):
    desk.threshold.value = 0.3
    until(lambda: 'data-threshold="0.30"' in desk.objects.value)
    counts = desk.findings_of(desk.map_name).counts(0.3)
    # One target of each map was left out, and one object invented, when it was made.
    assert counts == {"found": len(study.targets("S1")) - 1, "missed": 1, "false": 1}
    for name, number in counts.items():
        assert f'data-count="{name}">{number}<' in desk.objects.value


def test_the_line_of_code_makes_the_same_view(desk, run_dir):
    desk.threshold.value = 0.3
    line = desk.code.splitlines()[0]
    assert line.startswith("explore.slide_field('made', slide_id='S1', threshold=0.3, field=None")
    figure = eval(line.replace("'made'", "run", 1), {"explore": views, "run": run_dir})  # the test's own line
    assert len(figure.axes) == 1 and figure.axes[0].get_title().startswith("1x")
    assert "threshold: 0.3" in desk.code


def test_the_figure_hatches_what_a_map_was_not_made_of(run_dir, monkeypatch):
    monkeypatch.setattr(ProbMap, "unseen", [(10, 20, 30, 40)])
    with open_map(run_dir / "1x/work/maps/S1.tif") as found:
        across = found.size_px[0] * 10 / found.metadata["mpp0"]
        figure = views.slide_field(run_dir, slide_id="S1", arms=["1x"], field=[across / 2, across * 0.375, across])
    (patch,) = [patch for patch in figure.axes[0].patches if patch.get_gid() == "unseen"]
    left, top, width, height = patch.get_path().get_extents().bounds
    per_px = 640 / found.size_px[0]  # of the picture, by working pixel
    assert (left, width) == pytest.approx((10 * per_px, 30 * per_px), abs=1.5)
    assert (top, height) == pytest.approx((20 * per_px, 40 * per_px), abs=1.5)
    assert "not looked at" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_next_miss_is_centred_and_marked(desk, study):
    desk.jump("misses")
    missed = min(study.targets("S1"), key=lambda polygon: polygon.area)
    assert Polygon(missed).contains(_point(desk.view.field))
    assert desk.view.marker[:2] == pytest.approx(desk.view.field[:2], abs=0.01)
    assert "Miss 1 of 1" in desk.message.value


def test_a_copied_outline_is_saved_as_geojson_that_reads_back(desk, study):
    biggest = max(study.targets("S1"), key=lambda polygon: polygon.area)
    centre = biggest.representative_point()
    desk.view.field = [centre.x, centre.y, 1000.0]
    desk.copy.click()
    desk.save.click()
    path = study.dir / "explore" / "geojson" / "S1.geojson"
    saved = annotations.read_targets(path, HTML)
    assert len(saved) == 1
    assert saved[0].intersection(biggest).area / saved[0].union(biggest).area > 0.85


def test_text_of_the_manifest_is_shown_as_text(desk):
    assert desk.class_name.value == HTML  # a text box holds text
    assert "<b onclick" not in note(HTML) and "&lt;b onclick" in note(HTML)
    desk.show_code(HTML)
    assert "<b onclick" not in desk._code.value


def test_another_slide_shuts_the_one_before_it(desk):
    before = desk.sheet.slide
    desk.picker.value = "S2"
    assert desk.value["slide_id"] == "S2" and desk.sheet.slide is not before
    assert desk.view.source == 2


def test_tiles_of_the_view_are_the_pixels_of_slide_and_map(desk, study):
    import simplejpeg

    facts, data = desk.view.tile("s/2/0/0")
    picture = simplejpeg.decode_jpeg(data)
    with slides.open_slide(study.row("S1").slide_path) as slide:
        pixels = slide.read(0, 0, facts["width"], facts["height"], mpp=slide.mpp0 * 4)
    assert picture.shape == pixels.shape
    assert np.abs(picture.astype(int) - pixels).mean() < 3
    _, data = desk.view.tile("1/0/0/0")
    shown = np.frombuffer(zlib.decompress(data), np.uint8).reshape(256, 256)
    values, _ = values_of(study)
    np.testing.assert_array_equal(shown, values[:256, :256])


def test_a_tick_of_the_slider_reads_no_pixel(desk, monkeypatch):
    until(lambda: desk.objects.value != "")  # the map's overview has been read by now

    def refuse(*_, **__):
        raise AssertionError("pixels were read")

    for kind in (type(desk.sheet.slide), probmaps.ProbMap):
        monkeypatch.setattr(kind, "read", refuse)
    desk.threshold.value = 0.33
    until(lambda: 'data-threshold="0.33"' in desk.objects.value)
    assert "not foreseen" not in desk.message.value


def test_tiles_are_chosen_by_set_slide_and_error(study):
    box = figure_explorers.tiles(study, arm="4x", n_tiles=2)
    everything = study.tiles(study.arm("4x"))
    assert box.value["tile_ids"] == list(everything["tile_id"])
    box.split.value = "test"
    box.target.value = (0.5, 1.0)
    wanted = everything[(everything["split"] == "test") & (everything["target_fraction"] >= 0.5)]
    assert box.value["tile_ids"] == list(wanted["tile_id"]) and len(wanted)
    assert (
        box.code == "explore.tile_page('made', arm='4x', order='target_fraction', n_tiles=2, split='test', "
        "target_fraction=(0.5, 1.0))"
    )
    assert bytes(box.image.value).startswith(b"\x89PNG") and not box.message.value


def test_tiles_stand_in_the_order_asked_for(study):
    figure = figure_explorers.tile_page(study, arm="4x", order="error", n_tiles=6)
    wrong = [int(found[1]) for ax in figure.axes if (found := re.search(r"wrong (\d+)%", ax.get_title()))]
    assert len(wrong) > 1 and wrong == sorted(wrong) and wrong[-1] > wrong[0]


def test_the_marks_of_the_threshold_stand_at_the_scores(study):
    box = figure_explorers.threshold(study)
    before = bytes(box.image.value)
    box.threshold.value = 0.2
    assert bytes(box.image.value) != before
    values, mpp = values_of(study, arm="1x")  # S1 alone is in the test set
    positive, truth = values >= findings.cut(0.2), truth_of(study, values.shape, mpp)
    expected = 2 * (positive & truth).sum() / (positive.sum() + truth.sum())
    assert box.value["scores"][0]["dice"] == pytest.approx(expected)


def test_the_cost_of_a_cohort_is_its_slides_times_the_warm_seconds(study):
    box = figure_explorers.timing(study, n_slides=360)
    # The fixture's warm repeat takes half a second a slide and unit of magnification.
    assert box.value["hours"] == pytest.approx({"1x": 0.05, "4x": 0.2})
    box.n_slides.value = 720
    assert box.value["hours"]["4x"] == pytest.approx(0.4)


def test_an_order_that_is_none_is_refused(study):
    with pytest.raises(ParameterError, match="order"):
        figure_explorers.tile_page(study, arm="4x", order="colour")


def test_scores_of_a_histogram_are_those_of_its_pixels():
    rng = np.random.default_rng(0)
    values, truth = rng.integers(0, 256, 5000), rng.random(5000) < 0.3
    histogram = np.stack([np.bincount(values[~truth], minlength=256), np.bincount(values[truth], minlength=256)])
    found = findings.scores_at(histogram, 0.5)
    positive = values >= 128
    expected = (
        (positive & truth).sum(),
        (positive & ~truth).sum(),
        (~positive & truth).sum(),
        (~positive & ~truth).sum(),
    )
    assert tuple(found[name] for name in COUNTS) == expected


def test_the_chooser_lists_slides_and_folders_and_names_what_is_not_there(tmp_path):
    for name in ("b.svs", "a.TIFF", "notes.txt", ".hidden.svs"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub").mkdir()
    assert chooser.slide_files(tmp_path) == (["sub"], ["a.TIFF", "b.svs"])
    chosen, message = [], Message()
    box = chooser.SlideChooser(tmp_path, on_slide=chosen.append, message=message)
    assert [card["name"] for card in box.gallery.items] == ["a.TIFF", "b.svs", "sub", "one folder up"]
    box.gallery.index = 1
    box.open_button.click()
    assert chosen == [tmp_path / "b.svs"]
    box.folder.value = str(tmp_path / "nowhere")
    assert "There is no folder" in message.value


def test_an_unreadable_slide_is_a_sentence(tmp_path, run_dir):
    page = app.page(outputs_dir=run_dir.parent)
    broken = tmp_path / "<i>broken.svs"
    broken.write_bytes(b"nothing")
    folder = page.pages["folder"]
    folder.take(broken)
    assert folder.slide_path is None
    assert "&lt;i&gt;broken" in folder.message.value and "<i>" not in folder.message.value


def test_downloads_hold_the_objects_at_the_threshold(study, run_dir):
    desk = explore.slide(study)
    measures = Measures(desk, desk.message)
    desk.magnification.index = 1
    desk.threshold.value = 0.3
    name, _, data = measures.make_geojson()
    assert name == "S1_4x_threshold-0.30_2.5um-per-px_network-unknown.geojson"
    features = json.loads(data)["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {f"predicted {HTML} 4x"}
    _, _, table = measures.make_csv()
    rows = table.decode().splitlines()
    assert len(rows) == 1 + len(features)
    assert rows[0] == (
        "slide_id,map,threshold,map_um_per_px,measured_um_per_px,checkpoint_sha256,"
        "object_id,area_um2,diameter_um,x_px0,y_px0"
    )
    assert rows[1].startswith("S1,4x,0.3,2.5,2.5,")
    found = desk.findings_of("4x")
    total = sum(float(row.split(",")[7]) for row in rows[1:])
    assert total == pytest.approx(found.mask(0.3).sum() * found.mpp**2, rel=0.05)
    desk.close()


def _point(field):
    from shapely.geometry import Point

    return Point(*field[:2])


def test_a_copy_keeps_its_holes_and_a_training_slide_says_so_in_red(desk, study, monkeypatch):
    ring = Polygon([(0, 0), (900, 0), (900, 900), (0, 900)], [[(300, 300), (600, 300), (600, 600), (300, 600)]])
    monkeypatch.setattr(desk, "_copyable", lambda: ([ring], 1.0))
    desk.hand._copy_source = desk._copyable
    desk.view.field = [450.0, 450.0, 1000.0]  # in the middle of the hole
    desk.copy.click()
    assert len(desk.view.drawn[-1]["rings"]) == 2
    assert drawings.polygon_of(desk.view.drawn[-1]).area == ring.area
    assert "Test slide" in desk.heading.value
    arms = {name: "train" for name in desk.sheet.maps}
    sheet = explore.sheet_of(study, "S2")
    desk.show(type(sheet)(**{**sheet.__dict__, "sets": arms}))
    assert "tlskit-warning" in desk.heading.value and "Training slide" in desk.heading.value


def test_what_was_said_before_a_browser_listens_is_said_again(desk, monkeypatch):
    until(lambda: desk.objects.value != "")
    sent = []
    monkeypatch.setattr(type(desk.objects), "send_state", lambda self, *_: sent.append(self))
    desk.view._on_message(desk.view, {"kind": "ready"}, [])
    assert desk.objects in sent and desk.scores in sent


def test_an_outline_is_given_a_class_and_another_windows_comes_along(desk, study):
    path = study.dir / "explore" / "geojson" / "S2.geojson"
    path.unlink(missing_ok=True)
    desk.picker.value = "S2"
    desk.view.drawn = [{"rings": [[[10, 10], [300, 10], [300, 300]]], "class": "TLS"}]
    there = drawn_files.read_drawn(path)
    drawn_files.save_drawn(path, [*there, {"rings": [[[500, 10], [700, 10], [700, 300]]], "class": "stroma"}], there)
    desk.view.selected = 0
    desk.class_name.value = "follicle"
    desk.hand.give.click()
    assert [one["class"] for one in desk.view.drawn] == ["follicle", "stroma"]
    assert "1 of them came from another window" in desk.hand.state.value
