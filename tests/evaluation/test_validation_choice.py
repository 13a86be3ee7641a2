"""The arm chosen on validation patients: it does not look at the test set, whose score it reports once."""

import shutil

import numpy as np
import pandas as pd
import pytest
from made_folds import edit, write_folds

from tlskit.errors import LeakageError, ParameterError, RunError
from tlskit.evaluation import answers, comparison, costs, validation_choice
from tlskit.metrics import bootstrap, uncertainty
from tlskit.metrics.scores import COUNTS

RECALL = {"20x": 0.4, "4x": 0.75}
CHOSEN = ["estimate", "low", "high", "reason", "share_chosen", "share_none"]


def permute_test_labels(run_dir, seed):
    """Counts of the test rows change hands between patients, and arms change theirs."""
    rng = np.random.default_rng(seed)
    for folder in sorted(path for path in run_dir.iterdir() if path.is_dir()):

        def permuted(table):
            test = table.index[table["split"] == "test"]
            table.loc[test, list(COUNTS)] = table.loc[rng.permutation(test), ["fn", "tp", "fp", "tn"]].to_numpy()
            return table

        edit(run_dir, folder.name, "05_grid_counts", permuted)


@pytest.mark.parametrize("folds", [1, 3])
def test_the_choice_does_not_look_at_the_test_set(tmp_path, folds):
    run_dir = write_folds(tmp_path / "r", recall=RECALL, folds=folds)
    before = validation_choice.chosen_on_validation(run_dir, draws=30)
    assert before.loc[before["chosen"], "arm"].tolist() == ["4x"] * folds
    score = validation_choice.score_of_choice(run_dir, before)["estimate"].item()
    for seed in range(3):
        permute_test_labels(run_dir, seed)
        after = validation_choice.chosen_on_validation(run_dir, draws=30)
        pd.testing.assert_frame_equal(after, before)
        assert validation_choice.score_of_choice(run_dir, after)["estimate"].item() != pytest.approx(score, rel=1e-3)


def test_each_fold_chooses_for_its_own_test_patients(tmp_path):
    run_dir = write_folds(tmp_path / "r", recall=RECALL)
    for name in ("20x_fold=1", "4x_fold=1"):  # in fold 1 the validation patients say the opposite
        other = pd.read_csv(run_dir / f"{'4x' if name[0] == '2' else '20x'}_fold=1" / "tables" / "05_grid_counts.csv")
        (tmp_path / f"{name}.csv").write_text(other[other["split"] == "val"].to_csv(index=False))
    for name in ("20x_fold=1", "4x_fold=1"):
        more = pd.read_csv(tmp_path / f"{name}.csv")
        edit(run_dir, name, "05_grid_counts", lambda t, more=more: pd.concat([t[t["split"] == "test"], more]))
    chosen = validation_choice.chosen_on_validation(run_dir, draws=30)
    picked = chosen[chosen["chosen"]].set_index("fold")["arm"]
    assert picked.to_dict() == {0: "4x", 1: "20x", 2: "4x"}
    tp = union = 0
    for fold, arm in picked.items():
        table = pd.read_csv(run_dir / f"{arm}_fold={fold:g}" / "tables" / "05_grid_counts.csv")
        table = table.query("split == 'test' and threshold_by == 'fixed'")
        tp, union = tp + table["tp"].sum(), union + table[["tp", "fp", "fn"]].to_numpy().sum()
    tested = validation_choice.score_of_choice(run_dir, chosen)
    assert tested["estimate"].tolist() == [pytest.approx(tp / union)] and tested["n_patients"].item() == 24
    words = validation_choice.in_words(chosen, tested)
    assert words.startswith("Chosen fold by fold, on its own validation patients: 4x in folds 0, 2; 20x in fold 1.")
    assert f"on the 24 test patients, which no choice saw: {tested['estimate'].item():.3f} (" in words


def test_shares_of_draws_say_how_firm_a_choice_is(tmp_path):
    firm, loose = (
        validation_choice.chosen_on_validation(write_folds(tmp_path / name, recall=recall, folds=1), draws=60)
        for name, recall in (("firm", RECALL), ("loose", {"20x": 0.62, "4x": 0.6, "1x": 0.61}))
    )
    for table in (firm, loose):
        assert table["share_chosen"].sum() + table["share_none"].iloc[0] == pytest.approx(1)
    assert firm.set_index("arm")["share_chosen"].to_dict() == {"20x": 0.0, "4x": 1.0}
    assert loose["share_chosen"].max() < 1
    nothing = firm.assign(chosen=False)
    assert validation_choice.score_of_choice(tmp_path / "firm", nothing).empty
    words = validation_choice.in_words(nothing.assign(reason="not shown"), pd.DataFrame())
    assert words.startswith("No arm is chosen on 12 validation patients: none is shown to be the best")
    assert words.endswith("So no test score is that of a choice.")


