"""Training on tiny made-up slides: it learns, it repeats itself, it resumes, and it says what is wrong."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_training import write_cohort
from torch.utils._python_dispatch import TorchDispatchMode

from tlskit.errors import ParameterError, TrainingError
from tlskit.networks import loop, marks, training
from tlskit.networks.models import build_model, load_checkpoint
from tlskit.tiles.datasets import TileDataset

TILE_PX = 64
ENCODER = "tu-mobilenetv3_small_050"  # a tenth of efficientnet-b0's time on tiles this small
PLAIN_COLUMNS = ["epoch", "steps", "learning_rate", "train_loss", "val_loss", "val_iou", "val_dice", "best"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def run(cohort, out_path, **changes):
    tiles, manifest = cohort
    settings = {
        "magnification": 10,
        "tile_px": TILE_PX,
        "overlap": 0.5,
        "target_class": "TLS",
        "encoder": ENCODER,
        "encoder_weights": "none",
        "epochs": 3,
        "steps_per_epoch": 3,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "precision": "exact",
        "augment": True,
        "seed": 1,
        "device": "cpu",
        "split_hash": "hash",
    }
    return training.train(tiles, manifest, out_path=out_path, **(settings | changes))


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory):
    """One training that most tests below look at; torch's random state is watched meanwhile."""
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    result = run(cohort, tmp_path_factory.mktemp("undisturbed") / "checkpoint.pt")
    assert torch.equal(torch.random.get_rng_state(), before), "training must leave the caller's random numbers alone"
    return result


def test_it_learns_what_can_be_seen(cohort, tmp_path):
    result = run(cohort, tmp_path / "c.pt", epochs=4, steps_per_epoch=12, learning_rate=3e-3)
    history = result.history
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert result.best_val_iou == history["val_iou"].max() > 0.75


def test_mixed_precision_learns_too(cohort, tmp_path):
    result = run(cohort, tmp_path / "c.pt", epochs=1, steps_per_epoch=8, precision="bf16")
    assert result.precision == "bf16"
    assert result.history["train_loss"].iloc[0] < 0.75
    weights = load_checkpoint(result.checkpoint_path, device="cpu").model.state_dict()
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


def test_the_history_has_one_row_an_epoch_and_one_best(undisturbed):
    history = undisturbed.history
    assert list(history.columns) == training.HISTORY_COLUMNS
    assert history["epoch"].tolist() == [1, 2, 3] and history["steps"].tolist() == [3, 6, 9]
    assert history["best"].sum() == 1
    best = history.loc[history["best"]].iloc[0]
    assert best["val_iou"] == history["val_iou"].max() == undisturbed.best_val_iou
    assert best["epoch"] == undisturbed.best_epoch
    assert np.allclose(history["val_dice"], 2 * history["val_iou"] / (1 + history["val_iou"]))
    assert (history[["tiles_per_s", "seconds"]] > 0).all().all()
    assert undisturbed.n_train_tiles == 50 and undisturbed.n_val_tiles == 15
    assert (undisturbed.device, undisturbed.precision) == ("cpu", "exact")
    assert undisturbed.threads == torch.get_num_threads()


def test_the_checkpoint_is_the_best_epoch_and_its_iou_is_that_of_all_validation_pixels(cohort, undisturbed):
    checkpoint = load_checkpoint(undisturbed.checkpoint_path, device="cpu")
    assert checkpoint.sha256 == undisturbed.sha256
    assert (checkpoint.magnification, checkpoint.mpp, checkpoint.tile_px, checkpoint.overlap) == (10, 1.0, 64, 0.5)
    assert (checkpoint.encoder, checkpoint.normalisation, checkpoint.threshold) == (ENCODER, "divide_255", 0.5)
    assert (checkpoint.target_class, checkpoint.resolution_by, checkpoint.split_hash) == ("TLS", "mpp", "hash")
    assert checkpoint.params["seed"] == 1 and checkpoint.params["steps_per_epoch"] == 3
    pd.testing.assert_frame_equal(checkpoint.history, undisturbed.history)

    tiles, manifest = cohort
    val = tiles[tiles["split"] == "val"]
    dataset = TileDataset(val, manifest, magnification=10, tile_px=TILE_PX, target_class="TLS")
    images, masks, _ = dataset.batch(range(len(dataset)))
    with torch.inference_mode():
        probability = torch.sigmoid(checkpoint.model(images)).numpy()
    truth = masks.numpy() > 0.5
    from sklearn.metrics import f1_score, jaccard_score

    best = undisturbed.history.loc[undisturbed.history["best"]].iloc[0]
    predicted = probability >= 0.5
    assert best["val_iou"] == pytest.approx(jaccard_score(truth.ravel(), predicted.ravel()), abs=2e-3)
    assert best["val_dice"] == pytest.approx(f1_score(truth.ravel(), predicted.ravel()), abs=2e-3)
    soft_dice = 2 * (probability * truth).sum() / (probability.sum() + truth.sum())
    assert best["val_loss"] == pytest.approx(1 - soft_dice, abs=2e-3)


