"""Training: tiles with a split in, the checkpoint with the best validation IoU out.

What a training is made of is settled here: its settings, its tiles, and whether it was made before; `loop.fit` does it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tlskit import units
from tlskit.cohort import slide_rows
from tlskit.errors import CheckpointError, ParameterError, TrainingError
from tlskit.files import resolve, sha256_of_file
from tlskit.metrics import COUNTS
from tlskit.networks.hardware import pick_device, pick_precision, tune_allocator, whole_float32
from tlskit.networks.loop import HISTORY_COLUMNS, THRESHOLD, fit, history_table
from tlskit.networks.models import Checkpoint, build_model, load_checkpoint, save_checkpoint
from tlskit.networks.settings import EMPTY_BATCHES, NEEDS_TARGET, setting_faults
from tlskit.slides import content_id
from tlskit.sources import code_state
from tlskit.tiles import AS_THEY_COME, Drawing, TileDataset, of_use, plan_drawing

__all__ = ["HISTORY_COLUMNS", "Training", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What `train` gives back.

    Attributes
    ----------
    checkpoint_path
        The network with the best validation IoU.
    history
        One row an epoch: ``epoch`` (from 1), ``steps`` (of the optimiser, so far), ``learning_rate``, ``train_loss``
        (mean loss of the batches), ``val_loss``, ``val_iou``, ``val_dice`` (all of the whole validation set at
        once: Dice loss from its summed probabilities, IoU and Dice from its pooled counts at 0.5),
        ``negative_to_positive`` (pixels of the epoch's batches), ``empty_batches`` (without target),
        ``gradient_tiles`` (in batches that had a gradient), ``tiles_per_s`` (of the training steps alone), ``seconds``
        (with validation), ``threads`` (the fewest), ``best`` (the one epoch that was kept).
    best_epoch, best_val_iou
        Of the epoch that was kept.
    val_counts
        One row a validation tile: its columns of the tile table, and ``tp, fp, fn, tn`` of its pixels at 0.5 in the
        epoch that was kept.
    n_train_tiles, n_val_tiles
        Tiles in the two sets.
    drawing
        What the batches hold by the plan (`tlskit.tiles.drawing.Drawing.expected`); ``history`` has what they held.
    lost_tiles
        Ids of those among them that lie in a damaged part of their slide: they were passed over.
    tiles_per_s
        Median over the epochs.
    device, precision, threads
        What it ran on; the fewest threads, where other programs took a core (``threads`` of the history, by epoch).
    seconds
        All epochs together.
    sha256
        Of the checkpoint's file.
    """

    checkpoint_path: Path
    history: pd.DataFrame
    best_epoch: int
    best_val_iou: float
    val_counts: pd.DataFrame
    n_train_tiles: int
    n_val_tiles: int
    drawing: dict
    lost_tiles: list[str]
    tiles_per_s: float
    device: str
    precision: str
    threads: int
    seconds: float
    sha256: str


