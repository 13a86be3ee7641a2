"""Probability maps of whole slides: tiled, pyramidal, lossless uint8 BigTIFFs that QuPath and OpenSlide open.

A map lies on the slide's working lattice: its pixel (i, j) is the working pixel (i, j), its value ``rint(255 p)``.
Blocks may be written in any order. They are compressed at once and appended to a journal beside the map, so that
memory does not grow with the slide and a killed run can go on where it stopped; when the map is complete, the TIFF is
put together in raster order under a temporary name and renamed. The finished file therefore depends on the
pixels and the metadata alone, not on the order of writing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tlskit.errors import MapError, ParameterError

__all__ = ["FORMAT", "MapWriter", "ProbMap", "open_map"]

log = logging.getLogger(__name__)

#: Value of the key "format" in a map's metadata, by which `open_map` knows its own files.
FORMAT = "tlskit probability map"
#: libdeflate's level 4 packs blended maps within a few per cent of level 6, at about twice its speed.
_DEFLATE_LEVEL = 4
_JOURNAL = "journal.jsonl"
_BLOCKS = "blocks.bin"
#: Decoded blocks kept by a reader: enough for a row of blocks across a large map.
_CACHE_BYTES = 64 << 20


class MapWriter:
    """Write one probability map, block by block, in any order.

    Use as a context manager: leaving it normally completes the map (blocks never written are 0) and renames it to
    `path`; leaving it by an exception keeps the journal, for a later writer with ``resume=True``.

    Parameters
    ----------
    path : path
        The map to write. An existing one is replaced when the new one is complete. While it is being written, its
        journal is the folder ``.<name>.part`` beside it.
    size_px : (int, int)
        Width and height in working pixels.
    mpp : float
        um per working pixel, for the resolution tags and the metadata.
    block_px : int
        Side of a block, which is also the TIFF's tile; a multiple of 16.
    metadata : dict
        Anything JSON can hold. It stands in the ImageDescription of the finished map.
    resume : bool
        Go on with a journal found beside `path`, if it was made for the same size, um/px, block and metadata.
        Otherwise such a journal is thrown away.

    Attributes
    ----------
    notes : list
        What `commit` was given, in order, by the run that is being resumed.
    written : set of (int, int)
        Blocks that are committed, as (column, row) of the block grid.
    work : pathlib.Path
        The journal's folder; a caller may keep its own state there until the map is complete.
    metadata : dict
        May be added to until the map is complete, except for what identifies it.
    """

    def __init__(self, path, size_px, *, mpp: float, block_px: int = 512, metadata=None, resume: bool = False):
        self.path = Path(path)
        self.size_px = (int(size_px[0]), int(size_px[1]))
        self.mpp = float(mpp)
        self.block_px = int(block_px)
        if min(self.size_px) < 1 or not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ParameterError(
                f"{self.path.name}: a map needs a positive size and um/px, not {self.size_px}, {mpp!r}."
            )
        if self.block_px < 16 or self.block_px % 16:
            raise ParameterError(f"{self.path.name}: block_px must be a multiple of 16, not {block_px!r}.")
        self.metadata = dict(metadata or {})
        self.work = self.path.with_name(f".{self.path.name}.part")
        self.notes: list = []
        self.written: set[tuple[int, int]] = set()
        self._index: dict[tuple[int, int], tuple[int, int]] = {}  # committed or pending block -> (offset, bytes)
        self._pending: dict[tuple[int, int], tuple[int, int]] = {}
        self._pending_crc = 0
        # Through JSON and back, so that tuples and numpy's numbers compare as they will be read.
        self._header = json.loads(
            json.dumps(
                {
                    "journal": 1,
                    "size_px": self.size_px,
                    "mpp": self.mpp,
                    "block_px": self.block_px,
                    "metadata": self.metadata,
                }
            )
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = self._load() if resume else None
        if end is None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            self._blocks = open(self.work / _BLOCKS, "w+b")
            self._log = open(self.work / _JOURNAL, "w", encoding="utf-8", newline="\n")
            self._log.write(json.dumps(self._header) + "\n")
            self._log.flush()
            end = 0
        self._end = end

    # -- writing -------------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> tuple[int, int]:
        """Columns and rows of the block grid."""
        return tuple(-(-side // self.block_px) for side in self.size_px)

    def write_block(self, x_px: int, y_px: int, block: np.ndarray) -> None:
        """Add one block: ``(h, w) uint8``, its top left at (x_px, y_px), both multiples of `block_px`.

        A block is full size except at the map's right and bottom edge, where it ends with the map. It counts as
        written with the next `commit`.
        """
        expected = tuple(min(self.block_px, side - at) for side, at in zip(self.size_px, (x_px, y_px), strict=True))
        if x_px % self.block_px or y_px % self.block_px or min(expected) < 1 or min(x_px, y_px) < 0:
            raise ParameterError(
                f"{self.path.name}: ({x_px}, {y_px}) is not the corner of a {self.block_px} px block of a "
                f"{self.size_px[0]} x {self.size_px[1]} px map."
            )
        block = np.asarray(block)
        if block.dtype != np.uint8 or block.shape != expected[::-1]:
            raise ParameterError(
                f"{self.path.name}: the block at ({x_px}, {y_px}) must be {expected[::-1]} uint8, "
                f"not {block.shape} {block.dtype}."
            )
        if block.any():
            self._append((x_px // self.block_px, y_px // self.block_px), _encode(_padded(block, self.block_px)))
        else:
            self._pending[(x_px // self.block_px, y_px // self.block_px)] = (0, 0)  # blank: no bytes

    def commit(self, note=None) -> None:
        """Enter the blocks written since the last commit, and any JSON value, in the journal.

        What is committed survives the process; what is not is written anew on resuming.
        """
        self._blocks.flush()
        entry = {
            "blocks": [[bx, by, offset, size] for (bx, by), (offset, size) in self._pending.items()],
            "crc": self._pending_crc,
            "note": note,
        }
        text = json.dumps(entry)
        self._log.write(f"{zlib.crc32(text.encode()):08x} {text}\n")
        self._log.flush()
        self._index.update(self._pending)
        self.written.update(self._pending)
        self._pending, self._pending_crc = {}, 0
        if note is not None:
            self.notes.append(note)

    def _append(self, key, data: bytes) -> None:
        self._blocks.seek(self._end)
        self._blocks.write(data)
        self._pending[key] = (self._end, len(data))
        self._pending_crc = zlib.crc32(data, self._pending_crc)
        self._end += len(data)

    def _load(self) -> int | None:
        """Take up a journal that fits; returns where the next block goes, or None where there is nothing to take up."""
        try:
            with open(self.work / _JOURNAL, encoding="utf-8", newline="\n") as file:
                lines = file.read().split("\n")
            if json.loads(lines[0]) != self._header:
                log.info("%s: the journal beside it was made for something else; starting afresh", self.path.name)
                return None
            blocks = open(self.work / _BLOCKS, "r+b")
        except (OSError, ValueError):
            return None
        good, end = [lines[0]], 0
        for line in lines[1:]:
            crc, _, text = line.partition(" ")
            # A line cut short by the kill, or bytes that never reached the disk, end what can be trusted.
            if f"{zlib.crc32(text.encode()):08x}" != crc:
                break
            entry = json.loads(text)
            size = sum(block[3] for block in entry["blocks"])
            blocks.seek(end)
            if zlib.crc32(blocks.read(size)) != entry["crc"]:
                break
            for bx, by, offset, length in entry["blocks"]:
                self._index[bx, by] = (offset, length)
                self.written.add((bx, by))
            if entry["note"] is not None:
                self.notes.append(entry["note"])
            good.append(line)
            end += size
        self._blocks = blocks
        blocks.truncate(end)
        # Rewritten without the torn tail, so that the next lines follow whole ones.
        temporary = self.work / f"{_JOURNAL}.tmp"
        temporary.write_text("\n".join(good) + "\n", encoding="utf-8", newline="\n")
        os.replace(temporary, self.work / _JOURNAL)
        self._log = open(self.work / _JOURNAL, "a", encoding="utf-8", newline="\n")
        return end

    # -- completing ----------------------------------------------------------------------------------------------

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._close()
        if kind is None:
            shutil.rmtree(self.work, ignore_errors=True)

    def _close(self) -> None:
        self._blocks.close()
        self._log.close()

    def discard(self) -> None:
        """Throw the journal away."""
        self._close()
        shutil.rmtree(self.work, ignore_errors=True)

    def _finish(self) -> None:
        """Build the pyramid from the blocks, then write everything in raster order."""
        import tifffile

        if self._pending:
            self.commit()
        levels = [(self.size_px, self._index)]
        while max(levels[-1][0]) > self.block_px:
            levels.append(self._reduce(*levels[-1]))
        description = {
            "format": FORMAT,
            "size_px": list(self.size_px),
            "mpp": self.mpp,
            "value": "probability = pixel / 255",
            **self.metadata,
        }
        temporary = self.work / "finished.tif"  # what a kill leaves there is thrown away with the journal
        blank = _encode(np.zeros((self.block_px, self.block_px), np.uint8))
        try:
            with tifffile.TiffWriter(temporary, bigtiff=True) as tiff:
                for number, (size, index) in enumerate(levels):
                    # um/px of a level from the sizes: its last column may stand for less than two of the one below
                    scale = [self.size_px[axis] / size[axis] for axis in (0, 1)]
                    tiff.write(
                        self._encoded(size, index, blank),
                        shape=(size[1], size[0]),
                        dtype=np.uint8,
                        tile=(self.block_px, self.block_px),
                        photometric="minisblack",
                        compression="deflate",
                        resolution=tuple(10000.0 / (self.mpp * s) for s in scale),
                        resolutionunit="CENTIMETER",
                        subfiletype=0 if number == 0 else 1,
                        description=json.dumps(description) if number == 0 else None,
                        software=False,
                        metadata=None,
                    )
            os.replace(temporary, self.path)
        except (OSError, ValueError) as error:
            raise MapError(f"{self.path}: the probability map could not be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _encoded(self, size, index, blank) -> Iterator[bytes]:
        columns, rows = (-(-side // self.block_px) for side in size)
        for by in range(rows):
            for bx in range(columns):
                offset, length = index.get((bx, by), (0, 0))
                if length:
                    self._blocks.seek(offset)
                    yield self._blocks.read(length)
                else:
                    yield blank

    def _reduce(self, size, index):
        """The next level: 2 x 2 means, rounded half up. An odd last row or column stands for itself."""
        half = tuple(-(-side // 2) for side in size)
        columns, rows = (-(-side // self.block_px) for side in half)
        reduced = {}
        b = self.block_px
        for by in range(rows):
            for bx in range(columns):
                quad = np.zeros((2 * b, 2 * b), np.uint8)
                found = False
                for dy in (0, 1):
                    for dx in (0, 1):
                        offset, length = index.get((2 * bx + dx, 2 * by + dy), (0, 0))
                        if length:
                            self._blocks.seek(offset)
                            quad[dy * b : (dy + 1) * b, dx * b : (dx + 1) * b] = _decode(self._blocks.read(length), b)
                            found = True
                if not found:
                    continue
                for axis in (0, 1):
                    # repeat an odd last line, so that the mean of it with itself is itself
                    side, at = size[axis], (2 * bx * b, 2 * by * b)[axis]
                    if side % 2 and at < side < at + 2 * b:
                        line = [slice(None), slice(None)]
                        line[1 - axis] = side - at
                        source = list(line)
                        source[1 - axis] = side - at - 1
                        quad[tuple(line)] = quad[tuple(source)]
                data = _encode(cv2.resize(quad, (b, b), interpolation=cv2.INTER_AREA))  # (sum of four + 2) >> 2
                self._blocks.seek(self._end)
                self._blocks.write(data)
                reduced[bx, by] = (self._end, len(data))
                self._end += len(data)
        return half, reduced


def _padded(block: np.ndarray, block_px: int) -> np.ndarray:
    if block.shape == (block_px, block_px):
        return np.ascontiguousarray(block)
    full = np.zeros((block_px, block_px), np.uint8)
    full[: block.shape[0], : block.shape[1]] = block
    return full


def _encode(block: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(block, _DEFLATE_LEVEL))


def _decode(data: bytes, block_px: int) -> np.ndarray:
    import imagecodecs

    raw = imagecodecs.deflate_decode(data, out=block_px * block_px)
    return np.frombuffer(raw, np.uint8).reshape(block_px, block_px)


class ProbMap:
    """A probability map opened for reading; made by `open_map`. Thread-safe; a context manager; picklable.

    Attributes
    ----------
    path : pathlib.Path
    size_px : (int, int)
        Width and height of level 0, in working pixels.
    mpp : float
        um per working pixel.
    metadata : dict
        What the writer was given, with "format", "size_px" and "mpp".
    level_sizes_px : list of (int, int)
        Size of every level.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        import tifffile

        self._lock = threading.Lock()
        self._cache: OrderedDict = OrderedDict()
        try:
            with tifffile.TiffFile(self.path) as tiff:
                first = tiff.pages[0]
                try:
                    self.metadata = json.loads(first.description)
                except ValueError:
                    self.metadata = {}
                if not isinstance(self.metadata, dict) or self.metadata.get("format") != FORMAT:
                    raise MapError(
                        f"{self.path}: expected a probability map written by tlskit, found a TIFF whose description "
                        "says otherwise. Predict the slide again, or give the path of its map."
                    )
                self.block_px = int(first.tilewidth)
                self._levels = [
                    ((page.imagewidth, page.imagelength), page.dataoffsets, page.databytecounts) for page in tiff.pages
                ]
            end = max(max(np.add(offsets, counts)) for _, offsets, counts in self._levels)
            if self.path.stat().st_size < end:
                raise MapError(
                    f"{self.path}: this probability map is cut off: it has {self.path.stat().st_size} of {end} bytes. "
                    "Copy it again, or predict the slide again."
                )
            self._file = open(self.path, "rb")
        except MapError:
            raise
        except (OSError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise MapError(
                f"{self.path}: expected a probability map (tiled TIFF), but it cannot be read: {error}"
            ) from error
        self.size_px = self._levels[0][0]
        self.level_sizes_px = [level[0] for level in self._levels]
        self.mpp = float(self.metadata["mpp"])

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.path = state["path"]
        self._open()

    @property
    def invalid(self) -> list[tuple[int, int, int, int]]:
        """Boxes that could not be predicted, as (x, y, width, height) in working pixels. Their pixels are 0."""
        return [tuple(box) for box in self.metadata.get("invalid", [])]

    @property
    def unseen(self) -> list[tuple[int, int, int, int]]:
        """Boxes of tissue that a screen kept the network from, as `invalid`. Their pixels are 0, which says nothing."""
        return [tuple(box) for box in self.metadata.get("unseen", [])]

    def read(self, x_px: int, y_px: int, width_px: int, height_px: int, *, level: int = 0) -> np.ndarray:
        """A rectangle of the map, ``(height_px, width_px) uint8``; outside the map it is 0.

        Coordinates are pixels of `level`, which is 0, the working lattice, unless told.
        """
        (width, height), _, _ = self._levels[level]
        out = np.zeros((height_px, width_px), np.uint8)
        b = self.block_px
        x0, y0, x1, y1 = max(x_px, 0), max(y_px, 0), min(x_px + width_px, width), min(y_px + height_px, height)
        if x0 >= x1 or y0 >= y1:
            return out
        for by in range(y0 // b, -(-y1 // b)):
            for bx in range(x0 // b, -(-x1 // b)):
                left, top = max(x0, bx * b), max(y0, by * b)
                right, bottom = min(x1, (bx + 1) * b), min(y1, (by + 1) * b)
                out[top - y_px : bottom - y_px, left - x_px : right - x_px] = self._block(level, bx, by)[
                    top - by * b : bottom - by * b, left - bx * b : right - bx * b
                ]
        return out

    def bands(self, rows_px: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """The whole map from top to bottom as (y_px, band), each band ``(<= rows_px, width) uint8``.

        By default a band is one row of blocks.
        """
        rows_px = rows_px or self.block_px
        width, height = self.size_px
        for y_px in range(0, height, rows_px):
            yield y_px, self.read(0, y_px, width, min(rows_px, height - y_px))

    def overview(self, max_px: int = 2048) -> tuple[np.ndarray, float]:
        """The largest level whose longer side is at most `max_px`, and its um/px.

        Where even the smallest level is larger, that one is returned.
        """
        level = next(
            (n for n, size in enumerate(self.level_sizes_px) if max(size) <= max_px), len(self.level_sizes_px) - 1
        )
        width, height = self.level_sizes_px[level]
        return self.read(0, 0, width, height, level=level), self.mpp * self.size_px[0] / width

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ProbMap:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _block(self, level: int, bx: int, by: int) -> np.ndarray:
        key = (level, bx, by)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            (width, _), offsets, counts = self._levels[level]
            number = by * -(-width // self.block_px) + bx
            self._file.seek(offsets[number])
            data = self._file.read(counts[number])
        try:
            block = _decode(data, self.block_px)
        except (RuntimeError, ValueError) as error:
            raise MapError(
                f"{self.path}: block ({bx}, {by}) of level {level} is damaged ({error}). Predict the slide again."
            ) from error
        with self._lock:
            self._cache[key] = block
            while len(self._cache) * self.block_px**2 > _CACHE_BYTES:
                self._cache.popitem(last=False)
        return block


def open_map(path) -> ProbMap:
    """Open a probability map.

    Raises
    ------
    MapError
        If the file is missing, damaged, or not one of tlskit's maps.
    """
    return ProbMap(path)
