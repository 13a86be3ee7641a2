"""How large a network is, and what training it will hold in memory, found without computing anything.

The network is built and run forward on torch's ``meta`` device, where tensors have a shape and no content: what does
not fit together (a tile that the encoder cannot halve, a batch of one where BatchNorm wants more) fails there as it
would after hours, and what is kept for the backward pass is counted.
"""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tlskit.errors import ParameterError

__all__ = ["network_size", "training_bytes"]

#: Weights, their gradients, and Adam's two moments, all in float32.
_BYTES_A_WEIGHT = 16
#: Under mixed precision most of what is kept is held at two bytes; normalisations stay at four.
_MIXED = 0.6
#: What Python and torch take before the first step (0.87 GB measured on a CPU).
_OVERHEAD = 0.9e9


def training_bytes(
    model: nn.Module, *, tile_px: int, batch_size: int, mixed: bool = False, context_px: int = 0
) -> float:
    """Bytes that one step of training holds at its peak, about.

    Parameters
    ----------
    model
        As `models.build_model` gives it; it is moved to the meta device, and of no other use afterwards.
    tile_px, batch_size
        Of the training.
    mixed
        Whether it runs in bf16 or fp16.
    context_px
        Side of the contexts that a network with context is given beside its tiles; 0 for one without.

    Returns
    -------
    float
        Bytes: what autograd keeps, weights, gradients and Adam's moments, and 0.9 GB for Python and torch itself.

    Raises
    ------
    ParameterError
        If the network cannot be trained on such batches.
    """
    model = model.to("meta").train()
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no two have one address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    sides = [tile_px] + [context_px] * bool(context_px)
    batch = [torch.empty(batch_size, 3, side, side, device="meta") for side in sides]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(*batch)
    except (RuntimeError, ValueError) as error:
        raise ParameterError(
            f"The network cannot be trained on batches of {batch_size} tiles of {tile_px} px: "
            + " ".join(str(error).split())
        ) from error
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    activations = sum(storage.nbytes() for at, storage in kept.items() if at not in weights)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return activations * (_MIXED if mixed else 1.0) + n_weights * _BYTES_A_WEIGHT + _OVERHEAD


def network_size(checkpoint) -> pd.DataFrame:
    """Parameters and arithmetic of a checkpoint's network, a row for the tile's part and one for all of it.

    Parameters
    ----------
    checkpoint : models.Checkpoint

    Returns
    -------
    DataFrame
        part (``network``; with a context ``without its context``, ``its context``, ``network``),
        parameters_millions, gflop_per_tile (one forward pass; a multiplication and an addition are two), inputs.
    """
    sides = {"tile": checkpoint.tile_px} | ({"context": checkpoint.context_px} if checkpoint.context_ratio else {})
    model = copy.deepcopy(checkpoint.model).to("meta").eval()
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        model(*(torch.empty(1, 3, side, side, device="meta") for side in sides.values()))
    whole = _size(model, counted.get_total_flops())
    rows = [{"part": "network", **whole}]
    if checkpoint.context_ratio:
        single = [model.encoder, model.decoder, model.segmentation_head]
        with FlopCounterMode(display=False) as counted, torch.inference_mode():
            stages = single[0](torch.empty(1, 3, sides["tile"], sides["tile"], device="meta"))
            single[2](single[1](stages))
        alone = _size(nn.ModuleList(single), counted.get_total_flops())
        beside = {name: whole[name] - alone[name] for name in whole}
        rows = [{"part": "without its context", **alone}, {"part": "its context", **beside}, *rows]
    said = ", ".join(f"{name} {side} x {side} px" for name, side in sides.items())
    return pd.DataFrame(rows).assign(inputs=said)


def _size(model: nn.Module, flops: int) -> dict[str, float]:
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters_millions": n_weights / 1e6, "gflop_per_tile": flops / 1e9}
