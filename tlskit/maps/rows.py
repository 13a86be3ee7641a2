"""The map of one row of a manifest, and what a table says of it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from tlskit.errors import MapError, OutOfMemoryError
from tlskit.maps.probmaps import open_map
from tlskit.maps.slide_inference import Prediction, map_metadata, predict_slide, reading_of
from tlskit.maps.windows import layout_for
from tlskit.networks import hardware
from tlskit.slides import searched_once

__all__ = ["kept_map", "predict_row", "with_less_memory"]

log = logging.getLogger(__name__)


@searched_once()
def predict_row(checkpoint, row, path, source, *, screen_for=None, overlap: float | None = None, **options) -> dict:
    """The map of one row of a manifest, kept where it is what would be made: a row of `predict_cohort`'s table.

    Parameters
    ----------
    source : engines.EngineSource
    screen_for
        Of `predict_cohort`.
    path, overlap, options
        Of `predict_slide`. Tissue that both networks of a cascade look through is searched once.
    """
    from tlskit.cohort import open_row

    layout, start = layout_for(checkpoint, overlap=overlap), time.perf_counter()
    screen = screen_for(row) if screen_for else None
    screened = time.perf_counter()
    with open_row(row, **reading_of(checkpoint)) as slide:
        open_s = time.perf_counter() - screened
        expected = map_metadata(checkpoint, slide, row.slide_id, layout, options.get("tissue"), source.asked, screen)
        found = kept_map(Path(path), expected)
        if found is None:
            try:
                made = with_less_memory(
                    predict_slide, checkpoint, slide, path, slide_id=row.slide_id, engine=source, screen=screen,
                    overlap=overlap, **options,
                )  # fmt: skip
            except MapError:
                # Two may be at one slide, where one was held up so long that its claim was taken over: the other has
                # ended it.
                if (found := kept_map(Path(path), expected)) is None:
                    raise
                return found
            found = _row(made)
            found["wall_s"] += open_s + screened - start
            found["open_s"] += open_s
            if screen_for:
                found["screen_s"] = screened - start
    return found


def with_less_memory(predict, *args, batch_size: int = 8, **options):
    """What `predict` returns; where memory runs out, it is called once more with half the batch.

    Raises
    ------
    OutOfMemoryError
        If there is not enough for that, either; it says what takes less.
    """
    for size in (batch_size, max(1, batch_size // 2)):
        try:
            return predict(*args, batch_size=size, **options)
        except Exception as error:
            if not hardware.is_out_of_memory(error):
                raise
            hardware.free_memory()
            log.warning("Memory ran out at a batch of %d windows (%s)", size, str(error).splitlines()[0])
            last = error
    raise OutOfMemoryError(
        f"There is not enough memory for this slide, even at a batch of {size} windows. Give a smaller `batch_size`, "
        "end other programs that hold memory (of the GPU, where one is used), or ask the scheduler for more; then run "
        "the same command again: it goes on with this slide."
    ) from last


def _row(prediction: Prediction) -> dict:
    """A prediction as a row of a table."""
    if prediction.lost:
        log.warning(
            "%s: %d region(s) could not be read; %d px of its map are marked invalid",
            prediction.slide_id, len(prediction.lost), prediction.invalid_px,
        )  # fmt: skip
    names = (
        "wall_s", "windows", "windows_skipped", "windows_screened", "tissue_mm2", "engine", "precision", "max_dprob",
        "level", "reader", "invalid_px", "compile_s", "compile_loaded", "check_s",
    )  # fmt: skip
    return {
        "slide_id": prediction.slide_id,
        "map_path": str(prediction.path),
        "kept": False,
        **{name: getattr(prediction, name) for name in names},
        "n_lost": len(prediction.lost),
        **{f"{stage}_s": seconds for stage, seconds in prediction.stage_s.items()},
    }


def kept_map(path: Path, expected: dict) -> dict | None:
    """The row of a map that is there already and is what would be made; None where there is no such map."""
    if not path.exists():
        return None
    try:
        with open_map(path) as found:
            metadata = found.metadata
    except MapError as error:
        log.warning("%s (It is made again.)", error)
        return None
    if any(metadata.get(name) != value for name, value in expected.items()):
        log.info("%s was made with other settings; it is made again", path.name)
        return None
    return {
        "slide_id": metadata["slide_id"],
        "map_path": str(path),
        "kept": True,
        "wall_s": float("nan"),
        **{name: metadata[name] for name in ("windows", "windows_skipped")},
        "windows_screened": metadata.get("windows_screened", 0),
        **{name: metadata[name] for name in ("tissue_mm2", "engine", "precision")},
        "max_dprob": float("nan"),
        **{name: metadata[name] for name in ("level", "reader")},
        "invalid_px": sum(w * h for _, _, w, h in metadata["invalid"]),
        "n_lost": len(metadata["lost"]),
    }
