"""Outlines in (QuPath, ASAP, ImageScope) and out, classes, repairs, and where outlines lie."""

import gzip
import json
import os
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.geometry import MultiPolygon, Polygon, box, shape

from tlskit.errors import AnnotationError
from tlskit.outlines import reading as annotations

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NEEDS_DATA = pytest.mark.skipif(not DATA.is_dir(), reason="needs the real exports of shared/data beside the repository")

SQUARE = [[[10, 10], [40, 10], [40, 40], [10, 40], [10, 10]]]
HOLED = [*SQUARE, [[20, 20], [20, 30], [30, 30], [30, 20], [20, 20]]]


def feature(coordinates=SQUARE, *, kind="Polygon", geometry=None, **properties):
    geometry = geometry or {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": properties}


def tls(**properties):
    return {"objectType": "annotation", "classification": {"name": "TLS", "color": [200, 0, 0]}, **properties}


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def save(tmp_path):
    def save(content, name="slide.geojson"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text(json.dumps(content))
        return path

    return save


# Forms of GeoJSON


@pytest.mark.parametrize(
    "content",
    [
        collection(feature(**tls())),
        [feature(**tls())],
        feature(**tls()),
        # 0.2: the type stands in the id, colours are signed 32-bit numbers, measurements a list
        [{**feature(classification={"name": "TLS", "colorRGB": -3670016}, isLocked=False, measurements=[]),
          "id": "PathAnnotationObject"}],
        # 0.3
        collection(feature(object_type="annotation", classification={"name": "TLS", "colorRGB": -3670016})),
        # other tools
        collection(feature(classification="TLS")),
        collection(feature(classification="{'name': 'TLS', 'color': [200, 0, 0]}")),
        collection(feature(classification='{"name": "TLS", "color": [200, 0, 0]}')),
        collection(feature(classification={"names": ["TLS"], "color": [200, 0, 0]})),
        collection(feature([SQUARE], kind="MultiPolygon", **tls())),
        collection(feature([[[*p, 0.0] for p in SQUARE[0]]], **tls())),
        collection(feature([SQUARE[0][:-1]], **tls())),
        collection(feature(geometry={"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": SQUARE}]}, **tls())),
    ],
)  # fmt: skip
def test_every_form_of_an_outline_gives_the_same_polygon(content, save):
    (polygon,) = annotations.read_targets(save(content), "TLS")
    assert polygon.equals(box(10, 10, 40, 40))
    (outline,) = annotations.read_annotations(save(content)).outlines
    assert outline.object_type == "annotation"
    assert outline.color in ((200, 0, 0), None)


def test_a_naked_geometry_is_an_unclassified_annotation(save):
    path = save({"type": "Polygon", "coordinates": HOLED})
    (polygon,) = annotations.read_targets(path, annotations.UNCLASSIFIED)
    assert polygon.area == 800


def test_packed_files_and_byte_order_marks_are_read(save, tmp_path):
    text = json.dumps(collection(feature(**tls())))
    paths = [
        save(gzip.compress(text.encode(), mtime=0), "a.geojson.gz"),
        save(b"\xef\xbb\xbf" + text.encode(), "b.json"),
        save(text.encode("utf-16"), "c.json"),
        tmp_path / "d.zip",
    ]
    with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("slide.geojson", text)
        archive.writestr("__MACOSX/._slide.geojson", "junk")
    for path in paths:
        assert len(annotations.read_targets(path, "TLS")) == 1


def test_holes_and_parts_are_kept(save):
    parts = [HOLED, [[[100, 100], [110, 100], [110, 110], [100, 100]]]]
    path = save(collection(feature(parts, kind="MultiPolygon", **tls())))
    polygons = annotations.read_targets(path, "TLS")
    assert [p.area for p in polygons] == [800, 50]
    assert len(polygons[0].interiors) == 1
    assert len(annotations.read_annotations(path).outlines) == 1


def test_a_derived_class_has_the_name_that_qupath_shows(save):
    content = collection(feature(objectType="annotation", classification={"names": ["TLS", "Germinal centre"]}))
    assert len(annotations.read_targets(save(content), "TLS: Germinal centre")) == 1


