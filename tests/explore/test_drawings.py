"""Outlines drawn by hand: none is lost, whoever else draws on the slide."""

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
