"""Outlines drawn by hand: none is lost, whoever else draws on the slide."""

import json

import pytest

from tlskit.errors import AnnotationError
from tlskit.explore import drawings


def square(x, class_name="TLS"):
    return {
        "rings": [
            [[x, 0.0], [x + 10.0, 0.0], [x + 10.0, 10.33], [x, 10.0]],
            [[x + 2.0, 2.0], [x + 2.0, 4.0], [x + 4.0, 4.0]],
        ],
        "class": class_name,
    }


def places(outlines):
    return sorted(drawings.polygon_of(one).bounds[0] for one in outlines)


def test_outlines_come_back_with_their_holes_and_classes(tmp_path):
    path = tmp_path / "S1.geojson"
    saved = drawings.save_drawn(path, [square(0), square(20, "Unclassified")], [], (100.0, 50.0))
    again = drawings.read_drawn(path, (100.0, 50.0))
    assert again == saved
    assert [one["class"] for one in again] == ["TLS", "Unclassified"]
    assert [drawings.polygon_of(one).area for one in again] == pytest.approx([101.65 - 2.0] * 2)


def test_two_windows_on_one_slide_keep_each_others_work(tmp_path):
    path = tmp_path / "S1.geojson"
    both = drawings.save_drawn(path, [square(0), square(20)], [])
    first = drawings.save_drawn(path, [*both, square(40)], both)  # one window adds
    second = drawings.save_drawn(path, [both[0], square(60)], both)  # the other takes one away, and adds
    assert places(first) == [0, 20, 40] and places(second) == [0, 40, 60]
    # Both change the same one: both versions stay.
    drawings.save_drawn(path, [square(1), *second[1:]], second)
    assert places(drawings.save_drawn(path, [square(2), *second[1:]], second)) == [1, 2, 40, 60]


def test_the_order_of_a_window_stays_its_own(tmp_path):
    base = drawings.save_drawn(tmp_path / "a.geojson", [square(0), square(20)], [])
    changed = drawings.save_drawn(tmp_path / "a.geojson", [square(0, "stroma"), base[1]], base)
    assert [one["class"] for one in changed] == ["stroma", "TLS"]


def test_a_file_that_cannot_be_read_is_not_written_over(tmp_path):
    path = tmp_path / "S1.geojson"
    path.write_text('{"features": [')
    with pytest.raises(AnnotationError, match="Nothing was written over it"):
        drawings.save_drawn(path, [square(0)], [])
    assert path.read_text() == '{"features": ['


def test_an_outline_that_crosses_itself_becomes_its_parts():
    bow = {"rings": [[[0, 0], [10, 10], [10, 0], [0, 10]]], "class": "TLS"}
    line = {"rings": [[[0, 0], [5, 5], [10, 10]]], "class": "TLS"}
    assert [drawings.polygon_of(one).area for one in drawings.tidied([bow, line])] == [25.0, 25.0]


def test_the_outline_at_a_place_is_the_last_one_and_not_its_hole():
    outlines = [square(0), square(0)]
    assert drawings.at_point(outlines, 8, 8) == 1
    assert drawings.at_point(outlines, 2.5, 3.8) == -1


def test_what_another_program_wrote_beside_an_outline_is_kept(tmp_path):
    path = tmp_path / "S1.geojson"
    ring = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
    far = [[x + 50, y] for x, y in ring]
    properties = {
        "objectType": "annotation", "name": "the large one", "measurements": {"Area": 100.0},
        "classification": {"name": "TLS", "color": [1, 2, 3]},
    }  # fmt: skip
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}, "properties": {"name": "here"}}
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [rings]}, "properties": properties}
        for rings in (ring, far)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [*features, point]}))
    base = drawings.read_drawn(path)
    moved = base[0] | {"rings": [[[0, 0], [10, 0], [10, 12], [0, 10]]]}
    saved = drawings.save_drawn(path, [moved, base[1], square(100)], base)
    written = json.loads(path.read_text())["features"]
    of = [one["properties"] for one in written if one["geometry"]["type"] == "Polygon"]
    assert [one.get("name") for one in of] == ["the large one", "the large one", None]
    # A measurement of a shape that was changed since is not passed off as one of the new shape.
    assert of[0]["measurements"] == {"before the correction: Area": 100.0} and of[1]["measurements"] == {"Area": 100.0}
    assert of[1]["classification"] == {"name": "TLS", "color": [1, 2, 3]}
    assert point in written
    # Once more: nothing piles up, and what the other program has changed meanwhile is taken over.
    text = path.read_text().replace('"Area": 100.0', '"Area": 101.0').replace("before the correction: Area", "X")
    path.write_text(text)
    drawings.save_drawn(path, [*saved, square(200)], saved)
    again = [
        one["properties"] for one in json.loads(path.read_text())["features"] if "classification" in one["properties"]
    ]
    assert [one.get("measurements", {}) for one in again] == [{"X": 100.0}, {"Area": 101.0}, {}, {}]
    assert point in json.loads(path.read_text())["features"]


def test_a_hole_is_cut_and_outlines_that_touch_become_one():
    plain = {"rings": [[[0, 0], [10, 0], [10, 10], [0, 10]]], "class": "TLS", "name": "a"}
    other = plain | {"rings": [[[8, 0], [20, 0], [20, 10], [8, 10]]], "class": "stroma", "name": ""}
    far = plain | {"rings": [[[50, 0], [60, 0], [60, 10]]]}
    cut, touched = drawings.cut_out([plain, far], [[2, 2], [4, 2], [4, 4], [2, 4]])
    assert touched == 1 and len(cut) == 2 and cut[0]["name"] == "a"
    assert drawings.polygon_of(cut[0]).area == 96 and len(cut[0]["rings"]) == 2
    halves, _ = drawings.cut_out([plain], [[4, -1], [6, -1], [6, 11], [4, 11]])
    assert [drawings.polygon_of(one).area for one in halves] == [40, 40]
    assert drawings.cut_out([plain], [[70, 70], [80, 80], [70, 80]]) == ([plain], 0)
    one, number = drawings.joined_at([plain, far, other], 0)
    assert number == 2 and one[0] == far and drawings.polygon_of(one[1]).area == 200 and one[1]["class"] == "TLS"
    assert drawings.joined_at([plain, far], 1)[1] == 1


def test_one_outline_that_is_drawn_twice_is_kept_twice(tmp_path):
    one = {"rings": [[[0, 0], [9, 0], [0, 9]]], "class": "TLS"}
    first = drawings.save_drawn(tmp_path / "a.geojson", [one], [])
    assert len(drawings.save_drawn(tmp_path / "a.geojson", [one, one], first)) == 2
    assert len(drawings.read_drawn(tmp_path / "a.geojson")) == 2