def test_measurements_of_old_and_new_files_are_numbers(save):
    new = feature(**tls(measurements={"area": 3, "p": "NaN", "q": "Infinity", "text": "x"}))
    old = feature(**tls(measurements=[{"name": "area", "value": 3}]))
    first, second = annotations.read_annotations(save([new, old])).outlines
    assert first.measurements["area"] == 3 and np.isnan(first.measurements["p"]) and "text" not in first.measurements
    assert second.measurements == {"area": 3.0}


# What is no outline


def test_what_is_not_used_is_counted_and_never_silent(save):
    path = save(
        collection(
            feature(**tls()),
            feature(**tls(isEllipse=True)),
            feature(geometry={"type": "Polygon", "coordinates": SQUARE, "plane": {"c": -1, "z": 2, "t": 0}}, **tls()),
            feature(objectType="cell", classification={"name": "Tumor"}),
            feature(objectType="cell", classification={"name": "Tumor"}),
            feature(objectType="detection"),
            {**feature(), "id": "PathRootObject"},
            feature([[0, 0], [5, 5]], kind="LineString", **tls()),
            feature([1, 2], kind="Point"),
            feature([[[5, 5], [6, 6], [5, 5]]], **tls()),
            {**feature(**tls()), "geometry": None},
        )
    )
    found = annotations.read_annotations(path)
    report = found.report
    assert report["objects"] == 10 and report["areas"] == 3 and report["classes"] == {"TLS": 3}
    assert report["ellipses"] == 1 and report["off_plane"] == 1 and report["without_area"] == 2
    assert report["skipped"] == {"cell: Tumor": 2, "detection": 1}
    assert report["not_areas"] == {"LineString: TLS": 1, "Point": 1}
    said = " ".join(annotations.describe(found))
    for word in ("2 cell: Tumor", "1 LineString: TLS", "2 objects are empty", "another z or t plane"):
        assert word in said


def test_detections_are_read_when_asked_for(save):
    path = save(collection(feature(objectType="detection", classification={"name": "TLS"})))
    with pytest.raises(AnnotationError, match="1 of the type detection: make them annotations"):
        annotations.read_targets(path, "TLS")
    assert len(annotations.read_targets(path, "TLS", object_types=("detection",))) == 1


# Classes


def test_several_classes_and_the_area_to_ignore_are_told_apart(save):
    path = save(
        collection(
            feature(**tls()),
            feature(classification={"name": "GC"}),
            feature(classification={"name": "Ignore*"}),
            feature(),
        )
    )
    assert len(annotations.read_targets(path, ["TLS", "GC"])) == 2
    assert len(annotations.read_targets(path, "Unclassified")) == 1
    found = annotations.read_annotations(path)
    rest, ignored = annotations.without_ignored(found, "Ignore*")
    assert len(ignored) == 1 and len(rest.outlines) == 3
    for name in ("Fold", "", None, []):
        rest, ignored = annotations.without_ignored(found, name)
        assert ignored == [] and rest.outlines == found.outlines


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([feature(classification={"name": "tls"}), feature()], r"'tls' \(1\), 'Unclassified' \(1\).*Is it 'tls'\?"),
        ([feature(classification={"name": "Tumour"})], r"'Tumour' \(1\).*Set `target_class` to one of these"),
        ([feature(name="TLS")], "the name of objects without a class"),
        ([feature([[0, 0], [9, 9]], kind="LineString", **tls())], "LineString: TLS, which has no area"),
        ([feature(objectType="cell", classification={"name": "T"})], "only 1 cell: T"),
    ],
)
def test_a_class_that_is_not_there_is_an_error_that_names_what_is(features, said, save):
    path = save(collection(*features))
    with pytest.raises(AnnotationError, match=said) as error:
        annotations.read_targets(path, "TLS")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [collection(), [], {"type": "FeatureCollection", "features": [], "crs": {}}])
