"""The grid's arithmetic, what each tile holds, and the same pixels from slide and PNG."""

import math

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
from made_slides import patch_tile, quartering_slide, vips_slide

from tlskit.cohort import manifest as cohort
from tlskit.errors import AnnotationError, ParameterError, SlideError
from tlskit.outlines import reading as annotations
from tlskit.slides.slide import open_slide
from tlskit.tiles import tiling

MPP0 = 0.2529


def corners(side, tile, stride, edge):
    """Positions along one axis, by walking."""
    found, x = [], 0
    while x + tile <= side or (edge == "pad" and (not found or found[-1] + tile < side)):
        found.append(x)
        x += stride
    return found


@pytest.mark.parametrize("edge", ["drop", "pad"])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.3, 0.9])
@pytest.mark.parametrize("magnification", [20, 10, 4, 1])
@pytest.mark.parametrize("size_px0", [(9000, 7000), (2531, 1999), (1024, 1024), (300, 8000)], ids=str)
@pytest.mark.parametrize("mpp0", [0.25, 0.2529])
def test_the_grid_is_predictable(size_px0, mpp0, magnification, overlap, edge):
    d = 10 / magnification / mpp0
    size = tuple(max(1, math.floor(side / d + 0.5)) for side in size_px0)
    stride = round(512 * (1 - overlap))
    expected = [(x, y) for y in corners(size[1], 512, stride, edge) for x in corners(size[0], 512, stride, edge)]
    got = tiling.tile_grid(size, 512, overlap=overlap, edge_tiles=edge)
    assert got.dtype == np.int64 and got.shape == (len(expected), 2)
    assert [tuple(p) for p in got.tolist()] == expected


@pytest.mark.parametrize("edge", ["drop", "pad"])
@pytest.mark.parametrize("size", [(511, 511), (512, 512), (513, 512), (512, 2000), (1, 1), (767, 768), (1025, 1023)])
def test_padding_covers_every_pixel_and_dropping_leaves_the_slide_never(size, edge):
    grid = tiling.tile_grid(size, 512, overlap=0.5, edge_tiles=edge)
    covered = np.zeros(size[::-1], bool)
    for x, y in grid:
        covered[y : y + 512, x : x + 512] = True
    if edge == "pad":
        assert covered.all() and len(grid) >= 1
        assert all(x < size[0] and y < size[1] for x, y in grid)
    else:
        assert all(x + 512 <= size[0] and y + 512 <= size[1] for x, y in grid)
        assert len(grid) == 0 or min(size) >= 512


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"overlap": 1.0}, "overlap"), ({"overlap": -0.1}, "overlap"), ({"edge_tiles": "keep"}, "edge_tiles")],
)
def test_impossible_grids_are_refused(change, reason):
    with pytest.raises(ParameterError, match=reason):
        tiling.tile_grid((1000, 1000), 512, **({"overlap": 0.5} | change))
    with pytest.raises(ParameterError, match="tile_px"):
        tiling.tile_grid((1000, 1000), 0, overlap=0.5)


def brute_force(polygons, xy, tile_px, d):
    """Fraction of pixel centres in the union of the polygons, centre by centre."""
    union = shapely.unary_union(polygons)
    centres = np.stack(np.meshgrid(np.arange(tile_px), np.arange(tile_px)), axis=-1).reshape(-1, 2) + 0.5
    return np.array([shapely.contains_xy(union, (centres + corner) * d).mean() for corner in xy])


@pytest.mark.parametrize("overlap", [0, 0.5, 0.6])
def test_target_fractions_are_exact_pixel_counts(overlap):
    d = 2.5 / MPP0
    polygons = [
        shapely.Point(900.3, 700.7).buffer(321.9),
        shapely.Point(1500, 900).buffer(300) - shapely.Point(1500, 900).buffer(120),
        shapely.box(2301, 100, 2312, 1700),
        shapely.Point(1000, 760).buffer(200),  # overlaps the first: counted once
    ]
    xy = tiling.tile_grid((260, 190), 40, overlap=overlap)
    got = tiling.target_fractions(polygons, xy, 40, mpp=2.5, mpp0=MPP0)
    np.testing.assert_allclose(got, brute_force(polygons, xy, 40, d), atol=1e-12)
    assert 0 < (got > 0).sum() < len(xy)


