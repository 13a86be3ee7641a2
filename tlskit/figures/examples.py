"""Which tiles and slides are shown as examples: tables in, rows out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tlskit.figures import style

__all__ = ["example_slides", "extreme_tiles", "spread_tiles"]


def spread_tiles(tiles: pd.DataFrame, n_tiles: int, *, by: str = "target_fraction") -> pd.DataFrame:
    """`n_tiles` rows at even steps of the column `by`, from its lowest to its highest value."""
    ordered = tiles.sort_values([by, "tile_id"], kind="stable")
    places = np.unique(np.linspace(0, len(ordered) - 1, min(n_tiles, len(ordered))).round().astype(int))
    return ordered.iloc[places]


def extreme_tiles(tiles: pd.DataFrame, counts: pd.DataFrame, *, n_tiles: int = 4) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tiles with the lowest and with the highest IoU, at most one of each slide until slides run out.

    Parameters
    ----------
    tiles, counts
        Tile table, and the counts of the same tiles (``tile_id, tp, fp, fn``).

    Returns
    -------
    tuple of DataFrame
        Worst and best rows of `tiles`, `n_tiles` each.
    """
    scored = counts.drop_duplicates("tile_id").set_index("tile_id")
    iou = scored["tp"] / (scored["tp"] + scored["fp"] + scored["fn"]).clip(lower=1)
    ordered = tiles.assign(_iou=tiles["tile_id"].map(iou)).sort_values(["_iou", "tile_id"], kind="stable")

    def first(table: pd.DataFrame) -> pd.DataFrame:
        # Neighbouring tiles overlap by half: one of a slide shows as much as four.
        rank = table.groupby("slide_id", sort=False).cumcount()
        return table.assign(_rank=rank).sort_values("_rank", kind="stable").head(n_tiles)

    return tuple(first(table).drop(columns=["_iou", "_rank"]) for table in (ordered, ordered.iloc[::-1]))


def example_slides(per_slide: pd.DataFrame, maps: pd.DataFrame, *, by: str = "dice") -> pd.DataFrame:
    """The slides with the highest, the median and the lowest score: rows for `slide_overlays`.

    Parameters
    ----------
    per_slide
        One row a slide: ``slide_id``, ``split`` where there is one, and the score `by`; slides where it is undefined
        (no target and no prediction) are passed over.
    maps
        ``slide_id`` and ``map_path``.

    Returns
    -------
    DataFrame
        ``slide_id, map_path, title``; fewer than three rows where there are fewer slides.
    """
    ordered = per_slide.dropna(subset=[by]).sort_values([by, "slide_id"], ascending=[False, True])
    ordered = ordered.merge(maps[["slide_id", "map_path"]], on="slide_id")
    n = len(ordered)
    wanted = {0: "best", (n - 1) // 2: "median", n - 1: "worst"} if n >= 3 else dict(enumerate(["best", "worst"][:n]))
    chosen = ordered.iloc[list(wanted)]
    scores = f"\n{style.score_name(by)} " + chosen[by].map("{:.2f}".format)
    titles = pd.Series(list(wanted.values()), chosen.index, dtype=object) + ": " + chosen["slide_id"] + scores
    return chosen[["slide_id", "map_path"]].assign(title=titles).reset_index(drop=True)