def test_only_a_file_without_any_object_is_a_slide_without_targets(content, save):
    assert annotations.read_targets(save(content), "TLS") == []


@pytest.mark.parametrize(
    "features",
    [
        [feature([1, 2], kind="Point")],
        [{**feature(), "geometry": None}],
        [feature([[[5, 5], [6, 6], [5, 5]]])],
        [feature(objectType="cell", classification={"name": "T"})],
        [feature(classification={"name": "Tumour"})],
        [feature(classification={"names": ["TLS", "mature"]})],
    ],
)
def test_objects_that_are_no_target_are_a_slide_without_targets_only_where_that_was_said(features, save):
    path = save(collection(*features))
    with pytest.raises(AnnotationError, match=r"holds no annotation of the class 'TLS'"):
        annotations.read_targets(path, "TLS")
    assert annotations.read_targets(path, "TLS", missing="empty") == []


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([feature(classification={"name": "tls"})], "Is it 'tls'"),
        ([feature(name="TLS")], "objects without a class"),
        ([feature([[0, 0], [9, 9]], kind="LineString", **tls())], "which has no area"),
        ([feature(objectType="detection", classification={"name": "TLS"})], "1 of the type detection"),
        ([feature(classification={"name": "predicted TLS 4x"})], "predictions that nobody has looked through"),
    ],
)
def test_a_target_in_another_form_is_an_error_even_where_slides_may_be_without(features, said, save):
    with pytest.raises(AnnotationError, match=said):
        annotations.read_targets(save(collection(*features)), "TLS", missing="empty")


def test_a_slide_without_a_file_is_not_a_slide_without_targets():
    with pytest.raises(AnnotationError, match="annotation_path"):
        annotations.read_targets("", "TLS", missing="empty")


