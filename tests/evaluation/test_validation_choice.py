"""The arm chosen on validation patients: it does not look at the test set, whose score it reports once."""

import shutil

import numpy as np
import pandas as pd
import pytest
from made_folds import edit, write_folds

from tlskit.errors import ComparisonError, RunError
from tlskit.evaluation import validation_choice
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
    assert words[1].startswith("Fold 1: 20x is chosen") and "24 test patients" in words[-1] and len(words) == 4


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
    assert "no test score" in validation_choice.in_words(nothing, pd.DataFrame())[-1]


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
    with pytest.raises(ComparisonError, match="patient p00 is in validation and test of 4x"):
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
    with pytest.raises(ComparisonError, match="Several `split_seed` are swept"):
        validation_choice.chosen_on_validation(run_dir)
