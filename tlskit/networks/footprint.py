"""What training a network will hold in memory, found without computing anything.

The network is built and run forward on torch's ``meta`` device, where tensors have a shape and no content: what does
not fit together (a tile that the encoder cannot halve, a batch of one where BatchNorm wants more) fails there as it
would after hours, and what is kept for the backward pass is counted.
"""

from __future__ import annotations

import torch
from torch import nn

from tlskit.errors import ParameterError

__all__ = ["training_bytes"]

#: Weights, their gradients, and Adam's two moments, all in float32.
_BYTES_A_WEIGHT = 16
#: Under mixed precision most of what is kept is held at two bytes; normalisations stay at four.
_MIXED = 0.6
#: What Python and torch take before the first step (0.87 GB measured on a CPU).
_OVERHEAD = 0.9e9


def training_bytes(model: nn.Module, *, tile_px: int, batch_size: int, mixed: bool = False) -> float:
    """Bytes that one step of training holds at its peak, about.

    Parameters
    ----------
    model
        As `models.build_model` gives it; it is moved to the meta device, and of no other use afterwards.
    tile_px, batch_size
        Of the training.
    mixed
        Whether it runs in bf16 or fp16.

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

    batch = torch.empty(batch_size, 3, tile_px, tile_px, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(batch)
    except (RuntimeError, ValueError) as error:
        raise ParameterError(
            f"The network cannot be trained on batches of {batch_size} tiles of {tile_px} px: "
            + " ".join(str(error).split())
        ) from error
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    activations = sum(storage.nbytes() for at, storage in kept.items() if at not in weights)
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    return activations * (_MIXED if mixed else 1.0) + n_weights * _BYTES_A_WEIGHT + _OVERHEAD
