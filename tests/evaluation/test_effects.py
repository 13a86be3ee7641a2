"""What a control changes: contrasts of contrasts equal what is computed by hand, and their intervals hold the truth."""

import numpy as np
import pandas as pd
import pytest
from interaction_table import ARMS, counts_table, draw, simulate
from made_controls import CONTEXT_PRESET, write_controls

from tlskit.errors import ComparisonError
from tlskit.evaluation import effects, factors
from tlskit.evaluation.factors import PLAIN, named_controls, square
from tlskit.evaluation.reasons import why


def arms_of(*stated: dict) -> pd.DataFrame:
    """``arms.csv`` of a preset's arms, and `named_controls` of it."""
    table = pd.DataFrame(stated)
    rest = [name for name in table if name != "magnification"]
    names = [f"{row['magnification']:g}x" + "".join(f"_{n}={row[n]:g}" for n in rest) for _, row in table.iterrows()]
    table.insert(0, "arm", names)
    return named_controls(table)


def counts_of(arms: pd.DataFrame, *, n_patients: int = 6, seed: int = 0, shift=None) -> pd.DataFrame:
    """Counts by patient of some arms; `shift` moves the recall of each."""
    rng, rows = np.random.default_rng(seed), []
    size, ease = rng.uniform(1e5, 9e5, n_patients), rng.normal(0.5, 0.5, n_patients)
    for number, arm in enumerate(arms["arm"]):
        moved = 0 if shift is None else shift[number]
        for patient in range(n_patients):
            tp = size[patient] / (1 + np.exp(-ease[patient] - moved - rng.normal(0, 0.2)))
            counts = {"tp": int(tp), "fp": int(rng.uniform(0, 1e5)), "fn": int(size[patient]) - int(tp), "tn": 10**6}
            rows.append({"arm": arm, "patient_id": f"p{patient}", "slide_id": f"s{patient}"} | counts)
    return pd.DataFrame(rows)


def iou_of(counts: pd.DataFrame, arm: str) -> float:
    """Pooled, by hand."""
    tp, fp, fn = counts.loc[counts["arm"] == arm, ["tp", "fp", "fn"]].sum()
    return tp / (tp + fp + fn)


TWENTY_ARMS = arms_of(
    *[{"magnification": m, "negatives_per_batch": 0, "positive_pixels": 0.0, "tile_px": 128, "detail_mpp": 0.0}
      for m in (20, 4)],
    *[{"magnification": m, "negatives_per_batch": 4, "positive_pixels": 0.0, "tile_px": 128, "detail_mpp": 0.0}
      for m in (20, 4)],
    *[{"magnification": m, "negatives_per_batch": -1, "positive_pixels": 0.1, "tile_px": 128, "detail_mpp": 0.0}
      for m in (20, 4)],
    *[{"magnification": 20, "negatives_per_batch": n, "positive_pixels": 0.0, "tile_px": 320, "detail_mpp": 0.0}
      for n in (0, 4)],
    {"magnification": 4, "negatives_per_batch": 0, "positive_pixels": 0.0, "tile_px": 64, "detail_mpp": 0.0},
    *[{"magnification": 20, "negatives_per_batch": 0, "positive_pixels": 0.0, "tile_px": 128, "detail_mpp": d}
      for d in (2.5, 10.0)],
)  # fmt: skip


def test_a_control_is_named_by_what_differs_from_the_first_arm():
    assert TWENTY_ARMS["control"].tolist() == [
        PLAIN, PLAIN, "4 negatives a batch", "4 negatives a batch", "10% positive pixels", "10% positive pixels",
        "field 160 um", "4 negatives a batch, field 160 um", "field 160 um",
        "blurred to 2.5 um/px", "blurred to 10 um/px",
    ]  # fmt: skip


def test_trainings_of_one_arm_are_one_arm():
    table = pd.DataFrame({"arm": [f"{m}x_seed={s}_fold={f}" for m in (20, 4) for s in (0, 1) for f in (0, 1)]})
    table["magnification"] = [20] * 4 + [4] * 4
    table["seed"], table["fold"] = [0, 0, 1, 1] * 2, [0, 1] * 4
    assert named_controls(table).to_dict("records") == [
        {"arm": "20x", "magnification": 20, "control": PLAIN}, {"arm": "4x", "magnification": 4, "control": PLAIN},
    ]  # fmt: skip


