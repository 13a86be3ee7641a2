"""Apply a network: to tiles, to a whole slide, to a cohort of slides.

The checkpoint says how it must be applied: um/px, window, overlap, normalisation. None of these is asked for again.
How one slide becomes a map is in `tlskit.maps.slide_inference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tlskit.errors import ParameterError, SlideError
from tlskit.files import disk_full, is_disk_full
from tlskit.maps.context import facts_of
from tlskit.maps.rows import predict_row
from tlskit.maps.slide_inference import STAGES, Prediction, predict_slide, reading_of, source_of
from tlskit.maps.windows import layout_for, typical_windows
from tlskit.networks import engines, inputs
from tlskit.tiles import ahead

__all__ = [
    "STAGES",
    "Prediction",
    "choose_engine",
    "layout_for",
    "predict_cohort",
    "predict_row",
    "predict_slide",
    "predict_tiles",
    "reading_of",
    "typical_windows",
]


def predict_tiles(
    checkpoint,
    tiles: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    batch_size: int = 8,
    workers: int = 2,
    tile_store: str = "slide",
    tiles_dir=None,
    engine="auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Predict the tiles of a table, in its order.

    Parameters
    ----------
    checkpoint : models.Checkpoint
    tiles : DataFrame
        Tile table of `tiling.tile_cohort`, any rows of it.
    manifest : DataFrame
    batch_size, workers : int
        Tiles in a batch; threads that read them (0 reads in between).
    tile_store, tiles_dir
        See `datasets.TileDataset`.
    engine : str or engines.EngineSource
        One of `engines.ENGINES`, or a source that says afterwards what was chosen.
    precision, device, threads
        See `engines.make_engine`.
    progress : bool
        Show a bar.

    Yields
    ------
    index : (B,) int64
        Positions in `tiles`.
    probability : (B, H, W) float32
    truth : (B, H, W) uint8
        1 target, 0 background, `tlskit.outlines.IGNORED` what does not count: it is to be ignored, or lies in a damaged
        part of the slide.
    """
    if len(tiles) == 0:
        return
    dataset = _dataset(checkpoint, tiles, manifest, tile_store, tiles_dir)

    def read(index):
        return index, *_read(dataset, checkpoint, index)

    order = np.arange(len(tiles), dtype=np.int64)
    chunks = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    try:
        source = source_of(
            engine, checkpoint, window_px=checkpoint.tile_px, precision=precision, device=device, threads=threads
        )
        source.set_batch(batch_size)
        made = source.get(read(_spread(order, 0 if source.is_chosen else engines.CHECK_WINDOWS))[1])
        with tqdm(total=len(order), desc="tiles", unit="tile", disable=not progress) as bar:
            for index, windows, truth in ahead(read, chunks, workers=workers):
                yield index, made.predict(windows), truth
                bar.update(len(index))
    finally:
        dataset.close()


def _read(dataset, checkpoint, index) -> tuple[np.ndarray, np.ndarray]:
    """Tiles as windows of an engine (`networks.inputs`), and their masks, ``(B, S, S) uint8``."""
    windows = inputs.room(len(index), checkpoint.tile_px, inputs.context_px_of(checkpoint))
    truth = np.empty((len(index), checkpoint.tile_px, checkpoint.tile_px), np.uint8)
    for place, item in enumerate(index):
        image, mask, *context = dataset.read(int(item))
        for field, pixels in zip(inputs.fields(windows), (image, *context), strict=True):
            field[place] = pixels.permute(1, 2, 0).numpy()
        truth[place] = mask.numpy()
    return windows, truth


def _dataset(checkpoint, tiles, manifest, tile_store, tiles_dir):
    """Tiles read as the checkpoint was trained."""
    from tlskit.tiles import TileDataset

    return TileDataset(
        tiles,
        manifest,
        magnification=checkpoint.magnification,
        tile_px=checkpoint.tile_px,
        target_class=checkpoint.target_class,
        ignore_class=getattr(checkpoint, "ignore_class", ""),
        region_class=getattr(checkpoint, "region_class", ""),
        **reading_of(checkpoint),
        **_context_of(checkpoint),
        tile_store=tile_store,
        tiles_dir=tiles_dir,
        normalisation=checkpoint.normalisation,
    )


def _context_of(checkpoint) -> dict:
    """What a dataset reads with every tile, as the checkpoint was trained; nothing where that was nothing."""
    return {f"context_{name}": value for name, value in facts_of(checkpoint).items()}


