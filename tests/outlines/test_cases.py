"""Kinds of files that were once read wrongly without a word, each beside what it must give."""

import gzip
import io
import json
import zipfile

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from made_slides import DATA, NO_DATA
from shapely.geometry import box, mapping

from tlskit.errors import AnnotationError, ParameterError
from tlskit.outlines import class_names, findings
from tlskit.outlines import reading as annotations
from tlskit.outlines.contents import not_outlines
from tlskit.outlines.targets import gathered

CASES = DATA / "cases" / "outlines"
MPP0, SIZE_PX0 = 0.499, (3605, 3257)

#: Number of targets and mm2 (of the union) of each file that must be read; what an error must say of the others.
RIGHT = {
    "c01_children_partly.geojson": (2, 0.260),
    "c01c_children_all.geojson": (2, 0.260),
    "c02_parentclass_excluded.geojson": (1, 0.157),
    "c02b_parentclass_mature.geojson": r"'TLS: mature' \(2\)",
    "c03a_two_collections.json": (2, 0.260),
    "c03b_geometries.json": r"'Unclassified' \(2\)",
    "c03c_labelme_list.json": "no GeoJSON: it holds an object of labelme with the keys label, points, shape_type",
    "c03f_collection_of_geometries.json": r"'Unclassified' \(2\)",
    "c04_partly_derived.geojson": (1, 0.157),
    "c05_partly_named.geojson": (1, 0.157),
    "c06b_halo_othername.annotations": r"\(HALO XML\).*'Layer 1' \(3\)",
    "c07_um.geojson": (2, 0.0647),
    "c08_near_duplicate.geojson": (2, 0.261),
    "c09_wand.geojson": (2, 0.260),
    "c10_latin1.geojson": "is not UTF-8: the byte 0xDF",
    "c11_ndjson.geojson": r"holds one JSON per line \(2 lines\)",
    "c14_rot180.geojson": (2, 0.260),
    "c16_nfd.geojson": (1, 0.157),
    "c22_ignore_star.geojson": (2, 0.260),
    "c27_yflip.geojson": (0, 0.0),
    "c33_outside.geojson": (1, 0.103),
    "c35_lfs_pointer.geojson": "a pointer of Git LFS",
    "c36_objecttype_words.geojson": (3, 0.282),
    "c38_polyline_othername.geojson": "LineString: Tls, which has no area",
}

#: What must be told beside, by a sentence of `findings.also_holds` or `targets.gathered`.
TOLD = {
    "c01_children_partly.geojson": "'Tumor' (1): background",
    "c02_parentclass_excluded.geojson": "'Excluded: TLS' (1)",
    "c04_partly_derived.geojson": "'TLS: mature' (1), derived from 'TLS'",
    "c05_partly_named.geojson": "1 object without a class is named 'TLS'",
    "c08_near_duplicate.geojson": "1 pair of outlines overlap (IoU up to 0.99): 3 outlines are 2 objects",
    "c09_wand.geojson": "6 specks of 1 um2",
    "c16_nfd.geojson": "the same name but for its spelling",
    "c22_ignore_star.geojson": "'Ignore*: Fold' (1), derived from 'Ignore*'",
    "c27_yflip.geojson": "2 outlines of the target lie wholly off the slide",
    "c33_outside.geojson": "1 outline of the target lies wholly off the slide",
}


@pytest.mark.skipif(not CASES.is_dir(), reason=NO_DATA)
@pytest.mark.parametrize("name", RIGHT)
def test_a_file_that_was_once_read_wrongly(name):
    assert {path.name for path in CASES.iterdir()} >= set(RIGHT)
    target = "Follikel ä" if name.startswith("c16") else "TLS"
    found = annotations.read_annotations(CASES / name) if not isinstance(RIGHT[name], str) else None
    if found is None:
        with pytest.raises(AnnotationError, match=RIGHT[name]):
            annotations.read_targets(CASES / name, target)
        return
    polygons, told = gathered(annotations.outlines_of(found, target), mpp0=MPP0, limit=(0, 0, *SIZE_PX0))
    area_mm2 = float(shapely.union_all(polygons).area) * (MPP0 / 1000) ** 2
    assert (len(polygons), round(area_mm2, 3)) == (RIGHT[name][0], round(RIGHT[name][1], 3))
    said = " ".join(entry.what for entry in (*told, *findings.also_holds(found, target, "Ignore*")))
    assert TOLD.get(name, "") in said