def train(
    tiles: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    out_path: str | Path,
    magnification: float,
    tile_px: int,
    overlap: float,
    target_class: str | Sequence[str],
    ignore_class: str | Sequence[str] = "",
    region_class: str | Sequence[str] = "",
    encoder: str = "efficientnet-b0",
    encoder_weights: str = "imagenet",
    epochs: int = 5,
    steps_per_epoch: int = 0,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    loss: str = "dice",
    negatives_per_batch: int = AS_THEY_COME,
    positive_pixels: float = 0.0,
    hard_tiles: Sequence[str] = (),
    hard_share: float = 0.0,
    precision: str = "auto",
    augment: bool = False,
    workers: int = 1,
    seed: int = 0,
    normalisation: str = "divide_255",
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    detail_mpp: float = 0.0,
    context_ratio: int = 0,
    context_px: int = 256,
    context_of: str = "field",
    context_loss_weight: float = 0.0,
    tile_store: str = "slide",
    tiles_dir: str | Path | None = None,
    split_hash: str = "",
    resume: bool = True,
    device: str | torch.device = "auto",
) -> Training:
    """Train a UNet++ on the training tiles and keep the epoch with the best IoU on all validation tiles.

    By default the loss is the Dice loss from logits, pooled over the batch [1]_; the optimiser is Adam. On a CPU the
    memory allocator is tuned for this process (`hardware.tune_allocator`).

    Parameters
    ----------
    tiles
        Tile table with the column ``split``: trained on are rows of ``train`` that are there for it, and an epoch is
        chosen on rows of ``val`` that are there to be scored (`tlskit.tiles.of_use`), by the same rule in every arm.
    manifest
        The cohort.
    out_path
        The checkpoint to write. While training, ``<name>-training.ckpt`` beside it holds the state after the last
        epoch; it is removed at the end.
    magnification, tile_px, overlap, target_class, ignore_class, region_class, resolution_by, apply_icc, tile_store,
    tiles_dir,
    normalisation
        As the tiles were made; the checkpoint carries them on. ``tile_px`` is a multiple of 32.
    encoder, encoder_weights
        As for `models.build_model`.
    epochs, steps_per_epoch
        An epoch is one pass over the training tiles (``steps_per_epoch=0``), or that many batches of reshuffled passes:
        this gives magnifications with unequal numbers of tiles the same number of optimiser steps.
    batch_size, learning_rate
        Of Adam; the rate is constant.
    loss
        One of `settings.LOSSES`.
    negatives_per_batch, positive_pixels
        How many tiles without target, or what share of target pixels, a batch holds: `tlskit.tiles.plan_drawing`.
    hard_tiles, hard_share
        Ids of tiles without target that are to make up this share of those drawn (`mining.train_rounds`).
    detail_mpp
        um/px beyond which detail is averaged away (`tlskit.slides.open_slide`); 0 leaves all.
    context_ratio, context_px, context_of
        The wider field that the network sees beside each tile (`tlskit.tiles.TileDataset`); a ratio of 0: the tile
        alone.
    context_loss_weight
        Weight of the same loss for a prediction from the context alone, over all of the context; 0: the context is
        learnt for the tile's sake. ``train_loss`` of the history is the tiles' own loss in either case.
    precision, device
        As for `hardware.pick_precision` and `hardware.pick_device`.
    augment
        Flip, turn and colour the training tiles (`datasets.augment_tile`); validation tiles never.
    workers
        Threads that read tiles while the network computes; 0 reads between the steps.
    seed
        Of the initial weights, the order of the tiles, augmentation and dropout.
    split_hash
        Of the patient split, to be kept in the checkpoint.
    resume
        Keep the checkpoint that the same call has made before, and go on from ``<name>-training.ckpt`` where it was
        left by the same call. The same call is: settings, tiles, files of the slides and their outlines, and code.

    Raises
    ------
    TrainingError
        If there are no training or no validation tiles, they cannot be drawn as asked, or the loss stops being a
        number.
    ParameterError
        If a setting is out of range, or batches without target would come and teach nothing.

    References
    ----------
    .. [1] F. Milletari, N. Navab, S.-A. Ahmadi, V-Net, 3DV 2016, in the form of
       ``segmentation_models_pytorch.losses.DiceLoss(mode="binary", from_logits=True)``.
    """
    out_path = Path(out_path)
    device = pick_device(device)
    carried = {
        "encoder": encoder,
        "magnification": magnification,
        "mpp": units.mpp_for_magnification(magnification),
        "tile_px": tile_px,
        "overlap": overlap,
        "normalisation": normalisation,
        "threshold": THRESHOLD,
        "target_class": target_class if isinstance(target_class, str) else list(target_class),
        "ignore_class": ignore_class if isinstance(ignore_class, str) else list(ignore_class),
        "region_class": region_class if isinstance(region_class, str) else list(region_class),
        "resolution_by": resolution_by,
        "apply_icc": apply_icc,
        "detail_mpp": detail_mpp,
        "split_hash": split_hash,
    }
    params = {
        "encoder_weights": Path(encoder_weights).name,
        "encoder_weights_sha256": _sha256_of_weights(encoder_weights),
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "loss": loss,
        "negatives_per_batch": negatives_per_batch,
        "positive_pixels": positive_pixels,
        "hard_tiles": sorted(hard_tiles),
        "hard_share": hard_share,
        "precision": pick_precision(precision, device),
        "device": device.type,
        "augment": augment,
        "seed": seed,
        "tile_store": tile_store,
    }
    context = {"context_ratio": context_ratio, "context_px": context_px, "context_of": context_of}
    auxiliary = {"context_loss_weight": context_loss_weight}
    _check_settings(params | carried | context | auxiliary | {"workers": workers, "hard_negatives": hard_share})
    if context_ratio:  # else a training is known by what it was known by before there were contexts
        carried, params = carried | context, params | auxiliary
    uses = {"train": "train", "val": "score"}
    parts = {name: _of_split(tiles, name, use, magnification) for name, use in uses.items()}
    drawing = _drawing_of(parts["train"], params)
    data = {
        name: TileDataset(
            part,
            manifest,
            magnification=magnification,
            tile_px=tile_px,
            target_class=target_class,
            ignore_class=ignore_class,
            region_class=region_class,
            resolution_by=resolution_by,
            apply_icc=apply_icc,
            detail_mpp=detail_mpp,
            tile_store=tile_store,
            tiles_dir=tiles_dir,
            augment=augment and name == "train",
            normalisation=normalisation,
            **context,
            context_masks=bool(context_loss_weight) and name == "train",
        )
        for name, part in parts.items()
    }
    if device.type == "cpu":
        tune_allocator()
    state_path = out_path.with_name(f"{out_path.stem}-training.ckpt")
    params["fingerprint"] = fingerprint = _fingerprint(carried | params, parts, manifest)
    if resume and (made := _made_before(out_path, fingerprint)):
        return _summary(out_path, made, parts)
    resumed = _resumable(state_path, fingerprint, epochs) if resume else None

    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build_model(encoder=encoder, encoder_weights=encoder_weights, context_ratio=context_ratio)
        try:
            with whole_float32(params["precision"] == "exact"):
                done = fit(
                    model, data, params,
                    drawing=drawing, out_path=out_path, state_path=state_path, resumed=resumed, device=device,
                    workers=workers,
                )  # fmt: skip
        finally:
            for dataset in data.values():
                dataset.close()

    history = history_table(done["history"])
    params["drawing"] = drawing.expected
    model.load_state_dict(done["best_weights"])
    params["val_counts"] = done["best_counts"].tolist()
    params["lost_tiles"] = sorted(set().union(*(dataset.lost for dataset in data.values())))
    saved = save_checkpoint(out_path, Checkpoint(model=model, history=history, params=params, **carried))
    state_path.unlink(missing_ok=True)
    return _summary(out_path, saved, parts)


