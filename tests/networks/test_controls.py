"""Controls of a training: batches without target, mined tiles, detail taken away; and what is refused beforehand."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_training import write_cohort

from tlskit.errors import CheckpointError, ParameterError
from tlskit.maps import inference, slide_inference
from tlskit.networks import engines, loop, losses, mining, settings, training
from tlskit.networks.models import load_checkpoint
from tlskit.outlines import IGNORED
from tlskit.slides import open_slide
from tlskit.tiles.datasets import TileDataset

SETTINGS = {
    "magnification": 10, "tile_px": 64, "overlap": 0.5, "target_class": "TLS", "encoder": "tu-mobilenetv3_small_050",
    "encoder_weights": "none", "epochs": 2, "steps_per_epoch": 4, "batch_size": 4, "precision": "exact", "seed": 1,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """The discs, and tiles of background alone: glass beyond the slides' lower edge."""
    tiles, manifest = write_cohort(tmp_path_factory.mktemp("cohort"))
    empty = tiles.assign(
        tile_id=[f"{name}-below" for name in tiles["tile_id"]], y_px0=tiles["y_px0"] + 1024.0, target_fraction=0.0,
        use="train",
    )  # fmt: skip
    return pd.concat([tiles, empty], ignore_index=True), manifest


def run(cohort, out_path, **changes):
    return mining.train_rounds(*cohort, out_path=out_path, **(SETTINGS | changes))


def test_batches_that_would_teach_nothing_are_refused_with_the_remedy(cohort, tmp_path):
    with pytest.raises(ParameterError, match="negatives_per_batch.*dice_bce"):
        run(cohort, tmp_path / "c.pt")


def test_the_history_counts_empty_batches_and_the_tiles_that_taught(cohort, tmp_path):
    drawn = {"with": {"negatives_per_batch": 1}, "without": {"loss": "dice_bce"}}
    size = {"epochs": 1, "steps_per_epoch": 20, "batch_size": 2}
    made = {name: run(cohort, tmp_path / f"{name}.pt", **size, **drawn[name]) for name in drawn}
    controlled, alike = made["with"].history.iloc[0], made["without"].history.iloc[0]
    assert controlled["empty_batches"] == 0 and controlled["gradient_tiles"] == 40
    assert made["with"].drawing["negatives_per_batch"] == 1
    assert alike["empty_batches"] > 0 and alike["gradient_tiles"] == 40  # cross-entropy learns from empty ones too
    tiles, manifest = cohort
    data = TileDataset(tiles, manifest, magnification=10, tile_px=64, target_class="TLS")
    shares = [float((data.read(i)[1] == 1).float().mean()) for i in range(len(tiles)) if tiles["split"][i] == "train"]
    positive = np.mean([share for share in shares if share])
    assert controlled["negative_to_positive"] == pytest.approx((2 - positive) / positive, rel=0.1)


def test_the_history_of_one_arm_with_and_without_the_remedy(cohort, tmp_path, monkeypatch):
    """Dice on tiles drawn alike is refused; were it not, part of its batches would teach nothing."""
    size = {"epochs": 1, "steps_per_epoch": 12, "batch_size": 2}
    remedied = run(cohort, tmp_path / "with.pt", negatives_per_batch=1, **size).history
    monkeypatch.setattr(training, "NEEDS_TARGET", ())  # of the refusal; the account of the history keeps its own
    without = run(cohort, tmp_path / "without.pt", **size).history
    columns = ["epoch", "steps", "empty_batches", "gradient_tiles", "negative_to_positive", "train_loss", "val_iou"]
    for name, table in (("negatives_per_batch: 1", remedied), ("tiles drawn alike", without)):
        print(f"{name}\n{table[columns].to_string(index=False)}")
    assert (remedied["empty_batches"] == 0).all() and (remedied["gradient_tiles"] == 24).all()
    assert (without["empty_batches"] > 0).all()
    assert (without["gradient_tiles"] == 24 - 2 * without["empty_batches"]).all()


