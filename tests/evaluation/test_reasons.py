"""Sentences on why: what is shown, what is not told, and what the run cannot show."""

import shutil

import numpy as np
import pandas as pd
import pytest
from made_controls import PRESET, write_controls

from tlskit.evaluation import effects, factors
from tlskit.evaluation.reasons import style_why, why


def asked(run_dir, **options) -> pd.Series:
    """Answers by question."""
    arms, counts = factors.arm_factors(run_dir), factors.grid_counts(run_dir)
    tables = [make(counts, arms) for make in (effects.control_effects, effects.two_by_two, effects.detail_ladder)]
    return why(*tables, arms, **options).set_index("question")["answer"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_controls(tmp_path_factory.mktemp("outputs") / "controls")


def test_what_the_made_cohort_was_made_of_is_found(run_dir):
    """Negatives help 20x alone, blur hurts it, steps and shares change nothing: as `recall_logit` says."""
    said = asked(run_dir)
    assert "20x - 4x, plain: IoU -0." in said.iloc[0] and "The coarser one is shown to do better" in said.iloc[0]
    assert "Shown: this takes away part" in said["Does it change with: 4 negatives a batch?"]
    for control in ("every tile once an epoch", "10% positive pixels"):
        assert "Shown" not in said[f"Does it change with: {control}?"].replace("Shown: it changes the difference", "")
    assert "to 10 um/px IoU -0." in said["Is it the detail?"] and said["Is it the detail?"].count("shown") >= 1
    assert "the field of a tile at 20x" in said["Do negatives matter more with a larger field or context?"]
    assert said["What can this run not show?"].startswith("Not run: context in the network.")


def test_with_a_wide_margin_a_small_change_is_shown_to_be_small(run_dir):
    assert "Not told" in asked(run_dir, margin=0.0001)["Does it change with: 10% positive pixels?"]
    assert "by less than 0.5" in asked(run_dir, margin=0.5)["Does it change with: 10% positive pixels?"]


def test_a_run_without_controls_says_what_was_not_asked(tmp_path):
    preset = PRESET | {"sweep": [{"magnification": [20, 4]}]}
    said = asked(write_controls(tmp_path / "r", preset=preset, n_patients=4))
    assert said["Is it the detail?"].startswith("Not asked") and len(said) == 4
    last = said["What can this run not show?"]
    for words in ("equal field", "detail alone", "trained once: intervals say nothing", "only 4 test patients"):
        assert words in last.replace("Only", "only")


def test_one_magnification_has_nothing_to_explain(tmp_path):
    preset = PRESET | {"sweep": [{"magnification": 20, "negatives_per_batch": [0, 4]}]}
    assert "no difference to explain" in asked(write_controls(tmp_path / "r", preset=preset)).iloc[0]


def test_one_patient_shows_nothing(tmp_path):
    said = asked(write_controls(tmp_path / "r", n_patients=1))
    assert "nothing is shown" in said.iloc[0] and "no interval" in said.iloc[0]
    assert not said.str.contains("hown: ").any()


def test_lost_trainings_are_named(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "20x_seed=1_tile_px=320_negatives_per_batch=4")
    last = asked(tmp_path / "r").iloc[-1]
    assert last.startswith("Left out as failed, out of date or not run: 20x_tile_px=320_negatives_per_batch=4 (2 of 3")


def test_an_order_that_turns_round_is_said():
    row = {
        "score": "iou",
        "n_repeats": 3,
        "n_folds": 0,
        "spread": "own",
        "warning": "",
        "finer": "20x",
        "coarser": "4x",
    }
    ends = {"plain": ("difference", -0.3), "loss focal": ("difference", 0.2), "loss focal ": ("change", 0.5)}
    table = [row | {"control": name.strip(), "what": what, "estimate": at, "low_all": at - 0.1, "high_all": at + 0.1}
             for name, (what, at) in ends.items()]  # fmt: skip
    arms = pd.DataFrame({"arm": ["20x"], "control": ["plain"], "n_trainings": 3, "n_planned": 3})
    said = why(pd.DataFrame(table), pd.DataFrame(), pd.DataFrame(), arms)
    assert "turns the order of the two magnifications round" in said["answer"].iloc[1]
    assert np.isfinite(table[0]["low_all"])
    html = style_why(said).to_html()
    assert said["answer"].iloc[1].split("(")[0] in html  # whole sentences, none cut off