def test_the_answer_is_the_choice_of_validation_and_its_one_test_score(tmp_path):
    """Validation patients say 4x, test patients say 20x: the choice is 4x, and its own test score stands beside it."""
    run_dir = write_folds(tmp_path / "r", recall=RECALL, folds=1)
    tables = {arm: pd.read_csv(run_dir / arm / "tables" / "05_grid_counts.csv") for arm in RECALL}
    other = {"4x": "20x", "20x": "4x"}
    for arm, mine in tables.items():
        test = tables[other[arm]].query("split == 'test'").assign(mpp=mine["mpp"].iloc[0])
        edit(run_dir, arm, "05_grid_counts", lambda t, test=test: pd.concat([t[t["split"] == "val"], test]))
    found = answers.answer(run_dir, draws=30)
    front = found.front.set_index("arm")
    assert front["chosen"].to_dict() == {"20x": False, "4x": True} and front["chosen_on_test"]["20x"]
    score = front.loc["4x", "estimate"]
    assert found.words[0].startswith("Chosen on 12 validation patients: 4x, shown there to be better than every other")
    assert f"Its IoU on the 12 test patients, which the choice did not see: {score:.3f} (" in found.words[0]
    assert found.words[1].startswith("The test patients alone: 20x is shown to be better than 4x by IoU")
    assert "The rule would choose by them 20x." in found.words[1] and "Chosen is" not in " ".join(found.words)
    assert found.tested["estimate"].tolist() == [pytest.approx(score)]
    # The other threshold is put to the same question.
    words = answers.changed_by_threshold(run_dir, found.front)
    assert words.endswith("What is shown, and what is chosen, stays the same.")


def test_an_archive_without_validation_slides_is_answered_by_test_patients_and_says_so(tmp_path):
    run_dir = write_folds(tmp_path / "r", recall=RECALL, folds=1)
    for arm in RECALL:
        edit(run_dir, arm, "05_grid_counts", lambda t: t[t["split"] == "test"])
    found = answers.answer(run_dir)
    assert found.words[0].endswith("Chosen is 4x.") and found.on_validation.empty and found.tested.empty
    assert found.words[1].startswith("This choice is by the same test patients as the scores")
    assert "hold no validation slides: run step 05 again" in found.words[1]


def test_a_validation_slide_that_an_arm_lacks_is_told_and_does_not_end_the_answer(tmp_path):
    run_dir = write_folds(tmp_path / "r", recall=RECALL, folds=1)
    edit(run_dir, "4x", "05_grid_counts", lambda t: t[t["slide_id"] != "p01"])
    found = answers.answer(run_dir)
    assert "No choice on validation: The arms of the run r cannot be compared" in found.words[1]
    assert "4x lacks 1 slide(s) that another arm has (p01)" in found.words[1]
    common = answers.answer(run_dir, slides="common", draws=10)
    assert common.words[0].startswith("Chosen on 11 validation patients: 4x")


def test_scores_of_validation_slides_are_those_of_the_grid(tmp_path):
    run_dir = write_folds(tmp_path / "r", recall=RECALL, folds=1)
    table = comparison.intervals(run_dir, split="val", scores=["iou"]).set_index("arm")
    counts = pd.read_csv(run_dir / "4x" / "tables" / "05_grid_counts.csv")
    tp, fp, fn, _ = counts.query("split == 'val' and threshold_by == 'fixed'")[list(COUNTS)].sum()
    assert table.loc["4x", "estimate"] == pytest.approx(tp / (tp + fp + fn)) and (table["n_patients"] == 12).all()
    assert costs.pareto(run_dir, split="val")["estimate"].tolist() == pytest.approx(table["estimate"].tolist())
    with pytest.raises(RunError, match="counted on the common grid alone, not in 05_counts_per_slide"):
        comparison.intervals(run_dir, on="wsi", split="val")
    with pytest.raises(ParameterError, match="test or val, not 'train'"):
        comparison.intervals(run_dir, split="train")


def test_draws_of_the_patients_as_they_are_give_the_intervals_of_the_comparison(tmp_path, monkeypatch):
    counts = validation_choice.validation_counts(write_folds(tmp_path / "r", recall=RECALL, folds=1))
    monkeypatch.setattr(bootstrap, "patient_weights", lambda n, draws, seed: np.ones((draws, n), np.float32))
    (quality, apart), *_ = bootstrap.redrawn(counts, draws=1)
    intervals = uncertainty.intervals(counts, scores=["iou"])
    assert quality["estimate"].to_numpy() == pytest.approx(intervals["estimate"].to_numpy())
    same = uncertainty.differences(counts, scores=["iou"])[["difference", "low_all", "high_all"]]
    assert apart[same.columns].to_numpy() == pytest.approx(same.to_numpy())


def test_archives_without_validation_slides_and_mixed_sets_are_refused(tmp_path):
    run_dir = write_folds(tmp_path / "mixed", recall=RECALL, folds=1)
    edit(run_dir, "4x", "05_grid_counts", lambda t: pd.concat([t, t[t["split"] == "test"].assign(split="val").head(1)]))
    with pytest.raises(LeakageError, match="patient p00 is in validation and test of 4x"):
        validation_choice.chosen_on_validation(run_dir)
    for arm in RECALL:
        edit(run_dir, arm, "05_grid_counts", lambda t: t[t["split"] == "test"])
    with pytest.raises(RunError, match="hold no validation slides"):
        validation_choice.chosen_on_validation(run_dir)


def test_several_splits_are_refused(tmp_path):
    run_dir = write_folds(tmp_path / "r", recall=RECALL, folds=1)
    for arm in RECALL:
        for seed in (1, 2):
            shutil.copytree(run_dir / arm, run_dir / f"{arm}_split_seed={seed}")
        shutil.rmtree(run_dir / arm)
    arms = [f"{arm}_split_seed={seed}" for arm in RECALL for seed in (1, 2)]
    pd.DataFrame({"arm": arms, "magnification": [20, 20, 4, 4]}).to_csv(run_dir / "arms.csv", index=False)
    with pytest.raises(RunError, match="Several `split_seed` are swept"):
        validation_choice.chosen_on_validation(run_dir)
