"""Overlap of windows as a choice: its price and worth are what maps and outlines say, and nothing is chosen on few."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import shapely.geometry
from made_cohort import outlined_slide
from made_maps import Context, checkpoint

from tlskit.errors import ParameterError, SlideError
from tlskit.evaluation import cascades, overlap_choice
from tlskit.maps import noted_overlap, open_map, predict_cohort, write_overlap
from tlskit.maps.map_writer import MapWriter

EXACT = {"engine": "torch", "precision": "exact"}
TRUTH = {"target_class": "TLS", "missing_target": "empty"}
NETWORK = checkpoint(Context(), tile_px=64, magnification=10)


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    """Two patients, the first with two slides: tissue with dark discs, which are outlined."""
    folder = tmp_path_factory.mktemp("validation")
    rows = []
    for n, (slide_id, patient_id) in enumerate((("a1", "a"), ("a2", "a"), ("b1", "b"))):
        image = np.full((420, 520, 3), 243, np.uint8)
        image[30:390, 30:490] = (225, 160, 200)
        places = [(150 + 20 * n, 140, 50), (330, 260 - 30 * n, 70)]
        for x, y, radius in places:
            cv2.circle(image, (x, y), radius, (70, 45, 130), -1)
        targets = [shapely.Point(x, y).buffer(radius) for x, y, radius in places]
        row = outlined_slide(folder, slide_id, image, targets, mpp=1.0, quality=95)
        rows.append(row | {"patient_id": patient_id, "split": "val"})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def measured(validation, tmp_path_factory):
    """The table of two slides, and the folder of their maps."""
    folder = tmp_path_factory.mktemp("made")
    table = overlap_choice.overlap_tradeoff(NETWORK, validation, folder, n_slides=2, truth=TRUTH, **EXACT)
    return table, folder


def read(folder, overlap, slide_id):
    with open_map(folder / f"{overlap:g}" / f"{slide_id}.tif") as found:
        return found.read(0, 0, *found.size_px), found.metadata


def drawn(validation, slide_id, shape):
    """Pixels whose centre lies in an outline of a slide."""
    path = validation.set_index("slide_id").loc[slide_id, "annotation_path"]
    features = json.loads(Path(path).read_text(encoding="utf-8"))["features"]
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.any([shapely.contains_xy(shapely.geometry.shape(of["geometry"]), x, y) for of in features], axis=0)


def test_price_and_worth_are_what_maps_and_outlines_say(measured, validation):
    table, folder = measured
    table = table.set_index("overlap")
    assert list(table.index) == [0.0, 0.25, 0.5] and not list(folder.glob("*/a2.tif"))  # a slide of each patient first
    threshold = table["threshold"].iloc[0]
    best = 0.0
    for overlap, row in table.iterrows():
        counts, flipped, tissue, windows = np.zeros(3), 0, 0, []
        for slide_id in ("a1", "b1"):
            values, metadata = read(folder, overlap, slide_id)
            dense = read(folder, 0.5, slide_id)[0] >= 255 * threshold - 1e-6
            found = values >= 255 * threshold - 1e-6
            true = drawn(validation, slide_id, values.shape)
            counts += (found & true).sum(), (found & ~true).sum(), (~found & true).sum()
            flipped += (found ^ dense).sum()
            tissue += metadata["tissue_mm2"] * 1e6
            windows.append(metadata["windows"])
        tp, fp, fn = counts
        assert row["windows"] == np.mean(windows) and row["flipped"] == pytest.approx(flipped / tissue)
        assert row["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn)) and row["iou"] == pytest.approx(
            tp / (tp + fp + fn)
        )
        best = row["dice"]
    assert (table["loss"] - (best - table["dice"])).abs().max() < 1e-12 and table["flipped"].iloc[0] > 0
    assert table["times_windows"].iloc[0] == 1 and table["times_windows"].is_monotonic_increasing
    last = table.iloc[-1]
    assert (last["flipped"], last["mask_dice"], last["loss"]) == (0, 1, 0)
    assert last["margin"] == pytest.approx(overlap_choice.MARGIN * best)
    assert set(table["n_patients"]) == set(table["n_with_target"]) == {2}


def test_what_was_never_read_is_marked_at_no_threshold(tmp_path):
    for name, invalid in (("0.5", []), ("0.25", [[0, 0, 64, 32]])):
        metadata = {"mpp0": 1.0, "tissue_mm2": 64 * 64 / 1e6, "invalid": invalid}
        with MapWriter(tmp_path / f"{name}.tif", (64, 64), mpp=1.0, block_px=512, metadata=metadata) as writer:
            writer.write_block(0, 0, np.zeros((64, 64), np.uint8))
    maps = pd.DataFrame({"slide_id": "a", "overlap": [0.25, 0.5]})
    maps["map_path"] = [tmp_path / f"{level:g}.tif" for level in maps["overlap"]]
    found = overlap_choice._against_densest(maps, 0.0)
    assert found[0.5] == {"flipped": 0, "mask_dice": 1}
    assert found[0.25] == {"flipped": pytest.approx(0.5), "mask_dice": pytest.approx(2 / 3)}


def test_two_patients_show_nothing_and_it_is_said(measured):
    table, _ = measured
    words = "2 validation patients with a target, fewer than 10: too few to show which overlap is enough"
    assert set(table["warning"]) == {words}
    assert overlap_choice.choose_overlap(table, "auto") == (0.5, f"{words}, so the densest, 0.5, is taken")
    overlap, why = overlap_choice.choose_overlap(table, 0.125)
    assert overlap == 0.125 and why.startswith("as asked for (auto would take 0.5: 2 validation patients")


def test_the_maps_of_what_is_chosen_are_those_of_the_cohort_and_the_choice_is_noted(measured, validation, tmp_path):
    table, folder = measured
    options = {"note": tmp_path / "overlap.json", "made_in": folder, "maps_dir": tmp_path / "maps"}
    overlap, why = overlap_choice.settle_overlap(table, "auto", NETWORK, **options)
    noted = json.loads((tmp_path / "overlap.json").read_text())
    assert noted == {"window_overlap": 0.5, "asked": "auto", "reason": why, "checkpoint_sha256": NETWORK.sha256}
    assert noted_overlap(tmp_path / "checkpoint.pt", NETWORK, "auto")[0] == overlap == 0.5
    found = predict_cohort(NETWORK, validation, tmp_path / "maps", overlap=overlap, progress=False, **EXACT)
    assert found.set_index("slide_id")["kept"].to_dict() == {"a1": True, "a2": False, "b1": True}
    overlap_choice.settle_overlap(table, 0.125, NETWORK, **options | {"maps_dir": tmp_path / "other"})
    assert not (tmp_path / "other").exists()  # an overlap that was not measured takes no map over


def test_where_nothing_is_measured_a_half_is_taken(validation, tmp_path):
    table = overlap_choice.overlap_tradeoff(NETWORK, validation, tmp_path, n_slides=0, truth=TRUTH, **EXACT)
    assert table.empty and "loss_high" in table
    assert overlap_choice.choose_overlap(table) == (
        0.5, "no validation slide was measured, so the densest, 0.5, is taken"
    )  # fmt: skip
    assert overlap_choice.choose_overlap(table, 0) == (0.0, "as asked for")


def test_a_slide_that_fails_is_told_and_the_others_are_measured(validation, tmp_path):
    (tmp_path / "no.tif").write_bytes(b"no slide")
    rows = validation.assign(
        slide_path=validation["slide_path"].where(validation["slide_id"] != "a1", tmp_path / "no.tif")
    )
    failed = []
    truth = TRUTH | {"on_failure": lambda *of: failed.append(of[0])}
    table = overlap_choice.overlap_tradeoff(NETWORK, rows, tmp_path / "made", n_slides=2, truth=truth, **EXACT)
    assert set(failed) == {"a1"} and set(table["n_slides"]) == {1}
    none = rows.assign(slide_path=str(tmp_path / "no.tif"))
    assert overlap_choice.overlap_tradeoff(NETWORK, none, tmp_path / "made", n_slides=9, truth=truth, **EXACT).empty
    with pytest.raises(SlideError):
        overlap_choice.overlap_tradeoff(NETWORK, none, tmp_path / "made", n_slides=1, truth=TRUTH, **EXACT)


def test_test_slides_have_no_part_in_it(validation, tmp_path):
    with pytest.raises(ParameterError, match="validation slides alone"):
        overlap_choice.overlap_tradeoff(
            NETWORK, validation.assign(split=["val", "test", "val"]), tmp_path, n_slides=1, truth=TRUTH
        )


def counted(shares, n_patients=14):
    """Maps' counts of patients who lose a share of what the densest finds, by overlap; noise of a patient in common."""
    rng, rows = np.random.default_rng(3), []
    base = rng.uniform(0.6, 0.9, n_patients)
    for overlap, (share, noise) in shares.items():
        for n in range(n_patients):
            tp = round(10_000 * base[n] * (1 - share + noise * rng.standard_normal()))
            rows.append({"overlap": overlap, "slide_id": f"s{n}", "patient_id": f"p{n}", "cancer_type": "x",
                         "tp": tp, "fp": 2_000, "fn": 10_000 - tp, "tn": 90_000})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("shares", "expected", "words"),
    [
        (
            {0.0: (0.001, 0.002), 0.25: (0.0, 0.001), 0.5: (0.0, 0.0)},
            0.0,
            "the least that is shown to lose at most",
        ),
        ({0.0: (0.2, 0.01), 0.25: (0.002, 0.002), 0.5: (0.0, 0.0)}, 0.25, "of 14 validation patients with a target"),
        ({0.0: (0.2, 0.01), 0.25: (0.0, 0.2), 0.5: (0.0, 0.0)}, 0.5, "less is not shown to lose at most 0.0"),
    ],
)
def test_the_least_that_is_shown_to_be_enough_is_taken(shares, expected, words, monkeypatch):
    counts = counted(shares)
    maps = pd.DataFrame(
        [{"overlap": overlap, "slide_id": "s0", "windows": 10 / (1 - overlap) ** 2} for overlap in shares]
    )
    alike = {overlap: {"flipped": 0.0, "mask_dice": 1.0} for overlap in shares}
    monkeypatch.setattr(overlap_choice, "_against_densest", lambda *_: alike)
    table = overlap_choice._table(maps, counts, 0.5)
    overlap, why = overlap_choice.choose_overlap(table)
    assert overlap == expected and words in why
    few = overlap_choice._table(maps, counts[counts["slide_id"].isin([f"s{n}" for n in range(9)])], 0.5)
    assert overlap_choice.choose_overlap(few)[0] == 0.5 and "9 validation patients" in few["warning"].iloc[0]


