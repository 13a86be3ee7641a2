"""The study from end to end, through real kernels: the archive holds what it promises."""

import json
import re

import numpy as np
import openslide
import pandas as pd
import pytest
import recount
import yaml

from tlskit.cohort import splitting
from tlskit.slides import open_slide, tissue_mask
from tlskit.study import runs
from tlskit.study.keys import STEPS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCORES = ["accuracy", "dice", "iou", "recall", "specificity", "precision", "mcc"]


def test_every_step_left_its_notebook_record_tables_and_figures(smoke_run):
    for arm in ("4x", "1x"):
        for step in STEPS:
            assert (smoke_run / arm / f"{step}.ipynb").is_file()
            assert json.loads((smoke_run / arm / "records" / f"{step}.json").read_text())["values"]
            assert list((smoke_run / arm / "tables").glob(f"{step[:2]}_*.csv"))
            figures = sorted(path.suffix for path in (smoke_run / arm / "figures").glob(f"{step[:2]}_*"))
            assert figures and figures.count(".png") == figures.count(".pdf")
            assert json.loads((smoke_run / arm / "status" / f"{step}.json").read_text())["state"] == "done"
    for name in ("run.yaml", "arms.csv", "split.csv"):
        assert (smoke_run / name).is_file()
    assert (smoke_run / "compare" / "compare_magnifications.ipynb").is_file()
    assert (smoke_run / "cascade" / "cascade.ipynb").is_file() and (smoke_run / "cascade/work/screens.json").is_file()


def test_nothing_temporary_is_left_behind(smoke_run):
    leftovers = [p.name for p in smoke_run.rglob("*") if "partial" in p.name or "failed" in p.name or ".tmp" in p.name]
    assert not leftovers


