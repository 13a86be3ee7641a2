"""Two networks one after the other over a slide: the coarse one's map is the screen of the fine one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tlskit.errors import CheckpointError
from tlskit.maps.inference import predict_row
from tlskit.maps.probmaps import open_map
from tlskit.maps.screening import Screen, make_screen
from tlskit.maps.windows import layout_for
from tlskit.networks import engines

__all__ = ["check_networks", "screens_of"]


def check_networks(coarse, fine) -> None:
    """Refuse two checkpoints that make no cascade.

    Raises
    ------
    CheckpointError
        If the screen's network is not the coarser one, or the two look for different things.
    """
    if coarse.magnification >= fine.magnification:
        raise CheckpointError(
            f"The screen's network is of {coarse.magnification:g}x, the other one of {fine.magnification:g}x: a screen "
            "saves time only where it is the coarser one. Give the two the other way round?"
        )
    for name in ("target_class", "resolution_by"):
        first, second = getattr(coarse, name, None), getattr(fine, name, None)
        if first != second:
            raise CheckpointError(
                f"The two networks differ in `{name}`: the screen's has {first!r}, the other {second!r}."
            )


def screens_of(
    coarse,
    out_dir: str | Path,
    *,
    threshold: float,
    grow_um: float,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    overlap: float | None = None,
    engine_note=None,
    **options,
) -> Callable[[object], Screen]:
    """What `predict_cohort` takes as `screen_for`: predicts a slide by the coarse network when its turn comes.

    Its maps are kept in `out_dir`, and interrupted ones are taken up.

    Parameters
    ----------
    coarse : models.Checkpoint
    out_dir
        For the coarse maps.
    threshold, grow_um
        Of `screening.make_screen`.
    engine, precision, device, threads, overlap, engine_note, options
        Of `inference.predict_cohort`.
    """
    source = engines.EngineSource(
        coarse, engine=engine, precision=precision, window_px=layout_for(coarse, overlap=overlap).window_px,
        device=device, threads=threads, note=engine_note,
    )  # fmt: skip

    def screen_for(row) -> Screen:
        path = Path(out_dir) / f"{row.slide_id}.tif"
        predict_row(coarse, row, path, source, overlap=overlap, **{"progress": False} | options)
        with open_map(path) as found:
            return make_screen(found, threshold=threshold, grow_um=grow_um)

    return screen_for
