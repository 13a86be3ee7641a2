"""Which pieces of the slides a network sees, and in which batches.

In: the cohort and a magnification. Out: the tile table (one row a tile, level-0 pixels, shares of tissue and target),
tiles as ``(H, W, 3) uint8`` with masks, batches read ahead of their use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batching": ["ahead", "cores_each", "epoch_batches", "read_batches"],
        "context": ["CONTEXT_OF", "RATIOS", "context_faults", "context_origin", "other_windows", "own_field_only"],
        "drawing": ["AS_THEY_COME", "Drawing", "plan_drawing"],
        "datasets": ["TileDataset"],
        "normalisation": ["check_normalisation", "normalise"],
        "reach": ["largest_target_fraction", "needed_of_tiles"],
        "summary": ["tiling_summary"],
        "tiling": ["of_use", "scored_by", "tile_cohort"],
    },
)
