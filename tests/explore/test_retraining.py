"""Train again with what was corrected: only what a person touched is truth, nobody who was tested is learnt from."""

import pytest
from made_run import make_run
from shapely.geometry import box

from tlskit.cohort import read_manifest
from tlskit.explore import drawings, drawn_files, retraining
from tlskit.explore.study_page import StudyPage
from tlskit.explore.widgets import Message
from tlskit.outlines import read_annotations
from tlskit.slides import content_id
from tlskit.study import params
from tlskit.synthetic import cohort as synthetic


@pytest.fixture
def project(tmp_path, monkeypatch):
    make_run(tmp_path, n_slides=3, size_mm=(1.9, 1.5), magnifications=(1,))
    (tmp_path / "notebooks" / "01_tiling.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(polygon, name="TLS"):
    return drawings.as_outline(polygon, name)


def test_a_drawn_outline_stands_in_the_place_of_the_old_one_of_the_same_object():
    old = [(box(0, 0, 10, 10), "TLS"), (box(100, 0, 110, 10), "TLS"), (box(-500, -500, 500, 500), "tumour")]
    smaller, other = (box(0, 0, 7, 7), "TLS"), (box(200, 0, 210, 10), "TLS")
    found, replaced = retraining.corrected(old, [smaller, other, (box(0, 0, 9, 9), "predicted TLS 1x")])
    # The region around it is another object; a prediction that nobody took over is no truth.
    assert replaced == 1 and [round(polygon.area) for polygon, _ in found] == [100, 1_000_000, 49, 100]
    # One is said to be none, and goes; the tumour around it stays, and so does what is no follicle but a TLS.
    follicle = [(box(300, 0, 310, 10), "follicle"), (box(100, 0, 102, 2), "no follicle")]
    denied, gone = retraining.corrected(old, [(box(1, 1, 10, 10), "no TLS"), *follicle])
    assert gone == 1 and [(name, round(polygon.area)) for polygon, name in denied] == [
        ("TLS", 100), ("tumour", 10**6), ("follicle", 100),
    ]  # fmt: skip
    # A class that merely begins so is one like any other: of this slide, of others of the run, or of nobody before.
    torn, more = (box(300, 0, 310, 10), "no data"), (box(400, 0, 410, 10), "no data")
    assert [name for _, name in retraining.corrected([*old, torn], [more])[0]] == [
        "TLS", "TLS", "tumour", "no data", "no data",
    ]  # fmt: skip
    for classes, stays in (((), True), (("no data",), True), (("data", "no data"), True), (("data",), False)):
        assert ("no data" in [name for _, name in retraining.corrected(old, [more], classes)[0]]) == stays
    renamed, replaced = retraining.corrected(old, [(box(0, 0, 10, 10), "follicle")])
    assert replaced == 1 and [name for _, name in renamed] == ["TLS", "tumour", "follicle"]


def test_a_new_study_of_a_run_and_what_was_corrected_in_it(project):
    run_dir = project / "outputs" / "made"
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    geojson = run_dir / "explore" / "geojson"
    drawn_files.save_drawn(geojson / "S1.geojson", [drawn(box(10, 10, 300, 300))], [])
    drawn_files.save_drawn(geojson / "S2.geojson", [drawn(box(10, 10, 300, 300), "predicted TLS 1x")], [])
    # A slide that is not of the run, outlined on the folder page.
    slides = project / "outputs" / "cohorts" / "made" / "slides"
    new = project / "elsewhere" / "S4.tiff"
    new.parent.mkdir()
    synthetic.make_oracle_slide(new, size_mm=(1.7, 1.5), n_tls=2, seed=9)
    path = project / "outputs" / "segmented" / "drawn" / f"S4-{content_id(new)}.geojson"
    about = {"slide": new.relative_to(project).as_posix()}
    drawn_files.save_drawn(path, [drawn(box(10, 10, 300, 300))], [], about=about)

    page = StudyPage("outputs", slides, Message())
    page.correct("made")
    form = page.form
    assert "2 outline(s) by hand on 2 slide(s)" in form.corrections.said.value, page.message.value
    form.name.value = "again"
    form.magnifications[20].value = form.magnifications[10].value = form.magnifications[4].value = False
    form.write.click()
    manifest = read_manifest(project / "outputs" / "cohorts" / "again" / "manifest.csv").set_index("slide_id")
    assert list(manifest.index) == ["S1", "S2", "S3", "S4"], page.message.value
    # Everybody stays in his set; who is new is learnt from.
    assert list(manifest["split"]) == ["test", "val", "train", "train"]
    assert manifest.loc["S2", "annotation_path"] == str(slides / "S2.geojson")
    first = read_annotations(slides / "S1.geojson").outlines
    again = read_annotations(manifest.loc["S1", "annotation_path"]).outlines
    assert len(again) == len(first) + 1 and {one.class_name for one in again} == {"TLS"}
    assert [one.geometry.area for one in read_annotations(manifest.loc["S4", "annotation_path"]).outlines] == [290**2]
    preset = params.read_preset(project / "params" / "again.yaml")
    assert preset["run_name"] == "again" and preset["sweep"] == {"magnification": [1]}
    assert {path: path.read_bytes() for path in before} == before


def test_a_class_that_only_other_slides_of_the_run_have_is_no_denial(project):
    slides = project / "outputs" / "cohorts" / "made" / "slides"
    there = drawn_files.read_drawn(slides / "S3.geojson")
    more = [drawn(box(900, 900, 990, 990), name) for name in ("data", "no data")]
    drawn_files.save_drawn(slides / "S3.geojson", [*there, *more], there)
    path = project / "outputs" / "made" / "explore" / "geojson" / "S1.geojson"
    drawn_files.save_drawn(path, [drawn(box(10, 10, 300, 300), "no data")], [])
    corrections = retraining.Corrections("outputs", Message())
    corrections.rows()
    rows = {row["slide_id"]: row for row in corrections.write("again")}
    again = read_annotations(rows["S1"]["annotation_path"]).outlines
    assert [one.geometry.area for one in again if one.class_name == "no data"] == [290**2]


def test_nothing_corrected_is_said_and_no_study(project):
    page = StudyPage("outputs", project, Message())
    page.correct("made")
    assert "Nothing was drawn by hand" in page.form.corrections.said.value
    page.form.write.click()
    assert "nothing new to learn from" in page.message.value and not (project / "params" / "my-study.yaml").exists()
