"""Pictures of pixels: what they show lies where it should, and examples are the ones they are said to be."""

import numpy as np
import pandas as pd
import pytest
from made_run import make_run, write_map
from matplotlib.patches import Rectangle
from shapely.geometry import Point

from tlskit.cohort import manifest as cohort
from tlskit.figures import example_slides, extreme_tiles, plots
from tlskit.figures.style import alt_text
from tlskit.metrics.scores import per_unit
from tlskit.outlines import reading as annotations
from tlskit.slides import slide as slides


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of two slides at 4x, and its manifest."""
    run_dir = make_run(tmp_path_factory.mktemp("project"), n_slides=2, magnifications=(4,))
    return run_dir, cohort.read_manifest(run_dir.parent / "cohorts" / "made" / "manifest.csv")


@pytest.fixture(scope="module")
def tiles(made):
    return pd.read_parquet(made[0] / "4x" / "work" / "tiles.parquet")


def test_a_gallery_goes_from_the_least_to_the_most_target_and_draws_outlines(made, tiles):
    figure = plots.tile_gallery(tiles, made[1], magnification=4, tile_px=128, target_class="TLS", n_tiles=6)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 6
    shares = sorted(tiles["target_fraction"])
    assert shown[-1].get_title().endswith(f"target {shares[-1]:.0%}")
    assert shown[0].images[0].get_array().shape[:2] == (128, 128)
    assert all(ax.patches for ax in shown)
    said = alt_text(figure)
    assert said.startswith(f"6 of {len(tiles)} tiles at 4x, from ") and f"to {shares[-1]:.0%} of a tile" in said


def test_with_a_context_each_tile_has_its_field_below_it_and_stands_framed_in_its_middle(made, tiles):
    options = {"magnification": 4, "tile_px": 128, "target_class": "TLS", "context_ratio": 4, "context_px": 96}
    figure = plots.tile_gallery(tiles, made[1], n_tiles=6, **options)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 12
    tile, context = shown[0], shown[4]  # six tiles: two lines of four, each of tiles above and contexts below
    assert tile.get_title() and not context.get_title()
    side = 128 / 4
    frame = [patch for patch in context.patches if isinstance(patch, Rectangle) and patch.get_width() == side]
    middle = frame[0].get_x() + side / 2, frame[0].get_y() + side / 2
    assert middle == pytest.approx((48, 48), abs=0.5)
    across = int(side)
    left, top = (round(corner) for corner in frame[0].get_xy())
    inside = context.images[0].get_array()[top : top + across, left : left + across].astype(float)
    fine = tile.images[0].get_array().reshape(across, 4, across, 4, 3).mean(axis=(1, 3))
    assert np.abs(inside - fine).mean() < np.abs(inside - fine[::-1]).mean() / 2, "the tile's own pixels, averaged"
    assert "its context of 96 px at 10 um/px" in alt_text(figure)


def test_a_sliver_of_target_is_not_called_none(made, tiles):
    sliver = tiles.head(1).assign(target_fraction=0.001)
    figure = plots.tile_gallery(sliver, made[1], magnification=4, tile_px=128, target_class="TLS")
    assert figure.axes[0].get_title().endswith("target below 1%")


def test_extreme_tiles_are_the_worst_and_the_best_one_of_each_slide_first():
    tiles = pd.DataFrame({"tile_id": list("abcdef"), "slide_id": ["s", "s", "s", "t", "t", "u"]})
    iou = {"a": 10, "b": 0, "c": 20, "d": 90, "e": 30, "f": 50}
    counts = pd.DataFrame([{"tile_id": k, "tp": v, "fp": 60 - v // 2, "fn": 40 - v + v // 2} for k, v in iou.items()])
    worst, best = extreme_tiles(tiles, counts, n_tiles=3)
    assert worst["tile_id"].tolist() == ["b", "e", "f"]
    assert best["tile_id"].tolist() == ["d", "f", "c"]
    assert list(worst.columns) == list(tiles.columns)


def test_best_median_and_worst_slides_are_those_and_undefined_ones_are_passed_over():
    per_slide = pd.DataFrame({"slide_id": list("abcde"), "dice": [0.2, 0.9, np.nan, 0.5, 0.7]})
    maps = pd.DataFrame({"slide_id": list("abcde"), "map_path": [f"{s}.tif" for s in "abcde"]})
    chosen = example_slides(per_slide, maps)
    assert chosen["slide_id"].tolist() == ["b", "e", "a"]
    assert chosen["title"].tolist() == ["best: b\nDice 0.90", "median: e\nDice 0.70", "worst: a\nDice 0.20"]
    assert example_slides(per_slide.head(2), maps)["slide_id"].tolist() == ["b", "a"]


def test_outlines_lie_on_the_slide_and_on_its_map_in_millimetres(made):
    run_dir, manifest = made
    maps = pd.DataFrame(
        [{"slide_id": p.stem, "map_path": p} for p in sorted((run_dir / "4x" / "work" / "maps").glob("*.tif"))]
    )
    counts = pd.read_csv(run_dir / "4x" / "tables" / "04_counts_per_tile.csv")
    examples = example_slides(per_unit(counts.drop(columns="split"), "slide_id"), maps)
    figure = plots.slide_overlays(examples, manifest, threshold=0.5, target_class="TLS", min_object_um2=1000)
    figure.draw_without_rendering()
    row = manifest.set_index("slide_id").loc[examples["slide_id"].iloc[0]]
    with slides.open_slide(row["slide_path"]) as slide:
        mpp0, width_px0 = slide.mpp0, slide.size_px0[0]
    truth = annotations.read_targets(row["annotation_path"], "TLS")
    for ax in (figure.axes[0], figure.axes[2]):
        assert ax.get_xlim()[1] == pytest.approx(width_px0 * mpp0 / 1000, rel=0.01)
    on_map = [patch.get_path().get_extents().bounds for patch in figure.axes[2].patches]
    expected = [np.asarray(polygon.bounds) * mpp0 / 1000 for polygon in truth]
    drawn = [(x, y, x + width, y + height) for x, y, width, height in on_map]
    assert np.allclose(sorted(drawn), sorted(map(tuple, expected)), atol=1e-6)
    # The map is bright inside the largest target, at the place where its outline is drawn.
    values = figure.axes[2].images[0].get_array()
    left, right, bottom, top = figure.axes[2].images[0].get_extent()
    largest = max(truth, key=lambda polygon: polygon.area).representative_point()
    column = int((largest.x * mpp0 / 1000 - left) / (right - left) * values.shape[1])
    line = int((largest.y * mpp0 / 1000 - top) / (bottom - top) * values.shape[0])
    assert values[line, column] > 0.9
    predicted = len(figure.axes[0].patches) - len(truth)
    assert predicted > 0
    assert f", {len(on_map)} outlines of the truth, {predicted} predicted" in alt_text(figure)


def test_what_was_not_looked_at_is_hatched_on_the_slide_and_on_its_map_and_named(made, tmp_path):
    run_dir, manifest = made
    row = manifest.iloc[0]
    with slides.open_slide(row["slide_path"]) as slide:
        (width, height), mpp0 = slide.size_px(2.5), slide.mpp0
    boxes = {"unseen": [(0, 0, 100, 60), (100, 0, 40, 30)], "invalid": [(300, 200, 64, 32)]}
    values = np.full((height, width), 30, np.uint8)
    write_map(tmp_path / "m.tif", values, mpp=2.5, metadata={"mpp0": mpp0} | boxes, block_px=64)
    examples = pd.DataFrame([{"slide_id": row["slide_id"], "map_path": tmp_path / "m.tif", "title": "a cascade"}])
    figure = plots.slide_overlays(examples, manifest, threshold=0.5, target_class="TLS")
    for ax in figure.axes[:2]:
        drawn = {p.get_gid(): p.get_path().get_extents().bounds for p in ax.patches if p.get_gid()}
        assert drawn["unseen"] == pytest.approx((0, 0, 0.35, 0.15)) and drawn["lost"] == pytest.approx(
            (0.75, 0.5, 0.16, 0.08)
        )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["truth", "prediction", "not looked at", "could not be read"]
    # A slide of which all was looked at has no such word.
    maps = sorted((run_dir / "4x" / "work" / "maps").glob("*.tif"))
    whole = plots.slide_overlays(examples.assign(map_path=maps[0]), manifest, threshold=0.5, target_class="TLS")
    assert [text.get_text() for text in whole.legends[0].get_texts()] == ["truth", "prediction"]


def test_one_target_is_shown_at_every_magnification_with_its_mask(made):
    figure = plots.target_at_magnifications(made[1], target_class="TLS", field_px=128, magnifications=(1, 4))
    titles = [ax.get_title() for ax in figure.axes[:2]]
    assert titles == ["1x\n1,280 um wide", "4x\n320 um wide"]
    shares = [float(ax.images[0].get_array().mean()) for ax in figure.axes[2:4]]
    assert 0 < shares[0] < shares[1]
    assert f"at 1x {shares[0]:.1%} of pixels, 4x {shares[1]:.1%} of pixels" in alt_text(figure)


def test_a_magnification_beyond_the_scan_and_a_cohort_without_target_say_so(made):
    figure = plots.target_at_magnifications(made[1], target_class="TLS", field_px=64, magnifications=(4, 80))
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert any("scanned at" in text for text in texts) and "80x finer than the scan" in alt_text(figure)
    figure = plots.target_at_magnifications(made[1].assign(annotation_path=""), target_class="TLS", magnifications=(4,))
    assert figure.texts[0].get_text() == "No slide of this cohort holds a target." == alt_text(figure)


def test_no_tile_and_no_score_are_words(made, tiles):
    none = tiles.head(0)
    assert alt_text(plots.tile_gallery(none, made[1], magnification=4, tile_px=128, target_class="TLS")) == (
        "No tile to show."
    )
    examples = pd.DataFrame(columns=["slide_id", "map_path", "title"])
    figure = plots.slide_overlays(examples, made[1], threshold=0.5, target_class="TLS")
    assert alt_text(figure) == "No slide has a defined score."


def test_outlines_keep_their_holes():
    import matplotlib.pyplot as plt

    ring = Point(50, 50).buffer(40).difference(Point(50, 50).buffer(20))
    figure, ax = plt.subplots()
    plots.draw_outlines(ax, [ring], scale=1.0, colour=plots.TRUTH_COLOUR)
    path = ax.patches[0].get_path()
    assert (path.codes == path.MOVETO).sum() == 2
    plt.close(figure)
