"""The training loop: an epoch of steps, a validation, the whole state saved, and so on.

Every epoch is a function of the seed, its number and the weights it begins with; the state that is saved after it is
all that the next one needs. So a training that was killed and goes on gives the history of one that was not (on a CPU
exactly while the number of threads stays, see `tlskit.networks.calm`; on a GPU to rounding).
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from tlskit.errors import TrainingError
from tlskit.networks import calm, hardware
from tlskit.networks.losses import make_loss
from tlskit.networks.marks import marking
from tlskit.networks.models import write_tensors
from tlskit.networks.settings import NEEDS_TARGET
from tlskit.outlines import IGNORED
from tlskit.tiles import Drawing, TileDataset, read_batches

__all__ = ["HISTORY_COLUMNS", "THRESHOLD", "best_epoch", "fit", "history_table", "validate"]

log = logging.getLogger(__name__)

HISTORY_COLUMNS = (
    ["epoch", "steps", "learning_rate", "train_loss", "val_loss", "val_iou", "val_dice"]
    + ["negative_to_positive", "empty_batches", "gradient_tiles", "tiles_per_s", "seconds", "threads", "best"]
)  # fmt: skip

#: Threshold at which validation IoU is measured while training, and which the checkpoint carries to begin with.
THRESHOLD = 0.5

#: Steps after which a GPU is asked for the losses: asked at each, it would stand still while Python makes the next.
_STEPS_BETWEEN = 50
#: Threads that read for a GPU, at least, where there are so many cores: one thread feeds what a CPU computes.
_READERS = 8

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fit(
    model: nn.Module,
    data: dict[str, TileDataset],
    params: dict,
    *,
    drawing: Drawing,
    out_path: Path,
    state_path: Path,
    resumed: dict | None,
    device: torch.device,
    workers: int,
) -> dict:
    """Train `model` in place for as many epochs as are left.

    Parameters
    ----------
    data
        The tiles of ``train`` and ``val``.
    params
        ``epochs, batch_size, learning_rate, loss, precision, seed, fingerprint``, as `train` takes them, and perhaps
        ``context_loss_weight``.
    drawing
        Which training tiles make the batches of each epoch.
    out_path
        Of the checkpoint; how far the training is stands beside it meanwhile (`marks`).
    state_path
        Where the state is written after each epoch, atomically.
    resumed
        Such a state, to go on from.
    device, workers
        To compute on; threads that make batches. A GPU is given up to eight, as many as there are cores, unless
        `workers` is 0.

    Returns
    -------
    dict
        ``history`` (one dict an epoch), and of the epoch to keep ``best_weights`` (on the CPU) and ``best_counts``:
        number of each validation tile and its tp, fp, fn, tn, ``(N, 5)`` int64.

    Raises
    ------
    TrainingError
        If the loss or the network's output stops being a number.
    """
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device.index or 0)
    half = _HALF.get(params["precision"])
    # fp16 alone needs its losses scaled; for the others the scaler hands on what it is given.
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)

    def forward(*images: torch.Tensor, **options):
        with torch.autocast(device.type, half, enabled=half is not None):
            return model(*images, **options)

    # NHWC is the layout that CPU and tensor-core convolutions compute in; the batches come in it too. Fused: one pass
    # over the weights instead of ten, 5-10 % of a step on small tiles on a CPU.
    model = model.to(device, memory_format=hardware.memory_format(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=params["learning_rate"], fused=True)
    done = {"history": [], "best_weights": {}, "best_counts": torch.zeros((0, 5), dtype=torch.int64)}
    parts = {"weights": model, "optimizer": optimizer, "scaler": scaler}
    if resumed:
        done = {name: resumed[name] for name in done}
        for name, part in parts.items():
            part.load_state_dict(resumed[name])

    n_val, size, epochs, seed = len(data["val"]), params["batch_size"], params["epochs"], params["seed"]
    if is_cuda and workers:
        workers = max(workers, min(_READERS, hardware.cores()))
    # What goes to a GPU goes as bytes, and becomes float32 there.
    reading = {"workers": workers, "pin_memory": is_cuda, "raw": is_cuda}

    def arrive(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        batch = tuple(part.to(device, non_blocking=is_cuda) for part in batch)
        if is_cuda:
            batch = data["train"].finish(*batch)  # of both sets alike
        return tuple(part.contiguous() for part in batch) if device.type == "mps" else batch

    val_plan = np.split(np.arange(n_val), range(size, n_val, size))
    n_steps = len(drawing.batches(0))
    made = len(done["history"]) * n_steps
    bar, marks = _bar(epochs * n_steps, made), marking(out_path, steps=epochs * n_steps, done=made, epochs=epochs)
    with bar, calm.following(device.type) as look, marks as mark:

        def stepped() -> None:
            bar.update()
            mark()

        for epoch in range(len(done["history"]), epochs):
            began, threads = time.perf_counter(), []

            def arriving(batches: Iterable, threads: list = threads) -> Iterator:
                for batch in batches:
                    threads.append(look())
                    yield arrive(batch)

            # Dropout of this epoch depends on nothing that came before it.
            torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
            plan = drawing.batches(epoch)
            model.train()
            with contextlib.closing(read_batches(data["train"], plan, seed=(seed, epoch), **reading)) as batches:
                losses, seen = _train_epoch(
                    forward, optimizer, scaler, arriving(batches),
                    loss=params["loss"], weight=params.get("context_loss_weight", 0), stepped=stepped,
                    epoch=epoch, between=1 if device.type == "cpu" else _STEPS_BETWEEN,
                )  # fmt: skip
            trained = time.perf_counter()
            with contextlib.closing(read_batches(data["val"], val_plan, **reading)) as batches:
                counts, overlap, total = validate(model, arriving(batches), forward)
            if not math.isfinite(overlap + total):
                raise TrainingError(
                    f"The network gave values that are not numbers in the validation of epoch {epoch + 1}. Lower "
                    f"`learning_rate` (it is {params['learning_rate']:g}), or use `precision: exact`."
                )
            row = {
                "epoch": epoch + 1,
                "steps": (epoch + 1) * n_steps,
                "learning_rate": float(params["learning_rate"]),
                "train_loss": float(np.mean(losses)),
                **_scores(counts, overlap, total),
                **seen,
                "tiles_per_s": sum(map(len, plan)) / (trained - began),
                "seconds": time.perf_counter() - began,
                "threads": min(threads),
            }
            done["history"].append(row)
            if best_epoch(done["history"]) == epoch:
                done["best_weights"] = {name: value.cpu().clone() for name, value in model.state_dict().items()}
                done["best_counts"] = counts
            _save_state(state_path, {"fingerprint": params["fingerprint"], **done}, parts)
            _tell(row, epochs, bar)
    return done


def _train_epoch(
    forward: Callable, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, batches: Iterable, *,
    loss: str, weight: float, stepped: Callable[[], None], epoch: int, between: int,
) -> tuple[list, dict]:  # fmt: skip
    """One optimiser step a batch; returns the loss of each, and what the batches held (`_account`).

    Losses and counts stay on the device, and are asked for, and the losses looked at, every `between` steps.
    """
    loss_of, needs_target, losses, held, untold = make_loss(loss), loss in NEEDS_TARGET, [], [], []

    def ask() -> None:
        lost = torch.stack([torch.stack(each[:2]) for each in untold]).tolist()
        counted = torch.stack([torch.stack(each[2:4]) for each in untold]).tolist()
        for (own, whole), cells, (*_, tiles) in zip(lost, counted, untold, strict=True):
            losses.append(own)
            held.append([tiles, *cells])
            if not math.isfinite(whole):
                raise TrainingError(
                    f"The training loss became {whole} in epoch {epoch + 1}, step {len(losses)}. Lower "
                    f"`learning_rate` (it is {optimizer.param_groups[0]['lr']:g}), or use `precision: exact`."
                )
        untold.clear()

    for images, masks, _, *context in batches:
        if weight:
            logits, wide = forward(images, context[0], both=True)
            loss = loss_of(logits.float(), masks)
            whole = loss + weight * loss_of(wide.float(), context[1])
        else:
            loss = whole = loss_of(forward(images, *context).float(), masks)
        untold.append((loss.detach(), whole.detach(), (masks == 1).sum(), (masks != IGNORED).sum(), len(masks)))
        if len(untold) >= between:
            ask()
        optimizer.zero_grad()
        scaler.scale(whole).backward()
        scaler.step(optimizer)
        scaler.update()
        stepped()
    if untold:
        ask()
    return losses, _account(np.array(held, np.int64), needs_target)


def _account(held: np.ndarray, needs_target: bool) -> dict:
    """What an epoch's batches held, from their tiles, target pixels and pixels that count, ``(batches, 3)``.

    Returns
    -------
    dict
        ``negative_to_positive`` (pixels of background for each of target), ``empty_batches`` (without target), and
        ``gradient_tiles`` (in batches that had a gradient: all that count but, where the loss needs target, the empty).
    """
    tiles, target, counted = held.T
    total = int(target.sum())
    taught = (target > 0) if needs_target else (counted > 0)
    return {
        "negative_to_positive": (int(counted.sum()) - total) / total if total else math.nan,
        "empty_batches": int((target == 0).sum()),
        "gradient_tiles": int(tiles[taught].sum()),
    }


@torch.inference_mode()
def validate(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]], forward: Callable | None = None
) -> tuple[torch.Tensor, float, float]:
    """What a network, put into evaluation mode, makes of the validation tiles.

    Parameters
    ----------
    model
        Gives logits ``(B, 1, H, W)``.
    batches
        Images, masks and numbers of the tiles, and contexts where the model takes them, on the model's device.
    forward
        What runs the model, where that is not the model itself: in half precision, say.

    Returns
    -------
    int64 tensor ``(N, 5)``
        Number of each tile, and tp, fp, fn, tn of its pixels at `THRESHOLD`.
    float, float
        Sums over the whole set of probability x mask, and of probability + mask.
    """
    model.eval()
    forward, found = forward or model, []
    for images, masks, index, *context in batches:
        counted = masks != IGNORED
        probability, masks = forward(images, *context).float().sigmoid() * counted, masks * counted
        predicted, truth = probability >= THRESHOLD, masks > 0.5
        cells = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth & counted)
        counts = torch.stack([index, *(cell.sum((1, 2, 3)) for cell in cells)], dim=1)
        sums = torch.stack([(probability * masks).sum((1, 2, 3)), (probability + masks).sum((1, 2, 3))])
        found.append((counts, sums))  # a GPU is asked for them at the end, and never waited for before
    # Sums per tile in float32, over the set in float64 (which Apple's GPU has not).
    told = [sums.cpu().double() for _, sums in found]
    overlap, total = (float(sum(sums[row].sum() for sums in told)) for row in (0, 1))
    return torch.cat([counts for counts, _ in found]).cpu(), overlap, total


def _scores(counts: torch.Tensor, overlap: float, total: float) -> dict[str, float]:
    """Of the whole validation set at once, from what `validate` gives; nan where a score is undefined."""
    _, tp, fp, fn, _ = counts.sum(dim=0).tolist()
    return {
        "val_loss": 1 - 2 * overlap / total if total else math.nan,
        "val_iou": tp / (tp + fp + fn) if tp + fp + fn else math.nan,
        "val_dice": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan,
    }


def best_epoch(history: list[dict]) -> int:
    """Number of the best row: the highest IoU; among equals (all 0 at first, say) the lowest validation loss."""

    def quality(number: int) -> tuple[float, float]:
        iou, loss = history[number]["val_iou"], history[number]["val_loss"]
        return (-1.0 if math.isnan(iou) else iou, -math.inf if math.isnan(loss) else -loss)

    return max(range(len(history)), key=quality)


def history_table(history: list[dict]) -> pd.DataFrame:
    """One row an epoch with `HISTORY_COLUMNS`."""
    best = best_epoch(history)
    return pd.DataFrame(history).assign(best=[number == best for number in range(len(history))])[HISTORY_COLUMNS]


def _save_state(path: Path, state: dict, parts: dict) -> None:
    """`state`, and that of the weights, the optimiser and the loss scaling, for a killed training to go on from."""
    write_tensors(path, state | {name: part.state_dict() for name, part in parts.items()})


def _bar(total: int, initial: int) -> tqdm:
    # One bar for the whole training; a log or an executed notebook keeps every refresh.
    quick = sys.stderr.isatty()
    return tqdm(total=total, initial=initial, desc="training", unit="step", mininterval=0.2 if quick else 10)


def _tell(row: dict, epochs: int, bar: tqdm) -> None:
    """One line of the log an epoch: few enough for an executed notebook."""
    bar.clear()  # else the line below would be written at the bar's end
    log.info(
        "epoch %d/%d: training loss %.3f, validation loss %.3f, validation IoU %.3f, %.1f tiles/s",
        row["epoch"], epochs, row["train_loss"], row["val_loss"], row["val_iou"], row["tiles_per_s"],
    )  # fmt: skip
    bar.set_postfix(epoch=f"{row['epoch']}/{epochs}", val_iou=f"{row['val_iou']:.3f}", refresh=False)
