"""The smoke study counted once more by other libraries."""

import openslide
import pandas as pd
import pytest
import recount
import yaml

from tlskit.slides import open_slide, tissue_mask


@pytest.mark.parametrize("arm", ["4x", "1x"])
def test_every_count_of_the_study_is_found_again(smoke_run, arm):
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
