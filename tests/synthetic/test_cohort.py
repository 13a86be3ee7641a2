"""The synthetic cohort keeps its promises: sizes in um, one seed one result, files that other readers open."""

import csv
import hashlib
import json
import shutil

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
from shapely.geometry import box, shape

from tlskit.errors import ParameterError, RunError
from tlskit.synthetic import anatomy, histology, nuclei, second, stains, textures
from tlskit.synthetic import cohort as synthetic

SMALL = {"n_patients": 3, "slide_mm": (0.8, 0.95), "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four small slides of three patients, drawn by two processes: the manifest's path."""
    return synthetic.make_cohort(tmp_path_factory.mktemp("cohort"), workers=2, **SMALL)


@pytest.fixture(scope="module")
def plans():
    """Plans of the first nine slides of the default cohort, unpainted: (slide, section) pairs."""
    return [(slide, synthetic.plan_section(slide)) for slide in synthetic.plan_cohort(14)[:9]]


def digests(folder):
    """sha256 of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def outlines(manifest, slide_id):
    """Polygons of a slide's GeoJSON as they stand in the file."""
    text = (manifest.parent / "annotations" / f"{slide_id}.geojson").read_text(encoding="utf-8")
    return [shape(feature["geometry"]) for feature in json.loads(text)["features"]]


def slide_image(manifest, slide_id, mpp=None):
    """Whole slide through OpenSlide, (H, W, 3) float, at level 0 or area-averaged to `mpp`."""
    with openslide.OpenSlide(manifest.parent / "slides" / f"{slide_id}.tif") as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
        if mpp:
            d = mpp / float(slide.properties["openslide.mpp-x"])
            size = (int(slide.dimensions[0] / d), int(slide.dimensions[1] / d))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image.astype(float)


# ---- same in, same out ---------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bytes_on_any_number_of_workers(cohort, tmp_path):
    again = synthetic.make_cohort(tmp_path, workers=1, **SMALL)
    assert len(digests(again.parent)) == 4 * 3 + 4
    assert digests(again.parent) == digests(cohort.parent)


def test_a_second_reader_draws_a_little_otherwise_and_touches_no_slide(cohort, tmp_path):
    folder = tmp_path / "twice"
    shutil.copytree(cohort.parent, folder)
    manifest = synthetic.make_cohort(folder, workers=1, second_reader=True, **SMALL)
    before, after = digests(cohort.parent), digests(folder)
    assert all(after[name] == digest for name, digest in before.items() if name not in ("manifest.csv", "README.txt"))
    table = pd.read_csv(manifest)
    assert table["annotation_path_2"].tolist() == [f"annotations_2/{name}.geojson" for name in table["slide_id"]]
    assert all((folder / path).is_file() for path in table["annotation_path_2"])
    # Over many patients: most TLS are drawn by both, alike and not the same; some are overlooked, some are none.
    shared = seen = missed = 0
    for slide in synthetic.plan_cohort(28):
        section = synthetic.plan_section(slide, seed=5, slide_mm=(2.0, 2.8))
        again = second.second_outlines(section.structures, 0.5, np.random.default_rng([5, slide.index, 2]))
        assert all(polygon.is_valid for polygon in again)
        for one in section.structures:
            if one.kind == "tls":
                mine = one.polygon_px0(0.5)
                iou = max((mine.intersection(p).area / mine.union(p).area for p in again), default=0.0)
                seen, missed, shared = seen + (iou > 0), missed + (iou == 0), shared + iou
    assert 0.02 < missed / (seen + missed) < 0.25 and 0.7 < shared / seen < 0.95


def test_another_seed_gives_another_slide(cohort, tmp_path):
    other = synthetic.make_cohort(tmp_path, workers=1, **{**SMALL, "n_patients": 1, "seed": 6})
    assert digests(other.parent)["slides/P01_A.tif"] != digests(cohort.parent)["slides/P01_A.tif"]
    assert outlines(other, "P01_A")[0].area != outlines(cohort, "P01_A")[0].area


def test_a_deleted_slide_is_made_again_and_no_other(cohort, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(cohort.parent, folder)
    (folder / "slides" / "P02_B.tif").unlink()
    written = {path: path.stat().st_mtime_ns for path in (folder / "slides").iterdir()}
    synthetic.make_cohort(folder, workers=1, **SMALL)
    assert digests(folder) == digests(cohort.parent)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_finished_cohort_is_not_drawn_again(cohort, monkeypatch):
    def drawn(*_):
        raise AssertionError("a finished slide was drawn again")

    monkeypatch.setattr(synthetic, "_draw_slide", drawn)
    assert synthetic.make_cohort(cohort.parent, workers=1, **SMALL) == cohort


def test_other_settings_in_the_same_folder_are_refused_by_name(cohort):
    before = digests(cohort.parent)
    with pytest.raises(RunError, match=r"seed 5 there, 8 asked for") as caught:
        synthetic.make_cohort(cohort.parent, **{**SMALL, "seed": 8})
    assert "overwrite=True" in str(caught.value)
    assert "n_patients" not in str(caught.value)
    assert digests(cohort.parent) == before


def test_overwrite_makes_the_cohort_anew_and_leaves_nothing_of_the_old(tmp_path):
    small = {"slide_mm": (0.5, 0.5), "workers": 1, "progress": False}
    synthetic.make_cohort(tmp_path / "a", n_patients=2, seed=1, **small)
    synthetic.make_cohort(tmp_path / "a", n_patients=1, seed=2, overwrite=True, **small)
    synthetic.make_cohort(tmp_path / "b", n_patients=1, seed=2, **small)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_manifest_that_was_not_made_here_is_left_alone(tmp_path):
    (tmp_path / "manifest.csv").write_text("slide_id\nmine\n", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"manifest\.csv"):
            synthetic.make_cohort(tmp_path, overwrite=overwrite, **SMALL)
    assert (tmp_path / "manifest.csv").read_text(encoding="utf-8") == "slide_id\nmine\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_patients": 0}, "n_patients"),
        ({"slide_mm": (3, 2)}, "slide_mm"),
        ({"scan_mpp": 0}, "scan_mpp"),
        ({"objective_power": float("nan")}, "objective_power"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_arguments_are_refused_by_name(tmp_path, change, reason):
    with pytest.raises(ParameterError, match=reason):
        synthetic.make_cohort(tmp_path / "new", **{**SMALL, "workers": 1, **change})
    assert not (tmp_path / "new").exists()


# ---- what the files hold -------------------------------------------------------------------------------------


def test_the_manifest_points_at_files_beside_it_and_says_that_they_are_synthetic(cohort):
    table = pd.read_csv(cohort, dtype=str)
    assert list(table.columns) == [
        "slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path", "source",
    ]  # fmt: skip
    assert list(table.slide_id) == ["P01_A", "P02_A", "P02_B", "P03_A"]
    assert set(table.source) == {"synthetic"}
    for path in [*table.slide_path, *table.annotation_path]:
        assert not path.startswith("/") and (cohort.parent / path).is_file()
    assert "no patient" in (cohort.parent / "README.txt").read_text(encoding="utf-8")


def test_openslide_reads_the_slides_as_aperio_with_their_scale(cohort):
    for path in sorted((cohort.parent / "slides").iterdir()):
        with openslide.OpenSlide(path) as slide:
            assert slide.properties["openslide.vendor"] == "aperio"
            assert float(slide.properties["openslide.mpp-x"]) == 0.499
            assert float(slide.properties["openslide.objective-power"]) == 20
            assert all(0.8 <= side * 0.499e-3 <= 0.951 for side in slide.dimensions)


def test_a_slide_at_40x_shows_the_same_tissue_on_more_pixels(tmp_path):
    small = {"n_patients": 1, "slide_mm": (0.6, 0.6), "seed": 3, "workers": 1, "progress": False}
    at_20x = synthetic.make_cohort(tmp_path / "20x", **small)
    at_40x = synthetic.make_cohort(tmp_path / "40x", scan_mpp=0.2529, objective_power=40, **small)
    with openslide.OpenSlide(at_40x.parent / "slides" / "P01_A.tif") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == 0.2529
        assert float(slide.properties["openslide.objective-power"]) == 40
    (one,), (other,) = outlines(at_20x, "P01_A"), outlines(at_40x, "P01_A")
    assert other.area * 0.2529**2 == pytest.approx(one.area * 0.499**2, rel=0.01)
    coarse = slide_image(at_20x, "P01_A", mpp=20), slide_image(at_40x, "P01_A", mpp=20)
    assert np.abs(coarse[0] - coarse[1]).mean() < 2 < coarse[0].std()


def test_truth_and_outlines_agree(cohort):
    with (cohort.parent / "truth.csv").open(newline="", encoding="utf-8") as handle:
        truth = list(csv.DictReader(handle))
    tables = pd.read_csv(cohort.parent / "truth.csv")
    assert set(tables.columns) == {"slide_id", "kind", "x", "y", "diameter_um", "area"}
    assert {"tls", "dark_nest", "infiltrate", "small_aggregate"} <= {row["kind"] for row in truth}
    for slide_id in ("P01_A", "P02_A", "P02_B", "P03_A"):
        rows = tables[(tables.slide_id == slide_id) & (tables.kind == "tls")]
        areas_um2 = [polygon.area * 0.499**2 for polygon in outlines(cohort, slide_id)]
        assert areas_um2 == pytest.approx(rows.area.tolist(), rel=1e-3)
        assert (np.pi / 4 * rows.diameter_um**2).tolist() == pytest.approx(rows.area.tolist(), rel=1e-3)


def test_a_slide_without_tls_has_an_empty_feature_collection(cohort):
    text = (cohort.parent / "annotations" / "P02_B.geojson").read_text(encoding="utf-8")
    assert json.loads(text) == {"type": "FeatureCollection", "features": []}
    with_tls = json.loads((cohort.parent / "annotations" / "P02_A.geojson").read_text(encoding="utf-8"))
    assert with_tls["features"][0]["properties"]["classification"]["name"] == "TLS"
    assert with_tls["features"][0]["properties"]["objectType"] == "annotation"


# ---- the cohort and its lesions ------------------------------------------------------------------------------


def test_fourteen_patients_have_seventeen_slides_and_four_unequal_cancer_types():
    plan = pd.DataFrame(synthetic.plan_cohort(14))
    assert (plan.patient_id.nunique(), len(plan), plan.slide_id.nunique()) == (14, 17, 17)
    assert list(plan["index"]) == list(range(17))
    assert (plan.groupby("patient_id").cancer_type.nunique() == 1).all()
    patients = plan.groupby("patient_id").cancer_type.first().value_counts().to_dict()
    assert patients == {"oropharyngeal": 5, "lung": 4, "breast": 3, "oesophageal": 2}
    assert plan.groupby("patient_id").size().value_counts().to_dict() == {1: 11, 2: 3}
    assert (~plan.with_tls).sum() == 3
    assert plan[plan.with_tls].cancer_type.nunique() == 4


def test_a_larger_cohort_begins_with_the_smaller_one():
    assert synthetic.plan_cohort(30)[:7] == synthetic.plan_cohort(6)
    assert {slide.cancer_type for slide in synthetic.plan_cohort(6)} == set(anatomy.CANCER_TYPES)


def test_tls_diameters_are_log_normal_with_a_mean_area_of_0_21_mm2():
    drawn = anatomy.draw_tls_diameters(np.random.default_rng(0), 6000)
    assert drawn.min() >= 150 and drawn.max() <= 900
    # Standard error of the mean area is about 0.002 mm2.
    assert (np.pi * drawn**2 / 4).mean() * 1e-6 == pytest.approx(0.21, abs=0.008)
    low, middle, high = np.quantile(np.log(drawn), [0.25, 0.5, 0.75])
    assert (high - middle) == pytest.approx(middle - low, rel=0.15)
    assert drawn.std() > 120


def test_planned_tls_keep_that_size_and_lie_apart_inside_the_slide(plans):
    areas_mm2 = []
    for slide, section in plans:
        frame = box(0, 0, section.size_um[0] / 0.499, section.size_um[1] / 0.499)
        tls = [one for one in section.structures if one.kind == "tls"]
        assert (1 <= len(tls) <= 5) if slide.with_tls else not tls
        polygons = [one.polygon_px0(0.499) for one in tls]
        for number, polygon in enumerate(polygons):
            assert polygon.is_valid and polygon.within(frame)
            assert not any(polygon.intersects(other) for other in polygons[:number])
            assert len(polygon.exterior.coords) > 30
            assert 4 * np.pi * polygon.area / polygon.length**2 > 0.6, "not roundish"
        areas_mm2 += [one.area_um2 * 1e-6 for one in tls]
        diameters = [one.diameter_um for one in tls]
        assert all(140 < diameter < 930 for diameter in diameters)
    assert len(areas_mm2) >= 15
    assert np.mean(areas_mm2) == pytest.approx(0.21, abs=0.08)  # standard error about 0.03


def test_every_section_has_things_that_can_be_taken_for_a_tls(plans):
    for slide, section in plans:
        kinds = [one.kind for one in section.structures]
        assert {"dark_nest", "infiltrate", "small_aggregate"} <= set(kinds), slide
        assert all(one.diameter_um < 150 for one in section.structures if one.kind == "small_aggregate")
    assert any("germinal_centre" in {one.kind for one in section.structures} for _, section in plans)


def test_the_drawn_lymphoid_tissue_follows_the_annotated_outline(plans):
    for _, section in plans[:4]:
        painted = section.fields["tls"] > 0
        drawn = np.zeros(painted.shape, np.uint8)
        for one in section.structures:
            if one.kind == "tls":
                cv2.fillPoly(drawn, [np.rint(one.outline_um / 4.0 - 0.5).astype(np.int32)], 1)
        both, either = (painted & (drawn > 0)).sum(), (painted | (drawn > 0)).sum()
        assert either == 0 or both / either > 0.9


# ---- what it looks like --------------------------------------------------------------------------------------


def test_glass_is_nearly_white_and_nearly_even(cohort):
    for slide_id in ("P01_A", "P02_A", "P02_B", "P03_A"):
        corner = slide_image(cohort, slide_id)[:40, :40]
        assert 240 < corner.mean() < 247
        assert np.ptp(corner.mean(axis=(0, 1))) < 4
        assert 0.2 < corner.std() < 3


def test_a_tls_is_a_dark_blue_spot_at_1x_and_so_is_a_dark_nest(cohort):
    tables = pd.read_csv(cohort.parent / "truth.csv")
    spots = {"tls": [], "dark_nest": []}
    for slide_id in ("P01_A", "P02_A", "P02_B", "P03_A"):
        image = slide_image(cohort, slide_id, mpp=10)
        tissue = image[..., 1] < 215
        for row in tables[(tables.slide_id == slide_id) & tables.kind.isin(spots)].itertuples():
            y, x = int(row.y * 0.499 / 10), int(row.x * 0.499 / 10)
            half = max(1, int(row.diameter_um / 10 / 4))
            spot = image[y - half : y + half + 1, x - half : x + half + 1].mean(axis=(0, 1))
            spots[row.kind].append(spot)
            assert spot[2] > spot[0] > spot[1], "neither blue nor violet"
            assert spot[0] < image[tissue].mean(axis=0)[0] - 15
    assert len(spots["tls"]) >= 3 and len(spots["dark_nest"]) >= 1
    difference = np.mean(spots["tls"], axis=0) - np.mean(spots["dark_nest"], axis=0)
    assert np.abs(difference).max() < 40, "1x tells TLS from dark tumour by darkness alone"


@pytest.mark.parametrize(
    ("kind", "low_um", "high_um"), [("lymphocyte", 6, 8.2), ("tumour", 9.5, 17), ("dark", 7.5, 12.5)]
)
@pytest.mark.parametrize("mpp", [0.499, 0.2529])
def test_nuclei_have_their_size_in_um_at_any_resolution(kind, low_um, high_um, mpp):
    drawn = [one for by_angle in nuclei.sprites(mpp)[kind] for one in by_angle]
    # Area of the nucleus: where it has at least half the ink of its own middle.
    equivalent = [2 * np.sqrt((one > 0.45 * np.median(one[one > 0.1])).sum() / np.pi) * mpp for one in drawn]
    low, high = np.quantile(equivalent, [0.05, 0.95])
    assert low_um < low < high < high_um
    assert len({one.shape for one in drawn}) >= 2


def test_stain_varies_between_slides_but_stays_blue_and_pink():
    one = np.ones((1, 1), np.float32)
    drawn = [stains.draw_stain(np.random.default_rng(seed)) for seed in range(200)]
    blue = np.array([stains.colour(one, 0 * one, stain)[0, 0] for stain in drawn], float)
    pink = np.array([stains.colour(0 * one, one, stain)[0, 0] for stain in drawn], float)
    assert (blue[:, 2] > blue[:, 0]).all() and (blue[:, 0] > blue[:, 1]).mean() > 0.9
    assert (pink[:, 0] > pink[:, 2]).all() and (pink[:, 2] > pink[:, 1]).all()
    assert (blue.std(axis=0) > 3).all() and (pink.std(axis=0) > 3).all()


def test_colour_is_the_law_of_beer_and_lambert():
    stain = stains.Stain((0.5, 0.7, 0.3), (0.1, 0.9, 0.4), (244.0, 243.0, 242.0))
    h, e = np.array([[0.0, 0.4, 1.2]], np.float32), np.array([[0.0, 0.7, 0.1]], np.float32)
    seen = stains.colour(h, e, stain)[0]
    for pixel in range(3):
        for channel in range(3):
            density = h[0, pixel] * stain.haematoxylin[channel] + e[0, pixel] * stain.eosin[channel]
            assert seen[pixel, channel] == pytest.approx(stain.white[channel] * np.exp(-density), abs=0.51)


def test_painting_in_bands_leaves_no_seam():
    """The ground is drawn in bands: rows asked for alone are the rows of the whole."""
    rng = np.random.default_rng(0)
    section = anatomy.draw_section(rng, (500.0, 700.0), "oesophageal", n_tls=1)
    cells = np.zeros(0, dtype=[("x_um", "f4"), ("y_um", "f4"), ("kind", "i2"), ("angle", "f4")])
    ground = histology._Ground(section, cells, histology.open_spaces(section, rng), rng)
    whole, part = ground.rows(0, 700), ground.rows(300, 420)
    for field, window in zip(whole, part, strict=True):
        assert field.std() > 0.01
        assert np.abs(field[300:420] - window).max() < 1e-3


# ---- textures ------------------------------------------------------------------------------------------------


def test_noise_is_standardised_and_windows_of_it_agree():
    field = textures.NoiseField((300, 200), 23.0, np.random.default_rng(1), octaves=2)
    whole = field.rows(0, 300)
    assert whole.mean() == pytest.approx(0, abs=0.1) and whole.std() == pytest.approx(1, abs=0.1)
    assert np.abs(field.rows(120, 180) - whole[120:180]).max() < 0.02  # fixed-point interpolation


def test_fibres_follow_their_direction():
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((256, 256), dtype=np.float32)
    streaks = textures.fibres(noise, np.zeros((256, 256), np.float32), reach_px=16)[40:-40, 40:-40]

    def correlation(field, axis):
        first, second = (np.take(field, range(*limits), axis=axis) for limits in ((0, 170), (6, 176)))
        return np.corrcoef(first.ravel(), second.ravel())[0, 1]

    assert correlation(streaks, 1) > 0.6
    assert abs(correlation(streaks, 0)) < 0.1


def test_the_owner_of_a_pixel_in_a_mosaic_is_its_nearest_point():
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 120, (60, 2))
    owner = textures.mosaic(points, (120, 120))
    y, x = np.mgrid[:120, :120]
    distance = np.hypot(x[..., None] - np.floor(points[:, 0]), y[..., None] - np.floor(points[:, 1]))
    chosen = np.take_along_axis(distance, owner[..., None].astype(int), axis=-1)[..., 0]
    assert (chosen - distance.min(axis=-1)).max() < 1.0  # the transform's distances are right to a few per cent


