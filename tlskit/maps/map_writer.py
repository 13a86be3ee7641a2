"""Writing a probability map: blocks in any order, a journal that outlives a kill, and the TIFF at the end.

Blocks are compressed at once and appended to a journal beside the map, so that memory does not grow with the slide and
a killed run can go on where it stopped; when the map is complete, the TIFF is put together in raster order under a
temporary name and renamed. The finished file therefore depends on the pixels and the metadata alone, not on the order
of writing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from tlskit.errors import MapError, ParameterError
from tlskit.tiles import ahead

__all__ = ["FORMAT", "MapWriter", "decode_block"]

log = logging.getLogger(__name__)

#: Value of the key "format" in a map's metadata, by which `probmaps.open_map` knows its own files.
FORMAT = "tlskit probability map"
#: libdeflate's level 4 packs blended maps within a few per cent of level 6, at about twice its speed.
_DEFLATE_LEVEL = 4
_JOURNAL = "journal.jsonl"
_BLOCKS = "blocks.bin"


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
    work : pathlib.Path
        The journal's folder; a caller may keep its own state there until the map is complete.
    metadata : dict
        May be added to until the map is complete, except for what identifies it.
    threads : int
        That compress blocks and make the pyramid; 0, the default: the caller's. The file does not depend on it.
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
        self._index: dict[tuple[int, int], tuple[int, int]] = {}  # committed or pending block -> (offset, bytes)
        self._pending: dict[tuple[int, int], tuple[int, int]] = {}
        self._pending_crc = 0
        self.threads, self._reading = 0, threading.Lock()
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
        self.write_blocks([(x_px, y_px, block)])

    def write_blocks(self, blocks: Sequence[tuple[int, int, np.ndarray]]) -> None:
        """`write_block` of each, compressed by several threads where there are."""
        for key, data in ahead(self._compressed, blocks, workers=self.threads):
            if data:
                self._append(key, data)
            else:
                self._pending[key] = (0, 0)  # blank: no bytes

    def _compressed(self, placed: tuple[int, int, np.ndarray]) -> tuple[tuple[int, int], bytes]:
        x_px, y_px, block = placed
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
        key = (x_px // self.block_px, y_px // self.block_px)
        return key, _encode(_padded(block, self.block_px)) if block.any() else b""

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
        keys, reduced = [(bx, by) for by in range(rows) for bx in range(columns)], {}
        made = ahead(lambda key: self._half(key, size, index), keys, workers=self.threads)
        for key, data in zip(keys, made, strict=True):
            if data:
                with self._reading:
                    self._blocks.seek(self._end)
                    self._blocks.write(data)
                reduced[key] = (self._end, len(data))
                self._end += len(data)
        return half, reduced

    def _half(self, key: tuple[int, int], size, index) -> bytes:
        """One block of the next level, compressed; nothing where all under it is blank."""
        (bx, by), b = key, self.block_px
        quad = np.zeros((2 * b, 2 * b), np.uint8)
        found = False
        for dy in (0, 1):
            for dx in (0, 1):
                offset, length = index.get((2 * bx + dx, 2 * by + dy), (0, 0))
                if length:
                    with self._reading:
                        self._blocks.seek(offset)
                        data = self._blocks.read(length)
                    quad[dy * b : (dy + 1) * b, dx * b : (dx + 1) * b] = decode_block(data, b)
                    found = True
        if not found:
            return b""
        for axis in (0, 1):
            # repeat an odd last line, so that the mean of it with itself is itself
            side, at = size[axis], (2 * bx * b, 2 * by * b)[axis]
            if side % 2 and at < side < at + 2 * b:
                line = [slice(None), slice(None)]
                line[1 - axis] = side - at
                source = list(line)
                source[1 - axis] = side - at - 1
                quad[tuple(line)] = quad[tuple(source)]
        return _encode(cv2.resize(quad, (b, b), interpolation=cv2.INTER_AREA))  # (sum of four + 2) >> 2


def _padded(block: np.ndarray, block_px: int) -> np.ndarray:
    if block.shape == (block_px, block_px):
        return np.ascontiguousarray(block)
    full = np.zeros((block_px, block_px), np.uint8)
    full[: block.shape[0], : block.shape[1]] = block
    return full


def _encode(block: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(block, _DEFLATE_LEVEL))


def decode_block(data: bytes, block_px: int) -> np.ndarray:
    """A block as it was written, ``(block_px, block_px) uint8``."""
    import imagecodecs

    raw = imagecodecs.deflate_decode(data, out=block_px * block_px)
    return np.frombuffer(raw, np.uint8).reshape(block_px, block_px)