def test_differences_of_differences_are_those_computed_by_hand():
    counts = counts_of(TWENTY_ARMS)
    table = effects.control_effects(counts, TWENTY_ARMS)
    assert table.groupby("control", sort=False)["what"].apply(list).to_dict() == {
        PLAIN: ["difference"], "4 negatives a batch": ["difference", "change"],
        "10% positive pixels": ["difference", "change"], "field 160 um": ["difference", "change"],
    }  # fmt: skip
    plain = iou_of(counts, table["finer"].iloc[0]) - iou_of(counts, table["coarser"].iloc[0])
    for row in table.itertuples():
        apart = iou_of(counts, row.finer) - iou_of(counts, row.coarser)
        assert row.estimate == pytest.approx(apart if row.what == "difference" else apart - plain, abs=1e-12)
    assert (table["low_all"] <= table["low"]).all() and (table["high_all"] >= table["high"]).all()
    within = effects.within_magnification(counts, TWENTY_ARMS)
    assert len(within) == len(TWENTY_ARMS) - 2 and set(within["plain"]) == set(TWENTY_ARMS["arm"][:2])
    for row in within.itertuples():
        assert row.estimate == pytest.approx(iou_of(counts, row.arm) - iou_of(counts, row.plain), abs=1e-12)


def test_the_two_by_two_is_of_arms_that_differ_in_two_things_alone():
    cells = square(TWENTY_ARMS, "negatives_per_batch", "field_um")
    chosen = TWENTY_ARMS.set_index("arm").loc[list(cells.values())]
    assert list(cells) == [(0, 64.0), (0, 160.0), (4, 64.0), (4, 160.0)]
    assert set(chosen["magnification"]) == {20} and set(chosen["detail_mpp"]) == {0}
    counts = counts_of(TWENTY_ARMS)
    table = effects.two_by_two(counts, TWENTY_ARMS)
    assert table["what"].tolist() == ["score"] * 4 + ["effect"] * 4 + ["interaction"]
    a, b, c, d = (iou_of(counts, cells[key]) for key in ((0, 64.0), (0, 160.0), (4, 64.0), (4, 160.0)))
    assert table["estimate"].to_numpy() == pytest.approx([a, b, c, d, c - a, d - b, b - a, d - c, d - b - c + a])
    # Without arms of a larger field, magnification is the second factor.
    fewer = TWENTY_ARMS[TWENTY_ARMS["field_um"] != 160]
    assert set(effects.two_by_two(counts, fewer)["second"]) == {"magnification"}
    # Without negatives there is none.
    none = effects.two_by_two(counts, fewer[fewer["negatives_per_batch"] == 0])
    assert none.empty and "estimate" in none


def test_the_ladder_holds_one_magnification_and_everything_else_alike():
    counts = counts_of(TWENTY_ARMS, shift=[1.0] * 9 + [0.4, -0.8])
    table = effects.detail_ladder(counts, TWENTY_ARMS)
    blurred = table[table["kind"] == "blurred"]
    assert blurred["detail_mpp"].tolist() == [0.5, 2.5, 10.0] and set(blurred["magnification"]) == {20}
    assert table.loc[table["kind"] == "own magnification", "detail_mpp"].tolist() == [2.5]
    assert np.isnan(blurred["change"].iloc[0])
    assert blurred["change"].iloc[1:].to_numpy() == pytest.approx(
        (blurred["estimate"].iloc[1:] - blurred["estimate"].iloc[0]).to_numpy()
    )
    assert blurred["change_high"].iloc[2] < 0
    assert effects.detail_ladder(counts, TWENTY_ARMS[TWENTY_ARMS["detail_mpp"] == 0]).empty


def test_context_is_set_beside_its_controls_all_else_alike(tmp_path):
    run_dir = write_controls(tmp_path / "c", preset=CONTEXT_PRESET)
    arms, counts = factors.arm_factors(run_dir), factors.grid_counts(run_dir)
    assert list(dict.fromkeys(arms["control"])) == [
        PLAIN, "4 negatives a batch", "context 4 times as coarse", "4 negatives a batch, context 4 times as coarse",
        "own field as context", "another tile's context", "encoder efficientnet-b1",
    ]  # fmt: skip
    table = effects.context_effects(counts, arms)
    of = arms.set_index("arm")
    at20 = table[(table["magnification"] == 20) & (of.loc[table["arm"], "negatives_per_batch"].to_numpy() == 0)]
    assert at20["against"].tolist() == [
        "without context", "own field as context", "another tile's context", "efficientnet-b1 without context",
    ]  # fmt: skip
    for row in table.itertuples():
        differing = [name for name in of if name.startswith(("context", "encoder", "negatives", "magnification"))
                     and of.loc[row.arm, name] != of.loc[row.reference, name]]  # fmt: skip
        allowed = {
            "without context": {"context_ratio"},
            "efficientnet-b1 without context": {"context_ratio", "encoder"},
        }
        assert set(differing) == allowed.get(row.against, {"context_of"})
        assert row.estimate == pytest.approx(iou_of(counts, row.arm) - iou_of(counts, row.reference), abs=1e-12)
    assert len(table) == 2 * 4 + 2  # with negatives there is no control of the context
    square = effects.two_by_two(counts, arms)
    assert set(square["second"]) == {"context_ratio"} and set(square["magnification"]) == {20}
    cells = square[square["what"] == "score"]
    assert cells[["first_level", "second_level"]].to_numpy().tolist() == [[0, 0], [0, 4], [4, 0], [4, 4]]
    assert set(of.loc[cells["arm"], "context_of"]) == {"field"}
    assert effects.context_effects(counts, arms[arms["context_ratio"] == 0]).empty