def test_validation_tiles_are_counted_one_by_one_in_the_epoch_that_is_kept(undisturbed):
    counts = undisturbed.val_counts
    assert len(counts) == undisturbed.n_val_tiles and counts["tile_id"].is_unique
    assert (counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == TILE_PX**2).all()
    tp, fp, fn = counts[["tp", "fp", "fn"]].sum()
    assert tp / (tp + fp + fn) == pytest.approx(undisturbed.best_val_iou)


@pytest.mark.parametrize("workers", [0, 3])
def test_the_same_seed_gives_the_same_history_whatever_the_threads(cohort, undisturbed, tmp_path, workers):
    again = run(cohort, tmp_path / "c.pt", workers=workers)
    pd.testing.assert_frame_equal(again.history[PLAIN_COLUMNS], undisturbed.history[PLAIN_COLUMNS], check_exact=True)


def test_another_seed_gives_another_history(cohort, undisturbed, tmp_path):
    other = run(cohort, tmp_path / "c.pt", seed=2, epochs=1)
    assert other.history["train_loss"][0] != undisturbed.history["train_loss"][0]


def killed_after(epochs, monkeypatch):
    """Make the training die the hard way once so many epochs are saved."""
    real = loop._save_state

    class Killed(BaseException):
        pass

    def die(path, state, parts):
        real(path, state, parts)
        if len(state["history"]) == epochs:
            raise Killed

    monkeypatch.setattr(loop, "_save_state", die)
    return Killed


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_killed_training_goes_on_to_the_same_history_and_weights(
    cohort, undisturbed, tmp_path, monkeypatch, caplog, epochs_done
):
    with monkeypatch.context() as patch:
        with pytest.raises(killed_after(epochs_done, patch)):
            run(cohort, tmp_path / "c.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["c-training.ckpt"]
    torch.load(tmp_path / "c-training.ckpt", weights_only=True)  # no pickled code in it

    with caplog.at_level(logging.INFO, logger="tlskit"):
        result = run(cohort, tmp_path / "c.pt")
    assert f"goes on after epoch {epochs_done} of 3" in caplog.text
    assert len([r for r in caplog.records if r.message.startswith("epoch ")]) == 3 - epochs_done
    pd.testing.assert_frame_equal(result.history[PLAIN_COLUMNS], undisturbed.history[PLAIN_COLUMNS], check_exact=True)
    resumed, whole = (load_checkpoint(r.checkpoint_path, device="cpu").model for r in (result, undisturbed))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"], "the state is removed at the end"


def test_how_far_it_is_stands_beside_the_checkpoint_meanwhile(cohort, tmp_path, monkeypatch):
    seen, real = [], loop._save_state

    def save(*given):
        seen.append(marks.read_mark(tmp_path / "c.pt"))
        real(*given)

    monkeypatch.setattr(marks, "EVERY_S", -1.0)  # at every step
    monkeypatch.setattr(loop, "_save_state", save)
    run(cohort, tmp_path / "c.pt", epochs=2)
    assert [(mark.epoch, mark.done, mark.steps, mark.epochs) for mark in seen] == [(1, 3, 6, 2), (2, 6, 6, 2)]
    assert seen[0].left_s == pytest.approx(seen[0].seconds) and seen[1].left_s == 0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_state_of_other_settings_or_a_damaged_one_is_not_gone_on_from(cohort, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        with pytest.raises(killed_after(1, patch)):
            run(cohort, tmp_path / "c.pt", epochs=2, learning_rate=2e-3)
    state = (tmp_path / "c-training.ckpt").read_bytes()
    with caplog.at_level(logging.INFO, logger="tlskit"):
        result = run(cohort, tmp_path / "c.pt", epochs=1)
        assert "other settings" in caplog.text and len(result.history) == 1
        (tmp_path / "c-training.ckpt").write_bytes(state[: len(state) // 2])
        result.checkpoint_path.unlink()  # or it would be kept
        result = run(cohort, tmp_path / "c.pt", epochs=1)
        assert "cannot be read" in caplog.text and len(result.history) == 1


def test_fewer_tiles_than_a_batch_and_a_single_tile_can_be_trained_on(cohort, tmp_path):
    tiles, manifest = cohort
    for n_train in (3, 1):
        few = pd.concat([tiles[tiles["split"] == "train"].head(n_train), tiles[tiles["split"] == "val"].head(1)])
        result = run((few, manifest), tmp_path / "c.pt", epochs=1, steps_per_epoch=0)
        assert result.history["steps"].tolist() == [1]


@pytest.mark.parametrize("empty, word", [("train", "training"), ("val", "validation")])
def test_an_empty_set_is_an_error_that_names_it(cohort, tmp_path, empty, word):
    tiles, manifest = cohort
    left = tiles[tiles["split"] != empty]
    with pytest.raises(TrainingError, match=f"no {word} tiles at 10x.*`edge_tiles: pad`"):
        run((left, manifest), tmp_path / "c.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tile_px": 100}, "multiple of 32"),
        ({"epochs": 0}, "`epochs` should be 1 or more"),
        ({"learning_rate": float("nan")}, "`learning_rate`"),
        ({"precision": "int8"}, "`precision`"),
    ],
)
def test_settings_out_of_range_are_refused(cohort, tmp_path, changes, message):
    with pytest.raises(ParameterError, match=message):
        run(cohort, tmp_path / "c.pt", **changes)


def test_a_loss_that_is_no_number_ends_the_training_with_advice(cohort, tmp_path):
    with pytest.raises(TrainingError, match=r"became nan in epoch 1, step \d.*Lower `learning_rate`"):
        run(cohort, tmp_path / "c.pt", learning_rate=1e30, epochs=1, steps_per_epoch=6)


def test_validation_masks_without_target_do_not_stop_the_training(cohort, tmp_path):
    tiles, manifest = cohort
    bare = manifest.assign(annotation_path=[*manifest["annotation_path"][:2], ""])
    history = run((tiles, bare), tmp_path / "c.pt", epochs=1, steps_per_epoch=1).history
    assert history["val_iou"].isna().all() or (history["val_iou"] == 0).all()
    assert history["best"].tolist() == [True]


def test_an_interrupt_reaches_the_caller_and_the_next_one_still_works(cohort, tmp_path):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run(cohort, tmp_path / "c.pt", steps_per_epoch=2000)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_but_the_checkpoint_is_written_and_logs_stay_short(tmp_path):
    """In a process of its own, with the working folder and both streams watched."""
    script = textwrap.dedent(
        f"""
        import logging, sys
        from pathlib import Path
        sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.path.dirname(os.path.dirname(__file__))!r}]
        import test_training
        folder = Path("../cohort"); folder.mkdir()
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        test_training.run(test_training.write_cohort(folder), Path("../out/checkpoint.pt"), epochs=2)
        """
    )
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", script], cwd=tmp_path / "cwd", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list((tmp_path / "cwd").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint.pt"]
    assert done.stdout == ""
    lines = done.stderr.replace("\r", "\n").splitlines()
    ours = [line for line in lines if line.startswith("tlskit.")]
    assert [line.split(":")[1] for line in ours] == [" epoch 1/2", " epoch 2/2"]
    bars = [line for line in lines if line.startswith("training:")]
    assert 1 <= len(bars) <= 6


