"""A run of three folds through the tables of the comparison and of the controls."""

import pandas as pd
import pytest
from made_folds import edit, write_folds

from tlskit.errors import ComparisonError
from tlskit.evaluation import answers, arm_tables, comparison, costs, effects, factors, reasons


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_folds(tmp_path_factory.mktemp("outputs") / "folds", recall={"20x": 0.4, "4x": 0.7})


def brute_force(run_dir, arm, rule):
    """IoU by reading every fold's file, patient by patient."""
    tp = union = 0
    for fold in range(3):
        table = pd.read_csv(run_dir / f"{arm}_fold={fold}" / "tables" / "05_grid_counts.csv")
        for row in table.itertuples():
            if row.split == "test" and row.threshold_by == rule:
                tp, union = tp + row.tp, union + row.tp + row.fp + row.fn
    return tp / union


@pytest.mark.parametrize("rule", ["fixed", "validation"])
def test_out_of_fold_counts_are_pooled_by_patient(run_dir, rule):
    """Each patient is tested once, at the threshold of its own fold."""
    stands = arm_tables.check_arms(run_dir)
    assert stands["arm"].tolist() == ["4x", "20x"] and stands["n_patients"].tolist() == [24, 24]
    assert stands["n_trainings"].tolist() == [3, 3]
    found = comparison.intervals(run_dir, scores=["iou"], threshold_by=rule).set_index("arm")
    grid = comparison.grid_table if "ceiling_tp" in arm_tables.collect(run_dir, "05_grid_counts") else None
    assert grid is None and found["n_patients"].tolist() == [24, 24] and found["n_repeats"].tolist() == [1, 1]
    for arm in ("4x", "20x"):
        assert found.loc[arm, "estimate"] == pytest.approx(brute_force(run_dir, arm, rule), rel=1e-12)
    apart = comparison.differences(run_dir, scores=["iou"], threshold_by=rule).iloc[0]
    expected = brute_force(run_dir, apart["first"], rule) - brute_force(run_dir, apart["second"], rule)
    assert apart["difference"] == pytest.approx(expected, rel=1e-9) and apart["n_patients"] == 24
    front = costs.pareto(run_dir, threshold_by=rule)
    assert front["n_patients"].tolist() == [24, 24]
    assert answers.changed_by_training(front).startswith("Training. Each arm was trained once in each of 3 folds: ")


def test_the_controls_read_folds_as_trainings_of_one_arm(run_dir):
    table = factors.arm_factors(run_dir)
    assert table["arm"].tolist() == ["20x", "4x"] and table["n_trainings"].tolist() == [3, 3] and "fold" not in table
    assert factors.trainings(run_dir, table)["n_trainings"].tolist() == [3, 3]
    counts = factors.grid_counts(run_dir)
    scores = effects.control_scores(counts, table)
    iou = scores.set_index("arm")["estimate"]
    assert iou["4x"] == pytest.approx(brute_force(run_dir, "4x", "validation"), rel=1e-12)
    plain = effects.control_effects(counts, table).iloc[0]
    assert plain["estimate"] == pytest.approx(iou["20x"] - iou["4x"], rel=1e-9) and plain["n_patients"] == 24
    square, ladder = effects.two_by_two(counts, table), effects.detail_ladder(counts, table)
    assert len(reasons.why(effects.control_effects(counts, table), square, ladder, table, margin=0.05))


def test_a_patient_tested_in_two_folds_is_refused(tmp_path):
    run_dir = write_folds(tmp_path / "folds", recall={"20x": 0.4, "4x": 0.7})
    for arm in ("4x", "20x"):
        for name in ("05_grid_counts", "05_counts_per_slide"):
            source = pd.read_csv(run_dir / f"{arm}_fold=0" / "tables" / f"{name}.csv").query("slide_id == 'p00'")
            edit(run_dir, f"{arm}_fold=1", name, lambda t, more=source: pd.concat([t.query("slide_id != 'p00'"), more]))
    for refused in (arm_tables.check_arms, comparison.intervals, factors.grid_counts):
        with pytest.raises(ComparisonError, match=r"patient p00 is tested in several folds of 4x \(0, 1\)"):
            refused(run_dir)


def test_a_fold_that_is_missing_in_one_arm_is_told(tmp_path):
    run_dir = write_folds(tmp_path / "folds", recall={"20x": 0.4, "4x": 0.7})
    edit(run_dir, "4x_fold=1", "05_counts_per_slide", lambda t: t[t["slide_id"] != "p01"])
    with pytest.raises(ComparisonError, match=r"4x lacks 1 slide\(s\) that another arm has \(p01\)"):
        comparison.intervals(run_dir)