def _spread(order: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `order`, evenly spaced."""
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))] if count else order[:0]


def choose_engine(
    checkpoint,
    tiles: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    engine_note,
    n_tiles: int = 32,
    tile_store: str = "slide",
    tiles_dir=None,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> pd.DataFrame:
    """Choose what runs a network from here on, by tiles of validation slides, and note it beside the checkpoint.

    Validation tiles that hold target hold its edges, where probabilities lie near the threshold and a rounding shows.

    Parameters
    ----------
    checkpoint, manifest, tile_store, tiles_dir, engine, precision, device, threads
        See `predict_tiles`.
    tiles : DataFrame
        Validation tiles; `n_tiles` of them, evenly spaced, are compared.
    engine_note : path
        Written: see `engines.EngineSource`, which takes the choice up from there.

    Returns
    -------
    DataFrame
        The ladder, a row a rung that was tried: engine, precision, kept, n_windows, max_dprob, p999_dprob, flipped,
        dice, objects_changed (see `networks.agreement.Agreement`).
    """
    if len(tiles) == 0:
        raise ParameterError("There is no tile to choose an engine by: give validation tiles that hold target.")
    dataset = _dataset(checkpoint, tiles, manifest, tile_store, tiles_dir)
    try:
        picked = _spread(np.arange(len(tiles)), n_tiles)
        windows, _ = _read(dataset, checkpoint, picked)
    finally:
        dataset.close()
    source = engines.EngineSource(
        checkpoint, window_px=checkpoint.tile_px, engine=engine, precision=precision, device=device, threads=threads,
        note=engine_note,
    )  # fmt: skip
    source.get(windows)
    return pd.DataFrame(source.tried)


def predict_cohort(
    checkpoint,
    manifest_rows: Iterable,
    out_dir,
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    overlap: float | None = None,
    engine_note=None,
    screen_for=None,
    on_failure=None,
    turns=None,
    on_map=None,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Predict many slides; their maps are ``<out_dir>/<slide_id>.tif``.

    A map that is there and was made with the same checkpoint, slide and parameters is kept. The engine is made and
    checked once.

    Parameters
    ----------
    checkpoint : models.Checkpoint
    manifest_rows : DataFrame or iterable of its rows
        As of `cohort.read_manifest` and `cohort.slide_rows`.
    out_dir : path
    engine, precision, device, threads, overlap
        See `predict_slide`, which `options` go to as well.
    engine_note : path, optional
        See `engines.EngineSource`.
    screen_for : callable, optional
        Given a row, the `screening.Screen` to look through, or None. The time that it takes is the slide's, too.
    on_failure : callable, optional
        Called with slide_id and exception for a slide that fails; without it the error is raised.
    turns : callable, optional
        Given the rows, and what else decides a map and JSON can mostly hold (``subject`` of the engine, and arguments
        of this function), yields those that are to be predicted here, each when its turn comes: where others predict
        the same slides. By default all of them.
    on_map : callable, optional
        Called with the row of the table as soon as there is a map; what it raises is a failure of the slide.
    progress : bool
        Show a bar with the slides and, by what the slides so far held, the tissue that is left.

    Returns
    -------
    DataFrame
        One row a slide that has a map, in the order of `manifest_rows`: slide_id, map_path, kept (True where the map
        was there, or another process made it), wall_s, windows, windows_skipped, windows_screened, tissue_mm2, engine,
        precision, max_dprob, level, reader, n_lost, invalid_px, and the stages as ``<stage>_s``. Of a kept map, times
        are nan.
    """
    from tlskit.cohort import slide_rows

    manifest_rows = list(slide_rows(manifest_rows) if isinstance(manifest_rows, pd.DataFrame) else manifest_rows)
    out_dir = Path(out_dir)
    source = engines.EngineSource(
        checkpoint, engine=engine, precision=precision, window_px=layout_for(checkpoint, overlap=overlap).window_px,
        device=device, threads=threads, note=engine_note,
    )  # fmt: skip
    shared = {"overlap": overlap, "progress": False, **options}
    order = {row.slide_id: place for place, row in enumerate(manifest_rows)}
    rows: list[dict] = []
    failed: dict[str, Exception] = {}
    taken = manifest_rows
    if turns:
        asked = {"engine": engine, "precision": precision, "device": device, "threads": threads, "overlap": overlap}
        taken = turns(manifest_rows, {"subject": source.subject(), **asked, **options})
    with tqdm(total=len(manifest_rows), desc="slides", unit="slide", disable=not progress) as bar:
        for number, row in enumerate(taken):
            path = out_dir / f"{row.slide_id}.tif"
            try:
                found = predict_row(checkpoint, row, path, source, screen_for=screen_for, **shared)
                if on_map is not None:
                    on_map(found)
                rows.append(found)
            except Exception as error:  # one bad slide never ends a cohort, whatever a reader or a runtime throws
                if is_disk_full(error):
                    raise disk_full(path) from error
                if on_failure is None:
                    raise
                failed[row.slide_id] = error
                on_failure(row.slide_id, error)
            bar.update()
            if rows:
                left = np.mean([one["tissue_mm2"] for one in rows]) * (len(manifest_rows) - number - 1) / 100.0
                bar.set_postfix_str(f"about {left:.1f} cm2 of tissue left")
    if failed and not rows:
        slide_id, error = next(iter(failed.items()))
        raise SlideError(
            f"None of {len(failed)} slides could be predicted. The first one, {slide_id}: {error}"
        ) from error
    return pd.DataFrame(sorted(rows, key=lambda row: order[row["slide_id"]]))
