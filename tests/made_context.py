"""A small network that sees a tile and its context, for tests of whatever runs one."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn


class Both(nn.Module):
    """Says how red the tile is, and how green its context is at the same place: at the middle of its own frame."""

    def forward(self, tile, context):
        side, whole = tile.shape[-1], context.shape[-1]
        ratio = self.ratio
        own = side // ratio
        first = (whole - own) // 2
        middle = context[:, 1:2, first : first + own, first : first + own]
        near = middle.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
        around = context[:, 2].mean((1, 2))[:, None, None, None]
        return torch.logit(((tile[:, :1] + near + around) / 3).clamp(1e-6, 1 - 1e-6))

    def __init__(self, ratio):
        super().__init__()
        self.ratio = ratio


def checkpoint(*, ratio=4, context_px=32, of="field", tile_px=64, magnification=10, overlap=0.5, model=None, **more):
    return SimpleNamespace(
        model=model or Both(ratio), magnification=magnification, mpp=10 / magnification, tile_px=tile_px,
        overlap=overlap, normalisation="divide_255", sha256="c" * 64, resolution_by="mpp",
        context_ratio=ratio, context_px=context_px, context_of=of, **more,
    )  # fmt: skip


def probability(tile, context, ratio):
    """What `Both` gives, by numpy: of one window, ``(S, S) float64``."""
    own = len(tile) // ratio
    first = (len(context) - own) // 2
    near = context[first : first + own, first : first + own, 1].repeat(ratio, 0).repeat(ratio, 1)
    found = (tile[..., 0].astype(float) + near + context[..., 2].mean()) / 3 / 255
    return np.clip(found, 1e-6, 1 - 1e-6)
