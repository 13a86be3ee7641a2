"""The scripts for QuPath: written whole, and run in a stand-in of its oldest and newest version that they are for."""

import csv
import json
import re

import cv2
import numpy as np
import pytest
from made_qupath import NO_GROOVY, VERSIONS, Project, drawn, has_groovy, image, lay_out_map
from shapely.geometry import box

from tlskit.outlines import qupath, read_annotations, write_geojson


def code_of(text: str) -> str:
    """A script less its comments, strings and patterns; raises where one of them has no end."""
    comment, double, single = r"/\*.*?\*/|//[^\n]*", r"\"(?:\\.|[^\"\\\n])*\"", r"'(?:\\.|[^'\\\n])*'"
    pattern = r"(?<=\()/(?:\\.|[^/\\\n])+/"
    token = re.compile("|".join([comment, double, single, pattern]), re.DOTALL)
    rest = token.sub(" ", text).replace(" / ", " ")  # what is left are divisions
    assert not re.search(r"[\"'/]", rest), re.search(r".*[\"'/].*", rest)[0]
    return rest


@pytest.fixture
def scripts(tmp_path):
    return [path.read_text(encoding="utf-8") for path in qupath.write_scripts(tmp_path / "new" / "folder")]


def test_brackets_strings_and_comments_are_closed(scripts):
    for text in scripts:
        open_brackets = []
        for letter in code_of(text):
            if letter in "([{":
                open_brackets.append(letter)
            elif letter in ")]}":
                assert open_brackets.pop() + letter in ("()", "[]", "{}")
        assert not open_brackets
        assert "@" not in code_of(text)


def test_every_name_that_is_used_is_imported_declared_or_qupaths_own(scripts):
    known = {"File", "ArrayList", "Set", "String", "Math", "Double", "Map", "Locale", "IOException", "Object"}
    for text in scripts:
        code = code_of(text)
        imported = {name.split(".")[-1] for name in re.findall(r"^import ([\w.]+)$", text, re.MULTILINE)}
        used = set(re.findall(r"(?<![\w.])([A-Z]\w+)(?=[.(])", re.sub(r"^import .*$", "", code, flags=re.MULTILINE)))
        assert used - {name for name in used if name.isupper()} <= imported | known
        assert imported - {"BufferedImage"} <= used | {"GeoJsonExportOptions"}


def test_the_export_writes_the_columns_that_a_manifest_needs(scripts):
    from tlskit.cohort import manifest as cohort

    header = re.search(r'def rows = \["([^"]+)"\]', scripts[0])[1].split(",")
    assert header[:5] == list(cohort.COLUMNS) and header[5:] == ["mpp_override", "outline_origin", "reviewed"]


def test_all_scripts_name_slides_alike(scripts):
    naming = {re.search(r"def idOf = .*?\n}\n", text, re.DOTALL)[0] for text in scripts}
    assert len(naming) == 1


def test_a_class_and_a_folder_with_special_letters_stand_as_they_are_meant(tmp_path):
    arm = tmp_path / "runs $x" / "20x"
    export, imported, overlay = qupath.write_scripts(tmp_path, target_class='Cost $5 "GC" \\', arm=arm)
    assert r'such as ["Cost \$5 \"GC\" \\"]' in export.read_text()
    for path in (imported, overlay):
        text = path.read_text()
        assert "/runs \\$x/20x" in text and not re.search("@[A-Z]+@", text)
        assert code_of(text)


# Run

run_here = pytest.mark.skipif(not has_groovy(), reason=NO_GROOVY)
both = pytest.mark.parametrize("version", VERSIONS)

ABOUT = {"mpp0": 0.5, "size_px0": [1200, 960], "bounds_px0": [0, 0, 1200, 960], "outline_origin": "scan",
         "class_name": "predicted TLS 4x"}  # fmt: skip


def scripts_for(folder, arm="no"):
    export, imported, overlay = qupath.write_scripts(folder / "scripts", arm=arm)
    return {"export": export, "import": imported, "map": overlay}


