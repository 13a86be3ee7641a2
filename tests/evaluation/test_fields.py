"""Where arms fail: the worst slides and objects by the tables, and the same field of each in every arm."""

import json

import made_run
import numpy as np
import pandas as pd
import pytest
from made_archive import write_archive

from tlskit import evaluation, figures
from tlskit.cohort import read_manifest
from tlskit.evaluation import fields
from tlskit.evaluation.cascades import maps_of
from tlskit.study import runs

SHA = "5a" * 32


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Two arms whose maps miss one target and show one object that is none, counted as notebook 05 counts them."""
    project = tmp_path_factory.mktemp("fields")
    run_dir = made_run.make_run(project, n_slides=2, magnifications=(4, 1))
    manifest = read_manifest(project / "outputs" / "cohorts" / "made" / "manifest.csv").assign(split="test")
    for magnification in (4, 1):
        arm = run_dir / f"{magnification}x"
        values = {
            "target_class": "TLS",
            "missing_target": "error",
            "resolution_by": "mpp",
            "magnification": magnification,
        }
        (arm / "records" / "01_tiling.json").write_text(json.dumps({"values": values}))
        (arm / "records" / "03_training.json").write_text(json.dumps({"values": {"checkpoint_sha256": SHA}}))
        for path in sorted((arm / "work" / "maps").glob("*.tif")):
            made_run_map(path, magnification)
        maps = maps_of(arm).assign(split="test")
        grid = evaluation.evaluate_grid(maps, manifest, target_class="TLS", threshold={"fixed": 0.5})
        counts = evaluation.evaluate_slides(maps, manifest, target_class="TLS", threshold={"fixed": 0.5})
        run = runs.open_run("made", "05_wsi_evaluation", magnification=magnification, outputs_dir=project / "outputs")
        tables = {"grid_counts": grid.counts, "objects": grid.objects, "objects_per_slide": grid.objects_per_slide}
        for name, table in (tables | {"counts_per_slide": counts.slides}).items():
            run.table(table, name)
    return run_dir, manifest


def made_run_map(path, magnification):
    """The map again, with the hash of the arm's network."""
    from tlskit.maps import open_map

    with open_map(path) as found:
        values, metadata = found.read(0, 0, *found.size_px), found.metadata
    facts = {name: metadata[name] for name in ("slide_id", "mpp0")} | {"checkpoint_sha256": SHA}
    made_run.write_map(path, values, mpp=10 / magnification, metadata=facts)


def test_misses_and_false_alarms_are_cut_where_they_lie_and_alike_in_all_arms(run_dir):
    run_dir, manifest = run_dir
    wanted = fields.worst_objects(run_dir)
    missed, false = (wanted[wanted["kind"] == kind] for kind in ("missed", "false alarm"))
    # One object of either kind on each slide, in both arms; false ones of both arms are one place.
    assert sorted(missed["slide_id"]) == sorted(false["slide_id"]) == ["S1", "S2"]
    assert (wanted["n_arms"] == 2).all() and (wanted["arms"] == "1x, 4x").all()
    panels, missing = fields.pictures(run_dir, manifest, wanted)
    assert not missing and len(panels) == 2 * len(wanted)
    for n in range(0, len(panels), 2):
        one, other = panels[n : n + 2]
        assert (one["arm"], other["arm"]) == ("1x", "4x") and one["title"] == other["title"]
        assert np.array_equal(one["rgb"], other["rgb"]) and np.array_equal(one["truth"], other["truth"])
        middle = tuple(side // 2 for side in one["truth"].shape)
        if "missed" in one["title"]:
            assert one["truth"][middle] and not one["predicted"][middle] and not other["predicted"][middle]
        else:
            assert not one["truth"][middle] and one["predicted"][middle] and other["predicted"][middle]
        side_um = one["truth"].shape[0] * one["mpp"]
        assert side_um == pytest.approx(max(500, 1.6 * wanted["diameter_um"].iloc[n // 2]), rel=0.02)
    assert figures.worst_fields(panels).axes


def test_whole_slides_are_drawn_and_a_slide_that_is_gone_is_told(run_dir, tmp_path):
    run_dir, manifest = run_dir
    wanted = fields.worst_slides(run_dir)
    wrong = wanted["missed_mm2"] + wanted["false_mm2"]
    assert wrong.is_monotonic_decreasing and {"IoU 1x", "IoU 4x"} <= set(wanted)
    panels, missing = fields.pictures(run_dir, manifest, wanted)
    assert not missing and len(panels) == 4
    row = wanted.iloc[0]
    of_slide = [panel for panel in panels if panel["title"].startswith(row["slide_id"])]
    for panel in of_slide:  # the IoU of the picture is that of the table, but for its size
        truth, predicted = panel["truth"], panel["predicted"]
        iou = (truth & predicted).sum() / (truth | predicted).sum()
        assert iou == pytest.approx(row[f"IoU {panel['arm']}"], abs=0.06)
    gone = manifest.assign(slide_path=str(tmp_path / "gone.tiff"))
    panels, missing = fields.pictures(run_dir, gone, wanted.head(1))
    assert not panels and missing == [f"{row['slide_id']} cannot be read (SlideError)"]
    panels, missing = fields.pictures(run_dir, manifest.tail(1), wanted)
    assert len(panels) == 2 and missing == ["S1 does not stand in the manifest"]


def test_the_worst_slides_are_those_with_the_largest_wrong_area(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.35, 2.0), 4: (0.62, 25.0)})
    table = fields.worst_slides(run_dir, n=3)
    counts = [pd.read_csv(run_dir / arm / "tables" / "05_grid_counts.csv") for arm in ("1x", "4x")]
    counts = pd.concat(counts).query("threshold_by == 'fixed'")
    wrong = counts.groupby("slide_id")[["fp", "fn"]].sum().sum(axis=1).nlargest(3)
    assert table["slide_id"].tolist() == wrong.index.tolist()
    first = counts[counts["slide_id"] == wrong.index[0]]
    assert table["missed_mm2"].iloc[0] == pytest.approx(first["fn"].mean() * 16e-6)
    assert table["false_mm2"].iloc[0] == pytest.approx(first["fp"].mean() * 16e-6)
