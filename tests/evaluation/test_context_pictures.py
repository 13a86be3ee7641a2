"""Pictures of context are of the windows in which it mattered most, for good and for ill."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import shapely
from made_slides import picture, vips_slide

from tlskit.cohort import read_manifest
from tlskit.evaluation import arm_tables, context_fields, context_pictures
from tlskit.figures import worst_fields
from tlskit.maps import open_map
from tlskit.maps.map_writer import MapWriter
from tlskit.outlines import Truth

MPP0, MPP, WINDOW_PX, STRIDE_PX = 0.5, 2.0, 64, 32
#: Of the map, in working pixels; two objects in it, as (x, y, width, height).
SIZE_PX = (300, 260)
OBJECTS = [(20, 30, 40, 30), (200, 150, 50, 40)]


def write_map(path, values, context=None, **more):
    parameters = {"window_px": WINDOW_PX, "stride_px": STRIDE_PX} | ({"context": context} if context else {})
    metadata = {"mpp0": MPP0, "parameters": parameters, "checkpoint_sha256": path.parents[2].name} | more
    with MapWriter(path, SIZE_PX, mpp=MPP, block_px=512, metadata=metadata) as writer:
        writer.write_block(0, 0, values)
    return path


def marked(*boxes):
    values = np.zeros(SIZE_PX[::-1], np.uint8)
    for x, y, w, h in boxes:
        values[y : y + h, x : x + w] = 200
    return values


@pytest.fixture
def maps(tmp_path):
    """With context the first object is found, and a false one as well; without, the second object."""
    field = {"ratio": 4, "px": 32, "of": "field"}
    for name in ("with", "without"):
        (tmp_path / name / "work" / "maps").mkdir(parents=True)
    write_map(tmp_path / "with/work/maps/S1.tif", marked(OBJECTS[0], (100, 200, 20, 20)), field)
    write_map(tmp_path / "without/work/maps/S1.tif", marked(OBJECTS[1]))
    return tmp_path


def truth():
    boxes = [shapely.box(4 * x, 4 * y, 4 * (x + w), 4 * (y + h)) for x, y, w, h in OBJECTS]
    return Truth(boxes, mpp0=MPP0)


def test_gains_are_by_window_and_in_mm2(maps):
    with open_map(maps / "with/work/maps/S1.tif") as seen, open_map(maps / "without/work/maps/S1.tif") as alone:
        found = context_pictures.gains(seen, alone, truth(), [128, 128])
    better = np.zeros(SIZE_PX[::-1], int)
    for sign, boxes in ((1, OBJECTS[:1]), (-1, [OBJECTS[1], (100, 200, 20, 20)])):
        for x, y, w, h in boxes:
            better[y : y + h, x : x + w] = sign
    expected = np.array(
        [[better[y : y + 64, x : x + 64].sum() for x in range(0, 32 * 9, 32)] for y in range(0, 32 * 8, 32)]
    )
    assert found.shape == expected.shape and np.allclose(found, expected * MPP**2 / 1e6)


def test_what_was_not_looked_at_counts_for_neither(maps):
    everywhere = [0, 0, *SIZE_PX]
    for more in ({"unseen": [everywhere]}, {"invalid": [everywhere]}):
        path = write_map(maps / "without/work/maps/S1.tif", marked(OBJECTS[1]), **more)
        with open_map(maps / "with/work/maps/S1.tif") as seen, open_map(path) as alone:
            assert not context_pictures.gains(seen, alone, truth(), [128, 128]).any()
    with open_map(maps / "with/work/maps/S1.tif") as seen, open_map(maps / "with/work/maps/S1.tif") as same:
        assert not context_pictures.gains(seen, same, truth(), [128, 128]).any()


@pytest.fixture
def run(maps, monkeypatch):
    """A run of two arms, and the cohort of one slide."""
    side = [2 * MPP / MPP0 * s / 2 for s in SIZE_PX]
    image = picture(*(round(s) for s in side))
    vips_slide(maps / "S1.svs", image, mpp=MPP0, power=20)
    features = [
        {
            "type": "Feature", "id": str(n), "geometry": shapely.geometry.mapping(box),
            "properties": {"objectType": "annotation", "classification": {"name": "TLS"}},
        }
        for n, box in enumerate(truth().polygons)
    ]  # fmt: skip
    (maps / "S1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (maps / "m.csv").write_text(
        "slide_id,patient_id,cancer_type,slide_path,annotation_path\nS1,P1,lung,S1.svs,S1.geojson\n"
    )
    # Folders of trainings have names of their own: an arm's folds are its repeats.
    of_arms = pd.DataFrame({"arm": ["with", "without"], "variant": ["context", "plain"]})
    of_arms = of_arms.assign(**dict.fromkeys(arm_tables.REPEATS, np.nan))
    made = read_manifest(maps / "m.csv")
    for name, threshold in (("with", 0.5), ("without", 0.6)):
        (maps / name / "work" / "checkpoint.pt").touch()
        (maps / name / "tables").mkdir()
        counts = pd.DataFrame({"threshold_by": ["fixed", "validation"], "threshold": [0.9, threshold]})
        counts.to_csv(maps / name / "tables" / "05_counts_per_slide.csv", index=False)
    monkeypatch.setattr(context_pictures, "arms", lambda _: of_arms)
    monkeypatch.setattr(context_pictures, "slides_of", lambda *_: made)
    monkeypatch.setattr(context_pictures, "truth_of", lambda _: {"target_class": "TLS", "resolution_by": "mpp"})
    monkeypatch.setattr(
        context_pictures, "maps_of",
        lambda folder: pd.DataFrame({"slide_id": ["S1"], "map_path": [folder / "work/maps/S1.tif"]}),
    )  # fmt: skip
    monkeypatch.setattr(context_pictures, "load_checkpoint", lambda _: type("C", (), {"apply_icc": False}))
    return maps, made


def test_pictures_are_of_the_best_and_the_worst_window_in_both_arms_with_the_context(run):
    folder, manifest = run
    effects = pd.DataFrame(
        {"arm": ["context"] * 2, "reference": ["plain", "self"], "magnification": 5.0,
         "against": ["without context", "own field as context"]}
    )  # fmt: skip
    panels = context_fields(folder, manifest, effects)
    assert [panel["arm"] for panel in panels] == ["without context", "with context", "the whole context"] * 2
    assert [panel["title"] for panel in panels[::3]] == [
        "context, S1: context put 0.005 mm2 right", "context, S1: context put 0.008 mm2 wrong"
    ]  # fmt: skip
    best_without, best_with, around = panels[:3]
    assert best_with["truth"].any() and np.array_equal(best_with["truth"], best_with["predicted"])
    assert not best_without["predicted"].any()
    assert around["mpp"] * len(around["truth"]) == pytest.approx(256, abs=2)
    assert best_with["mpp"] * len(best_with["truth"]) == pytest.approx(128, abs=2)
    worst_without, worst_with, _ = panels[3:]
    assert np.array_equal(worst_without["truth"], worst_without["predicted"]) and worst_without["truth"].any()
    assert not worst_with["predicted"].any()
    figure = worst_fields(panels)
    assert sum(bool(ax.images) for ax in figure.axes) == 6


def test_where_context_did_no_harm_the_picture_says_so_and_where_it_did_nothing_a_warning(run, caplog):
    folder, manifest = run
    effects = pd.DataFrame(
        {"arm": ["context"], "reference": ["plain"], "magnification": 5.0, "against": ["without context"]}
    )
    write_map(folder / "without/work/maps/S1.tif", marked((100, 200, 20, 20)))
    panels = context_fields(folder, manifest, effects)
    assert [panel["title"].split(": ")[1] for panel in panels] == [
        "context put 0.005 mm2 right; nowhere 0.001 mm2 wrong"
    ] * 3
    (folder / "without/work/maps/S1.tif").unlink()
    shutil.copy(folder / "with/work/maps/S1.tif", folder / "without/work/maps/S1.tif")
    assert context_fields(folder, manifest, effects) == []
    assert "context: no picture, context changed no window of a test slide by 0.001 mm2" in caplog.text


def test_without_maps_there_is_no_picture_and_a_word_about_it(run, caplog):
    folder, manifest = run
    (folder / "with" / "work" / "checkpoint.pt").unlink()
    effects = pd.DataFrame(
        {"arm": ["context"], "reference": ["plain"], "magnification": 5.0, "against": ["without context"]}
    )
    assert context_fields(folder, manifest, effects) == [] and "not there any more" in caplog.text


def test_a_training_whose_slides_all_failed_costs_its_pictures_alone(run, caplog):
    folder, manifest = run
    counts = folder / "with" / "tables" / "05_counts_per_slide.csv"
    counts.write_text(counts.read_text().splitlines()[0] + "\n")
    effects = pd.DataFrame(
        {"arm": ["context"], "reference": ["plain"], "magnification": 5.0, "against": ["without context"]}
    )
    assert context_fields(folder, manifest, effects) == [] and "with has no slide counted" in caplog.text


def test_without_context_there_is_no_picture(run):
    folder, manifest = run
    assert context_fields(folder, manifest, pd.DataFrame()) == []
    figure = worst_fields([], empty="No arm has context.")
    assert "No arm has context." in [text.get_text() for text in figure.texts]