def test_the_executed_copies_show_their_figures(smoke_run):
    for path in smoke_run.glob("*/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        shown = [output for cell in cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in shown), path.name
        # Shown once by each cell: a figure left open is drawn a second time by the kernel.
        for cell in cells:
            images = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
            assert len(images) <= 1, (path.name, "".join(cell["source"]))
        assert not any(output.get("name") == "stderr" and "Error" in output.get("text", "") for output in shown)


def test_no_absolute_path_is_in_tables_and_records(smoke_run):
    # The cohort lies outside the project: its path climbs there, ``../../tmp/...``, and is no absolute one.
    absolute = re.compile(rf"(?<!\.\.){re.escape(str(smoke_run.parents[2]))}")
    for path in [*smoke_run.rglob("*.csv"), *smoke_run.rglob("*.json"), *smoke_run.rglob("*.ipynb")]:
        assert not absolute.findall(path.read_text()), path.name


def test_tiles_are_as_many_as_the_table_of_slides_says(smoke_run):
    for arm in ("4x", "1x"):
        tiles = pd.read_parquet(smoke_run / arm / "work" / "tiles.parquet")
        slides = pd.read_csv(smoke_run / arm / "tables" / "01_tiles_per_slide.csv", dtype={"slide_id": str})
        assert len(tiles) == slides["kept_tiles"].sum()
        parts = slides[
            ["kept_tiles", *(f"dropped_{why}" for why in ("no_tissue", "no_target", "ignored", "lost"))]
        ].sum(axis=1)
        assert (parts == slides["grid_tiles"]).all()
        assert (tiles["target_fraction"] > 0).all()


def test_all_arms_stand_on_the_same_split_and_no_patient_is_in_two_sets(smoke_run):
    split = splitting.read_split(smoke_run / "split.csv")
    for arm in ("4x", "1x"):
        leakage = pd.read_csv(smoke_run / arm / "tables" / "02_leakage.csv")
        assert leakage.drop(columns="sets").to_numpy().sum() == 0
        record = json.loads((smoke_run / arm / "records" / "02_patient_split.json").read_text())
        assert record["values"]["split_hash"] == splitting.split_hash(split)


@pytest.mark.parametrize("step", ["04", "05"])
def test_scores_say_how_they_were_pooled_and_lie_in_their_range(smoke_run, step):
    for arm in ("4x", "1x"):
        scores = pd.read_csv(smoke_run / arm / "tables" / f"{step}_scores.csv")
        assert {"pooled", "batch_mean"} <= set(scores["pooling"])
        assert (scores["n_slides"] > 0).all()
        values = scores[SCORES].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        assert len(values) and values.min() >= -1 and values.max() <= 1


def test_every_test_slide_has_a_map_and_a_geojson(smoke_run):
    split = splitting.read_split(smoke_run / "split.csv")
    slides = pd.read_csv(smoke_run / "4x" / "tables" / "01_cohort.csv", dtype=str)
    test = set(splitting.attach_split(slides, split).query("split == 'test'")["slide_id"])
    for arm in ("4x", "1x"):
        assert test <= {path.stem for path in (smoke_run / arm / "work" / "maps").glob("*.tif")}
        assert test <= {path.stem for path in (smoke_run / arm / "geojson").glob("*.geojson")}


def test_status_has_a_row_for_every_notebook(smoke_run):
    status = runs.read_status(smoke_run)
    meetings = ["cascade", "compare_magnifications"]
    assert sorted(status["step"]) == sorted([*STEPS, *STEPS, *meetings]) and (status["status"] == "done").all()


@pytest.mark.parametrize("arm", ["4x", "1x"])
def test_every_count_of_the_study_is_found_again_by_other_libraries(smoke_run, arm):
    count_again(smoke_run, arm)


def count_again(run_dir, arm):
    """Pixels, grid cells, objects and IoU of an arm's test slides, from its maps and the cohort's files."""
    folder = run_dir.parents[1] / "cohort"
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str).set_index("slide_id")
    settings = yaml.safe_load((run_dir / "run.yaml").read_text())
    tables = {
        name: pd.read_csv(run_dir / arm / "tables" / f"05_{name}.csv", dtype={"slide_id": str})
        for name in ("counts_per_slide", "grid_counts", "objects_per_slide", "objects", "counts_per_tile")
    }
    of_test = tables["counts_per_slide"]
    again = []
    for slide_id, rows in of_test.groupby("slide_id"):
        with openslide.OpenSlide(folder / manifest.loc[slide_id, "slide_path"]) as slide:
            mpp0, size_px0 = float(slide.properties["openslide.mpp-x"]), slide.dimensions
        with open_slide(folder / manifest.loc[slide_id, "slide_path"]) as slide:
            tissue = tissue_mask(slide)
        target = recount.polygons_of(folder / manifest.loc[slide_id, "annotation_path"])
        (path,) = (run_dir / arm / "work" / "maps").glob(f"{slide_id}*.tif")
        for row in rows.itertuples():
            found = recount.recounted(
                path, target, tissue.mask, tissue.mpp, size_px0=size_px0, mpp0=mpp0, mpp=10 / float(arm[:-1]),
                threshold=row.threshold, grid_mpp=settings.get("grid_mpp", 4.0),
            )  # fmt: skip
            again.append({"slide_id": slide_id, "threshold_by": row.threshold_by} | found)
    grid = tables["grid_counts"]
    recount.compare(
        pd.DataFrame(again), of_test, grid[grid["split"] == "test"],
        *(tables[name][tables[name]["split"] == "test"] for name in ("objects_per_slide", "objects")),
    )  # fmt: skip
    keys = ["slide_id", "threshold_by"]
    of_tiles = tables["counts_per_tile"].groupby(keys)[["tp", "fp", "fn", "tn"]].sum()
    assert of_tiles.equals(of_test.set_index(keys).sort_index()[["tp", "fp", "fn", "tn"]])
    scores = pd.read_csv(run_dir / arm / "tables" / "05_scores.csv").query("pooling == 'pooled' and empty == 'exclude'")
    for rule, rows in of_test.groupby("threshold_by"):
        scored = scores.loc[scores["threshold_by"] == rule, "iou"]
        assert scored.iloc[0] == pytest.approx(recount.iou(rows))
