"""The split of patients: disjoint, complete, reproducible, and blind to row order and magnification."""

import inspect

import numpy as np
import pandas as pd
import pytest

from tlskit.cohort import feasibility, splitting
from tlskit.errors import LeakageError, RunError


def cohort(sizes=(("lung", 60), ("breast", 40), ("oropharyngeal", 30), ("oesophageal", 21))) -> pd.DataFrame:
    """151 patients of four cancer types, every third one with two slides."""
    rows = []
    for cancer_type, n in sizes:
        for i in range(n):
            for slide in range(1 + (i % 3 == 0)):
                patient = f"{cancer_type}{i:03d}"
                rows.append({"slide_id": f"{patient}_{slide}", "patient_id": patient, "cancer_type": cancer_type})
    return pd.DataFrame(rows)


def test_every_patient_is_in_exactly_one_set():
    manifest = cohort()
    split = splitting.split_patients(manifest, seed=0)
    assert split["patient_id"].is_unique
    assert set(split["patient_id"]) == set(manifest["patient_id"])
    assert set(split["split"]) == set(splitting.SPLITS)


def test_151_patients_split_70_15_15_as_whole_patients():
    # 105.7, 22.65 and 22.65 round to 106, 23 and 22 by largest remainder.
    counts = splitting.split_patients(cohort(), seed=3)["split"].value_counts()
    assert counts.to_dict() == {"train": 106, "val": 23, "test": 22}


def test_each_cancer_type_follows_the_ratios_within_one_patient():
    split = splitting.split_patients(cohort(), seed=1)
    for _, group in split.groupby("cancer_type"):
        for name, share in zip(splitting.SPLITS, (0.70, 0.15, 0.15), strict=True):
            assert abs((group["split"] == name).sum() - share * len(group)) <= 1.5


def test_row_order_does_not_matter_and_the_seed_does():
    manifest = cohort()
    shuffled = manifest.sample(frac=1, random_state=5)
    first = splitting.split_hash(splitting.split_patients(manifest, seed=0))
    assert splitting.split_hash(splitting.split_patients(shuffled, seed=0)) == first
    assert splitting.split_hash(splitting.split_patients(manifest, seed=1)) != first


def test_magnification_is_no_argument_of_the_split():
    assert set(inspect.signature(splitting.split_patients).parameters) == {"manifest", "ratios", "folds", "seed"}


@pytest.mark.parametrize("n_patients", [3, 4, 5, 12, 14])
def test_small_cohorts_leave_no_set_empty(n_patients):
    types = np.array(["a", "b", "c", "d"])[np.arange(n_patients) % 4]
    manifest = pd.DataFrame({"patient_id": [f"p{i}" for i in range(n_patients)], "cancer_type": types})
    assert set(splitting.split_patients(manifest, seed=0)["split"]) == set(splitting.SPLITS)


def test_fewer_patients_than_sets_is_an_error():
    with pytest.raises(ValueError, match="2 patients cannot fill 3 sets"):
        splitting.split_patients(cohort((("lung", 2),)), seed=0)


def test_a_planted_leak_is_an_error_that_names_the_patient():
    manifest = cohort((("lung", 6),))
    split = splitting.split_patients(manifest, seed=0)
    leaked = pd.concat([split, split.iloc[[0]].assign(split="test" if split.iloc[0]["split"] != "test" else "val")])
    with pytest.raises(LeakageError, match=split.iloc[0]["patient_id"]):
        splitting.attach_split(manifest, leaked)


def test_a_patient_without_a_set_is_an_error_that_names_the_patient():
    manifest = cohort((("lung", 6),))
    split = splitting.split_patients(manifest, seed=0)
    with pytest.raises(LeakageError, match=split.iloc[2]["patient_id"]):
        splitting.attach_split(manifest, split.drop(index=2))


def test_a_split_given_in_the_manifest_is_taken_and_checked():
    manifest = cohort((("lung", 6),)).assign(split="train")
    manifest.loc[manifest["patient_id"] == "lung001", "split"] = "test"
    split = splitting.split_patients(manifest, seed=0).set_index("patient_id")["split"]
    assert split["lung001"] == "test" and (split.drop("lung001") == "train").all()
    manifest.loc[0, "split"] = "val"  # lung000 has two slides; only one of them is moved
    with pytest.raises(LeakageError, match="lung000"):
        splitting.split_patients(manifest, seed=0)


def test_a_run_keeps_one_split(tmp_path):
    manifest = cohort((("lung", 12),))
    split = splitting.split_patients(manifest, seed=0)
    splitting.keep_split(split, tmp_path / "split.csv")
    kept = splitting.keep_split(split.sample(frac=1, random_state=1), tmp_path / "split.csv")
    assert splitting.split_hash(kept) == splitting.split_hash(split)
    with pytest.raises(RunError, match="another split"):
        splitting.keep_split(splitting.split_patients(manifest, seed=9), tmp_path / "split.csv")


def test_the_leakage_table_counts_what_sets_share():
    tiles = pd.DataFrame(
        {
            "tile_id": ["t1", "t2", "t3", "t3"],
            "slide_id": ["s1", "s2", "s3", "s3"],
            "patient_id": ["p1", "p2", "p3", "p3"],
            "split": ["train", "val", "train", "test"],
        }
    )
    table = splitting.leakage_check(tiles).set_index("sets")
    assert table.loc["train and val"].tolist() == [0, 0, 0]
    assert table.loc["train and test"].tolist() == [1, 1, 1]