def test_a_network_that_is_what_would_be_trained_is_kept(undisturbed, cohort, tmp_path, monkeypatch):
    tiles, manifest = cohort
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(undisturbed.checkpoint_path.read_bytes())

    def fit(*_, **__):
        raise RuntimeError("trained")

    monkeypatch.setattr(training, "fit", fit)
    kept = run(cohort, path)
    assert kept.sha256 == undisturbed.sha256 and kept.history.equals(undisturbed.history)
    assert kept.val_counts.equals(undisturbed.val_counts) and kept.best_val_iou == undisturbed.best_val_iou
    # Another slide of the cohort, which no tile is of, may come and go.
    stranger = manifest.iloc[:1].assign(slide_id="other", slide_path=str(tmp_path / "no.tiff"))
    assert run((tiles, pd.concat([manifest, stranger])), path).sha256 == kept.sha256
    for changes in ({"seed": 2}, {"resume": False}, {"ignore_class": "Fold"}):
        with pytest.raises(RuntimeError, match="trained"):
            run(cohort, path, **changes)
    copies = manifest.assign(slide_path=[str(tmp_path / f"{row.slide_id}.tiff") for row in manifest.itertuples()])
    for before, after in zip(manifest["slide_path"], copies["slide_path"], strict=True):
        shutil.copy2(before, after)
    assert run((tiles, copies), path).sha256 == kept.sha256
    Path(copies["slide_path"][0]).touch()  # of another time, and the same slide
    assert run((tiles, copies), path).sha256 == kept.sha256
    with open(copies["slide_path"][0], "ab") as file:  # exported anew
        file.write(b"other")
    with pytest.raises(RuntimeError, match="trained"):
        run((tiles, copies), path)


