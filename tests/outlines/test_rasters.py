"""Polygons to masks by pixel centres, masks to polygons by pixel edges."""

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio import features
from rasterio.transform import Affine
from scipy import ndimage
from scipy.spatial import Delaunay
from shapely.geometry import MultiPolygon, Point, Polygon, box

from tlskit.outlines import reading as annotations

MAGNIFICATIONS = {20: 0.5, 10: 1.0, 4: 2.5, 1: 10.0}


def star(rng, centre, radius, points):
    angle = np.sort(rng.uniform(0, 2 * np.pi, points))
    reach = radius * rng.uniform(0.4, 1.0, points)
    return shapely.make_valid(
        Polygon(np.column_stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)])),
        method="structure",
    )


def shapes_at(rng, size_px0):
    """Stars with holes, a multipolygon, and some that reach over the edges of the slide."""
    width, height = size_px0
    found = []
    for _ in range(4):
        centre = rng.uniform((-0.1 * width, -0.1 * height), (1.1 * width, 1.1 * height))
        radius = rng.uniform(0.1, 0.4) * min(size_px0)
        outer = star(rng, centre, radius, int(rng.integers(5, 40)))
        found.append(outer.difference(star(rng, centre, 0.4 * radius, 9)))
    found.append(shapely.union_all(found[:2]))
    return [p for p in found if not p.is_empty]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    magnification=st.sampled_from(sorted(MAGNIFICATIONS)),
    mpp0=st.sampled_from([0.2529, 0.25, 0.499, 0.1163]),
    corner=st.tuples(st.integers(-30, 60), st.integers(-30, 60)),
)
def test_a_pixel_is_in_where_its_centre_is_whatever_the_magnification_and_the_border(seed, magnification, mpp0, corner):
    rng = np.random.default_rng(seed)
    mpp = MAGNIFICATIONS[magnification]
    d = mpp / mpp0
    polygons = shapes_at(rng, (80 * d, 60 * d))
    x_px, y_px = corner
    mask = annotations.rasterise(polygons, x_px=x_px, y_px=y_px, width_px=70, height_px=50, mpp=mpp, mpp0=mpp0)

    x, y = np.meshgrid((x_px + np.arange(70) + 0.5) * d, (y_px + np.arange(50) + 0.5) * d)
    inside = np.zeros((50, 70), bool)
    near_an_edge = np.zeros((50, 70), bool)
    centres = shapely.points(x, y)
    for polygon in polygons:
        inside |= shapely.contains_xy(polygon, x, y)
        near_an_edge |= shapely.dwithin(polygon.boundary, centres, 1e-7 * d)
    assert mask.dtype == bool and mask.shape == (50, 70)
    assert np.array_equal(mask[~near_an_edge], inside[~near_an_edge])
    assert near_an_edge.sum() <= 2


@pytest.mark.parametrize("d", [1.0, 2.0, 4.0])
def test_triangles_that_share_edges_share_no_pixel_and_leave_none(d):
    """Corners on whole level-0 pixels lie on pixel centres at half the resolution: ties are the rule."""
    rng = np.random.default_rng(3)
    points = np.unique(np.vstack([[(0, 0), (64, 0), (0, 64), (64, 64)], rng.integers(0, 65, (120, 2))]), axis=0)
    triangles = [Polygon(points[t]) for t in Delaunay(points).simplices]
    size = int(64 / d) + 2
    counts = sum(
        annotations.rasterise([t], x_px=0, y_px=0, width_px=size, height_px=size, mpp=d, mpp0=1.0).astype(int)
        for t in triangles
    )
    centres = (np.arange(size) + 0.5) * d
    covered = (centres[:, None] < 64) & (centres[None, :] < 64)
    assert np.array_equal(counts, covered.astype(int))


def test_both_directions_of_a_ring_and_every_start_give_the_same_mask():
    polygon = Polygon([(1, 1), (9, 3), (13, 13), (5, 11), (3, 7)], [[(5, 5), (7, 5), (7, 7)]])
    options = dict(x_px=0, y_px=0, width_px=8, height_px=8, mpp=2.0, mpp0=1.0)
    masks = [annotations.rasterise([p], **options) for p in (polygon, polygon.reverse(), polygon.normalize())]
    assert masks[0].sum() > 10
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("mpp0", [0.25, 0.2529])
def test_a_tile_drawn_alone_is_cut_out_of_the_whole(mpp0):
    rng = np.random.default_rng(5)
    polygons = [shapely.transform(p, np.rint) for p in shapes_at(rng, (900, 700))]
    whole = annotations.rasterise(polygons, x_px=-10, y_px=-10, width_px=500, height_px=400, mpp=0.5, mpp0=mpp0)
    assert whole.any() and not whole.all()
    for x_px, y_px in rng.integers(-10, 380, (30, 2)):
        tile = annotations.rasterise(polygons, x_px=x_px, y_px=y_px, width_px=64, height_px=64, mpp=0.5, mpp0=mpp0)
        expected = whole[y_px + 10 : y_px + 74, x_px + 10 : x_px + 74]
        assert np.array_equal(tile[: expected.shape[0], : expected.shape[1]], expected)


def test_gdal_draws_the_same_where_no_centre_lies_on_an_edge():
    rng = np.random.default_rng(11)
    polygons = shapes_at(rng, (3000, 3000))
    d = 0.5 / 0.2529
    mask = annotations.rasterise(polygons, x_px=20, y_px=30, width_px=1200, height_px=1100, mpp=0.5, mpp0=0.2529)
    transform = Affine(d, 0, 20 * d, 0, d, 30 * d)
    gdal = features.rasterize(polygons, out_shape=(1100, 1200), transform=transform, dtype="uint8").astype(bool)
    assert mask.sum() > 100_000
    assert np.array_equal(mask, gdal)


