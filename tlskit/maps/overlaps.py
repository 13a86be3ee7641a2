"""One pass of a network over a slide, and of it the maps of several overlaps of its windows.

Windows that several overlaps share are run once: those of no overlap are among those of a half, and so is every fourth
of a quarter's. Each map is to the last byte what `predict_slide` makes at that overlap.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tlskit.cohort import open_row, slide_rows
from tlskit.errors import ParameterError, RunError, SlideError
from tlskit.files import is_disk_full, temporary_beside, write_text
from tlskit.maps import blending, streaming
from tlskit.maps.blender import Blender
from tlskit.maps.blending import Layout
from tlskit.maps.context import slide_context
from tlskit.maps.map_writer import MapWriter
from tlskit.maps.rows import kept_map, predict_row, with_less_memory
from tlskit.maps.slide_inference import BLOCK_PX, STRIP_PX, EngineChoice, map_metadata, reading_of
from tlskit.maps.windows import layout_for, made_of, plan_windows, windows_key
from tlskit.networks import engines, hardware
from tlskit.slides import searched_once, tissue_mask

__all__ = ["OVERLAPS", "map_overlaps", "noted_overlap", "predict_overlaps", "write_overlap"]

#: What is compared. The last one is the densest: as the study's tiles overlap, and what the others are held to.
OVERLAPS = (0.0, 0.25, 0.5)


class _Part(NamedTuple):
    """One of the maps: its windows are every `step`-th of the lattice that all windows lie on."""

    step: int
    on_tissue: np.ndarray
    progress: streaming.Progress
    writer: MapWriter
    blender: Blender


class _Parts(contextlib.ExitStack):
    """Gives each map those windows of a batch that are its own."""

    def __init__(self, parts: list[_Part]):
        super().__init__()
        self.parts, self.planned = parts, [part.progress.run.copy() for part in parts]

    def __enter__(self) -> _Parts:
        for part in self.parts:
            self.enter_context(part.blender)
        return super().__enter__()

    def take(self, batch: streaming.Batch, probability: np.ndarray | None) -> None:
        for part, planned in zip(self.parts, self.planned, strict=True):

            def own(row: int, column: int, step: int = part.step, planned: np.ndarray = planned) -> tuple | None:
                at = (row // step, column // step)
                whole = row % step == column % step == 0 and at[0] < len(planned) and at[1] < planned.shape[1]
                return at if whole and planned[at] else None

            found = [(n, strip, own(*place)) for n, (strip, *place) in enumerate(batch.places)]
            found = [one for one in found if one[2]]
            lost = [at for at in (own(*place) for place in batch.lost) if at]
            picked = probability[[n for n, _, _ in found]] if found else None
            part.blender.take(streaming.Batch(None, [(strip, *at) for _, strip, at in found], lost), picked)


def predict_overlaps(
    checkpoint,
    slide,
    paths: Mapping[float, str | Path],
    source: engines.EngineSource,
    *,
    slide_id: str,
    batch_size: int = 8,
    tissue=None,
    strip_px: int = STRIP_PX,
) -> int:
    """Predict one slide in one pass, and write its map for each of several overlaps.

    An interrupted pass is begun anew. Memory does not grow with the slide, but with the number of maps.

    Parameters
    ----------
    checkpoint, slide, slide_id, batch_size, tissue, strip_px
        Of `predict_slide`.
    paths
        The map of each overlap; overlaps are whole quarters below 1. Nobody else may be writing them.
    source
        Of an engine for such windows.

    Returns
    -------
    int
        Windows of the pass.

    Raises
    ------
    ParameterError
        If an overlap is not whole quarters, or the network is shown the context of another window: which one that is
        depends on all windows of its map.
    """
    side = int(checkpoint.tile_px)
    if any(overlap * 4 % 1 for overlap in paths) or side % 4:
        raise ParameterError(f"Overlaps that share windows are whole quarters, not {', '.join(map(str, paths))}.")
    if not _shares_windows(checkpoint):
        raise ParameterError("With `context_of: other` maps of several overlaps share no windows.")
    clock, size_px, mpp = streaming.Clock(), tuple(slide.size_px(checkpoint.mpp)), checkpoint.mpp
    layouts = {overlap: layout_for(checkpoint, overlap=overlap) for overlap in paths}
    lattice = Layout(side, math.gcd(*(layout.stride_px for layout in layouts.values())), np.ones(side))
    # Strips begin at the same pixels in all maps, so that each sees its windows in the order of its own strips.
    together = math.lcm(*(layout.stride_px for layout in layouts.values()))
    strip_px = together * math.ceil(max(strip_px, BLOCK_PX) / together)
    tissue = tissue_mask(slide) if tissue is None else tissue
    parts: list[_Part] = []
    # The last window of an overlap may begin where the lattice, which is denser, would have ended before.
    wide = tuple(length + side for length in size_px)
    planned = np.zeros([len(lattice.starts(length)) for length in wide[::-1]], bool)
    with contextlib.ExitStack() as opened:
        for overlap, layout in layouts.items():
            on_tissue, tissue_mm2 = plan_windows(slide, layout, size_px, mpp, tissue)
            step = layout.stride_px // lattice.stride_px
            every = planned[::step, ::step]
            every[: on_tissue.shape[0], : on_tissue.shape[1]] |= on_tissue
            metadata = map_metadata(checkpoint, slide, slide_id, layout, tissue, source.asked) | windows_key(on_tissue)
            writer = opened.enter_context(
                MapWriter(paths[overlap], size_px, mpp=mpp, block_px=BLOCK_PX, metadata=metadata)
            )
            strips = blending.strips(size_px, layout, strip_px=strip_px, block_px=BLOCK_PX)
            progress = streaming.Progress(on_tissue.copy())
            parts.append(_Part(step, on_tissue, progress, writer, Blender(writer, strips, progress, clock=clock)))
        source.set_batch(batch_size)
        choice, context = EngineChoice(source, parts[0].writer), slide_context(checkpoint, slide, lattice, planned)
        if planned.any():
            densest, windows = layouts[max(paths)], parts[list(paths).index(max(paths))].on_tissue
            choice.make(slide, densest, mpp, windows, slide_context(checkpoint, slide, densest, windows))
        beside = hardware.threads_beside(choice.device)
        for part in parts:
            part.writer.threads = beside["writers"]
        streaming.stream(
            slide, choice, None, blending.strips(wide, lattice, strip_px=strip_px, block_px=BLOCK_PX), lattice,
            streaming.Progress(planned), mpp=mpp, batch_size=batch_size, clock=clock, context=context,
            readers=beside["readers"], blender=_Parts(parts),
        )  # fmt: skip
        for layout, part in zip(layouts.values(), parts, strict=True):
            run, on_tissue = part.progress.run, part.on_tissue
            if on_tissue.any() and not run.any():
                raise SlideError(f"{slide.path}: none of {on_tissue.sum()} windows could be read.")
            part.writer.metadata.update(
                made_of(slide, layout, size_px, on_tissue, on_tissue, run), engine=choice.name,
                precision=choice.precision, tissue_mm2=tissue_mm2, level=slide.level_for(mpp),
            )  # fmt: skip
    return int(planned.sum())


def _shares_windows(checkpoint) -> bool:
    """Whether a window is the same in maps of several overlaps: not so beside the context of another window."""
    return not (getattr(checkpoint, "context_ratio", 0) and getattr(checkpoint, "context_of", "") == "other")


def map_overlaps(
    checkpoint,
    manifest_rows: Iterable,
    out_dir: str | Path,
    *,
    overlaps: Sequence[float] = OVERLAPS,
    batch_size: int = 8,
    engine_note=None,
    on_failure: Callable | None = None,
    **how,
) -> pd.DataFrame:
    """Maps of several overlaps of a few slides, each slide in one pass: ``<out_dir>/<overlap>/<slide_id>.tif``.

    Maps that an earlier call made are kept. Two who call it at once for one folder do the work twice, and harm nothing.

    Parameters
    ----------
    checkpoint, manifest_rows, batch_size, engine_note, on_failure
        Of `inference.predict_cohort`.
    how
        engine, precision, device, threads of `inference.predict_cohort`.

    Returns
    -------
    DataFrame
        A row a slide and overlap: slide_id, overlap, map_path, windows, tissue_mm2, engine, precision.
    """
    window_px = int(checkpoint.tile_px)
    source = engines.EngineSource(checkpoint, window_px=window_px, note=engine_note, **how)
    if isinstance(manifest_rows, pd.DataFrame):
        manifest_rows = slide_rows(manifest_rows)
    rows = []
    for row in tqdm(list(manifest_rows), desc="overlaps", unit="slide"):
        paths = {overlap: Path(out_dir) / f"{overlap:g}" / f"{row.slide_id}.tif" for overlap in overlaps}
        try:
            made = _maps_of(checkpoint, row, paths, source, batch_size)
        except Exception as error:  # as in a cohort: one bad slide ends nothing
            if on_failure is None or is_disk_full(error):
                raise
            on_failure(row.slide_id, error)
            continue
        names = ("slide_id", "map_path", "windows", "tissue_mm2", "engine", "precision")
        rows += [{"overlap": overlap} | {name: one[name] for name in names} for overlap, one in made.items()]
    names = ["slide_id", "overlap", "map_path", "windows", "tissue_mm2", "engine", "precision"]
    return pd.DataFrame(rows, columns=names)


@searched_once()
def _maps_of(checkpoint, row, paths: Mapping[float, Path], source, batch_size: int) -> dict[float, dict]:
    """The maps of one slide, those that are there kept: rows as of `rows.predict_row` by overlap."""
    if not _shares_windows(checkpoint):
        options = {"batch_size": batch_size, "progress": False}
        return {at: predict_row(checkpoint, row, path, source, overlap=at, **options) for at, path in paths.items()}
    with open_row(row, **reading_of(checkpoint)) as slide:

        def kept() -> dict:
            asked = {at: layout_for(checkpoint, overlap=at) for at in paths}
            found = {at: map_metadata(checkpoint, slide, row.slide_id, asked[at], None, source.asked) for at in paths}
            return {at: kept_map(path, found[at]) for at, path in paths.items()}

        if None in kept().values():
            # In a folder of its own: nobody else is writing there, and what a kill leaves is known by its name.
            folder = temporary_beside(next(iter(paths.values())).parent.parent / row.slide_id)
            try:
                being_made = {at: folder / f"{at:g}.tif" for at in paths}
                with_less_memory(
                    predict_overlaps, checkpoint, slide, being_made, source, slide_id=row.slide_id,
                    batch_size=batch_size,
                )  # fmt: skip
                for at, path in paths.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    being_made[at].replace(path)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return kept()


def write_overlap(path: str | Path, overlap: float, *, asked: float | str, reason: str, checkpoint) -> None:
    """Note the overlap that a network's maps are made with, for all who run it: ``overlap.json`` beside it."""
    values = {"window_overlap": overlap, "asked": asked, "reason": reason, "checkpoint_sha256": checkpoint.sha256}
    write_text(path, json.dumps(values, indent=1) + "\n")


def noted_overlap(
    checkpoint_path: str | Path, checkpoint, asked: float | str | None = None
) -> tuple[float | None, str]:
    """The overlap to use with a network, and in words where it comes from.

    Parameters
    ----------
    checkpoint_path
        The network's file; ``overlap.json`` beside it holds what notebook 05 noted.
    checkpoint : models.Checkpoint
        As loaded from there.
    asked
        A number is used as it is. ``auto``: what 05 chose. None: what 05 noted, else as in training (None).

    Raises
    ------
    RunError
        If ``auto`` is asked for, and 05 has noted nothing for this very network.
    """
    if asked is not None and asked != "auto":
        return float(asked), "as asked for"
    try:
        noted = json.loads(Path(checkpoint_path).with_name("overlap.json").read_text(encoding="utf-8"))
        if noted["checkpoint_sha256"] == checkpoint.sha256:
            return float(noted["window_overlap"]), "as notebook 05 noted"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if asked == "auto":
        raise RunError("No overlap was chosen for this network: run 05_wsi_evaluation of its arm first.")
    return None, "as in training"
