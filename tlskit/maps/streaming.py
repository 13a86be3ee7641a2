"""The pipeline that takes windows through a network into a map: four threads with short queues between them.

One thread reads windows (and their context), the caller's thread runs the network, a third adds up, a fourth divides
and writes. A slide is cut into vertical strips and rows of blocks, so that memory does not grow with its size. After
every row of blocks the journal of the map notes how far it is; sums that the next strip needs lie in a file beside it.
A run that was killed starts again at the row of blocks it had not finished, and because sums are exact (see `blending`)
it ends with the identical file.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tlskit.maps.blender import Blender, read_carry
from tlskit.maps.blending import Layout, Strip
from tlskit.maps.map_writer import MapWriter
from tlskit.networks import inputs

__all__ = ["Batch", "Clock", "Progress", "remaining", "resume_point", "stream"]

#: Batches that may wait between two threads: enough that none waits for a hiccup of the other, few enough to be small.
_QUEUE = 2
_END = object()
#: Pieces of work of which a clock keeps the times one by one: the picture of a slide's first minutes, in little memory.
_MAX_EVENTS = 20_000


@dataclass
class Batch:
    """Windows on their way: what they show, where they belong, and which windows before them were lost."""

    windows: np.ndarray
    places: list[tuple[int, int, int]] = field(default_factory=list)  # strip, row, column
    lost: list[tuple[int, int]] = field(default_factory=list)  # row, column


class Clock:
    """Seconds by stage, from several threads, and when each piece of work was done."""

    def __init__(self):
        self.zero = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.events: list[tuple[str, float, float]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, start, time.perf_counter())

    def add(self, name: str, start: float, stop: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + stop - start
            if len(self.events) < _MAX_EVENTS:
                self.events.append((name, start - self.zero, stop - self.zero))


@dataclass
class Progress:
    """How far a map is: windows that were read in vain, and rows of blocks that are complete."""

    run: np.ndarray  # (window rows, window columns) bool: planned windows, less those that were lost
    strip: int = 0
    block_row: int = 0


def resume_point(writer: MapWriter, strips: list[Strip], planned: np.ndarray) -> Progress | None:
    """Where the journal of `writer` says to go on; None where its files contradict it."""
    progress = Progress(planned.copy())
    notes = [note for note in writer.notes if "row" in note]
    for note in notes:
        progress.strip, progress.block_row = note["strip"], note["row"] + 1
        if progress.block_row == strips[progress.strip].block_rows:
            progress.strip, progress.block_row = progress.strip + 1, 0
    for note in notes:
        if note["strip"] < progress.strip - 1:
            continue
        if note["crc"] is not None:
            carry = read_carry(writer, strips[note["strip"]], note["row"])
            if zlib.crc32(carry) != note["crc"]:
                return None
    again = strips[progress.strip].first_row(progress.block_row) if progress.strip < len(strips) else 0
    for note in notes:
        for row, column in note["lost"]:
            # Windows that will be read again may turn out well this time.
            if progress.strip == len(strips) or column < strips[progress.strip].columns.start or row < again:
                progress.run[row, column] = False
    return progress


def remaining(strips: list[Strip], progress: Progress) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The windows still to be run: of each strip its number, and their rows and columns in the order of reading."""
    found = []
    for strip in strips[progress.strip :]:
        first = strip.first_row(progress.block_row) if strip.number == progress.strip else 0
        rows, columns = np.nonzero(progress.run[first:, strip.columns.start : strip.columns.stop])
        if len(rows):
            found.append((strip.number, rows + first, columns + strip.columns.start))
    return found


def stream(
    slide,
    engine_for,
    writer: MapWriter,
    strips: list[Strip],
    layout: Layout,
    progress: Progress,
    *,
    mpp: float,
    batch_size: int,
    clock: Clock,
    context=None,
    readers: int = 2,
    on_windows=lambda count: None,
    blender=None,
) -> None:
    """Run everything from `progress` to the end of the map.

    Parameters
    ----------
    slide
        With ``windows(xy_px, size_px, mpp=, on_lost="skip")``.
    engine_for : callable
        Given the first batch of windows (`networks.inputs.room`), the engine to use.
    progress : Progress
        Where to begin; its ``run`` loses the windows that could not be read.
    context : context.SlideContext, optional
        What goes into the network with each window. A window whose context cannot be read is lost.
    readers : int
        Threads that decode.
    on_windows : callable
        Told how many windows were blended, from another thread.
    blender : optional
        What adds up in the place of a `Blender` of `writer`.
    """
    batches: queue.Queue = queue.Queue(_QUEUE)
    blended: queue.Queue = queue.Queue(_QUEUE)
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(work, after: queue.Queue | None):
        def run():
            try:
                work()
                if after is not None:
                    _timed_put(after, _END, stop, clock, "wait_read")
            except _Stopped:
                pass
            except BaseException as error:  # handed to the caller's thread, whatever it is
                failures.append(error)
                stop.set()

        return run

    of = {"mpp": mpp, "batch_size": batch_size, "clock": clock, "context": context, "threads": readers}
    reader = _Reader(slide, strips, layout, progress, **of)
    blender = blender or Blender(writer, strips, progress, clock=clock, on_windows=on_windows)

    def blend():
        with blender:
            while (item := _timed_get(blended, stop, clock, "wait_blend")) is not _END:
                blender.take(*item)

    reading = threading.Thread(
        target=guarded(lambda: reader.run(lambda item: _timed_put(batches, item, stop, clock, "wait_read")), batches),
        name="tlskit-read", daemon=True,
    )  # fmt: skip
    blending = threading.Thread(
        target=guarded(blend, None), name="tlskit-blend", daemon=True,
    )  # fmt: skip
    reading.start()
    blending.start()
    try:
        _forward(batches, blended, engine_for, reader, stop, clock)
        _timed_put(blended, _END, stop, clock, "wait_forward_out")
    except _Stopped:
        pass
    except BaseException:
        stop.set()
        raise
    finally:
        reading.join()
        blending.join()
    if failures:
        raise failures[0]