def _summary(out_path: Path, checkpoint: Checkpoint, parts: dict[str, pd.DataFrame]) -> Training:
    history = checkpoint.history
    kept = history.loc[history["best"]].iloc[0]
    return Training(
        checkpoint_path=out_path,
        history=history,
        best_epoch=int(kept["epoch"]),
        best_val_iou=float(kept["val_iou"]),
        val_counts=_with_counts(parts["val"], np.array(checkpoint.params["val_counts"], np.int64).reshape(-1, 5)),
        n_train_tiles=len(parts["train"]),
        n_val_tiles=len(parts["val"]),
        drawing=checkpoint.params["drawing"],
        lost_tiles=checkpoint.params["lost_tiles"],
        tiles_per_s=float(history["tiles_per_s"].median()),
        device=checkpoint.params["device"],
        precision=checkpoint.params["precision"],
        threads=int(history["threads"].min()),
        seconds=float(history["seconds"].sum()),
        sha256=checkpoint.sha256,
    )


def _drawing_of(tiles: pd.DataFrame, params: dict) -> Drawing:
    """How the training tiles are drawn; refused where batches without target would come and teach nothing."""
    drawing = plan_drawing(
        tiles["target_fraction"].to_numpy(), batch_size=params["batch_size"], steps=params["steps_per_epoch"],
        seed=params["seed"], negatives_per_batch=params["negatives_per_batch"],
        positive_pixels=params["positive_pixels"], hard_share=params["hard_share"],
        hard=np.flatnonzero(tiles["tile_id"].isin(params["hard_tiles"])),
    )  # fmt: skip
    if drawing.may_be_empty and params["loss"] in NEEDS_TARGET:
        without = int((tiles["target_fraction"] <= 0).sum())
        raise ParameterError(
            f"{without} of {len(tiles)} training tiles hold no target, so that some batches of {params['batch_size']} "
            f"would hold none: {EMPTY_BATCHES.format(**params)}."
        )
    return drawing


