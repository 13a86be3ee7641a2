"""Counts of slides and grids against brute force on maps and outlines made by hand."""

import json

import made_run
import numpy as np
import pandas as pd
import pytest
import shapely
from made_cohort import manifest_row

from tlskit import evaluation, units
from tlskit.errors import MapError, ParameterError
from tlskit.evaluation.grid_counting import CURVE
from tlskit.metrics import scores as metrics
from tlskit.metrics import thresholds
from tlskit.metrics.grids import area_means
from tlskit.outlines.truth import Truth
from tlskit.slides import tiffs

MPP0 = 0.5
SIZE = (1201, 897)
PINK = (215, 150, 190)


def outline(*boxes):
    """Rectangles (x0, y0, x1, y1) in level-0 px as a QuPath file."""
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shapely.box(*box))),
            "properties": {"objectType": "annotation", "classification": {"name": "TLS", "color": [200, 0, 0]}},
        }
        for box in boxes
    ]
    return {"type": "FeatureCollection", "features": features}


@pytest.fixture(scope="module")
def cohort_dir(tmp_path_factory):
    """Two slides, tissue on the left part of each; the second has no target."""
    folder = tmp_path_factory.mktemp("cohort")
    image = np.full((SIZE[1], SIZE[0], 3), 244, np.uint8)
    image[100:800, 80:900] = PINK
    boxes = {"a": [(160, 200, 400, 500), (600, 301, 700.5, 421), (1000, 100, 1100, 200)], "b": []}
    for name, of_slide in boxes.items():
        tiffs.write_slide(folder / f"{name}.tif", image, mpp=MPP0, objective_power=20)
        (folder / f"{name}.geojson").write_text(json.dumps(outline(*of_slide)))
    types = {"a": "lung", "b": "breast"}
    rows = [
        manifest_row(name, folder / f"{name}.tif", folder / f"{name}.geojson", cancer_type=kind, split="test")
        for name, kind in types.items()
    ]
    return folder, pd.DataFrame(rows)


def write_map(path, values, *, mpp, **metadata):
    made_run.write_map(path, values, mpp=mpp, metadata={"mpp0": MPP0} | metadata, block_px=64)
    return str(path)


@pytest.fixture(scope="module")
def maps(cohort_dir):
    """Random maps at 2 um/px."""
    folder, manifest = cohort_dir
    width, height = units.lattice_size(SIZE, MPP0, 2.0)
    rng = np.random.default_rng(0)
    stored = {name: rng.integers(0, 256, (height, width), dtype=np.uint8) for name in "ab"}
    paths = [write_map(folder / f"map_{name}.tif", values, mpp=2.0) for name, values in stored.items()]
    return pd.DataFrame({"slide_id": ["a", "b"], "map_path": paths, "split": "test"}), stored


def brute_truth(mpp, size):
    """Pixels of slide a whose centre lies in one of its boxes."""
    x = (np.arange(size[0]) + 0.5) * mpp / MPP0
    y = (np.arange(size[1]) + 0.5) * mpp / MPP0
    mask = np.zeros(size[::-1], bool)
    for x0, y0, x1, y1 in ((160, 200, 400, 500), (600, 301, 700.5, 421), (1000, 100, 1100, 200)):
        mask |= ((y > y0) & (y < y1))[:, None] & ((x > x0) & (x < x1))
    return mask


def test_counts_of_slides_and_of_their_tiles_are_those_of_the_pixels(cohort_dir, maps):
    _, manifest = cohort_dir
    table, stored = maps
    result = evaluation.evaluate_slides(
        table, manifest, target_class="TLS", threshold={"fixed": 0.5, "validation": 0.2}, tile_px=100
    )
    assert len(result.slides) == 4
    truths = {"a": brute_truth(2.0, stored["a"].shape[::-1]), "b": np.zeros(stored["b"].shape, bool)}
    for row in result.slides.itertuples():
        positive = stored[row.slide_id] >= {"fixed": 128, "validation": 51}[row.threshold_by]
        expected = metrics.count_pixels(positive, truths[row.slide_id])
        assert (row.tp, row.fp, row.fn, row.tn) == tuple(expected.values())
        assert row.tp_tissue <= row.tp and row.fp_tissue < row.fp
        in_tissue = row.tp_tissue + row.fp_tissue + row.fn_tissue + row.tn_tissue
        assert in_tissue * 4e-6 == pytest.approx(row.tissue_mm2, rel=0.02)
        tiles = result.tiles[
            (result.tiles["slide_id"] == row.slide_id) & (result.tiles["threshold_by"] == row.threshold_by)
        ]
        assert tuple(tiles[list(metrics.COUNTS)].sum()) == (row.tp, row.fp, row.fn, row.tn)
        assert len(tiles) == 3 * 3
        one = tiles[(tiles["x_px"] == 100) & (tiles["y_px"] == 0)].iloc[0]
        box = np.s_[0:100, 100:200]
        expected = metrics.count_pixels(positive[box], truths[row.slide_id][box])
        assert tuple(one[list(metrics.COUNTS)]) == tuple(expected.values())


