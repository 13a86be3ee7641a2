"""What cannot work is refused before anything runs, with what to change."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from made_training import write_cohort

from tlskit import cohort as cohort_of
from tlskit import tiles
from tlskit.errors import ParameterError
from tlskit.study import beforehand, params, sweep

ROOT = Path(__file__).resolve().parents[2]


def prepared(tmp_path, monkeypatch, **given):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "preset.yaml"
    path.write_text(yaml.safe_dump({"run_name": "x", "sweep": {"magnification": [20, 4]}} | given))
    return sweep.prepare(path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_tiles": "tissue"}, "20x: `keep_tiles: tissue` with all tiles drawn alike.*dice_bce"),
        ({"keep_tiles": "tissue", "negatives_per_batch": 8}, "0 to 7"),
        ({"negatives_per_batch": 4}, "set `keep_tiles: tissue`"),
        ({"detail_mpp": 1.0}, "4x: `detail_mpp: 1` is finer than the 2.5 um/px"),
        ({"context_ratio": 3}, "`context_ratio` should be one of 0, 2, 4, 8"),
        ({"context_of": "self"}, "`context_of: self` needs a `context_ratio`"),
        ({"context_loss_weight": 0.5}, "`context_loss_weight: 0.5` needs a `context_ratio`"),
        ({"context_ratio": 4, "tile_px": 96}, "`tile_px` should be a multiple of 64"),
        ({"context_ratio": 4, "context_px": 100}, "`context_px` should be a multiple of 32"),
        ({"context_ratio": 2, "context_px": 64}, "no context is left"),
        ({"folds": 2}, "3 and more"),
        ({"fold": 3}, "set `folds`"),
        ({"folds": 5, "sweep": {"magnification": [4], "fold": [0, 5]}}, "none of the 5 folds"),
        ({"sweep": {"magnification": [4], "folds": [3, 5]}}, "`folds` cannot be swept"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_arm(tmp_path, monkeypatch, given, said):
    with pytest.raises(ParameterError, match=said):
        prepared(tmp_path, monkeypatch, **given)


def test_parameters_that_fit_make_their_arms(tmp_path, monkeypatch):
    sweep_of = [
        {"magnification": 20, "detail_mpp": 2.5, "keep_tiles": "tissue", "negatives_per_batch": 4},
        {"magnification": 4, "keep_tiles": "tissue", "loss": "dice_bce"},
        {"magnification": 4, "folds": 0, "context_ratio": 4, "context_of": "other"},
    ]
    sweep_of[2].pop("folds")
    preset = prepared(tmp_path, monkeypatch, sweep=sweep_of)
    assert len(params.arms(preset)) == 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six slides of 320 x 192 um; outlines on all."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for seed, part in enumerate(("a", "b")):
        (folder / part).mkdir()
        rows.append(write_cohort(folder / part, seed)[1].assign(patient_id=lambda t, p=part: p + t["patient_id"]))
    slides = pd.concat(rows, ignore_index=True).drop(columns=["mpp_override", "split"])
    slides["slide_id"] = slides["patient_id"]
    slides.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv", slides


def arm_of(path, **changes):
    return {
        "manifest": str(path), "split_ratios": [0.5, 0.25, 0.25], "folds": 0, "split_seed": 0, "target_class": "TLS",
        "magnification": 10, "tile_px": 64, "edge_tiles": "drop", "resolution_by": "mpp",
    } | changes  # fmt: skip


def test_a_cohort_that_holds_the_study_passes(cohort):
    beforehand.refuse_impossible([arm_of(cohort[0]), arm_of(cohort[0], magnification=5)])
    beforehand.refuse_impossible([arm_of(cohort[0], folds=3)])


def test_a_tile_that_no_slide_can_hold_is_refused_with_one_that_they_can(cohort):
    with pytest.raises(ParameterError, match=r"`tile_px: 256` at 10x .*room for 192 px. Use a `tile_px` of 192"):
        beforehand.refuse_impossible([arm_of(cohort[0]), arm_of(cohort[0], tile_px=256)])
    beforehand.refuse_impossible([arm_of(cohort[0], tile_px=256, edge_tiles="pad")])


def test_a_share_of_target_that_no_tile_holds_is_refused_before_anything_runs(cohort, tmp_path):
    """The bound is that of the tiles which 01 would make; shares below it pass."""
    path, slides = cohort
    drawn = {"overlap": 0.5, "negatives_per_batch": -1, "batch_size": 8}
    made = tiles.tile_cohort(
        cohort_of.read_manifest(path), magnification=10, tile_px=64, overlap=0.5, target_class="TLS"
    )
    fullest = made.tiles["target_fraction"].max()
    assert 0.2 < fullest < 0.9
    asked = [arm_of(path, positive_pixels=share, **drawn) for share in (0.0, fullest * 0.99)]
    beforehand.refuse_impossible(asked)
    beforehand.refuse_impossible([arm_of(path, positive_pixels=fullest * 0.49, **drawn | {"negatives_per_batch": 4})])
    for arm in (
        arm_of(path, positive_pixels=0.99, **drawn),
        arm_of(path, positive_pixels=fullest * 0.51, **drawn | {"negatives_per_batch": 4}),
    ):
        with pytest.raises(ParameterError, match=r"`positive_pixels: 0.*out of reach with `tile_px: 64` at 10x"):
            beforehand.refuse_impossible([asked[0], arm])
    (tmp_path / "broken.tif").write_text("no slide")  # with a slide that cannot be read no bound is known
    broken = slides.replace({"slide_path": {slides["slide_path"].iloc[0]: str(tmp_path / "broken.tif")}})
    broken.to_csv(tmp_path / "manifest.csv", index=False)
    beforehand.refuse_impossible([arm_of(tmp_path / "manifest.csv", positive_pixels=0.99, **drawn)])


def test_a_slide_or_its_outlines_under_two_names_are_refused(cohort, tmp_path):
    path, slides = cohort
    first, other = slides.iloc[0], slides.iloc[1]
    copy, link, empty = tmp_path / "copy.tif", tmp_path / "link.geojson", tmp_path / "empty.geojson"
    shutil.copyfile(first["slide_path"], copy)
    link.symlink_to(first["annotation_path"])
    for number in ("1", "2"):
        empty.with_stem(f"empty{number}").write_text('{"type": "FeatureCollection", "features": []}')
    for column, value, said in (
        ("slide_path", copy, "as0 and as1 are the same scan"), ("annotation_path", link, "have the same outlines"),
    ):  # fmt: skip
        slides.replace({column: {other[column]: str(value)}}).to_csv(tmp_path / "manifest.csv", index=False)
        with pytest.raises(ParameterError, match=said):
            beforehand.refuse_impossible([arm_of(tmp_path / "manifest.csv")])
    without = {row["annotation_path"]: str(empty.with_stem(f"empty{n}")) for n, (_, row) in
               enumerate(slides.iloc[:2].iterrows(), 1)}  # fmt: skip
    cohort_of.check_copies(slides.replace({"annotation_path": without}))


def test_more_folds_than_patients_of_a_type_are_refused(cohort):
    with pytest.raises(ParameterError, match=r"lung \(6\).*`folds: 6`"):
        beforehand.refuse_impossible([arm_of(cohort[0], folds=7)])


def test_validation_patients_without_a_target_are_refused(cohort, tmp_path):
    with pytest.raises(ParameterError, match="of the set val .*no epoch, threshold or arm"):
        beforehand.refuse_impossible([arm_of(cohort[0], target_class="Tumor") | {"split_ratios": [0.5, 0.25, 0.25]}])
