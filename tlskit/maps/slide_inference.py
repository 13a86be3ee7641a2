"""One slide through a network into its probability map.

The checkpoint says how it must be applied: um/px, window, overlap, normalisation. None of these is asked for again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from tlskit import __version__, units
from tlskit.errors import CheckpointError, ParameterError, SlideError
from tlskit.maps import blending, streaming
from tlskit.maps.context import facts_of, slide_context
from tlskit.maps.map_writer import MapWriter
from tlskit.maps.windows import (
    count_to_check,
    layout_for,
    looked_at,
    made_of,
    plan_windows,
    spread_windows,
    windows_key,
)
from tlskit.networks import engines, hardware
from tlskit.slides import open_slide

__all__ = [
    "STAGES",
    "Prediction",
    "map_metadata",
    "predict_slide",
    "reading_of",
    "source_of",
]

#: Width of the strips a slide is processed in; what is held in memory is proportional to it. Its choice cannot change
#: a map.
STRIP_PX = 4096
BLOCK_PX = 512
#: Stages of `Prediction.stage_s`, in the order of the work. Several threads do them, so that their sum may exceed the
#: wall time; "wait_..." is the time for which a thread had nothing to do or nowhere to put its work.
STAGES = ("open", "tissue", "read", "resample", "preprocess", "forward", "blend", "write")


@dataclass
class Prediction:
    """What became of one slide.

    Attributes
    ----------
    path : pathlib.Path
        The probability map.
    slide_id : str
    stage_s : dict of str to float
        Seconds by stage: `STAGES`, then waits: ``wait_decode`` (the reader for decoded rows), ``wait_read`` (the
        reader for the network), ``wait_forward_in`` (the network for the reader), ``wait_forward_out`` (the network
        for the blender), ``wait_blend`` (the blender for the network) and ``wait_write`` (the blender for the writer).
        "read" (with decoding) and "resample" are the sum over two threads, or beside a GPU as many as there are cores.
        Where the network sees a context, "context" is all of its reading, by two threads of its own.
    wall_s : float
        From the slide's opening to the finished map, without making and checking the engine.
    windows, windows_skipped : int
        Windows run, and windows of the grid without tissue.
    windows_screened : int
        Windows with tissue that a screen left out.
    level, reader
        Pyramid level read, and by what.
    engine, precision : str
        What was used in the end.
    max_dprob : float
        Largest difference of a probability to plain float32 on the first windows.
    lost : list of dict
        Regions of the slide that could not be read, also while tissue was looked for. `invalid_px` pixels of the map
        could not be predicted for it.
    compile_s, check_s : float
        Seconds for making the engine and for comparing it with float32. 0 where an engine was brought along.
    compile_loaded : bool
        Whether that engine had been compiled before, and was loaded.
    tissue_mm2 : float
        Area of tissue; of the whole slide where no tissue was looked for.
    map_px : (int, int)
        Size of the map.
    resumed_windows : int
        Windows of the grid that an earlier, interrupted run had already brought to an end.
    events : list of (str, float, float)
        Every piece of work: stage, start and stop in seconds from the beginning; the first 20,000. For a picture of
        the overlap.
    """

    path: Path
    slide_id: str
    stage_s: dict[str, float]
    wall_s: float
    windows: int
    windows_skipped: int
    level: int
    reader: str
    engine: str
    precision: str
    max_dprob: float
    lost: list[dict]
    compile_s: float = 0.0
    compile_loaded: bool = False
    check_s: float = 0.0
    tissue_mm2: float = 0.0
    map_px: tuple[int, int] = (0, 0)
    invalid_px: int = 0
    resumed_windows: int = 0
    windows_screened: int = 0
    events: list[tuple[str, float, float]] = field(default_factory=list, repr=False)


def predict_slide(
    checkpoint,
    slide,
    out_path,
    *,
    slide_id: str | None = None,
    magnification: float | None = None,
    overlap: float | None = None,
    batch_size: int = 8,
    tissue=None,
    screen=None,
    engine="auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
    on_windows: Callable[[int, int], None] | None = None,
    resume: bool = True,
    strip_px: int = STRIP_PX,
    block_px: int = BLOCK_PX,
) -> Prediction:
    """Predict one slide and write its probability map while the slide streams through.

    Windows cover the whole slide, edges included (what lies beyond is white, in their context, too); those without
    tissue are not run, and where no window was run the probability is 0. Elsewhere it is the mean of the windows there,
    by their weights. Memory does not grow with the slide. An interrupted run is taken up where it stopped, and gives
    the identical file.

    Parameters
    ----------
    checkpoint : models.Checkpoint
        Or anything with ``model`` (giving logits), ``magnification``, ``mpp``, ``tile_px`` and ``normalisation``.
    slide : slides.Slide or path
        Left open if it was given open.
    out_path : path
        The map; see `probmaps`.
    slide_id : str, optional
        By default the file's name without its suffix.
    magnification : float, optional
        What the caller believes it to be; any other checkpoint is refused.
    overlap
        See `windows.layout_for`.
    batch_size : int
        Windows handed to the engine at a time; as many as a GPU computes together.
    tissue : tissue.Tissue, False or None
        Where there is tissue. None finds it; False runs every window.
    screen : screening.Screen, optional
        Where to look, within tissue: windows that it does not touch are not run, and are marked in the map.
    engine : str or engines.EngineSource
        One of `engines.ENGINES`, or a source that several slides share.
    precision, device, threads
        See `engines.make_engine`.
    progress : bool
        Show a bar.
    on_windows : callable, optional
        Told how many windows are done and how many there are, from another thread.
    resume : bool
        Take up the journal of an interrupted run. Otherwise such a journal is thrown away.
    strip_px, block_px : int
        Width of the strips and side of the map's blocks.

    Returns
    -------
    Prediction

    Raises
    ------
    CheckpointError
        If the checkpoint is for another magnification, or its network gives no numbers.
    SlideError, ScaleError
        If the slide cannot be opened, was scanned too coarsely, or no part of it can be read. Where only a part
        cannot be read, the map marks it invalid.
    """
    clock = streaming.Clock()
    _check_checkpoint(checkpoint, magnification)
    if batch_size < 1:
        raise ParameterError(f"`batch_size` should be at least 1, not {batch_size!r}.")
    layout = layout_for(checkpoint, overlap=overlap)
    source = source_of(
        engine, checkpoint, window_px=layout.window_px, precision=precision, device=device, threads=threads
    )
    source.set_batch(batch_size)
    with contextlib.ExitStack() as opened:
        with clock.stage("open"):
            if isinstance(slide, (str, Path)):
                slide = opened.enter_context(open_slide(slide, **reading_of(checkpoint)))
            _check_reading(checkpoint, slide)
            size_px = tuple(slide.size_px(checkpoint.mpp))
            level = slide.level_for(checkpoint.mpp)
        with clock.stage("tissue"):
            on_tissue, tissue_mm2 = plan_windows(slide, layout, size_px, checkpoint.mpp, tissue)
            planned = on_tissue & looked_at(screen, slide, layout, size_px, checkpoint.mpp)
        slide_id = Path(slide.path).stem if slide_id is None else slide_id
        metadata = map_metadata(checkpoint, slide, slide_id, layout, tissue, source.asked, screen)
        metadata |= windows_key(planned)
        cut = blending.strips(size_px, layout, strip_px=strip_px, block_px=block_px)

        writer, position = _begin(
            out_path, size_px, cut, planned, resume, mpp=checkpoint.mpp, block_px=block_px, metadata=metadata
        )
        with writer:
            n_planned = int(planned.sum())
            resumed = n_planned - sum(len(rows) for _, rows, _ in streaming.remaining(cut, position))
            choice = EngineChoice(source, writer)
            context = slide_context(checkpoint, slide, layout, planned)
            if resumed < n_planned:
                choice.make(slide, layout, checkpoint.mpp, planned, context)
            beside = hardware.threads_beside(choice.device)
            writer.threads = beside["writers"]
            with _telling(n_planned, resumed, slide_id, progress, on_windows) as tell:
                streaming.stream(
                    slide, choice, writer, cut, layout, position,
                    mpp=checkpoint.mpp, batch_size=batch_size, clock=clock, context=context, on_windows=tell,
                    readers=beside["readers"],
                )  # fmt: skip
            if n_planned and not position.run.any():
                raise SlideError(
                    f"{slide.path}: none of {n_planned} windows could be read. The file is damaged; copy it "
                    "again from where it came."
                )
            writer.metadata.update(
                made_of(slide, layout, size_px, on_tissue, planned, position.run),
                engine=choice.name, precision=choice.precision, tissue_mm2=tissue_mm2, level=level,
            )  # fmt: skip
            finishing = time.perf_counter()
        clock.add("write", finishing, time.perf_counter())
        made = writer.metadata
    wall_s = time.perf_counter() - clock.zero - choice.made_s
    stages = STAGES if context is None else (*STAGES[:4], "context", *STAGES[4:])
    stage_s = {name: clock.seconds.get(name, 0.0) for name in stages}
    stage_s |= {name: s for name, s in sorted(clock.seconds.items()) if name.startswith("wait_")}
    return Prediction(
        path=Path(out_path), slide_id=slide_id, stage_s=stage_s, wall_s=wall_s,
        **{name: made[name] for name in ("windows", "windows_skipped", "windows_screened", "lost")},
        level=level, reader=slide.reader, engine=choice.name, precision=choice.precision,
        max_dprob=choice.max_dprob, compile_s=choice.compile_s, check_s=choice.check_s,
        compile_loaded=choice.compile_loaded,
        tissue_mm2=tissue_mm2, map_px=size_px, invalid_px=sum(w * h for _, _, w, h in made["invalid"]),
        resumed_windows=resumed, events=clock.events,
    )  # fmt: skip


def source_of(engine, checkpoint, *, window_px: int, **options) -> engines.EngineSource:
    """The source that was brought along, or one for this slide alone."""
    if not isinstance(engine, engines.EngineSource):
        return engines.EngineSource(checkpoint, engine=engine, window_px=window_px, **options)
    if engine.window_px != window_px:
        raise ParameterError(f"The engine is for windows of {engine.window_px} px, not {window_px}.")
    return engine


def _begin(out_path, size_px, cut, planned: np.ndarray, resume: bool, **options) -> tuple:
    """The map's writer, and where in the slide to begin."""
    writer = MapWriter(out_path, size_px, resume=resume, **options)
    position = streaming.resume_point(writer, cut, planned)
    if position is None:  # the journal's files contradict one another
        writer.discard()
        writer = MapWriter(out_path, size_px, resume=False, **options)
        position = streaming.resume_point(writer, cut, planned)
    return writer, position


