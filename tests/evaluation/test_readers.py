"""Two people against each other: counted by brute force, read by the same checks, and shown on the slides of both."""

import json

import numpy as np
import pandas as pd
import pytest
import shapely
from made_archive import write_archive
from made_cohort import manifest_row
from scipy import ndimage

from tlskit import evaluation, figures
from tlskit.cohort import checks
from tlskit.cohort import manifest as manifests
from tlskit.errors import AnnotationError, ComparisonError
from tlskit.evaluation import reader_scores
from tlskit.slides import tiffs

MPP0, SIZE = 0.5, (1200, 900)
FIRST = [(160, 200, 400, 500), (600, 304, 704, 424)]
SECOND = [(176, 200, 400, 520), (800, 600, 880, 680)]


def outline(path, boxes, name="TLS"):
    of = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shapely.box(*box))),
         "properties": {"objectType": "annotation", "classification": {"name": name}}} for box in boxes
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": of}))
    return str(path)


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Three slides; two people outlined the first two."""
    folder = tmp_path_factory.mktemp("readers")
    image = np.full((SIZE[1], SIZE[0], 3), 244, np.uint8)
    image[100:800, 80:900] = (215, 150, 190)
    rows = []
    for name, second in {"a": SECOND, "b": FIRST[:1], "c": None}.items():
        tiffs.write_slide(folder / f"{name}.tif", image, mpp=MPP0, objective_power=20)
        first = outline(folder / f"{name}.geojson", FIRST if name == "a" else FIRST[:1])
        row = manifest_row(name, folder / f"{name}.tif", first, patient_id=f"p{name}", split="test")
        again = outline(folder / f"{name}_2.geojson", second) if second else ""
        rows.append(row | {"annotation_path_2": again})
    return folder, pd.DataFrame(rows)


def brute(boxes, mpp):
    x, y = ((np.arange(round(n * MPP0 / mpp)) + 0.5) * mpp / MPP0 for n in SIZE)
    mask = np.zeros((len(y), len(x)), bool)
    for x0, y0, x1, y1 in boxes:
        mask |= ((y > y0) & (y < y1))[:, None] & ((x > x0) & (x < x1))
    return mask


def test_two_readers_are_counted_as_a_map_is(twice):
    _, manifest = twice
    found = evaluation.evaluate_readers(manifest, target_class="TLS", grid_mpp=4.0, min_object_um2=500.0)
    first, second = brute(FIRST, 4.0), brute(SECOND, 4.0)
    row = found.counts.set_index("slide_id").loc["a"]
    assert (row["tp"], row["fp"], row["fn"]) == (
        (first & second).sum(), (second & ~first).sum(), (first & ~second).sum()
    )  # fmt: skip
    assert found.counts["slide_id"].tolist() == ["a", "b"] and (row["n_truth"], row["n_predicted"]) == (2, 2)
    same = found.counts.set_index("slide_id").loc["b"]
    assert same["fp"] == same["fn"] == 0
    truth = found.objects.query("slide_id == 'a' and kind == 'truth'").sort_values("best_iou")
    assert truth["matched_iou10"].tolist() == [False, True]
    # Mean distance between the two boundaries, by scipy on the same pixels.
    one, other = (ndimage.label(mask)[0] == 1 for mask in (first, second))
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    to = [ndimage.distance_transform_edt(~edge) for edge in edges]
    apart = 4.0 * np.concatenate([to[1][edges[0]], to[0][edges[1]]]).mean()
    assert truth["surface_mean_um"].iloc[1] == pytest.approx(apart)


def test_who_is_called_the_truth_changes_no_agreement(twice):
    _, manifest = twice
    turned = manifest.rename(columns={"annotation_path": "annotation_path_2", "annotation_path_2": "annotation_path"})
    one, other = (
        evaluation.evaluate_readers(table, target_class="TLS").counts.set_index("slide_id").loc["a"]
        for table in (manifest, turned)
    )
    assert (one["tp"], one["fp"], one["fn"], one["tn"]) == (other["tp"], other["fn"], other["fp"], other["tn"])


def test_the_second_readers_file_goes_through_the_same_checks(twice, tmp_path):
    _, manifest = twice
    failed = {}
    bad = manifest.head(2).copy()
    bad.loc[0, "annotation_path_2"] = outline(tmp_path / "other.geojson", SECOND, name="Tumor")
    found = evaluation.evaluate_readers(bad, target_class="TLS", on_failure=failed.__setitem__)
    assert found.counts["slide_id"].tolist() == ["b"] and isinstance(failed["a"], AnnotationError)
    assert str(failed["a"]).startswith("Second reader: ") and "Tumor" in str(failed["a"])
    none = evaluation.evaluate_readers(manifest.assign(annotation_path_2=""), target_class="TLS")
    assert none.counts.empty and "tp" in none.counts


def test_check_and_manifest_know_the_second_reader(twice, tmp_path):
    folder, manifest = twice
    path = folder / "manifest.csv"
    manifests.write_manifest(manifest.drop(columns="split"), path)
    table = manifests.read_manifest(path)
    assert table["annotation_path_2"].tolist() == manifest["annotation_path_2"].tolist()
    found = checks.check_manifest(path, target_class="TLS", magnifications=(4,), tile_px=64)
    text = found.to_string()
    assert "2 of 3 slides have outlines of a second reader." in text
    assert "The second reader's outlines are the first one's, point for point." in text  # slide b
    outline(folder / "a_2.geojson", SECOND, name="Tumor")
    row = checks.check_manifest(path, target_class="TLS", magnifications=(4,), tile_px=64).query(
        "slide_id == 'a' and severity == 'error'"
    )
    assert row["what"].item().startswith("Second reader: a_2.geojson") and "'Tumor'" in row["what"].item()
    outline(folder / "a_2.geojson", SECOND)
    faulty = manifest.drop(columns="split")
    faulty.loc[0, "annotation_path_2"] = faulty.loc[0, "annotation_path"]
    faulty.loc[1, "annotation_path_2"] = faulty.loc[2, "annotation_path"]
    manifests.write_manifest(faulty, path)
    _, faults = manifests.inspect_manifest(path)
    assert [fault.column for fault in faults] == ["annotation_path_2", "annotation_path"]
    assert "is the first reader's file, too" in faults[0].text and "stands in row 3 already" in faults[1].text


@pytest.fixture
def run_dir(tmp_path):
    """A made archive of 8 slides, five of which two people outlined."""
    run_dir = write_archive(tmp_path / "run", arms={1: (0.35, 2.0), 4: (0.62, 25.0)}, n_patients=6)
    for arm in ("1x", "4x"):
        folder = run_dir / arm / "tables"
        counts = pd.read_csv(folder / "05_grid_counts.csv").query("threshold_by == 'fixed'").head(5)
        whole = counts["tp"] + counts["fn"]
        people = counts.assign(tp=(0.8 * whole).astype(int), fp=(0.1 * whole).astype(int), n_truth=2, n_predicted=2)
        people["fn"] = whole - people["tp"]
        people.drop(columns=["threshold_by", "threshold"]).to_csv(folder / "05_readers.csv", index=False)
        objects = pd.read_csv(folder / "05_objects.csv").query("threshold_by == 'fixed'")
        objects = objects[objects["slide_id"].isin(people["slide_id"])]
        objects.drop(columns=["threshold_by", "threshold"]).to_csv(folder / "05_readers_objects.csv", index=False)
    return run_dir


def test_two_people_stand_beside_the_arms_on_the_same_slides(run_dir):
    table = evaluation.reader_table(run_dir).set_index("who")
    people = pd.read_csv(run_dir / "1x" / "tables" / "05_readers.csv")
    tp, fp, fn = people[["tp", "fp", "fn"]].sum()
    assert table.loc[reader_scores.PEOPLE, "iou"] == pytest.approx(tp / (tp + fp + fn))
    assert (table["n_slides"] == 5).all() and (table["n_slides_compared"] == 8).all()
    counts = pd.read_csv(run_dir / "4x" / "tables" / "05_grid_counts.csv").query("threshold_by == 'fixed'").head(5)
    tp, fp, fn = counts[["tp", "fp", "fn"]].sum()
    assert table.loc["4x", "iou"] == pytest.approx(tp / (tp + fp + fn))
    words = reader_scores.in_words(table.reset_index())
    assert words.startswith(f"Two people reach an IoU of {table['iou'].iloc[0]:.3f} (")
    assert "against each other on 5 of 8 test slides, and an F1 of" in words
    assert "The other 3 have no outlines of a second reader." in words and "Caution: only 5 test patients" in words


def test_without_a_second_reader_that_is_said(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={4: (0.62, 25.0)}, n_patients=4)
    table = evaluation.reader_table(run_dir)
    assert table.empty and "is not known" in reader_scores.in_words(table)
    assert figures.ceilings(evaluation.grid_table(run_dir), readers=table).axes


def test_arms_counted_before_a_readers_outlines_changed_are_refused(run_dir):
    path = run_dir / "4x" / "tables" / "05_readers.csv"
    table = pd.read_csv(path)
    table.loc[0, "fp"] += 7
    table.to_csv(path, index=False)
    with pytest.raises(ComparisonError, match="different things of the two readers of slide slide_00: run step 05"):
        evaluation.reader_table(run_dir)


def test_the_band_of_two_people_lies_where_their_score_is(run_dir):
    table = evaluation.reader_table(run_dir)
    low, high, value = table.iloc[0][["iou_low", "iou_high", "iou"]]
    for figure, axis in (
        (figures.pareto_front(evaluation.pareto(run_dir), readers=table), "y"),
        (figures.ceilings(evaluation.grid_table(run_dir), readers=table), "x"),
    ):
        ax = figure.axes[0]
        limits = ax.get_ylim() if axis == "y" else ax.get_xlim()
        assert limits[0] < low and high < limits[1]
        lines = [set(np.ravel(getattr(line, f"get_{axis}data")())) for line in ax.lines]
        assert {value} in lines
        assert "dotted: two people against each other" in figures.alt_text(figure, "") + str(
            [text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))]
        )
