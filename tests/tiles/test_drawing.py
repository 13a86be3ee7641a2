"""What is asked of a batch is what comes, over an epoch, whatever the tiles of a magnification hold."""

import numpy as np
import pandas as pd
import pytest

from tlskit.errors import ParameterError, TrainingError
from tlskit.tiles import batching
from tlskit.tiles.drawing import plan_drawing, tilted_weights
from tlskit.tiles.tiling import of_use

#: Mean share of target in tiles that hold some, as the study prints it: 88:1, 15.4:1, 3.5:1, 0.74:1.
SHARES = {1: 1 / 89, 4: 1 / 16.4, 10: 1 / 4.5, 20: 1 / 1.74}


def tiles_at(magnification, *, n_positive=600, n_negative=900):
    """Shares of target of some tiles, with the study's mean at this magnification, and tiles without."""
    rng = np.random.default_rng(magnification)
    mean = SHARES[magnification]
    positive = np.clip(rng.beta(1.2, 1.2 / mean - 1.2, n_positive), 1e-4, 1)
    return rng.permutation(np.concatenate([positive, np.zeros(n_negative)]))


@pytest.mark.parametrize("magnification", SHARES)
@pytest.mark.parametrize("negatives", [0, 1, 4, 7])
def test_every_batch_holds_as_many_tiles_without_target_as_asked(magnification, negatives):
    fraction = tiles_at(magnification)
    drawing = plan_drawing(fraction, batch_size=8, steps=50, seed=3, negatives_per_batch=negatives)
    assert not drawing.may_be_empty and drawing.expected["negatives_per_batch"] == negatives
    for epoch in (0, 4):
        batches = drawing.batches(epoch)
        assert [len(b) for b in batches] == [8] * 50
        assert [int((fraction[b] == 0).sum()) for b in batches] == [negatives] * 50
    drawn = np.concatenate([b for epoch in range(24) for b in drawing.batches(epoch)])
    times = np.bincount(drawn, minlength=len(fraction))[fraction > 0]
    assert times.max() - times.min() <= 1  # all tiles with target alike


@pytest.mark.parametrize("magnification", SHARES)
def test_the_share_of_target_pixels_is_the_same_at_every_magnification(magnification):
    fraction = tiles_at(magnification)
    drawing = plan_drawing(fraction, batch_size=8, steps=100, seed=0, positive_pixels=0.02)
    assert drawing.expected["positive_pixels"] == pytest.approx(0.02)
    for epoch in range(3):
        drawn = np.concatenate(drawing.batches(epoch))
        assert fraction[drawn].mean() == pytest.approx(0.02, rel=0.05)
    effective, n_positive = drawing.expected["effective_tiles"], (fraction > 0).sum()
    if magnification == 1:  # 1.1 % of target cannot be diluted to 2 %: fuller tiles are drawn more often
        assert effective < 0.99 * n_positive and not (fraction[drawn] == 0).any()
    else:  # tiles without target dilute the others, which stay alike
        assert effective == pytest.approx(n_positive) and (fraction[drawn] == 0).any()


def test_nine_to_one_keeps_target_in_every_batch_or_says_that_it_cannot():
    # At 20x nine to one is 1.4 of 8 tiles with target: one or two in each, never none.
    fraction = tiles_at(20)
    drawing = plan_drawing(fraction, batch_size=8, steps=60, seed=0, positive_pixels=0.1)
    counts = [int((fraction[b] > 0).sum()) for b in drawing.batches(2)]
    assert set(counts) == {1, 2} and not drawing.may_be_empty
    assert plan_drawing(fraction, batch_size=8, steps=60, seed=0, positive_pixels=0.02).may_be_empty
    with pytest.raises(TrainingError, match="out of reach"):
        plan_drawing(np.array([0.01, 0.02, 0.0]), batch_size=2, seed=0, positive_pixels=0.1)


def test_a_fixed_number_and_a_share_together_are_reached_by_weights_alone():
    fraction = tiles_at(10)
    drawing = plan_drawing(fraction, batch_size=8, steps=200, seed=0, negatives_per_batch=4, positive_pixels=0.2)
    batches = drawing.batches(0)
    assert all((fraction[b] == 0).sum() == 4 for b in batches)
    assert fraction[np.concatenate(batches)].mean() == pytest.approx(0.2, rel=0.03)


def test_weights_have_the_mean_asked_for_and_change_the_drawing_least():
    values = np.random.default_rng(0).random(50)
    for mean in (0.2, 0.5, 0.9):
        weights = tilted_weights(values, mean, asked=mean)
        assert weights.sum() == pytest.approx(1) and weights @ values == pytest.approx(mean, abs=1e-9)
    # log-weights are a straight line of the values: that is what least relative entropy means
    fitted = np.polyfit(values, np.log(weights), 1)
    assert np.polyval(fitted, values) == pytest.approx(np.log(weights))


def test_drawn_alike_the_plan_is_the_one_of_a_run_without_controls():
    fraction = tiles_at(4)
    drawing = plan_drawing(fraction, batch_size=8, steps=20, seed=5)
    plain = batching.epoch_batches(len(fraction), batch_size=8, steps=20, seed=5, epoch=2)
    assert all(np.array_equal(a, b) for a, b in zip(drawing.batches(2), plain, strict=True))
    assert drawing.may_be_empty
    assert not plan_drawing(fraction[fraction > 0], batch_size=8, seed=5).may_be_empty


def test_an_epoch_without_steps_is_one_pass_over_the_tiles_with_target():
    fraction = tiles_at(4, n_positive=60)
    drawing = plan_drawing(fraction, batch_size=8, seed=0, negatives_per_batch=2)
    drawn = np.concatenate(drawing.batches(0))
    assert drawing.steps == 10 and len(np.unique(drawn[fraction[drawn] > 0])) == 60


def test_mined_tiles_make_up_their_share_of_the_tiles_without_target():
    fraction = tiles_at(10)
    hard = np.flatnonzero(fraction == 0)[:30]
    drawing = plan_drawing(fraction, batch_size=8, steps=40, seed=0, negatives_per_batch=4, hard=hard, hard_share=0.5)
    for batch in drawing.batches(1):
        assert np.isin(batch, hard).sum() == 2 and (fraction[batch] == 0).sum() == 4


def test_tiles_without_target_that_are_not_there_are_an_error_with_the_remedy():
    with pytest.raises(TrainingError, match="keep_tiles: tissue"):
        plan_drawing(np.array([0.2, 0.4, 0.9]), batch_size=2, seed=0, negatives_per_batch=1)


def test_a_table_that_does_not_say_what_its_tiles_are_for_is_refused():
    tiles = pd.DataFrame({"tile_id": ["a", "b", "c"], "use": ["both", "train", "score"]})
    assert of_use(tiles, "train")["tile_id"].tolist() == ["a", "b"]
    assert of_use(tiles, "score")["tile_id"].tolist() == ["a", "c"]
    with pytest.raises(ParameterError, match="run 01_tiling"):
        of_use(tiles.drop(columns="use"), "score")
