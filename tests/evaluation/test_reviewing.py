"""What reviewers ask for, from the archive alone."""

import numpy as np
import pandas as pd
import pytest
from made_archive import write_archive

from tlskit.evaluation import answers, comparison, costs, reviewing


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("runs") / "run", arms={1: (0.35, 2.0), 4: (0.62, 25.0)})


def test_subgroups_have_their_own_patients_and_only_larger_ones_are_called_worst(run_dir):
    table = reviewing.subgroups(run_dir)
    assert set(table["group"]) == {"lung", "oropharyngeal"} and set(table["by"]) == {"cancer_type"}
    assert table.groupby("arm")["n_patients"].sum().tolist() == [12, 12]
    counts = pd.read_csv(run_dir / "4x" / "tables" / "05_grid_counts.csv").query("threshold_by == 'fixed'")
    tp, fp, fn = counts[counts["cancer_type"] == "lung"][["tp", "fp", "fn"]].sum()
    row = table[(table["arm"] == "4x") & (table["group"] == "lung")].iloc[0]
    assert row["estimate"] == pytest.approx(tp / (tp + fp + fn)) and row["low"] < row["estimate"] < row["high"]
    assert table.groupby("arm")["worst"].sum().tolist() == [1, 1]
    assert not reviewing.subgroups(run_dir, smallest=99)["worst"].any()


def test_on_slides_without_target_everything_is_false(run_dir):
    table = reviewing.without_target(run_dir).set_index("arm")
    objects = pd.read_csv(run_dir / "1x" / "tables" / "05_objects_per_slide.csv").query("threshold_by == 'fixed'")
    row = objects[objects["slide_id"] == "slide_13"].iloc[0]  # the archive's one slide without target
    assert table["n_slides"].tolist() == [1, 1]
    assert table.loc["1x", "false_objects_per_slide"] == row["n_predicted"]
    assert table.loc["1x", "n_clean"] == int(row["n_predicted"] == 0)


def test_recall_against_false_objects_is_of_all_slides_together_and_marks_both_thresholds(run_dir):
    table = reviewing.froc(run_dir)
    of_slides = pd.read_csv(run_dir / "4x" / "tables" / "05_objects_by_threshold.csv").query("threshold == 0.5")
    row = table[(table["arm"] == "4x") & (table["threshold"] == 0.5)].iloc[0]
    assert row["recall"] == pytest.approx(of_slides["n_found"].sum() / of_slides["n_truth"].sum())
    assert row["false_per_mm2"] == pytest.approx(of_slides["n_false"].sum() / of_slides["tissue_mm2"].sum())
    assert row["mark"] == "fixed" and (table.groupby("arm")["mark"].apply(lambda m: (m != "").sum()) == 2).all()


def test_shapes_count_missed_objects_as_nothing(run_dir):
    table = reviewing.shapes(run_dir).set_index("arm")
    assert (table["object_dice_all"] < table["object_dice"]).all() and (table["n_found"] <= table["n_truth"]).all()
    assert table["surface_mean_um"].tolist() == [18.0, 18.0]


def test_patients_needed_to_show_a_difference_fall_with_its_size(run_dir):
    needed = reviewing.needed(run_dir).set_index("what")
    row = needed.loc["1x against 4x, by the difference found here"]
    apart = comparison.differences(run_dir, scores=["iou"]).iloc[0]
    assert row["patients_needed"] == np.ceil(12 * (1.96 * apart["se"] / abs(apart["difference"])) ** 2)


def test_the_flow_tells_who_does_not_reach_the_next_stage(run_dir):
    from tlskit.evaluation import check_arms

    ids = [f"p{n:02d}" for n in range(12)]
    split = pd.DataFrame({"patient_id": [*ids, "a", "b", "c"], "split": ["test"] * 12 + ["train", "train", "val"]})
    steps = reviewing.flow(run_dir, split, check_arms(run_dir)).set_index("stage")
    assert steps["n_patients"].tolist() == [15, 12, 12, 12] and steps.loc["with target", "n_slides"] == 13
    assert steps.loc["cohort", "left_out_text"].startswith("2 patients to train, 1 to choose a threshold")
    assert steps.loc["compared", "left_out_text"] == "0 patients, 1 slides without target"


def test_what_would_change_the_answer_is_told_with_its_figures(run_dir):
    front = costs.pareto(run_dir)
    assert answers.changed_by_training(front).startswith("Training. Each arm was trained once")
    several = answers.changed_by_training(front.assign(n_repeats=[3, 1], repeat_sd=[0.021, np.nan]))
    assert "1x 0.021 (3 trainings)" in several and "Trained once, with the mean spread of the others: 4x." in several
    other = comparison.intervals(run_dir, scores=["iou"], threshold_by="validation").set_index("arm")["estimate"]
    assert f"to {other['4x']:.3f} (at 0.38)" in answers.changed_by_threshold(run_dir, front)
    words = answers.changed_by_averaging(comparison.audit(run_dir))
    assert "whole slides" in words and "13 ways" in words and "; on tiles" in words
    table = answers.answer_table(run_dir, front)
    assert len(table) == 4 and table["n_found"].notna().all() and table["minutes"].notna().all()


def test_arms_left_out_of_the_answer_are_told_with_the_reason(tmp_path):
    run_dir = write_archive(tmp_path / "run", arms={1: (0.35, 2.0), 4: (0.62, 25.0), 10: (0.6, 99.0)}, n_patients=4)
    (run_dir / "10x" / "tables" / "05_grid_counts.csv").unlink()
    (run_dir / "compare").mkdir()
    (run_dir / "compare" / "left_out.csv").write_text("arm,state,why\n20x,failed,03_training failed: no memory.\n")
    missing = answers.missing_arms(run_dir, costs.pareto(run_dir))
    assert missing == {"20x": "failed, 03_training failed: no memory", "10x": "it has no counts on the common grid"}
