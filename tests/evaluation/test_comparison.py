"""Arms brought together from the archive alone, and refused where they differ."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_archive import ARMS, write_archive
from matplotlib.text import Text

from tlskit import figures
from tlskit.errors import ComparisonError, ParameterError, RunError
from tlskit.evaluation import arm_tables as armtables
from tlskit.evaluation import comparison, costs, decision, fields, reviewing
from tlskit.metrics import published
from tlskit.metrics import scores as metrics


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("runs") / "demo")


def change(run_dir, arm, table, edit):
    path = run_dir / arm / "tables" / f"{table}.csv"
    edit(pd.read_csv(path, dtype={"slide_id": str})).to_csv(path, index=False)


def test_arms_are_folders_with_tables_coarsest_first(run_dir):
    for meeting in ("compare", "cascade", "controls"):
        (run_dir / meeting / "tables").mkdir(parents=True, exist_ok=True)
    found = armtables.arms(run_dir)
    assert found["arm"].tolist() == ["1x", "4x", "10x", "20x"]
    assert found["magnification"].tolist() == [1, 4, 10, 20]
    with pytest.raises(RunError, match="no arm with tables"):
        armtables.arms(run_dir / "compare")


def test_tables_are_stacked_and_missing_ones_named(run_dir):
    table = armtables.collect(run_dir, "05_counts_per_slide")
    assert table.columns[:2].tolist() == ["arm", "magnification"]
    assert len(table) == len(ARMS) * 14 * 2
    with pytest.raises(RunError, match="07_nothing: run step 07"):
        armtables.collect(run_dir, "07_nothing")


def test_what_is_written_anew_is_read_anew_and_what_is_done_to_a_table_is_the_callers_own(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.5, 1.0)})
    table = armtables.collect(run_dir, "05_counts_per_slide")
    before = table["tp"].tolist()
    table["tp"] = -1
    assert armtables.collect(run_dir, "05_counts_per_slide")["tp"].tolist() == before
    change(run_dir, "1x", "05_counts_per_slide", lambda t: t.assign(tp=t["tp"] + 1))
    assert armtables.collect(run_dir, "05_counts_per_slide")["tp"].tolist() == [tp + 1 for tp in before]
    record = run_dir / "1x/records/01_tiling.json"
    record.write_text(record.read_text().replace('"magnification": 1', '"magnification": 2'))
    assert armtables.collect(run_dir, "05_counts_per_slide")["magnification"].unique() == [2]


def test_ids_that_look_like_numbers_stay_text(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.5, 1.0)})
    change(run_dir, "1x", "05_counts_per_slide", lambda t: t.assign(slide_id=[f"00{k}" for k in range(len(t))]))
    assert armtables.collect(run_dir, "05_counts_per_slide")["slide_id"].iloc[3] == "003"


def test_table_one_is_recomputed_by_a_few_lines_from_the_archived_counts(run_dir):
    table = comparison.table_one(run_dir)
    for level, name in (("tile", "04_counts_per_tile"), ("wsi", "05_counts_per_tile")):
        counts = pd.read_csv(run_dir / "4x" / "tables" / f"{name}.csv")
        counts = counts[counts["threshold_by"] == "fixed"]
        tp, fp, fn, tn = (counts[c].to_numpy() for c in ("tp", "fp", "fn", "tn"))
        here = table[(table["level"] == level) & (table["arm"] == "4x")].set_index("pooling")
        assert here.loc["pooled", "iou"] == pytest.approx(tp.sum() / (tp + fp + fn).sum())
        assert here.loc["pooled", "specificity"] == pytest.approx(tn.sum() / (tn + fp).sum())
        batch = [slice(k, k + 8) for k in range(0, len(tp), 8)]
        union = [(tp + fp + fn)[b].sum() for b in batch]
        iou = [tp[b].sum() / u if u else 1.0 for b, u in zip(batch, union, strict=True)]
        assert here.loc["as_published", "iou"] == pytest.approx(np.mean(iou))
        assert here.loc["as_published", "precision"] == here.loc["pooled", "precision"]
    printed = table[table["source"] == published.SOURCE]
    assert len(printed) == 8 and set(printed["pooling"]) == {"as printed"}
    assert table["n_slides"].dropna().isin([14, 23]).all()


def test_the_best_is_bold_only_where_rows_are_of_the_same_pixels(run_dir):
    table = comparison.table_one(run_dir)
    marks = comparison.best_marks(table)
    # Tiles of another magnification hold another share of target: no row is the best of them.
    assert not marks[table["level"] == "tile"].to_numpy().any()
    slides = table[table["source"] == published.SOURCE].query("level == 'wsi'").index
    for name in metrics.SCORES:
        assert table.loc[slides, name][marks.loc[slides, name]].tolist() == [table.loc[slides, name].max()]
    same = table.loc[slides].assign(prevalence=[0.01, 0.01, 0.01, 0.011])
    assert comparison.best_marks(same)["iou"].any()
    assert not comparison.best_marks(same.assign(prevalence=[0.01, 0.1, 0.5, 0.7])).to_numpy().any()
    assert "font-weight: bold" in comparison.style_table_one(table).to_html()


def test_a_mean_over_batches_stands_with_the_range_over_orders(run_dir):
    table = comparison.table_one(run_dir, with_published=False)
    of_batches = table[table["pooling"] == "as_published"]
    assert (of_batches["iou_order_low"] <= of_batches["iou_order_high"]).all()
    assert table.loc[table["pooling"] != "as_published", "iou_order_low"].isna().all()


def test_the_audit_has_every_way_once_and_names_the_winner(run_dir):
    audit = comparison.audit(run_dir)
    assert len(audit) == 2 * (1 + 4 * 3) * len(ARMS)
    winners = comparison.audit_winners(audit)
    assert len(winners) == 26 and not winners.duplicated(["level", "pooling", "empty"]).any()
    for row in winners.itertuples():
        group = audit[(audit["level"] == row.level) & (audit["pooling"] == row.pooling) & (audit["empty"] == row.empty)]
        assert group.set_index("arm")["iou"].idxmax() in row.iou
    # In this archive most tiles of the finest arm are empty: counting them 1 makes it win.
    of_wsi = winners[winners["level"] == "wsi"].set_index(["pooling", "empty"])["iou"]
    assert of_wsi["batch_mean", "one"] == "20x" and of_wsi["pooled", "exclude"] == "4x"


def test_scores_on_the_grid_stand_beside_their_ceiling(run_dir):
    table = comparison.grid_table(run_dir)
    assert table["ceiling_iou"].is_monotonic_increasing
    assert (table["iou"] < table["ceiling_iou"]).all()
    counts = (
        pd.read_csv(run_dir / "1x" / "tables" / "05_grid_counts.csv")
        .query("threshold_by == 'fixed'")
        .sum(numeric_only=True)
    )
    expected = counts["ceiling_tp"] / (counts["ceiling_tp"] + counts["ceiling_fp"] + counts["ceiling_fn"])
    assert table.loc[0, "ceiling_iou"] == pytest.approx(expected)


def test_minutes_are_of_one_stated_slide_and_say_the_machine(run_dir):
    table = costs.minutes_per_slide(run_dir).set_index("arm")
    projected = pd.read_csv(run_dir / "4x" / "tables" / "06_projection.csv")
    assert table.loc["4x", "minutes"] == projected["minutes"].item()
    assert table["slide"].unique().tolist() == ["80,000 x 60,000 px at 0.25 um/px, 120 mm2 of tissue"]
    assert table["hardware"].unique().tolist() == ["made-up, 2 threads"]
    assert (table["n_slides"] == 4).all() and (table["n_repeats"] == 3).all()


@pytest.mark.parametrize(
    ("table", "edit", "message"),
    [
        ("06_projection", lambda t: t.assign(cpu="another"), "cpu differs: 1x made-up, 4x another"),
        ("06_projection", lambda t: t.assign(width_px0=2000), "width_px0 differs"),
        ("06_stages", lambda t: t[t["slide_id"] != "slide_03"], "slides that were timed differ"),
    ],
)
def test_times_of_other_slides_or_machines_are_not_put_beside_one_another(tmp_path, table, edit, message):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    change(run_dir, "4x", table, edit)
    with pytest.raises(ComparisonError, match=message):
        costs.minutes_per_slide(run_dir)
    front = costs.pareto(run_dir)
    assert front["minutes"].isna().all() and len(front) == 2
    assert "No time for 1x and 4x: Times of these arms" in decision.choice(front)


def test_an_arm_without_a_time_stays_in_the_answer(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={4: (0.4, 20.0), 20: (0.7, 200.0)}, n_patients=30)
    for name in ("06_projection", "06_summary", "06_stages"):
        (run_dir / "20x" / "tables" / f"{name}.csv").unlink()
    front = costs.pareto(run_dir)
    assert front.set_index("arm")["chosen"].to_dict() == {"4x": False, "20x": True}
    words = decision.choice(front, missing={"10x": "failed in 03_training"})
    assert words.startswith("20x is shown to be better than 4x") and "No time for 20x" in words
    assert "10x is not compared: failed in 03_training." in words


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t[t["slide_id"] != "slide_03"], r"4x lacks 1 slide.*\(slide_03\).*compare_slides: common"),
        (lambda t: t.assign(n_targets=t["n_targets"] + (t["slide_id"] == "slide_02")), "n_targets of slide slide_02"),
        (lambda t: t.assign(target_mm2=t["target_mm2"] * 1.01), "target_mm2 of slide .* differs"),
        (lambda t: t.assign(patient_id="p00"), "patient_id of slide .* differs"),
    ],
)
def test_arms_that_differ_are_refused_and_the_difference_named(tmp_path, edit, message):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    change(run_dir, "4x", "05_counts_per_slide", edit)
    for compare in (armtables.check_arms, comparison.table_one, comparison.intervals, costs.pareto):
        with pytest.raises(ComparisonError, match=message):
            compare(run_dir)


@pytest.mark.parametrize(("key", "value"), [("split_hash", "beef"), ("target_class", "Tumour")])
def test_another_split_or_target_class_is_refused(tmp_path, key, value):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    path = run_dir / "4x" / "records" / "03_training.json"
    path.write_text(json.dumps({"values": {key: value}}))
    with pytest.raises(ComparisonError, match=f"{key} differs: 1x .*4x {value}"):
        armtables.check_arms(run_dir)


def test_slides_that_all_arms_share_can_be_compared_on_request(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    for name in (
        "05_counts_per_slide",
        "05_counts_per_tile",
        "05_grid_counts",
        "05_histograms",
        "05_objects_per_slide",
    ):
        change(run_dir, "4x", name, lambda t: t[t["slide_id"] != "slide_03"])
    found = armtables.check_arms(run_dir, slides="common")
    assert found["n_slides"].tolist() == [13, 13] and found["slides_left_out"].tolist() == [1, 0]
    assert set(comparison.intervals(run_dir, slides="common")["n_slides"]) == {13}
    table = comparison.table_one(run_dir, slides="common", with_published=False)
    assert set(table.loc[table["level"] == "wsi", "n_slides"]) == {13}
    assert set(comparison.object_table(run_dir, slides="common")["n_slides"]) == {13}
    assert set(comparison.pr_curves(run_dir, slides="common")["n_slides"]) == {13}
    with pytest.raises(ParameterError, match="same or common"):
        armtables.check_arms(run_dir, slides="some")


def test_only_test_slides_are_compared(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    for arm in ("1x", "4x"):
        change(
            run_dir,
            arm,
            "05_counts_per_slide",
            lambda t: t.assign(split=np.where(t["slide_id"] < "slide_05", "val", "test")),
        )
    assert armtables.check_arms(run_dir)["n_slides"].tolist() == [9, 9]
    for arm in ("1x", "4x"):
        change(run_dir, arm, "05_counts_per_slide", lambda t: t.assign(split="val"))
    with pytest.raises(RunError, match="test set"):
        armtables.check_arms(run_dir)


def test_a_threshold_rule_that_was_not_evaluated_is_named(run_dir):
    with pytest.raises(RunError, match="'recall'; it has fixed, validation"):
        comparison.table_one(run_dir, threshold_by="recall")
    table = comparison.threshold_table(run_dir)
    assert table.groupby("arm")["threshold_by"].apply(list).iloc[0] == ["fixed", "validation"]
    assert set(comparison.table_one(run_dir, threshold_by="validation", with_published=False)["threshold"]) == {
        0.32,
        0.38,
        0.5,
        0.7,
    }


def test_tiles_counted_at_one_threshold_keep_it(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    for arm in ("1x", "4x"):
        change(run_dir, arm, "04_counts_per_tile", lambda t: t[t["threshold_by"] == "fixed"])
    table = comparison.table_one(run_dir, threshold_by="validation", with_published=False)
    assert set(table.loc[table["level"] == "tile", "threshold"]) == {0.5}
    assert set(table.loc[table["level"] == "wsi", "threshold"]) == {0.32, 0.38}


def test_objects_and_agreement_of_all_arms(run_dir):
    table = comparison.object_table(run_dir)
    assert len(table) == 3 * len(ARMS) and (table["n_slides"] == 14).all()
    loose, strict = (table[table["rule"] == rule].set_index("arm")["recall"] for rule in ("iou10", "iou50"))
    assert (loose >= strict).all()
    assert len(comparison.agreement_table(run_dir)) == 2 * len(ARMS)


def test_trainings_of_one_arm_stand_under_its_name(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    for arm in ("1x", "4x"):
        for seed in (1, 2):
            shutil.copytree(run_dir / arm, run_dir / f"{arm}_seed={seed}")
        shutil.rmtree(run_dir / arm)
    change(
        run_dir, "4x_seed=2", "05_grid_counts", lambda t: t.assign(tp=t["tp"] // 2, fn=t["fn"] + t["tp"] - t["tp"] // 2)
    )
    stands = armtables.check_arms(run_dir)
    assert stands["arm"].tolist() == ["1x", "4x"] and stands["n_trainings"].tolist() == [2, 2]
    assert stands["n_slides"].tolist() == [14, 14]
    intervals = comparison.intervals(run_dir, scores=["iou"]).set_index("arm")
    assert intervals["n_repeats"].tolist() == [2, 2]
    assert intervals.loc["4x", "repeat_sd"] > intervals.loc["1x", "repeat_sd"] == 0
    assert len(costs.pareto(run_dir)) == 2
    change(run_dir, "4x_seed=2", "05_counts_per_slide", lambda t: t[t["slide_id"] != "slide_03"])
    with pytest.raises(ComparisonError, match=r"4x_seed=2 lacks 1 slide"):
        comparison.intervals(run_dir)


def test_a_patient_called_na_is_a_patient(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    for path in run_dir.glob("*/tables/*.csv"):
        text = path.read_text()
        for old, new in (("p00", "NA"), ("p01", "null"), ("p02", "nan"), ("slide_05", "NaN")):
            text = re.sub(rf"(?m)(^|,){old}(?=,|$)", rf"\g<1>{new}", text)
        path.write_text(text)
    assert armtables.check_arms(run_dir)["n_patients"].tolist() == [12, 12]
    assert {"NA", "null", "nan"} < set(armtables.collect(run_dir, "05_grid_counts")["patient_id"])
    assert set(comparison.intervals(run_dir)["n_patients"]) == {12}


@pytest.mark.parametrize("name", ["threshold", "grid_mpp", "min_object_um2"])
def test_arms_counted_by_other_rules_are_refused_and_other_settings_said(tmp_path, name):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.3, 2.0), 4: (0.6, 20.0)})
    for arm, value in (("1x", 0.5), ("4x", 0.4)):
        record = {"values": {name: value, "tile_px": 64 if arm == "1x" else 128, "epochs": 5}}
        (run_dir / arm / "records" / "05_wsi_evaluation.json").write_text(json.dumps(record))
    with pytest.raises(ComparisonError, match=f"{name} differs: 1x 0.5, 4x 0.4"):
        armtables.check_arms(run_dir)
    assert armtables.unlike_settings(run_dir) == {"tile_px": {"1x": 64, "4x": 128}}


def test_agreement_is_of_patients_and_undefined_is_undefined(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={4: (0.6, 20.0)})
    assert comparison.agreement_table(run_dir)["n"].tolist() == [12, 12]  # of 14 slides
    one = write_archive(tmp_path / "one", arms={4: (0.6, 20.0)}, n_patients=1)
    found = comparison.agreement_table(one)
    assert found[["limit_low", "limit_high", "concordance"]].isna().all(axis=None)


def test_a_few_lines_without_the_package_give_the_same_numbers(tmp_path):
    run_dir = write_archive(tmp_path / "run")
    (run_dir / "run.yaml").write_text("batch_size: 4\n")
    # Notebook 05 counts validation slides on the grid too; a patient may be called NA.
    for arm in ARMS:
        change(run_dir, f"{arm:g}x", "05_grid_counts", lambda t: pd.concat(
            [t.replace({"patient_id": {"p00": "NA"}}), t.assign(split="val", slide_id=t["slide_id"] + "_val", tp=9)]
        ))  # fmt: skip
        for name in ("05_counts_per_slide", "05_counts_per_tile"):
            change(run_dir, f"{arm:g}x", name, lambda t: t.replace({"patient_id": {"p00": "NA"}}))
    script = Path(__file__).resolve().parents[2] / "docs" / "recompute.py"
    printed = subprocess.run([sys.executable, script, run_dir], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in printed.splitlines()]
    table = comparison.table_one(run_dir, with_published=False, batch_size=4).query("level == 'wsi'")
    grid = comparison.grid_table(run_dir).set_index("arm")
    assert len(lines) == 2 * len(grid)
    for arm, name, *words in lines:
        iou, dice = float(words[2]), float(words[4])
        if name == "05_grid_counts":
            assert (iou, dice) == pytest.approx(tuple(grid.loc[arm, ["iou", "dice"]]), abs=1e-4)
            continue
        pooled, published = (table[(table["arm"] == arm) & (table["pooling"] == p)] for p in ("pooled", "as_published"))
        assert (iou, dice) == pytest.approx((pooled["iou"].item(), pooled["dice"].item()), abs=1e-4)
        assert float(words[8]) == pytest.approx(published["iou"].item(), abs=1e-4)


def test_with_common_slides_every_table_stands_on_the_same_ones(tmp_path):
    """A slide that one arm lost is left out of all numbers of the others, pictures and tables alike."""
    arms = {1: (0.3, 2.0), 4: (0.6, 20.0)}
    lacking, without = (write_archive(tmp_path / name, arms=arms) for name in ("lacking", "without"))
    tables = [path.stem for path in (lacking / "4x" / "tables").glob("0[45]_*.csv")]
    for name in tables:
        change(lacking, "4x", name, lambda t: t[t["slide_id"] != "slide_03"])
        for arm in ("1x", "4x"):
            change(without, arm, name, lambda t: t[t["slide_id"] != "slide_03"])
    for make in (
        comparison.intervals, comparison.differences, comparison.grid_table, comparison.object_table,
        comparison.agreement_points, comparison.agreement_table, comparison.threshold_table, comparison.pr_curves,
        comparison.calibration, comparison.audit, reviewing.subgroups, reviewing.without_target, reviewing.froc,
        reviewing.shapes, reviewing.needed, fields.worst_slides, fields.worst_objects, costs.pareto,
    ):  # fmt: skip
        kept, expected = make(lacking, slides="common"), make(without, slides="same")
        pd.testing.assert_frame_equal(kept.reset_index(drop=True), expected.reset_index(drop=True), obj=make.__name__)


def test_names_of_arms_that_score_alike_do_not_lie_on_one_another(tmp_path):
    arms = {1: (0.60, 20.0), 4: (0.61, 21.0), 10: (0.605, 22.0), 20: (0.60, 23.0)}
    front = costs.pareto(write_archive(tmp_path / "run", arms=arms, n_patients=30))
    figure = figures.pareto_front(front)
    figure.draw_without_rendering()
    names = [text for text in figure.axes[0].texts if text.get_text() in set(front["arm"])]
    assert len(names) == 4
    boxes = [Text.get_window_extent(text) for text in names]  # without the line to the mark
    for n, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[n + 1 :])
