"""Cut a cohort into tiles: which tiles there are, how much tissue and target each holds, which are kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import shapely
from tqdm.auto import tqdm

from tlskit import units
from tlskit.cohort import open_row, slide_rows
from tlskit.errors import ParameterError, TlskitError
from tlskit.outlines import Truth, rasterise, read_truth
from tlskit.slides import Slide, covered_strips, tissue_mask
from tlskit.tiles.context import context_faults
from tlskit.tiles.storing import read_all, read_contexts, what_is_lost

__all__ = [
    "SLIDE_COLUMNS",
    "TILE_COLUMNS",
    "USES",
    "Tiling",
    "of_use",
    "scored_by",
    "target_fractions",
    "tile_cohort",
    "tile_grid",
    "tile_name",
]

#: Columns of the tile table, one row a kept tile.
TILE_COLUMNS = {
    "tile_id": "str",
    "slide_id": "str",
    "patient_id": "str",
    "cancer_type": "str",
    "x_px0": "float64",
    "y_px0": "float64",
    "size_px0": "float64",
    "level": "int64",
    "tissue_fraction": "float64",
    "target_fraction": "float64",
    "use": "str",
}

#: What a tile is for. Scored are the tiles that hold target, by this one rule in every arm; ``both`` means that a
#: training patient's tile is also trained on. What else an arm trains on (``train``) is never scored as a tile.
USES = ("both", "train", "score")

#: Columns of the table of slides, one row a slide that was tiled.
SLIDE_COLUMNS = (
    "slide_id", "patient_id", "cancer_type", "grid_tiles", "kept_tiles", "dropped_no_tissue", "dropped_no_target",
    "dropped_ignored", "dropped_edge", "dropped_lost", "n_targets", "target_mm2", "tissue_mm2", "mpp0", "mpp_source",
    "level", "reader", "width_px0", "height_px0", "seconds", "outlines_told",
)  # fmt: skip


class Tiling(NamedTuple):
    """Result of `tile_cohort`: a table of kept tiles and a table of slides (`TILE_COLUMNS`, `SLIDE_COLUMNS`)."""

    tiles: pd.DataFrame
    slides: pd.DataFrame


def tile_grid(size_px: tuple[int, int], tile_px: int, *, overlap: float, edge_tiles: str = "drop") -> np.ndarray:
    """Top-left corners of a regular grid of square tiles.

    Parameters
    ----------
    size_px : (width, height)
        Slide on the working lattice.
    tile_px : int
        Side of a tile.
    overlap : float
        Fraction of a tile's side shared with its neighbour, 0 to below 1; the stride is
        ``round(tile_px * (1 - overlap))``, at least 1.
    edge_tiles : "drop" or "pad"
        Drop tiles that reach over the right or bottom edge, or go on until everything is covered.

    Returns
    -------
    (N, 2) int64
        x and y in working pixels, row by row. Empty if the slide is smaller than a tile and edges are dropped.
    """
    if int(tile_px) != tile_px or tile_px < 1:
        raise ParameterError(f"tile_px must be a whole number of pixels, 1 or more, not {tile_px!r}.")
    if not 0 <= overlap < 1:
        raise ParameterError(f"overlap must be a fraction of the tile, 0 or more and below 1, not {overlap!r}.")
    if edge_tiles not in ("drop", "pad"):
        raise ParameterError(f'edge_tiles must be "drop" or "pad", not {edge_tiles!r}.')
    tile_px = int(tile_px)
    stride = max(1, round(tile_px * (1 - overlap)))
    counts = []
    for side in size_px:
        over = side - tile_px
        if edge_tiles == "drop":
            counts.append(over // stride + 1 if over >= 0 else 0)
        else:
            counts.append(max(0, -(-over // stride)) + 1)
    x, y = np.meshgrid(np.arange(counts[0]) * stride, np.arange(counts[1]) * stride)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)


def of_use(tiles: pd.DataFrame, use: str) -> pd.DataFrame:
    """Rows of a tile table that are there to be trained on (``train``) or scored (``score``), numbered anew.

    Raises
    ------
    ParameterError
        If the table does not say what its tiles are for.
    """
    if use not in ("train", "score"):
        raise ParameterError(f'A tile is there to "train" or to "score", not to {use!r}.')
    if "use" not in tiles:
        raise ParameterError("The tile table has no column `use`, so what may be scored is not known: run 01_tiling.")
    return tiles[tiles["use"].isin(["both", use])].reset_index(drop=True)


def scored_by(*, overlap: float, edge_tiles: str) -> str:
    """The rule by which tiles are scored, in words for the record: arms are compared only where it is the same."""
    return f"tiles that hold target, overlapping by {overlap:g}, at the edge: {edge_tiles}"


def tile_name(slide_id: str, d: float, x_px: int, y_px: int, tile_px: int) -> str:
    """Name of a tile as in the paper's files: ``<slide_id>_(<downsample>,<x>,<y>,<w>,<h>)`` in level-0 pixels."""
    side = round(tile_px * d)
    return f"{slide_id}_({d:g},{round(x_px * d)},{round(y_px * d)},{side},{side})"