def test_what_context_shows_is_said_only_where_its_controls_fall_behind(tmp_path):
    run_dir = write_controls(tmp_path / "c", preset=CONTEXT_PRESET)
    arms, counts = factors.arm_factors(run_dir), factors.grid_counts(run_dir)
    empty = pd.DataFrame()
    made = [effects.control_effects(counts, arms), effects.two_by_two(counts, arms), empty, arms]

    def answer(context):
        said = why(*made, context=context).set_index("question")["answer"]
        assert "context in the network" not in said.iloc[-1].split(".")[0]
        return said.get("Is it context in the network?")

    context = effects.context_effects(counts, arms)
    assert "Shown: the wider field helps, and not the second branch alone." in answer(context)
    beside = context[context["against"] == "without context"]
    assert "is shown; that the wider field does it" in answer(beside)
    behind = context.assign(low_all=-0.2, high_all=0.2)
    assert "That the wider field helps is not shown." in answer(behind) and "not told" in answer(behind)
    assert answer(context.iloc[:0]) is None
    changes = why(*made, context=context).set_index("question")["answer"]
    assert "sees a wider field" in changes["Does it change with: context 4 times as coarse?"]
    both = changes["Does it change with: 4 negatives a batch, context 4 times as coarse?"]
    assert "has tiles without target and the network also sees" in both


def test_one_magnification_or_one_condition_has_no_contrast():
    counts = counts_of(TWENTY_ARMS)
    alone = TWENTY_ARMS[TWENTY_ARMS["magnification"] == 20]
    assert effects.control_effects(counts, alone).empty
    plain = TWENTY_ARMS[TWENTY_ARMS["control"] == PLAIN]
    assert effects.within_magnification(counts, plain).empty
    assert effects.control_effects(counts, plain)["what"].tolist() == ["difference"]


def test_folds_are_pooled_as_if_every_patient_had_been_tested_at_once():
    """Out of fold: each patient stands once in an arm, with the counts of the network that had not seen it."""
    rng = np.random.default_rng(3)
    counts = counts_table(draw(12, 1, 0.0, rng))
    fold = {patient: n % 4 for n, patient in enumerate(counts["patient_id"].unique())}
    folds = counts.assign(fold=counts["patient_id"].map(fold)).sample(frac=1, random_state=1)
    pooled, at_once = (effects.two_by_two(table, ARMS) for table in (folds, counts))
    assert (pooled.pop("n_folds") == 4).all() and (at_once.pop("n_folds") == 0).all()
    pd.testing.assert_frame_equal(pooled, at_once, atol=1e-12)
    sums = {arm: np.zeros(4) for arm in ARMS["arm"]}
    for row in folds.itertuples():
        sums[row.arm] += [row.tp, row.fp, row.fn, row.tn]
    by_hand = [sums[arm][0] / sums[arm][:3].sum() for arm in "abcd"]
    scores = pooled[pooled["what"] == "score"].set_index("arm")["estimate"]
    assert scores.loc[list("abcd")].to_numpy() == pytest.approx(by_hand)


def test_seeds_are_a_level_of_their_own():
    counts = counts_table(draw(20, 3, 0.6, np.random.default_rng(5)))
    with_seeds = effects.two_by_two(counts, ARMS).iloc[-1]
    as_one = counts.groupby(["arm", "patient_id", "slide_id"])[["tp", "fp", "fn", "tn"]].sum().reset_index()
    without = effects.two_by_two(as_one, ARMS).iloc[-1]
    assert with_seeds["estimate"] == pytest.approx(without["estimate"])
    assert with_seeds["n_repeats"] == 3 and without["n_repeats"] == 1
    assert with_seeds["high"] - with_seeds["low"] > without["high"] - without["low"]


def test_intervals_of_an_interaction_hold_the_truth():
    """Of 100 cohorts 95 % are 95 +- 2.2; docs/interactions.md has more cohorts, and more kinds of them."""
    found = simulate(12, 3, 0.3, cohorts=100)
    assert 0.88 <= found["interaction"] and 0.88 <= found["effect"]
    assert 0.1 < found["half_width"] < 0.3


def test_arms_on_other_slides_are_refused():
    counts = counts_of(TWENTY_ARMS)
    with pytest.raises(ComparisonError, match="different slides"):
        effects.control_effects(counts.iloc[1:], TWENTY_ARMS)