def exported(project):
    with open(project.folder / "tlskit" / "manifest.csv", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def predict(folder, name, boxes, **about):
    write_geojson(folder / f"{name}.geojson", boxes, class_name="predicted TLS 4x", about=ABOUT | about,
                  measurements=[{"area_um2": 1.0}] * len(boxes))  # fmt: skip


@run_here
@both
def test_the_export_leaves_out_what_is_not_the_plain_scan_and_keeps_what_a_person_corrected(version, tmp_path):
    images = [
        image("plain", saved=True, objects=[drawn("TLS", 10), drawn("predicted TLS 4x", 300), drawn(None, 600)]),
        image("turned", kind="RotatedImageServerBuilder"),
        image("series", args=["--series", "1"]),
        image("whole", args=["--no-crop"], saved=True),
        image("scaled", mpp=0.25, own_mpp=0.5),
        image("unscaled", mpp=0.3, own_mpp=None),
        image("oblong", mpp=[0.25, 0.5], own_mpp=0.5),
        image("gone", broken=True),
        image("cut", saved=True, broken="data"),
        image("remote", uri="https://omero/1"),
        image("tlskit map x 4x"),
    ]
    project = Project(tmp_path / "p", images)
    said = project.run(scripts_for(tmp_path)["export"], version)
    rows = exported(project)
    assert list(rows) == ["plain", "whole", "scaled", "unscaled", "oblong", "gone", "remote"]
    assert "turned: LEFT OUT: it is made by RotatedImageServerBuilder" in said
    assert "series: LEFT OUT: it is one series of a file" in said and "cut: LEFT OUT" in said
    assert {name: row["mpp_override"] for name, row in rows.items()} == {
        "plain": "", "whole": "", "scaled": "0.25", "unscaled": "0.3", "oblong": "", "gone": "", "remote": "",
    }  # fmt: skip
    assert "gone: WARNING: cannot be opened" in said and "oblong: WARNING: 0.25 um/px across and 0.5 down" in said
    assert rows["whole"]["outline_origin"] == "slide" and rows["plain"]["outline_origin"] == ""
    assert rows["remote"]["slide_path"] == "" and "remote: WARNING: it is no file" in said
    assert rows["scaled"]["annotation_path"] == "" and rows["scaled"]["reviewed"] == "unseen"
    found = read_annotations(project.folder / "tlskit" / rows["plain"]["annotation_path"])
    assert found.report["classes"] == {"TLS": 1, "Unclassified": 1}
    assert "plain: 1 predicted outlines are not exported" in said


@run_here
@both
def test_the_import_saves_only_what_gets_outlines_and_says_what_was_not_found(version, tmp_path):
    results = tmp_path / "4x"
    images = [
        image("a"), image("empty"), image("broken", broken=True), image("alone"), image("turned", kind="Cropped"),
        image("other", width=800), image("drawn", saved=True, objects=[drawn("TLS", 10)]),
        image("edited", saved=True, open="changed"), image("whole", args=["--no-crop"], width=2000, height=2000),
    ]  # fmt: skip
    for name in ("a", "broken", "turned", "other", "drawn", "edited", "lost"):
        predict(results / "geojson", name, [box(10, 10, 60, 60), box(100, 10, 160, 60)])
    predict(results / "geojson", "empty", [])
    bounds = {"size_px0": [2000, 2000], "bounds_px0": [300, 200, 1200, 960]}
    predict(results / "geojson", "whole", [box(10, 10, 60, 60)], **bounds)
    lay_out_map(results / "work" / "maps" / "a.tif", [[0, 255], [0, 0]], mpp=2.0)
    project = Project(tmp_path / "p", images)
    scripts = scripts_for(tmp_path, results)
    said = project.run(scripts["import"], version)
    now = project.images
    saved = {name: entry.get("saves", 0) for name, entry in now.items()}
    assert saved == {
        "a": 1, "drawn": 1, "whole": 1, "tlskit map a 4x": 1,
        "empty": 0, "broken": 0, "alone": 0, "turned": 0, "other": 0, "edited": 0,
    }  # fmt: skip
    assert now["tlskit map a 4x"]["readBy"] == "4 levels"
    for words in (
        "a: 2 outlines", "empty: no outline; not saved", "broken: FAILED", "turned: LEFT OUT: it is made by",
        "other: LEFT OUT: the outlines are of a slide of 1200 x 960 px, the image has 800 x 960",
        "edited: LEFT OUT: it is open and not saved", "Without results: alone",
        "Results without an image of that name: lost", "1 images failed",
    ):  # fmt: skip
        assert words in said, said
    assert {o["class"] for o in now["a"]["objects"]} == {"predicted TLS 4x"}
    assert [o["ring"][0] for o in now["whole"]["objects"]] in ([[310, 210]], [[360, 210]], [[360, 260]], [[310, 260]])
    # Again: the same, whatever a person reshaped or reclassified is kept
    first, second = now["a"]["objects"]
    first["ring"] = [[x + 20, y] for x, y in first["ring"]]
    second["class"] = "TLS"
    project.change("a", objects=[first, second])
    said = project.run(scripts["import"], version)
    again = project.images["a"]["objects"]
    assert sorted(o["class"] for o in again) == ["TLS", *["predicted TLS 4x"] * 3]
    assert "1 that you had reshaped are kept" in said
    assert first["ring"] in [o["ring"] for o in again]
    assert len(project.images["drawn"]["objects"]) == 3


@run_here
def test_folders_of_predict_are_found_and_a_run_or_nothing_is_told(tmp_path):
    version = "0.3"
    predict(tmp_path / "out" / "geojson", "a", [box(10, 10, 60, 60)])
    lay_out_map(tmp_path / "out" / "maps" / "a.tif", [[0, 255], [0, 0]], mpp=2.0)
    predict(tmp_path / "run" / "4x" / "geojson", "a", [])
    project = Project(tmp_path / "p", [image("a")])
    said = project.run(scripts_for(tmp_path / "1", tmp_path / "out")["import"], version)
    assert "1 files of outlines in" in said and "1 maps in" in said and "a: 1 outlines" in said
    said = project.run(scripts_for(tmp_path / "2", tmp_path / "run")["import"], version)
    assert "It is a run with the arms 4x: name one of them" in said
    assert "There is no folder" in project.run(scripts_for(tmp_path / "3", tmp_path / "none")["import"], version)


@run_here
@pytest.mark.parametrize(("version", "whole"), [("0.3", False), ("0.7", True)])
def test_the_map_lies_where_it_belongs_on_the_scanned_part(version, whole, tmp_path):
    """A slide of 1600 x 1200 px scanned from (400, 200) on for 800 x 600; its map has 8 px of the slide in one."""
    values = np.zeros((150, 200), int)
    values[60:70, 90:110] = 255
    values[0:25] = 200  # outside what was scanned
    values[100, 60] = 10  # under 5 %
    lay_out_map(tmp_path / "4x" / "work" / "maps" / "a.tif", values.tolist(), mpp=4.0)
    predict(tmp_path / "4x" / "geojson", "a", [], size_px0=[1600, 1200], bounds_px0=[400, 200, 800, 600])
    size = (1600, 1200) if whole else (800, 600)
    project = Project(
        tmp_path / "p", [image("a", open=True, width=size[0], height=size[1], args=["--no-crop"] * whole)]
    )
    said = project.run(scripts_for(tmp_path, tmp_path / "4x")["map"], version)
    assert "map of 4x (4 levels" in said
    placed = json.loads((project.folder / "overlay.json").read_text())
    picture = cv2.imread(str(project.folder / "overlay.png"), cv2.IMREAD_UNCHANGED)
    left, top = (0, 0) if whole else (400, 200)
    assert placed == {"x": 0, "y": 0, "width": size[0], "height": size[1], "layers": 1}
    on_image = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
    rows, columns = np.nonzero(on_image[..., 3] * (np.arange(size[1])[:, None] >= 200 * whole))
    assert (columns.min(), rows.min()) == (90 * 8 - left, 60 * 8 - top)
    assert (columns.max() + 1, rows.max() + 1) == (110 * 8 - left, 70 * 8 - top)
    assert on_image[65 * 8 - top, 100 * 8 - left].tolist() == [164, 255, 252, 128]
    assert bool(on_image[: 200 * whole, :, 3].any()) is whole


@run_here
def test_a_map_of_another_slide_or_of_a_turned_image_is_not_shown(tmp_path):
    lay_out_map(tmp_path / "4x" / "maps" / "a.tif", [[255] * 40] * 30, mpp=4.0)
    predict(tmp_path / "4x" / "geojson", "a", [], size_px0=[1600, 1200], bounds_px0=[0, 0, 1600, 1200])
    script = scripts_for(tmp_path, tmp_path / "4x")["map"]
    for changes, said in (
        ({}, "is not of this image"), ({"kind": "Rotated"}, "the map would be shifted"),
        ({"name": "b.tif"}, "no map b"), ({"open": False}, "Open an image of a project first"),
    ):  # fmt: skip
        project = Project(tmp_path / "p", [image("a", open=True, width=1600, height=1200) | changes])
        assert said in project.run(script, "0.7")
        assert not (project.folder / "overlay.json").exists()