def target_fractions(polygons: list, xy_px: np.ndarray, tile_px: int, *, mpp: float, mpp0: float) -> np.ndarray:
    """Fraction of each tile's pixels whose centre lies in a polygon, exact on the working lattice; (N,) float64.

    Only the neighbourhood of polygons is drawn, each pixel of it once however much tiles overlap.
    """
    counts = np.zeros(len(xy_px), np.int64)
    if not len(polygons) or not len(xy_px):
        return counts / tile_px**2
    d = mpp / mpp0
    tree = shapely.STRtree(polygons)
    low = xy_px * d
    boxes = shapely.box(low[:, 0], low[:, 1], low[:, 0] + tile_px * d, low[:, 1] + tile_px * d)
    near = np.unique(tree.query(boxes, predicate="intersects")[0])
    if not len(near):
        return counts / tile_px**2
    near = near[np.lexsort((xy_px[near, 0], xy_px[near, 1]))]
    x, y = xy_px[near].T
    for top, bottom, spans in covered_strips(xy_px[near], tile_px):
        first, last = np.searchsorted(y, top - tile_px, side="right"), np.searchsorted(y, top, side="right")
        for left, right in spans:
            touched = tree.query(shapely.box(left * d, top * d, right * d, bottom * d))
            if not len(touched):
                continue
            mask = rasterise(
                [polygons[i] for i in touched],
                x_px=left,
                y_px=top,
                width_px=right - left,
                height_px=bottom - top,
                mpp=mpp,
                mpp0=mpp0,
            )
            total = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=0))])
            here = np.arange(first, last)[(x[first:last] >= left) & (x[first:last] + tile_px <= right)]
            counts[near[here]] += total[x[here] + tile_px - left] - total[x[here] - left]
    return counts / tile_px**2