@contextlib.contextmanager
def _telling(total: int, done: int, slide_id: str, progress: bool, on_windows) -> Iterator[Callable[[int], None]]:
    """A bar; gives what is to be told how many more windows are done."""

    def tell(count: int) -> None:
        nonlocal done
        done += count
        bar.update(count)
        if on_windows is not None:
            on_windows(done, total)

    with tqdm(total=total, initial=done, desc=slide_id, unit="window", disable=not progress) as bar:
        tell(0)
        yield tell


class EngineChoice:
    """The engine of one map, and what its choice took.

    It is chosen, or looked at again, by windows of this slide that are planned, spread over the slide.
    """

    def __init__(self, source: engines.EngineSource, writer: MapWriter):
        self._source, self._writer = source, writer
        self._noted = next((note["engine"] for note in writer.notes if "engine" in note), None)
        self.made_s, self.compile_s, self.check_s, self.device = 0.0, 0.0, 0.0, "cpu"
        self.compile_loaded = False
        self.name, self.precision, self.max_dprob = self._noted or ("", "", float("nan"))
        self._made: engines.Engine | None = None

    def make(self, slide, layout, mpp: float, planned: np.ndarray, context) -> None:
        start, before = time.perf_counter(), self._source.made
        if self._noted:
            # A map is made by one engine: what was chosen before the interruption holds for the rest.
            made = self._source.exactly(self.name, self.precision)
        else:
            chosen = self._source.is_chosen
            count = count_to_check(int(planned.sum()), slide.path) if chosen else engines.CHECK_WINDOWS
            windows = spread_windows(slide, layout, mpp, planned, count, context)
            made = self._source.recheck(windows) if chosen else self._source.get(windows)
            self.name, self.precision, self.max_dprob = made.name, made.precision, made.max_dprob
            self._writer.commit({"engine": [self.name, self.precision, self.max_dprob]})
        if made is not before:
            self.compile_s, self.compile_loaded = made.compile_s, made.is_loaded
        self.check_s = made.check_s
        self.made_s, self._made, self.device = time.perf_counter() - start, made, made.device

    def __call__(self, windows: np.ndarray) -> engines.Engine:
        return self._made