# Files that cannot be read


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"type": "FeatureCollection", "features": [', "is no JSON .*cut off"),
        (b"\x00\x01\x02", "is no JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"slides": 3, "name": "x"}', r"no GeoJSON: it holds an object with the keys slides, name"),
        (b"3", "no GeoJSON"),
        (b'["x"]', "it holds a str where an object should be"),
        ([feature(kind="Circle")], "object 1, a geometry of the type 'Circle'"),
        ([feature(), feature("x")], "object 2, a Polygon without coordinates"),
        ([feature([[["a", 1], [2, 3], [4, 5]]])], "no list of number pairs"),
        ([feature([[[1], [2], [3]]])], "shape"),
        ([feature([[[1, 2], [3, float("nan")], [4, 5]]])], "not a finite number"),
        ([feature([[[1, 2], [3, 1e300], [4, 5]]])], "no pixel of any slide"),
        ([feature([[[1, 2], [3, 10**400], [4, 5]]])], "no JSON|number"),
        (gzip.compress(b"{}" * 999, mtime=0)[:-9], "cannot be unpacked"),
        (b"PK\x03\x04 broken", "cannot be unpacked"),
        (b"<svg></svg>", "neither ASAP"),
        (b"<ASAP_Annotations><Annotations>", "is no XML"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>', "document type"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_file_reason_and_remedy(content, said, save):
    path = save(content)
    with pytest.raises(AnnotationError, match=said) as error:
        annotations.read_annotations(path)
    assert str(error.value).startswith(str(path)) and str(error.value).endswith(".")


def test_a_missing_file_and_a_folder_are_errors_that_say_so(tmp_path):
    with pytest.raises(AnnotationError, match="does not exist. Correct `annotation_path`"):
        annotations.read_targets(tmp_path / "no.geojson", "TLS")
    with pytest.raises(AnnotationError, match="cannot be read"):
        annotations.read_targets(tmp_path, "TLS")


def test_a_zip_with_two_files_is_not_guessed_at(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.geojson", "b.geojson"):
            archive.writestr(name, json.dumps(collection()))
    with pytest.raises(AnnotationError, match="2 files of outlines"):
        annotations.read_annotations(path)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(save, monkeypatch):
    monkeypatch.setattr(annotations, "MAX_BYTES", 2**20)
    with pytest.raises(AnnotationError, match="holds more than 1 MB"):
        annotations.read_annotations(save(gzip.compress(b" " * 2**24, mtime=0), "bomb.gz"))


# Repairs


def test_a_bow_tie_is_repaired_and_the_change_of_area_reported(save):
    path = save(collection(feature([[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]], **tls())))
    found = annotations.read_annotations(path)
    assert found.outlines[0].geometry.is_valid and found.outlines[0].geometry.area == pytest.approx(50, rel=1e-3)
    (repair,) = found.report["repaired"]
    assert repair["reason"] == "self-intersection" and repair["class_name"] == "TLS" and repair["number"] == 1
    assert repair["area_before_px0"] == 0 and repair["area_after_px0"] == pytest.approx(50, rel=1e-3)
    assert "was repaired: self-intersection; area +50 px" in annotations.describe(found)[0]


def test_what_a_ring_goes_round_twice_is_inside(save):
    twice = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0], [5, 0], [5, 5], [2, 5], [2, 0], [0, 0]]
    found = annotations.read_annotations(save(collection(feature([twice], **tls()))))
    assert found.outlines[0].geometry.area == pytest.approx(100)


def test_a_hole_that_sticks_out_and_parts_that_overlap_are_repaired(save):
    out = [SQUARE[0], [[30, 20], [50, 20], [50, 30], [30, 30], [30, 20]]]
    over = [SQUARE, [[[30, 10], [60, 10], [60, 40], [30, 40], [30, 10]]]]
    first, second = annotations.read_annotations(
        save(collection(feature(out, **tls()), feature(over, kind="MultiPolygon", **tls())))
    ).outlines
    assert first.geometry.area == pytest.approx(800) and second.geometry.area == pytest.approx(1500)
    assert first.geometry.is_valid and second.geometry.is_valid


# XML

ASAP = """<?xml version="1.0"?><ASAP_Annotations><Annotations>
{annotations}</Annotations><AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"""


def asap(coordinates, *, group="TLS", kind="Polygon", comma=False):
    points = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in reversed(list(enumerate(coordinates)))
    )
    points = points.replace(".", ",") if comma else points
    return (
        f'<Annotation Name="A" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{points}</Coordinates></Annotation>"
    )


RING = [(10.0, 10.0), (40.0, 10.0), (40.0, 40.0), (10.0, 40.0)]
INNER = [(20.0, 20.0), (30.0, 20.0), (30.0, 30.0), (20.0, 30.0)]


@pytest.mark.parametrize("comma", [False, True])
def test_asap_groups_are_classes_and_points_are_counted(comma, save):
    items = asap(RING, comma=comma) + asap(RING, group="None") + asap([(1, 2)], kind="Dot")
    path = save(ASAP.format(annotations=items, groups='<Group Name="TLS" PartOfGroup="None" />'), "a.xml")
    found = annotations.read_annotations(path)
    assert found.report["classes"] == {"TLS": 1, "Unclassified": 1} and found.report["not_areas"] == {"Dot: TLS": 1}
    assert annotations.read_targets(path, "TLS")[0].equals(Polygon(RING))
    assert found.outlines[0].color == (0xF4, 0xFA, 0x58)


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        ("_2", ""),
        ("Exclusion", ""),
        ("lumen", '<Group Name="lumen"><Attributes><Attribute Name="Negative" Value="True"/></Attributes></Group>'),
        ("lumen", '<Group Name="lumen" PartOfGroup="holes"/><Group Name="holes" PartOfGroup="None"/>'),
    ],
)
def test_an_asap_group_declared_negative_cuts_holes(group, groups, save):
    path = save(ASAP.format(annotations=asap(INNER, group=group) + asap(RING), groups=groups), "a.xml")
    found = annotations.read_annotations(path)
    assert [o.geometry.area for o in found.outlines] == [800] and found.report["negatives"] == 1
    assert "1 negative areas were cut out." in annotations.describe(found)


def imagescope(*layers, mpp="0.25"):
    return f'<Annotations MicronsPerPixel="{mpp}">{"".join(layers)}</Annotations>'