def _check_settings(settings: dict) -> None:
    faults = setting_faults(settings)
    if faults:
        raise ParameterError(". ".join(faults) + ".")


def _of_split(tiles: pd.DataFrame, name: str, use: str, magnification: float) -> pd.DataFrame:
    if "split" not in tiles:
        raise TrainingError(
            "The tile table has no column `split`: add it with splitting.attach_split (02_patient_split)."
        )
    part = of_use(tiles[tiles["split"] == name], use)
    if len(part) == 0:
        where = {"train": "training", "val": "validation"}[name]
        counts = ", ".join(f"{split} {count}" for split, count in tiles["split"].value_counts().items()) or "none"
        raise TrainingError(
            f"There are no {where} tiles at {units.magnification_name(magnification)} (tiles by set: {counts}). "
            f"Either no patient of the {where} set has the target, or all tiles hung over the edge of small sections. "
            "Use `edge_tiles: pad`, smaller tiles (`tile_px`), another `split_seed`, or more patients."
        )
    return part


def _with_counts(tiles: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Rows of `tiles` with a pixel that counts, beside their counts; `counts` as `loop.fit` gives them."""
    number, *cells = counts[counts[:, 1:].any(axis=1)].T  # a tile that was lost, or ignored as a whole, has none
    return tiles.iloc[number].reset_index(drop=True).assign(**dict(zip(COUNTS, cells, strict=True)))


def _sha256_of_weights(encoder_weights: str | Path) -> str:
    """Of the file of initial weights; another file under the same name makes another network."""
    path = resolve(encoder_weights)
    return sha256_of_file(path) if str(encoder_weights) not in ("none", "imagenet") and path.is_file() else ""


def _fingerprint(settings: dict, parts: dict[str, pd.DataFrame], manifest: pd.DataFrame) -> str:
    """Of everything that decides the result: a state is resumed, and a network kept, only for the call that left it."""
    code = code_state("networks.training", without=("errors", "files", "sources"))
    digest = hashlib.sha256(json.dumps(settings | {"code": code}, sort_keys=True, default=str).encode())
    used = set().union(*(part["slide_id"] for part in parts.values()))
    for row in slide_rows(manifest):
        if row.slide_id in used:
            outlines = sha256_of_file(row.annotation_path) if Path(row.annotation_path).is_file() else ""
            digest.update(f"{row.slide_id} {content_id(row.slide_path)} {outlines}".encode())
    for part in parts.values():
        digest.update("\n".join(part["tile_id"].astype(str)).encode())
        digest.update(part[["x_px0", "y_px0", "size_px0"]].to_numpy(np.float64).tobytes())
    return digest.hexdigest()


def _made_before(path: Path, fingerprint: str) -> Checkpoint | None:
    """The network that this very call made before, if it lies at `path`."""
    try:
        found = load_checkpoint(path, device="cpu")
    except CheckpointError:
        return None
    if found.params.get("fingerprint") != fingerprint:
        return None
    log.info("%s was trained on these tiles with these settings: it is kept", path.name)
    return found


def _resumable(path: Path, fingerprint: str, epochs: int) -> dict | None:
    """The state that the same call left at `path`, if one lies there."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        left_by, epochs_done = state["fingerprint"], len(state["history"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
        log.warning("%s cannot be read (%s): training starts afresh", path.name, type(error).__name__)
        return None
    if left_by != fingerprint:
        log.info("%s was left by a training with other settings or tiles: training starts afresh", path.name)
        return None
    log.info("training goes on after epoch %d of %d", epochs_done, epochs)
    return state
