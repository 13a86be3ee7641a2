"""Hard negatives: a first network says which training tiles without target it takes for target; a second sees more
of them.

One round. The second network begins from the same initial weights and makes as many steps as the first, so that an arm
with mined tiles has been trained no longer than one without.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.networks.loop import validate
from tlskit.networks.models import Checkpoint, load_checkpoint
from tlskit.networks.training import Training, train
from tlskit.tiles import TileDataset, of_use, read_batches

__all__ = ["false_alarms", "train_rounds"]

log = logging.getLogger(__name__)

#: Of the training tiles without target at most this share is mined (and at least a batch): the worst of them.
MINED_SHARE = 0.1

#: Tiles without target that the first network looks at, at most, drawn by the seed.
LOOKED_AT = 20_000


def train_rounds(
    tiles: pd.DataFrame, manifest: pd.DataFrame, *, out_path: str | Path, hard_negatives: float = 0.0, **settings
) -> Training:
    """`training.train`, twice where `hard_negatives` is not 0: the second time with false alarms of the first.

    Parameters
    ----------
    tiles, manifest, out_path
        As of `training.train`. The first network is ``<name>-first.pt`` beside the second.
    hard_negatives
        Share of mined tiles among the tiles without target that are drawn, 0 to 1.
    settings
        All other arguments of `training.train`.

    Returns
    -------
    Training
        Of the last round.
    """
    out_path = Path(out_path)
    if not hard_negatives:
        return train(tiles, manifest, out_path=out_path, **settings)
    first = train(tiles, manifest, out_path=out_path.with_name(f"{out_path.stem}-first.pt"), **settings)
    of_training = of_use(tiles[tiles["split"] == "train"], "train")
    found = false_alarms(
        load_checkpoint(first.checkpoint_path, device=settings.get("device", "auto")),
        of_training[of_training["target_fraction"] <= 0],
        manifest,
        batch_size=settings.get("batch_size", 8),
        workers=settings.get("workers", 1),
        seed=settings.get("seed", 0),
    )
    return train(
        tiles, manifest, out_path=out_path, hard_tiles=found["tile_id"].tolist(), hard_share=hard_negatives, **settings
    )


def false_alarms(
    checkpoint: Checkpoint,
    tiles: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    batch_size: int = 8,
    workers: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Tiles without target in which a network sees some, the worst first: their rows and ``false_px``.

    Parameters
    ----------
    checkpoint
        The network, on its device.
    tiles
        Tiles without target, of training patients alone; read from the slides.
    """
    looked_at = tiles
    if len(tiles) > LOOKED_AT:
        looked_at = tiles.iloc[np.sort(np.random.default_rng(seed).choice(len(tiles), LOOKED_AT, replace=False))]
        log.info("hard negatives are looked for in %d of %d tiles without target", LOOKED_AT, len(tiles))
    if not len(looked_at):
        return looked_at.assign(false_px=[])
    dataset = TileDataset(
        looked_at, manifest, magnification=checkpoint.magnification, tile_px=checkpoint.tile_px,
        target_class=checkpoint.target_class, ignore_class=checkpoint.ignore_class,
        region_class=getattr(checkpoint, "region_class", ""),
        resolution_by=checkpoint.resolution_by, apply_icc=checkpoint.apply_icc, detail_mpp=checkpoint.detail_mpp,
        normalisation=checkpoint.normalisation, context_ratio=checkpoint.context_ratio,
        context_px=checkpoint.context_px, context_of=checkpoint.context_of,
    )  # fmt: skip
    device = next(checkpoint.model.parameters()).device
    plan = np.split(np.arange(len(looked_at)), range(batch_size, len(looked_at), batch_size))
    try:
        with contextlib.closing(read_batches(dataset, plan, workers=workers)) as batches:
            counts, _, _ = validate(checkpoint.model, ([t.to(device) for t in batch] for batch in batches))
    finally:
        dataset.close()
    table = looked_at.reset_index(drop=True).assign(false_px=0)
    table.loc[counts[:, 0].numpy(), "false_px"] = counts[:, 2].numpy()
    worst = table[table["false_px"] > 0].sort_values("false_px", ascending=False, kind="stable", ignore_index=True)
    kept = worst.head(max(batch_size, int(MINED_SHARE * len(table))))
    log.info("false alarms in %d of %d tiles without target; the worst %d are mined", len(worst), len(table), len(kept))
    return kept