def test_histograms_give_the_counts_at_every_threshold(cohort_dir, maps):
    _, manifest = cohort_dir
    table, stored = maps
    result = evaluation.evaluate_slides(table, manifest, target_class="TLS", tile_px=128)
    truth = brute_truth(2.0, stored["a"].shape[::-1])
    for t in (0.01, 0.3, 0.5, 0.9, 1.0):
        counts = thresholds.counts_from_histograms(result.histograms, t).set_index("slide_id").loc["a"]
        expected = metrics.count_pixels(stored["a"] >= thresholds.cut(t), truth)
        assert tuple(counts[list(metrics.COUNTS)]) == tuple(expected.values())
    again = thresholds.counts_from_histograms(result.histograms, 0.5, region="tissue").set_index("slide_id").loc["a"]
    slides = result.slides.set_index("slide_id").loc["a"]
    assert [again[c] for c in metrics.COUNTS] == [slides[f"{c}_tissue"] for c in metrics.COUNTS]


def test_regions_that_could_not_be_read_are_left_out(cohort_dir, maps):
    folder, manifest = cohort_dir
    _, stored = maps
    path = write_map(folder / "lost.tif", stored["a"], mpp=2.0, invalid=[(10, 20, 30, 40), (290, 215, 50, 50)])
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [path]})
    result = evaluation.evaluate_slides(table, manifest, target_class="TLS", tile_px=64)
    valid = np.ones(stored["a"].shape, bool)
    valid[20:60, 10:40] = False
    valid[215:265, 290:340] = False
    expected = metrics.count_pixels(stored["a"] >= 128, brute_truth(2.0, stored["a"].shape[::-1]), valid=valid)
    row = result.slides.iloc[0]
    assert tuple(row[list(metrics.COUNTS)]) == tuple(expected.values())
    assert row["invalid_px"] == (~valid).sum() > 0
    assert result.histograms.query("region == 'slide'")["count"].sum() == valid.sum()