def layer(*regions, name="", attribute="", value=""):
    attributes = f'<Attributes><Attribute Name="{attribute}" Value="{value}"/></Attributes>' if attribute else ""
    return f'<Annotation Name="{name}" LineColor="255">{attributes}<Regions>{"".join(regions)}</Regions></Annotation>'


def region(points, *, kind=0, negative=0):
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Type="{kind}" NegativeROA="{negative}" Text=""><Vertices>{vertices}</Vertices></Region>'


def test_imagescope_layers_name_the_class_and_negative_regions_cut_only_their_layer(save):
    path = save(
        imagescope(
            layer(region(RING), region(INNER, negative=1), name="TLS"),
            layer(region(RING), attribute="Tumour"),
            layer(region(RING), attribute="Description", value="Ink"),
            layer(region(RING), attribute="Description"),
        ),
        "a.xml",
    )
    found = annotations.read_annotations(path)
    assert found.report["classes"] == {"TLS": 1, "Tumour": 1, "Ink": 1, "Unclassified": 1}
    assert [o.geometry.area for o in found.outlines] == [800, 900, 900, 900]
    assert found.report["mpp"] == 0.25 and found.outlines[0].color == (255, 0, 0)


def test_imagescope_ellipses_and_rectangles_are_kept_as_corners(save):
    two, four = [(0, 0), (40, 20)], [(0, 0), (40, 0), (40, 20), (0, 20)]
    regions = [
        region(two, kind=2),
        region(four, kind=2),
        region(two, kind=1),
        region(four, kind=1),
        region(two, kind=3),
    ]
    found = annotations.read_annotations(save(imagescope(layer(*regions, name="TLS")), "a.xml"))
    areas = [o.geometry.area for o in found.outlines]
    assert areas == pytest.approx([np.pi * 200, np.pi * 200, 800, 800], rel=1e-9)
    assert found.report["not_areas"] == {"Arrow: TLS": 1} and found.report["ellipses"] == 2


BOMB = (
    """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">{levels}]><ASAP_Annotations>&lol9;</ASAP_Annotations>"""
)
LEVELS = "".join(f'<!ENTITY lol{i} "{f"&lol{i - 1 if i > 1 else str()};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "text",
    [
        BOMB.format(levels=LEVELS),
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><Annotations/>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]><Annotations/>',
    ],
)
def test_xml_with_entities_or_a_document_type_is_refused(text, save):
    with pytest.raises(AnnotationError, match="document type or entities"):
        annotations.read_annotations(save(text, "a.xml"))


# Out


def read_as_qupath_does(path):
    """QuPath's own demands on a file, in short: what it would refuse or drop is an assertion here."""
    content = path.read_bytes()
    data = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    assert data["type"] == "FeatureCollection"
    for item in data["features"]:
        assert item["type"] == "Feature" and uuid.UUID(item["id"])
        properties = item["properties"]
        assert properties["objectType"] in ("annotation", "detection")
        assert isinstance(properties["classification"]["name"], str)
        assert [type(v) for v in properties["classification"]["color"]] == [int] * 3
        geometry = item["geometry"]
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        assert geometry["type"] == "Polygon" or len(parts) > 1
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for part in parts for ring in part)
        assert shape(geometry).is_valid
        assert all(isinstance(v, float) for v in properties.get("measurements", {}).values())
    ids = [item["id"] for item in data["features"]]
    assert len(set(ids)) == len(ids)
    return data["features"]


def test_what_is_written_is_what_qupath_opens(tmp_path):
    polygons = [box(0, 0, 3, 3).difference(box(1, 1, 2, 2)), MultiPolygon([box(9, 9, 10, 10)]),
                MultiPolygon([box(20, 0, 21, 1), box(30, 0, 31, 1)]), box(0, 0, 1, 1), box(0, 0, 1, 1)]  # fmt: skip
    measurements = [{"area um2": np.float32(3), "p": np.nan}] * 5
    path = annotations.write_geojson(
        tmp_path / "a.geojson", polygons, class_name="TLS é", color=(1, 2, 3), measurements=measurements
    )
    features = read_as_qupath_does(path)
    assert [f["geometry"]["type"] for f in features] == ["Polygon", "Polygon", "MultiPolygon", "Polygon", "Polygon"]
    assert features[0]["properties"]["measurements"] == {"area um2": 3.0}
    assert features[0]["properties"]["classification"] == {"name": "TLS é", "color": [1, 2, 3]}


