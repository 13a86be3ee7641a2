"""What PyTorch Lightning runs: the network with its loss, its account of the epochs, progress and saved state."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn
from tqdm.auto import tqdm

from tlskit.errors import TrainingError
from tlskit.outlines import IGNORED

__all__ = ["HISTORY_COLUMNS", "THRESHOLD", "Learner", "Progress", "SaveState", "interruptible", "quiet_lightning"]

log = logging.getLogger(__name__)

HISTORY_COLUMNS = (
    ["epoch", "steps", "learning_rate", "train_loss", "val_loss", "val_iou", "val_dice"]
    + ["tiles_per_s", "seconds", "best"]
)  # fmt: skip

#: Threshold at which validation IoU is measured while training, and which the checkpoint carries to begin with.
THRESHOLD = 0.5


class Learner(lightning.LightningModule):
    """The network, its loss and optimiser, and the account of its epochs."""

    def __init__(self, model: nn.Module, *, learning_rate: float, seed: int, fingerprint: str):
        super().__init__()
        # NHWC is the layout that CPU and tensor-core convolutions compute in; the batches come in it too.
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = DiceLoss(mode="binary", from_logits=True, ignore_index=IGNORED)
        self.learning_rate = learning_rate
        self.seed = seed
        self.fingerprint = fingerprint
        self.history: list[dict] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        #: Number of each validation tile and its tp, fp, fn, tn by the network of `best_weights`, ``(N, 5)`` int64.
        self.best_counts = torch.zeros((0, 5), dtype=torch.int64)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Fused: one pass over the weights instead of ten, 5-10 % of a step on small tiles on a CPU.
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        if batch_idx == 0:
            # Dropout of this epoch depends on nothing that came before it, so that a resumed training repeats it.
            torch.manual_seed(int(np.random.SeedSequence((self.seed, self.current_epoch)).generate_state(1)[0]))
            self._began = self._train_began = time.perf_counter()
            self._losses: list[float] = []
            self._tiles = 0
        images, masks, _ = batch
        loss = self.loss(self.model(images).float(), masks)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The training loss became {value} in epoch {self.current_epoch + 1}, step {batch_idx + 1}. Lower "
                f"`learning_rate` (it is {self.learning_rate:g}), or use `precision: exact`."
            )
        self._losses.append(value)
        self._tiles += len(images)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._train_s = time.perf_counter() - self._train_began
        self._counts: list[torch.Tensor] = []
        self._sums = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch, batch_idx: int) -> None:
        images, masks, index = batch
        counted = masks != IGNORED
        probability, masks = self.model(images).float().sigmoid() * counted, masks * counted
        predicted, truth = probability >= THRESHOLD, masks > 0.5
        cells = (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth & counted)
        counts = torch.stack([cell.sum((1, 2, 3)) for cell in cells], dim=1).cpu()
        self._counts.append(torch.cat([index.cpu()[:, None], counts], dim=1))
        # Sums per tile in float32, over the set in float64 (which Apple's GPU has not).
        overlap, total = (probability * masks).sum((1, 2, 3)), (probability + masks).sum((1, 2, 3))
        self._sums += torch.stack([overlap.cpu().double().sum(), total.cpu().double().sum()])

    def on_validation_epoch_end(self) -> None:
        counts = torch.cat(self._counts)
        _, tp, fp, fn, _ = counts.sum(dim=0).tolist()
        overlap, total = self._sums.tolist()
        val_loss = 1 - 2 * overlap / total if total else math.nan
        if not math.isfinite(overlap + total):
            raise TrainingError(
                f"The network gave values that are not numbers in the validation of epoch {self.current_epoch + 1}. "
                f"Lower `learning_rate` (it is {self.learning_rate:g}), or use `precision: exact`."
            )
        row = {
            "epoch": self.current_epoch + 1,
            "steps": self.global_step,
            "learning_rate": float(self.optimizers().param_groups[0]["lr"]),
            "train_loss": float(np.mean(self._losses)),
            "val_loss": val_loss,
            "val_iou": tp / (tp + fp + fn) if tp + fp + fn else math.nan,
            "val_dice": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan,
            "tiles_per_s": self._tiles / self._train_s,
            "seconds": time.perf_counter() - self._began,
        }
        self.history.append(row)
        if self._best() == len(self.history) - 1:
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best_counts = counts

    def _best(self) -> int:
        """Number of the best row: the highest IoU; among equals (all 0 at first, say) the lowest validation loss."""

        def quality(number: int) -> tuple[float, float]:
            iou, loss = self.history[number]["val_iou"], self.history[number]["val_loss"]
            return (-1.0 if math.isnan(iou) else iou, -math.inf if math.isnan(loss) else -loss)

        return max(range(len(self.history)), key=quality)

    def history_table(self) -> pd.DataFrame:
        table = pd.DataFrame(self.history)
        table["best"] = [number == self._best() for number in range(len(table))]
        return table[HISTORY_COLUMNS]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["tlskit"] = {
            "fingerprint": self.fingerprint,
            "history": self.history,
            "best_weights": self.best_weights,
            "best_counts": self.best_counts,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history = list(checkpoint["tlskit"]["history"])
        self.best_weights = checkpoint["tlskit"]["best_weights"]
        self.best_counts = checkpoint["tlskit"]["best_counts"]


class SaveState(lightning.Callback):
    """Writes the whole state after each epoch, atomically (Lightning does so), for a resumed training to go on from."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class Progress(lightning.Callback):
    """One bar for the whole training, and one line of the log an epoch; both few enough for an executed notebook."""

    def __init__(self, epochs: int, steps: int):
        self.epochs = epochs
        self.steps = steps
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: lightning.Trainer, learner: Learner) -> None:
        self.bar = tqdm(
            total=self.epochs * self.steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            # A log or an executed notebook keeps every refresh.
            mininterval=0.2 if sys.stderr.isatty() else 10,
        )

    def on_train_batch_end(self, trainer, learner, outputs, batch, batch_idx) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: lightning.Trainer, learner: Learner) -> None:
        row = learner.history[-1]
        self.bar.clear()  # else the line below would be written at the bar's end
        log.info(
            "epoch %d/%d: training loss %.3f, validation loss %.3f, validation IoU %.3f, %.1f tiles/s",
            row["epoch"], self.epochs, row["train_loss"], row["val_loss"], row["val_iou"], row["tiles_per_s"],
        )  # fmt: skip
        self.bar.set_postfix(epoch=f"{row['epoch']}/{self.epochs}", val_iou=f"{row['val_iou']:.3f}", refresh=False)

    def on_train_end(self, trainer: lightning.Trainer, learner: Learner) -> None:
        self.bar.close()

    def on_exception(self, trainer: lightning.Trainer, learner: Learner, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning announces hardware and gives advice on loaders that are not used here; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and Jupyter's stop button arrive as `KeyboardInterrupt`.

    Lightning turns it into ``sys.exit`` and leaves the interrupt signal ignored for the rest of the process: a
    notebook's kernel could then no longer be interrupted.
    """
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if in_main and handler is not None:
            signal.signal(signal.SIGINT, handler)