def test_what_a_screen_kept_the_network_from_is_negative_and_has_no_probability(cohort_dir, maps):
    folder, manifest = cohort_dir
    values = maps[1]["a"].copy()
    boxes = [(30, 40, 40, 60), (141, 80, 31, 18), (290, 215, 50, 50)]  # part of a target, most of one, over the edge
    unseen = np.zeros(values.shape, bool)
    for x, y, w, h in boxes:
        unseen[y : y + h, x : x + w] = True
    values[unseen] = 0
    path = write_map(folder / "screened.tif", values, mpp=2.0, unseen=boxes, invalid=[(200, 0, 10, 10)])
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [path]})
    named = {"fixed": 0.5, "zero": 0.0}
    result = evaluation.evaluate_slides(table, manifest, target_class="TLS", threshold=named, tile_px=64)
    truth, valid = brute_truth(2.0, values.shape[::-1]), np.ones(values.shape, bool)
    valid[:10, 200:210] = False
    slides = result.slides.set_index("threshold_by")
    assert (slides["unseen_px"] == unseen.sum()).all() and (slides["invalid_px"] == 100).all()
    for name, t in named.items():
        expected = metrics.count_pixels((values >= thresholds.cut(t)) & ~unseen, truth, valid=valid)
        assert tuple(slides.loc[name, list(metrics.COUNTS)]) == tuple(expected.values())
        tiles = result.tiles[result.tiles["threshold_by"] == name]
        assert tuple(tiles[list(metrics.COUNTS)].sum()) == tuple(expected.values()), "its tiles add up to the slide"
    # No bin but their own, and none of the calibration's; the curve ends where the network stopped to look.
    whole = result.histograms[result.histograms["region"] == "slide"]
    apart = whole[whole["bin"] == thresholds.UNSEEN].set_index("truth")["count"]
    assert apart.to_dict() == {0: (unseen & ~truth).sum(), 1: (unseen & truth).sum()}
    assert (whole.loc[whole["bin"] == 0, "count"].sum()) == ((values == 0) & ~unseen & valid).sum()
    curve, reliable = (f(result.histograms, region="slide") for f in (thresholds.pr_curve, thresholds.calibration))
    limit = (truth & ~unseen).sum() / truth.sum()
    assert curve["recall_limit"].iloc[0] == pytest.approx(limit) and curve["recall"].max() <= limit < 1
    assert reliable["pixels"].sum() == (valid & ~unseen).sum()
    assert (reliable["unseen_pixels"] == unseen.sum()).all()
    # On the grid, pixels that lie in a box as a whole.
    grid = evaluation.evaluate_grid(table, manifest, target_class="TLS", threshold=named, grid_mpp=4.0, closing_um=0)
    whole_px = np.zeros((112, 150), bool)
    for x, y, w, h in boxes:
        whole_px[-(-y // 2) : (y + h) // 2, -(-x // 2) : (x + w) // 2] = True
    counts = grid.counts.set_index("threshold_by")
    target = brute_truth(4.0, (150, 112))
    assert (counts["target_px_unseen"] == (whole_px & target).sum()).all() and (counts["unseen_px"] > 500).all()
    assert counts.loc["zero", "fn"] == counts.loc["zero", "target_px_unseen"] > 0, "all else is marked from 0 on"


def test_area_means_are_exact_for_any_ratio():
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, (37, 53), dtype=np.uint8)
    for ratio in (0.4, 1.0, 1.6, 2.5, 4.0, 7.3):
        grid = (max(1, round(53 / ratio)), max(1, round(37 / ratio)))
        found = np.zeros(grid[::-1])
        for y, rows in area_means(lambda y, h: source[y : y + h], (53, 37), ratio=ratio, grid_px=grid):
            found[y : y + len(rows)] = rows
        # Weight of each source pixel in each grid pixel: the length that they share, on each axis.
        share = [
            np.clip(
                np.minimum.outer((np.arange(n) + 1) * ratio, np.arange(size) + 1.0)
                - np.maximum.outer(np.arange(n) * ratio, np.arange(size) * 1.0),
                0, None,
            )
            for n, size in zip(grid, (53, 37), strict=True)
        ]  # fmt: skip
        expected = share[1] @ source @ share[0].T / np.outer(share[1].sum(axis=1), share[0].sum(axis=1))
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("mpp", [2.0, 8.0])
def test_a_perfect_map_reaches_the_ceiling_of_its_magnification(cohort_dir, mpp):
    folder, manifest = cohort_dir
    size = units.lattice_size(SIZE, MPP0, mpp)
    truth = Truth([shapely.box(160, 200, 400, 500), shapely.box(600, 301, 700.5, 421)], mpp0=MPP0)
    path = write_map(folder / f"perfect_{mpp}.tif", truth.at(0, 0, *size, mpp=mpp).astype(np.uint8) * 255, mpp=mpp)
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [path]})
    result = evaluation.evaluate_grid(table, manifest, target_class="TLS", grid_mpp=2.0)
    row = result.counts.iloc[0]
    # The third outline lies on glass, where the map holds nothing: it counts as missed.
    glass = 25 * 25
    assert row["target_px_outside_tissue"] == glass
    counts, ceiling = (np.array([row[f"{of}{c}"] for c in metrics.COUNTS]) for of in ("", "ceiling_"))
    assert row["ceiling_tp"] + row["ceiling_fn"] == row["tp"] + row["fn"]
    if mpp == 2.0:
        assert (counts - ceiling).tolist() == [-glass, 0, glass, 0]
    iou = row["tp"] / (row["tp"] + row["fp"] + row["fn"] - glass)
    assert (iou == 1.0) if mpp == 2.0 else (0.8 < iou < 1.0)


