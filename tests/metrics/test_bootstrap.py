"""Draws of patients: how often each arm would be the best."""

import numpy as np
import pandas as pd
import pytest
from made_cohorts import draw, table

from tlskit.metrics import bootstrap


def test_each_draw_holds_as_many_patients_as_there_are():
    weights = bootstrap.patient_weights(7, 4001, seed=3)
    assert weights.shape == (4001, 7) and (weights.sum(axis=1) == 7).all()
    assert (weights == bootstrap.patient_weights(7, 4001, seed=3)).all()
    assert weights.mean() == pytest.approx(1)


def test_equal_arms_are_the_best_equally_often_and_a_better_one_always():
    counts = table(draw("even", 30, np.random.default_rng(0), n_arms=1))
    twins = pd.concat([counts, counts.assign(arm="twin")])
    assert bootstrap.share_best(twins, by=["arm"], draws=500)["share_best"].tolist() == [0.5, 0.5]
    worse = counts.assign(arm="worse", tp=counts["tp"] * 0.5, fn=counts["fn"] + counts["tp"] * 0.5)
    found = bootstrap.share_best(pd.concat([counts, worse]), by=["arm"], draws=500)
    assert found["share_best"].tolist() == [1.0, 0.0] and (found["n_undefined_draws"] == 0).all()


def test_draws_without_a_target_are_left_out_and_counted():
    counts = pd.DataFrame({"tp": [3, 0, 0], "fp": 0, "fn": [1, 0, 0], "tn": 9, "arm": "a", "patient_id": list("xyz")})
    found = bootstrap.share_best(counts, score="recall", by=["arm"], draws=300).iloc[0]
    assert 40 < found["n_undefined_draws"] < 140 and found["share_best"] == 1
    nothing = bootstrap.share_best(counts.assign(tp=0, fn=0), score="recall", by=["arm"], draws=50).iloc[0]
    assert nothing["n_undefined_draws"] == 50 and np.isnan(nothing["share_best"])