# Nestings


SHAPES = [box(10 * i, 0, 10 * i + 5, 5) for i in range(6)]


@st.composite
def nested(draw, depth=3):
    """GeoJSON of some nesting, and the names (None: no class) of the annotations in it, in order."""
    kinds = ["feature", "geometry", "collection", "array"] if depth else ["feature", "geometry"]
    kind = draw(st.sampled_from(kinds))
    if kind == "geometry":
        parts = draw(st.integers(1, 2))
        shapes = [mapping(draw(st.sampled_from(SHAPES))) for _ in range(parts)]
        return ({"type": "GeometryCollection", "geometries": shapes} if parts > 1 else shapes[0]), [None]
    if kind in ("collection", "array"):
        items = draw(st.lists(nested(depth=depth - 1), max_size=3))
        held = [item for item, _ in items]
        content = held if kind == "array" else {"type": "FeatureCollection", "features": held}
        return content, [name for _, names in items for name in names]
    names = draw(st.lists(st.sampled_from(["TLS", "Tumor", "mature", "Ignore*", "a b"]), max_size=3))
    properties = {}
    word = draw(st.sampled_from(["annotation", "unknown", "PathAnnotationObject", "whatever", None]))
    if word:
        properties[draw(st.sampled_from(["objectType", "object_type"]))] = word
    if names:
        properties["classification"] = draw(st.sampled_from([parent_form(names), names_form(names), ": ".join(names),
                                                             json.dumps(names_form(names))]))  # fmt: skip
    inside = draw(st.lists(nested(depth=depth - 1), max_size=2)) if depth else []
    if inside:
        properties[draw(st.sampled_from(["childObjects", "children"]))] = [
            item for item, _ in inside if item != []
        ] or None
    geometry = mapping(draw(st.sampled_from(SHAPES)))
    own = [": ".join(names) or None]
    return {"type": "Feature", "geometry": geometry, "properties": properties}, [
        *own, *(name for item, names in inside for name in names if isinstance(item, dict)),
    ]  # fmt: skip


def parent_form(names):
    """As QuPath 0.2 and 0.3 wrote a class: with the class that it is derived from."""
    value = None
    for name in names:
        value = {**({"parentClass": value} if value else {}), "name": name, "colorRGB": -3670016}
    return value


def names_form(names):
    return {"name": names[0], "color": [1, 2, 3]} if len(names) == 1 else {"names": names, "color": [1, 2, 3]}


def holds_arrays_in_children(value):
    """QuPath takes only objects for children, and we refuse anything else."""
    if isinstance(value, list):
        return any(map(holds_arrays_in_children, value))
    if not isinstance(value, dict):
        return False
    children = (value.get("properties") or {}).get("childObjects") or (value.get("properties") or {}).get("children")
    if children and any(isinstance(child, list) for child in children):
        return True
    return any(map(holds_arrays_in_children, [*(children or ()), *value.get("features", ())]))


@settings(max_examples=120, deadline=None)
@given(nested())
def test_every_object_of_any_nesting_is_found_once_with_the_name_that_qupath_shows(made):
    content, names = made
    data = json.dumps(content).encode()
    if holds_arrays_in_children(content):
        with pytest.raises(AnnotationError, match="that are no objects"):
            annotations.parse_geojson(data, object_types=("annotation",))
        return
    found = annotations.parse_geojson(data, object_types=("annotation",))
    assert [outline.class_name for outline in found.outlines] == names
    assert found.report["objects"] == len(names)
    wanted = "TLS"
    if names and wanted not in names:
        with pytest.raises(AnnotationError, match="holds no annotation of the class 'TLS'"):
            annotations.targets_of(found, wanted)
    else:
        assert len(annotations.outlines_of(found, wanted)) == names.count(wanted)


# What is no GeoJSON says what it is


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return file.getvalue()