def test_no_polygons_and_no_tiles_are_no_target():
    xy = tiling.tile_grid((200, 200), 40, overlap=0.5)
    assert (tiling.target_fractions([], xy, 40, mpp=1.0, mpp0=0.5) == 0).all()
    assert tiling.target_fractions([shapely.box(0, 0, 9, 9)], xy[:0], 40, mpp=1.0, mpp0=0.5).shape == (0,)
    far = [shapely.box(9000, 9000, 9900, 9900)]
    assert (tiling.target_fractions(far, xy, 40, mpp=1.0, mpp0=0.5) == 0).all()


def tissue_picture(width, height):
    image = np.full((height, width, 3), 243, np.uint8)
    centre, axes = (width // 2, height // 2), (int(width * 0.36), int(height * 0.36))
    cv2.ellipse(image, centre, axes, 0, 0, 360, (226, 150, 190), -1)
    rng = np.random.default_rng(0)
    return (image + rng.integers(-3, 4, image.shape)).clip(0, 255).astype(np.uint8)


#: Level-0 px, inside the ellipse of tissue.
TARGETS = [shapely.Point(1400, 1100).buffer(210), shapely.Point(1750, 1250).buffer(90)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    image = tissue_picture(3001, 2503)
    quartering_slide(folder / "s1.tif", image, mpp=MPP0)
    vips_slide(folder / "s2.tif", image, mpp=MPP0)
    vips_slide(folder / "s3.tif", np.full((900, 1100, 3), 243, np.uint8), mpp=MPP0)
    annotations.write_geojson(folder / "s1.geojson", TARGETS, class_name="TLS")
    annotations.write_geojson(folder / "s2.geojson", TARGETS[:1], class_name="TLS")
    annotations.write_geojson(folder / "s3.geojson", [], class_name="TLS")
    rows = [(f"s{i}", f"p{i % 2}", "lung", f"s{i}.tif", f"s{i}.geojson") for i in (1, 2, 3)]
    columns = ["slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
    return cohort.read_manifest(folder / "manifest.csv")


def tile(manifest, **change):
    settings = {"magnification": 10, "tile_px": 128, "target_class": "TLS"}
    return tiling.tile_cohort(manifest, **(settings | change))


@pytest.mark.parametrize("magnification", [20, 10, 4])
def test_tiles_with_target_are_kept_with_exact_fractions(manifest, magnification):
    tiles, slides = tile(manifest, magnification=magnification)
    assert list(tiles.columns) == list(tiling.TILE_COLUMNS) and list(slides.columns) == list(tiling.SLIDE_COLUMNS)
    mpp = 10 / magnification
    d = mpp / MPP0
    size = (math.floor(3001 / d + 0.5), math.floor(2503 / d + 0.5))
    for slide_id, polygons in (("s1", TARGETS), ("s2", TARGETS[:1])):
        xy = tiling.tile_grid(size, 128, overlap=0.5)
        expected = brute_force(polygons, xy, 128, d)
        mine = tiles[tiles.slide_id == slide_id]
        np.testing.assert_array_equal(mine[["x_px0", "y_px0"]], xy[expected > 0] * d)
        np.testing.assert_allclose(mine.target_fraction, expected[expected > 0], atol=1e-12)
        assert (mine.size_px0 == 128 * d).all()
    assert not (tiles.slide_id == "s3").any()
    assert slides.slide_id.tolist() == ["s1", "s2", "s3"]
    for row in slides.itertuples():
        assert row.grid_tiles == row.kept_tiles + row.dropped_no_tissue + row.dropped_no_target
        assert (row.mpp0, row.mpp_source, row.reader) == (MPP0, "openslide", "jpeg")
    assert slides.n_targets.tolist() == [2, 1, 0]
    area = shapely.unary_union(TARGETS).area * MPP0**2 / 1e6
    assert slides.target_mm2[0] == pytest.approx(area, rel=1e-3)
    ellipse = math.pi * 0.36**2 * 3001 * 2503 * MPP0**2 / 1e6
    assert slides.tissue_mm2[0] == pytest.approx(ellipse, rel=0.1)
    assert slides.tissue_mm2[2] == 0


def test_tiles_with_tissue_are_kept_when_asked(manifest):
    tiles, slides = tile(manifest, keep_tiles="tissue", min_tissue=0.3)
    assert ((tiles.tissue_fraction >= 0.3) | (tiles.target_fraction > 0)).all()
    assert (tiles.target_fraction == 0).any() and tiles.tissue_fraction.min() >= 0.3
    row = slides.iloc[0]
    assert row.dropped_no_target == 0 and row.kept_tiles + row.dropped_no_tissue == row.grid_tiles
    d = 1.0 / MPP0
    for one in tiles[tiles.slide_id == "s1"].iloc[::7].itertuples():
        x, y = (np.arange(one.x_px0, one.x_px0 + 128 * d, 8), np.arange(one.y_px0, one.y_px0 + 128 * d, 8))
        inside = ((x[None] - 1500) / (3001 * 0.36)) ** 2 + ((y[:, None] - 1251) / (2503 * 0.36)) ** 2 <= 1
        assert one.tissue_fraction == pytest.approx(inside.mean(), abs=0.12)


def test_names_follow_the_papers_files(manifest):
    tiles, _ = tile(manifest)
    d = 1.0 / MPP0
    for row in tiles.itertuples():
        side = round(128 * d)
        assert row.tile_id == f"{row.slide_id}_({d:g},{round(row.x_px0)},{round(row.y_px0)},{side},{side})"
    assert tiles.tile_id.is_unique


def test_png_tiles_hold_the_pixels_of_the_slide(manifest, tmp_path):
    tiles, slides = tile(manifest, tile_store="png", tiles_dir=tmp_path / "tiles")
    pd.testing.assert_frame_equal(tiles, tile(manifest).tiles)
    assert sorted(p.name for p in (tmp_path / "tiles").iterdir()) == ["s1", "s2"]
    by_id = {row.slide_id: row for row in cohort.slide_rows(manifest)}
    for row in tiles.itertuples():
        with cohort.open_row(by_id[row.slide_id]) as slide:
            x, y = round(row.x_px0 * MPP0), round(row.y_px0 * MPP0)
            expected = slide.read(x, y, 128, 128, mpp=1.0)
        image = cv2.imread(str(tmp_path / "tiles" / row.slide_id / f"{row.tile_id}.png"))[..., ::-1]
        np.testing.assert_array_equal(image, expected)
        mask = cv2.imread(str(tmp_path / "tiles" / row.slide_id / f"{row.tile_id}-mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (128, 128) and set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).mean() == pytest.approx(row.target_fraction, abs=1e-12)
    files = [p for p in (tmp_path / "tiles").rglob("*") if p.is_file()]
    assert len(files) == 2 * len(tiles)


@pytest.mark.parametrize("edge", ["drop", "pad"])
def test_edges_are_counted(manifest, edge):
    slides = tile(manifest, edge_tiles=edge, tile_px=200, overlap=0).slides
    size = (math.floor(3001 * MPP0 + 0.5), math.floor(2503 * MPP0 + 0.5))
    every, whole = (len(tiling.tile_grid(size, 200, overlap=0, edge_tiles=e)) for e in ("pad", "drop"))
    assert slides.dropped_edge[0] == (every - whole if edge == "drop" else 0)
    assert slides.grid_tiles[0] == (whole if edge == "drop" else every)


def test_a_slide_smaller_than_a_tile_gives_none_or_one(manifest):
    one = manifest.iloc[:1]
    assert len(tile(one, magnification=1).tiles) == 0
    tiles, slides = tile(one, magnification=1, edge_tiles="pad", tile_px=512)
    assert len(tiles) == 1 and slides.grid_tiles[0] == 1
    with cohort.open_row(next(cohort.slide_rows(one))) as slide:
        image = slide.read(0, 0, 512, 512, mpp=10.0)
    assert (image[70:] == 255).all() and (image[:, 80:] == 255).all()


def test_a_slide_that_fails_is_reported_and_the_rest_goes_on(manifest, tmp_path):
    broken = manifest.copy()
    (tmp_path / "empty.svs").touch()
    broken.loc[1, "slide_path"] = str(tmp_path / "empty.svs")
    with pytest.raises(SlideError, match="empty.svs"):
        tile(broken)
    failures = []
    tiles, slides = tile(broken, on_failure=lambda slide_id, error: failures.append((slide_id, error)))
    assert [f[0] for f in failures] == ["s2"] and isinstance(failures[0][1], SlideError)
    assert slides.slide_id.tolist() == ["s1", "s3"]
    whole = tile(manifest).tiles
    pd.testing.assert_frame_equal(tiles, whole[whole.slide_id == "s1"].reset_index(drop=True))


def test_a_wrong_class_is_told_with_the_names_there_are(manifest):
    with pytest.raises(AnnotationError, match="TLS"):
        tile(manifest, target_class="Tumour")
    tiles, slides = tile(manifest, target_class="Tumour", missing_target="empty")
    assert len(tiles) == 0 and list(tiles.columns) == list(tiling.TILE_COLUMNS)
    assert slides.n_targets.tolist() == [0, 0, 0]


@pytest.mark.parametrize("tile_store", ["slide", "png"])
def test_tiles_that_cannot_be_read_are_left_out_and_counted_and_told(tmp_path, tile_store):
    path = quartering_slide(tmp_path / "s.tif", tissue_picture(3001, 2503), mpp=MPP0)
    annotations.write_geojson(tmp_path / "s.geojson", TARGETS, class_name="TLS")
    (tmp_path / "manifest.csv").write_text(
        "slide_id,patient_id,cancer_type,slide_path,annotation_path\ns,p,lung,s.tif,s.geojson\n", encoding="utf-8"
    )
    broken = cohort.read_manifest(tmp_path / "manifest.csv")
    everything = tile(broken, magnification=20).tiles
    patch_tile(path, 5, 4, lambda data: bytes(len(data)), page=0)  # level-0 [1200, 1440) x [960, 1200)
    told = []
    tiles, slides = tile(
        broken, magnification=20, tile_store=tile_store, tiles_dir=tmp_path / "tiles",
        on_failure=lambda slide_id, error: told.append((slide_id, str(error))),
    )  # fmt: skip
    hit = (
        (everything.x_px0 < 1440) & (everything.x_px0 + everything.size_px0 > 1200)
        & (everything.y_px0 < 1200) & (everything.y_px0 + everything.size_px0 > 960)
    )  # fmt: skip
    assert hit.any() and not hit.all()
    assert tiles.tile_id.tolist() == everything.tile_id[~hit].tolist()
    assert slides.dropped_lost[0] == hit.sum() and slides.kept_tiles[0] == (~hit).sum()
    assert [slide_id for slide_id, _ in told] == ["s"]
    assert f"{hit.sum()} of {len(hit)} tiles" in told[0][1] and "(1200, 960), 240 x 240 px" in told[0][1]
    with open_slide(path) as slide:
        for x, y in (tiles[["x_px0", "y_px0"]].to_numpy() * MPP0 / 0.5).round().astype(int):
            slide.read(x, y, 128, 128, mpp=0.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keep_tiles": "all"}, "keep_tiles"),
        ({"tile_store": "jpg"}, "tile_store"),
        ({"tile_store": "png"}, "tiles_dir"),
        ({"overlap": 1}, "overlap"),
    ],
)
def test_impossible_settings_are_refused_before_any_slide_is_opened(manifest, change, reason):
    absent = manifest.assign(slide_path="/nowhere.svs")
    with pytest.raises(ParameterError, match=reason):
        tile(absent, **change)


def test_the_number_of_workers_changes_nothing(manifest):
    one, four = tile(manifest, workers=1), tile(manifest, workers=4)
    pd.testing.assert_frame_equal(one.tiles, four.tiles)
    pd.testing.assert_frame_equal(one.slides.drop(columns="seconds"), four.slides.drop(columns="seconds"))


def test_both_readers_give_the_same_tissue_and_so_the_same_tiles(manifest, monkeypatch):
    fast = tile(manifest.iloc[:1], keep_tiles="tissue")
    monkeypatch.setattr(tiling, "open_row", lambda row, **reading: open_slide(row.slide_path, fast=False))
    plain = tile(manifest.iloc[:1], keep_tiles="tissue")
    assert plain.slides.reader[0] == "openslide"
    pd.testing.assert_frame_equal(fast.tiles, plain.tiles)
