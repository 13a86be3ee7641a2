"""Rewrite a UNet++ for faster inference, without changing what it computes.

Each decoder block doubles its input by nearest neighbour, joins it with the skip connections and convolves the result
with 3 x 3 weights. Doubled pixels are equal in squares of 2 x 2, so that most of those products are the same numbers
again: the convolution of the doubled part equals one transposed convolution (4 x 4, stride 2) of the small one, whose
weights are sums of the old ones. That does 4 products where there were 9, and neither the doubled nor the joined array
is ever made. Batch normalisation is folded into the weights on the way. Results agree to float32's rounding.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold"]


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode, its UNet++ decoder blocks rewritten where their form is known.

    Any other network comes back as a plain copy.
    """
    model = copy.deepcopy(model).eval()
    decoder = getattr(model, "decoder", None)
    blocks = getattr(decoder, "blocks", None)
    if type(decoder).__name__ == "UnetPlusPlusDecoder" and isinstance(blocks, nn.ModuleDict):
        last = len(decoder.in_channels) - 1
        for name, block in blocks.items():
            depth, layer = (int(part) for part in name.split("_")[1:])
            from_below = depth == 0 or layer == last
            in_channels = decoder.in_channels[layer] if from_below else decoder.skip_channels[layer - 1]
            if _is_known(block, in_channels):
                blocks[name] = _FoldedBlock(block, in_channels)
    return model


def _is_known(block: nn.Module, in_channels: int) -> bool:
    """Whether a block is what this module was written for: nearest, no attention, conv 3 x 3, batch norm, ReLU."""
    conv1 = getattr(block, "conv1", None)
    return (
        getattr(block, "interpolation_mode", None) == "nearest"
        and isinstance(conv1, nn.Sequential)
        and [type(layer) for layer in conv1] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        and conv1[0].kernel_size == (3, 3)
        and conv1[0].padding == (1, 1)
        and conv1[0].stride == conv1[0].dilation == (1, 1)
        and conv1[0].groups == 1
        and conv1[0].padding_mode == "zeros"
        and conv1[0].in_channels >= in_channels
        and all(isinstance(getattr(block, name).attention, nn.Identity) for name in ("attention1", "attention2"))
    )


class _FoldedBlock(nn.Module):
    def __init__(self, block: nn.Module, in_channels: int):
        super().__init__()
        fused = fuse_conv_bn_eval(block.conv1[0], block.conv1[1])
        weight, out = fused.weight.detach(), fused.out_channels
        self.up = nn.ConvTranspose2d(in_channels, out, kernel_size=4, stride=2, padding=1)
        up = _tap_sums(_tap_sums(weight[:, :in_channels], 2), 3).permute(1, 0, 2, 3)
        self.up.weight = nn.Parameter(up.contiguous(), requires_grad=False)
        self.up.bias = nn.Parameter(fused.bias.detach().clone(), requires_grad=False)
        self.skip = None
        if weight.shape[1] > in_channels:
            self.skip = nn.Conv2d(weight.shape[1] - in_channels, out, kernel_size=3, padding=1, bias=False)
            self.skip.weight = nn.Parameter(weight[:, in_channels:].contiguous(), requires_grad=False)
        self.conv2 = block.conv2

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        x = self.up(x)
        if self.skip is not None:
            x = x + self.skip(skip)
        return self.conv2(functional.relu(x))


def _tap_sums(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Three taps over doubled pixels as the four taps of a transposed convolution with stride 2.

    Even outputs see (w0 | w1 + w2), odd ones (w0 + w1 | w2); tap t of a transposed convolution with padding 1 reaches
    output 2 i - 1 + t from input i.
    """
    w0, w1, w2 = weight.unbind(axis)
    return torch.stack([w2, w1 + w2, w0 + w1, w0], axis)