def test_grid_counts_are_of_the_mean_probability_on_the_grid(cohort_dir, maps):
    _, manifest = cohort_dir
    table, stored = maps
    counts = evaluation.evaluate_grid(table, manifest, target_class="TLS", grid_mpp=4.0, threshold=0.5).counts
    row = counts.set_index("slide_id").loc["a"]
    values = stored["a"].astype(float)
    size = units.lattice_size(SIZE, MPP0, 4.0)
    values = np.pad(values, ((0, 2 * size[1] - values.shape[0]), (0, 2 * size[0] - values.shape[1])), mode="edge")
    means = values.reshape(size[1], 2, size[0], 2).mean(axis=(1, 3))
    # Edges of outlines run through centres of pixels here, which `brute_truth` would leave out.
    boxes = [shapely.box(160, 200, 400, 500), shapely.box(600, 301, 700.5, 421), shapely.box(1000, 100, 1100, 200)]
    truth = Truth(boxes, mpp0=MPP0).at(0, 0, *size, mpp=4.0)
    inside = row[list(metrics.COUNTS)].sum()
    assert inside * 16e-6 == pytest.approx(row["tissue_mm2"], rel=0.03)
    # All of the target counts, on tissue or not; of means of exactly a half some are positive and some are not.
    assert np.sum((means > 127.5) & truth) <= row["tp"] <= np.sum((means >= 127.5) & truth)
    assert row["tp"] + row["fn"] == truth.sum()


def test_objects_of_the_grid_are_matched_and_measured(cohort_dir):
    folder, manifest = cohort_dir
    size = units.lattice_size(SIZE, MPP0, 2.0)
    predicted = Truth([shapely.box(160, 200, 400, 440), shapely.box(800, 600, 860, 700)], mpp0=MPP0)
    path = write_map(folder / "objects.tif", predicted.at(0, 0, *size, mpp=2.0).astype(np.uint8) * 200, mpp=2.0)
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [path]})
    result = evaluation.evaluate_grid(
        table, manifest, target_class="TLS", grid_mpp=2.0, closing_um=0.0, min_object_um2=500.0
    )
    truth = result.objects[result.objects["kind"] == "truth"].sort_values("best_iou", ascending=False)
    found = result.objects[result.objects["kind"] == "predicted"]
    assert truth["matched_iou50"].tolist() == [True, False, False]
    assert truth["best_iou"].iloc[0] == pytest.approx(0.8)
    assert truth["area_um2"].iloc[0] == pytest.approx(120 * 150)
    assert sorted(found["false_area_um2"]) == [0.0, 30.0 * 50.0]
    assert found.loc[found["matched_centroid"], "x_px0"].iloc[0] == pytest.approx(280)
    row = result.objects_per_slide.iloc[0]
    assert (row["n_truth"], row["n_predicted"]) == (3, 2)
    assert row["predicted_mm2"] == pytest.approx((120 * 120 + 1500) * 1e-6)


def test_a_slide_that_fails_leaves_no_row_and_is_reported(cohort_dir, maps):
    folder, manifest = cohort_dir
    table, _ = maps
    broken = table.copy()
    broken.loc[0, "map_path"] = str(folder / "missing.tif")
    failures = []
    result = evaluation.evaluate_slides(
        broken, manifest, target_class="TLS", on_failure=lambda slide_id, error: failures.append((slide_id, error))
    )
    assert [slide_id for slide_id, _ in failures] == ["a"]
    assert isinstance(failures[0][1], MapError)
    assert set(result.slides["slide_id"]) == set(result.tiles["slide_id"]) == {"b"}
    with pytest.raises(MapError):
        evaluation.evaluate_slides(broken, manifest, target_class="TLS")
    with pytest.raises(ParameterError, match="does not stand in the manifest"):
        evaluation.evaluate_slides(table.assign(slide_id=["a", "z"]), manifest, target_class="TLS")


def test_a_map_made_at_another_scale_is_refused(cohort_dir, maps):
    folder, manifest = cohort_dir
    _, stored = maps
    path = write_map(folder / "scaled.tif", stored["a"], mpp=2.0, mpp0=0.25)
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [path]})
    with pytest.raises(MapError, match="0.25 um/px.*now has 0.5"):
        evaluation.evaluate_slides(table, manifest, target_class="TLS")