def test_overlapping_polygons_are_united_and_holes_left_out():
    hole = box(4, 4, 6, 6)
    polygons = [
        box(0, 0, 10, 10).difference(hole),
        box(5, 0, 15, 10),
        MultiPolygon([box(20, 0, 22, 2), box(25, 0, 26, 1)]),
    ]
    mask = annotations.rasterise(polygons, x_px=0, y_px=0, width_px=30, height_px=12, mpp=1.0, mpp0=1.0)
    assert mask.sum() == 15 * 10 - 2 + 4 + 1  # the second polygon covers half of the first one's hole


def test_nothing_to_draw_gives_an_empty_mask_of_the_size_asked():
    options = dict(x_px=100, y_px=100, width_px=7, height_px=5, mpp=1.0, mpp0=1.0)
    for polygons in ([], [Polygon()], [box(0, 0, 50, 50)], [box(100.6, 100.6, 101.4, 101.4)]):
        assert not annotations.rasterise(polygons, **options).any()
    assert annotations.rasterise([box(0, 0, 999, 999)], **options).all()
    assert annotations.rasterise([], **{**options, "width_px": 0}).shape == (5, 0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    density=st.floats(0.02, 0.98),
    smooth=st.integers(0, 3),
    mpp0=st.sampled_from([0.25, 0.2529, 1.0]),
    corner=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
)
def test_polygons_of_a_mask_have_its_area_its_objects_and_give_it_back(seed, shape, density, smooth, mpp0, corner):
    rng = np.random.default_rng(seed)
    noise = ndimage.uniform_filter(rng.random(shape), smooth + 1)
    mask = noise < np.quantile(noise, density)
    x_px, y_px = corner
    polygons = annotations.polygonise(mask, mpp=2.5, mpp0=mpp0, x_px=x_px, y_px=y_px)
    d = 2.5 / mpp0

    assert all(type(p) is Polygon and p.is_valid for p in polygons)
    assert len(polygons) == ndimage.label(mask)[1]
    assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * d * d, rel=1e-9)
    back = annotations.rasterise(
        polygons, x_px=x_px, y_px=y_px, width_px=shape[1], height_px=shape[0], mpp=2.5, mpp0=mpp0
    )
    assert np.array_equal(back, mask)


def test_objects_far_apart_and_inside_one_another_are_traced_whole():
    """Boxes around objects are traced one by one: a box may hold another object, or its hole."""
    mask = np.zeros((700, 900), bool)
    y, x = np.mgrid[:700, :900]
    distance = np.hypot(x - 300, y - 300)
    mask[(distance > 200) & (distance < 230) | (distance < 60)] = True  # a ring, and a disc in it
    mask[5:9, 880:897] = True
    mask[695:, 890:] = True
    polygons = annotations.polygonise(mask, mpp=1.0, mpp0=0.5)
    assert len(polygons) == 4
    assert [len(p.interiors) for p in polygons] == [0, 1, 0, 0]
    assert sum(p.area for p in polygons) == 4 * mask.sum()
    assert np.array_equal(
        annotations.rasterise(polygons, x_px=0, y_px=0, width_px=900, height_px=700, mpp=1.0, mpp0=0.5), mask
    )


def test_pixels_that_meet_at_a_corner_are_two_objects_and_a_closed_corner_is_a_hole():
    assert len(annotations.polygonise(np.eye(4), mpp=1.0, mpp0=1.0)) == 4
    ring = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]])
    (polygon,) = annotations.polygonise(ring, mpp=1.0, mpp0=1.0)
    assert polygon.area == 7 and polygon.is_valid


def test_a_disc_keeps_its_area_at_every_magnification_where_contours_through_centres_lose_it():
    disc = Point(1000, 1000).buffer(600, quad_segs=256)  # 300 um across at 0.25 um/px
    for mpp, lost in ((0.5, 0.003), (1.0, 0.006), (2.5, 0.014), (10.0, 0.06)):
        size = int(2000 * 0.25 / mpp)
        mask = annotations.rasterise([disc], x_px=0, y_px=0, width_px=size, height_px=size, mpp=mpp, mpp0=0.25)
        (polygon,) = annotations.polygonise(mask, mpp=mpp, mpp0=0.25)
        assert polygon.area == pytest.approx(mask.sum() * (mpp / 0.25) ** 2, rel=1e-12)
        assert polygon.area == pytest.approx(disc.area, rel=0.02)
        (contour,), _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert cv2.contourArea(contour) < (1 - lost) * mask.sum()


def test_small_objects_are_left_out_by_area_in_um2():
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = True  # 9 px of 2 um: 36 um2
    mask[10:12, 10:12] = True  # 16 um2
    assert len(annotations.polygonise(mask, mpp=2.0, mpp0=0.5, min_area_um2=16.0)) == 2
    assert len(annotations.polygonise(mask, mpp=2.0, mpp0=0.5, min_area_um2=16.1)) == 1
    assert annotations.polygonise(mask, mpp=2.0, mpp0=0.5, min_area_um2=1e9) == []


def test_a_mask_must_have_two_dimensions():
    with pytest.raises(ValueError, match="two dimensions"):
        annotations.polygonise(np.zeros((4, 4, 3)), mpp=1.0, mpp0=1.0)


def test_polygons_made_from_masks_are_those_of_pixel_edges_not_centres():
    (polygon,) = annotations.polygonise(np.ones((2, 3)), mpp=2.5, mpp0=0.25, x_px=7, y_px=5)
    assert polygon.bounds == (70.0, 50.0, 100.0, 70.0)