def _forward(batches, blended, engine_for, reader, stop, clock) -> None:
    """The network's thread: batches in, probabilities out, with as many under way as the engine likes."""
    engine = None
    waiting: deque = deque()

    def fetch():
        batch, ticket = waiting.popleft()
        start = time.perf_counter()
        probability = engine.result(ticket)
        clock.add("forward", start, time.perf_counter())
        _timed_put(blended, (batch, probability), stop, clock, "wait_forward_out")

    while True:
        batch = _timed_get(batches, stop, clock, "wait_forward_in")
        if batch is _END:
            break
        if len(batch.places) == 0:  # only news of lost windows
            while waiting:
                fetch()
            _timed_put(blended, (batch, None), stop, clock, "wait_forward_out")
            continue
        if engine is None:
            engine = engine_for(batch.windows)
            reader.empty = engine.empty
        start = time.perf_counter()
        ticket = engine.submit(batch.windows)
        clock.add("forward", start, time.perf_counter())
        waiting.append((batch, ticket))
        while len(waiting) >= engine.depth:
            fetch()
    while waiting:
        fetch()


class _Reader:
    """Windows in the order of strips, rows and columns, gathered into batches across all of these."""

    def __init__(self, slide, strips, layout, progress, *, mpp, batch_size, clock, context, threads):
        self._slide, self._strips, self._layout, self._context = slide, strips, layout, context
        self._mpp, self._batch_size, self._clock, self._threads = mpp, batch_size, clock, threads
        self._progress = Progress(progress.run.copy(), progress.strip, progress.block_row)
        self.empty = None

    def run(self, put) -> None:
        places = remaining(self._strips, self._progress)
        left = sum(len(rows) for _, rows, _ in places)
        batch = self._new(left)
        if self._context is not None:
            self._context.begin(places, self._clock.add)
        for number, rows, columns in places:
            xy = np.stack([columns, rows], 1).astype(np.int64) * self._layout.stride_px
            how = {"on_lost": "skip", "threads": self._threads, "on_stage": self._clock.add}
            windows = self._slide.windows(xy, self._layout.window_px, mpp=self._mpp, **how)
            windows = iter(windows if self._context is None else self._context.beside(windows, rows, columns))
            for _ in range(len(xy)):
                start = time.perf_counter()
                index, window = next(windows)
                arrived = time.perf_counter()
                place = (int(rows[index]), int(columns[index]))
                if window is None:
                    batch.lost.append(place)
                else:
                    batch.windows[len(batch.places)] = window
                    batch.places.append((number, *place))
                self._clock.add("wait_decode", start, arrived)
                self._clock.add("preprocess", arrived, time.perf_counter())
                left -= 1
                if len(batch.places) == len(batch.windows):
                    put(batch)
                    batch = self._new(left)
        if batch.places or batch.lost:
            batch.windows = batch.windows[: len(batch.places)]
            put(batch)

    def _new(self, left: int) -> Batch:
        shape = (min(self._batch_size, max(left, 1)), self._layout.window_px)
        return Batch(self.empty(*shape) if self.empty else inputs.room(*shape, getattr(self._context, "px", 0)))


class _Stopped(Exception):
    """Another thread has failed, or the caller was interrupted: nothing more is to be done."""


def _timed_put(target: queue.Queue, item, stop: threading.Event, clock: Clock, name: str) -> None:
    start = time.perf_counter()
    while not stop.is_set():
        try:
            target.put(item, timeout=0.1)
            clock.add(name, start, time.perf_counter())
            return
        except queue.Full:
            continue
    raise _Stopped


def _timed_get(source: queue.Queue, stop: threading.Event, clock: Clock, name: str):
    start = time.perf_counter()
    while not stop.is_set():
        try:
            item = source.get(timeout=0.1)
            clock.add(name, start, time.perf_counter())
            return item
        except queue.Empty:
            continue
    raise _Stopped
