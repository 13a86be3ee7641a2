"""Decoded tiles kept for random reads, for all slides of a process together."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict

__all__ = ["TileCache", "cache", "tokens"]

#: Decoded tiles kept for random reads, in bytes, shared by all slides of a process.
_CACHE_BYTES = 64 * 2**20


class TileCache:
    """Least-recently-used tiles of all slides of this process, limited in bytes."""

    def __init__(self, limit: int):
        self.limit = limit
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.tiles: OrderedDict[tuple, tuple] = OrderedDict()
        self.bytes = 0

    def get(self, key: tuple, make):
        with self.lock:
            if key in self.tiles:
                self.tiles.move_to_end(key)
                return self.tiles[key]
        found = make()
        if not found[1]:  # a lost tile is tried again when it is asked for again
            with self.lock:
                if key not in self.tiles:
                    self.tiles[key] = found
                    self.bytes += found[0].nbytes
                while self.bytes > self.limit:
                    self.bytes -= self.tiles.popitem(last=False)[1][0].nbytes
        return found

    def drop(self, token: int) -> None:
        with self.lock:
            for key in [k for k in self.tiles if k[0] == token]:
                self.bytes -= self.tiles.pop(key)[0].nbytes


#: A number for each open slide, by which its tiles are known.
tokens = itertools.count()
cache = TileCache(_CACHE_BYTES)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=cache.reset)  # the lock may have been held, and memory is dear in workers