def test_a_network_that_finds_nothing_shows_nothing(monkeypatch):
    counts = counted({0.0: (1.0, 0.0), 0.25: (1.0, 0.0), 0.5: (1.0, 0.0)})
    maps = pd.DataFrame([{"overlap": overlap, "slide_id": "s0", "windows": 1} for overlap in (0.0, 0.25, 0.5)])
    monkeypatch.setattr(
        overlap_choice,
        "_against_densest",
        lambda *_: dict.fromkeys((0.0, 0.25, 0.5), {"flipped": 0.0, "mask_dice": 1.0}),
    )
    overlap, why = overlap_choice.choose_overlap(overlap_choice._table(maps, counts, 0.5))
    assert overlap == 0.5 and "nothing of the target is found" in why


def test_a_cascade_runs_its_fine_network_with_the_overlap_that_its_05_took(tmp_path, monkeypatch):
    path, asked = tmp_path / "10x" / "work" / "checkpoint.pt", []
    path.parent.mkdir(parents=True)
    write_overlap(path.with_name("overlap.json"), 0.25, asked="auto", reason="enough", checkpoint=NETWORK)
    slides = pd.DataFrame({"slide_id": ["s"], "map_path": ["s.tif"]})
    monkeypatch.setattr(cascades, "maps_of", lambda _: slides)
    monkeypatch.setattr(cascades, "slides_of", lambda *_: slides)
    monkeypatch.setattr(cascades, "load_checkpoint", lambda _: NETWORK)
    monkeypatch.setattr(
        cascades, "predict_cohort", lambda *_, **how: asked.append((how["overlap"], how["engine_note"]))
    )
    chosen = pd.DataFrame([{"is_run": True, "coarse": "2x", "fine": "10x", "screen": "none"}])
    for overlap in ("auto", 0.5):
        cascades.run_cascade(tmp_path, slides, chosen, tmp_path / "out", overlap=overlap)
    assert asked == [(0.25, path.with_name("engine.json")), (0.5, path.with_name("engine.json"))]
