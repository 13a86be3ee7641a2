"""The split of patients: disjoint, complete, reproducible, and blind to row order and magnification."""

import inspect

import numpy as np
import pandas as pd
import pytest

from tlskit.cohort import splitting
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
    assert set(inspect.signature(splitting.split_patients).parameters) == {"manifest", "ratios", "seed"}


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