def tile_cohort(
    manifest: pd.DataFrame,
    *,
    magnification: float,
    tile_px: int,
    overlap: float = 0.5,
    edge_tiles: str = "drop",
    target_class: str | list[str],
    ignore_class: str | list[str] | None = None,
    region_class: str | list[str] | None = None,
    keep_tiles: str = "target",
    min_tissue: float = 0.1,
    resolution_by: str = "mpp",
    apply_icc: bool = False,
    missing_target: str = "error",
    tile_store: str = "slide",
    tiles_dir: str | Path | None = None,
    context_ratio: int = 0,
    context_px: int = 256,
    workers: int = 2,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> Tiling:
    """Tile every slide of a cohort at one magnification.

    Parameters
    ----------
    manifest : DataFrame
        Of `cohort.read_manifest`.
    magnification : float
        Tiles are cut at 10 / magnification um/px.
    tile_px, overlap, edge_tiles
        The grid, see `tile_grid`.
    target_class : str or list of str
        Class of the outlines that are the target.
    ignore_class : str or list of str, optional
        Class of the outlines whose area counts neither as target nor as background, see `truth.read_truth`.
    region_class : str or list of str, optional
        Class of the regions that were looked through wholly: elsewhere only the target counts, see `truth.read_truth`.
    keep_tiles : "target" or "tissue"
        Keep tiles with at least one target pixel; or those, and all with at least `min_tissue` of tissue. The latter
        are for training alone: ``use`` of the table says so, and `of_use` picks rows by it.
    min_tissue : float
        Smallest fraction of a tile that counts as tissue.
    resolution_by, apply_icc, missing_target
        See `slides.open_slide` and `truth.read_truth`.
    tile_store : "slide" or "png"
        Leave pixels in the slides (the table is all that is needed), or also write each tile and its mask as
        ``<tile_id>.png`` and ``<tile_id>-mask.png`` under ``tiles_dir/<slide_id>/``. Both give identical pixels, and
        both read every kept tile once: those that cannot be read are left out here and not met in training.
    context_ratio, context_px : int
        Of the networks that are to be trained on these tiles, see `context_origin`; 0: they see tiles alone. Contexts
        are read and written with their tiles, as ``<tile_id>-context.png`` and ``<tile_id>-context-mask.png``; a tile
        whose context cannot be read is left out.
    workers : int
        Slides tiled at the same time.
    on_failure : callable (slide_id, exception), optional
        Called for a slide that cannot be tiled, which is then left out; without it the error is raised. Also called
        for a slide with tiles that cannot be read (``dropped_lost``): only they are left out.

    Returns
    -------
    Tiling
        Tiles are in the manifest's order of slides, row by row within a slide. A tile of which every pixel is ignored
        is not kept (``dropped_ignored``). ``outlines_told`` is what of a slide's outlines is not used, and why.
    """
    if keep_tiles not in ("target", "tissue"):
        raise ParameterError(f'keep_tiles must be "target" or "tissue", not {keep_tiles!r}.')
    if tile_store not in ("slide", "png"):
        raise ParameterError(f'tile_store must be "slide" or "png", not {tile_store!r}.')
    if tile_store == "png" and tiles_dir is None:
        raise ParameterError('tile_store "png" needs tiles_dir, the folder to write the tiles into.')
    tile_grid((tile_px, tile_px), tile_px, overlap=overlap, edge_tiles=edge_tiles)  # refuse bad values before work
    if faults := context_faults(tile_px, context_px, context_ratio):
        raise ParameterError(". ".join(faults) + ".")
    mpp = units.mpp_for_magnification(magnification)
    stop = threading.Event()
    progress = _Progress(len(manifest), f"tiling {units.magnification_name(magnification)}")

    def work(row):
        if stop.is_set():
            return None
        start = time.perf_counter()
        with open_row(row, resolution_by=resolution_by, apply_icc=apply_icc) as slide:
            truth = read_truth(
                row, slide, target_class, ignore_class=ignore_class, region_class=region_class, missing=missing_target
            )
            tiles, facts = _tile_slide(slide, row, truth, mpp, tile_px, overlap, edge_tiles, keep_tiles, min_tissue)
            folder = Path(tiles_dir) / row.slide_id if tile_store == "png" else None
            kept = read_all(slide, tiles, truth, folder, mpp=mpp, tile_px=tile_px, on_tile=progress.tile_done)
            if context_ratio:
                wide = {"context_px": context_px, "ratio": context_ratio}
                kept &= read_contexts(slide, tiles, truth, folder, mpp=mpp, tile_px=tile_px, **wide)
            facts |= {"dropped_lost": int((~kept).sum()), "kept_tiles": int(kept.sum())}
            loss = None if kept.all() else what_is_lost(slide, kept, [mpp, max(1, context_ratio) * mpp])
        return tiles[kept], facts | {"seconds": time.perf_counter() - start}, loss

    tables, facts = [], []
    with progress, ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            pending = [(row, pool.submit(work, row)) for row in slide_rows(manifest)]
            for row, future in pending:
                try:
                    tiles, fact, loss = future.result()
                except (TlskitError, OSError) as error:
                    if on_failure is None:
                        raise
                    on_failure(row.slide_id, error)
                    progress.slide_done()
                else:
                    tables.append(tiles)
                    facts.append(fact)
                    if loss is not None and on_failure is not None:
                        on_failure(row.slide_id, loss)
                    progress.slide_done()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    columns = {name: pd.Series(dtype=kind if kind != "str" else object) for name, kind in TILE_COLUMNS.items()}
    tiles = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns)
    return Tiling(tiles, pd.DataFrame(facts, columns=list(SLIDE_COLUMNS)))


