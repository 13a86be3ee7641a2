"""Windows on their way into a network: one array a batch, whether the network sees one field or two.

A network without context is given ``(B, S, S, 3) uint8``. One with context is given an array of ``B`` records with two
named fields, ``tile`` ``(S, S, 3)`` and ``context`` ``(C, C, 3)``, both uint8: batches are cut, counted and queued
in one way, the two fields need not be equally large, and each has its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

__all__ = ["as_tensors", "context_px_of", "fields", "room", "window_px_of"]


def context_px_of(checkpoint) -> int:
    """Side of the context that a checkpoint's network is given, pixels; 0 where it is given none."""
    return int(getattr(checkpoint, "context_px", 0)) if getattr(checkpoint, "context_ratio", 0) else 0


def room(count: int, window_px: int, context_px: int = 0, *, allocate: Callable | None = None) -> np.ndarray:
    """Room for `count` windows, with their context where `context_px` is not 0.

    Parameters
    ----------
    allocate : callable, optional
        Given a number of bytes, that many of uint8; by default numpy's.
    """
    shape = (window_px, window_px, 3)
    dtype = np.dtype((np.uint8, shape))
    if context_px:
        dtype = np.dtype([("tile", np.uint8, shape), ("context", np.uint8, (context_px, context_px, 3))])
    if allocate is None:
        return np.empty(count, dtype)
    memory = allocate(count * dtype.itemsize)
    return memory.view(dtype) if context_px else memory.reshape(count, *shape)


def fields(windows: np.ndarray) -> tuple[np.ndarray, ...]:
    """The inputs of a network in their order, each ``(B, side, side, 3) uint8``: views."""
    return tuple(windows[name] for name in windows.dtype.names or ()) or (windows,)


def window_px_of(windows: np.ndarray) -> int:
    """Side of what is predicted."""
    return fields(windows)[0].shape[1]


def as_tensors(windows: np.ndarray, device: torch.device | str = "cpu", **options) -> tuple[torch.Tensor, ...]:
    """The inputs of a network on a device, copied there in one piece; `options` as of ``Tensor.to``."""
    if windows.dtype.names is None:
        return (torch.from_numpy(windows).to(device, **options),)
    whole = torch.from_numpy(windows.view(np.uint8).reshape(len(windows), -1)).to(device, **options)
    shapes = [field.shape[1:] for field in fields(windows)]
    parts = whole.split([math.prod(shape) for shape in shapes], dim=1)
    return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))
