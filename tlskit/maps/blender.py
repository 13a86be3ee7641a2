"""Windows that a network has predicted, added up into a map that grows block by block."""

from __future__ import annotations

import contextlib
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from tlskit.maps.blending import Strip
from tlskit.maps.map_writer import MapWriter

__all__ = ["Blender", "read_carry"]


class Blender:
    """Adds windows up, and hands every completed row of blocks to a thread that finishes and writes it."""

    def __init__(self, writer, strips, progress, *, clock, on_windows=lambda count: None):
        self._writer, self._strips = writer, strips
        self._progress, self._clock, self._on_windows = progress, clock, on_windows
        self._lost: list[tuple[int, int]] = []
        self._writing: Future | None = None

    def __enter__(self) -> Blender:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tlskit-write")
        if self._progress.strip < len(self._strips):
            self._strip.start(self._progress.block_row)
        return self

    def __exit__(self, kind, *_) -> None:
        with self._pool:
            if kind is None:
                while self._progress.strip < len(self._strips):
                    self._complete(len(self._strip.ys))
                self._await_writing()

    def take(self, batch, probability) -> None:
        """Add a `streaming.Batch`; `probability` is ``(B, S, S) float32``, or None where all of it was lost."""
        for row, column in batch.lost:
            self._progress.run[row, column] = False
            self._lost.append((row, column))
        for n, (strip, row, column) in enumerate(batch.places):
            while self._progress.strip < strip:
                self._complete(len(self._strip.ys))
            self._complete(row)
            start = time.perf_counter()
            self._strip.add(row, column, probability[n])
            self._clock.add("blend", start, time.perf_counter())
        self._on_windows(len(batch.places) + len(batch.lost))

    @property
    def _strip(self) -> Strip:
        return self._strips[self._progress.strip]

    def _complete(self, rows_in: int) -> None:
        """Finish the rows of blocks that need none but the first `rows_in` rows of this strip's windows."""
        strip = self._strip
        while strip.rows_above(self._progress.block_row) <= rows_in:
            self._await_writing()  # one row of blocks at a time: what waits to be written is held in memory
            self._writing = self._pool.submit(self._write, strip, strip.take(), self._lost)
            self._lost = []
            self._progress.block_row += 1
            if self._progress.block_row == strip.block_rows:
                self._await_writing()  # the next strip reads this one's carry
                strip.stop()
                if strip.number:
                    _carry_path(self._writer, strip.number - 1).unlink(missing_ok=True)
                self._progress.strip, self._progress.block_row = strip.number + 1, 0
                if self._progress.strip < len(self._strips):
                    self._strip.start()
                return

    def _await_writing(self) -> None:
        if self._writing is not None:
            start = time.perf_counter()
            self._writing.result()
            self._clock.add("wait_write", start, time.perf_counter())

    def _write(self, strip: Strip, taken: tuple, lost: list[tuple[int, int]]) -> None:
        start, block_row = time.perf_counter(), taken[0]
        carried = read_carry(self._writer, self._strips[strip.number - 1], block_row) if strip.number else None
        values, carry = strip.finish(taken, self._progress.run, carried, threads=self._writer.threads)
        middle = time.perf_counter()
        self._clock.add("blend", start, middle)
        b = self._writer.block_px
        if values is not None:
            starts = range(strip.x0, strip.x1, b)
            self._writer.write_blocks([(x, block_row * b, values[:, x - strip.x0 :][:, :b]) for x in starts])
        crc, path = None, _carry_path(self._writer, strip.number)
        if carry is None and path.exists():
            # What a killed run had carried from this row must not stay where its windows became unreadable.
            carry = np.zeros((min(b, strip.size_px[1] - block_row * b), strip.carry_px))
        if carry is not None and (carry.any() or path.exists()):
            crc = zlib.crc32(carry)
            with open(path, "r+b" if path.exists() else "w+b") as file:
                file.seek(block_row * b * strip.carry_px * carry.itemsize)
                file.write(carry)
        self._writer.commit({"strip": strip.number, "row": block_row, "crc": crc, "lost": lost})
        self._clock.add("write", middle, time.perf_counter())


def _carry_path(writer: MapWriter, number: int):
    return writer.work / f"carry_{number}.bin"


def read_carry(writer: MapWriter, strip: Strip, block_row: int) -> np.ndarray:
    """The carry of `strip` for a row of blocks, ``(rows, carry_px) float64``; 0 where none was written."""
    y0 = block_row * writer.block_px
    carry = np.zeros((min(writer.block_px, strip.size_px[1] - y0), strip.carry_px))
    with contextlib.suppress(FileNotFoundError), open(_carry_path(writer, strip.number), "rb") as file:
        file.seek(y0 * strip.carry_px * carry.itemsize)
        data = np.frombuffer(file.read(carry.nbytes), np.float64)
        carry.reshape(-1)[: len(data)] = data
    return carry