def _tile_slide(slide: Slide, row, truth: Truth, mpp, tile_px, overlap, edge_tiles, keep_tiles, min_tissue):
    """Tile table and facts of one slide, from outlines and the small picture that the tissue mask is made of."""
    polygons = truth.polygons
    size_px = slide.size_px(mpp)
    d = units.downsample(mpp, slide.mpp0)
    level = slide.level_for(mpp)
    xy = tile_grid(size_px, tile_px, overlap=overlap, edge_tiles=edge_tiles)
    all_tiles = len(tile_grid(size_px, tile_px, overlap=overlap, edge_tiles="pad"))
    tissue = tissue_mask(slide)
    x0, y0 = (xy * d).T
    tissue_fraction = tissue.fractions(x0, y0, tile_px * d)
    target_fraction = target_fractions(polygons, xy, tile_px, mpp=mpp, mpp0=slide.mpp0)
    has_tissue, has_target = tissue_fraction >= min_tissue, target_fraction > 0
    wanted = has_target if keep_tiles == "target" else has_target | has_tissue
    ignored_fraction = target_fractions(truth.ignored, xy, tile_px, mpp=mpp, mpp0=slide.mpp0)
    kept = wanted & (ignored_fraction < 1)
    tiles = pd.DataFrame(
        {
            "tile_id": [tile_name(row.slide_id, d, x, y, tile_px) for x, y in xy[kept].tolist()],
            "slide_id": row.slide_id,
            "patient_id": row.patient_id,
            "cancer_type": row.cancer_type,
            "x_px0": x0[kept],
            "y_px0": y0[kept],
            "size_px0": tile_px * d,
            "level": level,
            "tissue_fraction": tissue_fraction[kept],
            "target_fraction": target_fraction[kept],
            "use": np.where(has_target[kept], "both", "train"),
        }
    ).astype({name: kind for name, kind in TILE_COLUMNS.items() if kind != "str"})
    target_px0 = shapely.unary_union(polygons).area if len(polygons) else 0.0
    facts = {
        "slide_id": row.slide_id,
        "patient_id": row.patient_id,
        "cancer_type": row.cancer_type,
        "grid_tiles": len(xy),
        "kept_tiles": int(kept.sum()),
        "dropped_no_tissue": int((~wanted & ~has_tissue).sum()),
        "dropped_no_target": int((~wanted & has_tissue).sum()),
        "dropped_ignored": int((wanted & ~kept).sum()),
        "dropped_edge": all_tiles - len(xy),
        "dropped_lost": 0,
        "n_targets": len(polygons),
        "target_mm2": units.area_mm2(target_px0, slide.mpp0),
        "tissue_mm2": tissue.area_mm2,
        "mpp0": slide.mpp0,
        "mpp_source": slide.mpp_source,
        "level": level,
        "reader": slide.reader_for(mpp),
        "width_px0": slide.size_px0[0],
        "height_px0": slide.size_px0[1],
        "outlines_told": " ".join(told.what for told in truth.told),
    }
    return tiles, facts


class _Progress:
    """One bar over slides, with tiles read so far and their megapixels a second; fed from several threads."""

    def __init__(self, n_slides: int, name: str):
        self.bar = tqdm(total=n_slides, desc=name, unit="slide")
        self.lock = threading.Lock()
        self.start = self.shown = time.perf_counter()
        self.tiles = self.px = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def tile_done(self, px: int) -> None:
        with self.lock:
            self.tiles += 1
            self.px += px
            if time.perf_counter() - self.shown > 0.5:
                self._show()
                self.bar.refresh()

    def slide_done(self) -> None:
        with self.lock:
            self._show()
            self.bar.update(1)

    def _show(self) -> None:
        self.shown = time.perf_counter()
        shown = {"tiles": self.tiles}
        if self.px:
            shown["MPix/s"] = f"{self.px / 1e6 / (time.perf_counter() - self.start):.1f}"
        self.bar.set_postfix(shown, refresh=False)