def test_cells_pushed_apart_overlap_less():
    rng = np.random.default_rng(4)
    points = rng.uniform(0, 200, (500, 2))

    def nearest(p):
        d = np.hypot(*(p[:, None] - p[None]).transpose(2, 0, 1))
        return np.sort(d + 1e9 * np.eye(len(p)), axis=1)[:, 0]

    moved = textures.spread_apart(points, np.full(500, 3.7), passes=9)
    assert np.quantile(nearest(moved), 0.05) > 4.5 > 2 * np.quantile(nearest(points), 0.05)
    assert np.abs(moved - points).max() < 20


# ---- the oracle ----------------------------------------------------------------------------------------------


def test_the_colours_of_an_oracle_slide_are_the_answer(tmp_path):
    oracle = synthetic.make_oracle_slide(tmp_path / "oracle.tif", size_mm=(1.6, 1.3), n_tls=3, seed=1)
    assert len(oracle.polygons) >= 2
    assert len({tuple(colour) for colour in oracle.colours}) == len(oracle.polygons)
    with openslide.OpenSlide(oracle.slide_path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == oracle.mpp == 0.499
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3].astype(float)
    for polygon, colour in zip(oracle.polygons, oracle.colours, strict=True):
        point = polygon.representative_point()
        assert image[int(point.y), int(point.x)] == pytest.approx(np.array(colour, float), abs=3)
    inside = (230 - image[..., 0]) / 160
    tissue = image[..., 0] < 236
    assert inside[tissue].sum() == pytest.approx(sum(p.area for p in oracle.polygons), rel=0.005)
    written = json.loads(oracle.annotation_path.read_text(encoding="utf-8"))["features"]
    assert [shape(f["geometry"]).area for f in written] == pytest.approx([p.area for p in oracle.polygons])