FEATURE = json.dumps({"type": "Feature", "geometry": mapping(SHAPES[0]), "properties": {}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n", "is an image"),
        (b"II*\0abc", "is an image"),
        (b"\xac\xed\x00\x05w", "is a QuPath data file"),
        (b"PAR1xxxx", "is a table"),
        (b"id,x,y\n1,2,3\n4,5,6\n", r"is a table \(3 columns\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Please login</body></html>", "HTML, by its text one to log in"),
        (b"<html><title>404</title></html>", "a page of HTML"),
        (f"{FEATURE}\n{FEATURE}\n".encode(), r"one JSON per line \(2 lines\)"),
        ('{"type": "FeatureCollection", "n": "Größe"}'.encode("cp1252"), "is not UTF-8: the byte 0xF6"),
        (b"hello world", "is no JSON: it begins with 'hello world'"),
        (zipped("a.txt", "b.png"), "a zip without a file of outlines .*a.txt, b.png"),
        (zipped(), "a zip without a file of outlines .*it is empty"),
        (zipped("a.geojson", "b.xml"), "a zip with 2 files of outlines where one should be: a.geojson, b.xml"),
        (zipped("xl/workbook.xml", "xl/a.bin"), "Excel workbook"),
        (b'{"shapes": [], "imagePath": "a.png", "version": "5"}', "labelme with the keys shapes, imagePath"),
        (b'{"images": [], "annotations": [], "categories": []}', "of COCO with the keys images"),
        (b'[{"bbox": [1, 2, 3, 4], "segmentation": [[1, 2]]}]', "of COCO"),
        (b'{"name": "x", "elements": []}', "of the Digital Slide Archive"),
        (b'{"type": "FeatureCollection"}', "with the keys type and the type 'FeatureCollection'"),
        (b'[{"type": "Feature", "properties": {}}]', "with the keys type, properties and the type 'Feature'"),
        (b"null", "it holds null"),
        (b'{"type": "Feature", "geometry": null, "properties": {"classification": ["TLS"]}}', "that is no name"),
        (b'{"type": "Feature", "geometry": null, "properties": {"classification": {"label": 1}}}', "the keys label"),
        (b'{"type": "Feature", "geometry": null, "properties": {"children": ["a"]}}', "`children` that are no objects"),
    ],
)
def test_what_is_no_file_of_outlines_says_what_it_is(content, said, tmp_path):
    path = tmp_path / "slide.geojson"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=said) as error:
        annotations.read_annotations(path)
    assert str(error.value).startswith(str(path))


POINTS = '<Vertex X="0" Y="0"/><Vertex X="9" Y="0"/><Vertex X="9" Y="9"/>'
REGION = f'<Region Type="0"><Vertices>{POINTS}</Vertices></Region>'
AREA = {"type": "Feature", "geometry": mapping(SHAPES[0]), "properties": {"classification": {"name": "TLS"}}}
TUMOUR = {"type": "Feature", "geometry": mapping(SHAPES[1]), "properties": {"classification": {"name": "Tumor"}}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'<Annotations><Annotation Name="TLS">{REGION}</Annotation></Annotations>', "holds 1 area, but none where Im"),
        (f"<ASAP_Annotations><annotations><Annotation><Coordinates>{POINTS}</Coordinates></Annotation></annotations>"
         "</ASAP_Annotations>", "holds 1 area, but none where ASAP"),
        ({"type": "FeatureCollection", "features": [], "annotations": [AREA]}, "holds 1 area, but none where QuPath"),
        (f'{{"type": "FeatureCollection", "features": [{FEATURE}], "features": []}}', "holds `features` twice"),
    ],
)  # fmt: skip
def test_outlines_where_nobody_looks_for_them_are_no_slide_without_target(content, said, tmp_path):
    path = tmp_path / "slide.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AnnotationError, match=said):
        annotations.read_targets(path, "TLS", missing="empty")