def test_what_an_epoch_held_is_counted_by_batch():
    held = np.array([[4, 100, 1000], [4, 0, 1000], [4, 0, 0]])
    assert loop._account(held, True) == {"negative_to_positive": 19.0, "empty_batches": 2, "gradient_tiles": 4}
    assert loop._account(held, False)["gradient_tiles"] == 8  # the last batch is ignored as a whole


def test_only_tiles_that_are_there_to_be_scored_choose_the_epoch(cohort, tmp_path):
    made = run(cohort, tmp_path / "c.pt", epochs=1, negatives_per_batch=1)
    assert set(made.val_counts["use"]) == {"both"} and made.n_val_tiles == 15
    assert made.n_train_tiles == (cohort[0]["split"] == "train").sum()


@pytest.mark.parametrize("name", settings.LOSSES)
def test_losses_fall_towards_the_truth_and_ignore_what_is_to_be_ignored(name):
    torch.manual_seed(0)
    masks = (torch.rand(2, 1, 8, 8) > 0.5).float()
    loss_of, right = losses.make_loss(name), (masks * 2 - 1) * 6
    assert loss_of(right, masks) < loss_of(right * 0, masks) < loss_of(-right, masks)
    logits = torch.randn(2, 1, 8, 8)
    ignored = masks.clone()
    ignored[..., 5:] = IGNORED
    logits.requires_grad_()
    loss_of(logits, ignored).backward()
    assert not logits.grad[..., 5:].any() and logits.grad[..., :5].any()
    cut = loss_of(logits[..., :5], masks[..., :5])
    assert loss_of(logits, ignored).item() == pytest.approx(cut.item(), abs=1e-6)


def test_of_a_batch_without_target_dice_says_exactly_nothing_and_the_others_do():
    masks = torch.zeros(2, 1, 8, 8)
    for name in settings.LOSSES:
        logits = torch.randn(2, 1, 8, 8, requires_grad=True)
        losses.make_loss(name)(logits, masks).backward()
        assert bool(logits.grad.any()) == (name not in settings.NEEDS_TARGET), name