def test_another_file_of_weights_under_the_same_name_trains_another_network(cohort, tmp_path):
    path, encoder = tmp_path / "weights.pt", "tu-mobilenetv3_small_050"
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        torch.save(build_model(encoder=encoder, encoder_weights="none").encoder.state_dict(), path)
        made.append(run(cohort, tmp_path / "c.pt", encoder=encoder, encoder_weights=str(path), epochs=1).sha256)
    assert made[0] == made[1] != made[2]


def asked_rarely(monkeypatch):
    """What is done on a GPU, where the losses of many steps are asked for together."""
    step = loop._train_epoch
    monkeypatch.setattr(loop, "_train_epoch", lambda *a, between, **k: step(*a, between=50, **k))


def test_losses_that_are_asked_for_rarely_give_the_same_history(cohort, undisturbed, tmp_path, monkeypatch):
    asked_rarely(monkeypatch)
    history = run(cohort, tmp_path / "c.pt").history
    columns = [*PLAIN_COLUMNS, "negative_to_positive", "empty_batches", "gradient_tiles"]
    pd.testing.assert_frame_equal(history[columns], undisturbed.history[columns], check_exact=True)


def test_a_loss_that_is_no_number_is_named_by_its_step_however_late_it_is_seen(cohort, tmp_path, monkeypatch):
    said = []
    for rarely in (False, True):
        if rarely:
            asked_rarely(monkeypatch)
        with pytest.raises(TrainingError, match=r"epoch 1, step \d") as caught:
            run(cohort, tmp_path / "c.pt", learning_rate=1e30, epochs=1, steps_per_epoch=6)
        said.append(str(caught.value))
    assert said[0] == said[1]


class Asked(TorchDispatchMode):
    """How often a number is asked for, for which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        Asked.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_between_the_steps_of_a_gpu_nothing_waits_for_it(cohort, tmp_path, monkeypatch):
    step = loop._train_epoch

    def watched(forward, optimizer, scaler, batches, *, between, **options):
        batches, Asked.count = list(batches), 0
        with Asked():
            float(batches[0][0].sum())
            made = step(forward, optimizer, scaler, batches, between=50, **options)
        assert Asked.count == 1, "the one above"
        return made

    monkeypatch.setattr(loop, "_train_epoch", watched)
    run(cohort, tmp_path / "c.pt", epochs=1)
