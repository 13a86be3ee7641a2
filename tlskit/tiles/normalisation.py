"""From 8-bit colours to what a network sees; a checkpoint names which of these it was trained with."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tlskit.errors import ParameterError

if TYPE_CHECKING:
    import torch

__all__ = ["NORMALISATIONS", "check_normalisation", "normalise"]

#: Name -> mean and standard deviation of each channel, in units of 255. The ImageNet figures are those of torchvision's
#: pretrained models.
NORMALISATIONS = {
    "divide_255": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def check_normalisation(normalisation: str) -> None:
    """Raise `ParameterError` where the name is none of `NORMALISATIONS`."""
    if normalisation not in NORMALISATIONS:
        raise ParameterError(f"`normalisation` should be one of {', '.join(NORMALISATIONS)}, not {normalisation!r}.")


def normalise(images: torch.Tensor, normalisation: str) -> torch.Tensor:
    """RGB / 255, and for ``imagenet`` less the mean and by the standard deviation of ImageNet's channels.

    Parameters
    ----------
    images
        uint8 ``(..., 3, H, W)``, on any device and in any memory format, which is kept.
    normalisation
        One of `NORMALISATIONS`.

    Returns
    -------
    Tensor
        float32 of the same shape; `images` is left as it is.
    """
    check_normalisation(normalisation)
    scaled = images.float().div_(255)
    if NORMALISATIONS[normalisation] is not None:
        mean, deviation = _channels(normalisation, scaled.device)
        scaled.sub_(mean).div_(deviation)
    return scaled


@functools.cache
def _channels(normalisation: str, device: torch.device) -> list[torch.Tensor]:
    """Mean and deviation, float32 ``(3, 1, 1)`` each: kept, since a copy to a GPU waits for all that it has to do."""
    import torch

    with torch.inference_mode(False):
        return [torch.tensor(values, device=device).view(3, 1, 1) for values in NORMALISATIONS[normalisation]]