def test_an_area_beside_the_outlines_and_a_target_without_area_are_told(tmp_path):
    empty = {**AREA, "geometry": None}
    found = annotations.parse_geojson(
        json.dumps([{**TUMOUR, "children": [AREA]}, empty]).encode(), object_types=["annotation"]
    )
    said = [entry for entry in findings.also_holds(found, "TLS") if entry.severity == "warning"]
    assert [entry.what for entry in said] == [
        "Of the target's class, but empty or collapsed to a line: 1 object.",
        "1 area in the file, but not where its outlines stand: not used.",
    ]
    nucleus = {**AREA, "nucleusGeometry": mapping(SHAPES[0])}
    found = annotations.parse_geojson(json.dumps([nucleus]).encode(), object_types=["annotation"])
    assert not findings.also_holds(found, "TLS")


def test_an_address_is_no_path():
    for path in ("file:///data/a.geojson", "file:///C:/a.geojson"):
        with pytest.raises(AnnotationError, match="is an address and no path"):
            annotations.read_annotations(path)


def test_plain_outlines_are_no_other_kind_of_file():
    for content in (FEATURE.encode(), gzip.compress(FEATURE.encode()), b"<Annotations/>", b"[]"):
        not_outlines(content)


# Rings that cross themselves


def test_as_many_targets_as_were_drawn_whatever_a_repair_splits_off(tmp_path):
    """Overshot ends, a loop inside, an eight, a spur: one drawn outline is one target, and slivers are told."""
    drawn = [
        [(0, 0), (1000, 0), (1000, 1000), (-6, 1000), (-6, 990), (6, 1004), (0, 990)],  # ends that overshoot
        [(2000, 0), (3000, 0), (3000, 500), (3010, 490), (2990, 480), (3000, 1000), (2000, 1000)],  # a small loop
        [(4000, 0), (4600, 600), (4600, 0), (4000, 600)],  # a figure of eight
        [(6000, 0), (7000, 0), (7000, 1000), (6500, 1000), (6500, 1400), (6500, 1000), (6000, 1000)],  # a spur
    ]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
         "properties": {"classification": {"name": "TLS"}}} for ring in drawn
    ]  # fmt: skip
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(features))
    targets = annotations.read_targets(path, "TLS")
    assert len(targets) == len(drawn) and all(polygon.is_valid for polygon in targets)
    report = annotations.read_annotations(path).report
    assert len(report["repaired"]) == 4 and sum(repair["slivers"] for repair in report["repaired"]) >= 1
    assert "sliver" in " ".join(annotations.describe(annotations.read_annotations(path)))
    areas = [polygon.area for polygon in targets]
    assert areas == pytest.approx([1e6, 1e6, 1.8e5, 1e6], rel=0.01)


# Names


@pytest.mark.parametrize("name", ["a::b", "TLS: ", ":TLS", "a\nb", "", "  ", "TLS:\r"])
def test_a_name_for_which_qupath_would_refuse_the_file_is_never_written(name, tmp_path):
    with pytest.raises(ParameterError, match="QuPath would refuse the whole file"):
        annotations.write_geojson(tmp_path / "a.geojson", [box(0, 0, 3, 3)], class_name=name)
    assert not list(tmp_path.iterdir())


def test_predictions_have_one_name_that_is_never_the_target_s():
    assert class_names.prediction_class("TLS", 4) == "predicted TLS 4x"
    assert class_names.prediction_class(["TLS", "GC: light"], "10x_seed1") == "predicted TLS or GC light 10x_seed1"
    for target in ("TLS", ["TLS", "GC"], "TLS: mature", ""):
        name = class_names.prediction_class(target, 20)
        assert class_names.is_prediction(name) and class_names.check_class_name(name) == name
        assert not class_names.says_the_target(name, target or "TLS")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("TLS: mature", "derived"), ("tls", "spelling"), ("T-L-S", "spelling"), ("TLS (GC+)", "named"),
     ("immature TLS", "named"), ("Tumour", ""), ("TLSX", ""), ("predicted TLS 4x", ""), ("TLS", "")],
)  # fmt: skip
def test_how_a_class_resembles_the_target(name, kind):
    assert class_names.says_the_target(name, "TLS") == kind


def test_names_are_shown_as_qupath_shows_them():
    assert [class_names.tidy(n) for n in ("TLS ", "TLS:mature", " a : b ", "a::b")] == [
        "TLS", "TLS: mature", "a: b", "a::b",
    ]  # fmt: skip