def test_false_alarms_are_mined_on_training_tiles_without_target_and_drawn_again(cohort, tmp_path):
    made = run(cohort, tmp_path / "c.pt", negatives_per_batch=2, hard_negatives=0.5)
    first, last = (load_checkpoint(tmp_path / name, device="cpu") for name in ("c-first.pt", "c.pt"))
    tiles = cohort[0]
    without = tiles[(tiles["split"] == "train") & (tiles["target_fraction"] == 0)]
    found = mining.false_alarms(first, without, cohort[1], batch_size=4)
    assert (found["false_px"] > 0).all() and found["false_px"].is_monotonic_decreasing
    assert last.params["hard_tiles"] == sorted(found["tile_id"]) and len(found) <= max(4, len(without) // 10)
    assert made.history["steps"].iloc[-1] == 8  # as many steps as an arm without mined tiles


def test_the_checkpoint_carries_the_detail_and_inference_applies_it(cohort, tmp_path):
    made = run(cohort, tmp_path / "c.pt", epochs=1, negatives_per_batch=1, detail_mpp=8.0)
    checkpoint = load_checkpoint(made.checkpoint_path, device="cpu")
    assert checkpoint.detail_mpp == 8.0
    slide_path = cohort[1]["slide_path"][0]
    blurred = slide_inference.predict_slide(checkpoint, slide_path, tmp_path / "a.tif", engine="torch", progress=False)
    with open_slide(slide_path) as sharp, pytest.raises(CheckpointError, match="detail_mpp: 8"):
        slide_inference.predict_slide(checkpoint, sharp, tmp_path / "b.tif", engine="torch", progress=False)
    with open_slide(slide_path, detail_mpp=8.0) as same:
        again = slide_inference.predict_slide(checkpoint, same, tmp_path / "b.tif", engine="torch", progress=False)
    assert blurred.path.read_bytes() == again.path.read_bytes()


def test_tiles_of_an_arm_without_detail_are_what_its_network_sees(cohort):
    tiles, manifest = cohort
    options = {"magnification": 10, "tile_px": 64, "target_class": "TLS"}
    sharp, blurred = (TileDataset(tiles, manifest, **options, detail_mpp=mpp) for mpp in (0.0, 8.0))
    (a, mask_a), (b, mask_b) = sharp.read(1), blurred.read(1)
    assert torch.equal(mask_a, mask_b) and not torch.equal(a, b)
    means = a.float().reshape(3, 8, 8, 8, 8).mean((2, 4))
    assert (
        b.float().reshape(3, 8, 8, 8, 8) - means[:, :, None, :, None]
    ).abs().max() <= 6  # a coarser level is coded anew


FITTING = {
    "epochs": 5, "steps_per_epoch": 0, "batch_size": 8, "workers": 1, "learning_rate": 1e-3, "loss": "dice",
    "negatives_per_batch": -1, "positive_pixels": 0.0, "hard_negatives": 0.0, "magnification": 20, "detail_mpp": 0.0,
    "tile_store": "slide", "tile_px": 512, "keep_tiles": "target",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"keep_tiles": "tissue"}, "dice_bce"),
        ({"keep_tiles": "tissue", "loss": "dice_bce"}, ""),
        ({"keep_tiles": "tissue", "negatives_per_batch": 4}, ""),
        ({"negatives_per_batch": 4}, "keep_tiles: tissue"),
        ({"keep_tiles": "tissue", "negatives_per_batch": 8}, "0 to 7"),
        ({"magnification": 4, "detail_mpp": 1.0}, "finer than the 2.5 um/px of 4x"),
        ({"magnification": 4, "detail_mpp": 2.5}, ""),
        ({"detail_mpp": 2.5, "tile_store": "png"}, "tile_store: slide"),
        ({"loss": "jaccard"}, "dice, dice_bce, focal"),
        ({"hard_negatives": 0.5}, "negatives_per_batch"),
        ({"tile_px": 500}, "multiple of 32"),
    ],
)
def test_settings_that_do_not_fit_are_told_with_the_remedy(changes, said):
    faults = settings.setting_faults(FITTING | changes)
    assert (said in " ".join(faults)) and bool(faults) == bool(said)


def test_a_training_with_detail_finer_than_its_arm_is_refused(cohort, tmp_path):
    with pytest.raises(ParameterError, match="shows no such detail"):
        training.train(*cohort, out_path=tmp_path / "c.pt", **(SETTINGS | {"detail_mpp": 0.5}))


def test_what_runs_a_network_is_chosen_once_by_validation_tiles_and_taken_up_by_all(cohort, tmp_path, monkeypatch):
    tiles, manifest = cohort
    made = run(cohort, tmp_path / "checkpoint.pt", epochs=1, negatives_per_batch=1)
    checkpoint, note = load_checkpoint(made.checkpoint_path, device="cpu"), tmp_path / "engine.json"
    validation = tiles[(tiles["split"] == "val") & (tiles["target_fraction"] > 0)]
    ladder = inference.choose_engine(checkpoint, validation, manifest, engine_note=note, n_tiles=4)
    assert ladder["kept"].iloc[-1] and (ladder["n_windows"] == 4).all()
    chosen = tuple(ladder[["engine", "precision"]].iloc[-1])
    monkeypatch.setattr(engines, "choose", None)  # nobody chooses again
    source = engines.EngineSource(checkpoint, window_px=64, note=note)
    assert sum(len(index) for index, *_ in inference.predict_tiles(checkpoint, validation, manifest, engine=source))
    maps = inference.predict_cohort(checkpoint, manifest, tmp_path / "maps", engine_note=note, progress=False)
    assert {(source.made.name, source.made.precision), *zip(maps["engine"], maps["precision"], strict=True)} == {chosen}
    with pytest.raises(ParameterError, match="validation tiles that hold target"):
        inference.choose_engine(checkpoint, validation[:0], manifest, engine_note=note)