def test_the_same_outlines_give_the_same_bytes(tmp_path):
    for name in ("a.geojson", "a.geojson.gz"):
        polygons = [box(0, 0, 3, 3), box(5, 5, 9, 9)]
        first = annotations.write_geojson(tmp_path / "1" / name, polygons, class_name="TLS").read_bytes()
        second = annotations.write_geojson(tmp_path / "2" / name, polygons, class_name="TLS").read_bytes()
        assert first == second
        assert len(read_as_qupath_does(tmp_path / "1" / name)) == 2


def test_out_and_in_again_keeps_areas_and_classes_of_outlines_made_from_masks(tmp_path):
    rng = np.random.default_rng(0)
    for mpp, mpp0 in ((0.5, 0.2529), (2.5, 0.2529), (10.0, 0.2529), (1.0, 0.25)):
        polygons = annotations.polygonise(rng.random((60, 60)) < 0.5, mpp=mpp, mpp0=mpp0, x_px=9000, y_px=7000)
        names = ["TLS" if i % 2 else "GC: light" for i in range(len(polygons))]
        path = tmp_path / "a.geojson"
        annotations.write_geojson(
            path, polygons, class_name=names, color={"TLS": (200, 0, 0), "GC: light": (0, 0, 200)}
        )
        read_as_qupath_does(path)
        outlines = annotations.read_annotations(path).outlines
        assert [o.class_name for o in outlines] == names
        assert {o.class_name: o.color for o in outlines}["GC: light"] == (0, 0, 200)
        before, after = shapely.area(polygons), shapely.area([o.geometry for o in outlines])
        assert np.abs(after / before - 1).max() < 1e-6


def test_an_invalid_polygon_is_repaired_and_one_without_area_left_out(tmp_path):
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    flat = Polygon([(0, 0), (1, 1), (2, 2)])
    path = annotations.write_geojson(tmp_path / "a.geojson", [bow_tie, flat, Polygon()], class_name="TLS")
    (only,) = read_as_qupath_does(path)
    assert shape(only["geometry"]).area == 50


def test_the_origin_of_a_slide_with_room_around_the_scan_is_honoured_both_ways(tmp_path):
    path = annotations.write_geojson(
        tmp_path / "a.geojson", [box(110, 220, 130, 240)], class_name="TLS", origin_px0=(100, 200)
    )
    assert annotations.read_targets(path, "TLS")[0].bounds == (10, 20, 30, 40)
    assert annotations.read_targets(path, "TLS", origin_px0=(100, 200))[0].bounds == (110, 220, 130, 240)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = annotations.write_geojson(tmp_path / "a.geojson", [box(0, 0, 3, 3)], class_name="TLS")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no room left"):
        annotations.write_geojson(path, [box(0, 0, 9, 9)], class_name="TLS")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.geojson"]


def test_names_or_measurements_that_do_not_match_the_polygons_are_an_error(tmp_path):
    for wrong in ({"class_name": ["TLS"]}, {"class_name": "TLS", "measurements": [{}]}):
        with pytest.raises(ValueError, match="each polygon"):
            annotations.write_geojson(tmp_path / "a.geojson", [box(0, 0, 3, 3)] * 2, **wrong)


# Where outlines lie

SIZE = (40_000, 20_000)