def _check_checkpoint(checkpoint, magnification: float | None) -> None:
    mpp = units.mpp_for_magnification(checkpoint.magnification)
    if abs(mpp - checkpoint.mpp) > 1e-9 * mpp:
        raise CheckpointError(
            f"The checkpoint contradicts itself: {checkpoint.magnification:g}x is {mpp:g} um/px, but it says "
            f"{checkpoint.mpp:g}. It was not written by this package, or was altered; train again."
        )
    if magnification is not None and magnification != checkpoint.magnification:
        raise CheckpointError(
            f"The checkpoint was trained at {units.magnification_name(checkpoint.magnification)}, but "
            f"{units.magnification_name(magnification)} is asked for. Give the checkpoint of that arm, or train one."
        )


def reading_of(checkpoint) -> dict:
    """How a checkpoint wants slides to be opened: arguments of `slides.open_slide`."""
    return {
        "resolution_by": getattr(checkpoint, "resolution_by", "mpp"),
        "apply_icc": getattr(checkpoint, "apply_icc", False),
        "detail_mpp": getattr(checkpoint, "detail_mpp", 0.0),
    }


def _check_reading(checkpoint, slide) -> None:
    wanted, given = getattr(checkpoint, "apply_icc", False), getattr(slide, "apply_icc", False)
    if wanted != given:
        raise CheckpointError(
            f"The checkpoint was trained with `apply_icc: {str(wanted).lower()}`, but {Path(slide.path).name} was "
            f"opened with apply_icc={given}. Open it as the checkpoint says, or give its path."
        )
    wanted, given = getattr(checkpoint, "detail_mpp", 0.0), getattr(slide, "detail_mpp", 0.0)
    if wanted != given:
        raise CheckpointError(
            f"The checkpoint was trained with `detail_mpp: {wanted:g}`, but {Path(slide.path).name} was opened with "
            f"detail_mpp={given:g}. Open it as the checkpoint says, or give its path."
        )


def map_metadata(checkpoint, slide, slide_id, layout, tissue, asked, screen=None) -> dict:
    """What a map is a function of: equal metadata, equal map."""
    path = Path(slide.path)
    return {
        "tlskit": __version__,
        "slide_id": slide_id,
        "slide_file": path.name,
        "slide_bytes": path.stat().st_size if path.exists() else 0,
        "size_px0": [int(side) for side in slide.size_px0],
        "mpp0": float(slide.mpp0),
        "mpp_source": slide.mpp_source,
        "magnification": float(checkpoint.magnification),
        "checkpoint_sha256": getattr(checkpoint, "sha256", ""),
        "parameters": {
            "window_px": layout.window_px,
            "stride_px": layout.stride_px,
            "normalisation": checkpoint.normalisation,
            "apply_icc": getattr(checkpoint, "apply_icc", False),
            "tissue_only": tissue is not False,
            "engine": asked[0],
            "precision": asked[1],
            **({"screen": screen.facts} if screen else {}),
            **({"context": facts_of(checkpoint)} if facts_of(checkpoint) else {}),
        },
    }
