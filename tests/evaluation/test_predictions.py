"""Predicted outlines as QuPath wants them, measured, and on the pixels that QuPath counts from."""

import json
import uuid
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from made_cohort import manifest_row
from made_run import write_map
from made_slides import vips_slide
from shapely.geometry import shape

from tlskit import evaluation
from tlskit.errors import MapError
from tlskit.evaluation import opened_slides, predictions
from tlskit.metrics import thresholds
from tlskit.outlines import reading as annotations
from tlskit.slides import slide as slides
from tlskit.tiles import datasets, tiling

MPP0, MPP, SIZE = 0.5, 2.0, (300, 240)  # the map's pixels


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A slide of 1200 x 960 px, its outlines, and a map with a ring, a disc and a speck."""
    folder = tmp_path_factory.mktemp("predicted")
    rng = np.random.default_rng(0)
    image = (np.array([205, 130, 180]) + rng.integers(-20, 20, (960, 1200, 1))).astype(np.uint8)
    vips_slide(folder / "s.tif", image, mpp=MPP0, power=20, quality=90)
    values = np.full(SIZE[::-1], 20, np.uint8)
    cv2.circle(values, (80, 100), 50, 204, -1)
    cv2.circle(values, (80, 100), 20, 51, -1)
    cv2.circle(values, (220, 120), 40, 153, -1)
    values[120, 220] = 255
    cv2.circle(values, (280, 20), 4, 255, -1)
    write_map(folder / "s.map.tif", values, mpp=MPP, metadata={"mpp0": MPP0})
    annotations.write_geojson(
        folder / "s.geojson",
        annotations.polygonise(values >= 128, mpp=MPP, mpp0=MPP0), class_name="TLS",
    )  # fmt: skip
    row = manifest_row("s", folder / "s.tif", folder / "s.geojson")
    maps = pd.DataFrame({"slide_id": ["s"], "map_path": [str(folder / "s.map.tif")]})
    return values, maps, pd.DataFrame([row])


OPTIONS = {"target_class": "TLS", "magnification": 5, "threshold": 0.5, "min_object_um2": 1000.0}


def test_each_object_is_a_feature_that_qupath_opens_with_its_area_and_probability(made, tmp_path):
    values, maps, manifest = made
    table = predictions.write_outlines(maps, manifest, tmp_path, **OPTIONS)
    features = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert len(features) == len(table) == 2  # the speck is smaller than an object
    for feature, row in zip(features, table.itertuples(), strict=True):
        properties, geometry = feature["properties"], shape(feature["geometry"])
        assert uuid.UUID(feature["id"]) and feature["geometry"]["type"] == "Polygon" and geometry.is_valid
        assert properties["objectType"] == "annotation"
        assert properties["classification"] == {"name": "predicted TLS 5x", "color": [200, 0, 0]}
        assert properties["measurements"] == {
            "area_um2": row.area_um2, "mean_probability": row.mean_probability,
            "max_probability": row.max_probability, "magnification": 5.0,
        }  # fmt: skip
        assert geometry.area * MPP0**2 == pytest.approx(row.area_um2, rel=1e-9)
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
    ring, disc = sorted(table.itertuples(), key=lambda row: -row.area_um2)
    assert ring.area_um2 == pytest.approx(np.count_nonzero(values == 204) * MPP**2, rel=0.02)
    assert ring.mean_probability == pytest.approx(0.8, abs=0.01) and ring.max_probability == pytest.approx(0.8)
    assert disc.mean_probability == pytest.approx(0.6, abs=0.01) and disc.max_probability == 1.0
    assert sorted(len(f["geometry"]["coordinates"]) for f in features) == [1, 2]  # the ring has its hole


def test_in_out_in_gives_the_same_areas_and_classes(made, tmp_path):
    _, maps, manifest = made
    predictions.write_outlines(maps, manifest, tmp_path, **OPTIONS)
    first = annotations.read_annotations(tmp_path / "s.geojson").outlines
    annotations.write_geojson(
        tmp_path / "again.geojson", [o.geometry for o in first], class_name=[o.class_name for o in first],
        measurements=[o.measurements for o in first],
    )  # fmt: skip
    second = annotations.read_annotations(tmp_path / "again.geojson").outlines
    assert [o.geometry.area for o in second] == pytest.approx([o.geometry.area for o in first], rel=1e-6)
    assert [(o.class_name, o.measurements) for o in second] == [(o.class_name, o.measurements) for o in first]


def test_a_slide_without_objects_has_an_empty_file_and_one_without_a_map_is_told(made, tmp_path):
    _, maps, manifest = made
    predictions.write_outlines(maps, manifest, tmp_path, **(OPTIONS | {"threshold": 1.0, "min_object_um2": 1e9}))
    assert annotations.read_targets(tmp_path / "s.geojson", "predicted TLS 5x") == []
    failed = {}
    gone = maps.assign(map_path=str(tmp_path / "no.tif"))
    table = predictions.write_outlines(gone, manifest, tmp_path, on_failure=failed.__setitem__, **OPTIONS)
    assert table.empty and isinstance(failed["s"], MapError)


def test_a_scan_s_offset_is_honoured_on_every_way_in_and_out(made, tmp_path, monkeypatch):
    """As QuPath does, a file counts from the corner of the scanned part, where a format has room around it."""
    values, maps, manifest = made
    origin = (96, 64)
    plain = annotations.read_targets(manifest["annotation_path"][0], "TLS")
    shifted = annotations.write_geojson(tmp_path / "in.geojson", plain, class_name="TLS", origin_px0=origin)

    def results(folder, rows):
        tiles = tiling.tile_cohort(rows, magnification=5, tile_px=32, target_class="TLS").tiles
        data = datasets.TileDataset(tiles, rows, magnification=5, tile_px=32, target_class="TLS")
        masks = np.stack([data.read(i)[1].numpy() for i in range(len(tiles))])
        counts = evaluation.evaluate_slides(maps, rows, target_class="TLS").slides
        table = predictions.write_outlines(maps, rows, folder, **OPTIONS)
        out = annotations.read_targets(folder / "s.geojson", "predicted TLS 5x")
        return tiles, masks, counts, table, out

    tiles, masks, counts, table, out = results(tmp_path / "a", manifest)
    assert counts["tp"][0] == np.count_nonzero(values >= 128) and counts["fp"][0] == counts["fn"][0] == 0

    def with_room(row, **reading):
        slide = slides.open_slide(row.slide_path, **reading)
        slide.bounds_px0 = (*origin, 1200 - origin[0], 960 - origin[1])
        return slide

    for module in (tiling, datasets, opened_slides, predictions):
        monkeypatch.setattr(module, "open_row", with_room)
    again = results(tmp_path / "b", manifest.assign(annotation_path=str(shifted)))
    assert again[0].equals(tiles) and np.array_equal(again[1], masks)
    assert again[2].equals(counts) and again[3].equals(table)
    for polygon, moved in zip(out, again[4], strict=True):
        assert np.subtract(polygon.bounds, moved.bounds) == pytest.approx([*origin, *origin])


def test_the_usual_threshold_is_the_one_chosen_with_this_very_network(tmp_path, caplog):
    network = SimpleNamespace(sha256="mine", threshold=0.5)
    assert predictions.usual_threshold(tmp_path / "checkpoint.pt", network) == (0.5, "not chosen on any slides")
    thresholds.write_threshold(tmp_path / "threshold.json", {"threshold": 0.3}, checkpoint_sha256="mine")
    found = predictions.usual_threshold(tmp_path / "checkpoint.pt", network)
    assert found == (0.3, "chosen on validation slides")
    thresholds.write_threshold(tmp_path / "threshold.json", {"threshold": 0.3}, checkpoint_sha256="another")
    assert predictions.usual_threshold(tmp_path / "checkpoint.pt", network)[0] == 0.5
    assert "another checkpoint" in caplog.text