@pytest.mark.parametrize(
    ("polygons", "options", "kind", "said"),
    [
        ([box(100, 100, 900, 900)], {}, "inside", ""),
        ([box(-150, 100, 900, 900)], {}, "edge", "over the slide's edge: 1, by up to 150 px"),
        ([box(100_000, 60_000, 150_000, 70_000)], {}, "level", "divided by 4:"),
        ([box(250_000, 60_000, 310_000, 70_000)], {"level_downsamples": (1, 4.0, 16.0)}, "level", "divided by 8:"),
        ([box(60_000, 20_000, 90_000, 40_000)], {"mpp0": 2.324}, "um", "2.324, the slide's um/px"),
        ([box(1_000, 30_000, 15_000, 39_000)], {}, "turned", "width and height"),
        ([box(37_000, 5_000, 38_000, 6_000)], {"bounds_px0": (5_000, 2_000, 30_000, 15_000)}, "bounds", "offset"),
        ([box(1_000, -9_000, 9_000, -1_000)], {}, "flipped", "y turned over"),
        ([box(-90_000, 100, -80_000, 900)], {}, "other", "another slide"),
    ],
)
def test_outlines_outside_their_slide_come_with_the_likely_reason(polygons, options, kind, said):
    where = annotations.placement(polygons, size_px0=SIZE, **{"mpp0": 0.25, **options})
    assert where.kind == kind and said in where.reason
    assert where.inside + where.crossing + where.outside == 1


def test_outlines_inside_crossing_and_outside_are_counted():
    polygons = [box(0, 0, 10, 10), box(39_990, 0, 40_010, 10), box(50_000, 0, 50_010, 10)]
    where = annotations.placement(polygons, size_px0=SIZE, mpp0=0.25)
    assert (where.inside, where.crossing, where.outside, where.overhang_px0) == (1, 1, 1, 10_010)
    assert annotations.placement([], size_px0=SIZE, mpp0=0.25).kind == "inside"


# Real exports


@NEEDS_DATA
def test_every_real_export_is_read_and_goes_out_and_in_again_unchanged(tmp_path):
    paths = sorted((DATA / "annotations").iterdir()) + sorted((DATA / "tonsil").glob("*.geojson"))
    assert len(paths) >= 24
    n_areas = 0
    for path in paths:
        found = annotations.read_annotations(path)
        counted = sum(found.report["not_areas"].values()) + found.report["without_area"] + len(found.outlines)
        assert counted == found.report["objects"] > 0
        assert all(o.geometry.is_valid for o in found.outlines)
        names = [o.class_name or annotations.UNCLASSIFIED for o in found.outlines]
        out = annotations.write_geojson(tmp_path / "a.geojson", [o.geometry for o in found.outlines], class_name=names)
        read_as_qupath_does(out)
        again = annotations.read_annotations(out)
        assert [o.class_name for o in again.outlines] == names and not again.report["repaired"]
        before, after = ([o.geometry.area for o in f.outlines] for f in (found, again))
        assert after == pytest.approx(before, rel=1e-6)
        n_areas += len(names)
    assert n_areas > 40


@NEEDS_DATA
def test_known_contents_of_real_exports():
    def report(name):
        return annotations.read_annotations(DATA / "annotations" / name).report

    assert report("qupath02_array_multipolygon_hole.json")["classes"] == {"Tumor": 1, "Invborder": 1}
    assert report("qupath02_cells_classified.json")["classes"] == {"Cell": 2, "Nucleus": 2}
    assert report("imagescope_layers.xml")["classes"] == {"CaP": 2, "Unclassified": 2}
    assert report("imagescope_unnamed_layer.xml")["areas"] == 7
    assert report("asap_pointset.xml")["not_areas"] == {"PointSet": 1}
    hole = annotations.read_annotations(DATA / "annotations" / "qupath04_feature_hole_unclassified.geojson")
    assert len(hole.outlines[0].geometry.interiors) > 0
    # ImageScope wrote the area it had computed itself beside one of its regions.
    region = annotations.read_annotations(DATA / "annotations" / "imagescope_unnamed_layer.xml").outlines[0]
    assert region.geometry.area == pytest.approx(52120.5, rel=0.01)
    assert len(annotations.read_targets(DATA / "tonsil" / "tonsil_1.geojson", "Germinal Center")) == 4
