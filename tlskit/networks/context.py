"""A UNet++ that also sees a wider, coarser field round its tile: HookNet's idea on a pretrained encoder.

The field goes through an encoder of its own and is decoded until its cells are as wide, in um, as the deepest cells of
the tile's encoder. There the part that lies under the tile is cut out, joined, and added to the tile's features [1]_.
Joined at equal um/px, the two agree in place to a fraction of a cell; deep features that are enlarged instead would
not, since encoders pad unevenly and a deep cell looks beside its own centre.

References
----------
.. [1] M. van Rijthoven et al., HookNet, Medical Image Analysis 68, 2021; there two U-Nets with valid convolutions, and
   the joined features in place of the tile's. Here the sum, so that the network begins as the one without context.
"""

from __future__ import annotations

import copy

import torch
from segmentation_models_pytorch.base import initialization
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import nn
from torch.nn import functional

from tlskit.errors import ParameterError

__all__ = ["HookedUnetPlusPlus"]

#: Channels of the context once it is decoded.
WIDTH = 64


class HookedUnetPlusPlus(nn.Module):
    """A UNet++ with a second encoder for the context of its tile.

    Parameters
    ----------
    model
        A UNet++ of segmentation-models-pytorch. Its parts are taken over, under their names; the context's encoder
        begins as a copy of its encoder.
    ratio
        um/px of the context over um/px of the tile: 2, 4 or 8.

    Raises
    ------
    ParameterError
        If the encoder does not halve its input five times.

    Notes
    -----
    The weights of the hook begin at 0, so that the output is that of `model`, bit for bit, until it has learnt.
    """

    def __init__(self, model: nn.Module, ratio: int):
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = model.encoder, model.decoder, model.segmentation_head
        channels = list(self.encoder.out_channels)
        if len(channels) != 6 or self.encoder.output_stride != 32:
            raise ParameterError(
                "A context needs an encoder that halves its input five times (efficientnet-b0, resnet34, ...); this "
                f"one gives {len(channels) - 1} stages down to 1/{self.encoder.output_stride}."
            )
        self.ratio = ratio
        self.context_encoder = copy.deepcopy(self.encoder)
        skips = [channels[-2 - stage] for stage in range(ratio.bit_length() - 1)]
        widths = [channels[-1], *[WIDTH] * len(skips)]
        self.context_decoder = nn.ModuleList(
            Conv2dReLU(width + skip, WIDTH, kernel_size=3, padding=1)
            for width, skip in zip(widths[:-1], skips, strict=True)
        )
        self.hook = nn.Conv2d(channels[-1] + WIDTH, channels[-1], kernel_size=1)
        self.context_head = nn.Conv2d(WIDTH, 1, kernel_size=1)
        initialization.initialize_decoder(self.context_decoder)
        initialization.initialize_head(self.context_head)
        nn.init.zeros_(self.hook.weight)
        nn.init.zeros_(self.hook.bias)

    def forward(self, tile: torch.Tensor, context: torch.Tensor, *, both: bool = False):
        """Logits of a batch of tiles.

        Parameters
        ----------
        tile, context
            ``(B, 3, S, S)`` and ``(B, 3, C, C)`` with one centre (`tlskit.tiles.context_origin`), normalised alike.
            ``C ratio - S`` is a multiple of 64, and not negative.
        both
            Give the context's own logits too, ``(B, 1, C, C)``: for the auxiliary loss of a training.

        Returns
        -------
        Tensor, or two
            ``(B, 1, S, S)``.
        """
        wide = self.context_features(context)
        logits = self.segmentation_head(self.decoder(self._hooked(tile, wide)))
        if not both:
            return logits
        own = functional.interpolate(self.context_head(wide), scale_factor=32 // self.ratio, mode="bilinear")
        return logits, own

    def features(self, tile: torch.Tensor, context: torch.Tensor) -> list[torch.Tensor]:
        """What the decoder takes: the tile at every scale, the context in the deepest of them."""
        return self._hooked(tile, self.context_features(context))

    def _hooked(self, tile: torch.Tensor, wide: torch.Tensor) -> list[torch.Tensor]:
        features = list(self.encoder(tile))
        joined = torch.cat([features[-1], under_tile(wide, features[-1])], dim=1)
        features[-1] = features[-1] + self.hook(joined)
        return features

    def context_features(self, context: torch.Tensor) -> torch.Tensor:
        """The whole context, decoded to cells of 32 tile pixels: ``(B, 64, C r / 32, C r / 32)``."""
        stages = self.context_encoder(context)
        x = stages[-1]
        for number, block in enumerate(self.context_decoder):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, stages[-2 - number]], dim=1))
        return x


def under_tile(wide: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
    """The middle of the context's cells: those that lie under the tile, whose deepest features are `deep`."""
    side = deep.shape[-1]
    beyond = wide.shape[-1] - side
    if beyond < 0 or beyond % 2:
        raise ValueError(
            f"A context of {wide.shape[-1]} cells has not the centre of a tile of {side} cells between the same cells."
        )
    first = beyond // 2
    return wide[..., first : first + side, first : first + side]
