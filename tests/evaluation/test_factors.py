"""Which arms a run has, what each of them changes, and what it was trained on: from the archive alone."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_controls import CONTEXT_PRESET, PRESET, write_controls

from tlskit.errors import ComparisonError
from tlskit.evaluation import effects, factors
from tlskit.study import params


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_controls(tmp_path_factory.mktemp("outputs") / "controls")


def test_trainings_of_an_arm_are_counted_and_the_first_arm_is_the_plain_one(run_dir):
    table = factors.arm_factors(run_dir)
    assert table["arm"].is_unique and len(table) == 13
    assert (table["n_trainings"] == 3).all() and (table["n_planned"] == 3).all()
    assert table.loc[table["control"] == factors.PLAIN, "arm"].tolist() == ["20x", "4x"]
    assert "seed" not in table and table["control"].nunique() == 8
    assert table.set_index("arm").loc["4x_tile_px=64", ["control", "field_um"]].tolist() == ["field 160 um", 160.0]


def test_counts_are_of_all_trainings_at_one_threshold(run_dir):
    counts = factors.grid_counts(run_dir)
    assert set(counts["threshold_by"]) == {"validation"} and set(counts["seed"]) == {0, 1, 2}
    assert len(counts) == 13 * 3 * 12
    assert set(factors.grid_counts(run_dir, threshold_by="fixed")["threshold"]) == {0.5}


def test_what_an_arm_was_trained_on(run_dir):
    table = factors.trainings(run_dir, factors.arm_factors(run_dir)).set_index("arm")
    assert (table["steps"] == 40).all() and (table["n_trainings"] == 3).all()
    assert table["empty_batches"].iloc[0] == pytest.approx(4 / 40) and (table["gradient_tiles"] == 304).all()
    assert table["val_iou"].to_numpy() == pytest.approx(0.2)


def test_an_arm_that_was_not_run_is_told_and_the_plain_one_stays_what_it_was(run_dir, tmp_path):
    """Were the plain condition taken from the arms that are there, a lost arm would rename all others."""
    there = tmp_path / "outputs" / "controls"
    shutil.copytree(run_dir, there)
    for seed in (0, 1, 2):
        shutil.rmtree(there / f"20x_seed={seed}")
    shutil.rmtree(there / "4x_seed=0_steps_per_epoch=0")
    table = factors.arm_factors(there)
    assert table["control"].tolist() == factors.arm_factors(run_dir)["control"].tolist()
    assert table.set_index("arm")["n_trainings"].loc[["20x", "4x", "4x_steps_per_epoch=0"]].tolist() == [0, 3, 2]
    counts = factors.grid_counts(there)
    made = effects.control_effects(counts, table)
    assert factors.PLAIN not in set(made["control"]) and set(made["what"]) == {"difference"}
    assert made.loc[made["control"] == "every tile once an epoch", "n_repeats"].item() == 2


def test_a_run_that_does_not_say_its_factors_is_refused(run_dir, tmp_path):
    shutil.copytree(run_dir / "4x_seed=0", tmp_path / "r" / "4x_seed=0")
    with pytest.raises(ComparisonError, match=r"no arms.csv.*tlskit sweep"):
        factors.arm_factors(tmp_path / "r")


def test_every_factor_has_words():
    stated = {"magnification": [20, 20], "negatives_per_batch": [0, -1], "loss": ["dice", "dice_bce"]}
    stated |= {"hard_negatives": [0.0, 0.5], "context_ratio": [0, 4], "encoder": ["b0", "b1"], "apply_icc": [1, 0]}
    table = factors.named_controls(pd.DataFrame({"arm": ["20x", "20x_b"]} | stated))
    assert table["control"].tolist() == [
        "plain",
        "tiles drawn alike, loss dice_bce, 50% hard negatives, context 4 times as coarse, encoder b1, apply icc 0",
    ]


def test_the_controls_of_a_context_are_named_and_differ_from_it_in_one_thing():
    for name in ("context", "context_demo"):
        preset = params.read_preset(Path(__file__).parents[2] / "params" / f"{name}.yaml")
        assert params.has_controls(preset) and not params.has_cascade(preset)
        defaults = {"context_ratio": 0, "context_of": "field", "encoder": "efficientnet-b0", "seed": 0}
        table = factors.named_controls(params.arms_table(preset, defaults))
        named = ["plain", "context 4 times as coarse", "own field as context", "another tile's context"]
        assert list(dict.fromkeys(table["control"]))[:4] == named
        assert factors.alike(table, "context_of")


def test_the_preset_of_these_tests_asks_what_the_demo_of_the_controls_asks():
    folder = Path(__file__).parents[2] / "params"
    whole = factors.named_controls(params.arms_table(params.read_preset(folder / "controls.yaml"), CONTEXT_PRESET))
    second, cells = factors.first_square(whole, "negatives_per_batch", effects.SECOND_FACTORS)
    assert second == "context_ratio" and len(cells) == 4
    demo = params.read_preset(folder / "controls_demo.yaml")
    named = [factors.named_controls(params.arms_table(preset, PRESET)) for preset in (demo, PRESET)]
    assert set(named[0]["control"]) == set(named[1]["control"])
    for table in named:
        assert factors.first_square(table, "negatives_per_batch", effects.SECOND_FACTORS)[0] == "field_um"
