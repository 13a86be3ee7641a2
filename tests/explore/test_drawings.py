"""Outlines drawn by hand: none is lost, whoever else draws on the slide."""

import json
import shutil

import pytest

from tlskit.errors import AnnotationError
from tlskit.explore import drawings, drawn_files


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
    saved = drawn_files.save_drawn(path, [square(0), square(20, "Unclassified")], [], (100.0, 50.0))
    again = drawn_files.read_drawn(path, (100.0, 50.0))
    assert again == saved
    assert [one["class"] for one in again] == ["TLS", "Unclassified"]
    assert [drawings.polygon_of(one).area for one in again] == pytest.approx([101.65 - 2.0] * 2)


def test_two_windows_on_one_slide_keep_each_others_work(tmp_path):
    path = tmp_path / "S1.geojson"
    both = drawn_files.save_drawn(path, [square(0), square(20)], [])
    first = drawn_files.save_drawn(path, [*both, square(40)], both)  # one window adds
    second = drawn_files.save_drawn(path, [both[0], square(60)], both)  # the other takes one away, and adds
    assert places(first) == [0, 20, 40] and places(second) == [0, 40, 60]
    # Both change the same one: both versions stay.
    drawn_files.save_drawn(path, [square(1), *second[1:]], second)
    assert places(drawn_files.save_drawn(path, [square(2), *second[1:]], second)) == [1, 2, 40, 60]


def test_the_order_of_a_window_stays_its_own(tmp_path):
    base = drawn_files.save_drawn(tmp_path / "a.geojson", [square(0), square(20)], [])
    changed = drawn_files.save_drawn(tmp_path / "a.geojson", [square(0, "stroma"), base[1]], base)
    assert [one["class"] for one in changed] == ["stroma", "TLS"]


def test_a_file_that_cannot_be_read_is_not_written_over(tmp_path):
    path = tmp_path / "S1.geojson"
    path.write_text('{"features": [')
    with pytest.raises(AnnotationError, match="Nothing was written over it"):
        drawn_files.save_drawn(path, [square(0)], [])
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
    base = drawn_files.read_drawn(path)
    moved = base[0] | {"rings": [[[0, 0], [10, 0], [10, 12], [0, 10]]]}
    saved = drawn_files.save_drawn(path, [moved, base[1], square(100)], base)
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
    drawn_files.save_drawn(path, [*saved, square(200)], saved)
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
    corner = plain | {"rings": [[[10, 10], [20, 10], [20, 20], [10, 20]]]}
    assert drawings.joined_at([plain, corner], 0)[1] == 1, "one point in common is no way from one to the other"
    assert drawings.nearest([plain, far, corner], 0) == ("TLS", 0) and drawings.nearest([plain], 0) is None
    assert drawings.nearest([other, far], 0) == ("TLS", 30)


def test_one_outline_that_is_drawn_twice_is_kept_twice(tmp_path):
    one = {"rings": [[[0, 0], [9, 0], [0, 9]]], "class": "TLS"}
    first = drawn_files.save_drawn(tmp_path / "a.geojson", [one], [])
    assert len(drawn_files.save_drawn(tmp_path / "a.geojson", [one, one], first)) == 2
    assert len(drawn_files.read_drawn(tmp_path / "a.geojson")) == 2


def test_only_lines_that_are_new_are_parsed_and_they_say_what_the_whole_file_says(tmp_path, monkeypatch):
    path, origin = tmp_path / "S1.geojson", (100.0, 50.0)
    parsed = []
    real = drawn_files.parse_geojson
    monkeypatch.setattr(drawn_files, "parse_geojson", lambda *given, **more: parsed.append(1) or real(*given, **more))

    def read():
        found = drawn_files.read_drawn(path, origin)
        whole = drawn_files._outlines_of(drawn_files.read_annotations(path, origin_px0=origin))
        assert found == whole
        return found

    some = [square(20.0 * n, name) for n, name in enumerate(("TLS", 'a "b",', "Unclassified"))]
    base = drawn_files.save_drawn(path, some, [], origin, {"slide": "features: [", "of": "é"})
    assert read() == base and len(parsed) == 3
    lines = path.read_text().splitlines()
    # One is moved, one of them is drawn twice: what nobody touched stands in the file to the letter.
    moved = [base[0], base[1] | {"rings": [[[0.5, 70.0], [9.0, 70.0], [9.0, 79.13]]]}, base[2], dict(base[2])]
    saved = drawn_files.save_drawn(path, moved, base, origin, {"slide": "features: [", "of": "é"})
    assert read() == saved and len(saved) == 4 and len(parsed) == 5
    again = path.read_text().splitlines()
    assert len(again) == 6 and lines[1] in again and lines[2] not in again
    assert sum(line.rstrip(",") == lines[3].rstrip(",") for line in again) == 1, "two objects, with an id each"
    # Whoever else has written it: another line, another order, without line ends, with a point, broken.
    path.write_text(
        "\n".join([again[0], again[4].rstrip(",") + ",", again[1].replace("TLS", "stroma").rstrip(","), "]}", ""])
    )
    assert [one["class"] for one in read()] == ["Unclassified", "stroma"]
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert [one["class"] for one in read()] == ["Unclassified", "stroma"]
    two = f'{again[0]}\n{again[1].rstrip(",")}], "other": [{again[2].rstrip(",")}\n]}}\n'
    path.write_text(two)
    assert len(read()) == 1, "a line that closes the list is no object"
    path.write_text(f"{again[0]}\n{again[1]}\n]}}\n")
    with pytest.raises(AnnotationError, match="is no JSON"):
        drawn_files.read_drawn(path, origin)


def test_a_file_that_is_gone_takes_nothing_with_it(tmp_path):
    path = tmp_path / "drawn" / "S1.geojson"
    base = drawn_files.save_drawn(path, [square(0), square(20)], [])
    shutil.rmtree(path.parent)  # a share that was unmounted, a folder that was cleaned up
    assert places(drawn_files.save_drawn(path, [*base, square(40)], base)) == [0, 20, 40]
    assert places(drawn_files.read_drawn(path)) == [0, 20, 40]


def test_an_outline_of_another_slide_is_written_for_this_ones_origin(tmp_path):
    first = drawn_files.save_drawn(tmp_path / "a.geojson", [square(0)], [], (100.0, 50.0))
    (there,) = drawn_files.read_drawn(tmp_path / "a.geojson", (100.0, 50.0))
    assert [there] == first
    drawn_files.save_drawn(tmp_path / "b.geojson", [there], [], (0.0, 0.0))
    assert drawn_files.read_drawn(tmp_path / "b.geojson") == first


def test_what_is_written_down_beside_the_outlines_is_kept_up_to_date_and_detections_stay(tmp_path):
    path = tmp_path / "S1.geojson"
    base = drawn_files.save_drawn(path, [square(0)], [], about={"slide": "old.svs"})
    drawn_files.save_drawn(path, base, base, about={"slide": "new.svs"})
    data = json.loads(path.read_text())
    assert data["tlskit"] == {"slide": "new.svs"}
    cell = json.loads(json.dumps(data["features"][0]).replace("annotation", "detection"))
    path.write_text(json.dumps(data | {"features": [*data["features"], cell]}))
    drawn_files.save_drawn(path, [*base, square(50)], base)
    kinds = [one["properties"]["objectType"] for one in json.loads(path.read_text())["features"]]
    assert sorted(kinds) == ["annotation", "annotation", "detection"]
