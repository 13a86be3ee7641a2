"""Training: tiles with a split in, the checkpoint with the best validation IoU out.

What a training is made of is settled here: its settings, its tiles, and whether it was made before; `loop.fit` does it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
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
from tlskit.files import code_state, files_state
from tlskit.metrics import COUNTS
from tlskit.networks.hardware import pick_device, pick_precision, tune_allocator
from tlskit.networks.loop import HISTORY_COLUMNS, THRESHOLD, fit, history_table
from tlskit.networks.models import Checkpoint, build_model, load_checkpoint, save_checkpoint
from tlskit.tiles import TileDataset

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
        (mean Dice loss of the batches), ``val_loss``, ``val_iou``, ``val_dice`` (all of the whole validation set at
        once: loss from its summed probabilities, IoU and Dice from its pooled counts at 0.5), ``tiles_per_s`` (of the
        training steps alone), ``seconds`` (with validation), ``best`` (the one epoch that was kept).
    best_epoch, best_val_iou
        Of the epoch that was kept.
    val_counts
        One row a validation tile: its columns of the tile table, and ``tp, fp, fn, tn`` of its pixels at 0.5 in the
        epoch that was kept.
    n_train_tiles, n_val_tiles
        Tiles in the two sets.
    lost_tiles
        Ids of those among them that lie in a damaged part of their slide: they were passed over.
    tiles_per_s
        Median over the epochs.
    device, precision, threads
        What it ran on.
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
    encoder: str = "efficientnet-b0",
    encoder_weights: str = "imagenet",
    epochs: int = 5,
    steps_per_epoch: int = 0,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    precision: str = "auto",
    augment: bool = False,
    workers: int = 1,
    seed: int = 0,
    normalisation: str = "divide_255",
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    tile_store: str = "slide",
    tiles_dir: str | Path | None = None,
    split_hash: str = "",
    resume: bool = True,
    device: str | torch.device = "auto",
) -> Training:
    """Train a UNet++ on the training tiles and keep the epoch with the best IoU on all validation tiles.

    Loss is the Dice loss from logits, pooled over the batch [1]_; the optimiser is Adam. On a CPU the memory allocator
    is tuned for this process (`hardware.tune_allocator`).

    Parameters
    ----------
    tiles
        Tile table with the column ``split``; rows of ``train`` and ``val`` are used.
    manifest
        The cohort.
    out_path
        The checkpoint to write. While training, ``<name>-training.ckpt`` beside it holds the state after the last
        epoch; it is removed at the end.
    magnification, tile_px, overlap, target_class, ignore_class, resolution_by, apply_icc, tile_store, tiles_dir,
    normalisation
        As the tiles were made; the checkpoint carries them on. ``tile_px`` is a multiple of 32.
    encoder, encoder_weights
        As for `models.build_model`.
    epochs, steps_per_epoch
        An epoch is one pass over the training tiles (``steps_per_epoch=0``), or that many batches of reshuffled passes:
        this gives magnifications with unequal numbers of tiles the same number of optimiser steps.
    batch_size, learning_rate
        Of Adam; the rate is constant.
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
        If there are no training or no validation tiles, or the loss stops being a number.
    ParameterError
        If a setting is out of range.

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
        "resolution_by": resolution_by,
        "apply_icc": apply_icc,
        "split_hash": split_hash,
    }
    params = {
        "encoder_weights": Path(encoder_weights).name,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": pick_precision(precision, device),
        "device": device.type,
        "augment": augment,
        "seed": seed,
        "tile_store": tile_store,
    }
    _check_settings(params | {"workers": workers}, tile_px=tile_px)
    parts = {name: _of_split(tiles, name, magnification) for name in ("train", "val")}
    data = {
        name: TileDataset(
            part,
            manifest,
            magnification=magnification,
            tile_px=tile_px,
            target_class=target_class,
            ignore_class=ignore_class,
            resolution_by=resolution_by,
            apply_icc=apply_icc,
            tile_store=tile_store,
            tiles_dir=tiles_dir,
            augment=augment and name == "train",
            normalisation=normalisation,
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
        model = build_model(encoder=encoder, encoder_weights=encoder_weights)
        try:
            done = fit(model, data, params, state_path=state_path, resumed=resumed, device=device, workers=workers)
        finally:
            for dataset in data.values():
                dataset.close()

    history = history_table(done["history"])
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
        lost_tiles=checkpoint.params["lost_tiles"],
        tiles_per_s=float(history["tiles_per_s"].median()),
        device=checkpoint.params["device"],
        precision=checkpoint.params["precision"],
        threads=torch.get_num_threads(),
        seconds=float(history["seconds"].sum()),
        sha256=checkpoint.sha256,
    )


def _check_settings(params: dict, *, tile_px: int) -> None:
    for name, least in (("epochs", 1), ("steps_per_epoch", 0), ("batch_size", 1), ("workers", 0)):
        if params[name] < least:
            raise ParameterError(f"`{name}` should be {least} or more, not {params[name]!r}.")
    if not 0 < params["learning_rate"] < math.inf:
        raise ParameterError(f"`learning_rate` should be a positive number, not {params['learning_rate']!r}.")
    if tile_px % 32:
        raise ParameterError(
            f"`tile_px` should be a multiple of 32, because the network halves its input five times; it is {tile_px}. "
            f"Cut tiles of {max(32, round(tile_px / 32) * 32)} px in 01_tiling."
        )


def _of_split(tiles: pd.DataFrame, name: str, magnification: float) -> pd.DataFrame:
    if "split" not in tiles:
        raise TrainingError(
            "The tile table has no column `split`: add it with splitting.attach_split (02_patient_split)."
        )
    part = tiles[tiles["split"] == name]
    if len(part) == 0:
        where = {"train": "training", "val": "validation"}[name]
        counts = ", ".join(f"{split} {count}" for split, count in tiles["split"].value_counts().items()) or "none"
        raise TrainingError(
            f"There are no {where} tiles at {units.magnification_name(magnification)} (tiles by set: {counts}). "
            f"Either no patient of the {where} set has the target, or all tiles hung over the edge of small sections. "
            "Use `edge_tiles: pad`, smaller tiles (`tile_px`), another `split_seed`, or more patients."
        )
    return part.reset_index(drop=True)


def _with_counts(tiles: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Rows of `tiles` with a pixel that counts, beside their counts; `counts` as `loop.fit` gives them."""
    number, *cells = counts[counts[:, 1:].any(axis=1)].T  # a tile that was lost, or ignored as a whole, has none
    return tiles.iloc[number].reset_index(drop=True).assign(**dict(zip(COUNTS, cells, strict=True)))


def _fingerprint(settings: dict, parts: dict[str, pd.DataFrame], manifest: pd.DataFrame) -> str:
    """Of everything that decides the result: a state is resumed, and a network kept, only for the call that left it."""
    digest = hashlib.sha256(json.dumps(settings | {"code": code_state()}, sort_keys=True, default=str).encode())
    used = set().union(*(part["slide_id"] for part in parts.values()))
    for row in slide_rows(manifest):
        if row.slide_id in used:
            digest.update(files_state([row.slide_path, row.annotation_path]).encode())
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