def test_tiles_are_counted_in_their_order(monkeypatch):
    tiles = pd.DataFrame(
        {"tile_id": list("xyz"), "slide_id": ["a", "a", "b"], "patient_id": ["p", "p", "q"], "cancer_type": "lung"}
    )
    rng = np.random.default_rng(3)
    prob = rng.random((3, 16, 16), dtype=np.float32)
    truth = rng.random((3, 16, 16)) < 0.3

    def predict_tiles(checkpoint, tiles, manifest, **options):
        yield np.array([2, 0]), prob[[2, 0]], truth[[2, 0]]
        yield np.array([1]), prob[[1]], truth[[1]]

    from tlskit.maps import inference

    monkeypatch.setattr(inference, "predict_tiles", predict_tiles)
    counts = evaluation.evaluate_tiles(None, tiles, None, threshold={"fixed": 0.5, "validation": 0.25})
    assert counts["tile_id"].tolist() == list("xyzxyz")
    for n, row in enumerate(counts.itertuples()):
        positive = np.rint(prob[n % 3] * 255) >= (128 if n < 3 else 64)
        assert (row.tp, row.fp, row.fn, row.tn) == tuple(metrics.count_pixels(positive, truth[n % 3]).values())


def test_what_is_marked_on_glass_is_told_and_counted_nowhere(cohort_dir):
    folder, manifest = cohort_dir
    size = units.lattice_size(SIZE, MPP0, 2.0)
    # The third outline lies on glass, too: a mark on it counts, one beside it does not.
    marked = Truth([shapely.box(1000, 100, 1100, 200), shapely.box(1000, 500, 1100, 600)], mpp0=MPP0)
    path = write_map(folder / "glass.tif", marked.at(0, 0, *size, mpp=2.0).astype(np.uint8) * 255, mpp=2.0)
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [path]})
    result = evaluation.evaluate_grid(table, manifest, target_class="TLS", grid_mpp=2.0, closing_um=0.0)
    row = result.counts.iloc[0]
    assert (row["tp"], row["fp"], row["marked_px_outside"]) == (25 * 25, 0, 25 * 25)
    assert result.objects_per_slide["n_predicted"].tolist() == [1]


def test_ties_of_coarse_pixels_do_not_enlarge_an_object(cohort_dir):
    folder, manifest = cohort_dir
    # At 10 um/px on a grid of 4 um/px one grid pixel of five lies across two pixels of the map, half and half.
    outline = shapely.box(200, 200, 400, 480)
    size = units.lattice_size(SIZE, MPP0, 10.0)
    values = Truth([outline], mpp0=MPP0).at(0, 0, *size, mpp=10.0).astype(np.uint8) * 255
    table = pd.DataFrame({"slide_id": ["a"], "map_path": [write_map(folder / "coarse.tif", values, mpp=10.0)]})
    found = evaluation.evaluate_grid(
        table, manifest, target_class="TLS", grid_mpp=4.0, closing_um=0.0, min_object_um2=0.0
    ).objects
    predicted = found[found["kind"] == "predicted"]
    assert predicted["area_um2"].sum() == outline.area * MPP0**2 == 100 * 140


def test_a_grid_finer_than_the_scan_is_no_fault(cohort_dir, maps):
    _, manifest = cohort_dir
    fine = evaluation.evaluate_grid(maps[0].head(1), manifest, target_class="TLS", grid_mpp=0.4, with_objects=False)
    assert fine.counts["grid_mpp"].item() == 0.4


def test_objects_are_counted_at_every_threshold_of_the_curve_by_the_same_rules(cohort_dir, maps):
    _, manifest = cohort_dir
    result = evaluation.evaluate_grid(maps[0], manifest, target_class="TLS", grid_mpp=4.0, threshold=0.5)
    curve = result.objects_by_threshold
    assert curve.groupby("slide_id")["threshold"].apply(tuple).unique().tolist() == [CURVE]
    at_half = curve[curve["threshold"] == 0.5].set_index("slide_id")
    for row in result.objects_per_slide.itertuples():
        here = result.objects[result.objects["slide_id"] == row.slide_id]
        found = here[(here["kind"] == "truth") & here["matched_iou10"].astype(bool)]
        assert at_half.loc[row.slide_id, ["n_truth", "n_predicted", "n_found"]].tolist() == [
            row.n_truth, row.n_predicted, len(found)
        ]  # fmt: skip