def test_over_five_folds_every_patient_is_tested_once_and_validated_on_once():
    manifest = cohort()
    folds = splitting.split_patients(manifest, folds=5, seed=2)
    splitting.check_folds(folds)
    for name in ("test", "val"):
        counted = folds[folds["split"] == name].groupby("patient_id").size()
        assert len(counted) == 151 and (counted == 1).all()
    for _, one in folds.groupby("fold"):
        assert one["patient_id"].is_unique and len(one) == 151
    sizes = folds[folds["split"] == "test"].groupby("fold").size()
    assert sizes.max() - sizes.min() <= 1
    by_type = folds[folds["split"] == "test"].groupby(["cancer_type", "fold"]).size().unstack()
    assert (by_type.max(axis=1) - by_type.min(axis=1) <= 1).all()


def test_folds_do_not_depend_on_row_order_and_do_on_the_seed():
    manifest = cohort()
    first = splitting.split_patients(manifest, folds=5, seed=0)
    again = splitting.split_patients(manifest.sample(frac=1, random_state=1), folds=5, seed=0)
    other = splitting.split_patients(manifest, folds=5, seed=1)
    assert splitting.split_hash(first) == splitting.split_hash(again) != splitting.split_hash(other)


def test_a_cancer_type_with_fewer_patients_than_folds_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"breast \(4\)[\s\S]*`folds: 4`"):
        splitting.split_patients(cohort((("lung", 12), ("breast", 4))), folds=5, seed=0)
    with pytest.raises(ValueError, match="at least 3"):
        splitting.split_patients(cohort(), folds=2, seed=0)
    with pytest.raises(ValueError, match="`split` column"):
        splitting.split_patients(cohort().assign(split="train"), folds=5, seed=0)


def test_one_file_holds_all_folds_and_each_is_read_by_its_number(tmp_path):
    folds = splitting.split_patients(cohort(), folds=5, seed=0)
    path = tmp_path / "split.csv"
    for fold in range(5):
        mine = splitting.keep_split(folds, path, fold=fold)
        read = splitting.read_split(path, fold=fold)
        assert splitting.split_hash(mine) == splitting.split_hash(read)
        expected = folds.loc[folds["fold"] == fold, ["patient_id", "split"]].sort_values("patient_id")
        assert read[["patient_id", "split"]].to_numpy().tolist() == expected.to_numpy().tolist()
    with pytest.raises(RunError, match="no fold 5"):
        splitting.read_split(path, fold=5)
    with pytest.raises(RunError, match="another split"):
        splitting.keep_split(splitting.split_patients(cohort(), folds=5, seed=1), path)


def test_a_fold_of_a_split_without_folds_is_refused(tmp_path):
    path = tmp_path / "split.csv"
    splitting.keep_split(splitting.split_patients(cohort(), seed=0), path)
    with pytest.raises(RunError, match="without folds"):
        splitting.read_split(path, fold=1)


@pytest.mark.parametrize("plant", ["twice_tested", "in_two_sets", "never_tested"])
def test_a_planted_patient_in_the_folds_is_an_error_that_names_the_patient(tmp_path, plant):
    folds = splitting.split_patients(cohort((("lung", 15),)), folds=5, seed=0)
    victim = folds.loc[(folds["fold"] == 0) & (folds["split"] == "test"), "patient_id"].iloc[0]
    of_victim = folds["patient_id"] == victim
    if plant == "twice_tested":
        folds.loc[of_victim & (folds["fold"] == 1), "split"] = "test"
    elif plant == "in_two_sets":
        folds = pd.concat([folds, folds[of_victim & (folds["fold"] == 0)].assign(split="train")])
    else:
        folds.loc[of_victim & (folds["fold"] == 0), "split"] = "train"
    folds.to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(LeakageError, match=victim):
        splitting.read_split(tmp_path / "split.csv")


def test_a_set_without_a_target_is_refused_before_anything_runs():
    split = splitting.split_patients(cohort((("lung", 20),)), seed=0)
    validated = split.loc[split["split"] == "val", "patient_id"].tolist()
    held = dict.fromkeys(split["patient_id"], True)
    feasibility.check_sets(split, held)
    held |= dict.fromkeys(validated, False)
    with pytest.raises(ValueError, match="of the set val"):
        feasibility.check_sets(split, held)
    feasibility.check_sets(split, held | {validated[0]: None})  # a file that cannot be read yet: nothing is known
    folds = splitting.split_patients(cohort((("lung", 15),)), folds=5, seed=0)
    tested = folds.loc[(folds["fold"] == 3) & (folds["split"] == "test"), "patient_id"]
    held = dict.fromkeys(folds["patient_id"], True) | dict.fromkeys(tested, False)
    with pytest.raises(ValueError, match="fold 2: none of the 3"):  # validated on in the fold before
        feasibility.check_sets(folds, held)


def test_a_set_without_a_patient_is_refused_as_one_without_a_target():
    split = pd.DataFrame({"patient_id": ["a", "b"], "split": ["train", "test"]})
    with pytest.raises(ValueError, match="the set val has no patient"):
        feasibility.check_sets(split, {"a": True, "b": True})


def test_the_remedy_for_small_cancer_types_is_one_that_would_work():
    table = pd.DataFrame({"patient_id": list("abcdefgh"), "cancer_type": ["x"] * 6 + ["y"] * 2})
    with pytest.raises(ValueError, match=r"y \(2\)\. Give small types one name"):
        splitting._fold_patients(table, 4, 0)
    with pytest.raises(ValueError, match=r"Use `folds: 3` or fewer, or give small types"):
        splitting._fold_patients(table.assign(cancer_type=["x"] * 5 + ["y"] * 3), 4, 0)
